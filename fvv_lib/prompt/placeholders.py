"""`<image>` placeholders: expansion, the -200 sentinel, the token budget.                                 Lesson 2

In text, an image is the placeholder `<image>`. A video is expanded to one placeholder per frame. In the token ids, each
placeholder is the sentinel -200, which no tokenizer produces. The model later replaces each sentinel with the K
features of one frame. So the length of the sequence is known before the model runs:

    expanded length = text tokens + frames * tokens per frame

This module knows nothing about pixels, templates or models. It imports torch only to return a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fvv_lib.errors import DataFormatError, FvvError, TokenBudgetError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

IMAGE_TOKEN_INDEX = -200  #: marks the position of a frame's features in `input_ids`
DEFAULT_IMAGE_TOKEN = "<image>"  #: marks the position of an image, a video or a frame in text
IGNORE_INDEX = -100  #: the label of a token that is not learned

Times = Sequence[Sequence[float]]


def expand_image_tokens(text: str, num_frames: int | Sequence[int], timestamps: Times | None = None) -> str:
    """Repeat each `<image>` of the text once per frame: `"<image>\\nWhat?"`, 3 -> `"<image><image><image>\\nWhat?"`.

    Args:
        num_frames: one frame count for all placeholders, or one count per placeholder in order. A still image has 1.
        timestamps: for each placeholder, the times of its frames in seconds, or an empty sequence (a still image). Each
            time is written before its frame: `"<0.0s><image><1.5s><image><3.0s><image>\\nWhat?"`. Such a time mark is
            plain text, which every tokenizer can read. Its number of tokens depends on the tokenizer.

    Raises:
        DataFormatError: the number of counts differs from the number of placeholders, or the number of times from the
            number of frames.
        FvvError: a count is less than 1.

    The described system moves one placeholder to the front and drops the others. This function keeps their order and
    positions. Lesson: 02.
    """
    pieces = text.split(DEFAULT_IMAGE_TOKEN)
    counts = [num_frames] * (len(pieces) - 1) if isinstance(num_frames, int) else list(num_frames)
    if len(counts) != len(pieces) - 1:
        raise DataFormatError(
            f"The text has {len(pieces) - 1} {DEFAULT_IMAGE_TOKEN} but {len(counts)} pictures or videos were given: "
            f"write one {DEFAULT_IMAGE_TOKEN} for each. Text: {text[:80]!r}"
        )
    if any(count < 1 for count in counts):
        raise FvvError(f"Each picture or video must have at least one frame, got {counts}.")
    times = [()] * len(counts) if timestamps is None else list(timestamps)
    if len(times) != len(counts) or any(len(some) not in (0, count) for some, count in zip(times, counts, strict=True)):
        raise DataFormatError(f"There are {counts} frames, but times for {[len(of) for of in times]}.")
    runs = [_run(count, of) for count, of in zip(counts, times, strict=True)]
    return pieces[0] + "".join(run + piece for run, piece in zip(runs, pieces[1:], strict=True))


def _run(count: int, times: Sequence[float]) -> str:
    marks = [f"<{time:.1f}s>" for time in times] if len(times) else [""] * count
    return "".join(mark + DEFAULT_IMAGE_TOKEN for mark in marks)


def preprocess_multimodal(
    sources: Sequence[Sequence[dict[str, Any]]],
    data_args: Any = None,
    num_frames: int | Sequence[int] = 1,
    timestamps: Times | None = None,
) -> list[list[dict[str, Any]]]:
    """Expand the placeholders of LLaVA conversations.

    Args:
        sources: conversations, each a list of `{"from": "human" | "gpt", "value": text}`.
        data_args: ignored; the described signature has it.
        num_frames, timestamps: as in `expand_image_tokens`, for the placeholders of all turns of a conversation.

    Returns:
        New conversations. The described system edits its input; this function leaves `sources` unchanged.

    Raises:
        DataFormatError: the number of placeholders in a conversation differs from the number of counts.

    Lesson: 02.
    """
    expanded = []
    for source in sources:
        placeholders = sum(turn["value"].count(DEFAULT_IMAGE_TOKEN) for turn in source)
        counts = [num_frames] * placeholders if isinstance(num_frames, int) else list(num_frames)
        if len(counts) != placeholders:
            raise DataFormatError(
                f"The conversation has {placeholders} {DEFAULT_IMAGE_TOKEN} but {len(counts)} pictures or videos: "
                f"write one {DEFAULT_IMAGE_TOKEN} for each."
            )
        turns, start = [], 0
        for turn in source:
            end = start + turn["value"].count(DEFAULT_IMAGE_TOKEN)
            times = None if timestamps is None else timestamps[start:end]
            turns.append({**turn, "value": expand_image_tokens(turn["value"], counts[start:end], times)})
            start = end
        expanded.append(turns)
    return expanded


def tokenizer_image_token(
    prompt: str, tokenizer: PreTrainedTokenizerBase, return_tensors: str | None = None
) -> list[int] | torch.Tensor:
    """Tokenize a prompt. Each `<image>` becomes `IMAGE_TOKEN_INDEX` (-200), as in LLaVA's function of this name.

    Returns:
        A list of ids, or int64 (L,) with `return_tensors="pt"`. If the tokenizer adds BOS, it is at the start only.

    Raises:
        FvvError: `return_tensors` is neither `None` nor "pt".

    Lesson: 02.
    """
    if return_tensors not in (None, "pt"):
        raise FvvError(f"return_tensors must be None or 'pt', got {return_tensors!r}.")
    ids = bos_ids(tokenizer)
    for i, chunk in enumerate(prompt.split(DEFAULT_IMAGE_TOKEN)):
        if i > 0:
            ids.append(IMAGE_TOKEN_INDEX)
        ids += tokenizer(chunk, add_special_tokens=False).input_ids
    if return_tensors is None:
        return ids
    import torch

    return torch.tensor(ids, dtype=torch.long)


def bos_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return a list with the id of the BOS token, empty if the tokenizer adds none (Llama adds it, Qwen does not)."""
    first = tokenizer("a").input_ids[0]
    return [first] if first == tokenizer.bos_token_id else []


