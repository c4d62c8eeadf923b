"""What a record of another format says, before its media are looked up.                                    Lesson 5

A module of a format (a *dialect*) turns a record into drafts. A draft has the turns, and the images and videos in the
order of their places in the text. This module opens no file.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from fvv_lib.errors import DataFormatError, NotKeptError
from fvv_lib.prompt.placeholders import DEFAULT_IMAGE_TOKEN
from fvv_lib.prompt.templates import LEARNED_MARKS

Record = Any  # a JSON object; a list of them where a format packs samples
Turn = dict[str, Any]

ROLES = {
    **dict.fromkeys(("human", "user", "User", "USER", "Human"), "human"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot", "Assistant", "chatbot"), "gpt"),
    **dict.fromkeys(("system", "developer"), "system"),
}
TOOL_ROLES = ("tool", "tool_call", "tool_response", "function", "function_call", "observation", "tool_use")
TAG = re.compile(r"<(image|video|audio)>")
BOX_TAG = re.compile(r"<bbox>|<ref-object>|<\|box_start\|>")


class Clip(NamedTuple):
    """An image or video as a record names it.

    Attributes:
        source: a path, or the bytes of a file; a tuple of these for a video whose frames are files.
        start, end: the part of the video that is used, in seconds or as text; see `Medium`.
        fps: frames per second of a video whose frames are files.
        name: a file name for bytes, of which the extension is used.
    """

    source: str | bytes | tuple[str | bytes, ...]
    is_video: bool
    start: Any = None
    end: Any = None
    fps: Any = None
    name: str = ""


class Draft(NamedTuple):
    """A sample whose media have not been looked up.

    Attributes:
        turns: as in our format, with one `<image>` for each of `media`, in order.
        id: the id in the record; `None`: the number of the record becomes the id.
        stratum: the class of the sample, so that each split gets its share of each class.
        lost: what the record has and the sample does not keep, for counting.
        fields: other fields of the record. The sample keeps those that it can, see `converting`; the others are lost.
    """

    turns: list[Turn]
    media: Sequence[Clip] = ()
    id: Any = None
    system: str | None = None
    stratum: str = ""
    lost: tuple[str, ...] = ()
    fields: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Options:
    """What the user says about records, beside what they say themselves.

    Attributes:
        columns: for formats without fixed names: which column has the `video`, `question`, `answer` ...
        question: the question for records that have an answer only (captions, classes).
        answer: the answer for classes, with {} for the name of the class.
        one_question_per_sample: write each question of a dialogue as a sample of its own.
        tags: for LLaMA-Factory: the names of fields and roles, from its dataset_info.json.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    question: str | None = None
    answer: str = "{}"
    one_question_per_sample: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)

    def asked(self) -> str:
        """Return the question for records without one.

        Raises:
            DataFormatError: it was not given.
        """
        if not self.question:
            raise DataFormatError("it has an answer but no question. Give one for all: --question 'What happens?'")
        return self.question


