"""Prompts, tokens and labels of samples, and every check of a sample that needs no pixels.                 Lesson 5

The prompt, tokens, labels and length of a sample depend on its text and its number of frames, and with time marks on
the times of the frames. So all samples can be checked before any frame is decoded. This module reads no pixels.
"""

import os
import sys
from array import array
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from fvv_lib.data.annotations import check_sample, turns_of
from fvv_lib.data.choices import check_questions
from fvv_lib.data.known import FILE, FOLDER, MISSING, Findings, find_in_files
from fvv_lib.data.media_units import MediaUnits
from fvv_lib.data.refused import check_texts, turn_marks
from fvv_lib.data.table import Annotations, Checked
from fvv_lib.errors import DataFormatError, VideoDecodeError
from fvv_lib.files import is_dir, is_url, locate, readable, slash_hint
from fvv_lib.labels.exact import preprocess
from fvv_lib.prompt.placeholders import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX, check_token_budget, preprocess_multimodal
from fvv_lib.prompt.templates import get_template
from fvv_lib.provenance import code_digest, versions
from fvv_lib.settings import DataArguments
from fvv_lib.video.frames import marked_times
from fvv_lib.video.kinds import is_video
from fvv_lib.video.medium import Medium
from fvv_lib.video.read import count_sampled
from fvv_lib.video_config import FrameSpec, frames_setting, sampling_of

# Settings of DataArguments that change neither the length nor the labels of a sample.
IGNORED_SETTINGS = {
    *("data_path", "validation_data_path", "test_data_path", "keep_path", "cache_dir", "check_media"),
    "bad_samples",
    "check_again",
    *("decode_timeout", "video_backend", "max_new_tokens", "eval_questions", "cache_features"),
}

READING_CODE = ("video/**/*", "video_config")  # the modules that read images and videos
DECODERS = ("av", "pillow", "numpy", "decord")  # packages that read images and videos

VIDEO = 2

ENTRY_BYTES = 200  # overhead of a cached entry beside its text and ids: its key and its slot in the dictionary

Turns = list[dict[str, Any]]
Tokens = dict[str, torch.Tensor]


