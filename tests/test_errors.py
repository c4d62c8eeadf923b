"""All errors are in one family, so that `except FvvError` catches everything that the library refuses."""

import ast
import pickle

import pytest
from shared import ROOT

import fvv_lib
from fvv_lib import FvvError, errors

FAMILY = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, FvvError)}
OTHERS = {
    ("video/isolation.py", "ChildTimeoutError"),  # `read` turns these two into an error that names the file
    ("video/isolation.py", "ChildCrashError"),
    *((f"video/exact/{name}.py", "ValueError") for name in ("index", "matroska", "mp4")),  # the index is then not used
    ("data/annotations.py", "self.wrong"),  # this method makes a DataFormatError that names file and line
    ("data/annotations.py", "reader.wrong"),
    ("evaluation/benchmarks/layouts.py", "self.wrong"),  # likewise
    ("evaluation/benchmarks/layouts.py", "row.wrong"),
    ("course/environment.py", "RuntimeError"),  # the doctor reports it as a failed check
    # Files at URLs fail like those of a disk: `readable` and `one_version` turn an OSError into an error of the family.
    ("files.py", "FileNotFoundError"),
    *(("far.py", name) for name in ("OSError", "IsADirectoryError", "EOFError")),
    ("cli/flags.py", "argparse.ArgumentTypeError"),  # argparse turns it into a FlagError
}
PACKAGE = ROOT / "fvv_lib"
FILES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def raised_by(source):
    """Return the names of the errors that a source raises."""
    made = [node.exc for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Raise)]
    return {ast.unparse(call.func) for call in made if isinstance(call, ast.Call)}


@pytest.mark.parametrize("file", FILES)
def test_modules_raise_only_errors_of_the_family(file):
    others = {name for module, name in OTHERS if module == file}
    assert raised_by((PACKAGE / file).read_text()) - FAMILY == others


def test_files_of_the_other_errors_exist():
    assert {module for module, _ in OTHERS} <= set(FILES)


def test_every_error_of_the_family_can_be_imported_from_the_package():
    assert FAMILY.issubset(fvv_lib.__all__)
    assert len(FAMILY) >= 6


@pytest.mark.parametrize("name", sorted(FAMILY))
def test_errors_can_be_sent_between_processes(name):
    """A child that decodes and a worker of a DataLoader send their errors as bytes."""
    error = pickle.loads(pickle.dumps(getattr(errors, name)("clip.mp4: it is empty. Copy it again.")))
    assert type(error).__name__ == name
    assert str(error) == "clip.mp4: it is empty. Copy it again."
