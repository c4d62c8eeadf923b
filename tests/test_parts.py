"""Which part a parameter belongs to, which parts are trained, and how many parameters they have."""

import re

import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from fvv_lib.model.parts import count_parameters, format_parts, freeze_unread, part_of, set_trainable
from fvv_lib.model.video_model import LlavaForVideo
from fvv_lib.settings import PARTS, ModelArguments
from fvv_lib.weights.lora import add_lora

MODULES = {"vision_tower": "model.vision_tower", "projector": "model.multi_modal_projector"}


def parameters_by_part(model):
    """Map each parameter to the part whose module holds it. `part_of` must find the same part by the name."""
    held = {part: {id(p) for p in model.get_submodule(module).parameters()} for part, module in MODULES.items()}
    return {
        name: next((part for part, members in held.items() if id(parameter) in members), "language_model")
        for name, parameter in model.named_parameters()
    }


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# --- names --------------------------------------------------------------------------------------------------------


def test_every_parameter_belongs_to_the_module_that_holds_it(loaded):
    expected = parameters_by_part(loaded.model)
    assert set(expected.values()) == set(PARTS)
    assert {name: part_of(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.vision_tower.timm_model.stem.0.conv.weight", "vision_tower"),
        ("model.multi_modal_projector.linear_1.weight", "projector"),
        ("model.language_model.embed_tokens.weight", "language_model"),
        ("lm_head.weight", "language_model"),
        ("base_model.model.model.vision_tower.modules_to_save.default.timm_model.x", "vision_tower"),
        ("base_model.model.model.multi_modal_projector.original_module.linear_1.bias", "projector"),
        ("base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.default.weight", "language_model"),
        ("module.model.vision_tower.vision_model.embeddings.class_embedding", "vision_tower"),
    ],
)
def test_prefixes_of_wrappers_do_not_change_the_part(name, part):
    assert part_of(name) == part


def test_peft_keeps_the_part_of_each_parameter(base, model):
    pytest.importorskip("peft")
    before = {id(parameter): part_of(name) for name, parameter in model.named_parameters()}
    adapted = add_lora(model, ModelArguments(str(base), PARTS, lora_rank=2))
    after = {id(parameter): part_of(name) for name, parameter in adapted.named_parameters()}
    assert before.items() <= after.items()
    new = {name for name, parameter in adapted.named_parameters() if id(parameter) not in before}
    assert {part_of(name) for name in new if "lora_" in name} == {"language_model"}
    assert {part_of(name) for name in new if "lora_" not in name} == {"vision_tower", "projector"}  # copies to train


# --- training and freezing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [("projector",), ["language_model", "vision_tower"], set(PARTS), ()])
def test_only_these_parts_train_whatever_was_trained_before(model, parts):
    for before in (PARTS, ()):
        set_trainable(model, before)
        set_trainable(model, parts)
        assert trained(model) == {name for name, part in parameters_by_part(model).items() if part in parts}


def test_parts_may_be_a_generator(model):
    set_trainable(model, (part for part in ("vision_tower", "projector")))
    assert trained(model) == {n for n, part in parameters_by_part(model).items() if part != "language_model"}


@pytest.fixture
def llava():
    """Build a LLaVA with a few thousand parameters that reads one layer of a CLIP with 3 layers."""

    def build(layer):
        vision = CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=3, num_attention_heads=2, image_size=8, patch_size=4
        )
        text = LlamaConfig(
            vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
        )
        config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=15, vision_feature_layer=layer)
        return LlavaForVideo(config)

    return build


@pytest.mark.parametrize(
    ("layer", "read"),
    [(-2, {0, 1}), (-1, {0, 1, 2}), (-4, set()), (1, {0}), (3, {0, 1, 2}), ([1, -2], {0, 1})],
)
def test_clip_layers_after_the_last_read_layer_are_frozen(llava, layer, read):
    """Gradients show it: each trained parameter gets one, and no frozen parameter would get one."""
    model = llava(layer)
    set_trainable(model, PARTS)
    found = [re.search(r"vision_tower\..*layers\.(\d)", name) for name in trained(model)]
    layers = {int(match[1]) for match in found if match}
    assert layers == read
    features = model.get_image_features(torch.rand(1, 3, 8, 8)).pooler_output
    torch.cat(list(features)).sum().backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {name for name in trained(model) if part_of(name) != "language_model"}
    assert all(parameter.requires_grad for parameter in model.model.language_model.parameters())


def test_freezing_unread_layers_unfreezes_nothing(llava):
    model = llava(-2)
    set_trainable(model, ["projector"])
    freeze_unread(model)
    assert {part_of(name) for name in trained(model)} == {"projector"}


def test_every_layer_of_a_fastvlm_is_read(model):
    set_trainable(model, PARTS)
    everything = trained(model)
    freeze_unread(model)
    assert trained(model) == everything == {name for name, _ in model.named_parameters()}


# --- counting -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small():
    """10 parameters in the tower, 6 in the projector, 20 in the language model and 8 in its head."""
    module = nn.Module()
    module.vision_tower = nn.Linear(5, 2, bias=False)
    module.multi_modal_projector = nn.Linear(2, 3, bias=False)
    module.language_model = nn.Linear(4, 4)
    module.lm_head = nn.Linear(4, 2, bias=False)
    return module


def test_trained_and_all_parameters_are_counted_by_part(small):
    assert count_parameters(small) == {"vision_tower": (10, 10), "projector": (6, 6), "language_model": (28, 28)}
    small.vision_tower.requires_grad_(False)
    small.language_model.bias.requires_grad_(False)
    assert count_parameters(small) == {"vision_tower": (0, 10), "projector": (6, 6), "language_model": (24, 28)}


def test_copy_that_peft_trains_is_counted_once(small):
    projector = nn.Module()
    projector.original_module = small.multi_modal_projector.requires_grad_(False)
    projector.modules_to_save = nn.Linear(2, 3, bias=False)
    small.multi_modal_projector = projector
    assert count_parameters(small)["projector"] == (6, 6)


def test_sharded_parameter_is_counted_in_full(small):
    """ZeRO-3 leaves an empty tensor in its place and stores the full shape."""
    weight = small.vision_tower.weight
    weight.ds_id, weight.ds_shape, weight.data = 0, weight.shape, torch.empty(0)
    assert count_parameters(small)["vision_tower"] == (10, 10)


def test_tied_weights_are_counted_once(loaded):
    counts = count_parameters(loaded.model)
    assert list(counts) == list(PARTS)
    expected = dict.fromkeys(PARTS, 0)
    parameters = dict(loaded.model.named_parameters())
    for name, part in parameters_by_part(loaded.model).items():
        expected[part] += parameters[name].numel()
    assert {part: total for part, (_, total) in counts.items()} == expected
    assert sum(expected.values()) == sum(parameter.numel() for parameter in loaded.model.parameters())


def test_table_has_a_row_per_part_and_a_sum():
    table = format_parts(
        {"vision_tower": (0, 125_000_000), "projector": (3_000, 3_000), "language_model": (7, 494_000)}
    )
    assert [line.split() for line in table.splitlines()] == [
        ["part", "trained", "parameters"],
        ["vision_tower", "0", "125,000,000"],
        ["projector", "3,000", "3,000"],
        ["language_model", "7", "494,000"],
        ["all", "3,007", "125,497,000"],
    ]
    assert len({len(line) for line in table.splitlines()}) == 1  # columns are aligned
