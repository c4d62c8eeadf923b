"""Exact labels: which tokens are learned, from the spans that the template marks as answers.              Lesson 3

The label of a learned token is its id. The label of any other token is -100. The original LLaVA code finds the answers
by counting tokens (`counting`). This module does not count: the template marks the answers, and the text is tokenized
piece by piece. It knows nothing about pixels or models.
"""

import re
import warnings
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

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
from fvv_lib.prompt.templates import Piece, check_turns, get_template, is_learned
from fvv_lib.video_config import CHOICES

MISMATCH_MODES = CHOICES["mismatch"]


def preprocess(
    sources: Sequence[Sequence[dict[str, Any]]],
    tokenizer: PreTrainedTokenizerBase,
    has_image: bool = False,
    version: str = "qwen_2",
    mismatch: str = "exact",
    names: Sequence[str] | None = None,
) -> dict[str, list[torch.Tensor]]:
    """Tokenize conversations and label their answers.

    Args:
        sources: LLaVA conversations with `<image>` already expanded to one per frame. An answer with `"loss": false` or
            `"weight": 0` is part of the input, but neither the answer nor its end mark is learned.
        has_image: whether the text may contain `<image>`. If False, an `<image>` in the text is an error.
        version: the template; see `conversation_templates`.
        mismatch: how labels are found. `exact` uses the spans of the answers: no mismatch is possible. `strict` is the
            original algorithm, which drops a sample if its lengths do not add up. `tolerant` is the described one,
            which counts the separator's tokens with the tokenizer and accepts a difference of up to 5 tokens. The last
            two warn if the lengths differ, and raise an error if an answer is marked as not learned.
        names: the name of each conversation in errors and warnings.

    Returns:
        `input_ids` and `labels`: one int64 tensor (L,) per conversation. Placeholders are -200, ignored labels -100.

    Raises:
        DataFormatError: a malformed conversation, an unknown template, or an `<image>` without `has_image`.
        LabelMismatchError: an unknown mode, or an answer marked as not learned in a mode other than `exact`.

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
            check_all_learned(turns, name, f"mismatch={mismatch!r}")
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
    """Warn if the end mark of a template is not a single token: the tokenizer was not made for this template.

    Exact labels are still correct, but the model has never seen this end mark. The described system silently falls back
    to `v1` with Qwen's tokenizer. There, this warning would name the cause of every mismatch.

    Lesson: 03.
    """
    stop = get_template(version).stop
    tokens = tokenizer.tokenize(stop)
    if stop.strip() and len(tokens) > 1:
        warnings.warn(
            f"version={version!r} ends an answer with {stop!r}, which this tokenizer splits into {tokens}: the model "
            "was trained with another template. Use the model's own: qwen_2 for FastVLM, v1 for LLaVA-1.5.",
            stacklevel=2,
        )


def check_all_learned(turns: Sequence[dict[str, Any]], name: str, counting: str) -> None:
    """Raise a LabelMismatchError if an answer is marked as not learned: the counting algorithm learns all answers."""
    for number, turn in enumerate(turns[1::2], 1):
        if not is_learned(turn):
            raise LabelMismatchError(
                f"{name}, turn {2 * number}: it is marked as not learned, which {counting} does not support. Use "
                "mismatch='exact', or remove the mark."
            )


class OwnTokens(NamedTuple):
    """The added tokens that a tokenizer finds in the raw text before any other step, such as the marks of its template.

    Attributes:
        pattern: matches each of these tokens, longest first, as the tokenizer does; `None` if there are none.
        cutting: the tokens at which a text can be cut. The tokens before such a token do not depend on it or on the
            text after it. From such a token on, the tokens do not depend on the text before it. So the text can be
            tokenized in two parts.
    """

    pattern: re.Pattern[str] | None
    cutting: frozenset[str]


def own_tokens(tokenizer: Any) -> OwnTokens:
    """Return the added tokens that a tokenizer finds in the raw text, and those that are safe to cut at.

    A fast tokenizer finds these tokens before it normalizes the text. A token is not safe to cut at if it absorbs
    spaces beside it, needs a word boundary, or touches the words beside it (starts with a letter or digit). For a
    tokenizer in Python nothing is known, so no token is safe.
    """
    if not getattr(tokenizer, "is_fast", False) or tokenizer.split_special_tokens:
        return OwnTokens(None, frozenset())
    return _own_tokens(tuple(tokenizer.added_tokens_decoder.values()))


@lru_cache(maxsize=8)  # samples share their tokenizer
def _own_tokens(added: tuple[Any, ...]) -> OwnTokens:
    raw = [token for token in added if not token.normalized and token.content]
    cutting = frozenset(
        token.content
        for token in raw
        if not (token.single_word or token.lstrip or token.rstrip)
        and token.content == token.content.strip()
        and not re.match(r"\w", token.content)
    )
    longest_first = sorted((token.content for token in raw), key=len, reverse=True)
    return OwnTokens(re.compile("|".join(map(re.escape, longest_first))) if raw else None, cutting)


def tokenize_pieces(pieces: Sequence[Piece], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Tokenize a rendered conversation and label its learned pieces. Return ids and labels, both of length L.

    The text is tokenized as a whole as long as no token crosses the boundary of an answer: the tokens of `run + piece`
    must start with the tokens of `run`. If a token crosses the boundary (a tokenizer that merges `>` and `USER` in
    `</s>USER:`), the text is cut there. Generation has the same cut, because nothing follows the answer yet.

    A run ends before each token at which the text can be cut (`OwnTokens.cutting`), so the time grows linearly with the
    length of a conversation. If the template's marks are not tokens of the tokenizer (`v1` with Qwen2's tokenizer), a
    run is the whole conversation, and the time grows with the square of its length.
    """
    start = bos_ids(tokenizer)
    ids, labels = list(start), [IGNORE_INDEX] * len(start)
    own = own_tokens(tokenizer)

    @cache  # many parts repeat: end marks, starts of answers
    def ids_of(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        return found

    @cache  # between the frames of a video, all are equal
    def tokens_of(stretch: tuple[Piece, ...]) -> tuple[list[int], list[int]]:
        new_ids, new_labels = list[int](), list[int]()
        run, run_ids = "", list[int]()  # the text since the last cut, and its tokens
        for part, starts_run in _parts(stretch, own):
            if starts_run:
                run, run_ids = "", []
            joined = ids_of(run + part.text)
            if joined[: len(run_ids)] == run_ids:
                new, run, run_ids = joined[len(run_ids) :], run + part.text, joined
            else:
                new = ids_of(part.text)
                run, run_ids = part.text, new
            new_ids += new
            new_labels += new if part.learned else [IGNORE_INDEX] * len(new)
        return new_ids, new_labels

    for number, stretch in enumerate(_between_images(pieces)):
        if number > 0:
            ids.append(IMAGE_TOKEN_INDEX)
            labels.append(IGNORE_INDEX)
        new_ids, new_labels = tokens_of(stretch)
        ids += new_ids
        labels += new_labels
    return ids, labels


def _between_images(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, ...]]:
    """Yield the pieces before the first `<image>`, between the first and the second, ... and after the last. There are
    none between two frames of a video."""
    stretch: list[Piece] = []
    for piece in pieces:
        first, *others = piece.text.split(DEFAULT_IMAGE_TOKEN)
        stretch.append(Piece(first, piece.learned))
        for text in others:
            yield tuple(stretch)
            stretch = [Piece(text, piece.learned)] if text else []
    yield tuple(stretch)


def _parts(stretch: Sequence[Piece], own: OwnTokens) -> Iterator[tuple[Piece, bool]]:
    """Cut pieces without `<image>` before each token of `own.cutting`. Yield each part, and whether it starts with one.

    If an own token crosses the boundary of two pieces, one of them alone has other own tokens than the whole text. Then
    nothing is cut.
    """
    whole = "".join(piece.text for piece in stretch)
    borders = list(accumulate(len(piece.text) for piece in stretch))
    found = [] if own.pattern is None else [match.span() for match in own.pattern.finditer(whole)]
    at = set(borders)
    crossed = any(at.intersection(range(first + 1, last)) for first, last in found)
    cuts = [] if crossed else [first for first, last in found if whole[first:last] in own.cutting]
    place = 0
    for piece, border in zip(stretch, borders, strict=True):
        inside = cuts[bisect_left(cuts, place) : bisect_left(cuts, border)]
        begins = inside if inside[:1] == [place] else [place, *inside]
        for begin, end in pairwise([*begins, border]):
            yield Piece(whole[begin:end], piece.learned), begin != place or begins is inside
        place = border
