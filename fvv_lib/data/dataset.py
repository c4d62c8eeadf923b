"""Lazy dataset and collator.                                                                              Lesson 5

The text of every sample is checked when the dataset is made (`checking`). Pixels and frame times are read when a sample
is accessed. This module knows nothing about models.
"""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from fvv_lib.data.checking import SampleText, Tokens, Turns
from fvv_lib.data.inspecting import Inspector, MediaFacts
from fvv_lib.data.known import SAVE_EVERY
from fvv_lib.data.table import Annotations, LazySequence
from fvv_lib.errors import FvvError, LabelMismatchError, VideoDecodeError
from fvv_lib.machine import usable_cores
from fvv_lib.prompt.placeholders import (
    IGNORE_INDEX,
)
from fvv_lib.settings import DataArguments
from fvv_lib.video.frames import VideoFrames
from fvv_lib.video.medium import Medium
from fvv_lib.video.pixels import pixels_of
from fvv_lib.video.read import read_media
from fvv_lib.video_config import FrameSpec, sampling_of

Checking = Generator[tuple[int, FvvError | None], None, None]


class Shown(NamedTuple):
    """A sample as the model reads it: turns with time marks and one `<image>` per frame; `input_ids` and `labels`,
    int64 (L,); frames, uint8 (T, 3, S, S)."""

    turns: Turns
    tokens: Tokens
    images: torch.Tensor


