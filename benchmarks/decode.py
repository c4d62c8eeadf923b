"""How fast is the exact reader, and are its frames right? Compare it with the described loader and others.

    python benchmarks/decode.py                      # generated clips; writes benchmarks/results/decode.json
    FVV_REAL_DATA=FOLDER python benchmarks/decode.py # real clips too

Every reader returns 8 uniform frames of a clip as RGB arrays. All readers run in turn within a round, in one process,
and the median over the rounds counts. A second part encodes one small clip for each combination of codec, container,
GOP length, B-frames, frame rate and rotation, with the frame number painted in each frame. It counts how many clips
each reader reads correctly.
"""

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
from PIL import Image

from fvv_lib.course.numbered import ENCODINGS, HEIGHT, WIDTH, read_numbers, write_numbered
from fvv_lib.video.kinds import is_video_file
from fvv_lib.video.read import read_video

ROOT = Path(__file__).resolve().parent.parent
NUM_FRAMES, SECONDS, FPS = 8, 60, 25
GENERATED = {
    "h264_gop250.mp4": ("libx264", 250, {"preset": "veryfast", "crf": "26"}),
    "h264_gop25.mp4": ("libx264", 25, {"preset": "veryfast", "crf": "26"}),
    "hevc_gop250.mp4": ("libx265", 250, {"preset": "ultrafast", "crf": "28", "x265-params": "log-level=none"}),
    "vp9_gop128.webm": ("libvpx-vp9", 128, {"deadline": "realtime", "cpu-used": "8", "crf": "36", "row-mt": "1"}),
}
PACKAGES = {"av": "av", "decord": "decord", "opencv-python-headless": "cv2", "torchcodec": "torchcodec"}
Reader = Callable[[str, int], np.ndarray]


def ours(path: str, threads: int) -> np.ndarray:
    return read_video(path, NUM_FRAMES, num_threads=threads).frames


def described(path: str, threads: int) -> np.ndarray:
    """Read with the loader of the described system. `threads` has decord's meaning (0 is all)."""
    import decord

    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=threads)
    return reader.get_batch(np.linspace(0, len(reader) - 1, NUM_FRAMES, dtype=int)).asnumpy()


def naive(path: str, threads: int) -> np.ndarray:
    """Read with PyAV as in its tutorial: decode every frame and keep the sampled ones."""
    with av.open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        container.streams.video[0].codec_context.thread_count = threads
        total = sum(packet.size > 0 for packet in container.demux(video=0))
    wanted = np.linspace(0, total - 1, NUM_FRAMES, dtype=int)
    with av.open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        container.streams.video[0].codec_context.thread_count = threads
        frames = {
            i: frame.to_ndarray(format="rgb24") for i, frame in enumerate(container.decode(video=0)) if i in set(wanted)
        }
    return np.stack([frames[i] for i in wanted])


def opencv(path: str, threads: int) -> np.ndarray:
    import cv2

    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    frames = []
    for index in np.linspace(0, total - 1, NUM_FRAMES, dtype=int):
        capture.set(cv2.CAP_PROP_POS_FRAMES, int(index))
        frames.append(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB))
    return np.stack(frames)


def torchcodec(path: str, threads: int) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, num_ffmpeg_threads=threads, dimension_order="NHWC")
    return decoder.get_frames_at(np.linspace(0, len(decoder) - 1, NUM_FRAMES, dtype=int).tolist()).data.numpy()


READERS: dict[str, Reader] = {
    "ours": ours,
    "described": described,
    "pyav naive": naive,
    "opencv": opencv,
    "torchcodec": torchcodec,
}


def write_generated(path: Path, codec: str, gop: int, options: dict[str, str]) -> None:
    """Write 60 seconds of 1080p: a pan over a detailed, noisy image, so that there is motion to predict."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (160, 320, 3)).astype(np.uint8)
    wall = np.asarray(Image.fromarray(small).resize((1920 + 1600, 1080 + 400), Image.Resampling.BICUBIC))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, width=1920, height=1080, options=options)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = gop
        for t in range(SECONDS * FPS):
            left, top = t, int(200 + 200 * np.sin(t / 40))
            view = np.ascontiguousarray(wall[top : top + 1080, left : left + 1920])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode())


def available() -> dict[str, Reader]:
    """Return the readers that work on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/clip.mp4"
        write_numbered(path)
        working = {}
        for name, reader in READERS.items():
            try:
                reader(path, 1)
            except (ImportError, OSError, RuntimeError) as error:
                print(f"{name}: skipped ({str(error).splitlines()[0]})", flush=True)
            else:
                working[name] = reader
    return working


