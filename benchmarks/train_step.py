"""One training step: ours against stock transformers, with the same weights and the same samples.

    python benchmarks/train_step.py            # writes benchmarks/results/train_step.json
    python benchmarks/train_step.py --small    # an eighth of the width, to check that it runs; writes nothing

A step is forward, backward and AdamW (fused, as in training). "Stock" is `FastVlmForConditionalGeneration` with the
output of its processor (float `pixel_values` and expanded ids) and logits at every position. "Ours" has uint8 frames,
one sentinel per frame, and logits only at labelled positions. On a CPU, its frames pass through the tower a megapixel
at a time, except for the side "all frames at once". BatchNorm is in eval mode on both sides, so the losses must agree.

Each side runs in two new processes: one is timed, and one measures the peak memory. In the second, glibc returns freed
memory at once. By default it keeps blocks of up to 32 MiB, and returning them takes time. On a CPU everything is
float32, and the model is cut to fit. On a GPU it is the whole FastVLM-0.5B, with float32 weights under bfloat16
autocast.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch.nn.utils.rnn import pad_sequence
from torch.utils.flop_counter import FlopCounterMode
from transformers import FastVlmForConditionalGeneration

from fvv_lib.prompt.placeholders import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from fvv_lib.scaling.released import full_size_config, random_fastvlm

ROOT = Path(__file__).resolve().parent.parent
ON_GPU = torch.cuda.is_available()
WARM_UP, STEPS = 2, 3  # untimed steps (the first ones are slower), then timed steps
STRIDE, LABELLED = 64, 30
# Dense bfloat16 peak in FLOP per second, from the vendor's data sheets; longer names first.
PEAKS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}


@dataclass(frozen=True)
class Case:
    """What is trained, on which samples, and the sides to compare."""

    layers: int  # of the language model, of 24
    samples: tuple[tuple[int, int], ...]  # frames and text tokens of each
    sides: tuple[str, ...] = ("ours", "stock")
    image_size: int = 1024
    tower: bool = True  # False: fixed features replace the output of the tower
    frozen: bool = False  # the tower runs but is not trained


PIECES = ("ours", "ours, all frames at once", "stock")
SAVING = ("ours", "ours, checkpointing", "ours, checkpointing, 1 frame at a time")
WHOLE = {"whole model, 8 frames": Case(24, ((8, 52),), ("ours", "stock", *SAVING[1:]))}
PARTS = {
    "language side, 2,100 tokens": Case(2, ((8, 52),), tower=False),
    "whole model, 2 frames of 1024x1024": Case(2, ((2, 52),)),
    "whole model, tower frozen, 8 frames": Case(2, ((8, 52),), PIECES, frozen=True),
    "vision tower, 4 frames of 256x256": Case(2, ((4, 52),), SAVING, image_size=256),
    "packing, 600 tokens and 7 x 60": Case(2, ((2, 88), *[(0, 60)] * 7), ("ours, packed", "ours"), tower=False),
}
CASES = WHOLE if ON_GPU else PARTS


def build(case: Case, side: str, small: bool) -> Any:
    """Build the model of one side, ready to train. All sides have the same weights."""
    config = full_size_config(image_size=case.image_size)
    config.text_config.num_hidden_layers = case.layers
    config.text_config.layer_types = ["full_attention"] * case.layers
    if small or not case.tower:
        config.vision_config.model_args |= {"embed_dims": [12, 24, 48, 96, 192]}
        config.vision_config.hidden_size = 384
    if small:
        config.text_config.hidden_size, config.text_config.intermediate_size = 112, 608
        config.text_config.vocab_size = config.image_token_id + 1
    model = random_fastvlm(config, "cuda" if ON_GPU else "cpu")
    model.train()
    if "checkpointing" in side:
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    model.frames_per_chunk = 1 if "1 frame at a time" in side else None
    if "all frames at once" in side:
        model.pixels_at_once = None
    model.packing = "packed" in side
    model.model.vision_tower.requires_grad_(not case.frozen)
    if side.startswith("stock"):
        model.__class__ = FastVlmForConditionalGeneration
    if not case.tower:
        frames, tokens = sum(frames for frames, _ in case.samples), config.image_seq_length
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(frames, tokens, config.text_config.hidden_size, generator=generator).to(model.device)
        model.model.vision_tower.requires_grad_(False)
        model.model.multi_modal_projector.requires_grad_(False)
        model.model.get_image_features = lambda *_, **__: SimpleNamespace(pooler_output=features)
    return model


def inputs_of(case: Case, side: str, model: Any) -> dict[str, Any]:
    """Build the batch in the format of a side."""
    generator = torch.Generator().manual_seed(0)
    size = case.image_size if case.tower else STRIDE
    ids, labels, frames = [], [], []
    for count, text in case.samples:
        row = torch.randint(0, 151643, (count + text,), generator=generator)
        row[5 : 5 + count] = IMAGE_TOKEN_INDEX
        labels.append(torch.full_like(row, IGNORE_INDEX))
        labels[-1][-LABELLED:] = row[-LABELLED:]
        ids.append(row)
        frames.append(torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator))
    if side.startswith("stock"):
        repeats = [torch.where(row == IMAGE_TOKEN_INDEX, model.config.image_seq_length, 1) for row in ids]
        labels = [row.repeat_interleave(times) for row, times in zip(labels, repeats, strict=True)]
        ids = [row.repeat_interleave(times) for row, times in zip(ids, repeats, strict=True)]
        ids = [row.masked_fill(row == IMAGE_TOKEN_INDEX, model.config.image_token_id) for row in ids]
    pictures = {"pixel_values": torch.cat(frames) / 255} if side.startswith("stock") else {"images": frames}
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
        **pictures,
    }


def to_device(value: Any) -> Any:
    """Move a tensor or a list of tensors to the GPU, if there is one. This is a part of the step."""
    if isinstance(value, list):
        return [to_device(entry) for entry in value]
    return value.cuda() if ON_GPU else value


def memory(key: str) -> float:
    """Return GiB: resident memory (VmRSS) or its peak (VmHWM); on a GPU, the memory that PyTorch allocated."""
    if ON_GPU:
        return (torch.cuda.memory_allocated() if key == "VmRSS" else torch.cuda.max_memory_allocated()) / 2**30
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 2**20


def measure(case: Case, side: str, steps: int, small: bool) -> dict[str, Any]:
    """Train for a few steps in this process and return losses, times and memory."""
    model = build(case, side, small)
    weights = memory("VmRSS")
    batch = inputs_of(case, side, model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)

    def step() -> tuple[float, float]:
        start = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16, enabled=ON_GPU):
            loss = model(**{key: to_device(value) for key, value in batch.items()}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if ON_GPU:
            torch.cuda.synchronize()
        return time.perf_counter() - start, loss.item()

    seconds, losses = zip(*(step() for _ in range(steps)), strict=True)
    result = {"loss": losses[0], "seconds": seconds[WARM_UP:]}
    result |= {"peak": memory("VmHWM"), "peak above weights": memory("VmHWM") - weights}
    if ON_GPU and side == "ours":
        with FlopCounterMode(display=False) as counter:
            step()
        result["flop"] = counter.get_total_flops()
    return result


def compare(name: str, case: Case, small: bool) -> dict[str, Any]:
    """Compare all sides of a case, each in new processes."""
    rows, flop = {}, None
    for side in case.sides:
        command = [sys.executable, __file__, "--case", name, "--side", side, *(["--small"] if small else [])]
        results = []
        for steps, malloc in ((WARM_UP + STEPS, {}), (2, {"MALLOC_MMAP_THRESHOLD_": str(2**20)})):
            run = [*command, "--steps", str(steps)]
            environment = {**os.environ, **malloc}
            answer = subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            results.append(json.loads(answer.stdout.splitlines()[-1]))
        timed, held = results
        result = {**held, "seconds": timed["seconds"]}
        print(name, "|", side, "|", result, flush=True)
        flop = flop or result.get("flop")
        rows[side] = {
            "loss": round(result["loss"], 4),
            "seconds per step": round(min(result["seconds"]), 3),
            "peak GiB": round(result["peak"], 2),
            "peak GiB above weights": round(result["peak above weights"], 2),
        }
    peak = next((peak for chip, peak in PEAKS.items() if ON_GPU and chip in torch.cuda.get_device_name()), None)
    if flop and peak:
        for row in rows.values():  # the useful work is the same on all sides; recomputation does not count
            row["share of the chip's bfloat16 peak"] = round(flop / row["seconds per step"] / peak, 3)
    record = {"setting": asdict(case), "sides": rows}
    stock = next((row for side, row in rows.items() if side.startswith("stock")), None)
    if stock:
        ours = rows[case.sides[0]]
        record["ours / stock"] = {
            "steps per second": round(stock["seconds per step"] / ours["seconds per step"], 2),
            "peak": round(ours["peak GiB"] / stock["peak GiB"], 2),
            "peak above weights": round(ours["peak GiB above weights"] / stock["peak GiB above weights"], 2),
        }
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, help="measure only this case and keep the other results")
    parser.add_argument("--side", help="with --case: measure this side in this process")
    parser.add_argument("--steps", type=int, default=WARM_UP + STEPS, help="with --side: number of steps")
    parser.add_argument("--small", action="store_true", help="an eighth of the width; writes nothing")
    settings = parser.parse_args()
    if settings.side:
        print(json.dumps(measure(CASES[settings.case], settings.side, settings.steps, settings.small)))
        return
    names = [settings.case] if settings.case else list(CASES)
    cases = {name: compare(name, CASES[name], settings.small) for name in names}
    target = ROOT / "benchmarks" / "results" / "train_step.json"
    if settings.case and target.exists():
        cases = json.loads(target.read_text())["cases"] | cases
    cpu = f"{os.cpu_count()} cores, {platform.machine()}"
    record = {
        "hardware": torch.cuda.get_device_name() if ON_GPU else f"{cpu}, {torch.get_num_threads()} in use",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "precision": "float32 weights, bfloat16 autocast" if ON_GPU else "float32",
        "optimizer": "AdamW, fused",
        "cases": {name: cases[name] for name in CASES if name in cases},
    }
    print(json.dumps(record, indent=2))
    if not settings.small:
        target.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
