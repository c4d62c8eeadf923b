"""Stop a run anywhere and resume it."""

import importlib.util
import json
import os
import re
import shutil
import signal
import threading
from pathlib import Path

import pytest
from safetensors.torch import load_file
from shared import ROOT
from starting import Run, finetune

from fvv_lib import FvvError, load_pretrained_model
from fvv_lib.cli.finetune import main
from fvv_lib.finetuning.resume import STOPPED, ResumableTrainer, find_checkpoint, remove_unfinished, sync

EPOCH = 4  # steps of one process


@pytest.fixture
def flags(base, tmp_path):
    """Return command-line flags of a run with random frames on eight samples of the course."""
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


def losses(output):
    return [entry["loss"] for entry in json.loads((output / "metrics.json").read_text())["log"] if "loss" in entry]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_resumed_run_has_the_losses_of_an_unbroken_one(flags, tmp_path, ranks):
    """So samples, their order and their random frames are the same. The checkpoint is within the second epoch, so the
    resumed run must use the order and the frames of that epoch."""
    steps = {"max_steps": 3 * EPOCH // ranks, "save_steps": EPOCH // ranks + 1}
    checkpoint = tmp_path / "whole" / f"checkpoint-{steps['save_steps']}"
    resume = {"resume_from_checkpoint": checkpoint, "save_strategy": "no"}
    for arguments in (flags("whole", **steps), flags("resumed", **steps, **resume)):
        finetune(arguments, ranks)
    assert len(losses(tmp_path / "whole")) == steps["max_steps"]
    assert losses(tmp_path / "resumed") == pytest.approx(losses(tmp_path / "whole"), abs=1e-6)


@pytest.mark.parametrize("ranks", [1, 2])
def test_each_epoch_takes_other_frames(flags, tmp_path, ranks):
    """The learning rate is zero, so the loss of an epoch depends only on its frames."""
    finetune(flags("output", max_steps=2, per_device_train_batch_size=8 // ranks, learning_rate=0), ranks)
    first, second = losses(tmp_path / "output")
    assert first != pytest.approx(second, abs=1e-4)


@pytest.mark.parametrize("ranks", [1, 2])
def test_sigterm_saves_and_ends(flags, tmp_path, ranks):
    """Like a scheduler, the test sends it to every process of the job, also to data loader workers."""
    output = tmp_path / "output"
    with Run(flags("output", max_steps=1000, save_steps=1000, dataloader_num_workers=1), ranks) as run:
        run.wait_for("'loss'")
        run.send(signal.SIGTERM)
        run.join()
        text = run.text
    assert run.codes == [STOPPED] * ranks, text[-3000:]
    (step,) = re.findall(r"stopped by SIGTERM after step (\d+), .*--resume_from_checkpoint True", text)
    assert find_checkpoint(True, output) == str(output / f"checkpoint-{step}")
    assert json.loads((output / f"checkpoint-{step}" / "trainer_state.json").read_text())["global_step"] == int(step)
    assert load_pretrained_model(output / f"checkpoint-{step}", device="cpu")
    assert not (output / "metrics.json").exists()


class Started:
    """A run with the methods of `subprocess.Popen` that benchmarks/kill.py uses."""

    def __init__(self, command):
        self.run = Run(command[command.index("finetune") + 1 :])
        (self.process,) = self.run.processes
        self.pid = self.process.pid

    def poll(self):
        return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        return self.process.exitcode


def test_killed_runs_end_with_the_weights_of_an_unbroken_one(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("kill", ROOT / "benchmarks" / "kill.py")
    kill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kill)
    monkeypatch.setattr(kill, "start", Started)
    result = kill.measure(tmp_path, kills=2, steps=12)
    assert all(death["killed"] for death in result["kills"])
    assert result["largest difference of a weight"] <= 1e-6


def test_a_checkpoint_is_in_its_place_only_when_it_is_whole(flags, tmp_path, monkeypatch):
    """The last write fails. Then nothing may look like a checkpoint, and the next run starts from step 1."""
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


def test_old_checkpoints_go_and_the_best_stays(flags, tmp_path, evaluated):
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 4, "save_total_limit": 2}
    main(flags("output", **evaluated, **steps))
    output = tmp_path / "output"
    states = [json.loads(path.read_text()) for path in sorted(output.glob("checkpoint-*/trainer_state.json"))]
    assert len(states) == 2
    assert states[-1]["global_step"] == 4
    best = states[-1]["best_model_checkpoint"]
    assert best == str(output / f"checkpoint-{states[-1]['best_global_step']}")
    assert (output / best).is_dir()
    one, other = load_file(output / "model.safetensors"), load_file(f"{best}/model.safetensors")
    assert all((one[name] == other[name]).all() for name in one)


def test_a_finished_run_is_not_trained_further(flags, tmp_path, capsys):
    """The run ends within an epoch, where transformers would train on one more batch. The record stays. If the run was
    killed before it wrote the record, record and model are written now."""
    output = tmp_path / "output"
    steps = {"max_steps": EPOCH + 1, "save_steps": EPOCH + 1}
    main(flags("output", **steps))
    record = (output / "metrics.json").read_text()
    weights = load_file(output / "model.safetensors")
    main(flags("output", **steps, resume_from_checkpoint=True))
    assert "this run has already finished" in capsys.readouterr().out
    assert (output / "metrics.json").read_text() == record
    for name in ("metrics.json", "model.safetensors"):
        (output / name).unlink()
    assert find_checkpoint(True, output) == str(output / f"checkpoint-{EPOCH + 1}")
    main(flags("output", **steps, resume_from_checkpoint=True))
    again = load_file(output / "model.safetensors")
    assert all((weights[name] == again[name]).all() for name in weights)
    assert losses(output) == [entry["loss"] for entry in json.loads(record)["log"] if "loss" in entry]
    for other, message in (
        ({"learning_rate": 1e-4}, "had another learning_rate"),
        ({"num_video_frames": 4}, "had another num_video_frames"),
        ({"max_steps": 3}, "that run had max_steps=5, and this one has 3. It may only grow"),
    ):
        with pytest.raises(FvvError, match=message):
            main(flags("output", **{**steps, **other}, resume_from_checkpoint=True))
    main(flags("output", max_steps=EPOCH + 2, resume_from_checkpoint=True))
    assert len(losses(output)) == EPOCH + 2


@pytest.mark.parametrize("save_strategy", ["steps", "no"])
def test_a_stored_result_is_returned_only_for_its_own_settings(flags, tmp_path, capsys, save_strategy):
    """Other settings are refused before data are read. The same is true for resuming if the record is deleted."""
    settings = {"max_steps": 2, "save_steps": 2, "save_strategy": save_strategy}
    main(flags("output", **settings))
    again = {**settings, "resume_from_checkpoint": True}
    same = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 1, "logging_steps": 2, "packing": True}
    main(flags("output", **again, **same))
    assert "this run has already finished" in capsys.readouterr().out
    others = [{"optim": "sgd"}, {"data_seed": 7}, {"bf16": True}, {"model_max_length": 1000}, {"max_grad_norm": 0.1}]
    others += [
        {"per_device_train_batch_size": 4},
        {"image_folder": tmp_path},
        {"test_data_path": tmp_path / "data.json"},
    ]
    names = {"per_device_train_batch_size": "samples in a step", "image_folder": "image or video"}
    kept = json.loads((tmp_path / "output" / "metrics.json").read_text())
    for place in (r"output \(a finished run\)", "checkpoint-2"):
        for other in others:
            name = names.get(min(other), min(other))
            with pytest.raises(FvvError, match=rf"{place}: that run had another {name} \("):
                main(flags("output", **again, **other))
        (tmp_path / "output" / "metrics.json").unlink(missing_ok=True)
        if save_strategy == "no":
            return
    assert kept["identity"] == json.loads((tmp_path / "output/checkpoint-2/run_identity.json").read_text())


def test_changed_data_are_another_run(flags, tmp_path, capsys):
    main(flags("output", max_steps=1))
    data = tmp_path / "data.json"
    moved = shutil.move(data, tmp_path / "moved.json")
    main(flags("output", max_steps=1, resume_from_checkpoint=True, data_path=moved))
    assert "this run has already finished" in capsys.readouterr().out
    data.write_text(json.dumps(json.loads((tmp_path / "moved.json").read_text())[1:]))
    with pytest.raises(FvvError, match=r"another data_path \(its content has changed\)"):
        main(flags("output", max_steps=2, resume_from_checkpoint=True))


def test_the_record_of_an_earlier_build_is_returned(flags, tmp_path, capsys):
    """It has no identity and lacks newer settings."""
    main(flags("output", max_steps=1))
    file = tmp_path / "output" / "metrics.json"
    record = json.loads(file.read_text())
    del record["identity"], record["arguments"]["training"]["overwrite_output_dir"]
    file.write_text(json.dumps(record))
    main(flags("output", max_steps=1, resume_from_checkpoint=True))
    assert "this run has already finished" in capsys.readouterr().out
    with pytest.raises(FvvError, match="another learning_rate"):
        main(flags("output", max_steps=1, resume_from_checkpoint=True, learning_rate=1e-4))
    file.write_text("{")
    with pytest.raises(FvvError, match=r"metrics\.json: not the record of a run"):
        main(flags("output", max_steps=1, resume_from_checkpoint=True))
    file.unlink()
    (tmp_path / "output" / "checkpoint-1" / "run_identity.json").unlink()
    capsys.readouterr()
    main(flags("output", max_steps=2, resume_from_checkpoint=True, weight_decay=0.1))
    said = "checkpoint-1: these are not stored there, so they cannot be compared: settings, model, data. Make sure"
    assert said in capsys.readouterr().out
    assert len(losses(tmp_path / "output")) == 2


def test_a_run_in_a_thread_trains_and_leaves_signals_alone(flags, tmp_path):
    """A server or a sweep may do this. Python allows signal handlers in the main thread only."""
    before, failed = signal.getsignal(signal.SIGTERM), []

    def go():
        try:
            main(flags("output", max_steps=1, dataloader_num_workers=1))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    assert not failed
    assert len(losses(tmp_path / "output")) == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_checkpoint_is_on_the_disk_before_it_is_in_its_place(flags, tmp_path, monkeypatch):
    """Its files and their names are synced before the rename, and the model is synced before the record appears."""
    output, events = tmp_path / "output", []
    sync, rename, replace = os.fsync, Path.rename, Path.replace

    def note(kind, call):
        def noted(where, *rest):
            path = os.readlink(f"/proc/self/fd/{where}") if kind == "sync" else str(where)
            events.append((kind, os.path.relpath(path, output)))
            return call(where, *rest)

        return noted

    monkeypatch.setattr(os, "fsync", note("sync", sync))
    monkeypatch.setattr(Path, "rename", note("rename", rename))
    monkeypatch.setattr(Path, "replace", note("replace", replace))
    output.mkdir()
    (output / "notes.txt").write_text("of somebody else, who may have made it unreadable")
    main(flags("output", max_steps=1))
    moved = events.index(("rename", "_unfinished/checkpoint-1"))
    files = {path.name for path in (output / "checkpoint-1").iterdir()}
    assert {"model.safetensors", "optimizer.pt", "trainer_state.json", "run_identity.json"} <= files
    synced = {path for kind, path in events[:moved] if kind == "sync"}
    assert synced >= {f"_unfinished/checkpoint-1/{name}" for name in files} | {"_unfinished/checkpoint-1"}
    assert ("sync", ".") in events[moved:]  # the folder that now has the name
    ended = events.index(("replace", "metrics.json.unfinished"))
    synced = {path for kind, path in events[moved:ended] if kind == "sync"}
    assert {"model.safetensors", "tokenizer.json", "metrics.json.unfinished", "."} <= synced
    assert "notes.txt" not in synced


def test_a_disk_that_cannot_sync_folders_ends_no_run():
    """procfs answers fsync with EINVAL, as some network disks do for folders."""
    sync(Path("/proc/self"))
    with pytest.raises(OSError, match="Invalid argument"):
        sync(Path("/proc/self/status"))


def test_a_new_run_does_not_mix_with_an_earlier_one(flags, tmp_path):
    main(flags("output", max_steps=1))
    with pytest.raises(FvvError, match=r"checkpoint-1: a later start.*--resume_from_checkpoint True"):
        main(flags("output", max_steps=1))


def test_a_run_cannot_resume_from_a_checkpoint_without_the_optimizer(flags):
    main(flags("output", max_steps=1, save_only_model=True))
    with pytest.raises(FvvError, match=r"checkpoint-1: .* without the state of the optimizer"):
        main(flags("output", max_steps=2, resume_from_checkpoint=True))


@pytest.fixture
def evaluated(tmp_path):
    """Return settings of a run whose first checkpoint counts as its best."""
    held_out = json.loads((ROOT / "data_samples" / "val.json").read_text())[:2]
    (tmp_path / "val.json").write_text(json.dumps(held_out))
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    return {"validation_data_path": tmp_path / "val.json", **best}


def test_the_newest_checkpoint_stays_beside_the_best(flags, tmp_path, evaluated):
    """transformers would delete it at the end if `save_total_limit` is 1. Folders with similar names stay, too."""
    (tmp_path / "output" / "checkpoint-9-good").mkdir(parents=True)
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 4, "save_total_limit": 1}
    main(flags("output", **evaluated, **steps))
    state = json.loads((tmp_path / "output" / "checkpoint-4" / "trainer_state.json").read_text())
    left = {path.name for path in (tmp_path / "output").glob("checkpoint-*")}
    assert left == {"checkpoint-4", "checkpoint-9-good", f"checkpoint-{state['best_global_step']}"}