class SampleText:
    """The text side of samples: prompts, tokens and labels, within the token budget of the model.

    Args:
        samples: the annotations. Samples that are removed from them are removed here too.
        tokenizer, data_args, frame_spec, scored: as in `LazySupervisedDataset`.

    Raises:
        DataFormatError: an unknown template.
    """

    def __init__(
        self,
        samples: Annotations,
        tokenizer: PreTrainedTokenizerBase,
        data_args: DataArguments,
        frame_spec: FrameSpec,
        scored: bool = False,
    ):
        self.marks = turn_marks(get_template(data_args.version), tokenizer)
        self.samples = samples
        self.tokenizer = tokenizer
        self.data_args = data_args
        self.frame_spec = frame_spec
        self.scored = scored
        self.kinds = self.media_kinds()
        self.are_whole = samples.whole_rows()
        units = MediaUnits(samples)
        self.uncounted: dict[Medium, VideoDecodeError] = {}
        counts = self._count_all_frames(units)
        self.counts, self.starts = counts[units.places], units.starts  # of all media of the table, and of each row

    def frame_counts(self, index: int) -> list[int]:
        """Return the number of frames of each image (1) and video of a sample."""
        row = self.samples.rows[index]
        return self.counts[self.starts[row] : self.starts[row + 1]].tolist()

    def turns(self, index: int, videos: Sequence[Any] | None = None) -> Turns:
        """Return the conversation with one `<image>` per frame. Time marks are written only if `videos` is given; only
        their `timestamps` are read, which also give the numbers of frames."""
        args, source = self.data_args, turns_of(self.samples[index])
        if videos is None:
            return preprocess_multimodal([source], args, self.frame_counts(index))[0]
        times = [video.timestamps for video in videos]
        marks = marked_times(self.samples.media(index), times, args.time_marks, args.time_origin)
        return preprocess_multimodal([source], args, [len(some) for some in times], marks)[0]

    def tokens(self, index: int, turns: Turns, tokenizer: Any = None) -> Tokens:
        """Return `input_ids` and `labels` of a sample, int64 (L,)."""
        args, has_image = self.data_args, bool(self.frame_counts(index))
        names = [self.samples.name(index)]
        both = preprocess([turns], tokenizer or self.tokenizer, has_image, args.version, args.mismatch, names)
        return {key: values[0] for key, values in both.items()}

    def length(self, index: int, tokens: Tokens) -> int:
        """Return the number of positions that a sample takes, frames included.

        Raises:
            TokenBudgetError: the sample takes more positions than the model can read.
        """
        spec, name = self.frame_spec, self.samples.name(index)
        setting = frames_setting(self.data_args)
        return check_token_budget(tokens["input_ids"], spec.tokens_per_frame, spec.max_length, name, setting)

    def check_all(self, stop: bool) -> Checked:
        """Check every sample. The result is cached until something that it depends on changes.

        Args:
            stop: raise the first error instead of collecting all errors.
        """
        settings = {name: value for name, value in asdict(self.data_args).items() if name not in IGNORED_SETTINGS}
        files = self.kinds.tobytes() + self.counts.tobytes()
        check = partial(self.check, RememberingTokenizer(self.tokenizer))
        return self.samples.check(check, [self.tokenizer, settings, asdict(self.frame_spec), files, self.scored], stop)

    def media_kinds(self) -> np.ndarray:
        """Return 0 for each missing file of the samples, 1 for an image, `VIDEO` for a video: uint8 (M,). If one
        changes, samples must be checked again."""
        files, looks = self.samples.files, self.samples.files.looks
        are_named = files.are_named_videos
        args = self.data_args
        findings = Findings(args.cache_dir, "kinds", reading_code("data/checking"), args.check_again)
        found = find_in_files(findings, files.paths, looks, _kind, (looks.kinds == FILE) & ~are_named)
        videos = are_named | (looks.kinds == FOLDER) | (np.array(found, object) == "video")
        return np.where(looks.kinds == MISSING, 0, np.where(videos, VIDEO, 1)).astype(np.uint8)

    def _count_all_frames(self, units: MediaUnits) -> np.ndarray:
        """Return the number of frames of each unit: int32 (U,). With `max_frames` it is 0 for a unit that cannot be
        read; `check` raises its error."""
        args = self.data_args
        if args.max_frames is None:
            return np.where(units.are_videos(self.kinds == VIDEO), args.num_video_frames, 1).astype(np.int32)
        sampling, timeout = sampling_of(args), args.decode_timeout or None
        findings = Findings(args.cache_dir, "frames", [reading_code("data/checking"), sampling], args.check_again)

        def count(key: str) -> str | None:
            medium = units.medium(os.fsencode(key))
            try:
                return str(count_sampled(medium, **sampling, timeout=timeout))
            except VideoDecodeError as error:
                self.uncounted[medium] = error
                return None

        used = units.of_rows(self.samples.rows)
        found = find_in_files(findings, units.paths, units.looks, count, used, task="counting frames")
        return np.array([int(number or 0) for number in found], np.int32)

    def check(self, tokenizer: Any, index: int) -> tuple[int, bool]:
        """Check everything of a sample but its pixels. Return its expanded length and whether any token is learned."""
        sample, name = self.samples[index], self.samples.name(index)
        check_sample(sample, name)
        if self.scored:
            check_questions(sample, name)
        if not self.data_args.allow_special_tokens:
            check_texts(sample["conversations"], name, self.marks)
            check_texts([{"value": sample.get("system", "")}], f"{name}, system prompt", self.marks)
        self._check_media(index, name)
        if self.data_args.max_frames is not None:
            self._check_counts(index, name)
        answers = "".join(turn["value"] for turn in sample["conversations"][1::2])
        if self.data_args.time_marks != "none" and DEFAULT_IMAGE_TOKEN in answers:
            raise DataFormatError(
                f"{name}: an answer has {DEFAULT_IMAGE_TOKEN}, so the model would learn its time marks as text. Write "
                f"{DEFAULT_IMAGE_TOKEN} in a question, or use time_marks='none'."
            )
        (turns,) = preprocess_multimodal([turns_of(sample)], self.data_args, self.frame_counts(index))
        tokens = self.tokens(index, turns, tokenizer)
        return self.length(index, tokens), bool((tokens["labels"] != IGNORE_INDEX).any())

    def _check_media(self, index: int, name: str) -> None:
        """Check that the files of a sample exist, and that each medium can have the part and the frame rate that the
        sample says.

        Raises:
            VideoDecodeError: a file does not exist.
            DataFormatError: a part of a still image, or a frame rate of a file that is not a folder of frames.
        """
        files, row = self.samples.files, self.samples.rows[index]
        found = self.kinds[files.places[files.starts[row] : files.starts[row + 1]]]
        if self.are_whole[row] and found.all():
            return
        kinds = iter(found.tolist())
        for medium in self.samples.media(index):
            for file in medium.files:
                if next(kinds) == 0:
                    hint = slash_hint(file)
                    raise VideoDecodeError(
                        f"{name}: {str(file)[:300]}: no such file. Check the path, or set image_folder.{hint}"
                    )
            _check_medium(medium, name)

    def _check_counts(self, index: int, name: str) -> None:
        """Raise the error of the first medium whose frames could not be counted."""
        for medium, count in zip(self.samples.media(index), self.frame_counts(index), strict=True):
            if count == 0:
                raise VideoDecodeError(f"{name}: {self.uncounted[medium]}")


