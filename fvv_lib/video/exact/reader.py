"""Read exact frames: list a file's packets, then decode only what the targets need.                        Lesson 1

A frame's index is its place in presentation order. The frames are bit for bit those of a decode from the first packet
to the last. A full decode for eight frames is slow, so the reader has three methods and uses the fastest safe one:

1. *by key frame*: start at the key frame before a group of targets, skip frames that no other frame refers to, and stop
   at the last target. Groups are independent, so threads share them. If the file has an index, only the packets of the
   groups are read, so damage elsewhere is not found; otherwise all packets are listed first;
2. *in order*: decode all frames once, keep the targets, and check the number of frames against the packets;
3. *twice*: decode once only to count, then again for the targets.

This module knows nothing about sampling: it passes the frame times to a function that chooses.
"""

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from fvv_lib.errors import VideoDecodeError
from fvv_lib.far import FarFile, hold
from fvv_lib.files import Location
from fvv_lib.machine import usable_cores
from fvv_lib.video.exact.bitstream import is_disposable
from fvv_lib.video.exact.canvas import Canvas, orientation
from fvv_lib.video.exact.containers import BRIEF, NO_PROBE, choose_stream, open_bytes, open_container, video_streams
from fvv_lib.video.exact.index import index_packets, read_packets, span
from fvv_lib.video.exact.packets import (
    Group,
    IndexedPackets,
    Packets,
    clock_of,
    group_by_key_frame,
    has_pts,
    list_packets,
    starts_at_key_frames,
)
from fvv_lib.video.exact.truncation import is_matroska
from fvv_lib.video.frames import Chooser, Frames

if TYPE_CHECKING:
    import av

# With fewer pixels, threads cost more time than they save.
MIN_FRAME_PIXELS = 1280 * 720  # of one frame, for threads that decode consecutive frames
MIN_CLIP_PIXELS = 4_000_000  # of all frames to decode (about 10 milliseconds), for threads that share the groups
MAX_PIXELS = 8192 * 8192  # of one frame; a damaged header can state any size
TIME_ERROR = 1e-6  # seconds between the times that packet and decoder give a frame, by arithmetic


def read_exact(path: Location, file: BinaryIO, choose: Chooser, num_threads: int, nearest_key: bool = False) -> Frames:
    """Read the chosen frames of a video, and the times of all its frames.

    Args:
        file: the same file, opened by `containers.open_bytes`.
        choose: maps the times of all frames to the indices of the frames to read.
        nearest_key: instead of each chosen frame, read the key frame nearest to it, which needs no other frame. Ignored
            if decoding cannot start at the file's key frames.

    Raises:
        VideoDecodeError: the file is not a video, cut short, larger than the limits, or damaged (HEVC's decoder does
            not notice all damage).
    """
    packets, frames = _read_by_key_frame(path, file, choose, num_threads, nearest_key, use_index=True)
    if frames is None and isinstance(packets, IndexedPackets):
        packets, frames = _read_by_key_frame(path, file, choose, num_threads, nearest_key, use_index=False)
    if frames is not None:
        return frames
    timed = packets is None or packets.timed
    for times in (None if packets is None else packets.times, None):
        if times is None:
            times = frame_times(path, num_threads)
        indices = choose(times)
        canvas = _read_in_order(path, times if timed else None, len(times), indices, num_threads)
        if canvas is not None:
            return Frames(times, indices, canvas.frames, canvas.pixel_aspect)
    cause = ""
    if packets is not None and len(np.unique(packets.pts)) < len(packets.pts):
        cause = ", and several frames have the same time, as if files had been joined byte by byte"
    raise VideoDecodeError(f"{path}: two decodes of the file differ{cause}. Copy or encode it again.")


def _read_by_key_frame(
    path: Location, file: BinaryIO, choose: Chooser, num_threads: int, nearest_key: bool, use_index: bool
) -> tuple[Packets | None, Frames | None]:
    """Return the list of packets, and the frames unless decoding cannot start at the file's key frames."""
    with open_video(path, probe=False, brief=is_matroska(file)) as (container, stream):
        packets: Packets | None = index_packets(file, container, stream) if use_index else None
        if packets is None:
            packets = list_packets(path, container, stream)
        if packets is None or not starts_at_key_frames(packets, stream.codec.canonical_name):
            return packets, None
        indices = choose(packets.times)
        if nearest_key:
            indices = packets.nearest_key_frames(indices)
        canvas = _read_groups(path, file, container, stream, packets, packets.shown_pts[indices], num_threads)
        if canvas is None:
            return packets, None
        return packets, Frames(packets.times, indices, canvas.frames, canvas.pixel_aspect)


