"""Read far files by parts, and hold one version of them.                                                    Lesson 1

A server takes long to answer, so few parts are asked for, and several at once: the parts that a reader says it will
need, and the next ones where a file is read in order.
"""

import errno
import io
import math
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import Any, BinaryIO

from fvv_lib.files import Look, Url, is_url, locate
from fvv_lib.servers import DOWNLOAD, patiently

BLOCK = 2**16  # bytes that are asked for at least
LONGEST_AHEAD = 2**20  # bytes that are asked for at most where a file is read in order
KEPT = 2**26  # bytes of a file that are kept while it is open
AT_ONCE = 8  # requests that are sent before the first is answered
VERSIONS = ("etag", "last-modified", "lastmodified", "mtime", "md5hash", "content-md5", "digest", "blob_id", "created")

Blocks = dict[int, bytes]  # parts of a file, `BLOCK` bytes but the last, by their numbers
Range = tuple[int, int]  # start and end in bytes


def look(url: Url) -> Look:
    """Ask the server about a file. While it is held, the answer is that of the start."""
    source = _held(url)
    if source is not None:
        return source.look

    def ask() -> Look:
        system, path = url.system()
        system.invalidate_cache()
        info = {str(key).lower(): value for key, value in system.info(path).items()}
        if info.get("type") != "directory" and info.get("size") is None:
            raise OSError(errno.EIO, f"the server does not say its size. {DOWNLOAD}")
        version = " ".join(f"{key}={info[key]}" for key in VERSIONS if info.get(key))
        is_folder, etag, date = info.get("type") == "directory", info.get("etag"), info.get("last-modified")
        condition: tuple[tuple[str, str], ...] = ()
        if etag and etag.startswith('"'):  # a weak one never matches
            condition = (("If-Match", etag),)
        elif date:
            condition = (("If-Unmodified-Since", date),)
        return Look(is_folder, int(info.get("size") or 0), version, condition)

    return patiently(ask)


class Traffic:
    """What was read from servers: bytes and requests."""

    def __init__(self) -> None:
        self.bytes = 0
        self.requests = 0
        self.lock = threading.Lock()

    def add(self, count: int) -> None:
        with self.lock:
            self.bytes += count
            self.requests += 1


