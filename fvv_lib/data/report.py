"""Check a data set before training: every annotation, every image and video, every token budget.           Lesson 5

The data set is opened and read as in training, but the check does not stop at the first error: each sample gets a
report.
"""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fvv_lib.data.annotations import Sample
from fvv_lib.data.dataset import LazySupervisedDataset
from fvv_lib.data.inspecting import Inspector, MediaFacts, known_files
from fvv_lib.data.known import SAVE_EVERY
from fvv_lib.data.mixture import parse_part
from fvv_lib.data.refused import KNOWN, KNOWN_OF_TURN
from fvv_lib.errors import DataFormatError, FvvError
from fvv_lib.machine import usable_cores
from fvv_lib.progress import progress
from fvv_lib.settings import DataArguments


@dataclass(frozen=True)
class MediaReport:
    """One image or video.

    Attributes:
        path: the file or folder; of a list of frames, the first file and the number of the others.
        seconds: length of the part that is used; 0 for an image.
        frames: frames of the whole file.
        width, height: pixels.
        sampled: frames that training reads.
        start, end: seconds, limits of the part that is used; `None`: from the first frame, to the last.
    """

    path: str
    seconds: float
    frames: int
    width: int
    height: int
    sampled: int
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class SampleReport:
    """One sample: its name, its expanded length in tokens, its media, and the error that it would raise (or none).
    `index` is its index in the dataset, or `None` if the dataset left it out."""

    name: str
    tokens: int = 0
    media: list[MediaReport] = field(default_factory=list)
    kind: str = ""
    problem: str = ""
    index: int | None = None


def check_data(
    dataset: LazySupervisedDataset, workers: int | None = None, quiet: bool = False, media: bool = True
) -> list[SampleReport]:
    """Read every sample as training would, in parallel. Return a report for each, bad samples first.

    Args:
        dataset: made with `bad_samples="skip"`, so that it lists bad annotations instead of raising the first error.
        workers: number of samples to read at a time; default: one per core.
        quiet: show no progress bar.
        media: `False` skips images and videos, so that only the text is checked.

    Lesson: 05.
    """
    reports = [SampleReport(name, kind=_kind(error), problem=str(error)) for name, error in dataset.bad.items()]
    reports += [
        SampleReport(name, kind="LabelMismatchError", problem=f"{name}: dropped {dataset.why_dropped}")
        for name in dataset.dropped
    ]
    if not media:
        reports += [SampleReport(dataset.names[i], int(dataset.lengths[i]), index=i) for i in range(len(dataset))]
        return sorted(reports, key=lambda report: not report.problem)
    inspector = Inspector(dataset)
    bar = progress(total=len(dataset), desc="checking", hidden=quiet, postfix=known_files(inspector.counts))
    try:
        with bar, ThreadPoolExecutor(workers or usable_cores()) as pool:
            for report in pool.map(lambda index: _inspect(inspector, index), range(len(dataset))):
                reports.append(report)
                bar.update()
                inspector.save(SAVE_EVERY)
    finally:
        inspector.save()
    return sorted(reports, key=lambda report: not report.problem)


def _kind(error: FvvError) -> str:
    return type(error).__name__


def _inspect(inspector: Inspector, index: int) -> SampleReport:
    dataset = inspector.dataset
    name, tokens = dataset.names[index], int(dataset.lengths[index])
    media: list[MediaReport] = []
    facts: list[MediaFacts] = []
    try:
        for medium, one in zip(dataset.media(index), inspector.facts(index), strict=True):
            facts.append(one)
            seconds = round(medium.seconds(one.duration), 3) if medium.is_video() else 0.0
            path, sampled = str(replace(medium, start=None, end=None)), len(one.timestamps)
            size = one.width, one.height
            media.append(MediaReport(path, seconds, one.total_frames, *size, sampled, medium.start, medium.end))
        tokens = dataset.measure(index, facts)
    except FvvError as error:
        if type(error) is FvvError:  # not the sample's fault, see `check_media`
            raise
        return SampleReport(name, tokens, media, _kind(error), str(error), index)
    return SampleReport(name, tokens, media, index=index)


def format_problems(reports: Sequence[SampleReport], limit: int = 20) -> str:
    """Return a table: the number of errors of each kind, then the first `limit` errors, each with its remedy."""
    bad = [report for report in reports if report.problem]
    lines = [f"{len(reports)} samples, {len(bad)} bad"]
    lines += [f"{count:>7} {kind}" for kind, count in Counter(report.kind for report in bad).most_common()]
    lines += [f"  {report.problem}" for report in bad[:limit]]
    if len(bad) > limit:
        lines.append(f"  and {len(bad) - limit} more; --report FILE lists all")
    return "\n".join(lines)


