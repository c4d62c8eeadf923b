"""Settings: their choices are those of the modules that use them, and a wrong value fails before data are read."""

import json
from dataclasses import fields

import pytest
import torch
from transformers import HfArgumentParser

from fvv_lib import DataArguments, FvvError, ModelArguments, ModelFolderError, TrainingArguments, VideoConfig
from fvv_lib.labels.exact import MISMATCH_MODES
from fvv_lib.settings import PARTS
from fvv_lib.video.pixels import ASPECT_RATIOS
from fvv_lib.video.read import BACKENDS
from fvv_lib.video.sampling import STRATEGIES

CHOICES = {
    "frame_sampling": set(STRATEGIES),
    "video_backend": set(BACKENDS),
    "image_aspect_ratio": set(ASPECT_RATIOS),
    "time_marks": {"none", "seconds"},
    "time_origin": {"segment", "file"},
    "mismatch": set(MISMATCH_MODES),
    "bad_samples": {"raise", "skip"},
}


@pytest.mark.parametrize("name", CHOICES)
def test_the_choices_of_a_setting_are_those_of_its_module(name):
    others = {"time_marks": "seconds"} if name == "time_origin" else {}
    for value in CHOICES[name]:
        assert getattr(DataArguments(**{name: value}, **others), name) == value
    with pytest.raises(FvvError, match=rf"^Unknown {name} 'nothing': choose one of ") as error:
        DataArguments(**{name: "nothing"})
    assert set(str(error.value).partition("choose one of ")[2].rstrip(".").split(", ")) == CHOICES[name]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time_origin": "file"}, "time_origin='file' would do nothing: time_marks is 'none'"),
        ({"frame_pool": 0}, "frame_pool must be at least 1, got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"decode_timeout": -1.0}, "decode_timeout must be 0 or more seconds, got -1.0"),
        ({"decode_timeout": float("nan")}, "decode_timeout must be 0 or more seconds, got nan"),
        ({"decode_timeout": float("inf")}, "decode_timeout must be 0 or more seconds, got inf. 0: no limit"),
    ],
)
def test_a_wrong_data_setting_is_an_error(settings, message):
    with pytest.raises(FvvError, match=message):
        DataArguments(**settings)


