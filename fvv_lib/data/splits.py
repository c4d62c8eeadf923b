"""Open the training, validation and test data of a run, which must share no clip.                          Lesson 5"""

import os
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from fvv_lib.data.dataset import DataCollatorForSupervisedDataset, LazySupervisedDataset
from fvv_lib.errors import DataFormatError
from fvv_lib.files import shown
from fvv_lib.settings import DataArguments
from fvv_lib.video_config import FrameSpec


def open_splits(
    tokenizer: PreTrainedTokenizerBase, data_args: DataArguments, *, frame_spec: FrameSpec, seed: int = 0
) -> dict[str, LazySupervisedDataset]:
    """Return the data sets of a run by name: `train` and, if they are set, `validation`, `test` and `keep`.

    Args:
        seed: seed of `random` frame sampling in training.

    Raises:
        DataFormatError: no `data_path`, or a clip of a held-out set is also in the training set.

    Lesson: 05.
    """
    if not data_args.data_path:
        raise DataFormatError("No training data: set data_path to at least one annotation file.")
    train = LazySupervisedDataset(tokenizer, data_args.data_path, data_args, frame_spec=frame_spec, seed=seed)
    splits = {"train": train}
    for name, path in data_args.held_out().items():
        evaluation = data_args.for_evaluation()
        scored = name != "validation" or data_args.eval_questions > 0
        splits[name] = LazySupervisedDataset(tokenizer, [path], evaluation, frame_spec=frame_spec, scored=scored)
        check_disjoint(splits["train"], splits[name])
    return splits


def make_supervised_data_module(
    tokenizer: PreTrainedTokenizerBase, data_args: DataArguments, *, frame_spec: FrameSpec, seed: int = 0
) -> dict[str, Any]:
    """Return `train_dataset`, `eval_dataset` (`None` without `validation_data_path`) and `data_collator` for the
    Trainer.

    Args:
        frame_spec: frame size, tokens per frame and length limit of the model, see `model.geometry.make_frame_spec`.
        seed: seed of `random` frame sampling in training.

    Raises the same errors as `open_splits`.

    Lesson: 05.
    """
    trained = replace(data_args, test_data_path=None, keep_path=None)
    splits = open_splits(tokenizer, trained, frame_spec=frame_spec, seed=seed)
    return {
        "train_dataset": splits["train"],
        "eval_dataset": splits.get("validation"),
        "data_collator": DataCollatorForSupervisedDataset(tokenizer),
    }


def check_disjoint(train: LazySupervisedDataset, held_out: LazySupervisedDataset) -> None:
    """Raise a DataFormatError if an image or video of a held-out set is also in the training set. Two parts of one file
    are one video. So are a folder of frames and an image in it, and two lists of frames of one numbered series."""
    media, others = train.samples.real_media(), held_out.samples.real_media()
    shared = {others[path] for path in media.keys() & others.keys()}
    if train.samples.have_folders or held_out.samples.have_folders:
        shared |= set(map(os.path.dirname, media)) & others.keys()
        shared |= set(map(os.path.dirname, others)) & media.keys()
    if shared:
        raise DataFormatError(
            f"{held_out.names[0].split(', ')[0]}: {len(shared)} of its clips are in the training data too, "
            f"like {shown(os.fsdecode(min(shared)))}. Scores on training clips say nothing about new clips: remove "
            "them from one of the sets."
        )
