"""Stop anywhere and go on: checkpoints that are whole or not there, and an end on SIGTERM.                 Lesson 6

A checkpoint is written to a folder beside its place and moved there when every process has written its part and the
disk has it: whatever kills the run or the machine, each `checkpoint-N` can be loaded. SIGTERM, which schedulers send
before they take the machine away, ends training after the present step with a checkpoint. This module knows nothing
about videos or models.
"""

import json
import os
import re
import shutil
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import get_last_checkpoint

from fvv_lib.errors import CheckpointError
from fvv_lib.private_api import full_shape, tied_weights, torch_loader

TRAINER_STATE = "trainer_state.json"
TRAINED = "trained_parameters.json"
IDENTITY = "run_identity.json"  # what another start must have in common with this run, see `comparing`
OPTIMIZER_STATES = ("scheduler.pt", "latest")  # the Trainer's, DeepSpeed's
UNFINISHED = "_unfinished"  # folder in output_dir for what is being written, or deleted
STOPPED = 128 + signal.SIGTERM  # exit code of a run that SIGTERM ended: not 0, because it has not finished


def find_checkpoint(resume: str | bool | None, output_dir: str | Path) -> str | None:
    """The checkpoint that a run begins with, None for a fresh start.

    Args:
        resume: a checkpoint's folder; True (or "true"): the last one of `output_dir`, and a fresh start where there is
            none, so that a job that is started again and again needs one command; None or False: a fresh start.

    Raises:
        CheckpointError: the folder is not a checkpoint that training can go on from, or `output_dir` has others: of
            later steps, or of another run. A later start would take them for this run's.

    Lesson: 06.
    """
    last = get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
    resume = last if resumes_last(resume) else resume
    start = None if str(resume).lower() in ("none", "false") else str(resume)
    begin = 0
    if start is not None:
        _check_whole(Path(start))
        if Path(start).resolve().parent == Path(output_dir).resolve():
            begin = int(json.loads((Path(start) / TRAINER_STATE).read_text())["global_step"])
    if last is not None and begin < _step_in_name(Path(last)):
        raise CheckpointError(
            f"{last}: a later start would take it for this run's. Go on from it (resume_from_checkpoint=True, on the "
            "command line --resume_from_checkpoint True), delete it, or take another output_dir."
        )
    return start


def resumes_last(resume: str | bool | None) -> bool:
    """Whether a run shall go on from the last checkpoint of its `output_dir`, if there is one."""
    return str(resume).lower() == "true"


def _check_whole(checkpoint: Path) -> None:
    if not (checkpoint / TRAINER_STATE).is_file():
        raise CheckpointError(
            f"{checkpoint}: no checkpoint of a training run (it has no {TRAINER_STATE}). Give a checkpoint-N folder, "
            "or --resume_from_checkpoint True for the last one of output_dir."
        )
    if not any((checkpoint / name).exists() for name in OPTIMIZER_STATES):
        raise CheckpointError(
            f"{checkpoint}: it was saved without the state of the optimizer (save_only_model), so a run cannot go on "
            "from it. Begin anew from its weights with --model_name_or_path and another output_dir."
        )


