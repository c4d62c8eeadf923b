"""LLaMA-Factory: `messages` with tags, or `instruction` and `output`; media under `images` and `videos`.   Lesson 5

    {"messages": [{"role": "user", "content": "<video>What happens?"}, {"role": "assistant", "content": "It falls."}],
     "videos": ["a.mp4"]}

`dataset_info.json` beside the file says how its fields and roles are called. Without it, both forms above are known by
their usual names. There is a tag for each medium. A list in `videos` is a video whose frames are files.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fvv_lib.data.importing.draft import (
    ROLES,
    Draft,
    Options,
    Record,
    as_list,
    clips_of,
    count_tags,
    dialogue,
    other_fields,
    place_media,
)
from fvv_lib.errors import NotKeptError

NAME = "llama-factory"
# Fields and roles by LLaMA-Factory's own names for them, as used without dataset_info.json.
BESIDE = ("images", "videos", "audios", "system", "tools", "chosen", "rejected", "kto_tag")  # beside the dialogue
USUAL = {
    **dict(zip(BESIDE, BESIDE, strict=True)),
    "kto_tag": "label",
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "history": "history",
}
TAGS = ("from", "value")
LOST = (("tools", "tools"), ("rejected answers", "rejected"))
TAG_OF_ROLE = (("user_tag", "human"), ("assistant_tag", "gpt"), ("system_tag", "system"))
SWIFT = {"objects", "rejected_response", "rejected_messages", "video", "image", "audio", "channel"}


def messages_of(record: Any) -> tuple[str, str, str] | None:
    """Return the names of the list of messages, of the role and of the text; `None` if a record has none."""
    if isinstance(record, dict):
        for key in ("messages", "conversations"):
            messages = record.get(key)
            if isinstance(messages, list) and messages and isinstance(messages[0], dict):
                for names in (("role", "content"), ("from", "value")):
                    if names[0] in messages[0]:
                        return (key, *names)
    return None


def media_match(record: Mapping[str, Any], texts: Sequence[str]) -> bool:
    """Return whether the texts have a tag for each image and each video."""
    return all(count_tags(texts, kind) == len(as_list(record.get(f"{kind}s"))) for kind in ("image", "video"))


def recognise(records: Sequence[Record]) -> str | None:
    if all(isinstance(record, Mapping) and {"instruction", "output"} <= record.keys() for record in records):
        return "a record has 'instruction' and 'output'"
    for record in records:
        names = messages_of(record)
        if names is None or record.keys() & SWIFT or (names[0] == "conversations" and not _has_media(records)):
            return None
        texts = [message.get(names[2]) for message in record[names[0]] if isinstance(message, Mapping)]
        if any(not isinstance(text, str) for text in texts) or any("loss" in message for message in record[names[0]]):
            return None
        if not media_match(record, list(map(str, texts))):
            return None
    return "a record has a list of messages, and a tag for each path under 'images' and 'videos'"


def _has_media(records: Sequence[Record]) -> bool:
    return any(record.keys() & {"images", "videos"} for record in records if isinstance(record, Mapping))


def drafts(record: Record, options: Options) -> Iterator[Draft]:
    names = {**USUAL, **options.columns} if options.columns else USUAL

    def get(column: str) -> Any:
        return record.get(names[column]) if names.get(column) else None

    lost = tuple([what for what, column in LOST if get(column)])
    if get("audios"):
        raise NotKeptError("audio")
    if get("kto_tag") is False:
        raise NotKeptError("an answer that is marked as bad")
    found = messages_of(record)
    key = names.get("messages") or (found[0] if found else None)
    system, turns = _turns(record, key, found, options.tags, get)
    turns, media = place_media(turns, clips_of(get("images"), False), clips_of(get("videos"), True))
    used = BESIDE if key in record else [column for column in names if column != "messages"]
    fields = other_fields(record, ["id", key, *map(names.get, used)])
    yield Draft(turns, media, record.get("id"), get("system") or system, lost=lost, fields=fields)


def _turns(
    record: Record, key: str | None, found: tuple[str, str, str] | None, tags: Mapping[str, str], get: Any
) -> tuple[str | None, list[Any]]:
    """Return the system prompt and the turns, of either form; a chosen answer is the last turn."""
    if key is None or key not in record:
        past = [text for pair in get("history") or [] for text in pair]
        question = "\n".join(text for text in (get("prompt"), get("query")) if text)
        answer = get("chosen") or get("response")
        texts = [*past, question, answer]
        speakers = ["user", "assistant"] * len(texts)
        return dialogue([{"role": who, "content": text} for who, text in zip(speakers, texts, strict=False)])
    usual = found[1:] if found else TAGS
    role, content = tags.get("role_tag", usual[0]), tags.get("content_tag", usual[1])
    own = {tags[tag]: meaning for tag, meaning in TAG_OF_ROLE if tag in tags} if tags else {}
    roles = {**ROLES, **own} if own else ROLES
    messages = list(record[key])
    tools = {tags[tag] for tag in ("observation_tag", "function_tag") if tag in tags}
    if tools and any(isinstance(one, Mapping) and one.get(role) in tools for one in messages):
        raise NotKeptError("tool calls")
    chosen = get("chosen")
    return dialogue([*messages, chosen] if isinstance(chosen, Mapping) else messages, role, content, roles)
