"""Run the course's sources and write its notebooks with their outputs.

    python scripts/build_notebooks.py [notebooks/source/01_sparse_sampling.py ...]

A lesson in `notebooks/source/` becomes one notebook in `notebooks/`. A source in `notebooks/source/exercises/` becomes
two: one in `notebooks/exercises/` and one in `notebooks/solutions/` (see `exercises.py`). Each notebook runs in its own
folder. Times, versions and random cell ids are not stored, because they differ between machines. A notebook with a cell
that takes longer than ten seconds is not written, so that readers do not wait. Only training cells, which begin with
`# %% tags=["training"]`, have no limit.
"""

import sys
from datetime import datetime
from pathlib import Path

import jupytext
import nbformat
from exercises import VERSIONS, MarkError, render
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
SOURCES = NOTEBOOKS / "source"
MAX_SECONDS = 10
TRAINING = "training"  # tag of a cell without a time limit
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def slow_cells(notebook: nbformat.NotebookNode) -> list[str]:
    """Return a message for each cell that took longer than `MAX_SECONDS`, unless it has the tag `TRAINING`.

    The times are those that nbclient records in the metadata of each cell.
    """
    slow = []
    for cell in notebook.cells:
        marks = cell.metadata.get("execution", {})
        if marks and TRAINING not in cell.metadata.get("tags", []):
            busy, idle = (datetime.fromisoformat(marks[f"iopub.status.{state}"]) for state in ("busy", "idle"))
            seconds = (idle - busy).total_seconds()
            if seconds > MAX_SECONDS:
                slow.append(f"{seconds:.1f} s, the limit is {MAX_SECONDS} s: {cell.source[:80]!r}")
    return slow


def texts_of(source: Path) -> dict[Path, str]:
    """Return the text (py:percent) of each notebook that is built from a source, by the path of the notebook."""
    text = source.read_text()
    if source.parent != SOURCES / "exercises":
        return {(NOTEBOOKS / source.relative_to(SOURCES)).with_suffix(".ipynb"): text}
    place = str(source.relative_to(NOTEBOOKS.parent))
    return {NOTEBOOKS / version / f"{source.stem}.ipynb": render(text, version, place) for version in VERSIONS}


def build(text: str, target: Path) -> None:
    """Run one text and write its notebook. Exit if a cell is too slow."""
    target.parent.mkdir(exist_ok=True)
    notebook = jupytext.reads(text, fmt="py:percent")
    client = NotebookClient(
        notebook,
        timeout=3600,  # seconds per cell, to stop a cell that hangs
        kernel_name="python3",
        record_timing=True,
        coalesce_streams=True,
        resources={"metadata": {"path": str(target.parent)}},
    )
    client.execute()
    if slow := slow_cells(notebook):
        sys.exit("\n".join(f"{target.relative_to(NOTEBOOKS)}: {line}" for line in slow))
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:02d}", nbformat.from_dict({})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.write(notebook, target)


def main(sources: list[Path]) -> None:
    """Build the notebooks of the sources. A wrong mark in any source is reported before the first one runs."""
    texts = {}
    try:
        for source in sources:
            texts |= texts_of(source)
    except MarkError as error:
        sys.exit(str(error))
    for target, text in texts.items():
        build(text, target)
        print(target.relative_to(NOTEBOOKS.parent), flush=True)


if __name__ == "__main__":
    main([Path(path).resolve() for path in sys.argv[1:]] or sorted(SOURCES.rglob("*.py")))
