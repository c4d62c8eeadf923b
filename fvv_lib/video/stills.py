"""Read images: one alone, several as the frames of a video, or the frames of an animation.                Lesson 1"""

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fvv_lib.errors import FvvError, VideoDecodeError
from fvv_lib.files import Location, locate, readable, slash_hint
from fvv_lib.video.frames import Chooser, Frames, on_white
from fvv_lib.video.kinds import ANIMATED_FORMATS, PICTURE_EXTENSIONS, first_picture, last_picture
from fvv_lib.video_config import is_rate

# Formats that Pillow decodes itself. EPS is excluded: it is a program, and Pillow would start Ghostscript to run it.
PICTURE_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "PSD", "SGI"),
    *("PCX", "QOI", "DDS"),
)
BITS_PER_SAMPLE, PHOTOMETRIC, SUBFILE_TYPE = 258, 262, 254  # tags of TIFF
SHORTEST, INSTEAD = 10.0, 100.0  # milliseconds; see `animation_times`


def load_image(path: str | Location) -> np.ndarray:
    """Read a still image, upright, as a video of one frame: uint8 (1, H, W, 3), RGB.

    A 16-bit sample, grey or colour, becomes its high byte (0 to 65535 becomes 0 to 255). It is not stretched to the
    range that the image uses, so two images from one camera stay comparable. Transparent pixels are white.

    Raises:
        VideoDecodeError: the file is missing or is not a whole image, holds several images (an animation, pages), or
            has samples without a defined range (floating point, 32 bits).

    Lesson: 01.
    """
    path = locate(path)
    with readable(path), _opened(path) as picture:
        several = _pages(picture)
        if several > 1:
            raise VideoDecodeError(
                f"{path}: it holds {several} images. Read an animation with read_video; from other files, save one "
                "image on its own."
            )
        return _to_rgb(picture, path)[None]


def read_animation(path: Location, choose: Chooser) -> Frames:
    """Read frames of an animated GIF, PNG, WebP or AVIF, each as it is displayed.

    Raises:
        VideoDecodeError: as `load_image`, for damage anywhere in the file.
    """
    times = animation_times(path)
    indices = choose(times)
    frames = {}
    with _opened(path) as picture:
        for index in sorted(set(indices.tolist())):
            picture.seek(first_picture(picture) + index)
            frames[index] = _to_rgb(picture, path)
    return Frames(times, indices, np.stack([frames[index] for index in indices.tolist()]))


def animation_times(path: Location) -> np.ndarray:
    """Return the seconds at which each frame of an animation is shown, by decoding all of them: float64 (F,).

    A duration of 10 milliseconds or less becomes 100, as in browsers: such files mean "fast".
    """
    durations: list[float] = []
    starts: list[Any] = []  # milliseconds; only WebP and AVIF have them
    with _opened(path) as picture:
        for number in range(first_picture(picture), last_picture(picture) + 1):
            picture.seek(number)
            picture.load()
            durations.append(float(picture.info.get("duration", 0)))
            starts.append(picture.info.get("timestamp"))
    if None not in starts:  # each is rounded once; a sum of durations adds up rounding errors
        durations = [*np.diff(starts).tolist(), durations[-1]]
    shown = [INSTEAD if duration <= SHORTEST else duration for duration in durations]
    return np.cumsum([0.0, *shown[:-1]]) / 1000


@contextmanager
def _opened(path: Location) -> Iterator[Image.Image]:
    """Open an image file. Every error of Pillow becomes a `VideoDecodeError`."""
    try:
        with path.open("rb") as file, Image.open(file, formats=PICTURE_FORMATS) as picture:
            yield picture
    except FvvError:
        raise
    except ConnectionError:  # `readable` tells that a server does not answer
        raise
    except FileNotFoundError as error:
        raise VideoDecodeError(
            f"{path}: no such file. Check the path and the folder it is relative to.{slash_hint(path)}"
        ) from error
    except UnidentifiedImageError as error:
        raise VideoDecodeError(
            f"{path}: it cannot be read as an image: its format is not supported, or it is damaged. Export an image as "
            "PNG, and encode a video as H.264 in .mp4."
        ) from error
    except (
        *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, MemoryError, struct.error),
        Image.DecompressionBombError,
    ) as error:
        raise VideoDecodeError(
            f"{path}: it cannot be read as an image ({error}). Export it again, or correct its extension."
        ) from error


