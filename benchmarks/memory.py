"""Does `fvv memory` predict the memory of a training step? Compare predicted and measured peaks, one process per row.

    python benchmarks/memory.py     # Linux, 4 GB, a few minutes; writes benchmarks/results/memory.json

The model has FastVLM-0.5B's widths but fewer blocks, and random weights. Each row runs two steps of the real Trainer on
the CPU (the second has the optimizer states). The measured value is the peak resident memory (VmHWM) minus the memory
of the process before the model is built. MALLOC_* makes the C library return freed memory, so that the value contains
the tensors and not what the allocator keeps.
"""

import argparse
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
from transformers import FastVlmConfig

from fvv_lib.arguments import TrainingArguments
from fvv_lib.data.dataset import DataCollatorForSupervisedDataset
from fvv_lib.finetuning.trainer import VideoTrainer
from fvv_lib.model.parts import set_trainable
from fvv_lib.prompt.placeholders import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from fvv_lib.scaling.budget import predict_memory, preset_table
from fvv_lib.scaling.released import full_size_config, random_fastvlm
from fvv_lib.settings import MemorySettings, ModelArguments
from fvv_lib.weights.loading import load_pretrained_model, open_model_folder
from fvv_lib.weights.lora import add_lora

ROOT = Path(__file__).resolve().parent.parent
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
TOWER_BLOCKS, LANGUAGE_LAYERS, VOCABULARY = [1, 2, 3, 1, 1], 3, 16000

BASE = MemorySettings("", image_size=256, bf16=False)
FROZEN = ("projector", "language_model")
LONG = replace(BASE, num_video_frames=2, text_tokens=2048)
ROWS = {
    "8 frames": BASE,
    "16 frames": replace(BASE, num_video_frames=16),
    "2 frames of 512 pixels": replace(BASE, num_video_frames=2, image_size=512),
    "batch of 2, padded": replace(BASE, num_video_frames=4, per_device_train_batch_size=2),
    "gradient accumulation": replace(BASE, gradient_accumulation_steps=2),
    "bf16 autocast": replace(BASE, num_video_frames=16, bf16=True),
    "gradient checkpointing": replace(BASE, num_video_frames=16, gradient_checkpointing=True),
    "gradient checkpointing, 2 frames at a time": replace(
        BASE, num_video_frames=16, gradient_checkpointing=True, frames_per_chunk=2
    ),
    "long text": LONG,
    "long text, all learned": replace(LONG, labelled_tokens=2048),
    "frozen tower": replace(LONG, tunable_parts=FROZEN),
    "frozen tower, 2 frames at a time": replace(BASE, num_video_frames=16, frames_per_chunk=2, tunable_parts=FROZEN),
    "LoRA, frozen tower": replace(LONG, lora_rank=16, tunable_parts=FROZEN),
}


def small_config() -> FastVlmConfig:
    config = full_size_config("0.5b")
    config.vision_config.model_args |= {"layers": TOWER_BLOCKS}
    config.text_config.num_hidden_layers, config.text_config.vocab_size = LANGUAGE_LAYERS, VOCABULARY
    config.text_config.layer_types = ["full_attention"] * LANGUAGE_LAYERS
    config.image_token_index = config.image_token_id = VOCABULARY - 1
    return config


def write_folder(folder: Path) -> None:
    """Write a model folder without weights: everything that a prediction reads."""
    tiny = load_pretrained_model(ROOT / "data_samples" / "tiny-fastvlm", device="cpu")
    tiny.tokenizer.model_max_length = 32768
    for part in (tiny.tokenizer, tiny.image_processor, small_config()):
        part.save_pretrained(folder)


class Samples(list[dict[str, torch.Tensor]]):
    """A list of samples that is the same in every epoch."""

    def set_epoch(self, epoch: int) -> None:
        pass


