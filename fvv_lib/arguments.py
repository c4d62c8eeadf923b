"""Everything that can be set, as dataclasses with help.

`flags` reads them from a command line or a YAML file. A new field must come with help and, where a wrong value is
possible, with a check in `__post_init__`: settings fail before data are read.
"""

import copy
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import cached_file

from fvv_lib.errors import CheckpointError, FvvError

VIDEO_CONFIG_NAME = "fvv_config.json"
PARTS = ("vision_tower", "projector", "language_model")


def is_hub_name(path: str | Path) -> bool:
    """Whether a path is no folder here and has the form of a hub name, owner/name."""
    return not Path(path).exists() and str(path).count("/") == 1 and not str(path).startswith((".", "/"))


CHOICES = {
    "frame_sampling": ("uniform", "segment", "random"),
    "time_marks": ("none", "seconds"),
    "video_backend": ("auto", "pyav", "decord"),
    "image_aspect_ratio": ("pad", "crop", "resize"),
    "mismatch": ("exact", "tolerant", "strict"),
    "bad_samples": ("raise", "skip"),
}


def _check_choices(settings: Any) -> None:
    for name, allowed in CHOICES.items():
        value = getattr(settings, name, allowed[0])
        if value not in allowed:
            raise FvvError(f"Unknown {name} {value!r}: choose one of {', '.join(allowed)}.")


def _without_chance(strategy: str) -> str:
    return "segment" if strategy == "random" else strategy


