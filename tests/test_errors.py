"""Errors: one family, so that `except FvvError` catches whatever the library refuses."""

import ast
import pickle

import pytest
from conftest import ROOT

import fvv_lib
from fvv_lib import FvvError, errors

FAMILY = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, FvvError)}
OTHERS = {
    ("__init__", "AttributeError"),  # what Python asks of a module's `__getattr__`
    ("isolation", "ChildTimeoutError"),  # `decoding` turns these two into one that names the file
    ("isolation", "ChildCrashError"),
    ("annotations", "self.wrong"),  # this method makes a DataFormatError that names file and line
    ("annotations", "reader.wrong"),
    ("doctor", "RuntimeError"),  # the doctor reports it as a failed check
}


def raised_by(source):
    """The names of the errors that a source makes and raises."""
    made = [node.exc for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Raise)]
    return {ast.unparse(call.func) for call in made if isinstance(call, ast.Call)}


@pytest.mark.parametrize("path", sorted((ROOT / "fvv_lib").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_module_raises_is_of_the_family(path):
    others = {name for module, name in OTHERS if module == path.stem}
    assert raised_by(path.read_text()) - FAMILY == others


def test_every_error_of_the_family_can_be_imported_from_the_package():
    assert FAMILY.issubset(fvv_lib.__all__)
    assert len(FAMILY) >= 6


@pytest.mark.parametrize("name", sorted(FAMILY))
def test_an_error_comes_unharmed_out_of_another_process(name):
    """A child that decodes, and the worker of a DataLoader, send their errors as bytes."""
    error = pickle.loads(pickle.dumps(getattr(errors, name)("clip.mp4: it is empty. Copy it again.")))
    assert type(error).__name__ == name
    assert str(error) == "clip.mp4: it is empty. Copy it again."
