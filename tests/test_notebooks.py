"""The rules of the notebooks, each a function that lists what is wrong with one, and each shown to bite.

nbval runs the notebooks and compares what they print; it says nothing about a notebook without stored outputs, and what
differs between machines fails only on the other machine. So these rules look at what is stored.
"""

import ast
import contextlib
import copy
import importlib.util
import io
import re
import sys
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parent.parent / "notebooks"
LESSONS = sorted(ROOT.glob("*.ipynb"))
EXERCISES = sorted((ROOT / "exercises").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "solutions").glob("*.ipynb"))
ALL = LESSONS + EXERCISES + SOLUTIONS

SHAPE = [
    "What you will be able to do",
    "Minutes and hardware",
    "The problem, seen with your own eyes",
    "The smallest thing that works",
    "What can go wrong",
    "Takeaways",
    "Exercises",
    "References",
]
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
MAX_LINES, MAX_COLUMNS, MAX_FUNCTION_LINES, MAX_BYTES = 25, 88, 8, 300_000
MODULES = {"fvv_lib", "numpy", "matplotlib", "PIL", "av", "torch"} | sys.stdlib_module_names
NOT_HERE = {"subprocess", "socket", "ssl", "urllib", "http", "ftplib", "smtplib", "ensurepip", "venv"}
MACHINE_DEPENDENT = {
    "an address": r"\b0x[0-9a-fA-F]{4,}",
    "an absolute path": r"(?:^|[\s'\"(=:])/(?:[\w.-]+/)+|\b[A-Z]:\\",
    "a date": r"\b(?:19|20)\d\d-\d\d-\d\d\b",
    "a time of day": r"\b\d\d:\d\d:\d\d\b",
}


def read(path: Path) -> NotebookNode:
    return nbformat.read(str(path), as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell: NotebookNode) -> list[str]:
    """What a cell shows as text: streams, and the plain form of everything else."""
    shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return ["".join(text) for text in shown]


def markdown(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def nodes(cell: NotebookNode, *kinds: type) -> list:
    return [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, kinds)]


def title(notebook: NotebookNode) -> str:
    return notebook.cells[0].source.splitlines()[0] if notebook.cells else ""


# --- the rules --------------------------------------------------------------------------------------------------------


def it_was_run_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    return [] if counts == list(range(1, len(counts) + 1)) else [f"execution counts {counts}"]


def it_stores_what_it_prints(notebook):
    """A function definition alone prints nothing; every other cell that prints must have its output."""
    problems = []
    for cell in code_cells(notebook):
        statements = [node for node in ast.parse(cell.source).body if not isinstance(node, ast.FunctionDef)]
        prints = any("print(" in ast.unparse(node) for node in statements)
        if prints and not any(output.output_type == "stream" for output in cell.outputs):
            problems.append(f"no output: {cell.source[:60]}")
    return problems if code_cells(notebook) else ["no code"]


def it_is_quiet(notebook):
    problems = []
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                problems.append(f"{output.output_type} {output.get('name', '')}: {cell.source[:60]}")
            if any("widget" in kind for kind in output.get("data", {})):
                problems.append(f"widget: {cell.source[:60]}")
    return problems


def it_prints_the_same_everywhere(notebook):
    problems = []
    for cell in code_cells(notebook):
        for text in texts(cell):
            problems += [
                f"{name}: {text[:80]}" for name, pattern in MACHINE_DEPENDENT.items() if re.search(pattern, text, re.M)
            ]
        for output in cell.outputs:
            if output.output_type == "stream" and re.search(r"\d\.\d{4,}", output.text):
                problems.append(f"more than 3 decimals: {output.text[:80]}")
    return problems


def its_metadata_is_the_same_everywhere(notebook):
    problems = [] if notebook.metadata == METADATA else [f"metadata {dict(notebook.metadata)}"]
    for number, cell in enumerate(notebook.cells):
        if cell.metadata or cell.id != f"cell-{number:02d}":
            problems.append(f"cell {number}: id {cell.id}, metadata {dict(cell.metadata)}")
    return problems


