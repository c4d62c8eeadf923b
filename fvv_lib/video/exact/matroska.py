"""Read the list of packets of Matroska and WebM, without reading a packet.                                  Lesson 1

Matroska has no table of its packets. But each is a block, which begins with its size, its time and whether it is a key
frame. So the file is read from block to block: some 24 bytes of each. This module knows bytes and nothing of FFmpeg.

Source: RFC 8794 (EBML), RFC 9559 (Matroska).
"""

import os
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

import numpy as np

from fvv_lib.video.exact.packets import MAX_FRAMES, IndexedPackets
from fvv_lib.video.exact.truncation import EBML, SEGMENT, ebml_size

HEAD = 24  # bytes to read of each element: its kind, its size, and the head of a block
MAX_HEADER = 2**24  # bytes of the description of the file and its tracks


def ids(*names: str) -> frozenset[bytes]:
    return frozenset(map(bytes.fromhex, names))


INFO, TRACKS, CLUSTER = map(bytes.fromhex, ("1549A966", "1654AE6B", "1F43B675"))
OTHERS = ids("114D9B74", "1C53BB6B", "1043A770", "1941A469", "1254C367")  # seek head, cues, chapters, attachments, tags
EMPTY = ids("EC", "BF")  # reserved space, checksum
TIME, GROUP, REFERENCE = map(bytes.fromhex, ("E7", "A0", "FB"))
SIMPLE_BLOCK, BLOCK = BLOCKS = (0xA3, 0xA1)  # a block within a group says by a reference that it is no key frame
NO_BLOCK = ids("A7", "AB", "9B", "FA", "75A2") | EMPTY  # of a cluster or group: places, duration, priority, padding
SCALE, TRACK, NUMBER, KIND, CODEC = map(bytes.fromhex, ("2AD7B1", "AE", "D7", "83", "86"))
UNUSUAL = ids("6D80", "23314F")  # of a track: packets are encoded, or times are scaled
VIDEO = 1
LACING = 0b110  # flags of a block with several packets
MAX_BLOCKS = 10 * MAX_FRAMES  # of all tracks
SIZE_LENGTH = [9 - first.bit_length() for first in range(256)]  # bytes of a size, by the first of them
SIZE_MASK = [(1 << 7 * length) - 1 for length in range(9)]


def read_packets(file: BinaryIO) -> IndexedPackets:
    """Return the packets of the file's only video track.

    Raises:
        ValueError, IndexError: the file is damaged, has several video tracks, or has something that this module does
            not know, for example several packets in a block.
    """
    end = file.seek(0, os.SEEK_END)
    kind, body, size = _element(_content(file, 0, HEAD), 0, end)
    at = body + (size or 0)
    segment, at, size = _element(_content(file, at, HEAD), at, end)
    if kind != EBML or segment != SEGMENT or (size is not None and at + size != end):
        raise ValueError("no segment, or something after it")
    scale, track, blocks = 1_000_000, None, Blocks()
    while at < end:
        kind, body, size = _element(_content(file, at, HEAD), at, end)
        if kind == CLUSTER:
            at = blocks.read(file, body, end if size is None else body + size)
            if size is not None and at != body + size:
                raise ValueError("a cluster does not end where it says")
            continue
        if size is None or (kind in (INFO, TRACKS) and size > MAX_HEADER):
            raise ValueError("an element of unknown size, or too large")
        if kind == INFO:
            told = dict(_children(_content(file, body, size)))
            scale = _number(told[SCALE]) if SCALE in told else scale
        elif kind == TRACKS:
            track = _video_track(_content(file, body, size))
        elif kind not in OTHERS | EMPTY:
            raise ValueError("an element that is not known here")
        at = body + size
    if track is None or not blocks.heads:
        raise ValueError("no video track, or no packets")
    return blocks.packets(track, scale)


def _element(head: bytes, at: int, end: int) -> tuple[bytes, int, int | None]:
    """Return the kind of the element at `at`, where its content begins, and its size, `None` if it is unknown. `end` is
    that of the element around it."""
    length = 9 - head[0].bit_length()
    size, body = ebml_size(head, length)
    if length > 4 or not at + body <= at + body + (size or 0) <= end:
        raise ValueError("an element goes past the end")
    return head[:length], at + body, size


def _content(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)


