"""DeepSpeed's ZeRO, where the processes share optimizer, gradients, parameters: what must know of it.         Lesson 9

Under ZeRO-3 the shares of the parameters are made while the model is loaded, and put together for each layer while it
trains. Outside of training nobody does that. Without DeepSpeed nothing here does anything, and it is not needed.
"""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn
from transformers.integrations import is_deepspeed_zero3_enabled

from fvv_lib.errors import FvvError
from fvv_lib.private_api import full_shape


def join_zero3() -> None:
    """Join the processes that share the parameters out; before the model is loaded. (On CPUs nobody else does it.)"""
    if is_deepspeed_zero3_enabled():
        import deepspeed

        deepspeed.comm.init_distributed()


def full_size(parameter: nn.Parameter) -> int:
    """Elements of a parameter, all shares together."""
    return full_shape(parameter).numel()


def whole_parameters(model: nn.Module) -> AbstractContextManager:
    """Within this, each process holds all of the model, to use it outside of training."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(model.parameters()))


def is_zero3_enabled() -> bool:
    """True under ZeRO-3: ranks gather the weights of each layer together, so all must call it equally often."""
    return is_deepspeed_zero3_enabled()


def blank_frames(frames: torch.Tensor, frames_per_chunk: int | None) -> int:
    """How many blank frames the encoder must get after these; no gradient comes from them.

    Every rank must run the encoder in every step, or the other ranks block: at least one. Under ZeRO-3 all
    ranks must run it equally often, so they agree on the number of chunks. And a single frame under the hooks of ZeRO-3
    gives a FastViT wrong gradients (DeepSpeed 0.19.8 on the CPU; from two frames on they are right).

    Raises:
        FvvError: chunks of one frame under ZeRO-3.
    """
    if not is_zero3_enabled():
        return int(len(frames) == 0)
    if frames_per_chunk is None:
        return max(0, 2 - len(frames))
    if frames_per_chunk < 2:
        raise FvvError("Under ZeRO-3 a chunk must have at least 2 frames: raise frames_per_chunk.")
    most = torch.tensor(max(1, len(frames)), device=frames.device)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return math.ceil(int(most) / frames_per_chunk) * frames_per_chunk - len(frames)


class _MixedBatchNorm(nn.BatchNorm2d):
    """BatchNorm with statistics in float32, whatever its weights are in.

    In bfloat16 DeepSpeed casts the weights. Our configurations keep the statistics as they are, for 8 bits are too few
    for an average of millions of pictures; but PyTorch wants weights and statistics of one type.
    """

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return _batch_norm(self, frames)


class _MixedBatchNormAct(BatchNormAct2d):
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(_batch_norm(self, frames)))


def _batch_norm(norm: nn.BatchNorm2d, frames: torch.Tensor) -> torch.Tensor:
    if norm.training:
        raise FvvError("Under DeepSpeed BatchNorm collects no statistics: leave the model's train_batchnorm False.")
    weight, bias = norm.weight.float(), norm.bias.float()
    return F.batch_norm(frames, norm.running_mean, norm.running_var, weight, bias, eps=norm.eps)


def mix_batchnorm(model: nn.Module) -> None:
    """Let BatchNorm take weights of a narrower type than its statistics, as DeepSpeed leaves them."""
    mixed = {nn.BatchNorm2d: _MixedBatchNorm, BatchNormAct2d: _MixedBatchNormAct}
    for module in model.modules():
        module.__class__ = mixed.get(type(module), type(module))
