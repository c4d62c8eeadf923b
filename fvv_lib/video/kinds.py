"""Is it a video? Told by the name or, where the name does not tell, by the content.                         Lesson 1"""

import os
from pathlib import Path

from PIL import Image

VIDEO_EXTENSIONS = (".mp4", ".avi", ".mov", ".mkv", ".flv", ".wmv", ".webm", ".m4v")
# Others that name nothing but videos. What has yet another name is told by its content.
OTHER_VIDEO_EXTENSIONS = (
    *(".ts", ".mts", ".m2t", ".m2ts", ".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".vob", ".3gp", ".3g2", ".ogv", ".ogm"),
    *(".mxf", ".asf", ".rm", ".rmvb", ".f4v", ".qt", ".divx", ".dv", ".gxf", ".nut", ".wtv", ".mk3d", ".y4m", ".ivf"),
)
PICTURE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

ANIMATED_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
JPEG, BMP, TIFF = b"\xff\xd8\xff", b"BM", (b"II*\0", b"MM\0*")
HEIF = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif", b"avci", b"jpeg")  # a picture, in the container of MP4


def is_video_file(path: str | Path) -> bool:
    """Tell by the extension, in any case, whether a path is a video: .mp4 .avi .mov .mkv .flv .wmv .webm .m4v.

    These eight are those of the described system; `is_video` knows more. Lesson: 01.
    """
    return str(path).lower().endswith(VIDEO_EXTENSIONS)


def is_video(path: str | Path) -> bool:
    """Tell whether a path is read as a video: a file with the extension of one, a folder of frames, an animation (GIF,
    PNG, WebP, AVIF with more than one picture), or a file of any other name that is a container with a video in it."""
    if str(path).lower().endswith((*VIDEO_EXTENSIONS, *OTHER_VIDEO_EXTENSIONS)) or os.path.isdir(path):
        return True
    try:
        if not os.path.isfile(path):  # a missing one, or a pipe that would wait for somebody to write
            return False
        head = _head(path)
    except (OSError, ValueError):
        return False  # who reads it says what is wrong
    if _may_be_animated(head):
        return is_animation(path)
    if head.startswith((JPEG, BMP, *TIFF)) or head[8:12] == b"WEBP" or (head[4:8] == b"ftyp" and head[8:12] in HEIF):
        return False
    from fvv_lib.video.exact.containers import is_container  # loads FFmpeg, which few files need to be told

    return is_container(path)


def is_animation(path: str | Path) -> bool:
    """Tell by its content whether a file is a GIF, PNG, WebP or AVIF with more than one picture, whatever its name."""
    try:
        if not _may_be_animated(_head(path)):
            return False
        with Image.open(path, formats=ANIMATED_FORMATS) as picture:
            return last_picture(picture) > first_picture(picture)
    except Exception:  # Pillow's decoders raise many kinds; who reads the file says what is wrong
        return False


def first_picture(picture: Image.Image) -> int:
    """The number of an animation's first picture. The default picture of a PNG may be no part of it: then only programs
    that know no animations show it."""
    return 1 if getattr(picture, "default_image", False) else 0


def last_picture(picture: Image.Image) -> int:
    return int(getattr(picture, "n_frames", 1)) - 1


def _head(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(64)


def _may_be_animated(head: bytes) -> bool:
    """Whether a file that begins so is one of the `ANIMATED_FORMATS`; of WebP and AVIF, one that calls itself
    animated."""
    if head.startswith((b"GIF8", b"\x89PNG\r\n\x1a\n")):
        return True
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X":
        return bool(head[20] & 2)
    return head[4:8] == b"ftyp" and b"avis" in head[8:64]
