"""Qwen2.5-VL and Qwen3-VL fine-tuning, 2U1, VideoLLaMA: LLaVA's layout with a `<video>` tag.               Lesson 5

    {"video": "a.mp4", "conversations": [
        {"from": "human", "value": "<video>\nWhat happens?"}, {"from": "gpt", "value": "A pan falls."}]}

Tags take media in text order from two pools, images and videos. A list of samples in place of a sample is one packed
row of that trainer: here each becomes a sample, and `--packing` packs them.
"""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from fvv_lib.data.importing.draft import Draft, Options, Record, as_list
from fvv_lib.data.importing.llava import draft_of, has_tag, turns_of

NAME = "qwen-vl"


def lacks_extension(record: Record) -> bool:
    videos = as_list(record.get("video"))
    return any(isinstance(video, str) and not PurePosixPath(video).suffix for video in videos)


def recognise(records: Sequence[Record]) -> str | None:
    if any(isinstance(record, list) for record in records):
        packed = [part for record in records if isinstance(record, list) for part in record]
        return "a list of samples is one packed sample" if packed and all(map(turns_of, packed)) else None
    if not all(map(turns_of, records)) or not any(has_tag(record, "<video>") for record in records):
        return None
    other = {"system_prompt", "meta", "videos", "images"}
    if any(
        record.keys() & other or {"image", "video"} <= record.keys() or lacks_extension(record) for record in records
    ):
        return None
    return "turns are from/value under 'conversations', with <video> for each video"


def drafts(record: Record, options: Options) -> Iterator[Draft]:
    yield from map(draft_of, record if isinstance(record, list) else [record])
