"""TRL, OpenAI: `messages` whose content is a list of parts; the order of the parts gives the places.       Lesson 5

    {"messages": [
        {"role": "user", "content": [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "What falls?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A pan."}]}], "images": []}

A part `{"type": "image"}` without a path takes the next of `images` (a path, or bytes in Parquet); likewise `videos`.
`prompt` and `completion` (or `chosen`) are messages in two lists.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fvv_lib.data.importing.draft import Clip, Draft, Options, Record, as_list, clips_of, dialogue, other_fields
from fvv_lib.errors import DataFormatError, NotKeptError

NAME = "openai"
LISTS = ("messages", "prompt", "completion", "chosen")
READS = (*LISTS, "id", "image", "images", "video", "videos", "tools", "rejected")


def recognise(records: Sequence[Record]) -> str | None:
    if not all(isinstance(record, Mapping) and _messages(record) for record in records):
        return None
    contents = [message.get("content") for record in records for message in _messages(record)]
    if any(isinstance(content, list) for content in contents):
        return "the content of a message is a list of parts"
    if all({"prompt", "completion"} <= record.keys() for record in records):
        return "'prompt' and 'completion' are lists of messages"
    return None


def _messages(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the messages of a record, with the chosen answer and without a rejected one."""
    messages = [message for key in LISTS for message in as_list(record.get(key)) if isinstance(message, Mapping)]
    return messages if all("role" in message for message in messages) else []


def drafts(record: Record, options: Options) -> Iterator[Draft]:
    lost = {what for what, key in (("tools", "tools"), ("rejected answers", "rejected")) if record.get(key)}
    pools = {
        "image": [clip for key in ("images", "image") for clip in clips_of(record.get(key), False)],
        "video": [clip for key in ("videos", "video") for clip in clips_of(record.get(key), True)],
    }
    media: list[Clip] = []
    flat = [{**message, "content": _text(message.get("content"), pools, media, lost)} for message in _messages(record)]
    system, turns = dialogue(flat)
    if pools["image"] or pools["video"]:
        raise DataFormatError(f"its messages have {len(media)} parts for images and videos, but it has more of these.")
    yield Draft(turns, media, record.get("id"), system, lost=tuple(sorted(lost)), fields=other_fields(record, READS))


def _text(content: Any, pools: Mapping[str, list[Clip]], media: list[Clip], lost: set[str]) -> Any:
    """Return the parts of a message as one text. Add its media to `media`, and what is not kept to `lost`."""
    if not isinstance(content, list):
        return content
    pieces: list[Any] = []
    for part in content:
        if isinstance(part, str):
            pieces.append(part)
            continue
        kind = str(part.get("type", "text"))
        if kind == "text":
            pieces.append(part.get("text"))
            lost.update(f"field {key!r} of a part" for key in other_fields(part, ("type", "text")))
            continue
        kind = kind.removeprefix("input_").removesuffix("_url").removesuffix("_path")
        if kind == "audio":
            raise NotKeptError("audio")
        if kind not in pools:
            raise NotKeptError(f"a part of type {kind!r}")
        media.append(_clip(part, kind, pools[kind]))
        read = (
            "type",
            kind,
            f"{kind}_url",
            "url",
            "path",
            "start",
            "end",
            f"{kind}_start",
            f"{kind}_end",
            "sample_fps",
        )
        lost.update(f"field {key!r} of a part" for key in other_fields(part, read))
        pieces.append("<image>\n")
    if not all(isinstance(piece, str) for piece in pieces):
        raise DataFormatError("a part of type text has no text.")
    return "".join(pieces)


def _clip(part: Mapping[str, Any], kind: str, pool: list[Clip]) -> Clip:
    value = next((part[key] for key in (kind, f"{kind}_url", "url", "path") if part.get(key) is not None), None)
    if value is None:
        if not pool:
            raise DataFormatError(f"a part of type {kind} has no path, and there is none left under '{kind}s'.")
        return pool.pop(0)
    limits = {
        limit: part[key]
        for limit in ("start", "end")
        for key in (f"{kind}_{limit}", limit)
        if part.get(key) is not None
    }
    entries = value if isinstance(value, list) and not isinstance(value, str) else None
    rate = {"fps": part["sample_fps"]} if entries and part.get("sample_fps") else {}
    (clip,) = clips_of([value], kind == "video", **limits, **rate)
    return clip
