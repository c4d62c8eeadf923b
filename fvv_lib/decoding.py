"""Frames of a file: PyAV (exact, default) and decord (the described backend) behind one door.              Lesson 1

A frame's number is its place in the order of presentation, and the frames returned are bit for bit those of a decode
from the first packet to the last. This module knows nothing about tensors or models.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fvv_lib.errors import FvvError, VideoDecodeError
from fvv_lib.sampling import sample_frame_indices

if TYPE_CHECKING:
    import av

VIDEO_EXTENSIONS = (".mp4", ".avi", ".mov", ".mkv", ".flv", ".wmv", ".webm", ".m4v")
BACKENDS = ("auto", "pyav", "decord")


def is_video_file(path: str | Path) -> bool:
    """Tell by the extension, in any case, whether a path is a video: .mp4 .avi .mov .mkv .flv .wmv .webm .m4v."""
    return str(path).lower().endswith(VIDEO_EXTENSIONS)


@dataclass(frozen=True)
class VideoFrames:
    """Frames of a video, and where they come from.

    Attributes:
        frames: uint8 (N, H, W, 3), RGB, upright.
        indices: int64 (N,), places in the order of presentation, counted from the first frame of the file.
        timestamps: float64 (N,), seconds from the first frame of the file.
        fps: average frames per second of the whole file.
        total_frames: frames in the whole file.
        duration: seconds, `total_frames / fps`.
    """

    frames: np.ndarray
    indices: np.ndarray
    timestamps: np.ndarray
    fps: float
    total_frames: int
    duration: float


def load_video_frames(
    video_path: str | Path,
    num_frames: int = 8,
    *,
    strategy: str = "uniform",
    seed: int | Sequence[int] | None = None,
    sample_fps: float = 1.0,
    start: float | None = None,
    end: float | None = None,
    backend: str = "auto",
    num_threads: int = 0,
) -> list[Image.Image]:
    """Sample exactly `num_frames` frames of a video as RGB pictures. See `read_video` for the arguments and errors.

    Differs from the described system: a clip shorter than `num_frames` repeats frames instead of returning fewer, and
    the frames are the true ones in every container. Lesson: 01.
    """
    video = read_video(
        video_path,
        num_frames,
        strategy=strategy,
        seed=seed,
        sample_fps=sample_fps,
        start=start,
        end=end,
        backend=backend,
        num_threads=num_threads,
    )
    return [Image.fromarray(frame) for frame in video.frames]


def read_video(
    video_path: str | Path,
    num_frames: int = 8,
    *,
    strategy: str = "uniform",
    seed: int | Sequence[int] | None = None,
    sample_fps: float = 1.0,
    start: float | None = None,
    end: float | None = None,
    backend: str = "auto",
    num_threads: int = 0,
) -> VideoFrames:
    """Sample frames of a video, with their numbers and times.

    Args:
        num_frames: how many; always exactly as many come.
        strategy, seed, sample_fps: see `sampling.sample_frame_indices`.
        start, end: seconds; only frames with start <= time < end are sampled.
        backend: `pyav` is exact. `decord` is the described system's; it returns wrong frames without a word for most
            H.264 `.avi`, for MPEG-4 with B-frames and for some `.wmv`, and can not open AV1. `auto` is `pyav`.
        num_threads: of the decoder; 0 is one per core. Where workers read in parallel, 1 is best.

    Raises:
        VideoDecodeError: the file is missing, empty, no video, damaged, or has no frame between start and end.
        FvvError: an unknown backend or strategy.

    Lesson: 01.
    """
    path = Path(video_path)
    if backend not in BACKENDS:
        raise FvvError(f"Unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}.")
    if not path.is_file():
        raise VideoDecodeError(f"{path}: no such file. Check the path and the folder it is relative to.")
    if path.stat().st_size == 0:
        raise VideoDecodeError(f"{path}: the file is empty. Download or export it again.")

    read = _read_decord if backend == "decord" else _read_pyav

    def choose(times: np.ndarray) -> np.ndarray:
        """Frame times in seconds, float64 (total_frames,), to the indices of the frames to read."""
        first = 0 if start is None else int(np.searchsorted(times, start, side="left"))
        last = len(times) if end is None else int(np.searchsorted(times, end, side="left"))
        window = np.arange(first, last)
        if len(window) == 0:
            raise VideoDecodeError(
                f"{path}: no frame between start={start} and end={end} seconds; the last frame is at {times[-1]:.2f} s."
            )
        chosen = sample_frame_indices(
            len(window), num_frames, strategy, seed=seed, video_fps=_average_fps(times), sample_fps=sample_fps
        )
        return window[chosen]

    times, indices, frames = read(path, choose, num_threads)
    fps = _average_fps(times)
    return VideoFrames(frames, indices, times[indices], fps, len(times), len(times) / fps)


def _average_fps(times: np.ndarray) -> float:
    """Frames per second, from the first frame's time to the last one's; 1 where there is a single frame."""
    return float((len(times) - 1) / (times[-1] - times[0])) if len(times) > 1 and times[-1] > times[0] else 1.0


# --- PyAV: exact ------------------------------------------------------------------------------------------------------
#
# A container lists its packets, and reading that list is cheap. Nearly always a packet is a frame, so the list tells
# how many frames there are and when each is shown. But a packet may hold no visible frame (alt-ref frames of VP8), be
# cut away by an edit list, or carry no time (AVI). So the decode checks the list frame by frame, and where the list is
# wrong the clip is decoded in full to make a true one.

Chooser = Callable[[np.ndarray], np.ndarray]


def _read_pyav(path: Path, choose: Chooser, num_threads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times of all frames, indices of the chosen ones, and those frames."""
    for list_times in (_packet_times, _frame_times):
        times = list_times(path, num_threads)
        if times is not None:
            shown = np.sort(times) - times.min()  # AVI says only when a frame is decoded: sorted, when it is shown
            indices = choose(shown)
            frames = _collect(path, times, indices, num_threads)
            if frames is not None:
                return shown, indices, frames
    raise VideoDecodeError(f"{path}: two decodes of the file differ. Copy or encode it again.")


