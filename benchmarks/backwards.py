"""Does the model use motion, or only the position of a shape? Test and train with clips played backwards.

    python benchmarks/backwards.py         # about 10 minutes on 2 CPU cores; writes benchmarks/results/backwards.json

A shape starts in the middle of the frame (`scenes.START`). In a clip played forwards, a shape near an edge therefore
moves towards that edge. A model may learn this shortcut instead of motion, and a test with forward clips alone cannot
detect it. Here every second training clip is played backwards, with its answers corrected; the rest is the recipe of
`make finetune`. Three models answer the test clips in both directions: one trained on forward clips, one trained on
both directions from the base, and the first one after further training on both directions. Lesson 07 quotes the result.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from fvv_lib import DataArguments, LazySupervisedDataset, accuracy_by_kind, evaluate, is_video_file, read_video
from fvv_lib.course.samples import backwards
from fvv_lib.course.scenes import write_video
from fvv_lib.model.geometry import make_frame_spec
from fvv_lib.video.frames import VideoFrames
from fvv_lib.video.medium import Medium
from fvv_lib.weights.loading import load_pretrained_model

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data_samples"
RECIPE = (
    "--max_steps 600 --per_device_train_batch_size 16 --learning_rate 1e-3 --vision_tower_lr 1e-4 --adam_beta2 0.98"
)
QUIET = "--warmup_steps 60 --disable_tqdm True --save_strategy no --report_to none"


class PlayedBackwards(LazySupervisedDataset):
    def read(self, medium: Medium, index: int, place: int = 0) -> VideoFrames:
        video = super().read(medium, index, place)
        return replace(video, frames=video.frames[::-1].copy())


def accuracies(model_folder: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Return the accuracy by kind on the test clips, and on the same clips with their frames reversed."""
    loaded = load_pretrained_model(model_folder)
    samples = json.loads((DATA / "test.json").read_text())
    turned = folder / "backwards.json"
    turned.write_text(json.dumps([backwards(sample) for sample in samples]))
    args = DataArguments(image_folder=str(DATA), decode_timeout=0)
    spec = make_frame_spec(loaded, args.video_config())
    tests = {
        "forwards": LazySupervisedDataset(loaded.tokenizer, [str(DATA / "test.json")], args, frame_spec=spec),
        "backwards": PlayedBackwards(loaded.tokenizer, [str(turned)], args, frame_spec=spec),
    }
    tables = {name: accuracy_by_kind(evaluate(loaded.model, loaded.tokenizer, test)) for name, test in tests.items()}
    return {name: {kind: row["accuracy"] for kind, row in table.items()} for name, table in tables.items()}


def turn_every_second(folder: Path) -> Path:
    """Write the training set with every second clip played backwards and return its annotation file."""
    samples: list[dict[str, Any]] = json.loads((DATA / "train.json").read_text())
    for number, sample in enumerate(samples):
        key = "image" if "image" in sample else "video"
        path = sample.get(key, "")
        # Directions repeat every 4 samples, so reverse 4 clips, then keep 4.
        if is_video_file(path) and number // 4 % 2:
            frames = read_video(DATA / path, read_video(DATA / path).total_frames).frames
            target = folder / f"{number}{Path(path).suffix}"
            write_video(target, frames[::-1])
            samples[number] = {**backwards(sample), key: str(target)}
        elif path:
            samples[number] = {**sample, key: str(DATA / path)}
    file = folder / "train.json"
    file.write_text(json.dumps(samples))
    return file


def train(start: Path, annotations: Path, output: Path) -> Path:
    """Fine-tune a model with the recipe of `make finetune` and return the folder of the result."""
    flags = ["--model_name_or_path", str(start), "--data_path", str(annotations), "--output_dir", str(output)]
    command = ["bash", str(ROOT / "scripts" / "finetune_video.sh"), *flags, *RECIPE.split(), *QUIET.split()]
    env = {**os.environ, "PYTHON": sys.executable}
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
    return output


def main() -> None:
    target = ROOT / "benchmarks" / "results" / "backwards.json"
    base, trained = DATA / "tiny-fastvlm", DATA / "tiny-fastvlm-video"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        both_ways = turn_every_second(folder)
        record = {
            "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "forwards": accuracies(trained, folder),
            "both ways": accuracies(train(base, both_ways, folder / "both"), folder),
            "forwards, then both ways": accuracies(train(trained, both_ways, folder / "then"), folder),
        }
    target.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
