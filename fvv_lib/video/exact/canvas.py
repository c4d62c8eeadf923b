"""Decoded frames to one array of upright RGB pictures.                                                     Lesson 1

This module knows where a frame belongs, and nothing of how it was found.
"""

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from fvv_lib.errors import VideoDecodeError

if TYPE_CHECKING:
    import av
    from av.video.reformatter import VideoReformatter


class Canvas:
    """Frames as upright RGB pictures, each put in its place as soon as it is decoded, while its memory is still in the
    processor's cache. No picture is held twice.

    Args:
        order: int64 (N,), the key (a pts or a number) of the frame that belongs in each place, some perhaps more than
            once.
    """

    def __init__(self, path: Path, order: np.ndarray) -> None:
        self.path = path
        self.places: dict[int, list[int]] = {}
        for place, key in enumerate(order.tolist()):
            self.places.setdefault(key, []).append(place)
        self.missing = set(self.places)
        self.pixels: np.ndarray | None = None  # uint8 (N, H, W, 3), from the first picture on
        self.lock = Lock()

    def put(self, key: int, frame: "av.VideoFrame", reformatter: "VideoReformatter") -> None:
        """Put a frame in its places. Every thread needs a reformatter of its own."""
        if frame.rotation % 90:
            raise VideoDecodeError(f"{self.path}: it is turned by {frame.rotation} degrees. Encode it upright.")
        rgb = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        upright = np.rot90(rgb, frame.rotation // 90)  # phone clips: both count counter-clockwise
        with self.lock:
            if self.pixels is None:
                self.pixels = np.empty((sum(map(len, self.places.values())), *upright.shape), dtype=np.uint8)
        if self.pixels.shape[1:] != upright.shape:
            raise VideoDecodeError(
                f"{self.path}: the picture size changes within the clip. Encode it again at one size."
            )
        place, *others = self.places[key]
        if frame.rotation:
            for channel in range(3):  # nearly twice as fast as pixels of three bytes in one copy
                self.pixels[place, ..., channel] = upright[..., channel]
        else:
            self.pixels[place] = upright
        for other in others:
            self.pixels[other] = self.pixels[place]
        self.missing.discard(key)
