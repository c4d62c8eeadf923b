"""Settings of `make book`, which renders README, lessons, guides and docstrings as one static site for offline reading.

Sphinx reads the repository directly. Nothing is copied, and no notebook is run.
"""

import ast
import dataclasses
import inspect
import itertools
import json
import re
from pathlib import Path

from fvv_lib import LESSONS

ROOT = Path(__file__).resolve().parent.parent

project = "FastVLM watches video"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "data_samples/README.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "docs/guide/*.md",
    *(f"notebooks/{folder}*.ipynb" for folder in ("", "exercises/", "solutions/")),
]
exclude_patterns = [".*", "build", "output"]  # Sphinx does not search these

nb_execution_mode = "off"  # show the stored outputs
nb_ipywidgets_js = {}  # lessons have no widgets, and their scripts would come from a server
myst_enable_extensions = []  # a dollar sign is not math
myst_heading_anchors = 3

default_role = "code"  # render `name` in docstrings as code
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_custom_sections = [("Strategies", "params_style")]

templates_path = ["_templates"]
html_theme = "furo"
html_title = project
html_show_copyright = html_show_sphinx = html_show_sourcelink = html_copy_source = False
toc_object_entries_show_parents = "hide"
html_use_index = html_domain_indices = False  # the site has a search
html_additional_pages = {"index": "index.html"}  # redirects to the first page

TREE = "\n\n```{toctree}\n:hidden:\n%s\n```\n"
COURSE = TREE % ":caption: The course\n:glob:\n\nguide/run\n../notebooks/*"
GUIDES = ("data", "training", "scaling", "video", "weights", "evaluation", "troubleshooting")
GUIDE_PAGES = "\n".join(f"guide/{name}" for name in GUIDES)
COURSE += TREE % f":caption: Guides\n\n{GUIDE_PAGES}\n../CONTRIBUTING"
COURSE += TREE % ":caption: Reference\n\napi\nbenchmarks\n../README\n../data_samples/README"
ROOM = """
## {room}

{sentence} Lesson: [{lesson.stem}](../notebooks/{lesson.name}).
"""
MODULE = """
### {0}

```{{eval-rst}}
.. automodule:: fvv_lib.{0}
   :members: {1}
   :imported-members:
```
"""


def public_names() -> dict[str, list[str]]:
    """Return the public names by module, in the order of the stub."""
    tree = ast.parse((ROOT / "fvv_lib" / "__init__.pyi").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {node.module: [alias.name for alias in node.names] for node in imports}


def reference() -> str:
    """Return the reference of all public names: settings and errors first, then the rooms in the order of lessons."""
    sections = {module: MODULE.format(module, ", ".join(names)) for module, names in public_names().items()}
    parts = ["\n## Settings and errors\n", *(text for module, text in sections.items() if "." not in module)]
    for number, room in LESSONS.items():
        sentence = ast.get_docstring(ast.parse((ROOT / "fvv_lib" / room / "__init__.py").read_text()))
        (lesson,) = (ROOT / "notebooks").glob(f"{number:02}_*.ipynb")
        parts.append(ROOM.format(room=room, sentence=sentence, lesson=lesson))
        parts += [text for module, text in sections.items() if module.startswith(f"{room}.")]
    return "".join(parts)


FIGURE = re.compile(r"^\*Figure: (.*?)\*$", re.M | re.S)


def lessons() -> str:
    """Return the table of lessons in the README, with links from `docs/`."""
    section = (ROOT / "README.md").read_text().split("\n## The course\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\|.*\|$", section, re.M)
    return "\n".join(rows).replace("](notebooks/", "](../notebooks/")


def prepare_notebook(notebook: dict, name: str) -> None:
    """Add a link to download a notebook, and give each figure the text below it as its alternative text."""
    cells = notebook["cells"]
    for cell, below in itertools.pairwise(cells):
        if cell["cell_type"] == "code" and (figure := FIGURE.search("".join(below["source"]))):
            text = " ".join(figure[1].split()).replace("`", "").replace("*", "")
            cell["metadata"].setdefault("mystnb", {})["image"] = {"alt": text}
    link = f"{{download}}`Download this notebook <{name}.ipynb>`"
    cells.insert(1, {"cell_type": "markdown", "id": "download", "metadata": {}, "source": link})


def add_contents(app, docname: str, source: list[str]) -> None:
    """Add contents to pages.

    The first page gets the lessons and the navigation, the page of the library the docstrings, each notebook a link to
    download it, and each lesson its exercises and solutions.
    """
    if docname == root_doc:
        source[0] = re.sub(r"<!-- the lessons.*-->", lambda _: lessons(), source[0]) + COURSE
    elif docname == "README":
        source[0] = re.sub(r"\[([^]]+)\]\(([\w/]+)\)", lambda m: m[1] if (ROOT / m[2]).is_dir() else m[0], source[0])
    elif docname == "docs/api":
        source[0] += reference()
    elif docname.startswith("notebooks/"):
        notebook, name = json.loads(source[0]), Path(docname).name
        prepare_notebook(notebook, name)
        if docname == f"notebooks/{name}":
            tree = TREE % f"\nexercises/{name}\nsolutions/{name}"
            notebook["cells"].append({"cell_type": "markdown", "id": "parts", "metadata": {}, "source": tree})
        source[0] = json.dumps(notebook)


def mend_docstring(app, what: str, name: str, obj, options, lines: list[str]) -> None:
    """Render indented text below a colon as a literal block, and add the help texts of our dataclass fields."""
    for number in range(len(lines) - 2):
        if lines[number].endswith(":") and not lines[number + 1] and lines[number + 2].startswith("    "):
            lines[number] += ":"
    if what == "property":
        lines[0] = lines[0].replace(": ", "; ")  # napoleon treats text before a colon as a type
    if dataclasses.is_dataclass(obj):
        ours = [field for field in dataclasses.fields(obj) if field.name in inspect.get_annotations(obj)]
        lines += ["", *(f":param {field.name}: {field.metadata['help']}" for field in ours if "help" in field.metadata)]


def shorten_signature(app, what: str, name: str, obj, options, signature: str, returned: str):
    """Shorten the signature of `TrainingArguments`: most of its arguments are those of transformers."""
    return ("(**arguments)", None) if name == "fvv_lib.arguments.TrainingArguments" else None


def setup(app) -> None:
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", mend_docstring, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", shorten_signature)
