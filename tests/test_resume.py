"""Stop anywhere and go on."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from conftest import ROOT
from safetensors.torch import load_file

from fvv_lib import FvvError, load_pretrained_model
from fvv_lib.checkpoints import STOPPED, ResumableTrainer, find_checkpoint, remove_unfinished
from fvv_lib.training import main

SECONDS = 300
EPOCH = 4  # steps of one process


@pytest.fixture
def flags(base, tmp_path):
    """Flags of a run with random frames on eight samples of the course, as the command takes them."""
    samples = json.loads((ROOT / "data_samples" / "train.json").read_text())[:8]
    (tmp_path / "data.json").write_text(json.dumps(samples))

    def make(output, **settings):
        settings = {
            "model_name_or_path": base,
            "data_path": tmp_path / "data.json",
            "image_folder": ROOT / "data_samples",
            "output_dir": tmp_path / output,
            "frame_sampling": "random",
            "max_steps": 6,
            "save_steps": 3,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "check_media": False,
            **settings,
        }
        return [str(part) for name, value in settings.items() for part in (f"--{name}", value)]

    return make


def start(flags, ranks=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "fvv_lib.training", *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def losses(output):
    return [entry["loss"] for entry in json.loads((output / "metrics.json").read_text())["log"] if "loss" in entry]


@pytest.mark.parametrize("ranks", [1, 2])
def test_stopping_and_resuming_gives_the_losses_of_not_stopping(flags, tmp_path, ranks):
    """Samples, their order and their random frames included. The checkpoint lies within the second epoch: there the
    order must be that of the second, and so must the frames."""
    steps = {"max_steps": 3 * EPOCH // ranks, "save_steps": EPOCH // ranks + 1}
    checkpoint = tmp_path / "whole" / f"checkpoint-{steps['save_steps']}"
    resume = {"resume_from_checkpoint": checkpoint, "save_strategy": "no"}
    for arguments in (flags("whole", **steps), flags("resumed", **steps, **resume)):
        process = start(arguments, ranks)
        text, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, text[-3000:]
    assert len(losses(tmp_path / "whole")) == steps["max_steps"]
    assert losses(tmp_path / "resumed") == pytest.approx(losses(tmp_path / "whole"), abs=1e-6)


@pytest.mark.parametrize("ranks", [1, 2])
def test_each_epoch_takes_other_frames(flags, tmp_path, ranks):
    """A rate of zero: the loss of an epoch changes with its frames alone."""
    process = start(flags("output", max_steps=2, per_device_train_batch_size=8 // ranks, learning_rate=0), ranks)
    text, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, text[-3000:]
    first, second = losses(tmp_path / "output")
    assert first != pytest.approx(second, abs=1e-4)


@pytest.mark.parametrize("ranks", [1, 2])
def test_sigterm_saves_and_ends(flags, tmp_path, ranks):
    """Sent to every process of the job, as schedulers do: also to the workers that read frames."""
    output = tmp_path / "output"
    process = start(flags("output", max_steps=1000, save_steps=1000, dataloader_num_workers=1), ranks)
    text = ""
    try:
        while "'loss'" not in text:
            line = process.stdout.readline()
            assert line, text[-3000:]
            text += line
        os.killpg(process.pid, signal.SIGTERM)
        text += process.communicate(timeout=SECONDS)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == STOPPED if ranks == 1 else process.returncode != 0, text[-3000:]
    (step,) = re.findall(r"stopped by SIGTERM after step (\d+), .*--resume_from_checkpoint True", text)
    assert find_checkpoint(True, output) == str(output / f"checkpoint-{step}")
    assert json.loads((output / f"checkpoint-{step}" / "trainer_state.json").read_text())["global_step"] == int(step)
    assert load_pretrained_model(output / f"checkpoint-{step}", device="cpu")
    assert not (output / "metrics.json").exists()


def test_killed_runs_end_with_the_weights_of_an_unbroken_one(tmp_path):
    spec = importlib.util.spec_from_file_location("kill", ROOT / "benchmarks" / "kill.py")
    kill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kill)
    result = kill.measure(tmp_path, kills=2, steps=12)
    assert all(death["killed"] for death in result["kills"])
    assert result["largest difference of a weight"] <= 1e-6


def test_a_checkpoint_is_in_its_place_only_when_it_is_whole(flags, tmp_path, monkeypatch):
    """The last that is written fails: nothing may look like a checkpoint, and the next start begins anew."""
    output = tmp_path / "output"

    def fail(*_):
        assert list((output / "_unfinished" / "checkpoint-3").iterdir())
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(ResumableTrainer, "_save_rng_state", fail)
    with pytest.raises(RuntimeError, match="disk is full"):
        main(flags("output"))
    assert (output / "_unfinished").is_dir()
    assert find_checkpoint("true", output) is None
    monkeypatch.undo()
    main(flags("output", max_steps=3, resume_from_checkpoint="true"))
    assert find_checkpoint(True, output) == str(output / "checkpoint-3")
    assert not (output / "_unfinished").exists()


def test_old_checkpoints_go_and_the_best_stays(flags, tmp_path):
    held_out = json.loads((ROOT / "data_samples" / "val.json").read_text())[:2]
    (tmp_path / "val.json").write_text(json.dumps(held_out))
    worst = {"greater_is_better": True}  # of the loss: the first checkpoint is the "best"
    evaluation = {"validation_data_path": tmp_path / "val.json", "eval_strategy": "steps", "eval_steps": 1}
    keep = {"save_steps": 1, "save_total_limit": 2, "max_steps": 4, "metric_for_best_model": "loss"}
    main(flags("output", load_best_model_at_end=True, **keep, **evaluation, **worst))
    output = tmp_path / "output"
    states = [json.loads(path.read_text()) for path in sorted(output.glob("checkpoint-*/trainer_state.json"))]
    assert len(states) == 2
    assert states[-1]["global_step"] == 4
    best = states[-1]["best_model_checkpoint"]
    assert best == str(output / f"checkpoint-{states[-1]['best_global_step']}")
    assert (output / best).is_dir()
    one, other = load_file(output / "model.safetensors"), load_file(f"{best}/model.safetensors")
    assert all((one[name] == other[name]).all() for name in one)


def test_where_a_run_begins(tmp_path):
    assert find_checkpoint(True, tmp_path / "nothing") is None
    assert find_checkpoint("True", tmp_path) is None
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "_unfinished" / "checkpoint-12").mkdir(parents=True)
    assert find_checkpoint(True, tmp_path) == str(tmp_path / "checkpoint-10")
    assert find_checkpoint(None, tmp_path) is None
    assert find_checkpoint("false", tmp_path) is None
    with pytest.raises(FvvError, match="checkpoint-7: no checkpoint of a training run"):
        find_checkpoint(str(tmp_path / "checkpoint-7"), tmp_path)
    remove_unfinished(tmp_path)
    assert not (tmp_path / "_unfinished").exists()
