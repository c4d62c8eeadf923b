"""Exercises check themselves: a stub is told what is missing, a solution passes."""

import contextlib
import io
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from nbformat import NotebookNode
from notebook_rules import EXERCISES, ROOT, SOLUTIONS, code_cells, markdown, read


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
def test_a_solution_is_its_exercise_filled_in(path):
    """Only the first cell and the cells to be filled in differ, so both meet the same checks."""
    stub, solution = read(path).cells[1:], read(ROOT / "solutions" / path.name).cells[1:]
    turns = [cell.source.startswith("# Your turn") for cell in stub]
    assert turns == [cell.source.startswith("# Your turn") for cell in solution]
    for mine, theirs, turn in zip(stub, solution, turns, strict=True):
        assert (mine.source != theirs.source) == turn


def check_verdicts(notebook: NotebookNode) -> list[str]:
    """Run a notebook in this process; what each of its check cells prints."""
    namespace, verdicts = {"__name__": "__main__"}, []
    for cell in code_cells(notebook):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(cell.source, cell.source.splitlines()[0], "exec"), namespace)
        if cell.source.startswith("# Check"):
            verdicts.append(printed.getvalue())
    plt.close("all")
    return verdicts


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
@pytest.mark.parametrize(
    ("path", "verdict"),
    [(path, r"not yet: \S.*\n") for path in EXERCISES] + [(path, "passed\n") for path in SOLUTIONS],
    ids=lambda value: str(value.relative_to(ROOT)) if isinstance(value, Path) else "",
)
def test_checks_say_not_yet_to_a_stub_and_passed_to_a_solution(path, verdict, monkeypatch):
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # the notebooks set it; here it is put back
    plt.switch_backend("agg")
    notebook = read(path)
    verdicts = check_verdicts(notebook)
    exercises = len(re.findall(r"^## Exercise \d+", markdown(notebook), re.M))
    assert len(verdicts) == exercises
    assert all(re.fullmatch(verdict, said) for said in verdicts), verdicts
