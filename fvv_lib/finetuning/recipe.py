"""Fine-tune a model, from settings to record.                                                             Lesson 6

`train` checks and tries the settings, and finds out where the run starts. Then `run` opens model and data, evaluates,
trains with transformers' Trainer, evaluates again, and writes the record. The other modules: `trying` tries settings,
`output` protects the folder, `comparing` compares runs, `preparing` opens model and data, `trainer` and `resume` extend
the Trainer, `record` writes the result.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import set_seed

from fvv_lib.arguments import TrainingArguments
from fvv_lib.data.dataset import LazySupervisedDataset
from fvv_lib.data.inspecting import known_files
from fvv_lib.errors import DataFormatError, FvvError
from fvv_lib.evaluation.answers import record_of
from fvv_lib.evaluation.questions import Question, read_questions
from fvv_lib.evaluation.report import NAME as REPORT
from fvv_lib.evaluation.report import Asked, write_report
from fvv_lib.evaluation.scoring import Answer, accuracy_by_kind, ask_and_score, reader_for
from fvv_lib.evaluation.strips import Strips
from fvv_lib.evaluation.summary import compare
from fvv_lib.finetuning.comparing import Identity, check_same_run, describe_settings, identify
from fvv_lib.finetuning.output import KEYS, RECORD, check_apart, check_empty, check_ours, clear, hold
from fvv_lib.finetuning.preparing import OpenedData, check_settings, open_data, open_model
from fvv_lib.finetuning.record import describe_run, find_finished, format_kept, format_table, write_record
from fvv_lib.finetuning.resume import STOPPED, find_checkpoint, read_identity, resumes_last
from fvv_lib.finetuning.trainer import Counter, TellLength, VideoTrainer
from fvv_lib.finetuning.trying import try_hub, try_settings
from fvv_lib.model.geometry import make_frame_spec
from fvv_lib.model.parts import count_parameters, format_parts
from fvv_lib.model.sharding import whole_parameters
from fvv_lib.private_api import save_without_upload
from fvv_lib.processes import tell_all
from fvv_lib.settings import DataArguments, ModelArguments
from fvv_lib.weights.loading import LoadedModel, build_processor


def train(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> dict[str, Any]:
    """Fine-tune a FastVLM on video, and return the content of `metrics.json`.

    `output_dir` gets the model (a folder that stock transformers loads), checkpoints, `metrics.json`, `answers.jsonl`
    with the answers to test questions, `report.html` and `loss.png`.
    If the run has already finished, resuming it only returns its record. Every process of a distributed run must call
    this function. Outside of the main thread, SIGTERM does not save a checkpoint.

    Raises:
        FvvError: a setting, a sample or a file is wrong; raised before the first step. Or the finished run cannot be
            uploaded.
        SystemExit: SIGTERM ended training. Its checkpoint is written, and the exit code is 143 (128 + SIGTERM).

    Lesson: 06.
    """
    check_settings(model_args, data_args, training_args)
    folder = Path(training_args.output_dir)
    check_apart(folder, model_args, data_args)
    try_settings(training_args)
    repository = tell_all(lambda: try_hub(training_args))
    settings = describe_settings(model_args, data_args, training_args)
    with ExitStack() as lock:
        begin = tell_all(lambda: begin_run(lock, folder, settings, training_args))
        if begin.ended is not None:
            report_ended_before(begin.ended, training_args)
            metrics = begin.ended
        else:
            metrics = run(model_args, data_args, training_args, settings, begin)
        if repository is not None and training_args.process_index == 0:
            upload(folder, repository, training_args)
        return metrics


class Begin(NamedTuple):
    """Where a run starts.

    Attributes:
        identity: what a later run must share to resume this one.
        ended: the record, if the run has already finished.
        checkpoint: the checkpoint to resume from; None to start with step 1.
    """

    identity: Identity
    ended: dict[str, Any] | None
    checkpoint: str | None


def begin_run(
    lock: ExitStack, folder: Path, settings: dict[str, dict[str, Any]], training_args: TrainingArguments
) -> Begin:
    """Lock the folder and find out where the run starts. Called on one process.

    Raises:
        CheckpointError: another run is using the folder, or its files are from another run or would be overwritten.
    """
    lock.enter_context(hold(folder))
    identity = identify(settings, training_args.world_size)
    resume = training_args.resume_from_checkpoint
    if training_args.overwrite_output_dir:
        check_ours(folder, KEYS)
        return Begin(identity, None, None)
    ended = find_finished(folder, identity) if resumes_last(resume) else None
    checkpoint = find_checkpoint(resume, folder) if ended is None else None
    if checkpoint is not None:
        check_same_run(checkpoint, read_identity(checkpoint), identity)
    continues = checkpoint is not None and Path(checkpoint).resolve().parent == folder.resolve()
    if ended is None:
        check_ours(folder, [RECORD] if continues else KEYS)
        if not continues:
            check_empty(folder)
    return Begin(identity, ended, checkpoint)


def run(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    settings: dict[str, dict[str, Any]],
    begin: Begin,
) -> dict[str, Any]:
    """Train from where `begin_run` says, write the record, and return it."""
    folder, checkpoint = Path(training_args.output_dir), begin.checkpoint
    set_seed(training_args.seed)
    loaded, model = open_model(model_args, data_args, training_args)
    spec = make_frame_spec(loaded, loaded.model.video_config, training_args.model_max_length)
    data = open_data(loaded, data_args, training_args, spec)
    if training_args.process_index == 0:
        report_plan(model, data)
        print(f"resuming from {checkpoint}" if checkpoint else "training begins with step 1", flush=True)
    with training_args.main_process_first(local=False, desc="clearing the folder"):  # then all look for checkpoints
        if training_args.should_save:
            clear(folder, overwrite=training_args.overwrite_output_dir)
    counter = Counter(spec.tokens_per_frame)
    trainer = VideoTrainer(
        model=model,
        args=training_args,
        train_dataset=data.train,
        eval_dataset=data.validation,
        data_collator=data.collator,
        processing_class=build_processor(loaded.tokenizer, loaded.image_processor, loaded.model),
        counter=counter,
        ask=ask_validation(loaded, data, training_args),
        identity=begin.identity,
    )
    trainer.add_callback(TellLength())
    held_out = {name: dataset for name, dataset in data.samples.items() if name in ("test", "keep")}
    asked = {name: Asked(read_questions(dataset), reader_for(dataset)) for name, dataset in held_out.items()}
    ask = partial(answer_all, loaded, held_out, asked, training_args.per_device_eval_batch_size)
    with whole_parameters(loaded.model) if asked else nullcontext():  # ZeRO-3 gathers them only in training
        before = ask()
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.stopped:
        end_on_sigterm(trainer)
    save_without_upload(trainer)
    after, paths = ask(), data_args.held_out()
    answers = {name: records_of(paths[name], one.questions, before[name], after[name]) for name, one in asked.items()}
    metrics = {
        "before": accuracy_by_kind(before["test"]) if "test" in asked else None,
        "after": accuracy_by_kind(after["test"]) if "test" in asked else None,
        "keep": describe_kept(before["keep"], after["keep"], answers["keep"]) if "keep" in asked else None,
        **describe_run(model, data, settings, begin.identity, trainer, counter, result.metrics),
    }
    if trainer.is_world_process_zero():
        if training_args.push_to_hub:
            trainer.create_model_card(model_name=str(trainer.hub_model_id).split("/")[-1])
        records = [record for of_one in answers.values() for record in of_one]
        shown = {paths[name]: one for name, one in asked.items()}
        write_report(folder, metrics, records, shown, Strips(spec, loaded.model.video_config.image_aspect_ratio))
        write_record(folder, metrics, records)
        report_end(metrics, folder)
    return metrics


def upload(folder: Path, repository: str, training_args: TrainingArguments) -> None:
    """Upload a finished run to the Hub. Files that are there already are not uploaded again. Call it on one process.

    Not by `Trainer.push_to_hub`, which saves the model again: if it were killed, a half-written model would be left
    beside the record of a finished run.

    Raises:
        FvvError: the upload failed.
    """
    from huggingface_hub import HfApi

    try:
        HfApi(token=training_args.hub_token).upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=training_args.hub_revision,
            commit_message="Model save",
            ignore_patterns=["_*", "checkpoint-*", REPORT],  # a report shows frames of the test set
        )
    except Exception as error:  # of the network, the Hub or the disk
        raise FvvError(
            f"{folder}: the run has finished, but cannot be uploaded to {repository} ({' '.join(str(error).split())}). "
            "Start it again with --resume_from_checkpoint True: it only uploads."
        ) from error
    print(f"uploaded to {repository}", flush=True)


def answer_all(
    loaded: LoadedModel, held_out: Mapping[str, LazySupervisedDataset], asked: Mapping[str, Asked], batch_size: int
) -> dict[str, list[Answer]]:
    """Return the answers to the questions of each data set."""
    return {
        name: ask_and_score(
            loaded.model, loaded.tokenizer, dataset, *asked[name], batch_size, dataset.data_args.max_new_tokens
        )
        for name, dataset in held_out.items()
    }


def records_of(
    path: str, questions: Sequence[Question], before: Sequence[Answer], after: Sequence[Answer]
) -> list[dict[str, Any]]:
    """Return the lines of `answers.jsonl` for a data set: the answers to its questions before and after training."""
    return [
        {"time": time, **record_of(path, position, questions[position], answer.generated, answer.correct)}
        for time, answers in (("before", before), ("after", after))
        for position, answer in enumerate(answers)
    ]


def describe_kept(
    before: Sequence[Answer], after: Sequence[Answer], records: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the accuracy on the questions to keep, `before` and `after` training, and what `compare` says about it."""
    by_time = {time: [record for record in records if record["time"] == time] for time in ("before", "after")}
    return {
        "before": accuracy_by_kind(before),
        "after": accuracy_by_kind(after),
        **compare(by_time["before"], by_time["after"]),
    }