@pytest.mark.parametrize("name", ["file", "file/cache"])
def test_a_cache_folder_that_is_a_file_is_an_error(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(FvvError, match=rf"cache_dir .*{name}: .*file is a file\. Give a folder"):
        DataArguments(cache_dir=str(tmp_path / name))
    assert DataArguments(cache_dir=str(tmp_path / "new" / "cache")).cache_dir


@pytest.mark.parametrize("parts", [[], ["projector", "tower"]])
def test_unknown_parts_cannot_be_trained(parts):
    with pytest.raises(FvvError, match=f"must name some of {', '.join(PARTS)}"):
        ModelArguments("x", parts)


def test_evaluation_settings_are_those_of_training_without_randomness():
    arguments = DataArguments(frame_sampling="random", mismatch="tolerant", num_video_frames=3)
    evaluation = arguments.for_evaluation()
    assert (evaluation.frame_sampling, evaluation.mismatch, evaluation.num_video_frames) == ("segment", "exact", 3)
    assert (arguments.frame_sampling, arguments.mismatch) == ("random", "tolerant")  # unchanged
    assert DataArguments(frame_sampling="uniform").for_evaluation().frame_sampling == "uniform"


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def training(tmp_path):
    return lambda **settings: TrainingArguments(output_dir=str(tmp_path), report_to="none", **settings)


def test_without_a_gpu_training_is_not_in_bfloat16(training, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)  # as on ROCm, which checks no GPU
    assert training().bf16 is False
    assert training(use_cpu=True).bf16 is False
    assert training(use_cpu=True, bf16=True).bf16 is True  # an explicit value is kept


@pytest.mark.parametrize("value", [0, -5])
@pytest.mark.parametrize("name", ["model_max_length", "frames_per_chunk"])
def test_a_length_below_one_is_an_error(training, name, value):
    with pytest.raises(FvvError, match=f"{name} must be at least 1, got {value}"):
        training(**{name: value})


@pytest.mark.filterwarnings("error:.*checkpointing")
@pytest.mark.parametrize("on", [True, False])
def test_gradient_checkpointing_is_set_without_a_warning_about_its_name(training, on):
    arguments = training(gradient_checkpointing=on)
    assert arguments.gradient_checkpointing is on
    assert getattr(arguments, "activation_checkpointing", on) is on


@pytest.mark.filterwarnings("error:.*checkpointing")
@pytest.mark.parametrize("name", ["gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"])
def test_both_names_of_a_checkpointing_setting_mean_the_same(training, name):
    arguments = training(gradient_checkpointing=True, **{name: {"use_reentrant": False}})
    assert (
        arguments.gradient_checkpointing_kwargs == arguments.activation_checkpointing_kwargs == {"use_reentrant": False}
    )


def test_the_best_checkpoint_is_that_with_the_lowest_loss(training):
    arguments = training(save_strategy="best", eval_strategy="steps", eval_steps=1)
    assert (arguments.metric_for_best_model, arguments.greater_is_better) == ("loss", False)


# --- the video configuration ------------------------------------------------------------------------------------------


def test_a_video_configuration_can_be_saved_and_loaded(tmp_path):
    rate = {"sample_fps": 0.5, "max_frames": 4, "min_frames": 2}
    config = VideoConfig(8, "fps", "crop", "v1", (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), "seconds", 2, "file", **rate)
    config.save(tmp_path)
    assert VideoConfig.load(tmp_path) == config
    VideoConfig(time_origin="file").save(tmp_path)  # as an earlier build stored it
    assert VideoConfig.load(tmp_path).time_origin == "file"
    config = VideoConfig(3, "random", "crop", "v1", (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), "seconds", 2)
    config.save(tmp_path)
    assert VideoConfig.load(tmp_path) == config
    assert VideoConfig.load(str(tmp_path)).inference_sampling == "segment"
    assert set(json.loads((tmp_path / "fvv_config.json").read_text())) == set(VideoConfig.__dataclass_fields__)


def test_a_folder_without_a_video_configuration_has_none(tmp_path):
    assert VideoConfig.load(tmp_path) is None
    assert VideoConfig.load(tmp_path / "nowhere") is None


@pytest.mark.parametrize("text", ['{"num_video_frames": 8', '{"frames": 8}', "[8]", "8", "null", ""])
def test_a_broken_video_configuration_is_an_error_that_names_it(tmp_path, text):
    (tmp_path / "fvv_config.json").write_text(text)
    with pytest.raises(ModelFolderError, match=r"not a video configuration .*Restore or delete it") as error:
        VideoConfig.load(tmp_path)
    assert str(error.value).startswith(str(tmp_path / "fvv_config.json"))


def test_the_base_has_the_defaults_of_the_course(base):
    assert VideoConfig.load(base) == VideoConfig()


@pytest.mark.parametrize(
    "stored",
    [
        '{"time_marks": "minutes"}',
        '{"frame_pool": 0}',
        '{"num_video_frames": 2.5}',
        '{"image_mean": [0.5]}',
        "[1]",
        "{",
    ],
)
def test_an_invalid_video_configuration_is_an_error_that_names_the_file(tmp_path, stored):
    (tmp_path / "fvv_config.json").write_text(stored)
    with pytest.raises(ModelFolderError, match=r"fvv_config\.json: not a video configuration"):
        VideoConfig.load(tmp_path)


def test_the_parser_of_transformers_takes_the_arguments_again_and_again(tmp_path, monkeypatch):
    """It changes the types of the fields, and settings with a list of values are still checked."""
    for field in fields(TrainingArguments):
        monkeypatch.setattr(field, "type", field.type)  # sets it back for other tests
    for _ in range(2):
        (parsed,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(["--output_dir", str(tmp_path)])
        assert parsed.debug == []
        assert TrainingArguments(str(tmp_path)).debug == []
        with pytest.raises(FvvError, match="Unknown train_sampling_strategy 'foo'"):
            TrainingArguments(str(tmp_path), train_sampling_strategy="foo")
