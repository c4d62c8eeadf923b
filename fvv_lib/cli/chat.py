"""`fvv chat`: ask a model about videos and images.                                                           Lesson 7

    fvv chat --model output/tiny-fastvlm-video --video clip.mp4 --question "Which way does it move?"

samples the video as in training and prints the answer word by word. Without --question, each line of the standard input
is a question. `fvv_config.json` in the model's folder has the frame and prompt settings of training.
"""

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fvv_lib.cli.flags import flags_of, parse
from fvv_lib.cli.starting import quick_imports
from fvv_lib.errors import FvvError
from fvv_lib.files import exists, locate, readable, shown

if TYPE_CHECKING:
    from fvv_lib.evaluation.dialogue import Chat
    from fvv_lib.video.frames import VideoFrames
    from fvv_lib.video.medium import Medium


@dataclass(frozen=True)
class ChatSettings:
    """Ask a model about videos and images."""

    model: str = field(metadata={"help": "Model folder, or hub name if there is a network."})
    image: list[str] = field(
        default_factory=list,
        metadata={"appended": True, "help": "An image or its URL; repeat the flag for more images."},
    )
    video: list[str] = field(
        default_factory=list,
        metadata={
            "appended": True,
            "help": "A video or its URL; repeat the flag for more videos. The model gets all images first, then the "
            "videos.",
        },
    )
    start: list[str] = field(
        default_factory=list,
        metadata={
            "appended": True,
            "help": "Show a video only from this time on: seconds, or H:MM:SS.mmm. With several videos, give one "
            "for each, or none for its beginning.",
        },
    )
    end: list[str] = field(
        default_factory=list,
        metadata={
            "appended": True,
            "help": "Show a video only up to this time. With several videos, give one for each, or none for its end.",
        },
    )
    question: str | None = field(
        default=None,
        metadata={"help": "Ask this question and exit; default: a dialogue, one question per line of standard input."},
    )
    system: str | None = field(default=None, metadata={"help": "System prompt; default: that of the chat template."})
    max_new_tokens: int = field(default=128, metadata={"help": "Maximum number of tokens in an answer."})
    allow_special_tokens: bool = field(
        default=False,
        metadata={
            "help": "Accept questions with special tokens or template marks (`<|im_end|>`), or media tags of other "
            "formats (<video>), as training does with the same flag."
        },
    )

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise FvvError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}.")
        for name in ("start", "end"):
            given = getattr(self, name)
            if given and len(given) != len(self.video):
                raise FvvError(f"--{name} must be given once for each --video: {len(given)} for {len(self.video)}.")


def main(arguments: list[str]) -> None:
    settings = ChatSettings(**parse(flags_of(ChatSettings), arguments, "chat", ChatSettings.__doc__ or ""))
    with quick_imports():
        from fvv_lib.evaluation.dialogue import Chat
        from fvv_lib.video.medium import Medium
        from fvv_lib.weights.loading import load_pretrained_model

    videos = _videos(settings)
    loaded = load_pretrained_model(settings.model)
    chat = Chat(loaded, settings.max_new_tokens, settings.allow_special_tokens, settings.system)
    for image in map(Medium, settings.image):
        _show(chat, image, as_video=False)
    for video in videos:
        _show(chat, video, as_video=True)
    if settings.question is None:
        _converse(chat)
    else:
        _answer(chat, settings.question)


def _videos(settings: ChatSettings) -> list["Medium"]:
    """Return the videos, or the parts of them that --start and --end name."""
    from fvv_lib.video.medium import Medium, parse_segment

    def limits(given: list[str]) -> list[str | None]:
        return [None if time.lower() == "none" else time for time in given] or [None] * len(settings.video)

    parts = zip(settings.video, limits(settings.start), limits(settings.end), strict=True)
    return [Medium(path, *parse_segment(start, end)) for path, start, end in parts]


def _show(chat: "Chat", medium: "Medium", as_video: bool) -> None:
    (path,) = medium.files
    with readable(path):
        is_there = exists(locate(path))
    if is_there and medium.is_video() != as_video:
        kind = "not a video: use --image" if as_video else "a video, or a folder of its frames: use --video"
        raise FvvError(f"{shown(path)}: it is {kind}.")
    video = chat.show(medium)
    print(f"{medium}: {_describe(video) if as_video else 'an image'}")


def _describe(video: "VideoFrames") -> str:
    times = ", ".join(f"{time:.2f}" for time in video.timestamps)
    return f"{len(video.frames)} of {video.total_frames} frames, at {times} seconds"


def _converse(chat: "Chat") -> None:
    """Answer a question from each line of the standard input until it ends. Skip empty lines."""
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
            print(f"error: {error}")  # the dialogue is unchanged


def _answer(chat: "Chat", question: str) -> None:
    if not chat.ask(question, write=lambda text: print(text, end="", flush=True)):
        print("(no answer; the question is not kept)", end="")
    print()
