"""Code that depends on ZeRO: under ZeRO-3 all ranks run the encoder equally often. Without it nothing happens."""

import sys

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from transformers.integrations import HfDeepSpeedConfig, deepspeed

from fvv_lib.errors import FvvError
from fvv_lib.model import sharding
from fvv_lib.model.sharding import (
    blank_frames,
    full_size,
    is_zero3_enabled,
    join_zero3,
    mix_batchnorm,
    whole_parameters,
)
from fvv_lib.model.video_model import BATCHNORMS


def frames(count):
    return torch.zeros(count, 3, 4, 4, dtype=torch.uint8)


@pytest.fixture
def zero3(monkeypatch):
    monkeypatch.setattr(sharding, "is_deepspeed_zero3_enabled", lambda: True)


# --- without DeepSpeed --------------------------------------------------------------------------------------------


def test_without_deepspeed_nothing_is_done_or_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # importing it fails
    assert not is_zero3_enabled()
    join_zero3()
    assert not torch.distributed.is_initialized()
    linear = nn.Linear(2, 3)
    with whole_parameters(linear):
        assert full_size(linear.weight) == linear.weight.numel() == 6


@pytest.mark.parametrize("frames_per_chunk", [None, 1, 2, 7])
def test_without_zero3_only_a_text_only_batch_gets_a_blank_frame(frames_per_chunk):
    assert [blank_frames(frames(count), frames_per_chunk) for count in (0, 1, 2, 3)] == [1, 0, 0, 0]


@pytest.mark.parametrize(("stage", "equal"), [(2, False), (3, True)])
def test_zero3_is_enabled_at_stage_3_only(stage, equal):
    """Uses the switch of transformers, which the Trainer sets before the model is loaded."""
    if not deepspeed.is_deepspeed_available():
        pytest.skip("DeepSpeed is not installed")
    config = HfDeepSpeedConfig({"zero_optimization": {"stage": stage}})
    try:
        assert is_zero3_enabled() == equal
    finally:
        deepspeed.unset_hf_deepspeed_config()
    assert config.is_zero3() == equal
    assert not is_zero3_enabled()


def test_sharded_parameter_has_its_full_size():
    parameter = nn.Parameter(torch.zeros(0))
    parameter.ds_id, parameter.ds_shape = 0, torch.Size([3, 4])
    assert full_size(parameter) == 12


# --- blank frames under ZeRO-3 ------------------------------------------------------------------------------------


def test_under_zero3_each_pass_has_at_least_two_frames(zero3):
    assert [blank_frames(frames(count), None) for count in (0, 1, 2, 5)] == [2, 1, 0, 0]


@pytest.mark.parametrize(("frames_per_chunk", "blank"), [(2, [2, 1, 0, 1, 0, 1]), (4, [4, 3, 2, 1, 0, 3])])
def test_under_zero3_every_chunk_is_full(zero3, frames_per_chunk, blank):
    assert [blank_frames(frames(count), frames_per_chunk) for count in range(6)] == blank


@pytest.mark.parametrize("count", [0, 1, 4, 5, 9])
def test_under_zero3_all_ranks_run_as_many_chunks_as_the_largest(zero3, monkeypatch, count):
    """Another rank has 9 frames. (`test_distributed` trains with two real processes.)"""

    def all_reduce(tensor, operation):
        assert operation == torch.distributed.ReduceOp.MAX
        tensor.clamp_(min=9)

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    assert count + blank_frames(frames(count), 4) == 12


@pytest.mark.parametrize("count", [0, 1, 5])
def test_under_zero3_chunks_of_one_frame_are_an_error(zero3, count):
    with pytest.raises(FvvError, match="at least 2 frames: raise frames_per_chunk"):
        blank_frames(frames(count), 1)


# --- BatchNorm ----------------------------------------------------------------------------------------------------


MEAN = 200


def filled(norm):
    """A BatchNorm in eval mode with random weights and statistics. In bfloat16 its means would be whole numbers."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    norm.running_mean += MEAN
    return norm.eval()


NORMS = {
    "plain": lambda: nn.BatchNorm2d(5, eps=0.1),
    "timm": lambda: BatchNormAct2d(5, eps=0.1, act_layer=nn.GELU),
    "timm without activation": lambda: BatchNormAct2d(5, apply_act=False),
}


@pytest.fixture(params=NORMS)
def norm(request):
    return filled(NORMS[request.param]())


def images(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return (MEAN + 2 * torch.randn(2, 5, 3, 3, generator=generator)).to(dtype)


def test_mixed_batchnorm_with_one_dtype_gives_the_same_result(norm):
    expected, names = norm(images()), list(norm.state_dict())
    mix_batchnorm(norm)
    torch.testing.assert_close(norm(images()), expected)
    assert list(norm.state_dict()) == names
    assert isinstance(norm, BATCHNORMS)  # `VideoMixin.train` looks for this type


def test_mixed_batchnorm_accepts_narrow_weights_and_float32_statistics(norm):
    """As DeepSpeed leaves them. The result equals that of the rounded weights in float32, rounded once."""
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    for parameter in norm.parameters():
        parameter.data = parameter.data.bfloat16()
    reference = filled(type(norm)(5, eps=norm.eps))
    reference.load_state_dict(norm.state_dict())  # rounded weights, in float32 again
    for module in ("drop", "act"):
        if hasattr(norm, module):
            setattr(reference, module, getattr(norm, module))
    expected = reference(images(torch.bfloat16).float())
    mix_batchnorm(norm)
    found = norm(images(torch.bfloat16))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.01, rtol=0.01)
    assert torch.equal(norm.running_mean, mean)
    assert torch.equal(norm.running_var, variance)
    assert norm.running_mean.dtype == torch.float32


def test_narrow_weights_of_a_mixed_batchnorm_get_a_gradient_of_their_dtype(norm):
    for parameter in norm.parameters():
        parameter.data = parameter.data.bfloat16()
    mix_batchnorm(norm)
    norm(images(torch.bfloat16)).float().square().sum().backward()
    for parameter in norm.parameters():
        assert parameter.grad.dtype == torch.bfloat16
        assert parameter.grad.abs().min() > 0


def test_mixed_batchnorm_in_train_mode_is_an_error(norm):
    mix_batchnorm(norm)
    norm.train()
    with pytest.raises(FvvError, match="collects no statistics: leave the model's train_batchnorm False"):
        norm(images())


@torch.no_grad()
def test_tower_gives_the_same_features_and_only_batchnorm_changes(model):
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before, kinds = model.get_image_features(pixels).pooler_output, [type(module) for module in model.modules()]
    mix_batchnorm(model)
    torch.testing.assert_close(model.get_image_features(pixels).pooler_output, before)
    mixed = [kind in (nn.BatchNorm2d, BatchNormAct2d) for kind in kinds]
    assert any(mixed)
    assert [type(module) is not kind for module, kind in zip(model.modules(), kinds, strict=True)] == mixed
    model.train()  # a tower whose BatchNorm stays in eval mode can be trained
    torch.testing.assert_close(model.get_image_features(pixels).pooler_output, before)
