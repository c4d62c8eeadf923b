"""Remember what was found in files, until they change.                                                     Lesson 5

A file counts as unchanged if its size, its time of modification and its time of change are what they were when it was
read. The time of change (ctime) is set by the file system at each write, rename or change of permissions, and no
program can set it back. So a file that is replaced by one of the same size and date is noticed too. A file that changed
within `RECENT` before it was looked at is not remembered: it could change again without getting another time. A file at
a URL counts as unchanged if the server says the same about its size and its version (ETag, time of change).

Findings are Parquet files in a folder. Each process writes its own, under another name first, so several processes and
machines can write at the same time. What is lost or damaged is found again by reading. This module knows nothing about
samples or models.
"""

import hashlib
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fvv_lib.errors import FvvError, reason_of
from fvv_lib.files import Url, is_url, key_of
from fvv_lib.machine import usable_cores
from fvv_lib.progress import progress

In = TypeVar("In")
Out = TypeVar("Out")

MISSING, FILE, FOLDER, OTHER = range(4)  # OTHER: a named pipe or a device
RECENT = 2.0  # seconds; the coarsest file times in use, those of FAT, count in steps of two seconds
UNKNOWN = 2**62  # in place of a time: later than now, so that nothing is remembered about the file
READERS = 16  # threads that wait for a slow disk
FIRST, AT_ONCE = 16, 256  # files that are looked at to see whether threads help; files that a thread takes at a time
SLOW, LONG = 50e-6, 1e-3  # seconds that a function waits for a file, and that it takes; above, threads are used
SAVE_EVERY = 60.0  # seconds between two files of findings of a long search
MOST_PARTS = 16  # files in a folder of findings before they are joined

STORED = pa.schema(
    {
        "path": pa.large_binary(),  # names of files need not be text
        "size": pa.int64(),
        "modified": pa.int64(),
        "changed": pa.int64(),
        "found": pa.large_string(),
    }
)


class Looks(NamedTuple):
    """What the file system says about M files, without reading them.

    Attributes:
        kinds: MISSING, FILE, FOLDER or OTHER, uint8 (M,); of a link, what it leads to.
        links: whether the path is a symbolic link, bool (M,).
        states: size in bytes, and times of modification and change in nanoseconds, int64 (M, 3); of a URL, the size
            and a digest of what the server says of the version.
        settled: whether the file had not changed for `RECENT` seconds, or the server says the version, bool (M,).
            Otherwise it may change again without another state. Never true of a folder: the files in it may change, see
            `look_into_folders`.
    """

    kinds: np.ndarray
    links: np.ndarray
    states: np.ndarray
    settled: np.ndarray


def look(paths: Sequence[bytes]) -> Looks:
    """Look at files; none is opened. A path that the system does not accept is MISSING."""
    table = np.array(in_batches(_look_at, paths), np.int64).reshape(-1, 5)
    kinds, states = table[:, 0].astype(np.uint8), table[:, 2:]
    return Looks(kinds, table[:, 1] > 0, states, (kinds == FILE) & _old(states[:, 1:].max(axis=1, initial=0)))


def _old(nanoseconds: Any) -> Any:
    return nanoseconds < time.time_ns() - int(RECENT * 1e9)