def test_sigterm_at_the_end_of_an_epoch_saves_once_and_evaluates_nothing(flags, tmp_path, evaluated, monkeypatch):
    """After SIGTERM there is little time. A second checkpoint of the same step would replace the first."""
    saved, evaluations, steps = [], [], []
    save, step = ResumableTrainer._save_checkpoint, ResumableTrainer.training_step
    monkeypatch.setattr(ResumableTrainer, "_save_checkpoint", lambda self, *a: saved.append(1) or save(self, *a))
    monkeypatch.setattr(ResumableTrainer, "evaluate", lambda self, *a, **k: evaluations.append(1))

    def terminated(self, *arguments):
        steps.append(1)
        if len(steps) == EPOCH:
            signal.raise_signal(signal.SIGTERM)
        return step(self, *arguments)

    monkeypatch.setattr(ResumableTrainer, "training_step", terminated)
    with pytest.raises(SystemExit) as end:
        main(flags("output", **evaluated, eval_strategy="epoch", save_strategy="epoch"))
    assert end.value.code == STOPPED
    assert (len(saved), evaluations) == (1, [])
    assert (tmp_path / "output" / f"checkpoint-{EPOCH}").is_dir()


def test_find_checkpoint_returns_where_a_run_starts(tmp_path):
    assert find_checkpoint(True, tmp_path / "nothing") is None
    assert find_checkpoint("True", tmp_path) is None
    assert find_checkpoint(None, tmp_path) is None
    assert find_checkpoint("false", tmp_path) is None
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        (tmp_path / f"checkpoint-{step}" / "scheduler.pt").touch()
    (tmp_path / "_unfinished" / "checkpoint-12").mkdir(parents=True)
    early, late = str(tmp_path / "checkpoint-2"), str(tmp_path / "checkpoint-10")
    assert find_checkpoint(True, tmp_path) == late
    assert find_checkpoint(late, tmp_path) == late
    assert find_checkpoint(early, tmp_path / "elsewhere") == early
    with pytest.raises(FvvError, match=r"checkpoint-7: not a checkpoint of a training run \(no such folder\)"):
        find_checkpoint(str(tmp_path / "checkpoint-7"), tmp_path)
    other = tmp_path / "other" / "checkpoint-12"
    shutil.copytree(late, other)
    (other / "trainer_state.json").write_text(json.dumps({"global_step": 12}))
    for begin in (None, False, "false", early, str(other)):
        with pytest.raises(FvvError, match="checkpoint-10: a later start would mistake it for a"):
            find_checkpoint(begin, tmp_path)
    remove_unfinished(tmp_path)
    assert not (tmp_path / "_unfinished").exists()