def make_samples(settings: MemorySettings) -> Samples:
    """Build samples of random pixels and tokens. Within a batch each sample is one token shorter, so it is padded."""
    frames, size = settings.num_video_frames, settings.image_size or 0
    samples = []
    for number in range(settings.per_device_train_batch_size):
        words = torch.randint(0, VOCABULARY - 1, (settings.text_tokens - number,))
        ids = torch.cat([torch.full((frames,), IMAGE_TOKEN_INDEX), words])
        labels = torch.where(torch.arange(len(ids)) >= len(ids) - settings.labelled_tokens, ids, IGNORE_INDEX)
        images = torch.randint(0, 256, (frames, 3, size, size), dtype=torch.uint8)
        samples.append({"input_ids": ids, "labels": labels, "images": images})
    return Samples(samples * settings.gradient_accumulation_steps)


def memory_status(name: str) -> int:
    """Return a value of /proc/self/status in bytes: VmRSS is the current resident memory, VmHWM its peak."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) * 1024


def measure(settings: MemorySettings, output_dir: str) -> int:
    """Return the peak memory in bytes of two training steps, minus the memory before the model was built."""
    tokenizer = open_model_folder(settings.model).tokenizer
    samples = make_samples(settings)
    before = memory_status("VmRSS")
    base = random_fastvlm(small_config())
    base.video_config = replace(base.video_config, frame_pool=settings.frame_pool)
    base.frames_per_chunk = settings.frames_per_chunk
    base.pixels_at_once = None  # as in the prediction
    model: torch.nn.Module = base
    if settings.lora_rank:
        model = add_lora(base, ModelArguments(settings.model, settings.tunable_parts, settings.lora_rank))
    else:
        set_trainable(base, settings.tunable_parts)
    arguments = TrainingArguments(
        output_dir=output_dir,
        max_steps=2,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        gradient_checkpointing=settings.gradient_checkpointing,
        bf16=settings.bf16,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    collator = DataCollatorForSupervisedDataset(tokenizer)
    trainer = VideoTrainer(model=model, args=arguments, train_dataset=samples, data_collator=collator)
    Path("/proc/self/clear_refs").write_text("5")  # reset VmHWM
    trainer.train()
    return memory_status("VmHWM") - before


def compare(name: str, folder: str) -> dict[str, Any]:
    """Return the predicted and the measured peak of a row. The measurement runs in a new process with `MALLOC` set."""
    command = [sys.executable, __file__, "--measure", name, folder]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **MALLOC})
    measured = int(result.stdout.splitlines()[-1]) / 2**30
    predicted = predict_memory(replace(ROWS[name], model=folder)).peak
    return {
        "name": name,
        "settings": {key: value for key, value in vars(ROWS[name]).items() if key != "model"},
        "predicted_gib": round(predicted, 3),
        "measured_gib": round(measured, 3),
        "error": round(predicted / measured - 1, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=ROWS, help="measure this row and print it as JSON; writes nothing")
    parser.add_argument("--measure", nargs=2, metavar=("ROW", "FOLDER"), help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.measure:  # this is the process of one row
        name, folder = settings.measure
        print(measure(replace(ROWS[name], model=folder), f"{folder}/output"))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder))
        if settings.only:
            print(json.dumps(compare(settings.only, folder)))
            return
        for name in ROWS:
            row = compare(name, folder)
            rows.append(row)
            print(f"{name:<44}{row['predicted_gib']:>8.2f}{row['measured_gib']:>8.2f}{row['error']:>+8.1%}", flush=True)
    record = {
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "model": f"FastVLM-0.5B's widths; blocks of the tower {TOWER_BLOCKS}, layers {LANGUAGE_LAYERS}, "
        f"vocabulary {VOCABULARY}",
        "rows": rows,
        "presets": preset_table(MemorySettings("0.5b")).splitlines(),
    }
    print("\n".join(record["presets"]), flush=True)
    (ROOT / "benchmarks" / "results" / "memory.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
