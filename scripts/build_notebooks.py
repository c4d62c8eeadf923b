"""Run the course's sources and write its notebooks, with their outputs.

    python scripts/build_notebooks.py [notebooks/source/01_sparse_sampling.py ...]

A lesson in `notebooks/source/` gives one notebook in `notebooks/`. A source in `notebooks/source/exercises/` gives two,
in `notebooks/exercises/` and `notebooks/solutions/` (see `exercises.py`). Each notebook runs in its own folder. Nothing
that differs from machine to machine is stored: no times, no versions, no random cell ids. A notebook with a cell that
takes longer than ten seconds is not written: nobody should have to wait in a lesson. Only cells that train may: one
that begins with `# %% tags=["training"]` takes the time it takes.
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
TRAINING = "training"  # tag of a cell that may take longer
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def slow_cells(notebook: nbformat.NotebookNode) -> list[str]:
    """The cells that took longer than `MAX_SECONDS`, by the times that nbclient noted beside each cell that it ran; a
    cell with the tag `TRAINING` may."""
    slow = []
    for cell in notebook.cells:
        marks = cell.metadata.get("execution", {})
        if marks and TRAINING not in cell.metadata.get("tags", []):
            busy, idle = (datetime.fromisoformat(marks[f"iopub.status.{state}"]) for state in ("busy", "idle"))
            seconds = (idle - busy).total_seconds()
            if seconds > MAX_SECONDS:
                slow.append(f"{seconds:.1f} s, allowed are {MAX_SECONDS}: {cell.source[:80]!r}")
    return slow


def texts_of(source: Path) -> dict[Path, str]:
    """The text (py:percent) of each notebook that a source gives, by the path of the notebook."""
    text = source.read_text()
    if source.parent != SOURCES / "exercises":
        return {(NOTEBOOKS / source.relative_to(SOURCES)).with_suffix(".ipynb"): text}
    place = str(source.relative_to(NOTEBOOKS.parent))
    return {NOTEBOOKS / version / f"{source.stem}.ipynb": render(text, version, place) for version in VERSIONS}


def build(text: str, target: Path) -> None:
    """Run one text and write its notebook; exits where a cell is too slow."""
    target.parent.mkdir(exist_ok=True)
    notebook = jupytext.reads(text, fmt="py:percent")
    client = NotebookClient(
        notebook,
        timeout=3600,  # seconds for a cell: stops what hangs
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
    """Build what the sources give. A wrong mark in any of them is reported before the first one runs."""
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
