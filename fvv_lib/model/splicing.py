"""Splice features into the prompt.                                                                         Lesson 4

`prepare_inputs_labels_for_multimodal` replaces each -200 of a prompt with the K features of one frame. It batches
samples of different lengths, either padded or packed into one row. This module knows nothing about files or templates.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.nn.utils.rnn import pad_sequence

from fvv_lib.errors import DataFormatError
from fvv_lib.model.encoder import FrameEncoder, Images, encode_images, project_features
from fvv_lib.model.vocabulary import HasVocabulary, Vocabulary
from fvv_lib.prompt.placeholders import IGNORE_INDEX, IMAGE_TOKEN_INDEX

Prepared = tuple[None, torch.Tensor | None, torch.Tensor | None, Any, torch.Tensor, torch.Tensor | None]


class SplicedModel(FrameEncoder, HasVocabulary, Protocol):
    """What splicing needs of a model. `VideoMixin` implements it."""

    frames_per_chunk: int | None


def prepare_inputs_labels_for_multimodal(
    model: SplicedModel,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    past_key_values: Any,
    labels: torch.Tensor | None,
    images: Images | None,
    image_sizes: Any = None,
    *,
    vision_features: Sequence[torch.Tensor] | None = None,
    padding_side: str = "right",
    packing: bool = False,
    vocabulary: Vocabulary | None = None,
) -> Prepared | tuple[torch.Tensor, Any, Any, Any, None, Any]:
    """Replace each image sentinel with the features of one frame. The signature and the returned 6-tuple are LLaVA's.

    Args:
        model: a `VideoMixin` model.
        input_ids: int64 (B, L) with one `IMAGE_TOKEN_INDEX` per frame. Padding may be anywhere the mask is 0.
        attention_mask, labels: (B, L) or `None`.
        images: see `encoder.flatten_frames`; one entry per sample. With one sample, a tensor (T, C, H, W) is its video.
        vision_features: stored features of the vision tower, in place of `images`; see `encoder.project_features`.
        image_sizes: ignored; LLaVA's signature has it. Frames are square here.
        padding_side: the side on which the result is padded: `right` for training, `left` for generation.
        packing: concatenate the samples into one row without padding instead: (1, sum of lengths, D). Positions start
            again at 0 with each sample and the mask is `None`. From these, transformers knows that attention must not
            cross from one sample to the next. The first label of each sample is -100, because no token precedes it.
        vocabulary: embeds the text and later computes the logits; default: the model's embedding.

    Returns:
        `(None, position_ids, attention_mask, past_key_values, inputs_embeds, labels)`. Embeddings are (B, L', D), where
        L' is the longest text + K per frame. Mask and labels are (B, L') and padded with 0 and -100. An argument that
        is `None` stays `None`, but a mask is created if lengths differ. Without images, the arguments are returned
        unchanged, with `None` for the embeddings.

    Raises:
        DataFormatError: the batch does not have one entry of images per sample, or a sample does not have one sentinel
            per frame. (With too many sentinels, Apple's code raises IndexError. With too few, the described system
            silently uses the first frame.)

    Source: LLaVA, `llava_arch.py`. Lesson: 04.
    """
    batch = len(input_ids)
    if vision_features is not None:
        features = project_features(model, vision_features)  # B x (T, K, D)
    elif images is not None:
        if isinstance(images, torch.Tensor) and batch == 1 and images.ndim == 4:
            images = images[None]
        features = encode_images(model, images, model.frames_per_chunk)
    else:
        return input_ids, position_ids, attention_mask, past_key_values, None, labels
    check_sentinels((input_ids == IMAGE_TOKEN_INDEX).sum(dim=1).tolist(), features)

    keep = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    ids = [row[kept] for row, kept in zip(input_ids, keep, strict=True)]  # B x (l,)
    words = torch.cat(ids)
    words = words.masked_fill(words == IMAGE_TOKEN_INDEX, 0)  # any word; features replace it below
    embed = vocabulary.embed if vocabulary else model.get_input_embeddings()
    text = embed(words).split([len(row) for row in ids])  # B x (l, D)
    embeds, new_labels, lengths = [], [], []
    for i in range(batch):
        is_frame = ids[i] == IMAGE_TOKEN_INDEX
        embeds.append(splice(text[i], is_frame, features[i]))
        lengths.append(len(embeds[i]))
        if labels is not None:  # the K copies keep the sentinel's label, -100
            new_labels.append(labels[i][keep[i]].repeat_interleave(_repeats(is_frame, features[i]), dim=0))

    if packing:
        positions = torch.cat([torch.arange(length, device=input_ids.device) for length in lengths])
        for sample_labels in new_labels:
            sample_labels[:1] = IGNORE_INDEX
        labels = torch.cat(new_labels)[None] if labels is not None else None
        return None, positions[None], None, past_key_values, torch.cat(embeds)[None], labels
    inputs_embeds = pad_sequence(embeds, batch_first=True, padding_side=padding_side)  # (B, L', D)
    ones = [torch.ones(length, dtype=torch.long, device=input_ids.device) for length in lengths]
    mask = pad_sequence(ones, batch_first=True, padding_side=padding_side)
    if labels is not None:
        labels = pad_sequence(new_labels, batch_first=True, padding_value=IGNORE_INDEX, padding_side=padding_side)
    if position_ids is not None:
        position_ids = (mask.cumsum(dim=1) - 1).clamp(min=0)
    if attention_mask is not None:
        attention_mask = mask.to(attention_mask.dtype)
    elif len(set(lengths)) > 1:
        attention_mask = mask
    return None, position_ids, attention_mask, past_key_values, inputs_embeds, labels


def splice(text: torch.Tensor, is_frame: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Replace the places of frames in an embedded text, (l, D), with the features of the frames, (T, K, D): (l', D).

    Args:
        is_frame: bool (l,), with T places of frames.
    """
    repeats = _repeats(is_frame, features)
    row = text.repeat_interleave(repeats, dim=0)  # (l', D)
    return row.masked_scatter(is_frame.repeat_interleave(repeats)[:, None], features.to(row.dtype))


def _repeats(is_frame: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Return how many positions each place takes: K for a frame, 1 for a word."""
    return torch.where(is_frame, features.shape[1], 1)


def check_sentinels(sentinels: Sequence[int], features: Sequence[torch.Tensor]) -> None:
    """Check that each sample of a batch has one sentinel per frame.

    Raises:
        DataFormatError: it has not, or the batch does not have one entry of images per sample.
    """
    if len(features) != len(sentinels):
        raise DataFormatError(
            f"The batch has {len(sentinels)} samples but images for {len(features)}: pass one entry per sample "
            "(a text-only sample has an entry of 0 frames)."
        )
    for i, (count, feature) in enumerate(zip(sentinels, features, strict=True)):
        if count != len(feature):
            raise DataFormatError(
                f"Sample {i} of the batch has {count} image sentinels but {len(feature)} frames: expand its <image> to "
                "one per frame (expand_image_tokens)."
            )
