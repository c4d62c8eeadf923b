"""Generation and scoring with the training prompt.                                                        Lesson 7

A model is asked in exactly the words, frames and tokens in which it was taught: the prompt is the training rendering,
stopped where the answer begins. This module knows nothing about training.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from fvv_lib.conversation import get_template
from fvv_lib.dataset import LazySupervisedDataset
from fvv_lib.decoding import read_media
from fvv_lib.errors import DataFormatError, FvvError
from fvv_lib.images import preprocess_frames, processor_size
from fvv_lib.labels import tokenize_pieces
from fvv_lib.loading import LoadedModel, tokens_per_frame
from fvv_lib.model import VideoMixin
from fvv_lib.tokens import DEFAULT_IMAGE_TOKEN, check_token_budget, preprocess_multimodal


@dataclass(frozen=True)
class Answer:
    """One question of a test set, and what the model said to it."""

    sample: str
    kind: str
    question: str
    expected: str
    generated: str
    correct: bool


def ask(loaded: LoadedModel, media: str | Path | Sequence[str | Path], question: str, max_new_tokens: int = 128) -> str:
    """Ask a question about a video, a picture, or several, in the way the model was trained; greedy.

    Args:
        loaded: what `load_pretrained_model` returns.
        media: one path, or several.
        question: `<image>` is put before it for each of the media, unless it stands in it already.

    Raises:
        VideoDecodeError: a file can not be read. DataFormatError: `<image>` are not as many as the media.
        TokenBudgetError: prompt and answer are longer than the model may read.
    """
    config = loaded.model.video_config
    paths = [media] if isinstance(media, str | Path) else list(media)
    size = processor_size(loaded.image_processor)
    clips = [torch.empty(0, 3, size, size, dtype=torch.uint8)]
    for path in paths:
        video = read_media(Path(path), config.num_video_frames, strategy=config.inference_sampling)
        clips.append(preprocess_frames(video.frames, size, config.image_aspect_ratio, config.background))
    name = f"The question {question[:40]!r}, with {max_new_tokens} tokens kept for its answer"
    if DEFAULT_IMAGE_TOKEN not in question:
        question = f"{DEFAULT_IMAGE_TOKEN}\n" * len(paths) + question
    turns = preprocess_multimodal([[{"from": "human", "value": question}]], None, [len(clip) for clip in clips[1:]])[0]
    prompt = tokenize_pieces(get_template(config.version).render(turns), loaded.tokenizer)[0]
    room = loaded.context_len - max_new_tokens
    check_token_budget(prompt, tokens_per_frame(loaded.model, size), room, name)
    return generate_answers(
        loaded.model, loaded.tokenizer, [turns], [torch.cat(clips)], config.version, max_new_tokens=max_new_tokens
    )[0]


def generate_answers(
    model: VideoMixin,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[dict[str, str]]],
    images: Sequence[torch.Tensor],
    version: str,
    max_new_tokens: int = 32,
) -> list[str]:
    """Answer a batch of conversations that end with a question, greedily.

    Args:
        conversations: LLaVA turns, `<image>` already expanded.
        images: for each conversation its frames, uint8 (T, 3, S, S); T may be 0.
        version: the chat template.

    Lesson: 07.
    """
    template = get_template(version)
    prompts = [tokenize_pieces(template.render(turns), tokenizer)[0] for turns in conversations]
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
    )
    model.train(was_training)
    texts = tokenizer.batch_decode(output, skip_special_tokens=False)
    ends = [template.stop, tokenizer.pad_token, tokenizer.eos_token]
    return [re.split("|".join(re.escape(end) for end in ends if end), text)[0].strip() for text in texts]


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
    questions = []
    for index, sample in enumerate(dataset.samples):
        turns = preprocess_multimodal([sample["conversations"]], None, dataset.frame_counts(index))[0]
        for number in range(len(turns) // 2):
            questions.append((index, number, turns))
    answers: list[Answer] = []
    for start in range(0, len(questions), batch_size):
        batch = questions[start : start + batch_size]
        frames = {index: dataset.frames(index) for index in {index for index, _, _ in batch}}
        asked = [turns[: 2 * number + 1] for _, number, turns in batch]
        shown = [sum(turn["value"].count(DEFAULT_IMAGE_TOKEN) for turn in turns) for turns in asked]
        generated = generate_answers(
            model,
            tokenizer,
            asked,
            [frames[index][:count] for (index, _, _), count in zip(batch, shown, strict=True)],
            dataset.data_args.version,
            max_new_tokens,
        )
        for (index, number, turns), text in zip(batch, generated, strict=True):
            answers.append(_score(dataset, index, number, turns, text))
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
