"""Fine-tuning from settings to record.                                                                    Lesson 6

`train` is the whole way on one screen: check, open model and data, ask, train, ask again, write down what happened. The
engine is transformers' Trainer. `preparing` opens what is trained, `trainer` and `resume` are the engine's additions,
`record` writes the result.
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from fvv_lib.arguments import TrainingArguments
from fvv_lib.data.dataset import LazySupervisedDataset
from fvv_lib.evaluation.scoring import accuracy_by_kind, evaluate
from fvv_lib.finetuning.preparing import OpenedData, check_settings, open_data, open_model
from fvv_lib.finetuning.record import RECORD, describe_run, describe_settings, find_finished, format_table, write_record
from fvv_lib.finetuning.resume import STOPPED, find_checkpoint, remove_unfinished, resumes_last
from fvv_lib.finetuning.trainer import Counter, VideoTrainer
from fvv_lib.model.geometry import make_frame_spec
from fvv_lib.model.parts import count_parameters, format_parts
from fvv_lib.model.sharding import whole_parameters
from fvv_lib.settings import DataArguments, ModelArguments
from fvv_lib.weights.loading import LoadedModel, build_processor


def train(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> dict[str, Any]:
    """Fine-tune a FastVLM on video; returns what is written to `metrics.json`.

    Into `output_dir` go the model (a folder that stock transformers loads), checkpoints, `metrics.json` and `loss.png`.
    A run that is resumed after its end only returns that record again.

    Raises:
        FvvError: a setting, a sample or a file is wrong; always before the first step.
        SystemExit: SIGTERM ended training; its checkpoint is written, and the exit code is 143 (128 + SIGTERM).

    Lesson: 06.
    """
    check_settings(model_args, data_args, training_args)
    settings, folder = describe_settings(model_args, data_args, training_args), Path(training_args.output_dir)
    ended = find_finished(folder, settings) if resumes_last(training_args.resume_from_checkpoint) else None
    if ended is not None:
        report_ended_before(ended, training_args)
        return ended
    checkpoint = find_checkpoint(training_args.resume_from_checkpoint, folder)

    set_seed(training_args.seed)
    loaded, model = open_model(model_args, data_args, training_args)
    spec = make_frame_spec(loaded, loaded.model.video_config, training_args.model_max_length)
    data = open_data(loaded, data_args, training_args, spec)
    if training_args.process_index == 0:
        report_plan(model, data)
        print(f"going on from {checkpoint}" if checkpoint else "training begins with step 1", flush=True)
    clear_output(folder, training_args)
    counter = Counter(spec.tokens_per_frame)
    trainer = VideoTrainer(
        model=model,
        args=training_args,
        train_dataset=data.train,
        eval_dataset=data.validation,
        data_collator=data.collator,
        processing_class=build_processor(loaded.tokenizer, loaded.image_processor, loaded.model),
        counter=counter,
    )
    test = data.samples.get("test")
    with whole_parameters(loaded.model) if test else nullcontext():  # under ZeRO-3 only training gathers them
        before = evaluate_test_set(loaded, test, training_args)
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.stopped:
        end_on_sigterm(trainer)
    trainer.save_model()
    after = evaluate_test_set(loaded, test, training_args)
    metrics = {
        "before": before,
        "after": after,
        **describe_run(model, data, settings, trainer, counter, result.metrics),
    }
    if trainer.is_world_process_zero():
        write_record(folder, metrics)
        report_end(metrics, folder)
    return metrics


def evaluate_test_set(
    loaded: LoadedModel, test: LazySupervisedDataset | None, training_args: TrainingArguments
) -> dict[str, Any] | None:
    """Accuracy on the test questions, for each kind of question; None without a test set."""
    if test is None:
        return None
    batch_size = training_args.per_device_eval_batch_size
    return accuracy_by_kind(evaluate(loaded.model, loaded.tokenizer, test, batch_size, test.data_args.max_new_tokens))


def clear_output(folder: Path, training_args: TrainingArguments) -> None:
    """Delete what a killed run was writing, and the record, which is only there where a run has ended."""
    if training_args.should_save:
        remove_unfinished(folder)
        (folder / RECORD).unlink(missing_ok=True)


def end_on_sigterm(trainer: VideoTrainer) -> None:
    """Leave with the exit code of SIGTERM: the run has not finished, but its checkpoint is written."""
    if trainer.is_world_process_zero():
        print(
            f"stopped by SIGTERM after step {trainer.state.global_step}, which is saved in {trainer.args.output_dir}: "
            "go on with --resume_from_checkpoint True",
            flush=True,
        )
    sys.exit(STOPPED)


# --- what is printed --------------------------------------------------------------------------------------------------


def report_plan(model: torch.nn.Module, data: OpenedData) -> None:
    """Print what will be trained, on what, before it begins."""
    samples = data.samples["train"]
    args, spec, lengths = samples.data_args, samples.frame_spec, samples.lengths
    print(format_parts(count_parameters(model)))
    unread = ", time marks not counted" if args.time_marks != "none" and not args.check_media else ""
    print(f"{len(lengths)} samples of {min(lengths)} to {max(lengths)} tokens{unread}")
    size = f"{spec.image_size}x{spec.image_size}"
    print(f"a video gives {args.num_video_frames} frames of {size} pixels, {spec.tokens_per_frame} tokens each")
    for name, dataset in data.samples.items():
        if dataset.dropped:
            print(f"{name}: {len(dataset.dropped)} samples dropped {dataset.why_dropped}")
        if dataset.bad:
            print(f"{name}: {len(dataset.bad)} samples skipped by bad_samples='skip'; metrics.json lists them")


def report_ended_before(metrics: dict[str, Any], training_args: TrainingArguments) -> None:
    """Print the result of a run that is started again after its end."""
    if training_args.process_index == 0:
        print(f"{training_args.output_dir}: this run has ended before, there is nothing left to train")
        report_end(metrics, Path(training_args.output_dir))


def report_end(metrics: dict[str, Any], folder: Path) -> None:
    """Print what the run has brought, and where it is."""
    if metrics["before"] and metrics["after"]:
        table = format_table(metrics["before"], metrics["after"])
        print(f"\nAccuracy on {metrics['arguments']['data']['test_data_path']}:\n\n{table}\n")
    print(f"model, metrics.json and loss.png: {folder}", flush=True)
