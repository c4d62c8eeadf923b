"""Write the records of any format as annotation files of this library.                                     Lesson 5"""

import json
import os
import sys
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TextIO

from fvv_lib.data.annotations import to_json
from fvv_lib.data.importing.converting import Conversion, Made, Outcome, convert
from fvv_lib.data.importing.dividing import digests_of, divide
from fvv_lib.data.importing.draft import Options
from fvv_lib.data.importing.sources import Source, find_sources, open_records
from fvv_lib.errors import DataFormatError, FvvError, reason_of
from fvv_lib.machine import usable_cores

BATCH = 500  # records that a process converts at a time
FEW = 4 * 2**20  # bytes of an annotation file; up to here one process is as fast


@dataclass
class ImportReport:
    """What became of the records of an import.

    Attributes:
        sources: path, format and reason of each source, and its numbers of records and samples.
        written: number of samples in each annotation file.
        data_path: the files of the training data, each with the share that the input says (`*0.5`, `#1000`).
        renamed: samples whose id another sample had.
        found: how media were found that are not where the record says.
        lost: what samples do not keep, counted by kind.
        not_kept: records that are not samples because of what they have, by kind.
        bad: records with an error, which were skipped.

    Lesson: 05.
    """

    sources: list[dict[str, Any]] = field(default_factory=list)
    written: dict[str, int] = field(default_factory=dict)
    data_path: list[str] = field(default_factory=list)
    renamed: int = 0
    found: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    not_kept: dict[str, list[str]] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        self.found.update(outcome.found)
        self.lost.update(outcome.lost)
        self.bad.update(outcome.bad)
        for kind, names in outcome.not_kept.items():
            self.not_kept.setdefault(kind, []).extend(names)

    def __str__(self) -> str:
        lines = [
            f"{one['path']}: {one['format']} ({one['reason']}): {one['records']} records, {one['samples']} samples"
            for one in self.sources
        ]
        lines += [f"media found by {how}: {count}" for how, count in sorted(self.found.items())]
        lines += [f"ids that repeat, made unique: {self.renamed}"] if self.renamed else []
        lines += [f"not kept of samples: {kind}: {count}" for kind, count in sorted(self.lost.items())]
        lines += [f"records left out, with {kind}: {len(names)}" for kind, names in sorted(self.not_kept.items())]
        lines += [f"records left out, with an error: {len(self.bad)}"] if self.bad else []
        lines += [f"{path}: {count} samples" for path, count in self.written.items()]
        if any(word not in self.written for word in self.data_path):
            lines.append(f"--data_path {' '.join(self.data_path)}")
        return "\n".join(lines)


def import_annotations(
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    format: str | None = None,
    media_root: Sequence[str | Path] = (),
    columns: Mapping[str, str] | None = None,
    question: str | None = None,
    answer: str = "{}",
    one_question_per_sample: bool = False,
    validation: float = 0.0,
    test: float = 0.0,
    group: str | None = None,
    seed: int = 0,
    strict: bool = False,
    bad_samples: str = "raise",
    workers: int | None = None,
    cache_dir: str | None = None,
) -> ImportReport:
    """Read annotations of any known format, and write them as annotation files of this library.

    Args:
        paths: files, folders, or lists of data sets, see `importing.sources`.
        output: the file to write, `.json` or `.jsonl`. The others have its name too: `train.validation.json`,
            `train.test.json`, and `train.import.json` with the report.
        format: the name of the format of all inputs; `None`: recognised from their content.
        media_root: folders that media paths are relative to; default: the folder of each input.
        columns, question, answer, one_question_per_sample: see `importing.draft.Options`.
        validation, test: shares of the samples that are written to files of their own. No video is in two of them.
        group: a field of the records; those with the same value are in the same file.
        seed: draws other videos for validation and test.
        strict: raise an error if anything of a record cannot be kept.
        bad_samples: for a record that cannot be used: `raise` an error, or `skip` it, which the report lists.
        workers: processes; default: one per core. The files are the same for any number.
        cache_dir: as in `DataArguments`, for the digests of videos.

    Raises:
        DataFormatError: an input or a record cannot be used; names it and the remedy. Then nothing is written.

    Lesson: 05.
    """
    output = Path(output)
    shares = {name: share for name, share in (("validation", validation), ("test", test)) if share}
    _check(paths, output, shares, bad_samples)
    options = Options(columns or {}, question, answer, one_question_per_sample)
    sources = [source for path in paths for source in find_sources(str(path))]
    report = ImportReport()
    by_output = _outputs(output, sources)
    if shares and len(by_output) > 1:
        raise DataFormatError(
            "Parts of a mixture cannot be divided at once: give validation and test with the files of one share."
        )
    seen = UniqueIds()
    with ExitStack() as stack:
        # All files appear together, after the last record was converted.
        for file, group_of_sources in by_output.items():
            samples = chain.from_iterable(
                _convert_source(
                    source,
                    output.parent,
                    options,
                    format,
                    media_root,
                    group,
                    strict,
                    bad_samples == "skip",
                    workers,
                    report,
                )
                for source in group_of_sources
            )
            named = ((seen.name(one.id), one) for one in samples)
            if shares:
                _write_divided(stack, file, named, shares, seed, cache_dir, report)
            else:
                report.written[str(file)] = _write(stack, file, (_line(own, one) for own, one in named))
            report.data_path.append(f"{file}{group_of_sources[0].share}")
        report.renamed = seen.renamed
        if not any(report.written.values()):
            raise DataFormatError(f"No record became a sample. {report}")
        beside = output.with_name(f"{output.stem}.import.json")
        text = json.dumps(report.__dict__, ensure_ascii=False, indent=1)
        stack.enter_context(_appearing(beside)).write(f"{text}\n")
    return report


