"""Read the list of packets of MP4 and MOV from their tables, without reading a packet.                      Lesson 1

The box `moov` has a table for each property of a track's packets: durations, sizes, places in the file, key frames. A
fragmented file has a box `moof` with such tables before the packets of each fragment. The other boxes are skipped: the
packets too, which are nearly the whole file. This module knows bytes and nothing of FFmpeg.

Source: ISO 14496-12.
"""

import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO, NamedTuple

import numpy as np

from fvv_lib.video.exact.packets import MAX_FRAMES, IndexedPackets

MAX_BOX = 2**28  # bytes of tables to read into memory; 18 hours at 30 frames per second have about 2**26
MAX_OFFSET = 2**28  # between decoding and showing a frame; FFmpeg takes a larger one for damage
NOT_SYNC, DEPENDS = 0x0001_0000, 0x0100_0000  # flags of a packet in a fragment that is not a key frame

GROUPS = (b"sbgp", b"sgpd")  # properties of some packets. `rap ` marks key frames, of which the usual table is silent
UNUSUAL = {b"stps", b"sbgp", b"sgpd", b"senc", b"saiz", b"saio", b"uuid"}  # further key frames, encryption

Box = memoryview  # the content of a box


class Rows(NamedTuple):
    """Packets of a track, in decoding order: int64 (P,) each, `key` bool. Times are in units of the track's time scale;
    a frame is shown `shift` after it is decoded."""

    duration: np.ndarray
    shift: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    key: np.ndarray


def read_packets(file: BinaryIO, track: int) -> tuple[IndexedPackets, int]:
    """Return the packets of a track, and how many of them `moov` lists. All others are in fragments.

    Raises:
        ValueError, KeyError, IndexError, ArithmeticError, struct.error: the tables are missing, contradict each other,
            or have something that this module does not know, for example an edit list that removes frames.
    """
    moov, fragments = None, []
    for kind, start, body, end in _boxes_of_file(file):
        if kind in (b"moov", b"moof"):
            if end - body > MAX_BOX or (kind == b"moov" and moov is not None):
                raise ValueError("too large a box, or two movies in a file")
            file.seek(body)
            content = memoryview(file.read(end - body))
            if kind == b"moof":
                fragments.append((start, content))
            else:
                moov = content
                if not any(kind == b"mvex" for kind, _ in _boxes(moov)):
                    break  # it has no fragments
    if moov is None:
        raise ValueError("no table")
    media, scale, rows, edits = _track(moov, track)
    dts = _starts(rows.duration)
    listed, parts = len(dts), [rows]
    if fragments:
        if listed:
            raise ValueError("packets in moov and in fragments")
        clock, starts, total = 0, [], 0
        defaults = _defaults(moov, track)
        for start, moof in fragments:
            for time, run in _fragment(moof, start, track, defaults):
                clock = clock if time is None else time
                starts.append(clock + _starts(run.duration))
                parts.append(run)
                clock += int(run.duration.sum())
                total += len(run.duration)
                if total > MAX_FRAMES:
                    raise ValueError("too many packets")
        dts = np.concatenate([dts, *starts])
        rows = Rows(*map(np.concatenate, zip(*parts, strict=True)))
    elif edits is not None:
        _check_edits(edits, dts + rows.shift, media, scale)
    if not 0 < len(dts) <= MAX_FRAMES or np.abs(rows.shift).max() > MAX_OFFSET:
        raise ValueError("no packets, too many, or damaged times")
    shown = np.ones(len(dts), bool)
    time_base = Fraction(1, media)
    pts = dts + rows.shift
    return IndexedPackets(pts, dts, rows.key, shown, time_base, True, [], rows.offset, rows.size), listed


def _starts(durations: np.ndarray) -> np.ndarray:
    return np.cumsum(durations) - durations


