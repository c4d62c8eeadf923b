"""FineVideo: the bytes of a video and a description of it in each row of a Parquet file.                   Lesson 5

    {"mp4": b"...", "json": {"original_video_filename": "a.mp4", "content_metadata": {
        "qAndA": [{"question": "What falls?", "answer": "A pan."}],
        "scenes": [{"title": "A kitchen", "activities": [{"description": "A pan falls.", "timestamp": {...}}],
                    "timestamps": {"start_timestamp": "00:00:00.000", "end_timestamp": "00:00:04.500"}}]}}}

The questions are one dialogue about the whole video. A scene is a sample of its own, a segment of the video: its answer
is its activities, its question is `question` of the options. Without that, scenes are counted as lost.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

from fvv_lib.data.importing.draft import Clip, Draft, Options, Record, other_fields, text_of

NAME = "finevideo"


def recognise(records: Sequence[Record]) -> str | None:
    fits = all(isinstance(record, Mapping) and {"mp4", "json"} <= record.keys() for record in records)
    return "a row has 'mp4' and 'json'" if fits else None


def drafts(record: Record, options: Options) -> Iterator[Draft]:
    about = json.loads(record["json"]) if isinstance(record["json"], str | bytes) else record["json"]
    content = about.get("content_metadata") or {}
    name = about.get("original_video_filename") or ""
    scenes = [(scene, _answer(scene)) for scene in content.get("scenes") or []]
    scenes = [(scene, answer) for scene, answer in scenes if answer]
    lost = ("scenes (give a question for them)",) if scenes and not options.question else ()
    turns = []
    for pair in content.get("qAndA") or []:
        turns.append({"from": "human", "value": text_of(pair.get("question"), "a question")})
        turns.append({"from": "gpt", "value": text_of(pair.get("answer"), "an answer")})
    own = name.rsplit(".", 1)[0] or None
    fields = {
        **other_fields(about, ("original_video_filename", "content_metadata")),
        **other_fields(content, ("qAndA", "scenes")),
    }
    if turns:
        turns[0]["value"] = f"<image>\n{turns[0]['value']}"
        yield Draft(turns, [Clip(record["mp4"], True, name=name or ".mp4")], own, lost=lost, fields=fields)
    for number, (scene, answer) in enumerate(scenes if options.question else []):
        times = scene.get("timestamps") or {}
        clip = Clip(record["mp4"], True, times.get("start_timestamp"), times.get("end_timestamp"), name=name or ".mp4")
        asked = [{"from": "human", "value": f"<image>\n{options.question}"}, {"from": "gpt", "value": answer}]
        yield Draft(asked, [clip], f"{own}-scene-{number}" if own else None, fields=fields)


def _answer(scene: Mapping[str, object]) -> str:
    activities = scene.get("activities")
    found = activities if isinstance(activities, list) else []
    return " ".join(str(one["description"]).strip() for one in found if one.get("description"))
