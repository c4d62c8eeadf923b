"""The parts of a model: which parameters belong to which, which of them train.                             Lesson 6"""

from collections.abc import Iterable

import torch

from fvv_lib.arguments import PARTS
from fvv_lib.zero import full_size

KEYS_OF_PART = {"vision_tower": "vision_tower.", "projector": "multi_modal_projector."}


def part_of(name: str) -> str:
    """The part that a parameter belongs to, by its name: vision_tower, projector or language_model."""
    return next((part for part, key in KEYS_OF_PART.items() if key in name), "language_model")


def set_trainable(model: torch.nn.Module, parts: Iterable[str]) -> None:
    """Let the parameters of these parts train, freeze all others."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in parts)


def count_parameters(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """For each part, how many parameters are trained, and how many there are."""
    counts = dict.fromkeys(PARTS, (0, 0))
    for name, parameter in model.named_parameters():
        if "original_module." not in name:  # PEFT trains a copy of it, which counts
            size = full_size(parameter)
            trained, total = counts[part_of(name)]
            counts[part_of(name)] = (trained + size * parameter.requires_grad, total + size)
    return counts
