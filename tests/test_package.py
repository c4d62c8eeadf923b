import ast
import subprocess
import sys

import pytest
from conftest import ROOT

import fvv_lib

# The order in which the course reads the modules: each may import only what stands before it.
ORDER = [
    *("errors", "arguments", "flags", "sampling", "isolation", "containers", "numbered", "bitstream", "packets"),
    *("pictures", "reader", "decoding", "images", "conversation", "tokens", "labels", "zero", "encoder", "vocabulary"),
    *("splicing", "model", "apple", "fullsize", "parts", "lora", "loading", "convert", "annotations", "table"),
    *("dataset", "check", "evaluation", "chat", "checkpoints", "record", "trainer", "features", "training", "ranks"),
    *("dryrun", "memory", "scenes", "samples", "tiny", "plotting", "doctor"),
]
REPORTS = {"record", "check"}  # may draw their figures with `plotting`


def imports_of(source):
    """The modules of the package that a source imports, however it writes it; a public name stands for its module."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.removeprefix("fvv_lib.") for alias in node.names if alias.name.startswith("fvv_lib.")}
        elif isinstance(node, ast.ImportFrom):
            package, _, module = ("fvv_lib." * bool(node.level) + (node.module or "")).rstrip(".").partition(".")
            if package == "fvv_lib":
                names |= {module} if module else {fvv_lib._MODULE_OF.get(a.name, a.name) for a in node.names}
    return names


def source_of(module):
    return (ROOT / "fvv_lib" / f"{module}.py").read_text()


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("from fvv_lib.tokens import bos_ids", {"tokens"}),
        ("from fvv_lib import training", {"training"}),
        ("from fvv_lib import training as t, read_video, FvvError", {"training", "decoding", "errors"}),
        ("import fvv_lib.training", {"training"}),
        ("import os, fvv_lib.model as m", {"model"}),
        ("def late():\n    from fvv_lib.plotting import plot_loss", {"plotting"}),
        ("from . import training\nfrom .tokens import bos_ids", {"training", "tokens"}),
        ("import fvv_library.other, fvv_lib\nfrom fvv_library import thing\nfrom os.path import join", set()),
    ],
)
def test_an_import_is_seen_however_it_is_written(source, modules):
    assert imports_of(source) == modules


def test_every_module_has_its_place():
    files = {path.stem for path in (ROOT / "fvv_lib").glob("*.py")} - {"__init__"}
    assert files == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_modules_above_it(module):
    allowed = set(ORDER[: ORDER.index(module)]) | ({"plotting"} if module in REPORTS else set())
    assert imports_of(source_of(module)) <= allowed
    assert not imports_of(source_of("plotting"))


@pytest.mark.parametrize("module", ORDER)
def test_a_module_fits_in_one_room(module):
    assert len(source_of(module).splitlines()) <= 300


def test_public_names_import_from_the_package():
    for name in fvv_lib.__all__:
        assert getattr(fvv_lib, name) is not None
    assert set(fvv_lib.__all__) <= set(dir(fvv_lib))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fvv_lib.nothing


def test_no_public_name_is_that_of_a_module():
    """The module would take its place as soon as it is imported."""
    assert not set(fvv_lib.__all__) & set(ORDER)


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