def ask_validation(
    loaded: LoadedModel, data: OpenedData, training_args: TrainingArguments
) -> Callable[[], float] | None:
    """Return a function that asks `eval_questions` questions of the validation set and returns the share of right
    answers; None without `eval_questions`. The questions are drawn once, so that all validations ask the same.

    Raises:
        DataFormatError: the validation set has fewer questions.
    """
    validation = data.samples.get("validation")
    count = data.samples["train"].data_args.eval_questions
    if validation is None or not count:
        return None
    questions = read_questions(validation)
    if count > len(questions):
        raise DataFormatError(
            f"eval_questions={count}, but {validation.data_args.validation_data_path} has {len(questions)} questions: "
            "lower it."
        )
    drawn = np.random.default_rng(training_args.seed).permutation(len(questions))[:count]
    some, read = [questions[position] for position in sorted(drawn)], reader_for(validation)
    limit, batch_size = validation.data_args.max_new_tokens, training_args.per_device_eval_batch_size

    def ask() -> float:
        answers = ask_and_score(loaded.model, loaded.tokenizer, validation, some, read, batch_size, limit)
        return sum(answer.correct for answer in answers) / count

    return ask


def end_on_sigterm(trainer: VideoTrainer) -> None:
    """Exit with the code of SIGTERM: the run has not finished, but its checkpoint is written."""
    if trainer.is_world_process_zero():
        print(
            f"stopped by SIGTERM after step {trainer.state.global_step}, which is saved in {trainer.args.output_dir}: "
            "resume with --resume_from_checkpoint True",
            flush=True,
        )
    sys.exit(STOPPED)


