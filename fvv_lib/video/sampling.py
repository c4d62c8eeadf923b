"""Choose frame indices: pure arithmetic.                                                                  Lesson 1

A clip has hundreds of frames, but a language model has room for a few. ClipBERT (Lei et al., CVPR 2021) showed that a
few frames, spread over the clip, are enough for most questions. This module only computes indices. It knows nothing
about files, images or tensors.
"""

import math
from collections.abc import Sequence

import numpy as np

from fvv_lib.errors import FvvError
from fvv_lib.video_config import check_limits, is_rate

BY_TIME = ("uniform_time", "fps")
STRATEGIES = ("uniform", "segment", "random", *BY_TIME)
ROUNDING = 6e-4  # seconds by which times of the same moment may differ: Matroska rounds to milliseconds


def sample_frame_indices(
    total_frames: int,
    num_frames: int,
    strategy: str = "uniform",
    *,
    seed: int | Sequence[int] | None = None,
    video_fps: float | None = None,
    sample_fps: float = 1.0,
    times: np.ndarray | None = None,
    max_frames: int | None = None,
    min_frames: int | None = None,
    start: float | None = None,
    end: float | None = None,
) -> np.ndarray:
    """Choose `num_frames` of `total_frames` frames.

    Strategies:
        uniform: evenly from the first frame to the last, both included (the described system's rule).
        segment: the middle frame of each of `num_frames` equal parts of the clip (TSN at test time).
        random: one random frame of each part (TSN and ClipBERT at training time). Requires `seed`, so that a run can
            be repeated.
        uniform_time: the frames that are shown at `num_frames` equally spaced times, from the first frame to the last.
        fps: the frames that are shown `sample_fps` times per second, from the first frame on. With `max_frames`, a clip
            has as many frames as its length gives: more than `max_frames` are thinned evenly, and fewer than
            `min_frames` (default: 1) become `min_frames` as by `uniform_time`. Without `max_frames`, `num_frames` are
            returned: more are thinned evenly, and of fewer some are repeated. A rate above the fastest of the clip is
            lowered to it.

    `uniform`, `segment` and `random` count frames. `uniform_time` and `fps` go by the times of the frames. They differ
    for a clip of variable rate: a frame that stands for a minute counts once, but is shown at many of the times, and is
    then repeated.

    Args:
        times: when each frame is shown, in seconds, ascending: float64 (total_frames,); for `uniform_time` and `fps`.
        video_fps: instead of `times`, the constant rate of a clip.
        start, end: seconds; for `uniform_time` and `fps`. Only what is shown from `start` to before `end` is sampled.
            The frame that is on the screen at `start` may have begun before. Default: from the first frame to the last.

    Returns:
        int64 (N,), sorted, each in [0, total_frames). N is `num_frames` or, for `fps` with `max_frames`, from
        `min_frames` to `max_frames`. A clip with fewer frames than requested repeats some, because the prompt is
        expanded for exactly N frames (the described system returns fewer and fails later).

    Raises:
        FvvError: a count is below 1, the strategy is unknown, or an argument that it needs is missing.

    Source: Wang et al., Temporal Segment Networks, ECCV 2016; Lei et al., ClipBERT, CVPR 2021. Lesson: 01.
    """
    if total_frames < 1 or num_frames < 1:
        raise FvvError(f"Cannot sample {num_frames} frames of {total_frames}: both counts must be at least 1.")
    if strategy != "fps" and (max_frames, min_frames) != (None, None):
        raise FvvError(f"max_frames and min_frames are for the strategy 'fps', but the strategy is {strategy!r}.")
    if strategy not in BY_TIME and (start, end) != (None, None):
        raise FvvError(
            f"start and end are for the strategies {' and '.join(BY_TIME)}, but the strategy is {strategy!r}."
        )
    if strategy == "uniform":
        return np.linspace(0, total_frames - 1, num_frames, dtype=np.int64)
    if strategy == "segment":
        return (2 * np.arange(num_frames) + 1) * total_frames // (2 * num_frames)
    if strategy == "random":
        if seed is None:
            raise FvvError("The strategy 'random' needs a seed, so that a run can be repeated: pass seed=0.")
        offsets = np.random.default_rng(seed).random(num_frames)
        return np.floor((np.arange(num_frames) + offsets) * total_frames / num_frames).astype(np.int64)
    if strategy == "uniform_time":
        return _Shown(_times(total_frames, strategy, video_fps, times), start, end).evenly(num_frames)
    if strategy == "fps":
        if not is_rate(sample_fps):
            raise FvvError(f"sample_fps must be a number of frames per second above 0, got {sample_fps!r}.")
        check_limits(max_frames, min_frames)
        shown = _Shown(_times(total_frames, strategy, video_fps, times), start, end)
        return shown.at_rate(num_frames, sample_fps, max_frames, min_frames or 1)
    raise FvvError(f"Unknown sampling strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}.")


