"""ms-swift: `messages`, or `query` and `response`; media without a tag come first.                         Lesson 5

    {"messages": [{"role": "user", "content": "What happens?"}, {"role": "assistant", "content": "It falls."}],
     "videos": ["a.mp4", ["b/1.jpg", "b/2.jpg"]]}

Images and videos may also be under `image` and `video`. A list in `videos` is a video whose frames are files. A message
may say `"loss": false`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fvv_lib.data.importing.draft import Draft, Options, Record, clips_of, dialogue, other_fields, place_media
from fvv_lib.data.importing.llamafactory import SWIFT, media_match, messages_of
from fvv_lib.errors import NotKeptError

NAME = "ms-swift"
DIALOGUES = ("messages", "conversations", "conversation", "query", "response", "history")
READS = (
    *("id", "system", "image", "images", "video", "videos", "audio", "audios", *DIALOGUES),
    *("tools", "rejected_response", "rejected_messages", "objects", "label"),
)


def recognise(records: Sequence[Record]) -> str | None:
    if not all(isinstance(record, Mapping) for record in records):
        return None
    if all({"query", "response"} <= record.keys() for record in records):
        return "a record has 'query' and 'response'"
    if all(_pairs(record) for record in records):
        return "'conversation' is a list of pairs with 'human' and 'assistant'"
    found = [messages_of(record) for record in records]
    if not all(found):
        return None
    for record, names in zip(records, found, strict=True):
        assert names is not None
        key, role, content = names
        if role != "role":
            continue
        texts = [message.get(content) for message in record[key]]
        if any(not isinstance(text, str) for text in texts):
            return None
        if any("loss" in message for message in record[key]):
            return "a message has 'loss'"
        if record.keys() & SWIFT:
            return f"beside its messages, a record has {sorted(record.keys() & SWIFT)[0]!r}"
        if not media_match(record, texts):
            return "a record has media without a tag in its messages"
    return None


def _pairs(record: Mapping[str, Any]) -> bool:
    pairs = record.get("conversation")
    return (
        isinstance(pairs, list)
        and bool(pairs)
        and all(isinstance(one, Mapping) for one in pairs)
        and any("human" in one for one in pairs)
    )


def drafts(record: Record, options: Options) -> Iterator[Draft]:
    if record.get("audios") or record.get("audio"):
        raise NotKeptError("audio")
    lost = tuple(
        what
        for what, keys in (
            ("tools", ("tools",)),
            ("rejected answers", ("rejected_response", "rejected_messages")),
            ("boxes", ("objects",)),
        )
        if any(record.get(key) for key in keys)
    )
    if record.get("label") is False:
        raise NotKeptError("an answer that is marked as bad")
    system, turns = _turns(record)
    images = [clip for key in ("images", "image") for clip in clips_of(record.get(key), False)]
    videos = [clip for key in ("videos", "video") for clip in clips_of(record.get(key), True)]
    turns, media = place_media(turns, images, videos, missing="front")
    fields = other_fields(record, READS)
    yield Draft(turns, media, record.get("id"), record.get("system") or system, lost=lost, fields=fields)


def _turns(record: Mapping[str, Any]) -> tuple[str | None, list[Any]]:
    if _pairs(record):
        messages = []
        for pair in record["conversation"]:
            named = (("system", "system"), ("human", "user"), ("assistant", "assistant"))
            messages += [{"role": role, "content": pair[key]} for key, role in named if key in pair]
        return dialogue(messages)
    if "query" in record:
        texts = [text for pair in record.get("history") or [] for text in pair]
        texts += [record["query"], record.get("response")]
        speakers = ["user", "assistant"] * len(texts)
        return dialogue([{"role": who, "content": text} for who, text in zip(speakers, texts, strict=False)])
    key, role, content = messages_of(record) or ("messages", "role", "content")
    return dialogue(record.get(key), role, content)
