"""Each rule of the notebooks works: a good lesson passes all rules, and each violation fails its rule."""

import copy

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_rules import (
    MAX_BYTES,
    METADATA,
    RULES,
    SHAPE,
    it_compares_what_it_prints,
    it_has_the_shape_of_its_kind,
    it_imports_what_the_course_has,
    it_is_plain_python,
    it_is_quiet,
    it_is_small,
    it_links_its_exercises,
    it_prints_the_same_everywhere,
    it_stores_what_it_prints,
    it_was_run_from_top_to_bottom,
    its_cells_fit_a_screen,
    its_figures_are_described,
    its_functions_are_short,
    its_metadata_is_the_same_everywhere,
    its_numbers_come_from_cells_or_results,
)


def good_lesson() -> NotebookNode:
    """Return a lesson that passes every rule."""
    picture = new_output("display_data", {"image/png": "", "text/plain": "<Figure size 800x94.6667 with 8 Axes>"})
    cells = [new_markdown_cell("# 07 · A lesson")]
    for heading in SHAPE:
        cells.append(new_markdown_cell(f"## {heading}\n\nIn 10 minutes."))
    cells[7].source = "## Exercises\n\n[one](exercises/07_a.ipynb) and [its answer](solutions/07_a.ipynb)"
    source = "import numpy as np\nprint(10)\nplt.show()"
    outputs = [new_output("stream", name="stdout", text="10\n"), picture]
    cells.insert(4, new_code_cell(source, execution_count=1, outputs=outputs))
    cells.insert(5, new_markdown_cell("*Figure: nothing.*"))
    cells.insert(6, new_code_cell("# NBVAL_IGNORE_OUTPUT\n# Reason: nobody knows what this is.\n1", execution_count=2))
    notebook = new_notebook(cells=cells, metadata=copy.deepcopy(METADATA))
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
    return notebook


def set_source(number, source):
    return lambda notebook: notebook.cells[number].update(source=source)


def add_source(number, source):
    return lambda notebook: notebook.cells[number].update(source=notebook.cells[number].source + source)


def add_output(kind, **content):
    return lambda notebook: notebook.cells[4].outputs.append(new_output(kind, **content))


def prints(text):
    return add_output("stream", name="stdout", text=text)


