"""Images: the whole picture on a square, upright; but for its border, within one grey level of the described way."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from fvv_lib.errors import FvvError, VideoDecodeError
from fvv_lib.model.geometry import processor_size
from fvv_lib.video.pixels import ASPECT_RATIOS, preprocess_frames
from fvv_lib.video.stills import load_image

EXIF_ORIENTATION = 0x0112


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def smooth(height, width):
    y, x = np.mgrid[:height, :width]
    channels = [128 + 100 * np.sin(x / 40), 128 + 100 * np.cos(y / 30), (x + y) / 4]
    return np.stack(channels, axis=-1).astype(np.uint8)


def flat(height, width, colour):
    return np.full((1, height, width, 3), colour, dtype=np.uint8)


# --- frames to a square -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aspect_ratio", ASPECT_RATIOS)
@pytest.mark.parametrize("shape", [(3, 36, 64, 3), (2, 64, 36, 3), (1, 20, 20, 3), (1, 101, 3, 3)])
def test_pixels_are_a_contiguous_uint8_square(shape, aspect_ratio):
    pixels = preprocess_frames(noise(*shape), 32, aspect_ratio)
    assert pixels.shape == (shape[0], 3, 32, 32)
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous()
    assert pixels.stride() == (3 * 32 * 32, 32 * 32, 32, 1)  # not channels-last, on which some backward passes crash


@pytest.mark.parametrize("aspect_ratio", ASPECT_RATIOS)
def test_a_batch_is_its_frames_one_by_one(aspect_ratio):
    frames = noise(4, 30, 50, 3)
    together = preprocess_frames(frames, 32, aspect_ratio)
    alone = torch.cat([preprocess_frames(frame[None], 32, aspect_ratio) for frame in frames])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("aspect_ratio", ASPECT_RATIOS)
def test_a_square_of_the_right_size_is_left_as_it_is(aspect_ratio):
    frames = noise(2, 32, 32, 3)
    assert np.array_equal(preprocess_frames(frames, 32, aspect_ratio).numpy(), frames.transpose(0, 3, 1, 2))


def test_channels_stay_red_green_blue():
    pixels = preprocess_frames(flat(10, 10, (200, 100, 50)), 8)
    assert [int(channel.unique().item()) for channel in pixels[0]] == [200, 100, 50]


def test_frames_are_not_changed():
    frames = noise(2, 30, 50, 3)
    before = frames.copy()
    for aspect_ratio in ASPECT_RATIOS:
        preprocess_frames(frames, 50, aspect_ratio).zero_()
    assert np.array_equal(frames, before)


@pytest.mark.parametrize("background", [(0, 0, 0), (12, 34, 56)])
def test_pad_centres_a_wide_picture_on_the_background(background):
    pixels = preprocess_frames(flat(36, 64, 200), 64, "pad", background)[0]
    colour = torch.tensor(background, dtype=torch.uint8)[:, None, None]
    assert (pixels[:, :14] == colour).all()
    assert (pixels[:, 14:50] == 200).all()
    assert (pixels[:, 50:] == colour).all()


def test_pad_centres_a_high_picture_on_the_background():
    pixels = preprocess_frames(flat(64, 36, 200), 64, "pad", (1, 2, 3))[0]
    assert pixels[:, 5, 13].tolist() == pixels[:, 5, 50].tolist() == [1, 2, 3]
    assert (pixels[:, :, 14:50] == 200).all()


def marked(height, width):
    """A grey picture with its left and right tenth white."""
    frame = flat(height, width, 100)
    frame[:, :, : width // 10] = frame[:, :, -(width // 10) :] = 255
    return frame


def test_pad_keeps_both_sides_of_the_picture():
    row = preprocess_frames(marked(90, 160), 64)[0, 0, 32]
    assert row[:5].min() > 240
    assert row[-5:].min() > 240
    assert row[32] == 100


def test_crop_loses_the_sides_and_keeps_the_middle():
    pixels = preprocess_frames(marked(90, 160), 64, "crop")
    assert (pixels == 100).all()


def test_crop_of_a_wide_picture_keeps_nine_sixteenths_of_its_width():
    ramp = np.repeat(np.arange(160, dtype=np.uint8)[None, None, :, None], 90, axis=1).repeat(3, axis=-1)
    row = preprocess_frames(ramp, 90, "crop")[0, 0, 45]
    assert (int(row[0]), int(row[-1])) == (35, 124)


def test_resize_squeezes_the_whole_picture():
    row = preprocess_frames(marked(90, 160), 60, "resize")[0, 0, 30]
    assert row[:5].min() > 240
    assert row[-5:].min() > 240
    assert row[10:50].unique().tolist() == [100]
    assert (preprocess_frames(flat(90, 160, 77), 60, "resize") == 77).all()


@pytest.mark.parametrize("size", [256, 384, 1024])
@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255)])
@pytest.mark.parametrize(
    "frame", [smooth(360, 640), noise(360, 640, 3), noise(640, 360, 3)], ids=["smooth", "wide", "high"]
)
def test_pad_is_padding_before_resizing_but_for_the_pictures_border(frame, background, size):
    """The described way: pad at full size with PIL, then resize with PIL. Ours resizes first, with torchvision.

    Padded first, the background bleeds into the picture as far as the bicubic kernel reaches: two pixels of the coarser
    of the two grids. Nowhere else may a pixel differ by more than rounding does. (These pictures come out at whole
    pixels; where one does not, ours is rounded to them, and its lines move.)
    """
    (height, width), side = frame.shape[:2], max(frame.shape)
    top, left, scale = (side - height) // 2, (side - width) // 2, size / side
    square = Image.new("RGB", (side, side), background)
    square.paste(Image.fromarray(frame), (left, top))
    described = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)).astype(int)
    ours = preprocess_frames(frame[None], size, "pad", background)[0].permute(1, 2, 0).numpy().astype(int)
    difference = abs(ours - described).max(axis=(1 if height < width else 0, 2))  # of each row, or column
    first, last = max(top, left) * scale, (max(top, left) + min(height, width)) * scale
    centres, reach = np.arange(size) + 0.5, 2 * max(scale, 1)
    border = np.minimum(abs(centres - first), abs(centres - last)) <= reach
    assert border.sum() <= 4 * reach
    assert difference[~border].max() <= 1
    assert abs(ours - described).mean() <= 0.3  # of 255


@pytest.mark.parametrize(
    "frames",
    [
        noise(1, 8, 8, 3).astype(np.float32),
        noise(8, 8, 3),
        noise(1, 8, 8, 4),
        noise(1, 3, 8, 8),
        noise(1, 8, 8, 3).astype(np.int64),
    ],
    ids=["float", "one picture", "alpha", "channels first", "int64"],
)
def test_frames_of_another_kind_are_an_error_that_shows_them(frames):
    with pytest.raises(FvvError, match=r"must be uint8 \(N, H, W, 3\), got") as caught:
        preprocess_frames(frames, 8)
    assert str(frames.shape) in str(caught.value)


def test_unknown_aspect_ratio_is_an_error_that_lists_the_known_ones():
    with pytest.raises(FvvError, match=r"'anyres'.*pad, crop, resize"):
        preprocess_frames(noise(1, 8, 8, 3), 8, "anyres")


# --- still pictures -----------------------------------------------------------------------------------------------


def test_still_picture_is_a_video_of_one_frame(tmp_path):
    pixels = noise(20, 30, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        frames = load_image(path)
        assert (frames.shape, frames.dtype) == ((1, 20, 30, 3), np.uint8)
        assert np.array_equal(frames[0], pixels)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda picture: picture),
        (2, np.fliplr),
        (3, lambda picture: np.rot90(picture, 2)),
        (4, np.flipud),
        (5, lambda picture: picture.transpose(1, 0, 2)),
        (6, lambda picture: np.rot90(picture, -1)),
        (7, lambda picture: np.rot90(picture, 2).transpose(1, 0, 2)),
        (8, lambda picture: np.rot90(picture, 1)),
    ],
)
def test_exif_orientation_turns_the_picture_upright(tmp_path, orientation, upright):
    pixels = noise(20, 30, 3)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(load_image(tmp_path / "a.png")[0], upright(pixels))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_pictures_of_every_mode_become_rgb(tmp_path, mode):
    Image.fromarray(noise(20, 30, 3)).convert(mode).save(tmp_path / "a.tiff")
    assert load_image(tmp_path / "a.tiff").shape == (1, 20, 30, 3)


def write_truncated(path):
    Image.fromarray(noise(64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[:5000])


BROKEN = {
    "missing.png": lambda path: None,
    "empty.png": lambda path: path.touch(),
    "text.png": lambda path: path.write_text("This is not a picture. " * 50),
    "truncated.png": write_truncated,
    "truncated.jpg": lambda path: (
        Image.fromarray(noise(64, 64, 3)).save(path),
        path.write_bytes(path.read_bytes()[:2000]),
    ),
    "folder.png": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_picture_is_an_error_that_names_it(tmp_path, name):
    path = tmp_path / name
    BROKEN[name](path)
    with pytest.raises(VideoDecodeError) as caught:
        load_image(path)
    assert str(caught.value).startswith(f"{path}: ")


# --- image processors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        ({"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}}, 48),
        ({"size": {"height": 32, "width": 32}, "crop_size": None}, 32),
        ({"size": {"shortest_edge": 96}, "crop_size": None}, 96),
    ],
)
def test_processor_size_is_the_side_of_its_square(settings, side):
    assert processor_size(CLIPImageProcessor(**settings)) == side


def test_frames_that_may_not_be_written_to_are_taken_without_a_warning():
    frames = np.zeros((2, 20, 30, 3), np.uint8)
    frames.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert preprocess_frames(frames[:, ::-1], 64).shape == (2, 3, 64, 64)
