"""Adapters: a small model that is trained on top of a frozen one.                                         Lesson 8

LoRA leaves a weight W as it is and learns a difference of low rank beside it: W + (alpha / rank) B A. PEFT does the
work. What stands here is which layers get one, what is trained in full beside them, and how both become one plain model
again. This module knows nothing about folders with whole models.
"""

import warnings
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
# All matrices of attention and of the MLP, as in QLoRA: with attention alone, LoRA stays behind full fine-tuning.
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def add_lora(model: VideoMixin, model_args: ModelArguments) -> "PeftModel":
    """Put LoRA on the language model, freeze all else but the other `tunable_parts`, which are trained in full.

    Those are PEFT's `modules_to_save`: it trains a copy of them, so that the frozen original stays (a second vision
    tower in memory, 0.5 GB for FastVLM's), and saves the copy with the adapter.

    Args:
        model: changed in place: it answers with the adapter from now on.

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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # PEFT asks by an old name
        adapted = peft.get_peft_model(model, config)
    freeze_unread(model)
    base = Path(model_args.model_name_or_path)
    config.base_model_name_or_path = str(base.resolve() if base.exists() else model_args.model_name_or_path)
    return adapted


def _import_peft() -> ModuleType:
    try:
        import peft
    except ImportError as error:
        raise FvvError("LoRA needs the package peft: install fvv_lib[scale], or peft alone.") from error
    return peft


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file()


def base_of(folder: Path) -> str:
    """The model that an adapter was trained on: the folder or hub name in its configuration.

    Raises:
        ModelFolderError: the configuration is broken, names itself, or the folder is no longer there.
    """
    file = folder / ADAPTER_CONFIG
    try:
        base = _import_peft().PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelFolderError(f"{file}: not an adapter's configuration ({error}). Copy the folder again.") from error
    if not base or (Path(base).is_absolute() and not Path(base).exists()):
        raise ModelFolderError(f"{file}: its base_model_name_or_path {base!r} is not there. Set it to the folder.")
    if Path(base).resolve() == folder.resolve():
        raise ModelFolderError(f"{file}: its base_model_name_or_path is this folder. Set it to the base's.")
    return str(base)


def merge_lora(model: Model, folder: Path) -> Model:
    """Add an adapter to the model that it was trained on: the same answers from a plain model.

    Args:
        model: in float32: in bfloat16 the sum would be rounded to 8 bits, and a small difference be lost.

    Raises:
        ModelFolderError: the adapter's weights and the model's do not belong together; lists them.

    Lesson: 08.
    """
    peft = _import_peft()
    file = folder / ADAPTER_WEIGHTS
    if not file.is_file():
        raise ModelFolderError(f"{folder}: it has no {ADAPTER_WEIGHTS}. Copy it again, or save it as safetensors.")
    try:
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