def as_list(value: Any) -> list[Any]:
    """Return a list of what may be one entry, a list of them, or missing."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def other_fields(record: Mapping[str, Any], read: Collection[str | None]) -> dict[str, Any]:
    """Return the fields of a record that a format does not read, without empty ones."""
    return {key: value for key, value in record.items() if key not in read and value not in (None, "", [], {})}


def text_of(value: Any, what: str) -> str:
    """Return a value that must be text, without spaces around it.

    Raises:
        DataFormatError: it is not text, or empty.
    """
    if not isinstance(value, str) or not value.strip():
        raise DataFormatError(f"{what} must be a text, got {str(value)[:80]!r}.")
    return value.strip()


def dialogue(
    messages: Any, role: str = "role", content: str = "content", roles: Mapping[str, str] = ROLES
) -> tuple[str | None, list[Turn]]:
    """Return the system prompt and the turns of a dialogue.

    Args:
        role, content: the fields of a message.
        roles: what the roles mean: `human`, `gpt` or `system`.

    Raises:
        NotKeptError: the dialogue uses tools.
        DataFormatError: a message is malformed, or a system prompt is not the first message.
    """
    if not isinstance(messages, list) or not messages:
        raise DataFormatError("its dialogue must be a list of at least one message.")
    system: str | None = None
    turns: list[Turn] = []
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or role not in message:
            raise DataFormatError(f"message {place + 1} must have {role!r} and {content!r}, got {str(message)[:80]}.")
        if message[role] in TOOL_ROLES or message.get("tool_calls"):
            raise NotKeptError("tool calls")
        meaning = roles.get(message[role])
        text = message.get(content)
        if meaning is None or not isinstance(text, str):
            raise DataFormatError(
                f"message {place + 1} must have a known role and a text, got {str(dict(message))[:80]}. Known roles: "
                f"{', '.join(roles)}."
            )
        if meaning == "system":
            if place > 0:
                raise NotKeptError("a system prompt inside the dialogue")
            system = text.strip() or None
            continue
        turn: Turn = {"from": meaning, "value": text}
        if len(message) > 2:
            ignored = LEARNED_MARKS if meaning == "human" else ()  # a question is never learned
            turn.update(other_fields(message, (role, content, *ignored)))
        turns.append(turn)
    return system, turns


def place_media(
    turns: Sequence[Turn], images: Sequence[Clip], videos: Sequence[Clip], missing: str = "error"
) -> tuple[list[Turn], list[Clip]]:
    """Write each tag of the turns as `<image>`, and return the media in the order of their tags.

    `<image>` takes the next image and `<video>` the next video. If a record has no images, `<image>` takes a video, as
    LLaVA writes it.

    Args:
        missing: what to do with media that have no tag: `error`, or `front` (put them before the first question).

    Raises:
        NotKeptError: a tag for a sound, or for a box in an image.
        DataFormatError: another number of tags than of media.
    """
    pools = {"image": list(images), "video": list(videos)}
    first_only = "video" if not images else "image"
    media: list[Clip] = []

    def take(tag: re.Match[str]) -> str:
        kind = tag[1]
        if kind == "audio":
            raise NotKeptError("audio")
        pool = pools[first_only if kind == "image" else kind]
        if not pool:
            raise DataFormatError(
                f"its text has more <{kind}> than the record has media for them ({len(images)} images, {len(videos)} "
                "videos)."
            )
        media.append(pool.pop(0))
        return DEFAULT_IMAGE_TOKEN

    placed: list[Turn] = []
    for turn in turns:
        if "<" not in turn["value"]:
            placed.append(turn)
            continue
        if BOX_TAG.search(turn["value"]):
            raise NotKeptError("boxes")
        placed.append({**turn, "value": TAG.sub(take, turn["value"])})
    left = [*pools["image"], *pools["video"]]
    if left and missing == "front":
        placed[0] = {**placed[0], "value": f"{DEFAULT_IMAGE_TOKEN}\n" * len(left) + placed[0]["value"]}
        media = [*left, *media]
    elif left:
        raise DataFormatError(
            f"its text has {len(media)} tags for {len(images)} images and {len(videos)} videos. Write one <image> or "
            "<video> where each belongs; format ms-swift puts those without a tag before the first question."
        )
    return placed, media


def count_tags(texts: Sequence[str], kind: str) -> int:
    return sum(text.count(f"<{kind}>") for text in texts)


def clips_of(value: Any, is_video: bool, **more: Any) -> list[Clip]:
    """Return the images or videos that a field names: a path, a list of paths, or a list with lists of frames.

    An entry may also be `{"path": ..., "bytes": ...}` as `datasets` writes it, or `{"url": ...}`.

    Raises:
        DataFormatError: an entry is none of these.
    """
    return [_clip(entry, is_video, more) for entry in as_list(value)] if value else []


def _clip(entry: Any, is_video: bool, more: Mapping[str, Any]) -> Clip:
    if isinstance(entry, list) and entry:
        frames = tuple(_source(frame)[0] for frame in entry)
        return Clip(frames, is_video, **more)
    source, name = _source(entry)
    return Clip(source, is_video, name=name, **more)


def _source(entry: Any) -> tuple[str | bytes, str]:
    if isinstance(entry, dict):
        name = str(entry.get("path") or "")
        if entry.get("bytes"):
            return entry["bytes"], name
        entry = entry.get("path") or entry.get("url")
    if isinstance(entry, str) and entry.strip():
        return entry.strip(), ""
    raise DataFormatError(f"an image or video must be a path, got {str(entry)[:80]!r}.")


def split_questions(draft: Draft) -> Iterator[Draft]:
    """Yield a draft for each question of a dialogue. Each shows the media of the whole dialogue that come before it.

    Raises:
        DataFormatError: a medium belongs to a later question than the first.
    """
    first, *others = [draft.turns[place : place + 2] for place in range(0, len(draft.turns), 2)]
    if any(DEFAULT_IMAGE_TOKEN in turn["value"] for turns in others for turn in turns):
        raise DataFormatError(
            "a later question has an image or video of its own, so its questions cannot be written one per sample."
        )
    lead = "".join(f"{DEFAULT_IMAGE_TOKEN}\n" for _ in draft.media)
    yield _with(draft, first, 0)
    for number, turns in enumerate(others, 1):
        question, *answers = turns
        yield _with(draft, [{**question, "value": lead + question["value"]}, *answers], number)


def _with(draft: Draft, turns: list[Turn], number: int) -> Draft:
    """Return the draft with one of its questions, and what its fields say about this question."""
    fields = dict(draft.fields)
    for key in ("kinds", "choices"):
        values = fields.get(key)
        if isinstance(values, list) and len(values) > number:
            fields[key] = [values[number]]
    own = None if draft.id is None else f"{draft.id}-{number}"
    return Draft(turns, draft.media, own, draft.system, draft.stratum, draft.lost, fields)
