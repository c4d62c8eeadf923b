import contextlib
import json
import shutil
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import FastVlmForConditionalGeneration

from fvv_lib import FastVlmForVideo, FvvError, ModelFolderError, TokenBudgetError, VideoConfig, load_pretrained_model
from fvv_lib.model.geometry import make_frame_spec, tokens_per_frame
from fvv_lib.video_config import FrameSpec
from fvv_lib.weights.loading import open_model_folder


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache of huggingface_hub, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def copy(base, tmp_path):
    return shutil.copytree(base, tmp_path / "model_x")


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_folder_of_any_name_loads_with_its_vision_tower(base, copy):
    loaded = load_pretrained_model(copy, device="cpu")
    assert isinstance(loaded.model, FastVlmForVideo)
    assert not loaded.model.training
    stored = load_file(base / "model.safetensors")
    state = loaded.model.state_dict()
    vision = [name for name in stored if "vision_tower" in name]
    assert vision
    assert all(torch.equal(state[name], stored[name]) for name in vision)
    assert loaded.context_len == 2048
    assert loaded.tokenizer.convert_tokens_to_ids("<image>") == loaded.model.config.image_token_index


def test_missing_unexpected_and_mismatched_weights_are_errors_that_list_them(copy):
    name = "model.vision_tower.timm_model.final_conv.se.fc1.weight"
    change_weights(copy, lambda weights: weights.pop(name))
    with pytest.raises(ModelFolderError, match=f"missing: .*{name}"):
        load_pretrained_model(copy)
    change_weights(copy, lambda weights: weights.update({name: torch.zeros(3), "extra.weight": torch.zeros(1)}))
    with pytest.raises(
        ModelFolderError, match=rf"unexpected: extra.weight; mismatched: {name} is \(3,\) and should be"
    ):
        load_pretrained_model(copy)


def test_settings_come_from_the_folder(copy):
    VideoConfig(num_video_frames=3, frame_sampling="segment").save(copy)
    assert load_pretrained_model(copy, device="cpu").model.video_config.num_video_frames == 3
    (copy / "fvv_config.json").write_text('{"num_video_frames": 3}')  # saved before other settings existed
    assert load_pretrained_model(copy, device="cpu").model.video_config == VideoConfig(num_video_frames=3)
    (copy / "fvv_config.json").unlink()
    assert load_pretrained_model(copy, device="cpu").model.video_config == VideoConfig()
    (copy / "fvv_config.json").write_text('{"frames": 3}')
    with pytest.raises(ModelFolderError, match="not a video configuration"):
        load_pretrained_model(copy)


def test_a_folder_without_a_model_is_an_error(copy, tmp_path):
    with pytest.raises(ModelFolderError, match="no such folder"):
        load_pretrained_model(tmp_path / "nowhere")
    with pytest.raises(ModelFolderError, match="missing or broken"):
        load_pretrained_model(tmp_path)
    for name in ("model.safetensors", "tokenizer.json", "processor_config.json"):
        (copy / name).rename(tmp_path / name)
        with pytest.raises(ModelFolderError, match="model_x: it cannot be loaded"):
            load_pretrained_model(copy)
        (tmp_path / name).rename(copy / name)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(ModelFolderError, match="'gpt2', supported: fast_vlm, llava, llava_qwen2"):
        load_pretrained_model(copy)
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ModelFolderError, match="model_x: it cannot be loaded"):
        load_pretrained_model(copy)


def test_a_hub_name_without_a_network_says_what_to_do(offline):
    with pytest.raises(ModelFolderError, match=r"owner/nowhere: no such folder, .* download it elsewhere .*FOLDER"):
        load_pretrained_model("owner/nowhere")


