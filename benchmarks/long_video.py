"""Eight frames of an hour of 1080p: how long does it take, and how much of the file is read? Ours against 0c0ac90.

    python benchmarks/long_video.py    # Linux, about 5 minutes; writes benchmarks/results/long_video.json

A clip of 10 seconds is encoded, and its packets are repeated until an hour is full, so a file takes seconds to write.
Key frames are 2 seconds apart, as in streams and recordings of cameras, or up to 250 frames, as x264 makes them.
All readers run in turn within a round, each in a new process with one thread. The median over the rounds counts. The
old build is commit 0c0ac90, which lists the packets of a file by reading them all. torchcodec and decord run if they
are installed. Before the time is taken, each process reads a small clip. The bytes read are those of the process
(`rchar` in /proc/self/io), whether they come from the disk or from the system's cache.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
from old_build import OLD, ROOT, check_source, environment_of, old_build
from PIL import Image

from fvv_lib.course.numbered import repeat_packets, write_numbered

FPS, SECONDS, HOUR, NUM_FRAMES = 30, 10, 3600, 8
FILES = (("mp4", 60), ("mp4", 250), ("mkv", 60), ("mkv", 250))  # container, frames between key frames at most
PACKAGES = {"av": "av", "torchcodec": "torchcodec", "decord": "decord"}
TOOLS = """
import hashlib, json, sys, time
from pathlib import Path
import numpy as np

def bytes_read():
    return int(Path("/proc/self/io").read_text().split()[1])

def ours(path, accuracy="exact"):
    import fvv_lib
    return fvv_lib.read_video(path, COUNT, num_threads=1, accuracy=accuracy).frames

def torchcodec(path, mode):
    from torchcodec.decoders import VideoDecoder
    decoder = VideoDecoder(path, num_ffmpeg_threads=1, dimension_order="NHWC", seek_mode=mode)
    return decoder.get_frames_at(np.linspace(0, len(decoder) - 1, COUNT, dtype=int).tolist()).data.numpy()

def decord(path):
    import decord
    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    return reader.get_batch(np.linspace(0, len(reader) - 1, COUNT, dtype=int)).asnumpy()

small, path, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3])
READER(small)
before, start = bytes_read(), time.perf_counter()
frames = READER(path)
seconds = time.perf_counter() - start
digest = hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()
print(json.dumps({"seconds": seconds, "bytes": bytes_read() - before, "digest": digest}))
"""
READERS = {  # the name of a row: its package, and the call
    "old, exact": ("av", "ours(PATH)"),
    "ours, exact": ("av", "ours(PATH)"),
    "old, key frames": ("av", "ours(PATH, 'keyframe')"),
    "ours, key frames": ("av", "ours(PATH, 'keyframe')"),
    "torchcodec, exact": ("torchcodec", "torchcodec(PATH, 'exact')"),
    "torchcodec, approximate": ("torchcodec", "torchcodec(PATH, 'approximate')"),
    "decord": ("decord", "decord(PATH)"),
}
WANTED = {  # so many times faster than the old build and than torchcodec, and at most this share of the file read
    "mp4": {"exact": 1.6, "key frames": 4.0, "torchcodec": 1.0, "share": 0.05},
    "mkv": {"exact": 1.3, "share": 0.10},
}


def write_clip(path: Path, gop: int) -> None:
    """Write some seconds of 1080p: a slow pan over a wall, and something that moves fast in front of it."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (60, 120, 3)).astype(np.uint8)
    wall = np.asarray(Image.fromarray(small).resize((2400, 1200), Image.Resampling.BICUBIC))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, width=1920, height=1080, options={"preset": "veryfast"})
        stream.pix_fmt, stream.codec_context.gop_size = "yuv420p", gop
        for t in range(SECONDS * FPS):
            view = wall[t // 8 : t // 8 + 1080, t : t + 1920].copy()
            view[400:600, 5 * t : 5 * t + 200] = (255 - t % 64, 64, 64)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode())