# --- what is printed --------------------------------------------------------------------------------------------------


def report_plan(model: torch.nn.Module, data: OpenedData) -> None:
    """Print which parts will be trained, and on which data."""
    samples = data.samples["train"]
    args, spec, lengths = samples.data_args, samples.frame_spec, samples.lengths
    print(format_parts(count_parameters(model)))
    unread = ", time marks not counted" if args.time_marks != "none" and not args.check_media else ""
    print(f"{len(lengths)} samples of {min(lengths)} to {max(lengths)} tokens{unread}")
    size = f"{spec.image_size}x{spec.image_size}"
    frames = args.num_video_frames if args.max_frames is None else f"{args.min_frames or 1} to {args.max_frames}"
    print(f"a video gives {frames} frames of {size} pixels, {spec.tokens_per_frame} tokens each")
    for name, dataset in data.samples.items():
        if dataset.dropped:
            print(f"{name}: {len(dataset.dropped)} samples dropped {dataset.why_dropped}")
        if dataset.media_counts["known"]:
            print(f"{name}: {known_files(dataset.media_counts)}")
        if dataset.bad:
            print(f"{name}: {len(dataset.bad)} samples skipped by bad_samples='skip'; metrics.json lists them")


def report_ended_before(metrics: dict[str, Any], training_args: TrainingArguments) -> None:
    """Print the result of a finished run that is started again."""
    if training_args.process_index == 0:
        print(f"{training_args.output_dir}: this run has already finished, there is nothing left to train")
        report_end(metrics, Path(training_args.output_dir))


def report_end(metrics: dict[str, Any], folder: Path) -> None:
    """Print the accuracy before and after training, and the output folder."""
    kept = metrics.get("keep")  # missing in the record of an earlier build
    tables = [("", metrics)] if metrics["before"] and metrics["after"] else []
    tables += [("keep: ", kept)] if kept else []
    if tables:
        before, after = (
            {f"{mark}{kind}": row for mark, table in tables for kind, row in table[time].items()}
            for time in ("before", "after")
        )
        data = metrics["arguments"]["data"]
        paths = [path for path in (data["test_data_path"], data.get("keep_path")) if path]
        print(f"\nAccuracy on {' and '.join(paths)}:\n\n{format_table(before, after)}\n")
    if kept:
        print(f"{format_kept(kept)}\n")
    print(f"model, report.html, metrics.json and loss.png: {folder}", flush=True)
