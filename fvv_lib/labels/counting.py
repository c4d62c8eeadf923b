"""Labels by counting, as LLaVA and the described system find them: kept to be studied, not used.           Lesson 3

The original code tokenizes each round again, adds a constant for the separator, and hopes that the lengths add up to
the whole. With a template that does not suit the tokenizer they do not, and the labels slide.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from fvv_lib.errors import DataFormatError
from fvv_lib.prompt.placeholders import IGNORE_INDEX, IMAGE_TOKEN_INDEX, tokenizer_image_token
from fvv_lib.prompt.templates import Piece, Template

TOLERANCE = 5  # tokens that `tolerant` accepts in silence in the described system


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
