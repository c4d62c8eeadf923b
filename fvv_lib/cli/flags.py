"""Settings from flags, or from a YAML file with the same names.

The fields of a verb's dataclasses are its flags. One parser serves all verbs and both sources: a YAML file is turned
into flags, so a value has the same type and the same error in both. argparse does the parsing: unlike tyro it takes
`--packing True`, and leaves the text of an error to us. What is added: an error is one line, `-` and `_` are the same,
a name is never guessed from its beginning, and a switch may be written `--packing`, `--no-packing`, `--packing True` or
`--packing=False`.

This module loads neither torch nor transformers.
"""

import argparse
import difflib
import json
import re
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml

from fvv_lib.errors import FlagError

TRUE = ("true", "yes", "on", "1")
FALSE = ("false", "no", "off", "0")
NOTHING = ("none", "null")


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: with underscores, as the field it sets.
        kind: int, float, str, bool or Path.
        repeated: takes several values.
        appended: may be given again for more values; otherwise what is given last wins.
        positional: is written without its name.
        optional: `None` is a value.
        choices: the values that it takes; empty for any.
        default: as it is shown in the help.
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
    """The flags of a dataclass: one for each field, with `help`, `positional` and `appended` from its metadata."""
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


def parse(flags: Sequence[Flag], arguments: Sequence[str], verb: str, description: str = "") -> dict[str, Any]:
    """The values that the arguments set, by name. What is not set is not there: its default is the dataclass's.

    Args:
        arguments: flags, or the name of one YAML file, which stands for its lines.

    Raises:
        FlagError: one line that names flag and value, and the file where there is one.
        SystemExit: `--help` was asked for, and is printed.
    """
    parser = _Parser(
        prog=f"fvv {verb}",
        usage=f"fvv {verb} [flags], or fvv {verb} SETTINGS.yaml with the same names",
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for flag in flags:
        _add(parser, flag)
    by_name = {flag.name: flag for flag in flags}
    if len(arguments) == 1 and arguments[0].endswith((".yaml", ".yml")):
        try:
            written = _as_arguments(read_yaml(arguments[0]), by_name)
            return vars(parser.parse_args(list(_normalized(written, by_name, verb))))
        except FlagError as error:
            raise FlagError(f"{arguments[0]}: {error}") from error
    return vars(parser.parse_args(list(_normalized(arguments, by_name, verb))))


def take(settings: type, values: dict[str, Any]) -> dict[str, Any]:
    """Take the values of this dataclass out of those that were parsed."""
    return {flag.name: values.pop(flag.name) for flag in flags_of(settings) if flag.name in values}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """argparse would print every flag first."""
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
    """What makes a value of a text; argparse turns its ValueError into an error that names the flag."""

    def read(text: str) -> Any:
        if flag.optional and text.lower() in NOTHING:
            return None
        if flag.kind is bool:
            if text.lower() not in TRUE + FALSE:
                raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
            return text.lower() in TRUE
        if flag.choices and text not in flag.choices:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(flag.choices)}")
        try:
            return flag.kind(text)
        except ValueError as error:
            kind = {int: "a whole number", float: "a number"}.get(flag.kind, f"a {flag.kind.__name__}")
            raise argparse.ArgumentTypeError(f"{text!r} is not {kind}") from error

    return read


def _normalized(arguments: Sequence[str], by_name: dict[str, Flag], verb: str) -> Iterator[str]:
    """Arguments with underscores in names, and a value behind each switch."""
    for place, argument in enumerate(arguments):
        match = re.fullmatch(r"--([A-Za-z][\w-]*)(=.*)?", argument, re.DOTALL)
        if match is None:
            yield argument
            continue
        name, value = match[1].replace("-", "_"), match[2] or ""
        flag, denied = by_name.get(name), by_name.get(name.removeprefix("no_"))
        if flag is None and not value and denied is not None and denied.kind is bool:
            yield f"--{denied.name}=False"
        elif flag is None and name != "help":
            alike = difflib.get_close_matches(name, by_name, 1)
            meant = f"; did you mean --{alike[0]}?" if alike else "."
            raise FlagError(f"There is no flag --{name}{meant} See fvv {verb} --help.")
        elif flag is not None and flag.kind is bool and not value:
            following = arguments[place + 1].lower() if place + 1 < len(arguments) else ""
            yield f"--{name}" if following in (*TRUE, *FALSE, *NOTHING) else f"--{name}=True"
        else:
            yield f"--{name}{value}"


# --- YAML -------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML takes `1e-5` for text, because it has no point."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


def read_yaml(path: str) -> dict[str, Any]:
    """Names and values of a YAML file.

    Raises:
        FlagError: the file cannot be read, or is no mapping of names to values.
    """
    try:
        settings = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)  # a subclass of SafeLoader
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise FlagError(f"{path}: it cannot be read ({' '.join(str(error).split())}).") from error
    if not isinstance(settings, dict):
        raise FlagError(f"{path}: it must have lines like num_video_frames: 8.")
    return settings


def _as_arguments(settings: dict[str, Any], by_name: dict[str, Flag]) -> list[str]:
    """The flags that say what a YAML file says; a mapping is written as JSON, as transformers takes it."""
    named, positional = [], []
    for key, value in settings.items():
        name = str(key).replace("-", "_")
        flag = by_name.get(name)
        if value is False and flag is not None and "no" in flag.choices:
            value = "no"  # YAML takes `no` for False
        if isinstance(value, list) and flag is not None and not flag.repeated:
            raise FlagError(f"{key} takes one value, got the list {value}.")
        values = [_written(one) for one in value] if isinstance(value, list) else [_written(value)]
        if flag is not None and flag.positional:
            positional += values
        elif len(values) == 1:
            named.append(f"--{name}={values[0]}")  # also where the value begins with a dash
        else:
            named += [f"--{name}", *values]
    return positional + named


def _written(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)
