"""32 frames of an hour of 1080p on a web server: reading the parts that are needed, against a download and a read.

    python benchmarks/far_files.py    # Linux, about 3 minutes; writes benchmarks/results/far_files.json

The server is a process of its own on this machine. It waits 20 ms before each answer, as a server in another city does,
and then sends as fast as it can, so a download is faster here than over any real line. Both ways run in turn, each in a
new process; the median counts. Both must return the same frames. The server counts requests and bytes.
"""

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aiohttp import web
from long_video import FPS, HOUR, SECONDS, write_clip
from old_build import ROOT, check_source, environment_of

from fvv_lib.course.numbered import repeat_packets, write_numbered

DELAY, NUM_FRAMES, GOP = 0.020, 32, 60
WANTED = {"share": 0.10, "ranges / download": 0.25}
READ = """
import hashlib, json, os, sys, tempfile, time
import fsspec
import fvv_lib

small, address, way, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
fvv_lib.read_video(small, count)
fsspec.url_to_fs(address)  # its import is not measured
start = time.perf_counter()
if way == "ranges":
    frames = fvv_lib.read_video(address, count).frames
else:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, os.path.basename(address))
        system, name = fsspec.url_to_fs(address)
        system.get_file(name, path)
        frames = fvv_lib.read_video(path, count).frames
print(json.dumps({"seconds": time.perf_counter() - start, "digest": hashlib.sha256(frames.tobytes()).hexdigest()}))
"""


def serve(folder: Path, port: Any, requests: Any, sent: Any) -> None:
    """Serve the files of a folder by ranges, and count requests and bytes."""

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(DELAY)
        path = folder / request.match_info["name"]
        size = path.stat().st_size
        asked = request.http_range
        start, stop = asked.start or 0, min(size if asked.stop is None else asked.stop, size)
        headers = {"Accept-Ranges": "bytes", "ETag": f'"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"'}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(size)})
        with path.open("rb") as file:
            file.seek(start)
            body = file.read(stop - start)
        requests.value += 1
        sent.value += len(body)
        if "Range" not in request.headers:
            return web.Response(body=body, headers=headers)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return web.Response(status=206, body=body, headers=headers)

    async def run() -> None:
        application = web.Application()
        application.router.add_route("*", "/{name}", answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.value = runner.addresses[0][1]
        await asyncio.Event().wait()

    asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="processes for each way and file")
    parser.add_argument("--seconds", type=int, default=HOUR, help="length of the videos")
    settings = parser.parse_args()
    check_source(ROOT)
    context = multiprocessing.get_context("spawn")
    port, requests, sent = context.Value("i", 0), context.Value("i", 0), context.Value("q", 0)
    files = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_numbered(folder / "small.mp4")
        write_clip(folder / "clip.mp4", GOP)
        server = context.Process(target=serve, args=(folder, port, requests, sent), daemon=True)
        server.start()
        for container in ("mp4", "mkv"):
            path = folder / f"long.{container}"
            repeat_packets(folder / "clip.mp4", path, round(settings.seconds / SECONDS))
            files[container] = measure(path, folder / "small.mp4", port, requests, sent, settings.rounds)
            print(container, json.dumps(files[container], indent=1), flush=True)
            path.unlink()
        server.terminate()
    record = {
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: version(name) for name in ("av", "fsspec", "aiohttp")},
        "frames": NUM_FRAMES,
        "seconds of video": settings.seconds,
        "frames per second": FPS,
        "delay of an answer, s": DELAY,
        "processes for each way": settings.rounds,
        "wanted of mp4": WANTED,
        "files": files,
    }
    (ROOT / "benchmarks" / "results" / "far_files.json").write_text(json.dumps(record, indent=2) + "\n")


def measure(path: Path, small: Path, port: Any, requests: Any, sent: Any, rounds: int) -> dict[str, Any]:
    """Read a file in both ways, in turn, and return a row for each."""
    while not port.value:
        time.sleep(0.05)
    measured: dict[str, list[dict[str, Any]]] = {"ranges": [], "download": []}
    for _ in range(rounds):
        for way, runs in measured.items():
            requests.value = sent.value = 0
            address = f"http://127.0.0.1:{port.value}/{path.name}"
            command = [sys.executable, "-c", READ, str(small), address, way, str(NUM_FRAMES)]
            with tempfile.TemporaryDirectory() as elsewhere:
                done = subprocess.run(
                    command, cwd=elsewhere, env=environment_of(ROOT), stdout=subprocess.PIPE, text=True, check=True
                )
            runs.append({**json.loads(done.stdout), "requests": requests.value, "bytes": sent.value})
    if len({run["digest"] for runs in measured.values() for run in runs}) != 1:
        raise RuntimeError(f"{path}: the two ways return different frames.")
    size = path.stat().st_size
    rows = {
        way: {
            "seconds": round(statistics.median(run["seconds"] for run in runs), 3),
            "requests": max(run["requests"] for run in runs),
            "MB": round(max(run["bytes"] for run in runs) / 1e6, 2),
            "share": round(max(run["bytes"] for run in runs) / size, 4),
        }
        for way, runs in measured.items()
    }
    ratio = round(rows["ranges"]["seconds"] / rows["download"]["seconds"], 3)
    return {"MB": round(size / 1e6, 1), "rows": rows, "ranges / download": ratio}


if __name__ == "__main__":
    main()
