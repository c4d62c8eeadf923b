"""`fvv finetune`: fine-tune a model on videos.                                                               Lesson 6

The flags fill three settings objects, which are passed to `train`. Most flags are those of transformers.
`training_flags.json` lists them, so that a wrong flag is refused before transformers is loaded. `make flags` writes
this file, and a test compares it with the installed version.
"""

import ast
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvv_lib.cli.flags import Flag, flags_of, parse, take
from fvv_lib.cli.starting import quick_imports
from fvv_lib.errors import FvvError
from fvv_lib.settings import DataArguments, ModelArguments, TrainingSettings

if TYPE_CHECKING:
    from fvv_lib.arguments import TrainingArguments

TABLE = Path(__file__).with_name("training_flags.json")
KINDS = {"int": int, "float": float, "bool": bool, "str": str}
OURS = (ModelArguments, DataArguments, TrainingSettings)


def main(arguments: list[str]) -> None:
    model_args, data_args, training_args = parse_settings(arguments)
    from fvv_lib.finetuning.recipe import train

    train(model_args, data_args, training_args)


def parse_settings(arguments: list[str]) -> "tuple[ModelArguments, DataArguments, TrainingArguments]":
    """Return the settings of a training run, from flags or from the name of one YAML file.

    Raises:
        FvvError: an unknown name, a value that its setting does not accept, or a file that cannot be read.

    Lesson: 06.
    """
    wants_help = "-h" in arguments or "--help" in arguments
    mine = {flag.name: flag for settings in OURS for flag in flags_of(settings)}
    theirs = [flag for flag in transformers_flags(with_help=wants_help) if flag.name not in mine]
    values = parse([*mine.values(), *theirs], arguments, "finetune", "Fine-tune a model on videos.")
    model_args = ModelArguments(**take(ModelArguments, values))
    data_args = DataArguments(**take(DataArguments, values))
    for row in _table():
        name = row["name"]
        if row.get("or_text") and len(values.get(name, ())) == 1:  # one value is a string, several are a list
            (values[name],) = values[name]
    with quick_imports():
        from fvv_lib.arguments import TrainingArguments

    try:
        return model_args, data_args, TrainingArguments(**values)
    except FvvError:
        raise
    except (ValueError, TypeError, ImportError) as error:  # transformers' own checks
        raise FvvError(f"{' '.join(str(error).split())} See fvv finetune --help.") from error


def training_flag_names() -> set[str]:
    """Return the names of all flags of this verb."""
    return {flag.name for settings in OURS for flag in flags_of(settings)} | {row["name"] for row in _table()}


def transformers_flags(with_help: bool = False) -> list[Flag]:
    """Return the flags of transformers' `TrainingArguments`, from the table."""
    texts = _installed_help() if with_help else {}
    return [
        Flag(
            name=row["name"],
            kind=KINDS[row["kind"]],
            repeated=row.get("repeated", False),
            optional=row.get("optional", False),
            choices=tuple(row.get("choices", ())),
            default=row.get("default"),
            help=texts.get(row["name"], "See transformers.TrainingArguments."),
        )
        for row in _table()
    ]


def _table() -> list[dict[str, Any]]:
    return list(json.loads(TABLE.read_text())["flags"])


def _installed_help() -> dict[str, str]:
    """Return the help of each field of `TrainingArguments`. Parse the installed source; do not import it."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return {}
    texts = {}
    for node in ast.walk(ast.parse((Path(spec.origin).parent / "training_args.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(node.value, ast.Call):
            for keyword in node.value.keywords:
                if keyword.arg == "metadata" and isinstance(keyword.value, ast.Dict):
                    pairs = zip(keyword.value.keys, keyword.value.values, strict=True)
                    help_texts = [text for key, text in pairs if isinstance(key, ast.Constant) and key.value == "help"]
                    if help_texts and isinstance(help_texts[0], ast.Constant):
                        texts[node.target.id] = str(help_texts[0].value).replace("%%", "%")
    return texts
