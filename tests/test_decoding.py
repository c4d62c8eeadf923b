"""Decoding: the frames are those of a sequential decode, bit for bit, in every container and codec (invariant 1).

Each clip made here carries its frame numbers in its pictures, so a test sees whether it got the right frame, and not
only that two readers agree.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from fvv_lib.decoding import VIDEO_EXTENSIONS, is_video_file, load_video_frames, read_video
from fvv_lib.errors import FvvError, VideoDecodeError

NUM_FRAMES, FPS = 72, 25
WIDTH, HEIGHT, CELL = 128, 64, 16  # eight columns: one for each bit of the number

OPTIONS = {
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "libsvtav1": {"preset": "8", "crf": "20"},
    "libvpx": {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "5"},
    "libvpx-vp9": {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "5"},
}


# --- clips whose pictures carry their number ----------------------------------------------------------------------


def paint(number):
    """Bits of the number as white cells above, their opposites below, and a moving wave between: uint8 (H, W, 3)."""
    bits = np.kron((number >> np.arange(8)) & 1, np.ones((HEIGHT // 2, CELL)))
    picture = 32 + 192 * np.concatenate([bits, 1 - bits])
    picture[24:40] = 128 + 60 * np.sin((np.arange(WIDTH) + 5 * number) / 7)
    return np.repeat(picture[..., None], 3, axis=2).astype(np.uint8)


def read_number(frame):
    """The number in a decoded frame: in each column, is it lighter above than below?"""
    grey = frame.mean(axis=-1)
    above, below = (part.reshape(16, 8, CELL)[:, :, 4:-4].mean(axis=(0, 2)) for part in (grey[4:20], grey[44:60]))
    return int(((above > below) << np.arange(8)).sum())


def read_numbers(frames):
    return [read_number(frame) for frame in frames]


def write_clip(
    path, codec="libx264", *, gop=12, b_frames=0, variable=False, count=NUM_FRAMES, rotation=0, options=None
):
    """Write a clip of painted frames; returns the time of each in seconds, float64 (count,)."""
    steps = np.random.default_rng(0).integers(15, 120, count) if variable else np.full(count, 1000 // FPS)
    times = np.concatenate([[0], np.cumsum(steps)[:-1]])  # milliseconds
    base = Fraction(1, 1000) if variable else Fraction(1, FPS)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=FPS, width=WIDTH, height=HEIGHT, options=OPTIONS.get(codec, {}))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = base
        if codec in ("libx264", "libx265", "mpeg4"):
            stream.codec_context.max_b_frames = b_frames
        if codec in ("mpeg4", "wmv2", "flv"):
            stream.bit_rate = 2_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(paint(number), format="rgb24")
            frame.time_base, frame.pts = base, int(times[number]) if variable else number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return times / 1000


def copy_packets(source, target, change):
    """Copy a clip packet by packet, each through `change(number, packet) -> packet`."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for number, packet in enumerate(reader.demux(video=0)):
            if packet.dts is not None:
                packet = change(number, packet)
                packet.stream = stream
                writer.mux(packet)


def write_sound(path):
    """Write a file with silence and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for i in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate, frame.pts = 16000, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def decode_all(path):
    """The reference: every frame, from the first packet to the last, without a seek."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def assert_true_frames(video, reference):
    assert video.total_frames == len(reference)
    for index, frame in zip(video.indices, video.frames, strict=True):
        assert np.array_equal(frame, reference[index]), f"frame {index} is not that of a sequential decode"


# --- invariant 1 --------------------------------------------------------------------------------------------------

