"""Start and end a command faster, without garbage collection of what imports create (benchmarks/start.py)."""

import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import what a verb needs within this context, without garbage collection.

    torch and transformers create a million permanent objects, which Python's collector would scan again and again. It
    is off during these imports, and ignores their objects afterwards.
    If torch is already loaded, this does nothing, because there may be other garbage to collect.
    """
    first = "torch" not in sys.modules and gc.isenabled()
    if first:
        gc.disable()
    try:
        yield
    finally:
        if first:
            gc.freeze()
            atexit.register(gc.unfreeze)  # some extension modules complain about objects that are left at exit
            gc.enable()


def run_and_exit(main: Callable[[], int]) -> NoReturn:
    """Call `main` and end the process with its exit code, without Python's last garbage collection.

    Threads are joined and exit handlers run as usual. Our own handler is registered first, so it runs last.
    """
    code = 1  # for an exception that is not caught

    def leave() -> None:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:  # the pipe is closed at its other end
            os._exit(120)  # as Python does
        os._exit(code)

    atexit.register(leave)
    try:
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    sys.exit(code)
