"""Annotation files: a list of samples in LLaVA's format, read and checked.                                Lesson 5

A sample has `image` or `video` (a path, or a list of them) and `conversations`. This module opens no picture or video.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fvv_lib.conversation import check_turns
from fvv_lib.errors import DataFormatError
from fvv_lib.tokens import DEFAULT_IMAGE_TOKEN

Sample = dict[str, Any]


def read_annotations(path: str | Path) -> list[Sample]:
    """Read a JSON annotation file: a list of samples, each an object.

    Raises:
        DataFormatError: the file is missing, is not JSON, or is not a list of objects.
    """
    try:
        samples = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataFormatError(f"{path}: no such annotation file.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataFormatError(f"{path}: not valid JSON ({error}). Look at that place in a JSON checker.") from error
    if not isinstance(samples, list) or not samples or not all(isinstance(sample, dict) for sample in samples):
        raise DataFormatError(f"{path}: the file must be a list of at least one sample, each a JSON object.")
    return samples


def name_samples(path: str | Path, samples: Sequence[Sample]) -> list[str]:
    """What each sample is called in errors and records: by its id or, where it has none, by its place in the file,
    counted from 0; by both where several share one id."""
    ids = [str(sample.get("id", place)) for place, sample in enumerate(samples)]
    shared = {name for name, count in Counter(ids).items() if count > 1}
    return [f"{path}, sample {name}{f' (at {place})' * (name in shared)}" for place, name in enumerate(ids)]


def media_of(sample: Sample) -> list[str]:
    """The pictures or videos of a sample as it names them."""
    value: Any = sample.get("image", sample.get("video", []))
    return [value] if isinstance(value, str) else value


def check_sample(sample: Sample, name: str) -> None:
    """Check the turns of a sample, and that it names one picture or video for each `<image>`.

    Raises:
        DataFormatError: names the sample, and says what to do.
    """
    check_turns(sample.get("conversations", []), name)
    if "image" in sample and "video" in sample:
        raise DataFormatError(f"{name}: it has both 'image' and 'video'. Use one, with a list for several.")
    media = media_of(sample)
    if not isinstance(media, list) or not all(isinstance(path, str) for path in media):
        raise DataFormatError(f"{name}: 'image' must be a path or a list of paths, got {media!r}.")
    placeholders = sum(turn["value"].count(DEFAULT_IMAGE_TOKEN) for turn in sample["conversations"])
    if placeholders != len(media):
        raise DataFormatError(
            f"{name}: its text has {placeholders} {DEFAULT_IMAGE_TOKEN} but {len(media)} pictures or videos. "
            f"Write one {DEFAULT_IMAGE_TOKEN} where each belongs."
        )
