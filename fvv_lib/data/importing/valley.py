"""Valley, Video-LLaVA's early data: LLaVA's layout, `<video>` tags, names without an extension.            Lesson 5

    {"id": "1", "v_id": "0021", "video": "007401/0021", "source": "webvid", "conversations": [
        {"from": "human", "value": "What happens?\n<video>"}, {"from": "gpt", "value": "A pan falls."}]}

The extension is looked up beside the media.
"""

from collections.abc import Iterator, Sequence

from fvv_lib.data.importing.draft import Draft, Options, Record
from fvv_lib.data.importing.llava import draft_of, has_tag, turns_of
from fvv_lib.data.importing.qwen_vl import lacks_extension

NAME = "valley"


def recognise(records: Sequence[Record]) -> str | None:
    if not all(map(turns_of, records)) or any({"image", "video"} <= record.keys() for record in records):
        return None
    if any("system_prompt" in record for record in records) or not any(map(lacks_extension, records)):
        return None
    return "names under 'video' lack an extension" if any(has_tag(record, "<video>") for record in records) else None


def drafts(record: Record, options: Options) -> Iterator[Draft]:
    yield draft_of(record)
