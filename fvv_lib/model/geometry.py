"""The size of a frame for a model: pixels, tokens, and the maximum length of a sample.                    Lesson 4

These values follow from the configuration of a model: nothing is encoded, and no weights are needed. Training,
checking, chat and the memory prediction all get them from `make_frame_spec`.
"""

import json
import math
from functools import lru_cache
from typing import Any, Protocol

import timm
import torch
from transformers import PreTrainedConfig

from fvv_lib.errors import FvvError, ModelFolderError, TokenBudgetError
from fvv_lib.video_config import FrameSpec, VideoConfig


class OpenedModel(Protocol):
    """What the frame geometry is computed from: an opened model folder or a loaded model."""

    @property
    def config(self) -> PreTrainedConfig: ...

    @property
    def image_processor(self) -> Any: ...

    @property
    def context_len(self) -> int: ...


def make_frame_spec(
    opened: OpenedModel, video_config: VideoConfig, max_length: int | None = None, image_size: int | None = None
) -> FrameSpec:
    """Compute the `FrameSpec` of this model with these settings.

    Args:
        max_length: maximum positions of a sample; default: as many as the model reads.
        image_size: side of a frame in pixels; default: the size of the image processor.

    Raises:
        TokenBudgetError: `max_length` is less than 1 or more than the model reads.
        ModelFolderError, FvvError: see `tokens_per_frame`.

    Lesson: 04.
    """
    size = processor_size(opened.image_processor) if image_size is None else image_size
    limit = opened.context_len if max_length is None else max_length
    if not 1 <= limit <= opened.context_len:
        raise TokenBudgetError(
            f"model_max_length={limit}, but the model reads at most {opened.context_len} positions: set it to 1 to "
            f"{opened.context_len}."
        )
    tokens = tokens_per_frame(opened.config, size, video_config.frame_pool)
    return FrameSpec(size, tokens, limit, video_config.background)


def processor_size(image_processor: Any) -> int:
    """Return the side, in pixels, of the square that a Hugging Face image processor produces."""
    for size in (getattr(image_processor, "crop_size", None), image_processor.size):
        if size and size.get("height"):
            return int(size["height"])
    return int(image_processor.size["shortest_edge"])


def tokens_per_frame(config: PreTrainedConfig, image_size: int, frame_pool: int = 1) -> int:
    """Return the tokens of a square frame: (image_size / stride) squared, divided by `frame_pool` squared.

    For FastVLM at 1024 pixels without pooling, these are 256. CLIP's class token adds one if
    `vision_feature_select_strategy` is `full`.

    Raises:
        ModelFolderError: `image_size` is not a multiple of the tower's stride, or not the size that CLIP was made for.
        FvvError: the tokens cannot be pooled, see `pooled_tokens`.
    """
    stride = vision_stride(config)
    if image_size % stride:
        raise ModelFolderError(f"The picture size {image_size} is no multiple of the vision tower's stride {stride}.")
    expected = getattr(config.vision_config, "image_size", image_size)
    if image_size != expected:
        raise ModelFolderError(f"The image processor makes {image_size} pixels, but the vision tower needs {expected}.")
    tokens = (image_size // stride) ** 2
    if config.vision_feature_select_strategy == "full":
        tokens += class_tokens(config)
    return pooled_tokens(tokens, frame_pool)


def pooled_tokens(tokens: int, pool: int) -> int:
    """Return the tokens of a frame after pooling: 256 tokens pooled by 2 x 2 become 64.

    Raises:
        FvvError: the tokens are not a square that divides into squares of pool x pool.

    Lesson: 04.
    """
    side = math.isqrt(tokens)
    if pool != 1 and (side * side != tokens or side % pool):
        raise FvvError(
            f"frame_pool={pool} cannot average the {tokens} tokens of a frame: they must be a square whose side is a "
            f"multiple of {pool}. Use another frame_pool, 1 for none."
        )
    return tokens // pool**2


def vision_stride(config: PreTrainedConfig) -> int:
    """Return the pixels per token of the vision tower, in each direction: 64 for FastVLM, 14 for LLaVA-1.5's CLIP."""
    tower = config.vision_config
    if tower.model_type == "clip_vision_model":
        return int(tower.patch_size)
    return _timm_stride(tower.architecture, json.dumps(tower.model_args or {}))


@lru_cache
def _timm_stride(architecture: str, model_args: str) -> int:
    """Build a timm tower to read its stride. On the meta device, the tower takes no memory."""
    with torch.device("meta"):
        tower = timm.create_model(architecture, **json.loads(model_args))
    features: Any = tower.feature_info
    return int(features[-1]["reduction"])


def class_tokens(config: PreTrainedConfig) -> int:
    """Return the number of tower tokens that represent no part of the image: 1 for CLIP, otherwise 0."""
    return int(config.vision_config.model_type == "clip_vision_model")
