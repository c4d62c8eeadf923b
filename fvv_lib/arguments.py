"""transformers' `TrainingArguments` with what this project adds, as the Trainer takes them.

They are the one settings object that may change after it is made: transformers itself does so.
"""

from dataclasses import dataclass

import torch
import transformers

from fvv_lib.errors import FvvError
from fvv_lib.settings import TrainingSettings


@dataclass
class TrainingArguments(TrainingSettings, transformers.TrainingArguments):
    """transformers' arguments, with learning rates per part, sample length, frames per chunk and packing."""

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
        for name in (
            *("model_max_length", "frames_per_chunk", "gradient_accumulation_steps"),
            *("per_device_train_batch_size", "per_device_eval_batch_size"),
        ):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise FvvError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.dataloader_num_workers < 0:
            raise FvvError(f"dataloader_num_workers must be 0 or more, got {self.dataloader_num_workers}.")
        for name in ("seed", "data_seed"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < 2**32:
                raise FvvError(f"{name} must be from 0 to 2**32 - 1, got {getattr(self, name)}.")
        if getattr(self, "activation_checkpointing", False) is None:  # the name that newer transformers asks for
            self.activation_checkpointing = self.gradient_checkpointing
        if self.bf16 is None:
            has_gpu = torch.cuda.is_available() and not self.use_cpu and not self.fp16
            self.bf16 = has_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        self.dataloader_pin_memory &= torch.cuda.is_available()  # without a GPU it only warns
        super().__post_init__()
