"""Ask a model many questions: each video is read and encoded once for all its questions.                   Lesson 7

Questions are asked in batches, the questions of one video next to each other. Frames, features and the keys and values
of a video are freed after its last question. Several processes share the questions by video. This module knows nothing
about scores.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from fvv_lib.errors import FvvError, VideoDecodeError
from fvv_lib.evaluation.controls import FORWARDS, GREY, order_of
from fvv_lib.evaluation.generation import FrameKey, Prompt, generate_batch, inference, prompt_ids
from fvv_lib.evaluation.questions import Question
from fvv_lib.machine import usable_cores
from fvv_lib.model.encoder import encode_images
from fvv_lib.model.sharding import is_zero3_enabled
from fvv_lib.model.video_model import VideoMixin
from fvv_lib.processes import process_count, process_rank
from fvv_lib.prompt.placeholders import check_token_budget, preprocess_multimodal
from fvv_lib.video.frames import VideoFrames, marked_times
from fvv_lib.video.medium import Medium
from fvv_lib.video.pixels import pixels_of
from fvv_lib.video.read import read_media
from fvv_lib.video_config import FrameSpec, VideoConfig, frames_setting, sampling_of

BLANK = ("blank", 0)  # the key of the one blank frame

Reader = Callable[[Medium], VideoFrames]
Row = tuple[int, str]  # a question by its position, and a control


class Generated(NamedTuple):
    """The answer to a question.

    Attributes:
        position: of the question in the list that was asked.
        control: how its frames were shown, see `controls`.
        text: what the model said, without its end mark.
    """

    position: int
    control: str
    text: str


def answer_questions(
    model: VideoMixin,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    config: VideoConfig,
    spec: FrameSpec,
    *,
    read: Reader | None = None,
    batch_size: int = 32,
    max_new_tokens: int = 64,
    controls: Sequence[str] = (FORWARDS,),
    seed: int = 0,
    done: Collection[Row] = (),
) -> Iterator[list[Generated]]:
    """Ask questions, and yield the greedy answers of each batch. The questions of one video are asked together, videos
    in the order of their first question.

    The answers are those that each question would get alone, in float32 token by token. With several processes, all
    must call this function. Each yields its share.

    Args:
        config: how media become frames and text; usually `model.video_config`.
        spec: the frame size for this configuration, see `make_frame_spec`.
        read: reads a medium; default: as `config` says.
        batch_size: the most questions in a batch.
        max_new_tokens: the most tokens that an answer may have, its end mark included.
        controls: in which orders to show videos (`controls.CONTROLS`). A question without a video is only asked
            forwards.
        seed: of the control `shuffled`.
        done: pairs of position and control that are not asked.

    Raises:
        DataFormatError: a question does not have one `<image>` for each medium.
        TokenBudgetError: a prompt is longer than the model can read.
        VideoDecodeError: a medium cannot be read.

    Lesson: 07.
    """
    if batch_size < 1:
        raise FvvError(f"batch_size must be at least 1, got {batch_size}.")
    known = set(done)
    asked = [row for row in rows_of(questions, controls) if row not in known]
    batches, repeated = _my_batches(questions, asked, batch_size)
    view = _View(model, tokenizer, questions, config, spec, read or reader_of(config), seed)
    view.expect(batches)
    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            for number, batch in enumerate(batches):
                for soon in batches[number : number + 2]:  # threads read the next batch while the model answers this
                    view.read_soon(soon, pool)
                texts = view.answer(batch, max_new_tokens)
                if number < len(batches) - repeated:
                    yield [Generated(*row, text) for row, text in zip(batch, texts, strict=True)]
        finally:
            pool.shutdown(cancel_futures=True)


def rows_of(questions: Sequence[Question], controls: Sequence[str]) -> list[Row]:
    """Return what is asked: each question forwards, if it is among the controls, and each question about a video under
    each other control. Questions with the same first medium are next to each other, in the order of the first."""
    groups: dict[Medium | int, list[int]] = {}
    for position in range(len(questions)):
        groups.setdefault(_subject(questions, position), []).append(position)
    return [
        (position, control)
        for positions in groups.values()
        for control in controls
        for position in positions
        if control == FORWARDS or questions[position].has_video
    ]


def reader_of(config: VideoConfig, backend: str = "auto", timeout: float | None = None) -> Reader:
    """Return a function that reads media as a configuration says."""
    settings = {**sampling_of(config), "strategy": config.inference_sampling}
    return lambda medium: read_media(medium, **settings, backend=backend, num_threads=1, timeout=timeout)


def _subject(questions: Sequence[Question], position: int) -> Medium | int:
    """Return what a question is about: its first medium. A question without one stands alone."""
    media = questions[position].media
    return media[0] if media else position


def _my_batches(questions: Sequence[Question], rows: Sequence[Row], batch_size: int) -> tuple[list[list[Row]], int]:
    """Return the batches that this process asks, and how many of the last ones only repeat others. The questions of a
    video go to one process, the one that has the fewest so far.

    Under ZeRO-3, all processes must run each layer equally often, so all ask equally many batches. A process with fewer
    asks its last batch again, or another's first batch if it has none."""
    shares: list[list[Row]] = [[] for _ in range(process_count())]
    for _, group in groupby(rows, key=lambda row: _subject(questions, row[0])):
        min(shares, key=len).extend(group)
    batches = [[share[start : start + batch_size] for start in range(0, len(share), batch_size)] for share in shares]
    mine = batches[process_rank()]
    if not is_zero3_enabled() or not rows:
        return mine, 0
    repeated = max(map(len, batches)) - len(mine)
    again = mine[-1] if mine else next(other[0] for other in batches if other)
    return [*mine, *[again] * repeated], repeated


