"""Describe a run: enough to trace a result to its origin, and to run it again.                            Lesson 6

`metrics.json` holds settings, versions, commit, hardware, samples used and left out, speed, memory and the log of a
run. Figures are drawn from it. This module trains nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fvv_lib.data.report import count_samples
from fvv_lib.errors import CheckpointError
from fvv_lib.evaluation.scoring import percent
from fvv_lib.evaluation.summary import UNLIKELY
from fvv_lib.files import shown
from fvv_lib.finetuning.comparing import Identity, check_same_run, identify, length_change
from fvv_lib.finetuning.output import ANSWERS, RECORD, written_files
from fvv_lib.finetuning.preparing import OpenedData
from fvv_lib.finetuning.resume import sync
from fvv_lib.finetuning.trainer import Counter, VideoTrainer
from fvv_lib.model.parts import count_parameters
from fvv_lib.provenance import PACKAGE, git_commit, hardware, peak_memory_gib, versions


def describe_run(
    model: torch.nn.Module,
    data: OpenedData,
    settings: dict[str, dict[str, Any]],
    identity: Identity,
    trainer: VideoTrainer,
    counter: Counter,
    result: dict[str, float],
) -> dict[str, Any]:
    """Return the content of `metrics.json` except the accuracy: parts, data, settings, hardware and speed.

    Args:
        result: the metrics that `Trainer.train` returns.
    """
    processes = trainer.args.world_size
    return {
        "train": result,
        "parameters": {
            part: {"trained": trained, "all": total} for part, (trained, total) in count_parameters(model).items()
        },
        "features": data.features,
        "samples": {name: count_samples(dataset) for name, dataset in data.samples.items()},
        "arguments": shown(settings),
        "identity": identity,
        "frame": asdict(data.samples["train"].frame_spec),
        "versions": versions(),
        "git_commit": git_commit(PACKAGE),
        "hardware": {**hardware(), "processes": processes},
        "speed": counter.per_second(result["train_runtime"], processes),
        "peak_memory_gib": round(peak_memory_gib(), 2),
        "log": trainer.state.log_history,
    }


def write_record(folder: Path, metrics: dict[str, Any], answers: Sequence[dict[str, Any]]) -> None:
    """Write `loss.png`, `answers.jsonl` and `metrics.json`. The last one appears only after the model beside it is on
    the disk.

    Args:
        answers: to the test questions, before and after training.
    """
    from matplotlib import pyplot

    from fvv_lib.plotting import plot_loss

    figure = plot_loss(metrics["log"])
    figure.savefig(folder / "loss.png")
    pyplot.close(figure)
    if answers:
        (folder / ANSWERS).write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    aside = folder / f"{RECORD}.unfinished"
    aside.write_text(json.dumps(metrics, indent=2, default=str) + "\n")
    for path in written_files(folder):  # other files may not be readable
        sync(path)
    sync(folder)
    aside.replace(folder / RECORD)  # written last: if it exists, the run has finished


def find_finished(folder: Path, identity: Identity) -> dict[str, Any] | None:
    """Return the record of a finished run that is started again; None if there is something left to train.

    Raises:
        CheckpointError: the finished run is another one, see `comparing`; or its record cannot be read.
    """
    file = folder / RECORD
    if not file.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(file.read_text())
        before = record.get("identity") or _identity_of_old(record)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file}: not the record of a run ({error}). Move it away to continue training."
        ) from error
    check_same_run(f"{folder} (a finished run)", before, identity)
    return record if length_change(before, identity) == "same" else None


def _identity_of_old(record: dict[str, Any]) -> Identity:
    """Return the identity of a run from the settings in a record of an earlier build."""
    return identify(record["arguments"], record.get("hardware", {}).get("processes"), read=False)


def format_kept(kept: dict[str, Any]) -> str:
    """Say whether the accuracy on the questions to keep fell, and whether this is more than chance."""
    if kept["difference"] <= 0:
        return "The accuracy on the questions to keep did not fall."
    says = "This is more than chance: training makes the model forget"
    if kept["p"] >= UNLIKELY:
        says = "This may be chance: more questions would tell"
    return (
        f"The accuracy on the questions to keep fell by {percent(kept['difference'], 1)} (p = {kept['p']:.3f}, exact "
        f"paired test over {kept['videos']} images and videos). {says}."
    )


def format_table(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Format a table of the accuracy for each kind of test question, before and after training."""
    width = max(12, *(len(kind) + 2 for kind in after))
    lines = [f"{'kind':<{width}}{'questions':>10}{'before':>10}{'after':>10}"]
    for kind, row in after.items():
        shares = [percent(answered[kind]["accuracy"], 1) for answered in (before, after)]
        lines.append(f"{kind:<{width}}{row['total']:>10}{shares[0]:>10}{shares[1]:>10}")
    return "\n".join(lines)
