"""LoRA adapters: add one to a model, and merge one into its base.                                         Lesson 8

LoRA freezes a weight W and trains a low-rank difference beside it: W + (alpha / rank) B A. PEFT implements this. This
module chooses which layers get a difference and which parts are trained in full, and merges both into one plain model.
It knows nothing about folders with whole models.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from fvv_lib.errors import FvvError, ModelFolderError
from fvv_lib.model.parts import MODULE_OF_PART, freeze_unread
from fvv_lib.model.video_model import VideoMixin
from fvv_lib.settings import ModelArguments

if TYPE_CHECKING:
    from peft import PeftModel


Model = TypeVar("Model", bound=torch.nn.Module)

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# All matrices of attention and MLP, as in QLoRA. On attention alone, LoRA is worse than full fine-tuning.
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def add_lora(model: VideoMixin, model_args: ModelArguments) -> "PeftModel":
    """Add LoRA to the language model, train the other `tunable_parts` in full, and freeze the rest.

    Parts that are trained in full are PEFT's `modules_to_save`. PEFT trains a copy and saves it with the adapter. The
    frozen original stays in memory: a second vision tower, 0.5 GB for FastVLM's.

    Args:
        model: changed in place; it uses the adapter from now on.

    Source: Hu et al. 2021 (LoRA), Dettmers et al. 2023 (QLoRA). Lesson: 08.
    """
    peft = _import_peft()
    config = peft.LoraConfig(
        r=model_args.lora_rank,
        lora_alpha=model_args.lora_alpha or 2 * model_args.lora_rank,
        lora_dropout=model_args.lora_dropout,
        target_modules=TARGETS,
        modules_to_save=[MODULE_OF_PART[part] for part in model_args.tunable_parts if part in MODULE_OF_PART],
    )
    with _quiet():
        adapted = peft.get_peft_model(model, config)
    freeze_unread(model)
    base = Path(model_args.model_name_or_path)
    config.base_model_name_or_path = str(base.resolve() if base.exists() else model_args.model_name_or_path)
    return adapted


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide a warning about PEFT's own code: it reads a deprecated name of transformers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def _import_peft() -> ModuleType:
    try:
        import peft
    except ImportError as error:
        raise FvvError("LoRA needs the package peft: install fvv_lib[scale], or peft alone.") from error
    return peft


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file()


def base_of(folder: Path) -> str:
    """Return the base model of an adapter: the folder or hub name in the adapter's configuration.

    Raises:
        ModelFolderError: the configuration is broken, names the adapter itself, or names a folder that does not exist.
    """
    file = folder / ADAPTER_CONFIG
    try:
        base = _import_peft().PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelFolderError(f"{file}: not an adapter's configuration ({error}). Copy the folder again.") from error
    if not base or (Path(base).is_absolute() and not Path(base).exists()):
        raise ModelFolderError(f"{file}: its base_model_name_or_path {base!r} does not exist. Correct the path.")
    if Path(base).resolve() == folder.resolve():
        raise ModelFolderError(f"{file}: its base_model_name_or_path is this folder. Set it to the base model.")
    return str(base)


def merge_lora(model: Model, folder: Path) -> Model:
    """Merge an adapter into its base model. The result is a plain model that gives the same answers.

    Args:
        model: in float32. In bfloat16 the sum would be rounded to 8 bits, which loses small differences.

    Raises:
        ModelFolderError: the adapter does not fit the model, or adapter weights are missing or unexpected; lists them.

    Lesson: 08.
    """
    peft = _import_peft()
    file = folder / ADAPTER_WEIGHTS
    if not file.is_file():
        raise ModelFolderError(f"{folder}: it has no {ADAPTER_WEIGHTS}. Copy it again, or save it as safetensors.")
    try:
        with _quiet():
            adapted = peft.PeftModel.from_pretrained(model, folder)
        with safe_open(file, "pt") as stored:
            found = set(stored.keys())
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelFolderError(
            f"{folder}: its adapter does not fit its base ({type(error).__name__}: {error}). Copy the folder again, or "
            f"correct base_model_name_or_path in {ADAPTER_CONFIG}."
        ) from error
    expected = set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if found != expected:
        raise ModelFolderError(
            f"{folder}: weights and {ADAPTER_CONFIG} do not belong together (missing: {sorted(expected - found)}; "
            f"unexpected: {sorted(found - expected)}). Copy the folder again."
        )
    return adapted.merge_and_unload()
