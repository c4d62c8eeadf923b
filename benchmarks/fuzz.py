"""What does the reader do with damaged files and false headers? It should return right frames or raise an error.

    python benchmarks/fuzz.py                       # 1,400 files; writes benchmarks/results/fuzz.json
    python benchmarks/fuzz.py --seed 1 --each 400 --output benchmarks/results/fuzz_more.json   # 16,000 others

A seeded generator damages eight clips in seven containers in five ways. Each file is read in a child process, so that a
crash of the decoder is counted and does not end the benchmark. The files are read in turn like small and like large
clips: with two threads, by the index of the file or seeking to each packet again. A returned frame is right in two
cases: a sequential decode of the file returns the same frame at that index (or anywhere, if the number of decoded
frames differs from the container's), or it equals the frame of the undamaged clip with this number or time. Any other
frame is *wrong*.
"""

import argparse
import hashlib
import json
import os
import platform
import tempfile
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np

from fvv_lib import VideoDecodeError, VideoFrames, read_video
from fvv_lib.course.numbered import FPS, write_numbered
from fvv_lib.video import isolation
from fvv_lib.video.exact import index, packets, reader

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 20.0  # seconds
WAYS = {  # limits of the reader: pixels to decode for threads, bytes to keep, bytes of a file for its index
    "small clip": (reader.MIN_CLIP_PIXELS, packets.KEPT_BYTES, index.MIN_BYTES),
    "by index": (0, 0, 0),
    "small clip, by index": (reader.MIN_CLIP_PIXELS, packets.KEPT_BYTES, 0),
    "by seeking": (0, 0, index.MIN_BYTES),
}
CLIPS = {
    "clip.mp4": ("libx264", {"b_frames": 2}),
    "first.mp4": ("libx264", {"b_frames": 2, "container_options": {"movflags": "faststart"}}),
    "clip.mov": ("libx265", {"b_frames": 2}),
    "clip.mkv": ("libx264", {"b_frames": 2}),
    "clip.webm": ("libvpx-vp9", {}),
    "clip.avi": ("mpeg4", {"b_frames": 2}),
    "clip.flv": ("flv", {}),
    "clip.wmv": ("wmv2", {}),
}


def truncate(rng: np.random.Generator, data: bytearray) -> None:
    del data[int(rng.integers(1, len(data))) :]


def flip_bits(rng: np.random.Generator, data: bytearray) -> None:
    for at in rng.integers(0, len(data), size=rng.integers(1, 40)):
        data[at] ^= 1 << rng.integers(8)


def zero_block(rng: np.random.Generator, data: bytearray) -> None:
    start, length = int(rng.integers(len(data))), int(rng.integers(16, 4096))
    data[start : start + length] = bytes(len(data[start : start + length]))


def swap_blocks(rng: np.random.Generator, data: bytearray) -> None:
    """Swap two blocks of equal length: boxes, clusters or chunks in the wrong order."""
    length = int(rng.integers(16, max(len(data) // 3, 17)))
    first, second = sorted(int(at) for at in rng.integers(0, len(data) - length, size=2))
    second = max(second, first + length)
    one, other = bytes(data[first : first + length]), bytes(data[second : second + length])
    data[first : first + len(other)], data[second : second + len(other)] = other, one[: len(other)]


def lie_in_header(rng: np.random.Generator, data: bytearray) -> None:
    """Change a four-byte number near the beginning or the end, where containers keep their tables."""
    region = int(rng.integers(4, min(1500, len(data) - 4)))
    at = region if rng.random() < 0.5 else len(data) - region - 4
    value = int(rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, int(rng.integers(2**32))]))
    data[at : at + 4] = value.to_bytes(4, "big" if rng.random() < 0.5 else "little")


DAMAGES = (truncate, flip_bits, zero_block, swap_blocks, lie_in_header)


def digest(picture: np.ndarray) -> str:
    return hashlib.sha1(np.ascontiguousarray(picture).tobytes()).hexdigest()


def sequential(path: str) -> list[str]:
    """Return the digest of every frame of a sequential decode. Packets that fail are skipped."""
    frames = []
    with av.open(path, metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {"err_detect": "explode"}
        stream.codec_context.thread_count = 1  # two slice threads decode damaged HEVC differently
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
                decoded = packet.decode()
            except StopIteration:
                break
            except av.FFmpegError:
                continue
            for frame in decoded:
                frames.append(digest(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)))
    return frames


def read(path: str, way: str) -> VideoFrames:
    """Read eight frames, like a large clip if the limits say so."""
    reader.MIN_CLIP_PIXELS, packets.KEPT_BYTES, index.MIN_BYTES = WAYS[way]
    return read_video(path, 8, num_threads=1 if way.startswith("small") else 2)


def examine(path: Path, undamaged: list[str], way: str) -> str:
    """Return `right`, `error`, `timeout`, `crash` (of the child; the caller gets an error), or `wrong`."""
    try:
        video = isolation.call("fuzz.read", {"path": str(path), "way": way}, TIMEOUT)
    except VideoDecodeError:
        return "error"
    except isolation.ChildTimeoutError:
        return "timeout"
    except isolation.ChildCrashError:
        return "crash"
    try:
        reference = isolation.call("fuzz.sequential", {"path": str(path)}, TIMEOUT)
    except Exception as error:
        return f"wrong: no reference ({type(error).__name__})"
    as_many = len(reference) == video.total_frames
    for frame, number, seconds in zip(video.frames, video.indices, video.timestamps, strict=True):
        own = {undamaged[i] for i in (number, round(seconds * FPS)) if i < len(undamaged)}
        given = {reference[number]} if as_many else set(reference)
        if digest(frame) not in own | given:
            return "wrong"
    return "right"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=35, help="files per clip and kind of damage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for files that gave wrong frames or a crash")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "fuzz.json")
    settings = parser.parse_args()
    rng = np.random.default_rng(settings.seed)
    counts: dict[str, Counter] = {name: Counter() for name in CLIPS}
    wrong, slowest = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name, (codec, options) in CLIPS.items():
            whole = Path(folder) / name
            write_numbered(whole, codec, gop=12, **options)
            undamaged = sequential(str(whole))
            damaged = Path(folder) / f"damaged{whole.suffix}"
            for damage in DAMAGES:
                for number in range(settings.each):
                    data = bytearray(whole.read_bytes())
                    damage(rng, data)
                    damaged.write_bytes(data)
                    start = time.monotonic()
                    result = examine(damaged, undamaged, tuple(WAYS)[number % len(WAYS)])
                    slowest = max(slowest, time.monotonic() - start)
                    counts[name][result.split(":")[0]] += 1
                    if settings.keep and result.startswith(("wrong", "crash")):
                        settings.keep.mkdir(parents=True, exist_ok=True)
                        (settings.keep / f"{damage.__name__}-{number}-{name}").write_bytes(data)
                    if result.startswith("wrong"):
                        wrong.append(f"{name} {damage.__name__} {number} {result}")
            print(name, dict(counts[name]), flush=True)
    total = sum(counts.values(), Counter())
    record = {
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "seed": settings.seed,
        "files": sum(total.values()),
        "results": {kind: total[kind] for kind in ("right", "error", "timeout", "crash", "wrong")},
        "by clip": counts,
        "wrong": wrong,
        "slowest, s": round(slowest, 1),
    }
    settings.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
