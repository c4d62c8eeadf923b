"""The benchmarks, one row each, and the reading of their files.                                            Lesson 7"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from fvv_lib.data.annotations import read_annotations
from fvv_lib.errors import DataFormatError, FvvError
from fvv_lib.evaluation.benchmarks import layouts, rules
from fvv_lib.evaluation.benchmarks.layouts import BenchmarkQuestion, Row

SUFFIXES = (".parquet", ".json", ".jsonl")
OTHER_SUFFIXES = (".MP4", ".mkv")  # of a video whose name in the table ends in .mp4
NAMED_MISSING = 3  # missing files that an error names


class Benchmark(NamedTuple):
    """A benchmark.

    Attributes:
        hub: name of the published data set on the Hub.
        files: patterns of its annotation files, from the folder of its data; any of `SUFFIXES`.
        ask: makes a question of a row.
        rule: finds the label that an answer names, as the public program does.
        unparsed: what the public program does if the rule finds none: it is wrong, gets a random label or the first
            one, or a judge decides. There is no judge here: such an answer is wrong and counted.
        average: the breakdown over whose groups the official score is averaged; `None`: the average over all questions.
        leaves_out_empty: whether empty answers do not count at all.
    """

    hub: str
    files: tuple[str, ...]
    ask: Callable[[Row], BenchmarkQuestion]
    rule: Callable[[str, BenchmarkQuestion], str | None]
    unparsed: Literal["wrong", "random", "first", "judge"] = "wrong"
    average: str | None = None
    leaves_out_empty: bool = False


BENCHMARKS = {
    "egoschema": Benchmark("lmms-eval/egoschema", ("Subset/test*",), layouts.egoschema, rules.earliest_label, "random"),
    "longvideobench": Benchmark(
        "longvideobench/LongVideoBench", ("validation*",), layouts.longvideobench, rules.first_capital, "random"
    ),
    "mlvu": Benchmark("sy1998/MLVU_dev", ("*/test*",), layouts.mlvu, rules.mentioned_letter, average="task_type"),
    "mvbench": Benchmark(
        "OpenGVLab/MVBench", ("json/*",), layouts.mvbench, rules.first_lone_letter, leaves_out_empty=True
    ),
    "nextqa": Benchmark("lmms-eval/NExTQA", ("MC/test*",), layouts.nextqa, rules.latest_label, "random"),
    "tempcompass": Benchmark(
        "lmms-eval/TempCompass",
        ("multi-choice/test*", "yes_no/test*", "caption_matching/test*"),
        layouts.tempcompass,
        rules.tempcompass,
        "judge",
    ),
    "tomato": Benchmark("lmms-eval/TOMATO", ("data/test*",), layouts.tomato, rules.any_capital, "first"),
    "tvbench": Benchmark("FunAILab/TVBench", ("json/*",), layouts.tvbench, rules.first_letter_or_text),
    "videomme": Benchmark("lmms-eval/Video-MME", ("videomme/test*",), layouts.videomme, rules.mentioned_letter),
}


def find_benchmark(name: str) -> Benchmark:
    """Return the row of a benchmark.

    Raises:
        FvvError: there is none with this name.
    """
    if name not in BENCHMARKS:
        raise FvvError(f"Unknown benchmark {name!r}: choose one of {', '.join(BENCHMARKS)}.")
    return BENCHMARKS[name]


def annotation_files(name: str, data_dir: str | Path) -> list[Path]:
    """Return the annotation files of a benchmark, in order.

    Raises:
        DataFormatError: there is no such folder, or a pattern of the benchmark has no file.
    """
    found: list[Path] = []
    benchmark = find_benchmark(name)
    published = (
        f"data_dir must be the folder of the published data set (on the Hub: {benchmark.hub}, the guide to evaluation "
        f"says which videos) with {' and '.join(benchmark.files)}."
    )
    if not Path(data_dir).is_dir():
        raise DataFormatError(f"{name}: {data_dir}: no such folder. {published}")
    for pattern in benchmark.files:
        files = sorted(file for file in Path(data_dir).glob(pattern) if file.suffix in SUFFIXES)
        if not files:
            raise DataFormatError(
                f"{name}: no file {Path(data_dir, pattern)} with the ending {', '.join(SUFFIXES)}. {published}"
            )
        found += files
    return found


def load_benchmark(name: str, data_dir: str | Path) -> list[BenchmarkQuestion]:
    """Return the questions of a benchmark, from a folder with its published files. Nothing is downloaded.

    Args:
        name: one of `BENCHMARKS`.
        data_dir: has the annotation files that the table names, and the videos, extracted.

    Raises:
        FvvError: there is no benchmark of this name.
        DataFormatError: annotation files or videos are missing, or a row does not have the published fields.

    Lesson: 07.
    """
    ask = find_benchmark(name).ask
    questions = [
        ask(Row(file, number, fields))
        for file in annotation_files(name, data_dir)
        for number, (_, fields) in enumerate(read_annotations(file))
    ]
    return _with_paths(name, questions, Path(data_dir))


def _with_paths(name: str, questions: Sequence[BenchmarkQuestion], folder: Path) -> list[BenchmarkQuestion]:
    """Return the questions with paths of files that exist."""
    paths: dict[Path, Path] = {}
    for question in questions:
        for medium in question.media:
            source = folder / Path(str(medium.source))
            if source not in paths:
                others = [source.with_suffix(suffix) for suffix in OTHER_SUFFIXES if source.suffix == ".mp4"]
                paths[source] = next((file for file in [source, *others] if file.exists()), source)
    missing = [str(path) for path in paths.values() if not path.exists()]
    if missing:
        shown = ", ".join(missing[:NAMED_MISSING]) + (", ..." if len(missing) > NAMED_MISSING else "")
        raise DataFormatError(
            f"{name}: {len(missing)} of {len(paths)} videos are missing: {shown}. Extract all archives of the data set."
        )
    return [
        replace(
            question,
            media=tuple(replace(medium, source=paths[folder / Path(str(medium.source))]) for medium in question.media),
        )
        for question in questions
    ]
