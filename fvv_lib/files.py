"""Paths of files on this machine and addresses of files elsewhere, of which only the parts that are needed are read.

A path is a `Path`, or a `Url` if it has a scheme, like `s3://bucket/clip.mp4`. fsspec knows how to reach it. A `Url` is
not a text, because a text ends up where it must not: `Path("https://...")` loses a slash, and a message shows a
password. Errors of servers become OSErrors, like those of a disk. This module knows nothing about videos.
"""

import errno
import io
import math
import os
import posixpath
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from fvv_lib.errors import FvvError, VideoDecodeError

T = TypeVar("T")

SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # two letters or more: C:// is a drive of Windows
MANGLED = re.compile(r"(^|/)(https?|s3|gs|hf|memory|abfs|az|ftp|sftp):/(?!/)", re.IGNORECASE)
WEB = ("http", "https")
# Parts of a query that say who may read a file and until when, of Amazon, Google, CloudFront and Azure.
SIGNATURE = re.compile(
    r"x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id|(.*[-_])?token|"
    r"s(v|s|rt|p|e|t|pr|ig|r|koid|ktid|kt|ke|ks|kv)",
    re.IGNORECASE,
)
BLOCK = 2**16  # bytes that are asked for at least
LONGEST_AHEAD = 2**20  # bytes that are asked for at most where a file is read in order
KEPT = 2**26  # bytes of a file that are kept while it is open
DELAYS = (0.5, 1.0, 2.0, 4.0)  # seconds before an attempt is repeated
PATIENCE = 120.0  # seconds after which no attempt is repeated
VERSIONS = ("etag", "last-modified", "lastmodified", "mtime", "md5hash", "content-md5", "digest", "blob_id", "created")
NOT_NOW = (408, 425, 429, 500, 502, 503, 504)  # answers of a server that may soon be different


class Look(NamedTuple):
    """What a server says about a file: whether it is a folder, its size in bytes, and a text that changes with its
    content (ETag, time of change), which is empty if the server says neither."""

    is_folder: bool
    size: int
    version: str
    condition: tuple[tuple[str, str], ...] = ()  # headers with which a web server sends no other version


