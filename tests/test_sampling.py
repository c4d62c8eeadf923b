"""Sampling: always N frames, sorted and in range. Each strategy chooses the frames that its docstring describes."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fvv_lib.errors import FvvError
from fvv_lib.video.sampling import STRATEGIES, sample_frame_indices

# Without a database, the examples leave no folder behind. Derandomized, they are the same in every run.
thorough = settings(database=None, derandomize=True, deadline=None, max_examples=200)
totals, counts, seeds = st.integers(1, 5000), st.integers(1, 64), st.integers(0, 2**32 - 1)


def sample(total, count, strategy, seed=0, video_fps=25.0, sample_fps=2.0):
    return sample_frame_indices(total, count, strategy, seed=seed, video_fps=video_fps, sample_fps=sample_fps)


@thorough
@given(totals, counts, st.sampled_from(STRATEGIES), seeds)
def test_always_n_sorted_indices_in_range(total, count, strategy, seed):
    indices = sample(total, count, strategy, seed)
    assert indices.dtype == np.int64
    assert indices.shape == (count,)
    assert (np.diff(indices) >= 0).all()
    assert indices[0] >= 0
    assert indices[-1] < total


rates = st.floats(0.01, 240) | st.sampled_from([30000 / 1001, 24000 / 1001, 24.0, 25.0, 8 / 50])


@thorough
@given(totals, counts, rates, rates)
@example(1250, 8, 30000 / 1001, 24.0)  # 1250 / step is a whole number except for rounding
def test_frames_per_second_stay_in_range_at_any_rate(total, count, video_fps, sample_fps):
    indices = sample(total, count, "fps", video_fps=video_fps, sample_fps=sample_fps)
    assert len(indices) == count
    assert (np.diff(indices) >= 0).all()
    assert 0 <= indices[0] <= indices[-1] < total


@thorough
@given(totals, counts)
def test_uniform_is_the_described_linspace(total, count):
    assert np.array_equal(sample_frame_indices(total, count), np.linspace(0, total - 1, count, dtype=int))


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [
        (270, 8, [0, 38, 76, 115, 153, 192, 230, 269]),
        (24, 8, [0, 3, 6, 9, 13, 16, 19, 23]),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (3, 8, [0, 0, 0, 0, 1, 1, 1, 2]),
        (1, 4, [0, 0, 0, 0]),
        (100, 1, [0]),
    ],
)
def test_uniform_takes_these_frames(total, count, expected):
    assert sample_frame_indices(total, count).tolist() == expected


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [
        (80, 8, [5, 15, 25, 35, 45, 55, 65, 75]),
        (24, 8, [1, 4, 7, 10, 13, 16, 19, 22]),
        (9, 1, [4]),
        (2, 4, [0, 0, 1, 1]),
    ],
)
def test_segment_takes_the_middle_of_each_part(total, count, expected):
    assert sample_frame_indices(total, count, "segment").tolist() == expected


@thorough
@given(totals, counts, seeds)
def test_random_takes_one_frame_of_each_part(total, count, seed):
    indices = sample_frame_indices(total, count, "random", seed=seed)
    borders = np.arange(count + 1) * total / count
    assert (indices >= np.floor(borders[:-1])).all()
    assert (indices < np.ceil(borders[1:])).all()


def test_random_is_the_same_for_the_same_seed_and_differs_for_another():
    first, again, other = (sample_frame_indices(800, 8, "random", seed=seed).tolist() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_random_reaches_every_frame():
    reached = {int(i) for seed in range(300) for i in sample_frame_indices(16, 4, "random", seed=seed)}
    assert reached == set(range(16))


def test_random_without_a_seed_is_an_error():
    with pytest.raises(FvvError, match="seed"):
        sample_frame_indices(10, 2, "random")


def test_fps_takes_sample_fps_frames_of_each_second():
    indices = sample_frame_indices(100, 4, "fps", video_fps=25.0, sample_fps=1.0)
    assert indices.tolist() == [0, 25, 50, 75]


def test_fps_thins_evenly_if_a_clip_is_too_long():
    # 40 seconds at 25 frames per second; two of each second are 80 candidates: 0, 12, 25, 37, ... 987.
    indices = sample_frame_indices(1000, 5, "fps", video_fps=25.0, sample_fps=2.0)
    candidates = [int(i * 12.5) for i in range(80)]
    assert indices.tolist() == [candidates[i] for i in (0, 19, 39, 59, 79)]


def test_fps_repeats_frames_if_a_clip_is_too_short():
    indices = sample_frame_indices(50, 4, "fps", video_fps=25.0, sample_fps=1.0)
    assert indices.tolist() == [0, 0, 0, 25]


def test_fps_above_the_rate_of_the_clip_takes_every_frame():
    assert sample_frame_indices(5, 4, "fps", video_fps=10.0, sample_fps=60.0).tolist() == [0, 1, 2, 4]


@pytest.mark.parametrize(
    "rates",
    [
        {},
        {"video_fps": 0.0},
        {"video_fps": -5.0},
        {"video_fps": 25.0, "sample_fps": 0.0},
        {"video_fps": 25.0, "sample_fps": -1.0},
    ],
)
def test_fps_needs_rates_above_zero(rates):
    with pytest.raises(FvvError, match="above 0"):
        sample_frame_indices(10, 2, "fps", **rates)


@pytest.mark.parametrize(("total", "count"), [(0, 8), (-1, 8), (8, 0), (8, -2)])
def test_counts_below_one_are_errors(total, count):
    with pytest.raises(FvvError, match="at least 1"):
        sample_frame_indices(total, count)


def test_unknown_strategy_is_an_error_that_lists_the_known_ones():
    with pytest.raises(FvvError, match=r"'middle'.*uniform, segment, random, uniform_time, fps"):
        sample_frame_indices(10, 2, "middle")
