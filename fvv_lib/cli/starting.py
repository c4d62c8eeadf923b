"""A quicker start and end of a command: no search for garbage among what imports make (benchmarks/start.py)."""

import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import what a verb needs within this.

    torch and transformers make a million objects that stay, and Python's collector looks through them again and again.
    Here it waits until they are there, and leaves them out later.
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


def run_and_exit(main: Callable[[], int]) -> NoReturn:
    """End the process with the exit code of `main`, without Python's last search for garbage.

    Threads end and exit handlers run as always: this one is registered first, so it is called last.
    """
    code = 1  # of an exception that nothing catches

    def leave() -> None:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:  # the reader of the pipe has closed it
            os._exit(120)  # as Python does
        os._exit(code)

    atexit.register(leave)
    try:
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    sys.exit(code)
