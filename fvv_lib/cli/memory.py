"""`fvv memory`: predict how many tokens and GiB a run needs.                                                 Lesson 9

fvv memory --model 0.5b --num_video_frames 8 --device_gib 24
"""

from dataclasses import dataclass, field, replace

from fvv_lib.cli.finetune import training_flag_names
from fvv_lib.cli.flags import flags_of, parse, take
from fvv_lib.cli.starting import quick_imports
from fvv_lib.errors import FvvError
from fvv_lib.settings import MemorySettings


@dataclass(frozen=True)
class MemoryOptions:
    """Predict the memory of a training run, and what to change if it does not fit."""

    device_gib: float | None = field(
        default=None, metadata={"help": "Memory of the device in GiB; the exit code is 1 if the run does not fit."}
    )
    presets: bool = field(
        default=False,
        metadata={
            "help": "Print a table: for each device size and each of the three released models, the settings that fit. "
            "Needs no --model."
        },
    )

    def __post_init__(self) -> None:
        if self.device_gib is not None and not self.device_gib > 0:
            raise FvvError(f"device_gib must be above 0, got {self.device_gib}.")


def main(arguments: list[str]) -> bool:
    """Return True (exit code 1) if the run does not fit."""
    wanted, options = _parse(arguments)
    with quick_imports():
        from fvv_lib.scaling.budget import predict_memory, preset_table, suggest

    if options.presets:
        print(preset_table(wanted))
        return False
    prediction = predict_memory(wanted)
    print(prediction)
    if options.device_gib is None:
        return False
    fits = prediction.fits(options.device_gib)
    print(f"{'fits' if fits else 'does not fit'} {options.device_gib:g} GiB with a tenth left free")
    if fits:
        return False
    for flags, changed in suggest(wanted, options.device_gib):
        verdict = " - fits" if changed.fits(options.device_gib) else ""
        print(f"{changed.peak:>8.2f} GiB with {flags}{verdict}", flush=True)
    return True


def _parse(arguments: list[str]) -> tuple[MemorySettings, MemoryOptions]:
    flags = [replace(flag, required=False) for flag in flags_of(MemorySettings)]  # --presets needs no model
    of_training = training_flag_names()
    values = parse([*flags, *flags_of(MemoryOptions)], arguments, "memory", MemoryOptions.__doc__ or "", of_training)
    options = MemoryOptions(**take(MemoryOptions, values))
    if not options.presets and "model" not in values:
        raise FvvError("memory needs --model: a folder, or 0.5b, 1.5b or 7b; or --presets for all three.")
    return MemorySettings(**{"model": "0.5b", **values}), options
