"""Run a function in a child process, so that its hang, its crash or its hunger is not ours.                Lesson 1

A decoder is a million lines of C that reads files from strangers. In the process that trains, its crash ends the run
and its hang stops every GPU. So the caller may have a child do the work: it is started once for each thread, kept, and
replaced when it had to be killed. It may have `MEMORY` bytes of its own, counted as Linux counts data (RLIMIT_DATA:
what can be written and is not shared). The address space is not limited: it holds what is mapped and never used, more
the more threads there are. macOS and Windows have no such limit.

`subprocess`, not `multiprocessing`: a DataLoader's worker may not have children of the second kind. This module knows
nothing about videos.
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from importlib import import_module
from typing import Any

from fvv_lib.errors import FvvError

START = "import sys; sys.path[:] = {path!r}; from fvv_lib.video.isolation import serve; serve({memory})"
START_SECONDS = 120.0  # for a new child to be ready; imports from a busy network disk take their time
MEMORY = 8 * 2**30  # 512 frames of 1080p are 3 GiB, twice that while they are put together
CALLS = 1000  # after so many a child is replaced: what a decoder leaks goes with it
_mine = threading.local()


class ChildTimeoutError(Exception):
    """The call took longer than it may; its child was killed."""


class ChildCrashError(Exception):
    """The child died before it answered."""


def call(function: str, arguments: dict[str, Any], timeout: float) -> Any:
    """Call a function by its full name ("package.module.name") in a child process.

    Args:
        arguments: keyword arguments; they and the result must pickle.
        timeout: seconds; the start of a new child does not count, and may take `START_SECONDS`.

    Raises:
        ChildTimeoutError, ChildCrashError: the next call starts a new child.
        FvvError: the timeout is no number of seconds above 0; or a new child died or hung before it was ready, for
            which no file is to blame.
        MemoryError: the call takes more than `MEMORY`.
        Exception: whatever the function raises.
    """
    if not isinstance(timeout, int | float) or not 0 < timeout <= threading.TIMEOUT_MAX:
        raise FvvError(f"timeout must be a number of seconds above 0, or None for no limit; got {timeout!r}.")
    child = getattr(_mine, "child", None)
    if child is None or child.owner != os.getpid() or child.calls >= CALLS or not child.is_alive():
        child = _mine.child = _Child()
    return child.call(function, arguments, timeout)


class _Child:
    """A process that runs `serve`, at the other end of two pipes."""

    def __init__(self) -> None:
        self.owner = os.getpid()  # a forked copy of us must not use our child
        self.calls, self.killed = 0, False
        command = [sys.executable, "-c", START.format(path=sys.path, memory=MEMORY)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        weakref.finalize(self, _stop, self.process, self.owner)
        try:
            self._answer(START_SECONDS)  # it says when it is ready
            if self.killed:
                raise ChildTimeoutError(f"no answer after {START_SECONDS:g} seconds")
        except (ChildTimeoutError, ChildCrashError) as error:
            raise FvvError(
                f"The process that decodes videos did not start ({error}). What it wrote stands above. Without a time "
                "limit (timeout=None, --decode_timeout 0) videos are decoded in this process."
            ) from error

    def is_alive(self) -> bool:
        return not self.killed and self.process.poll() is None

    def call(self, function: str, arguments: dict[str, Any], timeout: float) -> Any:
        self.calls += 1
        succeeded, result = self._answer(timeout, (os.getcwd(), function, arguments))
        if not succeeded:
            try:
                raise result
            finally:
                del result  # its traceback holds this frame, which would hold it and the child
        return result

    def _answer(self, timeout: float, request: Any = None) -> Any:
        """Send a request, if any, and wait for the answer; a child that does not give one in time is killed."""
        limit = _Limit(self.process, timeout)
        try:
            if request is not None:
                pickle.dump(request, self.process.stdin)  # type: ignore[arg-type]
                self.process.stdin.flush()  # type: ignore[union-attr]
            return pickle.load(self.process.stdout)  # type: ignore[arg-type]
        except BaseException as error:
            self.process.kill()  # what it still answers would be taken for the next answer
            code = self.process.wait()
            if not isinstance(error, EOFError | BrokenPipeError | pickle.UnpicklingError):  # Ctrl+C, for one
                raise
            if limit.expired:
                raise ChildTimeoutError(f"no answer after {timeout:g} seconds") from error
            raise ChildCrashError(f"the process died with exit code {code}") from error
        finally:
            limit.end()
            self.killed = limit.expired  # also where it answered in the last moment


class _Limit:
    """Kills a process that takes too long, and never one whose answer has been read: the next call may use it."""

    def __init__(self, process: subprocess.Popen, seconds: float) -> None:
        self.process, self.ended, self.expired = process, False, False
        self.lock = threading.Lock()
        self.timer = threading.Timer(seconds, self._expire)
        self.timer.start()

    def _expire(self) -> None:
        with self.lock:
            if not self.ended:
                self.expired = True
                self.process.kill()

    def end(self) -> None:
        with self.lock:
            self.ended = True
        self.timer.cancel()


def _stop(process: subprocess.Popen, owner: int) -> None:
    """End a child whose owner no longer needs it; a forked copy of the owner only lets go of the pipes."""
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            pipe.close()  # type: ignore[union-attr]
    if owner == os.getpid():
        process.kill()
        process.wait()


def serve(memory: int) -> None:
    """What the child does: read a call, make it, write the result, until the pipe is closed.

    Args:
        memory: bytes of data that it may have.
    """
    with suppress(ImportError):  # Windows has no such limits
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if soft == resource.RLIM_INFINITY or soft > memory:
            resource.setrlimit(resource.RLIMIT_DATA, (memory, hard))
    for number in (signal.SIGTERM, signal.SIGINT):  # sent to a whole job; the owner still needs its answer
        signal.signal(number, signal.SIG_IGN)
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what others print must not come between the replies
    reply: Any = "ready"
    while True:
        pickle.dump(reply, replies, protocol=pickle.HIGHEST_PROTOCOL)
        replies.flush()
        reply = None  # or it would be held while the next is made
        try:
            folder, function, arguments = pickle.load(requests)
        except EOFError:
            return
        try:
            os.chdir(folder)  # where the caller is now, not where it was when the child began
            module, name = function.rsplit(".", 1)
            reply = True, getattr(import_module(module), name)(**arguments)
        except Exception as error:
            reply = False, error
