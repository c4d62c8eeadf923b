"""Pictures, alone or as the frames of a video.                                                             Lesson 1"""

import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fvv_lib.errors import FvvError, VideoDecodeError
from fvv_lib.video.frames import Chooser, Frames
from fvv_lib.video.kinds import PICTURE_EXTENSIONS


def load_image(path: str | Path) -> np.ndarray:
    """Read a still picture, upright, as a video of one frame: uint8 (1, H, W, 3), RGB.

    Raises:
        VideoDecodeError: the file is missing or is not a whole picture.

    Lesson: 01.
    """
    try:
        with Image.open(path) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))[None]
    except FileNotFoundError as error:
        raise VideoDecodeError(f"{path}: no such file. Check the path and the folder it is relative to.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoDecodeError(
            f"{path}: it cannot be read as a picture ({error}). Export it again, or give it its true extension."
        ) from error


def numbered_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder by the numbers in their names, 2 before 10; hidden files do not count."""
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    others = sorted(path.name for path in files if path.suffix.lower() not in PICTURE_EXTENSIONS)
    if others or not files:
        found = f"{others[0]!r} is none" if others else "it is empty"
        raise VideoDecodeError(f"{folder}: a folder of frames must hold pictures and nothing else, and {found}.")
    return sorted(
        files, key=lambda path: [(int(n), "") if n.isdigit() else (0, n) for n in re.split(r"(\d+)", path.name)]
    )


def read_pictures(files: list[Path], choose: Chooser, rate: float) -> Frames:
    """Pictures as the frames of a video, `rate` of them in a second.

    Raises:
        FvvError: no pictures, or a rate of 0 or less.
        VideoDecodeError: a picture cannot be read, or they differ in size.
    """
    if not files or rate <= 0:
        raise FvvError(f"A video of pictures needs a picture and a picture_rate above 0, got {len(files)} and {rate}.")
    times = np.arange(len(files)) / rate
    indices = choose(times)
    frames = {i: load_image(files[i])[0] for i in set(indices.tolist())}
    if len({frame.shape for frame in frames.values()}) > 1:
        raise VideoDecodeError(f"{files[0].parent}: its pictures differ in size. Export them again at one size.")
    return times, indices, np.stack([frames[i] for i in indices.tolist()])
