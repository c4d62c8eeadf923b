"""The index of a file: its packets are those that reading the file gives, and most of the file is not read. Where an
index does not say enough, or is wrong, the packets are listed by reading them."""

import io
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from shared import Pipe, assert_true_frames, decode_all, join_streams

from fvv_lib.course.numbered import ENCODINGS, FPS, HEIGHT, WIDTH, paint, read_numbers, repeat_packets, write_numbered
from fvv_lib.errors import VideoDecodeError
from fvv_lib.video.exact import index, matroska, mp4, reader
from fvv_lib.video.exact.containers import open_bytes
from fvv_lib.video.exact.index import index_packets, read_packets
from fvv_lib.video.exact.packets import Group, list_packets
from fvv_lib.video.read import read_video

COUNT = 36
INDEXED = ("mp4", "m4v", "mov", "mkv", "webm")
CODECS = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "mpeg4", "mjpeg")


@pytest.fixture(autouse=True)
def no_file_is_too_small(monkeypatch):
    monkeypatch.setattr(index, "MIN_BYTES", 0)


def both_lists(path):
    """Return the packets by the index (`None` if it does not tell), those that reading gives, and their content."""
    with reader.open_video(path, probe=False) as (container, stream), open_bytes(path) as file:
        told = index_packets(file, container, stream)
        content = None
        if told is not None:
            every = Group(0, len(told.pts) - 1, frozenset())
            content = [bytes(packet) for packet in read_packets(file, told, every)]
        return told, list_packets(path, container, stream), content


def assert_same_lists(path):
    told, read, content = both_lists(path)
    assert told is not None, "the index does not tell"
    for values in ("pts", "dts"):
        ours, theirs = getattr(told, values), getattr(read, values)
        if values == "pts" or path.suffix in (".mp4", ".mov", ".m4v"):
            assert (ours - ours[0]).tolist() == (theirs - theirs[0]).tolist(), values
    assert told.key.tolist() == read.key.tolist()
    assert told.shown.all()
    assert read.shown.all()
    assert told.time_base == read.time_base
    assert np.array_equal(told.times, read.times)
    assert content == [bytes(packet) for packet in read.kept]


@pytest.mark.parametrize(
    ("codec", "container", "gop", "b_frames", "variable"),
    [one for one in ENCODINGS if one[0] in CODECS and one[1] in INDEXED and one[2] <= 12],
)
def test_an_index_lists_the_packets_that_reading_the_file_gives(tmp_path, codec, container, gop, b_frames, variable):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg cannot encode with {codec}")
    path = tmp_path / f"clip.{container}"
    write_numbered(path, codec, gop=gop, b_frames=b_frames, variable=variable, count=COUNT)
    assert_same_lists(path)


