"""Detect videos by extension or, if the extension is not known, by content.                                 Lesson 1"""

import os
import stat
from typing import BinaryIO

from PIL import Image

from fvv_lib.far import hold
from fvv_lib.files import Location, Url, is_url, locate, readable

VIDEO_EXTENSIONS = (".mp4", ".avi", ".mov", ".mkv", ".flv", ".wmv", ".webm", ".m4v")
# Further extensions that only videos have. For any other extension, the content decides.
OTHER_VIDEO_EXTENSIONS = (
    *(".ts", ".mts", ".m2t", ".m2ts", ".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".vob", ".3gp", ".3g2", ".ogv", ".ogm"),
    *(".mxf", ".asf", ".rm", ".rmvb", ".f4v", ".qt", ".divx", ".dv", ".gxf", ".nut", ".wtv", ".mk3d", ".y4m", ".ivf"),
    ".dav",
)
PICTURE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

ANIMATED_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
PNG = b"\x89PNG\r\n\x1a\n"
STILL = (PNG, b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")  # what a PNG, JPEG, BMP or TIFF begins with
HEIF = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif", b"avci", b"jpeg")  # still images in an MP4-like container


def is_video_file(path: str | Location) -> bool:
    """Return whether a path has a video extension, in any case: .mp4 .avi .mov .mkv .flv .wmv .webm .m4v.

    The described system knows these eight; `is_video` knows more. Lesson: 01.
    """
    return _name(path).endswith(VIDEO_EXTENSIONS)


def is_video(path: str | Location) -> bool:
    """Return whether a path is read as a video: a file with a video extension, a folder of frames, an animation (GIF,
    PNG, WebP or AVIF with more than one image), or any other file that is a container with a video stream.

    Raises:
        VideoDecodeError: a file at a URL, without a video extension, cannot be read.
        FvvError: a server does not answer, or a package is missing.
    """
    if _name(path).endswith((*VIDEO_EXTENSIONS, *OTHER_VIDEO_EXTENSIONS)):
        return True
    if is_url(path):
        path = locate(path)
    if isinstance(path, Url):
        with readable(path), hold(path):
            return path.is_dir() or _has_video(path)
    try:
        mode = os.stat(path).st_mode
        return stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and _has_video(path))
    except (OSError, ValueError):
        return False  # reading the file raises the error


def _has_video(path: str | Location) -> bool:
    """Return whether the content of a file is an animation or a container with a video stream."""
    with path.open("rb") if isinstance(path, Url) else open(path, "rb", buffering=0) as file:
        head = _head(file)
        if _may_be_animated(head):
            return is_animation(file)
    if head.startswith(STILL) or head[8:12] == b"WEBP" or (head[4:8] == b"ftyp" and head[8:12] in HEIF):
        return False
    from fvv_lib.video.exact.containers import is_container  # imports FFmpeg, which few files need

    return is_container(locate(path))


def is_animation(file: BinaryIO) -> bool:
    """Return whether a file is a GIF, PNG, WebP or AVIF with more than one image, by its content, not its name."""
    if not _may_be_animated(_head(file)):
        return False
    try:
        with Image.open(file, formats=ANIMATED_FORMATS) as picture:
            return last_picture(picture) > first_picture(picture)
    except ConnectionError:  # a server does not answer
        raise
    except Exception:  # Pillow's decoders raise many types; reading the file raises the error
        return False


def first_picture(picture: Image.Image) -> int:
    """Return the index of an animation's first frame. It is 1 for a PNG with a default image, which only programs
    without animation support show."""
    return 1 if getattr(picture, "default_image", False) else 0


def last_picture(picture: Image.Image) -> int:
    return int(getattr(picture, "n_frames", 1)) - 1


def _name(path: str | Location) -> str:
    """Return the end of a path in lower case: of a URL, without its query."""
    return (locate(path).name if is_url(path) else str(path)).lower()


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(4096)


def _may_be_animated(head: bytes) -> bool:
    """Return whether a file with these first bytes can be animated: GIF, or a PNG, WebP or AVIF marked as animated."""
    if head.startswith(b"GIF8"):
        return True
    if head.startswith(PNG):
        return _is_or_may_be_apng(head)
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X":
        return bool(head[20] & 2)
    return head[4:8] == b"ftyp" and b"avis" in head[8:64]


def _is_or_may_be_apng(head: bytes) -> bool:
    """Return False if the first bytes of a PNG show that it is no animation: its pixels (IDAT) come before any acTL."""
    place = 8
    while place + 8 <= len(head):
        kind = head[place + 4 : place + 8]
        if kind in (b"acTL", b"IDAT"):
            return kind == b"acTL"
        place += 12 + int.from_bytes(head[place : place + 4])
    return True
