"""The sample data of the course: clips, images and questions about them, in LLaVA's format.

    python -m fvv_lib.course.samples data_samples

This command writes `train.json`, `val.json`, `test.json` and their media files. On one machine it writes the same bytes
every time. Two kinds of question can be answered from one frame (colour and shape). Two cannot: motion (in which
direction) and order (which came first).
"""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image

from fvv_lib.course.scenes import (
    COLOURS,
    DIRECTIONS,
    ENCODERS,
    NUM_FRAMES,
    PLACES,
    SHAPES,
    Shape,
    motion_clip,
    order_clip,
    place,
    random_shape,
    still,
    write_video,
)

GRID = 8
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
SHORT_CLIP_FRAMES = 5  # fewer than the 8 sampled frames
TEXTS = (
    ("Which shapes do you know?", f"I know the {', the '.join(SHAPES)}."),
    ("Which colours do you know?", f"I know {', '.join(COLOURS)}."),
    ("Which ways can a shape move?", f"It can move {', '.join(DIRECTIONS)}."),
)


@dataclass(frozen=True)
class Split:
    """Sample counts of a split: motion clips, order clips, clips that are too short, stills, text-only questions."""

    motion: int
    order: int
    short: int
    stills: int
    texts: int


SPLITS = {
    "train": Split(motion=1000, order=300, short=20, stills=60, texts=30),
    "val": Split(motion=40, order=30, short=2, stills=6, texts=1),
    "test": Split(motion=120, order=120, short=4, stills=0, texts=0),
}


@dataclass(frozen=True)
class Question:
    """A question, its kind and its answer. The answer contains one of `choices`, which is empty for a free answer."""

    kind: str
    text: str
    answer: str
    choices: tuple[str, ...] = ()


def colour_question(shape: Shape) -> Question:
    return Question("colour", "What colour is the shape?", f"It is {shape.colour}.", tuple(COLOURS))


def shape_question(shape: Shape) -> Question:
    return Question("shape", "What shape is it?", f"It is a {shape.shape}.", SHAPES)


def place_question(shape: Shape) -> Question | None:
    """Ask for the place; `None` if the shape is on the border of two places."""
    name = place(shape)
    if name is None:
        return None
    return Question("place", "Where is it?", f"It is at the {name}.", tuple(name for row in PLACES for name in row))


def grid_question(shape: Shape) -> Question:
    """Ask for the exact place: the column and row of an 8 x 8 grid."""
    column, row = int(shape.x * GRID) + 1, int(shape.y * GRID) + 1
    return Question("grid", "In which column and row is it?", f"It is in column {column}, row {row}.")


def which_question(rng: Generator, shape: Shape) -> Question:
    """Ask which of two shapes is in the image: practice for the order question."""
    names = _pair(rng, shape, other_than(rng, shape))
    return Question("which", f"Which is shown, the {names[0]} or the {names[1]}?", f"The {shape.name} is shown.", names)


def motion_question(direction: str) -> Question:
    towards = f"to the {direction}" if direction in ("left", "right") else direction
    return Question("motion", "Which way does it move?", f"It moves {towards}.", tuple(DIRECTIONS))


def order_question(rng: Generator, first: Shape, second: Shape) -> Question:
    names = _pair(rng, first, second)
    return Question(
        "order", f"Which comes first, the {names[0]} or the {names[1]}?", f"The {first.name} comes first.", names
    )


def backwards(sample: dict[str, Any]) -> dict[str, Any]:
    """Return the sample with the right answers for its clip played backwards: opposite direction, the other shape."""
    turns = [dict(turn) for turn in sample["conversations"]]
    for kind, answer, choices in zip(sample["kinds"], turns[1::2], sample["choices"], strict=True):
        if kind == "motion":
            way = next(way for way in DIRECTIONS if way in answer["value"])
            answer["value"] = motion_question(OPPOSITE[way]).answer
        elif kind == "order":
            first, other = sorted(choices, key=lambda name: name not in answer["value"])
            answer["value"] = answer["value"].replace(first, other)
    return {**sample, "conversations": turns}


