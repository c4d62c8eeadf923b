"""Annotation files as one memory-mapped table.                                                             Lesson 5

The fields of samples may differ, so the table has one row per sample with four columns: its JSON text, its id, the
files of its media, and, if not each of them is a whole image or video, how they are used. Arrow files are mapped into
memory, not loaded: a million samples open at once, and all workers share them. This module knows nothing about what a
sample means to a model.
"""

import hashlib
import json
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fvv_lib import errors
from fvv_lib.data.annotations import Sample, media_of, one_version, read_annotations
from fvv_lib.data.known import FOLDER, Looks, look, look_into_folders, real_paths
from fvv_lib.data.mixture import draw, parse_part
from fvv_lib.errors import DataFormatError, FvvError
from fvv_lib.files import SCHEME, Location, Url, is_url, join, locate
from fvv_lib.machine import usable_cores
from fvv_lib.provenance import code_digest
from fvv_lib.video.kinds import OTHER_VIDEO_EXTENSIONS, VIDEO_EXTENSIONS
from fvv_lib.video.medium import Medium

T = TypeVar("T")

COLUMNS = datasets.Features(
    {
        "sample": datasets.Value("string"),
        "id": datasets.Value("string"),
        "media": [datasets.Value("string")],
        "parts": [
            {
                **{name: datasets.Value("float64") for name in ("start", "end", "fps")},
                "frames": datasets.Value("int32"),  # number of files of a list of frames
            }
        ],
    }
)
CHECKED = datasets.Features(
    {
        "length": datasets.Value("int64"),
        "learned": datasets.Value("bool"),
        "kind": datasets.Value("string"),
        "problem": datasets.Value("string"),
    }
)
# The modules that decide what a table says of an annotation file.
TABLE_CODE = ("data/annotations", "data/table", "video/medium", "video_config")
LAST_NUMBER = re.compile(rb"\d+(?=[^\d/]*(\.\w+)?$)")  # of a file's name, without its extension
ROWS_PER_BATCH = 1000  # of a table, while it is written
SAMPLES_PER_PROCESS = 10_000  # with twice as many samples or more, several processes check


class Checked(NamedTuple):
    """The result of a check: the expanded length of each sample, int64 (N,), 0 if it cannot be used; whether any of its
    tokens is learned, bool (N,); and the errors of samples that cannot be used, by index."""

    lengths: np.ndarray
    learned: np.ndarray
    problems: dict[int, FvvError]


class Parts(NamedTuple):
    """The P media of the rows of a table that have others than whole images and videos.

    Attributes:
        rows, firsts: the row of each, and where its files begin in `places` of the `MediaFiles`, int64 (P,).
        limits: `start`, `end` and `fps` of each `Medium`, NaN for none, float64 (P, 3).
        sizes: the number of files of a list of frames, 0 for another medium, int64 (P,).
    """

    rows: np.ndarray
    firsts: np.ndarray
    limits: np.ndarray
    sizes: np.ndarray


