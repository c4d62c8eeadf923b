"""Questions about images and videos: one record for own test sets and for benchmarks.                      Lesson 7

This module knows nothing about models or answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fvv_lib.data.choices import check_questions
from fvv_lib.data.dataset import LazySupervisedDataset
from fvv_lib.prompt.placeholders import DEFAULT_IMAGE_TOKEN
from fvv_lib.video.medium import Medium

Turns = list[dict[str, str]]


@dataclass(frozen=True)
class Question:
    """A question about images and videos, with its expected answer.

    Attributes:
        id: names the question in errors and records.
        media: what the `<image>` of `history` and `prompt` stand for, in order.
        prompt: the human turn, with one `<image>` for each medium that it shows.
        expected: the right answer.
        kind: the group that it is counted in; `None`: no group.
        choices: the choices that an answer may name; `None`: free text.
        history: the true turns before it, question and answer in turn.
        system: the system prompt; `None`: that of the template.

    Lesson: 07.
    """

    id: str
    media: tuple[Medium, ...]
    prompt: str
    expected: str
    kind: str | None = None
    choices: tuple[str, ...] | None = None
    history: tuple[str, ...] = ()
    system: str | None = None

    def turns(self) -> Turns:
        """Return the conversation up to this question, in LLaVA's format, one `<image>` for each medium."""
        speakers = ("human", "gpt")
        texts = [*self.history, self.prompt]
        turns = [{"from": speakers[place % 2], "value": text} for place, text in enumerate(texts)]
        if self.system is not None:
            turns[0]["system"] = self.system
        return turns

    @property
    def source(self) -> str | None:
        """The file of its first image or video, or the first file of its frames; `None` for text alone."""
        return str(self.media[0].files[0]) if self.media else None

    @property
    def has_video(self) -> bool:
        """Whether it shows a video."""
        return any(medium.is_video() for medium in self.media)


def read_questions(dataset: LazySupervisedDataset) -> list[Question]:
    """Return all questions of a test set, in order. Each has the true turns before it as history, and the images and
    videos that are shown up to it.

    A sample may describe its questions: `kinds` has a name for each question, and `choices` has a list of texts for
    each question.

    Raises:
        DataFormatError: `kinds` or `choices` of a sample do not describe its questions (`data.choices`).

    Lesson: 07.
    """
    return [question for index in range(len(dataset)) for question in _of_sample(dataset, index)]


def _of_sample(dataset: LazySupervisedDataset, index: int) -> Sequence[Question]:
    sample, name, media = dataset.samples[index], dataset.names[index], dataset.media(index)
    check_questions(sample, name)
    texts = [turn["value"] for turn in sample["conversations"]]
    found = []
    for number in range(len(texts) // 2):
        history, prompt, expected = texts[: 2 * number], texts[2 * number], texts[2 * number + 1]
        shown = sum(text.count(DEFAULT_IMAGE_TOKEN) for text in [*history, prompt])
        kind = sample["kinds"][number] if "kinds" in sample else None
        choices = sample["choices"][number] if "choices" in sample else None
        found.append(
            Question(
                name,
                tuple(media[:shown]),
                prompt,
                expected,
                kind,
                tuple(choices) if choices else None,
                tuple(history),
                sample.get("system") or None,
            )
        )
    return found
