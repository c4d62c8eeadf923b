"""Apple's layout. With FVV_REAL_DATA: three checkpoints in it, and what Apple's own code makes of them."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import FastVlmForConditionalGeneration

from fvv_lib import IGNORE_INDEX, apple, load_pretrained_model
from fvv_lib.apple import rename, translate_config

CHECKPOINTS = ("checkpoint_untied", "checkpoint_tied", "checkpoint_tied_with_lm_head")
CASES = ("a_one_image_128", "a_one_image_256", "b_two_images_one_prompt", "c_batch_padded", "d_video_4_frames")


@pytest.fixture
def layout(real_data):
    return real_data / "apple_layout"


# --- what Apple's code computes ---------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_gives_what_apples_code_gives(layout, name):
    expected = json.loads((layout / "expected.json").read_text())
    model = load_pretrained_model(layout / name, device="cpu").model
    assert model.config.tie_word_embeddings == expected["checkpoints"][name]["tie_word_embeddings"]
    for case in CASES:
        arrays = np.load(layout / "references" / f"{case}.npz")
        reference = {key: torch.from_numpy(arrays[key]) for key in arrays.files}

        def close(ours, key, mask=None, kind=None, *, reference=reference, case=case):
            theirs = reference[key]
            ours, theirs = (ours, theirs) if mask is None else (ours[mask], theirs[mask])
            atol = expected["atol"][kind or key]
            torch.testing.assert_close(ours, theirs, atol=atol, rtol=0, msg=lambda m: f"{case}, {key}: {m}")

        pixels = reference["pixel_values"]
        sentinels = expected["cases"][case]["sentinels"]
        images = list(pixels.flatten(0, -4).split(sentinels))  # each sample's frames
        features = model.get_image_features(torch.cat(images))
        close(features.last_hidden_state.flatten(2).mT, "vision_features")
        close(features.pooler_output, "projector_output")

        ids, labels = reference["input_ids"], reference["labels"]
        text_mask = reference["attention_mask"].bool()
        _, _, mask, _, embeds, new_labels = model_inputs(model, ids, text_mask, labels, images)
        close(embeds, "inputs_embeds")
        assert torch.equal(mask.bool(), reference["new_attention_mask"].bool()), case
        assert torch.equal(new_labels, reference["new_labels"]), case

        output = model(ids, images, text_mask, labels=labels, full_logits=True)
        kinds = expected["checkpoints"][name]
        close(output.logits, kinds["logits"], mask.bool(), "logits")
        close(output.loss, kinds["loss"], kind="loss")
        close(model(ids, images, text_mask, labels=labels, full_logits=False).loss, kinds["loss"], kind="loss")
        assert (labels != IGNORE_INDEX).any()


def model_inputs(model, ids, mask, labels, images):
    from fvv_lib import prepare_inputs_labels_for_multimodal

    return prepare_inputs_labels_for_multimodal(model, ids, None, mask, None, labels, images)


def test_greedy_tokens_are_those_of_apples_code(layout):
    model = load_pretrained_model(layout / "checkpoint_untied", device="cpu").model
    case = np.load(layout / "references" / "a_one_image_128.npz")
    expected = case["generate_greedy_ids"][0].tolist()
    answer = model.generate(
        torch.from_numpy(case["generate_input_ids"]),
        images=torch.from_numpy(case["pixel_values"]),
        max_new_tokens=len(expected),
        do_sample=False,
        eos_token_id=None,
    )
    assert answer[0].tolist() == expected


def test_every_weight_at_full_size_has_its_place(layout):
    listed = json.loads((layout / "full_size_keys.json").read_text())
    assert [rename(name) for name, _, _ in listed] == [renamed for _, _, renamed in listed]
    weights = {rename(name): torch.empty(shape, device="meta") for name, shape, _ in listed if rename(name)}
    settings = json.loads((layout / "checkpoint_untied" / "config.json").read_text()) | {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "vocab_size": 151936,
        "mm_vision_tower": "mobileclip_l_1024",
    }
    config = translate_config(settings, weights, 151646, "full size")
    assert config.vision_config.model_args == {
        "inference_mode": True,
        "layers": [2, 12, 24, 4, 2],
        "embed_dims": [96, 192, 384, 768, 1536],
        "mlp_ratios": [4] * 5,
    }
    assert config.image_seq_length == 256
    with torch.device("meta"):
        model = FastVlmForConditionalGeneration(config)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in weights.items()
    }


def test_the_folders_name_and_the_flag_of_the_tower_change_nothing(layout, tmp_path):
    folder = shutil.copytree(layout / "checkpoint_untied", tmp_path / "model_x", copy_function=shutil.copyfile)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").chmod(0o644)
    (folder / "config.json").write_text(json.dumps(settings | {"unfreeze_mm_vision_tower": False}))
    one, other = (load_pretrained_model(path, device="cpu") for path in (layout / "checkpoint_untied", folder))
    assert_same_weights(one.model, other.model)
    assert other.context_len == 8192
    assert len(other.tokenizer) - 1 == other.model.config.image_token_index == 626


def assert_same_weights(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_renames_are_the_published_ones(layout):
    published = json.loads((layout / "key_renames.json").read_text())
    assert {name: rename(name) for name in published} == published
    assert apple.CLIP_HEAD in published
