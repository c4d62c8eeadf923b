"""(B, T, C, H, W) to (B*T, C, H, W), encode, and back.                                                    Lesson 4

A vision tower knows pictures, not videos: its input has four dimensions. So the frames of all videos of a batch are
laid in one long row, encoded in one pass, and cut apart again. That equals a loop over frames, because the tower treats
each picture on its own (as long as its BatchNorm is in eval mode). This module knows nothing about text.
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
    """Vision tower and projector of a model that is built like LLaVA."""

    vision_tower: torch.nn.Module
    multi_modal_projector: torch.nn.Module


class FrameEncoder(Protocol):
    """What encoding needs of a model; `VideoMixin` has it, and says what each setting is for."""

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
    """Lay the frames of a batch in one row.

    Args:
        images: (B, T, C, H, W) videos; (B, C, H, W) pictures; (C, H, W) one picture; or a list that mixes (T, C, H, W)
            and (C, H, W). T may be 0: a sample of text alone.

    Returns:
        (F, C, H, W) contiguous, F frames in all, and the number of frames of each of the B entries. `view` on frames
        that were permuted would fail or, after a wrong reshape, mix rows of pixels.

    Raises:
        FvvError: another number of dimensions, not three colours, or pictures of different sizes or types.

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
    """Cut a row of frame features apart: (F, K, D) and the frames of each entry -> a list of B tensors (T, K, D).

    Raises:
        FvvError: the frames are not as many as the sizes say.

    Lesson: 04.
    """
    if len(features) != sum(sizes):
        raise FvvError(f"{len(features)} frames of features cannot be cut into entries of {list(sizes)} frames.")
    return list(features.split(list(sizes)))


def pool_frames(features: torch.Tensor, pool: int) -> torch.Tensor:
    """Average squares of pool x pool neighbouring tokens of each frame: (F, K, D) -> (F, K / pool^2, D), row by row.

    It comes after the projector, as in LLaVA-OneVision: a projector that was trained without pooling gets what it was
    trained on, and an average of its outputs still lies among the vectors that the language model knows. So a
    model can be pooled, or not, without a new projector.

    Raises:
        FvvError: see `pooled_tokens`.

    Source: Li et al., LLaVA-OneVision, 2024. Lesson: 04.
    """
    if pool == 1:
        return features
    pooled_tokens(features.shape[1], pool)  # raises
    side = math.isqrt(features.shape[1])
    grid = features.transpose(1, 2).unflatten(2, (side, side))  # (F, D, side, side)
    return F.avg_pool2d(grid, pool).flatten(2).transpose(1, 2)


def encode_images(model: FrameEncoder, images: Images, frames_per_chunk: int | None = None) -> list[torch.Tensor]:
    """Encode all frames of a batch with vision tower and projector, and pool them where the model is set so.

    They go in one pass; on a CPU, where that is faster, at most `model.pixels_at_once` in each, but at least one frame.

    Args:
        model: a `VideoMixin` model.
        images: as in `flatten_frames`; uint8 is scaled to [0, 1] and normalised on the model's device, float is taken
            as it is.
        frames_per_chunk: encode at most so many frames at a time. With gradient checkpointing a chunk keeps nothing but
            its pixels and is encoded again in the backward pass, so the activations are those of one chunk, however
            many frames the batch has.

    Returns:
        B tensors (T, K, D): K tokens per frame (with `video_config.frame_pool`, those that are left), D the width of
        the language model.

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
        features = model.get_image_features(model.normalize(frames)).pooler_output  # (f, K, D), of LLaVA f x (K, D)
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
    """Cut frames into what passes the vision tower at a time: `frames_per_chunk`, and on a CPU `pixels_at_once`.

    There glibc gives blocks of more than 32 MiB back to the system as soon as they are free, and the system clears each
    page when it is taken again, for the next layer. In smaller pieces fewer tensors are so large.
    """
    at_once = frames_per_chunk or len(frames)
    tower = next(model.model.vision_tower.parameters())
    collects = model.training and model.train_batchnorm  # statistics, which are those of all frames
    if tower.device.type == "cpu" and model.pixels_at_once and not collects and not is_zero3_enabled():
        at_once = min(at_once, max(1, model.pixels_at_once // (frames.shape[-2] * frames.shape[-1])))
    return frames.split(at_once)


def tower_features(model: FrameEncoder, frames: torch.Tensor, frames_per_chunk: int | None = None) -> torch.Tensor:
    """What the vision tower makes of frames: (F, C, H, W) -> (F, K, D of the tower), as the projector is given it.

    It is caught on its way to the projector, because which layers and which tokens of a tower are taken is known to
    transformers, for each kind of model. Lesson: 09.
    """
    caught: list[torch.Tensor] = []
    projector = model.model.multi_modal_projector
    with projector.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0])):
        for chunk in _chunks(model, frames, frames_per_chunk):
            model.get_image_features(model.normalize(chunk))
    return torch.cat(caught)


def project_features(model: FrameEncoder, vision_features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What `encode_images` gives, from what the tower made of the frames earlier (`tower_features`).

    Args:
        vision_features: B tensors (T, K, D of the tower), or one of (B, T, K, D); T may be 0.

    Returns:
        B tensors (T, K, D), pooled where the model is set so. The projector runs even without frames, because other
        ranks wait for it.

    Lesson: 09.
    """
    projector = model.model.multi_modal_projector
    parameter = next(projector.parameters())
    features = torch.cat(list(vision_features)).to(parameter.device, parameter.dtype)  # (F, K, D of the tower)
    projected = pool_frames(projector(features), model.video_config.frame_pool)
    return unflatten_frames(projected, [len(entry) for entry in vision_features])
