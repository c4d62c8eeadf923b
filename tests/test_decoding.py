"""Decoding: what `read_video` guarantees for every file. test_reader checks that the frames are the right ones."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from shared import assert_true_frames, decode_all, join_streams

from fvv_lib.course.numbered import FPS, HEIGHT, WIDTH, _same_priority, paint, read_numbers, write_numbered
from fvv_lib.course.scenes import motion_clip
from fvv_lib.errors import FvvError, VideoDecodeError
from fvv_lib.video.kinds import VIDEO_EXTENSIONS, is_video, is_video_file
from fvv_lib.video.read import count_frames, load_video_frames, read_video
from fvv_lib.video.stills import load_image

COUNT = 72


def write_sound(path):
    """Write an audio file with silence and no video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for i in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate, frame.pts = 16000, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


# --- what is returned ---------------------------------------------------------------------------------------------


@pytest.fixture
def clip(tmp_path):
    """An H.264 clip of 72 frames with B-frames at 25 frames per second."""
    write_numbered(tmp_path / "clip.mp4", b_frames=2)
    return tmp_path / "clip.mp4"


@pytest.mark.parametrize("count", [1, 3, 5])
def test_short_clip_repeats_frames(tmp_path, count):
    write_numbered(tmp_path / "short.mp4", count=count)
    video = read_video(tmp_path / "short.mp4", 8)
    assert video.total_frames == count
    assert video.frames.shape == (8, HEIGHT, WIDTH, 3)
    assert read_numbers(video.frames) == np.linspace(0, count - 1, 8, dtype=int).tolist()


def test_arrays_have_the_described_types(clip):
    video = read_video(str(clip), 6)
    assert (video.frames.dtype, video.frames.shape) == (np.uint8, (6, HEIGHT, WIDTH, 3))
    assert (video.indices.dtype, video.indices.shape) == (np.int64, (6,))
    assert (video.timestamps.dtype, video.timestamps.shape) == (np.float64, (6,))
    assert (video.total_frames, video.fps, video.duration) == (COUNT, pytest.approx(FPS), pytest.approx(2.88))


def test_load_video_frames_returns_the_same_frames_as_images(clip):
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
def test_window_includes_start_and_excludes_end(clip, start, end, first, last):
    video = read_video(clip, 4, start=start, end=end)
    assert (video.indices[0], video.indices[-1]) == (first, last)
    assert read_numbers(video.frames) == video.indices.tolist()
    assert video.total_frames == COUNT


@pytest.mark.parametrize(("codec", "extension"), [("libx264", "mkv"), ("libx264", "mp4")])
def test_window_of_a_clip_of_variable_rate_is_by_time(tmp_path, codec, extension):
    path = tmp_path / f"clip.{extension}"
    times = write_numbered(path, codec, b_frames=2, variable=True)
    inside = np.flatnonzero((times >= 1.0) & (times < 2.0))
    video = read_video(path, len(inside), start=1.0, end=2.0)
    assert read_numbers(video.frames) == inside.tolist()


def test_window_of_an_avi_with_b_frames_is_by_presentation_order(tmp_path):
    """AVI stores only when a frame is decoded, and B-frames are decoded out of order."""
    write_numbered(tmp_path / "clip.avi", gop=60, b_frames=2)
    video = read_video(tmp_path / "clip.avi", 25, start=1.0, end=2.0)
    assert read_numbers(video.frames) == list(range(25, 50))


@pytest.mark.parametrize(("start", "end"), [(10.0, None), (2.88, 3.0), (0.41, 0.43)])
def test_window_without_frames_is_an_error(clip, start, end):
    with pytest.raises(VideoDecodeError, match=r"clip\.mp4: (no frame begins from|start=[\d.]+ s, but)"):
        read_video(clip, 8, start=start, end=end)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [(1.0, 1.0, "must be before end=1"), (2.0, 1.0, "must be before"), (None, -1.0, "end: '-1.0' is not a time")],
)
def test_window_that_no_clip_can_have_is_an_error(clip, start, end, message):
    with pytest.raises(FvvError, match=message):
        read_video(clip, 8, start=start, end=end)


# --- images as videos -------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Frames 1 to 12 as numbered images. Sorted as text, their names have another order."""
    (tmp_path / "frames").mkdir()
    for number in range(1, 13):
        Image.fromarray(paint(number)).save(tmp_path / "frames" / f"frame{number}.png")
    return tmp_path / "frames"


