import subprocess
import sys

import torch

from fvv_lib.finetuning.record import Counter
from fvv_lib.provenance import git_commit, hardware, versions


def git(folder, *arguments):
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def test_the_commit_says_whether_files_differ_from_it(tmp_path):
    assert git_commit(tmp_path) is None
    git(tmp_path, "init")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "x")
    commit = git_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "other").write_text("not tracked")
    assert git_commit(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    assert git_commit(tmp_path) == f"{commit}+"


def test_versions_and_hardware_are_those_of_this_machine():
    assert versions()["torch"] == torch.__version__.split("+")[0]
    assert versions()["fvv_lib"]
    assert hardware()["cores"] >= 1
    assert len(hardware()["gpus"]) == torch.cuda.device_count()


def test_peak_memory_grows_with_what_is_held():
    code = (
        "import torch; from fvv_lib.provenance import peak_memory_gib as peak; before = peak(); torch.ones(2**27); "
        "print(peak() - before)"
    )
    grown = float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert 0.4 < grown < 0.6  # half a GiB


def test_frames_count_as_the_tokens_that_the_model_makes_of_them():
    counter = Counter(tokens_per_frame=4)
    batch = {
        "input_ids": torch.tensor([[5, -200, -200, 6], [7, 8, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
    }
    counter.add([batch, batch])
    assert (counter.samples, counter.frames, counter.tokens) == (4, 4, 2 * (2 + 2 * 4 + 2))
    assert counter.per_second(2.0, processes=3) == {
        "samples_per_second": 6.0,
        "frames_per_second": 6.0,
        "tokens_per_second": 36.0,
    }