def _children(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the content of each element within an element."""
    at = 0
    while at < len(content):
        length = 9 - content[at].bit_length()
        size, body = ebml_size(content, at + length)
        if size is None or not body <= body + size <= len(content):
            raise ValueError("an element goes past the end")
        yield content[at : at + length], content[body : body + size]
        at = body + size


def _number(content: bytes) -> int:
    return int.from_bytes(content, "big")


def _video_track(content: bytes) -> int:
    """Return the number of the only video track."""
    tracks = [dict(_children(entry)) for kind, entry in _children(content) if kind == TRACK]
    videos = [track for track in tracks if _number(track[KIND]) == VIDEO]
    if len(videos) != 1 or UNUSUAL & videos[0].keys() or videos[0][CODEC].startswith(b"V_MS"):
        raise ValueError("several tracks, or one whose packets or times are not as they are stored")
    return _number(videos[0][NUMBER])


class Blocks:
    """The blocks of all tracks that were found so far.

    Attributes:
        heads: the first `HEAD` bytes of each: its kind, size, track, time and flags.
        starts: where each begins in the file.
        dependent: the numbers of blocks that refer to another one.
        groups: the number of the block in each group, and where the group ends.
        clusters: the number of the first block of each cluster, and the time that its blocks count from.
    """

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.starts: list[int] = []
        self.dependent: list[int] = []
        self.groups: list[tuple[int, int]] = []
        self.clusters: list[tuple[int, int]] = []

    def read(self, file: BinaryIO, at: int, end: int) -> int:
        """Add the blocks of the cluster whose content begins at `at`, and return where it ends. The end of a cluster of
        unknown size is that of the file; then the next element that cannot be in a cluster ends it."""
        first, group_end = len(self.heads), end
        seek, read, number = file.seek, file.read, int.from_bytes
        add_head, add_start = self.heads.append, self.starts.append
        blocks, lengths, masks = BLOCKS, SIZE_LENGTH, SIZE_MASK  # local names, which are faster
        while at < end:
            seek(at)
            head = read(HEAD)
            if head[0] in blocks:  # nearly every element is a block, and there may be a million: `packets` checks them
                length = lengths[head[1]]
                add_head(head)
                add_start(at)
                at += 1 + length + (number(head[1 : 1 + length], "big") & masks[length])
                continue
            kind, body, size = _element(head, at, end)
            if kind == CLUSTER or kind in OTHERS:
                break
            if size is None or at < group_end < body + size:
                raise ValueError("an element of unknown size, or not within its group")
            at = body + size
            if kind == GROUP:
                at, group_end = body, body + size
                self.groups.append((len(self.heads), group_end))
            elif kind == REFERENCE:
                if not self.groups or self.groups[-1][0] == len(self.heads) or at > self.groups[-1][1]:
                    raise ValueError("a reference outside of a group, or before its block")
                self.dependent.append(len(self.heads) - 1)
            elif kind == TIME and len(self.heads) == first:
                file.seek(body)
                self.clusters.append((first, _number(file.read(size))))
            elif kind not in NO_BLOCK:
                raise ValueError("an element that is not known here")
        if at > end or len(self.heads) > MAX_BLOCKS or (len(self.heads) > first and self.clusters[-1][0] < first):
            raise ValueError("a block past the end, too many, or a cluster without a time")
        return at

    def packets(self, track: int, scale: int) -> IndexedPackets:
        """Return the packets of a track. `scale` is the unit of time in nanoseconds."""
        last = [head.ljust(HEAD, b"\0") for head in self.heads[-HEAD:]]  # the file may end after a small packet
        heads = np.frombuffer(b"".join(self.heads[:-HEAD] + last), np.uint8).reshape(-1, HEAD)  # (B, HEAD)
        starts, rows = np.array(self.starts), np.arange(len(heads))
        length = np.array(SIZE_LENGTH)[heads[:, 1]]
        body = 1 + length  # track, time and flags follow kind and size
        field = np.ascontiguousarray(heads[:, 1:9]).view(">u8")[:, 0].astype(np.int64)
        content = field >> 8 * (8 - length) & np.array(SIZE_MASK)[length]  # the size of the content
        number, high, low, flags = (heads[rows, body + i].astype(np.int64) for i in range(4))
        key = (heads[:, 0] == BLOCK) | (flags >= 0x80)
        key[self.dependent] = False
        firsts, times = np.array(self.clusters, np.int64).reshape(-1, 2).T
        pts = np.repeat(times, np.diff(firsts, append=len(heads))) + ((high << 8) + low ^ 0x8000) - 0x8000
        offset, size = starts + body + 4, content - 4
        grouped, group_ends = np.array(self.groups, np.int64).reshape(-1, 2).T
        ends = offset + size
        if not np.array_equal(grouped, np.flatnonzero(heads[:, 0] == BLOCK)) or (ends[grouped] > group_ends).any():
            raise ValueError("blocks and groups do not fit")
        if (content == np.array(SIZE_MASK)[length]).any():
            raise ValueError("a block of unknown size")
        ours = number == track | 0x80
        if (number < 0x80).any() or (pts[ours] < 0).any() or (flags[ours] & LACING).any():
            raise ValueError("more than 127 tracks, a time below 0, or several packets in a block")
        pts, key, offset, size = pts[ours], key[ours], offset[ours], size[ours]
        shown = np.ones(len(pts), bool)
        return IndexedPackets(pts, pts, key, shown, Fraction(scale, 10**9), True, [], offset, size)
