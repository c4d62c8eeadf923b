"""List the packets of a file: how many frames, when each is shown, where decoding may start.               Lesson 1

A container lists its packets, in an index (`index`) or packet by packet. A packet is nearly always a frame. This module
determines when that is certain, and which packets a frame needs. It decodes nothing.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fvv_lib.errors import VideoDecodeError
from fvv_lib.files import Location
from fvv_lib.video.exact.bitstream import has_b_slice

if TYPE_CHECKING:
    import av


# Codecs in which one packet is one shown frame, and a key frame needs no packet before it. That is not true of VP8
# (hidden reference frames), DivX in AVI (two frames in a packet) and WMV (rounding carries over from frame to frame).
SEEKABLE = ("h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg")
IN_ORDER = ("vp9", "av1", "mjpeg")  # frames are shown in the order of the packets
# Containers that store when a frame is shown. AVI and ASF store only when it is decoded.
TIMED = ("mov", "matroska", "flv")
MAX_FRAMES = 2_000_000  # 18 hours at 30 frames per second
KEPT_BYTES = 16 * 2**20  # a minute at 2 Mbit/s
PACKET_BYTES = 512  # overhead of a kept packet
TOLERANCE = 0.1  # seconds by which a time may fall back without a new start of the clock


@dataclass(frozen=True)
class Packets:
    """What a container says about the packets of its video, in decoding order.

    Attributes:
        pts, dts: int64 (P,), when a frame is shown and decoded, in units of `time_base` seconds. Matroska has no dts
            and seeks by pts, so both are the pts.
        key: bool (P,), whether decoding can start there.
        shown: bool (P,), False for packets that an edit list removes.
        timed: False if it is not known which frame a pts belongs to (AVI and ASF with B-frames). The pts are then the
            decoding times, which are right for the clip as a whole. Also False if the clock starts again (`Clock`).
            pts and dts then continue from the packets before, and differ from those of the file.
        kept: the packets, so that a short clip is read once; empty if they have more than `KEPT_BYTES`.
    """

    pts: np.ndarray
    dts: np.ndarray
    key: np.ndarray
    shown: np.ndarray
    time_base: Fraction
    timed: bool
    kept: list["av.Packet"]

    @cached_property
    def times(self) -> np.ndarray:
        """Seconds of each shown frame from the first shown frame, in presentation order: float64 (F,)."""
        shown = self.shown_pts
        return (shown - shown[0]) * float(self.time_base)

    @cached_property
    def order(self) -> np.ndarray:
        """The packets in presentation order: int64 (P,). They are nearly in order, so a stable sort is the fastest."""
        return np.argsort(self.pts, kind="stable")

    @cached_property
    def shown_pts(self) -> np.ndarray:
        """The pts of the shown frames, in presentation order: int64 (F,)."""
        return self.pts[self.order][self.shown[self.order]]

    @cached_property
    def position(self) -> dict[int, int]:
        """The index of the packet with each pts."""
        return {pts: i for i, pts in enumerate(self.pts.tolist())}

    def nearest_key_frames(self, indices: np.ndarray) -> np.ndarray:
        """Return the key frame that is shown nearest to each of these frames: indices (N,) -> indices (N,)."""
        keys = np.sort(self.pts[self.key & self.shown])
        nearest = np.abs(self.shown_pts[indices][:, None] - keys).argmin(axis=1)  # (N,)
        return np.searchsorted(self.shown_pts, keys[nearest])


@dataclass(frozen=True)
class IndexedPackets(Packets):
    """What the index of a file says about its packets. None of them was read.

    Attributes:
        offset, size: int64 (P,), where each packet begins in the file, and its bytes.
    """

    offset: np.ndarray
    size: np.ndarray


@dataclass(frozen=True)
class Group:
    """Targets that share a key frame: decode packets `first` to `last`, keep the frames shown at `pts`."""

    first: int
    last: int
    pts: frozenset[int]


def list_packets(path: Location, container: "av.container.InputContainer", stream: "av.VideoStream") -> Packets | None:
    """Read the packets without decoding them. Return `None` if the container does not say when each is shown, or shows
    none.

    MPEG-TS and similar containers may omit the times of some packets, which FFmpeg fills in from the decoder's state.

    Raises:
        VideoDecodeError: the file has fewer packets than its index lists, or more than `MAX_FRAMES`.
    """
    rows, kept, size = [], [], 0
    codec, extradata = stream.codec.canonical_name, stream.codec_context.extradata or b""
    pts_given = has_pts(container, codec)
    certain = container.format.name.split(",")[0] in TIMED
    b_slices = False
    clock = clock_of(container, stream)
    if clock is not None and codec not in SEEKABLE:
        return None
    for packet in container.demux(stream):
        if packet.size:
            if not pts_given:
                packet.pts = packet.dts
            if codec == "h264" and not certain:
                b_slices = b_slices or has_b_slice(memoryview(packet), extradata)
            if clock is not None and packet.dts is not None:
                clock.follow(packet.dts, packet.duration or 0)
            shift = 0 if clock is None else clock.offset
            pts = None if packet.pts is None else packet.pts + shift
            dts = pts if packet.dts is None else packet.dts + shift
            rows.append((pts, dts, packet.is_keyframe, not packet.is_discard))
            size += packet.size + PACKET_BYTES
            if size <= KEPT_BYTES:
                kept.append(packet)
            else:
                kept.clear()
            if len(rows) > MAX_FRAMES:
                raise VideoDecodeError(f"{path}: it has more than {MAX_FRAMES} frames. Cut it into shorter files.")
    listed = sum(entry.size > 0 for entry in stream.index_entries)
    if len(rows) < listed:
        raise VideoDecodeError(
            f"{path}: the file lists {listed} frames, but {len(rows)} are there: it is cut short or damaged. "
            "Download or copy it again."
        )
    if any(pts is None for pts, *_ in rows) or not any(shown for *_, shown in rows):
        return None
    pts, dts, key, shown = map(np.array, zip(*rows, strict=True))
    timed = certain or codec == "mjpeg" or (codec == "h264" and not b_slices)
    if clock is not None and clock.offset:
        timed, kept = False, []  # decoded frames have the times of the file
    return Packets(pts, dts, key, shown, stream.time_base, timed, kept)


class Clock:
    """Let times continue where the clock of a file starts again: if a time falls back by more than `tolerance`, it
    comes one step after the one before. All times are in units of the stream's time base.

    A jump forward is kept: a camera that records only motion makes such gaps.

    Attributes:
        offset: what to add to the times of the file.
        last: the latest time, with its offset; `None` before the first.
        step: the last difference of two times; after the first, the duration of its frame.
    """

    def __init__(self, tolerance: int) -> None:
        self.tolerance = tolerance
        self.offset, self.step = 0, 0
        self.last: int | None = None

    def follow(self, time: int, duration: int) -> None:
        """Set `offset` for the next time of the file, of a frame with this duration."""
        if self.last is None:
            self.last = time
            self.step = duration
            return
        if time + self.offset < self.last - self.tolerance:
            self.offset = self.last + self.step - time
        elif time + self.offset > self.last:
            self.step = time + self.offset - self.last
        self.last = max(self.last, time + self.offset)


def clock_of(container: "av.container.InputContainer", stream: "av.VideoStream") -> Clock | None:
    """Return a clock for a format whose clock may start again within a file: HLS players and dash cameras join pieces
    of MPEG-TS, MPEG-PS or Ogg byte by byte. `None` for other formats."""
    from av.format import Flags

    restarts = bool(container.format.flags & Flags.ts_discont.value)
    return Clock(round(TOLERANCE / (stream.time_base or 1))) if restarts else None


def has_pts(container: "av.container.InputContainer", codec: str) -> bool:
    """Return whether the container stores pts. In AVI, and for H.264 in ASF, FFmpeg makes up the pts from the dts."""
    return container.format.name != "avi" and (container.format.name, codec) != ("asf", "h264")


def starts_at_key_frames(packets: Packets, codec: str) -> bool:
    """Return whether decoding can start at each key frame and gives the frames of a full decode."""
    keys = np.flatnonzero(packets.key)
    in_order = packets.pts[packets.order]
    if (
        not packets.timed
        or codec not in SEEKABLE
        or (in_order[1:] == in_order[:-1]).any()
        or len(keys) == 0
        or keys[0] > 0
    ):
        return False
    if packets.shown[packets.pts < packets.pts[0]].any():
        return False  # frames shown before the first key frame lack their references
    if codec in IN_ORDER and (np.diff(packets.pts) < 0).any():
        return False
    latest = np.maximum.accumulate(packets.pts)
    if (latest[keys[1:] - 1] > packets.pts[keys[1:]]).any():
        return False  # a frame decoded before a key frame is shown after it
    # An open GOP: frames that follow a key frame but are shown before it. HEVC's decoder recognizes and drops them if
    # decoding starts there. H.264's does not, and its list of references would differ from that of a full decode.
    key_pts = packets.pts[keys][np.cumsum(packets.key) - 1]  # (P,) of the key frame at or before each packet
    return codec == "hevc" or not (packets.pts < key_pts).any()


def group_by_key_frame(packets: Packets, targets: np.ndarray) -> list[Group]:
    """Return the runs of packets to decode, one for each key frame that is needed.

    A target belongs to the last key frame that is *shown* at or before it. The leading frames of an open GOP follow a
    key frame in the file but need the key frame before it.
    """
    keys = np.flatnonzero(packets.key)
    targets = np.array(sorted(set(targets.tolist())))  # `np.unique` takes longer for so few
    firsts = keys[np.searchsorted(packets.pts[keys], targets, side="right") - 1]
    places = packets.order[np.searchsorted(packets.pts, targets, sorter=packets.order)]
    groups = []
    for first in sorted(set(firsts.tolist())):
        mine = firsts == first
        groups.append(Group(first, int(places[mine].max()), frozenset(targets[mine].tolist())))
    return groups
