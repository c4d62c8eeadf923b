"""Model folders: load tokenizer, model and image processor from a folder.                                 Lesson 8

The kind of model is read from `config.json` and the weights, never from the folder's name. The original loader looks
for "llava" in the name and, if it is missing, loads the model without its vision tower. Here every weight must come
from the folder. This module knows nothing about data.
"""

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    GenerationConfig,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.image_processing_utils import BaseImageProcessor

from fvv_lib.errors import ModelFolderError, reason_of
from fvv_lib.model.geometry import class_tokens, vision_stride
from fvv_lib.model.video_model import FastVlmForVideo, LlavaForVideo, VideoMixin
from fvv_lib.video_config import VideoConfig, is_hub_name
from fvv_lib.weights import apple
from fvv_lib.weights.lora import base_of, is_adapter, merge_lora

MODELS: dict[str, type[VideoMixin]] = {"fast_vlm": FastVlmForVideo, "llava": LlavaForVideo}
VISION_TOWERS = ("timm_wrapper", "clip_vision_model")
TEMPLATES = {"qwen2": "qwen_2", "llama": "v1"}  # language model -> the chat template it was trained with
BROKEN: tuple[type[Exception], ...] = (
    *(OSError, EOFError, RuntimeError, ValueError, KeyError),
    *(StrictDataclassError, SafetensorError, pickle.UnpicklingError),
)
OUTPUT = "output"  # the folder for runs in the guides, which a fresh copy of the repository does not have
HUB_FILES = ("*.json", "*.jinja", "*.txt", "*.model")


class LoadedModel(NamedTuple):
    """The result of `load_pretrained_model`, in LLaVA's order."""

    tokenizer: PreTrainedTokenizerBase
    model: VideoMixin
    image_processor: BaseImageProcessor
    context_len: int

    @property
    def config(self) -> PreTrainedConfig:
        """Configuration of the model."""
        return self.model.config


class ModelFolder(NamedTuple):
    """Everything of a model folder except the model: enough to prepare and check data for it.

    Attributes:
        folder: a local folder, also if a hub name was given.
        weights: under transformers' names, if the folder has other names; `None` if transformers reads the weights.
        adapters: LoRA folders to merge into the weights, in this order.
    """

    folder: Path
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    image_processor: BaseImageProcessor
    video_config: VideoConfig
    weights: apple.Weights | None = None
    adapters: tuple[Path, ...] = ()

    @property
    def model_class(self) -> type[VideoMixin]:
        return MODELS[self.config.model_type]

    @property
    def context_len(self) -> int:
        """Number of positions that the model may read: the smaller limit of tokenizer and language model."""
        return int(min(self.tokenizer.model_max_length, self.config.text_config.max_position_embeddings))


def load_pretrained_model(
    path: str | Path, device: str | torch.device | None = None, dtype: torch.dtype | str = "auto"
) -> LoadedModel:
    """Load a FastVLM, in Hugging Face's layout or in Apple's own, a LLaVA-1.5, or a LoRA adapter of one.

    Args:
        path: a folder, or a hub name, which needs a network unless it is cached. An adapter is merged into the base
            that its configuration names.
        device: default: the first GPU if there is one, else the CPU.
        dtype: dtype of the weights. `auto` keeps the stored dtype, but merged weights are float32, because rounding to
            the base's bfloat16 would erase small differences that the adapter learned.

    Returns:
        tokenizer, model (in eval mode), image processor, and the number of positions that the model may read.

    Raises:
        ModelFolderError: no such folder, an unsupported kind of model, or weights that are missing, unexpected, or of
            the wrong shape; lists them.

    Lesson: 08.
    """
    opened = open_model_folder(path)
    with _refusing(path):
        model = load_model(opened, path, dtype)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return LoadedModel(opened.tokenizer, model.to(device).eval(), opened.image_processor, opened.context_len)


def open_model_folder(path: str | Path) -> ModelFolder:
    """Read everything of a model folder except the model, see `load_pretrained_model`. Lesson: 08."""
    folder = _folder_of(path)
    if is_adapter(folder):
        base = open_model_folder(base_of(folder))  # may itself be an adapter
        video_config = VideoConfig.load(folder) or base.video_config
        return base._replace(adapters=(*base.adapters, folder), video_config=video_config)
    settings = _read_settings(folder)
    with _refusing(path):
        if settings.get("model_type") == apple.MODEL_TYPE:
            return _open_apple(folder, settings)
        tokenizer, image_processor, config = (
            auto.from_pretrained(folder, trust_remote_code=False)
            for auto in (AutoTokenizer, AutoImageProcessor, AutoConfig)
        )
        _check_parts(config, folder / "config.json")
        default = VideoConfig(
            version=TEMPLATES[config.text_config.model_type],
            image_mean=tuple(image_processor.image_mean),
            image_std=tuple(image_processor.image_std),
        )
        return ModelFolder(folder, config, tokenizer, image_processor, VideoConfig.load(folder) or default)


def _open_apple(folder: Path, settings: dict[str, Any]) -> ModelFolder:
    tokenizer = apple.load_tokenizer(folder, settings)
    weights = apple.read_weights(folder)
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = apple.translate_config(settings, weights, image_token, folder / "config.json")
    default = VideoConfig(image_aspect_ratio=apple.ASPECT_RATIOS[settings.get("image_aspect_ratio")])
    video_config = VideoConfig.load(folder) or default
    size = apple.image_size(settings, folder)
    image_processor = apple.build_image_processor(size, video_config.image_aspect_ratio)
    return ModelFolder(folder, config, tokenizer, image_processor, video_config, weights)


