import shutil
import subprocess
import sys

import pytest
import torch
from shared import ROOT

from fvv_lib import FvvError, provenance
from fvv_lib.provenance import code_digest, git_commit, hardware, versions


def git(folder, *arguments):
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def test_commit_is_marked_if_files_differ_from_it(tmp_path):
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


def test_versions_and_hardware_of_this_machine():
    assert versions()["torch"] == torch.__version__.split("+")[0]
    assert versions()["fvv_lib"]
    assert hardware()["cores"] >= 1
    assert len(hardware()["gpus"]) == torch.cuda.device_count()


def test_peak_memory_grows_with_allocations():
    code = (
        "import torch; from fvv_lib.provenance import peak_memory_gib as peak; before = peak(); torch.ones(2**27); "
        "print(peak() - before)"
    )
    grown = float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert 0.4 < grown < 0.6  # half a GiB


@pytest.mark.parametrize("file", ["video/exact/reader.py", "model/encoder.py", "errors.py", "data/new.py"])
def test_digest_covers_the_code_of_every_room(tmp_path, monkeypatch, request, file):
    """A cache that other code wrote must not be read."""
    request.addfinalizer(code_digest.cache_clear)
    shutil.copytree(ROOT / "fvv_lib", tmp_path / "fvv_lib", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "fvv_lib")
    code_digest.cache_clear()
    before, tables = code_digest(), code_digest("data/annotations")
    (tmp_path / "fvv_lib" / file).open("a").write("# another line\n")
    code_digest.cache_clear()
    assert code_digest() != before
    assert code_digest("data/annotations") == tables


def test_digest_without_a_module_is_an_error():
    with pytest.raises(FvvError, match="'annotations': no module of fvv_lib has this name"):
        code_digest("annotations")
