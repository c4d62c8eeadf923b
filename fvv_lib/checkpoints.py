"""Stop anywhere and go on: checkpoints that are whole or not there, and an end on SIGTERM.                 Lesson 6

A checkpoint is written to a folder beside its place and moved there when every process has written its part: whatever
kills the run, each `checkpoint-N` can be loaded. SIGTERM, which schedulers send before they take the machine away, ends
training after the present step with a checkpoint. This module knows nothing about videos or models.
"""

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import get_last_checkpoint, sort_checkpoints

from fvv_lib.errors import CheckpointError

TRAINER_STATE = "trainer_state.json"
TRAINED = "trained_parameters.json"
UNFINISHED = "_unfinished"  # folder in output_dir for what is being written, or deleted
STOPPED = 128 + signal.SIGTERM  # exit code of a run that SIGTERM ended: not 0, because it has not finished


def find_checkpoint(resume: str | bool | None, output_dir: str | Path) -> str | None:
    """The checkpoint that a run begins with, None for a fresh start.

    Args:
        resume: a checkpoint's folder; True (or "true"): the last one of `output_dir`, and a fresh start where there is
            none, so that a job that is started again and again needs one command; None or False: a fresh start.

    Raises:
        CheckpointError: the folder is not a checkpoint that training can go on from.

    Lesson: 06.
    """
    if str(resume).lower() in ("none", "false"):
        return None
    if str(resume).lower() == "true":
        return get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
    if not (Path(str(resume)) / TRAINER_STATE).is_file():
        raise CheckpointError(
            f"{resume}: no checkpoint of a training run (it has no {TRAINER_STATE}). Give a checkpoint-N folder, or "
            "--resume_from_checkpoint True for the last one of output_dir."
        )
    return str(resume)


def remove_unfinished(output_dir: str | Path) -> None:
    """Delete what a killed run was writing or deleting. Call it on one process, while none is saving."""
    shutil.rmtree(Path(output_dir) / UNFINISHED, ignore_errors=True)


class _Stop(TrainerCallback):
    """Ends training after a step if any process was asked to, on all of them, with a checkpoint."""

    def __init__(self, trainer: "ResumableTrainer"):
        self.trainer = trainer

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer = self.trainer
        asked = torch.tensor(int(trainer.stop_asked), device=args.device)
        if trainer.accelerator.reduce(asked, reduction="sum").item():
            trainer.stopped = control.should_save = control.should_training_stop = True


class ResumableTrainer(Trainer):
    """transformers' Trainer that can be killed at any moment, and that ends well on SIGTERM.

    Attributes:
        stopped: SIGTERM ended `train`; the last checkpoint is of the step it ended at.

    Differs from transformers, whose checkpoints grow in their place, and whose `enable_jit_checkpoint` does not ask the
    other processes: each would save at a step of its own. Lesson: 06.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self.stop_asked = self.stopped = self._saving = False
        self._training = torch.zeros((), dtype=torch.bool).share_memory_()  # workers see it change
        super().__init__(*args, **kwargs)
        self.add_callback(_Stop(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """As transformers' `train`; what to go on from: see `find_checkpoint`.

        Raises:
            CheckpointError: the checkpoint is of a run that trained other parameters.
        """

        def ask(*_: Any) -> None:
            self.stop_asked = True

        checkpoint = find_checkpoint(resume_from_checkpoint, str(self.args.output_dir))
        if checkpoint is not None:
            self._check_trained(Path(checkpoint))
        before = signal.signal(signal.SIGTERM, ask)
        self._training.fill_(True)
        try:
            return super().train(checkpoint, **kwargs)
        finally:
            self._training.fill_(False)
            signal.signal(signal.SIGTERM, before)

    def _trained(self) -> dict[str, list[int]]:
        """Names and shapes of what is trained; ZeRO-3 keeps the shape of a whole parameter beside its share."""
        named = self.model.named_parameters()
        return {name: list(getattr(p, "ds_shape", p.shape)) for name, p in named if p.requires_grad}

    def _check_trained(self, checkpoint: Path) -> None:
        file = checkpoint / TRAINED
        if not file.exists():  # written by another program
            return
        before, now = json.loads(file.read_text()), self._trained()
        if before != now:
            other = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
            raise CheckpointError(
                f"{checkpoint}: that run trained other parameters than this one; {len(other)} differ, the first is "
                f"{other[0]}. Go on with its --tunable_parts, --lora_rank and base, or begin anew in a new output_dir."
            )

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        loader = super()._get_dataloader(*args, **kwargs)
        init = partial(_outlive_sigterm, self._training, loader.worker_init_fn)
        for part in (loader, getattr(loader, "base_dataloader", loader)):  # accelerate's wrapping, and torch's in it
            part.worker_init_fn = init
        return loader

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / UNFINISHED) if self._saving else folder

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        aside = folder / UNFINISHED / name
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving = False
        best = self.state.best_model_checkpoint
        if best is not None and Path(best) == aside:
            self.state.best_model_checkpoint = str(folder / name)
            if self.args.should_save:
                self.state.save_to_json(str(aside / TRAINER_STATE))
        self.accelerator.wait_for_everyone()  # each process writes a part
        if self.args.should_save:
            (aside / TRAINED).write_text(json.dumps(self._trained(), indent=0) + "\n")
            _delete(folder / name)  # an earlier run's
            aside.rename(folder / name)
            self._delete_old_checkpoints(folder)
            remove_unfinished(folder)
        self.accelerator.wait_for_everyone()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Weights that are one and the same are saved once: the other name is not missing."""
        tied = getattr(self.model, "all_tied_weights_keys", {})
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def _delete_old_checkpoints(self, folder: Path) -> None:
        """Keep `save_total_limit` checkpoints, the newest and the best among them."""
        if not self.args.save_total_limit:
            return
        checkpoints = sort_checkpoints(str(folder), use_mtime=True)  # oldest first
        best = self.state.best_model_checkpoint
        kept = {checkpoints[-1], *([str(Path(best))] if best else [])}
        surplus = len(checkpoints) - max(self.args.save_total_limit, len(kept))
        for path in [path for path in checkpoints if path not in kept][: max(surplus, 0)]:
            _delete(Path(path))


def _delete(checkpoint: Path) -> None:
    """Delete a checkpoint so that no half of it is ever in its place."""
    if checkpoint.exists():
        aside = checkpoint.parent / UNFINISHED / f"deleted-{checkpoint.name}"
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)
        shutil.rmtree(aside)


def _outlive_sigterm(training: torch.Tensor, init: Any, worker: int) -> None:
    """A scheduler signals every process of a job; the step that the main process still finishes needs its workers."""

    def leave(*_: Any) -> None:
        if not training:
            os._exit(0)  # the main process ends, and waits for us

    signal.signal(signal.SIGTERM, leave)
    if init is not None:
        init(worker)