def expanded_length(input_ids: Sequence[int] | torch.Tensor, tokens_per_frame: int) -> int:
    """Return the sequence length after each sentinel becomes `tokens_per_frame` features. Lesson: 02."""
    return len(input_ids) + _count_frames(input_ids) * (tokens_per_frame - 1)


def sequence_runs(
    input_ids: Sequence[int] | torch.Tensor, tokens_per_frame: int, labels: Sequence[int] | torch.Tensor | None = None
) -> list[tuple[str, int]]:
    """Return the expanded sequence as runs of (kind, positions).

    The kinds are `text`, `answer` (text with labels) and `frame` (one run per frame). `plotting.plot_sequence` draws
    them. Lesson: 02.
    """
    runs: list[tuple[str, int]] = []
    learned = [False] * len(input_ids) if labels is None else [int(label) != IGNORE_INDEX for label in labels]
    for token, is_learned in zip(input_ids, learned, strict=True):
        if int(token) == IMAGE_TOKEN_INDEX:
            runs.append(("frame", tokens_per_frame))
            continue
        kind = "answer" if is_learned else "text"
        if runs and runs[-1][0] == kind:
            runs[-1] = (kind, runs[-1][1] + 1)
        else:
            runs.append((kind, 1))
    return runs


def _count_frames(input_ids: Sequence[int] | torch.Tensor) -> int:
    ids = input_ids if isinstance(input_ids, Sequence) else input_ids.tolist()
    return ids.count(IMAGE_TOKEN_INDEX)


def check_token_budget(
    input_ids: Sequence[int] | torch.Tensor,
    tokens_per_frame: int,
    max_length: int,
    sample: str,
    setting: str = "num_video_frames",
) -> int:
    """Return the expanded length of a sample. Raise an error if it exceeds `max_length`. It names the `setting`
    that limits the number of frames.

    The described system truncates long samples. With 8 frames of 256 tokens and `model_max_length=2048`, this removes
    the whole answer: no labels remain and the loss is 0 or NaN.

    Raises:
        TokenBudgetError: the sample is too long. The message names the sample, the counts and possible fixes.

    Lesson: 02.
    """
    length = expanded_length(input_ids, tokens_per_frame)
    if length > max_length:
        frames = _count_frames(input_ids)
        text = length - frames * tokens_per_frame
        fit = (max_length - text) // tokens_per_frame
        fewer = f"at most {fit} frames in all ({setting}), " if frames and fit > 0 else ""
        smaller = "smaller pictures (fewer tokens per frame), " if frames else ""
        raise TokenBudgetError(
            f"{sample}: {length} tokens = {text} of text + {frames} frames x {tokens_per_frame}, but model_max_length "
            f"is {max_length}. Use {fewer}{smaller}shorter text, or a model_max_length of {length} if the model "
            "allows it."
        )
    return length
