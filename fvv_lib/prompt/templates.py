"""Chat templates, and which spans of the rendered text are learned.                                       Lesson 2

A chat template renders the turns of a conversation as one text. Labels follow from the template, so `render` returns
the text *in pieces*. Each piece is marked as learned (an answer with its end mark) or given (everything else):

    <|im_start|>assistant\\n | It is red.<|im_end|>\\n | <|im_start|>user\\n ...
          given                     learned                   given

A generation prompt is the same text up to the start of the answer. So the prompt of a question is exactly the text that
the model was trained on. This module knows nothing about tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fvv_lib.errors import DataFormatError

ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
LEARNED_MARKS = ("loss", "weight")  # keys of a turn; false or 0 means that it is not learned


class Piece(NamedTuple):
    """A span of rendered text, and whether its tokens are learned."""

    text: str
    learned: bool


@dataclass(frozen=True)
class Template:
    """A chat template: the strings before, between and after the turns.

    Attributes:
        system: the text before the first turn.
        human: the text around a question; `{}` is the place of the question.
        answer_start, answer_end: the text before and after an answer. The end mark is learned, so that the model stops.
        stop: the text that ends a generated answer.
        answer_prefix: a space before the answer, which belongs to the answer. Most tokenizers put a space and the next
            word into one token. After a prompt that ends with the space, the model would have to continue with tokens
            that never follow it in training.
        first_human: used in place of `human` for the first turn; `None` if both are the same.
        own_system: used in place of `system` if the conversation has a system prompt of its own; `{}` is its place.
            `None`: the template cannot have one.
        own_first_human: used in place of `first_human` after `own_system`; `None` if both are the same.
        marks: the strings that separate turns. Inside the text of a turn, a mark would start or end a turn. The line
            break of `plain` is not a mark, because captions may have several lines.
    """

    name: str
    system: str
    human: str
    answer_start: str
    answer_end: str
    stop: str
    answer_prefix: str = ""
    first_human: str | None = None
    own_system: str | None = None
    own_first_human: str | None = None
    marks: tuple[str, ...] = ()

    def render(self, turns: Sequence[dict[str, Any]], sample: str = "conversation") -> list[Piece]:
        """Render LLaVA turns (`{"from": "human" | "gpt", "value": text}`) to pieces. Their joined text is the prompt.

        If the conversation ends with a question, the text ends where the answer would start: this is the generation
        prompt. Each answer is a piece. `is_learned` determines whether the piece is marked as learned.

        A `system` field of the first turn is the system prompt, in place of the template's own. It is never learned.

        Raises:
            DataFormatError: the conversation is malformed, see `check_turns`, or has a system prompt that the template
                cannot have. The message names the sample.
        """
        check_turns(turns, sample, needs_answer=False)
        pieces: list[Piece] = []
        given, first_human = self._start(turns[0].get("system"), sample)
        for i, turn in enumerate(turns):
            if i % 2 == 0:
                human = first_human if i == 0 else self.human
                before, after = human.split("{}")
                given += before + turn["value"] + after + self.answer_start
            else:
                pieces += [
                    Piece(given, False),
                    Piece(self.answer_prefix + turn["value"] + self.answer_end, is_learned(turn)),
                ]
                given = ""
        return [*pieces, Piece(given, False)] if given else pieces

    def _start(self, own: str | None, sample: str) -> tuple[str, str]:
        """Return the text before the first turn, and the text around the first question."""
        first_human = self.human if self.first_human is None else self.first_human
        if own is None:
            return self.system, first_human
        if self.own_system is None:
            raise DataFormatError(
                f"{sample}: it has a system prompt, but the template {self.name!r} has no place for one. Remove "
                "'system', or use another template."
            )
        before, after = self.own_system.split("{}")
        return before + own + after, first_human if self.own_first_human is None else self.own_first_human


_QWEN_2 = Template(
    name="qwen_2",
    system="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
    human="<|im_start|>user\n{}<|im_end|>\n",
    answer_start="<|im_start|>assistant\n",
    answer_end="<|im_end|>\n",
    stop="<|im_end|>",
    own_system="<|im_start|>system\n{}<|im_end|>\n",
    marks=("<|im_start|>", "<|im_end|>"),
)
_V1 = Template(
    name="v1",
    system="A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. ",
    human="USER: {} ",
    answer_start="ASSISTANT:",
    answer_prefix=" ",
    answer_end="</s>",
    stop="</s>",
    own_system="{} ",
    marks=("USER:", "ASSISTANT:", "</s>"),
)
_PLAIN = Template(
    name="plain", system="", human="{}", answer_start="", answer_end="\n", stop="\n"
)  # projector pre-training: an image and its caption
_LLAMA_2 = Template(
    name="llama_2",
    system="",
    first_human="[INST] <<SYS>>\nYou are a helpful language and vision assistant. You are able to understand the "
    "visual content that the user provides, and assist the user with a variety of tasks using natural language."
    "\n<</SYS>>\n\n"
    "{} ",
    own_system="[INST] <<SYS>>\n{}\n<</SYS>>\n\n",
    own_first_human="{} ",
    human="<s>[INST] {} ",
    answer_start="[/INST]",
    answer_prefix=" ",
    answer_end=" </s>",
    stop="</s>",
    marks=("<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
)

#: The templates by name: `qwen_2` (FastVLM), `v1` (LLaVA-1.5), `plain`, `llama_2`.
conversation_templates: dict[str, Template] = {t.name: t for t in (_QWEN_2, _V1, _PLAIN, _LLAMA_2)}

# `qwen_2` in Jinja, which the processors of stock transformers render. It is saved with every FastVLM.
QWEN_2_JINJA = (
    "{% if not messages or messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ '<image>\n' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def get_template(version: str) -> Template:
    """Return the template with this name.

    Raises:
        DataFormatError: the name is unknown. The message lists the known names. (The described system silently falls
            back to `v1`. Its "tokenization mismatches" come from this: a Vicuna template with a Qwen tokenizer.)
    """
    if version not in conversation_templates:
        known = ", ".join(conversation_templates)
        raise DataFormatError(f"Unknown template {version!r}: choose one of {known} (FastVLM uses qwen_2).")
    return conversation_templates[version]


def is_learned(turn: Mapping[str, Any]) -> bool:
    """Return whether a turn is learned. An answer is learned unless its `loss` or `weight` is false or 0.

    A question is never learned. Its marks are ignored, because exporters write the same mark to every turn.
    """
    return ROLES[turn["from"]] == "gpt" and all(turn.get(key) in (None, 1) for key in LEARNED_MARKS)


def check_turns(turns: Sequence[dict[str, Any]], sample: str, needs_answer: bool = True) -> None:
    """Check that a conversation is well-formed.

    Turns must alternate between human and gpt, and no text may be empty. `loss` and `weight` of a turn, if set, must be
    true or 1, or false or 0.

    Raises:
        DataFormatError: the conversation is malformed. The message names the sample, the turn and the fix.
    """
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise DataFormatError(f"{sample}: it has no conversation. Give a list of turns, human first, then gpt.")
    for i, turn in enumerate(turns):
        where = f"{sample}, turn {i + 1}"
        if isinstance(turn, dict) and isinstance(turn.get("value"), list):
            raise DataFormatError(
                f"{where}: its value is a list of content parts. Write one text, with <image> where a picture or video "
                "belongs, and its path under 'image' or 'video' of the sample."
            )
        if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys() or not isinstance(turn["value"], str):
            raise DataFormatError(f'{where}: a turn must be {{"from": "human" or "gpt", "value": text}}, got {turn!r}.')
        if turn["from"] not in ROLES:
            raise DataFormatError(
                f"{where}: unknown role {turn['from']!r}. Use 'human' for questions, 'gpt' for answers."
            )
        expected = "human" if i % 2 == 0 else "gpt"
        if ROLES[turn["from"]] != expected:
            raise DataFormatError(
                f"{where}: expected a turn from {expected!r}, got {turn['from']!r}. Turns must alternate, human first."
            )
        if not turn["value"].strip():
            raise DataFormatError(f"{where}: the text is empty. Remove the turn or fill it in.")
        if "loss" in turn or "weight" in turn:
            _check_learned_marks(turn, where)
    if needs_answer and len(turns) % 2:
        raise DataFormatError(
            f"{sample}: the conversation ends with a question, so its last turn has no answer to learn. "
            "Add a turn from 'gpt' or remove the question."
        )


def _check_learned_marks(turn: Mapping[str, Any], where: str) -> None:
    marks = {key: turn[key] for key in LEARNED_MARKS if turn.get(key) is not None}
    for key, mark in marks.items():
        if mark not in (0, 1):  # False and True are equal to 0 and 1
            raise DataFormatError(
                f"{where}: {key!r} must be true or 1 (learned), or false or 0 (not learned), got {mark!r}. An answer "
                "is learned in full or not at all."
            )
    if len(set(marks.values())) > 1:
        raise DataFormatError(f"{where}: 'loss' and 'weight' contradict each other, got {marks!r}. Leave one out.")
