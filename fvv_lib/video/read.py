"""Read frames of a file with PyAV (exact, the default) or decord (the described system's).                 Lesson 1

A video is a file, an animation, a folder of numbered images or a list of images. A still image is a video of one frame.
`exact.reader` finds the exact frames. This module knows nothing about tensors or models.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from fvv_lib.errors import FvvError, VideoDecodeError
from fvv_lib.far import hold
from fvv_lib.files import Location, locate, readable, shown, size_of, slash_hint
from fvv_lib.video import isolation
from fvv_lib.video.decord_backend import read_decord
from fvv_lib.video.exact.containers import open_bytes
from fvv_lib.video.exact.reader import frame_times, listed_times, read_exact
from fvv_lib.video.exact.truncation import check_size
from fvv_lib.video.frames import Chooser, Frames, Source, VideoFrames
from fvv_lib.video.kinds import is_animation, is_video
from fvv_lib.video.medium import Medium, parse_segment
from fvv_lib.video.sampling import BY_TIME, sample_frame_indices, tolerance
from fvv_lib.video.stills import (
    animation_times,
    load_image,
    numbered_pictures,
    picture_times,
    read_animation,
    read_pictures,
)
from fvv_lib.video_config import CHOICES

BACKENDS = CHOICES["video_backend"]
ACCURACIES = ("exact", "keyframe")
# Seconds. Annotations often have whole seconds, or the end of the sound, which is seldom that of the video.
END_TOLERANCE = 1.0


def load_video_frames(video_path: Source, num_frames: int = 8, **options: Any) -> list[Image.Image]:
    """Sample exactly `num_frames` frames of a video as RGB images. See `read_video` for the options and errors.

    Differs from the described system: a clip with fewer than `num_frames` frames repeats some instead of returning
    fewer, and the frames are correct in every container. Lesson: 01.
    """
    return [Image.fromarray(frame) for frame in read_video(video_path, num_frames, **options).frames]


def read_video(
    video_path: Source,
    num_frames: int = 8,
    *,
    strategy: str = "uniform",
    seed: int | Sequence[int] | None = None,
    sample_fps: float = 1.0,
    max_frames: int | None = None,
    min_frames: int | None = None,
    start: float | str | None = None,
    end: float | str | None = None,
    backend: str = "auto",
    accuracy: str = "exact",
    picture_rate: float = 1.0,
    num_threads: int = 0,
    timeout: float | None = None,
) -> VideoFrames:
    """Sample frames of a video, with their indices and times.

    Args:
        video_path: a video file of any name, in a container that FFmpeg knows; an animated GIF, PNG, WebP or AVIF; a
            folder of numbered images; or a list of image files. Each may be a URL that fsspec knows (`s3://`,
            `https://`, ...), of which only the parts that are needed are read. Playlists and scripts are refused, and
            nothing that they name is opened.
        num_frames: number of frames; exactly this many are returned, unless `max_frames` is given.
        strategy, seed, sample_fps, max_frames, min_frames: see `sampling.sample_frame_indices`.
        start, end: seconds, or texts like "1:02:03.5" (`medium.parse_time`). Only what is shown from `start` to before
            `end` is sampled. Strategies that count frames count those that begin then. Those that go by time also use
            the frame that is on the screen at `start` since before. `end` may be later than the end of the clip by
            `END_TOLERANCE`, or by the longest time for which a frame is shown: nothing tells how long the last one is.
        backend: `pyav` is exact. `decord` is the described system's; it silently returns wrong frames for most H.264
            `.avi`, for MPEG-4 with B-frames and for some `.wmv`, and cannot open AV1. `auto` is `pyav`.
        accuracy: `keyframe` returns the key frame nearest to each requested frame, so no other frame is decoded. It
            may be outside of start and end; `errors` says how far off it is. If decoding cannot start at the file's
            key frames, the frames are exact.
        picture_rate: frames per second of a folder or list of images, which have no times.
        num_threads: decoding threads; 0 is one per core if the clip is large enough. Use 1 if workers read in parallel.
        timeout: seconds. If set, a separate process reads the file (`isolation`), so that a hang or a crash of the
            decoder is an error about this file and nothing else.

    Raises:
        VideoDecodeError: the file is missing, empty, damaged, too large or not a video, takes longer than `timeout`,
            crashes the decoder, has no frame between start and end, or ends before `end`. Of a long file only the parts
            that the frames need are read, so damage elsewhere is not found; `count_frames` decodes all.
        FvvError: an argument is invalid, for example an unknown backend, accuracy or strategy, or an `end` before
            `start`; or a server does not answer.

    Lesson: 01.
    """
    arguments = locals()
    if backend not in BACKENDS:
        raise FvvError(f"Unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}.")
    if accuracy not in ACCURACIES:
        raise FvvError(f"Unknown accuracy {accuracy!r}: choose one of {', '.join(ACCURACIES)}.")
    if backend == "decord" and accuracy == "keyframe":
        raise FvvError("accuracy='keyframe' needs backend='pyav'.")
    if not isinstance(num_threads, int) or num_threads < 0:
        raise FvvError(f"num_threads must be 0 (one per core) or more, got {num_threads!r}.")
    first, last = parse_segment(start, end)
    if timeout is not None:
        return _in_child("read_video", {**arguments, "timeout": None}, timeout)

    name = _name(video_path)
    asked = np.empty(0, dtype=np.int64)

    def choose(times: np.ndarray) -> np.ndarray:
        """Map frame times in seconds, float64 (total_frames,), to the indices of the frames to read."""
        nonlocal asked
        limits = {"sample_fps": sample_fps, "max_frames": max_frames, "min_frames": min_frames}
        asked = _sample(name, times, first, last, num_frames, strategy, seed=seed, **limits)
        return asked

    with readable(name), hold(video_path) as traffic:
        times, indices, frames, aspect = _read(video_path, choose, backend, accuracy, picture_rate, num_threads)
    fps = _average_fps(times)
    errors = times[indices] - times[asked]
    duration = len(times) / fps
    return VideoFrames(
        *(frames, indices, times[indices], fps, len(times), duration, errors, aspect),
        bytes_read=traffic.bytes,
        requests=traffic.requests,
    )


def read_media(medium: Medium | str | Location, num_frames: int, **options: Any) -> VideoFrames:
    """Read a video, or the part of it that is used, with `read_video`; or a still image as a video of one frame.

    Raises:
        VideoDecodeError: as `read_video`; or a part of a still image is asked for.
    """
    medium = medium if isinstance(medium, Medium) else Medium(medium)
    if medium.is_video():
        rate = medium.fps or 1.0
        return read_video(medium.source, num_frames, start=medium.start, end=medium.end, picture_rate=rate, **options)
    (file,) = medium.files
    if medium.is_part:
        raise VideoDecodeError(f"{shown(file)}: it is a still image, which has no part. Take out start and end.")
    nothing = np.zeros(1)
    return VideoFrames(load_image(file), nothing.astype(np.int64), nothing, 1.0, 1, 1.0, nothing)


def count_sampled(
    medium: Medium,
    num_frames: int,
    *,
    strategy: str = "uniform",
    sample_fps: float = 1.0,
    max_frames: int | None = None,
    min_frames: int | None = None,
    timeout: float | None = None,
) -> int:
    """Return how many frames `read_media` returns with these arguments. Where the container tells when each packet is
    shown, nothing is decoded.

    Raises:
        VideoDecodeError: as `read_video`.
    """
    if not medium.is_video():
        return 1
    if max_frames is None:
        return num_frames
    times = video_times(medium.source, picture_rate=medium.fps or 1.0, timeout=timeout)
    limits = {"sample_fps": sample_fps, "max_frames": max_frames, "min_frames": min_frames}
    return len(_sample(_name(medium.source), times, medium.start, medium.end, num_frames, strategy, **limits))


def video_times(
    video_path: Source, *, picture_rate: float = 1.0, num_threads: int = 1, timeout: float | None = None
) -> np.ndarray:
    """Return when each frame of a video is shown, in seconds from the first: float64 (F,). Where the container tells,
    nothing is decoded.

    Raises:
        VideoDecodeError: as `read_video`.
    """
    arguments = locals()
    if timeout is not None:
        return _in_child("video_times", {**arguments, "timeout": None}, timeout)
    if not isinstance(video_path, str | Location):
        return picture_times(len(video_path), picture_rate)
    path = locate(video_path)
    with readable(path), hold(path):
        if path.is_dir():
            return picture_times(len(numbered_pictures(path)), picture_rate)
        with _opened(path) as file:
            return animation_times(path) if is_animation(file) else listed_times(path, file, num_threads)


def count_frames(video_path: Source, *, num_threads: int = 1, timeout: float | None = None) -> int:
    """Count the frames of a video by decoding all of them; none is kept. Images of a folder or list are not decoded.

    Raises:
        VideoDecodeError: as `read_video`, for damage anywhere in the file.
    """
    if timeout is not None:
        return _in_child("count_frames", {"video_path": video_path, "num_threads": num_threads}, timeout)
    if not isinstance(video_path, str | Location):
        return len(video_path)
    path = locate(video_path)
    with readable(path), hold(path):
        if path.is_dir():
            return len(numbered_pictures(path))
        with _opened(path) as file:
            return len(animation_times(path) if is_animation(file) else frame_times(path, num_threads))


def _read(
    source: Source, choose: Chooser, backend: str, accuracy: str, picture_rate: float, num_threads: int
) -> Frames:
    if not isinstance(source, str | Location):
        return read_pictures([locate(path) for path in source], choose, picture_rate)
    path = locate(source)
    if path.is_dir():
        return read_pictures(numbered_pictures(path), choose, picture_rate)
    with _opened(path) as file:
        if is_animation(file):
            return read_animation(path, choose)
        if not is_video(path):
            return read_pictures([path], choose, picture_rate)
        if backend == "decord":
            return read_decord(path, choose, num_threads)
        return read_exact(path, file, choose, num_threads, nearest_key=accuracy == "keyframe")


@contextmanager
def _opened(path: Location) -> Iterator[BinaryIO]:
    """Open a file that exists, is not empty, and is as long as its header states."""
    if not path.is_file():
        raise VideoDecodeError(
            f"{path}: no such file. Check the path and the folder it is relative to.{slash_hint(path)}"
        )
    if size_of(path) == 0:
        raise VideoDecodeError(f"{path}: the file is empty. Download or export it again.")
    with open_bytes(path) as file:
        check_size(path, file)
        yield file


def _sample(
    name: str, times: np.ndarray, start: float | None, end: float | None, num_frames: int, strategy: str, **how: Any
) -> np.ndarray:
    """Return the indices of the frames that are sampled of a clip, or of the part from `start` to before `end`.

    Raises:
        VideoDecodeError: the part has no frame, or is not within the clip.
    """
    duration = len(times) / _average_fps(times)
    # A recording that stands still for a minute may do so at its end, and the times do not tell for how long.
    longest = float(np.diff(times).max(initial=0))
    if end is not None and end > duration + max(END_TOLERANCE, longest):
        raise VideoDecodeError(
            f"{name}: end={end:g} s, but the clip is {duration:.2f} s long. Lower it, or leave it out."
        )
    if start is not None and start >= duration:
        raise VideoDecodeError(f"{name}: start={start:g} s, but the clip is {duration:.2f} s long. Lower it.")
    if end is not None and duration < end <= duration + END_TOLERANCE:
        end = None
    if strategy in BY_TIME:
        return sample_frame_indices(len(times), num_frames, strategy, times=times, start=start, end=end, **how)
    late = tolerance(times)
    first = 0 if start is None else int(np.searchsorted(times, start - late))
    stop = len(times) if end is None else int(np.searchsorted(times, end - late))
    if first == stop:
        part = f"from {start or 0:g} s" + ("" if end is None else f" to {end:g} s")
        shown_at = times[max(first - 1, 0)]
        raise VideoDecodeError(
            f"{name}: no frame begins {part}. The frame that is shown then begins at {shown_at:.3f} s: start "
            f"there, or sample by time ({' or '.join(BY_TIME)})."
        )
    return first + sample_frame_indices(stop - first, num_frames, strategy, **how)


def _name(source: Source) -> str:
    """Return the name of a source in errors."""
    return str(Medium(source if isinstance(source, str | Location) else tuple(source)))


def _average_fps(times: np.ndarray) -> float:
    """Return the frames per second between the times of the first and the last frame; 1 for a single frame."""
    return float((len(times) - 1) / (times[-1] - times[0])) if len(times) > 1 and times[-1] > times[0] else 1.0


def _in_child(function: str, arguments: dict[str, Any], timeout: float) -> Any:
    name = _name(arguments["video_path"])
    try:
        return isolation.call(f"{__name__}.{function}", arguments, timeout)
    except isolation.ChildTimeoutError as error:
        raise VideoDecodeError(
            f"{name}: it was not decoded within {timeout:g} seconds. Cut or encode it again, or allow more time."
        ) from error
    except MemoryError as error:
        raise VideoDecodeError(
            f"{name}: reading it takes more than {isolation.MEMORY / 2**30:.3g} GiB. Sample fewer frames, or "
            "encode it at a smaller size."
        ) from error
    except isolation.ChildCrashError as error:
        raise VideoDecodeError(
            f"{name}: the decoder crashed on it ({error}). Encode it again, or remove it."
        ) from error