def _pages(picture: Image.Image) -> int:
    """Count the images of a file: the frames of an animation or the pages of a TIFF, without its thumbnails."""
    if picture.format in ANIMATED_FORMATS:
        return last_picture(picture) - first_picture(picture) + 1
    if picture.format != "TIFF":
        return 1  # in MPO and PSD, the first image represents all
    pages = 0
    for number in range(last_picture(picture) + 1):
        picture.seek(number)
        pages += not picture.tag_v2.get(SUBFILE_TYPE, 0) & 1  # type: ignore[attr-defined]
    picture.seek(0)
    return pages


def _to_rgb(picture: Image.Image, path: Location) -> np.ndarray:
    """Convert an image to RGB, upright, 8 bits per channel, on white: uint8 (H, W, 3)."""
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16") or (upright.mode == "I" and picture.format in ("PNG", "PPM")):
        return _grey_of_16_bits(picture, upright)
    if upright.mode in ("F", "I"):
        raise VideoDecodeError(
            f"{path}: its pixels are {'floating-point' if upright.mode == 'F' else '32-bit'} numbers, and the file "
            "does not say which are black and white. Export it with 8 or 16 bits."
        )
    if upright.has_transparency_data:
        return on_white(np.asarray(upright.convert("RGBA")))
    return np.asarray(upright.convert("RGB"))


def _grey_of_16_bits(picture: Image.Image, upright: Image.Image) -> np.ndarray:
    """Return the high byte of each sample: uint8 (H, W, 3). A TIFF may have fewer than 16 bits, or 0 for white."""
    tags = picture.tag_v2 if picture.format == "TIFF" else {}  # type: ignore[attr-defined]
    samples = np.asarray(upright).astype(np.uint16)
    grey = (samples >> (tags.get(BITS_PER_SAMPLE, (16,))[0] - 8)).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == 0:
        grey = 255 - grey
    if "transparency" in upright.info:  # PNG: this grey level is transparent
        grey[samples == upright.info["transparency"]] = 255
    return np.repeat(grey[..., None], 3, axis=-1)


def numbered_pictures(folder: Location) -> list[Location]:
    """List the images of a folder by the numbers in their names, 2 before 10. Hidden files are ignored."""
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    others = sorted(path.name for path in files if path.suffix.lower() not in PICTURE_EXTENSIONS)
    if others or not files:
        found = f"{others[0]!r} is not an image" if others else "it is empty"
        raise VideoDecodeError(f"{folder}: a folder of frames must hold only images, but {found}.")
    return sorted(
        files, key=lambda path: [(int(n), "") if n.isdigit() else (0, n) for n in re.split(r"(\d+)", path.name)]
    )


def picture_times(count: int, rate: float) -> np.ndarray:
    """Return the time of each of `count` images that are the frames of a video, at `rate` frames per second: float64
    (count,).

    Raises:
        FvvError: there are no images, or the rate is not a number above 0.
    """
    if not count or not is_rate(rate):
        raise FvvError(f"A video of images needs an image and a picture_rate above 0, got {count} and {rate!r}.")
    return np.arange(count) / rate


def read_pictures(files: list[Location], choose: Chooser, rate: float) -> Frames:
    """Read images as the frames of a video, at `rate` frames per second.

    Raises:
        FvvError: there are no images, or the rate is not a number above 0.
        VideoDecodeError: an image cannot be read, or the images differ in size.
    """
    times = picture_times(len(files), rate)
    indices = choose(times)
    frames = {i: load_image(files[i])[0] for i in set(indices.tolist())}
    if len({frame.shape for frame in frames.values()}) > 1:
        raise VideoDecodeError(f"{files[0].parent}: its images differ in size. Export them at one size.")
    return Frames(times, indices, np.stack([frames[i] for i in indices.tolist()]))