def _step_in_name(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def remove_unfinished(output_dir: str | Path) -> None:
    """Delete what a killed run was writing or deleting. Call it on one process, while none is saving."""
    shutil.rmtree(Path(output_dir) / UNFINISHED, ignore_errors=True)


def read_identity(checkpoint: str | Path) -> dict[str, Any]:
    """What a checkpoint says of its run; empty for one of an earlier build, or of another program."""
    file = Path(checkpoint) / IDENTITY
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def sync_to_disk(folder: Path, deep: bool = False) -> None:
    """Wait until the disk has the files of a folder, and their names; with `deep` those of folders in it too. Without
    it, a machine that loses power may show a name and no content."""
    for path in folder.iterdir():
        if path.is_file():
            _sync(path)
        elif deep and path.is_dir():
            sync_to_disk(path, deep)
    _sync(folder)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


class _Stop(TrainerCallback):
    """Ends training after a step if any process was asked to, on all of them, with one checkpoint and nothing else: an
    evaluation that is due then is left out."""

    def __init__(self, trainer: "ResumableTrainer"):
        self.trainer = trainer

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer = self.trainer
        asked = torch.tensor(int(trainer.stop_asked), device=args.device)
        if trainer.accelerator.reduce(asked, reduction="sum").item():
            trainer.stopped = control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.trainer.stopped:
            control.should_save = control.should_evaluate = False

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step > state.max_steps:
            raise CheckpointError(
                f"The checkpoint has {state.global_step} steps, and this run shall have {state.max_steps}: raise "
                "max_steps or num_train_epochs, or go on from an earlier checkpoint in another output_dir."
            )


class ResumableTrainer(Trainer):
    """transformers' Trainer that can be killed at any moment, and that ends well on SIGTERM.

    Args:
        identity: is written to each checkpoint, for `read_identity`. The others are the Trainer's own.

    Attributes:
        stopped: SIGTERM ended `train`; the last checkpoint is of the step it ended at. In a thread that is not the main
            one, Python lets nobody handle signals: there SIGTERM does what it did before.

    Differs from transformers, whose checkpoints grow in their place, and whose `enable_jit_checkpoint` does not ask the
    other processes: each would save at a step of its own. Lesson: 06.
    """

    def __init__(self, *args: Any, identity: dict[str, Any] | None = None, **kwargs: Any):
        self.identity = identity
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
        in_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, ask) if in_main else None
        self._training.fill_(in_main)
        try:
            return super().train(checkpoint, **kwargs)
        finally:
            self._training.fill_(False)
            if in_main:
                signal.signal(signal.SIGTERM, before or signal.SIG_DFL)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Not a step too many: resumed at its end, transformers trains on until it looks (up to 5.23)."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """Without transformers' last deletion, which takes the newest checkpoint where `save_total_limit` is 1 and
        another is the best, and does not set it aside first; and a stopped run has no use for its best weights."""
        kept = self.args.save_total_limit, self.args.load_best_model_at_end
        self.args.save_total_limit, self.args.load_best_model_at_end = None, kept[1] and not self.stopped
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit, self.args.load_best_model_at_end = kept

    def _trained(self) -> dict[str, list[int]]:
        """Names and shapes of what is trained; ZeRO-3 keeps the shape of a whole parameter beside its share."""
        named = self.model.named_parameters()
        return {name: list(full_shape(p)) for name, p in named if p.requires_grad}

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
        for part in (loader, torch_loader(loader)):  # accelerate's wrapping, and torch's in it
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
            if self.identity is not None:
                (aside / IDENTITY).write_text(json.dumps(self.identity, indent=2) + "\n")
        if self.is_local_process_zero():  # a disk that machines share has what each of them has synced
            sync_to_disk(aside, deep=True)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            _move_away(folder / name)  # an earlier run's
            aside.rename(folder / name)
            _sync(folder)
            self._move_old_checkpoints_away(folder)
            remove_unfinished(folder)
        self.accelerator.wait_for_everyone()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Weights that are one and the same are saved once: the other name is not missing."""
        tied = tied_weights(self.model)
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def _move_old_checkpoints_away(self, folder: Path) -> None:
        """Keep `save_total_limit` checkpoints, the newest and the best among them."""
        if not self.args.save_total_limit:
            return
        checkpoints = [path for path in folder.iterdir() if re.fullmatch(r"checkpoint-\d+", path.name)]
        checkpoints.sort(key=_step_in_name)
        best = self.state.best_model_checkpoint
        kept = {checkpoints[-1].resolve(), *([Path(best).resolve()] if best else [])}
        old = [path for path in checkpoints if path.resolve() not in kept]
        surplus = len(checkpoints) - max(self.args.save_total_limit, len(kept))
        for path in old[: max(surplus, 0)]:
            _move_away(path)


def _move_away(checkpoint: Path) -> None:
    """To what will be deleted, so that no half of a checkpoint is ever in its place."""
    if checkpoint.exists():
        aside = checkpoint.parent / UNFINISHED / f"deleted-{checkpoint.name}"
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)


def _outlive_sigterm(training: torch.Tensor, init: Any, worker: int) -> None:
    """A scheduler signals every process of a job; the step that the main process still finishes needs its workers."""

    def leave(*_: Any) -> None:
        if not training:
            os._exit(0)  # the main process ends, and waits for us

    signal.signal(signal.SIGTERM, leave)
    if init is not None:
        init(worker)