class _Source:
    """One version of a far file, and the blocks of it that were read. Threads may share it.

    Attributes:
        blocks: what was read, the oldest first.
        coming: blocks that other threads are reading.
        expected: what will be fetched, see `expect`.
        early: how many bytes of it were requested, but not fetched yet.
    """

    def __init__(self, url: Url) -> None:
        self.url = url
        self.users = 0
        self.failure: OSError | None = None  # of the first read that failed; all later ones fail too
        self.look = url.look()
        if self.look.is_folder:
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        self.traffic = getattr(_mine, "traffic", None) or Traffic()
        self.blocks: OrderedDict[int, bytes] = OrderedDict()
        self.coming: dict[int, Future[Blocks]] = {}
        self.expected: deque[Range] = deque()
        self.early = 0
        self.lock = threading.Lock()
        self.handles = threading.local()

    def read(self, start: int, end: int, ahead: int = BLOCK) -> tuple[bytes, bool]:
        """Return bytes of the file, and whether a request was sent. There is at most one, for `ahead` bytes at
        least."""
        end = min(end, self.look.size)
        if start >= end:
            return b"", False
        numbers = range(start // BLOCK, (end - 1) // BLOCK + 1)
        with self.lock:
            found = {number: self.blocks[number] for number in numbers if number in self.blocks}
            coming = {self.coming[number] for number in numbers if number in self.coming}
        for future in coming:
            found |= future.result()
        unknown = [number for number in numbers if number not in found]
        if unknown:
            found |= self._load(unknown[0], max(unknown[-1] + 1, unknown[0] + math.ceil(ahead / BLOCK)))
        content = b"".join(found[number] for number in numbers)
        begin = numbers[0] * BLOCK
        return content[start - begin : end - begin], bool(unknown)

    def request(self, start: int, end: int) -> None:
        """Let other threads read a range, but what is here or coming."""
        numbers = range(start // BLOCK, math.ceil(min(end, self.look.size) / BLOCK))
        with self.lock:
            unknown = [number for number in numbers if number not in self.blocks and number not in self.coming]
            for _, run in groupby(enumerate(unknown), key=lambda pair: pair[1] - pair[0]):
                run_numbers = [number for _, number in run]
                future = _other_threads().submit(self._load, run_numbers[0], run_numbers[-1] + 1)
                self.coming.update(dict.fromkeys(run_numbers, future))

    def expect(self, ranges: Sequence[Range]) -> None:
        with self.lock:
            self.expected, self.early = deque(map(_shorten, ranges)), 0

    def fetch(self, start: int, end: int) -> None:
        """Read a range, and request those that are expected after it, as many as can be kept."""
        start, end = _shorten((start, end))
        while self.early < KEPT // 2:
            with self.lock:
                if not self.expected:
                    break
                soon = self.expected.popleft()
                self.early += soon[1] - soon[0]
            self.request(*soon)
        self.read(start, end)
        with self.lock:
            self.early -= end - start

    def _load(self, first: int, stop: int) -> Blocks:
        """Read the blocks from `first` to before `stop` with one request, and keep them."""
        start, end = first * BLOCK, min(stop * BLOCK, self.look.size)
        if self.failure is not None:
            raise self.failure
        try:
            content = patiently(lambda: self._fetch(start, end))
        except OSError as error:
            self.failure = error
            raise
        fresh = {first + i: content[i * BLOCK : (i + 1) * BLOCK] for i in range(math.ceil(len(content) / BLOCK))}
        with self.lock:
            self.blocks.update(fresh)
            for number in fresh:
                self.coming.pop(number, None)
            while len(self.blocks) > KEPT // BLOCK:
                self.blocks.popitem(last=False)
        return fresh

    def _fetch(self, start: int, end: int) -> bytes:
        handle = getattr(self.handles, "file", None)  # one for each thread: reading moves its position
        if handle is None:
            handle = self.handles.file = self._open()
        handle.seek(start)
        content: bytes = handle.read(end - start)
        self.traffic.add(len(content))
        if len(content) < end - start:
            raise EOFError("less was sent than was asked for")
        return content

    def _open(self) -> BinaryIO:
        system, path = self.url.system()
        if not self.url.is_web:
            file: BinaryIO = system.open(path, "rb", cache_type="none")
            return io.BytesIO(file.getvalue()) if isinstance(file, io.BytesIO) else file  # memory:// shares its files
        headers = {**system.kwargs.get("headers", {}), "Accept-Encoding": "identity", **dict(self.look.condition)}
        return system.open(path, "rb", cache_type="none", size=self.look.size, headers=headers)


def _shorten(part: Range) -> Range:
    """Return a range that can be kept: of a longer one, the start."""
    return part[0], min(part[1], part[0] + KEPT // 2)


class FarFile(io.RawIOBase):
    """A far file, open for reading. Where it is read in order, more is asked for at a time, then several times at once.
    Skipping less than `LONGEST_AHEAD` is in order, too, because waiting takes longer than reading what is skipped. A
    short step back is in order as well.

    Args:
        for_ffmpeg: end the file where a part cannot be read. PyAV drops some errors of Python files, and prints them.
            `hold` raises the error.
    """

    def __init__(self, url: Url, for_ffmpeg: bool = False) -> None:
        super().__init__()
        self._source = _held(url) or _Source(url)
        self._for_ffmpeg = for_ffmpeg
        self.name = url.name  # without folder and query: FFmpeg and Pillow write it in messages
        self._at, self._read_to, self._ahead, self._requested = 0, 0, BLOCK, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.look.size}[whence]
        if origin + offset < 0:
            raise OSError(errno.EINVAL, "a position before the start of the file")
        self._at = origin + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        if not -BLOCK < self._at - self._read_to < LONGEST_AHEAD:  # not in order
            self._ahead, self._requested = BLOCK, 0
        try:
            content, asked = self._source.read(self._at, self._at + len(buffer), self._ahead)
        except OSError:
            if not self._for_ffmpeg:
                raise
            return 0
        if asked:
            self._ahead = min(2 * self._ahead, LONGEST_AHEAD)
        buffer[: len(content)] = content
        self._at += len(content)
        self._read_to = self._at
        if self._ahead >= LONGEST_AHEAD and self._at + LONGEST_AHEAD > self._requested:
            self._request_next()
        return len(content)

    def _request_next(self) -> None:
        """Request what follows, as much as can be kept."""
        for number in range(min(4, KEPT // 2 // LONGEST_AHEAD)):
            self._requested = self._at + (number + 1) * LONGEST_AHEAD
            self._source.request(self._requested - LONGEST_AHEAD, self._requested)

    def expect(self, ranges: Sequence[Range]) -> None:
        """Say what will be fetched, in this order, so that it is requested early."""
        self._source.expect(ranges)

    def fetch(self, start: int, end: int) -> None:
        """Read a range that will be needed with one request, so that reading its parts needs none."""
        self._source.fetch(start, end)


_lock = threading.Lock()
_sources: dict[Url, _Source] = {}  # the files that are held in this process
_pool: ThreadPoolExecutor | None = None
_mine = threading.local()  # traffic: what `hold` counts in this thread


def _forget() -> None:
    """In a forked process: connections and threads are those of the parent."""
    global _lock, _pool
    _lock, _pool = threading.Lock(), None
    _sources.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _held(url: Url) -> _Source | None:
    with _lock:
        return _sources.get(url)


def _other_threads() -> ThreadPoolExecutor:
    """Return the threads of this process that read what will be needed soon."""
    global _pool
    with _lock:
        _pool = _pool or ThreadPoolExecutor(AT_ONCE, "far-files")
        return _pool


@contextmanager
def hold(path: Any) -> Iterator[Traffic]:
    """Keep a file open, if it is at a URL: all that is read in the body is of one version, and is read once. Yield what
    is read from servers meanwhile, of all files that this thread opens.

    Raises:
        OSError: the file cannot be opened, or a part could not be read: FFmpeg takes that for the end of the file.
    """
    outer = getattr(_mine, "traffic", None)
    _mine.traffic = traffic = outer or Traffic()
    source = None
    try:
        if is_url(path) and isinstance(url := locate(path), Url):
            with suppress(IsADirectoryError):
                source = _acquire(url)
        yield traffic
    finally:
        _mine.traffic = outer
        if source is not None:
            _release(source)
            if source.failure is not None:
                raise source.failure from None


def _acquire(url: Url) -> _Source:
    opened = _held(url) or _Source(url)
    with _lock:
        source = _sources.setdefault(url, opened)
        source.users += 1
    return source


def _release(source: _Source) -> None:
    with _lock:
        source.users -= 1
        if source.users == 0 and _sources.get(source.url) is source:
            del _sources[source.url]
            for future in source.coming.values():  # of what nobody will read
                future.cancel()
