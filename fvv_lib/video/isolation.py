"""Run a function in a child process, to contain hangs, crashes and excessive memory use.                   Lesson 1

A decoder is a million lines of C that reads files from strangers. In the training process, its crash ends the run and
its hang stops every GPU. So the caller can have a child process do the work. Each thread starts one child, keeps it,
and replaces it after it was killed. On Linux a child may have `MEMORY` bytes of data (RLIMIT_DATA: memory that is
writable and not shared). The address space is not limited: it includes mapped memory that is never used, and this grows
with the number of threads. macOS and Windows have no such limit.

The child is a `subprocess`, because a DataLoader worker cannot have `multiprocessing` children. This module knows
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
START_SECONDS = 120.0  # for a new child to be ready; imports from a busy network disk are slow
MEMORY = 8 * 2**30  # 512 frames of 1080p are 3 GiB, and twice that while they are stacked
CALLS = 1000  # before a child is replaced, which frees what a decoder leaked
_mine = threading.local()


class ChildTimeoutError(Exception):
    """The call exceeded its time limit, and its child was killed."""


class ChildCrashError(Exception):
    """The child died before it answered."""


def call(function: str, arguments: dict[str, Any], timeout: float) -> Any:
    """Call a function by its full name ("package.module.name") in a child process.

    Args:
        arguments: keyword arguments; they and the result must be picklable.
        timeout: seconds, without the start of a new child, which may take `START_SECONDS`.

    Raises:
        ChildTimeoutError, ChildCrashError: the child was too slow or died; the next call starts a new one.
        FvvError: the timeout is not a number of seconds above 0; or a new child died or hung before it was ready, so
            no file is to blame.
        MemoryError: the call needs more than `MEMORY`.
        Exception: any error that the function raises.
    """
    if not isinstance(timeout, int | float) or not 0 < timeout <= threading.TIMEOUT_MAX:
        raise FvvError(f"timeout must be a number of seconds above 0, or None for no limit; got {timeout!r}.")
    child = getattr(_mine, "child", None)
    if child is None or child.owner != os.getpid() or child.calls >= CALLS or not child.is_alive():
        child = _mine.child = _Child()
    return child.call(function, arguments, timeout)


class _Child:
    """A process that runs `serve`, connected by two pipes."""

    def __init__(self) -> None:
        self.owner = os.getpid()  # a forked copy of this process must not use the child
        self.calls, self.killed = 0, False
        command = [sys.executable, "-c", START.format(path=sys.path, memory=MEMORY)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        weakref.finalize(self, _stop, self.process, self.owner)
        try:
            self._answer(START_SECONDS)  # the child reports that it is ready
            if self.killed:
                raise ChildTimeoutError(f"no answer after {START_SECONDS:g} seconds")
        except (ChildTimeoutError, ChildCrashError) as error:
            raise FvvError(
                f"The process that decodes videos did not start ({error}). See its output above. To decode in this "
                "process instead, set no time limit (timeout=None, --decode_timeout 0)."
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
                del result  # its traceback refers to this frame: a cycle that keeps the child
        return result

    def _answer(self, timeout: float, request: Any = None) -> Any:
        """Send a request, if any, and return the answer. Kill the child if it does not answer in time."""
        limit = _Limit(self.process, timeout)
        try:
            if request is not None:
                pickle.dump(request, self.process.stdin)  # type: ignore[arg-type]
                self.process.stdin.flush()  # type: ignore[union-attr]
            return pickle.load(self.process.stdout)  # type: ignore[arg-type]
        except BaseException as error:
            self.process.kill()  # a late answer would be taken for the next one
            code = self.process.wait()
            if not isinstance(error, EOFError | BrokenPipeError | pickle.UnpicklingError):  # for example Ctrl+C
                raise
            if limit.expired:
                raise ChildTimeoutError(f"no answer after {timeout:g} seconds") from error
            raise ChildCrashError(f"the process died with exit code {code}") from error
        finally:
            limit.end()
            self.killed = limit.expired  # also if it answered just before the kill


class _Limit:
    """Kill a process that takes too long, but never after its answer was read: the next call may use it."""

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
    """End a child that its owner no longer needs. A forked copy of the owner only closes the pipes."""
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            pipe.close()  # type: ignore[union-attr]
    if owner == os.getpid():
        process.kill()
        process.wait()


def serve(memory: int) -> None:
    """Run in the child: read a call, execute it and write the result, until the pipe is closed.

    Args:
        memory: bytes of data that the child may have.
    """
    with suppress(ImportError):  # Windows has no such limits
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if soft == resource.RLIM_INFINITY or soft > memory:
            resource.setrlimit(resource.RLIMIT_DATA, (memory, hard))
    for number in (signal.SIGTERM, signal.SIGINT):  # sent to a whole job, but the owner still needs the answer
        signal.signal(number, signal.SIG_IGN)
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # printed output must not mix with the replies
    reply: Any = "ready"
    while True:
        pickle.dump(reply, replies, protocol=pickle.HIGHEST_PROTOCOL)
        replies.flush()
        reply = None  # free it before the next call
        try:
            folder, function, arguments = pickle.load(requests)
        except EOFError:
            return
        try:
            os.chdir(folder)  # the caller's present folder, not that at the child's start
            module, name = function.rsplit(".", 1)
            reply = True, getattr(import_module(module), name)(**arguments)
        except Exception as error:
            reply = False, error
