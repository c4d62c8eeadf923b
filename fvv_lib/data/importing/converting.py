"""Turn records of another format into our samples, a batch at a time, in any process.                      Lesson 5

A batch depends on nothing but its records and the settings, so several processes give what one gives. This module
writes no annotation file.
"""

import gc
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from fvv_lib.data.annotations import check_sample, to_json
from fvv_lib.data.importing.draft import Clip, Draft, Options, Turn, split_questions
from fvv_lib.data.importing.media import MediaFinder
from fvv_lib.data.importing.sources import DIALECTS
from fvv_lib.data.refused import KNOWN_OF_TURN, READ, check_keys, find_mark, says_what_is_learned
from fvv_lib.errors import DataFormatError, NotKeptError

RESERVED = ("id", *READ)  # fields of a sample that only the format of a record may fill


@dataclass(frozen=True)
class Conversion:
    """How the records of a source become samples.

    Attributes:
        path: the source, as messages name it.
        name: what ids begin with if records have none.
        dialect: the name of its format.
        roots, folder: see `MediaFinder`.
        group: the field of a record that says what must stay in one split.
    """

    path: Path
    name: str
    dialect: str
    options: Options
    roots: tuple[Path, ...]
    folder: Path
    group: str | None = None
    strict: bool = False
    skip: bool = False

    @cached_property
    def finder(self) -> MediaFinder:
        return MediaFinder(self.roots, self.folder)


class Made(NamedTuple):
    """A sample: its id, the rest of its JSON text, and what decides its split."""

    id: str
    text: str
    media: tuple[str, ...]
    group: str
    stratum: str


@dataclass
class Outcome:
    """What became of records.

    Attributes:
        lost: what samples do not keep, counted by kind.
        not_kept: records that are not samples because of what they have: kind -> names.
        bad: records with an error: name -> message.
        found: how media were found that are not where the record says.
    """

    made: list[Made] = field(default_factory=list)
    records: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    not_kept: dict[str, list[str]] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    found: Counter[str] = field(default_factory=Counter)


def convert(conversion: Conversion, first: int, records: Sequence[Any]) -> Outcome:
    """Convert records, of which the first has this number in its source. A record is JSON text, or parsed.

    Raises:
        DataFormatError: a record cannot be used, unless `skip`; names the source, the record, and the remedy.
    """
    outcome = Outcome(records=len(records))
    conversion.finder.found.clear()
    with _without_collecting():
        _convert_each(conversion, first, records, outcome)
    outcome.found = Counter(conversion.finder.found)
    return outcome


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Keep the garbage collector off: a batch makes thousands of objects and no cycles. It is a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _convert_each(conversion: Conversion, first: int, records: Sequence[Any], outcome: Outcome) -> None:
    for number, record in enumerate(records, first):
        try:
            parsed = json.loads(record) if isinstance(record, str) else record
            outcome.made += _samples(conversion, parsed, number, outcome)
        except NotKeptError as error:
            if conversion.strict:
                raise NotKeptError(
                    f"{_name(conversion, number)}: it has {error}, which training does not use. Take it out, or leave "
                    "--strict out to count such records."
                ) from error
            outcome.not_kept.setdefault(str(error), []).append(_name(conversion, number))
        except DataFormatError as error:
            if not conversion.skip:
                raise DataFormatError(f"{_name(conversion, number)}: {error}") from error
            outcome.bad[_name(conversion, number)] = str(error)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            message = f"it is not as format {conversion.dialect} has it ({type(error).__name__}: {error})."
            if not conversion.skip:
                raise DataFormatError(f"{_name(conversion, number)}: {message}") from error
            outcome.bad[_name(conversion, number)] = message


def _name(conversion: Conversion, number: int) -> str:
    return f"{conversion.path}, record {number}"


