"""Ask the questions of a test set, and score the answers.                                                   Lesson 7

Each question is asked with the true turns before it. An answer is correct if it names the right choice and no other.
This module knows nothing about training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from torch import distributed
from transformers import PreTrainedTokenizerBase

from fvv_lib.data.choices import Units, check_questions, named_choices, units_of
from fvv_lib.data.dataset import LazySupervisedDataset
from fvv_lib.errors import FvvError
from fvv_lib.evaluation.generation import generate_answers, prompt_ids
from fvv_lib.model.sharding import is_zero3_enabled
from fvv_lib.model.video_model import VideoMixin
from fvv_lib.prompt.placeholders import DEFAULT_IMAGE_TOKEN

FULL_STOPS = (".", "…", "。", "।")


@dataclass(frozen=True)
class Answer:
    """One question of a test set, and the model's answer to it."""

    sample: str
    kind: str
    question: str
    expected: str
    generated: str
    correct: bool


def evaluate(
    model: VideoMixin,
    tokenizer: PreTrainedTokenizerBase,
    dataset: LazySupervisedDataset,
    batch_size: int = 32,
    max_new_tokens: int = 32,
) -> list[Answer]:
    """Ask every question of a test set, each with the true turns before it as history.

    A sample may describe its questions: `kinds` has a name for each question, and `choices` has a list of texts for
    each question, of which an answer must name the right one. Without choices, an answer is correct if it is the
    expected text.

    With several processes, all processes must call this function. Each asks a part of the batches that a single process
    would ask, and each returns all answers, in order.

    Raises:
        DataFormatError: `kinds` or `choices` of a sample do not describe its questions (`data.choices`).

    Lesson: 07.
    """
    for index, sample in enumerate(dataset.samples):
        check_questions(sample, dataset.names[index])
    questions = [
        (index, number)
        for index, sample in enumerate(dataset.samples)
        for number in range(len(sample["conversations"]) // 2)
    ]
    batches = [questions[start : start + batch_size] for start in range(0, len(questions), batch_size)]
    mine: dict[int, list[Answer]] = {}
    for number in _my_share(len(batches)):
        mine[number] = _ask_batch(model, tokenizer, dataset, batches[number], max_new_tokens)
    return [answer for _, answers in sorted(_gather(mine).items()) for answer in answers]


def _ask_batch(
    model: VideoMixin,
    tokenizer: PreTrainedTokenizerBase,
    dataset: LazySupervisedDataset,
    batch: Sequence[tuple[int, int]],
    max_new_tokens: int,
) -> list[Answer]:
    """Return the answers to questions. Each question is the index of its sample and its number in that sample."""
    version = dataset.data_args.version
    shown = {index: dataset.show(index) for index in {index for index, _ in batch}}
    asked = [shown[index].turns[: 2 * number + 1] for index, number in batch]
    counts = [sum(turn["value"].count(DEFAULT_IMAGE_TOKEN) for turn in turns) for turns in asked]
    generated = generate_answers(
        model,
        tokenizer,
        [prompt_ids(turns, tokenizer, version) for turns in asked],
        [shown[index].images[:count] for (index, _), count in zip(batch, counts, strict=True)],
        version,
        max_new_tokens,
    )
    return [
        _score(dataset, index, number, shown[index].turns, text)
        for (index, number), text in zip(batch, generated, strict=True)
    ]


def _my_share(batches: int) -> list[int]:
    """Return the batches that this process asks. Under ZeRO-3, all processes must run each layer equally often, so all
    ask equally many batches: a process with fewer asks its last batch again, or the first batch if it has none."""
    if not _several_processes():
        return list(range(batches))
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    share = list(range(rank, batches, processes))
    if is_zero3_enabled() and batches:
        rounds = math.ceil(batches / processes)
        share += (share[-1:] or [0]) * (rounds - len(share))
    return share


def _gather(mine: dict[int, list[Answer]]) -> dict[int, list[Answer]]:
    """Return the answers of all processes, by batch."""
    if not _several_processes():
        return mine
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, mine)
    return {number: answers for part in parts for number, answers in part.items()}


def _several_processes() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _score(
    dataset: LazySupervisedDataset, index: int, number: int, turns: Sequence[dict[str, str]], generated: str
) -> Answer:
    sample = dataset.samples[index]
    kind = sample["kinds"][number] if "kinds" in sample else "all"
    choices = sample["choices"][number] if "choices" in sample else []
    question, expected = turns[2 * number]["value"], turns[2 * number + 1]["value"]
    return Answer(dataset.names[index], kind, question, expected, generated, is_correct(generated, expected, choices))


def is_correct(generated: str, expected: str, choices: Sequence[str] = ()) -> bool:
    """Return whether an answer is correct. With choices, it must name exactly the choice that the expected text names.
    Without, it must be the expected text. Case, spaces, hyphens between words, final full stops, the width of East
    Asian letters, kinds of dashes and apostrophes, and separators of thousands do not matter.

    A choice counts only as a whole word or number: "left" is in "left-hand", but not in "leftover"; "no" is not in
    "no-one", "can" is not in "can't", "1" is not in "-1", "1.5" or "1/2", and "C" is not in "C++". If two choices
    overlap, only the longer one is named: "top left", not "left". In scripts without spaces between words (Chinese,
    Japanese, Thai and others), a choice may appear anywhere; in Korean, at the start of a word.

    Example:
        >>> is_correct("The answer is (B).", "(B)", ["(A)", "(B)"])
        True

    Lesson: 07.
    """
    if choices:
        right = named_choices(expected, choices)
        return len(right) == 1 and named_choices(generated, choices) == right
    return _without_full_stops(units_of(generated)) == _without_full_stops(units_of(expected))


def _without_full_stops(units: Units) -> Units:
    while units and units[-1][0] in FULL_STOPS:
        units = units[:-1]
    return units


def accuracy_by_kind(answers: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    """Return `accuracy`, `correct` and `total` for each kind of question.

    Raises:
        FvvError: there are no answers.

    Lesson: 07.
    """
    if not answers:
        raise FvvError("There are no answers to count.")
    table: dict[str, dict[str, Any]] = {}
    for kind in sorted({answer.kind for answer in answers}):
        right = [answer.correct for answer in answers if answer.kind == kind]
        table[kind] = {"accuracy": sum(right) / len(right), "correct": sum(right), "total": len(right)}
    return table


def confidence_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of the accuracy of a model that answered `correct` of `total` questions correctly.
    Wilson's interval stays between 0 and 1, and is useful even if all answers are correct.

    Raises:
        FvvError: unless 0 <= `correct` <= `total` and `total` >= 1.

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927. Lesson: 07.
    """
    if not 0 <= correct <= total or total < 1:
        raise FvvError(f"correct must be from 0 to total, and total at least 1, got {correct} of {total}.")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, middle - half), min(1.0, middle + half)
