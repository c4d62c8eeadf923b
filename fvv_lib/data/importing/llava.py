"""LLaVA, LLaVA-Video-178K: turns under `conversations`, one path under `image` or `video`.                 Lesson 5

    {"id": "k-7", "video": "k/7.mp4", "data_source": "0_30_s", "conversations": [
        {"from": "human", "value": "<image>\nWhat happens?"}, {"from": "gpt", "value": "A pan falls."}]}

Four formats share this layout and differ in tags and fields: Qwen-VL writes `<video>`, lmms-finetune adds a system
prompt and both media fields, Valley leaves out extensions, VTimeLLM has a segment.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fvv_lib.data.importing.draft import (
    BOX_TAG,
    Draft,
    Options,
    Record,
    clips_of,
    dialogue,
    other_fields,
    place_media,
)
from fvv_lib.errors import DataFormatError, NotKeptError

NAME = "llava"
READS = ("id", "image", "video", "audio", "start", "end", "system", "system_prompt", "conversations")


def turns_of(record: Any) -> list[Mapping[str, Any]]:
    """Return the turns of a record if it has LLaVA's `conversations`, else an empty list."""
    turns = record.get("conversations") if isinstance(record, Mapping) else None
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) and "value" in turn for turn in turns):
        return []
    return turns


def has_tag(record: Any, tag: str) -> bool:
    return any(isinstance(turn["value"], str) and tag in turn["value"] for turn in turns_of(record))


def recognise(records: Sequence[Record]) -> str | None:
    if not all(turns_of(record) and not record.keys() & {"system_prompt", "videos", "images"} for record in records):
        return None
    if any(has_tag(record, "<video>") or {"image", "video"} <= record.keys() for record in records):
        return None
    return "turns are from/value under 'conversations', with <image> for each image or video"


def drafts(record: Record, options: Options) -> Iterator[Draft]:
    yield draft_of(record)


def draft_of(record: Record, **clip: Any) -> Draft:
    """Return the draft of a record in LLaVA's layout. `clip` is a part of its videos (see `Clip`), which by default is
    `start` and `end` of the record."""
    if not turns_of(record):
        raise DataFormatError("its 'conversations' must be a list of turns with 'from' and 'value'.")
    if record.get("audio"):
        raise NotKeptError("audio")
    if any(BOX_TAG.search(str(turn["value"])) for turn in turns_of(record)):
        raise NotKeptError("boxes")
    own, turns = dialogue(record["conversations"], "from", "value")
    part = clip or {key: record[key] for key in ("start", "end") if record.get(key) is not None}
    images, videos = clips_of(record.get("image"), False), clips_of(record.get("video"), True, **part)
    turns, media = place_media(turns, images, videos)
    prompt = record.get("system_prompt") or record.get("system") or own
    return Draft(turns, media, record.get("id"), prompt, fields=other_fields(record, READS))
