"""Settings from flags, from YAML and through the script, and the errors of the command for wrong ones."""

import os
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

import build_flags
import pytest
import transformers
from shared import ROOT

from fvv_lib import DataArguments, ModelArguments, TrainingArguments
from fvv_lib.cli import VERBS, check, evaluate, prepare
from fvv_lib.cli.finetune import TABLE, parse_settings, transformers_flags
from fvv_lib.cli.flags import flags_of, parse
from fvv_lib.errors import FlagError
from fvv_lib.settings import MemorySettings, TrainingSettings

EVALUATE = ["evaluate", "--model", "no/such/model", "--data", "y.json", "--output", "z"]
BENCHMARK = ["evaluate", "--model", "x", "--output", "z", "--benchmark", "mvbench", "--data_dir", "no/such/folder"]
NEEDED = ["--model_name_or_path", "base", "--output_dir", "output", "--use_cpu", "True", "--report_to", "none"]


@dataclass(frozen=True)
class Settings:
    """One field of each kind."""

    paths: list[Path] = field(default_factory=list, metadata={"positional": True, "help": "Files."})
    count: int = field(default=8, metadata={"help": "How many, 100 %."})
    rate: float | None = field(default=None, metadata={"help": "How fast."})
    packing: bool = field(default=False, metadata={"help": "A switch."})
    kind: Literal["yes", "no"] = field(default="yes", metadata={"help": "A choice."})
    words: list[str] = field(default_factory=list, metadata={"help": "Several."})
    shown: list[str] = field(default_factory=list, metadata={"appended": True, "help": "Again and again."})


def read(*arguments):
    return parse(flags_of(Settings), arguments, "verb")


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ([], {}),
        (["--count", "3"], {"count": 3}),
        (["--count=3"], {"count": 3}),
        (["--count", "-3"], {"count": -3}),
        (["--rate", "1e-5"], {"rate": 1e-5}),
        (["--rate", "none"], {"rate": None}),
        (["--packing"], {"packing": True}),
        (["--no-packing"], {"packing": False}),
        (["--no_packing"], {"packing": False}),
        (["--packing", "True"], {"packing": True}),
        (["--packing", "false"], {"packing": False}),
        (["--packing=False"], {"packing": False}),
        (["--packing", "--count", "3"], {"packing": True, "count": 3}),
        (["--kind", "no"], {"kind": "no"}),
        (["--words", "a", "b"], {"words": ["a", "b"]}),
        (["--words", "a", "--words", "b"], {"words": ["b"]}),  # the last one wins
        (["--shown", "a", "--shown", "b", "c"], {"shown": ["a", "b", "c"]}),
        (["x", "y", "--count", "3"], {"paths": [Path("x"), Path("y")], "count": 3}),
    ],
)
def test_the_value_of_a_flag_has_its_type(arguments, values):
    assert read(*arguments) == values


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "8.5"], "--count: '8.5' is not a whole number"),
        (["--count", "none"], "--count: 'none' is not a whole number"),
        (["--rate", "fast"], "--rate: 'fast' is not a number"),
        (["--packing", "--count", "x"], "--count: 'x' is not a whole number"),
        (["--packing=maybe"], "--packing: 'maybe' is neither True nor False"),
        (["--kind", "perhaps"], "--kind: 'perhaps' is not one of yes, no"),
        (["--coun", "3"], "There is no flag --coun; did you mean --count?"),  # no abbreviations
        (["--no-count"], "There is no flag --no_count; did you mean --count?"),
        (["--anything"], "There is no flag --anything. See"),
        (["--count"], "--count: expected one argument"),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_it(arguments, message):
    with pytest.raises(FlagError) as error:
        read(*arguments)
    assert message in str(error.value)
    assert str(error.value).endswith("See fvv verb --help.")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("count: 3\nrate: 1e-5\npacking: true\n", ["--count", "3", "--rate", "1e-5", "--packing"]),
        ('packing: "False"\n', ["--packing", "False"]),
        ("packing: no\nkind: no\n", ["--no-packing", "--kind", "no"]),
        ("rate: null\nwords: a\n", ["--rate", "none", "--words", "a"]),
        ("words: [a, b]\npaths: [x, y]\n", ["x", "y", "--words", "a", "b"]),
        ("shown: [a, b]\ncount: -3\n", ["--shown", "a", "b", "--count", "-3"]),
        ('words: ["--a"]\n', ["--words=--a"]),
    ],
)
def test_a_yaml_file_gives_the_same_values_as_flags(tmp_path, text, arguments):
    (tmp_path / "run.yaml").write_text(text)
    assert read(str(tmp_path / "run.yaml")) == read(*arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "it cannot be read"),
        ("", "it must have lines like"),
        ("- a\n- b\n", "it must have lines like"),
        ("a: [1\nb: 2\n", "it cannot be read"),
        ("counts: 4\n", "There is no flag --counts"),
        ("count: 8.5\n", "'8.5' is not a whole number"),
        ("count: many\n", "'many' is not a whole number"),
        ("packing: maybe\n", "'maybe' is neither True nor False"),
        ("kind: perhaps\n", "'perhaps' is not one of yes, no"),
        ("packing: []\n", "packing takes one value, got the list []"),
        ("count: [1, 2]\n", "count takes one value, got the list [1, 2]"),
    ],
)
def test_a_wrong_yaml_file_is_one_line_that_names_it(tmp_path, text, message):
    file = tmp_path / "run.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(FlagError) as error:
        read(str(file))
    assert str(error.value).count(str(file)) == 1
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# --- the settings of a run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        ModelArguments,
        DataArguments,
        TrainingSettings,
        MemorySettings,
        check.CheckOptions,
        evaluate.EvaluateSettings,
        prepare.PrepareSettings,
    ],
)
def test_every_setting_has_help(settings):
    assert all(flag.help for flag in flags_of(settings))


