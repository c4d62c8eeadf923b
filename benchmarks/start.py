"""How much time and memory does a whole command take? Compare ours with the build before `fvv VERB`.

    pip install tyro               # the old build needs it, this project does not
    python benchmarks/start.py     # Linux, about 20 minutes on 2 idle cores; writes benchmarks/results/start.json

The old build is commit 0c0ac90, with one module for each command (`python -m fvv_lib.check`). Both sides run in turn,
with this interpreter and these packages. Each run is a new process in an empty folder. The first run of each side is
not counted, because it reads files from disk and may write bytecode. `memory --presets` takes minutes, so it runs twice
and both runs count. `chat` answers one question and ends; its time is the time to the first answer.

Memory is the peak of the largest process of a run (`ru_maxrss`). On Linux this includes the memory of the parent at the
moment it starts the process, so the parent is small (`HELPER`).
"""

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from old_build import OLD, ROOT, check_source, environment_of, old_build

SAMPLES = ROOT / "data_samples"
LOGGED = re.compile(r"^\[\d{4}-\d\d-\d\d .*\n", re.M)  # DeepSpeed logs to stdout, with the time
HELPER = """
import os, sys, time
start = time.perf_counter()
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(process, 0)
seconds = time.perf_counter() - start
open("measured", "w").write(f"{seconds} {usage.ru_maxrss / 1024} {os.waitstatus_to_exitcode(status)}")
"""


class Target(NamedTuple):
    """The target for ours."""

    of_old_time: float  # maximum, as a fraction of the time of the old build
    peak_mib: float | None = None  # maximum


STARTS = Target(1 / 15, 100e6 / 2**20)  # a command that only reads flags
WORKS = Target(0.7)  # a command that does real work


@dataclass(frozen=True)
class Row:
    """One command on both sides: the arguments of `python -m`."""

    old: tuple[str, ...]
    ours: tuple[str, ...]
    target: Target
    fails: bool = False
    takes_minutes: bool = False


WRONG = (
    *("--num_videoframes", "4", "--model_name_or_path", "base"),
    *("--data_path", "train.json", "--output_dir", "output"),
)
CONVERT = (str(SAMPLES / "tiny-fastvlm"), "converted")
CHAT = (
    *("--model", str(SAMPLES / "tiny-fastvlm-video"), "--video", str(SAMPLES / "videos" / "test" / "motion-0003.mp4")),
    *("--question", "Which way does it move?"),
)
ROWS = {
    # The old build has no list of its commands. The help of one command stands in for it.
    "fvv --help": Row(("fvv_lib.check", "--help"), ("fvv_lib", "--help"), STARTS),
    "fvv check --help": Row(("fvv_lib.check", "--help"), ("fvv_lib", "check", "--help"), STARTS),
    "fvv finetune --help": Row(("fvv_lib.training", "--help"), ("fvv_lib", "finetune", "--help"), STARTS),
    "fvv finetune, refused flag": Row(
        ("fvv_lib.training", *WRONG), ("fvv_lib", "finetune", *WRONG), STARTS, fails=True
    ),
    "fvv memory --model 0.5b": Row(
        ("fvv_lib.memory", "--model", "0.5b"), ("fvv_lib", "memory", "--model", "0.5b"), WORKS
    ),
    # The old build requires a model here, although it does not use it.
    "fvv memory --presets": Row(
        ("fvv_lib.memory", "--model", "0.5b", "--presets", "True"),
        ("fvv_lib", "memory", "--presets"),
        WORKS,
        takes_minutes=True,
    ),
    "fvv convert": Row(("fvv_lib.convert", *CONVERT), ("fvv_lib", "convert", *CONVERT), WORKS),
    "fvv chat, one question": Row(("fvv_lib.chat", *CHAT), ("fvv_lib", "chat", *CHAT), WORKS),
}


class Run(NamedTuple):
    """The time, memory, exit code and output of one process."""

    seconds: float
    peak_mib: float
    code: int
    output: str
    errors: str


