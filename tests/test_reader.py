"""The exact reader: its frames are those of a sequential decode, bit for bit, in every container and codec (invariant
1). Each frame of a clip made here shows its number, so a test sees whether a frame is the right one, not only that two
readers agree.
"""

import os
import re
import struct
from collections import Counter
from fractions import Fraction
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps
from shared import Pipe, assert_true_frames, decode_all, join_streams

from fvv_lib.course.numbered import ENCODINGS, FPS, HEIGHT, OPTIONS, WIDTH, paint, read_numbers, write_numbered
from fvv_lib.errors import VideoDecodeError
from fvv_lib.video.exact import index, mp4, packets, reader
from fvv_lib.video.kinds import is_video
from fvv_lib.video.read import count_frames, read_video, video_times

COUNT = 72


SMALL = index.MIN_BYTES  # of a file that is read without its index


def copy_packets(source, target, change):
    """Copy a clip, passing each packet through `change(number, packet) -> packet`."""
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        stream = writing.add_stream_from_template(reading.streams.video[0])
        for number, packet in enumerate(reading.demux(video=0)):
            if packet.dts is not None:
                packet = change(number, packet)
                packet.stream = stream
                writing.mux(packet)


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system does not report scheduling policies")
def test_an_encoder_does_not_leave_this_process_with_real_time_scheduling(tmp_path):
    """SVT-AV1 does so as root, and two test processes then block each other."""
    write_numbered(tmp_path / "clip.mkv", "libsvtav1", count=2)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


# --- the matrix of encodings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "container", "gop", "b_frames", "variable"), ENCODINGS)
def test_frames_and_times_are_those_of_a_sequential_decode(
    tmp_path, monkeypatch, codec, container, gop, b_frames, variable
):
    """With packets that an index lists, or that are read and kept or read again by a seek; decoded by one thread, by
    three that share groups, or by two that decode consecutive frames."""
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg cannot encode with {codec}")
    path = tmp_path / f"clip.{container}"
    count = 320 if gop == 300 else COUNT
    times = write_numbered(path, codec, gop=gop, b_frames=b_frames, variable=variable, count=count)
    reference = decode_all(path)
    for small, kept_bytes, few, arguments in (
        (0, packets.KEPT_BYTES, reader.MIN_CLIP_PIXELS, {}),
        (0, 0, 0, {"strategy": "random", "seed": 0, "num_threads": 3}),
        (SMALL, 0, 0, {"strategy": "random", "seed": 1, "num_threads": 1}),
        (SMALL, 0, 0, {"num_threads": 3}),
        (SMALL, packets.KEPT_BYTES, reader.MIN_CLIP_PIXELS, {"num_threads": 2}),
    ):
        monkeypatch.setattr(index, "MIN_BYTES", small)
        monkeypatch.setattr(packets, "KEPT_BYTES", kept_bytes)
        monkeypatch.setattr(reader, "MIN_CLIP_PIXELS", few)
        video = read_video(path, 8, **arguments)
        assert_true_frames(video, reference)
        assert read_numbers(video.frames) == video.indices.tolist()
        np.testing.assert_allclose(video.timestamps, times[video.indices], atol=1e-3)
    assert video.fps == pytest.approx((count - 1) / times[-1], rel=1e-3)
    assert video.duration == pytest.approx(count / video.fps)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("container", ["mp4", "mov"])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_display_matrix_rotates_frames_upright(tmp_path, codec, container, rotation):
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write a display matrix")
    path = tmp_path / f"clip.{container}"
    write_numbered(path, codec, rotation=rotation, b_frames=2)
    video = read_video(path, 6)
    assert_true_frames(video, decode_all(path))
    assert read_numbers(np.rot90(frame, -rotation // 90) for frame in video.frames) == video.indices.tolist()


ONE = 1 << 16
MATRICES = {  # a, b, c, d of a display matrix: a point (x, y) is shown at (a x + c y, b x + d y)
    "as it is": ((1, 0, 0, 1), lambda picture: picture),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "upside down, mirrored": ((1, 0, 0, -1), np.flipud),
    "half a turn": ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
    "transposed": ((0, 1, 1, 0), lambda picture: picture.transpose(1, 0, 2)),
    "turned right": ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),
    "turned left": ((0, -1, 1, 0), lambda picture: np.rot90(picture, 1)),
    "transposed the other way": ((0, -1, -1, 0), lambda picture: np.rot90(picture, 2).transpose(1, 0, 2)),
    "nothing": ((0, 0, 0, 0), lambda picture: picture),
}


def set_matrix(path, matrix):
    """Write a display matrix into the track header of an MP4 (ISO 14496-12, 8.3.2)."""
    a, b, c, d = (round(ONE * value) for value in matrix)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
def test_a_display_matrix_rotates_and_mirrors_as_players_do(tmp_path, name, codec):
    """All eight orientations: four ways to hold a camera, each also mirrored by a front camera."""
    path, (matrix, upright) = tmp_path / "clip.mp4", MATRICES[name]
    write_numbered(path, codec)
    set_matrix(path, (1, 0, 0, 1))
    plain = decode_all(path)
    set_matrix(path, matrix)
    for arguments in ({}, {"num_threads": 2}):
        video = read_video(path, 6, **arguments)
        for number, frame in zip(video.indices, video.frames, strict=True):
            assert np.array_equal(frame, upright(plain[number]))


def exif(orientation):
    """Return a segment of a JPEG with a description and, unless it is 0, an orientation (EXIF 2.32, 4.5)."""
    entries = [struct.pack("<HHI4s", 0x010E, 2, 3, b"ab\0\0")]
    if orientation:
        entries.append(struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0))
    body = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def with_exif(orientation):
    """Return a change of packets of MJPEG, for `copy_packets`."""

    def change(_, packet):
        content = bytes(packet)
        copy = av.Packet(content[:2] + exif(orientation) + content[2:])
        copy.duration = packet.duration
        copy.pts, copy.dts, copy.time_base, copy.is_keyframe = packet.pts, packet.dts, packet.time_base, True
        return copy

    return change