class _View:
    """What the model sees of the media of questions: frames that are being read, features, and times.

    Attributes:
        features: of each frame that is still needed, (K, D), by its key.
        times: of the frames of each medium that is encoded and still needed, float64 (T,).
    """

    def __init__(
        self,
        model: VideoMixin,
        tokenizer: PreTrainedTokenizerBase,
        questions: Sequence[Question],
        config: VideoConfig,
        spec: FrameSpec,
        read: Reader,
        seed: int,
    ):
        self.model, self.tokenizer, self.questions = model, tokenizer, questions
        self.config, self.spec, self.read, self.seed = config, spec, read, seed
        media = dict.fromkeys(medium for question in questions for medium in question.media)
        self.numbers = {medium: number for number, medium in enumerate(media)}
        self.reading: dict[Medium, Future[_Clip]] = {}
        self.features: dict[FrameKey, torch.Tensor] = {}
        self.times: dict[Medium, np.ndarray] = {}
        self.left: Counter[Medium] = Counter()

    def media(self, batch: Sequence[Row]) -> list[Medium]:
        return [medium for position, _ in batch for medium in self.questions[position].media]

    def expect(self, batches: Sequence[Sequence[Row]]) -> None:
        """Count how often each medium will be seen, so that it is freed after the last time."""
        for batch in batches:
            self.left.update(self.media(batch))

    def read_soon(self, batch: Sequence[Row], pool: ThreadPoolExecutor) -> None:
        for medium in self.media(batch):
            if medium not in self.times and medium not in self.reading:
                self.reading[medium] = pool.submit(self._read, medium)

    def _read(self, medium: Medium) -> "_Clip":
        video = self.read(medium)
        return _Clip(video.timestamps, pixels_of(video, self.spec, self.config.image_aspect_ratio))

    def answer(self, batch: Sequence[Row], max_new_tokens: int) -> list[str]:
        self._encode(batch)
        prompts = [self._prompt(position, control) for position, control in batch]
        texts = generate_batch(self.model, self.tokenizer, prompts, self.features, self.config.version, max_new_tokens)
        self._free(batch)
        return texts

    def _encode(self, batch: Sequence[Row]) -> None:
        """Encode the media of a batch that were not seen before, and a blank frame when it is first needed."""
        fresh = {}
        for position, _ in batch:
            for medium in self.questions[position].media:
                if medium not in self.times and medium not in fresh:
                    fresh[medium] = self._clip(medium, self.questions[position].id)
        size = self.spec.image_size
        needs_blank = BLANK not in self.features and any(control == "blank" for _, control in batch)
        blank = torch.full((int(needs_blank), 3, size, size), GREY, dtype=torch.uint8)
        if not fresh and not needs_blank and not is_zero3_enabled():  # under ZeRO-3, all encode in each batch
            return
        clips = [*(clip.pixels for clip in fresh.values()), blank]
        with inference(self.model):
            *encoded, grey = encode_images(self.model, clips, self.model.frames_per_chunk)
        for (medium, clip), rows in zip(fresh.items(), encoded, strict=True):
            self.times[medium] = clip.timestamps
            self.features.update({(self.numbers[medium], frame): row for frame, row in enumerate(rows)})
        if needs_blank:
            self.features[BLANK] = grey[0]

    def _clip(self, medium: Medium, name: str) -> "_Clip":
        try:
            return self.reading.pop(medium).result()
        except VideoDecodeError as error:
            if str(error).startswith(f"{name}: "):
                raise
            raise VideoDecodeError(f"{name}: {error}") from error

    def _prompt(self, position: int, control: str) -> Prompt:
        question, config, spec = self.questions[position], self.config, self.spec
        times = [self.times[medium] for medium in question.media]
        marks = marked_times(question.media, times, config.time_marks, config.time_origin)
        turns = preprocess_multimodal([question.turns()], None, [len(some) for some in times], marks)[0]
        ids = prompt_ids(turns, self.tokenizer, config.version, question.id)
        check_token_budget(ids, spec.tokens_per_frame, spec.max_length, question.id, frames_setting(config))
        frames = [key for medium in question.media for key in self._shown(medium, control)]
        return Prompt(ids, frames)

    def _shown(self, medium: Medium, control: str) -> list[FrameKey]:
        """Return the keys of the frames that are shown for a medium, in order."""
        number, count = self.numbers[medium], len(self.times[medium])
        order = order_of(control if medium.is_video() else FORWARDS, count, (self.seed, number))
        return [BLANK] * count if order is None else [(number, frame) for frame in order]

    def _free(self, batch: Sequence[Row]) -> None:
        self.left.subtract(self.media(batch))
        for medium in set(self.media(batch)):
            if not self.left[medium]:
                for frame in range(len(self.times.pop(medium))):
                    del self.features[self.numbers[medium], frame]


class _Clip(NamedTuple):
    """An image or video as the model sees it: the times of its frames, float64 (T,), and pixels, uint8 (T, 3, S, S)."""

    timestamps: np.ndarray
    pixels: torch.Tensor
