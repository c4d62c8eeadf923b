"""Reject keys, tags and marks in samples that training would ignore or misread.                            Lesson 5

Other trainers read other keys and tags. A sample in their format would silently train as bare text, so it is an error.
This module opens no file.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from fvv_lib.errors import DataFormatError
from fvv_lib.prompt.placeholders import DEFAULT_IMAGE_TOKEN
from fvv_lib.prompt.templates import Template

READS = (
    "Training reads the paths under 'image' or 'video' of a sample, with one <image> in a human turn for each picture "
    "or video."
)
LEARNS = 'Every answer is learned, unless its turn has "loss": false or "weight": 0.'

# A key with one of these words names media: video_path, image1, leftImage, frames_dir.
MEDIA_WORD = re.compile(
    r"(image|img|picture|pic|photo|video|vid|visual|vision|gif|clip|frame|screenshot|pixel|audio|sound|speech|media)s?"
    r"(path|file|filename|url|uri|list|bytes|data|base64|dir|folder)?s?|(mm|multimodal)(data|input)s?"
)
# With one of these words too, it is a note about media: video_id, image_width, media_type.
NOTE_WORD = re.compile(
    r"(id|uid|uuid|idx|index|name|title|type|kind|format|codec|width|height|w|h|size|resolution|shape|aspect|ratio|fps|"
    r"rate|count|num|number|total|length|len|duration|second|hash|md|sha|checksum|caption|description|summary|text|label|"
    r"tag|category|class|topic|domain|source|dataset|origin|license|author|date|year|quality|score|language|lang|model|"
    r"info|meta|metadata|token|split|group)s?"
)
# Keys for a part of a video, without case and separators: start, video_end, startTimeMs, time_range, segment.
OF = "(?:video|clip|media|frame|timestamp|time|t)*"
IN = "(?:timestamp|time|second|sec|s|ms|frame|offset|idx|index|start|end)*"
PART_KEY = re.compile(
    rf"{OF}(?:start|begin|end|segment){IN}|{OF}timestamps"
    r"|time(?:range|span|interval|window)s?|(?:from|to)(?:timestamp|time|second|sec|frame)s?"
)
SYSTEM_KEY = re.compile(r"system(prompt|message|instruction)?s?")
# Keys that say what to learn, under a name or in a place that training does not read.
LEARNED_KEY = re.compile(r"(is)?(train|trainable|trained|learn|learned|supervised|mask|masked)|loss(mask|weight|scale)")
SAMPLE_LEARNED_KEY = re.compile(r"weight|loss(mask|weight|scale)?")
# Placeholders that other trainers and processors write for an image, a video or a sound: <video>, <Image>,
# <|video_pad|>, <image_soft_token>, <start_of_image>, <|image_1|>, <image:0>, <ImageHere>, <IMG_CONTEXT>, <im_patch>,
# [IMG], [VIDEO]. Training reads only <image>.
TAG_WORD = "(?:image|img|picture|photo|video|vid|visual|vision|clip|audio|media|frame|speech|sound)"
MEDIA_TAG = re.compile(
    rf"< ?/?\|? ?(?:(?!{TAG_WORD})[a-z\d]+[_:/-])*+{TAG_WORD}s?"
    r"(?:[_:/-][a-z]+|[_:/ -]?(?:\d|pad|patch|start|end|begin|bos|eos|here|placeholder|token|context|content))*+"
    r" ?\|?/? ?>|<im_(?:start|end)>|<\|?im_patch\|?>"
    r"|(?-i:\[(?:IMG|IMAGE|PICTURE|VIDEO|AUDIO|FRAME)S?(?:[_ ]?\d|_[A-Z]+)*\])",
    re.IGNORECASE,
)


def check_keys(sample: Mapping[str, Any], name: str) -> None:
    """Check that a sample and its turns have no field that training would ignore: for media, for a part of a video, for
    a system prompt, or for what is learned. Fields inside of other fields are checked too. A media field without a path
    (an empty list, a number) is allowed.

    Raises:
        DataFormatError: names the sample and the field, and says what training reads.
    """
    for key, value in sample.items():
        if key not in ("image", "video"):
            _check_key(key, value, name)
        if SYSTEM_KEY.fullmatch(_plain(key)) and value:
            raise DataFormatError(
                f"{name}: {key!r} is not read: training uses the system prompt of its template. Write the text at the "
                "start of the first question, or remove the field."
            )
        if SAMPLE_LEARNED_KEY.fullmatch(_plain(key)):
            raise DataFormatError(f"{name}: {key!r} is not read. {LEARNS}")
    for number, turn in enumerate(sample["conversations"], 1):
        for key, value in turn.items():
            _check_key(key, value, f"{name}, turn {number}")
            if LEARNED_KEY.fullmatch(_plain(key)):
                raise DataFormatError(f"{name}, turn {number}: {key!r} is not read. {LEARNS}")


def _check_key(key: str, value: Any, where: str) -> None:
    if _names_media(key) and value and not isinstance(value, int | float):
        raise DataFormatError(f"{where}: {key!r} is not read. {READS} Rename the field, or take it out.")
    if PART_KEY.fullmatch(_plain(key)) and value is not None:
        raise DataFormatError(
            f"{where}: {key!r} is not read: training uses the whole video. Cut the video, name the shorter file, and "
            "remove the field."
        )
    if isinstance(value, dict):
        for inner, content in value.items():
            _check_key(inner, content, f"{where}, in {key!r}")


@lru_cache(maxsize=1000)  # samples share their keys
def _names_media(key: str) -> bool:
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+s?(?![a-z])", key)]
    is_note = any(map(NOTE_WORD.fullmatch, words))
    return bool(MEDIA_WORD.fullmatch(_plain(key))) or (any(map(MEDIA_WORD.fullmatch, words)) and not is_note)


def _plain(key: str) -> str:
    return re.sub(r"[\W_]", "", key.lower())


def turn_marks(template: Template, tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    """Return a pattern for what the text of a turn must not contain: the marks of the template and the special tokens
    of the tokenizer. The model would read them as if the template had written them. `<image>` is checked elsewhere.
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    marks = (special | set(template.marks)) - {DEFAULT_IMAGE_TOKEN, ""}
    longest_first = sorted(marks, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if marks else None


def check_texts(turns: Sequence[Mapping[str, Any]], name: str, marks: re.Pattern[str] | None) -> None:
    """Check that no turn has a media tag that training does not read, or a mark of `turn_marks`.

    Raises:
        DataFormatError: names the sample, the turn and the tag or mark.
    """
    for number, turn in enumerate(turns, 1):
        where = f"{name}, turn {number}"
        for tag in MEDIA_TAG.findall(turn["value"]):
            if tag != DEFAULT_IMAGE_TOKEN:
                raise DataFormatError(
                    f"{where}: {tag!r} is not read. {READS} If it is a word of the text, set allow_special_tokens."
                )
        mark = marks.search(turn["value"]) if marks else None
        if mark is not None:
            raise DataFormatError(
                f"{where}: its text has {mark[0]!r}, which would be read as a mark of the chat template or a special "
                "token. Take it out, or set allow_special_tokens if the model must learn it."
            )
