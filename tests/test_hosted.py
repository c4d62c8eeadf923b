"""Copies of the notebooks for Colab and Kaggle get the course themselves."""

import os
import subprocess
import sys

import host_notebooks
import nbformat
import pytest
from notebook_rules import ALL, read
from shared import ROOT

FOLDER = ROOT / "notebooks"


def run(*arguments, **settings):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **settings)


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_copy_is_the_notebook_below_a_first_cell(path):
    copy, stored = host_notebooks.host(path, "somewhere"), read(path)
    nbformat.validate(copy)
    assert [cell.source for cell in copy.cells[1:]] == [cell.source for cell in stored.cells]
    assert "get the course, and install" in copy.cells[0].source
    assert not any(cell.get("outputs") for cell in copy.cells)
    assert not any("get the course, and install" in cell.source for cell in stored.cells)


def test_the_first_cell_gets_the_course_and_installs_the_package(tmp_path):
    """As far as it works without a network: the address is this repository, and dependencies are left out."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    first = host_notebooks.host(FOLDER / "00_start_here.ipynb", ROOT.as_uri()).cells[0].source
    check = "import fvv_lib, json; print(fvv_lib.__file__, len(json.load(open('../data_samples/test.json'))))"
    (tmp_path / "cell.py").write_text(f"{first}\n{first}\n{check}")  # a second time it changes nothing
    site = tmp_path / "site"
    site.mkdir()
    pip = {"NO_INDEX": "1", "NO_DEPS": "1", "IGNORE_INSTALLED": "1", "TARGET": str(site)}
    pip["NO_BUILD_ISOLATION"] = "false"  # pip reads it the other way round: no isolation
    offline = {"HOME": str(tmp_path), "PYTHONPATH": str(site), **{f"PIP_{name}": value for name, value in pip.items()}}
    done = run("cell.py", cwd=tmp_path, env={**os.environ, **offline})
    assert done.returncode == 0, done.stderr
    where, questions = done.stdout.split()
    assert where == str(site / "fvv_lib" / "__init__.py")
    assert int(questions) > 100


def test_make_hosted_writes_all_copies(tmp_path):
    assert run(ROOT / "scripts" / "host_notebooks.py", "somewhere", tmp_path).returncode == 0
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*.ipynb")} == {p.relative_to(FOLDER) for p in ALL}


def test_an_empty_address_is_one_line(tmp_path):
    done = run(ROOT / "scripts" / "host_notebooks.py", "", tmp_path)
    assert done.returncode == 2
    assert "REPOSITORY" in done.stderr.splitlines()[-1]