def other_than(rng: Generator, shape: Shape) -> Shape:
    """Draw a random shape with a different name."""
    while (other := random_shape(rng)).name == shape.name:
        pass
    return other


def _pair(rng: Generator, a: Shape, b: Shape) -> tuple[str, str]:
    return (a.name, b.name) if rng.random() < 0.5 else (b.name, a.name)


def record(name: str, media: tuple[str, str] | None, questions: list[Question]) -> dict[str, Any]:
    """Build one sample in LLaVA's format.

    `media` is the key (`image` or `video`) and the path. `kinds` and `choices` are our additions for scoring; training
    only checks them.
    """
    turns = []
    for i, question in enumerate(questions):
        before = "<image>\n" if media and i == 0 else ""
        turns += [{"from": "human", "value": before + question.text}, {"from": "gpt", "value": question.answer}]
    return {
        "id": name,
        **({media[0]: media[1]} if media else {}),
        "conversations": turns,
        "kinds": [question.kind for question in questions],
        "choices": [list(question.choices) for question in questions],
    }


def write_samples(folder: Path) -> None:
    """Write all splits into a folder and replace the files of an earlier call."""
    for number, (name, split) in enumerate(SPLITS.items()):
        records = write_split(folder, name, split, seed=number)
        (folder / f"{name}.json").write_text(json.dumps(records, indent=1) + "\n")


def write_split(folder: Path, name: str, split: Split, seed: int) -> list[dict[str, Any]]:
    """Draw and encode one split and return its samples. The media files go to `folder/videos/name`."""
    rng = np.random.default_rng(seed)
    kinds = ["motion"] * split.motion + ["order"] * split.order + ["short"] * split.short
    kinds += ["still"] * split.stills + ["text"] * split.texts
    if (folder / "videos" / name).exists():
        shutil.rmtree(folder / "videos" / name)
    (folder / "videos" / name).mkdir(parents=True)
    records = []
    for number, kind in enumerate(kinds):
        stem = f"{kind}-{number:04d}"
        if kind == "text":
            question, answer = TEXTS[number % len(TEXTS)]
            records.append(record(f"{name}-{stem}", None, [Question("text", question, answer)]))
            continue
        path = f"videos/{name}/{stem}{'.png' if kind == 'still' else _extension(number)}"
        questions = _write_one(rng, folder / path, kind, number, train=name == "train")
        records.append(record(f"{name}-{stem}", (_key(number), path), questions))
    return records


def _write_one(rng: Generator, path: Path, kind: str, number: int, train: bool) -> list[Question]:
    """Write the media file of one sample and return its questions in random order."""
    if kind == "still":
        picture, shape = still(rng)
        Image.fromarray(picture).save(path)
        asked = [colour_question(shape), shape_question(shape), place_question(shape)]
        questions = [question for question in asked if question]
    elif kind == "order":
        frames, first, second = order_clip(rng)
        write_video(path, frames)
        questions = [order_question(rng, first, second)]
    else:
        direction = list(DIRECTIONS)[number % 4]
        length = SHORT_CLIP_FRAMES if kind == "short" else NUM_FRAMES
        frames, shape = motion_clip(rng, direction, length)
        write_video(path, frames)
        questions = [motion_question(direction)]
        for ask in (colour_question, shape_question):
            if not train or rng.random() < 0.5:  # the base model already knows colours and shapes
                questions.append(ask(shape))
    return [questions[i] for i in rng.permutation(len(questions))]


def _extension(number: int) -> str:
    """Return `.mp4` for nine of ten clips; the others cycle through all containers."""
    return list(ENCODERS)[number // 10 % len(ENCODERS)] if number % 10 == 0 else ".mp4"


def _key(number: int) -> str:
    """Return `video` for every second sample. LLaVA's files mostly use `image` for videos too; both must work."""
    return "video" if number % 2 else "image"


if __name__ == "__main__":
    write_samples(Path(sys.argv[1] if len(sys.argv) > 1 else "data_samples"))