class LazySupervisedDataset(Dataset):
    """Samples of annotation files, ready for the model.

    An item is a dict:
        input_ids, labels: int64 (L,), `<image>` as one -200 per frame, ignored labels -100.
        images: uint8 (T, 3, S, S): the frames of all images and videos of the sample in order; T is 0 for text alone.

    Args:
        tokenizer: the tokenizer of the model.
        data_path: annotation files.
        data_args: how samples are read, and how their videos become frames and text.
        frame_spec: frame size, tokens per frame and length limit of the model, see `model.geometry.make_frame_spec`.
        seed: seed of `random` frame sampling. The frames also depend on the epoch, the content of the sample and
            the place of the clip in it, but not on the position of the sample or on other samples.
        scored: whether this is a test set, so that `kinds` and `choices` are checked (`data.choices`). Training ignores
            these fields, and other data use these names for other things.

    Attributes:
        lengths: int64 (N,), positions that each sample takes, frames included. With `max_frames`, the number of frames
            comes from the times of the clip's packets; nothing is decoded where the container tells them. Time marks
            are counted only after `check_media` has read the sample.
        dropped: names of the samples that were left out because nothing in them would be learned: all their answers are
            marked as not learned, or `mismatch` is not `exact` and the token counts of the sample do not match.
        media_counts: after `check_media`, the number of images and videos (`files`), and of those that an earlier check
            has read and that have not changed (`known`).
        bad: names of the samples that were left out because they cannot be used, with the error of each; empty unless
            `bad_samples="skip"`.

    Raises:
        DataFormatError: an annotation file or a sample is malformed; names the file and the sample.
        VideoDecodeError: an image or video does not exist.
        TokenBudgetError: a sample is too long.

    Errors of samples are raised before any training step, and only with `bad_samples="raise"`. Exception: a sample that
    only its time marks make too long is found when it is read, in `check_media` and in each epoch.

    Differs from the described system: a sample that cannot be read is an error. There, any exception silently returns
    sample 0 in its place. Lesson: 05.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        data_path: Sequence[str],
        data_args: DataArguments,
        *,
        frame_spec: FrameSpec,
        seed: int = 0,
        scored: bool = False,
    ):
        self.tokenizer = tokenizer
        self.data_args = data_args
        self.frame_spec = frame_spec
        self.samples = Annotations(data_path, data_args.image_folder, data_args.cache_dir)
        self.seed = seed
        self.identities = self.samples.identities() if data_args.frame_sampling == "random" else None
        self.names = LazySequence(self.samples.name, self.samples)
        self.text = SampleText(self.samples, tokenizer, data_args, frame_spec, scored)
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()  # persistent workers see changes
        self.dropped: list[str] = []
        self.media_counts = {"files": 0, "known": 0}
        self.bad: dict[str, FvvError] = {}
        self.was_inspected = False
        self._check_text()

    def __len__(self) -> int:
        return len(self.samples)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch. Random sampling takes other frames in each epoch, the same in every run. `VideoTrainer` calls
        this method."""
        self.epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        shown = self.show(index)
        return {**shown.tokens, "images": shown.images}

    def show(self, index: int) -> Shown:
        """Read the images and videos of a sample, and write and check its prompt."""
        videos = [self.read(medium, index, place) for place, medium in enumerate(self.media(index))]
        return Shown(*self.prompt(index, videos), self.pixels(videos))

    def prompt(self, index: int, videos: Sequence[Any]) -> tuple[Turns, Tokens]:
        """Return turns and tokens of a sample (see `Shown`), and check its length. Of `videos`, only `timestamps` are
        read."""
        turns = self.text.turns(index, videos)
        tokens = self.text.tokens(index, turns)
        self.text.length(index, tokens)  # raises TokenBudgetError
        return turns, tokens

    def measure(self, index: int, videos: Sequence[MediaFacts]) -> int:
        """Return the number of positions that a sample takes with these images and videos, frames and time marks
        included. Without time marks, they are tokenized only if a video has another number of frames than was counted.
        With `random` sampling, frame times differ between epochs. Each mark then counts as long as a mark at
        the end of the part that is used, which has the most digits.

        Raises:
            TokenBudgetError: the sample takes more positions than the model can read.
        """
        if self.data_args.time_marks == "none":
            if [len(video.timestamps) for video in videos] == self.text.frame_counts(index):
                return int(self.counted_lengths[index])
        elif self.data_args.frame_sampling == "random":
            ends = [medium.stop(video.duration) for medium, video in zip(self.media(index), videos, strict=True)]
            videos = [
                replace(video, timestamps=np.full_like(video.timestamps, end))
                for video, end in zip(videos, ends, strict=True)
            ]
        return self.text.length(index, self.text.tokens(index, self.text.turns(index, videos)))

    def pixels(self, videos: Sequence[VideoFrames]) -> torch.Tensor:
        """Return the frames of images and videos as the model expects them, uint8 (T, 3, S, S)."""
        spec, size = self.frame_spec, self.frame_spec.image_size
        clips = [pixels_of(video, spec, self.data_args.image_aspect_ratio) for video in videos]
        return torch.cat([torch.empty(0, 3, size, size, dtype=torch.uint8), *clips])

    def read(self, medium: Medium, index: int, place: int = 0) -> VideoFrames:
        """Read one image or video of a sample, or the part of it that is used: the frames that training uses in this
        epoch. `place` is its index among the images and videos of the sample, so that `random` sampling draws other
        frames in each."""
        args = self.data_args
        try:
            return read_media(
                medium,
                **sampling_of(args),
                seed=self._draw(index, place),
                backend=args.video_backend,
                num_threads=1,
                timeout=args.decode_timeout or None,
            )
        except VideoDecodeError as error:
            raise VideoDecodeError(f"{self.names[index]}: {error}") from error

    def _draw(self, index: int, place: int) -> tuple[int, ...] | None:
        """Return the seed of the random frames of a clip in this epoch; `None` if no frames are random. Place
        0 is left out, so that samples with one clip keep the frames of earlier runs."""
        if self.identities is None:
            return None
        seed = (self.seed, int(self.epoch), *map(int, self.identities[index]))
        return seed if place == 0 else (*seed, place)

    def media(self, index: int) -> list[Medium]:
        """Return the images and videos of a sample, in the order of their `<image>`."""
        return self.samples.media(index)

    def check_media(self, some: Sequence[int] | None = None, threads: int = 0) -> Checking:
        """Read everything that training will read of some samples (default: all), in threads (default: one per core).
        Yield each index and the error of the sample, or `None`. Afterwards, `lengths` includes the time marks.

        A file that an earlier check could read with these settings, and that has not changed, is not read again unless
        `check_again` is set (`Inspector`)."""
        inspector = Inspector(self)
        self.media_counts = inspector.counts
        return self._check_media(inspector, range(len(self)) if some is None else some, threads or usable_cores())

    def _check_media(self, inspector: Inspector, indices: Sequence[int], threads: int) -> Checking:
        are_measured = self.data_args.time_marks == "none" and self.data_args.max_frames is None
        are_done = inspector.done & are_measured

        def check(index: int) -> tuple[int, FvvError | None]:
            try:
                self.lengths[index] = self.measure(index, list(inspector.facts(index)))
            except FvvError as error:
                if type(error) is FvvError:  # not the sample's fault: no decoder, or a process that does not start
                    raise
                return index, error
            return index, None

        try:
            with ThreadPoolExecutor(threads) as pool:
                for start in range(0, len(indices), 1000):  # `map` submits all its items at once
                    part = indices[start : start + 1000]
                    if are_done[list(part)].all():
                        yield from ((index, None) for index in part)
                    else:
                        yield from pool.map(check, part)
                    inspector.save(SAVE_EVERY)
        finally:
            inspector.save()

    @property
    def why_dropped(self) -> str:
        """The reason why the `dropped` samples are dropped, as the end of a sentence."""
        mismatch = self.data_args.mismatch
        return "because no answer is marked as learned" if mismatch == "exact" else f"by mismatch={mismatch!r}"

    def leave_out(self, problems: dict[int, FvvError]) -> None:
        """Handle samples that cannot be used as `bad_samples` says: raise the first error, or leave the samples out."""
        if problems and self.data_args.bad_samples == "raise":
            raise problems[min(problems)]
        self.bad.update({self.names[index]: error for index, error in problems.items()})
        self._keep(~np.isin(np.arange(len(self)), list(problems)))

    def _check_text(self) -> None:
        """Check everything of each sample but its pixels. Leave out samples that cannot be used, then samples in which
        nothing is learned."""
        self.lengths, learned, problems = self.text.check_all(stop=self.data_args.bad_samples == "raise")
        self.counted_lengths = self.lengths.copy()  # `check_media` changes `lengths`
        learned = np.delete(learned, list(problems))
        self.leave_out(problems)
        self.dropped = [self.names[index] for index in np.flatnonzero(~learned)]
        if self.dropped and not learned.any():
            mismatch = self.data_args.mismatch
            if mismatch == "exact":
                raise LabelMismatchError(
                    f"Every answer is marked as not learned, the first in {self.dropped[0]}. Nothing would be learned. "
                    "Remove 'loss' and 'weight' from the turns to learn."
                )
            raise LabelMismatchError(
                f"mismatch={mismatch!r} drops every sample, the first is {self.dropped[0]}. Nothing "
                "would be learned. Look at it with diagnose_labels; often the template does not suit the tokenizer."
            )
        self._keep(learned)

    def _keep(self, chosen: np.ndarray) -> None:
        self.samples.keep(chosen)
        self.lengths, self.counted_lengths = self.lengths[chosen], self.counted_lengths[chosen]
        if self.identities is not None:
            self.identities = self.identities[chosen]


@dataclass
class DataCollatorForSupervisedDataset:
    """Make a batch: pad the text to the longest, and stack the frames if their shapes agree.

    Returns:
        input_ids, labels: int64 (B, L), padded right with the pad token and -100. attention_mask: int64 (B, L), from
        the lengths: a pad token inside the text counts as text. images: uint8 (B, T, 3, S, S), or a list of B tensors
        (T, 3, S, S) if T differs (0 for text alone). If samples have `vision_features`, these replace `images` in the
        same way.

    Lesson: 05.
    """

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, instances: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
        pad = partial(pad_sequence, batch_first=True)
        key = "images" if "images" in instances[0] else "vision_features"
        frames = [instance[key] for instance in instances]
        return {
            "input_ids": pad([i["input_ids"] for i in instances], padding_value=self.tokenizer.pad_token_id),
            "labels": pad([i["labels"] for i in instances], padding_value=IGNORE_INDEX),
            "attention_mask": pad([torch.ones_like(i["input_ids"]) for i in instances]),
            key: torch.stack(frames) if len({clip.shape for clip in frames}) == 1 else frames,
        }
