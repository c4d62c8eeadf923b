"""Prepare a million rows of LLaMA-Factory: seconds and peak memory, beside a plain script with the same checks.

    python benchmarks/prepare.py        # about 5 minutes on 2 cores, 3 GB; writes benchmarks/results/prepare.json
    python benchmarks/prepare.py --rows 20000 --output /tmp/prepare.json

The plain script loads the file (`json.load`), checks the tags and the media paths of each row, looks each path up on
the disk, and writes the list (`json.dump`). Each measurement is a new process; its imports are not counted. The rows
name a hundred thousand different clips, each of which exists.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUNS = 3
WANTED = {"peak memory": 0.2, "seconds": 1.2, "seconds with several processes": 0.7}  # ours / plain, at most

PLAIN = """
import json, os, sys
source, target, _ = sys.argv[1:]

def convert(row, number):
    messages, videos, images = row["messages"], row.get("videos", []), row.get("images", [])
    turns = []
    for message in messages:
        speaker = {"user": "human", "assistant": "gpt"}[message["role"]]
        turns.append({"from": speaker, "value": message["content"].replace("<video>", "<image>")})
    texts = "".join(message["content"] for message in messages)
    if texts.count("<video>") != len(videos) or texts.count("<image>") != len(images):
        raise ValueError(number)
    for path in videos + images:
        if not os.path.exists(os.path.join(os.path.dirname(source), path)):
            raise ValueError(path)
    return {"id": f"row-{number}", "video": videos[0], "conversations": turns}

def run():
    with open(source, encoding="utf-8") as file:
        rows = json.load(file)
    samples = [convert(row, number) for number, row in enumerate(rows)]
    with open(target, "w", encoding="utf-8") as file:
        json.dump(samples, file, ensure_ascii=False)
"""
OURS = """
import sys
from fvv_lib import import_annotations
source, target, workers = sys.argv[1:]

def run():
    import_annotations([source], target, workers=int(workers))
"""
MEASURE = """
import json, os, threading, time

def resident():
    \"\"\"Return the private memory of this process and its children in MiB; shared pages count once.\"\"\"
    total, waiting = 0.0, [os.getpid()]
    while waiting:
        one = waiting.pop()
        try:
            for line in open(f"/proc/{one}/smaps_rollup"):
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) / 1024
            waiting += map(int, open(f"/proc/{one}/task/{one}/children").read().split())
        except OSError:
            continue
    return total

before, peak, over = resident(), 0.0, threading.Event()

def watch():
    global peak
    while not over.wait(0.2):
        peak = max(peak, resident())

watcher = threading.Thread(target=watch)
watcher.start()
start = time.perf_counter()
run()
seconds = time.perf_counter() - start
peak = max(peak, resident())
over.set()
watcher.join()
print(json.dumps({"seconds": seconds, "peak MiB": peak, "MiB before": before}))
"""


def write_rows(folder: Path, count: int) -> Path:
    """Write the clips, which are empty files, and the rows that name them."""
    clips = max(count // 10, 1)
    for number in range(clips):
        file = folder / "clips" / f"{number // 1000}" / f"{number}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    source = folder / "rows.json"
    with source.open("w") as file:
        for number in range(count):
            clip = number % clips
            question, answer = f"<video>What happens in clip {number}?", f"A square of size {number % 97} moves left."
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(",\n" if number else "[\n")
            json.dump({"messages": messages, "videos": [f"clips/{clip // 1000}/{clip}.mp4"]}, file)
        file.write("\n]\n")
    return source


def measure(side: str, source: Path, workers: int = 1) -> dict[str, float]:
    target = source.with_name("out.json")
    done = subprocess.run(
        [sys.executable, "-c", side + MEASURE, str(source), str(target), str(workers)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "prepare.json")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    sides = {"plain": (PLAIN, 1), "ours, one process": (OURS, 1), "ours, a process per core": (OURS, cores)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        source = write_rows(Path(folder), options.rows)
        for _ in range(options.runs):  # in turn, so that a slow minute slows all sides
            for name, (side, workers) in sides.items():
                found[name].append(measure(side, source, workers))
                print(name, found[name][-1], flush=True)
    middle: dict[str, dict[str, Any]] = {
        name: {
            "seconds": round(statistics.median(run["seconds"] for run in runs), 2),
            "peak MiB": round(statistics.median(run["peak MiB"] for run in runs), 1),
            "peak MiB without imports": round(
                statistics.median(run["peak MiB"] - run["MiB before"] for run in runs), 1
            ),
        }
        for name, runs in found.items()
    }
    plain, one, several = middle.values()
    ratios = {
        "peak memory": round(one["peak MiB without imports"] / plain["peak MiB without imports"], 3),
        "seconds": round(one["seconds"] / plain["seconds"], 3),
        "seconds with several processes": round(several["seconds"] / plain["seconds"], 3),
    }
    record = {
        "rows": options.rows,
        "runs": options.runs,
        "sides": middle,
        "ours / plain": ratios,
        "wanted at most": WANTED,
        "reached": {name: ratio <= WANTED[name] for name, ratio in ratios.items()},
        "hardware": f"{cores} cores, {platform.machine()}",
        "versions": {"Python": platform.python_version()},
    }
    options.output.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