def time_clip(path: Path, readers: dict[str, Reader], threads: int, rounds: int) -> dict[str, float | None]:
    """Return the median milliseconds of each reader, `None` if it cannot read the clip. The readers run in turn."""
    taken: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, reader in readers.items():
            start = time.perf_counter()
            try:
                reader(str(path), threads)
            except Exception:  # the failure of a reader is a result
                continue
            taken[name].append(1000 * (time.perf_counter() - start))
    return {name: round(statistics.median(times), 1) if times else None for name, times in taken.items()}


def summary(rows: Iterable[dict[str, float | None]]) -> dict[str, float]:
    """Return how many times faster ours is than the described loader, over the clips that the latter can read."""
    ratios = [row["described"] / row["ours"] for row in rows if row.get("described")]
    return {"geometric mean": round(float(np.exp(np.mean(np.log(ratios)))), 2), "least": round(min(ratios), 2)}


def measure_speed(clips: list[Path], readers: dict[str, Reader], rounds: int) -> dict:
    result = {}
    for label, threads in (("one thread", 1), ("all threads", 0)):
        rows = {clip.name: time_clip(clip, readers, threads, rounds) for clip in clips}
        result[label] = {"milliseconds": rows, "described / ours": summary(rows.values())}
        print(label, json.dumps(result[label], indent=1), flush=True)
    return result


def count_right(readers: dict[str, Reader]) -> dict:
    """Count how many encodings each reader reads correctly, reads wrongly without an error, and refuses."""
    counts = {name: {"right": 0, "wrong": 0, "refused": 0} for name in readers}
    wrong: dict[str, list[str]] = {name: [] for name in readers}
    for codec, container, gop, b_frames, variable in ENCODINGS:
        for rotation in (0, 90) if container in ("mp4", "mov") and gop == 12 else (0,):
            with tempfile.TemporaryDirectory() as folder:
                path = f"{folder}/clip.{container}"
                count = 320 if gop == 300 else 72
                write_numbered(
                    path, codec, gop=gop, b_frames=b_frames, variable=variable, count=count, rotation=rotation
                )
                asked = np.linspace(0, count - 1, NUM_FRAMES, dtype=int).tolist()
                for name, reader in readers.items():
                    try:
                        frames = [np.rot90(frame, -rotation // 90) for frame in reader(path, 1)]
                        got = read_numbers(frames) if frames[0].shape == (HEIGHT, WIDTH, 3) else None
                    except Exception:  # the failure of a reader is a result
                        counts[name]["refused"] += 1
                        continue
                    counts[name]["right" if got == asked else "wrong"] += 1
                    if got != asked:
                        wrong[name].append(f"{codec}.{container} gop {gop} b {b_frames} vfr {variable} turn {rotation}")
    print(json.dumps(counts), flush=True)
    return {"counts": counts, "wrong": wrong}


def main() -> None:
    readers = available()
    with tempfile.TemporaryDirectory() as folder:
        clips = []
        for name, (codec, gop, options) in GENERATED.items():
            clips.append(Path(folder) / name)
            write_generated(clips[-1], codec, gop, options)
            print(f"{name}: {clips[-1].stat().st_size / 1e6:.1f} MB", flush=True)
        generated = measure_speed(clips, readers, rounds=3)
    real = {}
    if "FVV_REAL_DATA" in os.environ:
        folder = Path(os.environ["FVV_REAL_DATA"]) / "real" / "videos"
        clips = sorted(path for path in folder.iterdir() if path.name != "corrupted.mp4" and is_video_file(path))
        real = measure_speed(clips, readers, rounds=21)
    record = {
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: version(name) for name in PACKAGES if find_spec(PACKAGES[name])},
        "generated, 60 s of 1080p": generated,
        "real": real,
        "all clips": {
            label: summary([*generated[label]["milliseconds"].values(), *real[label]["milliseconds"].values()])
            for label in real
        },
        "encodings": count_right(readers),
    }
    target = ROOT / "benchmarks" / "results" / "decode.json"
    target.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
