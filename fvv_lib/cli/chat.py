"""`fvv chat`: ask a model about videos and pictures.                                                         Lesson 7

    fvv chat --model output/tiny-fastvlm-video --video clip.mp4 --question "Which way does it move?"

shows the model what it was taught to see and prints the answer word by word. Without --question it takes one question
from each line that is typed. `fvv_config.json` in the model's folder holds the frames and the prompt of training.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fvv_lib.cli.flags import flags_of, parse
from fvv_lib.cli.starting import quick_imports
from fvv_lib.errors import FvvError

if TYPE_CHECKING:
    from fvv_lib.evaluation.dialogue import Chat
    from fvv_lib.video.frames import VideoFrames


@dataclass(frozen=True)
class ChatSettings:
    """Ask a model about videos and pictures."""

    model: str = field(metadata={"help": "Folder of a model, or a hub name where there is a network."})
    image: list[Path] = field(
        default_factory=list, metadata={"appended": True, "help": "A picture; give the flag again for another one."}
    )
    video: list[Path] = field(
        default_factory=list,
        metadata={
            "appended": True,
            "help": "A video; give the flag again for another one. Pictures are shown first, then videos.",
        },
    )
    question: str | None = field(
        default=None,
        metadata={"help": "Ask this and stop; without it, each line of the standard input is asked, in one dialogue."},
    )
    max_new_tokens: int = field(default=128, metadata={"help": "Tokens that an answer may have."})

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise FvvError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}.")


def main(arguments: list[str]) -> None:
    settings = ChatSettings(**parse(flags_of(ChatSettings), arguments, "chat", ChatSettings.__doc__ or ""))
    with quick_imports():
        from fvv_lib.evaluation.dialogue import Chat
        from fvv_lib.weights.loading import load_pretrained_model

    chat = Chat(load_pretrained_model(settings.model), settings.max_new_tokens)
    for path in settings.image:
        _show(chat, path, as_video=False)
    for path in settings.video:
        _show(chat, path, as_video=True)
    if settings.question is None:
        _converse(chat)
    else:
        _answer(chat, settings.question)


def _show(chat: "Chat", path: Path, as_video: bool) -> None:
    from fvv_lib.video.kinds import is_video

    if path.exists() and is_video(path) != as_video:
        kind = "no video: use --image" if as_video else "a video, or a folder of its frames: use --video"
        raise FvvError(f"{path}: it is {kind}.")
    video = chat.show(path)
    print(f"{path}: {_describe(video) if as_video else 'a picture'}")


def _describe(video: "VideoFrames") -> str:
    times = ", ".join(f"{time:.2f}" for time in video.timestamps)
    return f"{len(video.frames)} of {video.total_frames} frames, at {times} seconds"


def _converse(chat: "Chat") -> None:
    """A question from each line of the standard input, until it ends; an empty line asks nothing."""
    typed = sys.stdin.isatty()
    if typed:
        print("Ask a question; Ctrl-D ends the dialogue.")
    while True:
        try:
            question = input("> " if typed else "").strip()
        except (EOFError, KeyboardInterrupt):
            if typed:
                print()
            return
        if not question:
            continue
        try:
            _answer(chat, question)
        except FvvError as error:
            if not typed:
                raise
            print(f"error: {error}")  # the dialogue is as it was


def _answer(chat: "Chat", question: str) -> None:
    if not chat.ask(question, write=lambda text: print(text, end="", flush=True)):
        print("(no answer; the question is not kept)", end="")
    print()
