"""Progress of long work: a bar on a terminal, a line a minute in a log.

A log keeps every state that a bar was in, so a bar would fill it. This module knows nothing about what is counted.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from tqdm import tqdm  # not tqdm.auto, which draws a widget in a notebook

SECONDS = 60.0  # between two lines of a log


class _Lines(tqdm):
    """A bar that prints each of its states as a line."""

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        return lambda text: print(text, file=file, flush=True) if text.strip() else None


def progress(of: Iterable[Any] | None = None, *, hidden: bool = False, **settings: Any) -> tqdm:
    """Return a tqdm bar. If the standard error output is no terminal, it prints a line every `SECONDS` seconds, with
    counts and rate, and nothing before that.

    Args:
        of: what is counted, if the bar is used as an iterator.
        hidden: show nothing.
        settings: of tqdm: `total`, `desc`, `unit`, `postfix`.
    """
    if hidden or sys.stderr.isatty():
        return tqdm(of, disable=hidden, **settings)
    form = "{desc}: {n_fmt} of {total_fmt}, {rate_fmt}, {elapsed} so far, {remaining} left{postfix}"
    return _Lines(of, mininterval=SECONDS, maxinterval=SECONDS, delay=SECONDS, bar_format=form, **settings)
