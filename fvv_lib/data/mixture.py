"""Use a share or a number of the samples of an annotation file: `a.json*0.5`, `b.json#1000`.                Lesson 5

The samples are drawn without replacement. The draw depends on the number of samples in the file only, so every run and
every check of it reads the same ones, and a larger share of a file has those of a smaller one.
"""

import re
from typing import NamedTuple

import numpy as np

from fvv_lib.errors import DataFormatError
from fvv_lib.files import Location, locate

PART = re.compile(r"(?P<path>.+?)(?P<amount>\*(?P<share>\d+(?:\.\d+)?)|#(?P<count>\d+))", re.DOTALL)


class Part(NamedTuple):
    """An annotation file, and how much of it is used: `amount` as it is written, empty for all of it."""

    path: Location
    amount: str


def parse_part(word: str | Location) -> Part:
    """Return the file and the amount of a part of a mixture. A `#` or `*` with a number at the end is an amount."""
    found = PART.fullmatch(word) if isinstance(word, str) else None
    return Part(locate(found["path"]), found["amount"]) if found else Part(locate(word), "")


def draw(part: Part, total: int) -> np.ndarray:
    """Return the samples of a file that are used, of `total`, in order: int64 (N,). A share of 2 has each twice.

    Raises:
        DataFormatError: no sample would be used, or more are asked for than there are.
    """
    if not part.amount:
        return np.arange(total)
    number = part.amount[1:]
    if part.amount[0] == "#":
        count = int(number)
        if count > total:
            raise DataFormatError(
                f"{part.path}{part.amount}: the file has {total} samples. Ask for fewer, or write *2 to use each twice."
            )
    else:
        count = round(float(number) * total)
    if count == 0:
        raise DataFormatError(f"{part.path}{part.amount}: this is no sample of {total}. Ask for more.")
    whole, rest = divmod(count, total)
    order = np.random.default_rng(0).permutation(total)
    return np.sort(np.concatenate([np.tile(np.arange(total), whole), order[:rest]]))
