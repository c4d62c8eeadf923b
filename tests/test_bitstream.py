"""What a packet says about its picture. The proof: without the disposable pictures, all others decode to the same."""

import av
import numpy as np
import pytest
from shared import decode_all

from fvv_lib.course.numbered import read_numbers, write_numbered
from fvv_lib.video.exact.bitstream import has_b_slice, is_disposable, is_p_picture

LAYERS = {"x265-params": "log-level=none:temporal-layers=3:bframes=3:b-adapt=0:keyint=48:no-open-gop=1"}


def packets_of(path):
    """Return the packets of a clip, its codec and its extradata."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
        return packets, stream.codec.name, stream.codec_context.extradata or b""


def rewrite(source, target, change):
    """Copy a clip, passing the content of each packet through `change(content) -> content`; `None` drops the packet."""
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        stream = writing.add_stream_from_template(reading.streams.video[0])
        for packet in reading.demux(video=0):
            content = change(bytes(packet)) if packet.size else None
            if content is not None:
                copy = av.Packet(content)
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                writing.mux(copy)


@pytest.mark.parametrize(
    ("codec", "options", "left_out"),
    [
        ("libx264", {"x264-params": "bframes=3:b-pyramid=normal:b-adapt=0"}, 20),
        ("libx265", {"x265-params": "log-level=none:bframes=3:b-adapt=0:keyint=48:no-open-gop=1"}, 20),
        ("libx265", LAYERS, 20),
        ("mpeg4", {}, 30),
    ],
)
def test_all_other_frames_are_the_same_without_the_disposable_ones(tmp_path, codec, options, left_out):
    write_numbered(tmp_path / "all.mp4", codec, gop=48, b_frames=2 if codec == "mpeg4" else 3, codec_options=options)
    packets, name, extradata = packets_of(tmp_path / "all.mp4")
    assert sum(is_disposable(packet, name, extradata) for packet in packets) > left_out
    reference = decode_all(tmp_path / "all.mp4")
    rewrite(
        tmp_path / "all.mp4",
        tmp_path / "rest.mp4",
        lambda content: None if is_disposable(content, name, extradata) else content,
    )
    rest = decode_all(tmp_path / "rest.mp4")
    assert len(rest) == sum(not is_disposable(packet, name, extradata) for packet in packets)
    for frame, number in zip(rest, read_numbers(rest), strict=True):
        np.testing.assert_array_equal(frame, reference[number])


def in_a_higher_layer_only(content):
    """Mark HEVC's pictures in layer 1 as not referred to in their layer, which is true: TSA_R becomes TSA_N."""
    content, at = bytearray(content), 0
    while at < len(content):
        if content[at + 4] >> 1 == 3:
            content[at + 4] = 2 << 1
        at += 4 + int.from_bytes(content[at : at + 4], "big")
    return bytes(content)


def test_a_picture_that_a_higher_temporal_layer_refers_to_is_not_disposable(tmp_path):
    """FFmpeg's `skip_frame` skips it, and then loses the frames that refer to it, because it cannot decode them."""
    write_numbered(tmp_path / "all.mp4", "libx265", gop=48, b_frames=3, codec_options=LAYERS)
    rewrite(tmp_path / "all.mp4", tmp_path / "clip.mp4", in_a_higher_layer_only)
    reference = decode_all(tmp_path / "all.mp4")
    np.testing.assert_array_equal(decode_all(tmp_path / "clip.mp4"), reference)  # the frames are unchanged
    packets, codec, extradata = packets_of(tmp_path / "clip.mp4")

    def decode(skip):
        with av.open(str(tmp_path / "clip.mp4")) as container:
            stream = container.streams.video[0]
            for packet in container.demux(stream):
                if packet.size:
                    stream.codec_context.skip_frame = "NONREF" if skip(bytes(packet)) else "DEFAULT"
                for frame in stream.codec_context.decode(packet if packet.size else None):
                    yield frame.to_ndarray(format="rgb24")

    assert not any(is_disposable(packet, codec, extradata) for packet in packets if packet[5] & 7 == 2)
    kept = list(decode(lambda content: is_disposable(content, codec, extradata)))
    assert len(kept) == sum(not is_disposable(packet, codec, extradata) for packet in packets) < len(packets)
    for frame, number in zip(kept, read_numbers(kept), strict=True):
        np.testing.assert_array_equal(frame, reference[number])
    highest = [content for content in packets if content[5] & 7 == 3]
    assert len(list(decode(lambda content: content not in highest))) < len(highest)


@pytest.mark.parametrize("b_frames", [0, 2])
def test_the_first_bytes_of_a_packet_show_whether_it_is_a_p_picture(tmp_path, b_frames):
    write_numbered(tmp_path / "clip.avi", b_frames=b_frames)
    packets, _, extradata = packets_of(tmp_path / "clip.avi")
    pictures = packets[1:12]  # the packets before the second key frame
    assert [is_p_picture(packet[:64]) for packet in pictures] == [not has_b_slice(p, extradata) for p in pictures]
    assert sum(map(is_p_picture, pictures)) == 11 if b_frames == 0 else 0 < sum(map(is_p_picture, pictures)) < 11
    assert not is_p_picture(packets[0][:64])  # a key frame begins with parameters
    assert not is_p_picture(packets[1][3:64])  # no start code


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg4", "vp9", "av1"])
@pytest.mark.parametrize("content", [b"", b"\0", bytes(64), b"\xff" * 64, b"\0\0\0\2\x09\x10", b"\0\0\1\xb6"])
def test_a_packet_without_a_picture_is_not_disposable(codec, content):
    for extradata in (b"", b"\1", b"\1" + b"\xff" * 30):
        assert not is_disposable(content, codec, extradata)


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("container", ["mp4", "avi"])
def test_b_slices_are_found_after_lengths_and_after_start_codes(tmp_path, container, b_frames):
    path = tmp_path / f"clip.{container}"
    write_numbered(path, b_frames=b_frames)
    packets, _, extradata = packets_of(path)
    assert (packets[0][:3] == b"\0\0\0") == (container == "avi")  # AVI has a start code, MP4 a length
    assert any(has_b_slice(packet, extradata) for packet in packets) == bool(b_frames)
    if container == "avi":  # some claim lengths but use codes
        assert any(has_b_slice(packet, b"\1\0\0\0\xff") for packet in packets) == bool(b_frames)
