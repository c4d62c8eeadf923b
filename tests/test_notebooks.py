"""Every notebook passes the rules and matches its source, and its links work."""

import ast
import re

import build_notebooks
import jupytext
import pytest
from nbformat import NotebookNode
from notebook_rules import ALL, EXERCISES, LESSONS, ROOT, RULES, SOLUTIONS, code_cells, markdown, nodes, read

from fvv_lib import DataArguments


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_notebook_passes_the_rules(rule, path):
    assert rule(read(path)) == []


def sources_of(notebook: NotebookNode) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


@pytest.fixture(scope="module")
def built_from_sources():
    """The source text of each notebook, by the path of the notebook."""
    sources = (ROOT / "source").rglob("*.py")
    return {path: text for source in sources for path, text in build_notebooks.texts_of(source).items()}


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_notebook_matches_its_source(built_from_sources, path):
    source = jupytext.reads(built_from_sources[path], fmt="py:percent")
    assert sources_of(source) == sources_of(read(path)), "make notebooks"


def test_every_source_has_a_notebook(built_from_sources):
    assert sorted(built_from_sources) == sorted(ALL)


def test_every_lesson_has_exercises_and_solutions():
    names = [path.name for path in LESSONS]
    assert names
    assert [path.name for path in EXERCISES] == names
    assert [path.name for path in SOLUTIONS] == names


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_link_targets_exist(path):
    links = re.findall(r"\]\(([^)#]+)\)", markdown(read(path)))
    missing = [link for link in links if "://" not in link and not (path.parent / link).is_file()]
    assert missing == []


def test_only_training_cells_may_take_long():
    """Any other tag is a mistake, because it would have no effect."""
    lessons = set()
    for path in sorted((ROOT / "source").rglob("*.py")):
        for cell in jupytext.read(path, fmt="py:percent").cells:
            if tags := cell.metadata.get("tags", []):
                assert tags == ["training"], path
                assert re.search(r"\btrain\b", cell.source), f"{path}: {cell.source}"
                lessons.add(path.stem[:2])
    assert lessons <= {"06", "08", "09"}


def test_lesson_06_trains_with_the_settings_of_the_script():
    """The lesson uses all settings of the script, except paths and `report_to`."""
    script = (ROOT.parent / "scripts" / "finetune_video.sh").read_text()
    given = re.findall(r"^ +--(\w+) (\S+)", script.split("set -euo")[1], re.M)
    flags = dict(reversed(given))  # the course's settings come first in the script but last on the command line
    lesson = jupytext.read(ROOT / "source" / "06_full_finetuning.py", fmt="py:percent")
    (recipe,) = (
        ast.literal_eval(node.value)
        for cell in code_cells(lesson)
        for node in nodes(cell, ast.Assign)
        if ast.unparse(node.targets[0]) == "recipe"
    )
    defaults = {"num_video_frames": DataArguments.num_video_frames, "version": DataArguments.version}
    paths = {"data_path", "validation_data_path", "test_data_path", "model_name_or_path", "output_dir"}
    assert {name: type(value)(flags[name]) for name, value in recipe.items()} == recipe
    assert {name: str(value) for name, value in defaults.items()}.items() <= flags.items()
    assert flags.keys() == recipe.keys() | defaults.keys() | paths | {"report_to"}
