"""Open a data set of a million different images and videos for the second time. Ours against 0c0ac90.

    python benchmarks/known_media.py     # about 10 minutes on 2 idle cores; writes benchmarks/results/known_media.json

Each sample has ten files. Nine tenths of the files are in the training set, the others in the validation set, so that
the sets are compared (`check_disjoint`). Half of the files are named as videos; the others are PNG images. All are tiny
and all differ. To open does not decode them: that is the second part, with copies of one clip, each a file of its own,
read with `check_media` by one thread. Both sides run in turn, each opening in a new process with this interpreter and
these packages. The first opening of each side makes its tables; it is measured too.

Every run of ours also compares the size, start and end of each file with those of the run that it resumes, and a sample
may use a part of a video. The old build has neither, so these times stand alone.
"""

import argparse
import json
import os
import platform
import statistics
import struct
import subprocess
import sys
import tempfile
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from old_build import OLD, ROOT, check_source, environment_of, old_build

from fvv_lib.course.scenes import motion_clip, write_video

FILES, PER_SAMPLE, PER_FOLDER, CLIPS = 1_000_000, 10, 1000, 500
PER_PART, PER_CLIP = 10, 100  # files for each part of a video, parts of each video
TARGET = 0.2  # of the old build's time
SIDES = {
    "old": """
from fvv_lib.tiny import build_tokenizer
from fvv_lib import DataArguments, LazySupervisedDataset, make_supervised_data_module

def settings(**more):
    arguments = DataArguments(decode_timeout=0.0, **more)
    arguments.image_size, arguments.tokens_per_frame, arguments.max_length = 64, 4, 2048
    return arguments

def open_both(**more):
    return make_supervised_data_module(build_tokenizer(), settings(**more))["train_dataset"]

def open_one(path, **more):
    return LazySupervisedDataset(build_tokenizer(), [path], settings(**more))
""",
    "ours": """
from fvv_lib.course.tiny import build_tokenizer
from fvv_lib import DataArguments, FrameSpec, LazySupervisedDataset, make_supervised_data_module
SPEC = FrameSpec(image_size=64, tokens_per_frame=4, max_length=2048)

def settings(**more):
    return DataArguments(decode_timeout=0.0, **more)

def open_both(**more):
    return make_supervised_data_module(build_tokenizer(), settings(**more), frame_spec=SPEC)["train_dataset"]

def open_one(path, **more):
    return LazySupervisedDataset(build_tokenizer(), [path], settings(**more), frame_spec=SPEC)
""",
}
OPENING = """
import json, sys, time
folder, cache = sys.argv[1:]
start = time.perf_counter()
dataset = open_both(data_path=[f"{folder}/train.json"], validation_data_path=f"{folder}/val.json", cache_dir=cache)
print(json.dumps({"seconds": time.perf_counter() - start, "samples": len(dataset)}))
"""
READING = """
import json, sys, time
folder, cache = sys.argv[1:]
dataset = open_one(f"{folder}/clips.json", cache_dir=cache)
start = time.perf_counter()
good = sum(error is None for _, error in dataset.check_media(threads=1))
print(json.dumps({"seconds": time.perf_counter() - start, "samples": good}))
"""
PARTS = """
import json, sys, time
folder, cache = sys.argv[1:]
start = time.perf_counter()
dataset = open_one(f"{folder}/parts.json", cache_dir=cache)
print(json.dumps({"seconds": time.perf_counter() - start, "samples": len(dataset)}))
"""
COMPARING = """
import json, sys, time
from fvv_lib import ModelArguments, TrainingArguments
from fvv_lib.finetuning.comparing import describe_settings, identify
folder, cache = sys.argv[1:]
data = settings(data_path=[f"{folder}/train.json"], validation_data_path=f"{folder}/val.json", cache_dir=cache)
training = TrainingArguments(f"{folder}/output", use_cpu=True, report_to="none")
described = describe_settings(ModelArguments("owner/name"), data, training)
start = time.perf_counter()
identify(described, 1)
print(json.dumps({"seconds": time.perf_counter() - start, "samples": len(described)}))
"""


