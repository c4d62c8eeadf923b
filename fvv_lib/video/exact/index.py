"""List the packets of a file by its index, and read single packets from their places.                        Lesson 1

Listing packets by reading them reads the whole file. MP4, MOV, Matroska, WebM and AVI can be listed without packets,
so that of an hour of video only some seconds are read. What the index says is compared with FFmpeg's own index where it
has one, and with the decoder where packets are read (`reader`). If anything is unusual or does not hold, the packets
are listed by reading them.
"""

import os
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from fvv_lib.errors import FvvError
from fvv_lib.far import FarFile
from fvv_lib.video.exact import matroska, mp4
from fvv_lib.video.exact.bitstream import is_p_picture
from fvv_lib.video.exact.containers import video_streams
from fvv_lib.video.exact.packets import MAX_FRAMES, SEEKABLE, Group, IndexedPackets

if TYPE_CHECKING:
    import av

MIN_BYTES = 2**20  # the packets of a smaller file are read as fast as its index
PICTURE_HEAD = 64  # bytes of a packet in which its picture begins, unless long headers precede it
COMPARED = 500  # packets of which FFmpeg's index must say the same


def index_packets(
    file: BinaryIO, container: "av.container.InputContainer", stream: "av.VideoStream"
) -> IndexedPackets | None:
    """Return the packets that the index of a file lists. No packet is read, so damage in one that is not decoded later
    is not found (`count_frames` decodes all).

    Return `None` if the file is small, if its container has no index that this module knows, if the index is unusual,
    damaged, or lists a packet past the end of the file, or if files of this codec are decoded in order.
    """
    name = container.format.name.split(",")[0]
    end = file.seek(0, os.SEEK_END)
    if end < MIN_BYTES or stream.codec.canonical_name not in SEEKABLE:
        return None
    try:
        if name == "mov":
            packets, listed = mp4.read_packets(file, stream.id)
            agrees = _agrees(stream, packets, listed)
        elif name == "matroska" and len(video_streams(container)) == 1:
            packets, agrees = matroska.read_packets(file), True
        elif name == "avi":
            packets, agrees = _read_avi(file, stream), True
        else:
            return None
    except FvvError:  # the file cannot be read
        raise
    except (ValueError, LookupError, ArithmeticError, struct.error):
        return None
    exists = (packets.size > 0) & (packets.offset >= 0) & (packets.offset + packets.size <= end)
    return packets if agrees and exists.all() and packets.time_base == stream.time_base else None


def _read_avi(file: BinaryIO, stream: "av.VideoStream") -> IndexedPackets:
    """Return the packets of an AVI by its table, which FFmpeg has read. In the file, each follows its stream and size.

    AVI has no presentation times, so frames must be shown in decoding order. The first bytes of each packet of H.264
    tell this. A codec with B-frames otherwise has no index here.
    """
    entries = stream.index_entries
    codec = stream.codec.canonical_name
    if codec not in ("h264", "mjpeg") or len(entries) != stream.frames or len(entries) > MAX_FRAMES:
        raise ValueError("the order of the frames is unknown, or the table is not whole or too long")
    rows = [(entry.timestamp, entry.pos + 8, entry.size, entry.is_keyframe) for entry in entries if entry.size]
    number = f"{stream.index:02}".encode()
    for _, offset, size, is_key in rows:
        file.seek(offset - 8)
        head = file.read(8 + PICTURE_HEAD)
        if head[:2] != number or int.from_bytes(head[4:8], "little") != size:
            raise ValueError("a packet is not where the table says")
        if codec == "h264" and not is_key and not is_p_picture(head[8 : 8 + size]):
            raise ValueError("it may have B-frames")
    pts, offset, size, key = map(np.array, zip(*rows, strict=True))
    return IndexedPackets(pts, pts, key, np.ones(len(pts), bool), stream.time_base, True, [], offset, size)


def _agrees(stream: "av.VideoStream", packets: IndexedPackets, listed: int) -> bool:
    """Return whether FFmpeg's index has the same packets. Of a fragmented file it has read the first fragments only."""
    entries = stream.index_entries
    count = len(entries)
    if listed and count != listed:
        return False
    if not 0 < count <= len(packets.pts):
        return False
    begin = entries[0].timestamp
    for i in np.linspace(0, count - 1, min(count, COMPARED), dtype=int).tolist():
        entry = entries[i]
        found = (entry.pos, entry.size, entry.timestamp - begin, entry.is_keyframe, entry.is_discard)
        told = (packets.offset[i], packets.size[i], packets.dts[i] - packets.dts[0], packets.key[i], False)
        if found != told:
            return False
    return True


def read_packets(file: BinaryIO, packets: IndexedPackets, group: Group) -> Iterator["av.Packet"]:
    """Read the packets of a group from their places in the file. Stop if the file has become shorter."""
    import av

    if isinstance(file, FarFile):
        file.fetch(*span(packets, group))
    for i in range(group.first, group.last + 1):
        size = int(packets.size[i])
        file.seek(int(packets.offset[i]))
        content = file.read(size)
        if len(content) < size:
            return
        packet = av.Packet(size)  # unlike a packet made of bytes, it has the padding that decoders read
        packet.update(content)
        packet.pts, packet.time_base = int(packets.pts[i]), packets.time_base
        packet.is_keyframe = bool(packets.key[i])
        yield packet


def span(packets: IndexedPackets, group: Group) -> tuple[int, int]:
    """Return where the packets of a group begin and end in the file."""
    places = slice(group.first, group.last + 1)
    return int(packets.offset[places].min()), int((packets.offset[places] + packets.size[places]).max())