def test_a_run_is_read_from_yaml(tmp_path):
    """`1e-5` is a number although YAML reads it as text, and a single path becomes a list."""
    file = tmp_path / "run.yaml"
    file.write_text(
        f"model_name_or_path: base\noutput_dir: {tmp_path}\ndata_path: train.json\nuse_cpu: true\nreport_to: [none]\n"
        "learning_rate: 1e-5\nvision_tower_lr: 2e-6\ntunable_parts: [projector, language_model]\nlora_alpha: null\n"
        "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1e-7}\nnum_video_frames: 4\n"
        'packing: "False"\ngradient_checkpointing: "True"\nsave_strategy: no\n'
    )
    model_args, data_args, training_args = parse_settings([str(file)])
    assert model_args.tunable_parts == ("projector", "language_model")
    assert model_args.lora_alpha is None
    assert (data_args.data_path, data_args.num_video_frames) == (("train.json",), 4)
    assert (training_args.learning_rate, training_args.vision_tower_lr, training_args.use_cpu) == (1e-5, 2e-6, True)
    assert training_args.lr_scheduler_kwargs == {"min_lr": 1e-7}
    assert (training_args.packing, training_args.gradient_checkpointing) == (False, True)
    assert training_args.save_strategy == "no"


def test_settings_do_not_change():
    for settings, name in ((ModelArguments("x"), "lora_rank"), (DataArguments(), "num_video_frames")):
        with pytest.raises(FrozenInstanceError):
            setattr(settings, name, 3)


def test_an_error_of_transformers_is_one_line(fvv):
    result = fvv("finetune", *NEEDED, "--dataloader_prefetch_factor", "2")
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_the_table_of_flags_matches_the_installed_transformers():
    """After installing another version, run `make flags`."""
    assert TABLE.read_text() == build_flags.write(build_flags.make_table())
    names = {flag.name for flag in transformers_flags()}
    assert names == {one.name for one in fields(transformers.TrainingArguments) if one.init} - build_flags.NO_FLAG
    assert {one.name for one in fields(TrainingArguments) if one.init} - build_flags.NO_FLAG == names | {
        one.name for one in fields(TrainingSettings)
    }