@dataclass(frozen=True, order=True, repr=False)
class Url:
    """The address of a file elsewhere, with the methods of `Path` that this library uses. `str` gives it without
    credentials, for messages and records. Methods that ask a server raise an OSError: FileNotFoundError,
    PermissionError, or ConnectionError if the server does not answer.

    Attributes:
        address: the whole address, with a password or a signature if it has one.
    """

    address: str

    @property
    def name(self) -> str:
        path = posixpath.basename(self._parts.path.rstrip("/")) or self._public_host
        return unquote(path) if self._parts.scheme in WEB else path

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> "Url":
        """The folder, without the query: a signature is that of one file."""
        return self._with_path(posixpath.dirname(self._parts.path.rstrip("/")))

    @property
    def identity(self) -> str:
        """The address without password and signature, which may differ from day to day."""
        parts = self._parts
        query = "&".join(p for p in parts.query.split("&") if not SIGNATURE.fullmatch(p.partition("=")[0]))
        return urlunsplit((parts.scheme, self._public_host, parts.path, query, ""))

    @property
    def _parts(self) -> Any:
        """Scheme, host, path and query. Only web addresses have a query: elsewhere ? and # may be part of a name."""
        try:
            parts = urlsplit(self.address)
        except ValueError as error:  # square brackets in the host
            raise FvvError("An address has square brackets that are not those of an IPv6 address.") from error
        if parts.scheme in WEB:
            return parts
        host, slash, path = self.address.partition("://")[2].partition("/")
        return parts._replace(netloc=host, path=slash + path, query="", fragment="")

    @property
    def _public_host(self) -> str:
        host = self._parts.netloc
        user, _, rest = host.rpartition("@")
        return rest if self._parts.scheme in WEB or ":" in user else host  # abfs://container@account has no password

    def _with_path(self, path: str) -> "Url":
        parts = self._parts
        return Url(f"{parts.scheme}://{parts.netloc}{path}")

    def __truediv__(self, path: str) -> "Location":
        if path.startswith("/"):
            return Path(path)
        name = quote(path) if self._parts.scheme in WEB else path
        return self._with_path(posixpath.normpath(posixpath.join(self._parts.path or "/", name)))

    def __str__(self) -> str:
        parts = self._parts
        return f"{parts.scheme}://{self._public_host}{parts.path}" + ("?***" if parts.query else "")

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    def look(self) -> Look:
        """Ask the server about the file."""

        with _lock:
            source = _sources.get(self)
        if source is not None:
            return source.look

        def ask() -> Look:
            system, path = self.system()
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

        return _patiently(ask)

    def exists(self) -> bool:
        try:
            self.look()
        except FileNotFoundError:
            return False
        return True

    def is_file(self) -> bool:
        try:
            return not self.look().is_folder
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Return whether it is a folder. Web servers have none."""
        try:
            return self._parts.scheme not in WEB and self.look().is_folder
        except FileNotFoundError:
            return False

    def iterdir(self) -> Iterator["Location"]:
        def names() -> list[str]:
            system, path = self.system()
            return [posixpath.basename(name.rstrip("/")) for name in system.ls(path, detail=False)]

        return (self / name for name in _patiently(names))

    def open(self, mode: str = "rb", buffering: int = -1) -> Any:
        """Open the file for reading bytes, the only mode. With `buffering=0` it is a `FarFile`."""
        file = FarFile(self)
        return file if buffering == 0 else io.BufferedReader(file, BLOCK)

    def system(self) -> tuple[Any, str]:
        """Return the fsspec file system of this process and thread, and the path in it.

        Raises:
            FvvError: a package is missing.
            FileNotFoundError: there is no such scheme.
        """
        import fsspec

        scheme = self._parts.scheme
        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            raise FvvError(f"{self}: a package is missing ({error}). For s3://, pip install 'fvv_lib[far]'.") from None
        except ValueError:
            raise FileNotFoundError(errno.ENOENT, f"no such scheme: {scheme}://") from None
        if "::" in self.address:
            raise FileNotFoundError(errno.ENOENT, "several addresses joined by :: are not supported")
        # Otherwise % is encoded again, and a signature is not that of the address any more.
        options = {"encoded": True} if scheme in WEB and "%" in self.address else {}
        return fsspec.core.url_to_fs(self.address, **options)


Location = Path | Url
DOWNLOAD = "Download the file, and give its path."


def is_url(path: Any) -> bool:
    """Return whether a path has a scheme, like `s3://` or `https://`."""
    return isinstance(path, Url) or (isinstance(path, str) and SCHEME.match(path) is not None)


def locate(path: str | Location) -> Location:
    """Return a path as a `Path`, or as a `Url` if it has a scheme. `file://` is a file of this machine."""
    if not isinstance(path, str):
        return path
    if not is_url(path):
        return Path(path)
    return Path(unquote(urlsplit(path).path)) if path.lower().startswith("file://") else Url(path)


def join(folder: Location, path: str | Location) -> Location:
    """Return a path that starts from a folder, unless it is a URL or an absolute path itself."""
    return locate(path) if is_url(path) else folder / str(path)


def shown(value: Any) -> Any:
    """Return a path or settings as messages and records show them: URLs without credentials."""
    if isinstance(value, dict):
        return {key: shown(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(shown(one) for one in value)
    return str(locate(value)) if is_url(value) else value


def key_of(path: bytes) -> bytes:
    """Return the name under which something about an absolute path is remembered: a URL without credentials."""
    if path.startswith(b"/") or not is_url(address := os.fsdecode(path)):
        return path
    return os.fsencode(Url(address).identity)


def is_file(path: Location) -> bool:
    """Return whether it is a regular file: reading a named pipe blocks until something is written."""
    return path.is_file() if isinstance(path, Url) else os.path.isfile(path)


def is_dir(path: Location) -> bool:
    """As `os.path.isdir`, which accepts a name that is too long, unlike `Path.is_dir`."""
    return path.is_dir() if isinstance(path, Url) else os.path.isdir(path)


def exists(path: Location) -> bool:
    """As `os.path.exists`, which accepts a name that is too long, unlike `Path.exists`."""
    return path.exists() if isinstance(path, Url) else os.path.exists(path)


def size_of(path: Location) -> int:
    return path.look().size if isinstance(path, Url) else path.stat().st_size


def slash_hint(path: Any) -> str:
    """Return a sentence for the end of "no such file" if a path looks like a URL, and else nothing."""
    if not MANGLED.search(str(path)):
        return ""
    return " It looks like a URL that has lost a slash: write :// and pass it as a text, not as a Path."


@contextmanager
def readable(source: Any) -> Iterator[None]:
    """Turn an OSError in the body into a `VideoDecodeError` (permissions, a broken disk, too long a name), or into an
    `FvvError` if a server does not answer, which is no fault of the file."""
    try:
        yield
    except ConnectionError as error:
        raise FvvError(f"{shown(source)}: {error.strerror or error}.") from None
    except OSError as error:
        reason = str(error.strerror or error).rstrip(".")
        raise VideoDecodeError(f"{shown(source)}: it cannot be read ({reason}).") from None


# --- reading by parts ---


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
    """One version of a far file, and the blocks of it that were read. Threads may share it."""

    def __init__(self, url: Url) -> None:
        self.url = url
        self.users = 0
        self.failure: OSError | None = None  # of the first read that failed; all later ones fail too
        self.look = url.look()
        if self.look.is_folder:
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        self.traffic = getattr(_mine, "traffic", None) or Traffic()
        self.blocks: OrderedDict[int, bytes] = OrderedDict()
        self.lock = threading.Lock()
        self.handles = threading.local()

    def read(self, start: int, end: int, ahead: int = BLOCK) -> tuple[bytes, bool]:
        """Return bytes of the file, and whether the server was asked. It is asked once, for `ahead` bytes at least."""
        size = self.look.size
        end = min(end, size)
        if start >= end:
            return b"", False
        numbers = range(start // BLOCK, (end - 1) // BLOCK + 1)
        with self.lock:
            found = {number: self.blocks[number] for number in numbers if number in self.blocks}
        unknown = [number for number in numbers if number not in found]
        if unknown:
            first = unknown[0] * BLOCK
            last = min(max((unknown[-1] + 1) * BLOCK, first + ahead), size)
            if self.failure is not None:
                raise self.failure
            try:
                content = _patiently(lambda: self._fetch(first, last))
            except OSError as error:
                self.failure = error
                raise
            count = math.ceil(len(content) / BLOCK)
            fresh = {unknown[0] + i: content[i * BLOCK : (i + 1) * BLOCK] for i in range(count)}
            found |= fresh
            with self.lock:
                self.blocks.update(fresh)
                while len(self.blocks) > KEPT // BLOCK:
                    self.blocks.popitem(last=False)
        content = b"".join(found[number] for number in numbers)
        begin = numbers[0] * BLOCK
        return content[start - begin : end - begin], bool(unknown)

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
        if self.url._parts.scheme not in WEB:
            file: BinaryIO = system.open(path, "rb", cache_type="none")
            return io.BytesIO(file.getvalue()) if isinstance(file, io.BytesIO) else file  # memory:// shares its files
        headers = {**system.kwargs.get("headers", {}), "Accept-Encoding": "identity", **dict(self.look.condition)}
        return system.open(path, "rb", cache_type="none", size=self.look.size, headers=headers)


class FarFile(io.RawIOBase):
    """A far file, open for reading. Where it is read in order, more is asked for at a time.

    Args:
        for_ffmpeg: end the file where a part cannot be read. PyAV drops some errors of Python files, and prints them.
            `hold` raises the error.
    """

    def __init__(self, url: Url, for_ffmpeg: bool = False) -> None:
        super().__init__()
        with _lock:
            source = _sources.get(url)
        self._source = source or _Source(url)
        self._for_ffmpeg = for_ffmpeg
        self.name = url.name  # without folder and query: FFmpeg and Pillow write it in messages
        self._at, self._read_to, self._ahead = 0, 0, BLOCK

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
        if not 0 <= self._at - self._read_to < BLOCK:  # not in order
            self._ahead = BLOCK
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
        return len(content)

    def fetch(self, start: int, end: int) -> None:
        """Read a range that will be needed with one request, so that reading its parts needs none."""
        self._source.read(start, min(end, start + KEPT // 2))


_lock = threading.Lock()
_sources: dict[Url, _Source] = {}  # the files that are held in this process
_mine = threading.local()  # traffic: what `hold` counts in this thread


def _forget() -> None:
    """In a forked process: connections are those of the parent."""
    global _lock
    _lock = threading.Lock()
    _sources.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


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
    with _lock:
        source = _sources.get(url)
    if source is None:
        opened = _Source(url)
        with _lock:
            source = _sources.setdefault(url, opened)
    with _lock:
        source.users += 1
    return source


def _release(source: _Source) -> None:
    with _lock:
        source.users -= 1
        if source.users == 0 and _sources.get(source.url) is source:
            del _sources[source.url]


def _patiently(action: Callable[[], T]) -> T:
    """Return what an action returns. Repeat it after an error that may pass, as often as `DELAYS` says."""
    start = time.monotonic()
    for delay in (*DELAYS, None):
        try:
            return action()
        except FvvError:
            raise
        except Exception as error:  # each file system has types of its own
            reason = _reason(error)
        if delay is None or not isinstance(reason, ConnectionError) or time.monotonic() - start > PATIENCE:
            break
        time.sleep(delay)
    raise reason  # outside of `except`: the messages of the original error may have credentials


def _reason(error: BaseException) -> OSError:
    """Return an error of a file system of fsspec as an OSError without the address. It is a ConnectionError if it may
    pass."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in chain:
        chain.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    names = [type(one).__name__ for one in chain]
    status = next(filter(None, map(_status, chain)), None)
    told = f"the server answers {status}" if status else names[-1]
    if status in NOT_NOW:
        return ConnectionError(errno.EIO, f"{told}, also after {len(DELAYS)} more attempts. Try again later")
    if status == 412 or "FileExpired" in names:
        return OSError(errno.EIO, "it changed while it was read. Start again")
    if status in (401, 403) or isinstance(error, PermissionError) or any("Credential" in name for name in names):
        return PermissionError(errno.EACCES, f"{told}: you may not read it. Log in, or sign the address again")
    if status in (404, 410) or (isinstance(error, FileNotFoundError) and status is None and len(chain) == 1):
        return FileNotFoundError(errno.ENOENT, getattr(error, "strerror", None) or "no such file")
    if status is None and any("range requests" in str(one) for one in chain):
        return OSError(errno.EIO, f"the server does not send parts of files. {DOWNLOAD}")
    passing = (ConnectionError, TimeoutError, EOFError)
    if status is None and (any(isinstance(one, passing) for one in chain) or {"ClientError"} & _bases(chain)):
        return ConnectionError(
            errno.EIO, f"no answer ({told}), also after {len(DELAYS)} more attempts. Try again later"
        )
    if isinstance(error, OSError) and error.strerror and len(chain) == 1:
        return error
    return OSError(errno.EIO, told)


def _bases(chain: list[BaseException]) -> set[str]:
    """Return the names of the classes of errors of aiohttp, which may not be installed."""
    return {base.__name__ for one in chain for base in type(one).__mro__ if base.__module__.startswith("aiohttp")}


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error of aiohttp, botocore or huggingface_hub tells."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    found = getattr(error, "status", None) or getattr(response, "status_code", response)
    return found if isinstance(found, int) else None
