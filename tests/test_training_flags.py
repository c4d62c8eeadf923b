"""Every setting of `TrainingArguments` works for a step, or is refused by name before data are read."""

import copy
import json
from dataclasses import fields

import pytest
import torch
from conftest import SPEC

from fvv_lib import DataArguments, FvvError, LazySupervisedDataset, TrainingArguments
from fvv_lib.data.dataset import DataCollatorForSupervisedDataset
from fvv_lib.finetuning.trainer import VideoTrainer
from fvv_lib.finetuning.trying import try_settings

EVALUATED = {"eval_strategy": "steps", "eval_steps": 1}
BEST = {**EVALUATED, "save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": True}

# A value of each setting with which a step is taken, and what else it needs. One value of each that is not its default,
# or several.
WORKS = {
    "output_dir": [{}],
    "overwrite_output_dir": [{"overwrite_output_dir": True}],
    "per_device_train_batch_size": [{"per_device_train_batch_size": 1}],
    "num_train_epochs": [{"num_train_epochs": 0.5, "max_steps": -1}],
    "max_steps": [{"max_steps": 1}],
    "learning_rate": [{"learning_rate": 0.0}, {"learning_rate": 1e-2}],
    "lr_scheduler_type": [
        *({"lr_scheduler_type": kind} for kind in ("linear", "cosine", "cosine_with_restarts", "polynomial")),
        *({"lr_scheduler_type": kind} for kind in ("constant", "constant_with_warmup", "inverse_sqrt")),
        *({"lr_scheduler_type": kind, **EVALUATED} for kind in ("reduce_lr_on_plateau", "greedy")),
    ],
    "lr_scheduler_kwargs": [
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-7}},
        {"lr_scheduler_type": "cosine_warmup_with_min_lr", "lr_scheduler_kwargs": '{"min_lr": 1e-7}'},
        {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 1}},
    ],
    "warmup_steps": [{"warmup_steps": 1}, {"warmup_steps": 0.5}],
    "optim": [
        {"optim": name} for name in ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")
    ],
    "optim_args": [{"optim": "sgd", "optim_args": "momentum=0.9"}],
    "weight_decay": [{"weight_decay": 0.1}],
    "adam_beta1": [{"adam_beta1": 0.8}],
    "adam_beta2": [{"adam_beta2": 0.98}],
    "adam_epsilon": [{"adam_epsilon": 1e-6}],
    "gradient_accumulation_steps": [{"gradient_accumulation_steps": 2}],
    "average_tokens_across_devices": [{"average_tokens_across_devices": False}],
    "max_grad_norm": [{"max_grad_norm": 0.0}],
    "bf16": [{"bf16": True}],
    "tf32": [{"tf32": False}],
    "activation_checkpointing": [{"activation_checkpointing": True}],
    "activation_checkpointing_kwargs": [
        {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}}
    ],
    "gradient_checkpointing": [{"gradient_checkpointing": True}],
    "gradient_checkpointing_kwargs": [
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    ],
    "use_cache": [{"use_cache": True}],
    "torch_empty_cache_steps": [{"torch_empty_cache_steps": 1}],
    "logging_strategy": [{"logging_strategy": "epoch"}, {"logging_strategy": "no"}],
    "logging_steps": [{"logging_steps": 1}],
    "logging_first_step": [{"logging_first_step": True}],
    "log_on_each_node": [{"log_on_each_node": False}],
    "logging_nan_inf_filter": [{"logging_nan_inf_filter": False}],
    "log_level": [{"log_level": "warning"}],
    "log_level_replica": [{"log_level_replica": "error"}],
    "disable_tqdm": [{"disable_tqdm": False}],
    "report_to": [{"report_to": "tensorboard"}],
    "run_name": [{"run_name": "a name"}],
    "project": [{"project": "a name"}],
    "trackio_space_id": [{"trackio_space_id": "a name"}],
    "trackio_bucket_id": [{"trackio_bucket_id": "a name"}],
    "trackio_static_space_id": [{"trackio_static_space_id": "a name"}],
    "eval_strategy": [EVALUATED, {"eval_strategy": "epoch"}],
    "eval_steps": [EVALUATED],
    "eval_delay": [{**EVALUATED, "eval_delay": 1}],
    "per_device_eval_batch_size": [{**EVALUATED, "per_device_eval_batch_size": 1}],
    "prediction_loss_only": [{**EVALUATED, "prediction_loss_only": True}],
    "eval_on_start": [{**EVALUATED, "eval_on_start": True}],
    "eval_do_concat_batches": [{**EVALUATED, "eval_do_concat_batches": False}],
    "eval_use_gather_object": [{**EVALUATED, "eval_use_gather_object": True}],
    "eval_accumulation_steps": [{**EVALUATED, "eval_accumulation_steps": 1}],
    "save_only_model": [{"save_strategy": "steps", "save_steps": 1, "save_only_model": True}],
    "save_strategy": [
        {"save_strategy": "epoch"},
        {**EVALUATED, "save_strategy": "best", "metric_for_best_model": "loss"},
    ],
    "save_steps": [{"save_strategy": "steps", "save_steps": 1}],
    "save_total_limit": [{"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}],
    "hub_token": [{"hub_token": "x"}],
    "hub_private_repo": [{"hub_private_repo": True}],
    "hub_model_id": [{"hub_model_id": "x/y"}],
    "hub_strategy": [{"hub_strategy": "end"}],
    "hub_always_push": [{"hub_always_push": True}],
    "hub_revision": [{"hub_revision": "x"}],
    "load_best_model_at_end": [BEST],
    "metric_for_best_model": [{**BEST, "metric_for_best_model": "eval_loss"}],
    "greater_is_better": [{**BEST, "greater_is_better": False}],
    "restore_callback_states_from_checkpoint": [{"restore_callback_states_from_checkpoint": True}],
    "full_determinism": [{"full_determinism": True}],
    "seed": [{"seed": 1}],
    "data_seed": [{"data_seed": 1}],
    "use_cpu": [{"use_cpu": True}],
    "accelerator_config": [{"accelerator_config": {"even_batches": True}}],
    "dataloader_drop_last": [{"dataloader_drop_last": True}],
    "dataloader_num_workers": [{"dataloader_num_workers": 1}],
    "dataloader_pin_memory": [{"dataloader_pin_memory": False}],
    "dataloader_persistent_workers": [{"dataloader_persistent_workers": True, "dataloader_num_workers": 1}],
    "dataloader_prefetch_factor": [{"dataloader_prefetch_factor": 3, "dataloader_num_workers": 1}],
    "dataloader_multiprocessing_context": [{"dataloader_multiprocessing_context": "fork", "dataloader_num_workers": 1}],
    "dataloader_in_order": [{"dataloader_in_order": False}],
    "remove_unused_columns": [{"remove_unused_columns": False}],
    "train_sampling_strategy": [{"train_sampling_strategy": kind} for kind in ("sequential", "group_by_length")],
    "ddp_find_unused_parameters": [{"ddp_find_unused_parameters": False}],
    "ddp_bucket_cap_mb": [{"ddp_bucket_cap_mb": 1}],
    "ddp_broadcast_buffers": [{"ddp_broadcast_buffers": False}],
    "ddp_static_graph": [{"ddp_static_graph": True}],
    "ddp_timeout": [{"ddp_timeout": 60}],
    "debug": [{"debug": "underflow_overflow"}],
    "skip_memory_metrics": [{"skip_memory_metrics": False}],
    "do_train": [{"do_train": True}],
    "do_eval": [{**EVALUATED, "do_eval": True}],
    "resume_from_checkpoint": [{"resume_from_checkpoint": "False"}],
    "local_rank": [{"local_rank": -1}],
    "model_max_length": [{"model_max_length": 1000}],
    "vision_tower_lr": [{"vision_tower_lr": 1e-6}],
    "projector_lr": [{"projector_lr": 1e-6}],
    "frames_per_chunk": [{"frames_per_chunk": 1}],
    "packing": [{"packing": True}],
}

# A value of each setting that is refused, and what is said. Those that have a value that works stand above too.
REFUSED = [
    ({"remove_unused_columns": True}, "remove_unused_columns=True would remove the frames"),
    ({"ignore_data_skip": True}, "ignore_data_skip=True would train a resumed run on the first samples again"),
    ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 is not supported"),
    ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha=5.0 is not supported"),
    ({"use_liger_kernel": True}, "use_liger_kernel=True is not supported"),
    ({"liger_kernel_config": {"rope": True}}, "liger_kernel_config=.* is not supported"),
    ({"torch_compile": True}, "torch_compile=True is not supported"),
    ({"torch_compile_backend": "eager"}, "torch_compile_backend='eager' is not supported"),
    ({"torch_compile_mode": "default"}, "torch_compile_mode='default' is not supported"),
    ({"auto_find_batch_size": True}, "auto_find_batch_size=True would use fewer samples"),
    ({"bf16_full_eval": True}, "bf16_full_eval=True would do nothing"),
    ({"fp16_full_eval": True}, "fp16_full_eval=True would do nothing"),
    ({"include_for_metrics": ["loss"]}, "include_for_metrics=.* would do nothing"),
    ({"batch_eval_metrics": True}, "batch_eval_metrics=True would do nothing"),
    ({"include_num_input_tokens_seen": True}, "include_num_input_tokens_seen=True would count a frame as one token"),
    ({**BEST, "metric_for_best_model": "accuracy"}, "metric_for_best_model='accuracy' is not supported"),
    ({"label_names": ["answers"]}, "label_names=.* is not supported"),
    ({"length_column_name": "tokens"}, "length_column_name='tokens' would do nothing"),
    ({"do_predict": True}, "do_predict=True would do nothing"),
    ({"do_eval": True}, "do_eval would do nothing: set eval_strategy"),
    ({"enable_jit_checkpoint": True}, "enable_jit_checkpoint=True is not supported"),
    ({"save_on_each_node": True}, "save_on_each_node=True is not supported"),
    ({"fsdp": "full_shard"}, "fsdp='full_shard' is not supported: shard the model with --deepspeed"),
    ({"fsdp_config": {"version": 2}}, "fsdp_config=.* is not supported"),
    ({"parallelism_config": 1}, "parallelism_config=1 is not supported"),
    ({"optim_target_modules": "all-linear"}, "optim_target_modules='all-linear' is not supported"),
    *(
        ({"optim": name, "optim_target_modules": None}, f"optim='{name}' is not supported")
        for name in ("galore_adamw", "galore_adafactor_layerwise", "apollo_adamw", "lomo", "adalomo")
    ),
    ({"train_sampling_strategy": "batch_rebalance"}, "use group_by_length"),
    ({"push_to_hub": True}, "push_to_hub uploads the model when the run has ended.*--hub_strategy end"),
    ({"overwrite_output_dir": True, "resume_from_checkpoint": "True"}, "leave one out"),
    ({"lr_scheduler_type": "constant", "warmup_steps": 3}, "warmup_steps=3 would do nothing.*constant_with_warmup"),
    ({"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"min_lr": 1}}, "lr_scheduler_kwargs would do nothing"),
    ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_type=cosine_with_min_lr: it cannot be used here"),
    ({"lr_scheduler_type": "warmup_stable_decay"}, "lr_scheduler_type=warmup_stable_decay.*num_decay_steps"),
    ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 1}}, "lr_scheduler_type=polynomial.*lr_end"),
    ({"lr_scheduler_kwargs": {"no_such": 1}}, "lr_scheduler_kwargs=.*no_such.*cannot be used here"),
    ({"learning_rate": -1.0}, "learning_rate must be 0 or more, got -1.0"),
    ({"learning_rate": float("nan")}, "learning_rate must be 0 or more, got nan"),
    ({"vision_tower_lr": -1.0}, "vision_tower_lr must be 0 or more"),
    ({"projector_lr": -1.0}, "projector_lr must be 0 or more"),
    ({"weight_decay": -0.1}, "weight_decay must be 0 or more"),
    ({"warmup_steps": -1}, "warmup_steps must be 0 or more"),
    ({"adam_beta1": 1.0}, r"adam_beta1 must be in \[0, 1\)"),
    ({"adam_beta2": -0.5}, r"adam_beta2 must be in \[0, 1\)"),
    ({"adam_epsilon": -1.0}, "adam_epsilon must be 0 or more"),
    ({"max_grad_norm": -1.0}, "max_grad_norm must be 0 or more"),
    ({"max_steps": 0}, "max_steps must be at least 1, or -1"),
    ({"max_steps": -1, "num_train_epochs": 0}, "num_train_epochs must be above 0, got 0"),
    ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be at least 1"),
    ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be at least 1"),
    ({"per_device_eval_batch_size": 0}, "per_device_eval_batch_size must be at least 1"),
    ({"save_total_limit": 0}, "save_total_limit must be at least 1"),
    ({"save_strategy": "steps", "save_steps": 0}, "save_steps must be above 0"),
    ({**EVALUATED, "eval_steps": -1}, "eval_steps must be above 0"),
    ({"logging_steps": -1}, "logging_steps must be above 0"),
    ({"seed": -1}, "seed must be from 0 to"),
    ({"optim": "paged_adamw_8bit"}, "optim=paged_adamw_8bit: it cannot be used here.*bitsandbytes"),
    ({"optim": "schedule_free_adamw"}, "optim=schedule_free_adamw: it cannot be used here.*schedulefree"),
    ({"optim": "adamw_torch_4bit"}, "optim=adamw_torch_4bit: it cannot be used here.*torchao"),
    ({"optim": "sgd", "optim_args": "momentum"}, "optim_args=momentum: it cannot be used here"),
    ({"report_to": "wandb"}, "report_to=.*wandb.*: it cannot be used here.*wandb"),
    ({"report_to": "no_such_service"}, "report_to=.*no_such_service.*is not supported"),
    ({"dataloader_persistent_workers": True}, "dataloader_persistent_workers=True: it cannot be used here"),
    ({"dataloader_multiprocessing_context": "fork"}, "dataloader_multiprocessing_context=fork: it cannot be used"),
    ({"ddp_backend": "gloo"}, "ddp_backend='gloo' is for several processes"),
    ({"fp16": True}, "fp16=True needs a GPU"),
]
# Settings of which no value beside the default works here, each with the reason in `arguments.REFUSED` or above;
# DeepSpeed's file is tried in test_trying and test_distributed.
ELSEWHERE = {"deepspeed"}


