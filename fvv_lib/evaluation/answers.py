"""Append answers to a file as they are made, so that a stopped evaluation goes on where it stopped.         Lesson 7

`answers.jsonl` has a line for the identity of the evaluation and a line for each answer. A killed process may leave a
torn last line, which is dropped. Other processes than the first append to files of their own, which the first one
merges. This module knows nothing about models.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fvv_lib.errors import CheckpointError
from fvv_lib.evaluation.controls import FORWARDS
from fvv_lib.evaluation.questions import Question
from fvv_lib.video.medium import Medium

NAME = "answers.jsonl"
MODEL_FOLDER = "model folder"  # of an identity; named in errors and not compared, because a folder may be moved
PARTS = "answers.*.part"  # of the other processes

Record = dict[str, Any]
Key = tuple[str, int, str]  # data, position, control


def record_of(data: str, position: int, question: Question, text: str, right: bool, control: str = FORWARDS) -> Record:
    """Return what is stored of an answer.

    Args:
        data: the name of the test set.
        position: of the question in it.
        text: what the model said.
        right: whether this is correct.
        control: how the frames were shown, see `controls`.
    """
    return {
        "data": data,
        "position": position,
        "id": question.id,
        "media": [_stored(medium) for medium in question.media],
        "video": question.source,
        "history": list(question.history),
        "question": question.prompt,
        "choices": list(question.choices or ()),
        "expected": question.expected,
        "answer": text,
        "right": right,
        "kind": question.kind,
        "control": control,
    }


def _stored(medium: Medium) -> dict[str, Any]:
    """Return the fields of a medium that are set; a list of frames is a list of paths."""
    source = list(map(str, medium.source)) if isinstance(medium.source, tuple) else str(medium.source)
    return {"source": source} | {name: value for name in ("start", "end", "fps") if (value := getattr(medium, name))}


def key_of(record: Record) -> Key:
    return record["data"], record["position"], record["control"]


def read_answers(folder: Path, identity: Mapping[str, Any]) -> dict[Key, Record]:
    """Return the answers of an evaluation that was stopped or has finished; none if there are none.

    Raises:
        CheckpointError: the answers are those of another evaluation, or the file is damaged.
    """
    file = folder / NAME
    lines = _lines(file)
    if not lines:
        return {}
    before = lines[0].get("identity")
    if not isinstance(before, dict):
        raise CheckpointError(f"{file}: not the answers of an evaluation. Move it away, or use another output folder.")
    now = json.loads(json.dumps(identity))
    other = [name for name in {**before, **now} if name != MODEL_FOLDER and before.get(name) != now.get(name)]
    if other:
        models = f"model (theirs: {before.get(MODEL_FOLDER, 'unknown')}, now: {now.get(MODEL_FOLDER)})"
        named = ", ".join(models if name == "model" else name for name in other)
        raise CheckpointError(
            f"{file}: these answers are of an evaluation with another {named}. Use another output folder, or delete "
            "the file."
        )
    parts = [record for part in sorted(folder.glob(PARTS)) for record in _lines(part)]
    return {key_of(record): record for record in [*lines[1:], *parts]}


def write_answers(folder: Path, identity: Mapping[str, Any], records: Iterable[Record]) -> None:
    """Write the identity and these answers in place of all that is there. A process that is killed here leaves the old
    files or the new one."""
    replace_file(
        folder / NAME, "".join(json.dumps(line) + "\n" for line in ({"identity": identity}, *records)).encode()
    )
    for part in folder.glob(PARTS):
        part.unlink()


def replace_file(path: Path, content: bytes) -> None:
    """Write a file aside, then give it its name, so that a process that is killed here leaves the old file or the new
    one."""
    aside = path.with_name(f"{path.name}.unfinished")
    aside.write_bytes(content)
    aside.replace(path)


class AnswerFile:
    """The file to which a process appends its answers; a context that closes it.

    Args:
        rank: of the process. The first one appends to `answers.jsonl`.
    """

    def __init__(self, folder: Path, rank: int = 0):
        name = f"answers.{rank}.part" if rank else NAME
        self.file = (folder / name).open("a")

    def __enter__(self) -> "AnswerFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, records: Iterable[Record]) -> None:
        """Append answers, and pass them to the system, so that they survive this process."""
        self.file.writelines(json.dumps(record) + "\n" for record in records)
        self.file.flush()


def _lines(file: Path) -> list[Record]:
    """Return the content of each line but a torn last one."""
    if not file.exists():
        return []
    *whole, _ = file.read_bytes().split(b"\n")  # after the last line end, there is nothing or a torn line
    found = []
    for number, line in enumerate(whole, 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise CheckpointError(f"{file}, line {number}: it is damaged ({error}). Delete the line.") from error
        if not isinstance(record, dict):
            raise CheckpointError(f"{file}, line {number}: not an answer of an evaluation. Move the file away.")
        found.append(record)
    return found
