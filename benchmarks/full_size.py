"""Load FastVLM-0.5B at full size, generate an answer and train one step: random weights, bfloat16, on a CPU.

    python benchmarks/full_size.py     # about 5 minutes on 2 cores, 24 GB; writes benchmarks/results/full_size.json

Each part runs in a new process, so that its peak resident memory can be measured. The clip and the questions come from
`data_samples`. The tokenizer is that of the tiny FastVLM; the large vocabulary contains all its ids.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from fvv_lib import ask, load_pretrained_model
from fvv_lib.arguments import TrainingArguments
from fvv_lib.finetuning.recipe import train
from fvv_lib.scaling.released import random_fastvlm
from fvv_lib.settings import DataArguments, ModelArguments
from fvv_lib.video_config import VideoConfig
from fvv_lib.weights.loading import build_processor

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "data_samples"
FRAMES, PIXELS, NEW_TOKENS = 2, 1024, 8


def write_checkpoint(folder: Path) -> None:
    tiny = load_pretrained_model(SAMPLES / "tiny-fastvlm", device="cpu")
    tiny.tokenizer.model_max_length = 8192
    tiny.image_processor.size = {"shortest_edge": PIXELS}
    tiny.image_processor.crop_size = {"height": PIXELS, "width": PIXELS}
    model = random_fastvlm("0.5b", dtype=torch.bfloat16)
    model.video_config = VideoConfig(num_video_frames=FRAMES)
    model.save_pretrained(folder)
    build_processor(tiny.tokenizer, tiny.image_processor, model).save_pretrained(folder)
    sample = json.loads((SAMPLES / "train.json").read_text())[0]
    (folder / "train.json").write_text(json.dumps([sample]))


def answer(folder: Path) -> dict[str, float]:
    start = time.perf_counter()
    loaded = load_pretrained_model(folder, device="cpu")
    loaded_after = time.perf_counter() - start
    sample = json.loads((folder / "train.json").read_text())[0]
    clip = SAMPLES / (sample.get("video") or sample["image"])
    start = time.perf_counter()
    ask(loaded, clip, "Which way does it move?", max_new_tokens=NEW_TOKENS)
    return {"load_seconds": loaded_after, "answer_seconds": time.perf_counter() - start}


def step(folder: Path) -> dict[str, float]:
    metrics = train(
        ModelArguments(str(folder)),
        DataArguments([str(folder / "train.json")], image_folder=str(SAMPLES), num_video_frames=FRAMES),
        TrainingArguments(
            output_dir=str(folder / "output"),
            max_steps=1,
            per_device_train_batch_size=1,
            use_cpu=True,
            bf16=True,
            gradient_checkpointing=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
    )
    return {"step_seconds": metrics["train"]["train_runtime"], "loss": metrics["train"]["train_loss"]}


PARTS: dict[str, Callable[[Path], dict[str, float]]] = {"answer": answer, "step": step}


def peak_gib() -> float:
    """Return the peak resident memory of this process. (`getrusage` may report the peak of its parent.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def main() -> None:
    if len(sys.argv) == 3:  # the process of one part
        figures = PARTS[sys.argv[1]](Path(sys.argv[2]))
        print(json.dumps({**figures, "peak_gib": peak_gib()}))
        return
    record = {
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "model": f"FastVLM-0.5B, random weights, bfloat16; {FRAMES} frames of {PIXELS}x{PIXELS}",
    }
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder))
        for part in PARTS:
            command = [sys.executable, __file__, part, folder]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            record[part] = {name: round(value, 2) for name, value in json.loads(output.splitlines()[-1]).items()}
            print(part, record[part], flush=True)
    (ROOT / "benchmarks" / "results" / "full_size.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
