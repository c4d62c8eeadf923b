"""Store vision features in a folder, in files named by a digest of all that the features depend on.        Lesson 9

A file is complete or does not exist. After a change the name differs, so outdated features are not found. This module
knows nothing about models or training.
"""

import hashlib
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from fvv_lib.data.known import look
from fvv_lib.errors import FvvError
from fvv_lib.files import Location, Url, is_dir, locate, readable
from fvv_lib.video.medium import Medium
from fvv_lib.video.stills import numbered_pictures

UNFINISHED = "unfinished"  # folder of files that are being written
KILLED_AFTER = 3600  # seconds without a write after which the writer counts as killed


class Clip(NamedTuple):
    """An image or video: features (T, K, D) of the vision tower, and times of its frames in seconds, float64 (T,)."""

    features: torch.Tensor
    timestamps: torch.Tensor


class FeatureStore:
    """A folder of clips, each a safetensors file named by a digest of all that its features depend on.

    A file is written to another folder and then renamed. So a killed process, or two processes that write the same
    clip, leave no partial clip.

    Args:
        folder: created if it does not exist.
        depends_on: what the features depend on besides the content of the clip, for `video` and for `picture`.

    Lesson: 09.
    """

    def __init__(self, folder: Path, depends_on: dict[str, str]):
        self.folder, self.depends_on = folder, depends_on
        self.contents: dict[Location, tuple[list[int], bytes]] = {}  # state and digest of each file that had settled
        (folder / UNFINISHED).mkdir(parents=True, exist_ok=True)
        for file in (folder / UNFINISHED).iterdir():
            with suppress(FileNotFoundError):  # another process has just renamed it
                if time.time() - file.stat().st_mtime > KILLED_AFTER:
                    file.unlink()

    def name(self, medium: Medium) -> str:
        """Return the name of a clip: a digest (32 hex digits) of its files, the part that is used, and `depends_on`. A
        file is read once while it does not change; one at a URL is not read if its server says its version."""
        digest = hashlib.blake2b(self.depends_on["video" if medium.is_video() else "picture"].encode(), digest_size=16)
        digest.update(f"{medium.start} {medium.end} {medium.fps}".encode())
        with readable(medium):
            for file in _files_of(medium):
                if isinstance(file, Url) and (told := file.look()).version:
                    digest.update(f"{file.identity} {told.size} {told.version}".encode())
                    continue
                digest.update(self._content(file))
        return digest.hexdigest()

    def _content(self, file: Location) -> bytes:
        """Return a digest of a file. It is read again if it is at a URL, or has changed, see `data.known`."""
        looks = look([os.fsencode(file)]) if isinstance(file, Path) else None
        state = looks.states[0].tolist() if looks else []
        if looks and file in self.contents and self.contents[file][0] == state:
            return self.contents[file][1]
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "blake2b").digest()
        if looks and looks.settled[0]:
            self.contents[file] = state, digest
        return digest

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def holds(self, name: str) -> bool:
        """Check whether a clip is stored completely. Print a message if its file is damaged."""
        try:
            with safe_open(self.file(name), "pt") as stored:
                return set(stored.keys()) == set(Clip._fields)
        except FileNotFoundError:
            return False
        except SafetensorError as error:
            print(f"{self.file(name)}: it is damaged ({error}), its features are computed again", flush=True)
            return False

    def read(self, name: str) -> Clip:
        """Read a stored clip.

        Raises:
            FvvError: its file is missing or damaged.
        """
        try:
            return Clip(**load_file(self.file(name)))
        except (OSError, SafetensorError) as error:
            raise FvvError(
                f"{self.file(name)}: these features cannot be read ({error}), but existed before the first step. "
                "Delete the file if it exists, and start again. Processes on several machines must share one cache_dir."
            ) from error

    def write(self, name: str, clip: Clip) -> None:
        aside = self.folder / UNFINISHED / uuid.uuid4().hex
        try:
            aside.write_bytes(save(clip._asdict()))
            aside.replace(self.file(name))
        except OSError as error:
            raise FvvError(f"{self.folder}: cannot be written ({error}). Free disk space, or set cache_dir.") from error
        finally:
            aside.unlink(missing_ok=True)


def _files_of(medium: Medium) -> list[Location]:
    """Return the files of a medium; of a folder of frames, its images in order."""
    files = [locate(file) for file in medium.files]
    return numbered_pictures(files[0]) if is_dir(files[0]) else files
