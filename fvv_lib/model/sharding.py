"""Code that depends on DeepSpeed ZeRO, which shards optimizer, gradients and parameters.                  Lesson 9

Under ZeRO-3, parameters are sharded while the model is loaded. Training gathers them layer by layer; outside of
training nothing does. Without ZeRO-3, DeepSpeed is not imported and need not be installed.
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
    """Join the process group of ZeRO-3. Call this before the model is loaded. (On CPUs, nothing else does it.)"""
    if is_deepspeed_zero3_enabled():
        import deepspeed

        deepspeed.comm.init_distributed()


def full_size(parameter: nn.Parameter) -> int:
    """Return the number of elements of a parameter, over all shards."""
    return full_shape(parameter).numel()


def whole_parameters(model: nn.Module) -> AbstractContextManager:
    """Return a context in which each process holds the whole model, to use it outside of training."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(model.parameters()))


def is_zero3_enabled() -> bool:
    """Return True under ZeRO-3. Ranks gather a layer's weights together, so all must call each layer equally often."""
    return is_deepspeed_zero3_enabled()


def blank_frames(frames: torch.Tensor, frames_per_chunk: int | None) -> int:
    """Return the number of blank frames to encode after these. They contribute no gradient.

    Every rank must run the encoder in every step, or the other ranks block. So a batch without frames gets one. Under
    ZeRO-3, all ranks must run the encoder equally often, so they agree on the number of chunks. Also, a single frame
    under ZeRO-3's hooks gives a FastViT wrong gradients (DeepSpeed 0.19.8 on the CPU). With two or more they are right.

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
    """BatchNorm with statistics in float32 and weights of any dtype.

    In bfloat16, DeepSpeed casts the weights. Our configurations keep the statistics in float32, because 8 bits are too
    few for an average over millions of images. PyTorch needs both in one dtype, so the weights are used in float32.
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
    """Make BatchNorm accept weights of a narrower dtype than its statistics, as DeepSpeed leaves them."""
    mixed = {nn.BatchNorm2d: _MixedBatchNorm, BatchNormAct2d: _MixedBatchNormAct}
    for module in model.modules():
        module.__class__ = mixed.get(type(module), type(module))
