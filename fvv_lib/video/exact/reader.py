"""The exact reader: list the packets of a file, then decode only what the wanted frames need.              Lesson 1

A frame's number is its place in the order of presentation, and the frames are bit for bit those of a decode from the
first packet to the last. Reading that far for eight frames is slow, so the reader goes three ways, the fastest that is
safe first:

1. *by key frame*: begin once at the key frame before a group of targets, leave out the frames that no other refers to,
   stop at the last target. A group needs nothing of another, so threads share them out;
2. *in order*: decode all frames once, keep the targets, and count whether they are as many as the packets said;
3. *twice*: decode once only to count, then again for the targets.

This module knows nothing about sampling: it hands the frame times to a function that chooses.
"""

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fvv_lib.errors import VideoDecodeError
from fvv_lib.machine import usable_cores
from fvv_lib.video.exact.bitstream import is_disposable
from fvv_lib.video.exact.canvas import Canvas, orientation
from fvv_lib.video.exact.containers import NO_PROBE, choose_stream, open_container, video_streams
from fvv_lib.video.exact.packets import (
    Group,
    Packets,
    group_by_key_frame,
    has_pts,
    list_packets,
    may_restart,
    starts_at_key_frames,
)
from fvv_lib.video.frames import Chooser, Frames

if TYPE_CHECKING:
    import av

# With fewer pixels, threads cost more than they bring.
MIN_FRAME_PIXELS = 1280 * 720  # of one frame, for threads that decode frames in a row
MIN_CLIP_PIXELS = 4_000_000  # of all frames to decode (about 10 milliseconds), for threads that share the groups out
MAX_PIXELS = 8192 * 8192  # of one frame; a header may say anything


def read_exact(path: Path, choose: Chooser, num_threads: int, nearest_key: bool = False) -> Frames:
    """Times of all frames in seconds (F,), indices of the chosen ones (N,), those frames, uint8 (N, H, W, 3), and width
    / height of their pixels.

    Args:
        nearest_key: read the key frame nearest to each chosen frame in its place, which needs no other frame; the
            chosen frames where the container does not tell its key frames.

    Raises:
        VideoDecodeError: the file is no video, cut short, damaged as far as its decoder notices (of HEVC's damage not
            all), or larger than the limits.
    """
    with open_video(path, probe=False) as (container, stream):
        packets = list_packets(path, container, stream)
        if packets is not None and starts_at_key_frames(packets, stream.codec.canonical_name):
            indices = choose(packets.times)
            if nearest_key:
                indices = packets.nearest_key_frames(indices)
            canvas = _read_groups(path, container, stream, packets, packets.shown_pts[indices], num_threads)
            if canvas is not None:
                return Frames(packets.times, indices, canvas.frames, canvas.pixel_aspect)
    timed = packets is None or packets.timed
    for times in (None if packets is None else packets.times, None):
        if times is None:
            times = frame_times(path, num_threads)
        indices = choose(times)
        canvas = _read_in_order(path, times if timed else None, len(times), indices, num_threads)
        if canvas is not None:
            return Frames(times, indices, canvas.frames, canvas.pixel_aspect)
    raise VideoDecodeError(f"{path}: two decodes of the file differ. Copy or encode it again.")


def _read_groups(
    path: Path,
    container: "av.container.InputContainer",
    stream: "av.VideoStream",
    packets: Packets,
    targets: np.ndarray,
    num_threads: int,
) -> Canvas | None:
    """The frame shown at each target's pts; None where one is not found or a key frame was no clean start. A group
    needs nothing of another, so each thread takes the next, with a decoder of its own."""
    groups, canvas = group_by_key_frame(packets, targets), Canvas(path, targets)
    pixels = sum(group.last - group.first + 1 for group in groups) * (stream.width * stream.height or MIN_FRAME_PIXELS)
    threads = 1 if pixels < MIN_CLIP_PIXELS else min(len(groups), num_threads or usable_cores())
    if threads == 1:
        _share_frames(stream, num_threads)
        clean = _decode_groups(container, stream, packets, groups, canvas)
    else:
        waiting = iter(groups)

        def work(_: int) -> bool:
            with open_video(path, probe=False) as opened:
                try:
                    return _decode_groups(*opened, packets, waiting, canvas)
                finally:
                    list(waiting)  # where one fails, the others need not go on

        with ThreadPoolExecutor(threads) as pool:
            clean = all(pool.map(work, range(threads)))
    return canvas if clean and not canvas.missing else None


