"""Find the files that an input names: itself, or those that a list of data sets names.                     Lesson 5

Lists of data sets are LLaMA-Factory's `dataset_info.json`, InternVL's meta file and LLaVA-NeXT's YAML. They say more
about a file than it does itself: names of its columns, where its media are, and which share of it is used.
"""

import json
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from fvv_lib.data.importing import (
    finevideo,
    folders,
    lerobot,
    llamafactory,
    llava,
    lmms_finetune,
    ms_swift,
    openai,
    qwen_vl,
    sharegpt4video,
    spreadsheet,
    valley,
    videochat2,
    videochatgpt,
    vtimellm,
)
from fvv_lib.data.importing.records import Raw, read_records
from fvv_lib.errors import DataFormatError, reason_of
from fvv_lib.files import is_url, locate

OF_RECORDS: tuple[ModuleType, ...] = (
    llava,
    qwen_vl,
    lmms_finetune,
    valley,
    vtimellm,
    videochatgpt,
    videochat2,
    llamafactory,
    ms_swift,
    openai,
    sharegpt4video,
    finevideo,
    spreadsheet,
)
OF_FOLDERS: tuple[ModuleType, ...] = (lerobot, folders)
DIALECTS = {dialect.NAME: dialect for dialect in (*OF_RECORDS, *OF_FOLDERS)}
SAMPLED = 100  # records that are looked at to recognise a format

PERCENT = re.compile(r"(?P<path>.+)%(?P<percent>\d+(?:\.\d+)?)")
STRATEGY = re.compile(r"(?:(?P<how>first|end|random):)?(?P<count>\d+(?:\.\d+)?)(?P<percent>%?)")


@dataclass(frozen=True)
class Source:
    """A file or folder with records.

    Attributes:
        name: its name in a list of data sets, else the name of the file.
        dialect: the name of its format, if a list of data sets says it.
        roots: folders that its media are looked up in, before those of the user.
        share: the share or number of its samples that training uses, as `--data_path` writes it: `*0.5` or `#1000`.
        columns, tags: see `Options`.
        first, last: only the first or the last records are used.
    """

    path: Path
    name: str
    dialect: str | None = None
    roots: tuple[Path, ...] = ()
    share: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    first: int | None = None
    last: int | None = None


def find_sources(word: str) -> list[Source]:
    """Return the sources that an input names. `a.json%50` is half of a.json, as Qwen-VL writes it.

    Raises:
        DataFormatError: the input does not exist, or is a list of data sets with an entry that cannot be read.
    """
    if is_url(word):
        raise DataFormatError(f"{locate(word)}: fvv prepare reads files of this machine. Download it first.")
    path, share = Path(word), ""
    percent = PERCENT.fullmatch(word)
    if percent and not path.exists():
        path, share = Path(percent["path"]), f"*{float(percent['percent']) / 100:g}"
    if not path.exists():
        raise DataFormatError(f"{word}: no such file or folder. Check the path.")
    if path.is_dir():
        return [Source(path, path.name, roots=(path,))]
    if path.suffix.lower() in (".yaml", ".yml"):
        return _of_yaml(path)
    if path.suffix.lower() == ".json" and _begins_with(path, "{"):
        return _of_object(path)
    columns: Mapping[str, Any] = {}
    info = path.with_name("dataset_info.json")
    if info.is_file():
        entries = [entry for entry in _load_object(info).values() if entry.get("file_name") == path.name]
        columns = entries[0] if entries else {}
    roots = (path.parent,)
    if columns:
        return [Source(path, path.stem, llamafactory.NAME, roots, share, **_names(columns))]
    return [Source(path, path.stem, roots=roots, share=share)]


def _begins_with(path: Path, character: str) -> bool:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return file.read(4096).lstrip()[:1] == character


def _load_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataFormatError(f"{path}: not valid JSON ({reason_of(error)}).") from error
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise DataFormatError(
            f"{path}: a JSON file must be a list of samples, or an object that describes a data set under each name "
            "(dataset_info.json, InternVL's meta file)."
        )
    return content


def _of_object(path: Path) -> list[Source]:
    """Return the sources of an InternVL meta file, or of a dataset_info.json."""
    sources = []
    for name, entry in _load_object(path).items():
        if "annotation" in entry:
            sources.append(_of_internvl(path, name, entry))
        elif "file_name" in entry:
            sources += _of_llamafactory(path, name, entry)
        else:
            raise DataFormatError(f"{path}: {name!r} names no file on this disk ('file_name' or 'annotation').")
    if not sources:
        raise DataFormatError(f"{path}: it names no data set.")
    return sources


def _of_internvl(path: Path, name: str, entry: Mapping[str, Any]) -> Source:
    repeat = float(entry.get("repeat_time", 1))
    annotation, root = Path(entry["annotation"]), Path(entry.get("root", ""))
    file = annotation if annotation.exists() else path.parent / annotation
    if not file.exists():
        raise DataFormatError(f"{path}: {name!r} names {annotation}, which does not exist.")
    share = "" if repeat == 1 else f"*{repeat:g}"
    return Source(file, name, roots=(root, path.parent / root), share=share)