def test_a_folder_that_no_run_has_written_yet_says_to_train_first(offline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("output/mine", "runs/mine", "runs/a/mine", "mine"):
        with pytest.raises(
            ModelFolderError, match=f"{name}: no such folder.*fvv finetune --output_dir {name}"
        ) as found:
            load_pretrained_model(name)
        assert "hf download" not in str(found.value)


def test_a_hub_name_loads_with_its_settings(offline, copy):
    snapshot = offline / "models--owner--name" / "snapshots" / "0123abc"
    (snapshot.parent.parent / "refs").mkdir(parents=True)
    (snapshot.parent.parent / "refs" / "main").write_text(snapshot.name)
    shutil.copytree(copy, snapshot)
    VideoConfig(num_video_frames=3).save(snapshot)
    assert load_pretrained_model("owner/name", device="cpu").model.video_config.num_video_frames == 3
    assert FastVlmForVideo.from_pretrained("owner/name").video_config.num_video_frames == 3
    (snapshot / "fvv_config.json").unlink()
    assert FastVlmForVideo.from_pretrained("owner/name").video_config == VideoConfig()


def test_settings_are_read_once(copy, monkeypatch):
    reads = []
    load = VideoConfig.load
    monkeypatch.setattr(VideoConfig, "load", lambda folder: reads.append(folder) or load(folder))
    load_pretrained_model(copy, device="cpu")
    assert reads == [copy]


def test_tokens_per_frame_follow_from_size_and_stride(model):
    config = model.config
    assert tokens_per_frame(config, 64) == 4
    assert tokens_per_frame(config, 128) == 16
    with pytest.raises(ModelFolderError, match="no multiple"):
        tokens_per_frame(config, 100)
    assert tokens_per_frame(config, 128, frame_pool=2) == 4
    with pytest.raises(FvvError, match="frame_pool=2 cannot average the 9 tokens"):
        tokens_per_frame(config, 96, frame_pool=2)


def test_a_folder_and_its_loaded_model_give_the_same_frame_spec(base, loaded):
    """Checks without weights and training with weights use the same frame spec."""
    settings = VideoConfig(image_mean=(0.5, 0.0, 1.0))
    spec = make_frame_spec(open_model_folder(base), settings)
    assert spec == make_frame_spec(loaded, settings) == FrameSpec(64, 4, 2048, (127, 0, 255))
    assert make_frame_spec(loaded, replace(settings, frame_pool=2), max_length=100, image_size=128) == FrameSpec(
        128, 4, 100, (127, 0, 255)
    )
    for wrong in (0, 2049):
        with pytest.raises(TokenBudgetError, match=f"model_max_length={wrong}, but the model reads at most 2048"):
            make_frame_spec(loaded, settings, wrong)


@pytest.mark.parametrize("wrong", [{"image_size": 0}, {"tokens_per_frame": -1}, {"max_length": 1.5}])
def test_a_frame_spec_holds_positive_integers_and_is_frozen(wrong):
    right = {"image_size": 64, "tokens_per_frame": 4, "max_length": 2048}
    with pytest.raises(FvvError, match=rf"{next(iter(wrong))} must be a whole number of at least 1"):
        FrameSpec(**{**right, **wrong})
    with pytest.raises(FrozenInstanceError):
        FrameSpec(**right).image_size = 32


def test_a_bfloat16_checkpoint_computes_what_stock_transformers_computes(copy):
    """RoPE's angles stay float32. In bfloat16 the angles of position 2,000 are wrong by a third of a turn."""
    FastVlmForVideo.from_pretrained(copy, dtype=torch.bfloat16).save_pretrained(copy)
    model, stock = load_pretrained_model(copy, "cpu").model, FastVlmForConditionalGeneration.from_pretrained(copy)
    for (name, ours), (_, theirs) in zip(model.named_buffers(), stock.named_buffers(), strict=True):
        assert ours.dtype == theirs.dtype, name
    ids = torch.randint(300, (1, 2000), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, stock.eval()(ids).logits)


@pytest.mark.parametrize(
    ("name", "key", "auto"),
    [
        ("tokenizer_config.json", "tokenizer_class", "AutoTokenizer"),
        ("processor_config.json", "image_processor_type", "AutoImageProcessor"),
    ],
)
def test_no_code_of_the_folder_runs(copy, name, key, auto, monkeypatch):
    """transformers would ask whether to run the code, and run it after a yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    settings = json.loads((copy / name).read_text())
    part = settings.get("image_processor", settings)
    part.update({key: "Thing", "auto_map": {auto: ["evil.Thing", None] if auto == "AutoTokenizer" else "evil.Thing"}})
    (copy / name).write_text(json.dumps(settings))
    (copy / "evil.py").write_text("raise SystemExit('it ran')")
    with contextlib.suppress(ModelFolderError):  # an error is fine too
        load_pretrained_model(copy, device="cpu")


def test_broken_files_raise_model_folder_errors(copy):
    (copy / "model.safetensors").rename(copy / "whole")
    for content in (b"", b"x" * 1000):
        (copy / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(ModelFolderError, match="model_x: it cannot be loaded"):
            load_pretrained_model(copy)
    (copy / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelFolderError, match=r"config\.json is missing or broken"):
        load_pretrained_model(copy)
