"""The list of packets: what a container says about its frames, when that is reliable, and which packets a frame needs.
Lists that no encoder here produces are made by hand."""

from fractions import Fraction

import av
import numpy as np
import pytest

from fvv_lib.course.numbered import write_numbered
from fvv_lib.errors import VideoDecodeError
from fvv_lib.video.exact import packets
from fvv_lib.video.exact.containers import open_bytes
from fvv_lib.video.exact.packets import (
    SEEKABLE,
    Clock,
    Packets,
    group_by_key_frame,
    has_pts,
    list_packets,
    starts_at_key_frames,
)
from fvv_lib.video.exact.reader import read_exact

COUNT, GOP = 24, 6
CODECS = {
    "libx264": "h264",
    "libx265": "hevc",
    "libvpx-vp9": "vp9",
    "libsvtav1": "av1",
    "mpeg4": "mpeg4",
    "mjpeg": "mjpeg",
    "libvpx": "vp8",
    "wmv2": "wmv2",
    "flv": "flv1",
}


def listed(path):
    """Return the packets of a clip and the name of its codec."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return list_packets(path, container, stream), stream.codec.canonical_name


def by_hand(pts, keys=(0,), hidden=(), timed=True, dts=None):
    """Return packets with these pts, in decoding order. `keys` and `hidden` are indices in that order."""
    places = np.arange(len(pts))
    return Packets(
        pts=np.array(pts),
        dts=places if dts is None else np.array(dts),
        key=np.isin(places, keys),
        shown=~np.isin(places, hidden),
        time_base=Fraction(1, 10),
        timed=timed,
        kept=[],
    )


@pytest.fixture
def write(tmp_path):
    """Write a numbered clip of 24 frames with a key frame every 6, and return its path."""

    def start(codec="libx264", container="mp4", **settings):
        if codec not in av.codecs_available:
            pytest.skip(f"this FFmpeg cannot encode with {codec}")
        path = tmp_path / f"clip.{container}"
        write_numbered(path, codec, **{"gop": GOP, "count": COUNT, **settings})
        return path

    return start


# --- what is listed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize(
    ("codec", "container"), [("libx264", "mp4"), ("libx264", "mkv"), ("libvpx-vp9", "webm"), ("mjpeg", "mov")]
)
def test_each_frame_is_a_packet_with_its_time_and_key_frames_are_marked(tmp_path, codec, container, variable):
    path = tmp_path / f"clip.{container}"
    times = write_numbered(path, codec, gop=GOP, count=COUNT, variable=variable)
    found, _ = listed(path)
    np.testing.assert_allclose(found.times, times, atol=1e-3)
    assert np.flatnonzero(found.key).tolist() == list(range(0, COUNT, 1 if codec == "mjpeg" else GOP))
    assert found.shown.all()
    assert found.timed


def test_packets_are_in_decoding_order_and_frames_in_presentation_order(write):
    path = write(b_frames=2)
    found, _ = listed(path)
    with av.open(str(path)) as container:
        demuxed = [packet.pts for packet in container.demux(video=0) if packet.size]
    with av.open(str(path)) as container:
        decoded = [frame.pts for frame in container.decode(video=0)]
    assert demuxed != decoded  # it has B-frames
    assert found.pts.tolist() == demuxed
    assert (np.diff(found.dts) > 0).all()
    assert found.shown_pts.tolist() == decoded
    assert [found.position[pts] for pts in demuxed] == list(range(COUNT))


def test_frames_that_an_edit_list_removes_have_no_time(tmp_path, write):
    """A cut without re-encoding: 8 frames come before the first shown frame."""
    source = write(b_frames=2)
    with av.open(str(source)) as reading, av.open(str(tmp_path / "cut.mp4"), "w") as writing:
        stream = writing.add_stream_from_template(reading.streams.video[0])
        for packet in reading.demux(video=0):
            if packet.size:
                shift = 8 * int(Fraction(1, 25) / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                writing.mux(packet)
    found, _ = listed(tmp_path / "cut.mp4")
    assert len(found.shown) > found.shown.sum() == COUNT - 8
    np.testing.assert_allclose(found.times, np.arange(COUNT - 8) / 25, atol=1e-3)


def test_times_start_at_the_first_shown_frame():
    found = by_hand([100, 130, 110, 120, 150, 140], hidden=(0, 2))
    assert found.shown_pts.tolist() == [120, 130, 140, 150]
    assert found.times == pytest.approx([0, 1, 2, 3])
    assert found.position[140] == 5


@pytest.mark.parametrize(
    ("codec", "container", "b_frames", "given", "timed"),
    [
        ("libx264", "mp4", 2, True, True),
        ("libx264", "flv", 2, True, True),
        ("libx264", "avi", 0, False, True),
        ("libx264", "avi", 2, False, False),
        ("libx264", "wmv", 0, False, True),
        ("libx264", "wmv", 2, False, False),
        ("mjpeg", "avi", 0, False, True),
        ("mpeg4", "avi", 0, False, False),
        ("wmv2", "wmv", 0, True, False),
    ],
)
def test_containers_without_presentation_times_are_recognized(write, codec, container, b_frames, given, timed):
    """AVI, and H.264 in ASF, have decoding times instead. The two are equal if frames are shown in decoding order."""
    path = write(codec, container, b_frames=b_frames)
    found, _ = listed(path)
    assert found.timed == timed
    with av.open(str(path)) as opened:
        assert has_pts(opened, opened.streams.video[0].codec.name) == given
    if not given:
        assert (found.pts == found.dts).all()
    np.testing.assert_allclose(found.times, np.arange(COUNT) / 25, atol=1e-3)  # right for the clip as a whole


def test_a_file_without_times_has_no_list(tmp_path):
    """Raw H.264 has frames but no times."""
    write_numbered(tmp_path / "clip.h264", gop=GOP, count=COUNT)
    assert listed(tmp_path / "clip.h264")[0] is None


def test_a_file_that_shows_no_frame_has_no_list(write):
    path = write(b_frames=2)
    content = bytearray(path.read_bytes())
    start = content.index(b"elst") + 16  # start time of the only entry, after version, count and duration
    content[start : start + 4] = (0x7FFFFFF0).to_bytes(4, "big")
    path.write_bytes(content)
    assert listed(path)[0] is None


# --- limits -------------------------------------------------------------------------------------------------------


def test_the_packets_of_a_short_clip_are_kept_up_to_the_limit(write, monkeypatch):
    """All of them are kept, or none: the first half of a clip is of no use."""
    path = write()
    with av.open(str(path)) as container:
        contents = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    size = sum(map(len, contents)) + COUNT * packets.PACKET_BYTES
    for limit, kept in ((size, contents), (size - 1, []), (size // 2, [])):
        monkeypatch.setattr(packets, "KEPT_BYTES", limit)
        found, _ = listed(path)
        assert [bytes(packet) for packet in found.kept] == kept
        assert len(found.pts) == COUNT


def test_a_clip_may_have_as_many_frames_as_the_limit_but_not_one_more(write, monkeypatch):
    path = write()
    monkeypatch.setattr(packets, "MAX_FRAMES", COUNT)
    assert len(listed(path)[0].pts) == COUNT
    monkeypatch.setattr(packets, "MAX_FRAMES", COUNT - 1)
    with pytest.raises(VideoDecodeError, match=rf"clip\.mp4: it has more than {COUNT - 1} frames. Cut it"):
        listed(path)


def test_frames_that_the_index_lists_but_the_file_lacks_are_an_error(write):
    path = write(container_options={"movflags": "faststart"})  # the index comes first and survives the cut
    with av.open(str(path)) as container:
        starts = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: starts[15]])
    message = rf"clip\.mp4: the file lists {COUNT} frames, but 15 are there.*Download or copy it again"
    with pytest.raises(VideoDecodeError, match=message):
        listed(path)


# --- where decoding may start -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "container", "safe"),
    [
        ("libx264", "mp4", True),
        ("libx264", "mkv", True),
        ("libx265", "mp4", True),
        ("libvpx-vp9", "webm", True),
        ("libsvtav1", "webm", True),
        ("mpeg4", "mp4", True),
        ("mjpeg", "mov", True),
        ("libvpx", "webm", False),
        ("wmv2", "wmv", False),
        ("flv", "flv", False),
    ],
)
def test_decoding_starts_at_key_frames_of_codecs_whose_packets_are_frames(write, codec, container, safe):
    found, name = listed(write(codec, container))
    assert starts_at_key_frames(found, name) == safe
    assert name == CODECS[codec]  # the name of the codec, not of the decoder
    assert (name in SEEKABLE) == safe


def test_av1_is_read_by_key_frame(write):
    path = write("libsvtav1", "webm")
    with open_bytes(path) as file:
        found = read_exact(path, file, lambda times: np.array([7]), 1, nearest_key=True)
    assert found.indices.tolist() == [GOP]


def test_decoding_can_start_at_each_closed_group():
    assert starts_at_key_frames(by_hand([0, 30, 10, 20, 40, 60, 50], keys=(0, 4)), "h264")
    assert starts_at_key_frames(by_hand([0, 10, 20, 30, 40, 50, 60], keys=(0, 4)), "vp9")


@pytest.mark.parametrize(
    ("reason", "found", "codec"),
    [
        ("it is unknown which frame a pts belongs to", by_hand([0, 10, 20], timed=False), "h264"),
        ("a packet of this codec may hold no frame, or two", by_hand([0, 10, 20]), "vp8"),
        ("two packets have one pts", by_hand([0, 10, 10, 20]), "h264"),
        ("no packet is a key frame", by_hand([0, 10, 20], keys=()), "h264"),
        ("the first packet is no key frame", by_hand([0, 10, 20], keys=(1,)), "hevc"),
        ("a frame is shown before the first key frame", by_hand([20, 0, 10, 30], keys=(0, 3)), "hevc"),
        ("packets of this codec are in presentation order", by_hand([0, 20, 10, 30]), "av1"),
        ("a frame that is decoded before a key frame is shown after it", by_hand([0, 30, 20, 40], (0, 2)), "hevc"),
        ("a frame that follows a key frame is shown before it", by_hand([0, 30, 10, 20], (0, 1)), "h264"),
    ],
)
def test_decoding_does_not_start_at_key_frames_if(reason, found, codec):
    assert not starts_at_key_frames(found, codec), reason


def test_decoding_can_start_at_an_open_group_only_in_hevc():
    open_group = by_hand([0, 10, 40, 20, 30, 50], keys=(0, 2))
    assert starts_at_key_frames(open_group, "hevc")
    assert not starts_at_key_frames(open_group, "mpeg4")


def test_hidden_frames_before_the_first_key_frame_do_no_harm():
    leading = [20, 0, 10, 30]
    assert starts_at_key_frames(by_hand(leading, hidden=(1, 2)), "hevc")
    assert not starts_at_key_frames(by_hand(leading, hidden=(1,)), "hevc")


# --- what to decode -----------------------------------------------------------------------------------------------


def as_tuples(groups):
    return [(group.first, group.last, sorted(group.pts)) for group in groups]


def test_targets_that_share_a_key_frame_are_one_run_up_to_the_last_packet_needed():
    """The frame at 20 is shown before the frame at 30, but decoded after it."""
    found = by_hand([0, 30, 10, 20, 40, 70, 50, 60], keys=(0, 4))
    assert as_tuples(group_by_key_frame(found, np.array([20, 30]))) == [(0, 3, [20, 30])]
    assert as_tuples(group_by_key_frame(found, np.array([70, 0, 30]))) == [(0, 1, [0, 30]), (4, 5, [70])]


def test_a_target_that_is_requested_twice_is_decoded_once():
    found = by_hand([0, 10, 20, 30], keys=(0, 2))
    assert as_tuples(group_by_key_frame(found, np.array([30, 10, 30, 10]))) == [(0, 1, [10]), (2, 3, [30])]


def test_a_key_frame_alone_needs_one_packet():
    found = by_hand([0, 10, 20, 30], keys=(0, 2))
    assert as_tuples(group_by_key_frame(found, np.array([20]))) == [(2, 2, [20])]


def test_leading_frames_of_an_open_group_need_the_key_frame_before():
    """The frames at 20 and 30 follow the key frame at 40 in the file."""
    found = by_hand([0, 10, 40, 20, 30, 50], keys=(0, 2))
    assert as_tuples(group_by_key_frame(found, np.array([30, 40]))) == [(0, 4, [30]), (2, 2, [40])]


def test_every_frame_of_a_clip_is_in_one_group_that_starts_with_its_key_frame(write):
    options = {"x265-params": "open-gop=1:bframes=3:keyint=6:min-keyint=6:scenecut=0:log-level=none"}
    found, _ = listed(write("libx265", "mkv", b_frames=3, codec_options=options))
    assert (found.pts < np.maximum.accumulate(np.where(found.key, found.pts, 0))).any()  # it has leading frames
    groups = group_by_key_frame(found, found.shown_pts)
    assert sorted(pts for group in groups for pts in group.pts) == found.shown_pts.tolist()
    keys = np.sort(found.pts[found.key])
    for group in groups:
        assert found.key[group.first]
        assert {keys[keys <= pts].max() for pts in group.pts} == {found.pts[group.first]}
        assert group.last == max(found.position[pts] for pts in group.pts) >= group.first


def test_a_clock_starts_again_only_if_it_falls_back():
    def continued(times):
        clock, result = Clock(tolerance=9000), []
        for time in times:
            clock.follow(time, duration=3600)
            result.append(time + clock.offset)
        return result

    jittered = [0, 3600, 7200, 7200, 10_800, 14_399, 14_400, 14_390, 18_000, 900_000]
    assert continued(jittered) == jittered
    assert continued([90_000, 100_800, 0, 10_800, 0]) == [90_000, 100_800, 111_600, 122_400, 133_200]
