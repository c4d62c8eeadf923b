"""The training command on several CPU ranks of this machine, to see what they do.                         Lesson 9

A rank is a process that finds five variables in its environment: which one it is, how many there are, and where they
meet. `torchrun`, which scripts/finetune_video.sh uses, sets the same on real machines. This module knows nothing about
models.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fvv_lib.errors import FvvError

TRAIN = "import sys; sys.argv.insert(1, 'finetune'); from fvv_lib.__main__ import command; command()"
QUIET = {"use_cpu": True, "disable_tqdm": True, "report_to": "none"}
TAIL = 2000  # characters of a failed rank's output that its error quotes


def train_on_ranks(
    settings: Mapping[str, Any], ranks: int = 1, code: str = TRAIN, seconds: float = 300.0
) -> dict[str, Any]:
    """Train on CPU ranks, each in a process of its own; nothing of what they print is shown.

    Args:
        settings: flags of `fvv finetune` by name, with an `output_dir`; a list gives a flag several values.
        code: Python that each rank runs. Pass your own to study a failure.
        seconds: that the ranks may take together, their start included.

    Returns:
        What the run wrote to `metrics.json`.

    Raises:
        FvvError: a rank failed, or they took too long. No rank outlives the call.

    Lesson: 09.
    """
    parts = {name: value if isinstance(value, list) else [value] for name, value in {**QUIET, **settings}.items()}
    flags = [str(part) for name, values in parts.items() for part in (f"--{name}", *values)]
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / f"rank{rank}.log" for rank in range(ranks)]
        command = [sys.executable, "-c", code, *flags]
        started: list[subprocess.Popen] = []
        try:
            for rank, log in enumerate(logs):
                started.append(_start(command, rank, port, log, ranks))
            _wait(started, logs, seconds)
        finally:
            for process in started:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # its DataLoader's workers too
                process.wait()
    return json.loads((Path(settings["output_dir"]) / "metrics.json").read_text())


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _start(command: list[str], rank: int, port: int, log: Path, ranks: int) -> subprocess.Popen:
    """One rank, with what it prints in its log."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",  # DeepSpeed looks for ninja
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "MPLBACKEND": "agg",
    }
    if ranks > 1:
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with open(log, "wb") as output:
        return subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


def _wait(started: list[subprocess.Popen], logs: list[Path], seconds: float) -> None:
    """Wait until all ranks end. If one fails, stop waiting: the others may block on it."""
    end = time.monotonic() + seconds
    while (codes := [process.poll() for process in started]) != [0] * len(started):
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed:
            said = [
                f"rank {rank} of {len(codes)} failed with exit code {codes[rank]}; the end of what it said:\n"
                f"{logs[rank].read_text(errors='replace')[-TAIL:]}"
                for rank in failed
            ]
            raise FvvError("\n".join(said))
        if time.monotonic() > end:
            late = [rank for rank, code in enumerate(codes) if code is None]
            raise FvvError(
                f"After {seconds:g} seconds ranks {late} of {len(codes)} have not ended. Give them more seconds, or "
                "look for what one of them does and another does not: then they wait for each other."
            )
        time.sleep(0.05)