def _decode_groups(
    container: "av.container.InputContainer",
    stream: "av.VideoStream",
    packets: Packets,
    groups: Iterable[Group],
    canvas: Canvas,
) -> bool:
    """Put the targets of the groups in their places; False where a key frame was no clean start."""
    import av
    from av.video.reformatter import VideoReformatter

    context, reformatter = stream.codec_context, VideoReformatter()
    codec, extradata = stream.codec.canonical_name, context.extradata or b""
    try:
        for group in _after_first_packet(groups):
            context.flush_buffers()
            latest = -math.inf
            for packet in _run(container, stream, packets, group):
                if packet is not None:
                    needed = packet.pts in group.pts or not is_disposable(memoryview(packet), codec, extradata)
                    context.skip_frame = "DEFAULT" if needed else "NONREF"
                for frame in context.decode(packet):
                    if frame.is_corrupt:  # and so may be all that refer to it
                        return False
                    if frame.pts is None or frame.pts <= latest:  # the container and the decoder do not agree
                        return False
                    latest = frame.pts
                    if frame.pts in group.pts:
                        canvas.put(frame.pts, frame, reformatter, pixel_aspect(stream))
    except av.FFmpegError:
        return False  # a decode in order tells whether it was the start or the file
    return True


def _after_first_packet(groups: Iterable[Group]) -> Iterator[Group]:
    """The groups, and before them the clip's first packet: what it alone may tell (MJPEG's tables, which program wrote
    MPEG-4) holds for the whole clip, and a decoder keeps it."""
    for number, group in enumerate(groups):
        if number == 0 and group.first > 0:
            yield Group(0, 0, frozenset())
        yield group


def _run(
    container: "av.container.InputContainer", stream: "av.VideoStream", packets: Packets, group: Group
) -> Iterator["av.Packet | None"]:
    """The packets of a group, then None. Where a seek goes past the first of them, none at all."""
    if packets.kept:
        yield from packets.kept[group.first : group.last + 1]
        yield None  # the decoder gives what it still holds
        return
    expected, pts_given = group.first, has_pts(container, stream.codec.canonical_name)
    container.seek(int(packets.dts[group.first]), stream=stream)
    for packet in container.demux(stream):
        if packet.size and not pts_given:
            packet.pts = packet.dts
        here = packets.position.get(packet.pts, -1) if packet.size else -1
        if here == expected:
            yield packet
            expected += 1
        elif here > expected:
            return
        if expected > group.last:
            break
    yield None


def frame_times(path: Path, num_threads: int) -> np.ndarray:
    """Seconds from the first frame, of every frame, by a full decode: float64 (F,). Frames without a time follow the
    average rate."""
    with open_video(path) as (container, stream):
        times = [time for time, _ in _decode(path, container, stream, num_threads)]
    if not times:
        raise VideoDecodeError(f"{path}: no frame can be decoded. Download or encode the file again.")
    return np.sort(times) - min(times)


def _read_in_order(
    path: Path, times: np.ndarray | None, total: int, indices: np.ndarray, num_threads: int
) -> Canvas | None:
    """The frames with these numbers; None where the file's frames are not as many as expected, or not shown at these
    times."""
    from av.video.reformatter import VideoReformatter

    canvas, reformatter, first, number = Canvas(path, indices), VideoReformatter(), 0.0, -1
    with open_video(path) as (container, stream):
        pts_given = has_pts(container, stream.codec.canonical_name)
        for number, (time, frame) in enumerate(_decode(path, container, stream, num_threads)):
            first = time if number == 0 else first
            if number >= total:
                return None
            if times is not None and pts_given and abs(time - first - times[number]) > 1e-6:
                return None
            if number in canvas.places:
                canvas.put(number, frame, reformatter, pixel_aspect(stream))
    return canvas if number + 1 == total else None


