"""LoRA gives the same logits after training, resuming, loading, merging and converting."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from test_convert import QUESTION, ask_stock

from fvv_lib import (
    CheckpointError,
    DataArguments,
    FastVlmForVideo,
    FvvError,
    ModelArguments,
    ModelFolderError,
    TrainingArguments,
    VideoConfig,
    ask,
    load_pretrained_model,
    train,
)
from fvv_lib.course.scenes import still
from fvv_lib.model.parts import count_parameters
from fvv_lib.weights.converting import convert_model
from fvv_lib.weights.lora import add_lora

RANK = 4
MATRICES = 7 * 4  # of attention and MLP, in 4 layers


@pytest.fixture
def run(base, annotate, media, tmp_path):
    def start(output, model=base, steps=4, parts=("projector", "language_model"), **settings):
        lora = {"lora_rank": settings.pop("lora_rank", RANK), "lora_alpha": settings.pop("lora_alpha", None)}
        samples = [
            {
                "video": "clip.mp4",
                "conversations": [
                    {"from": "human", "value": "<image>\nWhich way does it move?"},
                    {"from": "gpt", "value": f"It moves {way}."},
                ],
            }
            for way in ("to the left", "up", "down", "to the right")
        ]
        train(
            ModelArguments(str(model), list(parts), **lora),
            DataArguments(data_path=[annotate(samples)], num_video_frames=3),
            TrainingArguments(
                output_dir=str(tmp_path / output),
                max_steps=steps,
                per_device_train_batch_size=2,
                learning_rate=1e-2,
                save_steps=2,
                disable_tqdm=True,
                report_to="none",
                use_cpu=True,
                **settings,
            ),
        )
        return tmp_path / output

    return start


def logits(model):
    torch.manual_seed(0)
    ids = torch.tensor([[5, -200, 7, -200, 9, 11]])
    with torch.no_grad():
        return model.eval()(input_ids=ids, images=torch.randint(0, 255, (1, 2, 3, 64, 64)).byte()).logits


def test_loaded_merged_and_converted_give_the_trained_logits(run, base, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr("fvv_lib.finetuning.preparing.add_lora", lambda *args: kept.append(add_lora(*args)) or kept[0])
    output = run("output")
    trained = logits(kept[0])
    assert (trained - logits(FastVlmForVideo.from_pretrained(base))).abs().max() > 0.1

    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # `fvv chat` and `fvv convert` would print it
        loaded = load_pretrained_model(output, device="cpu")
    assert type(loaded.model) is FastVlmForVideo
    assert loaded.model.video_config.num_video_frames == 3
    torch.testing.assert_close(logits(loaded.model), trained, atol=1e-5, rtol=0)

    convert_model(output, tmp_path / "plain")
    torch.testing.assert_close(
        logits(load_pretrained_model(tmp_path / "plain", "cpu").model), trained, atol=1e-5, rtol=0
    )
    picture = tmp_path / "picture.png"
    Image.fromarray(still(np.random.default_rng(3))[0]).save(picture)
    answer = ask(load_pretrained_model(tmp_path / "plain", "cpu"), picture, QUESTION, 12)
    assert ask_stock(tmp_path / "plain", picture) == {"kind": "FastVlmForConditionalGeneration", "answer": answer}

    beside_base = PeftModel.from_pretrained(FastVlmForVideo.from_pretrained(base), output)  # as other programs load it
    torch.testing.assert_close(logits(beside_base), trained, atol=1e-5, rtol=0)


def test_a_merge_into_a_bfloat16_base_loses_no_precision(run, base, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr("fvv_lib.finetuning.preparing.add_lora", lambda *args: kept.append(add_lora(*args)) or kept[0])
    half = tmp_path / "half"
    shutil.copytree(base, half)
    FastVlmForVideo.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    output = run("output", model=half)
    merged = load_pretrained_model(output, device="cpu").model
    assert merged.dtype == torch.float32
    torch.testing.assert_close(logits(merged), logits(kept[0]), atol=1e-5, rtol=0)
    assert load_pretrained_model(output, device="cpu", dtype=torch.bfloat16).model.dtype == torch.bfloat16


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"bias": "lora_only"}])
def test_other_kinds_of_peft_adapters_are_merged(base, tmp_path, settings):
    model = FastVlmForVideo.from_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(r=RANK, target_modules=["q_proj", "v_proj"], **settings))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(load_pretrained_model(tmp_path, "cpu").model), logits(model), atol=1e-4, rtol=0)


def test_every_checkpoint_holds_the_adapter_and_the_parts_trained_in_full(run):
    output = run("output")
    for folder in (output / "checkpoint-2", output):
        weights = load_file(folder / "adapter_model.safetensors")
        assert sum("lora_A" in name for name in weights) == sum("lora_B" in name for name in weights) == MATRICES
        rest = {name.rsplit(".", 2)[1] for name in weights if "lora" not in name}
        assert rest == {"linear_1", "linear_2"}
        assert VideoConfig.load(folder).num_video_frames == 3
        load_pretrained_model(folder, device="cpu")


def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_run(run):
    straight = run("straight")
    resumed = run("straight/again", resume_from_checkpoint=str(straight / "checkpoint-2"))
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (straight, resumed))
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-6, rtol=0)

    weights = load_file(straight / "checkpoint-2" / "adapter_model.safetensors")
    zeroed = {name: tensor * ("lora" not in name) for name, tensor in weights.items()}
    save_file(zeroed, straight / "checkpoint-2" / "adapter_model.safetensors")
    again = load_file(
        run("straight/third", resume_from_checkpoint=str(straight / "checkpoint-2")) / "adapter_model.safetensors"
    )
    assert any((one[name] - again[name]).abs().max() > 1e-3 for name in one)  # the run did start from the checkpoint


def test_resuming_with_another_rank_or_scale_or_without_lora_is_an_error(run):
    """With another scale the parameters have the same shapes, but the model is not the same."""
    checkpoint = run("straight") / "checkpoint-2"
    others = {"more": {"lora_rank": 2 * RANK}, "full": {"lora_rank": 0}, "scaled": {"lora_alpha": 64}}
    for name, settings in others.items():
        with pytest.raises(CheckpointError, match=rf"checkpoint-2: that run had another {min(settings)} \("):
            run(name, resume_from_checkpoint=str(checkpoint), **settings)
    (checkpoint / "run_identity.json").unlink()  # as an earlier version saved it
    for name in ("more", "full"):
        with pytest.raises(CheckpointError, match=r"checkpoint-2: that run trained other parameters.*--lora_rank"):
            run(name, resume_from_checkpoint=str(checkpoint), **others[name])


def test_the_tower_is_frozen_unless_it_is_named_and_has_a_learning_rate(run, base):
    """LoRA's learning rate is too high for a tower that is trained in full."""
    assert ModelArguments("m", lora_rank=RANK).tunable_parts == ("projector", "language_model")
    assert ModelArguments("m").tunable_parts == ("vision_tower", "projector", "language_model")
    with pytest.raises(FvvError, match=r"set vision_tower_lr .*or leave vision_tower out of tunable_parts"):
        run("output", parts=("vision_tower", "language_model"))
    output = run("output", parts=("vision_tower", "language_model"), vision_tower_lr=1e-3, steps=1)
    before, after = FastVlmForVideo.from_pretrained(base).state_dict(), load_pretrained_model(output).model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before if "vision_tower" in name)
    with pytest.raises(FvvError, match="vision_tower_lr is set, but tunable_parts leaves vision_tower out"):
        run("other", parts=("auto",), vision_tower_lr=1e-3)


