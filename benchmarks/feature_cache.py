"""An epoch with a frozen vision tower: cached features against encoding the frames again.

    python benchmarks/feature_cache.py            # 15 minutes on 2 cores; writes results/feature_cache.json
    python benchmarks/feature_cache.py --small    # an eighth of the width, to check that it runs; writes nothing

Both sides run `fvv_lib.train` on the same clips and the same FastVLM-0.5B with random weights, in float32. They differ
only in `--cache_features`. The second of two epochs is timed: reading clips, building prompts, gradients and weight
updates. The tower has its full size. There are two cases for the rest: a language model cut to 2 of its 24 layers,
fully trained, and the whole one, trained with LoRA. The one-time computation of the features is timed too.

Each side runs in a new process.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import TrainerCallback

from fvv_lib import DataArguments, ModelArguments, TrainingArguments, load_pretrained_model
from fvv_lib.course.scenes import write_video
from fvv_lib.finetuning import preparing, recipe
from fvv_lib.finetuning.trainer import VideoTrainer
from fvv_lib.provenance import peak_memory_gib
from fvv_lib.scaling.features import use_features
from fvv_lib.scaling.released import full_size_config, random_fastvlm
from fvv_lib.video_config import VideoConfig
from fvv_lib.weights.loading import build_processor

ROOT = Path(__file__).resolve().parent.parent
CLIPS, FRAMES, PIXELS = 3, 8, 1024
CASES = {"2 of 24 layers": {"layers": 2, "lora_rank": 0}, "24 layers, LoRA": {"layers": 24, "lora_rank": 16}}
SIDES = {"encoded again": False, "stored": True}


def write_clips(folder: Path) -> None:
    """Write clips of 10 seconds of 640 x 360 (a pan over a detailed image), with a question about each."""
    samples = []
    for i in range(CLIPS):
        noise = np.random.default_rng(i).integers(0, 255, (60, 120, 3)).astype(np.uint8)
        wall = np.asarray(Image.fromarray(noise).resize((1000, 400)))
        write_video(folder / f"{i}.mp4", np.stack([wall[20:380, t : t + 640] for t in range(250)]), fps=25)
        turns = [{"from": "human", "value": "<image>\nDescribe it."}, {"from": "gpt", "value": "A wall goes by."}]
        samples.append({"video": f"{i}.mp4", "conversations": turns})
    (folder / "train.json").write_text(json.dumps(samples))


def write_checkpoints(folder: Path, small: bool) -> None:
    """Write one model at full depth and cut, with the same tower.

    The tokenizer is that of the course; the large vocabulary contains all its ids.
    """
    tiny = load_pretrained_model(ROOT / "data_samples" / "tiny-fastvlm", device="cpu")
    tiny.tokenizer.model_max_length = 8192
    tiny.image_processor.size = {"shortest_edge": PIXELS}
    tiny.image_processor.crop_size = {"height": PIXELS, "width": PIXELS}
    config = full_size_config()
    if small:
        config.vision_config.model_args |= {"embed_dims": [12, 24, 48, 96, 192]}
        config.vision_config.hidden_size = 384
        config.text_config.hidden_size, config.text_config.intermediate_size = 112, 608
    model = random_fastvlm(config)
    model.video_config = VideoConfig(num_video_frames=FRAMES)
    for layers in sorted({case["layers"] for case in CASES.values()}, reverse=True):
        language_model = model.model.language_model
        language_model.layers = language_model.layers[:layers]
        model.config.text_config.num_hidden_layers = layers
        model.config.text_config.layer_types = ["full_attention"] * layers
        model.save_pretrained(folder / str(layers))
        build_processor(tiny.tokenizer, tiny.image_processor, model).save_pretrained(folder / str(layers))


class Clock(TrainerCallback):
    """Record the seconds of each epoch."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.seconds: list[float] = []

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.starts.append(time.perf_counter())

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.starts[-1])


def measure(folder: Path, case: str, side: str) -> dict[str, Any]:
    """Train for two epochs in this process."""
    clock, computing = Clock(), []

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        result = use_features(*arguments)
        computing.append(time.perf_counter() - start)
        return result

    recipe.VideoTrainer = partial(VideoTrainer, callbacks=[clock])
    preparing.use_features = timed
    parts = ["projector", "language_model"]
    metrics = recipe.train(
        ModelArguments(str(folder / str(CASES[case]["layers"])), parts, CASES[case]["lora_rank"]),
        DataArguments(
            [str(folder / "train.json")],
            cache_dir=str(folder / "cache"),
            cache_features=SIDES[side],
            num_video_frames=FRAMES,
        ),
        TrainingArguments(
            output_dir=str(folder / f"{case}, {side}"),
            num_train_epochs=2,
            per_device_train_batch_size=1,
            learning_rate=1e-5,
            logging_steps=1,
            dataloader_num_workers=1,
            dataloader_persistent_workers=True,  # in an epoch of real length, their start-up time is negligible
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
    )
    return {
        "seconds per epoch": round(clock.seconds[1], 2),
        "seconds of computing features": round(sum(computing), 2),
        "features": metrics["features"],
        "losses": [entry["loss"] for entry in metrics["log"] if "loss" in entry],
        "peak GiB": round(peak_memory_gib(), 2),
    }


def compare(folder: Path, case: str) -> dict[str, Any]:
    sides: dict[str, Any] = {}
    for side in SIDES:
        command = [sys.executable, __file__, "--case", case, "--side", side, "--folder", str(folder)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        sides[side] = json.loads(output.splitlines()[-1])
        print(case, "|", side, "|", sides[side], flush=True)
    losses = [sides[side].pop("losses") for side in SIDES]
    again, stored = (sides[side]["seconds per epoch"] for side in SIDES)
    return {
        "sides": sides,
        "largest difference of losses": round(float(np.abs(np.subtract(*losses)).max()), 6),
        "times faster": round(again / stored, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="an eighth of the width; writes nothing")
    parser.add_argument("--case", choices=CASES, help="with --side and --folder: measure this case in this process")
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--folder", type=Path)
    settings = parser.parse_args()
    if settings.side:
        print(json.dumps(measure(settings.folder, settings.case, settings.side)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clips(folder)
        write_checkpoints(folder, settings.small)
        cases = {case: compare(folder, case) for case in CASES}
        stored = sum(file.stat().st_size for file in (folder / "cache" / "features").glob("*.safetensors"))
    cpu = f"{os.cpu_count()} cores, {platform.machine()}, {torch.get_num_threads()} in use"
    record = {
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "data": f"{CLIPS} clips, {FRAMES} frames of {PIXELS}x{PIXELS} of each",
        "stored MB per frame": round(stored / CLIPS / FRAMES / 1e6, 2),
        "cases": cases,
    }
    print(json.dumps(record, indent=2))
    if not settings.small:
        (ROOT / "benchmarks" / "results" / "feature_cache.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
