"""Prepare a run: check the settings, open the model, open the data and check every sample.                   Lesson 6

A wrong setting or sample ends the run here, not after an hour of training, with one error that says what to do.
"""

import math
import os
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object

from fvv_lib.arguments import TrainingArguments
from fvv_lib.data.dataset import DataCollatorForSupervisedDataset, LazySupervisedDataset
from fvv_lib.data.inspecting import known_files
from fvv_lib.data.splits import open_splits
from fvv_lib.errors import DataFormatError, FvvError
from fvv_lib.labels.exact import check_template
from fvv_lib.machine import usable_cores
from fvv_lib.model.parts import set_trainable
from fvv_lib.model.sharding import join_zero3, mix_batchnorm
from fvv_lib.progress import progress
from fvv_lib.scaling.features import FeatureDataset, use_features
from fvv_lib.settings import DataArguments, ModelArguments
from fvv_lib.video_config import FrameSpec
from fvv_lib.weights.loading import LoadedModel, load_pretrained_model
from fvv_lib.weights.lora import add_lora

CHECKED_AT_ONCE = 1000  # samples that each process checks before the processes exchange results


class OpenedData(NamedTuple):
    """The checked data of a run.

    Attributes:
        samples: the datasets `train` and, if set, `validation` and `test`, with texts and frames.
        train, validation: datasets for training and validation: those in `samples`, or features instead of frames.
        collator: makes batches.
        features: how many clips were encoded and how many were cached; None if frames are encoded in every step.
    """

    samples: dict[str, LazySupervisedDataset]
    train: LazySupervisedDataset | FeatureDataset
    validation: LazySupervisedDataset | FeatureDataset | None
    collator: DataCollatorForSupervisedDataset
    features: dict[str, int] | None


