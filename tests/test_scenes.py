"""Scenes: no single frame answers a question about motion or order, and every container keeps every frame."""

import numpy as np
import pytest

from fvv_lib.course.scenes import (
    CLIP_SIZES,
    COLOURS,
    DIRECTIONS,
    ENCODERS,
    NUM_FRAMES,
    SHAPES,
    START,
    TRAVEL,
    Shape,
    draw,
    motion_clip,
    order_clip,
    place,
    random_shape,
    still,
    write_video,
)
from fvv_lib.video.kinds import VIDEO_EXTENSIONS
from fvv_lib.video.read import read_video
from fvv_lib.video.sampling import sample_frame_indices

SEEDS = range(40)


def rng(seed):
    return np.random.default_rng(seed)


def centre(frame):
    """Return the centre (x, y) of the shape, as fractions of an image whose opposite edges are connected.

    A shape covers less than half of the image, so the median is the background.
    """
    weight = (frame != np.median(frame, axis=(0, 1))).any(axis=-1)
    found = []
    for axis in (0, 1):  # the sum over rows depends on x
        amounts = weight.sum(axis=axis)
        angles = 2 * np.pi * (np.arange(len(amounts)) + 0.5) / len(amounts)
        found.append(np.angle((amounts * np.exp(1j * angles)).sum()) / (2 * np.pi) % 1)
    return np.array(found)


def shown(frame, background, shapes):
    """Return the indices of the shapes in a frame, by drawing each possible set and comparing."""
    size = frame.shape[1], frame.shape[0]
    sets = {(): [], (0,): [shapes[0]], (1,): [shapes[1]], (0, 1): list(shapes)}
    matching = [numbers for numbers, drawn in sets.items() if np.array_equal(frame, draw(size, background, drawn))]
    assert matching, "the frame shows something other than the two shapes"
    return matching[0]


# --- drawing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_shape_has_its_colour_at_the_centre_and_background_elsewhere(colour, form):
    picture = draw((60, 40), 50, [Shape(colour, form, 0.25, 0.5, 0.25)])
    assert (picture.shape, picture.dtype) == ((40, 60, 3), np.uint8)
    assert picture[20, 15].tolist() == list(COLOURS[colour])
    assert (picture[:, 31:] == 50).all()


def test_shapes_differ_in_their_outlines():
    pictures = [draw((48, 48), 50, [Shape("red", form, 0.5, 0.5, 0.25)]) for form in SHAPES]
    for i, picture in enumerate(pictures):
        for other in pictures[:i]:
            assert (picture != other).any(axis=-1).sum() > 40


def test_wrap_connects_opposite_edges():
    middle = draw((48, 48), 50, [Shape("blue", "circle", 0.5, 0.5, 0.25)], wrap=True)
    corner = draw((48, 48), 50, [Shape("blue", "circle", 0.0, 0.0, 0.25)], wrap=True)
    assert np.array_equal(np.roll(middle, (24, 24), axis=(0, 1)), corner)


def test_still_shows_its_shape_at_the_stated_centre():
    for seed in SEEDS:
        picture, shape = still(rng(seed))
        assert picture.shape[1::-1] in CLIP_SIZES
        x, y = int(shape.x * picture.shape[1]), int(shape.y * picture.shape[0])
        assert picture[y, x].tolist() == list(COLOURS[shape.colour])


@pytest.mark.parametrize(
    ("x", "y", "name"),
    [
        (0.2, 0.2, "top left"),
        (0.5, 0.2, "top"),
        (0.8, 0.2, "top right"),
        (0.2, 0.5, "left"),
        (0.5, 0.5, "middle"),
        (0.8, 0.5, "right"),
        (0.2, 0.8, "bottom left"),
        (0.5, 0.8, "bottom"),
        (0.8, 0.8, "bottom right"),
        (0.34, 0.5, None),
        (0.5, 0.65, None),
        (0.03, 0.5, None),
        (0.5, 0.97, None),
    ],
)
def test_place_names_the_cell_and_is_none_at_borders_and_edges(x, y, name):
    assert place(Shape("red", "circle", x, y, 0.2)) == name


def test_random_shapes_have_every_colour_and_form():
    generator = rng(0)
    shapes = [random_shape(generator) for _ in range(300)]
    assert {shape.colour for shape in shapes} == set(COLOURS)
    assert {shape.shape for shape in shapes} == set(SHAPES)


# --- motion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_motion_clip_moves_only_in_its_direction(direction):
    for seed in range(5):
        frames, start = motion_clip(rng(seed), direction)
        assert len(frames) == NUM_FRAMES
        path = np.array([centre(frame) for frame in frames])
        steps = (np.diff(path, axis=0) + 0.5) % 1 - 0.5
        travelled = steps.sum(axis=0)
        along = travelled @ np.array(DIRECTIONS[direction])
        assert 0.15 < along < 0.35
        assert abs(travelled).sum() - along < 0.03
        assert abs((path[0] - (start.x, start.y) + 0.5) % 1 - 0.5).max() < 0.08


