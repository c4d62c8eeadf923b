"""The parts of a model, and which of them are trained.                                                    Lesson 6

A vision-language model has a vision tower, a projector and a language model. The name of a parameter determines its
part, with or without the prefix that PEFT adds.
"""

import re
from collections.abc import Iterable

import torch

from fvv_lib.model.sharding import full_size
from fvv_lib.model.video_model import VideoMixin
from fvv_lib.settings import PARTS

MODULE_OF_PART = {"vision_tower": "vision_tower", "projector": "multi_modal_projector"}


def part_of(name: str) -> str:
    """Return the part that a parameter belongs to, by its name: vision_tower, projector or language_model."""
    return next((part for part, module in MODULE_OF_PART.items() if f"{module}." in name), "language_model")


def set_trainable(model: VideoMixin, parts: Iterable[str]) -> None:
    """Make the parameters of these parts trainable and freeze all others."""
    parts = set(parts)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in parts)
    freeze_unread(model)


def freeze_unread(model: VideoMixin) -> None:
    """Freeze the layers of CLIP after the last one that is read.

    LLaVA reads CLIP's features before the last layer. Later layers get no gradient, and DistributedDataParallel would
    wait for one.
    """
    config = model.config
    if config.vision_config.model_type != "clip_vision_model":
        return
    depth, chosen = config.vision_config.num_hidden_layers, config.vision_feature_layer
    chosen = [chosen] if isinstance(chosen, int) else chosen
    read = max(layer if layer >= 0 else depth + 1 + layer for layer in chosen)  # layers 0 to read - 1
    for name, parameter in model.named_parameters():
        layer = re.search(r"vision_tower\..*\blayers\.(\d+)\.", name)
        if "post_layernorm" in name or (layer and int(layer[1]) >= read):
            parameter.requires_grad_(False)


def count_parameters(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """Count the trained parameters and all parameters of each part."""
    counts = dict.fromkeys(PARTS, (0, 0))
    for name, parameter in model.named_parameters():
        if "original_module." not in name:  # PEFT trains a copy, which is counted
            size = full_size(parameter)
            trained, total = counts[part_of(name)]
            counts[part_of(name)] = (trained + (size if parameter.requires_grad else 0), total + size)
    return counts


def format_parts(counts: dict[str, tuple[int, int]]) -> str:
    """Format the result of `count_parameters` as a table."""
    rows = {**counts, "all": tuple(map(sum, zip(*counts.values(), strict=True)))}
    lines = [f"{'part':<15}{'trained':>15}{'parameters':>15}"]
    return "\n".join([*lines, *(f"{part:<15}{trained:>15,}{total:>15,}" for part, (trained, total) in rows.items())])
