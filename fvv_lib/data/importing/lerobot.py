"""LeRobot v3: episodes of robots, many in one video file.                                                  Lesson 5

    meta/info.json: {"codebase_version": "v3.0", "features": {"observation.images.top": {"dtype": "video"}},
                     "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"}
    meta/episodes/chunk-000/file-000.parquet: a row per episode: episode_index, tasks,
        videos/<key>/chunk_index, videos/<key>/file_index, videos/<key>/from_timestamp, videos/<key>/to_timestamp

A sample is the part of a file that shows an episode, for each camera; its answer is the text of the task. `question` of
the options asks for it. Actions and states are counted as lost.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from fvv_lib.data.importing.draft import Clip, Draft, Options, Record
from fvv_lib.data.importing.records import Raw, read_records
from fvv_lib.errors import DataFormatError, reason_of

NAME = "lerobot"
INFO = Path("meta/info.json")


def recognise_folder(folder: Path) -> str | None:
    return "it has meta/info.json and meta/episodes" if (folder / INFO).is_file() else None


def records(folder: Path) -> Iterator[Raw]:
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataFormatError(f"{folder / INFO}: it cannot be read ({reason_of(error)}).") from error
    version = str(info.get("codebase_version", ""))
    if not version.startswith("v3"):
        raise DataFormatError(
            f"{folder}: it is of LeRobot {version or 'of unknown version'}. Convert it to v3 with LeRobot first."
        )
    cameras = sorted(key for key, feature in info.get("features", {}).items() if feature.get("dtype") == "video")
    if not cameras:
        raise DataFormatError(f"{folder}: no feature in {INFO} is a video.")
    files = sorted((folder / "meta" / "episodes").rglob("*.parquet"))
    if not files:
        raise DataFormatError(f"{folder}: there is no Parquet file in meta/episodes.")
    for file in files:
        has_tasks = "tasks" in pq.read_schema(file).names
        if not has_tasks:
            raise DataFormatError(f"{file}: the episodes have no column 'tasks'.")
        for raw in read_records(file):
            for camera in cameras:
                yield Raw(None, {"camera": camera, "video_path": info["video_path"], **raw.record})


def drafts(record: Record, options: Options) -> Iterator[Draft]:
    camera = record["camera"]
    place = {key: record.get(f"videos/{camera}/{key}") for key in ("chunk_index", "file_index")}
    limits = [record.get(f"videos/{camera}/{key}") for key in ("from_timestamp", "to_timestamp")]
    if None in place.values() or None in limits:
        raise DataFormatError(f"the episode does not say where its video of {camera} is.")
    file = record["video_path"].format(video_key=camera, **place)
    turns = [
        {"from": "human", "value": f"<image>\n{options.asked()}"},
        {"from": "gpt", "value": options.answer.replace("{}", " ".join(record["tasks"]))},
    ]
    name = f"episode-{record['episode_index']}-{camera}"
    yield Draft(
        turns, [Clip(file, True, *limits)], name, stratum=" ".join(record["tasks"]), lost=("actions and states",)
    )