def test_every_setting_is_tried():
    names = {one.name for one in fields(TrainingArguments) if one.init}
    refused = {name for settings, _ in REFUSED for name in settings}
    assert set(WORKS) <= names
    assert names - set(WORKS) - refused == ELSEWHERE


@pytest.fixture
def make(tmp_path):
    def arguments(**settings):
        defaults = {
            "output_dir": str(tmp_path / "output"),
            "max_steps": 1,
            "per_device_train_batch_size": 2,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
        }
        return TrainingArguments(**{**defaults, **settings})

    return arguments


@pytest.fixture(scope="module")
def text(tokenizer, tmp_path_factory):
    """Two samples of text alone."""
    path = tmp_path_factory.mktemp("text") / "data.json"
    pairs = [("Which way?", "Any way."), ("What is a shape?", "A square, or a circle.")]
    turns = [[{"from": "human", "value": ask}, {"from": "gpt", "value": say}] for ask, say in pairs]
    path.write_text(json.dumps([{"conversations": each} for each in turns]))
    return LazySupervisedDataset(tokenizer, [str(path)], DataArguments(), frame_spec=SPEC)


CASES = [settings for several in WORKS.values() for settings in several]
# These decide which steps are made, or what another setting may be.
ALONE = {"learning_rate", "num_train_epochs", "eval_delay", "warmup_steps", "lr_scheduler_type", "full_determinism"}


