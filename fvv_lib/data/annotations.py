"""Annotation files: read samples in LLaVA's format one by one, and check them.                             Lesson 5

A sample has `image` or `video` (see `media_of`) and `conversations`. Other fields are allowed and may
differ from sample to sample, except fields whose name says that training should read them (`refused`). A null field
counts as missing, in every format. Files are streamed, never loaded whole. This module opens no image or video.
"""

import codecs
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from fvv_lib.data.refused import MEDIA_TAG, check_keys, closest
from fvv_lib.errors import DataFormatError, FvvError
from fvv_lib.far import hold
from fvv_lib.files import Location, locate, shown, slash_hint
from fvv_lib.prompt.placeholders import DEFAULT_IMAGE_TOKEN
from fvv_lib.prompt.templates import check_turns
from fvv_lib.video.medium import Medium

Sample = dict[str, Any]

CHUNK = 2**20  # characters of a JSON list to read at a time
DECODER, SPACE = json.JSONDecoder(), re.compile(r"[ \t\n\r]*")
to_json = json.JSONEncoder(ensure_ascii=False).encode
MALFORMED = (ValueError, RecursionError)  # wrong syntax, not UTF-8, a number of thousands of digits; nested too deeply
MAX_DEPTH = 100  # lists and objects in each other; the depth at which Python's parser fails depends on its caller
TOO_DEEP = f"lists and objects are nested more than {MAX_DEPTH} levels deep"


def read_annotations(path: str | Location) -> Iterator[tuple[str, Sample]]:
    """Yield the samples of an annotation file, each as JSON text and as parsed content.

    The file may be at a URL. `.jsonl` has one sample per line, `.parquet` one per row. Any other file is a JSON list of
    samples. A byte order mark is skipped. Null fields of samples and of their turns are left out.

    Raises:
        DataFormatError: the file has no samples, cannot be read, or nests fields more than `MAX_DEPTH` levels deep;
            names the file, and the line if it is known.

    Lesson: 05.
    """
    readers = {".jsonl": read_json_lines, ".parquet": _read_parquet}
    path = locate(path)
    with one_version(path):
        yield from _checked(path, readers.get(path.suffix.lower(), read_json_list)(path))


@contextmanager
def one_version(path: str | Location) -> Iterator[None]:
    """Keep an annotation file open, if it is at a URL, so that the body reads it once and as it is now. Turn an OSError
    into a DataFormatError, or into an FvvError if a server does not answer."""
    path = locate(path)
    try:
        with hold(path):
            yield
    except ConnectionError as error:
        raise FvvError(f"{path}: {error.strerror}.") from None
    except FileNotFoundError as error:
        raise DataFormatError(f"{path}: no such annotation file. Check the path.{slash_hint(path)}") from error
    except OSError as error:
        raise DataFormatError(
            f"{path}: it cannot be read ({error.strerror}). Check that it is a file, and its permissions."
        ) from error


def _checked(path: Location, samples: Iterator[tuple[str, Sample]]) -> Iterator[tuple[str, Sample]]:
    """Yield the samples of a file without null fields, after checking that there is one and that none is too deep."""
    first = next(samples, None)
    if first is None:
        raise DataFormatError(f"{path}: the file must have at least one sample.")
    for place, (text, sample) in enumerate(chain([first], samples)):
        if text.count("[") + text.count("{") > MAX_DEPTH and _depth(sample) > MAX_DEPTH:
            raise DataFormatError(f"{path}, sample {place}: {TOO_DEEP}. Remove the field.")
        without = _without_nulls(sample)
        yield (text if without is sample else json.dumps(without)), without


def _depth(sample: Sample) -> int:
    """Return how deeply lists and objects are nested in a sample, itself included."""
    depth = 0
    level: list[Any] = [sample]
    while level:
        depth += 1
        inner = chain.from_iterable(one.values() if isinstance(one, dict) else one for one in level)
        level = [one for one in inner if isinstance(one, dict | list)]
    return depth


def _without_nulls(sample: Sample) -> Sample:
    """Return the sample without null fields, its own and those of its turns; the same object if it has none."""
    turns = sample.get("conversations")
    turns = turns if isinstance(turns, list) else []
    if not any(isinstance(fields, dict) and None in fields.values() for fields in [sample, *turns]):
        return sample
    without = _filled(sample)
    if turns:
        without["conversations"] = [_filled(turn) if isinstance(turn, dict) else turn for turn in turns]
    return without