LAYOUTS = {
    "tables first": ("mp4", {"movflags": "faststart"}),
    "a fragment for each group": ("mp4", {"movflags": "frag_keyframe+empty_moov"}),
    "a fragment for each frame": ("mp4", {"movflags": "frag_every_frame+empty_moov"}),
    "fragments with their base": ("mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "fragments after the first frames": ("mp4", {"movflags": "frag_keyframe+delay_moov"}),
    "fragments of half a second": ("mov", {"movflags": "empty_moov", "frag_duration": "500000"}),
    "fragments with an index": ("mp4", {"movflags": "dash+frag_keyframe+global_sidx"}),
    "fragments without offsets": ("mp4", {"movflags": "frag_keyframe+empty_moov+omit_tfhd_offset"}),
    "without an edit list": ("mp4", {"use_editlist": "0"}),
    "with a coarse clock": ("mp4", {"video_track_timescale": "1000"}),
    "small clusters": ("mkv", {"cluster_size_limit": "2000"}),
    "short clusters": ("mkv", {"cluster_time_limit": "100"}),
    "cues first": ("mkv", {"reserve_index_space": "5000"}),
    "without cues": ("mkv", {"live": "1"}),
}


@pytest.mark.parametrize("gop", [1, 12])
@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
def test_the_index_of_an_avi_is_read_if_its_frames_are_in_decoding_order(tmp_path, codec, gop):
    write_numbered(tmp_path / "clip.avi", codec, gop=gop, count=COUNT)
    assert_same_lists(tmp_path / "clip.avi")


@pytest.mark.parametrize(("codec", "b_frames"), [("libx264", 2), ("mpeg4", 0), ("mpeg4", 2)])
def test_an_avi_that_may_have_b_frames_is_listed_by_reading_it(tmp_path, codec, b_frames):
    path = tmp_path / "clip.avi"
    write_numbered(path, codec, b_frames=b_frames, count=COUNT)
    assert both_lists(path)[0] is None
    assert_true_frames(read_video(path, 8), decode_all(path))


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_index_is_read_in_every_layout(tmp_path, layout, b_frames):
    container, options = LAYOUTS[layout]
    path = tmp_path / f"clip.{container}"
    write_numbered(path, b_frames=b_frames, count=COUNT, container_options=options)
    assert_same_lists(path)
    video = read_video(path, COUNT)
    assert_true_frames(video, decode_all(path))
    assert read_numbers(video.frames) == list(range(COUNT))


@pytest.mark.parametrize("container", ["mkv", "webm"])
def test_a_live_recording_has_clusters_of_unknown_size(tmp_path, container):
    pipe = Pipe()
    with av.open(pipe, "w", format="matroska", options={"live": "1"}) as writing:
        stream = writing.add_stream("libx264", rate=FPS, width=WIDTH, height=HEIGHT)
        stream.pix_fmt, stream.codec_context.gop_size = "yuv420p", 12
        for number in range(COUNT):
            writing.mux(stream.encode(av.VideoFrame.from_ndarray(paint(number), format="rgb24")))
        writing.mux(stream.encode())
    path = tmp_path / f"clip.{container}"
    path.write_bytes(pipe.content)
    assert_same_lists(path)


def with_groups(path):
    """Write each packet of a Matroska file in a cluster and a group of its own, as other programs do. A block in a
    group is a key frame unless the group names another block that it refers to."""
    told, _, content = both_lists(path)
    data = path.read_bytes()
    segment = data.index(matroska.SEGMENT) + 4
    parts = [data[:segment], b"\x01" + b"\xff" * 7, data[segment + 8 : data.index(matroska.CLUSTER)]]

    def element(kind, body):
        return bytes.fromhex(kind) + (len(body) | 1 << 28).to_bytes(4, "big") + body

    for pts, key, packet in zip(told.pts.tolist(), told.key, content, strict=True):
        block = element("A1", b"\x81" + (-3).to_bytes(2, "big", signed=True) + b"\0" + packet)
        group = element("A0", block + element("9B", b"\x28") + (b"" if key else element("FB", b"\x28")))
        parts += [matroska.CLUSTER, b"\xff", element("E7", (pts + 3).to_bytes(3, "big")), group]
    path.write_bytes(b"".join(parts))


def test_blocks_in_groups_are_listed(tmp_path):
    path = tmp_path / "clip.mkv"
    write_numbered(path, b_frames=2, count=COUNT)
    with_groups(path)
    assert_same_lists(path)
    assert read_numbers(read_video(path, 8).frames) == np.linspace(0, COUNT - 1, 8, dtype=int).tolist()


def write_with_sound(path, **options):
    """Write a numbered clip whose packets lie between those of a sound track."""
    write_numbered(path.with_suffix(".nut"), b_frames=2, count=COUNT)
    with av.open(str(path.with_suffix(".nut"))) as reading, av.open(str(path), "w", options=options) as writing:
        sound = writing.add_stream("aac", rate=16_000, layout="mono")
        video = writing.add_stream_from_template(reading.streams.video[0])
        for number, packet in enumerate(packet for packet in reading.demux(video=0) if packet.size):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 640), np.float32), format="fltp", layout="mono")
            frame.rate, frame.pts = 16_000, 640 * number
            writing.mux(sound.encode(frame))
            packet.stream = video
            writing.mux(packet)
        writing.mux(sound.encode())


