"""Check whether this machine can run the course.

Each check tries the real operation: it encodes a clip and reads it back, or runs a matrix product on the GPU. Its
result is one line: a name, whether it works, and a detail or a remedy. `fvv doctor` prints these lines.
"""

import importlib.metadata
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

REQUIRED = (
    *("torch", "torchvision", "transformers", "timm", "accelerate", "datasets", "pyarrow"),
    *("av", "pillow", "numpy", "matplotlib", "pyyaml", "jinja2", "tqdm", "lazy-loader"),
)
INSTALL = 'in the folder of the repository, pip install -c constraints.txt -e ".[{}]"'
OPTIONAL = {
    "decord": "the decoder of the described system; wheels for x86-64 Linux only, optional: the exact reader uses PyAV",
    "jupyterlab": f"the course; {INSTALL.format('course')}",
    "nbval": f"runs the notebooks as tests; {INSTALL.format('course')}",
    "deepspeed": f"training on several GPUs; {INSTALL.format('scale')}",
    "peft": f"LoRA; {INSTALL.format('scale')}",
    "tensorboard": f"training logs; {INSTALL.format('scale')}",
}


class Check(NamedTuple):
    """The result of one check. `fvv doctor` fails only if a required check fails."""

    name: str
    works: bool
    required: bool
    detail: str

    def __str__(self) -> str:
        mark = "ok" if self.works else ("FAIL" if self.required else "-")
        return f"{mark:<5}{self.name:<16}{self.detail}"


def examine() -> list[Check]:
    """Run all checks. The order is such that the first failure explains the later ones."""
    works = sys.version_info >= (3, 11)
    checks = [Check("python", works, True, platform.python_version() if works else "install Python 3.11 or newer")]
    checks += [_package(name, True, f"pip install {name}") for name in REQUIRED]
    checks += [_package(name, False, remedy) for name, remedy in OPTIONAL.items()]
    checks += [_attempt("video", _video), _attempt("vision tower", _tower), _attempt("device", _device)]
    return checks


def _package(name: str, required: bool, remedy: str) -> Check:
    try:
        return Check(name, True, required, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, required, f"not installed: {remedy}")


def _attempt(name: str, action: Callable[[], str]) -> Check:
    try:
        return Check(name, True, True, action())
    except Exception as error:  # the doctor reports any failure
        return Check(name, False, True, f"{type(error).__name__}: {error}")


def _video() -> str:
    """Write a clip in every container and read it back."""
    import numpy as np

    from fvv_lib.course.scenes import ENCODERS, motion_clip, write_video
    from fvv_lib.video.read import read_video

    clip, _ = motion_clip(np.random.default_rng(0), "left")
    with tempfile.TemporaryDirectory() as folder:
        for extension in ENCODERS:
            path = Path(folder) / f"clip{extension}"
            write_video(path, clip)
            count = read_video(path).total_frames
            if count != len(clip):
                raise RuntimeError(f"{extension}: wrote {len(clip)} frames, read {count}. Reinstall av.")
    return f"writes and reads {' '.join(ENCODERS)}"


def _tower() -> str:
    """Run the vision tower that transformers loads from timm."""
    import torch
    from transformers import AutoModel, TimmWrapperConfig

    size = {"layers": [1, 1, 1, 1, 1], "embed_dims": [8, 16, 32, 64, 64], "inference_mode": True}
    config = TimmWrapperConfig(architecture="fastvit_mci3", do_pooling=False, model_args=size)
    features = AutoModel.from_config(config).eval()(torch.zeros(1, 3, 128, 128)).last_hidden_state
    return f"FastViT turns 128x128 pixels into {features.shape[2] * features.shape[3]} tokens"


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"CPU with {torch.get_num_threads()} threads: enough for the course; use a GPU for the real model"
    properties = torch.cuda.get_device_properties(0)
    torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda")
    bf16 = "with" if torch.cuda.is_bf16_supported() else "without"
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16} bf16"
