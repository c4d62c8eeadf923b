"""Try every setting on a tiny model before data are read.                                                 Lesson 6

Some settings fail only when they are used: an optimizer whose package is missing, a schedule without the number that it
needs, an argument that activation checkpointing does not know. They must not fail after hours of reading clips, so each
is used here once. An error of another library becomes one line with the name of the setting. This module reads no data.

The services of `report_to` are not started, because this would create a run there. Their packages are loaded, and the
login of Weights & Biases is checked. A missing login of another service is an error when training begins.
"""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Qwen2Config, Qwen2Model, Trainer, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks

from fvv_lib.arguments import TrainingArguments
from fvv_lib.errors import FvvError, reason_of

NEEDS_METRIC = ("reduce_lr_on_plateau", "greedy")  # schedules that depend on the validation loss
LOADER = ("num_workers", "persistent_workers", "prefetch_factor", "multiprocessing_context")  # of a DataLoader
ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")  # not used by every optimizer
OF_GROUPS = ("lr", "weight_decay")  # settings of the optimizer that our parameter groups override
OF_TRAINER = ("every_n_layers", "offload")  # in gradient_checkpointing_kwargs; the others are passed to torch


def try_settings(training_args: TrainingArguments) -> None:
    """Use each setting once.

    Raises:
        FvvError: a setting cannot work on this machine, or would do nothing; one line that names the setting.
    """
    if training_args.fp16 and training_args.device.type == "cpu":
        raise FvvError("fp16=True needs a GPU: leave it out, or use bf16.")
    if training_args.deepspeed:
        check_deepspeed(training_args)
    with _named(training_args, "report_to"):
        for callback in get_reporting_integration_callbacks(training_args.report_to):
            callback()
        if "wandb" in training_args.report_to and training_args.process_index == 0:
            import_module("wandb").login()  # returns at once if WANDB_MODE is offline or disabled
    with _named(training_args, "optim", "optim_args"):
        optimizer = _make_optimizer(training_args)
        optimizer.step()
        _check_used(training_args)
    with _named(training_args, "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"):
        schedule = _make_schedule(training_args, optimizer)
        optimizer.step()
        if training_args.lr_scheduler_type not in NEEDS_METRIC:
            schedule.step()
    if training_args.gradient_checkpointing:
        with _named(training_args, "gradient_checkpointing", "gradient_checkpointing_kwargs"):
            _try_checkpointing(training_args)
    with _named(training_args, *(f"dataloader_{name}" for name in LOADER)):
        DataLoader([0], **{name: getattr(training_args, f"dataloader_{name}") for name in LOADER})  # type: ignore[arg-type]


@contextmanager
def _named(training_args: TrainingArguments, *names: str) -> Iterator[None]:
    """Convert any exception to a FvvError that names those of these settings that are set."""
    try:
        yield
    except Exception as error:  # from any library: it only shows that the settings cannot be used
        values = {name: getattr(training_args, name) for name in names}
        shown = ", ".join(f"{name}={getattr(value, 'value', value)}" for name, value in values.items() if value)
        said = " ".join(str(error).split()) or type(error).__name__
        raise FvvError(f"{shown or names[0]}: it cannot be used here: {said}") from error


def _make_optimizer(training_args: TrainingArguments) -> torch.optim.Optimizer:
    """Create the optimizer as `VideoTrainer.create_optimizer` does, for a small model with gradients."""
    model = torch.nn.Linear(1, 1, device=training_args.device)
    optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(training_args, model)
    group = {"lr": training_args.learning_rate, "weight_decay": training_args.weight_decay}
    optimizer: torch.optim.Optimizer = optimizer_class([{"params": [*model.parameters()], **group}], **settings)
    model(torch.ones(1, 1, device=training_args.device)).sum().backward()
    return optimizer


def _check_used(training_args: TrainingArguments) -> None:
    """Raise if the optimizer is the same without one of its settings."""

    def optimizer_with(**changes: Any) -> tuple[type, dict[str, Any]]:
        changed = copy.copy(training_args)
        for name, value in changes.items():
            setattr(changed, name, value)
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(changed)
        return kind, {name: value for name, value in settings.items() if name not in OF_GROUPS}

    without: dict[str, dict[str, Any]] = {}
    for name in ADAM:
        value, default = getattr(training_args, name), getattr(TrainingArguments, name)
        if value != default:
            without[f"{name}={value}"] = {name: default}
    parts = training_args.optim_args.replace(" ", "").split(",") if training_args.optim_args else []
    for part in parts:
        without[part] = {"optim_args": ",".join(other for other in parts if other != part)}
    for shown, changes in without.items():
        if optimizer_with(**changes) == optimizer_with():
            raise FvvError(f"{shown} would change nothing in this optimizer. Leave it out.")