def load_model(opened: ModelFolder, path: str | Path, dtype: torch.dtype | str = "auto") -> VideoMixin:
    """Load the model of an opened folder on the CPU. Messages name it `path`."""
    translated = opened.weights is not None
    model, info = opened.model_class.from_pretrained(
        None if translated else opened.folder,
        config=opened.config,
        state_dict=opened.weights,
        dtype=torch.float32 if opened.adapters else dtype,
        video_config=opened.video_config,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    problems = {kind: sorted(info[f"{kind}_keys"]) for kind in ("missing", "unexpected")}
    problems["mismatched"] = [
        f"{key} is {tuple(stored)} and should be {tuple(expected)}"
        for key, stored, expected in sorted(info["mismatched_keys"])
    ]
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in problems.items() if keys)
        raise ModelFolderError(
            f"{path}: weights and config.json do not belong together ({listed}). The model would run with random "
            "weights, or without some of its own weights. Copy the folder again, or restore the config.json that was "
            "saved with it."
        )
    if translated and (opened.folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(opened.folder)
        model.generation_config.pad_token_id = opened.tokenizer.pad_token_id
    for adapter in opened.adapters:
        model = merge_lora(model, adapter)
    if opened.adapters and dtype != "auto":
        for parameter in model.parameters():  # not the buffers: RoPE's angles need float32
            parameter.data = parameter.data.to(dtype)
    return model


@contextmanager
def _refusing(path: str | Path) -> Iterator[None]:
    """Turn the libraries' errors for a broken folder into `ModelFolderError`."""
    try:
        yield
    except ModelFolderError:
        raise
    except BROKEN as error:
        raise ModelFolderError(
            f"{path}: it cannot be loaded ({_first_line(error)}). Give a folder with config.json, "
            "safetensors, tokenizer and image processor, or a hub name (owner/name) if there is a network."
        ) from error


def _first_line(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # PyTorch's message says how to run its code anyway
        return "a .bin that holds more than tensors is not unpickled"
    return (str(error).splitlines() or [type(error).__name__])[0]


def _folder_of(path: str | Path) -> Path:
    """Return the local folder of a model. A hub name is downloaded into the cache of huggingface_hub."""
    folder = Path(path)
    if folder.exists():
        return folder
    trained = f"If a run should write it, train first: fvv finetune --output_dir {path}."
    if not is_hub_name(path):
        raise ModelFolderError(
            f"{path}: no such folder. Give the folder of a model, or a hub name (owner/name). {trained}"
        )
    try:
        folder = Path(snapshot_download(str(path), allow_patterns=[*HUB_FILES, "*.safetensors"]))
        if not list(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(str(path), allow_patterns=[*HUB_FILES, "*.bin"]))
        return folder
    except (OSError, ValueError, HfHubHTTPError) as error:
        elsewhere = f"Without a network, download it elsewhere (hf download {path} --local-dir FOLDER), give FOLDER."
        is_output = folder.parent.is_dir() or folder.parent.name == OUTPUT
        raise ModelFolderError(
            f"{path}: no such folder, and it cannot be downloaded as a hub name ({_first_line(error)}). Check the "
            f"name. {trained if is_output else elsewhere}"
        ) from error


def _read_settings(folder: Path) -> dict[str, Any]:
    """Read `config.json` of a folder, and check that the kind of model is supported."""
    file = folder / "config.json"
    try:
        settings = json.loads(file.read_text())
        model_type = settings.get("model_type")
    except (OSError, AttributeError, ValueError) as error:
        raise ModelFolderError(
            f"{folder}: config.json is missing or broken ({reason_of(error)}). Is this a model folder?"
        ) from error
    if model_type not in (*MODELS, apple.MODEL_TYPE):
        known = ", ".join((*MODELS, apple.MODEL_TYPE))
        raise ModelFolderError(f"{file}: model_type is {model_type!r}, supported: {known}.")
    if model_type == "llava" and "mm_vision_tower" in settings:
        raise ModelFolderError(
            f"{file}: this is LLaVA's original layout. Use the same model in Hugging Face's layout, such as "
            "llava-hf/llava-1.5-7b-hf."
        )
    return settings


def _check_parts(config: PreTrainedConfig, file: Path) -> None:
    """Check the kinds of vision tower and language model, because `llava` models with other kinds exist."""
    parts = {"vision tower": (config.vision_config, VISION_TOWERS), "language model": (config.text_config, TEMPLATES)}
    for name, (part, known) in parts.items():
        if part.model_type not in known:
            raise ModelFolderError(f"{file}: its {name} is {part.model_type!r}, supported: {', '.join(known)}.")


def build_processor(
    tokenizer: PreTrainedTokenizerBase, image_processor: BaseImageProcessor, model: VideoMixin
) -> LlavaProcessor:
    """Build what stock transformers needs besides the weights: a processor of tokenizer and image processor."""
    return LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=vision_stride(model.config),
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        num_additional_image_tokens=class_tokens(model.config),
        chat_template=tokenizer.chat_template,
    )
