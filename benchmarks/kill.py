"""Does a run that is killed 20 times with SIGKILL end with the same weights as an uninterrupted run?

    python benchmarks/kill.py           # Linux; about 8 minutes on 2 cores; writes benchmarks/results/kill.json

The tiny base is trained on samples of the course, with a checkpoint after every step. Every second kill comes at a
random moment after the first step since the last start. The others come while a checkpoint is being written. After each
kill the same command is started again.
"""

import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
KILLS, LIMIT = 20, 1200  # LIMIT: seconds for one run; the machine may be busy


def command(data: Path, output: Path, steps: int) -> list[str]:
    settings = {
        "model_name_or_path": ROOT / "data_samples" / "tiny-fastvlm",
        "data_path": data,
        "image_folder": ROOT / "data_samples",
        "output_dir": output,
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "save_steps": 1,
        "save_total_limit": 2,
        "frame_sampling": "random",
        "dataloader_num_workers": 0,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "check_media": False,
        "resume_from_checkpoint": True,
    }
    flags = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    return [sys.executable, "-m", "fvv_lib", "finetune", *flags]


def start(arguments: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(arguments, env=environment, start_new_session=True, **quiet)


def finish(arguments: list[str]) -> None:
    if start(arguments).wait(LIMIT):
        raise RuntimeError("a run failed without being killed")


def checkpoints(output: Path) -> set[str]:
    return {path.name for path in output.glob("checkpoint-*")}


def kill_once(arguments: list[str], output: Path, saving: bool, rng: random.Random) -> dict:
    """Start the run, kill it after at least one new step, and return what it left behind."""
    there = checkpoints(output)
    process = start(arguments)
    end = time.monotonic() + LIMIT
    while checkpoints(output) <= there and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    if not saving:
        time.sleep(rng.uniform(0, 0.5))
    while saving and not list(output.glob("_unfinished/checkpoint-*")) and process.poll() is None:
        time.sleep(0.001)
    killed = process.poll() is None
    os.killpg(process.pid, signal.SIGKILL) if killed else None
    process.wait()
    unfinished = bool(list(output.glob("_unfinished/checkpoint-*")))
    return {"killed": killed, "in a save": unfinished, "checkpoints": sorted(checkpoints(output))}


def measure(folder: Path, kills: int, steps: int) -> dict:
    samples = json.loads((ROOT / "data_samples" / "train.json").read_text())[:24]
    data = folder / "data.json"
    data.write_text(json.dumps(samples))
    rng = random.Random(0)
    finish(command(data, folder / "whole", steps))
    broken = command(data, folder / "broken", steps)
    deaths = [kill_once(broken, folder / "broken", number % 2 == 1, rng) for number in range(kills)]
    finish(broken)
    one, other = (load_file(folder / name / "model.safetensors") for name in ("whole", "broken"))
    difference = max(float((one[name] - other[name]).abs().max()) for name in one)
    return {"steps": steps, "kills": deaths, "largest difference of a weight": difference}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), KILLS, 6 * KILLS)
    record = {
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        **result,
    }
    print(json.dumps(record, indent=2))
    (ROOT / "benchmarks" / "results" / "kill.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
