"""Run the course's sources and write its notebooks, with their outputs.

    python scripts/build_notebooks.py [notebooks/source/01_sparse_sampling.py ...]

`notebooks/source/` is mirrored to `notebooks/`, with its folders `exercises/` and `solutions/`. Each notebook runs in
its own folder. Nothing that differs from machine to machine is stored: no times, no versions, no random cell ids.
"""

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
SOURCES = NOTEBOOKS / "source"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def build(source: Path) -> Path:
    """Run one source and write its notebook."""
    target = (NOTEBOOKS / source.relative_to(SOURCES)).with_suffix(".ipynb")
    target.parent.mkdir(exist_ok=True)
    notebook = jupytext.read(source, fmt="py:percent")
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(target.parent)}},
    )
    client.execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:02d}", nbformat.from_dict({})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.write(notebook, target)
    return target


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:] or sorted(map(str, SOURCES.rglob("*.py")))):
        print(build(path.resolve()).relative_to(NOTEBOOKS.parent), flush=True)
