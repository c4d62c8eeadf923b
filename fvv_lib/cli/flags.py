"""Settings from flags, or from a YAML file with the same names.

The fields of a verb's dataclasses are its flags. All verbs and both sources use one parser: a YAML file is converted to
flags, so a value has the same type and the same error in both. argparse does the parsing. Unlike tyro, it accepts
`--packing True` and lets us write the error messages. This module adds: an error is one line, `-` and `_` in names are
the same, a name cannot be abbreviated, and a switch may be written `--packing`, `--no-packing`, `--packing True` or
`--packing=False`.

This module loads neither torch nor transformers.
"""

import argparse
import difflib
import json
import re
import types
import typing
from collections.abc import Collection, Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml

from fvv_lib.errors import FlagError, reason_of

TRUE = ("true", "yes", "on", "1")
FALSE = ("false", "no", "off", "0")
NOTHING = ("none", "null")
SAME = (  # names of one thing in different verbs and programs
    ("model", "model_name_or_path"),
    ("data", "data_path"),
    ("output", "output_dir"),
    ("lr", "learning_rate"),
    ("epochs", "num_epochs", "num_train_epochs"),
    ("steps", "num_steps", "max_steps"),
    ("batch_size", "per_device_train_batch_size"),
    ("frames", "num_frames", "num_video_frames"),
)


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: name of the field that it sets, with underscores.
        kind: type of its value: int, float, str, bool or Path.
        repeated: the flag accepts several values.
        appended: the flag may be given again for more values; otherwise the last one wins.
        positional: the value is given without the name.
        optional: `None` is a valid value.
        choices: the valid values; empty for any.
        default: the default that the help shows.
    """

    name: str
    kind: type = str
    repeated: bool = False
    appended: bool = False
    positional: bool = False
    optional: bool = False
    required: bool = False
    choices: tuple[str, ...] = ()
    default: Any = None
    help: str = ""


def flags_of(settings: type) -> list[Flag]:
    """Return a flag for each field of a dataclass, with `help`, `positional` and `appended` from its metadata."""
    hints = typing.get_type_hints(settings)
    return [_flag_of(field, hints[field.name]) for field in fields(settings) if field.init]


def _flag_of(field: Field, hint: Any) -> Flag:
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    (inner,) = [part for part in parts if part is not types.NoneType]
    origin, values = typing.get_origin(inner), typing.get_args(inner)
    repeated = origin in (list, tuple)
    choices = tuple(values) if origin is Literal else ()
    kind = values[0] if repeated else str if choices else inner
    has_default = field.default is not MISSING or field.default_factory is not MISSING
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    return Flag(
        name=field.name,
        kind=kind,
        repeated=repeated,
        appended=bool(field.metadata.get("appended")),
        positional=bool(field.metadata.get("positional")),
        optional=types.NoneType in parts,
        required=not has_default,
        choices=choices,
        default=default if has_default else None,
        help=field.metadata.get("help", ""),
    )


def parse(
    flags: Sequence[Flag],
    arguments: Sequence[str],
    verb: str,
    description: str = "",
    of_training: Collection[str] = (),
) -> dict[str, Any]:
    """Return the values that the arguments set, by name. Flags that are not given are left to the dataclass's defaults.

    Args:
        arguments: flags, or the name of one YAML file to read them from.
        of_training: flags of `fvv finetune` that this verb does not read. The error about one says so.

    Raises:
        FlagError: one line that names the flag, the value and, if there is one, the file.
        SystemExit: `--help` was given and the help has been printed.
    """
    words = ["fvv", verb, *(flag.name.upper() for flag in flags if flag.positional)]
    if not all(flag.positional for flag in flags):
        words.append("[flags]")
    form = " ".join(words)
    parser = _Parser(
        prog=f"fvv {verb}",
        usage=f"{form}, or fvv {verb} SETTINGS.yaml with the same names" if flags else form,
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for flag in flags:
        _add(parser, flag)
    by_name = {flag.name: flag for flag in flags}
    if len(arguments) == 1 and arguments[0].endswith((".yaml", ".yml")):
        settings = read_yaml(arguments[0])
        try:
            written = _as_arguments(settings, by_name)
            return vars(parser.parse_args(list(_normalized(written, by_name, verb, of_training))))
        except FlagError as error:
            raise FlagError(f"{arguments[0]}: {error}") from error
    return vars(parser.parse_args(list(_normalized(arguments, by_name, verb, of_training))))


def take(settings: type, values: dict[str, Any]) -> dict[str, Any]:
    """Remove the values of this dataclass from the parsed values, and return them."""
    return {flag.name: values.pop(flag.name) for flag in flags_of(settings) if flag.name in values}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise a one-line error. argparse would print every flag first."""
        raise FlagError(f"{' '.join(message.split())}. See {self.prog} --help.")


