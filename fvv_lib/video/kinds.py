"""Is it a video? Told by the name, and of a GIF by its frames.                                             Lesson 1"""

import os
from pathlib import Path

from PIL import Image

VIDEO_EXTENSIONS = (".mp4", ".avi", ".mov", ".mkv", ".flv", ".wmv", ".webm", ".m4v")
PICTURE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def is_video_file(path: str | Path) -> bool:
    """Tell by the extension, in any case, whether a path is a video: .mp4 .avi .mov .mkv .flv .wmv .webm .m4v.

    Lesson: 01.
    """
    return str(path).lower().endswith(VIDEO_EXTENSIONS)


def is_video(path: str | Path) -> bool:
    """Tell whether a path is read as a video: a video file, a folder of frames, or a GIF with more than one frame."""
    if is_video_file(path) or os.path.isdir(path):
        return True
    if not str(path).lower().endswith(".gif"):
        return False
    try:
        with Image.open(path) as picture:
            return bool(getattr(picture, "is_animated", False))
    except OSError:
        return False  # `load_image` says what is wrong
