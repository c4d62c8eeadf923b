"""All settings, as dataclasses with help texts.

`cli.flags` turns their fields into flags. A new field needs a help text and, if its value can be wrong, a check in
`__post_init__`, so that it fails before data are read. `ModelArguments` and `DataArguments` are frozen. This module
loads neither torch nor transformers; `arguments` has the settings of the Trainer.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import TIMEOUT_MAX
from typing import Any

from fvv_lib.errors import FvvError
from fvv_lib.video_config import VideoConfig, check_choices, check_marks, check_sampling, deterministic_sampling

PARTS = ("vision_tower", "projector", "language_model")
AUTO_PARTS = ("auto",)


def choose_parts(chosen: Iterable[str], lora_rank: int) -> tuple[str, ...]:
    """Return the parts to train: those in `chosen`. `auto` means all parts or, with LoRA, all but the vision tower.

    LoRA's usual learning rate is ten to a hundred times too high for a vision tower that is trained in full.

    Raises:
        FvvError: an unknown part, or no part.
    """
    parts = tuple(chosen)
    if parts == AUTO_PARTS:
        return PARTS[1:] if lora_rank else PARTS
    if not parts or not set(parts) <= set(PARTS):
        raise FvvError(f"tunable_parts must name some of {', '.join(PARTS)}, or be auto; got {list(parts)}.")
    return parts


def check_folder(name: str, folder: str | Path) -> None:
    """Check that a setting can be a folder, which may not exist yet.

    Raises:
        FvvError: the path or one of its parents is a file; names the setting and the file.
    """
    path = Path(folder).absolute()
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise FvvError(f"{name} {folder}: {place} is a file. Give a folder.")


@dataclass(frozen=True)
class ModelArguments:
    """The model, and which of its parts are trained."""

    model_name_or_path: str = field(metadata={"help": "Folder or hub name of a FastVLM or LLaVA-1.5 model."})
    tunable_parts: tuple[str, ...] = field(
        default=AUTO_PARTS,
        metadata={
            "help": "Parts to train: any of vision_tower, projector, language_model; or auto: all parts, with LoRA all "
            "but the vision tower."
        },
    )
    lora_rank: int = field(
        default=0,
        metadata={
            "help": "Train the language model with LoRA of this rank (usually 8 to 64); 0: without LoRA. With LoRA, "
            "the vision tower is frozen unless tunable_parts names it and vision_tower_lr is set."
        },
    )
    lora_alpha: int | None = field(
        default=None, metadata={"help": "LoRA's output is scaled by lora_alpha / lora_rank; default: 2 * lora_rank."}
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout probability of LoRA's input."})

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
            raise FvvError("lora_alpha and lora_dropout do nothing without a lora_rank: set lora_rank, or remove them.")


@dataclass(frozen=True)
class DataArguments:
    """The samples, and how a video becomes frames, tokens and labels."""

    data_path: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Annotation files for training, in LLaVA format (.json, .jsonl or .parquet). a.json*0.5 is half of "
            "its samples, a.json#1000 is 1000 of them."
        },
    )
    validation_data_path: str | None = field(
        default=None, metadata={"help": "Annotation file for the validation loss during training."}
    )
    test_data_path: str | None = field(
        default=None, metadata={"help": "Annotation file of test questions, asked before and after training."}
    )
    image_folder: str | None = field(
        default=None,
        metadata={"help": "Folder that image and video paths start from; default: the annotation file's folder."},
    )
    cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "Cache folder for annotation tables and vision features; default: the cache of Hugging Face "
            "datasets (HF_DATASETS_CACHE)."
        },
    )
    cache_features: bool = field(
        default=False,
        metadata={
            "help": "Compute the features of a frozen vision tower once, store them in cache_dir, and read them in "
            "each epoch."
        },
    )
    num_video_frames: int = field(default=8, metadata={"help": "Number of frames sampled from each video."})
    frame_sampling: str = field(
        default="uniform",
        metadata={
            "help": "How frames are sampled: by number (uniform, segment, or random: new in each epoch, but the same "
            "in every run with the same seed), or by time (uniform_time, fps)."
        },
    )
    sample_fps: float = field(default=1.0, metadata={"help": "For frame_sampling fps: frames per second of a video."})
    max_frames: int | None = field(
        default=None,
        metadata={
            "help": "For frame_sampling fps: a video has as many frames as its length gives, up to this number; "
            "default: every video has num_video_frames."
        },
    )
    min_frames: int | None = field(
        default=None, metadata={"help": "With max_frames: a shorter video has this number of frames; default: 1."}
    )
    time_marks: str = field(
        default="none",
        metadata={"help": "seconds: write the time of each video frame before it, like <1.5s>; none: write no times."},
    )
    time_origin: str = field(
        default="segment",
        metadata={
            "help": "Where time marks count from if a sample uses a part of a video: segment (the start of the part), "
            "or file (the first frame of the file)."
        },
    )
    frame_pool: int = field(
        default=1,
        metadata={"help": "Average the tokens of a frame in squares of this side: 2 leaves a quarter of the tokens."},
    )
    video_backend: str = field(
        default="auto", metadata={"help": "Video decoder: auto or pyav (exact frames), or decord."}
    )
    image_aspect_ratio: str = field(
        default="pad",
        metadata={
            "help": "How images and frames become square: pad (FastVLM), crop (keep the middle), or resize (distort)."
        },
    )
    version: str = field(
        default="qwen_2", metadata={"help": "Chat template: qwen_2 (FastVLM), v1 (LLaVA-1.5), plain, or llama_2."}
    )
    mismatch: str = field(
        default="exact", metadata={"help": "How labels are computed: exact; strict and tolerant are for study only."}
    )
    allow_special_tokens: bool = field(
        default=False,
        metadata={
            "help": "Accept texts with special tokens or template marks (`<|im_end|>`), or media tags of other formats "
            "(<video>), and train on them as they are. Without it, such a sample is refused."
        },
    )
    max_new_tokens: int = field(
        default=64, metadata={"help": "Maximum number of tokens in the answer to a test question."}
    )
    eval_questions: int = field(
        default=0,
        metadata={
            "help": "Ask this many questions of the validation set in each validation, the same each time, and log the "
            "share of right answers as eval_accuracy; 0: none."
        },
    )
    check_media: bool = field(
        default=True, metadata={"help": "Decode every image and video once before the first training step."}
    )
    check_again: bool = field(
        default=False,
        metadata={
            "help": "Read every image and video again, even if it was read in an earlier check and has not changed "
            "since."
        },
    )
    bad_samples: str = field(
        default="raise",
        metadata={"help": "For a sample that cannot be used: raise an error, or skip it (listed in metrics.json)."},
    )
    decode_timeout: float = field(
        default=60.0,
        metadata={
            "help": "Maximum seconds to read one video, in a separate process; 0: no limit and no separate process."
        },
    )
    keep_path: str | None = field(
        default=None,
        metadata={
            "help": "Annotation file of questions that the model should still answer: asked before and after training, "
            "to notice what it forgets."
        },
    )

    def __post_init__(self) -> None:
        paths = (self.data_path,) if isinstance(self.data_path, str) else tuple(self.data_path)
        object.__setattr__(self, "data_path", paths)
        for name in ("num_video_frames", "frame_pool", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise FvvError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.eval_questions < 0:
            raise FvvError(f"eval_questions must be 0 or more, got {self.eval_questions}.")
        if self.eval_questions and self.validation_data_path is None:
            raise FvvError("eval_questions asks questions of the validation set: set validation_data_path.")
        if not 0 <= self.decode_timeout <= TIMEOUT_MAX:
            raise FvvError(f"decode_timeout must be 0 or more seconds, got {self.decode_timeout}. 0: no limit.")
        if self.cache_dir is not None:
            check_folder("cache_dir", self.cache_dir)
        check_choices(self)
        check_sampling(self)
        check_marks(self)
        if self.bad_samples == "skip" and not self.check_media:
            raise FvvError("bad_samples='skip' needs check_media=True: bad samples must be known before training.")

    def held_out(self) -> dict[str, str]:
        """Return the annotation files that are not trained on, those that are set: `validation`, `test`, `keep`."""
        paths = {"validation": self.validation_data_path, "test": self.test_data_path, "keep": self.keep_path}
        return {name: path for name, path in paths.items() if path is not None}

    def for_evaluation(self) -> "DataArguments":
        """Return a copy for evaluation: `random` sampling becomes `segment`, so that nothing is random, and labels are
        `exact`, so that no sample is dropped."""
        return replace(self, frame_sampling=deterministic_sampling(self.frame_sampling), mismatch="exact")

    def video_config(self, image_processor: Any = None) -> VideoConfig:
        """Return the configuration that is saved with a model trained on these data.

        Args:
            image_processor: has the `image_mean` and `image_std` that normalise frames; default: FastVLM's, which
                change nothing.
        """
        normalisation = {}
        if image_processor is not None:
            normalisation["image_mean"] = tuple(image_processor.image_mean)
            normalisation["image_std"] = tuple(image_processor.image_std)
        return VideoConfig(
            num_video_frames=self.num_video_frames,
            frame_sampling=self.frame_sampling,
            sample_fps=self.sample_fps,
            max_frames=self.max_frames,
            min_frames=self.min_frames,
            image_aspect_ratio=self.image_aspect_ratio,
            version=self.version,
            time_marks=self.time_marks,
            time_origin=self.time_origin,
            frame_pool=self.frame_pool,
            **normalisation,
        )


@dataclass
class TrainingSettings:
    """Settings that this project adds to transformers' `TrainingArguments`, or changes the default of."""

    output_dir: str = field(
        default="output", metadata={"help": "Folder for the model, checkpoints, metrics and figures."}
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Start again in an output_dir that has a model or checkpoints: they are deleted before the first "
            "step. Without it, such a folder is refused."
        },
    )
    model_max_length: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of tokens in a sample, frames included; default: the model's limit. "
            "A longer sample is refused, never truncated."
        },
    )
    bf16: bool | None = field(
        default=None, metadata={"help": "Train in bfloat16; default: True if the GPU supports it."}
    )
    vision_tower_lr: float | None = field(
        default=None, metadata={"help": "Learning rate of the vision tower; default: learning_rate."}
    )
    projector_lr: float | None = field(
        default=None, metadata={"help": "Learning rate of the projector; default: learning_rate."}
    )
    gradient_checkpointing: bool = field(
        default=False,
        metadata={
            "help": "Store little more than the input of each block, vision tower included, and recompute the other "
            "activations in the backward pass: less memory, more time."
        },
    )
    frames_per_chunk: int | None = field(
        default=None,
        metadata={
            "help": "Frames that the vision tower encodes at a time; default: all frames of the batch. With "
            "gradient_checkpointing, the tower's activations in memory are those of one chunk."
        },
    )
    packing: bool = field(
        default=False,
        metadata={
            "help": "Join the samples of a batch in one row without padding. Samples do not attend to each other. "
            "Useful for short samples of different lengths."
        },
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must be False: True would remove the frames."}
    )