def _read_groups(
    path: Location,
    file: BinaryIO,
    container: "av.container.InputContainer",
    stream: "av.VideoStream",
    packets: Packets,
    targets: np.ndarray,
    num_threads: int,
) -> Canvas | None:
    """Read the frame shown at each target's pts. Return `None` if one is missing or a key frame is not a clean start.

    Groups are independent, so each thread takes the next group, with its own decoder.
    """
    groups, canvas = group_by_key_frame(packets, targets), Canvas(path, targets)
    pixels = sum(group.last - group.first + 1 for group in groups) * (stream.width * stream.height or MIN_FRAME_PIXELS)
    if isinstance(file, FarFile) and isinstance(packets, IndexedPackets):
        file.expect([span(packets, group) for group in groups])
    threads = 1 if pixels < MIN_CLIP_PIXELS else min(len(groups), num_threads or usable_cores())
    if threads == 1:
        _share_frames(stream, num_threads)
        clean = _decode_groups(file, container, stream, packets, groups, canvas)
    else:
        waiting = iter(groups)

        def work(_: int) -> bool:
            with open_bytes(path) as own, open_video(path, probe=False, brief=is_matroska(own)) as opened:
                try:
                    return _decode_groups(own, *opened, packets, waiting, canvas)
                finally:
                    list(waiting)  # after a failure, the other threads stop too

        with ThreadPoolExecutor(threads) as pool:
            clean = all(pool.map(work, range(threads)))
    return canvas if clean and not canvas.missing else None


def _decode_groups(
    file: BinaryIO,
    container: "av.container.InputContainer",
    stream: "av.VideoStream",
    packets: Packets,
    groups: Iterable[Group],
    canvas: Canvas,
) -> bool:
    """Put the targets of the groups in their places. Return False if a key frame is not a clean start."""
    import av
    from av.video.reformatter import VideoReformatter

    context, reformatter = stream.codec_context, VideoReformatter()
    codec, extradata = stream.codec.canonical_name, context.extradata or b""
    try:
        for group in _after_first_packet(groups):
            context.flush_buffers()
            latest = -math.inf
            first = int(packets.pts[group.first])
            for packet in _run(file, container, stream, packets, group):
                if packet is not None:
                    needed = packet.pts in group.pts or not is_disposable(memoryview(packet), codec, extradata)
                    context.skip_frame = "DEFAULT" if needed else "NONREF"
                for frame in context.decode(packet):
                    if frame.is_corrupt:  # and so may be the frames that refer to it
                        return False
                    if frame.pts is None or frame.pts <= latest:  # the container and the decoder disagree
                        return False
                    if frame.pts == first and not frame.key_frame:
                        return False  # the container is wrong about it
                    latest = frame.pts
                    if frame.pts in group.pts:
                        canvas.put(frame.pts, frame, reformatter, pixel_aspect(container, stream))
    except av.FFmpegError:
        return False  # a decode in order shows whether the start or the file is wrong
    return True


def _after_first_packet(groups: Iterable[Group]) -> Iterator[Group]:
    """Yield the groups, and before them the clip's first packet. It alone may carry information for the whole clip
    (MJPEG's tables, the program that wrote MPEG-4), which a decoder keeps."""
    for number, group in enumerate(groups):
        if number == 0 and group.first > 0:
            yield Group(0, 0, frozenset())
        yield group


def _run(
    file: BinaryIO,
    container: "av.container.InputContainer",
    stream: "av.VideoStream",
    packets: Packets,
    group: Group,
) -> Iterator["av.Packet | None"]:
    """Yield the packets of a group, then `None`. Yield nothing if a seek goes past the first packet."""
    if packets.kept or isinstance(packets, IndexedPackets):
        if isinstance(packets, IndexedPackets):
            yield from read_packets(file, packets, group)
        else:
            yield from packets.kept[group.first : group.last + 1]
        yield None  # flush: the decoder returns the frames that it still holds
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


def listed_times(path: Location, file: BinaryIO, num_threads: int) -> np.ndarray:
    """Return the time of every frame in seconds from the first frame, as `read_exact` does: float64 (F,). They are
    those of the file's index or of its packets. If decoding cannot start at the file's key frames, a full decode shows
    whether each packet is a frame. `file` as in `read_exact`."""
    with open_video(path, probe=False, brief=is_matroska(file)) as (container, stream):
        codec = stream.codec.canonical_name
        packets: Packets | None = index_packets(file, container, stream)
        if packets is None:
            packets = list_packets(path, container, stream)
        if packets is not None and starts_at_key_frames(packets, codec):
            return packets.times
        is_exact = packets is not None and packets.timed and has_pts(container, codec)
    decoded = frame_times(path, num_threads)
    if packets is None or len(decoded) != len(packets.times):
        return decoded
    return decoded if is_exact and np.abs(decoded - packets.times).max() > TIME_ERROR else packets.times


def frame_times(path: Location, num_threads: int) -> np.ndarray:
    """Return the time of every frame in seconds from the first frame, by a full decode: float64 (F,). A frame without a
    time gets one from the average rate."""
    with open_video(path) as (container, stream):
        times = [time for time, _ in _decode(path, container, stream, num_threads)]
    if not times:
        raise VideoDecodeError(f"{path}: no frame can be decoded. Download or encode the file again.")
    return np.sort(times) - min(times)


