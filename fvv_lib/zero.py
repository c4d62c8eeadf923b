"""DeepSpeed ZeRO-3, where each process holds a share of every parameter: what must know of it.               Lesson 9

The shares are made while the model is loaded, and put together for each layer while it trains. Outside of training
nobody does that. Without ZeRO-3 nothing here does anything, and DeepSpeed is not needed.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from transformers.integrations import is_deepspeed_zero3_enabled

from fvv_lib.errors import FvvError


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


def blank_frames(frames: torch.Tensor, frames_per_chunk: int | None) -> int:
    """How many blank frames the encoder must get after these; no gradient comes from them.

    Every rank must run the encoder in every step, or the others wait for it for ever: at least one. Under ZeRO-3 all
    ranks must run it equally often, so they agree on the number of chunks. And a single frame under the hooks of ZeRO-3
    gives a FastViT wrong gradients (DeepSpeed 0.19.8 on the CPU; from two frames on they are right).

    Raises:
        FvvError: chunks of one frame under ZeRO-3.
    """
    if not is_deepspeed_zero3_enabled():
        return int(len(frames) == 0)
    if frames_per_chunk is None:
        return max(0, 2 - len(frames))
    if frames_per_chunk < 2:
        raise FvvError("Under ZeRO-3 a chunk must have at least 2 frames: raise frames_per_chunk.")
    most = torch.tensor(max(1, len(frames)), device=frames.device)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return -(-int(most) // frames_per_chunk) * frames_per_chunk - len(frames)
