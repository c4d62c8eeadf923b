"""Which tokens are learned: exact, tolerant, strict; and the mismatch report.                             Lesson 3

A label is the token id where the model should learn and -100 where it should not. The original LLaVA code finds the
answers by *counting*: it tokenizes each round again, adds a constant for the separator, and hopes that the lengths add
up to the whole. With a template that does not suit the tokenizer they do not, and the labels slide. `exact` does not
count: the template says which spans are answers, and the text is tokenized piece by piece.

`strict` and `tolerant` are kept to be studied, not used. This module knows nothing about pixels or models.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from fvv_lib.conversation import Piece, Template, check_turns, get_template
from fvv_lib.errors import DataFormatError, LabelMismatchError
from fvv_lib.tokens import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX, IMAGE_TOKEN_INDEX, bos_ids, tokenizer_image_token

MISMATCH_MODES = ("exact", "tolerant", "strict")
TOLERANCE = 5  # tokens that `tolerant` accepts in silence in the described system


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


@dataclass
class CountedLabels:
    """What the counting algorithm finds: `labels` before anything is dropped, and the two lengths that should agree."""

    input_ids: list[int]
    labels: list[int]
    counted: int
    total: int

    @property
    def difference(self) -> int:
        return self.counted - self.total


def count_labels(
    pieces: Sequence[Piece], tokenizer: PreTrainedTokenizerBase, template: Template, fixed_separator: bool = True
) -> CountedLabels:
    """Label by counting, as LLaVA does: mask the first tokens of each round, advance by the round's length, repeat.

    Args:
        fixed_separator: take the separator of `qwen_2` to be 2 tokens, as the original does; False asks the tokenizer,
            as the described system does.

    What each template takes for granted is in `_rounds`; the lesson breaks it. Lesson: 03.
    """
    text = "".join(piece.text for piece in pieces)
    ids = tokenizer_image_token(text, tokenizer)
    total = sum(token != tokenizer.pad_token_id for token in ids)
    labels, position = list(ids), 0
    if template.name in ("v1", "llama_2"):  # these count on a BOS token
        position = 1
        labels[0] = IGNORE_INDEX
    for instruction, length in _rounds(text, tokenizer, template, fixed_separator):
        for i in range(position, min(position + instruction, len(labels))):
            labels[i] = IGNORE_INDEX
        position += length
    labels[position:] = [IGNORE_INDEX] * len(labels[position:])
    labels = [IGNORE_INDEX if label == IMAGE_TOKEN_INDEX else label for label in labels]
    return CountedLabels(list(ids), labels, position, total)


def _rounds(
    text: str, tokenizer: PreTrainedTokenizerBase, template: Template, fixed_separator: bool
) -> list[tuple[int, int]]:
    """(masked tokens, all tokens) of each round of question and answer, found by splitting the text again."""

    def size(part: str) -> int:
        return len(tokenizer_image_token(part, tokenizer))

    if template.name == "qwen_2":
        end = template.answer_end  # "<|im_end|>\n", after every turn and after the system prompt
        separator = 2 if fixed_separator else len(tokenizer(end, add_special_tokens=False).input_ids)
        parts = text.split(end)
        parts[:2] = [end.join(parts[:2])]  # the system prompt belongs to the first round
        rounds = [end.join(parts[i : i + 2]) for i in range(0, len(parts), 2)]
        split, marker = end + template.answer_start, separator
    elif template.name in ("v1", "llama_2"):
        rounds = text.split("</s>")
        split, marker = (" ASSISTANT: " if template.name == "v1" else "[/INST] "), 0
    else:
        raise DataFormatError(f"The template {template.name!r} has no counting algorithm: use mismatch='exact'.")
    lengths = []
    for number, one in enumerate(rounds):
        halves = one.split(split)
        if one == "" or len(halves) != 2:
            break
        instruction, length = size(halves[0] + split), size(one) + marker
        if template.name == "qwen_2":
            instruction = _common_prefix(one, halves[0] + split, tokenizer)
        else:  # the space after the marker joins the answer's first token, and BOS was counted once before
            instruction -= 2
            # In Llama's vocabulary `USER` is `▁US`, `ER` at the start of a text and one token after `</s>`, unless the
            # tokenizer is a `legacy` one, which puts the space there too.
            if number and template.name == "v1" and not getattr(tokenizer, "legacy", False):
                instruction, length = instruction - 1, length - 1
        lengths.append((instruction, length))
    return lengths


def _common_prefix(one: str, other: str, tokenizer: PreTrainedTokenizerBase) -> int:
    a, b = tokenizer_image_token(one, tokenizer), tokenizer_image_token(other, tokenizer)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


# --- the report -------------------------------------------------------------------------------------------------


@dataclass
class MismatchReport:
    """How counted labels differ from exact ones, for one conversation.

    Attributes:
        counted, total: the two lengths that the counting algorithm compares.
        tokens: the text of every token.
        exact, by_counting: labels, both (L,), -100 where nothing is learned.
        first_difference: the position of the first token whose label differs, None where none does.
        learned, missed: the text that counting would learn although it is no answer, and the answer text that it would
            not learn.
    """

    counted: int
    total: int
    tokens: list[str]
    exact: list[int]
    by_counting: list[int]
    first_difference: int | None
    learned: str
    missed: str

    def __str__(self) -> str:
        lines = [f"tokens counted {self.counted}, in the text {self.total}, difference {self.counted - self.total:+d}"]
        if self.first_difference is None:
            return lines[0] + "\ncounted labels equal the exact ones"
        token = self.tokens[self.first_difference]
        return "\n".join(
            [
                *lines,
                f"first differing token: {token!r} at {self.first_difference}",
                f"learned, though no answer: {self.learned!r}",
                f"answer text not learned:   {self.missed!r}",
            ]
        )


def diagnose_labels(
    turns: Sequence[dict[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    version: str = "qwen_2",
    fixed_separator: bool = True,
) -> MismatchReport:
    """Compare counted labels (before anything is dropped) with exact ones.

    Args:
        turns: one LLaVA conversation, `<image>` already expanded.
        version: the template; see `conversation_templates`.
        fixed_separator: see `count_labels`.

    Raises:
        DataFormatError: a malformed conversation, or a template without a counting algorithm.
        LabelMismatchError: a token crosses the border of an answer, so the two sides differ in their tokens already.

    Lesson: 03.
    """
    check_turns(turns, "conversation")
    template = get_template(version)
    pieces = template.render(turns)
    ids, exact = tokenize_pieces(pieces, tokenizer)
    counted = count_labels(pieces, tokenizer, template, fixed_separator)
    if ids != counted.input_ids:
        raise LabelMismatchError(
            f"With the template {version!r} this tokenizer merges the end of an answer with what follows it: labels "
            "can not be compared token by token. Use the template that belongs to the model (FastVLM: qwen_2)."
        )
    tokens = [DEFAULT_IMAGE_TOKEN if i == IMAGE_TOKEN_INDEX else tokenizer.decode([i]) for i in ids]
    differing = [i for i, (a, b) in enumerate(zip(exact, counted.labels, strict=True)) if a != b]
    return MismatchReport(
        counted.counted,
        counted.total,
        tokens,
        exact,
        counted.labels,
        differing[0] if differing else None,
        "".join(tokens[i] for i in differing if exact[i] == IGNORE_INDEX),
        "".join(tokens[i] for i in differing if exact[i] != IGNORE_INDEX),
    )