def test_a_folder_of_numbered_images_is_a_video(folder):
    video = read_video(folder, 12, picture_rate=4.0)
    assert read_numbers(video.frames) == list(range(1, 13))
    np.testing.assert_allclose(video.timestamps, np.arange(12) / 4)
    assert (video.fps, video.duration) == (4.0, 3.0)
    assert read_numbers(read_video(folder, 3, picture_rate=4.0, start=1.0, end=2.0).frames) == [5, 6, 8]
    assert is_video(folder)
    assert count_frames(folder) == 12


def test_a_list_of_images_is_a_video_in_its_order(folder):
    files = [folder / f"frame{number}.png" for number in (7, 3, 9)]
    assert read_numbers(read_video(files, 3).frames) == [7, 3, 9]
    assert read_numbers(read_video(list(map(str, files)), 6).frames) == [7, 7, 7, 3, 3, 9]


def test_hidden_files_of_a_folder_are_ignored_and_other_files_are_an_error(folder):
    (folder / ".DS_Store").touch()
    assert read_video(folder, 2).total_frames == 12
    (folder / "notes.txt").touch()
    with pytest.raises(VideoDecodeError, match=r"frames: .*'notes\.txt' is not an image"):
        read_video(folder, 2)


def test_images_that_cannot_be_a_video_are_errors(folder, tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(VideoDecodeError, match=r"nothing: .*it is empty"):
        read_video(tmp_path / "nothing", 2)
    with pytest.raises(FvvError, match="needs an image"):
        read_video([], 2)
    with pytest.raises(FvvError, match="picture_rate above 0"):
        read_video(folder, 2, picture_rate=0)
    Image.fromarray(paint(1)[:, :64]).save(folder / "frame13.png")
    with pytest.raises(VideoDecodeError, match="differ in size"):
        read_video(folder, 13)
    (folder / "frame1.png").write_bytes((folder / "frame1.png").read_bytes()[:200])
    with pytest.raises(VideoDecodeError, match=r"frame1\.png: it cannot be read as an image"):
        read_video(folder, 2)


def test_an_animated_gif_is_a_video(tmp_path):
    frames = motion_clip(np.random.default_rng(0), "left", 10)[0]
    pictures = [Image.fromarray(frame).convert("P", palette=Image.Palette.ADAPTIVE) for frame in frames]
    pictures[0].save(tmp_path / "clip.gif", save_all=True, append_images=pictures[1:], duration=100, loop=0)
    video = read_video(tmp_path / "clip.gif", 10)
    assert video.total_frames == 10
    np.testing.assert_allclose(video.timestamps, np.arange(10) / 10, atol=0.011)
    for frame, picture in zip(video.frames, pictures, strict=True):
        assert np.abs(frame.astype(int) - np.asarray(picture.convert("RGB"))).mean() < 1
    assert is_video(tmp_path / "clip.gif")
    pictures[0].save(tmp_path / "still.gif")
    assert not is_video(tmp_path / "still.gif")
    assert load_image(tmp_path / "still.gif").shape == (1, *frames.shape[1:])


DURATIONS = (120, 40, 200, 80, 120, 1000, 60, 90)  # milliseconds; GIF stores multiples of 10


def write_animation(path, frames, durations=DURATIONS, **options):
    lossless = {".webp": {"lossless": True}, ".avif": {"quality": 100, "subsampling": "4:4:4"}, ".png": {}, ".gif": {}}
    pictures = [Image.fromarray(frame) for frame in frames]
    settings = {"append_images": pictures[1:], "duration": list(durations), **lossless[path.suffix], **options}
    pictures[0].save(path, save_all=True, **settings)


@pytest.mark.parametrize("extension", ["gif", "webp", "png", "avif"])
def test_an_animation_is_a_video_with_its_frames_and_times(tmp_path, extension):
    path = tmp_path / f"clip.{extension}"
    write_animation(path, [paint(number) for number in range(8)])
    assert is_video(path)
    video = read_video(path, 8)
    starts = np.cumsum([0, *DURATIONS[:-1]]) / 1000
    assert video.indices.tolist() == read_numbers(video.frames) == list(range(8))
    np.testing.assert_allclose(video.timestamps, starts, atol=1e-3 if extension == "avif" else 1e-9)
    if extension != "avif":
        assert np.array_equal(video.frames, [paint(number) for number in range(8)])
    assert count_frames(path) == 8
    part = read_video(path, 3, start=0.3, end=0.6, timeout=30)
    assert read_numbers(part.frames) == part.indices.tolist() == [3, 4, 5]


def test_an_animated_png_is_a_video_wherever_it_says_that_it_is_animated(tmp_path):
    about = PngInfo()
    about.add_text("about", "long " * 2000)
    write_animation(tmp_path / "clip.png", [paint(number) for number in range(8)], pnginfo=about)
    assert (tmp_path / "clip.png").read_bytes().index(b"acTL") > 8192
    Image.fromarray(paint(0)).save(tmp_path / "still.png", pnginfo=about)
    assert is_video(tmp_path / "clip.png")
    assert not is_video(tmp_path / "still.png")


@pytest.mark.parametrize("extension", ["gif", "webp", "png"])
def test_a_frame_without_duration_is_shown_as_long_as_in_browsers(tmp_path, extension):
    path = tmp_path / f"clip.{extension}"
    write_animation(path, [paint(number) for number in range(4)], durations=[0, 50, 10, 0])
    np.testing.assert_allclose(read_video(path, 4).timestamps, [0, 0.1, 0.15, 0.25])


def test_times_of_an_animation_do_not_accumulate_rounding_errors(tmp_path):
    """At 24 frames per second, each lasts 41.67 milliseconds."""
    path = tmp_path / "clip.avif"
    with _same_priority(), av.open(str(path), "w") as container:
        stream = container.add_stream("libsvtav1", rate=24, width=WIDTH, height=HEIGHT, options={"preset": "8"})
        stream.pix_fmt = "yuv420p"
        for number in range(48):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(paint(number), format="rgb24")))
        container.mux(stream.encode())
    video = read_video(path, 48)
    assert read_numbers(video.frames) == list(range(48))
    np.testing.assert_allclose(video.timestamps, np.arange(48) / 24, atol=1e-3)


