"""The scenes of the course: coloured shapes that stay still, move, or appear one after the other.

Opposite edges of an image are connected: a shape that leaves on one side comes back on the other. A *still* is one
image of one shape. A *motion* clip shows a shape that drifts in one of four directions. The start does not depend on
the direction, so the first frame says nothing about it. A later frame says a little, but **no single frame determines
the direction**: the best possible guess from the last frame is right for 6 of 10 clips (`tests/test_scenes.py` computes
this). An *order* clip shows one shape, then nothing, then another shape. Each frame shows at most one of them, and the
first frame shows neither.

This module draws images and writes clips. It knows nothing about questions, models or tokens.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.random import Generator

COLOURS = {
    "red": (225, 45, 45),
    "green": (40, 170, 70),
    "blue": (50, 90, 235),
    "yellow": (240, 210, 40),
    "pink": (240, 130, 200),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "cross")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
PLACES = (
    ("top left", "top", "top right"),
    ("left", "middle", "right"),
    ("bottom left", "bottom", "bottom right"),
)
# Each container of `is_video_file` with an encoder that every FFmpeg build of PyAV includes.
ENCODERS = {
    ".mp4": "libx264",
    ".m4v": "libx264",
    ".mov": "libx264",
    ".mkv": "libx264",
    ".flv": "flv",
    ".avi": "mpeg4",
    ".wmv": "wmv2",
    ".webm": "libvpx-vp9",
}
NUM_FRAMES, FPS = 24, 8
START = (0.2, 0.8)  # range of x and y where the shape of a motion clip starts, as fractions of the image
TRAVEL = (0.2, 0.3)  # how far the shape moves, as a fraction of the image
CLIP_SIZES = ((96, 96), (96, 72), (72, 96))  # width, height


@dataclass(frozen=True)
class Shape:
    """A shape. Its centre (x, y) is in fractions of the image, its radius in fractions of the short side."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


def draw(size: tuple[int, int], background: int, shapes: list[Shape], wrap: bool = False) -> np.ndarray:
    """Draw shapes with smooth edges: (width, height), a grey level, shapes -> uint8 (H, W, 3).

    With `wrap`, opposite edges of the image are connected. Each shape is a signed distance in pixels (negative inside),
    and its coverage of a pixel is this distance clipped to one pixel.
    """
    width, height = size
    picture = np.full((height, width, 3), float(background), dtype=np.float32)
    for shape in shapes:
        dx = (np.arange(width, dtype=np.float32) + 0.5) / width - shape.x
        dy = (np.arange(height, dtype=np.float32) + 0.5) / height - shape.y
        if wrap:
            dx, dy = (dx + 0.5) % 1 - 0.5, (dy + 0.5) % 1 - 0.5
        coverage = np.clip(
            0.5 - _signed_distance(shape.shape, dx[None] * width, dy[:, None] * height, shape.radius * min(size)), 0, 1
        )
        picture += coverage[..., None] * (np.array(COLOURS[shape.colour], dtype=np.float32) - picture)
    return picture.round().astype(np.uint8)


def _signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Return pixel distances to the outline of a shape at the origin, negative inside; (1, W), (H, 1) -> (H, W)."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - 0.88 * radius
    if shape == "triangle":  # the base, then the two slanted sides
        return np.maximum(y - 0.75 * radius, 0.894 * abs(x) - 0.447 * (y + 1.05 * radius))
    long, short = 1.05 * radius, 0.36 * radius
    bar = np.maximum(abs(x) - long, abs(y) - short)
    return np.minimum(bar, np.maximum(abs(x) - short, abs(y) - long))


def random_shape(rng: Generator, low: float = 0.0, high: float = 1.0) -> Shape:
    """Return a shape of random colour and form; its centre is uniform in [low, high) on both axes."""
    x, y = rng.uniform(low, high, size=2)
    return Shape(str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES)), x, y, rng.uniform(0.2, 0.28))


def still(rng: Generator, size: tuple[int, int] | None = None) -> tuple[np.ndarray, Shape]:
    """Draw an image of one random shape and return the image, uint8 (H, W, 3), and the shape."""
    shape = random_shape(rng)
    size = size or CLIP_SIZES[rng.integers(len(CLIP_SIZES))]
    return draw(size, int(rng.integers(20, 90)), [shape], wrap=True), shape


def place(shape: Shape, margin: float = 0.04) -> str | None:
    """Return the name of the cell of a 3 x 3 grid that contains the centre of the shape.

    Return `None` if the centre is near the border of a cell, or if part of the shape wraps around to the other edge.
    """
    cells = []
    for value in (shape.x, shape.y):
        if min(abs(value - 1 / 3), abs(value - 2 / 3)) < margin or min(value, 1 - value) < 3 * margin:
            return None
        cells.append(int(value * 3))
    return PLACES[cells[1]][cells[0]]


def motion_clip(
    rng: Generator, direction: str, num_frames: int = NUM_FRAMES, travel: tuple[float, float] = TRAVEL
) -> tuple[np.ndarray, Shape]:
    """Draw a shape that drifts in a direction and return the frames, uint8 (T, H, W, 3), and the shape at its start.

    The distance is uniform between the two values of `travel`, fractions of the image's side.
    """
    start = random_shape(rng, *START)
    step = np.array(DIRECTIONS[direction]) * rng.uniform(*travel) / (num_frames - 1)  # fraction of the image per frame
    size, background = CLIP_SIZES[rng.integers(len(CLIP_SIZES))], int(rng.integers(20, 90))
    frames = []
    for t in range(num_frames):
        x, y = (np.array([start.x, start.y]) + t * step) % 1
        moved = Shape(start.colour, start.shape, float(x), float(y), start.radius)
        frames.append(draw(size, background, [moved], wrap=True))
    return np.stack(frames), start


def order_clip(rng: Generator) -> tuple[np.ndarray, Shape, Shape]:
    """Draw nothing, a shape, nothing, another shape, nothing; return frames, uint8 (T, H, W, 3), and both shapes."""
    first = random_shape(rng, 0.2, 0.8)
    second = random_shape(rng, 0.2, 0.8)
    while second.name == first.name:
        second = random_shape(rng, 0.2, 0.8)
    size, background = CLIP_SIZES[rng.integers(len(CLIP_SIZES))], int(rng.integers(20, 90))
    starts = rng.integers(1, 4), rng.integers(12, 15)
    lengths = rng.integers(7, 9, size=2)
    frames = []
    for t in range(NUM_FRAMES):
        shown = [
            shape
            for shape, start, length in zip((first, second), starts, lengths, strict=True)
            if start <= t < start + length
        ]
        frames.append(draw(size, background, shown))
    return np.stack(frames), first, second


def write_video(path: Path, frames: np.ndarray, fps: int = FPS) -> None:
    """Encode uint8 (T, H, W, 3) with the encoder of the file's extension. The bytes are the same every time."""
    import av

    height, width = frames.shape[1:3]
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(ENCODERS[path.suffix], rate=fps, width=width, height=height)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # the result of an encoder depends on its number of threads
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        stream.codec_context.time_base = Fraction(1, fps)
        if ENCODERS[path.suffix] == "libx264":
            # On frames this small, x264's assembly code reads past the border, and the bytes differ each time.
            stream.options = {"crf": "26", "x264-params": "asm=0"}
        elif ENCODERS[path.suffix] == "libvpx-vp9":
            stream.options = {"crf": "26"}
        else:
            stream.bit_rate = 200_000
        for array in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
