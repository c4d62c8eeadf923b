"""Which frame does each reader return for a moment of an uneven clip? Compare the readers that are installed.

    python benchmarks/uneven.py   # writes benchmarks/results/uneven.json

Every frame shows its number, and the time of each number is known. Each reader is asked for frames at equal times, in
the way that its documentation offers: ours with `strategy="fps"`, torchcodec with its time-based sampler, transformers
with `load_video(fps=...)`, and decord with its average rate, because it has no sampling by time. The error of a frame
is the time between the moment and the span in which this frame is shown: 0 if it is the frame on the screen.
"""

import json
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fvv_lib.course.numbered import read_numbers, write_numbered
from fvv_lib.video.read import read_video

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("av", "decord", "torchcodec", "transformers")
Reader = Callable[[str, float, float], Sequence[np.ndarray]]


def joined(*parts: tuple[float, float, int]) -> np.ndarray:
    """Return the times of parts of a clip in seconds, each from its start, frames per second and number of frames."""
    return np.concatenate([start + np.arange(count) / rate for start, rate, count in parts])


def uneven_steps(count: int) -> np.ndarray:
    """Return times of a phone that shows each frame for 16, 33 or 50 ms, and in the dark for 100 ms."""
    rng = np.random.default_rng(0)
    steps = rng.choice([0.016, 0.033, 0.05], count)
    steps[count // 2 : count * 3 // 4] = 0.1
    return np.concatenate([[0], np.cumsum(steps)[:-1]])


#: The times of the frames, and the frames per second to sample.
CLIPS: dict[str, tuple[np.ndarray, float]] = {
    "constant rate, 25 per second": (joined((0, 25, 500)), 1.0),
    "screen recording, still for a minute": (joined((0, 25, 100), (64, 25, 100)), 1.0),
    "phone, 10 to 60 per second": (uneven_steps(600), 2.0),
    "camera that records only motion": (joined((0, 25, 75), (20, 25, 50), (21 + 30, 25, 100)), 1.0),
    "10, then 60 per second": (joined((0, 10, 100), (10, 60, 600)), 1.0),
}


def ours(path: str, rate: float, seconds: float) -> Sequence[np.ndarray]:
    return read_video(path, strategy="fps", sample_fps=rate, max_frames=1000).frames


def decord(path: str, rate: float, seconds: float) -> Sequence[np.ndarray]:
    """Multiply the moments by the average rate, as code that reads with decord does."""
    from decord import VideoReader, cpu

    reader = VideoReader(path, ctx=cpu(0), num_threads=1)
    moments = np.arange(0, seconds, 1 / rate)
    return reader.get_batch((moments * reader.get_avg_fps()).astype(int).clip(0, len(reader) - 1)).asnumpy()


def torchcodec(path: str, rate: float, seconds: float) -> Sequence[np.ndarray]:
    from torchcodec.decoders import VideoDecoder
    from torchcodec.samplers import clips_at_regular_timestamps

    decoder = VideoDecoder(path, dimension_order="NHWC")
    clips = clips_at_regular_timestamps(decoder, seconds_between_clip_starts=1 / rate, num_frames_per_clip=1)
    return clips.data[:, 0].numpy()


def transformers(path: str, rate: float, seconds: float) -> Sequence[np.ndarray]:
    from transformers.video_utils import load_video

    return load_video(path, fps=rate)[0]


READERS: dict[str, Reader] = {
    "ours": ours,
    "torchcodec": torchcodec,
    "decord": decord,
    "transformers": transformers,
}


def errors_of(numbers: Sequence[int], times: np.ndarray, rate: float) -> np.ndarray:
    """Return the seconds by which each frame is shown too early or too late for its moment: float64 (N,)."""
    moments = np.arange(len(numbers)) / rate
    begins, ends = times[list(numbers)], np.append(times[1:], np.inf)[list(numbers)]
    return np.maximum(np.maximum(begins - moments, moments - ends), 0.0)


def main() -> None:
    found = {name: reader for name, reader in READERS.items() if name == "ours" or find_spec(name)}
    clips = {}
    for title, (exact, rate) in CLIPS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/clip.mp4"
            times = write_numbered(path, times=exact, gop=25)
            seconds = float(times[-1] + np.diff(times).min())
            readers = {}
            for name, reader in found.items():
                numbers = read_numbers(reader(path, rate, seconds))
                errors = errors_of(numbers, times, rate)
                readers[name] = {
                    "frames": len(numbers),
                    "mean error, s": round(float(errors.mean()), 3),
                    "largest error, s": round(float(errors.max()), 3),
                }
            clips[title] = {
                "frames": len(times),
                "seconds": round(seconds, 2),
                "sampled per second": rate,
                "readers": readers,
            }
            print(title, json.dumps(clips[title]), flush=True)
    record = {
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: version(name) for name in PACKAGES if find_spec(name)},
        "clips": clips,
    }
    (ROOT / "benchmarks" / "results" / "uneven.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
