"""`fvv check`: read a data set as training does, and list its problems, each with its remedy.                 Lesson 5

    fvv check train.json --model_name_or_path data_samples/tiny-fastvlm

It accepts every data setting of `fvv finetune`, so it checks exactly what training would read.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from fvv_lib.cli.finetune import training_flag_names
from fvv_lib.cli.flags import flags_of, parse, take
from fvv_lib.cli.starting import quick_imports
from fvv_lib.errors import DataFormatError, FvvError
from fvv_lib.settings import DataArguments


@dataclass(frozen=True)
class CheckOptions:
    """Check annotation files and all media that they name. The exit code is 1 if there is a problem."""

    model_name_or_path: str = field(metadata={"help": "The model that will be trained; its weights are not loaded."})
    data: list[str] = field(
        default_factory=list,
        metadata={"positional": True, "help": "Annotation files in LLaVA format; the same as --data_path."},
    )
    model_max_length: int | None = field(
        default=None,
        metadata={"help": "Maximum number of tokens in a sample, frames included; default: the model's limit."},
    )
    workers: int | None = field(default=None, metadata={"help": "Videos to read in parallel; default: one per core."})
    report: Path | None = field(
        default=None,
        metadata={"help": "Write a record of each sample, with its number of tokens, to this .json or .csv file."},
    )
    histograms: Path | None = field(
        default=None,
        metadata={"help": "Write histograms of durations, sizes and token counts to this .png, .pdf or .svg file."},
    )
    write_clean: Path | None = field(
        default=None,
        metadata={
            "help": "Write the good samples of the training data to this .json file, and the names of the others to a "
            "file beside it. Media paths do not change, so without image_folder the file must be beside the annotation "
            "file."
        },
    )

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise FvvError(f"workers must be at least 1, got {self.workers}.")


def main(arguments: list[str]) -> bool:
    """Return True (exit code 1) if there is a problem."""
    options, asked = _parse(arguments)
    data_args = replace(asked, bad_samples="skip", check_media=True)  # every bad sample is listed
    with quick_imports():
        from fvv_lib.data.report import (
            check_data,
            check_outputs,
            format_ignored,
            format_problems,
            ignored_fields,
            write_clean,
            write_histograms,
            write_report,
        )
        from fvv_lib.data.splits import open_splits
        from fvv_lib.model.geometry import make_frame_spec
        from fvv_lib.weights.loading import open_model_folder

    check_outputs(data_args, options.report, options.histograms, options.write_clean)
    opened = open_model_folder(options.model_name_or_path)
    frame_spec = make_frame_spec(opened, data_args.video_config(opened.image_processor), options.model_max_length)
    datasets = open_splits(opened.tokenizer, data_args, frame_spec=frame_spec)
    by_split = {name: check_data(data, options.workers, media=asked.check_media) for name, data in datasets.items()}
    reports = sorted((report for split in by_split.values() for report in split), key=lambda one: not one.problem)
    print(format_problems(reports))
    ignored = ignored_fields(sample for data in datasets.values() for sample in data.samples)
    if ignored:
        print(format_ignored(ignored))
    if options.report:
        write_report(options.report, reports)
    if options.histograms:
        write_histograms(options.histograms, reports, frame_spec.max_length)
    if options.write_clean:
        kept = write_clean(options.write_clean, datasets["train"], by_split["train"])
        print(f"{kept} good samples written to {options.write_clean}")
    return any(report.problem for report in reports)


def _parse(arguments: list[str]) -> tuple[CheckOptions, DataArguments]:
    """Return the options of this verb, and the data settings."""
    flags = [*flags_of(CheckOptions), *flags_of(DataArguments)]
    settings = parse(flags, arguments, "check", CheckOptions.__doc__ or "", training_flag_names())
    options = CheckOptions(**take(CheckOptions, settings))
    settings["data_path"] = [*options.data, *settings.get("data_path", [])]
    if not settings["data_path"]:
        raise DataFormatError("Nothing to check: give at least one annotation file.")
    return options, DataArguments(**settings)