def _make_schedule(training_args: TrainingArguments, optimizer: torch.optim.Optimizer) -> Any:
    steps = training_args.max_steps if training_args.max_steps > 0 else 100
    warmup, more = training_args.get_warmup_steps(steps), training_args.lr_scheduler_kwargs
    return get_scheduler(training_args.lr_scheduler_type, optimizer, warmup, steps, more)


def _try_checkpointing(training_args: TrainingArguments) -> None:
    """Take the gradient of a small language model as the Trainer would."""
    sizes = {"vocab_size": 1, "hidden_size": 2, "intermediate_size": 1, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    model = Qwen2Model(Qwen2Config(**sizes, **heads, use_cache=False)).to(training_args.device)
    # The new name and, in older transformers, the only one.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    settings = dict(training_args.gradient_checkpointing_kwargs or {})
    of_trainer = {name: settings.pop(name) for name in OF_TRAINER if name in settings}
    enable(settings or None, **of_trainer)
    ids = torch.zeros(1, 1, dtype=torch.long, device=training_args.device)
    model.train()(input_ids=ids).last_hidden_state.sum().backward()


def try_hub(training_args: TrainingArguments) -> str | None:
    """Return the name of the repository on the Hub that the run will be uploaded to; None without `push_to_hub`. Create
    it if there is none. Call it on one process.

    Raises:
        FvvError: there is no login, the token may not write there, or the repository has no `hub_revision`.
    """
    if not training_args.push_to_hub:
        return None
    with _named(training_args, "push_to_hub", "hub_model_id", "hub_revision"):
        from huggingface_hub import HfApi

        hub = HfApi(token=training_args.hub_token)
        name = training_args.hub_model_id or Path(training_args.output_dir).absolute().name
        repo = hub.create_repo(name, private=training_args.hub_private_repo, exist_ok=True).repo_id
        hub.auth_check(repo, write=True)
        hub.repo_info(repo, revision=training_args.hub_revision)
    return repo


# --- DeepSpeed --------------------------------------------------------------------------------------------------------

AUTO = 'Set it to "auto".'


def check_deepspeed(training_args: TrainingArguments) -> None:
    """Check that a DeepSpeed configuration does not override our settings, which would then do nothing.

    Raises:
        FvvError: a section or a value overrides a setting; names the section or value, and the file.
    """
    file = training_args.deepspeed
    config = file if isinstance(file, dict) else read_deepspeed(str(file))
    where = "deepspeed" if isinstance(file, dict) else str(file)
    for section, instead in (
        ("optimizer", "optim, learning_rate, vision_tower_lr, projector_lr and weight_decay"),
        ("scheduler", "lr_scheduler_type and warmup_steps"),
    ):
        if section in config:
            raise FvvError(
                f'{where}: its section "{section}" overrides {instead}, which would do nothing. Delete the section, '
                "and use these settings."
            )
    steps, batch = training_args.gradient_accumulation_steps, training_args.per_device_train_batch_size
    ours = {
        "gradient_accumulation_steps": ("gradient_accumulation_steps", steps),
        "train_micro_batch_size_per_gpu": ("per_device_train_batch_size", batch),
        "train_batch_size": ("the samples of a step", training_args.world_size * steps * batch),
        "gradient_clipping": ("max_grad_norm", training_args.max_grad_norm),
        "bf16.enabled": ("bf16", training_args.bf16),
        "fp16.enabled": ("fp16", training_args.fp16),
    }
    for key, (name, value) in ours.items():
        section, _, inner = key.partition(".")
        found = config.get(section)
        if inner:
            found = found.get(inner) if isinstance(found, dict) else None
        if found is None and (key == "train_batch_size" or not value):
            continue  # follows from other keys, or is off in both
        if found != "auto" and found != value:
            says = "is missing" if found is None else f"is {found}"
            raise FvvError(f'{where}: "{key}" {says}, but {name} is {value}. {AUTO}')
    if training_args.save_only_model and training_args.load_best_model_at_end:
        raise FvvError("save_only_model and load_best_model_at_end exclude each other under DeepSpeed: leave one out.")
    zero = config.get("zero_optimization")
    zero = zero if isinstance(zero, dict) else {}
    if zero.get("stage") == 3 and zero.get("stage3_gather_16bit_weights_on_model_save") is not True:
        raise FvvError(
            f'{where}: add "stage3_gather_16bit_weights_on_model_save": true to "zero_optimization". Without it, only '
            "shares of the model are saved."
        )


def read_deepspeed(file: str) -> dict[str, Any]:
    """Return the content of a DeepSpeed configuration file.

    Raises:
        FvvError: the file cannot be read, or is not a JSON object.
    """
    try:
        config = json.loads(Path(file).read_text())
    except (OSError, ValueError) as error:
        raise FvvError(f"{file}: not a DeepSpeed configuration ({reason_of(error)}).") from error
    if not isinstance(config, dict):
        raise FvvError(f"{file}: not a DeepSpeed configuration: it must be a JSON object.")
    return config
