"""VideoChat2-IT: questions under `QA`, with an instruction.                                                Lesson 5

    {"video": "a.mp4", "start": 2.0, "end": 9.5, "QA": [
        {"i": "Answer in a word.", "q": "What falls?", "a": "A pan."}, {"i": "", "q": "Where?", "a": "In a kitchen."}]}

The instruction of the first question is the system prompt of the sample. A caption has an empty question: `question`
of the options takes its place. The original trainer shuffles the questions of a sample; here they keep their order.
"""

from collections.abc import Iterator, Mapping, Sequence

from fvv_lib.data.importing.draft import Draft, Options, Record, clips_of, other_fields, text_of
from fvv_lib.errors import DataFormatError

NAME = "videochat2"
READS = ("id", "image", "video", "start", "end", "QA")


def recognise(records: Sequence[Record]) -> str | None:
    fits = all(isinstance(record, Mapping) and isinstance(record.get("QA"), list) for record in records)
    return "a record has a list of questions under 'QA'" if fits else None


def drafts(record: Record, options: Options) -> Iterator[Draft]:
    questions = record["QA"]
    if not questions or not all(isinstance(one, Mapping) for one in questions):
        raise DataFormatError("its 'QA' must be a list of at least one question.")
    images = clips_of(record.get("image"), False)
    part = {key: record[key] for key in ("start", "end") if record.get(key) is not None}
    media = [*images, *clips_of(record.get("video"), True, **part)]
    turns = []
    for one in questions:
        question = text_of(one.get("q") or options.asked(), "'q'")
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": text_of(one.get("a"), "'a'")}]
    turns[0]["value"] = "<image>\n" * len(media) + turns[0]["value"]
    instructions = [str(one.get("i") or "").strip() for one in questions]
    lost = ("instructions of later questions",) if set(instructions[1:]) - {"", instructions[0]} else ()
    fields = other_fields(record, READS)
    yield Draft(turns, media, record.get("id"), instructions[0] or None, lost=lost, fields=fields)
