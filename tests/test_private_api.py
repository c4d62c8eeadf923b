"""Private names of other libraries: each exists as expected and is used in one place. Untested releases are out."""

import ast
import importlib
import inspect
import pkgutil
import re
import tomllib
from pydoc import locate

import pytest
from accelerate import Accelerator
from packaging.requirements import Requirement
from shared import ROOT
from starting import run_as_rank
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TextStreamer, Trainer, TrainerCallback

import fvv_lib
from fvv_lib import private_api
from fvv_lib.private_api import CALLED, OVERRIDDEN

PACKAGE = ROOT / "fvv_lib"
SOURCES = {path: path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
# Documented in spite of the underscore: namedtuples must not clash with field names, `os._exit` is for child processes.
DOCUMENTED = {"_asdict", "_fields", "_replace", "_exit"}
DYNAMIC = {"getattr", "hasattr", "setattr", "delattr"}


# --- the names that are listed ----------------------------------------------------------------------------------------


def written(owner, name):
    """Return a function as in the tables: its name and its parameters, without types and defaults."""
    assert name in vars(owner), f"{owner.__name__} has no {name} of its own"
    signature = inspect.signature(getattr(owner, name))
    bare = [p.replace(annotation=p.empty, default=p.empty) for p in signature.parameters.values()]
    return name + str(signature.replace(parameters=bare, return_annotation=signature.empty))


ROWS = [(owner, row) for table in (CALLED, OVERRIDDEN) for owner, rows in table.items() for row in rows]


@pytest.mark.parametrize(("owner", "row"), ROWS, ids=[f"{owner}.{row.partition('(')[0]}" for owner, row in ROWS])
def test_a_listed_name_exists_with_its_parameters(owner, row):
    assert written(locate(owner), row.partition("(")[0]) == row


class Example:
    def asked(self, model, *rest: int, trial: str = "x", **others) -> None: ...

    @classmethod
    def loaded(cls, path, /): ...


def test_a_renamed_name_or_parameter_is_detected():
    assert written(Example, "asked") == "asked(self, model, *rest, trial, **others)"
    assert written(Example, "loaded") == "loaded(path, /)"
    with pytest.raises(AssertionError, match="no renamed of its own"):
        written(Example, "renamed")


# --- attributes, which have no signature ------------------------------------------------------------------------------


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_forward_hooks_are_detected(register):
    layer = nn.Linear(1, 1)
    assert not private_api.has_forward_hooks(layer)
    handle = getattr(layer, register)(lambda *_: None)
    assert private_api.has_forward_hooks(layer)
    handle.remove()
    assert not private_api.has_forward_hooks(layer)


def test_tied_weights_are_known(model):
    assert private_api.tied_weights(model) == {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    assert private_api.tied_weights(nn.Linear(1, 1)) == {}


def test_torch_loader_returns_the_loader_inside_accelerates():
    prepared = Accelerator(cpu=True).prepare(DataLoader([1, 2]))
    inner = private_api.torch_loader(prepared)
    assert type(inner) is DataLoader is not type(prepared)
    with pytest.raises(AttributeError):
        private_api.torch_loader(DataLoader([1, 2]))


def is_known_as_sharded():
    import deepspeed

    private_api.skip_compiled_all_reduce()
    deepspeed.comm.init_distributed("gloo")
    assert deepspeed.comm.comm.cdb.shm_comm_op is None
    with deepspeed.zero.Init(config_dict_or_path={"train_batch_size": 1, "zero_optimization": {"stage": 3}}):
        weight = nn.Linear(3, 4).weight
    assert weight.shape == (0,)
    assert private_api.is_sharded(weight)
    assert private_api.full_shape(weight) == (4, 3)


def test_a_zero3_parameter_has_the_attributes_that_private_api_reads():
    run_as_rank(is_known_as_sharded)
    plain = nn.Linear(3, 4).weight
    assert not private_api.is_sharded(plain)
    assert private_api.full_shape(plain) == (4, 3)


# --- nothing private outside of private_api ---------------------------------------------------------------------------


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name.strip("_") != "" and name not in DOCUMENTED


def own_names(tree):
    """Return the names that a source defines: functions, classes, variables, and attributes that it sets on `self`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found | set_on_self(tree)


def set_on_self(tree):
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_name(node.value, "self")]
    return {node.attr for node in attributes if isinstance(node.ctx, ast.Store)}


def is_name(node, name):
    return isinstance(node, ast.Name) and node.id == name


def is_super(node):
    return isinstance(node, ast.Call) and is_name(node.func, "super")


def private_uses(source, overridden=()):
    """Return the private names that a source uses but does not define: attributes, imports, keywords, and strings that
    `getattr` and similar functions get. `overridden` names are allowed on `super()`."""
    tree = ast.parse(source)
    own, found = own_names(tree), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            known = overridden if is_super(node.value) else own
            found |= {node.attr} - set(known)
        elif isinstance(node, ast.Import):
            found |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and not f"{node.module}.".startswith("fvv_lib."):
            found |= {part for alias in node.names for part in (*node.module.split("."), alias.name)}
        elif isinstance(node, ast.keyword):
            found |= {node.arg or ""} - own
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in DYNAMIC:
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return {name for name in found if is_private(name)}


@pytest.mark.parametrize(
    ("source", "uses"),
    [
        ("table._fingerprint", {"_fingerprint"}),
        ("model._weights = []", {"_weights"}),
        ("import torch._dynamo.config as c", {"_dynamo"}),
        ("from torch.utils._pytree import tree_map", {"_pytree"}),
        ("from timm.layers import _helpers", {"_helpers"}),
        ("f(name, _raise=False)", {"_raise"}),
        ("hasattr(x, '_hooks') or getattr(x, 'hooks')", {"_hooks"}),
        ("class A(B):\n def f(self): return super()._save() + super()._load()", {"_load"}),
        ("class A(B):\n def f(self): return self._mine + self._theirs\n def _mine(self): pass", {"_theirs"}),
        ("class A:\n def __init__(self): self._x = 1\n def f(self): return self._x", set()),
        ("def _f(): pass\nfrom fvv_lib.video.read import _g\nm._f", set()),
        ("from __future__ import annotations\nfor _ in x.__dict__: clip._replace(y=_)", set()),
    ],
)
def test_each_kind_of_private_use_is_detected(source, uses):
    assert private_uses(source, {"_save"}) == uses


@pytest.mark.parametrize(
    "path", sorted(set(SOURCES) - {PACKAGE / "private_api.py"}), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_only_private_api_uses_private_names(path):
    overridden = {row.partition("(")[0] for rows in OVERRIDDEN.values() for row in rows}
    assert private_uses(SOURCES[path], overridden) == set()


def test_every_name_of_private_api_is_used():
    nodes = [node for source in SOURCES.values() for node in ast.walk(ast.parse(source))]
    imports = [n for n in nodes if isinstance(n, ast.ImportFrom) and n.module == "fvv_lib.private_api"]
    assert {alias.name for node in imports for alias in node.names} == set(private_api.__all__)


# --- overrides --------------------------------------------------------------------------------------------------------


def our_classes():
    names = [module.name for module in pkgutil.walk_packages(fvv_lib.__path__, "fvv_lib.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    return {value for module in modules for value in vars(module).values() if inspect.isclass(value) and is_ours(value)}


def is_ours(cls):
    return cls.__module__.split(".")[0] == "fvv_lib"


def overrides(cls, is_ours=is_ours):
    """Return the library methods that a class or one of our classes among its bases overrides, each with the library
    class that defines it. For Trainer, callback, streamer and model, these are all methods, because transformers calls
    them by name; for other classes, the private ones."""
    found, bases = set(), cls.__mro__
    everything = issubclass(cls, Trainer | TrainerCallback | TextStreamer | PreTrainedModel)
    for place, base in enumerate(bases):
        for name, value in vars(base).items() if is_ours(base) else ():
            is_method = callable(value) or isinstance(value, classmethod | staticmethod | property)
            if not is_method or inspect.isclass(value) or not (is_private(name) or everything) or name[:2] == "__":
                continue
            theirs = [other for other in bases[place:] if not is_ours(other) and name in vars(other)]
            found |= {(other, name) for other in theirs[:1]}
    return found


def test_the_table_lists_all_overrides():
    listed = {(locate(owner), row.partition("(")[0]) for owner, rows in OVERRIDDEN.items() for row in rows}
    assert set().union(*map(overrides, our_classes())) == listed


def test_overrides_in_mixins_and_subclasses_are_detected():
    class Mixin:
        def log(self): ...
        def _save(self): ...
        def _mine(self): ...

    class Plain(nn.Linear):
        def forward(self, x): ...
        def _apply(self, fn): ...

    class Mine(Mixin, Trainer):
        def _run_epoch(self): ...

    ours = {Mixin, Plain, Mine}.__contains__
    assert overrides(Mine, ours) == {(Trainer, "log"), (Trainer, "_save"), (Trainer, "_run_epoch")}
    assert overrides(Plain, ours) == {(nn.Module, "_apply")}


def test_no_attribute_of_our_trainers_is_one_of_transformers():
    """Otherwise both would write to the same attribute."""
    theirs = set(re.findall(r"self\.(\w+)", inspect.getsource(Trainer)))
    for name in ("resume.py", "trainer.py"):
        tree = ast.parse(SOURCES[PACKAGE / "finetuning" / name])
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("Trainer")]
        assert classes
        for node in classes:
            assert not (set_on_self(node) - {"optimizer"}) & theirs


# --- versions ---------------------------------------------------------------------------------------------------------

PRIVATE_API = {"torch", "torchvision", "transformers", "accelerate", "deepspeed", "peft"}
PUBLIC_API = {"timm", "datasets", "av"}


def test_untested_releases_are_excluded():
    """The next minor release may rename private names, the next major release public ones."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    bounds = {}
    for requirement in (Requirement(text) for group in groups for text in group):
        bounds[requirement.name] = [part.version for part in requirement.specifier if part.operator == "<"]
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    for name in PRIVATE_API | PUBLIC_API:
        major, minor = map(int, pins[name].split(".")[:2])
        after = f"{major + 1}" if name in PUBLIC_API else f"{major}.{minor + 1}"
        assert bounds[name] == [after], name
