"""Make the prompts of training, and generate greedy answers to them.                                       Lesson 7

A model is asked with exactly the words, frames and tokens of training: the prompt is the text rendered for training, up
to the start of the answer. Prompts that begin with the same words and frames share them: keys and values of the common
prefix are computed once. This module knows nothing about training, test sets or scores.
"""

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedTokenizerBase, TextStreamer

from fvv_lib.labels.exact import tokenize_pieces
from fvv_lib.model.encoder import encode_images
from fvv_lib.model.splicing import check_sentinels, splice
from fvv_lib.model.video_model import VideoMixin
from fvv_lib.prompt.placeholders import IMAGE_TOKEN_INDEX
from fvv_lib.prompt.templates import get_template

FrameKey = tuple[Hashable, ...]  # names a frame; equal keys are equal features
Place = int | FrameKey  # of a prompt: a token, or a frame


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


class Prompt(NamedTuple):
    """A prompt whose frames are named, so that two prompts can be compared.

    Attributes:
        ids: token ids, see `prompt_ids`; each frame is -200.
        frames: the keys of its frames, in order.
    """

    ids: Sequence[int]
    frames: Sequence[FrameKey]

    def places(self) -> list[Place]:
        """Return the tokens and frames in order: a key in place of each -200."""
        frames = iter(self.frames)
        return [next(frames) if token == IMAGE_TOKEN_INDEX else token for token in self.ids]


def generate_answers(
    model: VideoMixin,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    images: Sequence[torch.Tensor],
    version: str,
    max_new_tokens: int = 32,
) -> list[str]:
    """Generate greedy answers to a batch of prompts.

    Args:
        prompts: token ids, see `prompt_ids`.
        images: the frames of each prompt, uint8 (T, 3, S, S); T may be 0. If several prompts have the same tensor, it
            is encoded once.
        version: the chat template; its end mark ends an answer.
        max_new_tokens: the most tokens that an answer may have, its end mark included.

    Returns:
        B answers, without their end marks.

    Raises:
        DataFormatError: a prompt does not have one -200 per frame.

    Lesson: 07.
    """
    images = list(images)  # of a tensor, each iteration would make other objects
    check_sentinels([list(prompt).count(IMAGE_TOKEN_INDEX) for prompt in prompts], images)
    clips = {id(clip): clip for clip in images}
    with inference(model):
        encoded = encode_images(model, list(clips.values()), model.frames_per_chunk)
    features: dict[FrameKey, torch.Tensor] = {
        (name, t): row for name, rows in zip(clips, encoded, strict=True) for t, row in enumerate(rows)
    }
    named = [Prompt(ids, [(id(clip), t) for t in range(len(clip))]) for ids, clip in zip(prompts, images, strict=True)]
    return generate_batch(model, tokenizer, named, features, version, max_new_tokens)


def generate_batch(
    model: VideoMixin,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    features: Mapping[FrameKey, torch.Tensor],
    version: str,
    max_new_tokens: int,
) -> list[str]:
    """Generate greedy answers to a batch of prompts. Prompts with the same frames share what they begin with: its keys
    and values are computed once, and copied for each prompt.

    In a batch, prefixes are padded on the left, and what follows them too: [pad, prefix, pad, rest]. The mask excludes
    the padding, and positions count without it.

    Args:
        features: the features of each frame, (K, D), by its key.

    Returns:
        B answers, without their end marks.
    """
    groups: dict[tuple[FrameKey, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt.frames), []).append(row)
    places = [prompt.places() for prompt in prompts]
    group_of = {row: number for number, rows in enumerate(groups.values()) for row in rows}
    # The last place of a prompt is not shared: the first token of its answer is computed from it.
    shared = [common_prefix(*(places[row][:-1] for row in rows)) for rows in groups.values()]
    prefixes = [places[rows[0]][:length] for rows, length in zip(groups.values(), shared, strict=True)]
    rests = [places[row][shared[group_of[row]] :] for row in range(len(prompts))]
    with inference(model):
        cache, mask = _prefill(model, _embed(model, prefixes, features))
        if len(groups) < len(prompts):
            copies = torch.tensor([group_of[row] for row in range(len(prompts))], device=model.device)
            cache.batch_select_indices(copies)
            mask = mask[copies]
        output = continue_cache(model, tokenizer, cache, mask, rests, features, version, max_new_tokens)
    return texts_of(output, tokenizer, version)


