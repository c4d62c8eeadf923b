"""Check a data set before it is trained on: every annotation, every picture and video, every token budget. Lesson 5

    python -m fvv_lib.check train.json --model_name_or_path data_samples/tiny-fastvlm

reads what training would read and prints a table of what is wrong, each with its remedy. The exit code is 1 when
anything is.
"""

import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tyro
from accelerate import init_empty_weights
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from fvv_lib.arguments import DataArguments, VideoConfig
from fvv_lib.dataset import LazySupervisedDataset
from fvv_lib.decoding import is_video
from fvv_lib.errors import FvvError, TokenBudgetError
from fvv_lib.images import processor_size
from fvv_lib.loading import open_checkpoint, tokens_per_frame


@dataclass(frozen=True)
class MediaReport:
    """One picture or video: seconds (0 for a picture), frames, and size in pixels."""

    path: str
    seconds: float
    frames: int
    width: int
    height: int


@dataclass(frozen=True)
class SampleReport:
    """One sample: its name, its expanded length in tokens, its media, and the error that it would raise (or none).
    `index` is its place in the dataset; None where the dataset has left it out."""

    name: str
    tokens: int = 0
    media: list[MediaReport] = field(default_factory=list)
    kind: str = ""
    problem: str = ""
    index: int | None = None


def check_data(dataset: LazySupervisedDataset, workers: int | None = None, quiet: bool = False) -> list[SampleReport]:
    """Read every sample as training would, in parallel; a report for each, the bad ones first.

    Args:
        dataset: made with `bad_samples="skip"`, so that it lists bad annotations instead of raising at the first.
        workers: videos read at a time; default: one per core.

    Lesson: 05.
    """
    reports = [SampleReport(name, kind=_kind(error), problem=str(error)) for name, error in dataset.bad.items()]
    reports += [
        SampleReport(
            name, kind="LabelMismatchError", problem=f"{name}: dropped by mismatch={dataset.data_args.mismatch!r}"
        )
        for name in dataset.dropped
    ]
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        rest = pool.map(lambda index: _inspect(dataset, index), range(len(dataset)))
        reports += tqdm(rest, total=len(dataset), desc="checking", disable=quiet or None)
    return sorted(reports, key=lambda report: not report.problem)


def _kind(error: FvvError) -> str:
    return type(error).__name__


def _inspect(dataset: LazySupervisedDataset, index: int) -> SampleReport:
    name, tokens = dataset.names[index], int(dataset.lengths[index])
    media: list[MediaReport] = []
    videos = []
    try:
        for path in dataset.media(index):
            videos.append(video := dataset.read_all(path, index))
            height, width = video.frames.shape[1:3]
            seconds = round(video.duration, 3) if is_video(path) else 0.0
            media.append(MediaReport(str(path), seconds, video.total_frames, width, height))
        tokens = dataset.measure(index, videos)
    except FvvError as error:
        return SampleReport(name, tokens, media, _kind(error), str(error), index)
    return SampleReport(name, tokens, media, index=index)


def format_problems(reports: Sequence[SampleReport], limit: int = 20) -> str:
    """A table: how many of each kind of error, then the first `limit` errors, each with its remedy."""
    bad = [report for report in reports if report.problem]
    lines = [f"{len(reports)} samples, {len(bad)} bad"]
    lines += [f"{count:>7} {kind}" for kind, count in Counter(report.kind for report in bad).most_common()]
    lines += [f"  {report.problem}" for report in bad[:limit]]
    if len(bad) > limit:
        lines.append(f"  and {len(bad) - limit} more; --report FILE lists all")
    return "\n".join(lines)


def write_report(path: Path, reports: Sequence[SampleReport]) -> None:
    """One record for each sample, as JSON or CSV by the file's extension."""
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


def _configure(args: DataArguments, path: str, max_length: int | None) -> PreTrainedTokenizerBase:
    """Let the settings agree with a checkpoint, as training does; returns its tokenizer."""
    checkpoint = open_checkpoint(path)
    args.image_size = processor_size(checkpoint.image_processor)
    with init_empty_weights():
        model = checkpoint.model_class(checkpoint.config)
    model.video_config = VideoConfig(frame_pool=args.frame_pool)
    args.tokens_per_frame = tokens_per_frame(model, args.image_size)
    limit = checkpoint.context_len
    if max_length is not None and not 1 <= max_length <= limit:
        raise TokenBudgetError(f"model_max_length={max_length}: the checkpoint reads 1 to {limit} positions.")
    args.max_length = max_length or limit
    return checkpoint.tokenizer