@dataclass(frozen=True)
class VideoConfig:
    """How videos were sampled, prepared and prompted: what evaluation and chat must do as training did.

    Saved as `fvv_config.json` beside `config.json`; a file from before a setting existed has its default. The defaults
    are FastVLM's.
    """

    num_video_frames: int = 8
    frame_sampling: str = "uniform"
    image_aspect_ratio: str = "pad"
    version: str = "qwen_2"
    image_mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    image_std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    time_marks: str = "none"
    frame_pool: int = 1

    def __post_init__(self) -> None:
        _check_choices(self)
        for name in ("num_video_frames", "frame_pool"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise FvvError(f"{name} must be a whole number of at least 1, got {getattr(self, name)!r}.")
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name)) != 3:
                raise FvvError(f"{name} must be three numbers, got {getattr(self, name)}.")

    @property
    def inference_sampling(self) -> str:
        """`random` frames are for training: outside of it the middle of each part stands for it (TSN)."""
        return _without_chance(self.frame_sampling)

    @property
    def background(self) -> tuple[int, int, int]:
        """The colour that pictures are padded with, RGB, 0 to 255: the mean, so that it is near 0 once normalised."""
        red, green, blue = (int(255 * mean) for mean in self.image_mean)
        return red, green, blue

    def save(self, folder: str | Path) -> None:
        text = json.dumps(asdict(self), indent=2)
        (Path(folder) / VIDEO_CONFIG_NAME).write_text(text + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "VideoConfig | None":
        """The configuration of a folder or hub name, None where it has none.

        Raises:
            CheckpointError: the file is not what `save` writes.
        """
        file: Path | str | None = Path(folder) / VIDEO_CONFIG_NAME
        if is_hub_name(folder):
            file = cached_file(str(folder), VIDEO_CONFIG_NAME, _raise_exceptions_for_missing_entries=False)
        if file is None or not Path(file).is_file():
            return None
        try:
            stored = json.loads(Path(file).read_text())
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
            return cls(**values)
        except (ValueError, TypeError, AttributeError, FvvError) as error:
            raise CheckpointError(f"{file}: not a video configuration ({error}). Restore or delete it.") from error


@dataclass
class ModelArguments:
    """Which model, and which of its parts are trained."""

    model_name_or_path: str = field(metadata={"help": "Checkpoint folder, or hub name, of a FastVLM or a LLaVA-1.5."})
    tunable_parts: list[str] = field(
        default_factory=lambda: list(PARTS),
        metadata={"help": "Parts that are trained: any of vision_tower, projector, language_model."},
    )
    lora_rank: int = field(
        default=0,
        metadata={"help": "Train the language model through LoRA of this rank (8 to 64 is usual); 0: in full."},
    )
    lora_alpha: int | None = field(
        default=None, metadata={"help": "LoRA's output is scaled by lora_alpha / lora_rank; default: 2 * lora_rank."}
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the input of LoRA."})

    def __post_init__(self) -> None:
        unknown = [part for part in self.tunable_parts if part not in PARTS]
        if unknown or not self.tunable_parts:
            raise FvvError(f"tunable_parts must name some of {', '.join(PARTS)}, got {self.tunable_parts}.")
        wrong_alpha = self.lora_alpha is not None and self.lora_alpha <= 0
        if self.lora_rank < 0 or wrong_alpha or not 0 <= self.lora_dropout < 1:
            raise FvvError(
                f"lora_rank must not be negative, lora_alpha must be above 0, and lora_dropout in [0, 1); got "
                f"{self.lora_rank}, {self.lora_alpha}, {self.lora_dropout}."
            )
        if self.lora_rank and "language_model" not in self.tunable_parts:
            raise FvvError("lora_rank trains the language model, but tunable_parts leaves it out: add language_model.")
        if not self.lora_rank and (self.lora_alpha is not None or self.lora_dropout):
            raise FvvError("lora_alpha and lora_dropout do nothing without a lora_rank: set it, or leave them out.")


@dataclass
class DataArguments:
    """Which samples, and how a video becomes frames, tokens and labels."""

    data_path: list[str] = field(
        default_factory=list,
        metadata={"help": "Annotation files in LLaVA format (.json, .jsonl or .parquet), for training."},
    )
    validation_data_path: str | None = field(
        default=None, metadata={"help": "Annotation file for the loss during training."}
    )
    test_data_path: str | None = field(
        default=None, metadata={"help": "Annotation file whose questions are asked before and after training."}
    )
    image_folder: str | None = field(
        default=None,
        metadata={"help": "Folder that paths of pictures and videos start from; default: the annotation file's own."},
    )
    cache_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for tables of annotation files and for features; default: HF_DATASETS_CACHE."},
    )
    cache_features: bool = field(
        default=False,
        metadata={
            "help": "With a frozen vision tower: store its features once, in cache_dir, and read them each epoch."
        },
    )
    num_video_frames: int = field(default=8, metadata={"help": "Frames taken from each video."})
    frame_sampling: str = field(
        default="uniform",
        metadata={"help": "Which frames: uniform, segment, or random (differs by epoch, the same in every run)."},
    )
    time_marks: str = field(
        default="none",
        metadata={"help": "seconds: write the time of each frame of a video before it, like <1.5s>; or none."},
    )
    frame_pool: int = field(
        default=1,
        metadata={"help": "Average this many by this many tokens of each frame: 2 leaves a quarter of them."},
    )
    video_backend: str = field(default="auto", metadata={"help": "auto or pyav (exact), or decord."})
    image_aspect_ratio: str = field(
        default="pad", metadata={"help": "pad to a square (FastVLM), crop its middle, or resize to it."}
    )
    version: str = field(default="qwen_2", metadata={"help": "Chat template: qwen_2 (FastVLM), v1, plain, llama_2."})
    mismatch: str = field(
        default="exact", metadata={"help": "How labels are found: exact; strict and tolerant are for study."}
    )
    max_new_tokens: int = field(default=64, metadata={"help": "Tokens that an answer to a test question may have."})
    check_media: bool = field(
        default=True, metadata={"help": "Decode every picture and video once before the first training step."}
    )
    bad_samples: str = field(
        default="raise",
        metadata={"help": "A sample that can not be used: raise an error, or skip it (listed in metrics.json)."},
    )
    decode_timeout: float = field(
        default=60.0,
        metadata={
            "help": "Seconds that reading one video may take, in a process of its own; 0: no limit, in this process."
        },
    )
    # Set from the checkpoint, not from the command line.
    image_size: int = field(default=0, init=False)
    tokens_per_frame: int = field(default=0, init=False)
    max_length: int = field(default=0, init=False)
    background: tuple[int, int, int] = field(default=(0, 0, 0), init=False)

    def __post_init__(self) -> None:
        if isinstance(self.data_path, str):
            self.data_path = [self.data_path]
        for name in ("num_video_frames", "frame_pool", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise FvvError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.decode_timeout < 0:
            raise FvvError(f"decode_timeout must be 0 or more seconds, got {self.decode_timeout}.")
        _check_choices(self)
        if self.bad_samples == "skip" and not self.check_media:
            raise FvvError("bad_samples='skip' needs check_media=True: what can not be read must be known beforehand.")

    def for_evaluation(self) -> "DataArguments":
        """The same, without chance (`random` sampling becomes `segment`) and with exact labels: whatever is studied in
        training, every sample is asked."""
        evaluation = copy.copy(self)
        evaluation.frame_sampling = _without_chance(self.frame_sampling)
        evaluation.mismatch = "exact"
        return evaluation


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """transformers' arguments, and a learning rate for each part."""

    output_dir: str = field(default="output", metadata={"help": "Folder for checkpoints, metrics and figures."})
    model_max_length: int | None = field(
        default=None,
        metadata={
            "help": "Positions a sample may take, frames included; default: what the checkpoint allows. "
            "A longer sample is refused, never cut."
        },
    )
    bf16: bool | None = field(default=None, metadata={"help": "Train in bfloat16; default: where the GPU has it."})
    vision_tower_lr: float | None = field(
        default=None, metadata={"help": "Learning rate of the vision tower; default: learning_rate."}
    )
    projector_lr: float | None = field(
        default=None, metadata={"help": "Learning rate of the projector; default: learning_rate."}
    )
    gradient_checkpointing: bool = field(
        default=False,
        metadata={
            "help": "Keep little more than the input of each block, also of the vision tower, and compute the rest "
            "again in the backward pass: less memory, more time."
        },
    )
    frames_per_chunk: int | None = field(
        default=None,
        metadata={
            "help": "Frames that pass the vision tower at a time; default: all of the batch. With "
            "gradient_checkpointing the tower's activations are those of one chunk."
        },
    )
    packing: bool = field(
        default=False,
        metadata={
            "help": "Lay the samples of a batch in one row without padding, none of which sees another: for short "
            "samples of different lengths."
        },
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay False: the collator makes the columns."}
    )

    def __post_init__(self) -> None:
        if self.remove_unused_columns:
            raise FvvError("remove_unused_columns=True would take the frames away: leave it out.")
        if self.ignore_data_skip:
            raise FvvError("ignore_data_skip=True would show a resumed run the first samples again: leave it out.")
        if self.train_sampling_strategy == "batch_rebalance":
            raise FvvError("train_sampling_strategy='batch_rebalance' would read every clip: use group_by_length.")
        for name in ("label_smoothing_factor", "neftune_noise_alpha"):
            if getattr(self, name):
                raise FvvError(f"{name} is not supported: the model makes embeddings and loss itself. Leave it out.")
        for name in ("vision_tower_lr", "projector_lr"):
            if (getattr(self, name) or 0) < 0:
                raise FvvError(f"{name} must not be negative, got {getattr(self, name)}.")
        for name in ("model_max_length", "frames_per_chunk"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise FvvError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if getattr(self, "activation_checkpointing", False) is None:  # the name that newer transformers asks for
            self.activation_checkpointing = self.gradient_checkpointing
        if self.bf16 is None:
            has_gpu = torch.cuda.is_available() and not self.use_cpu and not self.fp16
            self.bf16 = has_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        self.dataloader_pin_memory &= torch.cuda.is_available()  # without a GPU it only warns
        super().__post_init__()
