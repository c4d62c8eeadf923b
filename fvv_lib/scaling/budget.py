"""Predict the tokens and the memory in GiB of a training run before it starts.                            Lesson 9

`dryrun` counts the memory that a step holds for a moment. This module calculates the memory that outlives a step:
weights, gradients and optimizer, and how ZeRO shards them.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from fvv_lib.errors import FvvError
from fvv_lib.scaling.dryrun import Size, dry_run, model_size
from fvv_lib.scaling.released import LANGUAGE_MODELS
from fvv_lib.settings import MemorySettings

GIB = 2**30
# The rest of the device memory is for CUDA itself, for workspaces of kernels, and for fragmentation.
USABLE = 0.9
ADAMW_BYTES = 8  # per trained parameter: two float32 averages
MASTER_BYTES = 4  # DeepSpeed adds a float32 copy of the weight
GATHERED = 1_000_000_000  # parameters that ZeRO-3 gathers at a time (DeepSpeed's stage3_max_live_parameters)

DEVICES_GIB = (8, 16, 24, 40, 80, 141)
_CHECKPOINTED = {"gradient_checkpointing": True, "frames_per_chunk": 2}  # ZeRO-3 needs at least 2
_FROZEN = {**_CHECKPOINTED, "tunable_parts": ("projector", "language_model")}
PRESETS: dict[str, dict[str, Any]] = {  # tried in this order, from the most memory to the least; more GPUs come last
    "full": {},
    "full, checkpointed": {"gradient_checkpointing": True},
    "full, 2 frames at a time": _CHECKPOINTED,
    "frozen tower": _FROZEN,
    "LoRA": {**_FROZEN, "lora_rank": 16},
    **{f"{n} GPUs": {**_CHECKPOINTED, "zero_stage": 3, "num_devices": n} for n in (2, 4, 8)},
}


@dataclass(frozen=True)
class MemoryPrediction:
    """The memory of one device in a training step, in GiB. `str()` gives a table.

    Attributes:
        tokens_per_frame, tokens_per_sample: positions of the language model.
        parameters, trained: numbers of all and of trained parameters, over all devices.
        weights, gradients, optimizer: memory that outlives a step. A float32 copy of the weights counts as optimizer.
        activations: maximum of the memory that forward and backward need besides those.
        peak: less than the sum, because gradients are allocated while activations are freed.

    Lesson: 09.
    """

    settings: MemorySettings
    tokens_per_frame: int
    tokens_per_sample: int
    parameters: int
    trained: int
    weights: float
    gradients: float
    optimizer: float
    activations: float
    peak: float

    def fits(self, device_gib: float) -> bool:
        """Check whether the peak leaves a tenth of the device for CUDA, workspaces of kernels, and fragmentation."""
        return self.peak <= USABLE * device_gib

    def __str__(self) -> str:
        settings = self.settings
        text, frames = settings.text_tokens, settings.frames
        rows = {name: getattr(self, name) for name in ("weights", "gradients", "optimizer", "activations", "peak")}
        return "\n".join(
            [
                f"{self.tokens_per_sample} tokens per sample = {text} of text + {frames} frames x "
                f"{self.tokens_per_frame}",
                f"{self.trained:,} of {self.parameters:,} parameters are trained",
                *(f"{name:<12}{gib:>8.2f} GiB" for name, gib in rows.items()),
            ]
        )


def predict_memory(settings: MemorySettings) -> MemoryPrediction:
    """Predict the memory of one device in a training step.

    Raises:
        FvvError: a setting is wrong, or the model cannot read so many tokens.

    Source for the memory that outlives a step: Rajbhandari et al., ZeRO, 2020; defaults of DeepSpeed and the Trainer.
    Lesson: 09.
    """
    zero = settings.zero_stage
    accumulated = min(settings.gradient_accumulation_steps, 2)  # further batches add no memory
    alone = replace(settings, zero_stage=zero if zero == 3 else min(zero, 1), num_devices=1, offload=False)
    step = dry_run(replace(alone, gradient_accumulation_steps=accumulated))
    states = _states(settings, step.size)
    activations, complete = step.moments.T
    moments = activations + states.kept * complete
    peak = states.weights + states.optimizer + states.buckets + max(moments.max(), states.update)
    held = (states.weights, states.gradients + states.buckets, states.optimizer, activations.max(), peak)
    return MemoryPrediction(
        settings,
        step.tokens_per_frame,
        step.tokens_per_sample,
        step.size.parameters,
        step.size.trained,
        *(float(value / GIB) for value in held),
    )


class _States(NamedTuple):
    """Bytes on one device that do not depend on the batch. `kept` is the fraction of each gradient that stays there."""

    weights: float
    gradients: float
    optimizer: float
    update: float  # besides weights and optimizer, while the weights are updated
    buckets: float
    kept: float


def _states(settings: MemorySettings, size: Size) -> _States:
    zero, devices = settings.zero_stage, settings.num_devices
    width = 2 if settings.bf16 and zero else 4
    weights: float = width * size.parameters + size.buffer_bytes
    optimizer: float = ADAMW_BYTES * size.trained
    kept = 1 / devices if zero >= 2 else 1.0
    gradients = kept * width * size.trained
    update: float = gradients
    if zero:
        optimizer = (optimizer + MASTER_BYTES * size.trained) / devices
        update += MASTER_BYTES * size.trained / devices  # float32 gradients of this device's shard
    if zero == 3:
        gathered = width * min(size.parameters, GATHERED)
        weights = gathered + (0 if settings.offload else weights / devices)
    if settings.offload:
        optimizer, update = 0.0, gradients
    # DistributedDataParallel also keeps gradients in buckets, from the first step on.
    buckets = gradients if devices > 1 and not zero else 0.0
    return _States(weights, gradients, optimizer, update, buckets, kept)


def least_memory(settings: MemorySettings) -> float:
    """Return a lower bound in GiB: weights, gradients, optimizer. 0 with LoRA, which needs a dry run. Lesson: 09."""
    if settings.lora_rank:
        return 0.0
    states = _states(settings, model_size(settings.model, settings.tunable_parts))
    return (states.weights + states.optimizer + states.buckets + states.update) / GIB


def _changes(settings: MemorySettings, tokens_per_frame: int) -> Iterator[dict[str, Any]]:
    """Yield changes that save memory, in the order to try them: those that change the result least come first."""
    parts, batch = settings.tunable_parts, settings.per_device_train_batch_size
    if not settings.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    if batch > 1:
        steps = batch * settings.gradient_accumulation_steps
        yield {"per_device_train_batch_size": 1, "gradient_accumulation_steps": steps}
    if settings.frames_per_chunk is None or settings.frames_per_chunk > 2:
        yield {"gradient_checkpointing": True, "frames_per_chunk": 2}
    if math.isqrt(tokens_per_frame) % 2 == 0:
        yield {"frame_pool": 2 * settings.frame_pool}
    without_tower = {"tunable_parts": tuple(part for part in parts if part != "vision_tower")}
    if "vision_tower" in parts and len(parts) > 1:
        yield without_tower
    if "language_model" in parts and not settings.lora_rank:  # LoRA freezes the tower, see `settings.choose_parts`
        yield {"lora_rank": 16, **(without_tower if "vision_tower" in parts else {})}
    for stage in range(settings.zero_stage + 1, 4):
        yield {"zero_stage": stage, "num_devices": max(settings.num_devices, 8)}
    if not settings.offload:
        yield {"zero_stage": 3, "offload": True}


def suggest(settings: MemorySettings, device_gib: float) -> Iterator[tuple[str, MemoryPrediction]]:
    """Yield changes for a run that does not fit: flags, and the prediction with them. The last one fits, if any does.

    First, each change is tried alone, until one fits. If none fits, each change is added to those before it: then the
    flags are those of all these changes.

    Lesson: 09.
    """
    changes = list(_changes(settings, predict_memory(settings).tokens_per_frame))
    together: dict[str, Any] = {}
    for change in changes:
        prediction = predict_memory(replace(settings, **change))
        yield _flags(change), prediction
        if prediction.fits(device_gib):
            return
    for number, change in enumerate(changes, 1):
        together |= change
        if number > 1:
            prediction = predict_memory(replace(settings, **together))
            yield _flags(together), prediction
            if prediction.fits(device_gib):
                return


def plan_run(settings: MemorySettings, device_gib: float, batch_size: int = 16) -> MemorySettings:
    """Plan how to train with `batch_size` samples per step on the given devices. Return the first plan that fits.

    Gradient checkpointing costs time, so it is used only if nothing fits without it. Then the lowest ZeRO stage that
    fits is used, and as many samples at a time as fit. The rest of the batch is accumulated.

    Args:
        settings: the model, its data, and `num_devices` of `device_gib` each. The planned settings are replaced.

    Raises:
        FvvError: the batch cannot be divided evenly among the devices, or nothing fits.

    Lesson: 06.
    """
    share, rest = divmod(batch_size, settings.num_devices)
    if rest or not share:
        raise FvvError(
            f"{settings.num_devices} devices cannot share {batch_size} samples evenly. Use a multiple of the number of "
            "devices."
        )
    plain = replace(settings, gradient_checkpointing=False, frames_per_chunk=None, offload=False)
    alone = replace(plain, per_device_train_batch_size=1, gradient_accumulation_steps=share)
    for way in ({}, {"gradient_checkpointing": True}, _CHECKPOINTED):
        for stage in (0, 2, 3) if settings.num_devices > 1 else (0,):
            plan = replace(alone, zero_stage=stage, **way)
            one = predict_memory(plan)
            if one.fits(device_gib):
                room = USABLE * device_gib - one.peak  # each further sample adds at most its activations
                sizes = [size for size in range(1, share + 1) if share % size == 0]
                most = max(size for size in sizes if (size - 1) * one.activations <= room)
                return replace(plan, per_device_train_batch_size=most, gradient_accumulation_steps=share // most)
    raise FvvError(
        f"{settings.model} does not fit {settings.num_devices} x {device_gib:g} GiB. `fvv memory` shows what to change."
    )


def _flags(change: dict[str, Any]) -> str:
    return " ".join(f"--{k} {' '.join(v) if isinstance(v, tuple) else v}" for k, v in change.items())


def find_preset(settings: MemorySettings, device_gib: float) -> str:
    """Return the first of `PRESETS` that fits a device, and its peak in GiB; `-` if none fits. Lesson: 09."""
    for name, change in PRESETS.items():
        wanted = replace(settings, **change)
        if least_memory(wanted) > USABLE * device_gib:
            continue
        prediction = predict_memory(wanted)
        if prediction.fits(device_gib):
            return f"{name} ({prediction.peak:.1f})"
    return "-"


def preset_table(settings: MemorySettings, sizes: Iterable[str] = LANGUAGE_MODELS) -> str:
    """Return a Markdown table of the preset that fits, per device size and model. Lesson: 09."""
    columns = [replace(settings, model=size) for size in sizes]
    rows = [["GiB", *sizes], ["---"] * (1 + len(columns))]
    rows += [[str(gib), *(find_preset(column, gib) for column in columns)] for gib in DEVICES_GIB]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
