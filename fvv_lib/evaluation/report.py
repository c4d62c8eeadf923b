"""Write `report.html`: curves, accuracy, time controls, and every question with its frames and answers.     Lesson 7

The page is one file that loads nothing else. Texts of users are data of the page, never code: Jinja escapes those in
tables, and the script of the page writes the others as text. This module trains and asks nothing.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fvv_lib.evaluation.answers import Record, replace_file
from fvv_lib.evaluation.asking import Reader
from fvv_lib.evaluation.controls import CONTROLS, FORWARDS
from fvv_lib.evaluation.questions import Question
from fvv_lib.evaluation.scoring import percent
from fvv_lib.evaluation.strips import Strip, Strips
from fvv_lib.evaluation.summary import about_blank, about_free_texts, compare, summarize
from fvv_lib.video.medium import Medium

NAME = "report.html"
PAGE = Path(__file__).parent / "page"
TIMES = ("before", "after")
CURVES = {  # title of each chart, and its lines: key in the log, name
    "Loss per learned token": {"loss": "training", "eval_loss": "validation"},
    "Learning rate": {"learning_rate": "learning rate"},
    "Accuracy in validations": {"eval_accuracy": "accuracy"},
}
RESULTS = {"log", "tests", "before", "after", "keep", "samples"}  # parts of a record that are not settings


class Asked(NamedTuple):
    """The questions of a test set, and what reads their images and videos."""

    questions: Sequence[Question]
    read: Reader


def write_report(
    folder: Path, metrics: Mapping[str, Any], records: Sequence[Record], asked: Mapping[str, Asked], strips: Strips
) -> None:
    """Write `report.html` of an evaluation or a training run into its folder.

    Args:
        metrics: the content of `metrics.json`.
        records: the lines of `answers.jsonl` that are answers.
        asked: the test sets by name.
        strips: makes the frames that are shown. An image or video that cannot be read gets a note instead.

    Lesson: 07.
    """
    views = [name for name in (*TIMES, *CONTROLS) if name in {_view_of(record) for record in records}]
    main = next((name for name in ("after", FORWARDS) if name in views), "")
    data = {"views": views, "main": main, **_questions(records, asked, strips, main), "charts": _charts(metrics)}
    script = (PAGE / "report.js").read_text()
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters.update(percent=percent, share=lambda share: f"{share:.0%}")
    text = environment.get_template("report.html").render(
        title=f"{'Training' if 'log' in metrics else 'Evaluation'}: {folder.resolve().name}",
        style=(PAGE / "report.css").read_text(),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=data,
        tests=_tests(metrics, records),
        has_strips=any("frames" in medium for medium in data["media"]),
        samples=metrics.get("samples", {}),
        settings=_settings(metrics),
    )
    replace_file(folder / NAME, text.encode("utf-8", "backslashreplace"))  # names of files need not be valid text


def _view_of(record: Record) -> str:
    """Return which of its answers to a question a record has: before or after training, or under a control."""
    return record.get("time") or record["control"]


# --- questions --------------------------------------------------------------------------------------------------------


def _questions(
    records: Sequence[Record], asked: Mapping[str, Asked], strips: Strips, main: str
) -> dict[str, list[dict[str, Any]]]:
    """Return the questions with all their answers, and the images and videos that they name by position."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for record in records:
        row = rows.setdefault((record["data"], record["position"]), {**_shown(record), "answers": {}})
        row["answers"][_view_of(record)] = {"text": record["answer"], "right": record["right"]}
    media: dict[Medium, int] = {}
    readers: dict[bool, dict[Medium, Reader]] = {False: {}, True: {}}  # of media of wrong and right answers
    for (name, position), row in rows.items():
        shown = asked[name].questions[position].media
        row["media"] = [media.setdefault(medium, len(media)) for medium in shown]
        readers[row["answers"][main]["right"]].update(dict.fromkeys(shown, asked[name].read))
    found = strips.collect({**readers[False], **readers[True]})
    return {"questions": list(rows.values()), "media": [_medium(medium, found[medium]) for medium in media]}


def _shown(record: Record) -> dict[str, Any]:
    return {name: record[name] for name in ("data", "id", "kind", "history", "question", "choices", "expected")}


def _medium(medium: Medium, strip: Strip | str) -> dict[str, Any]:
    return {"name": str(medium), **({"note": strip} if isinstance(strip, str) else strip._asdict())}


# --- accuracy ---------------------------------------------------------------------------------------------------------


def _tests(metrics: Mapping[str, Any], records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return for each test set its tables of accuracy, notes about them, and other scores."""
    if "tests" in metrics:
        return [{"name": name, **_evaluated(summary)} for name, summary in metrics["tests"].items()]
    names = dict.fromkeys(record["data"] for record in records)
    return [{"name": name, **_trained([record for record in records if record["data"] == name])} for name in names]


def _evaluated(summary: Mapping[str, Any]) -> dict[str, Any]:
    tables = [_table("All questions", {FORWARDS: summary["forwards"]}, {})]
    if "controls" in summary:
        tables.append(_table("Time controls: questions about videos", summary["controls"], summary["compared"]))
    notes = [about_free_texts(summary["free"]), about_blank(summary.get("compared", {}))]
    return {
        "tables": tables,
        "notes": [" ".join(lines) for lines in notes if lines],
        "scores": summary.get("scores", {}),
        "benchmark": summary.get("benchmark"),
    }


def _trained(records: Sequence[Record]) -> dict[str, Any]:
    by_time = {time: [record for record in records if record["time"] == time] for time in TIMES}
    summaries = {time: summarize(rows) for time, rows in by_time.items()}
    table = _table(
        "Before and after training",
        {time: summary["forwards"] for time, summary in summaries.items()},
        {"after": compare(by_time["before"], by_time["after"])},
    )
    notes = [" ".join(lines) for lines in [about_free_texts(summaries["after"]["free"])] if lines]
    return {"tables": [table], "notes": notes, "scores": {}, "benchmark": None}


def _table(caption: str, views: Mapping[str, Any], compared: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with a column for each view, and the kinds of its first view as rows."""
    first = next(iter(views))
    return {"caption": caption, "first": first, "views": views, "kinds": list(views[first]), "compared": compared}


# --- curves and settings ----------------------------------------------------------------------------------------------


def _charts(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the curves of a training run, those that were logged. A value that is not finite becomes `None`."""
    charts = []
    for title, keys in CURVES.items():
        lines = {
            name: [[entry["step"], _finite(entry[key])] for entry in metrics.get("log", ()) if key in entry]
            for key, name in keys.items()
        }
        drawn = {name: points for name, points in lines.items() if points}
        if drawn:
            charts.append({"title": title, "lines": drawn})
    return charts


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _settings(metrics: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return the parts of a record that are not results, as names and texts, by group."""
    groups: dict[str, list[tuple[str, str]]] = {"run": []}
    for name, value in metrics.items():
        if name not in RESULTS:
            groups.setdefault(name if isinstance(value, Mapping) else "run", []).extend(_rows(value, name))
    return groups


def _rows(value: Any, name: str) -> list[tuple[str, str]]:
    """Return values that may be nested as pairs of a name and a text. The name has a dot between two levels."""
    if isinstance(value, Mapping) and value:
        return [row for key, inner in value.items() for row in _rows(inner, f"{name}.{key}")]
    return [(name, value if isinstance(value, str) else json.dumps(value, default=str))]