def _check_medium(medium: Medium, name: str) -> None:
    """Raise a DataFormatError for a part of a still image, or a frame rate of a file that is not a folder of frames."""
    with readable(medium):
        has_rate = medium.fps is None or isinstance(medium.source, tuple) or is_dir(locate(medium.source))
    if not has_rate:
        raise DataFormatError(
            f"{name}: {medium.source}: 'frames' must be a folder of images or a list of images. A video file has times "
            "of its own: write its path under 'video'."
        )
    if medium.is_part and not medium.is_video():
        raise DataFormatError(f"{name}: {medium.source}: a still image has no part. Take out 'start' and 'end'.")


def reading_code(module: str) -> list[Any]:
    """Return what every finding in an image or video depends on: the code that reads the file, and the `module` that
    says what is looked for and how it is written down."""
    return [code_digest(*READING_CODE, module), versions(DECODERS)]


def _kind(path: str) -> str | None:
    if not is_url(path) and not os.access(path, os.R_OK):  # `is_video` cannot tell
        return None
    return "video" if is_video(path) else "image"


class RememberingTokenizer:
    """A tokenizer that caches the ids of recent texts. All samples begin with the same system prompt and many have the
    same question, so checking a data set takes fewer calls.

    Args:
        most_bytes: limit of the cached texts and ids. The cache is cleared before it exceeds the limit.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, most_bytes: int = 32 * 2**20):
        self.tokenizer, self.most_bytes = tokenizer, most_bytes
        self.seen: dict[tuple[str, bool], array[int]] = {}
        self.bytes = 0

    def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
        """Return the `input_ids` of a text, as the tokenizer does."""
        key = (text, add_special_tokens)
        if key in self.seen:
            return SimpleNamespace(input_ids=self.seen[key].tolist())
        ids = self.tokenizer(text, add_special_tokens=add_special_tokens).input_ids
        self._keep(key, array("i", ids))
        return SimpleNamespace(input_ids=ids)

    def _keep(self, key: tuple[str, bool], ids: "array[int]") -> None:
        size = ENTRY_BYTES + sys.getsizeof(key[0]) + sys.getsizeof(ids)
        if self.bytes + size > self.most_bytes:
            self.seen.clear()
            self.bytes = 0
        if size <= self.most_bytes:
            self.seen[key] = ids
            self.bytes += size

    @property
    def bos_token_id(self) -> int | None:
        return self.tokenizer.bos_token_id

    @property
    def pad_token_id(self) -> int | None:
        return self.tokenizer.pad_token_id

    @property
    def legacy(self) -> bool:
        """Whether a Llama tokenizer puts a space before a text that follows `</s>`."""
        return getattr(self.tokenizer, "legacy", False)

    @property
    def is_fast(self) -> bool:
        return self.tokenizer.is_fast

    @property
    def split_special_tokens(self) -> bool:
        return self.tokenizer.split_special_tokens

    @cached_property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """The added tokens by id, read from the tokenizer once."""
        return self.tokenizer.added_tokens_decoder