def test_the_help_of_transformers_is_shown_without_loading_it():
    shown = {flag.name: flag.help for flag in transformers_flags(with_help=True)}
    for one in fields(transformers.TrainingArguments):
        if one.name in shown and isinstance(one.metadata.get("help"), str):
            assert shown[one.name] in (one.metadata["help"].replace("%%", "%"), "See transformers.TrainingArguments.")
    assert sum(text != "See transformers.TrainingArguments." for text in shown.values()) > 90


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_lists_its_verbs_and_each_has_help(fvv):
    overview = fvv("--help")
    assert overview.returncode == 0
    assert all(verb in overview.stdout for verb in VERBS)
    assert {path.stem for path in (ROOT / "fvv_lib" / "cli").glob("*.py")} == {*VERBS, "__init__", "flags", "starting"}
    for verb in VERBS:
        result = fvv(verb, "--help")
        assert result.returncode == 0
        takes_flags = verb != "doctor"
        assert result.stdout.startswith(f"usage: fvv {verb}{' ' if takes_flags else chr(10)}")
        assert ("[flags]" in result.stdout) == ("SETTINGS.yaml" in result.stdout) == takes_flags


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["train"],
            2,
            "unknown verb 'train': choose one of doctor, prepare, check, memory, finetune, evaluate, chat, convert.",
        ),
        (["finetune", "--output_dir", "x"], 2, "the following arguments are required: --model_name_or_path"),
        (["finetune", *NEEDED, "--num_videoframes", "4"], 2, "There is no flag --num_videoframes; did you mean"),
        (["finetune", *NEEDED, "--num_video_frames", "many"], 2, "--num_video_frames: 'many' is not a whole number"),
        (["finetune", *NEEDED, "--frame_sampling", "best"], 1, "Unknown frame_sampling 'best'"),
        (["finetune", *NEEDED, "--lora_rank", "-1"], 1, "lora_rank must not be negative"),
        (["finetune", *NEEDED, "--optim", "best"], 2, "--optim: 'best' is not one of"),
        (["finetune", "gone.yaml"], 2, "gone.yaml: it cannot be read"),
        (["check", "--model_name_or_path", "x"], 1, "give at least one annotation file"),
        (["check", "x.json"], 2, "required: --model_name_or_path"),
        (["check", "x.json", "--model_name_or_path", "x", "--image_aspect_ratio", "square"], 1, "Unknown image_aspect"),
        (["chat", "--model", "x", "--max_new_tokens", "few"], 2, "--max_new_tokens: 'few' is not a whole number"),
        (["chat", "--model", "no/such/model"], 1, "no/such/model: no such folder"),
        (["evaluate", "--model", "x", "--data", "y"], 2, "the following arguments are required: --output"),
        ([*EVALUATE, "--batch_size", "0"], 1, "batch_size must be at least 1, got 0."),
        ([*EVALUATE, "--seed", "-1"], 1, "seed must be 0 or more, got -1."),
        ([*EVALUATE, "--data", "y", "y"], 1, "data names a file twice: y y."),
        ([*EVALUATE, "--data"], 1, "data is empty: give at least one annotation file, or a benchmark."),
        ([*EVALUATE, "--benchmark", "mvbench", "--data_dir", "x"], 1, "data and benchmark are both given"),
        ([*EVALUATE, "--data_dir", "x"], 1, "benchmark and data_dir need each other: give both."),
        (
            [*BENCHMARK, "--image_folder", "x"],
            1,
            "image_folder belongs to data: a benchmark has its videos in data_dir",
        ),
        ([*BENCHMARK, "--benchmark", "mmbench"], 1, "Unknown benchmark 'mmbench': choose one of egoschema, "),
        (BENCHMARK, 1, "mvbench: no/such/folder: no such folder. data_dir must be"),
        ([*EVALUATE, "--video_backend", "best"], 1, "Unknown video_backend 'best'"),
        ([*EVALUATE, "--scores", "best"], 1, "Unknown score 'best': choose one of bleu, chrf."),
        (EVALUATE, 1, "no/such/model: no such folder"),
        (["prepare", "x.json"], 2, "the following arguments are required: --output"),
        (["prepare", "x.json", "--output", "y.json"], 1, "x.json: no such file or folder. Check the path."),
        (["prepare", "x.json", "--output", "y.json", "--columns", "a"], 1, "columns must be like video=path, got 'a'"),
        (["prepare", "x.json", "--output", "y.json", "--workers", "0"], 1, "workers must be at least 1, got 0."),
        (["convert", "x"], 2, "the following arguments are required: folder"),
        (["convert", "x", "y", "--layout", "onnx"], 2, "--layout: 'onnx' is not one of huggingface, apple"),
        (["convert", "x", "y"], 1, "x: no such folder"),
        (["memory"], 1, "memory needs --model"),
        (["memory", "--model", "0.5b", "--device_gib", "-1"], 1, "device_gib must be above 0"),
        (["memory", "--model", "0.5b", "--zero_stage", "5"], 1, "zero_stage must be 0, 1, 2 or 3"),
        (["memory", "--model", "0.5b", "--tunable_parts", "head"], 1, "tunable_parts must name some of"),
        (["check", "x.json", "--model_name_or_path", "m", "--bad_samples", "maybe"], 1, "Unknown bad_samples 'maybe'"),
        (["check", "x.json", "--model_name_or_path", "m", "--workers", "0"], 1, "workers must be at least 1, got 0"),
        (["chat", "--model", "m", "--max_new_tokens", "0"], 1, "max_new_tokens must be at least 1, got 0"),
        (["finetune", *NEEDED, "--seed", "-1"], 1, "seed must be from 0 to 2**32 - 1, got -1"),
        (
            ["finetune", *NEEDED, "--per_device_train_batch_size", "0"],
            1,
            "per_device_train_batch_size must be at",
        ),
        (["finetune", *NEEDED, "--dataloader_num_workers", "-1"], 1, "dataloader_num_workers must be 0 or more"),
        (["doctor", "--fast"], 2, "There is no flag --fast"),
        (["finetune", "--model", "x"], 2, "There is no flag --model; did you mean --model_name_or_path?"),
        (["finetune", "--data", "x"], 2, "There is no flag --data; did you mean --data_path?"),
        (["check", "x.json", "--model", "x"], 2, "There is no flag --model; did you mean --model_name_or_path?"),
        (["check", "--data", "x.json"], 2, "There is no flag --data; did you mean --data_path?"),
        (["finetune", "--lr", "1e-4"], 2, "There is no flag --lr; did you mean --learning_rate?"),
        (["finetune", "--epochs", "3"], 2, "There is no flag --epochs; did you mean --num_train_epochs?"),
        (["finetune", "--batch-size", "3"], 2, "no flag --batch_size; did you mean --per_device_train_batch_size?"),
        (["evaluate", "--output_dir", "x"], 2, "There is no flag --output_dir; did you mean --output?"),
        (["memory", "--learning_rate", "1e-4"], 2, "--learning_rate: fvv finetune has it, and fvv memory does not"),
        (
            ["check", "x.json", "--max_steps", "3"],
            2,
            "--max_steps: fvv finetune has it, and fvv check does not read it",
        ),
        (["memory", "--model_name_or_path", "x"], 2, "There is no flag --model_name_or_path; did you mean --model?"),
        (["chat", "--model_name_or_path", "x"], 2, "There is no flag --model_name_or_path; did you mean --model?"),
        (["convert", "--source", "x", "--folder", "y"], 2, "There is no flag --source; give SOURCE without a flag."),
    ],
)
def test_every_wrong_value_is_one_line_and_a_failure(fvv, tmp_path, arguments, code, message):
    result = fvv(*arguments, cwd=tmp_path)
    assert result.returncode == code
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


