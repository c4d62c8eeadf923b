"""Frames of a video and where they come from: what every reader returns.                                   Lesson 1"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fvv_lib.video.kinds import is_video

Source = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class VideoFrames:
    """Frames of a video, and where they come from.

    Attributes:
        frames: uint8 (N, H, W, 3), RGB, upright: turned and mirrored as the file says. What is transparent shows white.
        indices: int64 (N,), places in the order of presentation, counted from the first frame of the file.
        timestamps: float64 (N,), seconds from the first frame of the file.
        fps: average frames per second of the whole file.
        total_frames: frames in the whole file.
        duration: seconds, `total_frames / fps`.
        errors: float64 (N,), seconds by which each frame is later than the one that was asked for; 0 unless
            `accuracy="keyframe"`.
        pixel_aspect: width / height of a pixel where it is shown. Old and anamorphic video has pixels that are not
            square; `preprocess_frames` takes this number and shows the picture in its true shape. The frames have the
            pixels of the file.

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


class Frames(NamedTuple):
    """What a reader returns: times of all frames in seconds, float64 (F,); indices of those read, int64 (N,); these
    frames, uint8 (N, H, W, 3); and width / height of their pixels."""

    times: np.ndarray
    indices: np.ndarray
    frames: np.ndarray
    pixel_aspect: float = 1.0


Chooser = Callable[[np.ndarray], np.ndarray]  # times of all frames in seconds, float64 (F,) -> indices, int64 (N,)


def on_white(pixels: np.ndarray) -> np.ndarray:
    """Pictures with an alpha channel on white paper: uint8 (..., 4) -> uint8 (..., 3).

    White, because transparent drawings are mostly made for it (dark lines would vanish on black), and because what a
    file shows must not depend on the model that looks at it, as the colour of its padding does.
    """
    alpha = pixels[..., 3:].astype(np.uint16)
    return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def marked_times(paths: Sequence[Path], videos: Sequence[Any], time_marks: str) -> list[list[float]] | None:
    """The times that are written before the frames, of each video its own and of a picture none; None without marks."""
    if time_marks == "none":
        return None
    return [video.timestamps.tolist() if is_video(path) else [] for path, video in zip(paths, videos, strict=True)]
