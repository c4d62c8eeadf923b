"""The modules of `scripts/` that build the notebooks, for the tests to import from here: `scripts/` is no package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import build_notebooks
import exercises

__all__ = ["build_notebooks", "exercises"]
