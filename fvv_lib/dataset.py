"""Lazy dataset, collator, validation split.                                                               Lesson 5

An annotation file is a list of samples in LLaVA's format: `image` or `video` (a path, or a list of them), and
`conversations`. The text is checked for every sample when the dataset is made; pixels are read when a sample is asked
for. This module knows nothing about models.
"""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from fvv_lib.arguments import DataArguments
from fvv_lib.conversation import check_turns, get_template
from fvv_lib.decoding import VideoFrames, count_frames, is_video, read_media
from fvv_lib.errors import DataFormatError, FvvError, LabelMismatchError, VideoDecodeError
from fvv_lib.images import preprocess_frames
from fvv_lib.labels import preprocess
from fvv_lib.tokens import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX, check_token_budget, preprocess_multimodal

Sample = dict[str, Any]


class LazySupervisedDataset(Dataset):
    """Samples of annotation files, ready for the model.

    An item is a dict:
        input_ids, labels: int64 (L,), `<image>` as one -200 per frame, ignored labels -100.
        images: uint8 (T, 3, S, S): the frames of all pictures and videos of the sample in order; T is 0 for text alone.

    Args:
        tokenizer: its `model_max_length` is the token budget where `data_args.max_length` is 0.
        data_path: annotation files.
        data_args: needs `image_size` and `tokens_per_frame`, which `training` sets from the checkpoint.

    Attributes:
        lengths: positions that each sample takes, frames included.
        dropped: names of the samples that were left out, because `mismatch` is not `exact` and could not count them.
        bad: names of the samples that were left out because they can not be used, with the error of each; empty unless
            `bad_samples="skip"`.

    Raises (with `bad_samples="raise"`):
        DataFormatError: an annotation file or a sample that is not well-formed; names the file and the sample.
        VideoDecodeError: a picture or video that does not exist.
        TokenBudgetError: a sample that is too long. All three before any training step.

    Differs from the described system: a sample that can not be read is an error; there, any exception returns sample 0
    in its place without a word. Lesson: 05.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, data_path: Sequence[str], data_args: DataArguments):
        if data_args.image_size < 1 or data_args.tokens_per_frame < 1:
            raise FvvError("data_args.image_size and data_args.tokens_per_frame must be set from the checkpoint.")
        get_template(data_args.version)
        self.tokenizer, self.data_args = tokenizer, data_args
        self.samples: list[Sample] = []
        self.names: list[str] = []
        self.folders: list[Path] = []
        for path in data_path:
            samples = read_annotations(path)
            self.samples += samples
            self.names += [f"{path}, sample {s.get('id', i)}" for i, s in enumerate(samples)]
            self.folders += [Path(data_args.image_folder or Path(path).parent)] * len(samples)
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()  # workers that live on see it change
        self.lengths = [0] * len(self)
        self.dropped: list[str] = []
        self.bad: dict[str, FvvError] = {}
        self._check_all()

    def __len__(self) -> int:
        return len(self.samples)

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer: random sampling takes other frames in each epoch, the same in every run."""
        self.epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {**self.tokens(index), "images": self.frames(index)}

    def tokens(self, index: int) -> dict[str, torch.Tensor]:
        """`input_ids` and `labels` of a sample; no file is read."""
        media = self.media(index)
        sources = preprocess_multimodal(
            [self.samples[index]["conversations"]], self.data_args, self.frame_counts(index)
        )
        both = preprocess(
            sources,
            self.tokenizer,
            bool(media),
            self.data_args.version,
            self.data_args.mismatch,
            names=[self.names[index]],
        )
        return {key: values[0] for key, values in both.items()}

    def frames(self, index: int) -> torch.Tensor:
        """Frames of all media of a sample, uint8 (T, 3, S, S)."""
        args, size = self.data_args, self.data_args.image_size
        clips = [
            preprocess_frames(self.read(path, index).frames, size, args.image_aspect_ratio, args.background)
            for path in self.media(index)
        ]
        return torch.cat([torch.empty(0, 3, size, size, dtype=torch.uint8), *clips])

    def read(self, path: Path, index: int) -> VideoFrames:
        """The frames of one picture or video of a sample that training takes in this epoch."""
        args = self.data_args
        try:
            return read_media(
                path,
                args.num_video_frames,
                strategy=args.frame_sampling,
                seed=(int(self.epoch), index),
                backend=args.video_backend,
                num_threads=1,
                timeout=args.decode_timeout or None,
            )
        except VideoDecodeError as error:
            raise VideoDecodeError(f"{self.names[index]}: {error}") from error

    def media(self, index: int) -> list[Path]:
        """Paths of the pictures and videos of a sample, in the order of their `<image>`."""
        value: str | list[str] = _media_of(self.samples[index])
        return [self.folders[index] / path for path in ([value] if isinstance(value, str) else value)]

    def frame_counts(self, index: int) -> list[int]:
        """Frames of each of the media: `num_video_frames` for a video, 1 for a picture."""
        return [self.data_args.num_video_frames if is_video(path) else 1 for path in self.media(index)]

    def check_media(self) -> Iterator[tuple[int, FvvError | None]]:
        """Read the frames of every sample once, in threads; yields each sample's index and what is wrong with it.

        Where training takes other frames in each epoch (`random`), every frame of a video is decoded.
        """

        def check(index: int) -> tuple[int, FvvError | None]:
            try:
                if self.data_args.frame_sampling == "random":
                    for path in filter(is_video, self.media(index)):
                        count_frames(path, timeout=self.data_args.decode_timeout or None)
                self.frames(index)
            except FvvError as error:
                return index, error
            return index, None

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from pool.map(check, range(len(self)))

    def leave_out(self, problems: dict[int, FvvError]) -> None:
        """Do with samples that can not be used what `bad_samples` says: raise the first error, or take them out."""
        if problems and self.data_args.bad_samples == "raise":
            raise problems[min(problems)]
        self.bad.update({self.names[index]: error for index, error in problems.items()})
        self._remove(set(problems))

    def _check_all(self) -> None:
        """Check all of each sample but its pixels; leave out what can not be used, then what teaches nothing."""
        problems: dict[int, FvvError] = {}
        learned = [True] * len(self)
        for index in range(len(self)):
            try:
                self.lengths[index], learned[index] = self._check(index)
            except FvvError as error:
                if self.data_args.bad_samples == "raise":
                    raise
                problems[index] = error
        learned = [learns for index, learns in enumerate(learned) if index not in problems]
        self.leave_out(problems)
        # `strict` and `tolerant` drop what they can not count.
        self.dropped = [name for name, learns in zip(self.names, learned, strict=True) if not learns]
        if self.dropped and not any(learned):
            raise LabelMismatchError(
                f"mismatch={self.data_args.mismatch!r} drops every sample, the first is {self.dropped[0]}. Nothing "
                "would be learned. Look at it with diagnose_labels; often the template does not suit the tokenizer."
            )
        self._remove({index for index, learns in enumerate(learned) if not learns})

    def _remove(self, indices: set[int]) -> None:
        for name in ("samples", "names", "folders", "lengths"):
            setattr(self, name, [value for i, value in enumerate(getattr(self, name)) if i not in indices])

    def _check(self, index: int) -> tuple[int, bool]:
        """Check all of a sample but its pixels; returns its expanded length, and whether anything in it is learned."""
        sample, name = self.samples[index], self.names[index]
        check_turns(sample.get("conversations", []), name)
        if "image" in sample and "video" in sample:
            raise DataFormatError(f"{name}: it has both 'image' and 'video'. Use one, with a list for several.")
        value = _media_of(sample)
        if not isinstance(value, str) and not (
            isinstance(value, list) and all(isinstance(path, str) for path in value)
        ):
            raise DataFormatError(f"{name}: 'image' must be a path or a list of paths, got {value!r}.")
        media = self.media(index)
        placeholders = sum(turn["value"].count(DEFAULT_IMAGE_TOKEN) for turn in sample["conversations"])
        if placeholders != len(media):
            raise DataFormatError(
                f"{name}: its text has {placeholders} {DEFAULT_IMAGE_TOKEN} but {len(media)} pictures or videos. "
                f"Write one {DEFAULT_IMAGE_TOKEN} where each belongs."
            )
        for path in media:
            if not path.exists():
                raise VideoDecodeError(f"{name}: {path}: no such file. Check the path, or set image_folder.")
        tokens = self.tokens(index)
        limit = self.data_args.max_length or self.tokenizer.model_max_length
        length = check_token_budget(tokens["input_ids"].tolist(), self.data_args.tokens_per_frame, limit, name)
        return length, bool((tokens["labels"] != IGNORE_INDEX).any())