@pytest.mark.parametrize(
    ("container", "options"),
    [
        *(("mp4", {}), ("mov", {}), ("mkv", {})),
        ("mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("mp4", {"movflags": "frag_keyframe+empty_moov+separate_moof"}),
    ],
)
def test_the_packets_of_other_tracks_are_left_out(tmp_path, container, options):
    path = tmp_path / f"clip.{container}"
    write_with_sound(path, **options)
    assert_same_lists(path)
    assert_true_frames(read_video(path, 8), decode_all(path))


# --- what is read -------------------------------------------------------------------------------------------------


def write_noise(path, count=60):
    """Write noise, which makes large packets: about 2 MB."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as writing:
        stream = writing.add_stream("libx264", rate=FPS, width=320, height=240, options={"preset": "ultrafast"})
        stream.pix_fmt, stream.codec_context.gop_size = "yuv420p", 12
        for _ in range(count):
            picture = rng.integers(0, 255, (240, 320, 3)).astype(np.uint8)
            writing.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        writing.mux(stream.encode())


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="this system does not count the bytes that it reads")
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_most_of_a_file_is_not_read(tmp_path, container):
    def count_read():
        return int(Path("/proc/self/io").read_text().split()[1])

    path = tmp_path / f"clip.{container}"
    write_noise(path)
    read_video(path, 1)
    before = count_read()
    video = read_video(path, 1, start=0.96)  # frame 24 is a key frame
    assert video.indices.tolist() == [24]
    assert video.total_frames == 60
    assert count_read() - before < 0.25 * path.stat().st_size


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_hours_are_read_at_true_times(tmp_path, monkeypatch, container):
    """An hour and a half in pieces of 10 seconds, with a second of nothing after each."""
    write_numbered(tmp_path / "piece.mp4", gop=60, b_frames=2, count=250)
    path = tmp_path / f"clip.{container}"
    assert repeat_packets(tmp_path / "piece.mp4", path, 500, pause=FPS) == 125_000
    monkeypatch.setattr(reader, "list_packets", lambda *_: pytest.fail("the whole file was read"))
    video = read_video(path, 16)
    assert video.total_frames == 125_000
    assert video.indices.tolist() == np.linspace(0, 124_999, 16, dtype=int).tolist()
    assert read_numbers(video.frames) == (video.indices % 250).tolist()
    np.testing.assert_allclose(video.timestamps, (video.indices + video.indices // 250 * FPS) / FPS, atol=2e-3)
    part = read_video(path, 3, start=5000.0, end=5000.2)
    rounds, seconds = divmod(5000, 11)
    assert part.indices.tolist() == [250 * rounds + 25 * seconds + i for i in (0, 2, 4)]
    assert read_numbers(part.frames) == (part.indices % 250).tolist()
    assert video.fps == pytest.approx(124_999 / (500 * 11 - 1 - 1 / FPS), rel=1e-6)


ENCODERS = {
    "open groups": ("libx264", {"x264-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12:scenecut=0"}),
    "leading pictures": ("libx265", {"x265-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12:log-level=none"}),
    "groups of any size": ("libx264", {"x264-params": "bframes=3:keyint=17:min-keyint=1:scenecut=80"}),
    "one group": ("libx264", {"x264-params": "bframes=3:keyint=infinite"}),
    "no key frame but the first": ("libx264", {"x264-params": "intra-refresh=1:keyint=24:bframes=0"}),
}


@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize("name", ENCODERS)
def test_frames_are_exact_wherever_decoding_may_start(tmp_path, name, container):
    codec, options = ENCODERS[name]
    path = tmp_path / f"clip.{container}"
    write_numbered(path, codec, b_frames=3, codec_options=options)
    reference = decode_all(path)
    for count in (5, 8, 72):
        video = read_video(path, count)
        assert_true_frames(video, reference)
        assert read_numbers(video.frames) == video.indices.tolist()


def copy_shifted(source, target, seconds, **options):
    """Copy a clip with all its times moved."""
    with av.open(str(source)) as reading, av.open(str(target), "w", options=options) as writing:
        stream = writing.add_stream_from_template(reading.streams.video[0])
        for packet in reading.demux(video=0):
            if packet.size:
                shift = round(seconds / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                writing.mux(packet)


@pytest.mark.parametrize(
    ("container", "seconds", "options", "has_index"),
    [
        ("mp4", Fraction(3), {}, True),
        ("mp4", Fraction(3), {"use_editlist": "0"}, True),
        ("mp4", Fraction(0), {"movflags": "negative_cts_offsets"}, True),
        ("mp4", Fraction(-8, FPS), {}, False),  # an edit list removes 8 frames
        ("mkv", Fraction(3), {}, True),
        ("mkv", Fraction(-1, FPS), {"avoid_negative_ts": "disabled"}, None),
    ],
)
def test_a_clip_may_begin_at_any_time(tmp_path, container, seconds, options, has_index):
    write_numbered(tmp_path / "all.mp4", b_frames=2, count=COUNT)
    path = tmp_path / f"clip.{container}"
    copy_shifted(tmp_path / "all.mp4", path, seconds, **options)
    if has_index is not None:
        assert (both_lists(path)[0] is not None) == has_index
    if has_index:
        assert_same_lists(path)
    reference = decode_all(path)
    for count in (5, len(reference)):
        video = read_video(path, count)
        assert_true_frames(video, reference)
        first = COUNT - len(reference)
        assert read_numbers(video.frames) == (video.indices + first).tolist()
        if has_index is not None:  # FFmpeg has no time for a frame before 0
            np.testing.assert_allclose(video.timestamps, video.indices / FPS, atol=2e-3)


# --- where an index does not say enough -----------------------------------------------------------------------------


def in_box(kind, at, value):
    """Return a change of an MP4: write 4 bytes into a box, `at` bytes after its kind."""

    def change(content, _):
        start = content.index(kind) + 4 + at
        content[start : start + 4] = value.to_bytes(4, "big")

    return change


def in_block(number, at, change_byte):
    """Return a change of a Matroska file: of a byte in a block, `at` bytes from its packet."""

    def change(content, packets):
        place = int(packets.offset[number]) + at
        content[place] = change_byte(content[place])

    return change


def unknown_kind(content, packets):
    start = content.rindex(b"\xa3", 0, int(packets.offset[3]) - 5)  # of the block: kind, size, track, time, flags
    content[start] = 0x99


def change_length(content, value):
    start = content.index(b"strh") + 8 + 32  # the number of frames of the stream
    content[start : start + 4] = value.to_bytes(4, "little")


def fill(content, packets):
    """Put nothing in place of the start of a P picture."""
    start = int(packets.offset[5])
    content[start : start + 100] = bytes(100)


UNCLEAR = {
    "two kinds of packets": ("mp4", in_box(b"stsd", 4, 2)),
    "fewer durations than packets": ("mp4", in_box(b"stts", 8, COUNT - 1)),
    "fewer shifts than packets": ("mp4", in_box(b"ctts", 8, 2)),
    "a shift that cannot be true": ("mp4", in_box(b"ctts", 12, 2**30)),
    "a key frame before the first": ("mp4", in_box(b"stss", 8, 0)),
    "a key frame after the last": ("mp4", in_box(b"stss", 12, 1000)),
    "a packet past the end": ("mp4", in_box(b"stco", 8, 10**8)),
    "a size of nothing": ("mp4", in_box(b"stsz", 12 + 4 * 5, 0)),
    "more packets in a chunk": ("mp4", in_box(b"stsc", 12, COUNT + 1)),
    "a table of two parts": ("mp4", in_box(b"stss", -4, int.from_bytes(b"stps", "big"))),
    "no sizes": ("mp4", in_box(b"stsz", -4, int.from_bytes(b"free", "big"))),
    "an edit that ends early": ("mp4", in_box(b"elst", 8, 400)),
    "several packets in a block": ("mkv", in_block(3, -1, lambda flags: flags | 0b010)),
    "a time before 0": ("mkv", in_block(0, -3, lambda _: 0xFF)),
    "an element of an unknown kind": ("mkv", unknown_kind),
    "something after the segment": ("mkv", lambda content, _: content.extend(bytes(10))),
    "fewer packets than frames": ("avi", lambda content, _: change_length(content, COUNT + 1)),
    "a packet that is not in its place": ("avi", in_block(3, -4, lambda size: size ^ 1)),
    "packets whose picture begins late": ("avi", lambda content, packets: fill(content, packets)),
    "a codec of another system": ("mkv", lambda content, _: replace(content, b"V_MPEG4/ISO/AVC", b"V_MS/VFW/FOURCC")),
}


@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_packets_that_are_no_key_frames_whatever_the_file_says_are_found(tmp_path, container):
    """Without a table of key frames, every packet counts as one. MPEG-4's decoder starts at any packet, with grey."""
    path = tmp_path / f"clip.{container}"
    write_numbered(path, "mpeg4", gop=24, count=COUNT)
    content = bytearray(path.read_bytes())
    in_box(b"stss", -4, int.from_bytes(b"free", "big"))(content, None)
    path.write_bytes(content)
    video = read_video(path, 5)
    assert read_numbers(video.frames) == video.indices.tolist()
    assert_true_frames(video, decode_all(path))


@pytest.mark.parametrize(("kind", "place"), [(b"mvhd", 12), (b"mdhd", 12)])
@pytest.mark.parametrize("options", [{"use_editlist": "0"}, {"movflags": "frag_keyframe+empty_moov"}, {}])
def test_a_clock_without_ticks_is_never_an_error_of_another_kind(tmp_path, kind, place, options):
    path = tmp_path / "clip.mp4"
    write_numbered(path, b_frames=2, count=COUNT, container_options=options)
    content = bytearray(path.read_bytes())
    in_box(kind, place, 0)(content, None)
    path.write_bytes(content)
    try:
        assert_true_frames(read_video(path, 5), decode_all(path))
    except VideoDecodeError as error:
        assert str(path) in str(error)  # noqa: PT017


def replace(content, old, new):
    start = content.index(old)
    content[start : start + len(old)] = new


@pytest.mark.parametrize("name", UNCLEAR)
def test_an_index_that_is_unusual_or_wrong_is_not_used(tmp_path, name):
    container, change = UNCLEAR[name]
    path = tmp_path / f"clip.{container}"
    write_numbered(path, b_frames=0 if container == "avi" else 2, count=COUNT)
    told, _, _ = both_lists(path)
    content = bytearray(path.read_bytes())
    change(content, told)
    path.write_bytes(content)
    try:
        with reader.open_video(path, probe=False) as (opened, stream), open_bytes(path) as file:
            assert index_packets(file, opened, stream) is None
    except VideoDecodeError:
        return  # FFmpeg refuses it too
    try:
        video = read_video(path, 8)
    except VideoDecodeError:
        return
    assert_true_frames(video, decode_all(path))


@pytest.mark.parametrize(("field", "change"), [("offset", 1), ("size", -1), ("dts", 5), ("key", True)])
def test_an_index_that_ffmpeg_reads_otherwise_is_not_used(tmp_path, monkeypatch, field, change):
    path = tmp_path / "clip.mp4"
    write_numbered(path, b_frames=2, count=COUNT)
    read = mp4.read_packets

    def wrong(*arguments):
        packets, listed = read(*arguments)
        getattr(packets, field)[7] += change
        return packets, listed

    monkeypatch.setattr(mp4, "read_packets", wrong)
    assert both_lists(path)[0] is None
    video = read_video(path, 8)
    assert_true_frames(video, decode_all(path))


@pytest.mark.parametrize(
    ("codec", "container"), [("libvpx", "webm"), ("wmv2", "avi"), ("libx264", "flv"), ("libvpx-vp9", "avi")]
)
def test_other_codecs_and_containers_have_no_index_here(tmp_path, codec, container):
    path = tmp_path / f"clip.{container}"
    write_numbered(path, codec, count=COUNT)
    assert both_lists(path)[0] is None


def test_a_small_file_is_read_without_its_index(tmp_path, monkeypatch):
    write_numbered(tmp_path / "clip.mp4", count=COUNT)
    size = (tmp_path / "clip.mp4").stat().st_size
    for limit, has_index in ((size, True), (size + 1, False)):
        monkeypatch.setattr(index, "MIN_BYTES", limit)
        assert (both_lists(tmp_path / "clip.mp4")[0] is not None) == has_index


def test_several_tracks_of_matroska_are_listed_by_reading_them(tmp_path):
    for number in range(2):
        write_numbered(tmp_path / f"{number}.mp4", count=24 + number)
    join_streams(tmp_path / "clip.mkv", [tmp_path / "0.mp4", tmp_path / "1.mp4"], [None, None])
    assert both_lists(tmp_path / "clip.mkv")[0] is None
    assert read_video(tmp_path / "clip.mkv", 2).total_frames in (24, 25)


@pytest.mark.parametrize("default", [0, 1])
def test_the_index_of_the_chosen_track_is_read(tmp_path, default):
    for number in range(2):
        write_numbered(tmp_path / f"{number}.mp4", count=24 + number, b_frames=2)
    dispositions = [Disposition.default if number == default else Disposition(0) for number in range(2)]
    join_streams(tmp_path / "clip.mp4", [tmp_path / "0.mp4", tmp_path / "1.mp4"], dispositions)
    assert_same_lists(tmp_path / "clip.mp4")
    assert read_video(tmp_path / "clip.mp4", 2).total_frames == 24 + default


def test_a_file_that_is_cut_short_is_an_error_though_the_index_is_whole(tmp_path):
    path = tmp_path / "clip.mp4"
    write_numbered(path, count=COUNT, container_options={"movflags": "faststart"})
    content = path.read_bytes()
    for left in (len(content) - 1, len(content) // 2):
        path.write_bytes(content[:left])
        assert both_lists_or_error(path) is None
        with pytest.raises(VideoDecodeError, match=r"clip\.mp4: "):
            read_video(path, COUNT)


def both_lists_or_error(path):
    with reader.open_video(path, probe=False) as (container, stream), open_bytes(path) as file:
        return index_packets(file, container, stream)


def test_a_block_that_falsely_claims_to_be_a_key_frame_is_found_by_the_decoder(tmp_path):
    """The packets are then listed by reading them, which asks the codec."""
    path = tmp_path / "clip.mkv"
    write_numbered(path, gop=60, count=COUNT)
    reference = decode_all(path)
    told, _, _ = both_lists(path)
    content = bytearray(path.read_bytes())
    content[told.offset[20] - 1] |= 0x80
    path.write_bytes(content)
    assert np.flatnonzero(both_lists(path)[0].key).tolist() == [0, 20]
    video = read_video(path, 8)
    assert_true_frames(video, reference)
    assert read_numbers(video.frames) == video.indices.tolist()


TOLD = {
    "mp4": {},
    "fragments.mp4": {"movflags": "frag_keyframe+empty_moov"},
    "mkv": {},
    "avi": {},
}


@pytest.mark.parametrize("name", TOLD)
def test_damage_to_an_index_is_never_an_error_of_another_kind(tmp_path, name):
    """Bits, numbers and lengths are changed in what is read: all but the packets."""
    path = tmp_path / f"clip.{name.split('.')[-1]}"
    write_numbered(path, b_frames=0 if name == "avi" else 2, count=COUNT, container_options=TOLD[name])
    with reader.open_video(path, probe=False) as (container, stream), open_bytes(path) as file:
        told = index_packets(file, container, stream)
        content = path.read_bytes()
        inside = np.zeros(len(content), bool)
        for offset, size in zip(told.offset.tolist(), told.size.tolist(), strict=True):
            inside[offset : offset + size] = True
        places, rng, used = np.flatnonzero(~inside), np.random.default_rng(0), 0
        for number in range(1500):
            changed = bytearray(content)
            for place in rng.choice(places, rng.integers(1, 4)):
                changed[place] = (
                    (changed[place] ^ 1 << rng.integers(8)) if number % 2 else int(rng.choice([0, 1, 127, 255]))
                )
            if number % 10 == 0:
                del changed[int(rng.integers(1, len(changed))) :]
            used += index_packets(io.BytesIO(changed), container, stream) is not None
        assert 0 < used < 1500
