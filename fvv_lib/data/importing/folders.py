"""A folder of class-named folders: `videos/pouring_water/0001.mp4`.                                        Lesson 5

The class is the name of the folder, with spaces in place of underscores. `answer` of the options makes it a sentence,
`question` asks for it. The classes are the choices of each question, so that a test set can be scored.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fvv_lib.data.importing.draft import Clip, Draft, Options, Record
from fvv_lib.data.importing.records import Raw
from fvv_lib.video.kinds import OTHER_VIDEO_EXTENSIONS, PICTURE_EXTENSIONS, VIDEO_EXTENSIONS

NAME = "folders"
VIDEOS = (*VIDEO_EXTENSIONS, *OTHER_VIDEO_EXTENSIONS, ".gif")


def recognise_folder(folder: Path) -> str | None:
    return "it has a folder for each class" if any(True for _ in _files(folder)) else None


def _classes(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the folder of a class and a file in it, in order."""
    for path in _classes(folder):
        for file in sorted(path.rglob("*")):
            if file.name.lower().endswith((*VIDEOS, *PICTURE_EXTENSIONS)) and file.is_file():
                yield path, file


def records(folder: Path) -> Iterator[Raw]:
    names = [_words(path.name) for path in _classes(folder)]
    for path, file in _files(folder):
        yield Raw(None, {"file": str(file.relative_to(folder)), "class": _words(path.name), "classes": names})


def _words(name: str) -> str:
    return name.replace("_", " ").strip()


def drafts(record: Record, options: Options) -> Iterator[Draft]:
    clip = Clip(record["file"], record["file"].lower().endswith(VIDEOS))
    turns = [
        {"from": "human", "value": f"<image>\n{options.asked()}"},
        {"from": "gpt", "value": options.answer.replace("{}", record["class"])},
    ]
    fields: dict[str, Any] = {"kinds": ["class"], "choices": [record["classes"]]}
    yield Draft(turns, [clip], record["file"], stratum=record["class"], fields=fields)
