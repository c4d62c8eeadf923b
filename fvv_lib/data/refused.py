"""Reject keys, tags and marks in samples that training would ignore or misread.                            Lesson 5

Other trainers read other keys and tags. A sample in their format would silently train as bare text, so it is an error.
This module opens no file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from fvv_lib.errors import DataFormatError
from fvv_lib.prompt.placeholders import DEFAULT_IMAGE_TOKEN
from fvv_lib.prompt.templates import LEARNED_MARKS, Template
from fvv_lib.video.kinds import OTHER_VIDEO_EXTENSIONS, PICTURE_EXTENSIONS, VIDEO_EXTENSIONS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

READ = ("image", "video", "start", "end", "system", "conversations")  # fields of a sample that training reads
KNOWN = (*READ, "id", "kinds", "choices")  # fields of a sample that this library uses
KNOWN_OF_TURN = ("from", "value", *LEARNED_MARKS)
READS = (
    "Training reads the paths under 'image' or 'video' of a sample, with one <image> in a human turn for each picture "
    "or video."
)
SYSTEM = "The system prompt of a sample is its field 'system': rename the field, or remove it."
LEARNS = 'Every answer is learned, unless its turn has "loss": false or "weight": 0.'

# Keys that name media, without case and separators: videos, image_path, mm_data.
OF_FILE = "(?:path|file|filename|url|uri|list|bytes|data|base64|dir|folder)"
MEDIA_KEY = re.compile(
    rf"(?:image|img|video|audio|media)s?(?:{OF_FILE}s?)*\d*"
    rf"|(?:clip|frame)s?(?:{OF_FILE}s?)+"
    r"|pixelvalues(?:images|videos)?|(?:mm|multimodal)(?:data|input)s?"
)
# A longer key with one of these words names media if its value is a path or data: leftImage, first_frame.
MEDIA_WORD = re.compile(
    r"(?:image|img|picture|pic|photo|video|vid|visual|gif|clip|frame|screenshot|pixel|audio|sound|speech|media)s?"
)
# With one of these words too, it is a note about a file: video_name, original_video_filename.
NOTE_WORD = re.compile(
    r"(?:id|uid|uuid|idx|index|key|name|filename|title|source|origin|original|dataset|caption|description|text|label|"
    r"thumbnail)s?"
)
SOUND_EXTENSIONS = (".wav", ".mp3", ".flac", ".m4a", ".aac", ".ogg", ".opus")
EXTENSIONS = (*VIDEO_EXTENSIONS, *OTHER_VIDEO_EXTENSIONS, *PICTURE_EXTENSIONS, ".gif", *SOUND_EXTENSIONS)
MEDIA_URL = re.compile(r"data:(?:image|video|audio)/|(?:file|s3|gs|hdfs|oss)://", re.IGNORECASE)
# A key of a path, whatever it names. Beside an image or video it is a note.
PATH_KEY = re.compile(r"(?:path|file|filepath|filename|url|uri)s?")
# Keys for a part of a video, without case and separators: Start, video_end, startTimeMs, time_range, segment, to.
# Training reads `start` and `end` of a sample.
OF = "(?:video|clip|media|frame|timestamp|time|t)*"
IN = "(?:timestamp|time|second|sec|s|ms|frame|offset|start|end)*"
PART_KEY = re.compile(
    rf"{OF}(?:start|begin|end|stop|segment){IN}|{OF}(?:timestamps|range)"
    r"|time(?:range|span|interval|window)s?|(?:from|to)(?:timestamp|time|second|sec|frame)?s?|in|out|since|until|till"
)
CLOSE = 0.8  # similarity of two keys (difflib) from which one is a typing error of the other
TIME = re.compile(r"\s*(?:(?:\d+:)+\d+(?:[.,]\d+)?|\d+\.\d+|\d{1,3})\s*s?\s*")  # 00:12, 3.5, 12 s, but not 2024
SYSTEM_KEY = re.compile(r"system(prompt|message|instruction)?s?")
# Keys that say what to learn, under a name or in a place that training does not read.
LEARNED_KEY = re.compile(r"(is)?(train|trainable|trained|learn|learned|supervised|mask|masked)|loss(mask|weight|scale)")
SAMPLE_LEARNED_KEY = re.compile(r"weight|loss(mask|weight|scale)?")
# Placeholders that other trainers and processors write for an image, a video or a sound. Training reads only <image>.
# Other words in angle brackets are text: <image-name>, <picture>, <video_file>.
MEDIA_TAG = re.compile(
    r"(?!(?-i:<image>))<(?:"
    r"(?:image|video|audio)(?:s|here|[_: ]?\d+)?"  # <video>, <ImageHere>, <image 1>, <video_1>, <image:0>
    r"|(?:image|img|im|video|vid|audio)_(?:soft_token|token|pad|patch|start|end|placeholder|newline|context)"
    r"|(?:start|end|begin)_of_(?:image|video|audio)|vila/\w+"
    r"|\|(?=\w*+\|>)\w*(?:image|img|im_patch|video|vision|audio|media)\w*\|"  # <|video_pad|>, <|image_1|>
    r")>|<img>(?=[^<>\n]++</img>)"  # around a path, as Qwen-VL writes it; otherwise a word of HTML
    r"|^(?-i:\[IMG(?:_BREAK|_END)?\])",
    re.IGNORECASE | re.MULTILINE,
)


def check_keys(sample: Mapping[str, Any], name: str) -> None:
    """Check that a sample and its turns have no field that training would ignore: for media, for a part of a video, for
    a system prompt, or for what is learned, under another name or with a typing error. A media field without a path (an
    empty list, a number) and notes are allowed. Fields inside of other fields are notes, unless the sample has
    no image or video of its own.

    Raises:
        DataFormatError: names the sample and the field, and says what training reads.
    """
    has_media = bool(sample.get("image") or sample.get("video"))
    for key, value in sample.items():
        if key in READ:
            continue
        _check_key(key, value, name, has_media)
        says = _what(key)
        if says.system and value:
            raise DataFormatError(f"{name}: {key!r} is not read. {SYSTEM}")
        if says.sample_learned:
            raise DataFormatError(f"{name}: {key!r} is not read. {LEARNS}")
        is_part = says.meant in ("start", "end")
        if says.meant and (has_media or not is_part) and fits(says.meant, value):
            raise DataFormatError(f"{name}: {key!r} is not read. {_did_you_mean(says.meant)}")
    for number, turn in enumerate(sample["conversations"], 1):
        for key, value in turn.items():
            if key in KNOWN_OF_TURN:
                continue
            _check_key(key, value, f"{name}, turn {number}", has_media)
            says = _what(key)
            if says.system and value:
                raise DataFormatError(f"{name}, turn {number}: {key!r} is not read. {SYSTEM}")
            if says.learned:
                raise DataFormatError(f"{name}, turn {number}: {key!r} is not read. {LEARNS}")
            if says.meant_in_turn in LEARNED_MARKS and isinstance(value, int | float):
                raise DataFormatError(
                    f"{name}, turn {number}: {key!r} is not read. {_did_you_mean(says.meant_in_turn)}"
                )


@lru_cache(maxsize=10_000)  # samples share their keys
def closest(key: str, known: tuple[str, ...]) -> str | None:
    """Return the known key that another key probably means, with one letter too many, too few, wrong or in the wrong
    place; `None` if the key is known, or like none of them."""
    if key in known:
        return None
    plain = _plain(key)
    alike = difflib.get_close_matches(plain, known, len(known), CLOSE)
    moved = [one for one in known if sorted(one) == sorted(plain)]
    return next((one for one in [*alike, *moved] if abs(len(one) - len(plain)) <= 1), None)


def fits(key: str, value: Any) -> bool:
    """Return whether a value can be one of this field. Otherwise a key that is like it is a note: `stats`, `kind`."""
    return key in FITS and FITS[key](value)


def _did_you_mean(key: str) -> str:
    return f"Did you mean {key!r}? If the field is a note, rename it."


def _check_key(key: str, value: Any, where: str, has_media: bool) -> None:
    says = _what(key)
    may_be_media = says.may_be_media or (says.path and not has_media)
    if (says.media and value and not isinstance(value, int | float)) or (may_be_media and _is_media(value)):
        raise DataFormatError(f"{where}: {key!r} is not read. {READS} Rename the field, or take it out.")
    if has_media and says.part and _is_time(list(value.values()) if isinstance(value, dict) else value):
        raise DataFormatError(
            f"{where}: {key!r} is not read. Training uses the part of a video from 'start' to 'end' of the sample, "
            "in seconds: write these fields, or remove this one."
        )
    if not has_media:
        _check_inner(value, f"{where}, in {key!r}")


def _check_inner(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, content in value.items():
            _check_key(key, content, where, has_media=False)
    elif isinstance(value, list):
        for content in value:
            _check_inner(content, where)


class KeyMeaning(NamedTuple):
    """What a key says: that it names media for any value, or if the value is a path; that it is for a part of a video,
    a system prompt, or for what is learned, of a sample or of a turn. Then the known key that it probably means."""

    media: bool
    may_be_media: bool
    path: bool
    part: bool
    system: bool
    sample_learned: bool
    learned: bool
    meant: str | None
    meant_in_turn: str | None


@lru_cache(maxsize=1000)
def _what(key: str) -> KeyMeaning:
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+s?(?![a-z])", key)]
    is_note = any(map(NOTE_WORD.fullmatch, words))
    plain = _plain(key)
    return KeyMeaning(
        media=bool(MEDIA_KEY.fullmatch(plain)),
        may_be_media=any(map(MEDIA_WORD.fullmatch, words)) and not is_note,
        path=bool(PATH_KEY.fullmatch(plain)),
        part=bool(PART_KEY.fullmatch(plain)),
        system=bool(SYSTEM_KEY.fullmatch(plain)),
        sample_learned=bool(SAMPLE_LEARNED_KEY.fullmatch(plain)),
        learned=bool(LEARNED_KEY.fullmatch(plain)),
        meant=closest(key, KNOWN),
        meant_in_turn=closest(key, KNOWN_OF_TURN),
    )


def _plain(key: str) -> str:
    return re.sub(r"[\W_]", "", key.lower())


def says_what_is_learned(key: str) -> bool:
    """Return whether a key of a turn is a mark of what is learned, under a name that training does not read."""
    return _what(key).learned or _what(key).meant_in_turn in LEARNED_MARKS


def _is_media(value: Any) -> bool:
    """Return whether a value is a path or the data of an image, a video or a sound, or a list with one."""
    if isinstance(value, str):
        return value.strip().lower().endswith(EXTENSIONS) or bool(MEDIA_URL.match(value))
    if isinstance(value, list):
        return any(map(_is_media, value))
    return isinstance(value, dict) and (
        bool(value.get("bytes")) or any(_is_media(value.get(k)) for k in ("path", "url"))
    )


def _is_time(value: Any) -> bool:
    """Return whether a value is a time, or a list of times."""
    if isinstance(value, list):
        return bool(value) and all(map(_is_time, value))
    if isinstance(value, str):
        return bool(TIME.fullmatch(value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_source(value: Any) -> bool:
    return bool(value) and isinstance(value, str | list | dict)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


# For a key that is like one of these, which values the known field may have.
FITS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("image", "video"), _is_source),
    **dict.fromkeys(("start", "end"), _is_time),
    **dict.fromkeys(("conversations", "kinds", "choices"), _is_list),
    "system": lambda value: bool(value) and isinstance(value, str),
}


def turn_marks(template: Template, tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    """Return a pattern for what the text of a turn must not contain: the marks of the template and the special tokens
    of the tokenizer. The model would read them as if the template had written them. `<image>` is checked elsewhere.
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    marks = (special | set(template.marks)) - {DEFAULT_IMAGE_TOKEN, ""}
    longest_first = sorted(marks, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if marks else None


def find_mark(text: str, marks: re.Pattern[str] | None) -> str | None:
    """Return the first media tag that training does not read, else the first mark of `turn_marks`, else `None`."""
    found = MEDIA_TAG.search(text) or (marks and marks.search(text))
    return found[0] if found else None


def check_texts(turns: Sequence[Mapping[str, Any]], name: str, marks: re.Pattern[str] | None) -> None:
    """Check that no turn has a media tag that training does not read, or a mark of `turn_marks`.

    Raises:
        DataFormatError: names the sample, the turn and the tag or mark.
    """
    for number, turn in enumerate(turns, 1):
        where = f"{name}, turn {number}"
        found = find_mark(turn["value"], marks)
        if found and MEDIA_TAG.search(turn["value"]):
            raise DataFormatError(
                f"{where}: {found!r} is not read. {READS} If it is a word of the text, set allow_special_tokens."
            )
        if found:
            raise DataFormatError(
                f"{where}: its text has {found!r}, which would be read as a mark of the chat template or a special "
                "token. Take it out, or set allow_special_tokens if the model must learn it."
            )
