"""Settings from the command line, or from a YAML file with the same names.                                Lesson 6

transformers' parser makes the flags. What is added here: an error is one line and not two hundred, a name is never
guessed from its beginning, and what a YAML file says is read as flags are, so that `1e-5` is a number there too.
"""

import json
from pathlib import Path
from typing import NoReturn

import yaml
from transformers import HfArgumentParser

from fvv_lib.arguments import DataArguments, ModelArguments, TrainingArguments
from fvv_lib.errors import FvvError

HELP = "See python -m fvv_lib.training --help."


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        """argparse would print every flag first."""
        raise FvvError(f"{message}. {HELP}")


def parse_settings(arguments: list[str]) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """The settings of a training run, from flags or from the name of one YAML file.

    Raises:
        FvvError: a name that no setting has, a value that is none of it, or a file that can not be read.

    Lesson: 06.
    """
    if len(arguments) == 1 and arguments[0].endswith((".yaml", ".yml")):
        arguments = read_flags(arguments[0])
    parser = _Parser((ModelArguments, DataArguments, TrainingArguments), allow_abbrev=False)
    try:
        model_args, data_args, training_args = parser.parse_args_into_dataclasses(arguments)
    except FvvError:
        raise
    except ValueError as error:  # a name that no setting has
        raise FvvError(f"{error} {HELP}") from error
    return model_args, data_args, training_args


def read_flags(path: str) -> list[str]:
    """The settings of a YAML file as flags: a list becomes a flag with several values, null is left out.

    Raises:
        FvvError: the file can not be read, or is no mapping of names to values.
    """
    try:
        settings = yaml.safe_load(Path(path).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise FvvError(f"{path}: it can not be read ({' '.join(str(error).split())}).") from error
    if not isinstance(settings, dict):
        raise FvvError(f"{path}: it must have lines like num_video_frames: 8.")
    flags = []
    for name, value in settings.items():
        if value is not None:
            values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
            flags += [f"--{name}", *map(str, values)]
    return flags
