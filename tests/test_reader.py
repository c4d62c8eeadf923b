"""The exact reader: its frames are those of a sequential decode, bit for bit, in every container and codec (invariant
1). Each clip made here carries its frame numbers in its pictures, so a test sees whether it got the right frame, and
not only that two readers agree.
"""

from fractions import Fraction

import av
import numpy as np
import pytest
from conftest import assert_true_frames, decode_all

from fvv_lib import packets, reader
from fvv_lib.decoding import read_video
from fvv_lib.errors import VideoDecodeError
from fvv_lib.numbered import ENCODINGS, FPS, read_numbers, write_numbered

COUNT = 72


def copy_packets(source, target, change):
    """Copy a clip packet by packet, each through `change(number, packet) -> packet`."""
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        stream = writing.add_stream_from_template(reading.streams.video[0])
        for number, packet in enumerate(reading.demux(video=0)):
            if packet.dts is not None:
                packet = change(number, packet)
                packet.stream = stream
                writing.mux(packet)


# --- the matrix of encodings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "container", "gop", "b_frames", "variable"), ENCODINGS)
def test_frames_and_times_are_those_of_a_sequential_decode(tmp_path, codec, container, gop, b_frames, variable):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg can not encode with {codec}")
    path = tmp_path / f"clip.{container}"
    count = 320 if gop == 300 else COUNT
    times = write_numbered(path, codec, gop=gop, b_frames=b_frames, variable=variable, count=count)
    reference = decode_all(path)
    for arguments in ({}, {"strategy": "random", "seed": 1, "num_threads": 1}):
        video = read_video(path, 8, **arguments)
        assert_true_frames(video, reference)
        assert read_numbers(video.frames) == video.indices.tolist()
        np.testing.assert_allclose(video.timestamps, times[video.indices], atol=1e-3)
    assert video.fps == pytest.approx((count - 1) / times[-1], rel=1e-3)
    assert video.duration == pytest.approx(count / video.fps)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("container", ["mp4", "mov"])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_display_matrix_turns_frames_upright(tmp_path, codec, container, rotation):
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV can not write a display matrix")
    path = tmp_path / f"clip.{container}"
    write_numbered(path, codec, rotation=rotation, b_frames=2)
    video = read_video(path, 6)
    assert_true_frames(video, decode_all(path))
    assert read_numbers(np.rot90(frame, -rotation // 90) for frame in video.frames) == video.indices.tolist()


@pytest.mark.parametrize(("codec", "container"), [("libx264", "mp4"), ("libvpx", "webm"), ("wmv2", "wmv")])
def test_reading_every_frame_gives_the_whole_clip(tmp_path, codec, container):
    path = tmp_path / f"clip.{container}"
    write_numbered(path, codec, b_frames=2)
    video = read_video(path, COUNT)
    assert_true_frames(video, decode_all(path))
    assert read_numbers(video.frames) == list(range(COUNT))


# --- which way the reader goes ----------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch):
    """The pts of every packet that the fast way hands to a decoder."""
    fed = []
    run = reader._run

    def spy(*arguments):
        for packet in run(*arguments):
            if packet is not None:
                fed.append(packet.pts)
            yield packet

    monkeypatch.setattr(reader, "_run", spy)
    return fed


def test_only_what_the_targets_need_is_decoded(tmp_path, decoded):
    write_numbered(tmp_path / "clip.mp4", gop=12)
    video = read_video(tmp_path / "clip.mp4", 3)  # frames 0, 35, 71: the ends of their groups of 12
    assert read_numbers(video.frames) == [0, 35, 71]
    assert len(decoded) == 1 + 12 + 12


def test_targets_that_share_a_key_frame_are_decoded_in_one_run(tmp_path, decoded):
    write_numbered(tmp_path / "clip.mp4", gop=60)
    read_video(tmp_path / "clip.mp4", 8, end=2.0)
    assert len(decoded) == len(set(decoded)) == 50


def test_open_gops_are_exact(tmp_path):
    """Frames that follow a key frame in the file and are shown before it need the group before it."""
    for codec, options in (
        ("libx264", {"x264-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12:scenecut=0"}),
        ("libx265", {"x265-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12:scenecut=0:log-level=none"}),
    ):
        path = tmp_path / f"{codec}.mkv"
        write_numbered(path, codec, codec_options=options, b_frames=3)
        reference = decode_all(path)
        for count in (8, 11, COUNT):
            video = read_video(path, count)
            assert_true_frames(video, reference)
            assert read_numbers(video.frames) == video.indices.tolist()


def test_where_a_key_frame_is_no_clean_start_the_clip_is_decoded_in_order(tmp_path, decoded):
    """x264's open GOP: after a seek, the decoder's list of references is not that of a whole decode."""
    options = {"x264-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12:scenecut=0"}
    write_numbered(tmp_path / "clip.mkv", codec_options=options, b_frames=3)
    read_video(tmp_path / "clip.mkv", 8)
    assert decoded == []


def test_avi_is_read_by_key_frame_where_frames_are_shown_as_they_are_decoded(tmp_path, decoded):
    """AVI has no times of presentation. H.264 without B slices, and MJPEG, need none."""
    for codec, options in (("libx264", {"gop": 12}), ("mjpeg", {})):
        write_numbered(tmp_path / "clip.avi", codec, **options)
        video = read_video(tmp_path / "clip.avi", 3)
        assert_true_frames(video, decode_all(tmp_path / "clip.avi"))
        assert read_numbers(video.frames) == [0, 35, 71]
    assert len(decoded) == (1 + 12 + 12) + 3


def test_avi_with_a_b_slice_anywhere_is_decoded_in_order(tmp_path, decoded):
    """Here the last second alone has B-frames: header and first pictures promise none."""
    write_numbered(tmp_path / "plain.avi", gop=12, count=48)
    write_numbered(tmp_path / "b_frames.avi", gop=12, count=24, b_frames=2)
    with av.open(str(tmp_path / "clip.avi"), "w") as writing:
        for number, name in enumerate(("plain.avi", "b_frames.avi")):
            with av.open(str(tmp_path / name)) as reading:
                if number == 0:
                    stream = writing.add_stream_from_template(reading.streams.video[0])
                for packet in reading.demux(video=0):
                    if packet.dts is not None:
                        packet.pts = packet.dts = packet.dts + 48 * number
                        packet.stream = stream
                        writing.mux(packet)
    reference = decode_all(tmp_path / "clip.avi")
    assert read_numbers(reference) == [*range(48), *range(24)]
    for count in (3, 8, COUNT):
        assert_true_frames(read_video(tmp_path / "clip.avi", count), reference)
    assert decoded == []


def test_intra_refresh_is_exact(tmp_path):
    """A column that sweeps over the picture stands for key frames: no frame after the first is a clean start."""
    options = {"x264-params": "intra-refresh=1:keyint=24:bframes=0"}
    write_numbered(tmp_path / "clip.mp4", codec_options=options)
    video = read_video(tmp_path / "clip.mp4", 8)
    assert_true_frames(video, decode_all(tmp_path / "clip.mp4"))
    assert read_numbers(video.frames) == video.indices.tolist()


def test_a_packet_without_a_visible_frame_shifts_no_number(tmp_path, decoded):
    """VP8 has pictures that are only there to be referred to. Here a bit in the header makes two frames such: a reader
    that goes by the list of packets would be off by one, and by two."""
    hidden = (10, 30)

    def hide(number, packet):
        content = bytearray(bytes(packet))
        if number in hidden:
            content[0] &= 0b11101111
        copy = av.Packet(bytes(content))
        copy.pts, copy.dts, copy.time_base, copy.is_keyframe = packet.pts, packet.dts, packet.time_base, number == 0
        return copy

    write_numbered(tmp_path / "all.webm", "libvpx", gop=60)
    copy_packets(tmp_path / "all.webm", tmp_path / "clip.webm", hide)
    shown = [number for number in range(COUNT) if number not in hidden]
    reference = decode_all(tmp_path / "clip.webm")
    assert len(reference) == len(shown)
    # The middles of 8 parts end before the last packets, and one frame ends before the first that is hidden.
    for count, strategy in ((8, "uniform"), (8, "segment"), (1, "uniform"), (len(shown), "uniform")):
        video = read_video(tmp_path / "clip.webm", count, strategy=strategy)
        assert_true_frames(video, reference)
        assert read_numbers(video.frames) == [shown[i] for i in video.indices]
        np.testing.assert_allclose(video.timestamps, [shown[i] / FPS for i in video.indices], atol=1e-3)
    assert decoded == []


@pytest.mark.parametrize("cut", [5, 17])
def test_frames_cut_away_by_an_edit_list_are_not_counted(tmp_path, cut):
    """A cut without a new encoding keeps the packets from the key frame on and says which of them not to show."""

    def earlier(_, packet):
        shift = cut * int(Fraction(1, FPS) / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        return packet

    write_numbered(tmp_path / "all.mp4", b_frames=2)
    copy_packets(tmp_path / "all.mp4", tmp_path / "clip.mp4", earlier)
    reference = decode_all(tmp_path / "clip.mp4")
    assert len(reference) == COUNT - cut
    for count in (8, COUNT):
        video = read_video(tmp_path / "clip.mp4", count)
        assert_true_frames(video, reference)
        assert read_numbers(video.frames) == (video.indices + cut).tolist()
        np.testing.assert_allclose(video.timestamps, video.indices / FPS, atol=1e-3)


def test_a_clip_that_starts_late_is_counted_from_its_first_frame(tmp_path):
    def later(_, packet):
        shift = int(Fraction(3) / packet.time_base)
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
        return packet

    write_numbered(tmp_path / "all.mkv", b_frames=2)
    copy_packets(tmp_path / "all.mkv", tmp_path / "clip.mkv", later)
    video = read_video(tmp_path / "clip.mkv", 8)
    assert_true_frames(video, decode_all(tmp_path / "clip.mkv"))
    np.testing.assert_allclose(video.timestamps, video.indices / FPS, atol=2e-3)


@pytest.mark.parametrize("count", [1, 8])
def test_damage_in_a_frame_that_was_not_asked_for_is_an_error(tmp_path, count):
    """What refers to a damaged frame is damaged too, and FFmpeg marks the first one only."""
    path = tmp_path / "clip.mp4"
    write_numbered(path, gop=300, b_frames=0)
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][5]
    content = bytearray(path.read_bytes())
    content[packet.pos + packet.size // 2] ^= 0x10
    path.write_bytes(content)
    if count == 1:  # frame 0 comes before the damage and is right
        assert read_numbers(read_video(path, 1).frames) == [0]
        return
    with pytest.raises(VideoDecodeError, match=r"clip\.mp4"):
        read_video(path, count)


# --- key frames only --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "container"), [("libx264", "mp4"), ("libx264", "mkv"), ("libvpx-vp9", "webm")])
def test_key_frames_near_the_targets_and_how_far_off_they_are(tmp_path, codec, container, decoded):
    path = tmp_path / f"clip.{container}"
    times = write_numbered(path, codec, gop=12)
    asked = np.linspace(0, COUNT - 1, 8, dtype=int)
    video = read_video(path, 8, accuracy="keyframe")
    keys = np.arange(0, COUNT, 12)
    assert video.indices.tolist() == [int(keys[np.abs(keys - index).argmin()]) for index in asked]
    assert read_numbers(video.frames) == video.indices.tolist()
    np.testing.assert_allclose(video.errors, times[video.indices] - times[asked], atol=2e-3)
    assert len(decoded) == len(set(video.indices.tolist()))


def test_without_a_list_of_key_frames_the_frames_are_exact(tmp_path):
    write_numbered(tmp_path / "clip.avi", gop=12, b_frames=2)
    video = read_video(tmp_path / "clip.avi", 8, accuracy="keyframe")
    assert read_numbers(video.frames) == np.linspace(0, COUNT - 1, 8, dtype=int).tolist()
    assert not video.errors.any()


# --- limits -----------------------------------------------------------------------------------------------------


def test_a_picture_larger_than_the_limit_is_refused(tmp_path, monkeypatch):
    write_numbered(tmp_path / "clip.mp4")
    monkeypatch.setattr(reader, "MAX_PIXELS", 100 * 64)
    with pytest.raises(VideoDecodeError, match=r"clip\.mp4"):
        read_video(tmp_path / "clip.mp4", 8)


@pytest.mark.parametrize("container", ["mp4", "avi"])
def test_a_clip_with_more_frames_than_the_limit_is_refused(tmp_path, monkeypatch, container):
    write_numbered(tmp_path / f"clip.{container}")
    monkeypatch.setattr(packets, "MAX_FRAMES", 50)
    with pytest.raises(VideoDecodeError, match="more than 50 frames"):
        read_video(tmp_path / f"clip.{container}", 8)
