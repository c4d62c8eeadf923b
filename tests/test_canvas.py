"""The canvas: each frame is upright in its places, in any order of arrival."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from fvv_lib.course.numbered import read_numbers, write_numbered
from fvv_lib.errors import VideoDecodeError
from fvv_lib.video.exact.canvas import Canvas


def picture(value, height=6, width=8):
    """Return pixels and frame of an image in which all pixels differ, so that a rotation or a flip is visible."""
    pixels = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3) + np.uint8(value)
    return pixels, av.VideoFrame.from_ndarray(pixels, format="rgb24")


def pictures_for(*order):
    return Canvas(Path("folder/clip.mp4"), np.array(order))


@pytest.fixture(scope="module")
def decode_turned(tmp_path_factory):
    """Decode a clip of 3 frames that a player must rotate; the frames are as the decoder returns them."""

    def decode(rotation):
        if not hasattr(av.VideoStream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a display matrix")
        path = tmp_path_factory.mktemp("turned") / "clip.mp4"
        write_numbered(path, count=3, rotation=rotation)
        with av.open(str(path)) as container:
            return list(container.decode(video=0))

    return decode


@pytest.mark.parametrize("arrival", [(10, 20, 30), (30, 10, 20)])
def test_each_frame_is_put_in_its_place_in_any_order_of_arrival(arrival):
    pictures, reformatter = pictures_for(20, 30, 10), VideoReformatter()
    assert pictures.pixels is None
    for key in arrival:
        pictures.put(key, picture(key)[1], reformatter)
    assert pictures.pixels.dtype == np.uint8
    np.testing.assert_array_equal(pictures.pixels, [picture(key)[0] for key in (20, 30, 10)])


def test_a_frame_that_is_requested_more_than_once_is_in_each_of_its_places():
    pictures, reformatter = pictures_for(7, 5, 7, 5, 7), VideoReformatter()
    for key in (5, 7):
        pictures.put(key, picture(key)[1], reformatter)
    np.testing.assert_array_equal(pictures.pixels, [picture(key)[0] for key in (7, 5, 7, 5, 7)])


def test_frames_that_have_not_arrived_are_missing():
    pictures, reformatter = pictures_for(5, 7, 5), VideoReformatter()
    assert pictures.missing == {5, 7}
    pictures.put(5, picture(5)[1], reformatter)
    assert pictures.missing == {7}
    pictures.put(7, picture(7)[1], reformatter)
    assert not pictures.missing


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_rotated_clip_is_upright_in_each_of_its_places(decode_turned, rotation):
    frames, pictures, reformatter = decode_turned(rotation), pictures_for(1, 0, 2, 1), VideoReformatter()
    for key, frame in enumerate(frames):
        pictures.put(key, frame, reformatter)
    quarters = rotation // 90
    assert pictures.pixels.shape[1:] == ((64, 160, 3) if rotation == 180 else (160, 64, 3))
    back = [np.rot90(upright, -quarters) for upright in pictures.pixels]
    assert read_numbers(back) == [1, 0, 2, 1]
    plain = [frame.to_ndarray(format="rgb24") for frame in frames]
    np.testing.assert_array_equal(back, [plain[1], plain[0], plain[2], plain[1]])


@pytest.mark.parametrize("pixel_format", ["yuv420p", "gray", "bgr24", "yuv420p10le"])
def test_frames_are_rgb_for_every_pixel_format(pixel_format):
    frame = picture(0)[1].reformat(format=pixel_format)
    pictures = pictures_for(0)
    pictures.put(0, frame, VideoReformatter())
    np.testing.assert_array_equal(pictures.pixels[0], frame.to_ndarray(format="rgb24"))


@pytest.mark.parametrize("size", [(6, 10), (8, 8), (8, 6)])
def test_frames_of_two_sizes_are_an_error(size):
    pictures, reformatter = pictures_for(0, 1), VideoReformatter()
    pictures.put(0, picture(0)[1], reformatter)
    message = r"folder/clip\.mp4: the frame size changes within the clip. Encode it again at one size"
    with pytest.raises(VideoDecodeError, match=message):
        pictures.put(1, picture(1, *size)[1], reformatter)
    assert pictures.missing == {1}
    np.testing.assert_array_equal(pictures.pixels[0], picture(0)[0])


def test_frames_of_two_pixel_shapes_are_an_error():
    pictures, reformatter = pictures_for(0, 1), VideoReformatter()
    pictures.put(0, picture(0)[1], reformatter, 16 / 11)
    message = r"folder/clip\.mp4: the pixel shape changes within the clip: width / height is 1\.455 first, then 1\.091"
    with pytest.raises(VideoDecodeError, match=message):
        pictures.put(1, picture(1)[1], reformatter, 12 / 11)
    assert pictures.missing == {1}


def test_a_rotation_that_is_not_a_multiple_of_90_degrees_is_an_error(decode_turned):
    pictures = pictures_for(0)
    message = r"folder/clip\.mp4: it is rotated by -?\d+ degrees. Encode it upright"
    with pytest.raises(VideoDecodeError, match=message):
        pictures.put(0, decode_turned(45)[0], VideoReformatter())
    assert pictures.missing == {0}
