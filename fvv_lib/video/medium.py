"""What a sample shows in place of one `<image>`: an image, a video, or a part of a video.                  Lesson 5

A video may be stored as images, in a folder or a list, with a frame rate of its own. This module opens no image or
video.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

from fvv_lib.errors import FvvError
from fvv_lib.files import Location, join, shown
from fvv_lib.video.kinds import is_video
from fvv_lib.video_config import is_rate

File = str | Location
CLOCK = re.compile(r"(?:(?:(?P<h>\d+):)?(?P<m>\d+):)?(?P<s>\d+(?:\.\d+)?)", re.ASCII)  # 1:02:03.5, 62:03.5, 3723.5
MAX_SECONDS = 10**9  # 31 years
MAX_RATE = 10**6  # frames per second
TIMES = "a number of seconds from 0, or a text like '1:02:03.5' or '02:03'"


def parse_time(value: Any) -> float:
    """Return a time in seconds: from a number, or from a text H:MM:SS.mmm, MM:SS or SS, each with or without a fraction
    of a second.

    Raises:
        FvvError: it is none of these, negative, or not finite. The message completes "start: ".
    """
    if isinstance(value, str) and (clock := CLOCK.fullmatch(value.strip())):
        hours, minutes, seconds = (float(clock[unit] or 0) for unit in "hms")
        if (clock["h"] and minutes >= 60) or (clock["m"] and seconds >= 60):
            raise FvvError(f"{value!r} has 60 or more minutes or seconds. It must be {TIMES}.")
        value = 3600 * hours + 60 * minutes + seconds
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= MAX_SECONDS:
        raise FvvError(f"{str(value)[:80]!r} is not a time. It must be {TIMES}.")
    return float(value)


def parse_segment(start: Any, end: Any) -> tuple[float | None, float | None]:
    """Return the limits of a part of a video in seconds. `None` is a missing limit.

    Raises:
        FvvError: a limit is not a time (`parse_time`), or `start` is not before `end`.
    """
    limits: list[float | None] = []
    for name, value in (("start", start), ("end", end)):
        try:
            limits.append(None if value is None else parse_time(value))
        except FvvError as error:
            raise FvvError(f"{name}: {error}") from error
    first, last = limits
    if last is not None and last <= (first or 0):
        raise FvvError(f"start={first or 0:g} s must be before end={last:g} s. Correct one of them.")
    return first, last


@dataclass(frozen=True)
class Medium:
    """An image, a video, or a part of a video.

    Attributes:
        source: a file, a folder of frames, or the files of the frames of a video, in order. Each may be a URL.
        start, end: seconds from the first frame of the video. Only what is shown from `start` to before `end` is used,
            see `read_video`. `None`: from the first frame, to the last.
        fps: frames per second of a folder or list of frames, which have no times; `None`: 1.

    Raises:
        FvvError: there is no file, or `start`, `end` or `fps` is not valid. `start` and `end` may be given as texts
            (`parse_time`); the attributes are numbers.

    Lesson: 05.
    """

    source: File | tuple[File, ...]
    start: float | None = None
    end: float | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.source, list):
            object.__setattr__(self, "source", tuple(self.source))
        if self.source == ():
            raise FvvError("A video of images needs an image, got none.")
        if self.start is None and self.end is None and self.fps is None:
            return
        start, end = parse_segment(self.start, self.end)
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "end", end)
        rate = self.fps
        if rate is not None and not (is_rate(rate) and rate <= MAX_RATE):
            raise FvvError(f"fps must be a number of frames per second above 0, got {rate!r}.")

    @property
    def files(self) -> tuple[File, ...]:
        """The file or folder, or the files of the frames."""
        return self.source if isinstance(self.source, tuple) else (self.source,)

    @property
    def is_part(self) -> bool:
        """Whether only a part of the video is used."""
        return self.start is not None or self.end is not None

    def is_video(self) -> bool:
        """Return whether it is read as a video, by the name or the content of the file (`kinds.is_video`)."""
        return isinstance(self.source, tuple) or is_video(self.source)

    def under(self, folder: Location) -> "Medium":
        """Return the medium with paths that start from a folder, except URLs."""
        files = tuple(join(folder, file) for file in self.files)
        return replace(self, source=files if isinstance(self.source, tuple) else files[0])

    def stop(self, duration: float) -> float:
        """Return when the part that is used ends, in seconds, of a video of this duration."""
        return duration if self.end is None else min(self.end, duration)

    def seconds(self, duration: float) -> float:
        """Return the length in seconds of the part that is used, of a video of this duration."""
        return self.stop(duration) - (self.start or 0.0)

    def __str__(self) -> str:
        name = str(shown(self.files[0]))
        if isinstance(self.source, tuple) and len(self.files) > 1:
            name += f" and {len(self.files) - 1} more frames"
        if self.start is not None:
            name += f" from {self.start:g} s"
        return name if self.end is None else f"{name} to {self.end:g} s"
