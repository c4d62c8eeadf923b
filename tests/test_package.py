import ast
import subprocess
import sys

import pytest
from conftest import ROOT

import fvv_lib

# The order in which the course reads the modules: each may import only what stands before it.
ORDER = [
    *(
        "errors",
        "arguments",
        "sampling",
        "isolation",
        "containers",
        "numbered",
        "packets",
        "reader",
        "decoding",
        "images",
        "conversation",
    ),
    *("tokens", "labels", "encoder", "model", "loading", "dataset", "check", "evaluation", "training"),
    *("scenes", "samples", "tiny", "plotting", "doctor"),
]
REPORTS = {"training", "check"}  # may draw their figures with `plotting`


def imports_of(module):
    tree = ast.parse((ROOT / "fvv_lib" / f"{module}.py").read_text())
    return {
        node.module.removeprefix("fvv_lib.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fvv_lib.")
    }


def test_every_module_has_its_place():
    files = {path.stem for path in (ROOT / "fvv_lib").glob("*.py")} - {"__init__"}
    assert files == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_modules_above_it(module):
    allowed = set(ORDER[: ORDER.index(module)]) | ({"plotting"} if module in REPORTS else set())
    assert imports_of(module) <= allowed
    assert not (imports_of("plotting"))


@pytest.mark.parametrize("module", ORDER)
def test_a_module_fits_in_one_room(module):
    assert len((ROOT / "fvv_lib" / f"{module}.py").read_text().splitlines()) <= 300


def test_public_names_import_from_the_package():
    for name in fvv_lib.__all__:
        assert getattr(fvv_lib, name) is not None
    assert set(fvv_lib.__all__) <= set(dir(fvv_lib))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fvv_lib.nothing


def test_public_names_have_docstrings():
    for name in fvv_lib.__all__:
        value = getattr(fvv_lib, name)
        if callable(value):
            assert value.__doc__, name


@pytest.mark.parametrize("heavy", ["torch", "transformers", "av", "decord", "deepspeed", "matplotlib"])
def test_importing_the_package_does_not_import(heavy):
    code = f"import sys, fvv_lib; assert {heavy!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("missing", ["decord", "deepspeed", "peft", "tensorboard"])
def test_optional_packages_are_not_needed_to_import(missing):
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import fvv_lib\n"
        "for name in fvv_lib.__all__: getattr(fvv_lib, name)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_without_decord_its_backend_says_what_to_do(monkeypatch, data_samples):
    monkeypatch.setitem(sys.modules, "decord", None)
    clip = data_samples / "videos" / "test" / "motion-0001.mp4"
    with pytest.raises(fvv_lib.FvvError, match=r"decord is not installed.*backend='pyav'"):
        fvv_lib.read_video(clip, backend="decord")
    assert fvv_lib.read_video(clip).total_frames == 24
