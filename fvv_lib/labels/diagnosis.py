"""How counted labels differ from exact ones, for one conversation.                                         Lesson 3"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from fvv_lib.errors import LabelMismatchError
from fvv_lib.labels.counting import count_labels
from fvv_lib.labels.exact import check_all_learned, tokenize_pieces
from fvv_lib.prompt.placeholders import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX, IMAGE_TOKEN_INDEX
from fvv_lib.prompt.templates import check_turns, get_template


@dataclass
class MismatchReport:
    """How counted labels differ from exact ones, for one conversation.

    Attributes:
        counted, total: the two lengths that the counting algorithm compares.
        tokens: the text of every token.
        exact, by_counting: labels, both (L,), -100 for tokens that are not learned.
        first_difference: the position of the first token whose labels differ, `None` if all are equal.
        learned, missed: the text that counting would learn although it is not part of an answer, and the answer text
            that counting would not learn.
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
    turns: Sequence[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    version: str = "qwen_2",
    fixed_separator: bool = True,
) -> MismatchReport:
    """Compare counted labels (before a sample is dropped) with exact ones.

    Args:
        turns: one LLaVA conversation with `<image>` already expanded.
        version: the template; see `conversation_templates`.
        fixed_separator: see `count_labels`.

    Raises:
        DataFormatError: the conversation is malformed, or the template has no counting algorithm.
        LabelMismatchError: a token crosses the boundary of an answer, so the two methods produce different tokens; or
            an answer is marked as not learned, which counting does not support.

    Lesson: 03.
    """
    check_turns(turns, "conversation")
    check_all_learned(turns, "conversation", "counting")
    template = get_template(version)
    pieces = template.render(turns)
    ids, exact = tokenize_pieces(pieces, tokenizer)
    counted = count_labels(pieces, tokenizer, template, fixed_separator)
    if ids != counted.input_ids:
        raise LabelMismatchError(
            f"With the template {version!r} this tokenizer merges the end of an answer with the next text: labels "
            "cannot be compared token by token. Use the model's own template (FastVLM: qwen_2)."
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
