"""Settings whose errors only appear when they are used. All other settings are in test_training_flags."""

import json
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
from shared import ROOT

from fvv_lib import DataArguments, FvvError, ModelArguments, TrainingArguments, train
from fvv_lib.finetuning.trying import check_deepspeed, read_deepspeed, try_settings

AUTO = {
    "train_micro_batch_size_per_gpu": "auto",
    "train_batch_size": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
    "zero_optimization": {"stage": 2},
}


@pytest.fixture
def check(tmp_path):
    """Run `check_deepspeed` on a file, with a stand-in for the settings: real ones would start DeepSpeed."""

    def run(config, **settings):
        file = tmp_path / "ds.json"
        file.write_text(config if isinstance(config, str) else json.dumps(config))
        plain = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "world_size": 2}
        plain |= {"max_grad_norm": 1.0, "bf16": False, "fp16": False, "deepspeed": str(file)}
        plain |= {"save_only_model": False, "load_best_model_at_end": False}
        check_deepspeed(SimpleNamespace(**{**plain, **settings}))

    return run


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3", "zero3_offload"])
@pytest.mark.parametrize("settings", [{}, {"bf16": True, "max_grad_norm": 0.5, "gradient_accumulation_steps": 4}])
def test_our_files_override_no_setting(check, name, settings):
    check((ROOT / "scripts" / f"{name}.json").read_text(), **settings)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"train_micro_batch_size_per_gpu": 2, "train_batch_size": 4, "gradient_accumulation_steps": 1},
        {"gradient_clipping": 1.0, "bf16": {"enabled": False}},
        {"fp16": {"enabled": False}},
        {"zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}},
    ],
)
def test_a_file_that_agrees_with_the_settings_is_accepted(check, change):
    check({**AUTO, **change})


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"optimizer": {"type": "AdamW"}}, {}, '"optimizer" overrides .*vision_tower_lr.*Delete the section'),
        ({"scheduler": {"type": "WarmupLR"}}, {}, '"scheduler" overrides lr_scheduler_type'),
        ({"gradient_clipping": 0.5}, {}, '"gradient_clipping" is 0.5, but max_grad_norm is 1.0'),
        ({"gradient_clipping": None}, {}, '"gradient_clipping" is missing, but max_grad_norm is 1.0. Set it to "auto"'),
        ({"bf16": {"enabled": True}}, {}, '"bf16.enabled" is True, but bf16 is False'),
        ({"bf16": None}, {"bf16": True}, '"bf16.enabled" is missing, but bf16 is True'),
        ({"fp16": {"enabled": True}}, {}, '"fp16.enabled" is True, but fp16 is False'),
        ({"train_micro_batch_size_per_gpu": 8}, {}, "is 8, but per_device_train_batch_size is 2"),
        ({"gradient_accumulation_steps": None}, {}, '"gradient_accumulation_steps" is missing'),
        ({"train_batch_size": 5}, {}, '"train_batch_size" is 5, but the samples of a step is 4'),
        ({"zero_optimization": {"stage": 3}}, {}, '"stage3_gather_16bit_weights_on_model_save": true'),
    ],
)
def test_a_file_that_overrides_a_setting_is_refused(check, change, settings, message):
    config = {key: value for key, value in {**AUTO, **change}.items() if value is not None}
    with pytest.raises(FvvError, match=message) as error:
        check(config, **settings)
    assert "ds.json: " in str(error.value)


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_a_file_that_is_not_a_configuration_is_refused(tmp_path, text):
    (tmp_path / "ds.json").write_text(text)
    with pytest.raises(FvvError, match=r"^deepspeed=.*ds\.json: it (cannot be read as JSON|must be a JSON object)"):
        TrainingArguments(str(tmp_path / "o"), use_cpu=True, deepspeed=str(tmp_path / "ds.json"))
    with pytest.raises(FvvError, match=r"ds\.json: not a DeepSpeed configuration"):
        read_deepspeed(str(tmp_path / "ds.json"))


@pytest.mark.parametrize("settings", [{"optim": "paged_adamw_8bit"}, {"report_to": "wandb"}, {"fp16": True}])
def test_settings_are_tried_before_data_are_read(base, tmp_path, settings):
    """The data file does not exist, and the error is about the setting."""
    arguments = {"output_dir": str(tmp_path / "o"), "use_cpu": True, "report_to": "none", **settings}
    with pytest.raises(FvvError, match=next(iter(settings))):
        train(ModelArguments(str(base)), DataArguments(data_path=("gone.json",)), TrainingArguments(**arguments))
    assert not (tmp_path / "o").exists()


def test_settings_that_exclude_each_other_under_deepspeed_are_refused(check):
    check(AUTO, save_only_model=True)
    check(AUTO, load_best_model_at_end=True)
    with pytest.raises(FvvError, match="save_only_model and load_best_model_at_end exclude each other under DeepSpeed"):
        check(AUTO, save_only_model=True, load_best_model_at_end=True)


# Stands for the package, whose real login asks a server.
WANDB = """
run = None
logins = []
def login():
    logins.append(1)
    {does}
"""


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """Make an importable package that does this on login."""

    def install(does):
        (tmp_path / "packages").mkdir()
        (tmp_path / "packages" / "wandb.py").write_text(WANDB.format(does=does))
        monkeypatch.syspath_prepend(tmp_path / "packages")
        return import_module("wandb")

    yield install
    sys.modules.pop("wandb", None)


def test_a_missing_login_of_wandb_is_an_error_before_data_are_read(wandb, tmp_path):
    wandb('raise RuntimeError("api_key not configured (no-tty)")')
    arguments = TrainingArguments(str(tmp_path / "o"), use_cpu=True, report_to="wandb")
    with pytest.raises(FvvError, match=r"report_to=.*wandb.*: it cannot be used here: api_key not configured"):
        try_settings(arguments)


def test_wandb_is_logged_in_once(wandb, tmp_path):
    package = wandb("return True")
    try_settings(TrainingArguments(str(tmp_path / "o"), use_cpu=True, report_to="wandb"))
    assert package.logins == [1]
    try_settings(TrainingArguments(str(tmp_path / "o"), use_cpu=True, report_to="none"))
    assert package.logins == [1]
