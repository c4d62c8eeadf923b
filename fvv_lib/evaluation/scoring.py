"""Ask the questions of a test set, and score the answers.                                                   Lesson 7

Each question is asked with the true turns before it. An answer is correct if it names the right choice and no other.
This module knows nothing about training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from torch import distributed
from transformers import PreTrainedTokenizerBase

from fvv_lib.data.choices import Units, named_choices, units_of
from fvv_lib.data.dataset import LazySupervisedDataset
from fvv_lib.errors import FvvError
from fvv_lib.evaluation.asking import Reader, answer_questions
from fvv_lib.evaluation.questions import Question, read_questions
from fvv_lib.model.video_model import VideoMixin
from fvv_lib.processes import process_count
from fvv_lib.video.medium import Medium

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
    """Ask the questions of a test set, each with the true turns before it as history.

    A sample may describe its questions: `kinds` has a name for each question, and `choices` has a list of texts for
    each question, of which an answer must name the right one. Without choices, an answer is correct if it is the
    expected text. The questions of one video share its encoding, see `asking`.

    With several processes, all processes must call this function. Each asks a part of the questions, and each returns
    all answers, in order.

    Raises:
        DataFormatError: `kinds` or `choices` of a sample do not describe its questions (`data.choices`).

    Lesson: 07.
    """
    read = reader_for(dataset)
    return ask_and_score(model, tokenizer, dataset, read_questions(dataset), read, batch_size, max_new_tokens)


def ask_and_score(
    model: VideoMixin,
    tokenizer: PreTrainedTokenizerBase,
    dataset: LazySupervisedDataset,
    questions: Sequence[Question],
    read: Reader,
    batch_size: int,
    max_new_tokens: int,
) -> list[Answer]:
    """Ask some questions of a test set, see `evaluate`. To ask them again and again, `read` is made once."""
    found = answer_questions(
        model,
        tokenizer,
        questions,
        dataset.data_args.video_config(),
        dataset.frame_spec,
        read=read,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
    )
    texts = _gather({position: text for batch in found for position, _, text in batch})
    return [score(question, texts[position]) for position, question in enumerate(questions)]


def reader_for(dataset: LazySupervisedDataset) -> Reader:
    """Return a function that reads media as a dataset does, each for the first sample that has it."""
    places: dict[Medium, tuple[int, int]] = {}
    for index in range(len(dataset)):
        for place, medium in enumerate(dataset.media(index)):
            places.setdefault(medium, (index, place))
    return lambda medium: dataset.read(medium, *places[medium])


def _gather(mine: dict[int, str]) -> dict[int, str]:
    """Return the answers of all processes, by question."""
    if process_count() == 1:
        return mine
    parts: list[Any] = [None] * process_count()
    distributed.all_gather_object(parts, mine)
    return {position: text for part in parts for position, text in part.items()}


def score(question: Question, generated: str) -> Answer:
    """Return a question with the model's answer, and whether it is correct."""
    kind = "all" if question.kind is None else question.kind
    return Answer(question.id, kind, question.prompt, question.expected, generated, is_right(question, generated))


def is_right(question: Question, generated: str) -> bool:
    """Return whether an answer to a question is correct by the rule for own test sets, see `is_correct`."""
    return is_correct(generated, question.expected, question.choices or ())


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


def paired_p_value(differences: Sequence[int]) -> float:
    """Return the two-sided p-value of paired differences: how often the sum would be at least as far from 0 if the sign
    of each difference were random. It is exact: all combinations of signs are counted.

    Args:
        differences: of independent units. Answers about one video depend on each other, so their differences are added
            first: a unit is a video.

    Source: Fisher, The Design of Experiments, 1935. Lesson: 07.
    """
    sizes = [abs(difference) for difference in differences if difference]
    reach = sum(sizes)
    shares = np.zeros(2 * reach + 1)  # of each sum, from -reach to reach
    shares[reach] = 1
    for size in sizes:
        shares = (np.roll(shares, size) + np.roll(shares, -size)) / 2  # nothing wraps round: the ends are still 0
    far = abs(np.arange(-reach, reach + 1)) >= abs(sum(differences))
    return float(min(1.0, shares[far].sum()))


def percent(share: float, digits: int = 0) -> str:
    """Return a share as text. Only nothing is 0% and only everything is 100%: no other share is rounded to them."""
    shown, step = 100 * share, 10.0**-digits
    if 0 < share < 1:
        shown = min(max(shown, step), 100 - step)
    return f"{shown:.{digits}f}%"