def _boxes_of_file(file: BinaryIO) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield the kind of each box, and where it, its content and the next box begin."""
    size, at = file.seek(0, os.SEEK_END), 0
    while at + 8 <= size:
        file.seek(at)
        kind, body, end = _head(file.read(16), size - at)
        yield kind, at, at + body, at + end
        at += end


def _boxes(content: Box) -> Iterator[tuple[bytes, Box]]:
    """Yield the kind and the content of each box within a box."""
    while len(content) >= 8:
        kind, body, end = _head(content, len(content))
        yield kind, content[body:end]
        content = content[end:]


def _head(data: bytes | Box, left: int) -> tuple[bytes, int, int]:
    """Return the kind of a box, and where its content begins and ends."""
    size, kind = struct.unpack_from(">I4s", data)
    body = 8
    if size == 1:
        (size,), body = struct.unpack_from(">Q", data, 8), 16
    elif size == 0:
        size = left
    if not body <= size <= left:
        raise ValueError("a box goes past the end")
    return kind, body, size


def _only(content: Box) -> dict[bytes, Box]:
    """Return the boxes within a box by their kind. Only groups of packets may occur more than once."""
    boxes = [(kind, body) for kind, body in _boxes(content) if kind not in GROUPS or bytes(body[4:8]) == b"rap "]
    if len(dict(boxes)) < len(boxes):
        raise ValueError("a box occurs twice")
    return dict(boxes)


def _track(moov: Box, number: int) -> tuple[int, int, Rows, Box | None]:
    """Return the time scale of a track and of the movie (units per second), the packets, and the edit list if any."""
    boxes = list(_boxes(moov))
    scale = _after_dates(dict(boxes)[b"mvhd"])
    for kind, content in boxes:
        if kind == b"trak":
            trak = _only(content)
            if _after_dates(trak[b"tkhd"]) == number:
                media = _only(trak[b"mdia"])
                tables = _only(_only(media[b"minf"])[b"stbl"])
                if UNUSUAL & tables.keys():
                    raise ValueError("further key frames, or encryption")
                edits = _only(trak[b"edts"]).get(b"elst") if b"edts" in trak else None
                return _after_dates(media[b"mdhd"]), scale, _rows(tables), edits
    raise ValueError("no such track")


def _after_dates(header: Box) -> int:
    """Return the number that follows the two dates in the header of a movie, track or media: time scale or number."""
    return struct.unpack_from(">I", header, 20 if header[0] == 1 else 12)[0]


def _table(content: Box, columns: int, start: int = 4) -> np.ndarray:
    """Return the rows of a table, which begins with their number: int64 (rows, columns)."""
    (count,) = struct.unpack_from(">I", content, start)
    return np.frombuffer(content, ">u4", count * columns, start + 4).reshape(count, columns).astype(np.int64)


def _signed(values: np.ndarray) -> np.ndarray:
    """Return numbers of 32 bits with their sign."""
    return values - ((values >> 31) << 32)


def _rows(tables: dict[bytes, Box]) -> Rows:
    fixed, count = struct.unpack_from(">II", tables[b"stsz"], 4)
    if count > MAX_FRAMES or struct.unpack_from(">I", tables[b"stsd"], 4) != (1,):
        raise ValueError("too many packets, or several kinds of them")
    size = np.full(count, fixed) if fixed else _table(tables[b"stsz"], 1, 8)[:, 0]
    times, durations = _table(tables[b"stts"], 2).T
    duration = _repeated(times, durations, count)
    shift = np.zeros(count, np.int64)
    if b"ctts" in tables:
        times, shifts = _table(tables[b"ctts"], 2).T
        shift = _signed(_repeated(times, shifts, count))
    key = np.ones(count, bool)
    if b"stss" in tables:
        numbers = _table(tables[b"stss"], 1)[:, 0] - 1  # the first packet is 1
        key[:] = False
        key[numbers] = True
        if (numbers < 0).any() or (np.diff(numbers) <= 0).any():
            raise ValueError("key frames are not in order")
    if (duration >> 31).any():
        raise ValueError("times fall back")
    return Rows(duration, shift, _offsets(tables, size), size, key)


def _repeated(times: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Repeat each value as often as `times` says; there must be `count` in all."""
    if times.sum() != count:
        raise ValueError("tables differ in length")
    return np.repeat(values, times)


def _offsets(tables: dict[bytes, Box], size: np.ndarray) -> np.ndarray:
    """Return where each packet is in the file. Packets that follow each other form a chunk."""
    if b"co64" in tables:
        high, low = _table(tables[b"co64"], 2).T
        chunks = (high << 32) + low
    else:
        chunks = _table(tables[b"stco"], 1)[:, 0]
    first, packets, description = _table(tables[b"stsc"], 3).T  # chunks from `first` on have that many packets
    if len(size) and ((description != 1).any() or first[0] != 1):
        raise ValueError("several kinds of packets, or no first chunk")
    packets = _repeated(np.diff(first, append=len(chunks) + 1), packets, len(chunks))  # in each chunk
    before = _repeated(packets, _starts(packets), len(size))  # the number of the first packet in a packet's chunk
    start = _starts(size)
    return _repeated(packets, chunks, len(size)) + start - start[before]