def common_prefix(*rows: Sequence[Place]) -> int:
    """Return how many places all rows begin with in common."""
    length = 0
    for places in zip(*rows, strict=False):
        if any(place != places[0] for place in places):
            break
        length += 1
    return length


def _embed(
    model: VideoMixin, rows: Sequence[Sequence[Place]], features: Mapping[FrameKey, torch.Tensor]
) -> list[torch.Tensor]:
    """Return the embeddings of rows of tokens and frames: B tensors (l', D)."""
    words = [[place if isinstance(place, int) else 0 for place in row] for row in rows]
    ids = torch.tensor([word for row in words for word in row], dtype=torch.long, device=model.device)
    text = model.get_input_embeddings()(ids).split([len(row) for row in rows])  # B x (l, D)
    embeds = []
    for row, embedded in zip(rows, text, strict=True):
        frames = [features[place] for place in row if not isinstance(place, int)]
        is_frame = torch.tensor([not isinstance(place, int) for place in row], device=model.device)
        embeds.append(splice(embedded, is_frame, torch.stack(frames)) if frames else embedded)
    return embeds


def _pad(embeds: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad rows on the left: embeddings (B, L, D), and their mask, int64 (B, L)."""
    ones = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in embeds]
    return (
        pad_sequence(list(embeds), batch_first=True, padding_side="left"),
        pad_sequence(ones, batch_first=True, padding_side="left"),
    )


def _prefill(model: VideoMixin, embeds: Sequence[torch.Tensor]) -> tuple[DynamicCache, torch.Tensor]:
    """Return the keys and values of prefixes, and their mask, int64 (G, P). No logits are computed."""
    padded, mask = _pad(embeds)
    if padded.shape[1] == 0:  # nothing in common: a place that nobody sees, because a layer needs one
        padded, mask = padded.new_zeros(len(embeds), 1, padded.shape[2]), mask.new_zeros(len(embeds), 1)
    cache = DynamicCache()
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    model.model(
        inputs_embeds=padded, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    )
    return cache, mask


def continue_cache(
    model: VideoMixin,
    tokenizer: PreTrainedTokenizerBase,
    cache: DynamicCache,
    mask: torch.Tensor,
    rests: Sequence[Sequence[Place]],
    features: Mapping[FrameKey, torch.Tensor],
    version: str,
    max_new_tokens: int,
    write: Callable[[str], Any] | None = None,
) -> torch.Tensor:
    """Read the rest of each prompt after what the cache has, and generate greedily. The cache grows by both; it lacks
    the last token.

    Args:
        cache: keys and values of P positions.
        mask: the mask of the cache, int64 (B, P).
        rests: at least one place each.
        write: called with each piece of the answer as soon as it is generated; only for a batch of one.

    Returns:
        int64 (B, new tokens).
    """
    rest, rest_mask = _pad(_embed(model, rests, features))
    known = rest.new_zeros(len(rests), mask.shape[1], rest.shape[2])  # generate() wants embeddings, and ignores them
    template = get_template(version)
    stop = tokenizer(template.stop, add_special_tokens=False).input_ids
    output: torch.Tensor = model.generate(
        inputs_embeds=torch.cat([known, rest], dim=1),
        attention_mask=torch.cat([mask, rest_mask], dim=1),
        past_key_values=cache,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=stop if len(stop) == 1 else tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        streamer=write and AnswerStreamer(tokenizer, _end_of(tokenizer, version), write),
    )
    return output


def texts_of(output: torch.Tensor, tokenizer: PreTrainedTokenizerBase, version: str) -> list[str]:
    """Return the texts of generated tokens, (B, new tokens), up to their end marks."""
    end = _end_of(tokenizer, version)
    return [end.split(text)[0].strip() for text in tokenizer.batch_decode(output, skip_special_tokens=False)]


def _end_of(tokenizer: PreTrainedTokenizerBase, version: str) -> re.Pattern[str]:
    ends = [get_template(version).stop, tokenizer.pad_token, tokenizer.eos_token]
    return re.compile("|".join(re.escape(mark) for mark in ends if mark))


@contextmanager
def inference(model: VideoMixin) -> Iterator[None]:
    """Put a model into eval mode, without gradients, while the context is open."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