def _check(paths: Sequence[str | Path], output: Path, shares: Mapping[str, float], bad_samples: str) -> None:
    if not paths:
        raise DataFormatError("Nothing to prepare: give at least one annotation file or folder.")
    if output.suffix.lower() not in (".json", ".jsonl"):
        raise FvvError(f"output must be a .json or .jsonl file, got {output}.")
    if any(Path(path).resolve() == output.resolve() for path in paths):
        raise FvvError(f"output {output} is also an input. Give another name.")
    if any(not 0 < share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        raise FvvError(f"validation and test must be shares from 0 to 1 that leave training data, got {dict(shares)}.")
    if bad_samples not in ("raise", "skip"):
        raise FvvError(f"bad_samples must be 'raise' or 'skip', got {bad_samples!r}.")


def _outputs(output: Path, sources: Sequence[Source]) -> dict[Path, list[Source]]:
    """Return the file that the samples of each source go to: one file, or one for each source if any has a share."""
    if not any(source.share for source in sources):
        return {output: list(sources)}
    names = Counter(source.name for source in sources)
    doubled = [name for name, count in names.items() if count > 1]
    if doubled:
        raise DataFormatError(f"Two parts of the mixture are called {doubled[0]!r}. Rename one of the files.")
    return {output.with_name(f"{output.stem}-{source.name}{output.suffix}"): [source] for source in sources}


def _convert_source(
    source: Source,
    folder: Path,
    options: Options,
    format: str | None,
    media_root: Sequence[str | Path],
    group: str | None,
    strict: bool,
    skip: bool,
    workers: int | None,
    report: ImportReport,
) -> Iterator[Made]:
    """Yield the samples of a source, and add what became of its records to the report."""
    dialect, reason, raws = open_records(source, format)
    own = Options(
        {**source.columns, **options.columns},
        options.question,
        options.answer,
        options.one_question_per_sample,
        source.tags,
    )
    roots = (*map(Path, media_root), *source.roots) if media_root else source.roots
    conversion = Conversion(source.path, source.name, dialect.NAME, own, roots, folder, group, strict, skip)
    entry = {"path": str(source.path), "format": dialect.NAME, "reason": reason, "records": 0, "samples": 0}
    report.sources.append(entry)
    count = workers or usable_cores()
    several = count > 1 and source.path.is_file() and source.path.stat().st_size > FEW
    # The text of a record is cheaper to hand to another process than the record.
    records = (raw.text if several and raw.text is not None else raw.record for raw in raws)
    with ExitStack() as stack:
        each: Callable[..., Iterator[Outcome]] = _one_by_one
        if several:
            pool = stack.enter_context(
                ProcessPoolExecutor(count, get_context("fork" if sys.platform == "linux" else "spawn"))
            )
            each = _Ahead(pool, 2 * count)
        for outcome in each(conversion, _batches(records)):
            entry["records"] += outcome.records
            entry["samples"] += len(outcome.made)
            report.add(outcome)
            yield from outcome.made


def _batches(records: Iterator[Any]) -> Iterator[list[Any]]:
    while batch := list(islice(records, BATCH)):
        yield batch


def _one_by_one(conversion: Conversion, batches: Iterator[Sequence[Any]]) -> Iterator[Outcome]:
    for number, records in enumerate(batches):
        yield convert(conversion, number * BATCH, records)


@dataclass
class _Ahead:
    """Convert batches in other processes, a few ahead, and return their outcomes in order."""

    pool: ProcessPoolExecutor
    most: int

    def __call__(self, conversion: Conversion, batches: Iterator[Sequence[Any]]) -> Iterator[Outcome]:
        waiting: deque[Any] = deque()
        for number, records in enumerate(batches):
            waiting.append(self.pool.submit(convert, conversion, number * BATCH, records))
            if len(waiting) >= self.most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class UniqueIds:
    """Give each sample an id that no other has: a second "a" becomes "a-2". Holds 8 bytes of a digest of each id."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.next: dict[str, int] = {}
        self.renamed = 0

    def name(self, own: str) -> str:
        if self._is_new(own):
            return own
        self.renamed += 1
        number = self.next.get(own, 2)
        while not self._is_new(f"{own}-{number}"):
            number += 1
        self.next[own] = number + 1
        return f"{own}-{number}"

    def _is_new(self, name: str) -> bool:
        digest = int.from_bytes(blake2b(name.encode(), digest_size=8).digest())
        size = len(self.seen)
        self.seen.add(digest)
        return len(self.seen) > size


def _line(own: str, made: Made) -> str:
    """Return a sample as JSON text, its id first."""
    return f'{{"id": {to_json(own)}, {made.text[1:]}'


@contextmanager
def _appearing(path: Path) -> Iterator[TextIO]:
    """Open a file that takes its name when the context ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{uuid.uuid4().hex}.unfinished")
    try:
        with open(aside, "w", encoding="utf-8") as file:
            yield file
        aside.replace(path)
    except OSError as error:
        raise FvvError(f"{path}: it cannot be written ({reason_of(error)}).") from error
    finally:
        aside.unlink(missing_ok=True)


def _write(stack: ExitStack, path: Path, lines: Iterator[str]) -> int:
    """Write samples as a JSON list, or a line each, and return their number. The file appears when the stack ends."""
    file = stack.enter_context(_appearing(path))
    is_list = path.suffix.lower() == ".json"
    count = 0
    for count, line in enumerate(lines, 1):
        file.write((("[\n" if count == 1 else ",\n") if is_list else "") + line + ("" if is_list else "\n"))
    if is_list:
        file.write("\n]\n" if count else "[]\n")
    return count


def _write_divided(
    stack: ExitStack,
    path: Path,
    named: Iterator[tuple[str, Made]],
    shares: Mapping[str, float],
    seed: int,
    cache_dir: str | None,
    report: ImportReport,
) -> None:
    """Write samples to a file for each split. They wait in a file until all are known."""
    aside = path.with_name(f"{uuid.uuid4().hex}.unfinished")
    stack.callback(aside.unlink, missing_ok=True)
    media: list[tuple[str, ...]] = []
    groups: list[str] = []
    strata: list[str] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(aside, "w", encoding="utf-8") as waiting:
        for own, made in named:
            waiting.write(f"{_line(own, made)}\n")
            # A text without media is its own content.
            media.append(made.media or (f"text {blake2b(made.text.encode(), digest_size=16).hexdigest()}",))
            groups.append(f"group {made.group}" if made.group else "")
            strata.append(made.stratum)
    digests = digests_of(
        {name for some in media for name in some if not name.startswith("text ")}, path.parent, cache_dir
    )
    keys = [
        [*(key for name in some for key in digests.get(name, (name,))), *([group] if group else [])]
        for some, group in zip(media, groups, strict=True)
    ]
    splits = divide(keys, strata, shares, seed)
    files = [path, *(path.with_name(f"{path.stem}.{name}{path.suffix}") for name in shares)]
    for number, file in enumerate(files):
        with open(aside, encoding="utf-8") as waiting:
            lines = (line.rstrip("\n") for line, split in zip(waiting, splits, strict=True) if split == number)
            report.written[os.fspath(file)] = _write(stack, file, lines)
