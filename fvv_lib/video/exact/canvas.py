"""Collect decoded frames in one array of upright RGB frames.                                               Lesson 1

This module knows where a frame belongs, but not how it was found.
"""

from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fvv_lib.errors import VideoDecodeError
from fvv_lib.files import Location
from fvv_lib.video.frames import on_white

if TYPE_CHECKING:
    import av
    from av.video.reformatter import VideoReformatter

SKEW = 0.01  # how much a display matrix may differ from a quarter turn, as a slope: half a degree
SIDE_DATA_TYPES = 64  # more than FFmpeg has


class Orientation(NamedTuple):
    """How to turn a frame upright: swap rows and columns (transpose), then reverse either."""

    transposed: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Turn a frame, (H, W, C), without copying it."""
        if self.transposed:
            picture = picture.transpose(1, 0, 2)
        return picture[:: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]


def orientation(path: Location, frame: "av.VideoFrame") -> Orientation:
    """Return how to turn a frame upright, from its display matrix, which can express all eight EXIF orientations.

    Raises:
        VideoDecodeError: the rotation is not a multiple of 90 degrees.

    Source: ISO 14496-12, 6.2.2; FFmpeg's libavutil/display.h. A point (x, y) is shown at (a x + c y, b x + d y).
    """
    try:
        side_data = frame.side_data
        matrix = side_data.get("DISPLAYMATRIX") if len(side_data) else None
    except ValueError:
        matrix = _with_known_side_data(frame).side_data.get("DISPLAYMATRIX")
    found = Orientation() if matrix is None else _of_matrix(np.frombuffer(bytes(matrix), dtype=np.int32).tolist())
    if found is None:
        raise VideoDecodeError(f"{path}: it is rotated by {frame.rotation} degrees. Encode it upright.")
    return found


def _with_known_side_data(frame: "av.VideoFrame") -> "av.VideoFrame":
    """Return the frame without side data that PyAV has no name for, such as EXIF in MJPEG and the views of a stereo
    video. PyAV reads all side data of a frame or, if it does not know one, none (`ValueError`)."""
    from av.filter import Graph
    from av.sidedata.sidedata import Type

    graph, known = Graph(), {kind.value for kind in Type}
    nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)]
    nodes += [graph.add("sidedata", f"mode=delete:type={n}") for n in range(SIDE_DATA_TYPES) if n not in known]
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()


def _of_matrix(matrix: list[int]) -> Orientation | None:
    a, b, _, c, d, *_ = matrix
    if max(abs(b), abs(c)) <= SKEW * min(abs(a), abs(d)):  # also an all-zero matrix, which players ignore
        return Orientation(False, d < 0, a < 0)
    if max(abs(a), abs(d)) <= SKEW * min(abs(b), abs(c)):
        return Orientation(True, b < 0, c < 0)
    return None


class Canvas:
    """One array of upright RGB frames. Each frame is put in its place right after decoding, while it is still in the
    CPU's cache. No other copy of a frame is kept.

    Args:
        order: int64 (N,), the key (a pts or an index) of the frame in each place. A key may occur more than once.

    Attributes:
        pixels: uint8 (N, H, W, 3); `None` before the first frame.
        pixel_aspect: width / height of a pixel of these frames.
    """

    def __init__(self, path: Location, order: np.ndarray) -> None:
        self.path = path
        self.places: dict[int, list[int]] = {}
        for place, key in enumerate(order.tolist()):
            self.places.setdefault(key, []).append(place)
        self.missing = set(self.places)
        self.pixels: np.ndarray | None = None
        self.pixel_aspect = 1.0
        self.lock = Lock()

    @property
    def frames(self) -> np.ndarray:
        """The frames, uint8 (N, H, W, 3), once all are in place."""
        assert self.pixels is not None
        return self.pixels

    def put(self, key: int, frame: "av.VideoFrame", reformatter: "VideoReformatter", pixel_aspect: float = 1.0) -> None:
        """Put a frame in its places. Every thread needs its own reformatter.

        Args:
            pixel_aspect: width / height of a stored pixel.
        """
        turn = orientation(self.path, frame)
        has_alpha = any(component.is_alpha for component in frame.format.components)
        rgb = reformatter.reformat(frame, format="rgba" if has_alpha else "rgb24", threads=1).to_ndarray()
        upright = turn.apply(on_white(rgb) if has_alpha else rgb)
        aspect = 1 / pixel_aspect if turn.transposed else pixel_aspect
        with self.lock:
            if self.pixels is None:
                self.pixels = np.empty((sum(map(len, self.places.values())), *upright.shape), dtype=np.uint8)
                self.pixel_aspect = aspect
        if self.pixels.shape[1:] != upright.shape:
            raise VideoDecodeError(f"{self.path}: the frame size changes within the clip. Encode it again at one size.")
        if self.pixel_aspect != aspect:
            raise VideoDecodeError(
                f"{self.path}: the pixel shape changes within the clip: width / height is {self.pixel_aspect:.3f} "
                f"first, then {aspect:.3f}. Encode it again with one shape."
            )
        place, *others = self.places[key]
        if any(turn):
            for channel in range(3):  # nearly twice as fast as copying pixels of three bytes
                self.pixels[place, ..., channel] = upright[..., channel]
        else:
            self.pixels[place] = upright
        for other in others:
            self.pixels[other] = self.pixels[place]
        self.missing.discard(key)
