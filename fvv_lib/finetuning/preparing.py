"""What happens before the first step: settings checked, model opened, data opened and read once.             Lesson 6

A run that is wrong ends here, with one error that says what to do, and not after an hour of training.
"""

import math
import os
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from tqdm import tqdm  # not tqdm.auto: in a notebook that draws a widget

from fvv_lib.arguments import TrainingArguments
from fvv_lib.data.dataset import DataCollatorForSupervisedDataset, LazySupervisedDataset
from fvv_lib.data.splits import open_splits
from fvv_lib.errors import DataFormatError, FvvError
from fvv_lib.labels.exact import check_template
from fvv_lib.machine import usable_cores
from fvv_lib.model.parts import set_trainable
from fvv_lib.model.sharding import join_zero3, mix_batchnorm
from fvv_lib.scaling.features import FeatureDataset, use_features
from fvv_lib.settings import DataArguments, ModelArguments
from fvv_lib.video_config import FrameSpec
from fvv_lib.weights.loading import LoadedModel, load_pretrained_model
from fvv_lib.weights.lora import add_lora

CHECKED_AT_ONCE = 1000  # samples that each process checks before all tell each other


class OpenedData(NamedTuple):
    """The data of a run, checked.

    Attributes:
        samples: train and, where they are set, validation and test: texts and frames.
        train, validation: what is trained and validated on: these samples, or features in place of their frames.
        collator: makes batches.
        features: how many clips were encoded and how many found; None where frames are encoded in every step.
    """

    samples: dict[str, LazySupervisedDataset]
    train: LazySupervisedDataset | FeatureDataset
    validation: LazySupervisedDataset | FeatureDataset | None
    collator: DataCollatorForSupervisedDataset
    features: dict[str, int] | None


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
            "fvv_lib finetune, or choose one GPU with CUDA_VISIBLE_DEVICES."
        )
    if (training_args.eval_strategy != "no") != bool(data_args.validation_data_path):
        raise FvvError(
            "validation_data_path and eval_strategy go together: set both (--eval_strategy steps --eval_steps 100) or "
            "neither."
        )
    if model_args.lora_rank and "vision_tower" in model_args.tunable_parts and training_args.vision_tower_lr is None:
        raise FvvError(
            "With LoRA the vision tower would be trained in full at LoRA's learning_rate, which is too high for it: "
            "set vision_tower_lr (2e-6 is usual), or leave vision_tower out of tunable_parts."
        )
    for part in ("vision_tower", "projector"):
        if getattr(training_args, f"{part}_lr") is not None and part not in model_args.tunable_parts:
            raise FvvError(f"{part}_lr is set, but tunable_parts leaves {part} out: take away one or add the other.")
    if data_args.cache_features and "vision_tower" in model_args.tunable_parts:
        raise FvvError(
            "cache_features needs a vision tower that is not trained: add --tunable_parts projector language_model, or "
            "leave it out."
        )


def open_model(
    model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments
) -> tuple[LoadedModel, torch.nn.Module]:
    """The model with its tokenizer and image processor, set for these data; and what is trained of it, which is the
    model itself or, with LoRA, the model in its adapter."""
    if training_args.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it found no GPU, used or not
    join_zero3()
    loaded = load_pretrained_model(model_args.model_name_or_path, device=training_args.device, dtype=torch.float32)
    configure_model(loaded, data_args, training_args)
    if training_args.deepspeed:
        mix_batchnorm(loaded.model)
    set_trainable(loaded.model, model_args.tunable_parts)
    return loaded, add_lora(loaded.model, model_args) if model_args.lora_rank else loaded.model


def configure_model(loaded: LoadedModel, data_args: DataArguments, training_args: TrainingArguments) -> None:
    """Set what the model does with frames to what these data ask for, and print where that is new to it."""
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
    """The samples of training and, where they are set, of validation and test; every one is checked."""
    seed = training_args.seed if training_args.data_seed is None else training_args.data_seed
    with training_args.main_process_first(desc="opening the annotation files"):  # the others find its tables
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
    """
    Raises:
        DataFormatError: `dataloader_drop_last` would leave out every sample, so no step would be taken.
    """
    needed = training_args.train_batch_size * training_args.world_size
    if training_args.dataloader_drop_last and len(train) < needed:
        raise DataFormatError(
            f"dataloader_drop_last leaves out every sample: there are {len(train)}, and the processes take {needed} at "
            "a time. Leave it out, or lower per_device_train_batch_size."
        )


def leave_out_bad_media(dataset: LazySupervisedDataset, training_args: TrainingArguments) -> None:
    """Read every picture and video once, each process a part, and do what `bad_samples` says with what fails.

    Every process must leave out the same samples and know the same lengths: it makes its batches by them. All tell each
    other every now and then, so that none reads on when another has found what ends the run.
    """
    if not dataset.data_args.check_media:
        return
    rank, processes = training_args.process_index, training_args.world_size
    stop = dataset.data_args.bad_samples == "raise"
    threads = max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    hidden = rank > 0 or training_args.disable_tqdm or None
    mine = range(rank, len(dataset), processes)
    problems: dict[int, FvvError] = {}
    with tqdm(total=len(mine), desc="checking media", disable=hidden) as bar:
        for start in range(0, math.ceil(len(dataset) / processes), CHECKED_AT_ONCE):
            part = mine[start : start + CHECKED_AT_ONCE]
            found: dict[int, FvvError] = {}
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
