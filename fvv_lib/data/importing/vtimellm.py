"""VTimeLLM: LLaVA's turns about a part of a video, with tokens for moments.                                Lesson 5

    {"id": "v_1", "meta": {"split": [8.0, 20.0], "duration": 12.0, "token": {"<s0>": 0.0, "<e0>": 9.4}},
     "conversations": [{"from": "human", "value": "<video>\nWhen does the pan fall?"},
                       {"from": "gpt", "value": "From <s0> to <e0>."}]}

The id is the name of the video. VTimeLLM writes a token as hundredths of the clip; here it becomes seconds from the
start of the clip, as in `--time_marks seconds`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fvv_lib.data.importing.draft import Draft, Options, Record, other_fields, text_of
from fvv_lib.data.importing.llava import draft_of, turns_of
from fvv_lib.errors import DataFormatError

NAME = "vtimellm"


def recognise(records: Sequence[Record]) -> str | None:
    if not all(map(turns_of, records)):
        return None
    return "'meta' has 'token'" if any("token" in _meta(record) for record in records) else None


def _meta(record: Record) -> Mapping[str, Any]:
    meta = record.get("meta")
    return meta if isinstance(meta, Mapping) else {}


def drafts(record: Record, options: Options) -> Iterator[Draft]:
    meta = _meta(record)
    part = {}
    if meta.get("split") is not None:
        start, end = meta["split"]
        part = {"start": start, "end": end}
        length = meta.get("duration", end - start)
        if abs(length - (end - start)) > 1:
            raise DataFormatError(f"its part of {end - start:g} s is not as long as its duration of {length:g} s.")
    tokens = {token: f"{float(seconds):.1f}s" for token, seconds in meta.get("token", {}).items()}
    turns = []
    for turn in turns_of(record):
        text = turn["value"]
        for token in sorted(tokens, key=len, reverse=True):
            text = text.replace(token, tokens[token])
        turns.append({**turn, "value": text})
    video = record.get("image") or record.get("video") or text_of(record.get("id"), "its 'id', the name of the video,")
    notes = {**other_fields(record, ("meta", "image")), **other_fields(meta, ("split", "duration", "token"))}
    yield draft_of({**notes, "video": video, "conversations": turns}, **part)
