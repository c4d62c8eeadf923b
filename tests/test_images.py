"""Images: the whole image on a square, upright. Except at its border, within one grey level of the described system."""

import struct
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
def test_pad_centres_a_wide_frame_on_the_background(background):
    pixels = preprocess_frames(flat(36, 64, 200), 64, "pad", background)[0]
    colour = torch.tensor(background, dtype=torch.uint8)[:, None, None]
    assert (pixels[:, :14] == colour).all()
    assert (pixels[:, 14:50] == 200).all()
    assert (pixels[:, 50:] == colour).all()


def test_pad_centres_a_high_frame_on_the_background():
    pixels = preprocess_frames(flat(64, 36, 200), 64, "pad", (1, 2, 3))[0]
    assert pixels[:, 5, 13].tolist() == pixels[:, 5, 50].tolist() == [1, 2, 3]
    assert (pixels[:, :, 14:50] == 200).all()


def marked(height, width):
    """Return a grey frame with its left and right tenths white."""
    frame = flat(height, width, 100)
    frame[:, :, : width // 10] = frame[:, :, -(width // 10) :] = 255
    return frame


def test_pad_keeps_both_sides_of_the_frame():
    row = preprocess_frames(marked(90, 160), 64)[0, 0, 32]
    assert row[:5].min() > 240
    assert row[-5:].min() > 240
    assert row[32] == 100


def test_crop_loses_the_sides_and_keeps_the_middle():
    pixels = preprocess_frames(marked(90, 160), 64, "crop")
    assert (pixels == 100).all()


def test_crop_of_a_wide_frame_keeps_nine_sixteenths_of_its_width():
    ramp = np.repeat(np.arange(160, dtype=np.uint8)[None, None, :, None], 90, axis=1).repeat(3, axis=-1)
    row = preprocess_frames(ramp, 90, "crop")[0, 0, 45]
    assert (int(row[0]), int(row[-1])) == (35, 124)


def test_resize_squeezes_the_whole_frame():
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
def test_pad_equals_padding_before_resizing_except_at_the_border(frame, background, size):
    """The described system pads at full size, then resizes, both with PIL. Ours resizes first, with torchvision.

    If padding is first, the background bleeds into the image as far as the bicubic kernel reaches: two pixels of the
    coarser of the two grids. No other pixel may differ by more than rounding. (The resized sizes here are whole
    numbers of pixels. Any other size is rounded in ours, so its lines move.)
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
    ids=["float", "one frame", "alpha", "channels first", "int64"],
)
def test_other_arrays_are_an_error_that_shows_their_shape(frames):
    with pytest.raises(FvvError, match=r"must be uint8 \(N, H, W, 3\), got") as caught:
        preprocess_frames(frames, 8)
    assert str(frames.shape) in str(caught.value)


def test_unknown_aspect_ratio_is_an_error_that_lists_the_known_ones():
    with pytest.raises(FvvError, match=r"'anyres'.*pad, crop, resize"):
        preprocess_frames(noise(1, 8, 8, 3), 8, "anyres")


# --- still images -------------------------------------------------------------------------------------------------


def test_still_image_is_a_video_of_one_frame(tmp_path):
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
def test_exif_orientation_turns_the_image_upright(tmp_path, orientation, upright):
    pixels = noise(20, 30, 3)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(load_image(tmp_path / "a.png")[0], upright(pixels))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    Image.fromarray(noise(20, 30, 3)).convert(mode).save(tmp_path / "a.tiff")
    assert load_image(tmp_path / "a.tiff").shape == (1, 20, 30, 3)


# --- more than 8 bits, transparency, several images in one file ---------------------------------------------------


def levels(dtype="<u2"):
    """Return a ramp over the range of 16 bits: (20, 30)."""
    return np.linspace(0, 65535, 600).astype(dtype).reshape(20, 30)


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm"])
def test_grey_of_16_bits_is_its_high_byte(tmp_path, name):
    """Values are not stretched to the range of the image, so two images from one camera stay comparable."""
    for samples in (levels(), levels() // 16):
        Image.fromarray(samples).save(tmp_path / name)
        expected = np.repeat((samples >> 8).astype(np.uint8)[..., None], 3, axis=-1)
        assert np.array_equal(load_image(tmp_path / name)[0], expected)


def tiff(samples, bits, photometric=1, order="<", sample_format=1, floats=False):
    """Return an uncompressed grey TIFF of a kind that no writer here produces."""
    height, width = samples.shape
    if bits == 12:
        pairs = samples.astype(np.uint32).reshape(-1, 2)
        packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
        data = packed.tobytes()
    else:
        data = samples.astype(f"{order}{'f' if floats else 'u'}{bits // 8}").tobytes()
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 4, height), (279, 4, len(data)), (339, 3, sample_format)]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, 1) + struct.pack(f"{order}I" if kind == 4 else f"{order}HH", *value)
        for tag, kind, value in ((t, k, (v,) if k == 4 else (v, 0)) for t, k, v in tags)
    )
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_16_bits_may_have_either_byte_order_and_0_for_white(tmp_path, order):
    expected = (levels() >> 8).astype(np.uint8)
    for photometric, grey in ((1, expected), (0, 255 - expected)):
        if order == ">" and photometric == 0:
            continue  # Pillow does not support it, and raises an error
        (tmp_path / "a.tif").write_bytes(tiff(levels(), 16, photometric, order))
        assert np.array_equal(load_image(tmp_path / "a.tif")[0, ..., 1], grey)


def test_a_tiff_of_12_bits_is_not_read_as_a_dark_one_of_16(tmp_path):
    samples = levels() >> 4
    (tmp_path / "a.tif").write_bytes(tiff(samples, 12))
    assert np.array_equal(load_image(tmp_path / "a.tif")[0, ..., 0], (samples >> 4).astype(np.uint8))


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("floating-point numbers", tiff(levels() / 65535, 32, sample_format=3, floats=True)),
        ("32-bit numbers", tiff(levels(), 32)),
        ("32-bit numbers", tiff(levels(), 16, sample_format=2)),
    ],
    ids=["float", "32 bits", "signed"],
)
def test_samples_without_a_defined_range_are_an_error(tmp_path, kind, content):
    (tmp_path / "depth.tif").write_bytes(content)
    with pytest.raises(VideoDecodeError, match=rf"depth\.tif: its pixels are {kind}, .*Export it with 8 or 16 bits"):
        load_image(tmp_path / "depth.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
@pytest.mark.parametrize("extension", ["png", "tiff", "webp"])
def test_transparent_pixels_are_white_and_not_their_stored_colour(tmp_path, mode, extension):
    if (mode == "PA" and extension != "tiff") or (mode == "P" and extension == "tiff"):
        pytest.skip("this format has no such images")
    picture = Image.new("RGBA", (30, 20), (90, 90, 90, 255))
    picture.paste((10, 10, 10, 0), (0, 0, 10, 20))
    options = {"lossless": True, "exact": True} if extension == "webp" else {}
    picture.convert(mode).save(tmp_path / f"a.{extension}", **options)
    pixels = load_image(tmp_path / f"a.{extension}")[0]
    assert (pixels[:, :10] == 255).all()
    assert (pixels[:, 10:] == 90).all()


def test_half_transparent_is_half_white(tmp_path):
    Image.new("RGBA", (4, 4), (0, 100, 200, 128)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png")[0, 0, 0].tolist() == [127, 177, 227]


@pytest.mark.parametrize("value", [(1000, 0), (0, 65535)])
def test_the_transparent_level_of_a_grey_png_is_white(tmp_path, value):
    hidden, shown = value
    samples = np.full((4, 8), shown, np.uint16)
    samples[:, :4] = hidden
    Image.fromarray(samples).save(tmp_path / "a.png", transparency=hidden)
    pixels = load_image(tmp_path / "a.png")[0, ..., 0]
    assert (pixels[:, :4] == 255).all()
    assert (pixels[:, 4:] == shown >> 8).all()


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.avif", "a.tiff"])
def test_several_images_are_not_read_as_their_first(tmp_path, name):
    pictures = [Image.fromarray(noise(20, 30, 3)), Image.new("RGB", (30, 20)), Image.new("RGB", (30, 20), "red")]
    pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:])
    with pytest.raises(VideoDecodeError, match=rf"{name}: it holds 3 images. Read an animation with read_video"):
        load_image(tmp_path / name)


def test_a_thumbnail_in_a_tiff_is_not_a_second_image(tmp_path):
    thumbnail = Image.new("RGB", (3, 2))
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}
    Image.fromarray(noise(20, 30, 3)).save(tmp_path / "a.tiff", save_all=True, append_images=[thumbnail])
    assert np.array_equal(load_image(tmp_path / "a.tiff")[0], noise(20, 30, 3))


def test_an_image_that_is_a_program_is_not_run(tmp_path):
    """Pillow would start Ghostscript."""
    Image.new("RGB", (30, 20), "red").save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(VideoDecodeError, match=r"a\.png: it cannot be read as an image"):
        load_image(tmp_path / "a.png")


def test_content_of_an_unknown_format_is_an_error_that_says_so(tmp_path):
    (tmp_path / "a.avs").write_text("Version()\n")
    with pytest.raises(VideoDecodeError, match=r"a\.avs: .* its format is not supported, or it is damaged"):
        load_image(tmp_path / "a.avs")


# --- pixels that are not square -----------------------------------------------------------------------------------


@pytest.mark.parametrize("aspect_ratio", ASPECT_RATIOS)
@pytest.mark.parametrize(("pixel_aspect", "shape"), [(2, (64, 192)), (0.5, (128, 96)), (16 / 15, (60, 96))])
def test_a_frame_is_shown_in_its_true_shape(aspect_ratio, pixel_aspect, shape):
    """The result is as if the pixels had been made square first: flat areas are equal, edges nearly."""
    frames = flat(64, 96, 40)
    frames[:, 16:48, 24:72] = 200
    square = np.asarray(Image.fromarray(frames[0]).resize(shape[::-1], Image.Resampling.NEAREST))[None]
    if pixel_aspect == 16 / 15:  # 64 x 102.4
        square = flat(64, 102, 40)
        square[:, 16:48, 26:77] = 200
    ours = preprocess_frames(frames, 48, aspect_ratio, pixel_aspect=pixel_aspect).int()
    theirs = preprocess_frames(square, 48, aspect_ratio).int()
    assert (ours - theirs).abs().float().mean() < 3
    if aspect_ratio == "pad":
        assert torch.equal(ours[0, 0].amax(1) > 20, theirs[0, 0].amax(1) > 20)  # the same rows are covered


@pytest.mark.parametrize("aspect_ratio", ASPECT_RATIOS)
def test_square_pixels_change_nothing(aspect_ratio):
    frames = noise(2, 33, 57, 3)
    plain = preprocess_frames(frames, 32, aspect_ratio)
    assert torch.equal(plain, preprocess_frames(frames, 32, aspect_ratio, pixel_aspect=1.0))


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan"), float("inf")])
def test_an_invalid_pixel_aspect_is_an_error(wrong):
    with pytest.raises(FvvError, match="pixel_aspect must be a number above 0"):
        preprocess_frames(noise(1, 8, 8, 3), 8, pixel_aspect=wrong)


# --- broken images ------------------------------------------------------------------------------------------------


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
def test_broken_image_is_an_error_that_names_it(tmp_path, name):
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


def test_read_only_frames_are_accepted_without_a_warning():
    frames = np.zeros((2, 20, 30, 3), np.uint8)
    frames.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert preprocess_frames(frames[:, ::-1], 64).shape == (2, 3, 64, 64)