def png(number: int) -> bytes:
    """Return an image of one pixel, with the number in its colour and in a text."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    pixel = chunk(b"IDAT", zlib.compress(b"\0" + number.to_bytes(3)))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"tEXt", b"number\0%d" % number) + pixel + chunk(b"IEND", b"")


def sample(number: int, paths: list[str]) -> dict[str, Any]:
    answer = f"In clip {number} a square of size {number % 97} moves to the left, then stops."
    question = "<image>" * len(paths) + "\nWhat happens?"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": f"sample-{number:07d}", "video": paths, "conversations": turns}


def write_files(folder: Path, count: int) -> None:
    names = []
    for number in range(count):
        if number % PER_FOLDER == 0:
            (folder / f"{number // PER_FOLDER:04d}").mkdir()
        is_video = number % 2 == 0
        names.append(f"{number // PER_FOLDER:04d}/{number:07d}.{'mp4' if is_video else 'png'}")
        (folder / names[-1]).write_bytes(b"clip %d" % number if is_video else png(number))
    with (folder / "train.json").open("w") as train, (folder / "val.json").open("w") as validation:
        for number in range(count // PER_SAMPLE):
            file = validation if number % 10 == 9 else train
            file.write("[" if file.tell() == 0 else ",\n")
            json.dump(sample(number, names[number * PER_SAMPLE : (number + 1) * PER_SAMPLE]), file)
        for file in (train, validation):
            file.write("]\n")


def write_clips(folder: Path) -> None:
    write_video(folder / "clip.mp4", motion_clip(np.random.default_rng(0), "left")[0])
    content = (folder / "clip.mp4").read_bytes()
    for number in range(CLIPS):
        (folder / f"clip-{number}.mp4").write_bytes(content)
    samples = [sample(number, [f"clip-{number}.mp4"]) for number in range(CLIPS)]
    (folder / "clips.json").write_text(json.dumps(samples))


def write_parts(folder: Path, count: int) -> None:
    for number in range(0, count, PER_CLIP):
        (folder / f"long-{number}.mp4").write_bytes(b"long clip %d" % number)
    parts = ((number, number % PER_CLIP) for number in range(count))
    samples = [
        {**sample(number, [f"long-{number - second}.mp4"]), "start": second, "end": second + 1}
        for number, second in parts
    ]
    (folder / "parts.json").write_text(json.dumps(samples))


def run(side: str, source: Path, code: str, folder: Path) -> dict[str, Any]:
    """Run code with the `fvv_lib` of `source` in a new process, and return the JSON that it prints last."""
    command = [sys.executable, "-c", SIDES[side] + code, str(folder), str(folder / f"cache-{side}")]
    done = subprocess.run(
        command, cwd=folder, env=environment_of(source), stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(sources: dict[str, Path], code: str, folder: Path, runs: int) -> dict[str, Any]:
    """Run both sides once for the first time, then in turn, and return the seconds of each."""
    first = {side: run(side, source, code, folder) for side, source in sources.items()}
    if first["old"]["samples"] != first["ours"]["samples"]:
        raise RuntimeError(f"The two sides use different samples: {first}")
    again: dict[str, list[float]] = {side: [] for side in sources}
    for _ in range(runs):
        for side, source in sources.items():
            again[side].append(run(side, source, code, folder)["seconds"])
    row: dict[str, Any] = {"samples": first["ours"]["samples"]}
    for side in sources:
        row[f"{side}, first, s"] = round(first[side]["seconds"], 2)
        row[f"{side}, again, s"] = round(statistics.median(again[side]), 3)
    row["ours / old, again"] = round(row["ours, again, s"] / row["old, again, s"], 3)
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help=f"a checkout of {OLD}; default: a temporary worktree")
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--runs", type=int, default=3, help="openings of each side after the first")
    parser.add_argument("--to", type=Path, default=ROOT / "benchmarks" / "results" / "known_media.json")
    settings = parser.parse_args()
    with old_build(settings.old) as old, tempfile.TemporaryDirectory() as temporary:
        sources = {"old": old, "ours": ROOT}
        for source in sources.values():
            check_source(source)
        folder = Path(temporary)
        write_files(folder, settings.files)
        write_clips(folder)
        write_parts(folder, settings.files // PER_PART)
        opening = compare(sources, OPENING, folder, settings.runs)
        reading = compare(sources, READING, folder, settings.runs)
        ends = [run("ours", ROOT, COMPARING, folder)["seconds"] for _ in range(2)]
        parts = [run("ours", ROOT, PARTS, folder) for _ in range(2)]
    record = {
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("datasets", "pyarrow", "av")},
        },
        "old": OLD,
        "files": settings.files,
        "openings of each side after the first": settings.runs,
        "open": opening,
        "read clips": reading,
        "ours, compare the start and end of each file, s": {"first": round(ends[0], 2), "again": round(ends[1], 2)},
        "ours, open parts of videos": {
            "parts": parts[0]["samples"],
            "first, s": round(parts[0]["seconds"], 2),
            "again, s": round(parts[1]["seconds"], 3),
        },
        "wanted, ours / old": TARGET,
        "reached": opening["ours / old, again"] <= TARGET,
    }
    print(json.dumps(record, indent=2))
    settings.to.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
