"""fvv_lib: teach FastVLM to watch video.

Lesson N is module N; the modules follow the way that a video takes to become a loss. Public names import from here, and
each is loaded when it is first used: `import fvv_lib` does not import torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "errors": (
        "FvvError",
        "VideoDecodeError",
        "TokenBudgetError",
        "LabelMismatchError",
        "DataFormatError",
        "CheckpointError",
    ),
    "arguments": ("VideoConfig", "ModelArguments", "DataArguments", "TrainingArguments"),
    "sampling": ("sample_frame_indices",),
    "decoding": ("is_video_file", "load_image", "load_video_frames", "read_video", "VideoFrames"),
    "images": ("preprocess_frames",),
    "conversation": ("conversation_templates",),
    "tokens": (
        "DEFAULT_IMAGE_TOKEN",
        "IMAGE_TOKEN_INDEX",
        "IGNORE_INDEX",
        "expand_image_tokens",
        "preprocess_multimodal",
        "tokenizer_image_token",
        "expanded_length",
        "check_token_budget",
    ),
    "labels": ("preprocess", "diagnose_labels", "MismatchReport"),
    "encoder": ("flatten_frames", "unflatten_frames", "encode_images"),
    "splicing": ("prepare_inputs_labels_for_multimodal",),
    "model": ("VideoMixin", "FastVlmForVideo", "LlavaForVideo"),
    "fullsize": ("random_fastvlm",),
    "loading": ("load_pretrained_model",),
    "convert": ("convert",),
    "dataset": ("LazySupervisedDataset", "DataCollatorForSupervisedDataset", "make_supervised_data_module"),
    "evaluation": ("evaluate", "accuracy_by_kind"),
    "chat": ("Chat", "ask"),
    "training": ("train",),
    "ranks": ("train_on_ranks",),
    "dryrun": ("MemorySettings",),
    "memory": ("predict_memory", "MemoryPrediction"),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = [*_MODULE_OF, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'fvv_lib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fvv_lib.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