def _read_in_order(
    path: Location, times: np.ndarray | None, total: int, indices: np.ndarray, num_threads: int
) -> Canvas | None:
    """Decode all frames and return those at these indices. Return `None` if the number of frames is not `total`, or
    they are not shown at these times."""
    from av.video.reformatter import VideoReformatter

    canvas, reformatter, first, number = Canvas(path, indices), VideoReformatter(), 0.0, -1
    with open_video(path) as (container, stream):
        pts_given = has_pts(container, stream.codec.canonical_name)
        for number, (time, frame) in enumerate(_decode(path, container, stream, num_threads)):
            first = time if number == 0 else first
            if number >= total:
                return None
            if times is not None and pts_given and abs(time - first - times[number]) > TIME_ERROR:
                return None
            if number in canvas.places:
                canvas.put(number, frame, reformatter, pixel_aspect(container, stream))
    return canvas if number + 1 == total else None


def _decode(
    path: Location, container: "av.container.InputContainer", stream: "av.VideoStream", num_threads: int
) -> Iterator[tuple[float, "av.VideoFrame"]]:
    """Yield every frame with its time in seconds, which comes from the average rate if the frame has none. Where the
    clock starts again, times continue (`packets.Clock`)."""
    _share_frames(stream, num_threads)
    rate, pts_given = float(stream.average_rate or 1), has_pts(container, stream.codec.canonical_name)
    clock = clock_of(container, stream)
    time = -1 / rate
    for number, frame in enumerate(container.decode(stream)):
        if frame.is_corrupt:  # frames that refer to it are damaged too, but not marked
            raise VideoDecodeError(f"{path}: frame {number} is damaged. Download or encode the file again.")
        if frame.pts is None or not pts_given:
            time = number / rate if clock is None else time + 1 / rate
        elif clock is None:
            time = frame.pts * float(frame.time_base)
        else:
            clock.follow(frame.pts, frame.duration)
            time = (frame.pts + clock.offset) * float(frame.time_base)
        yield time, frame


@contextmanager
def open_video(
    path: Location, probe: bool = True, brief: bool = False
) -> Iterator[tuple["av.container.InputContainer", "av.VideoStream"]]:
    """Open the video stream that a player shows (`choose_stream`), for decoding with one thread. Every FFmpeg error
    becomes a `VideoDecodeError`.

    On opening a file, FFmpeg decodes the first frames to learn what the header does not say: the pixel format, and how
    many frames are held back for reordering. This can take a tenth of the time of reading 8 frames. `probe=False` skips
    it, for readers that take the frame list from the packets. H.264 must then hold back as many frames as its level
    allows (`strict`); otherwise the decoder drops frames that come late. `brief` reads even less, for a container that
    describes its streams at its beginning.
    """
    import av
    from av.stream import Discard

    options = {} if probe else BRIEF if brief else NO_PROBE
    try:
        with hold(path), open_container(path, options) as container:
            videos = video_streams(container)
            if not videos:
                raise VideoDecodeError(f"{path}: the file has no video stream. Is it audio only?")
            stream = choose_stream(path, container, videos)
            if stream.codec_context is None:
                raise VideoDecodeError(f"{path}: its codec is unknown. Encode it as H.264.")
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


def pixel_aspect(container: "av.container.InputContainer", stream: "av.VideoStream") -> float:
    """Return width / height of a stored pixel; 1 if the file does not say.

    The container's value comes before the decoder's, which knows it after its first frame. MPEG-TS, MPEG-PS and raw
    streams store no value. What FFmpeg reports for these containers is the value of the first frame, and the value may
    change within the file, as in broadcasts that switch between 4:3 and 16:9.
    """
    from av.format import Flags

    told = (stream.sample_aspect_ratio, stream.codec_context.sample_aspect_ratio)
    if container.format.flags & (Flags.ts_discont.value | Flags.no_timestamps.value):
        told = told[::-1]
    aspect = told[0] or told[1]
    return float(aspect) if aspect and aspect > 0 else 1.0


def first_pixel_aspect(path: Location) -> float:
    """Return width / height of a displayed pixel of the first frame, for readers that do not report it."""
    with open_video(path) as (container, stream):
        for frame in container.decode(stream):
            aspect = pixel_aspect(container, stream)
            return 1 / aspect if orientation(path, frame).transposed else aspect
    raise VideoDecodeError(f"{path}: no frame can be decoded. Download or encode the file again.")


def _share_frames(stream: "av.VideoStream", num_threads: int) -> None:
    """Let threads decode consecutive frames, if `num_threads` asks for it or the frames are large enough."""
    if num_threads > 1 or (num_threads == 0 and stream.width * stream.height >= MIN_FRAME_PIXELS):
        stream.thread_type, stream.codec_context.thread_count = "FRAME", num_threads