def run(source: Path, *arguments: str) -> Run:
    """Run Python in an empty folder, with the `fvv_lib` of `source`."""
    environment = environment_of(source)
    command = [sys.executable, "-IS", "-c", HELPER, sys.executable, *arguments]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
        seconds, peak_mib, code = (Path(folder) / "measured").read_text().split()
        weights = [path.read_bytes() for path in sorted(Path(folder).glob("converted/*.safetensors"))]
    printed = LOGGED.sub("", done.stdout)
    output = "\n".join([printed, *(hashlib.sha256(file).hexdigest() for file in weights)])
    return Run(float(seconds), float(peak_mib), int(code), output, done.stderr)


def compare(row: Row, sources: dict[str, Path], runs: int) -> dict[str, Any]:
    """Run both sides of a row in turn and return the comparison."""
    arguments = {"old": row.old, "ours": row.ours}
    measured: dict[str, list[Run]] = {side: [] for side in sources}
    warm_up = 0 if row.takes_minutes else 1
    if row.takes_minutes:
        runs = min(2, runs)
    for _ in range(warm_up + runs):
        for side, source in sources.items():
            done = run(source, "-m", *arguments[side])
            if bool(done.code) != row.fails:
                raise RuntimeError(f"{side}: {' '.join(arguments[side])} exited with {done.code}: {done.errors}")
            measured[side].append(done)
    record: dict[str, Any] = {"runs": runs}
    record |= {side: summary(arguments[side], measured[side][warm_up:]) for side in sources}
    record |= verdict(row.target, record["old"], record["ours"])
    if row.target is WORKS:
        record["both give the same"] = measured["old"][-1].output == measured["ours"][-1].output
    return record


def summary(arguments: tuple[str, ...], counted: list[Run]) -> dict[str, Any]:
    """Summarize the time and memory of the counted runs of one side."""
    return {
        "command": " ".join(["python -m", *arguments]).replace(str(SAMPLES), SAMPLES.name),
        "seconds, median": round(statistics.median(one.seconds for one in counted), 3),
        "seconds, fastest": round(min(one.seconds for one in counted), 3),
        "peak MiB": round(max(one.peak_mib for one in counted), 1),
    }


def verdict(target: Target, old: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Return the ratios of ours to the old build, and whether the target is reached."""
    ratios = {name: round(ours[name] / old[name], 3) for name in ours if name != "command"}
    wanted = {"ours / old, seconds": round(target.of_old_time, 3)}
    reached = ours["seconds, median"] <= target.of_old_time * old["seconds, median"]
    if target.peak_mib is not None:
        wanted["ours, peak MiB"] = round(target.peak_mib, 1)
        reached = reached and ours["peak MiB"] <= target.peak_mib
    return {"ours / old": ratios, "wanted, at most": wanted, "reached": reached}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help=f"a checkout of {OLD}; default: a temporary worktree")
    parser.add_argument("--runs", type=int, default=5, help="counted runs per side and row")
    parser.add_argument("--only", choices=ROWS, help="measure this row; writes nothing")
    settings = parser.parse_args()
    if importlib.util.find_spec("tyro") is None:
        sys.exit("The old build needs tyro: pip install tyro")
    rows = {}
    with old_build(settings.old) as old:
        sources = {"old": old, "ours": ROOT}
        for source in sources.values():
            check_source(source)
        nothing = run(ROOT, "-c", "pass")
        for name in [settings.only] if settings.only else ROWS:
            rows[name] = compare(ROWS[name], sources, settings.runs)
            print(name, "|", json.dumps({key: rows[name][key] for key in ("ours / old", "reached")}), flush=True)
    record = {
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "transformers", "tyro")},
        },
        "old": OLD,
        "Python alone": {"seconds": round(nothing.seconds, 3), "peak MiB": round(nothing.peak_mib, 1)},
        "rows": rows,
    }
    print(json.dumps(record, indent=2))
    if not settings.only:
        (ROOT / "benchmarks" / "results" / "start.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