def _decode(
    path: Path, container: "av.container.InputContainer", stream: "av.VideoStream", num_threads: int
) -> Iterator[tuple[float, "av.VideoFrame"]]:
    """Every frame with its time in seconds, which follows the average rate where the frame has none. Where the clock
    starts again (`packets.may_restart`), it goes on from the frame before."""
    _share_frames(stream, num_threads)
    rate, pts_given = float(stream.average_rate or 1), has_pts(container, stream.codec.canonical_name)
    restarts, offset, last = may_restart(container), 0.0, -math.inf
    for number, frame in enumerate(container.decode(stream)):
        if frame.is_corrupt:  # the frames that refer to it are damaged too, and do not say so
            raise VideoDecodeError(f"{path}: frame {number} is damaged. Download or encode the file again.")
        timed = frame.pts is not None and pts_given
        time = offset + (frame.pts * float(frame.time_base) if timed else number / rate)
        if restarts and timed and time < last:
            offset += last + 1 / rate - time
            time = last + 1 / rate
        last = time
        yield time, frame


@contextmanager
def open_video(path: Path, probe: bool = True) -> Iterator[tuple["av.container.InputContainer", "av.VideoStream"]]:
    """Open the video stream that a player shows (`choose_stream`), to be decoded with one thread; whatever FFmpeg says
    against the file becomes one `VideoDecodeError`.

    FFmpeg decodes the first frames of a file that it opens, to learn what the header does not tell: the pixel format,
    and how many frames are held back to be put in order. That can take a tenth of the time that 8 frames need, and
    where the frame list comes from the packets it is not needed: `probe=False` skips it. Without it H.264 must hold
    back as many frames as its level allows (`strict`); otherwise the decoder drops frames that come late.
    """
    import av
    from av.stream import Discard

    try:
        with open_container(path, {} if probe else NO_PROBE) as container:
            videos = video_streams(container)
            if not videos:
                raise VideoDecodeError(f"{path}: the file has no video stream. Is it sound only?")
            stream = choose_stream(path, container, videos)
            if stream.codec_context is None:
                raise VideoDecodeError(f"{path}: its codec is not known. Encode it as H.264.")
            for other in container.streams:
                if other is not stream:
                    other.discard = Discard.all
            stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
            stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
            if not probe and stream.codec.canonical_name == "h264":
                stream.codec_context.options |= {"strict": "strict"}
            yield container, stream
    except av.FFmpegError as error:
        raise VideoDecodeError(
            f"{path}: it cannot be decoded as a video ({error.strerror}). "
            "Check that it plays to its end; download or encode it again."
        ) from error


def pixel_aspect(stream: "av.VideoStream") -> float:
    """Width / height of a pixel as it is stored, 1 where nothing tells: what the container says, or else the decoder,
    which knows it once it has given a frame."""
    told = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return float(told) if told and told > 0 else 1.0


def first_pixel_aspect(path: Path) -> float:
    """Width / height of a pixel as it is shown, for readers that do not tell: of the first frame."""
    with open_video(path) as (container, stream):
        for frame in container.decode(stream):
            aspect = pixel_aspect(stream)
            return 1 / aspect if orientation(path, frame).transposed else aspect
    raise VideoDecodeError(f"{path}: no frame can be decoded. Download or encode the file again.")


def _share_frames(stream: "av.VideoStream", num_threads: int) -> None:
    """Let threads decode frames that follow each other, where the frames are large enough to be worth it."""
    if num_threads > 1 or (num_threads == 0 and stream.width * stream.height >= MIN_FRAME_PIXELS):
        stream.thread_type, stream.codec_context.thread_count = "FRAME", num_threads
