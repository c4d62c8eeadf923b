"""`fvv convert`: convert a model to Hugging Face's layout, or to Apple's.                                   Lesson 8"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fvv_lib.cli.flags import flags_of, parse
from fvv_lib.cli.starting import quick_imports


@dataclass(frozen=True)
class ConvertSettings:
    """Convert a model to Hugging Face's layout, or to Apple's."""

    source: Path = field(
        metadata={"positional": True, "help": "A model in Apple's or Hugging Face's layout, or a LoRA adapter."}
    )
    folder: Path = field(metadata={"positional": True, "help": "Output folder; must be empty or not exist."})
    layout: Literal["huggingface", "apple"] = field(default="huggingface", metadata={"help": "Layout of the output."})


def main(arguments: list[str]) -> None:
    settings = ConvertSettings(**parse(flags_of(ConvertSettings), arguments, "convert", ConvertSettings.__doc__ or ""))
    with quick_imports():
        from fvv_lib.weights.converting import convert_model

    convert_model(settings.source, settings.folder, settings.layout)
    if settings.layout == "apple":
        print(f"{settings.folder}: in Apple's layout (llava_qwen2)")
    else:
        print(f"{settings.folder}: loads in transformers with AutoModelForImageTextToText and AutoProcessor")
