"""Make the prompts of training, and generate greedy answers to them.                                       Lesson 7

A model is asked with exactly the words, frames and tokens of training: the prompt is the text rendered for training, up
to the start of the answer. This module knows nothing about training, test sets or scores.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, TextStreamer

from fvv_lib.labels.exact import tokenize_pieces
from fvv_lib.model.video_model import VideoMixin
from fvv_lib.prompt.templates import get_template


def prompt_ids(
    turns: Sequence[dict[str, str]], tokenizer: PreTrainedTokenizerBase, version: str, sample: str = "conversation"
) -> list[int]:
    """Return the token ids of a conversation that ends with a question, up to the start of its answer, as in training.

    Args:
        turns: LLaVA turns, `<image>` already expanded; each becomes -200.
        version: the chat template.
        sample: the name of the conversation in errors.

    Lesson: 07.
    """
    return tokenize_pieces(get_template(version).render(turns, sample), tokenizer)[0]


class AnswerStreamer(TextStreamer):
    """Pass an answer to `write` in pieces while it is generated, up to its end mark."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end: re.Pattern[str], write: Callable[[str], Any]) -> None:
        super().__init__(tokenizer, skip_prompt=True)
        self.end_mark, self.write, self.over = end, write, False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if not self.over:
            answer, *rest = self.end_mark.split(text)
            self.over = bool(rest)
            self.write(answer)


def generate_answers(
    model: VideoMixin,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    images: Sequence[torch.Tensor],
    version: str,
    max_new_tokens: int = 32,
    write: Callable[[str], Any] | None = None,
) -> list[str]:
    """Generate greedy answers to a batch of prompts.

    Args:
        prompts: token ids, see `prompt_ids`.
        images: the frames of each prompt, uint8 (T, 3, S, S); T may be 0.
        version: the chat template; its end mark ends an answer.
        max_new_tokens: the most tokens that an answer may have, its end mark included.
        write: called with each piece of the answer as soon as it is generated; only for a batch of one.

    Returns:
        B answers, without their end marks.

    Lesson: 07.
    """
    template = get_template(version)
    ends = [template.stop, tokenizer.pad_token, tokenizer.eos_token]
    end = re.compile("|".join(re.escape(mark) for mark in ends if mark))
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
        streamer=write and AnswerStreamer(tokenizer, end, write),
    )
    model.train(was_training)
    return [end.split(text)[0].strip() for text in tokenizer.batch_decode(output, skip_special_tokens=False)]