def groups():
    """The cases, put together unless two of them set one name to two values. Each group is tried in one run."""
    together = []
    for case in CASES:
        fits = (
            group
            for group in together
            if not ALONE & (case.keys() | group.keys()) and all(group.get(key, case[key]) == case[key] for key in case)
        )
        group = next(fits, None)
        if group is None:
            together.append(dict(case))
        else:
            group |= case
    return together


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("settings", groups(), ids=lambda settings: next(iter(settings)))
def test_settings_that_are_taken_work_for_a_step(settings, make, loaded, text):
    arguments = make(**settings)
    model = copy.deepcopy(loaded.model)
    model.frames_per_chunk, model.packing = arguments.frames_per_chunk, arguments.packing
    collator = DataCollatorForSupervisedDataset(loaded.tokenizer)
    trainer = VideoTrainer(model=model, args=arguments, train_dataset=text, eval_dataset=text, data_collator=collator)
    try:
        assert trainer.train().global_step == 1
    finally:
        torch.use_deterministic_algorithms(False)  # of full_determinism
    if arguments.learning_rate and not arguments.warmup_steps:
        before = loaded.model.state_dict()
        assert any(not torch.equal(before[key], value) for key, value in trainer.model.state_dict().items())


def test_each_setting_that_is_taken_is_taken_alone(make):
    for case in CASES:
        try_settings(make(**case))


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=["-".join(settings) for settings, _ in REFUSED])
def test_a_setting_that_cannot_work_is_one_line_that_names_it(settings, message, make):
    with pytest.raises(FvvError, match=message) as error:
        try_settings(make(**settings))
    assert "\n" not in str(error.value)
