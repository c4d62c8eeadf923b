"""The small world of the course: coloured shapes that stay, move, or come one after the other.

Opposite edges of a picture meet: what leaves on one side comes back on the other. A *still* is one picture of one
shape. A *motion* clip shows a shape that drifts in one of four directions. Where it starts has nothing to do with where
it goes, so the first frame tells nothing; a later one tells a little, but **no single frame can tell the direction**:
the best possible guess from the last frame is right for 6 clips of 10 (`tests/test_scenes.py` computes it). An *order*
clip shows one shape, nothing, then another: each frame alone shows at most one of them, and the first shows none.

This module draws pictures and writes clips. It knows nothing about questions, models or tokens.
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
# Each container of `is_video_file` with an encoder that every FFmpeg build of PyAV carries.
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
START = (0.2, 0.8)  # where a motion clip's shape may start, both ways, as fractions of the picture
TRAVEL = (0.2, 0.3)  # how far it goes, as a fraction of the picture
CLIP_SIZES = ((96, 96), (96, 72), (72, 96))  # width, height


@dataclass(frozen=True)
class Shape:
    """One shape: its names, its centre (x, y) as fractions of the picture, its radius as one of the short side."""

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

    With `wrap`, opposite edges of the picture meet. Each shape is a signed distance in pixels (negative inside),
    and its coverage of a pixel is that distance clipped to one pixel.
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
    """Pixels from the outline of a shape centred at the origin, negative inside: (1, W), (H, 1) -> (H, W)."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - 0.88 * radius
    if shape == "triangle":  # the base below, two slanted sides
        return np.maximum(y - 0.75 * radius, 0.894 * abs(x) - 0.447 * (y + 1.05 * radius))
    long, short = 1.05 * radius, 0.36 * radius
    bar = np.maximum(abs(x) - long, abs(y) - short)
    return np.minimum(bar, np.maximum(abs(x) - short, abs(y) - long))


def random_shape(rng: Generator, low: float = 0.0, high: float = 1.0) -> Shape:
    """A shape of any colour and form, its centre uniform in [low, high) both ways."""
    x, y = rng.uniform(low, high, size=2)
    return Shape(str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES)), x, y, rng.uniform(0.2, 0.28))


def still(rng: Generator, size: tuple[int, int] | None = None) -> tuple[np.ndarray, Shape]:
    """A picture of one shape: uint8 (H, W, 3), and the shape."""
    shape = random_shape(rng)
    size = size or CLIP_SIZES[rng.integers(len(CLIP_SIZES))]
    return draw(size, int(rng.integers(20, 90)), [shape], wrap=True), shape


def place(shape: Shape, margin: float = 0.04) -> str | None:
    """The name of the third of the picture, both ways, that the centre is in; None near the border of a third, and
    where a part of the shape comes out at the other edge."""
    cells = []
    for value in (shape.x, shape.y):
        if min(abs(value - 1 / 3), abs(value - 2 / 3)) < margin or min(value, 1 - value) < 3 * margin:
            return None
        cells.append(int(value * 3))
    return PLACES[cells[1]][cells[0]]


def motion_clip(
    rng: Generator, direction: str, num_frames: int = NUM_FRAMES, travel: tuple[float, float] = TRAVEL
) -> tuple[np.ndarray, Shape]:
    """A shape that drifts in a direction: uint8 (T, H, W, 3), and the shape where it starts. It goes between the two
    fractions of the picture's side in `travel`."""
    start = random_shape(rng, *START)
    step = np.array(DIRECTIONS[direction]) * rng.uniform(*travel) / (num_frames - 1)  # of the picture, each frame
    size, background = CLIP_SIZES[rng.integers(len(CLIP_SIZES))], int(rng.integers(20, 90))
    frames = []
    for t in range(num_frames):
        x, y = (np.array([start.x, start.y]) + t * step) % 1
        moved = Shape(start.colour, start.shape, float(x), float(y), start.radius)
        frames.append(draw(size, background, [moved], wrap=True))
    return np.stack(frames), start


def order_clip(rng: Generator) -> tuple[np.ndarray, Shape, Shape]:
    """Nothing, a shape, nothing, another shape, nothing: uint8 (T, H, W, 3), the first and the second shape."""
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
    """Encode uint8 (T, H, W, 3) with the encoder that suits the file's extension; the same bytes every time."""
    import av

    height, width = frames.shape[1:3]
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(ENCODERS[path.suffix], rate=fps, width=width, height=height)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # encoders split their work by thread: one thread, one result
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        stream.codec_context.time_base = Fraction(1, fps)
        if ENCODERS[path.suffix] == "libx264":
            # On pictures this small its assembler reads past their border: other bytes each time.
            stream.options = {"crf": "26", "x264-params": "asm=0"}
        elif ENCODERS[path.suffix] == "libvpx-vp9":
            stream.options = {"crf": "26"}
        else:
            stream.bit_rate = 200_000
        for array in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
