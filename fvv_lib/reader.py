"""The exact reader: list the packets of a file, then decode only what the wanted frames need.              Lesson 1

A frame's number is its place in the order of presentation, and the frames are bit for bit those of a decode from the
first packet to the last. Reading that far for eight frames is slow, so the reader goes three ways, the fastest that is
safe first:

1. *by key frame*: seek once to the key frame before a group of targets, decode from there, leave out the frames that no
   other refers to, stop at the last target;
2. *in order*: decode all frames once, keep the targets, and count whether they are as many as the packets said;
3. *twice*: decode once only to count, then again for the targets.

This module knows nothing about sampling: it hands the frame times to a function that chooses.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fvv_lib.errors import VideoDecodeError
from fvv_lib.packets import Group, Packets, group_by_key_frame, has_pts, list_packets, starts_at_key_frames

if TYPE_CHECKING:
    import av

Chooser = Callable[[np.ndarray], np.ndarray]  # times of all frames in seconds, float64 (F,) -> indices, int64 (N,)
SKIPPABLE = ("h264", "hevc", "mpeg4")  # their decoders leave out a frame that no other refers to, and no more
SMALL = 1280 * 720  # pixels of a frame below which threads cost more than they bring
MAX_PIXELS = 8192 * 8192  # of one frame; a header may say anything


def read_exact(path: Path, choose: Chooser, num_threads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times of all frames in seconds (F,), indices of the chosen ones (N,), and those frames, uint8 (N, H, W, 3).

    Raises:
        VideoDecodeError: the file is no video, cut short, damaged, or larger than the limits.
    """
    with open_video(path, num_threads) as (container, stream):
        packets = list_packets(path, container, stream)
        if packets is not None and starts_at_key_frames(packets, stream.codec.name):
            indices = choose(packets.times)
            targets = packets.shown_pts[indices]
            found = _decode_groups(path, container, stream, packets, targets)
            if found is not None:
                return packets.times, indices, _stack(path, found, targets)
    for times in (None if packets is None else packets.times, None):
        if times is None:
            times = frame_times(path, num_threads)
        indices = choose(times)
        found = _decode_in_order(path, times, set(indices.tolist()), num_threads)
        if found is not None:
            return times, indices, _stack(path, found, indices)
    raise VideoDecodeError(f"{path}: two decodes of the file differ. Copy or encode it again.")