@pytest.mark.parametrize("name", MATRICES)
def test_a_display_matrix_is_applied_beside_other_side_data(tmp_path, name):
    """PyAV has no name for EXIF, and then gives no side data at all."""
    path, (matrix, upright) = tmp_path / "clip.mp4", MATRICES[name]
    write_numbered(tmp_path / "all.mp4", "mjpeg", count=4)
    copy_packets(tmp_path / "all.mp4", path, with_exif(0))
    plain = read_video(tmp_path / "all.mp4", 4).frames
    with av.open(str(path)) as container, pytest.raises(ValueError, match="is not a valid Type"):
        _ = next(container.decode(video=0)).side_data
    set_matrix(path, matrix)
    assert all(map(np.array_equal, read_video(path, 4).frames, map(upright, plain)))


@pytest.mark.parametrize("container", ["mov", "avi"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_in_exif_is_applied(tmp_path, orientation, container):
    """As Pillow does."""
    write_numbered(tmp_path / "all.mov", "mjpeg", count=4)
    copy_packets(tmp_path / "all.mov", tmp_path / f"clip.{container}", with_exif(orientation))
    plain = Image.fromarray(read_video(tmp_path / "all.mov", 1).frames[0])
    plain.getexif()[0x0112] = orientation
    frame = read_video(tmp_path / f"clip.{container}", 1).frames[0]
    assert np.array_equal(frame, ImageOps.exif_transpose(plain))


@pytest.mark.parametrize("matrix", [(1, 0.5, 0, 1), (0.7, 0.7, 0.7, -0.7), (1, 1, 1, 1)])
def test_a_display_matrix_that_skews_is_an_error(tmp_path, matrix):
    write_numbered(tmp_path / "clip.mp4")
    set_matrix(tmp_path / "clip.mp4", matrix)
    with pytest.raises(VideoDecodeError, match=r"clip\.mp4: it is rotated by .*Encode it upright"):
        read_video(tmp_path / "clip.mp4", 6)


# --- pixels that are not square -----------------------------------------------------------------------------------


def write_anamorphic(path, codec="libx264", aspect=Fraction(2), **options):
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream(codec, rate=FPS, width=WIDTH, height=HEIGHT)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for number in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(paint(number), format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(16, 15), Fraction(8, 9)])
@pytest.mark.parametrize(
    ("codec", "container"),
    [("libx264", "mp4"), ("libx264", "mkv"), ("libx264", "ts"), ("libx264", "avi"), ("mpeg4", "mp4"), ("mpeg4", "avi")],
)
def test_pixel_aspect_is_reported_and_frames_keep_the_pixels_of_the_file(tmp_path, codec, container, aspect):
    """Some containers store it; for others only the decoder knows it."""
    path = tmp_path / f"clip.{container}"
    write_anamorphic(path, codec, aspect)
    for arguments in ({}, {"timeout": 30}):
        video = read_video(path, 4, **arguments)
        assert video.pixel_aspect == pytest.approx(float(aspect), rel=0.01)
        assert_true_frames(video, decode_all(path))


def test_a_quarter_turn_inverts_the_pixel_aspect(tmp_path):
    write_anamorphic(tmp_path / "clip.mp4")
    for name, (matrix, _) in MATRICES.items():
        set_matrix(tmp_path / "clip.mp4", matrix)
        height, width = read_video(tmp_path / "clip.mp4", 1).frames.shape[1:3]
        aspect = read_video(tmp_path / "clip.mp4", 1).pixel_aspect
        assert (aspect, width, height) == ((2, WIDTH, HEIGHT) if width > height else (0.5, HEIGHT, WIDTH)), name


def test_pixels_are_square_if_the_file_does_not_say(tmp_path):
    for codec, container in (("libx264", "mp4"), ("libvpx-vp9", "webm"), ("mjpeg", "avi")):
        write_numbered(tmp_path / f"clip.{container}", codec, count=12)
        assert read_video(tmp_path / f"clip.{container}", 2).pixel_aspect == 1


CHANGING = (("ts", "mpegts", "libx264"), ("mpg", "mpeg", "mpeg2video"), ("m2v", "mpeg2video", "mpeg2video"))
CHANGING += (("h264", "h264", "libx264"),)


@pytest.mark.parametrize(("extension", "container", "codec"), CHANGING)
def test_a_pixel_shape_that_changes_within_the_clip_is_an_error(tmp_path, extension, container, codec):
    """A broadcast switches between 16:9 and 4:3."""
    path, shapes = tmp_path / f"clip.{extension}", (Fraction(32, 45), Fraction(8, 15))
    wide, narrow = (
        write_piece(tmp_path / "piece", container, codec, range(first, first + 24), first / FPS, aspect=shape)
        for first, shape in zip((0, 24), shapes, strict=True)
    )
    path.write_bytes(wide + narrow)
    for arguments in ({}, {"num_threads": 2}):
        with pytest.raises(VideoDecodeError, match=rf"clip\.{extension}: the pixel shape changes within the clip"):
            read_video(path, 8, **arguments)
    for content, shape in ((wide, shapes[0]), (narrow, shapes[1])):
        path.write_bytes(content)
        assert read_video(path, 8).pixel_aspect == pytest.approx(float(shape), rel=0.01)


# --- several streams, joined pieces, file names -------------------------------------------------------------------


@pytest.mark.parametrize("default", [0, 1])
@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_the_default_one_of_several_streams_is_read(tmp_path, container, default):
    """By `read_video` and by `count_frames`."""
    path = tmp_path / f"clip.{container}"
    counts = (24, 36)
    for number, count in enumerate(counts):
        write_numbered(tmp_path / f"{number}.mp4", count=count, b_frames=2)
    dispositions = [Disposition.default if number == default else Disposition(0) for number in range(2)]
    join_streams(path, [tmp_path / f"{number}.mp4" for number in range(2)], dispositions)
    video = read_video(path, 8)
    assert video.total_frames == count_frames(path) == counts[default]
    assert read_numbers(video.frames) == video.indices.tolist()


def write_piece(path, container, codec, numbers, clock=0.0, b_frames=0, aspect=None):
    """Write numbered frames, the first at `clock` seconds."""
    with av.open(str(path), "w", format=container) as writing:
        stream = writing.add_stream(codec, rate=FPS, width=WIDTH, height=HEIGHT, options=OPTIONS.get(codec, {}))
        stream.pix_fmt, stream.codec_context.gop_size, stream.bit_rate = "yuv420p", 12, 2_000_000
        stream.codec_context.max_b_frames = b_frames
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for place, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(paint(number), format="rgb24")
            frame.pts, frame.time_base = round(clock * FPS) + place, Fraction(1, FPS)
            writing.mux(stream.encode(frame))
        writing.mux(stream.encode())
    return path.read_bytes()


PIECES = (("ts", "mpegts", "libx264"), ("ts", "mpegts", "libx265"), ("mpg", "mpeg", "mpeg2video"))
PIECES += (("mpg", "mpeg", "mpeg1video"),)
OVERFLOW = 2**33 / 90_000  # seconds after which the clock of MPEG-TS and MPEG-PS starts at 0 again


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("clocks", [(0, 0, 0), (600, 0, 0), (3600, 600, 0), (50_000, 0, 0)])
@pytest.mark.parametrize(("extension", "container", "codec"), PIECES)
def test_times_and_frames_continue_if_the_clock_restarts(tmp_path, extension, container, codec, clocks, b_frames):
    """Pieces of a stream, joined byte by byte, each with its own clock. A fall by more than a minute is not an
    overflow."""
    path = tmp_path / f"clip.{extension}"
    pieces = [
        write_piece(tmp_path / "piece", container, codec, range(first, first + 24), clock, b_frames)
        for first, clock in zip((0, 24, 48), clocks, strict=True)
    ]
    path.write_bytes(b"".join(pieces))
    video = read_video(path, COUNT)
    assert read_numbers(video.frames) == list(range(COUNT))
    np.testing.assert_allclose(video.timestamps, np.arange(COUNT) / FPS, atol=2e-3)
    assert count_frames(path) == COUNT
    assert read_numbers(read_video(path, 8).frames) == np.linspace(0, COUNT - 1, 8, dtype=int).tolist()


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize(("extension", "container", "codec"), PIECES)
def test_times_continue_if_the_clock_overflows(tmp_path, extension, container, codec, b_frames):
    """A broadcast that passes 26.5 hours: the clock has 33 bits."""
    path = tmp_path / f"clip.{extension}"
    write_piece(path, container, codec, range(COUNT), OVERFLOW - 1, b_frames)
    video = read_video(path, COUNT)
    assert read_numbers(video.frames) == list(range(COUNT))
    np.testing.assert_allclose(video.timestamps, np.arange(COUNT) / FPS, atol=2e-3)
    assert read_numbers(read_video(path, 8).frames) == np.linspace(0, COUNT - 1, 8, dtype=int).tolist()


@pytest.mark.parametrize("seconds", [6, 3600])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_gap_is_kept(tmp_path, codec, seconds):
    """A camera that records only motion: the time between two frames is true, however long it is."""
    path = tmp_path / "clip.ts"
    first = write_piece(tmp_path / "piece", "mpegts", codec, range(24))
    path.write_bytes(first + write_piece(tmp_path / "piece", "mpegts", codec, range(24, 48), seconds))
    expected = np.concatenate([np.arange(24) / FPS, seconds + np.arange(24) / FPS])
    np.testing.assert_allclose(read_video(path, 48).timestamps, expected, atol=2e-3)


@pytest.mark.parametrize(
    ("extension", "codec", "options"),
    [("mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}), ("webm", "libvpx-vp9", {})],
)
def test_joined_files_of_a_format_that_cannot_be_joined_are_an_error_that_says_so(tmp_path, extension, codec, options):
    path = tmp_path / f"clip.{extension}"
    write_numbered(path, codec, container_options=options)
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(VideoDecodeError, match=rf"clip\.{extension}: .*joined byte by byte"):
        read_video(path, 8)


def test_an_avi_that_was_written_to_a_pipe_is_read(tmp_path):
    """Its header does not state its size, and it has no index."""
    pipe = Pipe()
    with av.open(pipe, "w", format="avi") as writing:
        stream = writing.add_stream("mpeg4", rate=FPS, width=WIDTH, height=HEIGHT)
        stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
        for number in range(COUNT):
            writing.mux(stream.encode(av.VideoFrame.from_ndarray(paint(number), format="rgb24")))
        writing.mux(stream.encode())
    (tmp_path / "clip.avi").write_bytes(pipe.content)
    video = read_video(tmp_path / "clip.avi", 8)
    assert video.total_frames == COUNT
    assert read_numbers(video.frames) == video.indices.tolist()


NAMES = (
    "2023-05-01T12:30:00.mp4",
    "concat:clip.mp4",
    "http:clip.mp4",
    "-i.mp4",
    "a?b#c.mp4",
    "clip%03d.mp4",
    "ä:ö.mp4",
)


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_the_name_of_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_numbered("clip.mp4")
    os.rename("clip.mp4", name)
    for backend in ("pyav", *(["decord"] if find_spec("decord") else [])):
        video = read_video(name, 8, backend=backend)
        assert read_numbers(video.frames) == video.indices.tolist()
    content = Path(name).read_bytes()
    Path(name).write_bytes(content[:3000])
    with pytest.raises(VideoDecodeError, match=rf"^{re.escape(name)}: "):
        read_video(name, 8)
    os.rename(name, f"{name}.unknown")
    Path(f"{name}.unknown").write_bytes(content)
    assert is_video(f"{name}.unknown")


SCRIPTS = {  # content that makes FFmpeg open another file
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.88,\nclip.ts\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile clip.ts\n",
    "dash": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT3S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">\n<Period>'
    '<AdaptationSet mimeType="video/mp2t"><Representation id="1" bandwidth="1000"><BaseURL>clip.ts</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("kind", SCRIPTS)
@pytest.mark.parametrize("backend", ["pyav", "decord"])
@pytest.mark.parametrize("name", ["list.mp4", "list.ts", "list.avi"])
def test_a_playlist_with_the_name_of_a_video_is_refused_and_its_entries_are_not_opened(
    tmp_path, monkeypatch, kind, backend, name
):
    if backend == "decord" and not find_spec("decord"):
        pytest.skip("decord has no wheels for this machine")
    monkeypatch.chdir(tmp_path)
    with av.open("clip.ts", "w", format="mpegts") as writing:
        stream = writing.add_stream("libx264", rate=FPS, width=WIDTH, height=HEIGHT)
        stream.pix_fmt = "yuv420p"
        for number in range(COUNT):
            writing.mux(stream.encode(av.VideoFrame.from_ndarray(paint(number), format="rgb24")))
        writing.mux(stream.encode())
    Path(name).write_text(SCRIPTS[kind])
    os.utime("clip.ts", ns=(1, 10**18))  # accessed before modified: every Linux then records the next access
    message = "its content is not a video container|it cannot be decoded as a video"  # ours, or FFmpeg's
    with pytest.raises(VideoDecodeError, match=rf"^{re.escape(name)}: ({message})"):
        read_video(name, 2, backend=backend)
    assert Path("clip.ts").stat().st_atime_ns == 1
    if kind == "concat":  # without our list of containers, FFmpeg plays it
        with av.open(name) as container:
            assert sum(1 for _ in container.decode(video=0)) == COUNT


@pytest.mark.parametrize(("codec", "pixels", "container"), [("png", "rgba", "mov"), ("ffv1", "bgra", "mkv")])
def test_transparent_pixels_of_a_video_are_white(tmp_path, codec, pixels, container):
    path = tmp_path / f"clip.{container}"
    picture = np.full((HEIGHT, WIDTH, 4), (30, 60, 90, 255), np.uint8)
    picture[:, : WIDTH // 2, 3] = 0
    with av.open(str(path), "w") as writing:
        stream = writing.add_stream(codec, rate=FPS, width=WIDTH, height=HEIGHT)
        stream.pix_fmt = pixels
        for _ in range(4):
            writing.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format=pixels)))
        writing.mux(stream.encode())
    frames = read_video(path, 2).frames
    assert (frames[:, :, : WIDTH // 2] == 255).all()
    assert (frames[:, :, WIDTH // 2 :] == (30, 60, 90)).all()


@pytest.mark.parametrize(("codec", "container"), [("libx264", "mp4"), ("libvpx", "webm"), ("wmv2", "wmv")])
def test_reading_every_frame_gives_the_whole_clip(tmp_path, codec, container):
    path = tmp_path / f"clip.{container}"
    write_numbered(path, codec, b_frames=2)
    video = read_video(path, COUNT)
    assert_true_frames(video, decode_all(path))
    assert read_numbers(video.frames) == list(range(COUNT))


# --- which method the reader uses -------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch):
    """The pts of every packet that is passed to a decoder when reading by key frame."""
    fed = []
    run = reader._run

    def spy(*arguments):
        for packet in run(*arguments):
            if packet is not None:
                fed.append(packet.pts)
            yield packet

    monkeypatch.setattr(reader, "_run", spy)
    return fed


BY_KEY_FRAME = {
    ("libx264", "mp4"): True,
    ("libx265", "mp4"): True,
    ("libvpx-vp9", "webm"): True,
    ("libsvtav1", "webm"): True,
    ("libsvtav1", "mp4"): True,
    ("mpeg4", "mp4"): True,
    ("mjpeg", "mov"): True,
    ("libvpx", "webm"): False,
    ("wmv2", "wmv"): False,
    ("flv", "flv"): False,
}


@pytest.mark.parametrize(("codec", "container"), BY_KEY_FRAME, ids="-".join)
def test_each_codec_uses_the_fastest_safe_method(tmp_path, decoded, codec, container):
    path = tmp_path / f"clip.{container}"
    write_numbered(path, codec, gop=12)
    video = read_video(path, 3)
    assert read_numbers(video.frames) == [0, 35, 71]
    assert len(set(decoded)) == (0 if not BY_KEY_FRAME[codec, container] else 3 if codec == "mjpeg" else 1 + 12 + 12)


def test_only_what_the_targets_need_is_decoded(tmp_path, decoded):
    write_numbered(tmp_path / "clip.mp4", gop=12)
    video = read_video(tmp_path / "clip.mp4", 3)  # frames 0, 35, 71: the ends of their groups of 12
    assert read_numbers(video.frames) == [0, 35, 71]
    assert len(decoded) == 1 + 12 + 12


def test_targets_that_share_a_key_frame_are_decoded_in_one_run(tmp_path, decoded):
    write_numbered(tmp_path / "clip.mp4", gop=60)
    read_video(tmp_path / "clip.mp4", 8, end=2.0)
    assert len(decoded) == len(set(decoded)) == 50


@pytest.mark.parametrize(
    ("small", "kept_bytes"),
    [(0, 0), (SMALL, packets.KEPT_BYTES), (SMALL, 0)],
    ids=("index", "kept", "seek"),
)
@pytest.mark.parametrize("num_threads", [1, 2, 9])
def test_threads_share_the_groups(tmp_path, monkeypatch, decoded, num_threads, small, kept_bytes):
    """Each group is decoded once, by any thread. Each thread has one decoder, which also gets the first packet."""
    write_numbered(tmp_path / "clip.mp4", gop=12)
    opened, open_video = [], reader.open_video
    monkeypatch.setattr(
        reader, "open_video", lambda *args, **kwargs: opened.append(args) or open_video(*args, **kwargs)
    )
    monkeypatch.setattr(reader, "MIN_CLIP_PIXELS", 0)
    monkeypatch.setattr(index, "MIN_BYTES", small)
    monkeypatch.setattr(packets, "KEPT_BYTES", kept_bytes)
    video = read_video(tmp_path / "clip.mp4", 8, num_threads=num_threads)
    assert read_numbers(video.frames) == video.indices.tolist()
    needed = sum(max(index % 12 for index in video.indices if index // 12 == group) + 1 for group in range(6))
    assert len(set(decoded)) == needed
    assert all(decoded.count(pts) == 1 for pts in decoded if pts > 0)
    assert len(opened) == 1 + (min(num_threads, 6) if num_threads > 1 else 0)


def test_an_error_in_a_thread_is_raised_by_the_call(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MIN_CLIP_PIXELS", 0)
    write_numbered(tmp_path / "clip.mp4", gop=12, rotation=45)
    with pytest.raises(VideoDecodeError, match="rotated by 45 degrees"):
        read_video(tmp_path / "clip.mp4", 8, num_threads=3)


def test_the_clip_is_decoded_in_order_if_a_thread_finds_no_clean_start(tmp_path, monkeypatch, decoded):
    """The other threads stop, because their groups are no longer needed."""
    path = tmp_path / "clip.mp4"
    write_numbered(path, gop=2, count=400)
    with av.open(str(path)) as container:
        damaged = [packet for packet in container.demux(video=0) if packet.size][1]
    content = bytearray(path.read_bytes())
    content[damaged.pos : damaged.pos + damaged.size] = bytes(damaged.size)
    path.write_bytes(content)
    monkeypatch.setattr(reader, "MIN_CLIP_PIXELS", 0)
    in_order = []
    monkeypatch.setattr(reader, "_read_in_order", lambda *arguments: in_order.append(arguments))
    with pytest.raises(VideoDecodeError):
        read_video(path, 200, num_threads=2, strategy="segment")
    assert in_order
    assert len(decoded) < 200


def test_every_decoder_gets_the_first_packet(tmp_path, monkeypatch):
    """Here only the first packet has the tables of MJPEG. Without them a decoder silently makes up frames."""

    def without_tables(number, packet):
        content = bytes(packet)
        if number:
            start = content.index(b"\xff\xdb")
            end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
            content = content[:start] + content[end:]
        copy = av.Packet(content)
        copy.pts, copy.dts, copy.time_base, copy.is_keyframe = packet.pts, packet.dts, packet.time_base, True
        return copy

    write_numbered(tmp_path / "all.avi", "mjpeg")
    copy_packets(tmp_path / "all.avi", tmp_path / "clip.avi", without_tables)
    reference = decode_all(tmp_path / "clip.avi")
    assert read_numbers(reference) == list(range(COUNT))
    monkeypatch.setattr(reader, "MIN_CLIP_PIXELS", 0)
    for kept_bytes in (packets.KEPT_BYTES, 0):
        monkeypatch.setattr(packets, "KEPT_BYTES", kept_bytes)
        for arguments in ({"num_threads": 1, "start": 1.5}, {"num_threads": 3}):
            assert_true_frames(read_video(tmp_path / "clip.avi", 8, **arguments), reference)


def test_opening_without_probing_decodes_nothing(tmp_path):
    """The pixel format is then unknown, because only a decoder can determine it."""
    write_numbered(tmp_path / "clip.mp4")
    for probe, pixel_format in ((True, "yuv420p"), (False, None)):
        with reader.open_video(tmp_path / "clip.mp4", probe=probe) as (_, stream):
            assert stream.codec_context.pix_fmt == pixel_format


@pytest.mark.parametrize("container", ["mp4", "mkv", "flv"])
def test_no_frame_is_lost_if_the_file_does_not_say_how_many_to_hold_back(tmp_path, monkeypatch, container):
    """H.264 may omit how far frames are out of order. A decoder without a probe of the file starts with too small a
    delay, and drops the frame that shows the true one."""
    options = {"x264-params": "bframes=3:b-pyramid=normal:b-adapt=0"}
    write_numbered(tmp_path / "told.mp4", gop=48, b_frames=3, codec_options=options)
    with av.open(str(tmp_path / "told.mp4")) as reading, av.open(str(tmp_path / f"clip.{container}"), "w") as writing:
        source = reading.streams.video[0]
        stream = writing.add_stream_from_template(source)
        stream.codec_context.extradata = without_usability_information(source.codec_context.extradata)
        for packet in reading.demux(source):
            if packet.size:
                packet.stream = stream
                writing.mux(packet)
    reference = decode_all(tmp_path / f"clip.{container}")
    monkeypatch.setattr(reader, "_read_in_order", lambda *_: pytest.fail("reading by key frame lost a frame"))
    video = read_video(tmp_path / f"clip.{container}", COUNT)
    assert_true_frames(video, reference)
    assert read_numbers(video.frames) == list(range(COUNT))


def without_usability_information(extradata):
    """Return the configuration of H.264 in MP4 (ISO 14496-15) without the last part of its sequence parameters (ITU-T
    H.264, 7.3.2.1.1), which says how many frames to hold back. The fields before it are skipped one by one."""
    length = int.from_bytes(extradata[6:8], "big")
    parameters, rest = extradata[8 : 8 + length], extradata[8 + length :]
    bits = "".join(f"{byte:08b}" for byte in parameters.replace(b"\0\0\3", b"\0\0"))
    at = 32  # the header, profile, constraints and level

    def skip_number():  # leading zeros, as many as the digits after its first 1
        nonlocal at
        at += 2 * (bits.index("1", at) - at) + 1

    for field in "nnnn11nnnn1nn111":  # of the High profile, without scaling lists and cropping
        if field == "1":
            at += 1
        else:
            skip_number()
    assert bits[at] == "1", "it has no usability information"
    shorter = bits[:at] + "01"
    shorter += "0" * (-len(shorter) % 8)
    shorter = bytes(int(shorter[i : i + 8], 2) for i in range(0, len(shorter), 8))
    return extradata[:6] + len(shorter).to_bytes(2, "big") + shorter + rest


def test_open_gops_are_exact(tmp_path):
    """Frames that follow a key frame in the file but are shown before it need the group before it."""
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


def test_the_clip_is_decoded_in_order_if_a_key_frame_is_not_a_clean_start(tmp_path, decoded):
    """With x264's open GOP, the decoder's list of references after a seek differs from that of a full decode."""
    options = {"x264-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12:scenecut=0"}
    write_numbered(tmp_path / "clip.mkv", codec_options=options, b_frames=3)
    read_video(tmp_path / "clip.mkv", 8)
    assert decoded == []


def test_avi_is_read_by_key_frame_if_frames_are_shown_in_decoding_order(tmp_path, decoded):
    """AVI has no presentation times. H.264 without B slices, and MJPEG, need none."""
    for codec, options in (("libx264", {"gop": 12}), ("mjpeg", {})):
        write_numbered(tmp_path / "clip.avi", codec, **options)
        video = read_video(tmp_path / "clip.avi", 3)
        assert_true_frames(video, decode_all(tmp_path / "clip.avi"))
        assert read_numbers(video.frames) == [0, 35, 71]
    assert len(decoded) == (1 + 12 + 12) + 3


def test_avi_with_a_b_slice_anywhere_is_decoded_in_order(tmp_path, decoded):
    """Here only the last second has B-frames. The header and the first frames do not show that."""
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


def test_avi_with_lengths_instead_of_start_codes_is_read_in_order_too(tmp_path, decoded):
    """Some programs store H.264 in AVI as in MP4. Its B slices must be found there too."""
    write_numbered(tmp_path / "clip.mp4", gop=24, b_frames=2)
    with av.open(str(tmp_path / "clip.mp4")) as reading, av.open(str(tmp_path / "clip.avi"), "w") as writing:
        stream = writing.add_stream_from_template(reading.streams.video[0])
        stream.codec_context.codec_tag = "avc1"
        for packet in reading.demux(video=0):
            if packet.size:
                packet.pts, packet.stream = packet.dts, stream
                writing.mux(packet)
    reference = decode_all(tmp_path / "clip.avi")
    assert read_numbers(reference) == list(range(COUNT))
    assert_true_frames(read_video(tmp_path / "clip.avi", 8), reference)
    assert decoded == []


@pytest.mark.parametrize("b_frames", [0, 2])
def test_h264_in_asf_is_read_by_key_frame_if_it_has_no_b_frames(tmp_path, decoded, b_frames):
    """ASF has decoding times in place of presentation times."""
    write_numbered(tmp_path / "clip.wmv", gop=12, b_frames=b_frames)
    assert_true_frames(read_video(tmp_path / "clip.wmv", 8), decode_all(tmp_path / "clip.wmv"))
    assert bool(decoded) == (b_frames == 0)


def test_a_packet_without_a_picture_is_not_skipped(tmp_path):
    """A decoder with `skip_frame` reports no error for a unit of an unknown type."""
    path = tmp_path / "clip.mp4"
    write_numbered(path, gop=24, b_frames=2)
    with av.open(str(path)) as container:
        packet = next(packet for packet in container.demux(video=0) if bytes(packet)[4] == 0x41)  # others refer to it
    content = bytearray(path.read_bytes())
    content[packet.pos + 4] = 0x51  # a reserved type of unit
    path.write_bytes(content)
    with pytest.raises(VideoDecodeError, match=r"clip\.mp4"):
        read_video(path, 8)


def test_intra_refresh_is_exact(tmp_path):
    """A column that moves across the frame replaces key frames, so no frame after the first is a clean start."""
    options = {"x264-params": "intra-refresh=1:keyint=24:bframes=0"}
    write_numbered(tmp_path / "clip.mp4", codec_options=options)
    video = read_video(tmp_path / "clip.mp4", 8)
    assert_true_frames(video, decode_all(tmp_path / "clip.mp4"))
    assert read_numbers(video.frames) == video.indices.tolist()


def test_a_packet_without_a_visible_frame_shifts_no_number(tmp_path, decoded):
    """VP8 has hidden frames, which are only references. Here a bit in the header hides two frames: a reader that relies
    on the list of packets would be off by one, then by two."""
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
    # `segment` ends before the last packets, and reading one frame ends before the first hidden frame.
    for count, strategy in ((8, "uniform"), (8, "segment"), (1, "uniform"), (len(shown), "uniform")):
        video = read_video(tmp_path / "clip.webm", count, strategy=strategy)
        assert_true_frames(video, reference)
        assert read_numbers(video.frames) == [shown[i] for i in video.indices]
        np.testing.assert_allclose(video.timestamps, [shown[i] / FPS for i in video.indices], atol=1e-3)
    assert decoded == []
    np.testing.assert_allclose(video_times(tmp_path / "clip.webm"), np.array(shown) / FPS, atol=1e-3)


def decode_plainly(path):
    """Return the frames that FFmpeg decodes, with their times; `None` if it refuses the file, or finds none."""
    reformatter = VideoReformatter()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None:
                return None
            stream.thread_type, stream.codec_context.thread_count = "SLICE", 1  # threads of frames take milliseconds
            frames = [
                (float(frame.pts * frame.time_base), reformatter.reformat(frame, format="rgb24").to_ndarray())
                for frame in container.decode(stream)
            ]
    except av.FFmpegError:
        return None
    return frames or None


def is_as_decoded(video, times, reference):
    """Return whether frames and times are those of `decode_plainly`. A display matrix may mirror the frames."""
    told = np.array([time for time, _ in reference])
    if not len(told) == len(times) == video.total_frames or np.abs(times - told + told[0]).max() > 1e-6:
        return False
    frames = [reference[i][1] for i in video.indices]
    mirrored = [np.array(frames)[:, ::y, ::x] for y in (1, -1) for x in (1, -1)]
    return any(np.array_equal(video.frames, some) for some in mirrored)


def test_a_false_number_in_a_header_gives_the_frames_of_ffmpeg_or_an_error(tmp_path, monkeypatch):
    """0, 1 and the largest number are written in each four bytes of `moov`. The file is read with its index and without
    it."""
    path, seen, wrong = tmp_path / "clip.mp4", Counter(), []
    write_numbered(path, gop=2, b_frames=1, count=4)
    content = path.read_bytes()
    begin = content.index(b"moov") - 4
    end = begin + int.from_bytes(content[begin : begin + 4], "big")
    for place, value in product(range(begin, end, 4), (0, 1, 2**32 - 1)):
        path.write_bytes(content[:place] + value.to_bytes(4, "big") + content[place + 4 :])
        reference = decode_plainly(path)
        for min_bytes in (0, SMALL):
            monkeypatch.setattr(index, "MIN_BYTES", min_bytes)
            try:
                video = read_video(path, 4, num_threads=1)
                times = video_times(path)
            except VideoDecodeError:
                seen["refused by both" if reference is None else "refused by us"] += 1
                continue
            seen["read"] += 1
            if reference is None or not is_as_decoded(video, times, reference):
                wrong.append((place - begin, value, min_bytes))
    assert wrong == []
    assert seen["read"] > 800
    assert seen["refused by both"] > 200
    assert seen["refused by us"] < 100


@pytest.mark.parametrize("cut", [5, 17])
def test_frames_removed_by_an_edit_list_are_not_counted(tmp_path, cut):
    """A cut without re-encoding keeps the packets from a key frame on, and marks those not to show."""

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


def test_a_clip_removed_completely_by_an_edit_list_is_an_error(tmp_path):
    path = tmp_path / "clip.mp4"
    write_numbered(path, b_frames=2)
    content = bytearray(path.read_bytes())
    start = content.index(b"elst") + 16  # start time of the only entry, after version, count and duration
    content[start : start + 4] = (0x7FFFFFF0).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(VideoDecodeError, match=r"clip\.mp4: no frame"):
        read_video(path, 8)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9"])
def test_times_that_contradict_the_decoder_are_an_error(tmp_path, codec):
    """Here the container swaps the times of two neighbouring frames. The decoder returns them in the old order."""

    def change_places(_, packet):
        step = int(Fraction(1, FPS) / packet.time_base)
        number = packet.pts // step
        packet.pts += {13: step, 14: -step}.get(number, 0)
        packet.dts -= 3 * step
        return packet

    write_numbered(tmp_path / "all.mp4", codec, gop=24)
    copy_packets(tmp_path / "all.mp4", tmp_path / "clip.mp4", change_places)
    with pytest.raises(VideoDecodeError, match=r"clip\.mp4: two decodes of the file differ"):
        read_video(tmp_path / "clip.mp4", COUNT)


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
def test_damage_in_a_frame_that_was_not_requested_is_an_error(tmp_path, count):
    """Frames that refer to a damaged frame are damaged too, but FFmpeg marks only the first one."""
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
def test_keyframe_accuracy_returns_the_nearest_key_frames_and_their_errors(tmp_path, codec, container, decoded):
    path = tmp_path / f"clip.{container}"
    times = write_numbered(path, codec, gop=12)
    asked = np.linspace(0, COUNT - 1, 8, dtype=int)
    video = read_video(path, 8, accuracy="keyframe")
    keys = np.arange(0, COUNT, 12)
    assert video.indices.tolist() == [int(keys[np.abs(keys - index).argmin()]) for index in asked]
    assert read_numbers(video.frames) == video.indices.tolist()
    np.testing.assert_allclose(video.errors, times[video.indices] - times[asked], atol=2e-3)
    assert len(decoded) == len(set(video.indices.tolist()))


def test_keyframe_accuracy_is_exact_if_decoding_cannot_start_at_key_frames(tmp_path):
    write_numbered(tmp_path / "clip.avi", gop=12, b_frames=2)
    video = read_video(tmp_path / "clip.avi", 8, accuracy="keyframe")
    assert read_numbers(video.frames) == np.linspace(0, COUNT - 1, 8, dtype=int).tolist()
    assert not video.errors.any()


# --- limits -----------------------------------------------------------------------------------------------------


def test_a_frame_larger_than_the_limit_is_refused(tmp_path, monkeypatch):
    write_numbered(tmp_path / "clip.mp4")
    monkeypatch.setattr(reader, "MAX_PIXELS", 100 * 64)
    with pytest.raises(VideoDecodeError, match=r"clip\.mp4"):
        read_video(tmp_path / "clip.mp4", 8)


@pytest.mark.parametrize("container", ["mp4", "avi"])
def test_a_clip_with_more_frames_than_the_limit_is_refused(tmp_path, monkeypatch, container):
    write_numbered(tmp_path / f"clip.{container}")
    for module in (packets, mp4, index):
        monkeypatch.setattr(module, "MAX_FRAMES", 50)
    for small in (0, SMALL):
        monkeypatch.setattr(index, "MIN_BYTES", small)
        with pytest.raises(VideoDecodeError, match="more than 50 frames"):
            read_video(tmp_path / f"clip.{container}", 8)
