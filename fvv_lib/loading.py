"""Checkpoints: from a folder to tokenizer, model and image processor.                                     Lesson 8

What a folder holds is told from its `config.json` and its weights, never from its name: the original loader looks for
"llava" in the folder's name and, where it is missing, loads the model without its vision tower. Here every weight must
come from the checkpoint. This module knows nothing about data.
"""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoImageProcessor, AutoTokenizer, LlavaProcessor, PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor

from fvv_lib.arguments import VideoConfig
from fvv_lib.errors import CheckpointError
from fvv_lib.model import FastVlmForVideo

MODELS = {"fast_vlm": FastVlmForVideo}


class LoadedModel(NamedTuple):
    """What `load_pretrained_model` returns, in LLaVA's order."""

    tokenizer: PreTrainedTokenizerBase
    model: FastVlmForVideo
    image_processor: BaseImageProcessor
    context_len: int


def load_pretrained_model(
    path: str | Path, device: str | torch.device | None = None, dtype: torch.dtype | str = "auto"
) -> LoadedModel:
    """Load a FastVLM checkpoint in Hugging Face layout.

    Args:
        path: a folder, or a hub name where there is a network.
        device: default: the first GPU if there is one, else the CPU.
        dtype: of the weights; `auto` is as they are stored.

    Returns:
        tokenizer, model (in eval mode), image processor, and the number of positions that the model may read.

    Raises:
        CheckpointError: no such folder, another kind of model, or weights that are missing, left over, or of another
            shape; lists them.

    Lesson: 08.
    """
    _check_model_type(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        image_processor = AutoImageProcessor.from_pretrained(path)
        model, info = FastVlmForVideo.from_pretrained(
            path, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: it can not be loaded ({str(error).splitlines()[0]}). Give a folder that has config.json, "
            "safetensors, tokenizer and image processor, or a hub name (owner/name) where there is a network."
        ) from error
    problems = {kind: sorted(map(str, info[f"{kind}_keys"])) for kind in ("missing", "unexpected", "mismatched")}
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in problems.items() if keys)
        raise CheckpointError(
            f"{path}: weights and config.json do not belong together ({listed}). A model loaded so would see with "
            "random weights. Copy the folder again, or restore the config.json that was saved with it."
        )
    if VideoConfig.load(path) is None:
        mean, std = tuple(image_processor.image_mean), tuple(image_processor.image_std)
        model.video_config = VideoConfig(image_mean=mean, image_std=std)
    context_len = min(tokenizer.model_max_length, model.config.text_config.max_position_embeddings)
    return LoadedModel(
        tokenizer,
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval(),
        image_processor,
        int(context_len),
    )


def _check_model_type(path: str | Path) -> None:
    folder = Path(path)
    if not folder.exists():
        if str(path).count("/") == 1 and not str(path).startswith("."):
            return  # a hub name: transformers says what is wrong with it
        raise CheckpointError(f"{path}: no such folder. Give the folder of a checkpoint, or a hub name (owner/name).")
    config = folder / "config.json"
    try:
        model_type = json.loads(config.read_text()).get("model_type")
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder}: config.json is missing or broken ({error}). Is this a checkpoint?") from error
    if model_type not in MODELS:
        raise CheckpointError(
            f"{config}: model_type is {model_type!r}, supported is {', '.join(MODELS)}. Apple's own layout "
            "(llava_qwen2) must be converted to Hugging Face's first."
        )


def tokens_per_frame(model: FastVlmForVideo, image_size: int) -> int:
    """How many tokens the vision tower makes of a square picture: (image_size / stride) squared, 256 at 1024.

    Raises:
        CheckpointError: the size is no multiple of the tower's stride.
    """
    stride = vision_stride(model)
    if image_size % stride:
        raise CheckpointError(f"The picture size {image_size} is no multiple of the vision tower's stride {stride}.")
    return (image_size // stride) ** 2


def vision_stride(model: FastVlmForVideo) -> int:
    """Pixels per token of the vision tower, in each direction: 64 for FastVLM."""
    return int(model.model.vision_tower.timm_model.feature_info[-1]["reduction"])


def build_processor(
    tokenizer: PreTrainedTokenizerBase, image_processor: BaseImageProcessor, stride: int
) -> LlavaProcessor:
    """What stock transformers needs beside the weights: tokenizer, image processor, and how they go together."""
    return LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=stride,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )
