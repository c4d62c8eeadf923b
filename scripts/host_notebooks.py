"""Write copies of the notebooks for Colab and Kaggle. Their first cell gets the repository and installs the package.

python scripts/host_notebooks.py https://example.org/fastvlm-video.git build/hosted
"""

import argparse
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
NEED_SCALE = ("08", "09")  # lessons that use DeepSpeed or PEFT
FIRST_CELL = """\
# Run this once per session: get the course, and install its package.
import os
import subprocess
import sys

course = os.path.expanduser("~/fastvlm-video-course")
if not os.path.isdir(course):
    clone = ["git", "clone", "--quiet", "--depth", "1", {address!r}, course]
    subprocess.run(clone, check=True)
install = [sys.executable, "-m", "pip", "install", "--quiet", course + {extra!r}]
subprocess.run(install, check=True)
os.chdir(os.path.join(course, {folder!r}))"""


def host(path: Path, address: str) -> NotebookNode:
    """Return a notebook with a first cell that gets the course from `address`. Stored outputs are removed."""
    notebook = nbformat.read(path, as_version=4)
    extra = "[scale]" if path.name.startswith(NEED_SCALE) else ""
    source = FIRST_CELL.format(address=address, extra=extra, folder=str(path.parent.relative_to(ROOT)))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.cells.insert(0, nbformat.v4.new_code_cell(source, id="get-the-course"))
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", help="what git clones")
    parser.add_argument("folder", type=Path, help="where the copies are written")
    arguments = parser.parse_args()
    if not arguments.address:
        parser.error("the address is empty: make hosted REPOSITORY=ADDRESS, or set REPOSITORY in the Makefile")
    for path in sorted(NOTEBOOKS.rglob("*.ipynb")):
        target = arguments.folder / path.relative_to(NOTEBOOKS)
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(host(path, arguments.address), target)


if __name__ == "__main__":
    main()