def its_cells_fit_a_screen(notebook):
    problems = []
    for cell in notebook.cells:
        lines = cell.source.splitlines()
        if len(lines) > MAX_LINES:
            problems.append(f"{len(lines)} lines: {lines[0]}")
        problems += [
            f"{len(line)} columns: {line}" for line in lines if len(line) > MAX_COLUMNS and not line.startswith("|")
        ]
    return problems


def its_functions_are_short(notebook):
    return [
        f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
        for cell in code_cells(notebook)
        for node in nodes(cell, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        if node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]


def it_is_plain_python(notebook):
    """No magics, no installs, nothing from the network, no paths of one machine."""
    problems = []
    for cell in code_cells(notebook):
        try:
            ast.parse(cell.source)
        except SyntaxError:
            problems.append(f"not Python: {cell.source[:60]}")
        for name in ("get_ipython", "os.system", "os.popen", "pip install", "http://", "https://"):
            if name in cell.source:
                problems.append(f"{name}: {cell.source[:60]}")
        if re.search(MACHINE_DEPENDENT["an absolute path"], cell.source, re.M):
            problems.append(f"absolute path: {cell.source[:60]}")
    return problems


def it_imports_what_the_course_has(notebook):
    problems = []
    for cell in code_cells(notebook):
        names = [alias.name for node in nodes(cell, ast.Import) for alias in node.names]
        names += [node.module or "." for node in nodes(cell, ast.ImportFrom)]
        tops = {name.split(".")[0] for name in names}
        problems += [f"imports {name}" for name in sorted(tops - MODULES | tops & NOT_HERE)]
    return problems


def it_has_the_shape_of_its_kind(notebook):
    first, text = title(notebook), markdown(notebook)
    headings = re.findall(r"^## (.+)$", text, re.M)
    if re.match(r"# \d\d · \S", first):
        problems = [] if headings == SHAPE else [f"headings {headings}"]
        return problems if re.search(r"\d+ minutes", text) else [*problems, "says no minutes"]
    if not re.match(r"# (Exercises|Solutions) \d\d · \S", first):
        return [f"title {first!r}"]
    numbered = [re.match(r"Exercise (\d+): ", heading) for heading in headings]
    problems = [] if all(numbered) and numbered else [f"headings {headings}"]
    said = re.findall(r"^## Exercise \d+: .+\n\n\*(?:Easy|Medium|Hard), \d+ minutes\.\*", text, re.M)
    return problems if len(said) == len(headings) else [*problems, "an exercise without difficulty and minutes"]


def it_links_its_exercises(notebook):
    match = re.match(r"# (\d\d) · ", title(notebook))
    if not match:
        return []
    links = re.findall(r"\]\(([^)]+)\)", markdown(notebook))
    return [
        f"no link to its {folder}"
        for folder in ("exercises", "solutions")
        if not any(link.startswith(f"{folder}/{match[1]}_") for link in links)
    ]


def it_compares_what_it_prints(notebook):
    """nbval is told to look away at most once, on the first line of a cell, with the reason below it."""
    lines = [cell.source.splitlines() for cell in code_cells(notebook) if re.search(r"#\s*NBVAL", cell.source)]
    problems = [] if len(lines) <= 1 else [f"{len(lines)} cells are not compared"]
    for first, second, *_ in ([*cell, "", ""] for cell in lines):
        if first != "# NBVAL_IGNORE_OUTPUT" or not re.match(r"# Reason: \S.{20,}", second):
            problems.append(f"no reason beside it: {first}")
    return problems


def its_figures_are_described(notebook):
    """nbval does not compare pictures: a plot cell prints its figures, and the text below says what is to be seen."""
    problems = []
    for cell, below in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        if cell.cell_type != "code" or "image/png" not in str([list(o.get("data", {})) for o in cell.outputs]):
            continue
        if cell.source.splitlines()[-1].strip() != "plt.show()":
            problems.append(f"does not end with plt.show(): {cell.source[:60]}")
        if not any(output.output_type == "stream" for output in cell.outputs):
            problems.append(f"plots and prints nothing: {cell.source[:60]}")
        if below is None or not below.source.startswith("*Figure: "):
            problems.append(f"no description below: {cell.source[:60]}")
    return problems


def its_numbers_come_from_a_cell(notebook):
    """Every number of two digits or more, or with a decimal point, in the text stands in a cell or what it prints."""
    if not re.match(r"# \d\d · ", title(notebook)):
        return []
    text = re.sub(r"^## (Minutes and hardware|References)\n.*?(?=^## |\Z)", "", markdown(notebook), flags=re.M | re.S)
    text = re.sub(r"^#.*$|^\|.*$|\[[^\]]*\]\([^)]*\)|\b0\d\b|[A-Za-z]+[.-]?\d+", "", text, flags=re.M)
    cells = code_cells(notebook)
    known = set(re.findall(r"\d+(?:\.\d+)?", "\n".join([c.source + "\n".join(texts(c)) for c in cells])))
    return [f"the text says {number}" for number in re.findall(r"\d+\.\d+|\d{2,}", text) if number not in known]


def it_is_small(notebook):
    size = len(nbformat.writes(notebook).encode())
    return [] if size <= MAX_BYTES else [f"{size} bytes"]


RULES = [
    it_was_run_from_top_to_bottom,
    it_stores_what_it_prints,
    it_is_quiet,
    it_prints_the_same_everywhere,
    its_metadata_is_the_same_everywhere,
    its_cells_fit_a_screen,
    its_functions_are_short,
    it_is_plain_python,
    it_imports_what_the_course_has,
    it_has_the_shape_of_its_kind,
    it_links_its_exercises,
    it_compares_what_it_prints,
    its_figures_are_described,
    its_numbers_come_from_a_cell,
    it_is_small,
]


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_notebook_keeps_the_rules(rule, path):
    assert rule(read(path)) == []


# --- the rules bite ---------------------------------------------------------------------------------------------------


def good_lesson() -> NotebookNode:
    """A lesson that keeps every rule."""
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
    (it_prints_the_same_everywhere, prints("at 12:30:59")),
    (it_prints_the_same_everywhere, prints("loss 0.12345")),
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
    (it_imports_what_the_course_has, set_source(6, "from transformers import AutoModel")),
    (it_imports_what_the_course_has, set_source(6, "from urllib.request import urlopen")),
    (it_has_the_shape_of_its_kind, set_source(1, "## What you can do")),
    (it_has_the_shape_of_its_kind, set_source(0, "# A lesson")),
    (it_has_the_shape_of_its_kind, set_source(0, "# Exercises 07 · A lesson")),
    (it_links_its_exercises, set_source(10, "## Exercises\n\n[one](exercises/07_a.ipynb)")),
    (it_compares_what_it_prints, set_source(4, "# NBVAL_IGNORE_OUTPUT\n# Reason: this is the second one here.\n1")),
    (it_compares_what_it_prints, set_source(6, "# NBVAL_IGNORE_OUTPUT\n1")),
    (it_compares_what_it_prints, set_source(6, "# NBVAL_SKIP\n# Reason: nobody knows what this is.\n1")),
    (its_figures_are_described, set_source(5, "Nothing.")),
    (its_figures_are_described, set_source(4, "print(10)\nplt.plot([1])")),
    (its_figures_are_described, lambda notebook: notebook.cells[4].outputs.pop(0)),
    (its_numbers_come_from_a_cell, set_source(5, "*Figure: it is 44 % faster.*")),
    (its_numbers_come_from_a_cell, set_source(5, "*Figure: it takes 1.5 s.*")),
    (it_is_small, prints("x" * MAX_BYTES)),
]


