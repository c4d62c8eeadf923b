"""What a packet says of its picture, in its first bits: is it a B-picture, may another refer to it?           Lesson 1

Two questions that a container does not answer, and that need no decoder: H.264, HEVC and MPEG-4 put the answers before
the compressed picture. This module knows bytes and nothing of files.
"""

import re

Data = bytes | memoryview

VOP = re.compile(rb"\x00\x00\x01\xb6(.)", re.DOTALL)  # MPEG-4: a picture, and its type in two bits
START = re.compile(rb"\x00\x00\x01(...)", re.DOTALL)


def has_b_slice(data: Data, extradata: bytes) -> bool:
    """Whether a packet of H.264 has a slice of type B that begins a picture (macroblock 0). Where none has, frames are
    shown in the order in which they are decoded. Source: ITU-T H.264, 7.3.3."""
    heads = _nal_heads(data, _length_size("h264", extradata)) or START.findall(data)  # some say lengths and have codes
    return any(head[0] & 31 == 1 and 0x9C <= head[1] <= 0xAF for head in heads)


def is_disposable(data: Data, codec: str, extradata: bytes) -> bool:
    """Whether it is certain that no other picture refers to the one in this packet, so that it need not be decoded.

    A decoder that is told to leave such pictures out (FFmpeg's `skip_frame`) decides that for itself, but then says
    nothing of a packet that has no picture at all; and of HEVC it leaves out pictures to which no other *of their
    temporal layer* refers, and loses those of the layers above that do.

    Args:
        data: the packet.
        codec: `h264`, `hevc` or `mpeg4`; of every other nothing is certain.
        extradata: H.264's and HEVC's configuration (ISO 14496-15), which tells how units are set apart and how many
            temporal layers there are. Without it nothing is certain of HEVC.

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
    """How many bytes tell the length of each unit; 0 where start codes set units apart."""
    at = {"h264": 4, "hevc": 21}[codec]
    return (extradata[at] & 3) + 1 if extradata[:1] == b"\x01" and len(extradata) > at else 0


def _nal_heads(data: Data, size: int) -> list[Data]:
    """The first three bytes of each unit; none where lengths do not add up to the packet."""
    if size == 0:
        return START.findall(data)
    heads, at, length = [], 0, 1
    while length and at + size < len(data):
        length = int.from_bytes(data[at : at + size], "big")
        heads.append(data[at + size : at + size + 3])
        at += size + length
    return heads if at == len(data) and all(len(head) >= 2 for head in heads) else []
