"""Settings from the command line, or from a YAML file with the same names.                                Lesson 6

transformers' parser makes the flags. What is added here: an error is one line and not two hundred, a name is never
guessed from its beginning, and `1e-5` is a number in YAML too.
"""

import re
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from fvv_lib.arguments import DataArguments, ModelArguments, TrainingArguments
from fvv_lib.errors import FvvError

HELP = "See python -m fvv_lib.training --help."


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        """argparse would print every flag first."""
        raise FvvError(f"{message}. {HELP}")


class _Loader(yaml.SafeLoader):
    """YAML takes `1e-5` for text, because it has no point."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


def parse_settings(arguments: list[str]) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """The settings of a training run, from flags or from the name of one YAML file.

    Raises:
        FvvError: a name that no setting has, a value that is none of it, or a file that can not be read.

    Lesson: 06.
    """
    parser = _Parser((ModelArguments, DataArguments, TrainingArguments), allow_abbrev=False)
    file = arguments[0] if len(arguments) == 1 and arguments[0].endswith((".yaml", ".yml")) else None
    try:
        model_args, data_args, training_args = (
            parser.parse_dict(read_yaml(file)) if file else parser.parse_args_into_dataclasses(arguments)
        )
    except FvvError:
        raise
    except (ValueError, TypeError) as error:  # a name that no setting has, a text where a number belongs
        raise FvvError(f"{file + ': ' if file else ''}{' '.join(str(error).split())} {HELP}") from error
    return model_args, data_args, training_args


def read_yaml(path: str) -> dict[str, Any]:
    """Names and values of a YAML file.

    Raises:
        FvvError: the file can not be read, or is no mapping of names to values.
    """
    try:
        settings = yaml.load(Path(path).read_text(), _Loader)  # noqa: S506: it is a safe one
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise FvvError(f"{path}: it can not be read ({' '.join(str(error).split())}).") from error
    if not isinstance(settings, dict):
        raise FvvError(f"{path}: it must have lines like num_video_frames: 8.")
    return settings