def test_a_run_killed_during_a_save_resumes_from_the_checkpoint_before(run, tmp_path, monkeypatch):
    save = PeftModel.save_pretrained

    def killed(self, folder, **settings):
        save(self, folder, **settings)
        if "checkpoint-4" in str(folder):
            raise KeyboardInterrupt

    monkeypatch.setattr(PeftModel, "save_pretrained", killed)
    with pytest.raises(KeyboardInterrupt):
        run("output")
    monkeypatch.undo()
    output = tmp_path / "output"
    assert [folder.name for folder in output.glob("checkpoint-*")] == ["checkpoint-2"]
    load_pretrained_model(output / "checkpoint-2", device="cpu")
    run("output", resume_from_checkpoint="True")
    assert (output / "checkpoint-4" / "adapter_model.safetensors").is_file()


def test_an_adapter_can_be_trained_on_top_of_an_adapter(run):
    first = run("first")
    second = run("second", model=first)
    assert json.loads((second / "adapter_config.json").read_text())["base_model_name_or_path"] == str(first)
    both = logits(load_pretrained_model(second, "cpu").model)
    assert (both - logits(load_pretrained_model(first, "cpu").model)).abs().max() > 0.1


@pytest.mark.parametrize("parts", [["language_model"], ["vision_tower", "projector", "language_model"]])
def test_lora_trains_adapters_of_the_language_model_and_other_parts_in_full(base, parts):
    model = FastVlmForVideo.from_pretrained(base)
    full = count_parameters(model)
    adapted = add_lora(model, ModelArguments(str(base), parts, lora_rank=RANK))
    counts = count_parameters(adapted)
    for part in ("vision_tower", "projector"):
        assert counts[part] == (full[part][1] if part in parts else 0, full[part][1])
    shapes = [p.shape for name, p in model.named_parameters() if name.endswith("base_layer.weight")]
    assert len(shapes) == MATRICES
    assert counts["language_model"][0] == sum(RANK * (rows + columns) for rows, columns in shapes)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    adapted.train()
    out = adapted(
        input_ids=torch.tensor([[5, -200, 9, 11]]),
        images=torch.randint(0, 255, (1, 1, 3, 64, 64)).byte(),
        labels=torch.tensor([[-100, -100, 9, 11]]),
    )
    out.loss.backward()
    assert {name for name, parameter in adapted.named_parameters() if parameter.grad is not None} == trained


