"""Stop a run anywhere and resume it: checkpoints are complete or absent, SIGTERM saves one.                Lesson 6

A checkpoint is written to a temporary folder, and renamed when every process has written its part and all files are on
the disk. So each `checkpoint-N` can be loaded, whatever kills the run or the machine. Schedulers send SIGTERM before
they take the machine away. SIGTERM ends training after the current step, with a checkpoint. This module knows nothing
about videos or models.
"""

import errno
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
IDENTITY = "run_identity.json"  # what another run must share to resume this one, see `comparing`
OPTIMIZER_STATES = ("scheduler.pt", "latest")  # files of the Trainer, of DeepSpeed
UNFINISHED = "_unfinished"  # folder in output_dir for checkpoints that are being written or deleted
CHECKPOINT = re.compile(r"checkpoint-\d+")
STOPPED = 128 + signal.SIGTERM  # exit code after SIGTERM: not 0, because the run has not finished
CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # what network disks answer for a folder


def find_checkpoint(resume: str | bool | None, output_dir: str | Path) -> str | None:
    """Return the checkpoint that a run starts from; None for a fresh start.

    Args:
        resume: the folder of a checkpoint; True (or "true") for the last one of `output_dir`, or a fresh start if there
            is none, so that a job that is started repeatedly needs one command; None or False for a fresh start.

    Raises:
        CheckpointError: training cannot resume from this folder; or `output_dir` has checkpoints of later steps or of
            another run, and a later start would resume from those.

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
            f"{last}: a later start would mistake it for a checkpoint of this run. Resume from it "
            "(resume_from_checkpoint=True, on the command line --resume_from_checkpoint True), delete it, or use "
            "another output_dir."
        )
    return start


def resumes_last(resume: str | bool | None) -> bool:
    """Return True if a run resumes from the last checkpoint of its `output_dir`, if there is one."""
    return str(resume).lower() == "true"


def _check_whole(checkpoint: Path) -> None:
    if not (checkpoint / TRAINER_STATE).is_file():
        why = f"it has no {TRAINER_STATE}" if checkpoint.is_dir() else "no such folder"
        raise CheckpointError(
            f"{checkpoint}: not a checkpoint of a training run ({why}). Give a checkpoint-N "
            "folder, or --resume_from_checkpoint True for the last one of output_dir."
        )
    if not any((checkpoint / name).exists() for name in OPTIMIZER_STATES):
        raise CheckpointError(
            f"{checkpoint}: it was saved without the state of the optimizer (save_only_model), so a run cannot resume "
            "from it. Start a new run from its weights with --model_name_or_path and another output_dir."
        )


def _step_in_name(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def remove_unfinished(output_dir: str | Path) -> None:
    """Delete checkpoints that a killed run was writing or deleting. Call it on one process, while none is saving."""
    shutil.rmtree(Path(output_dir) / UNFINISHED, ignore_errors=True)


def read_identity(checkpoint: str | Path) -> dict[str, Any]:
    """Return the identity of a checkpoint's run; empty if an earlier build or another program wrote the checkpoint."""
    file = Path(checkpoint) / IDENTITY
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def sync_to_disk(folder: Path) -> None:
    """Wait until a folder, its files and its subfolders are on the disk. Otherwise a power failure may leave a file
    name without content."""
    for path in folder.iterdir():
        if path.is_file():
            sync(path)
        elif path.is_dir():
            sync_to_disk(path)
    sync(folder)


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk. Some disks cannot sync a folder."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in CANNOT_SYNC or not path.is_dir():
            raise
    finally:
        os.close(opened)


class _Stop(TrainerCallback):
    """End training after a step on all processes if any process received SIGTERM. Save one checkpoint, and skip an
    evaluation that is due."""

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
                f"The checkpoint is of step {state.global_step}, but this run ends after step {state.max_steps}: raise "
                "max_steps or num_train_epochs, or resume from an earlier checkpoint in another output_dir."
            )


