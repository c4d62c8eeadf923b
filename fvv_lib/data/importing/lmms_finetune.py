"""lmms-finetune: LLaVA's layout with a system prompt, and images and videos in one sample.                 Lesson 5

{"system_prompt": "Answer briefly.", "image": "a.png", "video": "a.mp4", "conversations": [
    {"from": "human", "value": "<image> <video> Which is newer?"}, {"from": "gpt", "value": "The video."}]}
"""

from collections.abc import Iterator, Sequence

from fvv_lib.data.importing.draft import Draft, Options, Record
from fvv_lib.data.importing.llava import draft_of, turns_of

NAME = "lmms-finetune"


def recognise(records: Sequence[Record]) -> str | None:
    if not all(map(turns_of, records)):
        return None
    if any("system_prompt" in record for record in records):
        return "it has LLaVA's turns and 'system_prompt'"
    if any({"image", "video"} <= record.keys() for record in records):
        return "it has LLaVA's turns, and both 'image' and 'video' in a sample"
    return None


def drafts(record: Record, options: Options) -> Iterator[Draft]:
    yield draft_of(record)