BREAKS = [
    (it_was_run_from_top_to_bottom, lambda notebook: notebook.cells[4].update(execution_count=3)),
    (it_was_run_from_top_to_bottom, lambda notebook: notebook.cells[4].update(execution_count=None)),
    (it_stores_what_it_prints, lambda notebook: notebook.cells[4].update(outputs=[])),
    (it_is_quiet, add_output("stream", name="stderr", text="Loading weights: 100%")),
    (it_is_quiet, add_output("error", ename="ValueError", evalue="", traceback=[])),
    (it_is_quiet, add_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}})),
    (it_prints_the_same_everywhere, add_output("execute_result", data={"text/plain": "<object at 0x7f3a5c0b>"})),
    (it_prints_the_same_everywhere, prints("/home/ada/fvv/clip.mp4: no such file")),
    (it_prints_the_same_everywhere, prints("read '/srv/course/clip.mp4'")),
    (it_prints_the_same_everywhere, prints("C:\\Users\\ada\\clip.mp4")),
    (it_prints_the_same_everywhere, prints("written on 2026-01-31")),
    (it_prints_the_same_everywhere, prints("written Sat Jan 31 2026")),
    (it_prints_the_same_everywhere, prints("at 12:30:59")),
    (it_prints_the_same_everywhere, prints("loss 0.12345")),
    (it_prints_the_same_everywhere, add_output("execute_result", data={"text/plain": "tensor(0.12345)"})),
    (its_metadata_is_the_same_everywhere, lambda notebook: notebook.metadata.language_info.update(version="3.11.9")),
    (its_metadata_is_the_same_everywhere, lambda notebook: notebook.metadata.kernelspec.update(name="my-venv")),
    (its_metadata_is_the_same_everywhere, lambda notebook: notebook.cells[4].metadata.update(execution={"t": "1"})),
    (its_metadata_is_the_same_everywhere, lambda notebook: notebook.cells[4].update(id="8f3c1a")),
    (its_cells_fit_a_screen, add_source(4, "\n" * 26 + "plt.show()")),
    (its_cells_fit_a_screen, add_source(5, "\n" + "x" * 89)),
    (its_functions_are_short, set_source(4, "def f():\n" + "    print(10)\n" * 8 + "plt.show()")),
    (it_is_plain_python, set_source(6, "!pip install av")),
    (it_is_plain_python, set_source(6, "%matplotlib inline")),
    (it_is_plain_python, set_source(6, "load('https://example.org/clip.mp4')")),
    (it_is_plain_python, set_source(6, "load('/data/clip.mp4')")),
    (it_imports_what_the_course_has, set_source(6, "import cv2")),
    (it_imports_what_the_course_has, set_source(6, "from timm import create_model")),
    (it_imports_what_the_course_has, set_source(6, "from urllib.request import urlopen")),
    (it_has_the_shape_of_its_kind, set_source(1, "## What you can do")),
    (it_has_the_shape_of_its_kind, set_source(0, "# A lesson")),
    (it_has_the_shape_of_its_kind, set_source(0, "# Exercises 07 · A lesson")),
    (it_links_its_exercises, set_source(10, "## Exercises\n\n[one](exercises/07_a.ipynb)")),
    (it_compares_what_it_prints, set_source(4, "# NBVAL_IGNORE_OUTPUT\n# Reason: this is the second one here.\n1")),
    (it_compares_what_it_prints, set_source(6, "# NBVAL_IGNORE_OUTPUT\n1")),
    (
        it_compares_what_it_prints,
        set_source(4, "# PYTEST_VALIDATE_IGNORE_OUTPUT\n# Reason: this is a second one.\n1"),
    ),
    (it_compares_what_it_prints, set_source(6, "# NBVAL_SKIP\n# Reason: nobody knows what this is.\n1")),
    (its_figures_are_described, set_source(5, "Nothing.")),
    (its_figures_are_described, set_source(4, "print(10)\nplt.plot([1])")),
    (its_figures_are_described, lambda notebook: notebook.cells[4].outputs.pop(0)),
    (its_numbers_come_from_cells_or_results, set_source(5, "*Figure: it is 44 % faster.*")),
    (its_numbers_come_from_cells_or_results, set_source(5, "*Figure: it takes 1.5 s.*")),
    (its_numbers_come_from_cells_or_results, set_source(5, "*Figure: it takes 3 s.*")),
    (its_numbers_come_from_cells_or_results, set_source(5, "*Figure: nothing.*\n\n| 0.05 s |\n|---|\n| 44 |")),
    (its_numbers_come_from_cells_or_results, set_source(5, "*Figure: [1,044 clips](clips.json) of 1024x10.*")),
    (its_numbers_come_from_cells_or_results, set_source(8, "## Takeaways\n\n- FastVLM is 10 times faster in 44 s.")),
    (its_numbers_come_from_cells_or_results, set_source(5, "*Figure: motion 97.7% (`benchmarks/motion.py`).*")),
    (its_numbers_come_from_cells_or_results, set_source(5, "*Figure: motion 97.6% (`benchmarks/pixels.py`).*")),
    (its_numbers_come_from_cells_or_results, set_source(5, "*Figure: motion 97.6%.*")),
    (it_is_small, prints("x" * MAX_BYTES)),
]


def test_a_good_lesson_passes_every_rule():
    assert {rule.__name__: rule(good_lesson()) for rule in RULES} == {rule.__name__: [] for rule in RULES}


@pytest.mark.parametrize(("rule", "spoil"), BREAKS, ids=[f"{i}-{rule.__name__}" for i, (rule, _) in enumerate(BREAKS)])
def test_a_broken_lesson_fails_its_rule(rule, spoil):
    notebook = good_lesson()
    spoil(notebook)
    assert rule(notebook)


@pytest.mark.parametrize(
    "text",
    [
        "Lesson 07, [05 · Dataset](05_dataset.ipynb): exercise 3 asks what H.264 and `int64` are.",
        "FastVLM-0.5B, a 7B model and ZeRO-3 take 4D and 5D tensors.",
        "1. First\n2. Second\n\n40 minutes. No GPU.",
        "After training 98.4% of the questions on motion are right, 0.9839 of 1 (`benchmarks/motion.py`).",
        "| what | asked |\n|---|---|\n| motion | 124 |\n\nFrom [this run](../benchmarks/results/motion.json).",
        "## References\n\n- Vasu et al., CVPR 2025, [arXiv:2412.13303](https://arxiv.org/abs/2412.13303)",
    ],
)
def test_a_lesson_may_contain_the_numbers_of_names_and_results(text):
    notebook = good_lesson()
    notebook.cells[7].source += f"\n\n{text}"
    assert its_numbers_come_from_cells_or_results(notebook) == []


def test_every_rule_has_a_failing_notebook():
    assert {rule for rule, _ in BREAKS} == set(RULES)
