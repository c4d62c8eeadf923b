"""Protect the output folder of a run: one run at a time, and nothing needed is overwritten.               Lesson 6

A run must not overwrite what it reads. An earlier model is overwritten only if the user asks for it. A second run in
the same folder is refused while the first one is running. This module trains nothing.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fvv_lib.data.mixture import parse_part
from fvv_lib.errors import CheckpointError, FvvError
from fvv_lib.evaluation.report import NAME as REPORT
from fvv_lib.finetuning.resume import CHECKPOINT, UNFINISHED, remove_unfinished
from fvv_lib.settings import DataArguments, ModelArguments, check_folder
from fvv_lib.weights.lora import base_of, is_adapter

LOCK = "_lock"  # transformers does not upload files whose names begin with "_"
RECORD = "metrics.json"
ANSWERS = "answers.jsonl"
# Files of a model, and the record of a run: overwriting deletes them.
MODEL = (
    *("config.json", "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    *("adapter_config.json", "adapter_model.safetensors"),
    *("pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json"),
    RECORD,
)
# Other programs use these names, too. Ours are JSON objects with one of these keys.
KEYS = {"config.json": ("model_type", "architectures"), RECORD: ("arguments",)}
# All other files that a run writes.
BESIDE = (
    *("generation_config.json", "fvv_config.json", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "tokenizer.model", "chat_template.jinja", "training_args.bin", "loss.png", "README.md"),
    *(ANSWERS, REPORT, f"{RECORD}.unfinished", LOCK),
)

_held: set[int] = set()  # file descriptors of the locks of this process


def _let_go() -> None:
    """Close the locks in a forked process: a data loader worker must not keep them when this process is killed."""
    for lock in _held:
        os.close(lock)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Lock a folder against other runs while the context is open. The system frees the lock of a killed process.

    At the end, the lock's file is removed, also a folder that was made for it and has nothing else.

    Raises:
        CheckpointError: another run holds the lock.
        FvvError: the folder cannot be created or written.
    """
    is_new = not folder.exists()
    lock = _take(folder)
    try:
        yield
    finally:
        if lock in _held:  # not in a forked process
            (folder / LOCK).unlink(missing_ok=True)
            _close(lock)
            if is_new and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _take(folder: Path) -> int:
    """Open and lock the file of a lock. Start again if the run before removed the file between the two."""
    while True:
        lock = _open(folder)
        try:
            _lock(lock, folder)
        except BaseException:
            _close(lock)
            raise
        if (folder / LOCK).exists() and (folder / LOCK).stat().st_ino == os.fstat(lock).st_ino:
            return lock
        _close(lock)


def _close(lock: int) -> None:
    _held.remove(lock)
    os.close(lock)


def _open(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise FvvError(f"output_dir {folder}: it cannot be written ({error.strerror}). Use another one.") from error
    _held.add(lock)
    return lock


def _lock(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 200, 0).decode(errors="replace").strip()
        raise CheckpointError(
            f"{folder}: another run writes there ({holder}). Two runs would delete each other's files: wait for its "
            "end, or use another output_dir."
        ) from error
    except OSError as error:
        print(f"{folder}: this disk cannot lock files ({error.strerror}), so make sure that no other run writes there")
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)


def check_apart(folder: Path, model_args: ModelArguments, data_args: DataArguments) -> None:
    """Check that a run does not write over its input.

    Raises:
        FvvError: the folder is a file, or the run would overwrite or delete the model or data that it reads.
    """
    model, output = Path(model_args.model_name_or_path), folder.resolve()
    check_folder("output_dir", folder)
    read = {"model_name_or_path": model}
    if model.is_dir() and is_adapter(model):
        read["the base of model_name_or_path"] = Path(base_of(model))
    files = [parse_part(word).path for word in (*data_args.data_path, *data_args.held_out().values())]
    read |= {f"the data file {path}": path for path in files if isinstance(path, Path)}
    for name, path in read.items():
        if path.resolve().is_relative_to(output) and _is_written(path.resolve().relative_to(output)):
            raise FvvError(
                f"output_dir {folder}: it contains {name}, which would be overwritten. Use another output_dir."
            )


def _is_written(path: Path) -> bool:
    """Return True if a run writes or deletes this path of its folder, or if the path is the folder itself."""
    if not path.parts or path.parts[0] == UNFINISHED or CHECKPOINT.fullmatch(path.parts[0]):
        return True
    return len(path.parts) == 1 and any(path.match(pattern) for pattern in (*MODEL, *BESIDE))


def written_files(folder: Path) -> list[Path]:
    """Return the files of a finished run, except its checkpoints and the logs of other programs."""
    return [path for path in folder.iterdir() if path.is_file() and _is_written(Path(path.name))]


def check_ours(folder: Path, names: Iterable[str]) -> None:
    """Check that the files that a run overwrites are those of a model or of a run.

    Args:
        names: those of `KEYS` that the run overwrites.

    Raises:
        CheckpointError: a file of another program has one of their names.
    """
    for name in names:
        keys = KEYS[name]
        if (folder / name).is_file() and not _has_key(folder / name, keys):
            raise CheckpointError(
                f"{folder}: its {name} is not of a model or a run (it has no {' or '.join(keys)}), and training would "
                "overwrite it. Move it away, or use another output_dir."
            )


def _has_key(file: Path, keys: tuple[str, ...]) -> bool:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and any(key in content for key in keys)


def check_empty(folder: Path) -> None:
    """Check that a new run does not overwrite an earlier model.

    Raises:
        CheckpointError: the folder has a model or a record.
    """
    there = sorted(path.name for pattern in MODEL for path in folder.glob(pattern))
    if there:
        raise CheckpointError(
            f"{folder}: there is a model already, or the record of one ({', '.join(there)}), and no checkpoint to "
            "resume from. Training would overwrite it: use another output_dir, or add --overwrite_output_dir True."
        )


def clear(folder: Path, overwrite: bool) -> None:
    """Delete the unfinished checkpoint of a killed run, and the record, which only a finished run has. With
    `overwrite`, also delete the model and checkpoints of an earlier run, see `check_ours`. Call it on one process."""
    remove_unfinished(folder)
    for name in (RECORD, ANSWERS, REPORT):
        (folder / name).unlink(missing_ok=True)
    if overwrite:
        for pattern in MODEL:
            for file in folder.glob(pattern):
                file.unlink()
        for checkpoint in folder.glob("checkpoint-*"):
            if CHECKPOINT.fullmatch(checkpoint.name):
                shutil.rmtree(checkpoint)
