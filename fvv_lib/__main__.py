"""`fvv VERB` and `python -m fvv_lib VERB`: find the verb, run it, and print an error as one line."""

import sys
from importlib import import_module

from fvv_lib.cli import VERBS
from fvv_lib.cli.starting import run_and_exit
from fvv_lib.errors import FlagError, FvvError

USAGE = "usage: fvv VERB [flags, or one YAML file with the same names]"


def main(arguments: list[str] | None = None) -> int:
    """Run a verb.

    Returns:
        The exit code: 0 for success; 1 for an error or a failed check; 2 for an unknown verb or flag, a value that its
        flag does not accept, or a YAML file that cannot be read.
    """
    verb, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if verb in ("-h", "--help"):
        print("\n".join([USAGE, "", *(f"  {name:<10}{does}" for name, does in VERBS.items())]))
        print("\nfvv VERB --help lists its flags.")
        return 0
    if verb not in VERBS:
        print(f"error: unknown verb {verb!r}: choose one of {', '.join(VERBS)}.", file=sys.stderr)
        return 2
    try:
        return int(import_module(f"fvv_lib.cli.{verb}").main(rest) or 0)
    except (FvvError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, FlagError) else 1
    except KeyboardInterrupt:
        return 130


def one_line(error: Exception) -> str:
    """Return the message of an error. Remove torch's traceback before the message of a data loader worker."""
    text = str(error)
    marker = "\nfvv_lib.errors."
    if marker in text:
        text = text.rpartition(marker)[2].partition(": ")[2]
    return " ".join(text.split())


def command() -> None:
    """Run the command as the whole process. `fvv` and `python -m fvv_lib` call this."""
    run_and_exit(main)


if __name__ == "__main__":
    command()
