"""Does the tiny FastVLM learn what no single frame shows? Three seeds with 8 frames, and one run with 1 frame.

    python benchmarks/motion.py            # about 25 minutes on 2 CPU cores; writes benchmarks/results/motion.json

Each run is `scripts/finetune_video.sh` in a new process, and the results come from its `metrics.json`. The README
quotes them.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
RUNS = [{"seed": 42, "frames": 8}, {"seed": 1, "frames": 8}, {"seed": 2, "frames": 8}, {"seed": 42, "frames": 1}]


def run(seed: int, frames: int) -> dict:
    """Run one fine-tuning and return its accuracies and training time."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--output_dir", folder, "--seed", str(seed), "--num_video_frames", str(frames)]
        quiet = ["--disable_tqdm", "True", "--save_strategy", "no", "--report_to", "none"]
        command = ["bash", str(ROOT / "scripts" / "finetune_video.sh"), *flags, *quiet]
        subprocess.run(command, check=True, env={**os.environ, "PYTHON": sys.executable}, stdout=subprocess.DEVNULL)
        metrics = json.loads((Path(folder) / "metrics.json").read_text())
    accuracy = {when: {kind: row["accuracy"] for kind, row in metrics[when].items()} for when in ("before", "after")}
    questions = {kind: row["total"] for kind, row in metrics["after"].items()}
    return {
        "seed": seed,
        "frames": frames,
        "questions": questions,
        **accuracy,
        "train_seconds": round(metrics["train"]["train_runtime"], 1),
        "steps": metrics["arguments"]["training"]["max_steps"],
    }


def main() -> None:
    target = ROOT / "benchmarks" / "results" / "motion.json"
    target.parent.mkdir(exist_ok=True)
    results = []
    for settings in RUNS:
        results.append(run(**settings))
        print(results[-1], flush=True)
    record = {
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "runs": results,
    }
    target.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