LIGHT = """
import sys
from fvv_lib.__main__ import main
try:
    code = main(sys.argv[1:])
except SystemExit as exit_:
    code = exit_.code
heavy = {"torch", "transformers", "numpy", "datasets", "av", "accelerate"} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), *(([verb, "--help"], 0) for verb in VERBS), (["finetune", *NEEDED, "--num_videoframes", "4"], 2)],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)
def test_help_and_a_refused_flag_load_nothing_heavy(arguments, code):
    done = subprocess.run([sys.executable, "-c", LIGHT, *arguments], capture_output=True, text=True)
    assert done.returncode == code, done.stderr


QUICK = """
import gc
from fvv_lib.cli.starting import quick_imports
with quick_imports():
    assert not gc.isenabled()
    import torch
assert gc.isenabled() and gc.get_freeze_count() > 10_000
with quick_imports():  # torch is loaded, so there may be garbage
    assert gc.isenabled()
"""


def test_garbage_collection_is_off_during_the_first_imports_only():
    subprocess.run([sys.executable, "-c", QUICK], check=True)


ENDS = """
import atexit, sys, threading, time
from fvv_lib.cli.starting import run_and_exit
class Last:
    def __del__(self):
        print("garbage")
def slow():
    time.sleep(0.3)
    print("thread")
def main():
    kept.append(kept)
    threading.Thread(target=slow).start()
    atexit.register(print, "handler")
    sys.stdout.write("said ")
    END