CODECS = [
    *[("libx264", extension, b) for extension in ("mp4", "m4v", "mov", "mkv", "flv", "avi") for b in (0, 2)],
    *[("mpeg4", extension, b) for extension in ("avi", "mp4") for b in (0, 2)],
    ("libx265", "mp4", 2),
    ("wmv2", "wmv", 0),
    ("flv", "flv", 0),
    ("libvpx", "webm", 0),
    ("libvpx-vp9", "webm", 0),
    ("libsvtav1", "mp4", 0),
    ("libsvtav1", "webm", 0),
]
# AVI has one rate for the whole file.
CLIPS = [
    (*codec, gop, v) for codec in CODECS for gop in (1, 12, 60) for v in (False, True) if not (v and "avi" in codec)
]


@pytest.mark.parametrize(("codec", "extension", "b_frames", "gop", "variable"), CLIPS)
def test_frames_and_times_are_those_of_a_sequential_decode(tmp_path, codec, extension, b_frames, gop, variable):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg can not encode with {codec}")
    path = tmp_path / f"clip.{extension}"
    times = write_clip(path, codec, gop=gop, b_frames=b_frames, variable=variable)
    reference = decode_all(path)
    for arguments in ({}, {"strategy": "random", "seed": 1, "num_threads": 1}):
        video = read_video(path, 8, **arguments)
        assert_true_frames(video, reference)
        assert read_numbers(video.frames) == video.indices.tolist()
        np.testing.assert_allclose(video.timestamps, times[video.indices], atol=1e-3)
    assert video.fps == pytest.approx((NUM_FRAMES - 1) / times[-1], rel=1e-3)
    assert video.duration == pytest.approx(NUM_FRAMES / video.fps)


def test_reading_every_frame_gives_the_whole_clip(tmp_path):
    write_clip(tmp_path / "clip.mp4", b_frames=2)
    video = read_video(tmp_path / "clip.mp4", NUM_FRAMES)
    assert_true_frames(video, decode_all(tmp_path / "clip.mp4"))
    assert read_numbers(video.frames) == list(range(NUM_FRAMES))


def test_a_packet_without_a_visible_frame_shifts_no_number(tmp_path):
    """VP8 has pictures that are only there to be referred to. Here a bit in the header makes two frames such."""
    hidden = (10, 30)

    def hide(number, packet):
        content = bytearray(bytes(packet))
        if number in hidden:
            content[0] &= 0b11101111
        copy = av.Packet(bytes(content))
        copy.pts, copy.dts, copy.time_base, copy.is_keyframe = packet.pts, packet.dts, packet.time_base, number == 0
        return copy

    write_clip(tmp_path / "all.webm", "libvpx", gop=60)
    copy_packets(tmp_path / "all.webm", tmp_path / "clip.webm", hide)
    shown = [number for number in range(NUM_FRAMES) if number not in hidden]
    reference = decode_all(tmp_path / "clip.webm")
    assert len(reference) == len(shown)
    # The middles of 8 parts end before the last packets: only their times tell that two packets show nothing.
    for count, strategy in ((8, "uniform"), (8, "segment"), (len(shown), "uniform")):
        video = read_video(tmp_path / "clip.webm", count, strategy=strategy)
        assert_true_frames(video, reference)
        assert read_numbers(video.frames) == [shown[i] for i in video.indices]
        np.testing.assert_allclose(video.timestamps, [shown[i] / FPS for i in video.indices], atol=1e-3)