def _media_of(sample: Sample) -> Any:
    return sample.get("image", sample.get("video", []))


def read_annotations(path: str | Path) -> list[Sample]:
    """Read a JSON annotation file: a list of samples, each an object.

    Raises:
        DataFormatError: the file is missing, is not JSON, or is not a list of objects.
    """
    try:
        samples = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataFormatError(f"{path}: no such annotation file.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataFormatError(f"{path}: not valid JSON ({error}). Look at that place in a JSON checker.") from error
    if not isinstance(samples, list) or not samples or not all(isinstance(sample, dict) for sample in samples):
        raise DataFormatError(f"{path}: the file must be a list of at least one sample, each a JSON object.")
    return samples


@dataclass
class DataCollatorForSupervisedDataset:
    """Make a batch: pad the text to the longest, stack the frames when their shapes agree.

    Returns:
        input_ids, labels: int64 (B, L), padded right with the pad token and -100. attention_mask: int64 (B, L), from
        the lengths: a pad token that stands in the text counts as text. images: uint8 (B, T, 3, S, S), or a list of B
        tensors (T, 3, S, S) when samples have different numbers of frames (0 for text alone).

    Lesson: 05.
    """

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, instances: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
        pad = partial(pad_sequence, batch_first=True)
        images = [instance["images"] for instance in instances]
        return {
            "input_ids": pad([i["input_ids"] for i in instances], padding_value=self.tokenizer.pad_token_id),
            "labels": pad([i["labels"] for i in instances], padding_value=IGNORE_INDEX),
            "attention_mask": pad([torch.ones_like(i["input_ids"]) for i in instances]),
            "images": torch.stack(images) if len({frames.shape for frames in images}) == 1 else images,
        }


def make_supervised_data_module(tokenizer: PreTrainedTokenizerBase, data_args: DataArguments) -> dict[str, Any]:
    """`train_dataset`, `eval_dataset` (None without `validation_data_path`) and `data_collator`, for the Trainer.

    Raises:
        DataFormatError: no `data_path`; a clip of the validation set is in the training set too.

    Lesson: 05.
    """
    if not data_args.data_path:
        raise DataFormatError("No training data: set data_path to at least one annotation file.")
    train = LazySupervisedDataset(tokenizer, data_args.data_path, data_args)
    evaluation = None
    if data_args.validation_data_path:
        evaluation = LazySupervisedDataset(tokenizer, [data_args.validation_data_path], data_args.for_evaluation())
        check_disjoint(train, evaluation)
    return {
        "train_dataset": train,
        "eval_dataset": evaluation,
        "data_collator": DataCollatorForSupervisedDataset(tokenizer),
    }


def check_disjoint(train: LazySupervisedDataset, held_out: LazySupervisedDataset) -> None:
    """Raise a DataFormatError when a picture or video of a held-out set is in the training set too."""
    shared = _all_media(train) & _all_media(held_out)
    if shared:
        raise DataFormatError(
            f"{held_out.names[0].split(', ')[0]}: {len(shared)} of its clips are in the training data too, like "
            f"{min(shared)}. A result on clips that were learned says nothing: take them out of one of the two."
        )


def _all_media(dataset: LazySupervisedDataset) -> set[Path]:
    return {path.resolve() for index in range(len(dataset)) for path in dataset.media(index)}
