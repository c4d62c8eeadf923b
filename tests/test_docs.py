"""Links in the documents work, and the names in them exist."""

import json
import re
import subprocess
import tomllib

import pytest
import yaml
from shared import ROOT

import fvv_lib
from fvv_lib.cli import VERBS
from fvv_lib.cli.chat import ChatSettings
from fvv_lib.cli.check import CheckOptions
from fvv_lib.cli.convert import ConvertSettings
from fvv_lib.cli.evaluate import EvaluateSettings
from fvv_lib.cli.finetune import OURS, transformers_flags
from fvv_lib.cli.flags import Flag, flags_of
from fvv_lib.cli.memory import MemoryOptions
from fvv_lib.cli.prepare import PrepareSettings
from fvv_lib.settings import DataArguments, MemorySettings

SETTINGS = {  # of each verb
    "doctor": (),
    "prepare": (PrepareSettings,),
    "check": (CheckOptions, DataArguments),
    "memory": (MemorySettings, MemoryOptions),
    "finetune": OURS,
    "evaluate": (EvaluateSettings,),
    "chat": (ChatSettings,),
    "convert": (ConvertSettings,),
}

README = (ROOT / "README.md").read_text()
GUIDES = [f"docs/guide/{path.name}" for path in sorted((ROOT / "docs" / "guide").glob("*.md"))]
PAGES = ["README.md", "CONTRIBUTING.md", "data_samples/README.md", *GUIDES]
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")


def flags_of_verb(verb: str) -> list[Flag]:
    mine = {flag.name: flag for settings in SETTINGS[verb] for flag in flags_of(settings)}
    theirs = transformers_flags() if verb == "finetune" else []
    return [*mine.values(), *(flag for flag in theirs if flag.name not in mine)]


def without_code(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S)


def anchors(page: str) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and the book make them from the heading text."""
    headings = re.findall(r"^#+ (.+)", without_code(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_settings_list_every_verb():
    assert set(SETTINGS) == set(VERBS)


@pytest.mark.parametrize("document", PAGES)
def test_link_targets_exist(document):
    path = ROOT / document
    for target, anchor in LINK.findall(without_code(path.read_text())):
        there = path.parent / target if target else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there.read_text()), f"{target}#{anchor}"


@pytest.mark.parametrize("document", ["README.md", *GUIDES])
def test_every_module_every_flag_and_every_verb_exists(document):
    page = (ROOT / document).read_text()
    for name in set(re.findall(r"fvv_lib\.(\w+)", page)):
        assert (ROOT / "fvv_lib" / name).exists() or hasattr(fvv_lib, name), name
    known = {flag.name for verb in VERBS for flag in flags_of_verb(verb)} | {"help", "nbval", "nproc_per_node"}
    assert {flag.replace("-", "_") for flag in re.findall(r"(?<![-\w])--([a-z][\w-]*)", page)} <= known
    assert set(re.findall(r"\bfvv ([a-z]\w*)", page)) <= set(VERBS)


def test_the_readme_names_every_folder():
    files = README.split("\n## Documentation and files\n")[1].split("\n## ")[0]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not listed:
        pytest.skip("not a git checkout")
    folders = {path.split("/")[0] for path in listed if "/" in path and not path.startswith(".")}
    assert set(re.findall(r"^([\w-]+)/ ", files, re.M)) == folders


def test_conda_users_get_the_same_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    groups = [project["dependencies"], *(extras[name] for name in ("course", "book", "scale", "far", "dev"))]
    wanted = [requirement for group in groups for requirement in group]
    wanted = {requirement for requirement in wanted if not requirement.startswith("fvv_lib")}
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in environment if isinstance(entry, dict))
    assert set(pip) - {"-e ."} == wanted
    assert f"python{project['requires-python']}" in environment


def test_tested_versions_are_within_the_ranges():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    ranges = {Requirement(text).name.lower(): Requirement(text).specifier for group in groups for text in group}
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    pins = {name.lower(): version for name, version in pins.items()}
    assert set(pins) == set(ranges) - {"fvv_lib"}
    for name, version in pins.items():
        assert ranges[name].contains(version), name


def test_ci_runs_the_test_command_of_the_readme():
    assert "make test" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_sample_shown_is_a_sample():
    text = (ROOT / "data_samples" / "README.md").read_text()
    shown = json.loads(text.split("```json")[1].split("```")[0])
    assert shown in json.loads((ROOT / "data_samples" / "test.json").read_text())