def _check_edits(edits: Box, pts: np.ndarray, media: int, scale: int) -> None:
    """Raise if an edit list does more than delay the track or to skip the time before its first frame."""
    row = ">Qqhh" if edits[0] == 1 else ">Iihh"
    (count,) = struct.unpack_from(">I", edits, 4)
    entries = list(struct.iter_unpack(row, edits[8:][: count * struct.calcsize(row)]))
    if len(entries) != count:
        raise ValueError("the edit list is cut short")
    while len(entries) > 1 and entries[0][1] == -1:  # nothing is shown at first
        del entries[0]
    duration, start, *_ = entries[0]
    end = start + (duration * media + scale // 2) // scale
    if len(entries) > 1 or pts.min() < start or pts.max() >= end:
        raise ValueError("an edit list removes frames")


def _defaults(moov: Box, number: int) -> tuple[int, int, int]:
    """Return the usual duration, size and flags of a packet in a fragment."""
    for kind, content in _boxes(dict(_boxes(moov))[b"mvex"]):
        if kind == b"trex":
            track, description, *defaults = struct.unpack_from(">5I", content, 4)
            if (track, description) == (number, 1):
                return tuple(defaults)
    raise ValueError("no defaults of the track")


def _fragment(moof: Box, start: int, number: int, defaults: tuple[int, int, int]) -> Iterator[tuple[int | None, Rows]]:
    """Yield runs of packets of a track, and the time of the first of them where the fragment says it."""
    for place, (kind, content) in enumerate(box for box in _boxes(moof) if box[0] == b"traf"):
        boxes = list(_boxes(content))
        header = dict(boxes)[b"tfhd"]
        flags, track = struct.unpack_from(">II", header)
        if track != number:
            continue
        fields, values = np.frombuffer(header, ">u4", offset=8).tolist(), list(defaults)
        base = (fields.pop(0) << 32) + fields.pop(0) if flags & 0x1 else start
        if UNUSUAL & dict(boxes).keys() or (flags & 0x2 and fields.pop(0) != 1):
            raise ValueError("encrypted packets, or several kinds of them")
        if not flags & 0x20001 and place:
            raise ValueError("the packets follow those of another track")
        for i, bit in enumerate((0x08, 0x10, 0x20)):
            values[i] = fields.pop(0) if flags & bit else values[i]
        time, end = None, None
        for kind, content in boxes:
            if kind == b"tfdt":
                (time,) = struct.unpack_from(">Q" if content[0] == 1 else ">I", content, 4)
            if kind == b"trun":
                run, end = _run(content, base, end, values)
                yield time, run
                time = None


def _run(content: Box, base: int, end: int | None, defaults: list[int]) -> tuple[Rows, int]:
    """Return the packets of a run, and where they end. They begin at `base`, or where the run before ended."""
    flags, count = struct.unpack_from(">II", content)
    if count > MAX_FRAMES:
        raise ValueError("too many packets")
    at, start, first = 8, base if end is None else end, None
    if flags & 0x1:
        start = base + struct.unpack_from(">i", content, at)[0]
        at += 4
    if flags & 0x4:
        (first,) = struct.unpack_from(">I", content, at)
        at += 4
    given = [bit for bit in (0x100, 0x200, 0x400, 0x800) if flags & bit]
    table = np.frombuffer(content, ">u4", count * len(given), at).reshape(count, len(given)).astype(np.int64)
    columns = dict(zip(given, table.T, strict=True))
    duration, size, kind = (
        columns.get(bit, np.full(count, default)) for bit, default in zip((0x100, 0x200, 0x400), defaults, strict=True)
    )
    shift = _signed(columns.get(0x800, np.zeros(count, np.int64)))
    if (shift < 0).any():
        raise ValueError("FFmpeg moves the times of all packets where one is shown before it is decoded")
    key = kind & (NOT_SYNC | DEPENDS) == 0
    if first is not None:
        key[:1] = first & (NOT_SYNC | DEPENDS) == 0
    rows = Rows(duration, shift, start + _starts(size), size, key)
    return rows, start + int(size.sum())
