"""Which tokens are learned: exact labels, from the spans that the template marks as answers.                Lesson 3

A label is the token id where the model should learn and -100 where it should not. The original LLaVA code finds the
answers by counting tokens (`counting`). `exact` does not count: the template says which spans are answers, and the text
is tokenized piece by piece. This module knows nothing about pixels or models.
"""

import warnings
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from fvv_lib.errors import DataFormatError, LabelMismatchError
from fvv_lib.labels.counting import TOLERANCE, count_labels
from fvv_lib.prompt.placeholders import (
    DEFAULT_IMAGE_TOKEN,
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
    bos_ids,
)
from fvv_lib.prompt.templates import Piece, check_turns, get_template
from fvv_lib.video_config import CHOICES

MISMATCH_MODES = CHOICES["mismatch"]


def preprocess(
    sources: Sequence[Sequence[dict[str, str]]],
    tokenizer: PreTrainedTokenizerBase,
    has_image: bool = False,
    version: str = "qwen_2",
    mismatch: str = "exact",
    names: Sequence[str] | None = None,
) -> dict[str, list[torch.Tensor]]:
    """Tokenize conversations and label their answers.

    Args:
        sources: LLaVA conversations, `<image>` already expanded to one per frame.
        has_image: whether the text may hold `<image>`; False and an `<image>` in the text is an error.
        version: the template; see `conversation_templates`.
        mismatch: `exact`, from the answers' spans: no mismatch is possible. `strict`: the original algorithm, which
            drops a sample whose lengths do not add up. `tolerant`: the described one, which takes the separator's
            length from the tokenizer and accepts up to 5 tokens. The last two warn when lengths differ, with both
            counts.

        names: what each conversation is called in errors and warnings.

    Returns:
        `input_ids` and `labels`: for each conversation an int64 tensor (L,), placeholders as -200, ignored labels -100.

    Raises:
        DataFormatError: a malformed conversation, an unknown template, an `<image>` where none may be.
        LabelMismatchError: an unknown mode.

    Source: LLaVA (Liu et al., 2023), `preprocess_qwen_2` and `preprocess_v1`. Lesson: 03.
    """
    if mismatch not in MISMATCH_MODES:
        raise LabelMismatchError(f"Unknown mismatch mode {mismatch!r}: choose one of {', '.join(MISMATCH_MODES)}.")
    template = get_template(version)
    input_ids, labels = [], []
    for number, turns in enumerate(sources):
        name = names[number] if names else f"conversation {number}"
        check_turns(turns, name)
        pieces = template.render(turns, name)
        if not has_image and any(DEFAULT_IMAGE_TOKEN in piece.text for piece in pieces):
            raise DataFormatError(
                f"{name}: the text has {DEFAULT_IMAGE_TOKEN}, but the sample has no picture or video."
            )
        if mismatch == "exact":
            ids, learned = tokenize_pieces(pieces, tokenizer)
        else:
            counted = count_labels(pieces, tokenizer, template, fixed_separator=mismatch == "strict")
            ids, learned = counted.input_ids, counted.labels
            tolerance = TOLERANCE if mismatch == "tolerant" else 0
            if counted.difference:
                dropped = abs(counted.difference) > tolerance
                warnings.warn(
                    f"{name}: tokenization mismatch: {counted.counted} tokens counted, {counted.total} in the text "
                    f"(difference {counted.difference:+d}); the sample is {'dropped' if dropped else 'used as it is'}.",
                    stacklevel=2,
                )
                if dropped:
                    learned = [IGNORE_INDEX] * len(ids)
        input_ids.append(torch.tensor(ids, dtype=torch.long))
        labels.append(torch.tensor(learned, dtype=torch.long))
    return {"input_ids": input_ids, "labels": labels}


def check_template(version: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Warn where the end mark of a template is not one token: the tokenizer was not made for this template.

    Exact labels are right even so, but the model has never seen such an end. In the described system, which fell back
    to `v1` with Qwen's tokenizer in silence, this warning would have named the cause of every mismatch.

    Lesson: 03.
    """
    stop = get_template(version).stop
    tokens = tokenizer.tokenize(stop)
    if stop.strip() and len(tokens) > 1:
        warnings.warn(
            f"version={version!r} ends an answer with {stop!r}, which this tokenizer cuts into {tokens}: the model was "
            "taught with another template. Choose its own: qwen_2 for FastVLM, v1 for LLaVA-1.5.",
            stacklevel=2,
        )


def tokenize_pieces(pieces: Sequence[Piece], tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Tokenize a rendered conversation and label its learned pieces: ids and labels, both of length L.

    The text is tokenized whole as long as no token crosses the border of an answer: the tokens of `run + piece` must
    begin with the tokens of `run`. Where one does cross (a tokenizer that merges `>` and `USER` in `</s>USER:`), the
    text is cut at the border, as it is when the model generates: there, nothing follows the answer yet.
    """
    ids, labels = bos_ids(tokenizer), [IGNORE_INDEX] * len(bos_ids(tokenizer))
    run, run_ids = "", list[int]()  # the text since the last cut, and its tokens
    for piece in pieces:
        for i, text in enumerate(piece.text.split(DEFAULT_IMAGE_TOKEN)):
            if i > 0:
                ids.append(IMAGE_TOKEN_INDEX)
                labels.append(IGNORE_INDEX)
                run, run_ids = "", []
            joined = tokenizer(run + text, add_special_tokens=False).input_ids
            if joined[: len(run_ids)] == run_ids:
                new, run, run_ids = joined[len(run_ids) :], run + text, joined
            else:
                new = tokenizer(text, add_special_tokens=False).input_ids
                run, run_ids = text, new
            ids += new
            labels += new if piece.learned else [IGNORE_INDEX] * len(new)
    return ids, labels