def _look_at(paths: Sequence[bytes]) -> list[tuple[int, int, int, int, int]]:
    """Return kind, link and state of files, see `Looks`."""
    found = []
    for path in paths:
        link = 0
        if not path.startswith(b"/") and is_url(os.fsdecode(path)):
            found.append(_look_far(Url(os.fsdecode(path))))
            continue
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                link = 1
                status = os.stat(path)
        except (OSError, ValueError):  # ValueError: a zero byte in the path
            found.append((MISSING, link, 0, 0, 0))
            continue
        mode = status.st_mode
        kind = FILE if stat.S_ISREG(mode) else FOLDER if stat.S_ISDIR(mode) else OTHER
        found.append((kind, link, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return found


def _look_far(url: Url) -> tuple[int, int, int, int, int]:
    """Return kind, link and state of a file at a URL. Of one that may not be read, the reader raises the error.

    Raises:
        FvvError: the server does not answer, or a package is missing.
    """
    try:
        told = url.look()
    except ConnectionError as error:
        raise FvvError(f"{url}: {error.strerror}.") from None
    except FileNotFoundError:
        return MISSING, 0, 0, 0, 0
    except OSError:
        return OTHER, 0, 0, 0, 0
    digest = hashlib.blake2b(told.version.encode(), digest_size=7).digest()
    return FOLDER if told.is_folder else FILE, 0, told.size, int.from_bytes(digest) if told.version else UNKNOWN, 0


def look_into_folders(paths: pa.Array, looks: Looks) -> Looks:
    """Return the looks with states of folders that change with each file in them: the number of files, the latest of
    their times and those of the folder, and a digest of all names, sizes and times."""
    states, settled = looks.states.copy(), looks.settled.copy()
    folders = np.flatnonzero(looks.kinds == FOLDER)
    inside = in_batches(_look_inside, paths.take(pa.array(folders)).to_pylist())
    for place, found in zip(folders.tolist(), inside, strict=True):
        if found is not None:
            number, latest, digest = found
            latest = max(latest, *looks.states[place, 1:].tolist())
            states[place], settled[place] = (number, latest, digest), _old(latest)
    return looks._replace(states=states, settled=settled)


def _look_inside(folders: Sequence[bytes]) -> list[tuple[int, int, int] | None]:
    """Return the number of files in each folder, the latest of their times, and a digest of all names and states;
    `None` for a URL, which is never settled, and for a folder that cannot be read: reading it raises the error."""
    found: list[tuple[int, int, int] | None] = []
    for folder in folders:
        try:
            names = sorted(os.listdir(folder)) if folder.startswith(b"/") else None
        except OSError:
            names = None
        if names is None:
            found.append(None)
            continue
        inside = _look_at([b"%b/%b" % (folder, name) for name in names])
        digest = hashlib.blake2b(repr([names, inside]).encode(), digest_size=7).digest()
        found.append((len(names), max((time for one in inside for time in one[3:]), default=0), int.from_bytes(digest)))
    return found


def in_batches(function: Callable[[Sequence[In]], Sequence[Out]], items: Sequence[In]) -> list[Out]:
    """Return the results of a function of several items, called with `AT_ONCE` of them at a time.

    The first items show whether threads help: if the function waits for a disk, or if it takes long, because then it
    decodes. Of a short function that does not wait, Python runs only one at a time.
    """
    found, took, waited = list[Out](), list[float](), list[float]()
    for item in items[:FIRST]:
        clock, worked = time.perf_counter(), time.thread_time()
        found += function([item])
        took.append(time.perf_counter() - clock)
        waited.append(took[-1] - (time.thread_time() - worked))
    parts = [items[start : start + AT_ONCE] for start in range(FIRST, len(items), AT_ONCE)]
    if not parts or (median(took) < LONG and median(waited) < SLOW):
        return found + list(chain.from_iterable(map(function, parts)))
    with ThreadPoolExecutor(READERS) as pool:
        return found + list(chain.from_iterable(pool.map(function, parts)))


class Findings:
    """What was found in files by one kind of search. A finding is a text.

    Args:
        cache_dir: as in `DataArguments`; the folder of the findings is in it.
        name: name of the search.
        depends_on: everything that a finding depends on besides the file: settings, code, versions. Its `repr` is
            compared.
        again: ignore what was found before.

    Lesson: 05.
    """

    def __init__(self, cache_dir: str | None, name: str, depends_on: Any, again: bool = False):
        digest = hashlib.blake2b(repr(depends_on).encode(), digest_size=8).hexdigest()
        self.folder = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "media" / f"{name}-{digest}"
        self.again = again
        self.new: list[tuple[bytes, int, int, int, str]] = []
        self.saved = time.monotonic()

    def recall(self, paths: pa.Array, looks: Looks) -> pa.Array:
        """Return what is known of files: text (M,), null for a file that was not searched, or has changed since.

        Args:
            paths: absolute, large_binary (M,).
        """
        nothing = pa.nulls(len(paths), pa.large_string())
        table = None if self.again else self._read(self._parts())
        if table is None:
            return nothing
        rows = pc.index_in(keys_of(paths), value_set=table["path"])  # the first of several, which is the newest
        found = table["found"].take(rows).combine_chunks()
        stored = np.stack([table[name].to_numpy() for name in ("size", "modified", "changed")], axis=1)
        same = (stored[rows.fill_null(0).to_numpy()] == looks.states).all(axis=1)
        return pc.if_else(pa.array(same), found, nothing)

    def keep(self, path: bytes, looks: Looks, place: int, found: str) -> None:
        """Remember what was found in the file that was looked at in this place, if it had settled. `save` writes it."""
        if looks.settled[place]:
            size, modified, changed = looks.states[place].tolist()
            self.new.append((key_of(path), size, modified, changed, found))

    def save(self, every: float = 0.0) -> None:
        """Write new findings to the disk, unless the last time is less than `every` seconds ago."""
        if not self.new or time.monotonic() - self.saved < every:
            return
        new, self.new = self.new, []
        self.saved = time.monotonic()
        try:
            self._write(pa.table(dict(zip(STORED.names, zip(*new, strict=True), strict=True)), STORED))
            parts = self._parts()
            if len(parts) > MOST_PARTS:
                self._join(parts)
        except OSError as error:
            print(
                f"{self.folder}: it cannot be written ({reason_of(error)}). What was read now will be read again.",
                flush=True,
            )

    def _parts(self) -> list[Path]:
        """Return the files of the findings, the newest first: their names begin with a time."""
        return sorted(self.folder.glob("*.parquet"), reverse=True)

    def _read(self, parts: Sequence[Path]) -> pa.Table | None:
        """Read files of findings, and delete those that cannot be read. Return `None` if there are none."""
        tables = [table for table in map(self._read_part, parts) if table is not None]
        return pa.concat_tables(tables).combine_chunks() if tables else None

    def _read_part(self, part: Path) -> pa.Table | None:
        try:
            table = pq.read_table(part, page_checksum_verification=True)
        except FileNotFoundError:  # another process has joined it with others
            return None
        except (pa.ArrowException, OSError):
            table = None
        if table is not None and table.schema.remove_metadata() == STORED:
            return table
        with suppress(OSError):
            part.unlink()
        return None

    def _write(self, table: pa.Table) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{time.time_ns():020}-{uuid.uuid4().hex}"
        aside = self.folder / f"{name}.unfinished"
        try:
            pq.write_table(table, aside, compression="zstd", use_dictionary=["found"], write_page_checksum=True)
            aside.replace(self.folder / f"{name}.parquet")
        finally:
            aside.unlink(missing_ok=True)

    def _join(self, parts: Sequence[Path]) -> None:
        """Write one file with the newest finding about each path, and delete those that it replaces."""
        table = self._read(parts)
        if table is None:
            return
        first = pc.index_in(table["path"], value_set=table["path"]).to_numpy() == np.arange(len(table))
        self._write(table.filter(pa.array(first)))
        for part in parts:
            part.unlink(missing_ok=True)


def keys_of(paths: pa.Array) -> pa.Array:
    """Return the names under which findings about paths are kept, see `key_of`."""
    if pc.all(pc.starts_with(paths, pattern=b"/")).as_py():
        return paths
    return pa.array(map(key_of, paths.to_pylist()), pa.large_binary())


def find_in_files(
    findings: Findings,
    paths: pa.Array,
    looks: Looks,
    search: Callable[[str], str | None],
    where: np.ndarray,
    task: str | None = None,
) -> list[str | None]:
    """Search files, in threads; those of which something is known are not read.

    Args:
        paths: absolute, large_binary (M,).
        search: returns what is in a file, or `None` if it cannot be read now, which is not remembered.
        where: which files to search, bool (M,).
        task: the name of a search that takes long. Each file is then a task of its own, a bar shows how many are done,
            and what was found is saved meanwhile.

    Returns:
        What was found in each file; `None` for files that were not searched.
    """
    known = pc.if_else(pa.array(where), findings.recall(paths, looks), pa.scalar(None, pa.large_string()))
    found: list[str | None] = known.to_pylist()
    rest = np.flatnonzero(where & known.is_null().to_numpy(zero_copy_only=False)).tolist()
    names = [paths[place].as_py() for place in rest]
    results: Iterable[str | None]
    if task is None:
        results = in_batches(lambda part: [search(os.fsdecode(name)) for name in part], names)
    else:
        results = _one_by_one(search, names, task)
    try:
        for place, name, one in zip(rest, names, results, strict=True):
            found[place] = one
            if one is not None:
                findings.keep(name, looks, place, one)
            findings.save(SAVE_EVERY)
    finally:
        findings.save()
    return found


def _one_by_one(search: Callable[[str], str | None], names: Sequence[bytes], task: str) -> Iterator[str | None]:
    """Search files in as many threads as there are cores, and show how many are done."""
    with ThreadPoolExecutor(usable_cores()) as pool, progress(total=len(names), desc=task, hidden=not names) as bar:
        try:
            for start in range(0, len(names), AT_ONCE):  # `map` submits all its items at once
                for one in pool.map(search, map(os.fsdecode, names[start : start + AT_ONCE])):
                    bar.update()
                    yield one
        finally:
            pool.shutdown(cancel_futures=True)


def real_paths(paths: Sequence[bytes], links: Sequence[bool]) -> list[bytes]:
    """Return absolute paths without symbolic links, as `os.path.realpath` does, and URLs without credentials. Each
    folder is resolved once.

    Args:
        links: whether each path is a link itself.
    """
    folders = {b"": b""}

    def real(path: bytes) -> bytes:
        """Resolve a folder."""
        if path not in folders:
            parent, _, name = path.rpartition(b"/")
            plain = b"%b/%b" % (real(parent), name)
            resolve = name in (b"", b".", b"..") or os.path.islink(plain)
            folders[path] = os.path.realpath(path).rstrip(b"/") if resolve else plain
        return folders[path]

    found = []
    for path, link in zip(paths, links, strict=True):
        if not path.startswith(b"/") and is_url(os.fsdecode(path)):
            found.append(key_of(path))
            continue
        folder, _, name = path.rpartition(b"/")
        found.append(b"%b/%b" % (real(folder), name) if name and not link else os.path.realpath(path))
    return found
