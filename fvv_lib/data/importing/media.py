"""Find the media that records name, and write those that they contain.                                     Lesson 5

A path in a record is often written for another machine: without its extension, with backslashes, or absolute. This
module looks the file up in the folders of the user, counts how each was found, and never guesses: two different files
that fit are an error. It opens no image or video.
"""

import hashlib
import os
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from fvv_lib.errors import DataFormatError
from fvv_lib.files import is_url
from fvv_lib.video.kinds import OTHER_VIDEO_EXTENSIONS, PICTURE_EXTENSIONS, VIDEO_EXTENSIONS

DRIVE = re.compile(r"[A-Za-z]:[\\/]")
VIDEOS = (*VIDEO_EXTENSIONS, *OTHER_VIDEO_EXTENSIONS, ".gif")
IMAGES = (*PICTURE_EXTENSIONS, ".gif")
REMEMBERED = 2**17  # paths that were found
# What files begin with, of which the bytes are in a record without a name.
STARTS = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), ".png"),
    (re.compile(rb"\xff\xd8\xff"), ".jpg"),
    (re.compile(rb"GIF8"), ".gif"),
    (re.compile(rb"RIFF....WEBP", re.S), ".webp"),
    (re.compile(rb"RIFF....AVI ", re.S), ".avi"),
    (re.compile(rb"BM"), ".bmp"),
    (re.compile(rb"\x1a\x45\xdf\xa3"), ".mkv"),
    (re.compile(rb"....ftyp", re.S), ".mp4"),
)


class MediaFinder:
    """Find media in folders.

    Args:
        roots: folders that paths are relative to, the first first.
        folder: folder of the annotation file that is written. Paths in it are written relative to it.

    Attributes:
        found: how paths were found that are not files as they are written.
    """

    def __init__(self, roots: Sequence[Path], folder: Path):
        self.roots = [os.path.abspath(root) for root in dict.fromkeys(roots)]
        self.folder = os.path.abspath(folder)
        self.found: Counter[str] = Counter()
        self._find = lru_cache(REMEMBERED)(self._look_up)

    def find(self, name: str, is_video: bool) -> str:
        """Return the path of a file or folder, as the written annotation file names it. A URL is returned as it is.

        Raises:
            DataFormatError: there is no such file, or there are several that differ.
        """
        path, how = self._find(name, is_video)
        if how:
            self.found[how] += 1
        return path

    def _look_up(self, name: str, is_video: bool) -> tuple[str, str]:
        if is_url(name) and not name.startswith("file://"):
            return name, ""
        name = name.removeprefix("file://")
        for spelling, how in _spellings(name, VIDEOS if is_video else IMAGES):
            paths = (
                [os.path.join(root, spelling) for root in self.roots] if not spelling.startswith("/") else [spelling]
            )
            there = [path for path in dict.fromkeys(paths) if os.path.exists(path)]
            if there:
                for other in there[1:]:
                    if not os.path.samefile(there[0], other):
                        raise DataFormatError(
                            f"{name} is in several folders: {there[0]} and {other}. Give one of them."
                        )
                return self.written(there[0]), how
        raise DataFormatError(
            f"{name}: no such file in {', '.join(self.roots)}. Name the folder that its path starts from: --media_root."
        )

    def written(self, path: str) -> str:
        """Return a path as the written annotation file names it."""
        path = os.path.normpath(path)
        inside = f"{self.folder}{os.sep}"
        return path[len(inside) :] if path.startswith(inside) else path

    def write(self, content: bytes, name: str) -> str:
        """Write the bytes of a file to `media/` beside the annotation file, once for each content, and return its path.

        Raises:
            DataFormatError: neither the name nor the bytes say what kind of file it is.
        """
        suffix = Path(name).suffix.lower() if not name.startswith(".") else name.lower()
        if suffix not in (*VIDEOS, *IMAGES):
            suffix = next((ending for start, ending in STARTS if start.match(content)), "")
        if not suffix:
            raise DataFormatError("the bytes of its image or video are of an unknown kind.")
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        file = Path(self.folder) / "media" / f"{digest}{suffix}"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            aside = file.with_name(f"{uuid.uuid4().hex}.unfinished")
            try:
                aside.write_bytes(content)
                aside.replace(file)
            finally:
                aside.unlink(missing_ok=True)
        return self.written(str(file))


def _spellings(name: str, extensions: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the paths that a name may mean, and what was changed: the likely ones first."""
    yield name, ""
    plain, how = name, ""
    if "\\" in name or DRIVE.match(name):
        plain, how = name.replace("\\", "/"), "backslashes"
        if not DRIVE.match(name):
            yield plain, how
    if not plain.lower().endswith(tuple(extensions)):
        for extension in extensions:
            yield f"{plain}{extension}", "extension added"
    if plain.startswith("/") or DRIVE.match(name):
        parts = [part for part in plain.split("/") if part and not part.endswith(":")]
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            yield tail, "the end of an absolute path"