def test_an_animation_is_recognized_under_any_name(tmp_path):
    write_animation(tmp_path / "clip.webp", [paint(number) for number in range(8)])
    for name in ("clip.jpg", "clip.mp4", "clip"):
        (tmp_path / name).write_bytes((tmp_path / "clip.webp").read_bytes())
        assert is_video(tmp_path / name)
        assert read_numbers(read_video(tmp_path / name, 8).frames) == list(range(8))


def test_the_default_image_of_an_animation_is_not_a_frame(tmp_path):
    write_animation(tmp_path / "clip.png", [paint(number) for number in range(8)], DURATIONS[1:], default_image=True)
    video = read_video(tmp_path / "clip.png", 7)
    assert read_numbers(video.frames) == list(range(1, 8))
    np.testing.assert_allclose(video.timestamps, np.cumsum([0, *DURATIONS[1:-1]]) / 1000)


@pytest.mark.parametrize("extension", ["webp", "png", "avif"])
def test_an_animation_that_is_cut_short_is_an_error(tmp_path, extension):
    path = tmp_path / f"clip.{extension}"
    write_animation(path, [paint(number) for number in range(8)])
    content = path.read_bytes()
    for share in (0.5, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        for read in (lambda: read_video(path, 8), lambda: count_frames(path), lambda: load_image(path)):
            with pytest.raises(VideoDecodeError, match=rf"clip\.{extension}: "):
                read()


@pytest.mark.parametrize("extension", ["gif", "webp", "png"])
def test_transparent_pixels_of_an_animation_are_white(tmp_path, extension):
    def ring(number):
        picture = Image.new("RGBA", (60, 40), (10, 10, 10, 0))
        picture.paste((200, 30 * number, 30, 255), (20, 10, 40, 30))
        return np.asarray(picture)

    path = tmp_path / f"clip.{extension}"
    write_animation(path, [ring(number) for number in range(4)], [100] * 4, disposal=2)
    for number, frame in enumerate(read_video(path, 4).frames):
        assert (frame[:10] == 255).all()
        assert np.abs(frame[20, 30].astype(int) - (200, 30 * number, 30)).max() <= 1


def test_read_video_reads_a_still_image_as_one_frame(tmp_path):
    Image.fromarray(paint(5)).save(tmp_path / "still.png")
    assert not is_video(tmp_path / "still.png")
    video = read_video(tmp_path / "still.png", 3)
    assert read_numbers(video.frames) == [5, 5, 5]
    assert video.total_frames == 1


# --- other file names, other containers -----------------------------------------------------------------------------

OTHERS = [  # extension, FFmpeg's name of the container, an encoder for it
    ("ts", "mpegts", "libx264"),
    ("mts", "mpegts", "libx264"),
    ("m2ts", "mpegts", "libx264"),
    ("mpg", "mpeg", "mpeg2video"),
    ("mpeg", "mpeg", "mpeg1video"),
    ("vob", "vob", "mpeg2video"),
    ("m2v", "mpeg2video", "mpeg2video"),
    ("3gp", "3gp", "libx264"),
    ("ogv", "ogg", "libvpx"),
    ("mxf", "mxf", "mpeg2video"),
    ("asf", "asf", "wmv2"),
    ("rm", "rm", "rv20"),
    ("nut", "nut", "libx264"),
    ("f4v", "f4v", "libx264"),
    ("ivf", "ivf", "libvpx-vp9"),
    ("y4m", "yuv4mpegpipe", "wrapped_avframe"),
    ("swf", "swf", "flv"),
    ("roq", "roq", "roqvideo"),
    ("h261", "h261", "h261"),
    ("cpk", "film_cpk", "cinepak"),
]


def write_in(path, container, codec, count=24):
    """Write painted frames to any container, at 25 per second."""
    size = (176, 144) if codec in ("rv20", "h261") else (WIDTH, HEIGHT)
    with av.open(str(path), "w", format=container) as writing:
        stream = writing.add_stream(codec, rate=FPS, width=size[0], height=size[1], options={"bf": "0"})
        stream.pix_fmt = {"roqvideo": "yuvj444p", "cinepak": "rgb24"}.get(codec, "yuv420p")
        if codec != "libx264":
            stream.bit_rate = 4_000_000
        for number in range(count):
            picture = np.zeros((*size[::-1], 3), np.uint8)
            picture[:HEIGHT, :WIDTH] = paint(number)
            writing.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        writing.mux(stream.encode())


@pytest.mark.parametrize(("extension", "container", "codec"), OTHERS, ids=[other[0] for other in OTHERS])
def test_a_file_that_ffmpeg_can_demux_is_a_video(tmp_path, extension, container, codec):
    path = tmp_path / f"clip.{extension}"
    try:
        write_in(path, container, codec)
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"this FFmpeg cannot write it: {error}")
    reference = decode_all(path)
    for name in (path, tmp_path / "without_a_name", tmp_path / "clip.dat", tmp_path / f"CLIP.{extension.upper()}"):
        name.write_bytes(path.read_bytes())
        assert is_video(name)
        video = read_video(name, 8)
        assert_true_frames(video, reference)
        assert read_numbers(frame[:HEIGHT, :WIDTH] for frame in video.frames) == video.indices.tolist()
        np.testing.assert_allclose(video.timestamps, video.indices / FPS, atol=2e-3)
        assert not is_video_file(name)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.tiff", "a.avif", "a.txt", "a.wav", "a.dat"])