class ResumableTrainer(Trainer):
    """transformers' Trainer that can be killed at any time, and that saves a checkpoint on SIGTERM.

    Args:
        identity: written to each checkpoint, for `read_identity`. All other arguments are the Trainer's.

    Attributes:
        stopped: True if SIGTERM ended `train`. The last checkpoint is then of the last step. Python allows signal
            handlers in the main thread only; in another thread SIGTERM keeps its previous effect.

    Differs from transformers, which writes checkpoints in place. Its `enable_jit_checkpoint` does not synchronize the
    processes, so each would save at a different step. Lesson: 06.
    """

    def __init__(self, *args: Any, identity: dict[str, Any] | None = None, **kwargs: Any):
        self.identity = identity
        self.stop_asked = self.stopped = self._saving = False
        self._training = torch.zeros((), dtype=torch.bool).share_memory_()  # workers see it change
        super().__init__(*args, **kwargs)
        self.add_callback(_Stop(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train as transformers' `train` does. For `resume_from_checkpoint` see `find_checkpoint`.

        Raises:
            CheckpointError: the checkpoint is from a run that trained other parameters.
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
        """Skip the epoch if the run is complete. Resumed at its end, transformers (up to 5.23) takes one step more."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """Finish without transformers' last deletion of checkpoints. It deletes in place, and if `save_total_limit` is
        1 and the newest checkpoint is not the best, it deletes the newest. A stopped run does not load its best weights
        either."""
        kept = self.args.save_total_limit, self.args.load_best_model_at_end
        self.args.save_total_limit, self.args.load_best_model_at_end = None, kept[1] and not self.stopped
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit, self.args.load_best_model_at_end = kept

    def _trained(self) -> dict[str, list[int]]:
        """Return names and shapes of the trained parameters; under ZeRO-3, those of whole parameters, not of shares."""
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
                f"{other[0]}. Resume with its --tunable_parts, --lora_rank and base, or use another output_dir."
            )

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        loader = super()._get_dataloader(*args, **kwargs)
        init = partial(_outlive_sigterm, self._training, loader.worker_init_fn)
        for part in (loader, torch_loader(loader)):  # accelerate's loader, and torch's inside it
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
        if self.is_local_process_zero():  # on a shared disk, each machine syncs what it wrote
            sync_to_disk(aside)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            _move_away(folder / name)  # if an earlier run left one
            aside.rename(folder / name)
            sync(folder)
            self._move_old_checkpoints_away(folder)
            remove_unfinished(folder)
        self.accelerator.wait_for_everyone()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Do not report tied weights as missing: they are saved under one of their names only."""
        tied = tied_weights(self.model)
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def _move_old_checkpoints_away(self, folder: Path) -> None:
        """Keep `save_total_limit` checkpoints, and always the newest and the best."""
        if not self.args.save_total_limit:
            return
        checkpoints = [path for path in folder.iterdir() if CHECKPOINT.fullmatch(path.name)]
        checkpoints.sort(key=_step_in_name)
        best = self.state.best_model_checkpoint
        kept = {checkpoints[-1].resolve(), *([Path(best).resolve()] if best else [])}
        old = [path for path in checkpoints if path.resolve() not in kept]
        surplus = len(checkpoints) - max(self.args.save_total_limit, len(kept))
        for path in old[: max(surplus, 0)]:
            _move_away(path)


def _move_away(checkpoint: Path) -> None:
    """Move a checkpoint to the folder for deletion, so that no `checkpoint-N` is ever half deleted."""
    if checkpoint.exists():
        aside = checkpoint.parent / UNFINISHED / f"deleted-{checkpoint.name}"
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)


def _outlive_sigterm(training: torch.Tensor, init: Any, worker: int) -> None:
    """Ignore SIGTERM in a worker during training: schedulers send it to every process of a job, and the main process
    needs its workers to finish the step."""

    def leave(*_: Any) -> None:
        if not training:
            os._exit(0)  # the main process is ending and waits for its workers

    signal.signal(signal.SIGTERM, leave)
    if init is not None:
        init(worker)
