"""Settings from flags, from YAML, and through the script."""

import os
import subprocess

import pytest
from conftest import ROOT
from transformers import HfArgumentParser

from fvv_lib import DataArguments, FvvError, ModelArguments, TrainingArguments
from fvv_lib.flags import parse_settings

NEEDED = ["--model_name_or_path", "base", "--output_dir", "output", "--use_cpu", "True", "--report_to", "none"]


def test_every_setting_has_help():
    for arguments in (ModelArguments, DataArguments, TrainingArguments):
        for field in arguments.__dataclass_fields__.values():
            if field.init and field.name in arguments.__annotations__:
                assert field.metadata.get("help"), field.name
    assert "--num_video_frames" in HfArgumentParser((ModelArguments, DataArguments, TrainingArguments)).format_help()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output_dir", "output"], "the following arguments are required: --model_name_or_path"),
        (["--model_name", "base"], "the following arguments are required: --model_name_or_path"),  # not guessed
        ([*NEEDED, "--num_videoframes", "4"], "--num_videoframes"),
        ([*NEEDED, "--num_video_frames", "many"], "argument --num_video_frames"),
    ],
)
def test_a_wrong_flag_is_an_error_in_one_line(flags, message):
    with pytest.raises(FvvError) as error:
        parse_settings(flags)
    assert message in str(error.value)
    assert str(error.value).endswith("See python -m fvv_lib.training --help.")
    assert "\n" not in str(error.value)


def test_a_yaml_file_says_what_flags_say(tmp_path):
    """YAML takes `1e-5` for text, and a single path is no list."""
    file = tmp_path / "run.yaml"
    file.write_text(
        f"model_name_or_path: base\noutput_dir: {tmp_path}\ndata_path: train.json\nuse_cpu: true\nreport_to: [none]\n"
        "learning_rate: 1e-5\nvision_tower_lr: 2e-6\ntunable_parts: [projector, language_model]\nlora_alpha: null\n"
        "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1e-7}\nnum_video_frames: 4\n"
    )
    model_args, data_args, training_args = parse_settings([str(file)])
    assert model_args.tunable_parts == ["projector", "language_model"]
    assert model_args.lora_alpha is None
    assert (data_args.data_path, data_args.num_video_frames) == (["train.json"], 4)
    assert (training_args.learning_rate, training_args.vision_tower_lr, training_args.use_cpu) == (1e-5, 2e-6, True)
    assert training_args.lr_scheduler_kwargs == {"min_lr": 1e-7}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "it can not be read"),
        ("", "it must have lines like"),
        ("- a\n- b\n", "it must have lines like"),
        ("a: [1\nb: 2\n", "it can not be read"),
        ("num_video_frames: 4\n", "model_name_or_path"),
        ("model_name_or_path: base\nnum_frames: 4\n", "num_frames"),
        ("model_name_or_path: base\nnum_video_frames: many\n", "run.yaml"),
    ],
)
def test_a_wrong_yaml_file_is_an_error_in_one_line(tmp_path, text, message):
    file = tmp_path / "run.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(FvvError, match=message) as error:
        parse_settings([str(file)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spelling", [["--data_path", "x"], ["--data-path", "x"], ["--data_path=x"], ["--data-path=x"]])
def test_with_data_of_your_own_nothing_of_the_course_is_used(spelling):
    """`echo` in Python's place shows the command that the script would run."""
    script, environment = ["bash", str(ROOT / "scripts" / "finetune_video.sh")], {**os.environ, "PYTHON": "echo"}
    course, mine = (
        subprocess.run([*script, *flags], env=environment, capture_output=True, text=True, check=True).stdout
        for flags in (["--seed", "1"], spelling)
    )
    assert "data_samples" in course
    assert "--max_steps 600" in course
    assert "data_samples" not in mine
    assert "--max_steps" not in mine
