"""The old build that benchmarks compare with: commit 0c0ac90, before `fvv VERB`. This module is not a benchmark."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLD = "0c0ac90"


def environment_of(source: Path) -> dict[str, str]:
    """Return the environment variables of a process that imports the `fvv_lib` of `source`."""
    return {**os.environ, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1"}


def check_source(source: Path) -> None:
    """Raise if `fvv_lib` is imported from outside `source`, since this environment has its own copy installed."""
    command = [sys.executable, "-c", "import fvv_lib; print(fvv_lib.__file__)"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, env=environment_of(source), stdout=subprocess.PIPE, text=True)
    if done.returncode or not Path(done.stdout.strip()).resolve().is_relative_to(source.resolve()):
        raise RuntimeError(f"{source}: another fvv_lib was imported: {done.stdout}")


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


@contextmanager
def old_build(folder: Path | None) -> Iterator[Path]:
    """Yield the old build: the given folder, or a temporary worktree of this repository."""
    if folder is not None:
        if not git(folder, "rev-parse", "HEAD").startswith(OLD):
            raise RuntimeError(f"{folder} is not at commit {OLD}.")
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory() as parent:
        tree = Path(parent) / "old"
        git(ROOT, "worktree", "add", "--quiet", "--detach", str(tree), OLD)
        try:
            yield tree
        finally:
            git(ROOT, "worktree", "remove", "--force", str(tree))
