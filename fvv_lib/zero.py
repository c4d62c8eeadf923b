"""DeepSpeed ZeRO-3, where each process holds a share of every parameter: what must know of it.               Lesson 9

The shares are made while the model is loaded, and put together for each layer while it trains. Outside of training
nobody does that. Without ZeRO-3 nothing here does anything, and DeepSpeed is not needed.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from transformers.integrations import is_deepspeed_zero3_enabled


def join_zero3() -> None:
    """Join the processes that share the parameters out; before the model is loaded. (On CPUs nobody else does it.)"""
    if is_deepspeed_zero3_enabled():
        import deepspeed

        deepspeed.comm.init_distributed()


def full_size(parameter: torch.nn.Parameter) -> int:
    """Elements of a parameter, all shares together."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def whole_parameters(model: torch.nn.Module) -> AbstractContextManager:
    """Within this, each process holds all of the model, to use it outside of training."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(model.parameters()))


def fewest_frames() -> int:
    """Frames that the encoder must get in a step; blank ones make up for those that are missing.

    Every rank must run the encoder in every step, or the others wait for it for ever. And with a single frame the hooks
    of ZeRO-3 give a FastViT wrong gradients (DeepSpeed 0.19.8 on the CPU; from two frames on they are right).
    """
    return 2 if is_deepspeed_zero3_enabled() and torch.is_grad_enabled() else 1
