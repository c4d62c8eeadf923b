"""Flatten (B, T, C, H, W) to (B*T, C, H, W), encode, and split again.                                     Lesson 4

A vision tower accepts images, not videos: its input has four dimensions. So the frames of all videos of a batch are
concatenated, encoded in one pass, and split again. This equals a loop over frames, because the tower treats each image
independently (as long as its BatchNorm is in eval mode). This module knows nothing about text.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from fvv_lib.errors import FvvError
from fvv_lib.model.geometry import pooled_tokens
from fvv_lib.model.sharding import blank_frames, is_zero3_enabled
from fvv_lib.video_config import VideoConfig

Images = torch.Tensor | Sequence[torch.Tensor]


class VisionParts(Protocol):
    """The vision tower and the projector of a model with LLaVA's structure."""

    vision_tower: torch.nn.Module
    multi_modal_projector: torch.nn.Module


class FrameEncoder(Protocol):
    """What encoding needs of a model. `VideoMixin` implements it and documents the settings."""

    training: bool
    train_batchnorm: bool
    checkpointing: bool
    pixels_at_once: int | None
    video_config: VideoConfig

    @property
    def model(self) -> VisionParts: ...

    def normalize(self, frames: torch.Tensor) -> torch.Tensor: ...

    def get_image_features(self, pixel_values: torch.Tensor) -> Any: ...


def flatten_frames(images: Images) -> tuple[torch.Tensor, list[int]]:
    """Concatenate the frames of a batch.

    Args:
        images: (B, T, C, H, W) videos; (B, C, H, W) images; (C, H, W) one image; or a list that mixes (T, C, H, W) and
            (C, H, W). T may be 0, for a text-only sample.

    Returns:
        Contiguous (F, C, H, W), where F is the total number of frames, and the number of frames of each of the B
        entries. (`view` would fail on permuted frames; a wrong reshape would mix rows of pixels.)

    Raises:
        FvvError: a wrong number of dimensions, not 3 colours, or frames of different sizes or dtypes.

    Source: LLaVA-NeXT's handling of `images.ndim == 5`. Lesson: 04.
    """
    if isinstance(images, torch.Tensor) and images.ndim == 3:
        images = images[None]
    entries = [entry[None] if entry.ndim == 3 else entry for entry in images]
    if any(entry.ndim != 4 for entry in entries):
        raise FvvError(
            "images must be (B, T, C, H, W), (B, C, H, W), (C, H, W), or a list of (T, C, H, W) and (C, H, W); got "
            f"{[tuple(entry.shape) for entry in images]}."
        )
    if any(entry.shape[1] != 3 for entry in entries):
        raise FvvError(
            "Frames must have their 3 colours before height and width, (..., 3, H, W); got "
            f"{[tuple(entry.shape) for entry in images]}. Put the dimensions in order with permute; reshape would mix "
            "the pixels."
        )
    if len({entry.dtype for entry in entries}) > 1:
        raise FvvError(
            f"All frames of a batch must have one type, got {sorted({str(e.dtype) for e in entries})}: uint8 is scaled "
            "by the encoder, float is not."
        )
    if len({entry.shape[1:] for entry in entries}) > 1:
        raise FvvError(
            f"All frames of a batch must have one size, got {sorted({tuple(e.shape[1:]) for e in entries})}: "
            "prepare them with preprocess_frames(..., size)."
        )
    return torch.cat(entries).contiguous(), [len(entry) for entry in entries]