def _check_outputs(
    data: list[str], image_folder: str | None, report: Path | None, histograms: Path | None, write_clean: Path | None
) -> None:
    """What is written in the end can be written, and will be of use: asked before hours of reading."""
    taken = {Path(file).resolve() for file in data}
    for name, path, suffixes in (
        ("report", report, (".json", ".csv")),
        ("histograms", histograms, (".png", ".pdf", ".svg")),
        ("write_clean", write_clean, (".json",)),
        ("write_clean", write_clean and _dropped(write_clean), (".json",)),
    ):
        if path is None:
            continue
        if path.suffix not in suffixes:
            raise FvvError(f"{name}: {path} must end with {' or '.join(suffixes)}.")
        if not os.access(path.absolute().parent, os.W_OK):
            raise FvvError(f"{name}: the folder of {path} does not exist, or nothing may be written there.")
        if path.is_dir():
            raise FvvError(f"{name}: {path} is a folder: give the name of a file.")
        if path.resolve() in taken:
            raise FvvError(f"{path} is asked for twice, or is an annotation file that is checked: choose another name.")
        taken.add(path.resolve())
    if write_clean and image_folder is None:
        folders = {Path(file).parent.resolve() for file in data}
        if folders != {write_clean.parent.resolve()}:
            raise FvvError(
                "write_clean: without an image_folder, paths of media start from the folder of the annotation file, "
                f"and {write_clean} is not in it: write it there, or give --image_folder, now and in training."
            )


def _dropped(write_clean: Path) -> Path:
    return write_clean.with_suffix(".dropped.json")


def main(
    data: tyro.conf.Positional[list[str]],
    model_name_or_path: str,
    image_folder: str | None = None,
    num_video_frames: int = 8,
    frame_sampling: str = "uniform",
    version: str = "qwen_2",
    time_marks: str = "none",
    frame_pool: int = 1,
    model_max_length: int | None = None,
    decode_timeout: float = 60.0,
    workers: int | None = None,
    report: Path | None = None,
    histograms: Path | None = None,
    write_clean: Path | None = None,
) -> None:
    """Check annotation files and everything that they name.

    Args:
        data: annotation files in LLaVA's format.
        model_name_or_path: the checkpoint that will be trained; no model is made of it.
        image_folder: folder that paths start from; default: each annotation file's own.
        num_video_frames: frames taken from each video.
        frame_sampling: uniform, segment or random.
        version: the chat template.
        time_marks: none or seconds.
        frame_pool: tokens of a frame that are averaged, in each direction.
        model_max_length: positions a sample may take; default: what the checkpoint allows.
        decode_timeout: seconds that reading one video may take.
        workers: videos read at a time; default: one per core.
        report: write a record for each sample, its tokens among them, to this .json or .csv.
        histograms: write histograms of durations, sizes and token counts to this .png, .pdf or .svg.
        write_clean: write the good samples to this .json, and the names of the others beside it; paths of media stay
            as they are, so it must be in the folder of the annotation file if there is no image_folder.
    """
    try:
        _check_outputs(data, image_folder, report, histograms, write_clean)
        args = DataArguments(
            data_path=data,
            image_folder=image_folder,
            num_video_frames=num_video_frames,
            frame_sampling=frame_sampling,
            version=version,
            time_marks=time_marks,
            frame_pool=frame_pool,
            bad_samples="skip",
            decode_timeout=decode_timeout,
        )
        tokenizer = _configure(args, model_name_or_path, model_max_length)
        dataset = LazySupervisedDataset(tokenizer, data, args)
        reports = check_data(dataset, workers)
    except FvvError as error:
        sys.exit(f"error: {error}")
    print(format_problems(reports))
    if report:
        write_report(report, reports)
    if histograms:
        from fvv_lib.plotting import plot_data

        media = [media for report in reports for media in report.media]
        plot_data(
            [video.seconds for video in media if video.seconds],
            [(one.width, one.height) for one in media],
            [report.tokens for report in reports if report.tokens],
            args.max_length,
        ).savefig(histograms)
    bad = {report.name: report.problem for report in reports if report.problem}
    if write_clean:
        kept = sorted(report.index for report in reports if report.index is not None and not report.problem)
        good = [dataset.samples[index] for index in kept]
        write_clean.write_text(json.dumps(good, indent=1) + "\n")
        _dropped(write_clean).write_text(json.dumps(bad, indent=1) + "\n")
        print(f"{len(good)} good samples written to {write_clean}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    tyro.cli(main)