def test_a_good_lesson_keeps_every_rule():
    assert {rule.__name__: rule(good_lesson()) for rule in RULES} == {rule.__name__: [] for rule in RULES}


@pytest.mark.parametrize(("rule", "spoil"), BREAKS, ids=[f"{i}-{rule.__name__}" for i, (rule, _) in enumerate(BREAKS)])
def test_a_broken_lesson_fails_its_rule(rule, spoil):
    notebook = good_lesson()
    spoil(notebook)
    assert rule(notebook)


def test_every_rule_has_a_notebook_that_fails_it():
    assert {rule for rule, _ in BREAKS} == set(RULES)


# --- sources, links, exercises ----------------------------------------------------------------------------------------


def sources_of(notebook: NotebookNode) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def source_path(path: Path) -> Path:
    return (ROOT / "source" / path.relative_to(ROOT)).with_suffix(".py")


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_and_notebook_agree(path):
    assert sources_of(jupytext.read(source_path(path), fmt="py:percent")) == sources_of(read(path)), "make notebooks"


def test_every_source_has_a_notebook():
    assert sorted((ROOT / "source").rglob("*.py")) == sorted(map(source_path, ALL))


def test_every_lesson_has_exercises_and_solutions():
    names = [path.name for path in LESSONS]
    assert names
    assert [path.name for path in EXERCISES] == names
    assert [path.name for path in SOLUTIONS] == names


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#]+)\)", markdown(read(path)))
    missing = [link for link in links if "://" not in link and not (path.parent / link).is_file()]
    assert missing == []


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
def test_a_solution_is_its_exercise_filled_in(path):
    """Only the first cell and the cells to be filled in differ, so both meet the same checks."""
    stub, solution = read(path).cells[1:], read(ROOT / "solutions" / path.name).cells[1:]
    turns = [cell.source.startswith("# Your turn") for cell in stub]
    assert turns == [cell.source.startswith("# Your turn") for cell in solution]
    for mine, theirs, turn in zip(stub, solution, turns, strict=True):
        assert (mine.source != theirs.source) == turn


