"""transformers' `TrainingArguments` with the settings that this project adds, for the Trainer.

This is the only settings object that may change after it is made, because transformers changes it. A value that cannot
work, or that would silently do nothing, is refused here. `finetuning.trying` finds errors that only appear in use.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from inspect import isclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
import transformers
from transformers.integrations import is_deepspeed_available

from fvv_lib.errors import FvvError, reason_of
from fvv_lib.private_api import skip_compiled_all_reduce
from fvv_lib.settings import TrainingSettings

_OWN_LOSS = "is not supported: the model computes embeddings and loss itself. Leave it out."
_OWN_METRICS = "would do nothing: it is for custom metrics of your own code. Leave it out, and set test_data_path."
_OWN_KERNELS = "is not supported: the model has its own forward pass. Leave it out."
_OWN_GROUPS = "is not supported: it selects the parameters itself, so vision_tower_lr would do nothing. Leave it out."
_NO_COMPILER = "is not supported: batches differ in shape, so each would be compiled again. Leave it out."
_NO_OTHER_SHARING = "is not supported: shard the model with --deepspeed."
_FULL_EVAL = "would do nothing: validation uses the dtype of training. Leave it out."

# For each setting, the only values that are accepted, and why others are refused.
REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "remove_unused_columns": ((False,), "would remove the frames: leave it out."),
    "ignore_data_skip": ((False,), "would train a resumed run on the first samples again: leave it out."),
    "label_smoothing_factor": ((0.0,), _OWN_LOSS),
    "neftune_noise_alpha": ((None,), _OWN_LOSS),
    "use_liger_kernel": ((False,), _OWN_KERNELS),
    "liger_kernel_config": ((None,), _OWN_KERNELS),
    "torch_compile": ((False,), _NO_COMPILER),
    "torch_compile_backend": ((None,), _NO_COMPILER),
    "torch_compile_mode": ((None,), _NO_COMPILER),
    "auto_find_batch_size": (
        (False,),
        "would use fewer samples per step if memory is short, which changes the result: lower "
        "per_device_train_batch_size and raise gradient_accumulation_steps; fvv memory shows what fits.",
    ),
    "bf16_full_eval": ((False,), _FULL_EVAL),
    "fp16_full_eval": ((False,), _FULL_EVAL),
    "include_for_metrics": (([], None), _OWN_METRICS),
    "batch_eval_metrics": ((False,), _OWN_METRICS),
    "include_num_input_tokens_seen": (
        (False, "no"),
        "would count a frame as one token: leave it out; metrics.json has the true tokens per second.",
    ),
    "label_names": ((None, ["labels"]), "is not supported: the labels of a batch are called labels. Leave it out."),
    "length_column_name": (("length",), "would do nothing: lengths are computed. Leave it out."),
    "do_predict": ((False,), "would do nothing: set test_data_path to ask test questions."),
    "enable_jit_checkpoint": ((False,), "is not supported: SIGTERM always saves a checkpoint. Leave it out."),
    "save_on_each_node": ((False,), "is not supported: all machines must share one output_dir. Leave it out."),
    "fsdp": ((None, False, "", []), _NO_OTHER_SHARING),
    "fsdp_config": ((None, {}), _NO_OTHER_SHARING),
    "parallelism_config": ((None,), _NO_OTHER_SHARING),
    "optim_target_modules": ((None,), _OWN_GROUPS),
    "hub_always_push": (
        (False,),
        "would do nothing: the model is uploaded once, when the run has ended. Leave it out.",
    ),
    "debug": (
        (None, "", [], "underflow_overflow", ["underflow_overflow"]),
        "is not supported: the only value is underflow_overflow.",
    ),
}
# The same for the values inside accelerator_config.
REFUSED_ACCELERATOR: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "split_batches": ((False,), "would divide per_device_train_batch_size by the number of processes: leave it out."),
    "dispatch_batches": ((None, False), "would cut the videos of a batch apart: leave it out."),
    "even_batches": ((True,), "would give the processes different numbers of batches, so one waits: leave it out."),
    "gradient_accumulation_kwargs": ((None,), "is not supported: set gradient_accumulation_steps."),
}
BEST = ("loss", "eval_loss", "accuracy", "eval_accuracy")  # what validation measures
REFUSED_OPTIMIZERS = ("galore_", "apollo_", "lomo", "adalomo")  # prefixes of names

AT_LEAST_ONE = (
    *("model_max_length", "frames_per_chunk", "gradient_accumulation_steps", "save_total_limit"),
    *("per_device_train_batch_size", "per_device_eval_batch_size", "dataloader_prefetch_factor"),
    *("eval_accumulation_steps", "ddp_bucket_cap_mb", "ddp_timeout"),
)
NOT_NEGATIVE = (
    *("learning_rate", "vision_tower_lr", "projector_lr", "weight_decay", "adam_epsilon", "max_grad_norm"),
    *("warmup_steps", "dataloader_num_workers", "eval_delay"),
)
MAY_BE_INFINITE = ("max_grad_norm",)  # to log the norm, but clip nothing

CHECKPOINTING = (  # transformers has two names for each
    ("gradient_checkpointing", "activation_checkpointing"),
    ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
)
JSON = ("lr_scheduler_kwargs", "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")
JSON_OR_FILE = ("accelerator_config", "deepspeed")


@dataclass
class TrainingArguments(TrainingSettings, transformers.TrainingArguments):
    """transformers' arguments, with learning rates per part, sample length, frames per chunk and packing.

    Raises:
        FvvError: a value cannot work here or would do nothing; see `REFUSED`.
    """

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_json()
        self._refuse()
        self._check_checkpointing()
        self._check_numbers()
        self._check_validation()
        for old, new in CHECKPOINTING:
            if getattr(self, new, False) is None:  # older transformers have only the old names
                setattr(self, new, getattr(self, old))  # without transformers' warning about the old name
        if self.bf16 is None:
            has_gpu = torch.cuda.is_available() and not self.use_cpu and not self.fp16
            self.bf16 = has_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        self.dataloader_pin_memory &= torch.cuda.is_available()  # without a GPU, pinning only warns
        if self.deepspeed and is_deepspeed_available():
            skip_compiled_all_reduce()
        super().__post_init__()
        for name, (fine, why) in REFUSED_ACCELERATOR.items():
            value = getattr(self.accelerator_config, name)
            if value not in fine:
                raise FvvError(f"accelerator_config: {name}={value!r} {why}")

    def _check_choices(self) -> None:
        """Raise if a setting with a list of values has another one. transformers' own error does not name the setting,
        or does not exist: an unknown train_sampling_strategy means random."""
        hints = get_type_hints(type(self))  # HfArgumentParser changes the types of the fields
        for field in fields(self):
            enums = [kind for kind in get_args(hints[field.name]) if isclass(kind) and issubclass(kind, Enum)]
            choices = [*field.metadata.get("choices", ()), *(member.value for kind in enums for member in kind)]
            value = getattr(self, field.name)
            if choices and value is not None and getattr(value, "value", value) not in choices:
                raise FvvError(f"Unknown {field.name} {value!r}: choose one of {', '.join(choices)}.")

    def _check_json(self) -> None:
        """Raise if the text of a setting that is a mapping is not JSON. Some may name a file."""
        for name in (*JSON, *JSON_OR_FILE):
            value = getattr(self, name, None)
            if isinstance(value, str):
                is_file = name in JSON_OR_FILE and not value.startswith("{")
                try:
                    content = json.loads(Path(value).read_text() if is_file else value)
                except (OSError, ValueError) as error:
                    raise FvvError(f"{name}={value}: it cannot be read as JSON ({reason_of(error)}).") from error
                if not isinstance(content, dict):
                    raise FvvError(f'{name}={value}: it must be a JSON object, like {{"name": 1}}.')

    def _refuse(self) -> None:
        """Raise if a setting is not supported or would do nothing."""
        for name, (fine, why) in REFUSED.items():
            value = getattr(self, name)
            if value not in fine:
                raise FvvError(f"{name}={value!r} {why}")
        if not self.output_dir:
            raise FvvError("output_dir is empty: give a folder.")
        if self.train_sampling_strategy == "batch_rebalance":
            raise FvvError("train_sampling_strategy='batch_rebalance' would read every clip: use group_by_length.")
        optimizer = str(getattr(self.optim, "value", self.optim))
        if optimizer.startswith(REFUSED_OPTIMIZERS):
            raise FvvError(f"optim={optimizer!r} {_OWN_GROUPS}")
        if self.ddp_backend is not None and "LOCAL_RANK" not in os.environ:
            raise FvvError(f"ddp_backend={self.ddp_backend!r} is for several processes: leave it out, or use torchrun.")
        if self.push_to_hub and self.hub_strategy != "end":
            raise FvvError(
                "push_to_hub uploads the model when the run has ended, with its metrics.json: add --hub_strategy end."
            )
        if self.overwrite_output_dir and str(self.resume_from_checkpoint).lower() not in ("none", "false"):
            raise FvvError("overwrite_output_dir starts again and resume_from_checkpoint continues: leave one out.")
        schedule = str(getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type))
        if self.lr_scheduler_kwargs and schedule.startswith("constant"):
            raise FvvError(f"lr_scheduler_kwargs would do nothing: lr_scheduler_type={schedule} accepts none.")
        if self.warmup_steps and schedule in ("constant", "reduce_lr_on_plateau", "greedy"):
            raise FvvError(
                f"warmup_steps={self.warmup_steps} would do nothing: lr_scheduler_type={schedule} has no warm-up. Set "
                "it to 0, or use constant_with_warmup."
            )

    def _check_checkpointing(self) -> None:
        """Raise if the two names of a setting contradict each other, or if the kwargs would do nothing."""
        for old, new in CHECKPOINTING:
            value, other = getattr(self, old), getattr(self, new, None)
            if value and other is not None and other != value:
                raise FvvError(f"{old} and {new} are two names of one setting, with two values: leave one out.")
        switches, kwargs = ([name for name in names if getattr(self, name, None)] for names in CHECKPOINTING)
        if kwargs and not switches:
            raise FvvError(f"{kwargs[0]} would do nothing: set {kwargs[0].removesuffix('_kwargs')}.")

    def _check_validation(self) -> None:
        """Raise if a setting needs a validation that does not take place. Set the metric that save_strategy=best needs;
        for the other settings that need it, transformers sets the same."""
        needs = {name: getattr(self, name) for name in ("do_eval", "eval_on_start", "load_best_model_at_end")}
        needs["save_strategy=best"] = self.save_strategy == "best"
        for name, wanted in needs.items():
            if wanted and self.eval_strategy == "no":
                raise FvvError(f"{name} needs validation: set eval_strategy and validation_data_path.")
        last = {"steps": self.max_steps, "epoch": self.num_train_epochs if self.max_steps == -1 else -1}
        end = last.get(str(getattr(self.eval_strategy, "value", self.eval_strategy)), -1)
        if end != -1 and self.eval_delay > end:
            raise FvvError(f"eval_delay={self.eval_delay:g} is after the end of the run ({end:g}): lower it.")
        metric: str | None = self.metric_for_best_model  # type: ignore[has-type]
        if metric not in (None, *BEST):
            raise FvvError(
                f"metric_for_best_model={metric!r} is not supported: validation measures the loss and, with "
                "eval_questions, the accuracy."
            )
        schedule = str(getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type))
        by_accuracy = metric is not None and metric.endswith("accuracy")
        kwargs = self.lr_scheduler_kwargs
        kwargs = json.loads(kwargs) if isinstance(kwargs, str) else kwargs or {}
        if by_accuracy and schedule in ("reduce_lr_on_plateau", "greedy") and kwargs.get("mode") != "max":
            raise FvvError(
                f"lr_scheduler_type={schedule} lowers the rate when {metric} rises: add --lr_scheduler_kwargs "
                '\'{"mode": "max"}\'.'
            )
        if self.save_strategy == "best" and metric is None:
            self.metric_for_best_model = "loss"

    def _check_numbers(self) -> None:
        """Raise if a number is out of its range. NaN is out of every range."""
        for name in AT_LEAST_ONE:
            if getattr(self, name) is not None and not getattr(self, name) >= 1:
                raise FvvError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in NOT_NEGATIVE:
            if getattr(self, name) is not None and not getattr(self, name) >= 0:
                raise FvvError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise FvvError(f"{name} must be in [0, 1), got {getattr(self, name)}.")
        for name in ("seed", "data_seed"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < 2**32:
                raise FvvError(f"{name} must be from 0 to 2**32 - 1, got {getattr(self, name)}.")
        if self.max_steps != -1 and self.max_steps < 1:
            raise FvvError(f"max_steps must be at least 1, or -1 to train num_train_epochs; got {self.max_steps}.")
        if self.max_steps == -1 and not self.num_train_epochs > 0:
            raise FvvError(f"num_train_epochs must be above 0, got {self.num_train_epochs}.")
        for kind in ("logging", "save", "eval"):
            steps = getattr(self, f"{kind}_steps")
            if getattr(self, f"{kind}_strategy") == "steps" and steps is not None and not steps > 0:
                raise FvvError(f"{kind}_steps must be above 0, got {steps}. To turn it off, set {kind}_strategy to no.")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value) and field.name not in MAY_BE_INFINITE:
                raise FvvError(f"{field.name} must be a finite number, got {value}.")
