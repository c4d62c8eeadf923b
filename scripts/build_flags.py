"""Write `fvv_lib/cli/training_flags.json`: names, types and defaults of transformers' `TrainingArguments`.

    python scripts/build_flags.py

With this table, `fvv finetune --help` and the check of flags do not import transformers. Run the script (`make flags`)
after a change of the transformers version. A test compares the file with the installed version.
"""

import argparse
import json
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import transformers
from transformers import HfArgumentParser, TrainingArguments

TABLE = Path(__file__).resolve().parent.parent / "fvv_lib" / "cli" / "training_flags.json"
KINDS = {int: "int", float: "float"}
NO_FLAG = {"parallelism_config"}  # an object, which has no text form
# Its type is text or bool. The parser of transformers treats it as a bool and rejects two of its three values.
AS_TEXT = {"include_num_input_tokens_seen"}


def make_table() -> dict[str, Any]:
    """Return the table of the installed version, with a row for each field that has a flag."""
    types = {field.name: field.type for field in fields(TrainingArguments)}
    stored = [action for action in HfArgumentParser(TrainingArguments)._actions if action.nargs != 0]
    rows = [row_of(action, types.get(action.dest)) for action in stored if action.dest not in NO_FLAG]
    return {"transformers": transformers.__version__, "flags": sorted(rows, key=lambda row: row["name"])}


def row_of(action: argparse.Action, hint: Any) -> dict[str, Any]:
    """Build a row from the parser action of transformers and from the type of the field."""
    is_switch = getattr(action.type, "__name__", "") == "string_to_bool" and action.dest not in AS_TEXT
    row: dict[str, Any] = {"name": action.dest, "kind": "bool" if is_switch else KINDS.get(action.type, "str")}
    if action.nargs == "+":
        row["repeated"] = True
    if str in get_args(hint) and list[str] in get_args(hint):
        row |= {"repeated": True, "or_text": True}  # one value is a string, several values are a list
    if action.choices:
        row["choices"] = list(action.choices)
    if action.default is None:
        row["optional"] = True
    else:
        row["default"] = action.default.value if isinstance(action.default, Enum) else action.default
    return row


def write(table: dict[str, Any]) -> str:
    """Return the table as JSON text, with one flag per line."""
    rows = ",\n".join(f"  {json.dumps(row)}" for row in table["flags"])
    return f'{{"transformers": {json.dumps(table["transformers"])}, "flags": [\n{rows}\n]}}\n'


if __name__ == "__main__":
    TABLE.write_text(write(make_table()))
