"""The numbers in a text and their allowed sources, for a rule of the notebooks."""

import ast
import re
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"

# Numbers that are not measurements, so no cell prints them. A digit after a letter, a dot, or a letter and hyphen does
# not begin a number: int64, qwen_2, H.264, ZeRO-3 and FastVLM-0.5B are names.
NO_MEASUREMENT = {
    "references, with their years and arXiv ids": r"^## References\n(?s:.*?)(?=^## |\Z)",
    "the target of a link": r"\]\([^)]*\)",
    "the number of a lesson": r"(?<![\w.,])0\d(?=[^\w.,]|[_.,](?!\d)|$)",
    "the number of an exercise": r"\b[Ee]xercise \d\b",
    "the number of a list item": r"^\d+\. ",
    "the duration of the lesson": r"^\d+ minutes\b",
    "the size of a model, which is its name": r"\b\d+(?:\.\d+)?B\b",
    "the number of dimensions": r"\b\dD\b",
}
NUMBER = r"(?<![\w.])(?<![A-Za-z]-)(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e-?\d+)?(?: ?%)?"


def numbers(text: str) -> list[str]:
    """Return the numbers in a text as they are written. 1024x768 counts as two numbers."""
    return re.findall(NUMBER, re.sub(r"(?<=\d)x(?=\d)", " x ", text))


def value(number: str) -> float:
    return float(number.rstrip(" %").replace(",", ""))


def without_names(text: str) -> str:
    """Return the text without the digits of `NO_MEASUREMENT`."""
    for pattern in NO_MEASUREMENT.values():
        text = re.sub(pattern, lambda match: re.sub(r"\d", "", match[0]), text, flags=re.M)
    return text


def numbers_of_code(source: str) -> set[float]:
    """Return the constants in a program and the numbers in its strings."""
    constants = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    said = [value(number) for constant in constants if isinstance(constant, str) for number in numbers(constant)]
    return {float(constant) for constant in constants if isinstance(constant, int | float)} | set(said)


def results_named_in(text: str) -> list[float]:
    """Return all numbers in the files of `benchmarks/results` whose program or file the text names."""
    names = re.findall(r"benchmarks/(?:results/)?(\w+)\.(?:py|json)", text)
    files = [RESULTS / f"{name}.json" for name in names if (RESULTS / f"{name}.json").is_file()]
    return [value(number) for file in files for number in numbers(file.read_text())]


def is_rounded(number: str, result: float) -> bool:
    """Check whether a number in the text is this result, rounded to the same decimals. 97.6% may be 0.976."""
    decimals = len(number.rstrip(" %").partition(".")[2])
    scales = (1, 100) if number.endswith("%") else (1,)
    return any(float(f"{scale * result:.{decimals}f}") == value(number) for scale in scales)
