"""ShareGPT4Video: captions of the moments of a video, and one of the whole.                                Lesson 5

    {"video_id": "a", "video_path": "mixit/a.mp4", "timestamp": ["00:00:00.000", "00:00:02.000"], "keyframe": [0, 48],
     "captions": [{"idx": "-1", "content": "A pan falls in a kitchen."}, {"idx": "0", "content": "A kitchen."}]}

The caption with index -1 is about the whole video. The others describe what changes from one key frame to the next, and
are understood only after those before: they are counted as lost. There is no question: `question` of the options.
"""

from collections.abc import Iterator, Mapping, Sequence

from fvv_lib.data.importing.draft import Clip, Draft, Options, Record, other_fields, text_of
from fvv_lib.errors import DataFormatError

NAME = "sharegpt4video"
READS = ("video_id", "video_path", "captions", "timestamp", "keyframe")
WHOLE = "-1"


def recognise(records: Sequence[Record]) -> str | None:
    fits = all(
        isinstance(record, Mapping)
        and {"video_id", "captions"} <= record.keys()
        and isinstance(record["captions"], list)
        for record in records
    )
    return "a record has 'video_id' and a list of 'captions'" if fits else None


def drafts(record: Record, options: Options) -> Iterator[Draft]:
    by_index = {str(one.get("idx")): one.get("content") for one in record["captions"]}
    if WHOLE not in by_index:
        raise DataFormatError("it has no caption of the whole video (idx -1).")
    video = text_of(record.get("video_path") or record["video_id"], "'video_path'")
    turns = [
        {"from": "human", "value": f"<image>\n{options.asked()}"},
        {"from": "gpt", "value": text_of(by_index.pop(WHOLE), "the caption of the whole video")},
    ]
    lost = ("captions of key frames",) if by_index else ()
    yield Draft(turns, [Clip(video, True)], record["video_id"], lost=lost, fields=other_fields(record, READS))
