"""Fine-tuning from settings to record: `python -m fvv_lib.training`.                                      Lesson 6

The engine is transformers' Trainer. What stands here is the glue: every check before the first step, the questions
asked before and after, and a record of the run.
"""

import os
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from tqdm import tqdm  # not tqdm.auto: in a notebook that draws a widget
from transformers import set_seed

from fvv_lib.arguments import DataArguments, ModelArguments, TrainingArguments, VideoConfig
from fvv_lib.checkpoints import STOPPED, find_checkpoint, remove_unfinished, resumes_last
from fvv_lib.dataset import (
    DataCollatorForSupervisedDataset,
    LazySupervisedDataset,
    check_disjoint,
    make_supervised_data_module,
)
from fvv_lib.errors import DataFormatError, FvvError, TokenBudgetError
from fvv_lib.evaluation import accuracy_by_kind, evaluate
from fvv_lib.features import use_features
from fvv_lib.flags import parse_settings
from fvv_lib.images import processor_size
from fvv_lib.labels import check_template
from fvv_lib.loading import LoadedModel, build_processor, load_pretrained_model, tokens_per_frame
from fvv_lib.lora import add_lora
from fvv_lib.parts import count_parameters, format_parts, set_trainable
from fvv_lib.record import (
    RECORD,
    Counter,
    count_samples,
    describe_run,
    describe_settings,
    find_finished,
    format_table,
    write_record,
)
from fvv_lib.trainer import VideoTrainer
from fvv_lib.zero import join_zero3, mix_batchnorm, whole_parameters

AT_A_TIME = 1000  # samples that each process checks before all tell each other


