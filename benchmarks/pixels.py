"""From file to model-ready tensor: 8 frames, padded to 1024 x 1024. Compare ours with the described pipeline.

    python benchmarks/pixels.py         # writes benchmarks/results/pixels.json

The described pipeline reads with decord, makes a PIL image of each frame, pads it to a square, passes it to the CLIP
image processor, and stacks the results as float32. It was written for a version of transformers whose processor uses
Pillow (now `CLIPImageProcessorPil`). The current default uses torchvision and has its own column. Our pipeline reads
with the exact reader and passes one batch through `preprocess_frames`. The batch stays uint8 until it is scaled on the
model's device. Scaling on the CPU is timed too. All pipelines run in one process.
"""

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPImageProcessorPil

from fvv_lib.video.pixels import preprocess_frames
from fvv_lib.video.read import read_video

ROOT = Path(__file__).resolve().parent.parent
NUM_FRAMES, SIZE, ROUNDS = 8, 1024, 7
SETTINGS = {
    "size": {"shortest_edge": SIZE},
    "crop_size": {"height": SIZE, "width": SIZE},
    "image_mean": [0.0] * 3,
    "image_std": [1.0] * 3,
}
WITH_PILLOW, WITH_TORCHVISION = CLIPImageProcessorPil(**SETTINGS), CLIPImageProcessor(**SETTINGS)


def write_clip(path: Path) -> None:
    """Write 10 seconds of 640 x 360 in H.264, with a key frame every 250 frames."""
    wall = np.asarray(
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 120, 3)).astype(np.uint8)).resize((1000, 400))
    )
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=640, height=360, options={"crf": "23"})
        stream.pix_fmt = "yuv420p"
        for t in range(250):
            view = np.ascontiguousarray(wall[20:380, t : t + 640])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode())


def described_frames(path: str) -> list[Image.Image]:
    import decord

    reader = decord.VideoReader(path, ctx=decord.cpu(0))
    batch = reader.get_batch(np.linspace(0, len(reader) - 1, NUM_FRAMES, dtype=int)).asnumpy()
    return [Image.fromarray(frame) for frame in batch]


def described_pixels(frames: list[Image.Image], processor: Any = WITH_PILLOW) -> torch.Tensor:
    """Process frame by frame and return float32 (8, 3, 1024, 1024)."""
    result = []
    for frame in frames:
        square = Image.new("RGB", (max(frame.size),) * 2)
        square.paste(frame, ((square.width - frame.width) // 2, (square.height - frame.height) // 2))
        result.append(processor(square, return_tensors="pt")["pixel_values"][0])
    return torch.stack(result)


def our_pixels(frames: np.ndarray) -> torch.Tensor:
    return preprocess_frames(frames, SIZE)


def milliseconds(*calls: Callable[[], object]) -> list[float]:
    """Return the median time of each call. The calls run in turn."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for times, call in zip(taken, calls, strict=True):
            start = time.perf_counter()
            call()
            times.append(1000 * (time.perf_counter() - start))
    return [round(statistics.median(times), 1) for times in taken]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/clip.mp4"
        write_clip(Path(path))
        theirs, ours = described_frames(path), read_video(path, NUM_FRAMES).frames
        pixels = milliseconds(
            lambda: described_pixels(theirs),
            lambda: described_pixels(theirs, WITH_TORCHVISION),
            lambda: our_pixels(ours),
            lambda: our_pixels(ours).float() / 255,
        )
        whole = milliseconds(
            lambda: described_pixels(described_frames(path)),
            lambda: described_pixels(described_frames(path), WITH_TORCHVISION),
            lambda: our_pixels(read_video(path, NUM_FRAMES).frames),
            lambda: our_pixels(read_video(path, NUM_FRAMES).frames).float() / 255,
        )
        difference = (described_pixels(theirs) - our_pixels(ours).float() / 255).abs().mean().item()
    names = ("described", "described, torchvision", "ours, uint8", "ours, scaled on the CPU")
    record = {
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "clip": "640x360, 250 frames, H.264",
        "mean difference": difference,
        "pixels, ms": dict(zip(names, pixels, strict=True)),
        "file to tensor, ms": dict(zip(names, whole, strict=True)),
        "described / ours": {
            "pixels": round(pixels[0] / pixels[2], 1),
            "file to tensor": round(whole[0] / whole[2], 1),
        },
    }
    print(json.dumps(record, indent=2))
    (ROOT / "benchmarks" / "results" / "pixels.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
