"""What a run was: enough to say later what gave a result, and to run it again.                            Lesson 6

`metrics.json` holds settings, versions, commit, hardware, samples used and left out, speed, memory and the log of a
run; figures are drawn from it. This module trains nothing.
"""

import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fvv_lib.arguments import DataArguments, ModelArguments, TrainingArguments
from fvv_lib.dataset import LazySupervisedDataset
from fvv_lib.errors import CheckpointError
from fvv_lib.tokens import IMAGE_TOKEN_INDEX

RECORD = "metrics.json"
PACKAGES = ("fvv_lib", "torch", "transformers", "timm", "accelerate", "peft", "deepspeed", "av", "numpy")
# Settings without which a run that has ended is another run.
COMPARED = (
    *("model_name_or_path", "tunable_parts", "lora_rank", "lora_alpha", "lora_dropout", "data_path", "bad_samples"),
    *("num_video_frames", "frame_sampling", "time_marks", "frame_pool", "image_aspect_ratio", "version", "mismatch"),
    *("max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "seed"),
    *("learning_rate", "vision_tower_lr", "projector_lr", "lr_scheduler_type", "warmup_steps", "weight_decay"),
)


def versions() -> dict[str, str]:
    """Of Python and of the packages that bear on a result, where they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit(folder: Path) -> str | None:
    """The commit of the repository that a folder is in, with "+" where files differ from it; None outside of one."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    return commit and commit + "+" * bool(git("status", "--porcelain", "--untracked-files=no"))


def hardware() -> dict[str, Any]:
    """Cores and memory of this machine, and its GPUs by name."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"machine": platform.machine(), "cores": os.cpu_count(), "memory_gib": round(gib, 1), "gpus": gpus}


def peak_memory_gib() -> float:
    """The most that this process has held so far: on its GPU, or where it has none, resident in memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says may be the peak of the parent
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


class Counter:
    """How much went through a run: samples, frames, and tokens with each frame counted as what the model makes of it.

    Args:
        tokens_per_frame: of the model.
    """

    def __init__(self, tokens_per_frame: int):
        self.tokens_per_frame = tokens_per_frame
        self.samples = self.frames = self.tokens = 0

    def add(self, batches: Iterable[dict[str, Any]]) -> None:
        """Count batches of the collator, still on the CPU."""
        for batch in batches:
            frames = int((batch["input_ids"] == IMAGE_TOKEN_INDEX).sum())
            self.samples += len(batch["input_ids"])
            self.frames += frames
            self.tokens += int(batch["attention_mask"].sum()) + frames * (self.tokens_per_frame - 1)

    def per_second(self, seconds: float, processes: int) -> dict[str, float]:
        """Of all processes together, from what one of them counted."""
        counts = {"samples": self.samples, "frames": self.frames, "tokens": self.tokens}
        return {f"{name}_per_second": round(processes * count / seconds, 2) for name, count in counts.items()}


def describe_run(counter: Counter, seconds: float, processes: int) -> dict[str, Any]:
    """What `metrics.json` has beside results and settings: where the run was, and how fast."""
    return {
        "versions": versions(),
        "git_commit": git_commit(Path(__file__).parent),
        "hardware": {**hardware(), "processes": processes},
        "speed": counter.per_second(seconds, processes),
        "peak_memory_gib": round(peak_memory_gib(), 2),
    }


def count_samples(dataset: LazySupervisedDataset) -> dict[str, Any]:
    """How many samples were used, and which were not and why."""
    bad = {name: str(error) for name, error in dataset.bad.items()}
    return {"used": len(dataset), "dropped": dataset.dropped, "bad": bad}


def write_record(folder: Path, metrics: dict[str, Any]) -> None:
    """`loss.png` and `metrics.json`."""
    from matplotlib import pyplot

    from fvv_lib.plotting import plot_loss

    figure = plot_loss(metrics["log"])
    figure.savefig(folder / "loss.png")
    pyplot.close(figure)
    aside = folder / f"{RECORD}.unfinished"
    aside.write_text(json.dumps(metrics, indent=2, default=str) + "\n")
    aside.replace(folder / RECORD)  # the last thing that a run does: where it is, the run has ended


def describe_settings(
    model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments
) -> dict[str, dict[str, Any]]:
    """All settings, as they are in `metrics.json`."""
    training = training_args.to_sanitized_dict()
    settings = {"model": asdict(model_args), "data": asdict(data_args), "training": training}
    plain: dict[str, dict[str, Any]] = json.loads(json.dumps(settings, default=str))
    return plain


def find_finished(folder: Path, settings: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The record of a run that is started again after its end; None while there is something left to do.

    Raises:
        CheckpointError: it has ended, and with other settings than these.
    """
    file = folder / RECORD
    if not file.is_file():
        return None
    record: dict[str, Any] = json.loads(file.read_text())
    before, now = ({**s["model"], **s["data"], **s["training"]} for s in (record["arguments"], settings))
    other = [name for name in COMPARED if before.get(name) != now[name]]
    if {"max_steps", "num_train_epochs"} & {*other}:  # it goes on, or ResumableTrainer says that it can not
        return None
    if other:
        raise CheckpointError(
            f"{folder}: the run there has ended, and had another {', '.join(other)}. Take another output_dir for this "
            "one, or set that back to see its result again."
        )
    return record


def format_table(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Accuracy per kind of question on the test split, before and after."""
    lines = [f"{'kind':<12}{'questions':>10}{'before':>10}{'after':>10}"]
    for kind, row in after.items():
        lines.append(f"{kind:<12}{row['total']:>10}{before[kind]['accuracy']:>10.1%}{row['accuracy']:>10.1%}")
    return "\n".join(lines)
