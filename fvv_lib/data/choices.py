"""Find the choices that an answer names, and check what a sample says about its questions.                 Lesson 7

A text is split into units: words, numbers and signs. An answer names a choice if it has the units of the choice in the
same order. This module knows nothing about models.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from fvv_lib.data.refused import KNOWN, closest
from fvv_lib.errors import DataFormatError

Units = tuple[tuple[str, str | None], ...]


def _marks(first: int, last: int) -> str:
    """Return the accents, vowel signs and tones among these characters. Each belongs to the letter before it."""
    return "".join(char for char in map(chr, range(first, last)) if unicodedata.category(char).startswith("M"))


# Scripts that put no spaces between words: Thai, Lao, Tibetan, Burmese, Khmer; Japanese; Chinese.
UNSPACED = (
    "\u0e00-\u109f\u1780-\u17ff"
    "\u3005-\u3007\u3031-\u312f\u31f0-\u31ff\uff66-\uff9f"
    "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
HANGUL = "\u1100-\u11ff\u3131-\u318f\ua960-\ua97f\uac00-\ud7ff"  # has spaces, but particles follow a word without one
# A letter or digit of any other script.
LETTER = rf"(?:[^\W{UNSPACED}{HANGUL}]|[{_marks(0x300, 0xE00)}\u200c\u200d])"
# Dashes between two letters are no unit: "top-left" is "top left".
BETWEEN_LETTERS = rf"(?<={LETTER})(?<!\d)[-–](?!\d)(?={LETTER})"
UNIT = re.compile(
    rf"[{UNSPACED}][{_marks(0xE00, 0x1800)}]*"
    rf"|(?P<inner>(?<=[{HANGUL}])[{HANGUL}])|[{HANGUL}]"
    rf"|(?<={LETTER})'s(?!{LETTER})"  # square's
    rf"|(?:(?<!{LETTER})[-–](?=\.?\d))?(?:(?<!{LETTER})(?<!\.)\.(?=\d))?"  # -1, .5
    r"(?:(?:anti|contra|counter|non|un)-|no-(?=one))*"  # counter-clockwise
    rf"{LETTER}+(?:(?:"
    r"\^[-–]?|[+#]+"  # x^2, C++14
    r"|(?<=\d)[.,:/*×÷'](?=\d)"  # 1.5, 12:30, 1/2
    rf"|'(?=(?:[dmt]|ll|re|ve)(?!{LETTER}))"  # can't, but not l'homme
    rf"){LETTER}+)*[+#]*"  # C++, C#
    rf"|(?!{BETWEEN_LETTERS})\S"
)
GROUPS = re.compile(  # 12,000
    rf"(?<!{LETTER})(?<![.,:/'])\d{{1,3}}([,' \u00a0\u2009\u202f])\d{{3}}(?:\1\d{{3}})*(?!\d)"
)
# Full-width ASCII (（Ａ）) and its space, hyphens, the minus sign, and apostrophes -> ASCII.
NARROW = (
    {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)}
    | dict.fromkeys((*range(0x2010, 0x2013), 0x2212), "-")
    | dict.fromkeys((0x2018, 0x2019, 0x02BC), "'")
    | {0x3000: " "}
)


def units_of(text: str) -> Units:
    """Return the words, numbers and other signs of a text, in lower case, without spaces. Each comes with a mark: is it
    a Korean syllable inside a word?

    Signs are written in one way: composed letters (NFC), full-width ASCII, dashes and apostrophes as ASCII. Separators
    of thousands are left out, like a hyphen or en dash between two letters. A hyphen stays after a word that turns the
    meaning: "counter-clockwise", "no-one".
    """
    text = unicodedata.normalize("NFC", text.lower().translate(NARROW))
    text = GROUPS.sub(lambda number: re.sub(r"\D", "", number[0]), text)
    return tuple((unit[0].replace("–", "-"), unit.lastgroup) for unit in UNIT.finditer(text))


def named_choices(text: str, choices: Sequence[str]) -> set[Units]:
    """Return the choices that a text names, as their units; see `evaluation.is_correct`."""
    units = units_of(text)
    named: set[Units] = set()
    taken: set[int] = set()
    for choice in sorted(dict.fromkeys(map(units_of, choices)), key=len, reverse=True):
        for start in range(len(units) - len(choice) + 1):
            places = range(start, start + len(choice))
            if choice and units[start : places.stop] == choice and taken.isdisjoint(places):
                named.add(choice)
                taken.update(places)
    return named


def check_questions(sample: Mapping[str, Any], name: str) -> None:
    """Check that `kinds` and `choices` of a sample, if it has them, describe each of its questions (see
    `evaluation.evaluate`).

    Raises:
        DataFormatError: names the sample and the field.
    """
    for key in sample:
        meant = closest(key, KNOWN)
        if meant in ("kinds", "choices"):
            raise DataFormatError(
                f"{name}: {key!r} is not read. Did you mean {meant!r}, a list with one entry per question?"
            )
    answers = [turn["value"] for turn in sample["conversations"][1::2]]
    for key, is_entry, entry in (("kinds", _is_text, "a text"), ("choices", _is_choices, "a list of texts")):
        given: Any = sample.get(key)
        is_complete = isinstance(given, list) and len(given) == len(answers)
        if key in sample and not (is_complete and all(map(is_entry, given))):
            raise DataFormatError(
                f"{name}: {key!r} must be a list with {entry} for each of its {len(answers)} questions, got {given!r}. "
                "If it means something else, rename it."
            )
    for answer, choices in zip(answers, sample.get("choices", []), strict=False):
        if choices and len(named_choices(answer, choices)) != 1:
            raise DataFormatError(f"{name}: the answer {answer!r} must name exactly one of its choices {choices}.")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_choices(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(_is_text, value)))
