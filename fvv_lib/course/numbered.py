"""Clips that carry their frame numbers: to see whether a reader gives the right frames.                    Lesson 1

Two readers that agree may both be wrong. Here each frame shows its own number as a row of light and dark cells, large
enough to come through any codec, so that a frame says itself which one it is. Tests and benchmarks use it on every
container and codec; use it on the reader that you trust. It knows nothing about readers.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np

BITS, CELL, HEIGHT = 10, 16, 64
WIDTH = BITS * CELL
FPS = 25
OPTIONS = {
    "libx264": {"preset": "veryfast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "libsvtav1": {"preset": "8", "crf": "20"},
    "libvpx": {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8", "deadline": "realtime"},
    "libvpx-vp9": {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8", "deadline": "realtime"},
}
CONTAINERS = {  # those of `is_video_file` that carry a codec
    "libx264": ("mp4", "m4v", "mov", "mkv", "flv", "avi", "wmv"),
    "libx265": ("mp4", "mov", "mkv", "flv"),
    "mpeg4": ("mp4", "m4v", "mov", "mkv", "avi", "wmv"),
    "libvpx-vp9": ("webm", "mkv", "mp4", "flv", "avi", "wmv"),
    "libsvtav1": ("webm", "mkv", "mp4", "flv", "avi", "wmv"),
    "libvpx": ("webm", "mkv", "avi", "wmv"),
    "wmv2": ("wmv", "avi"),
    "mjpeg": ("avi", "mov", "mkv", "mp4", "wmv"),
    "flv": ("flv", "avi", "wmv"),
}
WITH_B_FRAMES = ("libx264", "libx265", "mpeg4")
ENCODINGS = [  # (codec, container, frames between key frames, B-frames, variable rate)
    (codec, container, gop, b_frames, variable)
    for codec, containers in CONTAINERS.items()
    for container in containers
    for gop in ((1,) if codec == "mjpeg" else (1, 12, 60, 300))  # every picture of MJPEG is a key frame
    for b_frames in ((0, 2) if codec in WITH_B_FRAMES else (0,))
    # AVI has one rate for the whole file, ASF not the times of B-frames.
    for variable in ((False,) if container == "avi" or (container == "wmv" and b_frames) else (False, True))
]


def paint(number: int) -> np.ndarray:
    """The picture of a number below 1024: uint8 (64, 160, 3). Bits as white cells above, their opposites below, and a
    wave between that moves from frame to frame, so that the codec has something to predict."""
    bits = np.kron((number >> np.arange(BITS)) & 1, np.ones((HEIGHT // 2, CELL)))
    picture = 32 + 192 * np.concatenate([bits, 1 - bits])
    picture[24:40] = 128 + 60 * np.sin((np.arange(WIDTH) + 5 * number) / 7)
    return np.repeat(picture[..., None], 3, axis=2).astype(np.uint8)


def read_number(frame: np.ndarray) -> int:
    """The number in a frame, uint8 (64, 160, 3): in each column, is it lighter above than below?"""
    grey = frame.mean(axis=-1)
    above, below = (part.reshape(16, BITS, CELL)[:, :, 4:-4].mean(axis=(0, 2)) for part in (grey[4:20], grey[44:60]))
    return int(((above > below) << np.arange(BITS)).sum())


def read_numbers(frames: Iterable[np.ndarray]) -> list[int]:
    return [read_number(frame) for frame in frames]


@contextmanager
def _same_priority() -> Iterator[None]:
    """Give this thread its scheduling back. SVT-AV1, as root, makes the thread that encodes a real-time one and leaves
    it so: two such processes stop each other, and all else."""
    if not hasattr(os, "sched_getscheduler"):  # not on macOS
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def write_numbered(
    path: str | Path,
    codec: str = "libx264",
    *,
    gop: int = 12,
    b_frames: int = 0,
    variable: bool = False,
    count: int = 72,
    rotation: int = 0,
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> np.ndarray:
    """Write a clip of `count` painted frames.

    Args:
        codec: the name of an FFmpeg encoder.
        gop: frames from one key frame to the next, at most.
        b_frames: at most so many in a row, where the encoder has them.
        variable: frames stay for 15 to 119 milliseconds, else for 1/25 s.
        rotation: degrees that a player must turn the picture, as phones write it.

    Returns:
        The time of each frame in seconds: float64 (count,).
    """
    import av

    steps = np.random.default_rng(0).integers(15, 120, count) if variable else np.full(count, 1000 // FPS)
    times = np.concatenate([[0], np.cumsum(steps)[:-1]])  # milliseconds
    base = Fraction(1, 1000) if variable else Fraction(1, FPS)
    options = {**OPTIONS.get(codec, {}), **(codec_options or {})}
    with _same_priority(), av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=FPS, width=WIDTH, height=HEIGHT, options=options)
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = base
        if codec in WITH_B_FRAMES:
            stream.codec_context.max_b_frames = b_frames
        if codec in ("mpeg4", "wmv2", "flv", "mjpeg"):
            stream.bit_rate = 2_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(paint(number), format="rgb24")
            frame.time_base, frame.pts = base, int(times[number]) if variable else number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return times / 1000
