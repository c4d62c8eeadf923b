"""Choose frame indices: pure arithmetic.                                                                  Lesson 1

A clip has hundreds of frames, but a language model has room for a few. ClipBERT (Lei et al., CVPR 2021) showed that a
few frames, spread over the clip, are enough for most questions. This module only computes indices. It knows nothing
about files, images or tensors.
"""

from collections.abc import Sequence

import numpy as np

from fvv_lib.errors import FvvError

STRATEGIES = ("uniform", "segment", "random", "fps")


def sample_frame_indices(
    total_frames: int,
    num_frames: int,
    strategy: str = "uniform",
    *,
    seed: int | Sequence[int] | None = None,
    video_fps: float | None = None,
    sample_fps: float = 1.0,
) -> np.ndarray:
    """Choose `num_frames` of `total_frames` frames.

    Strategies:
        uniform: evenly from the first frame to the last, both included (the described system's rule).
        segment: the middle frame of each of `num_frames` equal parts of the clip (TSN at test time).
        random: one random frame of each part (TSN and ClipBERT at training time). Requires `seed`, so that a run can
            be repeated.
        fps: `sample_fps` frames per second of a clip that plays at `video_fps`, thinned evenly if there are more than
            `num_frames`. The frames are equally spaced in time if the clip's rate is constant.

    Returns:
        int64 (num_frames,), sorted, each in [0, total_frames). A clip with fewer frames than requested repeats some,
        because the prompt is expanded for exactly `num_frames` frames (the described system returns fewer and fails
        later).

    Raises:
        FvvError: a count is below 1, the strategy is unknown, or an argument that it needs is missing.

    Source: Wang et al., Temporal Segment Networks, ECCV 2016; Lei et al., ClipBERT, CVPR 2021. Lesson: 01.
    """
    if total_frames < 1 or num_frames < 1:
        raise FvvError(f"Cannot sample {num_frames} frames of {total_frames}: both counts must be at least 1.")
    if strategy == "uniform":
        return _thin(np.arange(total_frames), num_frames)
    if strategy == "segment":
        return (2 * np.arange(num_frames) + 1) * total_frames // (2 * num_frames)
    if strategy == "random":
        if seed is None:
            raise FvvError("The strategy 'random' needs a seed, so that a run can be repeated: pass seed=0.")
        offsets = np.random.default_rng(seed).random(num_frames)
        return np.floor((np.arange(num_frames) + offsets) * total_frames / num_frames).astype(np.int64)
    if strategy == "fps":
        if not video_fps or video_fps <= 0 or sample_fps <= 0:
            raise FvvError(
                f"The strategy 'fps' needs two rates above 0, got video_fps={video_fps}, sample_fps={sample_fps}."
            )
        step = max(video_fps / sample_fps, 1.0)
        candidates = np.arange(0, total_frames, step).astype(np.int64)
        return _thin(candidates[candidates < total_frames], num_frames)  # rounding can make arange overshoot
    raise FvvError(f"Unknown sampling strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}.")


def _thin(indices: np.ndarray, count: int) -> np.ndarray:
    """Return `count` of the indices, evenly from the first to the last. Repeat some if there are fewer."""
    return indices[np.linspace(0, len(indices) - 1, count, dtype=np.int64)]
