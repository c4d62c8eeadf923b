"""Read the first bits of a packet: is its picture a B-picture, may others refer to it?                        Lesson 1

A container does not answer these questions, but H.264, HEVC and MPEG-4 do, before the compressed picture (the
standards' word for a coded frame), so no decoder is needed. This module knows bytes and nothing of files.
"""

import re

Data = bytes | memoryview

VOP = re.compile(rb"\x00\x00\x01\xb6(.)", re.DOTALL)  # MPEG-4: the start of a picture, and its type in two bits
START = re.compile(rb"\x00\x00\x01(...)", re.DOTALL)


def has_b_slice(data: Data, extradata: bytes) -> bool:
    """Return whether a packet of H.264 has a slice of type B that begins a picture (macroblock 0). If no packet has,
    frames are shown in decoding order. Source: ITU-T H.264, 7.3.3."""
    heads = _nal_heads(data, _length_size("h264", extradata)) or START.findall(data)  # some claim lengths but use codes
    return any(head[0] & 31 == 1 and 0x9C <= head[1] <= 0xAF for head in heads)


def is_p_picture(data: Data) -> bool:
    """Return whether the first bytes of a packet of H.264 show a picture without slices of type B, after a start code.
    False if they show no picture."""
    slices = [head for head in START.findall(data) if head[0] & 31 == 1 and head[1] >= 0x80]
    return bool(slices) and not has_b_slice(data, b"")


def is_disposable(data: Data, codec: str, extradata: bytes) -> bool:
    """Return whether certainly no other picture refers to the one in this packet, so that it need not be decoded.

    FFmpeg's `skip_frame` decides this in the decoder, but it is not enough. It reports no error for a packet without a
    picture. For HEVC it skips pictures to which no other picture *of their temporal layer* refers, and so loses the
    pictures of higher layers that do refer to them.

    Args:
        data: the packet.
        codec: `h264`, `hevc` or `mpeg4`; for any other the result is False.
        extradata: the configuration of H.264 and HEVC (ISO 14496-15), which says how units are separated and how many
            temporal layers there are. Without it the result is False for HEVC.

    Source: ITU-T H.264, 7.4.1 (nal_ref_idc); ITU-T H.265, 7.4.2.2 (sub-layer non-reference pictures); ISO 14496-2,
    6.3.5 (vop_coding_type).
    """
    if codec == "mpeg4":
        pictures = [kind[0] >> 6 == 2 for kind in VOP.findall(data)]  # 2: a B-picture
    elif codec == "h264":
        heads = _nal_heads(data, _length_size(codec, extradata))
        pictures = [head[0] & 0b01100000 == 0 for head in heads if 1 <= head[0] & 31 <= 5]
    elif codec == "hevc":
        heads = _nal_heads(data, _length_size(codec, extradata))
        top = extradata[21] >> 3 & 7 if len(extradata) > 21 else 0
        pictures = [(head[0] >> 1) in (0, 2, 4, 6, 8) and head[1] & 7 == top for head in heads if head[0] >> 1 < 32]
    else:
        return False
    return bool(pictures) and all(pictures)


def _length_size(codec: str, extradata: bytes) -> int:
    """Return the size in bytes of the length field of each unit; 0 if start codes separate units."""
    at = {"h264": 4, "hevc": 21}[codec]
    return (extradata[at] & 3) + 1 if extradata[:1] == b"\x01" and len(extradata) > at else 0


def _nal_heads(data: Data, size: int) -> list[Data]:
    """Return the first three bytes of each unit; none if the lengths do not add up to the packet."""
    if size == 0:
        return START.findall(data)
    heads, at, length = [], 0, 1
    while length and at + size < len(data):
        length = int.from_bytes(data[at : at + size], "big")
        heads.append(data[at + size : at + size + 3])
        at += size + length
    return heads if at == len(data) and all(len(head) >= 2 for head in heads) else []
