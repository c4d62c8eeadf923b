"""Files that state their size: whole files pass, and every truncated file is found without decoding a frame."""

import os
from contextlib import suppress

import av
import pytest
from shared import Pipe

from fvv_lib.course.numbered import write_numbered
from fvv_lib.errors import VideoDecodeError
from fvv_lib.video.exact import truncation
from fvv_lib.video.exact.truncation import EBML, SEGMENT

TELL = (("mpeg4", "avi"), ("libx264", "avi"), ("libx264", "mkv"), ("libvpx-vp9", "webm"), ("wmv2", "wmv"))


def promised_size(path):
    with open(path, "rb") as file:
        return truncation.promised_size(file)


def check_size(path):
    with open(path, "rb") as file:
        truncation.check_size(path, file)


def record_live(codec, container):
    pipe = Pipe()
    with av.open(pipe, "w", format=container) as writing:
        stream = writing.add_stream(codec, rate=25, width=64, height=48)
        stream.pix_fmt = "yuv420p"
        for number in range(3):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = number
            writing.mux(stream.encode(frame))
        writing.mux(stream.encode())
    return bytes(pipe.content)


@pytest.fixture(params=TELL, ids="-".join)
def clip(request, tmp_path):
    """A whole clip in each container that stores its size."""
    codec, container = request.param
    path = tmp_path / f"clip.{container}"
    write_numbered(path, codec, count=12)
    return path


def test_a_whole_file_has_the_size_that_its_header_states(clip):
    assert promised_size(clip) == clip.stat().st_size
    check_size(clip)


@pytest.mark.parametrize("missing", [1, 100, 0.5])
def test_a_truncated_file_is_an_error_that_names_it_and_both_sizes(clip, missing):
    content = clip.read_bytes()
    left = len(content) - (missing if isinstance(missing, int) else int(missing * len(content)))
    clip.write_bytes(content[:left])
    message = rf"{clip.name}: it has {left:,} of the {len(content):,} bytes .*cut short. Download or copy it again"
    with pytest.raises(VideoDecodeError, match=message):
        check_size(clip)


def test_bytes_after_the_end_are_not_an_error(clip):
    """Other programs append tags, an index or zeros."""
    with clip.open("ab") as file:
        file.write(bytes(1000))
    check_size(clip)


def test_a_file_cut_within_its_header_is_refused_or_left_to_the_decoder(clip):
    for length in reversed(range(300)):
        os.truncate(clip, length)
        with suppress(VideoDecodeError):
            check_size(clip)


@pytest.mark.parametrize(
    ("codec", "container"), [("libx264", "mp4"), ("libx264", "mov"), ("libx264", "m4v"), ("flv", "flv")]
)
def test_other_containers_do_not_state_their_size(tmp_path, codec, container):
    path = tmp_path / f"clip.{container}"
    write_numbered(path, codec, count=12)
    assert promised_size(path) is None
    path.write_bytes(path.read_bytes()[:500])
    check_size(path)


@pytest.mark.parametrize("content", [b"", b"R", EBML, bytes(9000), b"<html>not found</html>" * 500])
def test_a_file_that_is_not_a_video_does_not_state_its_size(tmp_path, content):
    path = tmp_path / "clip.mkv"
    path.write_bytes(content)
    assert promised_size(path) is None
    check_size(path)


@pytest.mark.parametrize(
    ("codec", "container"),
    [("libx264", "matroska"), ("libvpx-vp9", "webm"), ("wmv2", "asf"), ("mpeg4", "avi")],
)
def test_a_live_recording_does_not_state_its_size(tmp_path, codec, container):
    path = tmp_path / "live"
    path.write_bytes(record_live(codec, container))
    with av.open(str(path)) as recorded:
        assert sum(1 for _ in recorded.decode(video=0)) == 3
    assert promised_size(path) is None
    check_size(path)


def ebml(length, size):
    """Return the head of a Matroska file with a segment of `size` bytes (`None`: unknown), stated in `length` bytes."""
    value = (1 << 7 * length) - 1 if size is None else size
    field = (value | 1 << 7 * length).to_bytes(length, "big")
    head = bytes.fromhex("42868101")  # EBMLVersion 1
    return EBML + bytes([0x80 | len(head)]) + head + SEGMENT + field


@pytest.mark.parametrize("length", range(1, 9))
def test_a_size_in_matroska_has_one_to_eight_bytes(tmp_path, length):
    """RFC 8794: leading zeros give the number of bytes; all ones mean an unknown size."""
    path = tmp_path / "clip.mkv"
    known = ebml(length, 100)
    path.write_bytes(known + bytes(99))
    assert promised_size(path) == len(known) + 100
    with pytest.raises(VideoDecodeError, match=rf"clip\.mkv: it has {len(known) + 99} of the {len(known) + 100} bytes"):
        check_size(path)
    path.write_bytes(known + bytes(100))
    check_size(path)
    path.write_bytes(ebml(length, None))
    assert promised_size(path) is None


@pytest.mark.parametrize(
    "after_header",
    [bytes.fromhex("1F43B675") + b"\xe4", SEGMENT, SEGMENT + b"\0\xc0" + bytes(7)],
    ids=["another element", "no size", "no valid size"],
)
def test_an_ebml_file_without_a_segment_size_does_not_state_its_size(tmp_path, after_header):
    path = tmp_path / "clip.mkv"
    path.write_bytes(ebml(1, 100).partition(SEGMENT)[0] + after_header)
    assert promised_size(path) is None