def check_settings(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> None:
    """Raise a FvvError for settings that are valid one by one but do not go together."""
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started != training_args.world_size:
        raise FvvError(
            f"{started} processes were started, and each would train alone, into the same folder. Without GPUs add "
            "--use_cpu True."
        )
    if training_args.n_gpu > 1:
        raise FvvError(
            "Several GPUs in one process would cut videos apart: start with torchrun --nproc_per_node N -m "
            "fvv_lib finetune, or choose one GPU with CUDA_VISIBLE_DEVICES."
        )
    if (training_args.eval_strategy != "no") != bool(data_args.validation_data_path):
        raise FvvError(
            "validation_data_path and eval_strategy go together: set both (--eval_strategy steps --eval_steps 100) or "
            "neither."
        )
    metric = training_args.metric_for_best_model
    if metric is not None and metric.endswith("accuracy") and not data_args.eval_questions:
        raise FvvError(f"metric_for_best_model={metric!r} needs questions in each validation: set eval_questions.")
    if model_args.lora_rank and "vision_tower" in model_args.tunable_parts and training_args.vision_tower_lr is None:
        raise FvvError(
            "With LoRA the vision tower would be trained in full at LoRA's learning_rate, which is too high for it: "
            "set vision_tower_lr (2e-6 is usual), or leave vision_tower out of tunable_parts."
        )
    for part in ("vision_tower", "projector"):
        if getattr(training_args, f"{part}_lr") is not None and part not in model_args.tunable_parts:
            raise FvvError(f"{part}_lr is set, but tunable_parts leaves {part} out: remove the rate or add the part.")
    if data_args.cache_features and "vision_tower" in model_args.tunable_parts:
        raise FvvError(
            "cache_features needs a vision tower that is not trained: add --tunable_parts projector language_model, or "
            "remove cache_features."
        )


def open_model(
    model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments
) -> tuple[LoadedModel, torch.nn.Module]:
    """Open the model with its tokenizer and image processor, and configure it for these data. Also return the module to
    train: the model itself or, with LoRA, the model wrapped in its adapter."""
    if training_args.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise even an unused DeepSpeed warns about a missing GPU
    join_zero3()
    loaded = load_pretrained_model(model_args.model_name_or_path, device=training_args.device, dtype=torch.float32)
    configure_model(loaded, data_args, training_args)
    if training_args.deepspeed:
        mix_batchnorm(loaded.model)
    set_trainable(loaded.model, model_args.tunable_parts)
    return loaded, add_lora(loaded.model, model_args) if model_args.lora_rank else loaded.model


def configure_model(loaded: LoadedModel, data_args: DataArguments, training_args: TrainingArguments) -> None:
    """Apply the data's video settings to the model, and print those that differ from the model's own."""
    check_template(data_args.version, loaded.tokenizer)
    before = loaded.model.video_config
    loaded.model.video_config = data_args.video_config(loaded.image_processor)
    loaded.model.frames_per_chunk = training_args.frames_per_chunk
    loaded.model.packing = training_args.packing
    if training_args.process_index == 0:
        for name, value in asdict(loaded.model.video_config).items():
            if value != getattr(before, name):
                print(f"{name} is {value!r}, the model has {getattr(before, name)!r}")


def open_data(
    loaded: LoadedModel, data_args: DataArguments, training_args: TrainingArguments, frame_spec: FrameSpec
) -> OpenedData:
    """Open the samples for training and, if set, for validation and test, and check every one."""
    seed = training_args.seed if training_args.data_seed is None else training_args.data_seed
    with training_args.main_process_first(desc="opening the annotation files"):  # the others use its tables
        samples = open_splits(loaded.tokenizer, data_args, frame_spec=frame_spec, seed=seed)
    check_enough(samples["train"], training_args)
    for dataset in samples.values():
        leave_out_bad_media(dataset, training_args)
    check_enough(samples["train"], training_args)
    shown: dict[str, Any] = samples
    counted = None
    if data_args.cache_features:
        shown, counted = use_features(loaded.model, samples, training_args)
    collator = DataCollatorForSupervisedDataset(loaded.tokenizer)
    return OpenedData(samples, shown["train"], shown.get("validation"), collator, counted)


def check_enough(train: LazySupervisedDataset, training_args: TrainingArguments) -> None:
    """Check that there are enough samples for one step.

    Raises:
        DataFormatError: `dataloader_drop_last` would drop every sample.
    """
    needed = training_args.train_batch_size * training_args.world_size
    if training_args.dataloader_drop_last and len(train) < needed:
        raise DataFormatError(
            f"dataloader_drop_last drops every sample: there are {len(train)}, and a batch of all processes has "
            f"{needed}. Remove dataloader_drop_last, or lower per_device_train_batch_size."
        )


def leave_out_bad_media(dataset: LazySupervisedDataset, training_args: TrainingArguments) -> None:
    """Read every image and video once, split across processes, and raise or skip bad samples as `bad_samples` says.

    Batches depend on samples and lengths, so every process must skip the same samples and know the same lengths. The
    processes exchange results every `CHECKED_AT_ONCE` samples, so that all stop soon after one finds a fatal error.
    """
    if not dataset.data_args.check_media:
        return
    rank, processes = training_args.process_index, training_args.world_size
    stop = dataset.data_args.bad_samples == "raise"
    threads = max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    hidden = rank > 0 or bool(training_args.disable_tqdm)
    mine = range(rank, len(dataset), processes)
    problems: dict[int, FvvError] = {}
    checking = dataset.check_media(mine, threads)
    known = known_files(dataset.media_counts)
    with progress(total=len(mine), desc="checking media", hidden=hidden, postfix=known) as bar, closing(checking):
        for start in range(0, math.ceil(len(dataset) / processes), CHECKED_AT_ONCE):
            part = mine[start : start + CHECKED_AT_ONCE]
            found: dict[int, FvvError] = {}
            rows = slice(part.start, part.stop, processes)
            for index, error in islice(checking, len(part)):
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