def test_an_adapter_that_does_not_fit_its_files_or_its_base_is_an_error(run, tmp_path):
    output = run("output", steps=2)
    good = tmp_path / "good"
    shutil.copytree(output, good)

    weights = load_file(good / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_B" in name)
    save_file({key: value for key, value in weights.items() if key != name}, output / "adapter_model.safetensors")
    with pytest.raises(ModelFolderError, match=rf"output: .*missing: \['{name}'\]"):
        load_pretrained_model(output)
    save_file({**weights, "extra": torch.zeros(1)}, output / "adapter_model.safetensors")
    with pytest.raises(ModelFolderError, match=r"output: .*unexpected: \['extra'\]"):
        load_pretrained_model(output)
    save_file({**weights, name: torch.zeros(3, 3)}, output / "adapter_model.safetensors")
    with pytest.raises(ModelFolderError, match="output: its adapter does not fit its base"):
        load_pretrained_model(output)
    (output / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelFolderError, match=r"output: it has no adapter_model\.safetensors"):
        load_pretrained_model(output)

    config = json.loads((good / "adapter_config.json").read_text())
    (good / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(good)}))
    with pytest.raises(ModelFolderError, match="base_model_name_or_path is this folder"):
        load_pretrained_model(good)
    (good / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/no/such/folder"}))
    with pytest.raises(ModelFolderError, match=r"base_model_name_or_path '/no/such/folder' does not exist"):
        load_pretrained_model(good)
    (good / "adapter_config.json").write_text("{")
    with pytest.raises(ModelFolderError, match="not an adapter's configuration"):
        load_pretrained_model(good)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_rank": -1}, "lora_rank must not be negative"),
        ({"lora_rank": 4, "lora_dropout": 1.0}, r"lora_dropout in \[0, 1\)"),
        ({"lora_rank": 4, "lora_alpha": 0}, "lora_alpha must be above 0"),
        ({"lora_rank": 4, "tunable_parts": ["projector"]}, "add language_model"),
        ({"lora_alpha": 8}, "do nothing without a lora_rank"),
    ],
)
def test_wrong_settings_are_errors(settings, message):
    with pytest.raises(FvvError, match=message):
        ModelArguments("model", **settings)
