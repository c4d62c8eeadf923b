"""Evaluate a model on test sets, into a folder: answers as they are made, then their summary.              Lesson 7

`answers.jsonl` has every question with its answer, `metrics.json` the counts, `report.html` both for a browser. A
stopped evaluation goes on, and several processes share the questions. The result is that of one process that was not
stopped.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

from torch import distributed

from fvv_lib.data.dataset import LazySupervisedDataset
from fvv_lib.errors import CheckpointError
from fvv_lib.evaluation.answers import AnswerFile, Key, read_answers, record_of, replace_file, write_answers
from fvv_lib.evaluation.asking import Reader, answer_questions, reader_of, rows_of
from fvv_lib.evaluation.controls import FORWARDS
from fvv_lib.evaluation.questions import Question
from fvv_lib.evaluation.report import Asked, write_report
from fvv_lib.evaluation.scoring import is_right
from fvv_lib.evaluation.strips import Strips
from fvv_lib.evaluation.summary import summarize
from fvv_lib.evaluation.text_scores import compare_texts
from fvv_lib.model.geometry import make_frame_spec
from fvv_lib.processes import process_count, process_rank, tell_all
from fvv_lib.progress import progress
from fvv_lib.provenance import PACKAGE, git_commit, hardware, versions
from fvv_lib.settings import DataArguments
from fvv_lib.weights.loading import LoadedModel

METRICS = "metrics.json"


class TestSet(NamedTuple):
    """Questions that are counted together.

    Attributes:
        name: in records and tables, usually the path of its file.
        questions: what is asked.
        read: reads a medium; `None`: as the model's configuration says.
        is_right: returns whether a text answers a question correctly.
        score: returns what is reported beside the counts, from the answers to all questions, in order.
    """

    name: str
    questions: Sequence[Question]
    read: Reader | None = None
    is_right: Callable[[Any, str], bool] = is_right
    score: Callable[[Sequence[str]], dict[str, Any]] | None = None


class Asking(NamedTuple):
    """How questions are asked; see `answer_questions`. `measures` compare texts, see `text_scores`."""

    batch_size: int = 32
    max_new_tokens: int = 64
    controls: Sequence[str] = (FORWARDS,)
    seed: int = 0
    measures: Sequence[str] = ()


def open_tests(loaded: LoadedModel, paths: Sequence[str], **settings: Any) -> list[LazySupervisedDataset]:
    """Open test sets with the settings that are saved with the model. One process opens them before the others, which
    use its tables.

    Args:
        paths: annotation files.
        settings: fields of `DataArguments` that are not saved with a model, like `image_folder`.

    Raises:
        DataFormatError, VideoDecodeError, TokenBudgetError: see `LazySupervisedDataset`.

    Lesson: 07.
    """
    config = loaded.model.video_config
    accepted = {field.name for field in fields(DataArguments)}
    saved = {name: value for name, value in asdict(config).items() if name in accepted}
    arguments = DataArguments(**{**saved, "frame_sampling": config.inference_sampling, **settings})
    spec = make_frame_spec(loaded, config)
    first, several = process_rank() == 0, process_count() > 1
    if not first:
        distributed.barrier()
    opened = [
        LazySupervisedDataset(loaded.tokenizer, [path], arguments, frame_spec=spec, scored=True) for path in paths
    ]
    if first and several:
        distributed.barrier()
    return opened


def run_evaluation(
    loaded: LoadedModel, tests: Sequence[TestSet], folder: Path, identity: Mapping[str, Any], asking: Asking
) -> dict[str, Any] | None:
    """Ask all questions that a former run with the same identity has not asked, and write `answers.jsonl`,
    `report.html` and `metrics.json`. Every process must call this function.

    Args:
        identity: what the answers depend on: digests of model and data, and settings.

    Returns:
        The content of `metrics.json` on the first process, `None` on the others.

    Raises:
        CheckpointError: the folder has the answers of another evaluation, or the record of another program.
        FvvError: a medium, a question or a setting is wrong.

    Lesson: 07.
    """
    rank = process_rank()
    done = tell_all(lambda: _begin(folder, identity))
    config = loaded.model.video_config
    spec = make_frame_spec(loaded, config)
    strips = Strips(spec, config.image_aspect_ratio)
    asked_of = {test.name: Asked(test.questions, test.read or reader_of(config)) for test in tests}
    left = sum(len(rows_of(test.questions, asking.controls)) for test in tests) - len(done)
    share = math.ceil(left / process_count())
    bar = progress(total=share, desc="asking", unit=" questions", hidden=rank > 0)
    with AnswerFile(folder, rank) as file, bar:
        for test in tests:
            for batch in answer_questions(
                loaded.model,
                loaded.tokenizer,
                test.questions,
                config,
                spec,
                read=strips.watched(asked_of[test.name].read),
                batch_size=asking.batch_size,
                max_new_tokens=asking.max_new_tokens,
                controls=asking.controls,
                seed=asking.seed,
                done=[(position, control) for name, position, control in done if name == test.name],
            ):
                asked = [test.questions[position] for position, *_ in batch]
                file.add(
                    record_of(test.name, position, question, text, test.is_right(question, text), control)
                    for question, (position, control, text) in zip(asked, batch, strict=True)
                )
                bar.update(len(batch))
    metrics = tell_all(lambda: _end(tests, folder, identity, asking, asked_of, strips))
    return metrics if rank == 0 else None


def _begin(folder: Path, identity: Mapping[str, Any]) -> Collection[Key]:
    """Return the keys of the answers that are there. Drop a torn line, and merge the files of other processes."""
    folder.mkdir(parents=True, exist_ok=True)
    check_ours(folder)
    done = read_answers(folder, identity)
    write_answers(folder, identity, done.values())
    return list(done)


def check_ours(folder: Path) -> None:
    """Check that no other program wrote the record in a folder.

    Raises:
        CheckpointError: its `metrics.json` is, for example, that of a training run.
    """
    file = folder / METRICS
    try:
        is_ours = not file.exists() or "tests" in json.loads(file.read_text())
    except (OSError, ValueError, TypeError):
        is_ours = False
    if not is_ours:
        raise CheckpointError(f"{file}: not the record of an evaluation. Use another output folder.")


def _end(
    tests: Sequence[TestSet],
    folder: Path,
    identity: Mapping[str, Any],
    asking: Asking,
    asked: Mapping[str, Asked],
    strips: Strips,
) -> dict[str, Any]:
    """Write all answers in order, the counts, and the report for people."""
    found = read_answers(folder, identity)
    records = [
        found[test.name, position, control]
        for test in tests
        for position, control in sorted(rows_of(test.questions, asking.controls), key=lambda row: row[0])
    ]
    write_answers(folder, identity, records)
    summaries = {}
    for test in tests:
        mine = [record for record in records if record["data"] == test.name]
        summaries[test.name] = summarize(mine)
        forwards = [record for record in mine if record["control"] == FORWARDS]
        if test.score:
            summaries[test.name]["benchmark"] = test.score([record["answer"] for record in forwards])
        if asking.measures:
            summaries[test.name]["scores"] = compare_texts(
                asking.measures, [row["answer"] for row in forwards], [row["expected"] for row in forwards]
            )
    metrics = {
        "tests": summaries,
        "identity": dict(identity),
        "versions": versions(),
        "git_commit": git_commit(PACKAGE),
        "hardware": hardware(),
    }
    write_report(folder, metrics, records, asked, strips)
    replace_file(folder / METRICS, f"{json.dumps(metrics, indent=2)}\n".encode())
    return metrics
