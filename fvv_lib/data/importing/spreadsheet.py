"""A CSV or TSV file: a sample in each row. Its columns may have any names.                                 Lesson 5

    path,question,answer,start,end
    a.mp4,What falls?,A pan.,2.0,9.5

`columns` of the options says which column has what: `video` or `image`, `answer`, and optionally `question`, `start`,
`end`, `id`, `system`, `kind` and `choices` (with | between them). Usual names are known without it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fvv_lib.data.importing.draft import Clip, Draft, Options, Record, other_fields, text_of
from fvv_lib.errors import DataFormatError

NAME = "csv"
USUAL = {
    "video": ("video", "video_path", "path", "file", "filename", "file_name", "video_name", "clip"),
    "image": ("image", "image_path"),
    "question": ("question", "prompt", "q"),
    "answer": ("answer", "caption", "response", "label", "class", "a", "text"),
    **{name: (name,) for name in ("start", "end", "id", "system", "kind", "choices")},
}


def recognise(records: Sequence[Record]) -> str | None:
    return "it is a table" if all(getattr(record, "is_row", False) for record in records) else None


def drafts(record: Record, options: Options) -> Iterator[Draft]:
    columns = columns_of(record, options)

    def get(what: str) -> Any:
        return record.get(columns[what]) or None if what in columns else None

    media = [Clip(get(kind), kind == "video", get("start"), get("end")) for kind in ("image", "video") if get(kind)]
    question = get("question") or options.asked()
    answer = options.answer.replace("{}", text_of(get("answer"), f"its column {columns['answer']!r}"))
    turns = [
        {"from": "human", "value": "<image>\n" * len(media) + text_of(question, "the question")},
        {"from": "gpt", "value": answer},
    ]
    fields = other_fields(record, tuple(columns.values()))
    if get("kind"):
        fields["kinds"] = [get("kind")]
    if get("choices"):
        fields["choices"] = [get("choices").split("|")]
    yield Draft(turns, media, get("id"), get("system"), stratum=get("kind") or "", fields=fields)


def columns_of(record: Mapping[str, Any], options: Options) -> dict[str, str]:
    """Return which column has what.

    Raises:
        DataFormatError: the table lacks a column, or its columns have no usual names.
    """
    unknown = sorted(set(options.columns) - set(USUAL))
    missing = sorted(set(options.columns.values()) - set(record))
    if unknown or missing:
        what = f"no such thing as {unknown[0]!r}" if unknown else f"no column {missing[0]!r}"
        raise DataFormatError(f"there is {what}. A column may have {', '.join(USUAL)}; it has {', '.join(record)}.")
    by_name = {name.strip().lower(): name for name in record}
    found = dict(options.columns)
    for what, names in USUAL.items():
        usual = [by_name[name] for name in names if name in by_name and by_name[name] not in found.values()]
        if what not in found and usual:
            found[what] = usual[0]
    if "answer" not in found or not found.keys() & {"video", "image"}:
        raise DataFormatError(
            f"which column has the video and which the answer? It has {', '.join(record)}. Say so: "
            "--columns video=NAME answer=NAME."
        )
    return found