class Named:
    """What the rows of a table name: files, or media.

    Attributes:
        paths: M paths or longer keys, large_binary (M,).
        starts: where those of each row of the table begin in `places`, int64 (N + 1,).
        places: those of all rows in order, indices of `paths`, int64.
    """

    def __init__(self, paths: pa.Array, starts: np.ndarray, places: np.ndarray):
        self.paths, self.starts, self.places = paths, starts, places

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return which of them some rows of the table name: bool (M,)."""
        chosen = np.zeros(len(self.starts) - 1, bool)
        chosen[rows] = True
        used = np.zeros(len(self.paths), bool)
        used[self.places[np.repeat(chosen, np.diff(self.starts))]] = True
        return used

    def all_of(self, some: np.ndarray) -> np.ndarray:
        """Return whether all of each row are among these, bool (M,): bool (N,)."""
        others = np.cumsum(np.concatenate([[0], ~some[self.places]]))
        return others[self.starts[1:]] == others[self.starts[:-1]]


class MediaFiles(Named):
    """The images and videos that annotation files name, each once for each annotation file that names it.

    `paths` are absolute.
    """

    def __init__(self, columns: Sequence[pa.ChunkedArray], folders: Sequence[Location]):
        """Args: columns: paths as the samples of each annotation file name them, list<string>. folders: what they are
        relative to."""
        self.folders = folders
        self.ends: list[int] = []  # of the files of each annotation file
        total = 0
        paths, places, counts = [], [], [np.zeros(1, np.int64)]
        for column, folder in zip(columns, folders, strict=True):
            named = pc.list_flatten(column).combine_chunks().dictionary_encode()
            paths.append(_join(folder, named.dictionary))
            places.append(named.indices.to_numpy().astype(np.int64) + total)
            counts.append(pc.list_value_length(column).to_numpy())
            total += len(named.dictionary)
            self.ends.append(total)
        starts = np.cumsum(np.concatenate(counts), dtype=np.int64)
        super().__init__(pa.concat_arrays(paths), starts, np.concatenate(places))

    @cached_property
    def looks(self) -> Looks:
        """What the file system said about the files, and those in folders, when this was first asked, or since
        `look_again`."""
        return look_into_folders(self.paths, look(self.paths.to_pylist()))

    def look_again(self) -> None:
        """Ask the file system anew: files may have changed."""
        self.__dict__.pop("looks", None)

    @property
    def are_named_videos(self) -> np.ndarray:
        """Whether each file has an extension that only videos have, bool (M,)."""
        endings = "|".join(map(re.escape, (*VIDEO_EXTENSIONS, *OTHER_VIDEO_EXTENSIONS)))
        found = pc.match_substring_regex(self.paths, f"({endings})$", ignore_case=True)
        return found.to_numpy(zero_copy_only=False)

    def shown(self, file: int) -> str:
        """Return the path of a file as messages show it: it begins with the folder that was given."""
        name = os.fsdecode(self.paths[file].as_py())
        if is_url(name):
            return str(Url(name))
        folder = Path(str(self.folders[int(np.searchsorted(self.ends, file, side="right"))]))
        return str(folder / name.removeprefix(f"{os.path.abspath(folder)}/"))


class Annotations(Sequence[Sample]):
    """The samples of annotation files, in order. Each is read from the memory-mapped table when it is accessed.

    Args:
        paths: annotation files, see `read_annotations`; or shares of them, see `mixture`.
        image_folder: folder that media paths are relative to; default: the folder of each annotation file. Both may be
            URLs, and so may the media paths.
        cache_dir: folder of the tables; default: the cache of `datasets` (HF_DATASETS_CACHE). A table is made when a
            file with this content is first opened. Nothing is written beside the file.

    Raises:
        DataFormatError: a file is missing, cannot be read, or is not a list of samples; names the file and the line.

    Lesson: 05.
    """

    def __init__(self, paths: Sequence[str | Location], image_folder: str | None = None, cache_dir: str | None = None):
        self.contents: list[str] = []
        self.digests: list[str] = []
        tables = []
        parts = [parse_part(path) for path in paths]
        for path, _ in parts:
            with one_version(path):
                self.contents.append(digest_annotations(path))
                self.digests.append(table_digest(path, self.contents[-1]))
                tables.append(open_table(path, self.digests[-1], cache_dir))
        self.paths = [str(path) for path, _ in parts]
        self.amounts = [amount for _, amount in parts]
        self.cache_dir = cache_dir
        self.folders = [locate(image_folder) if image_folder else path.parent for path, _ in parts]
        self.table = datasets.concatenate_datasets(tables)
        self.starts = np.cumsum([0, *map(len, tables)])
        self.shares_id = np.concatenate([_shared(table.data.column("id")) for table in tables])
        drawn = [draw(part, len(table)) for part, table in zip(parts, tables, strict=True)]
        self.rows = np.concatenate([start + some for start, some in zip(self.starts[:-1], drawn, strict=True)])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return json.loads(self._cell("sample", index))

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_columns", "files")  # pickle would copy them
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    @cached_property
    def _columns(self) -> dict[str, pa.ChunkedArray]:
        return {name: self.table.data.column(name) for name in COLUMNS}

    def _cell(self, column: str, index: int) -> Any:
        return self._columns[column][int(self.rows[index])].as_py()

    def _file(self, index: int) -> int:
        return int(np.searchsorted(self.starts, self.rows[index], side="right")) - 1

    def name(self, index: int) -> str:
        """Return the name of a sample in errors and records: its file and its id. Without an id, its position in the
        file, counted from 0, takes its place. If several samples share an id, the name has both."""
        file, row = self._file(index), self.rows[index]
        place = f" (at {row - self.starts[file]})" if self.shares_id[row] else ""
        return f"{self.paths[file]}, sample {self._cell('id', index)}{place}"

    def media(self, index: int) -> list[Medium]:
        """Return the images and videos of a sample, in the order of their `<image>`."""
        return self.media_of_row(int(self.rows[index]))

    def media_of_row(self, row: int) -> list[Medium]:
        """Return the images and videos of a row of the table."""
        folder = self.folders[int(np.searchsorted(self.starts, row, side="right")) - 1]
        files = [join(folder, file) for file in self._columns["media"][row].as_py()]
        parts = self._columns["parts"][row].as_py()
        if parts is None:
            return list(map(Medium, files))
        rest, media = iter(files), []
        for part in parts:
            frames = part.pop("frames")
            media.append(Medium(next(rest) if frames is None else tuple(islice(rest, frames)), **part))
        return media

    def count_of_each(self) -> dict[str, int]:
        """Return how many samples each annotation file has here, by its path and amount as `mixture` writes them."""
        files = np.searchsorted(self.starts, self.rows, side="right") - 1
        counts = np.bincount(files, minlength=len(self.paths)).tolist()
        found: dict[str, int] = {}
        for path, amount, count in zip(self.paths, self.amounts, counts, strict=True):
            found[f"{path}{amount}"] = found.get(f"{path}{amount}", 0) + count
        return found

    def whole_rows(self) -> np.ndarray:
        """Return whether all media of each row of the table are whole images and videos: bool (N,)."""
        return self._columns["parts"].is_null().to_numpy()

    def parts(self) -> Parts:
        """Return the media of the rows that have others than whole images and videos."""
        column, files = self._columns["parts"], self.files
        rows = np.flatnonzero(~self.whole_rows())
        counts = pc.list_value_length(column.drop_null()).to_numpy()
        parts = pc.list_flatten(column)
        limits = [pc.struct_field(parts, name).to_numpy() for name in ("start", "end", "fps")]
        sizes = pc.struct_field(parts, "frames").fill_null(0).to_numpy().astype(np.int64)
        # The files of a row begin at starts[row], those of its media follow one another.
        before = np.cumsum(np.concatenate([[0], np.maximum(sizes, 1)]))
        starts = np.repeat(files.starts[rows] - before[np.cumsum(counts) - counts], counts)
        return Parts(np.repeat(rows, counts), starts + before[:-1], np.stack(limits, axis=1), sizes)

    @cached_property
    def files(self) -> MediaFiles:
        """The file or folder of every image and video that the annotation files name, and every file of a list of
        frames; those of samples that were left out too."""
        column = self.table.data.column("media")
        parts = zip(self.starts[:-1].tolist(), np.diff(self.starts).tolist(), strict=True)
        return MediaFiles([column.slice(start, length) for start, length in parts], self.folders)

    def real_media(self) -> dict[bytes, bytes]:
        """Return the paths of the images and videos of all samples, without symbolic links, each with the name of its
        clip. That of a list of frames is the path of a frame with a star for the last number, because two lists of one
        numbered series are parts of one video. It is among the paths, too."""
        files, used = self.files, self.files.of_rows(self.rows)
        paths = real_paths(files.paths.filter(pa.array(used)).to_pylist(), files.looks.links[used].tolist())
        names = dict(zip(paths, paths, strict=True))
        real = dict(zip(np.flatnonzero(used).tolist(), paths, strict=True))
        parts = self.parts()
        are_lists = (parts.sizes > 1) & np.isin(parts.rows, self.rows)
        lists = zip(parts.firsts[are_lists].tolist(), parts.sizes[are_lists].tolist(), strict=True)
        frames = {real[file] for first, size in lists for file in files.places[first : first + size].tolist()}
        for frame in frames:
            series = LAST_NUMBER.sub(b"*", frame)
            names[frame] = names[series] = series
        return names

    @property
    def have_folders(self) -> bool:
        """Whether any video is a folder of frames."""
        return bool((self.files.looks.kinds == FOLDER).any())

    def identities(self) -> np.ndarray:
        """Return two numbers that identify each sample regardless of its position, uint64 (N, 2): a digest of its text,
        and the number of earlier samples with the same text."""
        texts = (self._cell("sample", index).encode() for index in range(len(self)))
        digests = (int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) for text in texts)
        found = np.fromiter(digests, np.uint64, len(self))
        order = np.argsort(found, kind="stable")
        _, starts, counts = np.unique(found[order], return_index=True, return_counts=True)
        before = np.empty(len(self), np.uint64)
        before[order] = np.arange(len(self)) - np.repeat(starts, counts)
        return np.stack([found, before], axis=1)

    def keep(self, chosen: np.ndarray) -> None:
        """Keep only the `chosen` samples, bool (N,)."""
        self.rows = self.rows[chosen]

    def check(self, one: Callable[[int], tuple[int, bool]], depends_on: Any, stop: bool) -> Checked:
        """Call `one` for each sample. The results are cached with the table until the annotation files or `depends_on`
        change.

        Args:
            one: returns the length of a sample and whether any token is learned, or raises an FvvError.
            depends_on: everything that the result depends on, except the samples.
            stop: raise the first error instead of collecting all errors.
        """

        def batch(_: Any, indices: list[int]) -> dict[str, list[Any]]:
            found: dict[str, list[Any]] = {column: [] for column in CHECKED}
            for index in indices:
                row: tuple[int, bool, str | None, str | None]
                try:
                    row = (*one(index), None, None)
                except FvvError as error:
                    if stop:
                        raise
                    row = (0, False, type(error).__name__, str(error))
                for column, value in zip(found.values(), row, strict=True):
                    column.append(value)
            return found

        workers = min(usable_cores(), len(self) // SAMPLES_PER_PROCESS)
        key = datasets.fingerprint.Hasher.hash(
            [self.digests, self.paths, self.amounts, self.rows.tobytes(), code_digest(), depends_on]
        )
        used = self.table.select(self.rows) if any(self.amounts) else self.table
        with _bars_on_terminals_only():
            table = used.map(
                batch,
                with_indices=True,
                batched=True,
                remove_columns=self.table.column_names,
                features=CHECKED,
                new_fingerprint=key,
                num_proc=workers if workers > 1 else None,
                load_from_cache_file=True,
                desc="checking the text",
            )
        lengths, learned, kinds, texts = (table.data.column(column) for column in CHECKED)
        bad = np.flatnonzero(kinds.is_valid().to_numpy())
        problems = {int(i): getattr(errors, kinds[int(i)].as_py())(texts[int(i)].as_py()) for i in bad}
        return Checked(np.array(lengths), np.array(learned, dtype=bool), problems)


class LazySequence(Sequence[T]):
    """A sequence whose elements are made when they are accessed."""

    def __init__(self, make: Callable[[int], T], of: Sequence[Any]):
        self.make, self.of = make, of

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, index: Any) -> Any:
        return self.make(range(len(self))[index])


def digest_annotations(path: str | Location) -> str:
    """Return a digest of the bytes of an annotation file.

    Raises:
        DataFormatError: the file cannot be read.
    """
    with one_version(path), locate(path).open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def table_digest(path: str | Location, content: str) -> str:
    """Return a digest of what the table of an annotation file depends on: the content of the file (its digest), its
    format, and the code that reads it."""
    text = f"{content} {locate(path).suffix.lower()} {code_digest(*TABLE_CODE)}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def open_table(path: str | Location, digest: str, cache_dir: str | None = None) -> datasets.Dataset:
    """Return the table of one annotation file. It is made unless a file with the same digest was opened before.

    Its columns: `sample`, JSON text; `id`, the sample's own or its position in the file; `media`, the files of its
    images and videos as the sample names them; `parts`, how each of these media is used, see `Medium`, or null if all
    are whole images and videos. See `Annotations`.
    """
    file = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "tables" / f"{digest}.arrow"
    if not file.is_file():
        _write_table(path, file)
    return datasets.Dataset.from_file(str(file))


def _write_table(path: str | Location, file: Path) -> None:
    """Write the table of an annotation file. It appears when it is complete."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{uuid.uuid4().hex}.unfinished")
    schema, rows = COLUMNS.arrow_schema, _rows(path)
    try:
        with pa.ipc.new_stream(aside, schema) as writer:
            while batch := list(islice(rows, ROWS_PER_BATCH)):
                writer.write_batch(pa.record_batch(list(map(list, zip(*batch, strict=True))), schema))
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def _rows(path: str | Location) -> Iterator[tuple[str, str, list[str], list[dict[str, Any]] | None]]:
    """Yield the columns of each sample."""
    for place, (text, sample) in enumerate(read_annotations(path)):
        named = str(sample.get("id", place))
        if not _is_unicode(named):
            named = str(place)
        try:
            media = media_of(sample)
        except DataFormatError:
            media = []  # `check_sample` reports the error, here and above
        files = [str(file) for medium in media for file in medium.files]
        parts = None
        if not all(map(_is_unicode, files)):
            files = []
        elif any(isinstance(one.source, tuple) or one.is_part or one.fps is not None for one in media):
            parts = list(map(_part, media))
        yield text, named, files, parts


