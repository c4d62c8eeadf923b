"""Apple's layout, or a LoRA and its base, as one folder that stock transformers loads.                     Lesson 8

    python -m fvv_lib.convert path/to/FastVLM-0.5B-apple path/to/FastVLM-0.5B

From Apple's layout no number changes on the way: the weights get other names, and the settings that Apple's code keeps
in constants or in names are written out. A LoRA is merged. `fvv_config.json` comes along, so our own evaluation goes on
as before.
"""

import sys
from pathlib import Path

import tyro

from fvv_lib.errors import CheckpointError, FvvError
from fvv_lib.loading import build_processor, load_pretrained_model


def convert(source: Path, folder: Path) -> None:
    """Write the checkpoint of a folder in Hugging Face's layout into another.

    Args:
        source: anything that `load_pretrained_model` takes; the weights keep their type, merged ones are float32.
        folder: where it is written; must not exist, or be empty.

    Raises:
        CheckpointError: `folder` is not empty, or see `load_pretrained_model`.

    Lesson: 08.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder}: it is not empty. Give a new folder; nothing is overwritten.")
    loaded = load_pretrained_model(source, device="cpu")
    loaded.model.save_pretrained(folder)
    build_processor(loaded.tokenizer, loaded.image_processor, loaded.model).save_pretrained(folder)


def main(source: tyro.conf.Positional[Path], folder: tyro.conf.Positional[Path]) -> None:
    """Write a checkpoint in Hugging Face's layout.

    Args:
        source: a checkpoint in Apple's layout, or a LoRA.
        folder: where it is written; must not exist, or be empty.
    """
    try:
        convert(source, folder)
    except FvvError as error:
        sys.exit(f"error: {error}")
    print(f"{folder}: loads in transformers with AutoModelForImageTextToText and AutoProcessor")


if __name__ == "__main__":
    tyro.cli(main)