def _packet_times(path: Path, num_threads: int) -> np.ndarray | None:
    """The time in seconds of every packet, in order of presentation; None where the container does not tell."""
    with _open(path, num_threads) as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.size]
        listed = sum(entry.size > 0 for entry in stream.index_entries)
    if len(packets) < listed:
        raise VideoDecodeError(
            f"{path}: the file lists {listed} frames, but {len(packets)} are there: it is cut short or damaged. "
            "Download or copy it again."
        )
    packets = [packet for packet in packets if not packet.is_discard]
    if not packets or any(packet.pts is None for packet in packets):
        return None
    return np.array(sorted(packet.pts for packet in packets)) * float(packets[0].time_base)


def _frame_times(path: Path, num_threads: int) -> np.ndarray:
    """The time in seconds of every frame, from a full decode; frames without a time follow the average rate."""
    with _open(path, num_threads) as (container, stream):
        rate = float(stream.average_rate or 1)
        times = [_time(frame, i, rate) for i, frame in enumerate(container.decode(stream))]
    if not times:
        raise VideoDecodeError(f"{path}: no frame can be decoded. Download or encode the file again.")
    return np.array(times)


def _time(frame: "av.VideoFrame", index: int, rate: float) -> float:
    return index / rate if frame.pts is None else frame.pts * float(frame.time_base)


def _collect(path: Path, times: np.ndarray, indices: np.ndarray, num_threads: int) -> np.ndarray | None:
    """The frames at these indices, uint8 (N, H, W, 3); None where the decoded frames do not keep to `times`."""
    from av.video.reformatter import VideoReformatter

    wanted, found, reformatter = set(indices.tolist()), {}, VideoReformatter()
    with _open(path, num_threads) as (container, stream):
        rate = float(stream.average_rate or 1)
        for i, frame in enumerate(container.decode(stream)):
            if i >= len(times) or abs(_time(frame, i, rate) - times[i]) > 1e-6:
                return None
            if i in wanted:
                if frame.is_corrupt:
                    raise VideoDecodeError(f"{path}: frame {i} is damaged. Download or encode the file again.")
                if frame.rotation % 90:
                    raise VideoDecodeError(f"{path}: it is turned by {frame.rotation} degrees. Encode it upright.")
                rgb = reformatter.reformat(frame, format="rgb24", threads=num_threads).to_ndarray()  # (H, W, 3)
                found[i] = np.rot90(rgb, frame.rotation // 90)  # phone clips: both count counter-clockwise
            if i == indices[-1]:
                break
        else:
            return None
    if len({frame.shape for frame in found.values()}) > 1:
        raise VideoDecodeError(f"{path}: the picture size changes within the clip. Encode it again at one size.")
    return np.stack([found[i] for i in indices.tolist()])


@contextmanager
def _open(path: Path, num_threads: int) -> Iterator[tuple["av.container.InputContainer", "av.VideoStream"]]:
    """Open the first video stream; whatever FFmpeg says against the file becomes one `VideoDecodeError`."""
    import av

    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise VideoDecodeError(f"{path}: the file has no video stream. Is it sound only?")
            stream = container.streams.video[0]
            stream.thread_type = "SLICE" if num_threads == 1 else "AUTO"
            stream.codec_context.thread_count = num_threads
            yield container, stream
    except av.FFmpegError as error:
        raise VideoDecodeError(
            f"{path}: it can not be decoded as a video ({error.strerror}). "
            "Check that it plays to its end; download or encode it again."
        ) from error


# --- decord: the described backend ------------------------------------------------------------------------------------


def _read_decord(path: Path, choose: Chooser, num_threads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        import decord
    except ImportError as error:
        raise FvvError(
            "decord is not installed (it has no wheels for this machine): use backend='pyav', which is exact."
        ) from error
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=num_threads)
        times = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
        indices = choose(times - times[0])
        return times - times[0], indices, reader.get_batch(indices).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise VideoDecodeError(
            f"{path}: decord can not decode it ({str(error).splitlines()[0]}). Try backend='pyav'."
        ) from error
