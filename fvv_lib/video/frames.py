"""Frames of a video and where they come from: what every reader returns.                                   Lesson 1"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fvv_lib.video.kinds import is_video

Source = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class VideoFrames:
    """Frames of a video, and where they come from.

    Attributes:
        frames: uint8 (N, H, W, 3), RGB, upright.
        indices: int64 (N,), places in the order of presentation, counted from the first frame of the file.
        timestamps: float64 (N,), seconds from the first frame of the file.
        fps: average frames per second of the whole file.
        total_frames: frames in the whole file.
        duration: seconds, `total_frames / fps`.
        errors: float64 (N,), seconds by which each frame is later than the one that was asked for; 0 unless
            `accuracy="keyframe"`.

    Lesson: 01.
    """

    frames: np.ndarray
    indices: np.ndarray
    timestamps: np.ndarray
    fps: float
    total_frames: int
    duration: float
    errors: np.ndarray


Frames = tuple[np.ndarray, np.ndarray, np.ndarray]  # times of all frames, indices of those read, these frames

Chooser = Callable[[np.ndarray], np.ndarray]  # times of all frames in seconds, float64 (F,) -> indices, int64 (N,)


def marked_times(paths: Sequence[Path], videos: Sequence[Any], time_marks: str) -> list[list[float]] | None:
    """The times that are written before the frames, of each video its own and of a picture none; None without marks."""
    if time_marks == "none":
        return None
    return [video.timestamps.tolist() if is_video(path) else [] for path, video in zip(paths, videos, strict=True)]
