"""The different images, videos and parts of videos that samples name, for what is remembered about them.  Lesson 5

Two samples may use two parts of one file. What was read of one part says nothing about the other, so each is a unit of
its own. This module opens no image or video.
"""

import hashlib
import os

import numpy as np
import pyarrow as pa

from fvv_lib.data.known import Looks, look_into_folders
from fvv_lib.data.table import Annotations, Named
from fvv_lib.files import key_of, locate
from fvv_lib.video.medium import Medium


class MediaUnits(Named):
    """The units of samples. `paths` has the path of each whole file or folder, and a longer key for each part of a
    video and each list of frames.

    Attributes:
        looks: of the file of each unit; of a list, of all its files. The state of a folder changes with its files.
        parts: the parts of videos and the lists of frames, by their key.

    Lesson: 05.
    """

    def __init__(self, samples: Annotations):
        files = samples.files
        super().__init__(files.paths, files.starts, files.places)
        self.looks = look_into_folders(files.paths, files.looks)
        self.parts: dict[bytes, Medium] = {}
        self.file_of_part: list[int] = []  # -1 for a list of frames
        whole = samples.whole_rows()
        if not whole.all():
            self._add_parts(samples, self.looks, whole)

    def medium(self, key: bytes) -> Medium:
        """Return a unit by its key, with absolute paths if it is a whole file or folder."""
        return self.parts.get(key) or Medium(locate(os.fsdecode(key)))

    def are_videos(self, files: np.ndarray) -> np.ndarray:
        """Return which units are videos, bool (U,), if these files are: bool (M,)."""
        parts = np.array(self.file_of_part, np.int64)
        return np.concatenate([files, (parts < 0) | files[parts]])

    def _add_parts(self, samples: Annotations, looks: Looks, whole: np.ndarray) -> None:
        """Make units of the media of rows that are not only whole files: `whole`, bool (N,), is False."""
        files = samples.files
        number: dict[bytes, int] = {}
        units: list[int] = []  # of the media of these rows
        states: list[tuple[np.ndarray, bool, int]] = []
        counts = np.diff(files.starts)
        for row in np.flatnonzero(~whole).tolist():
            media = samples.media_of_row(row)
            place = int(files.starts[row])
            for medium in media:
                mine = files.places[place : place + len(medium.files)]
                place += len(medium.files)
                if medium == Medium(medium.source) and not isinstance(medium.source, tuple):
                    units.append(int(mine[0]))
                    continue
                key = _key(medium, [files.paths[int(file)].as_py() for file in mine])
                if key not in number:
                    number[key] = len(files.paths) + len(number)
                    self.parts[key] = medium
                    states.append(_look_of(looks, mine))
                    self.file_of_part.append(-1 if isinstance(medium.source, tuple) else int(mine[0]))
                units.append(number[key])
            counts[row] = len(media)
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        self.places = np.empty(self.starts[-1], np.int64)
        self.places[np.repeat(whole, counts)] = files.places[np.repeat(whole, np.diff(files.starts))]
        self.places[np.repeat(~whole, counts)] = units
        self.paths = pa.concat_arrays([files.paths, pa.array(list(number), pa.large_binary())])
        self.looks = Looks(
            np.concatenate([looks.kinds, np.array([kind for _, _, kind in states], np.uint8)]),
            np.concatenate([looks.links, np.zeros(len(states), bool)]),
            np.concatenate([looks.states, np.array([state for state, _, _ in states], np.int64).reshape(-1, 3)]),
            np.concatenate([looks.settled, np.array([settled for _, settled, _ in states], bool)]),
        )


def _key(medium: Medium, paths: list[bytes]) -> bytes:
    """Return a key that no path is: it has a zero byte."""
    names = list(map(key_of, paths))
    parts = repr((medium.start, medium.end, medium.fps, isinstance(medium.source, tuple), names)).encode()
    return b"%b\0%b" % (names[0], hashlib.blake2b(parts, digest_size=16).hexdigest().encode())


def _look_of(looks: Looks, files: np.ndarray) -> tuple[np.ndarray, bool, int]:
    """Return state, settled and kind of a medium with these files."""
    states, kinds = looks.states[files], looks.kinds[files]
    if len(files) == 1:
        return states[0], bool(looks.settled[files[0]]), int(kinds[0])
    digest = hashlib.blake2b(states.tobytes(), digest_size=7).digest()
    state = np.array([len(files), states[:, 1:].max(), int.from_bytes(digest)])
    return state, bool(looks.settled[files].all()), int(kinds.min())
