"""Apple's layout. With FVV_REAL_DATA, compare three checkpoints with the results of Apple's own code."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from transformers import FastVlmForConditionalGeneration

from fvv_lib import (
    IGNORE_INDEX,
    ModelFolderError,
    VideoConfig,
    ask,
    load_pretrained_model,
    prepare_inputs_labels_for_multimodal,
)
from fvv_lib.weights import apple
from fvv_lib.weights.apple import apple_name, rename, translate_config

CHECKPOINTS = ("checkpoint_untied", "checkpoint_tied", "checkpoint_tied_with_lm_head")
CASES = ("a_one_image_128", "a_one_image_256", "b_two_images_one_prompt", "c_batch_padded", "d_video_4_frames")


@pytest.fixture
def layout(real_data):
    return real_data / "apple_layout"


# --- what Apple's code computes ---------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_gives_the_results_of_apples_code(layout, name):
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
        _, _, mask, _, embeds, new_labels = prepare_inputs_labels_for_multimodal(
            model, ids, None, text_mask, None, labels, images
        )
        close(embeds, "inputs_embeds")
        assert torch.equal(mask.bool(), reference["new_attention_mask"].bool()), case
        assert torch.equal(new_labels, reference["new_labels"]), case

        output = model(ids, images, text_mask, labels=labels, full_logits=True)
        kinds = expected["checkpoints"][name]
        close(output.logits, kinds["logits"], mask.bool(), "logits")
        close(output.loss, kinds["loss"], kind="loss")
        close(model(ids, images, text_mask, labels=labels, full_logits=False).loss, kinds["loss"], kind="loss")
        assert (labels != IGNORE_INDEX).any()


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


def test_every_full_size_weight_is_renamed_to_a_weight_of_the_model(layout):
    listed = json.loads((layout / "full_size_keys.json").read_text())
    assert [rename(name) for name, _, _ in listed] == [renamed for _, _, renamed in listed]
    assert all(apple_name(renamed) == name for name, _, renamed in listed if renamed)
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


def test_folder_name_and_tower_flag_change_nothing(layout, tmp_path):
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


def test_renames_match_the_published_list(layout):
    published = json.loads((layout / "key_renames.json").read_text())
    assert {name: rename(name) for name in published} == published
    assert apple.CLIP_HEAD in published


NAMES = {  # Apple's name -> transformers' name; a leading dot stands for the path of the tower
    "model.embed_tokens.weight": "model.language_model.embed_tokens.weight",
    "model.layers.11.mlp.up_proj.weight": "model.language_model.layers.11.mlp.up_proj.weight",
    "model.norm.weight": "model.language_model.norm.weight",
    "model.mm_projector.0.bias": "model.multi_modal_projector.linear_1.bias",
    "model.mm_projector.2.weight": "model.multi_modal_projector.linear_2.weight",
    "lm_head.weight": "lm_head.weight",
    ".patch_embed.0.reparam_conv.weight": ".stem.0.reparam_conv.weight",
    ".network.0.1.layer_scale": ".stages.0.blocks.1.layer_scale.gamma",
    ".network.1.proj.0.lkb_reparam.weight": ".stages.1.downsample.proj.0.reparam_conv.weight",
    ".network.1.proj.1.reparam_conv.weight": ".stages.1.downsample.proj.1.reparam_conv.weight",
    ".network.4.23.convffn.conv.bn.running_mean": ".stages.2.blocks.23.mlp.conv.bn.running_mean",
    ".network.6.reparam_conv.bias": ".stages.3.pos_emb.reparam_conv.bias",
    ".network.7.3.layer_scale_2": ".stages.3.blocks.3.layer_scale_2.gamma",
    ".network.10.1.convffn.fc2.weight": ".stages.4.blocks.1.mlp.fc2.weight",
    ".network.10.1.token_mixer.proj.bias": ".stages.4.blocks.1.token_mixer.proj.bias",
    ".conv_exp.se.reduce.bias": ".final_conv.se.fc1.bias",
    ".conv_exp.se.expand.weight": ".final_conv.se.fc2.weight",
}


@pytest.mark.parametrize(("theirs", "ours"), NAMES.items())
def test_renaming_works_in_both_directions(theirs, ours):
    if theirs.startswith("."):
        theirs, ours = f"model.vision_tower.vision_tower.model{theirs}", f"model.vision_tower.timm_model{ours}"
    assert rename(theirs) == ours
    assert apple_name(ours) == theirs


# --- without real data: the tiny base as Apple's code would have saved it ---------------------------------------------


def add_head(weights, noise=0.0):
    embedding = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = embedding + noise * torch.randn(embedding.shape)


def untie(weights, settings):
    add_head(weights, 0.01)
    settings["tie_word_embeddings"] = False


def logits(model, rows=474):
    frames = torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(torch.tensor([[5, -200, -200, 6, 7]]), frames).logits[..., :rows]


@pytest.mark.parametrize(
    ("change", "files"),
    [
        (None, {}),
        (lambda weights, settings: add_head(weights), {}),
        (
            lambda weights, settings: settings.update(tie_word_embeddings=False),
            {},
        ),  # there is no head: the flag is wrong
        (None, {"shards": 3}),
        (None, {"file": "pytorch_model.bin"}),
        (None, {"file": "pytorch_model.bin", "shards": 2}),
    ],
    ids=["tied", "tied with a repeated head", "no head, but the flag says untied", "sharded", "bin", "sharded bin"],
)
def test_the_tiny_base_in_apples_layout_loads_as_the_same_model(apple_checkpoint, loaded, data_samples, change, files):
    ours = load_pretrained_model(apple_checkpoint(change, **files), device="cpu")
    model = ours.model
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.get_input_embeddings().weight
    torch.testing.assert_close(logits(model), logits(loaded.model), atol=1e-3, rtol=0)
    clip = data_samples / "videos" / "test" / "motion-0003.mp4"
    question = "What colour is the shape?"
    assert ask(ours, clip, question, 12) == ask(loaded, clip, question, 12)
    assert model.config.vision_config.model_args == {
        "inference_mode": True,
        "layers": [1, 1, 1, 1],
        "embed_dims": [16, 32, 64, 64],
        "mlp_ratios": [2, 2, 2, 2],
    }
    assert model.config.image_seq_length == 4
    assert ours.context_len == 1024
    assert model.video_config == VideoConfig()


def test_an_untied_head_is_kept(apple_checkpoint):
    kept = {}

    def change(weights, settings):
        untie(weights, settings)
        kept.update(weights)

    model = load_pretrained_model(apple_checkpoint(change), device="cpu").model
    assert torch.equal(model.lm_head.weight, kept["lm_head.weight"])
    assert torch.equal(model.get_input_embeddings().weight, kept["model.embed_tokens.weight"])
    assert not model.config.tie_word_embeddings


def test_a_head_that_differs_from_the_embedding_is_used_whatever_the_flag_says(apple_checkpoint):
    model = load_pretrained_model(apple_checkpoint(lambda weights, settings: add_head(weights, 0.01)), "cpu").model
    assert not model.config.tie_word_embeddings
    difference = model.lm_head.weight - model.get_input_embeddings().weight
    assert difference.abs().max() > 1e-3


def test_no_code_of_the_folder_runs(apple_checkpoint):
    def change(weights, settings):
        names = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
        settings.update(auto_map=dict.fromkeys(names, "llava_qwen.Thing"), unfreeze_mm_vision_tower=False)

    folder = apple_checkpoint(change, name="fastvit")
    (folder / "llava_qwen.py").write_text("raise SystemExit('it ran')")
    assert load_pretrained_model(folder, device="cpu").model.config.model_type == "fast_vlm"


class Trap:
    def __reduce__(self):
        return (print, ("it ran",))


def test_a_pickle_that_holds_more_than_tensors_is_not_unpickled(apple_checkpoint, capfd):
    folder = apple_checkpoint(file="pytorch_model.bin")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save({**weights, "trap": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelFolderError, match=r"pytorch_model.bin: its weights cannot be read .* is not unpickled"):
        load_pretrained_model(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"trap": Trap()}, protocol=2))
    with pytest.raises(ModelFolderError, match="cannot be read"):
        load_pretrained_model(folder)
    assert "it ran" not in capfd.readouterr().out


TOWER = "model.vision_tower.vision_tower.model"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w, s: w.pop(f"{TOWER}.network.7.0.layer_scale_1"), "missing: .*stages.3.blocks.0.layer_scale_1.gamma"),
        (lambda w, s: w.pop("model.mm_projector.0.bias"), "missing: .*linear_1.bias"),
        (lambda w, s: w.pop("model.embed_tokens.weight"), "missing: .*embed_tokens.weight"),
        (lambda w, s: w.pop(f"{TOWER}.patch_embed.0.reparam_conv.weight"), "tower are missing, among them .*stem.0"),
        (lambda w, s: [w.pop(key) for key in list(w) if "vision_tower" in key], "tower are missing"),
        (lambda w, s: w.update({"extra.weight": torch.zeros(1)}), "unexpected: extra.weight"),
        (lambda w, s: w.update({f"{TOWER}.network.11.x": torch.zeros(1)}), "unexpected: .*network.11.x"),
        (
            lambda w, s: w.update({f"{TOWER}.conv_exp.se.reduce.bias": torch.zeros(3)}),
            "mismatched: .*se.fc1",
        ),
        (lambda w, s: s.update(mm_projector_type="linear"), "mm_projector_type is 'linear', supported: 'mlp2x_gelu'"),
        (lambda w, s: s.update(image_aspect_ratio="anyres"), "image_aspect_ratio is 'anyres'"),
        (lambda w, s: s.update(mm_use_im_start_end=True), "mm_use_im_start_end is True"),
        (lambda w, s: s.update(mm_vision_tower="openai/clip-vit-large-patch14"), "mm_vision_tower is 'openai"),
        (lambda w, s: s.pop("vocab_size"), "it cannot be loaded .*vocab_size"),
        (lambda w, s: s.update(vocab_size=400), "the tokenizer has 474 entries but the model's vocabulary is 400"),
    ],
)
def test_missing_unexpected_and_unsupported_weights_and_settings_are_errors(apple_checkpoint, change, message):
    with pytest.raises(ModelFolderError, match=message):
        load_pretrained_model(apple_checkpoint(change))


def test_missing_and_damaged_files_are_errors(apple_checkpoint, tmp_path):
    folder = apple_checkpoint(shards=2)
    shard = folder / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ModelFolderError, match=r"model-00001-of-00002\.safetensors: its weights cannot be read"):
        load_pretrained_model(folder)
    shard.unlink()
    with pytest.raises(ModelFolderError, match=r"model-00001-of-00002\.safetensors: its weights cannot be read"):
        load_pretrained_model(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelFolderError, match="not an index"):
        load_pretrained_model(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(ModelFolderError, match="it has no weights"):
        load_pretrained_model(folder)


@pytest.mark.parametrize("vocab_size", [512, 474], ids=["padded", "full"])
def test_the_image_token_gets_a_row_that_no_text_uses(apple_checkpoint, vocab_size):
    loaded = load_pretrained_model(apple_checkpoint(untie, vocab_size=vocab_size), device="cpu")
    text = {token for _, token in loaded.tokenizer.get_vocab().items()}
    assert loaded.tokenizer.convert_tokens_to_ids("<image>") == loaded.model.config.image_token_index == 474
    assert len(text) == len(loaded.tokenizer) == 475
    embedding = loaded.model.get_input_embeddings().weight
    assert len(embedding) == len(loaded.model.lm_head.weight) == max(vocab_size, 475)
    if vocab_size == 474:  # the added row never wins
        assert (logits(loaded.model, 475).argmax(-1) != 474).all()


def test_a_checkpoint_that_was_trained_on_cropped_images_crops_images(apple_checkpoint):
    folder = apple_checkpoint(lambda weights, settings: settings.update(image_aspect_ratio="square"))
    loaded = load_pretrained_model(folder, device="cpu")
    assert loaded.model.video_config.image_aspect_ratio == "crop"
    assert not loaded.image_processor.do_pad
    VideoConfig(image_aspect_ratio="pad", num_video_frames=2).save(folder)
    assert load_pretrained_model(folder, device="cpu").model.video_config.num_video_frames == 2


def test_half_precision_is_kept(apple_checkpoint):
    def halve(weights, settings):
        for name, tensor in weights.items():
            weights[name] = tensor.bfloat16() if tensor.is_floating_point() else tensor

    model = load_pretrained_model(apple_checkpoint(halve), device="cpu").model
    assert model.dtype == torch.bfloat16
    assert model.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
