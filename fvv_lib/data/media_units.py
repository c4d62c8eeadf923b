"""The different images, videos and parts of videos that samples name, for what is remembered about them.  Lesson 5

Two samples may use two parts of one file. What was read of one part says nothing about the other, so each is a unit of
its own. This module opens no image or video.
"""

import hashlib
import os
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fvv_lib.data.known import Looks, keys_of
from fvv_lib.data.table import Annotations, Named
from fvv_lib.files import locate
from fvv_lib.video.medium import Medium


class MediaUnits(Named):
    """The units of samples. `paths` has the path of each whole file or folder, and a longer key for each part of a
    video and each list of frames.

    Attributes:
        looks: of the file of each unit; of a list, of all its files. The state of a folder changes with its files.

    Lesson: 05.
    """

    def __init__(self, samples: Annotations):
        self.samples, self.files = samples, samples.files
        super().__init__(self.files.paths, self.files.starts, self.files.places)
        self.looks = self.files.looks
        whole = samples.whole_rows()
        self.parts, self.of_parts = samples.parts(), np.zeros(0, np.int64)
        if not whole.all():
            self._add_parts(whole)

    def medium(self, key: bytes) -> Medium:
        """Return a unit by its key, with absolute paths if it is a whole file or folder."""
        if key not in self._part_of_key:
            return Medium(locate(os.fsdecode(key)))
        part = self._part_of_key[key]
        row = int(self.parts.rows[part])
        return self.samples.media_of_row(row)[part - int(np.searchsorted(self.parts.rows, row))]

    @cached_property
    def _part_of_key(self) -> dict[bytes, int]:
        return dict(zip(self.paths[len(self.files.paths) :].to_pylist(), self.of_parts.tolist(), strict=True))

    def are_videos(self, files: np.ndarray) -> np.ndarray:
        """Return which units are videos, bool (U,), if these files are: bool (M,)."""
        parts = self.of_parts
        are_files = files[self.files.places[self.parts.firsts[parts]]]
        return np.concatenate([files, are_files | (self.parts.sizes[parts] > 0)])

    def _add_parts(self, whole: np.ndarray) -> None:
        """Make units of the media of rows that are not only whole files: `whole`, bool (N,), is False."""
        files, parts = self.files, self.parts
        firsts = files.places[parts.firsts]
        are_parts = ~np.isnan(parts.limits).all(axis=1) | (parts.sizes > 0)
        keys = self._keys(firsts, are_parts).dictionary_encode()
        units = firsts.copy()
        units[are_parts] = keys.indices.to_numpy() + len(files.paths)
        _, some = np.unique(keys.indices.to_numpy(), return_index=True)
        self.of_parts = np.flatnonzero(are_parts)[some]  # one part of each key
        counts = np.where(whole, np.diff(files.starts), np.bincount(parts.rows, minlength=len(whole)))
        self.starts = np.cumsum(np.concatenate([[0], counts]))
        self.places = np.empty(self.starts[-1], np.int64)
        self.places[np.repeat(whole, counts)] = files.places[np.repeat(whole, np.diff(files.starts))]
        self.places[np.repeat(~whole, counts)] = units
        self.paths = pa.concat_arrays([files.paths, keys.dictionary])
        self.looks = Looks(*map(np.concatenate, zip(files.looks, self._looks(), strict=True)))

    def _keys(self, firsts: np.ndarray, are_parts: np.ndarray) -> pa.Array:
        """Return keys of these parts, bool (P,), that no path is: they have a zero byte."""
        names = keys_of(self.files.paths)
        lists = np.flatnonzero(self.parts.sizes > 0)
        places, starts = self._files_of(lists)
        used = np.unique(places)
        digests = np.zeros((len(names), 16), np.uint8)
        each = [hashlib.blake2b(name, digest_size=16).digest() for name in names.take(pa.array(used)).to_pylist()]
        digests[used] = np.frombuffer(b"".join(each), np.uint8).reshape(-1, 16)
        of_lists = np.full(len(firsts), "", object)
        of_lists[lists] = [digest.hex() for digest in _digests(digests[places], starts)]
        columns = [*map(pa.array, self.parts.limits[are_parts].T), pa.array(of_lists[are_parts], pa.large_string())]
        texts = [column.cast(pa.large_string()).cast(pa.large_binary()) for column in columns]
        zero = pa.scalar(b"\0", pa.large_binary())
        return pc.binary_join_element_wise(names.take(pa.array(firsts[are_parts])), *texts, zero)

    def _looks(self) -> Looks:
        """Return the looks of one part of each key."""
        parts, looks = self.of_parts, self.files.looks
        kinds, _, states, settled = (values[self.files.places[self.parts.firsts[parts]]] for values in looks)
        lists = np.flatnonzero(self.parts.sizes[parts] > 1)
        if len(lists):
            places, starts = self._files_of(parts[lists])
            inside = looks.states[places]
            digests = [int.from_bytes(digest[:7]) for digest in _digests(inside, starts)]
            latest = np.maximum.reduceat(inside[:, 1:].max(axis=1), starts[:-1])
            states[lists] = np.stack([self.parts.sizes[parts[lists]], latest, digests], axis=1)
            settled[lists] = np.logical_and.reduceat(looks.settled[places], starts[:-1])
            kinds[lists] = np.minimum.reduceat(looks.kinds[places], starts[:-1])
        return Looks(kinds, np.zeros(len(parts), bool), states, settled)

    def _files_of(self, lists: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the files of some of the parts, (F,), and where those of each begin and end, (L + 1,)."""
        sizes = self.parts.sizes[lists]
        starts = np.cumsum(np.concatenate([[0], sizes]))
        return self.files.places[
            np.arange(starts[-1]) + np.repeat(self.parts.firsts[lists] - starts[:-1], sizes)
        ], starts


def _digests(rows: np.ndarray, starts: np.ndarray) -> list[bytes]:
    """Return a digest of the rows from each start to the next: (F, k), (L + 1,) -> L."""
    content, bounds = rows.view(np.uint8).reshape(-1).data, (starts * rows.itemsize * rows.shape[1]).tolist()
    return [hashlib.blake2b(content[start:end], digest_size=16).digest() for start, end in pairwise(bounds)]