def test_frames_cut_away_by_an_edit_list_are_not_counted(tmp_path):
    """A cut without a new encoding keeps the packets from the key frame on and says which of them not to show."""
    cut = 5

    def earlier(_, packet):
        shift = cut * int(Fraction(1, FPS) / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        return packet

    write_clip(tmp_path / "all.mp4", b_frames=2)
    copy_packets(tmp_path / "all.mp4", tmp_path / "clip.mp4", earlier)
    video = read_video(tmp_path / "clip.mp4", 8)
    assert_true_frames(video, decode_all(tmp_path / "clip.mp4"))
    assert read_numbers(video.frames) == (video.indices + cut).tolist()
    np.testing.assert_allclose(video.timestamps, video.indices / FPS, atol=1e-3)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_display_matrix_turns_frames_upright(tmp_path, rotation):
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV can not write a display matrix")
    write_clip(tmp_path / "clip.mov", rotation=rotation, count=20)
    video = read_video(tmp_path / "clip.mov", 4)
    turns = rotation // 90  # counter-clockwise
    assert_true_frames(video, [np.rot90(frame, turns) for frame in decode_all(tmp_path / "clip.mov")])
    assert read_numbers(np.rot90(frame, -turns) for frame in video.frames) == video.indices.tolist()


# --- what comes back ----------------------------------------------------------------------------------------------


@pytest.fixture
def clip(tmp_path):
    """An H.264 clip of 72 frames with B-frames at 25 frames a second."""
    write_clip(tmp_path / "clip.mp4", b_frames=2)
    return tmp_path / "clip.mp4"


@pytest.mark.parametrize("count", [1, 3, 5])
def test_short_clip_repeats_frames(tmp_path, count):
    write_clip(tmp_path / "short.mp4", count=count)
    video = read_video(tmp_path / "short.mp4", 8)
    assert video.total_frames == count
    assert video.frames.shape == (8, HEIGHT, WIDTH, 3)
    assert read_numbers(video.frames) == np.linspace(0, count - 1, 8, dtype=int).tolist()


def test_arrays_have_the_described_types(clip):
    video = read_video(str(clip), 6)
    assert (video.frames.dtype, video.frames.shape) == (np.uint8, (6, HEIGHT, WIDTH, 3))
    assert (video.indices.dtype, video.indices.shape) == (np.int64, (6,))
    assert (video.timestamps.dtype, video.timestamps.shape) == (np.float64, (6,))
    assert (video.total_frames, video.fps, video.duration) == (NUM_FRAMES, pytest.approx(FPS), pytest.approx(2.88))


def test_load_video_frames_gives_the_same_frames_as_pictures(clip):
    pictures = load_video_frames(clip, 5, strategy="segment", start=0.5)
    assert all(isinstance(picture, Image.Image) and picture.mode == "RGB" for picture in pictures)
    assert np.array_equal(np.stack(pictures), read_video(clip, 5, strategy="segment", start=0.5).frames)


def test_strategies_reach_the_reader(clip):
    assert read_video(clip, 4, strategy="segment").indices.tolist() == [9, 27, 45, 63]
    assert read_video(clip, 3, strategy="fps", sample_fps=1.0).indices.tolist() == [0, 25, 50]
    assert read_video(clip, 6, strategy="fps", sample_fps=2.0).indices.tolist() == [0, 12, 25, 37, 50, 62]


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [(None, None, 0, 71), (1.0, None, 25, 71), (None, 1.0, 0, 24), (0.41, 0.8, 11, 19), (0.4, 0.44, 10, 10)],
)
def test_window_keeps_start_and_leaves_out_end(clip, start, end, first, last):
    video = read_video(clip, 4, start=start, end=end)
    assert (video.indices[0], video.indices[-1]) == (first, last)
    assert read_numbers(video.frames) == video.indices.tolist()
    assert video.total_frames == NUM_FRAMES


@pytest.mark.parametrize(("codec", "extension"), [("libx264", "mkv"), ("libx264", "mp4")])
def test_window_of_a_clip_of_variable_rate_goes_by_time(tmp_path, codec, extension):
    path = tmp_path / f"clip.{extension}"
    times = write_clip(path, codec, b_frames=2, variable=True)
    inside = np.flatnonzero((times >= 1.0) & (times < 2.0))
    video = read_video(path, len(inside), start=1.0, end=2.0)
    assert read_numbers(video.frames) == inside.tolist()


def test_window_of_an_avi_with_b_frames_goes_by_order_of_presentation(tmp_path):
    """AVI knows only when a frame is decoded; B-frames are decoded out of turn."""
    write_clip(tmp_path / "clip.avi", gop=60, b_frames=2)
    video = read_video(tmp_path / "clip.avi", 25, start=1.0, end=2.0)
    assert read_numbers(video.frames) == list(range(25, 50))