def _filled(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def turns_of(sample: Sample) -> list[dict[str, Any]]:
    """Return the turns of a sample as templates render them: the first has the system prompt of the sample, if any."""
    if not sample.get("system"):
        return sample["conversations"]
    first, *others = sample["conversations"]
    return [{**first, "system": sample["system"]}, *others]


def media_of(sample: Sample, name: str = "sample") -> list[Medium]:
    """Return the images and videos of a sample, with paths as it writes them.

    Under `image` or `video` it has a path of a file or of a folder of frames; or an object, for a video whose frames
    are files: `{"frames": a folder or a list of paths, "fps": 8}`; or a list of these. `start` and `end` say which part
    of a video is used, see `Medium`. If the sample has several videos, each is a list with one time for each of them,
    or null.

    Raises:
        DataFormatError: names the sample, the field, and what it accepts.
    """
    if "image" in sample and "video" in sample:
        raise DataFormatError(f"{name}: it has both 'image' and 'video'. Use one, with a list for several.")
    key = "image" if "image" in sample else "video"
    value = sample.get(key, [])
    entries = value if isinstance(value, list) else [value]
    if not entries:
        return []
    starts, ends = (_limits(sample, limit, len(entries), name) for limit in ("start", "end"))
    media = []
    for entry, start, end in zip(entries, starts, ends, strict=True):
        source, fps = _frames_of(entry, name) if isinstance(entry, dict) else (entry, None)
        if not (all(map(_is_path, source)) if isinstance(source, tuple) else _is_path(source)):
            raise DataFormatError(
                f"{name}: {key!r} must be a path or a list of paths, or {{'frames': [paths], 'fps': 8}} for a path, "
                f"got {shown(value)!r}. If the sample has none, take the field out."
            )
        try:
            media.append(Medium(source, start, end, fps))
        except FvvError as error:
            raise DataFormatError(f"{name}: {error}") from error
    return media


def _frames_of(entry: dict[str, Any], name: str) -> tuple[Any, Any]:
    """Return the source and the rate of a video whose frames are files."""
    frames, other = entry.get("frames"), sorted(set(entry) - {"frames", "fps"})
    if other or not frames:
        found = f"it has {other[0]!r}" if other else "its frames are missing"
        meant = closest(other[0], ("frames", "fps")) if other else None
        found += f" (did you mean {meant!r}?)" if meant else ""
        raise DataFormatError(
            f"{name}: a video of images must be {{'frames': a folder or a list of paths, 'fps': 8}}, but {found}. "
            "Write 'start' and 'end' beside 'video'."
        )
    if isinstance(frames, list):
        return tuple(frames), entry.get("fps")
    return frames, 1.0 if entry.get("fps") is None else entry["fps"]  # with a rate it must be a folder


def _limits(sample: Sample, limit: str, count: int, name: str) -> list[Any]:
    """Return the `start` or `end` of each of `count` videos."""
    value = sample.get(limit)
    if value is None:
        return [None] * count
    if not isinstance(value, list):
        value = [value]
    if len(value) != count:
        raise DataFormatError(
            f"{name}: {limit!r} must have one time for each of the {count} images and videos, or null, in a list; got "
            f"{str(sample[limit])[:300]}."
        )
    return value


def _is_path(path: Any) -> bool:
    """Return whether this is a path that names something: "", "." and ".." do not."""
    return isinstance(path, str) and os.path.basename(path.strip().rstrip("/")) not in ("", ".", "..")


def check_sample(sample: Sample, name: str, text: str | None = None) -> None:
    """Check that a sample is valid Unicode, that its turns and fields are well-formed (see `check_turns` and
    `check_keys`), and that it names one image or video for each `<image>`.

    Args:
        text: the sample as `to_json` writes it, if that is known.

    Raises:
        DataFormatError: names the sample and the remedy.
    """
    try:
        (to_json(sample) if text is None else text).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise DataFormatError(
            f"{name}: its text is not valid Unicode: {half} is half of a surrogate pair. Write the file again as "
            "UTF-8, or take the sample out."
        ) from error
    if "conversations" not in sample:
        raise DataFormatError(f"{name}: it has no 'conversations'{_instead(sample)}")
    check_turns(sample["conversations"], name)
    check_keys(sample, name)
    if sample.get("system", "") != "":
        check_system(sample["system"], name)
    media = media_of(sample, name)
    texts = [turn["value"] for turn in sample["conversations"]]
    placeholders = sum([text.count(DEFAULT_IMAGE_TOKEN) for text in texts])
    if placeholders != len(media):
        tags = [tag[0] for tag in map(MEDIA_TAG.search, texts) if tag]
        instead = f", in place of {tags[0]!r}, which training does not read" if tags else ""
        raise DataFormatError(
            f"{name}: its text has {placeholders} {DEFAULT_IMAGE_TOKEN} but {len(media)} pictures or videos. "
            f"Write one {DEFAULT_IMAGE_TOKEN} where each belongs{instead}."
        )


def _instead(sample: Sample) -> str:
    """Return the end of a sentence about a sample without a conversation: what it has, and the remedy."""
    meant = [key for key in sample if closest(key, ("conversations",))]
    if meant:
        return f", but {meant[0]!r}: rename this field."
    return (
        f", only {', '.join(map(repr, sample))[:300] or 'no fields'}. Write a list of turns, human first, then gpt. "
        "If the file has the format of another project, convert it with fvv prepare."
    )


def check_system(system: Any, name: str) -> None:
    """Check that a system prompt is a text with words, and without images.

    Raises:
        DataFormatError: names the sample.
    """
    if not isinstance(system, str) or not system.strip() or DEFAULT_IMAGE_TOKEN in system:
        raise DataFormatError(
            f"{name}: 'system' must be a text without {DEFAULT_IMAGE_TOKEN}, got {str(system)[:80]!r}. Without it, "
            "the system prompt is that of the template."
        )


def read_json_lines(path: Location, packed: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield text and content of each line of a JSONL file. Skip empty lines. With `packed`, a line may be a list."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(codecs.BOM_UTF8)  # each of several joined files may have one
            if not line.strip():
                continue
            try:
                text = line.decode("utf-8")
                sample = json.loads(text)
            except MALFORMED as error:
                raise DataFormatError(f"{path}: not valid JSON (line {number}: {_reason(error)}).") from error
            if not isinstance(sample, dict) and not (packed and isinstance(sample, list)):
                raise DataFormatError(f"{path}, line {number}: each line must be a sample, a JSON object.")
            yield text, sample


def _reason(error: Exception) -> str:
    """Return why a text cannot be parsed, without its position."""
    if isinstance(error, RecursionError):
        return TOO_DEEP
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


class _ListReader:
    """Read a JSON list piece by piece. Holds a piece of the text, the line it begins in, and the position in it."""

    def __init__(self, path: Location, file: TextIO):
        self.path, self.file = path, file
        self.text, self.position, self.line, self.ended = "", 0, 1, False

    def read_on(self) -> None:
        """Append the next piece. The text doubles while the current element does not end in it."""
        self.line += self.text.count("\n", 0, self.position)
        self.text, self.position = self.text[self.position :], 0
        try:
            piece = self.file.read(max(CHUNK, len(self.text)))
        except UnicodeDecodeError as error:
            raise self.wrong(f"in this line or a later one, {error}", len(self.text)) from error
        self.text, self.ended = self.text + piece, not piece

    def next_character(self) -> str:
        """Return the next character that is not whitespace; empty at the end of the file."""
        while True:
            self.position = SPACE.match(self.text, self.position).end()  # type: ignore[union-attr]  # it always matches
            if self.position < len(self.text) or self.ended:
                return self.text[self.position : self.position + 1]
            self.read_on()

    def next_element(self) -> tuple[str, Any]:
        """Return text and content of the object or list that begins at the current position."""
        while True:
            try:
                sample, end = DECODER.raw_decode(self.text, self.position)
            except MALFORMED as error:
                if self.ended:
                    raise self.wrong(_reason(error), getattr(error, "pos", self.position)) from error
                self.read_on()
            else:
                text = self.text[self.position : end]
                self.position = end
                return text, sample

    def line_of(self, position: int) -> int:
        return self.line + self.text.count("\n", 0, position)

    def wrong(self, reason: str, position: int) -> DataFormatError:
        where = f"line {self.line_of(position)}"
        return DataFormatError(f"{self.path}: not valid JSON ({where}: {reason}). Check the JSON in that line.")


def read_json_list(path: Location, packed: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield text and content of each element of a JSON list. With `packed`, an element may be a list of samples."""
    no_list = "the file must be a list of at least one sample, each a JSON object"
    with path.open("rb") as content, io.TextIOWrapper(content, encoding="utf-8-sig") as file:
        reader = _ListReader(path, file)
        if reader.next_character() != "[":
            raise DataFormatError(f"{path}: {no_list}. If each line is a sample, rename the file to .jsonl.")
        reader.position += 1
        ends = reader.next_character() == "]"
        if ends:
            reader.position += 1
        while not ends:
            if reader.next_character() not in (("{", "[") if packed else ("{",)):
                raise DataFormatError(
                    f"{path}: {no_list}. Expected a sample in line {reader.line_of(reader.position)}."
                )
            yield reader.next_element()
            mark = reader.next_character()
            if mark not in {",", "]"}:
                raise reader.wrong("',' or ']' is expected after a sample", reader.position)
            reader.position += 1
            ends = mark == "]"
        if reader.next_character():
            raise reader.wrong("there is text after the end of the list", reader.position)


def _read_parquet(path: Location) -> Iterator[tuple[str, Sample]]:
    """Yield JSON text and content of each row. A column that a row does not have is null."""
    try:
        with path.open("rb") as content, pq.ParquetFile(content) as file:
            for batch in file.iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    yield json.dumps(row, ensure_ascii=False), row
    except pa.ArrowException as error:
        raise DataFormatError(f"{path}: it cannot be read as Parquet ({error}). Write it again.") from error
    except TypeError as error:  # from json.dumps
        raise DataFormatError(f"{path}: a column has values that JSON cannot hold ({error}). Remove it.") from error
