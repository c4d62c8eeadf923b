#!/usr/bin/env bash
# transformers' HfArgumentParser changes the dataclass that it parses: afterwards its fields have other types.
#
# Version: transformers 5.23.0. Seen 2026-12-01 with Python 3.11 on Linux.
#
#   @dataclass
#   class Settings:
#       num_frames: Optional[int] = None
#       name: Union[str, None] = None
#
#   dataclasses.fields(Settings)             num_frames: Optional[int]   name: Optional[str]
#   HfArgumentParser(Settings)               only made, nothing is parsed
#   dataclasses.fields(Settings)             num_frames: int             name: str
#
# The parser takes None out of each Optional type and stores the result in the field of the class itself. Any other code
# that reads the types of these fields (a check of YAML, a second command line, a generated form) then believes that None
# is not allowed, and refuses the default. Whether it does depends on whether somebody made a parser before. The
# annotations stay as they are: typing.get_type_hints(Settings) still has Optional[int].
#
# The documentation says that the parser "uses type hints on dataclasses to generate arguments"; that it only reads them
# is a fair guess.
# Source: https://huggingface.co/docs/transformers/main/en/internal/trainer_utils (HfArgumentParser)
#
# Exits 0 if this is still so, and not 0 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.23.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import dataclasses
from typing import Optional, Union, get_type_hints

from transformers import HfArgumentParser


@dataclasses.dataclass
class Settings:
    num_frames: Optional[int] = None
    name: Union[str, None] = None


def types():
    return {field.name: field.type for field in dataclasses.fields(Settings)}


before, hints = types(), get_type_hints(Settings)
HfArgumentParser(Settings)
print("before:", before)
print("after: ", types())
assert before == {"num_frames": Optional[int], "name": Optional[str]}
assert types() == {"num_frames": int, "name": str}
assert get_type_hints(Settings) == hints == before
PYTHON