def train(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> dict[str, Any]:
    """Fine-tune a FastVLM on video; returns what is written to `metrics.json`.

    Into `output_dir` go the model (a folder that stock transformers loads), checkpoints, `metrics.json` and `loss.png`.

    A run that is resumed after its end only gives that record again.

    Raises:
        FvvError: a setting, a sample or a file is wrong; always before the first step.
        SystemExit: SIGTERM ended training; its checkpoint is written, and the exit code is 143 (128 + SIGTERM).

    Lesson: 06.
    """
    check_settings(model_args, data_args, training_args)
    resume, folder = training_args.resume_from_checkpoint, Path(training_args.output_dir)
    if resumes_last(resume) and (
        ended := find_finished(folder, describe_settings(model_args, data_args, training_args))
    ):
        if training_args.process_index == 0:
            print(f"{folder}: this run has ended before, there is nothing left to train")
            report_end(ended, folder)
        return ended
    checkpoint = find_checkpoint(resume, folder)
    if training_args.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it found no GPU, used or not
    set_seed(training_args.seed)
    join_zero3()
    loaded = load_pretrained_model(model_args.model_name_or_path, device=training_args.device, dtype=torch.float32)
    configure(loaded, data_args, training_args)
    if training_args.deepspeed:
        mix_batchnorm(loaded.model)
    set_trainable(loaded.model, model_args.tunable_parts)
    model = add_lora(loaded.model, model_args) if model_args.lora_rank else loaded.model
    counts = count_parameters(model)
    datasets, collator = open_datasets(loaded, data_args, training_args)
    test = datasets.get("test")
    shown, counted = datasets, None
    if data_args.cache_features:
        shown, counted = use_features(loaded.model, datasets, training_args)
    if training_args.process_index == 0:
        report_plan(counts, datasets, data_args)
        print(f"going on from {checkpoint}" if checkpoint else "training begins with step 1", flush=True)
    if training_args.should_save:
        remove_unfinished(folder)
        (folder / RECORD).unlink(missing_ok=True)  # where there is one, the run has ended

    processor = build_processor(loaded.tokenizer, loaded.image_processor, loaded.model)
    trainer = VideoTrainer(
        model=model,
        args=training_args,
        train_dataset=shown["train"],
        eval_dataset=shown.get("validation"),
        data_collator=collator,
        processing_class=processor,
    )
    trainer.counter = Counter(data_args.tokens_per_frame)

    def quiz() -> dict[str, Any] | None:
        if test is None:
            return None
        batch_size = training_args.per_device_eval_batch_size
        answers = evaluate(loaded.model, loaded.tokenizer, test, batch_size, data_args.max_new_tokens)
        return accuracy_by_kind(answers)

    with whole_parameters(loaded.model) if test else nullcontext():
        before = quiz()
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.stopped:
        end_on_sigterm(trainer)
    trainer.save_model()
    after = quiz()

    metrics = {
        "before": before,
        "after": after,
        "train": result.metrics,
        "parameters": {part: {"trained": trained, "all": total} for part, (trained, total) in counts.items()},
        "features": counted,
        "samples": {name: count_samples(dataset) for name, dataset in datasets.items()},
        "arguments": describe_settings(model_args, data_args, training_args),
        **describe_run(trainer.counter, result.metrics["train_runtime"], training_args.world_size),
        "log": trainer.state.log_history,
    }
    if trainer.is_world_process_zero():
        write_record(folder, metrics)
        report_end(metrics, folder)
    return metrics


def check_settings(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> None:
    """Settings that are right one by one but do not go together."""
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started != training_args.world_size:
        raise FvvError(
            f"{started} processes were started, and each would train alone, into the same folder. Without GPUs add "
            "--use_cpu True."
        )
    if training_args.n_gpu > 1:
        raise FvvError(
            "Several GPUs in one process would cut videos apart: start with torchrun --nproc_per_node N -m "
            "fvv_lib.training, or choose one GPU with CUDA_VISIBLE_DEVICES."
        )
    if (training_args.eval_strategy != "no") != bool(data_args.validation_data_path):
        raise FvvError(
            "validation_data_path and eval_strategy go together: set both (--eval_strategy steps --eval_steps 100) or "
            "neither."
        )
    for part in ("vision_tower", "projector"):
        if getattr(training_args, f"{part}_lr") is not None and part not in model_args.tunable_parts:
            raise FvvError(f"{part}_lr is set, but tunable_parts leaves {part} out: take away one or add the other.")
    if data_args.cache_features and "vision_tower" in model_args.tunable_parts:
        raise FvvError(
            "cache_features needs a vision tower that is not trained: add --tunable_parts projector language_model, or "
            "leave it out."
        )


def open_datasets(
    loaded: LoadedModel, data_args: DataArguments, training_args: TrainingArguments
) -> tuple[dict[str, LazySupervisedDataset], DataCollatorForSupervisedDataset]:
    """The samples of training and, where there are any, of validation and test, checked; and the collator."""
    with training_args.main_process_first(desc="opening the annotation files"):  # the others find its tables
        data = make_supervised_data_module(loaded.tokenizer, data_args)
        datasets = {"train": data["train_dataset"], "validation": data["eval_dataset"]}
        if data_args.test_data_path:
            test = LazySupervisedDataset(loaded.tokenizer, [data_args.test_data_path], data_args.for_evaluation())
            check_disjoint(data["train_dataset"], test)
            datasets["test"] = test
    datasets = {name: dataset for name, dataset in datasets.items() if dataset is not None}
    for dataset in datasets.values():
        leave_out_bad_media(dataset, training_args)
    return datasets, data["data_collator"]


def leave_out_bad_media(dataset: LazySupervisedDataset, training_args: TrainingArguments) -> None:
    """Read every picture and video once, each process a part, and do what `bad_samples` says with what fails.

    Every process must leave out the same samples and know the same lengths: it makes its batches by them. All tell each
    other every now and then, so that none reads on when another has found what ends the run.
    """
    if not dataset.data_args.check_media:
        return
    rank, processes = training_args.process_index, training_args.world_size
    stop = dataset.data_args.bad_samples == "raise"
    threads = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    hidden = rank > 0 or training_args.disable_tqdm or None
    mine = range(rank, len(dataset), processes)
    problems: dict[int, FvvError] = {}
    with tqdm(total=len(mine), desc="checking media", disable=hidden) as bar:
        for start in range(0, -(-len(dataset) // processes), AT_A_TIME):
            part, found = mine[start : start + AT_A_TIME], {}
            rows = slice(part.start, part.stop, processes)
            for index, error in dataset.check_media(part, threads):
                bar.update()
                if error is not None:
                    found[index] = error
                    if stop:
                        break
            for theirs, lengths, errors in gather_object([(rows, dataset.lengths[rows], found)]):
                dataset.lengths[theirs] = lengths
                problems |= errors
            if stop and problems:
                break
    dataset.leave_out(problems)
    if not len(dataset):
        raise DataFormatError(f"All samples are bad. The first: {next(iter(dataset.bad.values()))}")


def end_on_sigterm(trainer: VideoTrainer) -> None:
    if trainer.is_world_process_zero():
        print(
            f"stopped by SIGTERM after step {trainer.state.global_step}, which is saved in {trainer.args.output_dir}: "
            "go on with --resume_from_checkpoint True",
            flush=True,
        )
    sys.exit(STOPPED)


def configure(loaded: LoadedModel, data_args: DataArguments, training_args: TrainingArguments) -> None:
    """Let data, tokenizer and model agree: picture size, tokens per frame, token budget, and what is saved with it."""
    check_template(data_args.version, loaded.tokenizer)
    before = loaded.model.video_config
    loaded.model.video_config = VideoConfig(
        num_video_frames=data_args.num_video_frames,
        frame_sampling=data_args.frame_sampling,
        image_aspect_ratio=data_args.image_aspect_ratio,
        version=data_args.version,
        image_mean=tuple(loaded.image_processor.image_mean),
        image_std=tuple(loaded.image_processor.image_std),
        time_marks=data_args.time_marks,
        frame_pool=data_args.frame_pool,
    )
    if training_args.process_index == 0:
        for name, value in asdict(loaded.model.video_config).items():
            if value != getattr(before, name):
                print(f"{name} is {value!r}, the checkpoint has {getattr(before, name)!r}")
    data_args.image_size = processor_size(loaded.image_processor)
    data_args.tokens_per_frame = tokens_per_frame(loaded.model, data_args.image_size)
    limit = training_args.model_max_length or loaded.context_len
    if limit > loaded.context_len:
        raise TokenBudgetError(
            f"model_max_length={limit}, but the checkpoint reads {loaded.context_len} positions at most: lower it."
        )
    data_args.max_length = limit
    data_args.background = loaded.model.video_config.background
    loaded.model.frames_per_chunk, loaded.model.packing = training_args.frames_per_chunk, training_args.packing


def report_plan(
    counts: dict[str, tuple[int, int]], datasets: dict[str, LazySupervisedDataset], data_args: DataArguments
) -> None:
    """Print what will be trained, on what, before it begins."""
    print(format_parts(counts))
    lengths = datasets["train"].lengths
    unread = data_args.time_marks != "none" and not data_args.check_media
    print(f"{len(lengths)} samples of {min(lengths)} to {max(lengths)} tokens{', time marks not counted' * unread}")
    size, frames = data_args.image_size, data_args.num_video_frames
    print(f"a video gives {frames} frames of {size}x{size} pixels, {data_args.tokens_per_frame} tokens each")
    for name, dataset in datasets.items():
        if dataset.dropped:
            print(f"{name}: {len(dataset.dropped)} samples dropped by mismatch={data_args.mismatch!r}")
        if dataset.bad:
            print(f"{name}: {len(dataset.bad)} samples skipped by bad_samples='skip'; metrics.json lists them")


def report_end(metrics: dict[str, Any], folder: Path) -> None:
    """Print what the run has brought, and where it lies."""
    if metrics["before"] and metrics["after"]:
        table = format_table(metrics["before"], metrics["after"])
        print(f"\nAccuracy on {metrics['arguments']['data']['test_data_path']}:\n\n{table}\n")
    print(f"model, metrics.json and loss.png: {folder}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Flags, or one YAML file with the same names."""
    try:
        train(*parse_settings(sys.argv[1:] if arguments is None else arguments))
    except FvvError as error:
        text = str(error)
        if "\nfvv_lib.errors." in text:  # of a worker: torch puts its whole traceback before the message
            text = text.rpartition("\nfvv_lib.errors.")[2].partition(": ")[2]
        sys.exit(f"error: {' '.join(text.split())}")


if __name__ == "__main__":
    main()