@pytest.fixture
def builder(tmp_path, monkeypatch):
    """`scripts/build_notebooks.py`, building from `tmp_path/source` to `tmp_path`."""
    spec = importlib.util.spec_from_file_location("build_notebooks", ROOT.parent / "scripts" / "build_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(module, "SOURCES", tmp_path / "source")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "07_a.py").write_text(
        "# %% [markdown]\n# # 07 · A lesson\n\n# %%\nprint(10)\n\n# %%\nimport time\n\ntime.sleep(0.5)\n"
    )
    return module


def test_a_built_notebook_stores_outputs_and_no_times(builder, tmp_path):
    notebook = read(builder.build(tmp_path / "source" / "07_a.py"))
    assert texts(code_cells(notebook)[0]) == ["10\n"]
    assert its_metadata_is_the_same_everywhere(notebook) == []


def test_a_notebook_with_a_cell_that_takes_too_long_is_not_built(builder, tmp_path, monkeypatch):
    assert builder.MAX_SECONDS == 10
    monkeypatch.setattr(builder, "MAX_SECONDS", 0.4)
    with pytest.raises(SystemExit, match=r"^07_a\.py: \d\.\d s, allowed are 0\.4: 'import time") as error:
        builder.build(tmp_path / "source" / "07_a.py")
    assert len(str(error.value).splitlines()) == 1  # the other cell is quick
    assert not (tmp_path / "07_a.ipynb").exists()


def check_verdicts(notebook: NotebookNode) -> list[str]:
    """Run a notebook in this process; what each of its check cells prints."""
    namespace, verdicts = {"__name__": "__main__"}, []
    for cell in code_cells(notebook):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(cell.source, cell.source.splitlines()[0], "exec"), namespace)
        if cell.source.startswith("# Check"):
            verdicts.append(printed.getvalue())
    plt.close("all")
    return verdicts


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
@pytest.mark.parametrize(
    ("path", "verdict"),
    [(path, r"not yet: \S.*\n") for path in EXERCISES] + [(path, "passed\n") for path in SOLUTIONS],
    ids=lambda value: str(value.relative_to(ROOT)) if isinstance(value, Path) else "",
)
def test_checks_say_not_yet_to_a_stub_and_passed_to_a_solution(path, verdict, monkeypatch):
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # the notebooks set it; here it is put back
    plt.switch_backend("agg")
    notebook = read(path)
    verdicts = check_verdicts(notebook)
    exercises = len(re.findall(r"^## Exercise \d+", markdown(notebook), re.M))
    assert len(verdicts) == exercises
    assert all(re.fullmatch(verdict, said) for said in verdicts), verdicts
