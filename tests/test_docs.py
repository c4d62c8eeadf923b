"""Links and names in the documents lead to what is there."""

import json
import re
import subprocess
import tomllib

import pytest
import yaml
from conftest import ROOT

import fvv_lib
from fvv_lib.cli import VERBS
from fvv_lib.cli.chat import ChatSettings
from fvv_lib.cli.check import CheckOptions
from fvv_lib.cli.convert import ConvertSettings
from fvv_lib.cli.finetune import transformers_flags
from fvv_lib.cli.flags import flags_of
from fvv_lib.cli.memory import MemoryOptions
from fvv_lib.settings import DataArguments, MemorySettings, ModelArguments, TrainingSettings

SETTINGS = (
    *(ModelArguments, DataArguments, TrainingSettings, MemorySettings),
    *(ChatSettings, CheckOptions, ConvertSettings, MemoryOptions),
)

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("document", ["README.md", "data_samples/README.md"])
def test_links_lead_somewhere(document):
    path = ROOT / document
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_module_and_every_flag_of_the_readme_exists():
    for name in set(re.findall(r"fvv_lib\.(\w+)", README)):
        assert (ROOT / "fvv_lib" / name).exists() or hasattr(fvv_lib, name), name
    known = {flag.name for settings in SETTINGS for flag in flags_of(settings)}
    known |= {flag.name for flag in transformers_flags()} | {"help", "nbval"}
    assert {flag.replace("-", "_") for flag in re.findall(r"(?<![-\w])--([a-z][\w-]*)", README)} <= known
    assert set(re.findall(r"\bfvv (\w+)", README)) <= set(VERBS)


def test_the_readme_names_every_folder_and_every_script():
    files = README.split("\n## Files\n")[1].split("\n## ")[0]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not listed:
        pytest.skip("not a git checkout")
    folders = {path.split("/")[0] for path in listed if "/" in path and not path.startswith(".")}
    assert set(re.findall(r"^\| `([\w-]+)/`", files, re.M)) == folders
    for script in (ROOT / "scripts").glob("*.*"):
        assert f"`{script.name}`" in files, script.name


def test_conda_users_get_the_same_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["course"], *extras["book"], *extras["scale"], *extras["dev"]]
    wanted = {requirement for requirement in wanted if not requirement.startswith("fvv_lib")}
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in environment if isinstance(entry, dict))
    assert set(pip) - {"-e ."} == wanted
    assert f"python{project['requires-python']}" in environment


def test_tested_versions_are_in_the_ranges():
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
