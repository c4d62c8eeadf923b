"""Ranks on the CPU: they train, they fail aloud, and none of them stays."""

import json
import os

import pytest

from fvv_lib import FvvError, train_on_ranks

NOTES_ITS_ID = """
import os, sys, time
from pathlib import Path
folder, rank = Path(sys.argv[-1]), os.environ["RANK"]
(folder / rank).write_text(str(os.getpid()))
"""


@pytest.fixture
def settings(base, data_samples, tmp_path):
    """Two steps on a text, a picture and two videos."""
    every = {sample["id"]: sample for sample in json.loads((data_samples / "train.json").read_text())}
    kinds = ("train-text-", "train-motion-", "train-still-", "train-motion-")
    chosen = [next(every.pop(name) for name in list(every) if name.startswith(kind)) for kind in kinds]
    (tmp_path / "data.json").write_text(json.dumps(chosen))
    return {
        "model_name_or_path": base,
        "data_path": [tmp_path / "data.json"],
        "image_folder": data_samples,
        "max_steps": 2,
        "train_sampling_strategy": "sequential",
        "adam_epsilon": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "check_media": False,
    }


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def losses(metrics):
    return [entry["loss"] for entry in metrics["log"] if "loss" in entry]


def test_two_ranks_train_as_one_and_show_nothing(settings, tmp_path, capfd):
    one = train_on_ranks({**settings, "output_dir": tmp_path / "1", "per_device_train_batch_size": 2})
    two = train_on_ranks({**settings, "output_dir": tmp_path / "2", "per_device_train_batch_size": 1}, ranks=2)
    assert len(losses(one)) == 2
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert [metrics["hardware"]["processes"] for metrics in (one, two)] == [1, 2]
    assert capfd.readouterr() == ("", "")


def test_a_rank_that_fails_is_an_error_and_takes_the_others_with_it(tmp_path):
    code = (
        NOTES_ITS_ID
        + """
while rank == "0" or not (folder / "0").is_file() or not (folder / "0").read_text():
    time.sleep(0.1)
sys.exit("I cannot go on")
"""
    )
    with pytest.raises(FvvError, match=r"(?s)rank 1 of 2 failed with exit code 1; .*I cannot go on"):
        train_on_ranks({"output_dir": tmp_path}, ranks=2, code=code)
    assert not any(is_alive(int((tmp_path / rank).read_text())) for rank in "01")


def test_ranks_that_wait_for_ever_are_an_error_and_are_ended(tmp_path):
    code = NOTES_ITS_ID + "rank == '1' and time.sleep(600)"
    with pytest.raises(FvvError, match=r"After 3 seconds ranks \[1\] of 2 have not ended"):
        train_on_ranks({"output_dir": tmp_path}, ranks=2, code=code, seconds=3)
    assert not any(is_alive(int((tmp_path / rank).read_text())) for rank in "01")


def test_what_a_run_refuses_is_what_the_error_says(settings, tmp_path):
    with pytest.raises(FvvError, match="error: Unknown frame_sampling 'best'"):
        train_on_ranks({**settings, "output_dir": tmp_path, "frame_sampling": "best"})