def _part(medium: Medium) -> dict[str, Any]:
    frames = len(medium.files) if isinstance(medium.source, tuple) else None
    return {"start": medium.start, "end": medium.end, "fps": medium.fps, "frames": frames}


def _is_unicode(text: str) -> bool:
    """Return whether UTF-8 can encode a text: it cannot encode half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _join(folder: Location, paths: pa.Array) -> pa.Array:
    """Return paths that are relative to a folder as absolute paths or addresses: string (M,) -> large_binary (M,)."""
    if (
        isinstance(folder, Url)
        or pc.any(pc.match_substring_regex(paths, f"^{SCHEME.pattern}", ignore_case=True)).as_py()
    ):
        places = (join(folder, path) for path in paths.to_pylist())
        names = [place.address if isinstance(place, Url) else os.path.join(os.getcwd(), place) for place in places]
        return pa.array(map(os.fsencode, names), pa.large_binary())
    paths = paths.cast(pa.large_binary())
    start = pa.scalar(os.fsencode(os.path.abspath(folder)).rstrip(b"/"), pa.large_binary())
    joined = pc.binary_join_element_wise(start, paths, pa.scalar(b"/", pa.large_binary()))
    return pc.if_else(pc.starts_with(paths, pattern=b"/"), paths, joined)


def _shared(ids: pa.ChunkedArray) -> np.ndarray:
    """Return which of these ids, (N,), occur more than once: bool (N,)."""
    counts = pc.value_counts(ids)
    several = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    return pc.is_in(ids, value_set=several).to_numpy()


@contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    """Show progress bars of `datasets` on a terminal only, not in logs or notebooks."""
    hide = not (sys.stderr.isatty() or datasets.are_progress_bars_disabled())
    if hide:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            datasets.enable_progress_bars()
