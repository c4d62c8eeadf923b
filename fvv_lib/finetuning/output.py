"""The folder of a run: held by one run at a time, and never what somebody still needs.                    Lesson 6

What a run reads must not lie where it writes, an earlier model is only overwritten on purpose, and a second run in the
same folder is refused while the first one lives. This module trains nothing.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fvv_lib.errors import CheckpointError, FvvError
from fvv_lib.finetuning.resume import UNFINISHED, remove_unfinished
from fvv_lib.settings import DataArguments, ModelArguments
from fvv_lib.weights.lora import base_of, is_adapter

LOCK = "_lock"  # transformers uploads nothing that begins with "_"
RECORD = "metrics.json"
CHECKPOINT = re.compile(r"checkpoint-\d+")
# What says that a model, or the end of a run, lies in a folder.
MODEL = (
    *("config.json", "adapter_config.json", "*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*"),
    RECORD,
)

_held: set[int] = set()  # file descriptors of the locks of this process


def _let_go() -> None:
    """A process that is forked (a worker that reads clips) must not keep the lock when this one is killed."""
    for lock in _held:
        os.close(lock)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Within it, no other run can use this folder. The system frees the lock of a process that is killed.

    Raises:
        CheckpointError: another run holds it.
        FvvError: it cannot be made or written.
    """
    lock = _open(folder)
    try:
        _lock(lock, folder)
        yield
    finally:
        if lock in _held:
            _held.remove(lock)
            os.close(lock)


def _open(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise FvvError(f"output_dir {folder}: it cannot be written ({error.strerror}). Take another one.") from error
    _held.add(lock)
    return lock


def _lock(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 200, 0).decode(errors="replace").strip()
        raise CheckpointError(
            f"{folder}: another run writes there ({holder}). Two would delete each other's files: wait for its end, or "
            "take another output_dir."
        ) from error
    except OSError as error:
        print(f"{folder}: this disk cannot lock files ({error.strerror}), so see that no other run writes there")
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)


def check_apart(folder: Path, model_args: ModelArguments, data_args: DataArguments) -> None:
    """
    Raises:
        FvvError: the folder is a file, or the run would overwrite or delete what it reads: its model, or its data.
    """
    model, output = Path(model_args.model_name_or_path), folder.resolve()
    for place in (output, *output.parents):
        if place.exists() and not place.is_dir():
            raise FvvError(f"output_dir {folder}: {place} is a file. Take a folder.")
    read = {"model_name_or_path": model}
    if model.is_dir() and is_adapter(model):
        read["the base of model_name_or_path"] = Path(base_of(model))
    data = [*data_args.data_path, data_args.validation_data_path, data_args.test_data_path]
    read |= {f"the data file {path}": Path(path) for path in data if path is not None}
    for name, path in read.items():
        if path.resolve().is_relative_to(output) and _is_written(path.resolve().relative_to(output)):
            raise FvvError(f"output_dir {folder}: {name} lies there and would be overwritten. Take another output_dir.")


def _is_written(path: Path) -> bool:
    """Whether a run writes or deletes this path within its folder, or the folder is itself meant."""
    if not path.parts or path.parts[0] == UNFINISHED or CHECKPOINT.fullmatch(path.parts[0]):
        return True
    return len(path.parts) == 1 and any(path.match(pattern) for pattern in MODEL)


def check_empty(folder: Path) -> None:
    """
    Raises:
        CheckpointError: a model lies there, and the run would begin anew and overwrite it.
    """
    there = sorted(path.name for pattern in MODEL for path in folder.glob(pattern))
    if there:
        raise CheckpointError(
            f"{folder}: there is a model already, or the record of one ({', '.join(there)}), and no checkpoint to go "
            "on from: it would be overwritten. Take another output_dir, or add --overwrite_output_dir True."
        )


def clear(folder: Path, begins_anew: bool) -> None:
    """Delete what a killed run was writing, and the record, which is only there where a run has ended; and if this run
    `begins_anew`, what an earlier one left: its model, and its checkpoints. Call it on one process."""
    remove_unfinished(folder)
    (folder / RECORD).unlink(missing_ok=True)
    if begins_anew:
        for pattern in MODEL:
            for file in folder.glob(pattern):
                file.unlink()
        for checkpoint in folder.glob("checkpoint-*"):
            if CHECKPOINT.fullmatch(checkpoint.name):
                shutil.rmtree(checkpoint)
