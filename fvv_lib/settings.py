"""Everything that can be set, as dataclasses with help.

`cli.flags` makes flags of them. A new field comes with help and, where a wrong value is possible, with a check in
`__post_init__`: settings fail before data are read. `ModelArguments` and `DataArguments` do not change once they are
made. This module loads neither torch nor transformers; `arguments` has the Trainer's.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from fvv_lib.errors import FvvError
from fvv_lib.video_config import VideoConfig, check_choices, deterministic_sampling

PARTS = ("vision_tower", "projector", "language_model")
AUTO_PARTS = ("auto",)


def choose_parts(chosen: Iterable[str], lora_rank: int) -> tuple[str, ...]:
    """The parts that are trained: those that are named; for `auto` all of them, or with LoRA all but the vision tower.

    LoRA's usual rate is ten to a hundred times what a vision tower that is trained in full stands.

    Raises:
        FvvError: a part that does not exist, or none.
    """
    parts = tuple(chosen)
    if parts == AUTO_PARTS:
        return PARTS[1:] if lora_rank else PARTS
    if not parts or not set(parts) <= set(PARTS):
        raise FvvError(f"tunable_parts must name some of {', '.join(PARTS)}, or be auto; got {list(parts)}.")
    return parts


@dataclass(frozen=True)
class ModelArguments:
    """Which model, and which of its parts are trained."""

    model_name_or_path: str = field(metadata={"help": "Model folder, or hub name, of a FastVLM or a LLaVA-1.5."})
    tunable_parts: tuple[str, ...] = field(
        default=AUTO_PARTS,
        metadata={
            "help": "Parts that are trained: any of vision_tower, projector, language_model; auto: all, with LoRA all "
            "but the vision tower."
        },
    )
    lora_rank: int = field(
        default=0,
        metadata={
            "help": "Train the language model through LoRA of this rank (8 to 64 is usual); 0: in full. The vision "
            "tower is frozen then, unless tunable_parts names it and vision_tower_lr is set."
        },
    )
    lora_alpha: int | None = field(
        default=None, metadata={"help": "LoRA's output is scaled by lora_alpha / lora_rank; default: 2 * lora_rank."}
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the input of LoRA."})

    def __post_init__(self) -> None:
        object.__setattr__(self, "tunable_parts", choose_parts(self.tunable_parts, self.lora_rank))
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


@dataclass(frozen=True)
class DataArguments:
    """Which samples, and how a video becomes frames, tokens and labels."""

    data_path: tuple[str, ...] = field(
        default=(),
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
        metadata={
            "help": "Which frames: uniform, segment, or random (follows from seed, epoch and sample: the same in every "
            "run)."
        },
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
    allow_special_tokens: bool = field(
        default=False,
        metadata={
            "help": "Learn texts as they are if they hold special tokens or marks of the template (`<|im_end|>`), or "
            "media tags of other formats (<video>); otherwise such a sample is refused."
        },
    )
    max_new_tokens: int = field(default=64, metadata={"help": "Tokens that an answer to a test question may have."})
    check_media: bool = field(
        default=True, metadata={"help": "Decode every picture and video once before the first training step."}
    )
    bad_samples: str = field(
        default="raise",
        metadata={"help": "A sample that cannot be used: raise an error, or skip it (listed in metrics.json)."},
    )
    decode_timeout: float = field(
        default=60.0,
        metadata={
            "help": "Seconds that reading one video may take, in a process of its own; 0: no limit, in this process."
        },
    )

    def __post_init__(self) -> None:
        paths = (self.data_path,) if isinstance(self.data_path, str) else tuple(self.data_path)
        object.__setattr__(self, "data_path", paths)
        for name in ("num_video_frames", "frame_pool", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise FvvError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.decode_timeout < 0:
            raise FvvError(f"decode_timeout must be 0 or more seconds, got {self.decode_timeout}.")
        check_choices(self)
        if self.bad_samples == "skip" and not self.check_media:
            raise FvvError("bad_samples='skip' needs check_media=True: what cannot be read must be known beforehand.")

    def for_evaluation(self) -> "DataArguments":
        """The same, without chance (`random` sampling becomes `segment`) and with exact labels: whatever is studied in
        training, every sample is asked."""
        return replace(self, frame_sampling=deterministic_sampling(self.frame_sampling), mismatch="exact")

    def video_config(self, image_processor: Any = None) -> VideoConfig:
        """What is saved with a model that is trained on these data.

        Args:
            image_processor: has the `image_mean` and `image_std` that frames are normalised with; default: FastVLM's,
                which change nothing.
        """
        normalisation = {}
        if image_processor is not None:
            normalisation["image_mean"] = tuple(image_processor.image_mean)
            normalisation["image_std"] = tuple(image_processor.image_std)
        return VideoConfig(
            num_video_frames=self.num_video_frames,
            frame_sampling=self.frame_sampling,
            image_aspect_ratio=self.image_aspect_ratio,
            version=self.version,
            time_marks=self.time_marks,
            frame_pool=self.frame_pool,
            **normalisation,
        )


@dataclass
class TrainingSettings:
    """What this project adds to transformers' `TrainingArguments`, or sets otherwise; see `arguments`."""

    output_dir: str = field(default="output", metadata={"help": "Folder for checkpoints, metrics and figures."})
    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Begin anew in an output_dir that has a model or checkpoints: they are deleted before the first "
            "step. Without it such a folder is refused."
        },
    )
    model_max_length: int | None = field(
        default=None,
        metadata={
            "help": "Positions a sample may take, frames included; default: what the model allows. "
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


@dataclass(frozen=True)
class MemorySettings:
    """What the memory of a training step depends on. The names are those of the flags of `fvv finetune`."""

    model: str = field(metadata={"help": "Model folder or hub name; or 0.5b, 1.5b, 7b for the released sizes."})
    num_video_frames: int = field(default=8, metadata={"help": "Frames of each sample."})
    image_size: int | None = field(
        default=None,
        metadata={"help": "Side of a frame in pixels; default: that of the model, 1024 for a released size."},
    )
    frame_pool: int = field(default=1, metadata={"help": "Average this many by this many tokens of each frame."})
    frames_per_chunk: int | None = field(
        default=None, metadata={"help": "Frames that pass the vision tower at a time; default: all of the batch."}
    )
    text_tokens: int = field(
        default=128,
        metadata={
            "help": "Tokens of a sample that are text; fvv check --report lists all tokens of each sample, with "
            "those of frames."
        },
    )
    labelled_tokens: int = field(default=64, metadata={"help": "Those of them that are learned."})
    per_device_train_batch_size: int = field(default=1, metadata={"help": "Samples that pass the model at a time."})
    gradient_accumulation_steps: int = field(
        default=1, metadata={"help": "Batches whose gradients are added up for one step."}
    )
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Compute activations again in the backward pass."}
    )
    tunable_parts: tuple[str, ...] = field(
        default=AUTO_PARTS,
        metadata={
            "help": "Parts that are trained: any of vision_tower, projector, language_model; auto: all, with LoRA all "
            "but the vision tower."
        },
    )
    lora_rank: int = field(
        default=0, metadata={"help": "Train the language model through LoRA of this rank; 0: in full."}
    )
    bf16: bool = field(
        default=True,
        metadata={"help": "Train in bfloat16: autocast over float32 weights, or with ZeRO bfloat16 weights."},
    )
    zero_stage: int = field(
        default=0, metadata={"help": "DeepSpeed's ZeRO: 0 (none) to 3. It is shared out over num_devices."}
    )
    num_devices: int = field(default=1, metadata={"help": "GPUs that train together."})
    offload: bool = field(
        default=False,
        metadata={"help": "Keep the optimizer (ZeRO-1 to 3) and the parameters (ZeRO-3) in the memory of the host."},
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "tunable_parts", choose_parts(self.tunable_parts, self.lora_rank))
        ModelArguments(self.model, self.tunable_parts, self.lora_rank)  # raises what training would
        for name in ("num_video_frames", "frame_pool", "frames_per_chunk", "image_size", "labelled_tokens",
                     "per_device_train_batch_size", "gradient_accumulation_steps", "num_devices"):  # fmt: skip
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise FvvError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.zero_stage not in range(4):
            raise FvvError(f"zero_stage must be 0, 1, 2 or 3, got {self.zero_stage}.")
        if self.offload and not self.zero_stage:
            raise FvvError("offload is a part of ZeRO: set zero_stage to 1, 2 or 3.")
        if self.labelled_tokens > self.text_tokens:
            raise FvvError(
                f"labelled_tokens={self.labelled_tokens} are more than text_tokens={self.text_tokens}: they are a part "
                "of them."
            )
