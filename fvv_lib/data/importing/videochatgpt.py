"""Video-ChatGPT, VideoInstruct100K: one question per record, ids without an extension.                     Lesson 5

    {"q": "What is the man doing?", "a": "He is stretching.", "video_id": "v_k_ZXmr8pmrs"}

Many records have one `video_id`, which is the name of a video of any extension.
"""

from collections.abc import Iterator, Mapping, Sequence

from fvv_lib.data.importing.draft import Clip, Draft, Options, Record, other_fields, text_of

NAME = "video-chatgpt"
READS = ("q", "a", "video_id")


def recognise(records: Sequence[Record]) -> str | None:
    fits = all(isinstance(record, Mapping) and record.keys() >= set(READS) for record in records)
    return "a record has 'q', 'a' and 'video_id'" if fits else None


def drafts(record: Record, options: Options) -> Iterator[Draft]:
    video = text_of(record.get("video_id"), "'video_id'")
    question, answer = text_of(record.get("q"), "'q'"), text_of(record.get("a"), "'a'")
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    yield Draft(turns, [Clip(video, True)], video, fields=other_fields(record, READS))
