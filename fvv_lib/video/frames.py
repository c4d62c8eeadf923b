"""Frames of a video with their indices and times: what every reader returns.                               Lesson 1"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fvv_lib.files import Location
from fvv_lib.video.medium import Medium

Source = str | Location | Sequence[str | Location]


@dataclass(frozen=True)
class VideoFrames:
    """Frames of a video, with their indices and times.

    Attributes:
        frames: uint8 (N, H, W, 3), RGB, upright: rotated and mirrored as the file says. Transparent pixels are white.
        indices: int64 (N,), frame numbers in presentation order, counted from the first frame of the file.
        timestamps: float64 (N,), seconds from the first frame of the file.
        fps: average frames per second of the whole file.
        total_frames: frames in the whole file.
        duration: seconds, `total_frames / fps`.
        errors: float64 (N,), seconds by which each frame is later than the requested one (earlier if negative); 0
            unless `accuracy="keyframe"`.
        pixel_aspect: width / height of a displayed pixel. Old and anamorphic videos have pixels that are not square.
            `frames` has the pixels of the file; pass this number to `preprocess_frames` to correct the shape.
        bytes_read, requests: what was read of files at URLs; 0 for files of this machine.

    Lesson: 01.
    """

    frames: np.ndarray
    indices: np.ndarray
    timestamps: np.ndarray
    fps: float
    total_frames: int
    duration: float
    errors: np.ndarray
    pixel_aspect: float = 1.0
    bytes_read: int = 0
    requests: int = 0


class Frames(NamedTuple):
    """What a reader returns.

    Attributes:
        times: float64 (F,), seconds from the first frame, of all frames.
        indices: int64 (N,), the frames that were read.
        frames: uint8 (N, H, W, 3).
        pixel_aspect: width / height of their pixels.
    """

    times: np.ndarray
    indices: np.ndarray
    frames: np.ndarray
    pixel_aspect: float = 1.0


Chooser = Callable[[np.ndarray], np.ndarray]  # times of all frames in seconds, float64 (F,) -> indices, int64 (N,)


def on_white(pixels: np.ndarray) -> np.ndarray:
    """Composite images with an alpha channel on white: uint8 (..., 4) -> uint8 (..., 3).

    Most transparent drawings are made for white; dark lines would vanish on black. The padding colour is not used: it
    depends on the model, and the content of a file must not.
    """
    alpha = pixels[..., 3:].astype(np.uint16)
    return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def marked_times(
    media: Sequence[Medium], timestamps: Sequence[np.ndarray], time_marks: str, time_origin: str
) -> list[list[float]] | None:
    """Return the times to write before the frames: a list for each video, an empty list for an image. `None` if
    `time_marks` is `none`. `timestamps` has those of each medium, float64 (T,). Times count from the start of the part
    that is used or, with `time_origin="file"`, from the first frame of the file. A frame that is on the screen since
    before the part is at 0."""
    if time_marks == "none":
        return None
    times: list[list[float]] = []
    for medium, shown in zip(media, timestamps, strict=True):
        origin = (medium.start or 0.0) if time_origin == "segment" else 0.0
        times.append(np.maximum(shown - origin, 0).tolist() if medium.is_video() else [])
    return times
