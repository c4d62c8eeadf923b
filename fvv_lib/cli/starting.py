"""A quicker start: imports without a search for garbage among what they make."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import what a verb needs within this.

    torch and transformers make a million objects that stay, and Python's collector looks through them again and again.
    Here it waits until they are there, and leaves them out later (benchmarks/start.py).
    Where torch is loaded already, nothing is done: then there is other garbage, which must be found.
    """
    first = "torch" not in sys.modules and gc.isenabled()
    if first:
        gc.disable()
    try:
        yield
    finally:
        if first:
            gc.freeze()
            atexit.register(gc.unfreeze)  # extension modules count what is left at the end, and complain
            gc.enable()