def ignored_fields(samples: Iterable[Sample]) -> dict[str, int]:
    """Return the fields of samples and of their turns that neither training nor evaluation reads, each with the number
    of samples that have it. A test set has `kinds` and `choices`, and errors name an `id`."""
    found: Counter[str] = Counter()
    for sample in samples:
        of_turns = {key for turn in sample["conversations"] for key in turn}
        found.update(key for key in sample if key not in KNOWN)
        found.update(f"{key} of a turn" for key in of_turns - {*KNOWN_OF_TURN})
    return dict(found.most_common())


def format_ignored(fields: Mapping[str, int], limit: int = 20) -> str:
    """Return one line: the ignored fields, each with its number of samples, the most frequent first."""
    named = ", ".join(f"{name} ({count})" for name, count in list(fields.items())[:limit])
    return f"ignored fields: {named}" + (f", and {len(fields) - limit} more" if len(fields) > limit else "")


def write_report(path: Path, reports: Sequence[SampleReport]) -> None:
    """Write one record per sample, as JSON or CSV by the file's extension."""
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["name", "tokens", "media", "seconds", "kind", "problem"])
            for report in reports:
                seconds = sum(media.seconds for media in report.media)
                paths = " ".join(media.path for media in report.media)
                writer.writerow([report.name, report.tokens, paths, seconds, report.kind, report.problem])
    else:
        path.write_text(json.dumps([asdict(report) for report in reports], indent=1) + "\n")


def write_histograms(path: Path, reports: Sequence[SampleReport], max_length: int) -> None:
    """Write histograms of durations, frame sizes and token counts, as a figure in the file's format."""
    from fvv_lib.plotting import plot_data  # load matplotlib only if a report draws

    media = [one for report in reports for one in report.media]
    plot_data(
        [one.seconds for one in media if one.seconds],
        [(one.width, one.height) for one in media],
        [report.tokens for report in reports if report.tokens],
        max_length,
    ).savefig(path)


def write_clean(path: Path, dataset: LazySupervisedDataset, reports: Sequence[SampleReport]) -> int:
    """Write the good samples as an annotation file, and the others' names and errors beside it. Return the number of
    good samples.

    Raises:
        DataFormatError: there is no good sample, and nothing is written.
    """
    kept = sorted(report.index for report in reports if report.index is not None and not report.problem)
    if not kept:
        raise DataFormatError(f"write_clean: {path} is not written, because no sample is good.")
    path.write_text(json.dumps([dataset.samples[index] for index in kept], indent=1) + "\n")
    bad = {report.name: report.problem for report in reports if report.problem}
    _dropped(path).write_text(json.dumps(bad, indent=1) + "\n")
    return len(kept)


def _dropped(path: Path) -> Path:
    return path.with_suffix(".dropped.json")


def check_outputs(data_args: DataArguments, report: Path | None, histograms: Path | None, clean: Path | None) -> None:
    """Check, before hours of reading, that every output can be written and used.

    Raises:
        FvvError: names the output and the remedy.
    """
    annotations = (*data_args.data_path, *data_args.held_out().values())
    files = [parse_part(word).path for word in annotations if word]
    taken = {file.resolve() for file in files if isinstance(file, Path)}
    for name, path, suffixes in (
        ("report", report, (".json", ".csv")),
        ("histograms", histograms, (".png", ".pdf", ".svg")),
        ("write_clean", clean, (".json",)),
        ("write_clean", clean and _dropped(clean), (".json",)),
    ):
        if path is None:
            continue
        if path.suffix not in suffixes:
            raise FvvError(f"{name}: {path} must end with {' or '.join(suffixes)}.")
        if not os.access(path.absolute().parent, os.W_OK):
            raise FvvError(f"{name}: the folder of {path} does not exist or is not writable.")
        if path.is_dir():
            raise FvvError(f"{name}: {path} is a folder. Give the name of a file.")
        if path.resolve() in taken:
            raise FvvError(f"{path} is named twice, or is one of the checked annotation files. Choose another name.")
        taken.add(path.resolve())
    if clean and data_args.image_folder is None:
        folders = {Path(str(parse_part(word).path)).parent.resolve() for word in data_args.data_path}
        if folders != {clean.parent.resolve()}:
            raise FvvError(
                "write_clean: without image_folder, media paths are relative to the folder of the annotation file, and "
                f"{clean} is not in that folder. Write it there, or set --image_folder here and in training."
            )


def count_samples(dataset: LazySupervisedDataset) -> dict[str, Any]:
    """Return the number of used samples, in all and of each annotation file, the names of dropped ones, the errors of
    bad ones by name, and how many images and videos they have and an earlier check has read."""
    bad = {name: str(error) for name, error in dataset.bad.items()}
    of_each = dataset.samples.count_of_each()
    return {
        "used": len(dataset),
        "of each file": of_each,
        "dropped": dataset.dropped,
        "bad": bad,
        "media": dataset.media_counts,
    }