def test_other_content_is_not_a_video(tmp_path, name):
    if name == "a.txt":
        (tmp_path / name).write_text("#EXTM3U\n" * 50)
    elif name == "a.dat":
        (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(5000))
    elif name == "a.wav":
        with av.open(str(tmp_path / name), "w") as container:
            container.mux(container.add_stream("pcm_s16le", rate=8000, layout="mono").encode())
    else:
        Image.fromarray(paint(1)).save(tmp_path / name)
    assert not is_video(tmp_path / name)
    assert not is_video(tmp_path / f"missing{name[1:]}")


def test_is_video_does_not_open_a_named_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert not is_video(tmp_path / "pipe")


# --- what is not a video ------------------------------------------------------------------------------------------


def cut_to(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def write_cut(codec, share, **options):
    def write(path):
        write_numbered(path, codec, **options)
        cut_to(path, share)

    return write


def write_with_a_hole(path):
    write_numbered(path, "mpeg4")
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
    "cut_with_its_index_first.mp4": write_cut("libx264", 0.6, container_options={"movflags": "faststart"}),
    "nearly_whole.mov": write_cut("libx264", 0.95, container_options={"movflags": "faststart"}),
    "cut.avi": write_cut("mpeg4", 0.6),
    "cut.flv": write_cut("flv", 0.6),
    "cut.mkv": write_cut("libx264", 0.6),
    "cut.webm": write_cut("libvpx-vp9", 0.6),
    "cut.wmv": write_cut("wmv2", 0.6),
    "nearly_whole.mkv": write_cut("libx264", 0.97),
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
    with pytest.raises(FvvError, match=r"'middle'.*uniform, segment, random, uniform_time, fps"):
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
def test_other_extensions_are_not_video_files(name):
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
    """If the assertion about decord fails, decord was fixed: then remove the warning from `read_video`."""
    path = tmp_path / f"clip.{extension}"
    write_numbered(path, codec, b_frames=b_frames)
    asked = np.linspace(0, COUNT - 1, 8, dtype=int).tolist()
    assert read_numbers(read_video(path, 8).frames) == asked
    assert read_numbers(read_video(path, 8, backend="decord").frames) != asked


@pytest.mark.usefixtures("decord")
def test_a_file_that_decord_cannot_open_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "clip.mp4"
    write_numbered(path, "libsvtav1", count=12)
    with pytest.raises(VideoDecodeError, match=r"clip\.mp4: decord cannot decode it"):
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
    """For 0 38 76 115 153 192 230 269 decord returns 0 38 29 9 47 27 6 45: it starts to count again after each seek."""
    reference = decode_all(real_videos / "cooking.avi")
    theirs = read_video(real_videos / "cooking.avi", 8, backend="decord")
    assert theirs.indices.tolist() == [0, 38, 76, 115, 153, 192, 230, 269]
    for frame, number in zip(theirs.frames, [0, 38, 29, 9, 47, 27, 6, 45], strict=True):
        assert np.array_equal(frame, reference[number])


@pytest.mark.parametrize(
    ("degrees", "shape"), [(0, (320, 568)), (90, (568, 320)), (180, (320, 568)), (270, (568, 320))]
)
def test_real_phone_clip_is_upright(real_videos, degrees, shape):
    assert read_video(real_videos / f"rotated_{degrees}.mov", 2).frames.shape[1:3] == shape


def test_real_clip_without_a_frame_count_is_counted(real_videos):
    with av.open(str(real_videos / "pancake.mkv")) as container:
        assert container.streams.video[0].frames == 0
    video = read_video(real_videos / "pancake.mkv", 8)
    assert (video.total_frames, video.indices[-1]) == (310, 309)


def test_real_corrupted_clip_is_an_error_that_names_it(real_videos):
    with pytest.raises(VideoDecodeError, match=r"corrupted\.mp4: "):
        read_video(real_videos / "corrupted.mp4", 8)


@pytest.mark.parametrize("timeout", [None, 30])
def test_an_error_of_the_system_is_an_error_about_the_file(tmp_path, timeout):
    path = tmp_path / ("x" * 300 + ".mp4")
    with pytest.raises(VideoDecodeError, match=r"xxx\.mp4: it cannot be read \(File name too long\)"):
        read_video(path, 2, timeout=timeout)
    with pytest.raises(VideoDecodeError, match=r"xxx\.mp4: it cannot be read \(File name too long\)"):
        count_frames(path, timeout=timeout)


@pytest.mark.parametrize(
    "wrong",
    [{"num_threads": -1}, {"num_threads": 1.5}, {"num_threads": "2"}]
    + [{"timeout": value} for value in (0, -1, float("nan"), float("inf"), 1e12, "5")],
)
def test_an_invalid_setting_is_an_error_at_once(clip, wrong):
    with pytest.raises(FvvError, match=f"{next(iter(wrong))} must be") as caught:
        read_video(clip, 2, **wrong)
    assert not isinstance(caught.value, VideoDecodeError)  # the file is not to blame


def test_an_album_cover_is_not_a_video(tmp_path, clip):
    Image.fromarray(paint(1)).save(tmp_path / "cover.png")

    def write_with_cover(path, sources):
        dispositions = [av.stream.Disposition.attached_pic, *[None] * len(sources)]
        join_streams(path, [tmp_path / "cover.png", *sources], dispositions)

    write_with_cover(tmp_path / "album.mp4", [])
    with pytest.raises(VideoDecodeError, match=r"album\.mp4: the file has no video stream"):
        read_video(tmp_path / "album.mp4", 2)
    write_with_cover(tmp_path / "film.mp4", [clip])
    assert read_video(tmp_path / "film.mp4", 2).total_frames == COUNT