def read_key_frames(path: Path, choose: Chooser, num_threads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The key frame nearest to each chosen frame, as `read_exact`; None where the container does not tell them."""
    with open_video(path, num_threads) as (container, stream):
        packets = list_packets(path, container, stream)
        if packets is None or not starts_at_key_frames(packets, stream.codec.name):
            return None
        wanted = choose(packets.times)
        shown = packets.shown_pts
        keys = np.sort(packets.pts[packets.key & packets.shown])
        nearest = keys[np.abs(shown[wanted][:, None] - keys).argmin(axis=1)]  # (N,)
        found = _decode_groups(path, container, stream, packets, nearest)
        return None if found is None else (packets.times, np.searchsorted(shown, nearest), _stack(path, found, nearest))


# --- decoding ---------------------------------------------------------------------------------------------------


def _decode_groups(
    path: Path,
    container: "av.container.InputContainer",
    stream: "av.VideoStream",
    packets: Packets,
    targets: np.ndarray,
) -> dict[int, np.ndarray] | None:
    """The frame shown at each target's pts; None where one is not found or a key frame was no clean start."""
    import av

    to_rgb, found = _converter(path), {}
    position = {pts: i for i, pts in enumerate(packets.pts.tolist())}
    context = stream.codec_context
    try:
        for group in group_by_key_frame(packets, targets):
            container.seek(int(packets.dts[group.first]), stream=stream)  # the decoder forgets what it holds, too
            for packet in _run(container, stream, position, group):
                if packet is not None and stream.codec.name in SKIPPABLE:
                    context.skip_frame = "DEFAULT" if packet.pts in group.pts else "NONREF"
                for frame in context.decode(packet):
                    if frame.is_corrupt:  # and so may be all that refer to it
                        return None
                    if frame.pts in group.pts:
                        found[frame.pts] = to_rgb(frame)
    except av.FFmpegError:
        return None  # a decode in order tells whether it was the start or the file
    return found if len(found) == len(set(targets.tolist())) else None


def _run(
    container: "av.container.InputContainer", stream: "av.VideoStream", position: dict[int, int], group: Group
) -> Iterator["av.Packet | None"]:
    """The packets of a group, then None. Where the seek went past the first of them, none at all."""
    expected = group.first
    for packet in container.demux(stream):
        if packet.size and not has_pts(container):
            packet.pts = packet.dts
        here = position.get(packet.pts, -1) if packet.size else -1
        if here == expected:
            yield packet
            expected += 1
        elif here > expected:
            return
        if expected > group.last:
            break
    yield None  # the decoder gives what it still holds


def frame_times(path: Path, num_threads: int) -> np.ndarray:
    """Seconds from the first frame, of every frame, by a full decode: float64 (F,). Frames without a time follow the
    average rate."""
    with open_video(path, num_threads) as (container, stream):
        times = [time for time, _ in _decode(container, stream)]
    if not times:
        raise VideoDecodeError(f"{path}: no frame can be decoded. Download or encode the file again.")
    return np.sort(times) - min(times)


def _decode_in_order(
    path: Path, expected: np.ndarray, wanted: set[int], num_threads: int
) -> dict[int, np.ndarray] | None:
    """The wanted frames by number; None where the frames of the file are not those that are expected."""
    found, to_rgb, first, number = {}, _converter(path), 0.0, -1
    with open_video(path, num_threads) as (container, stream):
        for number, (time, frame) in enumerate(_decode(container, stream)):
            first = time if number == 0 else first
            if number >= len(expected) or (has_pts(container) and abs(time - first - expected[number]) > 1e-6):
                return None
            if number in wanted:
                found[number] = to_rgb(frame)
    return found if number + 1 == len(expected) else None


def _decode(
    container: "av.container.InputContainer", stream: "av.VideoStream"
) -> Iterator[tuple[float, "av.VideoFrame"]]:
    """Every frame with its time in seconds, which follows the average rate where the frame has none."""
    rate = float(stream.average_rate or 1)
    for number, frame in enumerate(container.decode(stream)):
        if frame.is_corrupt:  # the frames that refer to it are damaged too, and do not say so
            raise VideoDecodeError(f"{container.name}: frame {number} is damaged. Download or encode the file again.")
        timed = frame.pts is not None and has_pts(container)
        yield (frame.pts * float(frame.time_base) if timed else number / rate), frame


def _converter(path: Path) -> "Callable[[av.VideoFrame], np.ndarray]":
    """A function that makes an upright RGB picture of a frame: uint8 (H, W, 3)."""
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()

    def to_rgb(frame: "av.VideoFrame") -> np.ndarray:
        if frame.rotation % 90:
            raise VideoDecodeError(f"{path}: it is turned by {frame.rotation} degrees. Encode it upright.")
        rgb = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        if frame.rotation == 0:
            return rgb
        turned = np.rot90(rgb, frame.rotation // 90)  # phone clips: both count counter-clockwise
        upright = np.empty(turned.shape, dtype=np.uint8)
        for channel in range(3):  # nearly twice as fast as pixels of three bytes in one copy
            upright[..., channel] = turned[..., channel]
        return upright

    return to_rgb


def _stack(path: Path, found: dict[int, np.ndarray], order: np.ndarray) -> np.ndarray:
    """The pictures in this order, some perhaps more than once: uint8 (N, H, W, 3)."""
    if len({picture.shape for picture in found.values()}) > 1:
        raise VideoDecodeError(f"{path}: the picture size changes within the clip. Encode it again at one size.")
    pixels = np.empty((len(order), *next(iter(found.values())).shape), dtype=np.uint8)
    place: dict[int, int] = {}
    for i, key in enumerate(order.tolist()):
        pixels[i] = pixels[place[key]] if key in place else found[key]
        place.setdefault(key, i)
    return pixels


@contextmanager
def open_video(path: Path, num_threads: int) -> Iterator[tuple["av.container.InputContainer", "av.VideoStream"]]:
    """Open the first video stream; whatever FFmpeg says against the file becomes one `VideoDecodeError`."""
    import av

    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise VideoDecodeError(f"{path}: the file has no video stream. Is it sound only?")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise VideoDecodeError(f"{path}: its codec is not known. Encode it as H.264.")
            single = num_threads == 1 or (num_threads == 0 and stream.width * stream.height < SMALL)
            stream.thread_type = "SLICE" if single else "FRAME"
            stream.codec_context.thread_count = 1 if single else num_threads
            stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
            yield container, stream
    except av.FFmpegError as error:
        raise VideoDecodeError(
            f"{path}: it can not be decoded as a video ({error.strerror}). "
            "Check that it plays to its end; download or encode it again."
        ) from error
