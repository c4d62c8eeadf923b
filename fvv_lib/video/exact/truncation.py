"""Detect a file that is cut short, such as a broken download, by the size in its header.                   Lesson 1

FFmpeg reads a truncated file without an error, as a shorter clip. But Matroska and WebM, ASF (`.wmv`) and RIFF (`.avi`)
store the size of the file in their first bytes. (MP4 has a list of its frames instead, which `packets` counts.) This
module knows nothing about frames.
"""

import os
from typing import BinaryIO

from fvv_lib.errors import VideoDecodeError
from fvv_lib.files import Location

EBML, SEGMENT = bytes.fromhex("1A45DFA3"), bytes.fromhex("18538067")
UNKNOWN = 0xFFFFFFFF  # of RIFF: written to a pipe, so the header could not be updated at the end
ASF = bytes.fromhex("3026B2758E66CF11A6D900AA0062CE6C")
ASF_PROPERTIES = bytes.fromhex("A1DCAB8C47A9CF118EE400C00C205365")


def check_size(path: Location, file: BinaryIO) -> None:
    """Raise a `VideoDecodeError` if a file has fewer bytes than its header states."""
    promised = promised_size(file)
    size = file.seek(0, os.SEEK_END)
    if promised is not None and size < promised:
        raise VideoDecodeError(
            f"{path}: it has {size:,} of the {promised:,} bytes that its header states: it is cut short. Download or "
            "copy it again."
        )


def is_matroska(file: BinaryIO) -> bool:
    """Return whether a file is Matroska or WebM, by its first bytes."""
    file.seek(0)
    return file.read(len(EBML)) == EBML


def promised_size(file: BinaryIO) -> int | None:
    """Return the size in bytes that a file's header states; `None` if it states none (live recordings, MP4 and others).

    Source: RFC 8794 (EBML), RFC 9559 (Matroska), Microsoft's ASF specification 3.2, and RIFF's chunk size.
    """
    file.seek(0)
    head = file.read(8192)
    if head.startswith(EBML):
        size, start = ebml_size(head, 4)
        segment = start + (size or 0)
        if head[segment : segment + 4] != SEGMENT:
            return None
        size, start = ebml_size(head, segment + 4)
        return None if size is None else start + size
    if head.startswith(ASF) and ASF_PROPERTIES in head[:-92]:
        properties = head[head.index(ASF_PROPERTIES) :]
        live = properties[88] & 1  # broadcast: the size is unknown
        return None if live else int.from_bytes(properties[40:48], "little")
    if head.startswith(b"RIFF"):
        size = int.from_bytes(head[4:8], "little")
        return None if size == UNKNOWN else 8 + size
    return None


def ebml_size(data: bytes, at: int) -> tuple[int | None, int]:
    """Return the EBML size at an offset, `None` if it is unknown (all ones), and the offset after it. The leading zeros
    of the first byte are the number of bytes that follow."""
    if at >= len(data) or data[at] == 0:
        return None, at + 1
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big") - (1 << 7 * length)
    return (None if value == (1 << 7 * length) - 1 else value), at + length