def run(source: Path, call: str, *arguments: Any) -> dict[str, Any]:
    """Read a file in a new process with the `fvv_lib` of `source`; return seconds, bytes and a digest of the frames."""
    code = TOOLS.replace("READER(small)", call.replace("PATH", "small")).replace(
        "READER(path)", call.replace("PATH", "path")
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = environment_of(source)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure_local(folder: Path, sources: dict[str, Path], rounds: int) -> dict[str, Any]:
    """Read each file from the local disk with every reader, and return the rows of each file."""
    write_numbered(folder / "small.mp4")
    readers = {name: call for name, (package, call) in READERS.items() if find_spec(PACKAGES[package])}
    files = {}
    for container, gop in FILES:
        name, path = f"{container}, a key frame every {gop}", folder / f"hour.{container}"
        write_clip(folder / "clip.mp4", gop)
        packets = repeat_packets(folder / "clip.mp4", path, HOUR // SECONDS)
        measured: dict[str, list[dict[str, Any]]] = {reader: [] for reader in readers}
        for _ in range(rounds):
            for reader, call in readers.items():
                source = sources["old" if reader.startswith("old") else "ours"]
                measured[reader].append(run(source, call, folder / "small.mp4", path, NUM_FRAMES))
        files[name] = {"MB": round(path.stat().st_size / 1e6, 1), "packets": packets}
        files[name] |= compare(measured, path.stat().st_size, WANTED[container])
        print(name, json.dumps(files[name], indent=1), flush=True)
        path.unlink()
    return files


def compare(measured: dict[str, list[dict[str, Any]]], size: int, wanted: dict[str, float]) -> dict[str, Any]:
    """Return the rows of a file, and whether the targets are reached. Both builds must return the same frames. Without
    torchcodec, a target that compares with it is not reached."""
    rows = {}
    for reader, runs in measured.items():
        seconds = statistics.median(one["seconds"] for one in runs)
        read = max(one["bytes"] for one in runs)
        rows[reader] = {"seconds": round(seconds, 3), "MB read": round(read / 1e6, 2), "share": round(read / size, 4)}
    faster = {}
    for way in ("exact", "key frames"):
        digests = {one["digest"] for side in ("old", "ours") for one in measured[f"{side}, {way}"]}
        if len(digests) != 1:
            raise RuntimeError(f"{way}: the two builds return different frames.")
        faster[way] = round(rows[f"old, {way}"]["seconds"] / rows[f"ours, {way}"]["seconds"], 2)
    reached = all(faster[way] >= wanted[way] for way in faster if way in wanted)
    reached = reached and rows["ours, exact"]["share"] <= wanted["share"]
    other = {
        mode: round(rows[f"torchcodec, {mode}"]["seconds"] / rows["ours, exact"]["seconds"], 2)
        for mode in ("exact", "approximate")
        if f"torchcodec, {mode}" in rows
    }
    if "torchcodec" in wanted:
        reached = reached and min(other.values(), default=0.0) > wanted["torchcodec"]
    return {"rows": rows, "old / ours": faster, "torchcodec / ours": other, "wanted": wanted, "reached": reached}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help=f"a checkout of {OLD}; default: a temporary worktree")
    parser.add_argument("--rounds", type=int, default=5, help="processes per reader and file")
    settings = parser.parse_args()
    with old_build(settings.old) as old, tempfile.TemporaryDirectory() as folder:
        sources = {"old": old, "ours": ROOT}
        for source in sources.values():
            check_source(source)
        local = measure_local(Path(folder), sources, settings.rounds)
    record = {
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: version(name) for name in PACKAGES if find_spec(PACKAGES[name])},
        "old": OLD,
        "frames": NUM_FRAMES,
        "processes per reader": settings.rounds,
        "local": local,
    }
    (ROOT / "benchmarks" / "results" / "long_video.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
