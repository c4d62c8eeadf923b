"""Small copies of the frames that a model saw, as texts that a page can contain.                          Lesson 7

Frames are cropped, padded or squeezed as for the model. Files at URLs are not read again. This module knows nothing
about answers.
"""

import base64
import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from fvv_lib.errors import FvvError
from fvv_lib.evaluation.asking import Reader
from fvv_lib.files import is_url
from fvv_lib.machine import usable_cores
from fvv_lib.progress import progress
from fvv_lib.video.frames import VideoFrames
from fvv_lib.video.medium import Medium
from fvv_lib.video.pixels import preprocess_frames
from fvv_lib.video_config import FrameSpec

MEDIA = 200  # images and videos of a report with frames, about 30 kB each
FRAMES = 16  # of a strip at most
SIDE = 96  # pixels
QUALITY = 75  # of JPEG


class Strip(NamedTuple):
    """Frames of an image or video.

    Attributes:
        frames: JPEG files as data URLs.
        times: of each frame, in seconds.
        total: number of frames that the model saw, of which these are at most `FRAMES`, evenly spread.
    """

    frames: list[str]
    times: list[float]
    total: int


class Strips:
    """Makes strips. Those of the first `limit` files that the model reads are made then; others need a second reading.

    Args:
        spec, aspect_ratio: how frames become the pixels of the model, see `preprocess_frames`.
        limit: number of images and videos that have a strip.
    """

    def __init__(self, spec: FrameSpec, aspect_ratio: str, limit: int = MEDIA):
        self.spec, self.aspect_ratio, self.limit = spec, aspect_ratio, limit
        self.made: dict[Medium, Strip] = {}

    def watched(self, read: Reader) -> Reader:
        """Return a function that reads a medium and makes its strip."""

        def read_and_make(medium: Medium) -> VideoFrames:
            video = read(medium)
            if len(self.made) < self.limit:
                self.made[medium] = self._make(video)
            return video

        return read_and_make

    def collect(self, readers: Mapping[Medium, Reader]) -> dict[Medium, Strip | str]:
        """Return the strip of each medium, or why it has none. Media without a strip are read in threads.

        Args:
            readers: what reads each medium, in the order in which they get strips until `limit` is reached.
        """
        near = [medium for medium in readers if not any(map(is_url, medium.files))][: self.limit]
        missing = [medium for medium in near if medium not in self.made]
        bar = progress(total=len(missing), desc="reading frames for report.html", unit=" files", hidden=not missing)

        def read(medium: Medium) -> Strip | str:
            try:
                return self._make(readers[medium](medium))
            except FvvError as error:
                return f"No frames: {error}"

        found: dict[Medium, Strip | str] = {medium: self.made[medium] for medium in near if medium in self.made}
        with bar, ThreadPoolExecutor(usable_cores()) as pool:
            for medium, strip in zip(missing, pool.map(read, missing), strict=True):
                found[medium] = strip
                bar.update()
        far = "No frames: files at addresses are not read again."
        more = f"No frames: {len(near)} of {len(readers)} images and videos have them, those of wrong answers first."
        return {medium: found.get(medium, far if any(map(is_url, medium.files)) else more) for medium in readers}

    def _make(self, video: VideoFrames) -> Strip:
        total = len(video.frames)
        chosen = np.linspace(0, total - 1, min(total, FRAMES)).round().astype(int)
        side = min(SIDE, self.spec.image_size)
        pixels = preprocess_frames(
            video.frames[chosen], side, self.aspect_ratio, self.spec.background, video.pixel_aspect
        )
        frames = [_data_url(frame) for frame in pixels.permute(0, 2, 3, 1).numpy()]
        return Strip(frames, [round(float(time), 2) for time in video.timestamps[chosen]], total)


def _data_url(frame: np.ndarray) -> str:
    """Return an image, uint8 (S, S, 3), as the address of a JPEG file that the address contains."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
