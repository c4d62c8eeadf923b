"""The output folder of a run: one run at a time, and nothing in it is lost by accident."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from starting import FORKSERVER, finetune

from fvv_lib import CheckpointError, DataArguments, FvvError, ModelArguments, TrainingArguments, load_pretrained_model
from fvv_lib import train as fine_tune
from fvv_lib.finetuning import recipe
from fvv_lib.finetuning.output import check_apart, check_empty, clear, hold


@pytest.fixture
def train(base, annotate, tmp_path):
    """Train for one step on text samples, into a folder of `tmp_path`."""
    turns = [{"from": "human", "value": "Hm?"}, {"from": "gpt", "value": "Yes."}]
    path = annotate([{"conversations": turns}])

    def run(output="output", model=None, **settings):
        settings = {"max_steps": 1, "save_strategy": "no", "use_cpu": True, "report_to": "none", **settings}
        model_args = ModelArguments(**{"model_name_or_path": str(base), **(model or {})})
        arguments = TrainingArguments(str(tmp_path / output), disable_tqdm=True, **settings)
        return fine_tune(model_args, DataArguments(data_path=(path,)), arguments)

    return run


# --- one run at a time ------------------------------------------------------------------------------------------------


def hold_with_a_worker(folder):
    """Lock a folder, and fork a child like a data loader worker. The child survives when this process is killed."""
    with hold(Path(folder)):
        child = os.fork()
        if child:
            Path(folder, "worker").write_text(str(child))
        time.sleep(600)


def test_two_runs_cannot_use_one_folder(train, tmp_path):
    folder = tmp_path / "output"
    with (
        hold(folder),
        pytest.raises(CheckpointError, match=rf"output: another run writes there \(process {os.getpid()}"),
    ):
        train()
    assert not (folder / "model.safetensors").exists()
    train()
    with hold(folder):  # the run has released the lock
        pass


def test_a_run_that_fails_releases_its_lock_and_leaves_nothing(train, tmp_path, monkeypatch):
    monkeypatch.setattr("fvv_lib.finetuning.recipe.open_model", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train()
    assert not (tmp_path / "output").exists()
    (tmp_path / "output").mkdir()  # a folder that was there stays
    with pytest.raises(ZeroDivisionError):
        train()
    assert list((tmp_path / "output").iterdir()) == []
    monkeypatch.undo()
    train()


def take_turns(folder, times):
    """Hold the lock of a folder again and again, each time with a file that nobody else may have."""
    for _ in range(times):
        try:
            with hold(Path(folder)):
                os.close(os.open(Path(folder, "mine"), os.O_CREAT | os.O_EXCL))
                Path(folder, "mine").unlink()
        except CheckpointError:
            pass


def test_a_lock_that_is_removed_at_the_end_never_has_two_holders(tmp_path):
    processes = [FORKSERVER.Process(target=take_turns, args=(str(tmp_path), 400)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]


def test_a_killed_run_leaves_no_lock(tmp_path):
    """Even if a worker that it forked is still alive."""
    process = FORKSERVER.Process(target=hold_with_a_worker, args=(str(tmp_path),))
    process.start()
    while not (tmp_path / "worker").exists() or not (tmp_path / "worker").read_text():
        assert process.is_alive()
        time.sleep(0.01)
    worker = int((tmp_path / "worker").read_text())
    try:
        with pytest.raises(CheckpointError, match=f"process {process.pid} on "), hold(tmp_path):
            pass
        process.kill()
        process.join()
        os.kill(worker, 0)  # it is alive
        with hold(tmp_path):
            pass
    finally:
        process.kill()
        os.kill(worker, signal.SIGKILL)


def test_a_folder_that_cannot_be_written_is_an_error(train, tmp_path):
    (tmp_path / "file").touch()
    for name in ("file", "file/output"):
        with pytest.raises(FvvError, match=r"output_dir .*file is a file\. Give a folder"):
            train(name)
    if os.geteuid():  # root writes anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(FvvError, match=r"closed.output: it cannot be written"):
            train("closed/output")


# --- nothing is lost --------------------------------------------------------------------------------------------------


def test_a_run_does_not_overwrite_its_model_or_its_data(base, tmp_path):
    model, data = ModelArguments(str(base)), DataArguments(data_path=(str(tmp_path / "data" / "train.json"),))
    check_apart(tmp_path / "output", model, data)
    check_apart(tmp_path / "data", model, data)  # beside the data is allowed
    for folder, arguments in (
        (base, data),
        (Path(os.path.relpath(base)), data),
        (tmp_path, DataArguments(data_path=("x", str(tmp_path / "metrics.json")))),
        (tmp_path, DataArguments(validation_data_path=str(tmp_path / "config.json"))),
        (tmp_path, DataArguments(validation_data_path=str(tmp_path / "tokenizer.json"))),
        (tmp_path, DataArguments(validation_data_path=str(tmp_path / "_lock"))),
        (tmp_path, DataArguments(test_data_path=str(tmp_path / "_unfinished" / "test.json"))),
    ):
        with pytest.raises(FvvError, match=r"contains .* would be overwritten\. Use another output_dir"):
            check_apart(folder, model, arguments)
    with pytest.raises(FvvError, match="contains model_name_or_path, which"):
        check_apart(tmp_path, ModelArguments(str(tmp_path / "checkpoint-5")), data)


def test_data_are_not_taken_from_any_file_that_a_run_writes(train, tmp_path):
    train(model={"lora_rank": 4})
    train("full")
    for output in (tmp_path / "output", tmp_path / "full"):
        for path in output.iterdir():
            with pytest.raises(FvvError, match="it contains the data file"):
                check_apart(output, ModelArguments("there"), DataArguments(test_data_path=str(path)))


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
def test_the_file_of_another_program_is_not_overwritten(train, tmp_path, name):
    """Not even with `overwrite_output_dir`, which is for earlier runs."""
    output = tmp_path / "output"
    output.mkdir()
    (output / name).write_text('{"port": 8080}')
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match=rf"output: its {name} is not of a model or a run.* Move it away"):
            train(overwrite_output_dir=overwrite)
    (output / name).unlink()
    (output / "lora.safetensors").write_text("mine")
    train()  # not a file that a run writes
    train(overwrite_output_dir=True)
    assert (output / "lora.safetensors").read_text() == "mine"


def test_a_run_does_not_overwrite_the_base_of_its_adapter(base, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base)})
    )
    with pytest.raises(FvvError, match="contains the base of model_name_or_path"):
        check_apart(base, ModelArguments(str(adapter)), DataArguments())


def test_a_finished_model_is_overwritten_only_on_purpose(train, tmp_path):
    train(seed=1)
    before = (tmp_path / "output" / "model.safetensors").read_bytes()
    for resume in (None, True):
        with pytest.raises(CheckpointError, match=r"metrics\.json.*no checkpoint.*--overwrite_output_dir True"):
            train(max_steps=2, seed=1, resume_from_checkpoint=resume)
    (tmp_path / "output" / "metrics.json").unlink()
    with pytest.raises(CheckpointError, match=r"there is a model already.*\(config\.json, .*model\.safetensors"):
        train(seed=2)
    assert (tmp_path / "output" / "model.safetensors").read_bytes() == before
    train(max_steps=2, seed=2, learning_rate=1e-2, overwrite_output_dir=True)
    assert (tmp_path / "output" / "model.safetensors").read_bytes() != before
    assert (tmp_path / "output" / "metrics.json").is_file()


def test_overwriting_leaves_nothing_of_the_earlier_run(train, tmp_path):
    """If an old adapter stayed beside the new model, loading would use the adapter."""
    output = tmp_path / "output"
    train(model={"lora_rank": 4}, save_strategy="steps", save_steps=1)
    (output / "notes.txt").write_text("mine")
    (output / "checkpoint-9-good").mkdir()
    with pytest.raises(CheckpointError, match="a later start would mistake it for a checkpoint of this run"):
        train()
    train(overwrite_output_dir=True)
    left = {path.name for path in output.iterdir()}
    assert not {"adapter_config.json", "adapter_model.safetensors", "checkpoint-1"} & left
    assert {"model.safetensors", "notes.txt", "checkpoint-9-good"} <= left
    assert load_pretrained_model(output, device="cpu").model


def clear_slowly():
    """Give the other processes time to see what is not yet deleted."""

    def slow(*arguments, **settings):
        time.sleep(2)
        clear(*arguments, **settings)

    recipe.clear = slow


def test_every_process_waits_until_the_earlier_run_is_deleted(base, annotate, tmp_path):
    turns = [{"from": "human", "value": "Hm?"}, {"from": "gpt", "value": "Yes."}]
    settings = {
        "model_name_or_path": base,
        "data_path": annotate([{"conversations": turns}] * 2),
        "output_dir": tmp_path / "output",
        "max_steps": 1,
        "save_steps": 1,
        "use_cpu": True,
        "report_to": "none",
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    finetune(flags)
    finetune([*flags, "--overwrite_output_dir", True], ranks=2, before=clear_slowly)
    assert (tmp_path / "output" / "checkpoint-1").is_dir()


def test_a_run_that_fails_before_training_deletes_nothing(train, tmp_path):
    train()
    before = sorted(path.name for path in (tmp_path / "output").iterdir())
    with pytest.raises(FvvError, match="at most 2048 positions"):
        train(overwrite_output_dir=True, model_max_length=10**6)
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == before


def test_clear_deletes_the_files_of_an_earlier_run(tmp_path):
    for name in ("metrics.json", "report.html", "pytorch_model.bin", "model.safetensors.index.json", "other.json"):
        (tmp_path / name).touch()
    (tmp_path / "_unfinished" / "checkpoint-3").mkdir(parents=True)
    clear(tmp_path, overwrite=False)
    assert {path.name for path in tmp_path.iterdir()} == {
        "pytorch_model.bin",
        "model.safetensors.index.json",
        "other.json",
    }
    with pytest.raises(CheckpointError):
        check_empty(tmp_path)
    clear(tmp_path, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"other.json"}
    check_empty(tmp_path)
