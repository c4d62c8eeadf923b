"""Generation and scoring with the training prompt.                                                        Lesson 7

A model is asked in exactly the words, frames and tokens in which it was taught: the prompt is the training rendering,
stopped where the answer begins. This module knows nothing about training.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, TextStreamer

from fvv_lib.conversation import get_template
from fvv_lib.dataset import LazySupervisedDataset
from fvv_lib.errors import DataFormatError, FvvError
from fvv_lib.labels import tokenize_pieces
from fvv_lib.model import VideoMixin
from fvv_lib.tokens import DEFAULT_IMAGE_TOKEN


@dataclass(frozen=True)
class Answer:
    """One question of a test set, and what the model said to it."""

    sample: str
    kind: str
    question: str
    expected: str
    generated: str
    correct: bool


def prompt_ids(
    turns: Sequence[dict[str, str]], tokenizer: PreTrainedTokenizerBase, version: str, sample: str = "conversation"
) -> list[int]:
    """Token ids of a conversation that ends with a question, up to where its answer begins: those of training.

    Args:
        turns: LLaVA turns, `<image>` already expanded; each becomes -200.
        version: the chat template.
        sample: what the conversation is called in errors.

    Lesson: 07.
    """
    return tokenize_pieces(get_template(version).render(turns, sample), tokenizer)[0]


class AnswerStreamer(TextStreamer):
    """Hands an answer on in pieces while it is generated, up to its end mark."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end: re.Pattern[str], write: Callable[[str], Any]) -> None:
        super().__init__(tokenizer, skip_prompt=True)
        self.end_mark, self.write, self.over = end, write, False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if not self.over:
            answer, *rest = self.end_mark.split(text)
            self.over = bool(rest)
            self.write(answer)


def generate_answers(
    model: VideoMixin,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    images: Sequence[torch.Tensor],
    version: str,
    max_new_tokens: int = 32,
    write: Callable[[str], Any] | None = None,
) -> list[str]:
    """Answer a batch of prompts, greedily.

    Args:
        prompts: token ids, see `prompt_ids`.
        images: for each prompt its frames, uint8 (T, 3, S, S); T may be 0.
        version: the chat template; its end mark ends an answer.
        write: called with each piece of the answer as soon as it is there; for a batch of one.

    Lesson: 07.
    """
    template = get_template(version)
    ends = [template.stop, tokenizer.pad_token, tokenizer.eos_token]
    end = re.compile("|".join(re.escape(mark) for mark in ends if mark))
    longest = max(map(len, prompts))
    input_ids = torch.full((len(prompts), longest), tokenizer.pad_token_id)
    mask = torch.zeros_like(input_ids)
    for i, prompt in enumerate(prompts):
        input_ids[i, : len(prompt)] = torch.tensor(prompt)
        mask[i, : len(prompt)] = 1
    stop = tokenizer(template.stop, add_special_tokens=False).input_ids
    was_training = model.training
    model.eval()
    output = model.generate(
        input_ids.to(model.device),
        images=list(images),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=stop if len(stop) == 1 else tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        streamer=write and AnswerStreamer(tokenizer, end, write),
    )
    model.train(was_training)
    return [end.split(text)[0].strip() for text in tokenizer.batch_decode(output, skip_special_tokens=False)]


def evaluate(
    model: VideoMixin,
    tokenizer: PreTrainedTokenizerBase,
    dataset: LazySupervisedDataset,
    batch_size: int = 32,
    max_new_tokens: int = 32,
) -> list[Answer]:
    """Ask every question of a test set, each with the true turns before it as history.

    A sample may say what its questions are: `kinds`, a name for each question, and `choices`, for each question the
    texts of which an answer must name the right one. Without choices an answer is right when it is the expected text.

    Raises:
        DataFormatError: a sample whose `kinds` or `choices` do not match its questions, before anything is asked.

    Lesson: 07.
    """
    for index in range(len(dataset)):
        _check_questions(dataset, index)
    questions = [
        (index, number)
        for index, sample in enumerate(dataset.samples)
        for number in range(len(sample["conversations"]) // 2)
    ]
    version = dataset.data_args.version
    answers: list[Answer] = []
    for start in range(0, len(questions), batch_size):
        batch = questions[start : start + batch_size]
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
        for (index, number), text in zip(batch, generated, strict=True):
            answers.append(_score(dataset, index, number, shown[index].turns, text))
    return answers


def _score(
    dataset: LazySupervisedDataset, index: int, number: int, turns: Sequence[dict[str, str]], generated: str
) -> Answer:
    sample = dataset.samples[index]
    kind = sample["kinds"][number] if "kinds" in sample else "all"
    choices = sample["choices"][number] if "choices" in sample else []
    question, expected = turns[2 * number]["value"], turns[2 * number + 1]["value"]
    return Answer(dataset.names[index], kind, question, expected, generated, is_correct(generated, expected, choices))


def _check_questions(dataset: LazySupervisedDataset, index: int) -> None:
    sample, name = dataset.samples[index], dataset.names[index]
    answers = [turn["value"] for turn in sample["conversations"][1::2]]
    for key in ("kinds", "choices"):
        if key in sample and len(sample[key]) != len(answers):
            raise DataFormatError(f"{name}: {key!r} must have an entry for each of its {len(answers)} questions.")
    for answer, choices in zip(answers, sample.get("choices", []), strict=False):
        if choices and len(_named(answer, choices)) != 1:
            raise DataFormatError(f"{name}: the answer {answer!r} must name exactly one of its choices {choices}.")


def is_correct(generated: str, expected: str, choices: Sequence[str] = ()) -> bool:
    """Whether an answer is right: with choices, it names exactly the one that the expected text names; without, it is
    the expected text, apart from case, spaces and the full stop."""
    if choices:
        return _named(generated, choices) == _named(expected, choices)
    return _plain(generated) == _plain(expected)


def _named(text: str, choices: Sequence[str]) -> set[str]:
    """The choices that stand in a text as whole words; "top left" is one, not also "left"."""
    longest_first = sorted(choices, key=len, reverse=True)
    pattern = rf"\b({'|'.join(map(re.escape, longest_first))})\b"
    return {hit.lower() for hit in re.findall(pattern, text, re.IGNORECASE)}


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")


def accuracy_by_kind(answers: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    """For each kind of question: `accuracy`, `correct`, `total`.

    Raises:
        FvvError: there are no answers.
    """
    if not answers:
        raise FvvError("There are no answers to count.")
    table: dict[str, dict[str, Any]] = {}
    for kind in sorted({answer.kind for answer in answers}):
        right = [answer.correct for answer in answers if answer.kind == kind]
        table[kind] = {"accuracy": sum(right) / len(right), "correct": sum(right), "total": len(right)}
    return table


def confidence_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Between which accuracies a model may lie that was right `correct` times of `total`; Wilson's interval, which
    stays between 0 and 1 and says something even where all answers are right.

    Raises:
        FvvError: not 0 <= correct <= total with a total of at least 1.

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927. Lesson: 07.
    """
    if not 0 <= correct <= total or total < 1:
        raise FvvError(f"{correct} right answers of {total} can not be: count at least one question.")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, middle - half), min(1.0, middle + half)