kept = [Last()]
run_and_exit(main)
"""


@pytest.mark.parametrize(
    ("end", "code", "error"),
    [
        ("return 0", 0, ""),
        ("return 3", 3, ""),
        ("sys.exit(143)", 143, ""),
        ("sys.exit('why')", 1, "why"),
        ("sys.exit()", 0, ""),
        ("raise KeyError('x')", 1, "KeyError: 'x'"),
    ],
)
def test_a_command_joins_threads_and_runs_handlers_and_collects_no_garbage(end, code, error):
    done = subprocess.run([sys.executable, "-c", ENDS.replace("END", end)], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout.split() == ["said", "thread", "handler"]
    assert done.stderr.strip().endswith(error) if error else done.stderr == ""


NEEDLESS = """
import sys
from fvv_lib.__main__ import main
needless = sys.argv[1].split(",")
assert main(sys.argv[2:]) == 0
found = [name for name in needless if name in sys.modules]
assert not found, found
"""


@pytest.mark.parametrize("verb", ["chat", "memory", "convert", "prepare"])
def test_a_verb_loads_only_what_it_needs(verb, base, data_samples, tmp_path):
    clip = data_samples / "videos" / "test" / "motion-0001.mp4"
    arguments = {
        "chat": ["--model", base, "--video", clip, "--question", "What?", "--max_new_tokens", "1"],
        "memory": ["--model", base],
        "convert": [base, tmp_path / "out"],
        "prepare": [data_samples / "test.json", "--output", tmp_path / "out.json"],
    }[verb]
    needless = "transformers.trainer,matplotlib,peft,tensorboard"
    needless += ",torch,transformers" if verb == "prepare" else ",datasets"
    done = subprocess.run(
        [sys.executable, "-c", NEEDLESS, needless, verb, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_installed_command_and_the_module_are_the_same():
    command = Path(sys.executable).with_name("fvv")
    one, other = (
        subprocess.run([*start, "memory", "--help"], capture_output=True, text=True, check=True).stdout
        for start in ([str(command)], [sys.executable, "-m", "fvv_lib"])
    )
    assert one == other


@pytest.mark.parametrize("spelling", [["--data_path", "x"], ["--data-path", "x"], ["--data_path=x"], ["--data-path=x"]])
def test_the_script_uses_no_course_settings_for_your_own_data(spelling):
    """The script calls `echo` instead of Python, which prints the command that it would run."""
    script, environment = ["bash", str(ROOT / "scripts" / "finetune_video.sh")], {**os.environ, "PYTHON": "echo"}
    course, mine = (
        subprocess.run([*script, *flags], env=environment, capture_output=True, text=True, check=True).stdout
        for flags in (["--seed", "1"], spelling)
    )
    assert "-m fvv_lib finetune" in course
    assert "data_samples" in course
    assert "--max_steps 600" in course
    assert "data_samples" not in mine
    assert "--max_steps" not in mine
    assert re.findall(r"--warmup_steps (\S+)", mine) == ["0.03"]  # a fraction of all steps
    assert re.findall(r"--warmup_steps (\S+)", course)[-1] == "60"  # the last one wins


def test_check_accepts_every_data_setting_of_training():
    """`fvv check` has every data setting of `fvv finetune`, and uses its value."""
    other = {
        "data_path": ("x.json",),
        "validation_data_path": "v.json",
        "test_data_path": "t.json",
        "keep_path": "k.json",
        "image_folder": "videos",
        "cache_dir": "cache",
        "cache_features": True,
        "num_video_frames": 8,  # max_frames replaces it
        "frame_sampling": "fps",
        "sample_fps": 2.0,
        "max_frames": 9,
        "min_frames": 3,
        "time_marks": "seconds",
        "time_origin": "file",
        "frame_pool": 2,
        "video_backend": "pyav",
        "image_aspect_ratio": "crop",
        "version": "v1",
        "mismatch": "strict",
        "allow_special_tokens": True,
        "max_new_tokens": 5,
        "eval_questions": 2,
        "check_media": False,
        "check_again": True,
        "bad_samples": "raise",
        "decode_timeout": 7.0,
    }
    assert set(other) == {field.name for field in fields(DataArguments)}
    written = [f"--{name}={value[0] if name == 'data_path' else value}" for name, value in other.items()]
    _, asked = check._parse(["--model_name_or_path", "m", *written])
    assert asdict(asked) == other
    _, asked = check._parse(["--model_name_or_path", "m", "x.json", "--num_video_frames", "3"])
    assert asked.num_video_frames == 3