def _add(parser: argparse.ArgumentParser, flag: Flag) -> None:
    options: dict[str, Any] = {"help": flag.help.replace("%", "%%"), "type": _reader(flag)}
    if flag.positional:
        parser.add_argument(flag.name, nargs=None if not flag.repeated else "+" if flag.required else "*", **options)
        return
    if flag.default not in (None, [], ()) and flag.help:
        options["help"] += f" (default: {_shown(flag.default)})".replace("%", "%%")
    options["metavar"] = "{" + ",".join(flag.choices) + "}" if flag.choices else flag.kind.__name__.upper()
    if flag.kind is bool:
        options["metavar"] = "True|False"
    if flag.repeated:
        options["nargs"] = "*"
    if flag.appended:
        options["action"] = "extend"
    parser.add_argument(f"--{flag.name}", required=flag.required, **options)


def _shown(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)


def _reader(flag: Flag) -> Any:
    """Return a function that converts text to a value. argparse adds the name of the flag to its errors."""

    def read(text: str) -> Any:
        if flag.optional and text.lower() in NOTHING:
            return None
        if flag.kind is bool:
            if text.lower() not in TRUE + FALSE:
                raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
            return text.lower() in TRUE
        if flag.choices and text not in flag.choices:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(flag.choices)}")
        try:
            return flag.kind(text)
        except ValueError as error:
            kind = {int: "a whole number", float: "a number"}.get(flag.kind, f"a {flag.kind.__name__}")
            raise argparse.ArgumentTypeError(f"{text!r} is not {kind}") from error

    return read


def _normalized(
    arguments: Sequence[str], by_name: dict[str, Flag], verb: str, of_training: Collection[str]
) -> Iterator[str]:
    """Yield the arguments with underscores in names, and with a value for each switch."""
    for place, argument in enumerate(arguments):
        match = re.fullmatch(r"--([A-Za-z][\w-]*)(=.*)?", argument, re.DOTALL)
        if match is None:
            yield argument
            continue
        name, value = match[1].replace("-", "_"), match[2] or ""
        flag, denied = by_name.get(name), by_name.get(name.removeprefix("no_"))
        if flag is not None and flag.positional:
            flag = None
        if flag is None and not value and denied is not None and denied.kind is bool:
            yield f"--{denied.name}=False"
        elif flag is None and name in of_training and not _named_here(name, by_name):
            raise FlagError(
                f"There is no flag --{name}: fvv finetune has it, and fvv {verb} does not read it. Remove it."
            )
        elif flag is None and name != "help":
            raise FlagError(f"There is no flag --{name}{_meant(name, by_name)} See fvv {verb} --help.")
        elif flag is not None and flag.kind is bool and not value:
            following = arguments[place + 1].lower() if place + 1 < len(arguments) else ""
            yield f"--{name}" if following in (*TRUE, *FALSE, *NOTHING) else f"--{name}=True"
        else:
            yield f"--{name}{value}"


def _named_here(name: str, by_name: dict[str, Flag]) -> list[str]:
    """Return the names that this verb has for a flag of another verb or program."""
    named = [flag.name for flag in by_name.values() if not flag.positional]
    return [other for names in SAME if name in names for other in names if other != name and other in named]


def _meant(name: str, by_name: dict[str, Flag]) -> str:
    """Return the end of a sentence about an unknown flag: which one was meant."""
    named = [flag.name for flag in by_name.values() if not flag.positional]
    alike = _named_here(name, by_name) or difflib.get_close_matches(name, named, 1)
    if alike:
        return f"; did you mean --{alike[0]}?"
    return f"; give {name.upper()} without a flag." if name in by_name else "."


# --- YAML -------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Read `1e-5` as a number. PyYAML reads it as text, because it has no decimal point."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


def read_yaml(path: str) -> dict[str, Any]:
    """Return the names and values of a YAML file.

    Raises:
        FlagError: the file cannot be read, or is not a mapping of names to values.
    """
    try:
        settings = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)  # a subclass of SafeLoader
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise FlagError(f"{path}: it cannot be read ({reason_of(error)}).") from error
    if not isinstance(settings, dict):
        raise FlagError(f"{path}: it must have lines like num_video_frames: 8.")
    return settings


def _as_arguments(settings: dict[str, Any], by_name: dict[str, Flag]) -> list[str]:
    """Convert the content of a YAML file to flags. A mapping becomes JSON, which transformers accepts."""
    named, positional = [], []
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        flag = by_name.get(name)
        if value is False and flag is not None and "no" in flag.choices:
            value = "no"  # YAML reads `no` as False
        if isinstance(value, list) and flag is not None and not flag.repeated:
            raise FlagError(f"{key} takes one value, got the list {value}.")
        values = [_written(one) for one in value] if isinstance(value, list) else [_written(value)]
        if flag is not None and flag.positional:
            positional += values
        elif len(values) == 1:
            named.append(f"--{name}={values[0]}")  # `=` also allows values that begin with a dash
        else:
            named += [f"--{name}", *values]
    return positional + named


def _written(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)