def _of_llamafactory(path: Path, name: str, entry: Mapping[str, Any]) -> list[Source]:
    file = path.parent / entry["file_name"]
    files = sorted(one for one in file.iterdir() if one.is_file()) if file.is_dir() else [file]
    if not file.exists() or not files:
        raise DataFormatError(f"{path}: {name!r} names {file}, which does not exist or is empty.")
    share = f"#{entry['num_samples']}" if entry.get("num_samples") else ""
    return [Source(one, name, llamafactory.NAME, (path.parent,), share, **_names(entry)) for one in files]


def _names(entry: Mapping[str, Any]) -> dict[str, Any]:
    columns = dict(entry.get("columns") or {})
    if entry.get("formatting", "alpaca") != "alpaca":
        columns.setdefault("messages", "conversations")
    return {"columns": columns, "tags": dict(entry.get("tags") or {})}


def _of_yaml(path: Path) -> list[Source]:
    """Return the sources of LLaVA-NeXT's list of data sets."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        entries = content["datasets"]
        return [
            _of_strategy(path, Path(entry["json_path"]), str(entry.get("sampling_strategy", "all")))
            for entry in entries
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise DataFormatError(
            f"{path}: a list of data sets must have json_path, and optionally sampling_strategy, of each entry under "
            f"'datasets' ({reason_of(error)})."
        ) from error


def _of_strategy(path: Path, file: Path, strategy: str) -> Source:
    where = file if file.exists() else path.parent / file
    if not where.exists():
        raise DataFormatError(f"{path}: it names {file}, which does not exist.")
    found = STRATEGY.fullmatch(strategy)
    if strategy != "all" and not found:
        raise DataFormatError(f"{path}: unknown sampling_strategy {strategy!r}: use first:N, end:N, random:N, or all.")
    share, first, last = "", None, None
    if found:
        count = float(found["count"])
        if found["percent"] or found["how"] in (None, "random"):
            share = f"*{count / 100:g}" if found["percent"] else f"#{count:g}"
        if found["how"] in ("first", "end"):
            if found["percent"]:
                total = sum(1 for _ in read_records(where))
                count, share = -(-total * count // 100), ""
            first, last = (int(count), None) if found["how"] == "first" else (None, int(count))
    return Source(where, where.stem, roots=(where.parent,), share=share, first=first, last=last)


def open_records(source: Source, asked: str | None) -> tuple[ModuleType, str, Iterator[Raw]]:
    """Return the format of a source, the reason why it is this one, and its records.

    Args:
        asked: the name of the format; `None`: recognise it.

    Raises:
        DataFormatError: unknown, or several formats fit; then each is listed with its reason.
    """
    if asked is not None and asked not in DIALECTS:
        raise DataFormatError(f"Unknown format {asked!r}: choose one of {', '.join(DIALECTS)}.")
    named = asked or source.dialect
    if source.path.is_dir():
        found = {one.NAME: one.recognise_folder(source.path) for one in OF_FOLDERS if named in (None, one.NAME)}
        chosen = next((name for name, reason in found.items() if reason), None)
        if chosen is None:
            raise DataFormatError(
                f"{source.path}: it has neither meta/info.json of LeRobot nor folders with images or videos. Name the "
                "annotation file."
            )
        return DIALECTS[chosen], found[chosen] or "", DIALECTS[chosen].records(source.path)
    records = read_records(source.path)
    head = list(islice(records, SAMPLED))
    if not head:
        raise DataFormatError(f"{source.path}: the file must have at least one sample.")
    rows: Iterator[Raw] = chain(head, records)
    if source.first is not None:
        rows = islice(rows, source.first)
    if source.last is not None:
        rows = iter(deque(rows, maxlen=source.last))
    if named is not None:
        return DIALECTS[named], "it was named" if asked else "dataset_info.json names it", rows
    name, reason = recognise(source.path, [raw.record for raw in head])
    return DIALECTS[name], reason, rows


def recognise(path: Path, records: Sequence[Any]) -> tuple[str, str]:
    """Return the name of the format that these records have, and the reason.

    Raises:
        DataFormatError: no format fits, or several.
    """
    found = {dialect.NAME: dialect.recognise(records) for dialect in OF_RECORDS}
    fits = {name: reason for name, reason in found.items() if reason}
    if len(fits) == 1:
        return next(iter(fits.items()))
    if fits:
        listed = "; ".join(f"{name} ({reason})" for name, reason in fits.items())
        raise DataFormatError(f"{path}: several formats fit: {listed}. Name one with --format.")
    keys = ", ".join(sorted(records[0])[:12]) if isinstance(records[0], dict) else type(records[0]).__name__
    raise DataFormatError(
        f"{path}: no known format fits its first records, which have {keys}. Name the format with --format: "
        f"{', '.join(DIALECTS)}."
    )
