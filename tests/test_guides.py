"""The guides: their commands, settings and Python code work, and the package raises the messages that they explain."""

import ast
import re
import shlex
from importlib import import_module

import pytest
from shared import ROOT
from test_docs import GUIDES, flags_of_verb

from fvv_lib import FvvError, errors
from fvv_lib.cli.flags import parse

PACKAGE = ROOT / "fvv_lib"
FAMILY = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, FvvError)}
TROUBLESHOOTING = (ROOT / "docs" / "guide" / "troubleshooting.md").read_text()
SCRIPTS = (["bash", "scripts/finetune_video.sh"], ["sbatch", "scripts/slurm_finetune.sh"])

GAP = "\0"  # in a message of the package: an inserted value
STANDS_FOR = re.compile(r"\b(?:FILE|FOLDER|SAMPLE|TURN|NAME|VALUE|N)(?=\b|_)")  # an inserted value in a guide


def blocks(page: str, *languages: str) -> list[str]:
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)


def commands(page: str) -> list[tuple[str, list[str]]]:
    """Return the verb and arguments of each `fvv` command in a guide. In a `console` block, commands begin with `$`."""
    typed = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    shown = [line for block in blocks(page, "console") for line in block.replace("\\\n", " ").splitlines()]
    found = []
    for line in (*typed, *(line.removeprefix("$ ") for line in shown if line.startswith("$ "))):
        words = shlex.split(line, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            del words[0]
        if words[:1] == ["fvv"]:
            found.append((words[1], words[2:]))
        elif words[:2] in SCRIPTS:
            model = [] if "--data_path" in words else ["--model_name_or_path", "data_samples/tiny-fastvlm"]
            found.append(("finetune", [*model, *words[2:]]))
    return found


@pytest.mark.parametrize("page", GUIDES)
def test_the_commands_of_a_guide_use_valid_flags(page):
    for verb, arguments in commands(page):
        parse(flags_of_verb(verb), arguments, verb)


@pytest.mark.parametrize("page", GUIDES)
def test_the_settings_files_of_a_guide_can_be_read(page, tmp_path):
    for block in blocks(page, "yaml"):
        file = tmp_path / "run.yaml"
        file.write_text(block)
        parse(flags_of_verb("finetune"), [str(file)], "finetune")


@pytest.mark.parametrize("page", [page for page in GUIDES if blocks(page, "python")])
def test_the_python_of_a_guide_runs(page, monkeypatch):
    """Run all blocks of a page in order in the folder of the repository, as a reader would paste them."""
    monkeypatch.chdir(ROOT)
    exec(compile("\n".join(blocks(page, "python")), page, "exec"), {"__name__": page})


# --- messages ---------------------------------------------------------------------------------------------------------


def text_of(node: ast.AST, constants: dict[str, object]) -> str:
    """Return a string of the source with `GAP` for each inserted value. Constants of the module are inserted."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part, constants) for part in node.values)
    value = node.value if isinstance(node, ast.FormattedValue) else node
    constant = constants.get(value.id) if isinstance(value, ast.Name) else None
    return constant if isinstance(constant, str) else GAP


def messages() -> dict[str, set[str]]:
    """Return the messages of all errors that the package raises, by error class."""
    found: dict[str, set[str]] = {name: set() for name in FAMILY}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        constants = vars(import_module(name)) if path.stem != "__main__" else {}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FAMILY and node.args:
                found[node.func.id].add(text_of(node.args[0], constants))
    return found


def explained() -> list[tuple[str, str]]:
    """Return the error class and the message of each entry of the page."""
    sections = re.findall(r"^### (\w+Error)\n(.*?)(?=^##|\Z)", TROUBLESHOOTING, re.M | re.S)
    return [(name, said) for name, text in sections for said in re.findall(r"^- `(.+?)`:", text, re.M)]


def test_every_error_class_is_explained():
    assert {name for name, _ in explained()} == FAMILY


@pytest.fixture(scope="module")
def said():
    return messages()


@pytest.mark.parametrize(("name", "message"), explained())
def test_the_package_raises_every_explained_message(name, message, said):
    words = [re.escape(part) for part in STANDS_FOR.split(message)]
    beginning = re.compile(f"{GAP}+".join(words))
    assert any(beginning.match(text) for text in said[name]), message
