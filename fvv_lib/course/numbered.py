"""Clips with a number painted in each frame, to check whether a reader returns the right frames.           Lesson 1

Two readers that agree may both be wrong. Here each frame shows its own number as a row of light and dark cells, which
are large enough to survive any codec, so each returned frame can be identified. Tests and benchmarks do this for every
container and codec; do it with the reader that you trust. This module knows nothing about readers.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np

BITS, CELL, HEIGHT = 10, 16, 64
WIDTH = BITS * CELL
FPS = 25
# Threads of libvpx and x265 wait for each other in loops: on a busy machine, one thread is up to ten times as fast.
VPX = {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8", "deadline": "realtime", "threads": "1"}
OPTIONS = {
    "libx264": {"preset": "veryfast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=none", "threads": "1"},
    "libsvtav1": {"preset": "8", "crf": "20"},
    "libvpx": VPX,
    "libvpx-vp9": VPX,
}
CONTAINERS = {  # the containers of `is_video_file` that support each codec
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
    for gop in ((1,) if codec == "mjpeg" else (1, 12, 60, 300))  # every MJPEG frame is a key frame
    for b_frames in ((0, 2) if codec in WITH_B_FRAMES else (0,))
    # AVI stores one frame rate for the whole file. ASF (.wmv) stores no times of B-frames.
    for variable in ((False,) if container == "avi" or (container == "wmv" and b_frames) else (False, True))
]


@cache
def paint(number: int) -> np.ndarray:
    """Draw the frame of a number below 1024: uint8 (64, 160, 3).

    The top row of cells shows the bits, and the bottom row shows the inverted bits. The wave between them moves from
    frame to frame, so that the codec has motion to predict. The array is read-only: each call returns the same.
    """
    bits = np.kron((number >> np.arange(BITS)) & 1, np.ones((HEIGHT // 2, CELL)))
    picture = 32 + 192 * np.concatenate([bits, 1 - bits])
    picture[24:40] = 128 + 60 * np.sin((np.arange(WIDTH) + 5 * number) / 7)
    frame = np.repeat(picture[..., None], 3, axis=2).astype(np.uint8)
    frame.flags.writeable = False
    return frame


def read_number(frame: np.ndarray) -> int:
    """Read the number in a frame, uint8 (64, 160, 3). A bit is 1 if its top cell is lighter than its bottom cell."""
    grey = frame.mean(axis=-1)
    above, below = (part.reshape(16, BITS, CELL)[:, :, 4:-4].mean(axis=(0, 2)) for part in (grey[4:20], grey[44:60]))
    return int(((above > below) << np.arange(BITS)).sum())


def read_numbers(frames: Iterable[np.ndarray]) -> list[int]:
    return [read_number(frame) for frame in frames]


@contextmanager
def _same_priority() -> Iterator[None]:
    """Restore the scheduling of this thread on exit.

    As root, SVT-AV1 switches the encoding thread to real-time scheduling and does not switch it back. Two such
    processes block each other and everything else.
    """
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
    times: Sequence[float] | None = None,
    rotation: int = 0,
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> np.ndarray:
    """Write a clip of `count` numbered frames.

    Args:
        codec: name of an FFmpeg encoder.
        gop: maximum distance between key frames, in frames.
        b_frames: maximum number of B-frames in a row, if the encoder supports them.
        variable: show each frame for 15 to 119 ms; otherwise for 1/25 s.
        times: when each frame is shown, in seconds, rounded to milliseconds; instead of `variable` and `count`.
        rotation: degrees by which a player must rotate the frames, as phones store it.

    Returns:
        The time of each frame in seconds: float64 (count,).
    """
    import av

    if times is not None:
        variable, count = True, len(times)
    steps = np.random.default_rng(0).integers(15, 120, count) if variable else np.full(count, 1000 // FPS)
    shown = np.concatenate([[0], np.cumsum(steps)[:-1]])  # milliseconds
    if times is not None:
        shown = np.round(np.array(times) * 1000).astype(int)
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
            frame.time_base, frame.pts = base, int(shown[number]) if variable else number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return shown / 1000


def repeat_packets(source: str | Path, target: str | Path, rounds: int, pause: int = 0) -> int:
    """Write the packets of a clip of constant rate again and again, so that hours take seconds to write. After each
    round, nothing is shown for `pause` frames. Return the number of packets."""
    import av

    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        template = reading.streams.video[0]
        stream = writing.add_stream_from_template(template)
        packets = [(bytes(packet), packet) for packet in reading.demux(template) if packet.size]
        step = round(1 / (template.average_rate * template.time_base))
        for number in range(rounds):
            shift = number * step * (len(packets) + pause)
            for content, packet in packets:
                copy = av.Packet(content)
                copy.pts, copy.dts, copy.time_base = packet.pts + shift, packet.dts + shift, packet.time_base
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                writing.mux(copy)
    return rounds * len(packets)
