"""Paths of files on this machine and addresses of files elsewhere, of which only the parts that are needed are read.

A path is a `Path`, or a `Url` if it has a scheme, like `s3://bucket/clip.mp4`. fsspec knows how to reach it. A `Url` is
not a text, because a text ends up where it must not: `Path("https://...")` loses a slash, and a message shows a
password. Errors of servers become OSErrors, like those of a disk. This module knows nothing about videos.
"""

import errno
import io
import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from fvv_lib.errors import FvvError, VideoDecodeError
from fvv_lib.servers import patiently

SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # two letters or more: C:// is a drive of Windows
MANGLED = re.compile(r"(^|/)(https?|s3|gs|hf|memory|abfs|az|ftp|sftp):/(?!/)", re.IGNORECASE)
WEB = ("http", "https")
# Parts of a query that say who may read a file and until when, of Amazon, Google, CloudFront and Azure.
SIGNATURE = re.compile(
    r"x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|signature|expires|policy|key-pair-id|(.*[-_])?token|"
    r"s(v|s|rt|p|e|t|pr|ig|r|koid|ktid|kt|ke|ks|kv)",
    re.IGNORECASE,
)


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
    def is_web(self) -> bool:
        """Whether a web server has the file."""
        return self._parts.scheme in WEB

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
        """Ask the server about the file. While it is held, the answer is that of the start."""
        from fvv_lib import far  # which imports this module

        return far.look(self)

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

        return (self / name for name in patiently(names))

    def open(self, mode: str = "rb", buffering: int = -1) -> Any:
        """Open the file for reading bytes, the only mode. With `buffering=0` it is a `FarFile`."""
        from fvv_lib.far import BLOCK, FarFile

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
