"""Read records one by one: JSON lists, JSONL, Parquet, CSV and TSV.                                        Lesson 5

Files are streamed, never loaded whole. A record of a JSON file keeps its text, so that another process can parse it.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fvv_lib.data.annotations import read_json_lines, read_json_list
from fvv_lib.errors import DataFormatError, reason_of

ROWS_AT_ONCE = 16  # of Parquet: a row may hold a whole video
MOST_CELL = 2**24  # characters in a cell of a table


class Raw(NamedTuple):
    """A record, and its JSON text if the file has one."""

    text: str | None
    record: Any


class Row(dict):
    """A row of a table of text."""

    is_row = True


def read_records(path: Path) -> Iterator[Raw]:
    """Yield the records of a file: of `.jsonl`, `.parquet`, `.csv` or `.tsv`; any other file is a JSON list.

    Raises:
        DataFormatError: the file cannot be read; names it, and the line if it is known.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from _read_parquet(path)
        elif suffix in (".csv", ".tsv"):
            yield from _read_table(path, "\t" if suffix == ".tsv" else ",")
        else:
            read = read_json_lines if suffix == ".jsonl" else read_json_list
            for text, record in read(path, packed=True):
                yield Raw(text, record)
    except OSError as error:
        raise DataFormatError(f"{path}: it cannot be read ({reason_of(error)}). Check the path.") from error


def _read_parquet(path: Path) -> Iterator[Raw]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    yield Raw(None, row)
    except pa.ArrowException as error:
        raise DataFormatError(f"{path}: it cannot be read as Parquet ({error}). Write it again.") from error


def _read_table(path: Path, delimiter: str) -> Iterator[Raw]:
    csv.field_size_limit(MOST_CELL)
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise DataFormatError(
                        f"{path}, line {reader.line_num}: it has not as many cells as the first line has names. Put "
                        'cells with a separator or a line break in quotes: "a, b".'
                    )
                yield Raw(None, Row(row))
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataFormatError(
                f"{path}, line {reader.line_num}: {error}. Write it as UTF-8, with a line for each sample."
            ) from error
