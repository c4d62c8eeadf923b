"""Does reading clips leak memory? Read 5,000 clips in one process, and 5,000 in the child process of a time limit.

    python benchmarks/leak.py           # Linux; writes benchmarks/results/leak.json

The clips cover the containers and code paths of the reader and are read in turn, every second round with two threads.
Resident memory is recorded every 500 reads. The result is its largest change since the first 500 reads.
"""

import json
import os
import platform
import tempfile
from pathlib import Path

from fvv_lib import read_video
from fvv_lib.course.numbered import write_numbered
from fvv_lib.video import isolation
from fvv_lib.video.exact import reader

ROOT = Path(__file__).resolve().parent.parent
READS, EVERY = 5000, 500
CLIPS = {
    "a.mp4": "libx264",
    "b.mkv": "libx265",
    "c.webm": "libvpx-vp9",
    "d.avi": "mpeg4",
    "e.wmv": "wmv2",
    "f.mov": "mjpeg",
}


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(paths: list[Path], timeout: float | None) -> dict:
    resident = []
    for number in range(1, READS + 1):
        read_video(paths[number % len(paths)], 8, num_threads=1 + number // len(paths) % 2, timeout=timeout)
        if number % EVERY == 0:
            pid = isolation.call("os.getpid", {}, 10) if timeout else os.getpid()
            resident.append(round(resident_mib(pid), 1))
    growth = max(abs(value / resident[0] - 1) for value in resident)
    return {"resident, MiB": resident, "change after the first 500, %": round(100 * growth, 1)}


def main() -> None:
    reader.MIN_CLIP_PIXELS = 0  # split even these small clips between two threads in this process
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in CLIPS]
        for path, codec in zip(paths, CLIPS.values(), strict=True):
            write_numbered(path, codec)
        record = {
            "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
            "reads": READS,
            "in this process": measure(paths, None),
            "in a child": measure(paths, 30.0),
        }
    print(json.dumps(record, indent=2))
    (ROOT / "benchmarks" / "results" / "leak.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
