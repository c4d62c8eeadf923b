"""Reject keys, tags and marks in samples that training would ignore or misread.                            Lesson 5

Other trainers read other keys and tags. A sample in their format would silently train as bare text, so it is an error.
This module opens no file.
"""

import re
from collections.abc import Mapping, Sequence
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

# Keys are compared ignoring case, `_` and `-`: video_path, VideoPath. Names and ids of media (video_id) are allowed.
MEDIA_KEY = re.compile(
    r"(image|img|picture|photo|video|vid|gif|clip|frame|audio|sound|speech|media)s?"
    r"(path|file|filename|url|uri|list|bytes|data|base64)?s?"
)
PART_KEY = re.compile(
    r"(video|clip|media|segment|time|t)?(start|begin|end)(time|timestamp|second|sec|s|ms|frame|offset)?s?"
)
# Keys that say what to learn, under a name or in a place that training does not read.
LEARNED_KEY = re.compile(r"(is)?(train|trainable|trained|learn|learned|supervised|mask|masked)|loss(mask|weight|scale)")
SAMPLE_LEARNED_KEY = re.compile(r"weight|loss(mask|weight|scale)?")
# Placeholders that other trainers and processors write for an image, a video or a sound: <video>, <Image>,
# <|video_pad|>, <image_soft_token>, <start_of_image>, <|image_1|>, <ImageHere>, <IMG_CONTEXT>, <im_patch>, [IMG].
# Training reads only <image>.
MEDIA_TAG = re.compile(
    r"< ?/?\|? ?(?:vila/)?(?:(?:start|end|begin)_of_)?(?:image|img|video|vid|audio|vision|media|frame|speech|sound)s?"
    r"(?:[_ -]?(?:\d|pad|patch|start|end|begin|bos|eos|here|placeholder|soft_token|token|context|content))*"
    r" ?\|?/? ?>|<im_(?:patch|start|end)>|(?-i:\[IMG(?:_BREAK|_END)?\])",
    re.IGNORECASE,
)


def check_keys(sample: Mapping[str, Any], name: str) -> None:
    """Check that a sample and its turns have no field that training would ignore: for media, for a part of a video, or
    for what is learned. A media field without a path (an empty list, a number) is allowed.

    Raises:
        DataFormatError: names the sample and the field, and says what training reads.
    """
    for key, value in sample.items():
        if key not in ("image", "video"):
            _check_key(key, value, name)
        if SAMPLE_LEARNED_KEY.fullmatch(_plain(key)):
            raise DataFormatError(f"{name}: {key!r} is not read. {LEARNS}")
    for number, turn in enumerate(sample["conversations"], 1):
        for key, value in turn.items():
            _check_key(key, value, f"{name}, turn {number}")
            if LEARNED_KEY.fullmatch(_plain(key)):
                raise DataFormatError(f"{name}, turn {number}: {key!r} is not read. {LEARNS}")


def _check_key(key: str, value: Any, where: str) -> None:
    if MEDIA_KEY.fullmatch(_plain(key)) and value and not isinstance(value, int | float):
        raise DataFormatError(f"{where}: {key!r} is not read. {READS} Rename the field, or take it out.")
    if PART_KEY.fullmatch(_plain(key)) and value is not None:
        raise DataFormatError(
            f"{where}: {key!r} is not read: training uses the whole video. Cut the video, name the shorter file, and "
            "remove the field."
        )


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
