"""Count answers: accuracy for each kind with its interval, and whether time controls change it.            Lesson 7

This module knows nothing about models.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fvv_lib.evaluation.answers import Record
from fvv_lib.evaluation.controls import FORWARDS
from fvv_lib.evaluation.scoring import confidence_interval, paired_p_value, percent

ALL = "all"
FEW = 0.05  # share of right free texts below which a table says why
UNLIKELY = 0.05  # p-value below which a difference is not by chance


def summarize(records: Sequence[Record]) -> dict[str, Any]:
    """Return the accuracy of the answers to one test set.

    Returns:
        `forwards`: for each kind and for `all`: `correct`, `total`, `accuracy` and the limits of its 95 % interval.
        `controls`, with time controls: the same for questions about videos, for each control. `compared`: for each
        control, the loss of accuracy against `forwards` in the same questions, its p-value (`paired_p_value`), and the
        number of videos. `free`: `correct` and `total` of the questions without choices.
    """
    by_control: dict[str, list[Record]] = {}
    for record in records:
        by_control.setdefault(record["control"], []).append(record)
    forwards = by_control.get(FORWARDS, [])
    summary: dict[str, Any] = {"forwards": _table(forwards)}
    free = [record["right"] for record in forwards if not record["choices"]]
    summary["free"] = {"correct": sum(free), "total": len(free)}
    others = {control: rows for control, rows in by_control.items() if control != FORWARDS}
    if others:
        asked = {record["position"] for rows in others.values() for record in rows}
        shown = [record for record in forwards if record["position"] in asked]
        summary["controls"] = {control: _table(rows) for control, rows in {FORWARDS: shown, **others}.items()}
        summary["compared"] = {control: compare(shown, rows) for control, rows in others.items()}
    return summary


def _table(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    kinds = sorted({record["kind"] for record in records if record["kind"] is not None} - {ALL})
    table = {kind: _row([record["right"] for record in records if record["kind"] == kind]) for kind in kinds}
    return {**table, ALL: _row([record["right"] for record in records])} if records else {}


def _row(right: Sequence[bool]) -> dict[str, Any]:
    low, high = confidence_interval(sum(right), len(right))
    return {"correct": sum(right), "total": len(right), "accuracy": sum(right) / len(right), "interval": [low, high]}


def compare(forwards: Sequence[Record], others: Sequence[Record]) -> dict[str, Any]:
    """Compare two answers to each question. The questions of one video are one unit, because their answers depend on
    the same frames; so are the questions of a sample without any.

    Returns:
        `difference`: by how much the accuracy of `others` is lower. `p`: see `paired_p_value`. `videos`: number of
        units.
    """
    right = {record["position"]: record["right"] for record in forwards}
    lost: dict[str, int] = {}
    for record in others:
        unit = record["video"] or f"text {record['id']}"
        lost[unit] = lost.get(unit, 0) + right[record["position"]] - record["right"]
    return {
        "difference": sum(lost.values()) / len(others),
        "p": paired_p_value(list(lost.values())),
        "videos": len(lost),
    }


def format_summary(name: str, summary: Mapping[str, Any]) -> str:
    """Format the result of `summarize` as text.

    Args:
        name: of the test set.
    """
    lines = [name, "", f"{'kind':<16}{'questions':>10}{'right':>9}   95 % interval"]
    for kind, row in summary["forwards"].items():
        lines.append(f"{kind:<16}{row['total']:>10}{percent(row['accuracy'], 1):>9}   {_interval(row)}")
    lines += about_free_texts(summary["free"])
    if "controls" in summary:
        lines += ["", *_format_controls(summary["controls"], summary["compared"])]
    for measure, value in summary.get("scores", {}).items():
        lines.append(f"{measure}: {value:.1f}")
    return "\n".join(lines)


def _interval(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    return f"{low:.0%} to {high:.0%}"


def about_free_texts(free: Mapping[str, int]) -> list[str]:
    """Say why almost no free text is right, and what to do."""
    if not free["total"] or free["correct"] > FEW * free["total"]:
        return []
    return [
        "",
        f"{free['correct']} of {free['total']} answers to questions without choices are right: an answer must equal "
        "the expected text.",
        'Give these samples "choices" (guide: Evaluation, "Write a test set"), read the answers in answers.jsonl, or',
        "compare texts with --scores.",
    ]


def _format_controls(controls: Mapping[str, Any], compared: Mapping[str, Any]) -> list[str]:
    """Format the questions about videos: a column for each control, a row for each kind."""

    def cell(row: Mapping[str, Any]) -> str:
        return f"{percent(row['accuracy'])} ({_interval(row)})"

    rows = [["with video", "questions", *controls]]
    for kind, row in controls[FORWARDS].items():
        rows.append([kind, str(row["total"]), *(cell(table[kind]) for table in controls.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for control, found in compared.items():
        lines.append(
            f"{control}: {0 - 100 * found['difference']:+.1f} points against forwards, p = {found['p']:.2g} "
            f"(paired by question, {found['videos']} videos)"
        )
    return lines + about_blank(compared)


def about_blank(compared: Mapping[str, Any]) -> list[str]:
    """Say why time controls say nothing, if a model that sees only grey answers about as well."""
    blank = compared.get("blank")
    if not blank or (blank["difference"] > 0 and blank["p"] < UNLIKELY):
        return []
    return [
        "forwards is not clearly above blank (p < 0.05), so this comparison says nothing about time: the model",
        "answers too few questions, the questions give the answers away, or there are too few videos.",
    ]