def _times(total: int, strategy: str, video_fps: float | None, times: np.ndarray | None) -> np.ndarray:
    """Return the time of each frame in seconds: float64 (total,)."""
    if times is None:
        if not is_rate(video_fps):
            raise FvvError(
                f"The strategy {strategy!r} needs the times of the frames, or rates above 0, got {video_fps!r}."
            )
        return np.arange(total) / video_fps
    if len(times) != total:
        raise FvvError(f"There are {total} frames, but {len(times)} times.")
    return _without_rounding(times)


def _without_rounding(times: np.ndarray) -> np.ndarray:
    """Return the times of a clip of constant rate without the rounding of its container; other times as they are."""
    steps = np.diff(times)
    if len(steps) and np.ptp(steps) <= min(2 * ROUNDING, steps.mean() / 4):
        return np.linspace(times[0], times[-1], len(times))
    return times


def _shortest(times: np.ndarray) -> float:
    """Return the shortest time in seconds for which a frame is shown; 0 for a single frame."""
    steps = np.diff(times)
    steps = steps[steps > 0]
    return float(steps.min()) if len(steps) else 0.0


def tolerance(times: np.ndarray) -> float:
    """Return by how many seconds a frame may seem to begin too late: never half of the time that a frame is shown."""
    return _late(_shortest(times))


def _late(shortest: float) -> float:
    return min(ROUNDING, shortest / 2.1) if shortest else ROUNDING


class _Shown:
    """A clip, or the part from `start` to before `end` of it, by the times at which its frames are shown.

    Attributes:
        times: when each frame of the clip is shown, float64 (F,).
        shortest: the shortest time in seconds for which a frame is shown; 0 for a single frame.
        begin, last: the first and the last moment at which a frame is chosen.
    """

    def __init__(self, times: np.ndarray, start: float | None, end: float | None) -> None:
        self.times, self.shortest = times, _shortest(times)
        self.late = _late(self.shortest)
        self.begin = times[0] if start is None else start
        if not times[0] - self.late <= self.begin < (math.inf if end is None else end):
            raise FvvError(
                f"The part from start={start} to end={end} must begin at {times[0]:g} s or later, where the first "
                "frame does, and end after it begins."
            )
        self.last = times[-1]
        if end is not None:  # as late as the last frame of a clip of constant rate; a frame that stands is shown longer
            newest = times[max(0, int(np.searchsorted(times, end - self.late)) - 1)]
            self.last = max(newest, end - self.shortest, self.begin)

    def evenly(self, count: int) -> np.ndarray:
        """Return the frames that are shown at `count` equally spaced moments."""
        return self._at(np.linspace(self.begin, self.last, count))

    def at_rate(self, num_frames: int, rate: float, max_frames: int | None, min_frames: int) -> np.ndarray:
        """Return the frames that are shown `rate` times per second; see `fps`."""
        if self.shortest * rate > 1:
            rate = 1 / self.shortest
        length = self.last - self.begin + self.shortest  # the last is shown for an unknown time, at least this long
        total = max(1, math.ceil((length - self.late) * rate))
        if max_frames is not None and total < min_frames:
            return self.evenly(min_frames)
        count = num_frames if max_frames is None else min(total, max_frames)
        return self._at(self.begin + np.linspace(0, total - 1, count, dtype=np.int64) / rate)

    def _at(self, moments: np.ndarray) -> np.ndarray:
        """Return the frame that is on the screen at each moment: float64 (N,) -> int64 (N,)."""
        return np.searchsorted(self.times, moments + self.late, side="right") - 1
