"""What a run was: enough to say later what gave a result, and to run it again.                            Lesson 6

`metrics.json` holds settings, versions, commit, hardware, samples used and left out, speed, memory and the log of a
run; figures are drawn from it. This module trains nothing.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fvv_lib.arguments import TrainingArguments
from fvv_lib.data.report import count_samples
from fvv_lib.errors import CheckpointError
from fvv_lib.finetuning.preparing import OpenedData
from fvv_lib.finetuning.trainer import Counter, VideoTrainer
from fvv_lib.model.parts import count_parameters
from fvv_lib.provenance import PACKAGE, git_commit, hardware, peak_memory_gib, versions
from fvv_lib.settings import DataArguments, ModelArguments

RECORD = "metrics.json"

# Settings without which a run that has ended is another run.
COMPARED = (
    *("model_name_or_path", "tunable_parts", "lora_rank", "lora_alpha", "lora_dropout", "data_path", "bad_samples"),
    *("num_video_frames", "frame_sampling", "time_marks", "frame_pool", "image_aspect_ratio", "version", "mismatch"),
    *("max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "seed"),
    *("learning_rate", "vision_tower_lr", "projector_lr", "lr_scheduler_type", "warmup_steps", "weight_decay"),
)


def describe_run(
    model: torch.nn.Module,
    data: OpenedData,
    settings: dict[str, dict[str, Any]],
    trainer: VideoTrainer,
    counter: Counter,
    result: dict[str, float],
) -> dict[str, Any]:
    """All that `metrics.json` has beside the accuracy: what was trained on what, with which settings, where, and how
    fast.

    Args:
        result: what `Trainer.train` says of itself.
    """
    processes = trainer.args.world_size
    return {
        "train": result,
        "parameters": {
            part: {"trained": trained, "all": total} for part, (trained, total) in count_parameters(model).items()
        },
        "features": data.features,
        "samples": {name: count_samples(dataset) for name, dataset in data.samples.items()},
        "arguments": settings,
        "frame": asdict(data.samples["train"].frame_spec),
        "versions": versions(),
        "git_commit": git_commit(PACKAGE),
        "hardware": {**hardware(), "processes": processes},
        "speed": counter.per_second(result["train_runtime"], processes),
        "peak_memory_gib": round(peak_memory_gib(), 2),
        "log": trainer.state.log_history,
    }


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
    if {"max_steps", "num_train_epochs"} & {*other}:  # it goes on, or ResumableTrainer says that it cannot
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
