"""Score the answers to a benchmark: by its official rule, and strictly.                                    Lesson 7"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from fvv_lib.errors import FvvError
from fvv_lib.evaluation.benchmarks.layouts import BenchmarkQuestion
from fvv_lib.evaluation.benchmarks.rules import strict
from fvv_lib.evaluation.benchmarks.table import Benchmark, find_benchmark
from fvv_lib.evaluation.scoring import confidence_interval, percent

SHOWN = 20  # groups of a breakdown that the table prints at most


class _Scored(NamedTuple):
    """An answer. `official` is `None` if the official score leaves it out; `is_parsed` says whether the official rule
    found a label."""

    question: BenchmarkQuestion
    official: bool | None
    is_parsed: bool
    strict: bool
    is_strict_parsed: bool


def is_strictly_right(question: BenchmarkQuestion, answer: str) -> bool:
    """Return whether an answer names the right choice, and no other (`rules.strict`)."""
    return strict(answer, question) == question.expected


def score_benchmark(
    name: str, questions: Sequence[BenchmarkQuestion], answers: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Score the answers to the questions of a benchmark.

    The official score follows the public program, with two differences. A random letter comes from `seed` and the id of
    the question, and such answers are counted. There is no judge: what it would decide is wrong and counted. The strict
    score never guesses, counts every question, and has the same rule for all benchmarks (`rules.strict`).

    Returns:
        `official`: `score`, from 0 to 1, averaged as the benchmark does; `average` names how; `correct` and `total`;
        `left_out`, the empty answers that do not count; `unparsed`, the answers in which the rule finds no choice;
        `unparsed_are`, what then happens; and `guessed_right`, how many of them are right by luck.
        `strict`: `score`, over all questions; `correct`, `total`, the limits of its 95 % `interval`, `unparsed`, and
        `unparsed_share`.
        `groups`: for each breakdown and group `total`, and `official` and `strict` scores.

    Raises:
        FvvError: there are no questions, or not one answer for each.

    Lesson: 07.
    """
    benchmark = find_benchmark(name)
    if not questions or len(questions) != len(answers):
        raise FvvError(f"{name}: there must be one answer for each question, got {len(answers)} for {len(questions)}.")
    scored = [_score(benchmark, question, text, seed) for question, text in zip(questions, answers, strict=True)]
    groups = _groups(scored)
    counted = [one.official for one in scored if one.official is not None]
    averaged = [row["official"] for row in groups[benchmark.average].values()] if benchmark.average else counted
    known = [score for score in averaged if score is not None]
    right = sum(one.strict for one in scored)
    unparsed = [one for one in scored if not one.is_parsed and one.official is not None]
    lost = sum(not one.is_strict_parsed for one in scored)
    return {
        "benchmark": name,
        "official": {
            "score": _mean(known),
            "average": f"over {benchmark.average}" if benchmark.average else "over questions",
            "correct": sum(counted),
            "total": len(counted),
            "left_out": len(scored) - len(counted),
            "unparsed": len(unparsed),
            "unparsed_are": benchmark.unparsed,
            "guessed_right": sum(bool(one.official) for one in unparsed),
        },
        "strict": {
            "score": right / len(scored),
            "correct": right,
            "total": len(scored),
            "interval": list(confidence_interval(right, len(scored))),
            "unparsed": lost,
            "unparsed_share": lost / len(scored),
        },
        "groups": groups,
    }


def _score(benchmark: Benchmark, question: BenchmarkQuestion, answer: str, seed: int) -> _Scored:
    label = benchmark.rule(answer, question)
    is_parsed = label is not None
    if label is None and benchmark.unparsed == "random":
        label = random.Random(f"{seed} {question.id}").choice(question.labels)
    if label is None and benchmark.unparsed == "first":
        label = question.labels[0]
    is_left_out = benchmark.leaves_out_empty and answer == ""
    strictly = strict(answer, question)
    official = None if is_left_out else label == question.expected
    return _Scored(question, official, is_parsed, strictly == question.expected, strictly is not None)


def _groups(scored: Sequence[_Scored]) -> dict[str, dict[str, dict[str, Any]]]:
    members: dict[str, dict[str, list[_Scored]]] = {}
    for one in scored:
        for breakdown, group in one.question.groups.items():
            members.setdefault(breakdown, {}).setdefault(group, []).append(one)
    return {
        breakdown: {
            group: {
                "total": len(rows),
                "official": _mean([row.official for row in rows if row.official is not None]),
                "strict": _mean([row.strict for row in rows]),
            }
            for group, rows in sorted(groups.items())
        }
        for breakdown, groups in members.items()
    }


def _mean(values: Sequence[float]) -> float | None:
    """Return the mean, or `None` if nothing counts."""
    return sum(values) / len(values) if values else None


def format_benchmark(report: dict[str, Any]) -> str:
    """Format what `score_benchmark` returns, for people."""
    official, strictly = report["official"], report["strict"]
    low, high = strictly["interval"]
    lines = [
        f"{report['benchmark']:<24}{'questions':>10}{'official':>10}{'strict':>9}",
        f"{'all':<24}{strictly['total']:>10}{_percent(official['score']):>10}{_percent(strictly['score']):>9}",
    ]
    for breakdown, groups in report["groups"].items():
        rows = list(groups.items())
        lines += (
            [f"by {breakdown}:"] if len(rows) <= SHOWN else [f"by {breakdown}: {len(rows)} groups, in metrics.json"]
        )
        for group, row in rows if len(rows) <= SHOWN else []:
            scores = f"{_percent(row['official']):>10}{_percent(row['strict']):>9}"
            lines.append(f"  {group:<22}{row['total']:>10}{scores}")
    then = {
        "wrong": "wrong",
        "random": "given a random letter",
        "first": "given the first letter",
        "judge": "for a judge",
    }
    lines += [
        f"official: average {official['average']}; {official['unparsed']} answers could not be parsed and are "
        f"{then[official['unparsed_are']]} ({official['guessed_right']} of them right); "
        f"{official['left_out']} empty answers left out",
        f"strict: 95 % interval {low:.0%} to {high:.0%}; {strictly['unparsed']} answers "
        f"({percent(strictly['unparsed_share'], 1)}) could not be parsed and are wrong",
    ]
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else percent(share, 1)
