"""Labels by counting tokens, as in LLaVA and the described system. For study, not the default.            Lesson 3

The original code tokenizes each round again and adds a constant for the separator. It assumes that these lengths add up
to the length of the whole text. If the template does not match the tokenizer, they do not, and the labels shift.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from fvv_lib.errors import DataFormatError
from fvv_lib.prompt.placeholders import IGNORE_INDEX, IMAGE_TOKEN_INDEX, tokenizer_image_token
from fvv_lib.prompt.templates import Piece, Template

TOLERANCE = 5  # difference in tokens that the described system silently accepts


@dataclass
class CountedLabels:
    """The result of counting: `labels` before a sample is dropped, and the two lengths that should be equal."""

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
        fixed_separator: True assumes that the separator of `qwen_2` has 2 tokens, as the original code does. False
            counts its tokens with the tokenizer, as the described system does.

    `_rounds` holds the assumptions about each template. The lesson breaks them. Lesson: 03.
    """
    text = "".join(piece.text for piece in pieces)
    ids = tokenizer_image_token(text, tokenizer)
    total = sum(token != tokenizer.pad_token_id for token in ids)
    labels, position = list(ids), 0
    if template.name in ("v1", "llama_2"):  # the algorithm assumes a BOS token
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
    """Split the text into rounds of question and answer. Return (masked tokens, all tokens) of each round."""

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
        else:  # 1 for the space, which is part of the answer's first token, and 1 for BOS, which is already counted
            instruction -= 2
            # Llama's tokenizer splits `USER` into `▁US`, `ER` at the start of a text. After `</s>` it is one token,
            # except with a `legacy` tokenizer, which adds a space there, too.
            if number and template.name == "v1" and not getattr(tokenizer, "legacy", False):
                instruction, length = instruction - 1, length - 1
        lengths.append((instruction, length))
    return lengths


def _common_prefix(one: str, other: str, tokenizer: PreTrainedTokenizerBase) -> int:
    a, b = tokenizer_image_token(one, tokenizer), tokenizer_image_token(other, tokenizer)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
