"""`fvv prepare`: write annotations of any known format as annotation files of this library.                Lesson 5

fvv prepare their.jsonl --media_root videos --output train.json --validation 0.05 --test 0.05
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from fvv_lib.cli.flags import flags_of, parse
from fvv_lib.cli.starting import quick_imports
from fvv_lib.errors import FvvError


@dataclass(frozen=True)
class PrepareSettings:
    """Write annotations of any known format as annotation files of this library. The format is recognised from their
    content."""

    paths: list[str] = field(
        metadata={
            "positional": True,
            "help": "Annotation files, folders, or lists of data sets (dataset_info.json, InternVL's meta file, "
            "LLaVA-NeXT's YAML). a.json%50 is half of a.json.",
        }
    )
    output: Path = field(
        metadata={
            "help": "The .json or .jsonl file to write. Held-out data and the report get its name, too: "
            "train.validation.json, train.test.json, train.import.json."
        }
    )
    format: str | None = field(
        default=None, metadata={"help": "Format of the inputs, like llama-factory; default: recognised."}
    )
    media_root: list[str] = field(
        default_factory=list,
        metadata={"help": "Folders that media paths start from; default: the folder of each input."},
    )
    columns: list[str] = field(
        default_factory=list,
        metadata={"help": "For a CSV or TSV file: which column has what, like video=path answer=label."},
    )
    question: str | None = field(
        default=None, metadata={"help": "Question for records that have an answer only: captions, classes, tasks."}
    )
    answer: str = field(default="{}", metadata={"help": "Answer for classes, like 'It is {}.'."})
    one_question_per_sample: bool = field(
        default=False, metadata={"help": "Write each question of a dialogue as a sample of its own."}
    )
    validation: float = field(
        default=0.0, metadata={"help": "Share of the samples for validation. No video is in two files."}
    )
    test: float = field(default=0.0, metadata={"help": "Share of the samples for the test set."})
    group: str | None = field(
        default=None, metadata={"help": "A field of the records; those with the same value stay in the same file."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the choice of validation and test videos."})
    strict: bool = field(
        default=False, metadata={"help": "Stop if anything of a record cannot be kept, such as audio or tools."}
    )
    bad_samples: str = field(
        default="raise", metadata={"help": "For a record that cannot be used: raise an error, or skip it."}
    )
    workers: int | None = field(default=None, metadata={"help": "Processes; default: one per core."})
    cache_dir: str | None = field(
        default=None, metadata={"help": "Folder for digests of videos; default: the cache of datasets."}
    )

    def __post_init__(self) -> None:
        wrong = [word for word in self.columns if not all(word.partition("="))]
        if wrong:
            raise FvvError(f"columns must be like video=path, got {wrong[0]!r}.")
        if self.workers is not None and self.workers < 1:
            raise FvvError(f"workers must be at least 1, got {self.workers}.")


def main(arguments: list[str]) -> None:
    settings = PrepareSettings(**parse(flags_of(PrepareSettings), arguments, "prepare", PrepareSettings.__doc__ or ""))
    with quick_imports():
        from fvv_lib.data.importing.run import import_annotations

    values = asdict(settings)
    columns = dict(word.split("=", 1) for word in settings.columns)
    print(import_annotations(values.pop("paths"), values.pop("output"), **{**values, "columns": columns}))