@pytest.mark.parametrize("travel", [0.05, 0.5])
def test_motion_clip_moves_by_the_given_distance(travel):
    frames, _ = motion_clip(rng(3), "right", travel=(travel, travel))
    path = np.array([centre(frame)[0] for frame in frames])
    assert ((np.diff(path) + 0.5) % 1 - 0.5).sum() == pytest.approx(travel, abs=0.02)


def test_first_frame_does_not_depend_on_the_direction():
    for seed in SEEDS:
        firsts = [motion_clip(rng(seed), direction, num_frames=2)[0][0] for direction in DIRECTIONS]
        assert all(np.array_equal(first, firsts[0]) for first in firsts)


def best_guess(moment, count=400_000, bins=20):
    """Return how often the best guess of the direction is right if only the position at one moment is known.

    The moment 0 is the first frame, 1 the last. The best guess is the most likely direction in each cell of a fine grid
    of positions.
    """
    generator = rng(0)
    positions = generator.uniform(*START, size=(count, 2))
    directions = generator.integers(4, size=count)
    travel = generator.uniform(*TRAVEL, size=(count, 1))
    positions += moment * travel * np.array(list(DIRECTIONS.values()))[directions]
    cells = (positions % 1 * bins).astype(int)
    counts = np.zeros((bins, bins, 4))
    np.add.at(counts, (cells[:, 0], cells[:, 1], directions), 1)
    return counts.max(axis=2).sum() / count


def test_no_single_frame_determines_the_direction():
    assert best_guess(0) == pytest.approx(0.25, abs=0.015)
    assert best_guess(0) < best_guess(0.5) < best_guess(1)
    assert best_guess(1) == pytest.approx(0.59, abs=0.02)


def test_a_clip_of_two_frames_ends_at_the_same_place_as_a_long_clip():
    for direction in DIRECTIONS:
        long, short = (motion_clip(rng(7), direction, num_frames=count)[0] for count in (NUM_FRAMES, 2))
        assert abs(centre(long[-1]) - centre(short[-1])).max() < 1e-6


# --- order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_order_clip_shows_one_shape_then_the_other_and_never_both(seed):
    frames, first, second = order_clip(rng(seed))
    assert frames.shape[0] == NUM_FRAMES
    assert first.name != second.name
    background = int(frames[0, 0, 0, 0])
    numbers = [shown(frame, background, (first, second)) for frame in frames]
    assert numbers[0] == numbers[-1] == ()
    assert (0, 1) not in numbers
    changes = [now for before, now in zip([None, *numbers], numbers, strict=False) if now != before]
    assert changes == [(), (0,), (), (1,), ()]


@pytest.mark.parametrize("seed", SEEDS)
def test_eight_uniform_frames_show_each_shape_of_an_order_clip(seed):
    frames, first, second = order_clip(rng(seed))
    background = int(frames[0, 0, 0, 0])
    sampled = frames[sample_frame_indices(len(frames), 8)]
    assert {(0,), (1,)} <= {shown(frame, background, (first, second)) for frame in sampled}


# --- files --------------------------------------------------------------------------------------------------------


def test_every_video_extension_has_an_encoder():
    assert set(ENCODERS) == set(VIDEO_EXTENSIONS)


@pytest.mark.parametrize("extension", ENCODERS)
def test_written_clip_reads_back_frame_by_frame(tmp_path, extension):
    frames, _ = motion_clip(rng(0), "left")
    write_video(tmp_path / f"clip{extension}", frames)
    video = read_video(tmp_path / f"clip{extension}", len(frames))
    assert video.total_frames == len(frames)
    assert video.fps == pytest.approx(8, rel=0.01)
    assert video.frames.shape == frames.shape
    # Each decoded frame is closest to its own original.
    distances = abs(video.frames[:, None].astype(np.int16) - frames[None]).mean(axis=(2, 3, 4))
    assert distances.argmin(axis=1).tolist() == list(range(len(frames)))
    assert distances.diagonal().max() < 8


@pytest.mark.parametrize("extension", ENCODERS)
def test_writing_a_clip_repeatedly_gives_the_same_bytes(tmp_path, extension):
    frames, _ = motion_clip(rng(3), "left")
    written = set()
    for name in "abcdef":
        write_video(tmp_path / f"{name}{extension}", frames)
        written.add((tmp_path / f"{name}{extension}").read_bytes())
    assert len(written) == 1


def test_a_seed_determines_the_clip():
    first, again, other = (motion_clip(rng(seed), "up")[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)
