"""Ask a model about videos and images, once or in a dialogue.                                             Lesson 7

Frames, prompt and tokens are the same as in training. The model's `fvv_config.json` has the settings.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from fvv_lib.data.annotations import check_system, turns_of
from fvv_lib.data.refused import find_mark, turn_marks
from fvv_lib.errors import DataFormatError, FvvError, TokenBudgetError
from fvv_lib.evaluation.generation import (
    FrameKey,
    Place,
    Prompt,
    common_prefix,
    continue_cache,
    inference,
    prompt_ids,
    texts_of,
)
from fvv_lib.model.encoder import encode_images
from fvv_lib.model.geometry import make_frame_spec
from fvv_lib.prompt.placeholders import DEFAULT_IMAGE_TOKEN, check_token_budget, preprocess_multimodal
from fvv_lib.prompt.templates import get_template
from fvv_lib.video.frames import VideoFrames, marked_times
from fvv_lib.video.medium import Medium, parse_segment
from fvv_lib.video.pixels import pixels_of
from fvv_lib.video.read import read_media
from fvv_lib.video_config import frames_setting, sampling_of
from fvv_lib.weights.loading import LoadedModel


class Chat:
    """A dialogue with a model about images and videos. Answers are greedy.

    Each question is asked with all turns before it, so its prompt is the training prompt of the same conversation. The
    keys and values of earlier turns are kept: a question reads only what is new, and encodes only new frames. Start a
    new dialogue if the model has changed.

    Args:
        loaded: the result of `load_pretrained_model`.
        max_new_tokens: the most tokens that an answer may have.
        allow_special_tokens: accept questions that training would refuse without this setting (`data.refused`).
        system: the system prompt, as `system` of a sample; `None`: that of the template.

    Raises:
        DataFormatError: the system prompt is not a text that a sample may have.

    Attributes:
        turns: the dialogue so far in LLaVA's format, one `<image>` per frame.
        images: the frames of the dialogue so far, uint8 (T, 3, S, S).

    Lesson: 07.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        max_new_tokens: int = 128,
        allow_special_tokens: bool = False,
        system: str | None = None,
    ) -> None:
        if max_new_tokens < 1:
            raise FvvError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")
        self.loaded, self.max_new_tokens, self.allow_special_tokens = loaded, max_new_tokens, allow_special_tokens
        self.system = system
        self.config = loaded.model.video_config
        self.marks = turn_marks(get_template(self.config.version), loaded.tokenizer)
        if system is not None:
            self._check_system(system)
        self.frame_spec = make_frame_spec(loaded, self.config)
        self.turns: list[dict[str, str]] = []
        size = self.frame_spec.image_size
        self.images = torch.empty(0, 3, size, size, dtype=torch.uint8)
        self._next: list[tuple[Medium, VideoFrames]] = []  # shown, not yet asked about
        self._known: list[Place] = []  # what the keys and values in the cache were computed from
        self._cache = DynamicCache()

    def show(
        self, path: Medium | str | Path, start: float | str | None = None, end: float | str | None = None
    ) -> VideoFrames:
        """Show an image, a video or a part of a video with the next question. Return the frames that the model will
        see.

        Args:
            start, end: show only this part of the video, see `read_video`.

        Raises:
            VideoDecodeError: the file cannot be read, or the video has no such part.
        """
        medium = path if isinstance(path, Medium) else Medium(path)
        if start is not None or end is not None:
            first, last = parse_segment(start, end)
            medium = replace(medium, start=first, end=last)
        video = read_media(medium, **{**sampling_of(self.config), "strategy": self.config.inference_sampling})
        self._next.append((medium, video))
        return video

    def prompt(self, question: str) -> list[int]:
        """Return the token ids of the dialogue with this question, up to the start of its answer.

        Raises:
            DataFormatError: the question is empty, its number of `<image>` differs from the number of images and
                videos shown since the last question, or it has a media tag or a mark of the template (`find_mark`).
            TokenBudgetError: prompt and answer are longer than the model can read.
        """
        self._check_marks(question, "question")
        turns = turns_of({"system": self.system, "conversations": [*self.turns, self._turn(question)]})
        ids = prompt_ids(turns, self.loaded.tokenizer, self.config.version, "dialogue")
        name = f"The question {question[:40]!r}, with {self.max_new_tokens} tokens reserved for its answer"
        room = self.frame_spec.max_length - self.max_new_tokens
        try:
            check_token_budget(ids, self.frame_spec.tokens_per_frame, room, name, frames_setting(self.config))
        except TokenBudgetError as error:
            remedy = " Or start a new dialogue." if self.turns else ""
            raise TokenBudgetError(f"{error}{remedy}") from error
        return ids

    def ask(self, question: str, write: Callable[[str], Any] | None = None) -> str:
        """Ask a question and return the answer.

        An empty answer leaves the dialogue unchanged, because no training conversation has an empty answer. What was
        shown is then shown again with the next question.

        Args:
            question: if it has no `<image>`, one is put before it for each image or video shown since the last
                question.
            write: called with each piece of the answer as soon as it is generated.

        Raises the same errors as `prompt`.
        """
        prompt = self.prompt(question)
        clips = [pixels_of(video, self.frame_spec, self.config.image_aspect_ratio) for _, video in self._next]
        images = torch.cat([self.images, *clips])
        answer = self._answer(Prompt(prompt, [("frame", t) for t in range(len(images))]), images, write)
        if answer:
            self.turns += [self._turn(question), {"from": "gpt", "value": answer}]
            self.images, self._next = images, []
        return answer

    def _answer(self, prompt: Prompt, images: torch.Tensor, write: Callable[[str], Any] | None) -> str:
        """Generate an answer. The part of the prompt that is in the cache is not read again. The tokens of an earlier
        answer may differ from those that were generated: the cache is cut where they begin to differ."""
        model, tokenizer, version = self.loaded.model, self.loaded.tokenizer, self.config.version
        places, cache = prompt.places(), self._cache
        start = common_prefix(places[:-1], self._known)
        self._known = self._known[:start]  # so much stays known if generation is interrupted
        positions = self._positions(self._known)
        if positions < cache.get_seq_length():
            cache.crop(positions - cache.get_seq_length())
        with inference(model):
            frames = self._frames(images, sum(not isinstance(place, int) for place in places[:start]))
            mask = torch.ones(1, positions, dtype=torch.long, device=model.device)
            output = continue_cache(
                model, tokenizer, cache, mask, [places[start:]], frames, version, self.max_new_tokens, write
            )
        self._known = [*places, *output[0, :-1].tolist()]
        return texts_of(output, tokenizer, version)[0]

    def _positions(self, places: Sequence[Place]) -> int:
        """Return how many positions tokens and frames take."""
        return sum(1 if isinstance(place, int) else self.frame_spec.tokens_per_frame for place in places)

    def _frames(self, images: torch.Tensor, start: int) -> dict[FrameKey, torch.Tensor]:
        """Return the features of the frames from `start` on."""
        if start == len(images):
            return {}
        (features,) = encode_images(self.loaded.model, [images[start:]], self.loaded.model.frames_per_chunk)
        return {("frame", start + t): row for t, row in enumerate(features)}

    def _check_system(self, system: str) -> None:
        check_system(system, "The dialogue")
        self._check_marks(system, "system prompt")
        turn = {"from": "human", "value": DEFAULT_IMAGE_TOKEN, "system": system}
        get_template(self.config.version).render([turn], "The dialogue")

    def _check_marks(self, text: str, what: str) -> None:
        found = None if self.allow_special_tokens else find_mark(text, self.marks)
        if found:
            raise DataFormatError(
                f"The {what} has {found!r}. Only {DEFAULT_IMAGE_TOKEN} stands for a picture or video, and marks of "
                "the chat template and special tokens are not plain text. Take it out, or set allow_special_tokens."
            )

    def _turn(self, question: str) -> dict[str, str]:
        media, shown = [medium for medium, _ in self._next], [video.timestamps for _, video in self._next]
        if DEFAULT_IMAGE_TOKEN not in question:
            question = f"{DEFAULT_IMAGE_TOKEN}\n" * len(shown) + question
        marks = marked_times(media, shown, self.config.time_marks, self.config.time_origin)
        turn = {"from": "human", "value": question}
        return preprocess_multimodal([[turn]], None, [len(times) for times in shown], marks)[0][0]


def ask(
    loaded: LoadedModel,
    media: Medium | str | Path | Sequence[Medium | str | Path],
    question: str,
    max_new_tokens: int = 128,
    allow_special_tokens: bool = False,
    system: str | None = None,
) -> str:
    """Ask one question about a video, an image, or several, in the way the model was trained: a `Chat` of one turn.

    Args:
        media: one path or `Medium`, several, or none (`[]`).
        max_new_tokens, allow_special_tokens, system: see `Chat`.

    Raises the same errors as `Chat`, `Chat.show` and `Chat.ask`.
    """
    chat = Chat(loaded, max_new_tokens, allow_special_tokens, system)
    for one in [media] if isinstance(media, Medium | str | Path) else media:
        chat.show(one)
    return chat.ask(question)
