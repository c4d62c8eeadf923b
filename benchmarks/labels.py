"""Time the labels of long conversations, and measure the memory that checking many of them keeps. Ours against 0c0ac90.

    python benchmarks/labels.py     # about 5 minutes on 2 idle cores; writes benchmarks/results/labels.json

`preprocess` labels one conversation of 10 to 80 rounds, with the template of FastVLM and the tokenizer of the course.
The old build tokenizes the whole text again at each turn, so its time grows with the square of the rounds. Both sides
run in turn, each run in a new process with this interpreter and these packages. Both must return the same ids and
labels.

The second part labels many different conversations with `RememberingTokenizer`, as the check of a data set does. Its
memory is the growth of the process.
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
from pathlib import Path
from typing import Any

from old_build import OLD, ROOT, check_source, environment_of, old_build

TOKENIZER = ROOT / "data_samples" / "tiny-fastvlm"
ROUNDS, CHECKED, ROUNDS_CHECKED = (10, 20, 40, 80), 300, 20
TARGET = 20  # times faster than the old build, at the largest number of rounds
TOOLS = """
import hashlib, json, sys, time, fvv_lib
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])

def conversation(rounds, seed=0):
    turns = []
    for i in range(rounds):
        question = f"What does the {i + seed}. shape do, and what colour is it at the end of the video?"
        answer = f"It is a red square. It moves to the left for {i} seconds, then up, and it is {i % 7} times as large."
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return turns
"""
TIMES = """
found = {}
for rounds in map(int, sys.argv[2:]):
    turns, times = conversation(rounds), []
    both = fvv_lib.preprocess([turns], tokenizer)
    for _ in range(3):
        start = time.perf_counter()
        fvv_lib.preprocess([turns], tokenizer)
        times.append(time.perf_counter() - start)
    rows = [both[key][0].tolist() for key in ("input_ids", "labels")]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    found[rounds] = {"ms": 1000 * min(times), "tokens": len(rows[0]), "digest": digest}
print(json.dumps(found))
"""
MEMORY = """
import gc, os
from pathlib import Path
try:
    from fvv_lib.data.checking import RememberingTokenizer
except ImportError:
    from fvv_lib.tokens import RememberingTokenizer

def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

samples, rounds = map(int, sys.argv[2:])
remembering = RememberingTokenizer(tokenizer)
fvv_lib.preprocess([conversation(rounds, -1)], remembering)
before = resident()
for seed in range(samples):
    fvv_lib.preprocess([conversation(rounds, 1000 * seed)], remembering)
print(json.dumps(resident() - before))
"""


def run(source: Path, code: str, *arguments: Any) -> Any:
    """Run code in an empty folder with the `fvv_lib` of `source`, and return the JSON that it prints."""
    environment = environment_of(source)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure_times(sources: dict[str, Path], runs: int) -> list[dict[str, Any]]:
    """Measure both sides in turn and return a row for each number of rounds."""
    measured: dict[str, list[Any]] = {side: [] for side in sources}
    for _ in range(runs):
        for side, source in sources.items():
            measured[side].append(run(source, TOOLS + TIMES, TOKENIZER, *ROUNDS))
    rows = []
    for rounds in map(str, ROUNDS):
        digests = {one[rounds]["digest"] for side in sources for one in measured[side]}
        if len(digests) != 1:
            raise RuntimeError(f"{rounds} rounds: the two sides return different ids or labels.")
        old, ours = (statistics.median(one[rounds]["ms"] for one in measured[side]) for side in ("old", "ours"))
        row = {"rounds": int(rounds), "tokens": measured["ours"][0][rounds]["tokens"]}
        row |= {"old, ms": round(old, 1), "ours, ms": round(ours, 2), "old / ours": round(old / ours, 1)}
        rows.append(row)
        print(row, flush=True)
    return rows


def measure_memory(sources: dict[str, Path]) -> dict[str, Any]:
    held = {side: run(source, TOOLS + MEMORY, TOKENIZER, CHECKED, ROUNDS_CHECKED) for side, source in sources.items()}
    names = {f"{side}, MiB": round(size) for side, size in held.items()}
    return {"conversations": CHECKED, "rounds of each": ROUNDS_CHECKED, **names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help=f"a checkout of {OLD}; default: a temporary worktree")
    parser.add_argument("--runs", type=int, default=5, help="processes per side")
    settings = parser.parse_args()
    with old_build(settings.old) as old:
        sources = {"old": old, "ours": ROOT}
        for source in sources.values():
            check_source(source)
        rows = measure_times(sources, settings.runs)
        memory = measure_memory(sources)
    record = {
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "transformers", "tokenizers")},
        },
        "old": OLD,
        "processes of each side": settings.runs,
        "preprocess, best of 3 in each process, median of processes": rows,
        "wanted, old / ours at the most rounds": TARGET,
        "reached": rows[-1]["old / ours"] >= TARGET,
        "memory held after labelling through RememberingTokenizer": memory,
    }
    print(json.dumps(record, indent=2))
    (ROOT / "benchmarks" / "results" / "labels.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