def _samples(conversion: Conversion, record: Any, number: int, outcome: Outcome) -> list[Made]:
    """Return the samples of a record."""
    options = conversion.options
    drafts = list(DIALECTS[conversion.dialect].drafts(record, options))
    if options.one_question_per_sample:
        drafts = [one for draft in drafts for one in split_questions(draft)]
    if not drafts:
        raise DataFormatError("it has no question with an answer.")
    made = []
    all_lost: list[str] = []
    for place, draft in enumerate(drafts):
        own = f"{conversion.name}-{number}" if draft.id is None else str(draft.id)
        if draft.id is None and len(drafts) > 1:
            own += f"-{place}"
        lost = list(draft.lost)
        made.append(_make(conversion, record, draft, own, lost))
        if lost and conversion.strict:
            raise DataFormatError(f"it has {', '.join(lost)}, which a sample does not keep. Take them out.")
        all_lost += lost
    outcome.lost.update(all_lost)
    return made


def _make(conversion: Conversion, record: Any, draft: Draft, own: str, lost: list[str]) -> Made:
    """Look up the media of a draft, and return it as a sample that passes every check of its text. Append to `lost`
    which fields the sample does not keep."""
    sample, files = _shown(conversion.finder, draft.media)
    if draft.system:
        sample["system"] = draft.system
    shown = {"video": True} if files else {}
    sample["conversations"] = [_kept_of_turn(turn, shown, lost) if len(turn) > 2 else turn for turn in draft.turns]
    for key, value in draft.fields.items():
        if key not in RESERVED and _is_note({**shown, key: value, "conversations": []}, value):
            sample[key] = value
        else:
            lost.append(f"field {key!r}")
    text = to_json(sample)
    check_sample(sample, "it", text)
    for turn in draft.turns:
        if mark := find_mark(turn["value"], None):
            raise DataFormatError(f"its text has {mark!r}, which training does not read. Take it out.")
    stratum = draft.stratum or " ".join(map(str, sample.get("kinds", ())))
    return Made(own, text, tuple(files), _group(conversion, record), stratum)


def _kept_of_turn(turn: Turn, shown: Mapping[str, bool], lost: list[str]) -> Turn:
    """Return the turn with the fields that a sample keeps. What says in another way what is learned is an error."""
    kept = {}
    for key, value in turn.items():
        if (
            key in KNOWN_OF_TURN
            or says_what_is_learned(key)
            or _is_note({**shown, "conversations": [{key: value}]}, value)
        ):
            kept[key] = value
        else:
            lost.append(f"field {key!r} of a turn")
    return kept


def _is_note(sample: Mapping[str, Any], value: Any) -> bool:
    """Return whether a sample may have a field: text, numbers or lists of them that nobody takes for something that
    training reads."""
    try:
        check_keys(sample, "it")
    except DataFormatError:
        return False
    return _is_plain(value)


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, list) else isinstance(value, str | int | float)


def _group(conversion: Conversion, record: Any) -> str:
    if conversion.group is None:
        return ""
    value = record.get(conversion.group) if isinstance(record, dict) else None
    if value is None or value == "":
        raise DataFormatError(f"it has no {conversion.group!r}, which says what must stay in one split.")
    return str(value)


def _shown(finder: MediaFinder, media: Sequence[Clip]) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of a sample that say what it shows, and all files that these name."""
    entries: list[Any] = []
    files: list[str] = []
    for clip in media:
        if isinstance(clip.source, tuple):
            frames = [_found(finder, frame, clip.name, False) for frame in clip.source]
            entries.append({"frames": frames} if clip.fps is None else {"frames": frames, "fps": clip.fps})
            files += frames
        else:
            entries.append(_found(finder, clip.source, clip.name, clip.is_video))
            files.append(entries[-1])
    if not entries:
        return {}, files
    is_one = len(entries) == 1
    fields = {"video" if any(clip.is_video for clip in media) else "image": entries[0] if is_one else entries}
    for limit, times in (("start", [clip.start for clip in media]), ("end", [clip.end for clip in media])):
        if any(time is not None for time in times):
            fields[limit] = times[0] if is_one else times
    return fields, files


def _found(finder: MediaFinder, source: str | bytes, name: str, is_video: bool) -> str:
    return finder.write(source, name) if isinstance(source, bytes) else finder.find(source, is_video)