def unflatten_frames(features: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
    """Split frame features: (F, K, D) and the number of frames of each entry -> a list of B tensors (T, K, D).

    Raises:
        FvvError: the number of frames is not the sum of `sizes`.

    Lesson: 04.
    """
    if len(features) != sum(sizes):
        raise FvvError(f"{len(features)} frames of features cannot be cut into entries of {list(sizes)} frames.")
    return list(features.split(list(sizes)))


def pool_frames(features: torch.Tensor, pool: int) -> torch.Tensor:
    """Average each square of pool x pool tokens of a frame: (F, K, D) -> (F, K / pool^2, D), both in row-major order.

    Pooling follows the projector, as in LLaVA-OneVision. A projector that was trained without pooling still gets the
    input that it was trained on, and an average of its outputs is still among the vectors that the language model
    knows. So pooling can be turned on or off without a new projector.

    Raises:
        FvvError: the tokens cannot be pooled, see `pooled_tokens`.

    Source: Li et al., LLaVA-OneVision, 2024. Lesson: 04.
    """
    if pool == 1:
        return features
    pooled_tokens(features.shape[1], pool)  # raises if they cannot be pooled
    side = math.isqrt(features.shape[1])
    grid = features.transpose(1, 2).unflatten(2, (side, side))  # (F, D, side, side)
    return F.avg_pool2d(grid, pool).flatten(2).transpose(1, 2)


def encode_images(model: FrameEncoder, images: Images, frames_per_chunk: int | None = None) -> list[torch.Tensor]:
    """Encode all frames of a batch with the vision tower and the projector, and pool them by `video_config.frame_pool`.

    All frames are encoded in one pass. On a CPU, each pass has at most `model.pixels_at_once` pixels, but at least one
    frame, because smaller passes are faster there.

    Args:
        model: a `VideoMixin` model.
        images: as in `flatten_frames`. uint8 is scaled to [0, 1] and normalised on the model's device; float is used
            as it is.
        frames_per_chunk: maximum number of frames per pass. With gradient checkpointing, a chunk keeps only its pixels
            and is encoded again in the backward pass. So the activations in memory are those of one chunk, for any
            number of frames.

    Returns:
        B tensors (T, K, D), where K is the tokens per frame (after pooling) and D the width of the language model.

    Raises:
        FvvError: chunks or gradient checkpointing while the tower's BatchNorm collects statistics.

    Lesson: 04.
    """
    if model.training and model.train_batchnorm and (model.checkpointing or frames_per_chunk):
        raise FvvError(
            "train_batchnorm=True needs all frames of a batch in one pass that is not repeated: otherwise the "
            "statistics are those of a chunk, or count every frame twice. Leave out frames_per_chunk and "
            "gradient_checkpointing, or set train_batchnorm=False."
        )

    def encode(frames: torch.Tensor) -> torch.Tensor:
        features = model.get_image_features(model.normalize(frames)).pooler_output  # (f, K, D); LLaVA: f x (K, D)
        features = features if isinstance(features, torch.Tensor) else torch.stack(features)
        return pool_frames(features, model.video_config.frame_pool)

    frames, sizes = flatten_frames(images)
    row = torch.cat([frames, frames.new_zeros(blank_frames(frames, frames_per_chunk), *frames.shape[1:])])
    chunks = _chunks(model, row, frames_per_chunk)
    if frames_per_chunk and model.training and model.checkpointing:
        features = [checkpoint(encode, chunk, use_reentrant=False) for chunk in chunks]
    else:
        features = [encode(chunk) for chunk in chunks]
    return unflatten_frames(torch.cat(features)[: len(frames)], sizes)


def _chunks(model: FrameEncoder, frames: torch.Tensor, frames_per_chunk: int | None) -> Sequence[torch.Tensor]:
    """Split frames into passes of the vision tower, by `frames_per_chunk` and, on a CPU, by `pixels_at_once`.

    On a CPU, glibc returns each freed block of more than 32 MiB to the system. The system clears every page again when
    the next layer allocates it. In smaller passes, fewer tensors are this large.
    """
    at_once = frames_per_chunk or len(frames)
    tower = next(model.model.vision_tower.parameters())
    collects = model.training and model.train_batchnorm  # statistics, which need all frames in one pass
    if tower.device.type == "cpu" and model.pixels_at_once and not collects and not is_zero3_enabled():
        at_once = min(at_once, max(1, model.pixels_at_once // (frames.shape[-2] * frames.shape[-1])))
    return frames.split(at_once)


def tower_features(model: FrameEncoder, frames: torch.Tensor, frames_per_chunk: int | None = None) -> torch.Tensor:
    """Compute the vision tower's features, as the projector receives them: (F, C, H, W) -> (F, K, D of the tower).

    A hook captures them at the projector, because transformers selects the layers and tokens of the tower, which differ
    by kind of model. Lesson: 09.
    """
    caught: list[torch.Tensor] = []
    projector = model.model.multi_modal_projector
    with projector.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0])):
        for chunk in _chunks(model, frames, frames_per_chunk):
            model.get_image_features(model.normalize(chunk))
    return torch.cat(caught)


def project_features(model: FrameEncoder, vision_features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the result of `encode_images` from the stored features of the vision tower (`tower_features`).

    Args:
        vision_features: B tensors (T, K, D of the tower), or one tensor (B, T, K, D). T may be 0.

    Returns:
        B tensors (T, K, D), pooled by `video_config.frame_pool`. The projector runs even without frames, because other
        ranks wait for it.

    Lesson: 09.
    """
    projector = model.model.multi_modal_projector
    parameter = next(projector.parameters())
    features = torch.cat(list(vision_features)).to(parameter.device, parameter.dtype)  # (F, K, D of the tower)
    projected = pool_frames(projector(features), model.video_config.frame_pool)
    return unflatten_frames(projected, [len(entry) for entry in vision_features])
