"""How long do all tests and notebooks take? Compare the old build (0c0ac90) with ours, each in a fresh clone.

    git clone . /tmp/old && git -C /tmp/old checkout 0c0ac90 && make -C /tmp/old .venv/.ready
    git clone . /tmp/new && make -C /tmp/new .venv/.ready
    python benchmarks/tests.py /tmp/old /tmp/new --logs /tmp/logs

Each side runs the commands of its own `make test`, one after the other, on an otherwise idle machine. Their output is
kept in the folder of logs. With `--no-run`, only the logs are read. The seconds are those that pytest reports.
"""

import argparse
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "tests.json"
SLOWEST = 30


def commands_of(checkout: Path) -> list[str]:
    """Return the commands of `make test` in a checkout, without the set-up, which must be done before."""
    shown = subprocess.run(["make", "-n", "test"], cwd=checkout, capture_output=True, text=True, check=True).stdout
    return [line for line in shown.splitlines() if "pytest" in line]


def commit_of(checkout: Path) -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()


def run(checkout: Path, logs: Path, side: str) -> None:
    """Run the tests of a checkout and stop at the first failure."""
    environment = {**os.environ, "PYTEST_ADDOPTS": f"--durations={2 * SLOWEST} --durations-min=0.5"}
    for number, command in enumerate(commands_of(checkout)):
        with open(logs / f"{side}-{number}.log", "w") as log:
            subprocess.run(command, shell=True, cwd=checkout, env=environment, stdout=log, stderr=log, check=True)


def read(logs: Path, side: str) -> dict[str, Any]:
    """Read the seconds, the number of passed tests and the slowest tests from the logs of one side."""
    seconds, passed, slowest = 0.0, 0, []
    for log in sorted(logs.glob(f"{side}-*.log")):
        text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
        summary = re.findall(r"=+ (.*) in ([\d.]+)s(?: \([\d:]+\))? =+", text)[-1]
        if "failed" in summary[0] or "error" in summary[0]:
            raise SystemExit(f"{log}: {summary[0]}")
        passed += int(re.search(r"(\d+) passed", summary[0])[1])
        seconds += float(summary[1])
        slowest += re.findall(r"^([\d.]+)s (call|setup|teardown) +(\S.*)$", text, re.M)
    slowest.sort(key=lambda row: -float(row[0]))
    rows = [f"{float(time):.1f} s {name} ({phase})" for time, phase, name in slowest[:SLOWEST]]
    return {"seconds": round(seconds), "passed": passed, "slowest": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--no-run", action="store_true")
    arguments = parser.parse_args()
    arguments.logs.mkdir(parents=True, exist_ok=True)
    if not arguments.no_run:
        for side in ("old", "new"):
            run(getattr(arguments, side), arguments.logs, side)
    old, new = read(arguments.logs, "old"), read(arguments.logs, "new")
    record = {
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "new / old": round(new["seconds"] / old["seconds"], 3),
        "old": {"build": commit_of(arguments.old), "commands": commands_of(arguments.old), **old},
        "new": {"build": commit_of(arguments.new), "commands": commands_of(arguments.new), **new},
    }
    RESULT.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps({**record, "old": old["seconds"], "new": new["seconds"]}, indent=2))


if __name__ == "__main__":
    main()