@pytest.mark.parametrize(("start", "end"), [(10.0, None), (1.0, 1.0), (2.0, 1.0), (None, -1.0), (0.41, 0.43)])
def test_window_without_frames_is_an_error(clip, start, end):
    with pytest.raises(VideoDecodeError, match=r"clip\.mp4: no frame between"):
        read_video(clip, 8, start=start, end=end)


# --- what is not a video ------------------------------------------------------------------------------------------


def cut_to(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def write_cut(codec, share, **options):
    def write(path):
        write_clip(path, codec, **options)
        cut_to(path, share)

    return write


def write_with_a_hole(path):
    write_clip(path, "mpeg4")
    content = path.read_bytes()
    half, quarter = len(content) // 2, len(content) // 4
    path.write_bytes(content[:half] + bytes(quarter) + content[half + quarter :])


BROKEN = {
    "missing.mp4": lambda path: None,
    "folder.mp4": Path.mkdir,
    "empty.mp4": Path.touch,
    "text.mp4": lambda path: path.write_text("This is not a video. " * 50),
    "sound.mp4": write_sound,
    "cut.mp4": write_cut("libx264", 0.6),
    "cut_with_its_index_first.mp4": write_cut("libx264", 0.6, options={"movflags": "faststart"}),
    "nearly_whole.mov": write_cut("libx264", 0.95, options={"movflags": "faststart"}),
    "cut.avi": write_cut("mpeg4", 0.6),
    "cut.flv": write_cut("flv", 0.6),
    "cut.mkv": write_cut("libx264", 0.03),
    "hole.avi": write_with_a_hole,
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_an_error_that_names_it(tmp_path, name):
    path = tmp_path / name
    BROKEN[name](path)
    with pytest.raises(VideoDecodeError) as caught:
        read_video(path, 8)
    assert str(caught.value).startswith(f"{path}: ")


def test_unknown_backend_is_an_error_that_lists_the_known_ones(clip):
    with pytest.raises(FvvError, match=r"'opencv'.*auto, pyav, decord"):
        read_video(clip, backend="opencv")


def test_unknown_strategy_is_an_error_that_lists_the_known_ones(clip):
    with pytest.raises(FvvError, match=r"'middle'.*uniform, segment, random, fps"):
        read_video(clip, strategy="middle")


@pytest.mark.parametrize("extension", [".mp4", ".avi", ".mov", ".mkv", ".flv", ".wmv", ".webm", ".m4v"])
def test_video_extensions_are_known_in_any_case(extension):
    assert extension in VIDEO_EXTENSIONS
    for name in (f"a/b{extension}", f"a/b{extension.upper()}", f"c.tar{extension.title()}"):
        assert is_video_file(name)
        assert is_video_file(Path(name))


@pytest.mark.parametrize(
    "name", ["a.png", "a.jpg", "a.gif", "mp4", "a.mp4.txt", "a.mp3", "videos.mov/a.png", "amkv", ""]
)
def test_other_files_are_no_videos(name):
    assert not is_video_file(name)


# --- decord, the described backend --------------------------------------------------------------------------------


@pytest.fixture
def decord():
    return pytest.importorskip("decord")


@pytest.mark.usefixtures("decord")
def test_decord_agrees_where_it_is_right(clip):
    ours, theirs = read_video(clip, 8), read_video(clip, 8, backend="decord")
    assert np.array_equal(ours.frames, theirs.frames)
    assert np.array_equal(ours.indices, theirs.indices)
    np.testing.assert_allclose(ours.timestamps, theirs.timestamps, atol=1e-3)


@pytest.mark.usefixtures("decord")
@pytest.mark.parametrize(
    ("codec", "extension", "b_frames"),
    [("libx264", "avi", 0), ("libx264", "avi", 2), ("mpeg4", "mp4", 2), ("mpeg4", "avi", 2), ("wmv2", "wmv", 0)],
)
def test_decord_gives_wrong_frames_where_ours_are_right(tmp_path, codec, extension, b_frames):
    """When the assertion about decord fails, it has been mended: then `read_video` must no longer warn of it."""
    path = tmp_path / f"clip.{extension}"
    write_clip(path, codec, b_frames=b_frames)
    asked = np.linspace(0, NUM_FRAMES - 1, 8, dtype=int).tolist()
    assert read_numbers(read_video(path, 8).frames) == asked
    assert read_numbers(read_video(path, 8, backend="decord").frames) != asked


@pytest.mark.usefixtures("decord")
def test_what_decord_can_not_open_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("This is not a video. " * 50)
    with pytest.raises(VideoDecodeError, match=r"text\.mp4: decord can not decode it"):
        read_video(path, 8, backend="decord")


# --- real clips ---------------------------------------------------------------------------------------------------

RIGHT_IN_DECORD = [
    "baby_playing.mp4",
    "baby_reading.mp4",
    "clip_224.mp4",
    "pancake.mkv",
    *[f"rotated_{degrees}.mov" for degrees in (0, 90, 180, 270)],
    "unordered.mov",
]


@pytest.fixture
def real_videos(real_data):
    return real_data / "real" / "videos"


@pytest.mark.parametrize("name", [*RIGHT_IN_DECORD, "cooking.avi"])
def test_real_clip_is_read_as_a_sequential_decode(real_videos, name):
    path = real_videos / name
    with av.open(str(path)) as container:
        reference = [
            np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90) for frame in container.decode(video=0)
        ]
    for arguments in ({}, {"strategy": "random", "seed": 0, "num_threads": 1}):
        assert_true_frames(read_video(path, 8, **arguments), reference)


@pytest.mark.usefixtures("decord")
@pytest.mark.parametrize("name", RIGHT_IN_DECORD)
def test_decord_agrees_on_real_clip(real_videos, name):
    ours, theirs = read_video(real_videos / name, 8), read_video(real_videos / name, 8, backend="decord")
    assert np.array_equal(ours.frames, theirs.frames)
    np.testing.assert_allclose(ours.timestamps, theirs.timestamps, atol=1e-3)


@pytest.mark.usefixtures("decord")
def test_decord_gives_wrong_frames_of_the_real_avi(real_videos):
    """For 0 38 76 115 153 192 230 269 decord gives 0 38 29 9 47 27 6 45: it counts anew after each seek."""
    reference = decode_all(real_videos / "cooking.avi")
    theirs = read_video(real_videos / "cooking.avi", 8, backend="decord")
    assert theirs.indices.tolist() == [0, 38, 76, 115, 153, 192, 230, 269]
    for frame, number in zip(theirs.frames, [0, 38, 29, 9, 47, 27, 6, 45], strict=True):
        assert np.array_equal(frame, reference[number])


@pytest.mark.parametrize(
    ("degrees", "shape"), [(0, (320, 568)), (90, (568, 320)), (180, (320, 568)), (270, (568, 320))]
)
def test_real_phone_clip_comes_upright(real_videos, degrees, shape):
    assert read_video(real_videos / f"rotated_{degrees}.mov", 2).frames.shape[1:3] == shape


def test_real_clip_without_a_frame_count_is_counted(real_videos):
    with av.open(str(real_videos / "pancake.mkv")) as container:
        assert container.streams.video[0].frames == 0
    video = read_video(real_videos / "pancake.mkv", 8)
    assert (video.total_frames, video.indices[-1]) == (310, 309)


def test_real_corrupted_clip_is_an_error_that_names_it(real_videos):
    with pytest.raises(VideoDecodeError, match=r"corrupted\.mp4: "):
        read_video(real_videos / "corrupted.mp4", 8)
