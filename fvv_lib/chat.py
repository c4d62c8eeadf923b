"""Ask a model about videos and pictures, once or in a dialogue.                                           Lesson 7

    python -m fvv_lib.chat --model output/tiny-fastvlm-video --video clip.mp4 --question "Which way does it move?"

reads what the model was taught to read and writes the answer word by word. Without --question it takes one question
from each line that is typed. Frames, prompt and tokens are those of training: `fvv_config.json` says which.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import tyro

from fvv_lib.dataset import marked_times
from fvv_lib.decoding import VideoFrames, is_video, read_media
from fvv_lib.errors import FvvError, TokenBudgetError
from fvv_lib.evaluation import generate_answers, prompt_ids
from fvv_lib.images import preprocess_frames, processor_size
from fvv_lib.loading import LoadedModel, load_pretrained_model, tokens_per_frame
from fvv_lib.tokens import DEFAULT_IMAGE_TOKEN, check_token_budget, preprocess_multimodal


class Chat:
    """A dialogue with a model about what it is shown; greedy.

    Every question is asked with all turns before it, so that its prompt is the training prompt of the same
    conversation; each time, every frame is encoded again.

    Args:
        loaded: what `load_pretrained_model` returns.
        max_new_tokens: tokens that an answer may have.

    Attributes:
        turns: the dialogue so far in LLaVA's form, one `<image>` for each frame.
        images: the frames in it, uint8 (T, 3, S, S).

    Lesson: 07.
    """

    def __init__(self, loaded: LoadedModel, max_new_tokens: int = 128) -> None:
        if max_new_tokens < 1:
            raise FvvError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")
        self.loaded, self.max_new_tokens = loaded, max_new_tokens
        self.config = loaded.model.video_config
        self.size = processor_size(loaded.image_processor)
        self.turns: list[dict[str, str]] = []
        self.images = torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        self._next: list[tuple[Path, VideoFrames]] = []  # shown, not yet asked about

    def show(self, path: str | Path) -> VideoFrames:
        """Show a picture or video with the next question; returns the frames that the model will see.

        Raises:
            VideoDecodeError: it can not be read.
        """
        video = read_media(path, self.config.num_video_frames, strategy=self.config.inference_sampling)
        self._next.append((Path(path), video))
        return video

    def prompt(self, question: str) -> list[int]:
        """Token ids of the dialogue with this question, up to where its answer begins.

        Raises:
            DataFormatError: `<image>` are not as many as what was shown since the last question, or no question.
            TokenBudgetError: prompt and answer are longer than the model may read.
        """
        turns = [*self.turns, self._turn(question)]
        ids = prompt_ids(turns, self.loaded.tokenizer, self.config.version, "dialogue")
        name = f"The question {question[:40]!r}, with {self.max_new_tokens} tokens kept for its answer"
        room = self.loaded.context_len - self.max_new_tokens
        try:
            check_token_budget(ids, tokens_per_frame(self.loaded.model, self.size), room, name)
        except TokenBudgetError as error:
            raise TokenBudgetError(f"{error}{' Or begin a new dialogue.' * bool(self.turns)}") from error
        return ids

    def ask(self, question: str, write: Callable[[str], Any] | None = None) -> str:
        """Ask a question and return the answer.

        Args:
            question: `<image>` is put before it for each picture or video shown since the last question, unless it
                stands in it already.
            write: called with each piece of the answer as soon as it is there.

        An empty answer leaves the dialogue as it was, with what was shown still to be asked about: no conversation that
        a model learns from has one.

        Raises: as `prompt`.
        """
        prompt = self.prompt(question)
        config = self.config
        pixels = [
            preprocess_frames(video.frames, self.size, config.image_aspect_ratio, config.background)
            for _, video in self._next
        ]
        images = torch.cat([self.images, *pixels])
        (answer,) = generate_answers(
            self.loaded.model,
            self.loaded.tokenizer,
            [prompt],
            [images],
            self.config.version,
            self.max_new_tokens,
            write,
        )
        if answer:
            self.turns += [self._turn(question), {"from": "gpt", "value": answer}]
            self.images, self._next = images, []
        return answer

    def _turn(self, question: str) -> dict[str, str]:
        paths, videos = [path for path, _ in self._next], [video for _, video in self._next]
        if DEFAULT_IMAGE_TOKEN not in question:
            question = f"{DEFAULT_IMAGE_TOKEN}\n" * len(videos) + question
        times = marked_times(paths, videos, self.config.time_marks)
        turn = {"from": "human", "value": question}
        return preprocess_multimodal([[turn]], None, [len(video.frames) for video in videos], times)[0][0]


def ask(loaded: LoadedModel, media: str | Path | Sequence[str | Path], question: str, max_new_tokens: int = 128) -> str:
    """Ask one question about a video, a picture, or several, in the way the model was trained: a `Chat` of one turn.

    Args:
        media: one path, or several, or none (`[]`).

    Raises: as `Chat.show` and `Chat.ask`.
    """
    chat = Chat(loaded, max_new_tokens)
    for path in [media] if isinstance(media, str | Path) else media:
        chat.show(path)
    return chat.ask(question)


def _describe(path: Path, video: VideoFrames) -> str:
    if not is_video(path):
        return f"{path}: a picture"
    times = ", ".join(f"{time:.2f}" for time in video.timestamps)
    return f"{path}: {len(video.frames)} of {video.total_frames} frames, at {times} seconds"


def _converse(chat: Chat) -> None:
    """A question from each line of the standard input, until it ends; an empty line asks nothing."""
    typed = sys.stdin.isatty()
    if typed:
        print("Ask a question; Ctrl-D ends the dialogue.")
    while True:
        try:
            question = input("> " if typed else "").strip()
        except (EOFError, KeyboardInterrupt):
            print(end="\n" * typed)
            return
        if not question:
            continue
        try:
            _answer(chat, question)
        except FvvError as error:
            if not typed:
                raise
            print(f"error: {error}")  # the dialogue is as it was


def _answer(chat: Chat, question: str) -> None:
    if not chat.ask(question, write=lambda text: print(text, end="", flush=True)):
        print("(no answer; the question is not kept)", end="")
    print()


def main(
    model: str,
    image: tyro.conf.UseAppendAction[tuple[Path, ...]] = (),
    video: tyro.conf.UseAppendAction[tuple[Path, ...]] = (),
    question: str | None = None,
    max_new_tokens: int = 128,
) -> None:
    """Ask a model about videos and pictures.

    Args:
        model: folder of a checkpoint, or a hub name where there is a network.
        image: a picture; give the flag again for another one.
        video: a video; give the flag again for another one. Pictures are shown first, then videos.
        question: ask this and stop; without it, ask what the lines of the standard input say, in one dialogue.
        max_new_tokens: tokens that an answer may have.
    """
    try:
        chat = Chat(load_pretrained_model(model), max_new_tokens)
        for path, as_video in [*((path, False) for path in image), *((path, True) for path in video)]:
            if path.exists() and is_video(path) != as_video:
                kind = "no video: use --image" if as_video else "a video, or a folder of its frames: use --video"
                raise FvvError(f"{path}: it is {kind}.")
            print(_describe(path, chat.show(path)))
        if question is None:
            _converse(chat)
        else:
            _answer(chat, question)
    except FvvError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    tyro.cli(main)