@dataclass(frozen=True)
class MemorySettings:
    """Settings that determine the memory of a training step. Most are named like the flags of `fvv finetune`."""

    model: str = field(metadata={"help": "Model folder or hub name; or 0.5b, 1.5b, 7b for the released sizes."})
    num_video_frames: int = field(default=8, metadata={"help": "Number of frames in each sample."})
    max_frames: int | None = field(
        default=None,
        metadata={"help": "Instead of num_video_frames, if training has this setting: the most frames of a sample."},
    )
    image_size: int | None = field(
        default=None,
        metadata={"help": "Side of a frame in pixels; default: the model's, 1024 for a released size."},
    )
    frame_pool: int = field(
        default=1,
        metadata={"help": "Average the tokens of a frame in squares of this side: 2 leaves a quarter of the tokens."},
    )
    frames_per_chunk: int | None = field(
        default=None,
        metadata={"help": "Frames that the vision tower encodes at a time; default: all frames of the batch."},
    )
    text_tokens: int = field(
        default=128,
        metadata={
            "help": "Text tokens of a sample; fvv check --report lists all tokens of each sample, frames included."
        },
    )
    labelled_tokens: int = field(
        default=64, metadata={"help": "Text tokens of a sample that are learned: those of its answers."}
    )
    per_device_train_batch_size: int = field(default=1, metadata={"help": "Samples in a batch on each device."})
    gradient_accumulation_steps: int = field(
        default=1, metadata={"help": "Batches whose gradients are accumulated for one step."}
    )
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Recompute activations in the backward pass."}
    )
    tunable_parts: tuple[str, ...] = field(
        default=AUTO_PARTS,
        metadata={
            "help": "Parts to train: any of vision_tower, projector, language_model; or auto: all parts, with LoRA all "
            "but the vision tower."
        },
    )
    lora_rank: int = field(
        default=0, metadata={"help": "Train the language model with LoRA of this rank; 0: without LoRA."}
    )
    bf16: bool = field(
        default=True,
        metadata={"help": "Train in bfloat16: autocast over float32 weights or, with ZeRO, bfloat16 weights."},
    )
    zero_stage: int = field(
        default=0, metadata={"help": "DeepSpeed ZeRO stage, 0 (off) to 3; shards over num_devices."}
    )
    num_devices: int = field(default=1, metadata={"help": "Number of GPUs that train together."})
    offload: bool = field(
        default=False,
        metadata={"help": "Keep the optimizer (ZeRO-1 to 3) and the parameters (ZeRO-3) in host memory."},
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "tunable_parts", choose_parts(self.tunable_parts, self.lora_rank))
        ModelArguments(self.model, self.tunable_parts, self.lora_rank)  # raises what training would
        for name in ("num_video_frames", "max_frames", "frame_pool", "frames_per_chunk", "image_size",
                     "labelled_tokens", "per_device_train_batch_size", "gradient_accumulation_steps",
                     "num_devices"):  # fmt: skip
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise FvvError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.max_frames is not None and self.num_video_frames != type(self).num_video_frames:
            raise FvvError("num_video_frames would do nothing: the number of frames is max_frames. Leave one out.")
        if self.zero_stage not in range(4):
            raise FvvError(f"zero_stage must be 0, 1, 2 or 3, got {self.zero_stage}.")
        if self.offload and not self.zero_stage:
            raise FvvError("offload is a part of ZeRO: set zero_stage to 1, 2 or 3.")
        if self.labelled_tokens > self.text_tokens:
            raise FvvError(
                f"labelled_tokens={self.labelled_tokens} are more than text_tokens={self.text_tokens}, but they are "
                "part of the text."
            )

    @property
    def frames(self) -> int:
        """Frames of a sample."""
        return self.num_video_frames if self.max_frames is None else self.max_frames
