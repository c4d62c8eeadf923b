"""The rules of the notebooks. Each rule is a function that returns a list of problems of a notebook.

nbval runs the notebooks and compares their outputs. But it does not report a notebook without stored outputs, and
machine-dependent output fails only on another machine. So these rules check the stored notebooks.
"""

import ast
import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from notebook_numbers import is_rounded, numbers, numbers_of_code, results_named_in, value, without_names

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
MODULES = {"fvv_lib", "numpy", "matplotlib", "PIL", "av", "torch", "transformers", "peft"} | sys.stdlib_module_names
NOT_HERE = {"subprocess", "socket", "ssl", "urllib", "http", "ftplib", "smtplib", "ensurepip", "venv"}
MACHINE_DEPENDENT = {
    "an address": r"\b0x[0-9a-fA-F]{4,}",
    "an absolute path": r"(?:^|[\s'\"(=:])/(?:[\w.-]+/)+|\b[A-Z]:\\",
    "a date": r"\b(?:19|20)\d\d-\d\d-\d\d\b|\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]* \d{1,2}\b",
    "a time of day": r"\b\d\d:\d\d:\d\d\b",
}
NBVAL_MARK = r"#\s*(?:NBVAL|PYTEST_VALIDATE)_"


def read(path: Path) -> NotebookNode:
    return nbformat.read(str(path), as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell: NotebookNode) -> list[str]:
    """Return the text outputs of a cell: streams, and the plain-text form of other outputs."""
    shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return ["".join(text) for text in shown]


def markdown(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def nodes(cell: NotebookNode, *kinds: type) -> list:
    return [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, kinds)]


def title(notebook: NotebookNode) -> str:
    return notebook.cells[0].source.splitlines()[0] if notebook.cells else ""


def it_was_run_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    return [] if counts == list(range(1, len(counts) + 1)) else [f"execution counts {counts}"]


def it_stores_what_it_prints(notebook):
    """Every cell that prints must have a stored output, unless `print` is only in a function definition."""
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
            if not text.startswith("<Figure size") and re.search(r"\d\.\d{4,}", text):
                problems.append(f"more than 3 decimals: {text[:80]}")
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
    """Code has no magics, no installs, no network access and no absolute paths."""
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
        return problems if re.search(r"\d+ minutes", text) else [*problems, "states no minutes"]
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
    """At most one cell may be excluded from the comparison of nbval: mark on its first line, reason on its second."""
    lines = [cell.source.splitlines() for cell in code_cells(notebook) if re.search(NBVAL_MARK, cell.source)]
    problems = [] if len(lines) <= 1 else [f"{len(lines)} cells are not compared"]
    for first, second, *_ in ([*cell, "", ""] for cell in lines):
        if first != "# NBVAL_IGNORE_OUTPUT" or not re.match(r"# Reason: \S.{20,}", second):
            problems.append(f"no reason below it: {first}")
    return problems


def its_figures_are_described(notebook):
    """nbval does not compare images, so a plot cell prints its numbers, and the text below describes the figure."""
    problems = []
    for cell, below in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        if cell.cell_type != "code" or "image/png" not in str([list(o.get("data", {})) for o in cell.outputs]):
            continue
        if cell.source.splitlines()[-1].strip() != "plt.show()":
            problems.append(f"does not end with plt.show(): {cell.source[:60]}")
        if not any(output.output_type == "stream" for output in cell.outputs):
            problems.append(f"plots but prints nothing: {cell.source[:60]}")
        if below is None or not below.source.startswith("*Figure: "):
            problems.append(f"no description below: {cell.source[:60]}")
    return problems


def its_numbers_come_from_cells_or_results(notebook):
    """Every number in the text of a lesson needs a source.

    The source is the code of a cell, the output of a cell, or the file of `benchmarks/results` that the same text cell
    names. A result may be rounded to the decimals of the text.
    """
    if not re.match(r"# \d\d · ", title(notebook)):
        return []
    known = set()
    for cell in code_cells(notebook):
        known |= numbers_of_code(cell.source) | {value(number) for text in texts(cell) for number in numbers(text)}
    text = "\n\f\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    problems = []
    for words in without_names(text).split("\f"):
        results = results_named_in(words)
        problems += [
            f"the text says {number}: {words.strip()[:60]!r}"
            for number in numbers(words)
            if value(number) not in known and not any(is_rounded(number, result) for result in results)
        ]
    return problems


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
    its_numbers_come_from_cells_or_results,
    it_is_small,
]
