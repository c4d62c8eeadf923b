"""Every setting of `TrainingArguments` works for a step, or is refused by name before data are read."""

import copy
import json
from dataclasses import fields
from typing import get_args

import pytest
import torch
from shared import SPEC

from fvv_lib import DataArguments, FvvError, LazySupervisedDataset, TrainingArguments
from fvv_lib.cli.finetune import transformers_flags
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
    "max_grad_norm": [{"max_grad_norm": 0.0}, {"max_grad_norm": float("inf")}],
    "bf16": [{"bf16": True}],
    "tf32": [{"tf32": False}],
    "activation_checkpointing": [{"activation_checkpointing": True}],
    "activation_checkpointing_kwargs": [
        {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}}
    ],
    "gradient_checkpointing": [{"gradient_checkpointing": True}],
    "gradient_checkpointing_kwargs": [
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": '{"every_n_layers": 2}'},
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
        {**EVALUATED, "save_strategy": "best"},
        {**EVALUATED, "save_strategy": "best", "load_best_model_at_end": True},
    ],
    "save_steps": [{"save_strategy": "steps", "save_steps": 1}],
    "save_total_limit": [{"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}],
    "hub_token": [{"hub_token": "x"}],
    "hub_private_repo": [{"hub_private_repo": True}],
    "hub_model_id": [{"hub_model_id": "x/y"}],
    "hub_strategy": [{"hub_strategy": "end"}],
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
    ({"neftune_noise_alpha": 0.0}, "neftune_noise_alpha=0.0 is not supported"),
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
    ({**BEST, "metric_for_best_model": "bleu"}, "metric_for_best_model='bleu' is not supported: .* the accuracy"),
    (
        {**EVALUATED, "metric_for_best_model": "accuracy", "lr_scheduler_type": "reduce_lr_on_plateau"},
        "reduce_lr_on_plateau lowers the rate when accuracy rises: add --lr_scheduler_kwargs",
    ),
    ({"label_names": ["answers"]}, "label_names=.* is not supported"),
    ({"length_column_name": "tokens"}, "length_column_name='tokens' would do nothing"),
    ({"do_predict": True}, "do_predict=True would do nothing"),
    ({"do_eval": True}, "do_eval needs validation: set eval_strategy and validation_data_path"),
    ({"eval_on_start": True}, "eval_on_start needs validation"),
    ({"load_best_model_at_end": True}, "load_best_model_at_end needs validation"),
    ({"save_strategy": "best"}, "save_strategy=best needs validation"),
    ({**EVALUATED, "eval_delay": 2}, "eval_delay=2 is after the end of the run \\(1\\)"),
    ({"eval_strategy": "epoch", "eval_delay": 4, "max_steps": -1}, "eval_delay=4 is after the end of the run \\(3\\)"),
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
    ({"hub_always_push": True}, "hub_always_push=True would do nothing"),
    ({"debug": "tpu_metrics_debug"}, "debug=.*tpu_metrics_debug.* is not supported"),
    ({"debug": ["underflow_overflow", "no_such"]}, "debug=.*no_such.* is not supported"),
    ({"output_dir": ""}, "output_dir is empty"),
    ({"accelerator_config": {"split_batches": True}}, "accelerator_config: split_batches=True would divide"),
    ({"accelerator_config": {"dispatch_batches": True}}, "accelerator_config: dispatch_batches=True would cut"),
    ({"accelerator_config": {"even_batches": False}}, "accelerator_config: even_batches=False would"),
    (
        {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 2}}},
        "accelerator_config: gradient_accumulation_kwargs=.*set gradient_accumulation_steps",
    ),
    ({"accelerator_config": "gone.json"}, "accelerator_config=gone.json: it cannot be read as JSON .*No such file"),
    ({"accelerator_config": "{"}, "accelerator_config=.*: it cannot be read as JSON"),
    ({"deepspeed": "gone.json"}, "deepspeed=gone.json: it cannot be read as JSON .*No such file"),
    ({"deepspeed": "{"}, "deepspeed=.*: it cannot be read as JSON"),
    ({"gradient_checkpointing_kwargs": {"use_reentrant": False}}, "gradient_checkpointing_kwargs would do nothing"),
    ({"activation_checkpointing_kwargs": {"use_reentrant": False}}, "activation_checkpointing_kwargs would do nothing"),
    ({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": "foo"}, "gradient_checkpointing_kwargs=foo"),
    (
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"foo": 1}},
        "gradient_checkpointing_kwargs=.*foo",
    ),
    ({"activation_checkpointing": True, "activation_checkpointing_kwargs": {"foo": 1}}, "checkpointing_kwargs=.*foo"),
    ({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"every_n_layers": 0}}, "every_n_layers"),
    ({"gradient_checkpointing": True, "activation_checkpointing": False}, "two names of one setting"),
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
    ({**EVALUATED, "eval_accumulation_steps": 0}, "eval_accumulation_steps must be at least 1"),
    ({"ddp_bucket_cap_mb": 0}, "ddp_bucket_cap_mb must be at least 1"),
    ({"ddp_timeout": 0}, "ddp_timeout must be at least 1"),
    ({"save_strategy": "steps", "save_steps": 0}, "save_steps must be above 0"),
    ({**EVALUATED, "eval_steps": -1}, "eval_steps must be above 0"),
    ({"logging_steps": -1}, "logging_steps must be above 0"),
    ({"seed": -1}, "seed must be from 0 to"),
    ({"optim": "paged_adamw_8bit"}, "optim=paged_adamw_8bit: it cannot be used here.*bitsandbytes"),
    ({"optim": "schedule_free_adamw"}, "optim=schedule_free_adamw: it cannot be used here.*schedulefree"),
    ({"optim": "adamw_torch_4bit"}, "optim=adamw_torch_4bit: it cannot be used here.*torchao"),
    ({"optim": "sgd", "optim_args": "momentum"}, "optim_args=momentum: it cannot be used here"),
    *(
        (
            {"optim": name, "optim_args": "momentum=0.9"},
            f"optim={name}, optim_args=.* momentum=0.9 would change nothing",
        )
        for name in ("adamw_torch", "adamw_torch_fused", "adafactor", "adagrad")
    ),
    ({"optim": "sgd", "optim_args": "momentum=0.9, no_such=1"}, "no_such=1 would change nothing"),
    ({"optim": "sgd", "optim_args": "weight_decay=0.1"}, "weight_decay=0.1 would change nothing"),
    ({"optim": "sgd", "adam_beta1": 0.8}, "optim=sgd: .*adam_beta1=0.8 would change nothing"),
    ({"optim": "adafactor", "adam_epsilon": 1e-6}, "optim=adafactor: .*adam_epsilon=1e-06 would change nothing"),
    ({"report_to": "wandb"}, "report_to=.*wandb.*: it cannot be used here.*wandb"),
    ({"report_to": "no_such_service"}, "report_to=.*no_such_service.*is not supported"),
    ({"dataloader_persistent_workers": True}, "dataloader_persistent_workers=True: it cannot be used here"),
    ({"dataloader_multiprocessing_context": "fork"}, "dataloader_multiprocessing_context=fork: it cannot be used"),
    ({"ddp_backend": "gloo"}, "ddp_backend='gloo' is for several processes"),
    ({"fp16": True}, "fp16=True needs a GPU"),
]


def test_every_setting_is_tried():
    names = {one.name for one in fields(TrainingArguments) if one.init}
    refused = {name for settings, _ in REFUSED for name in settings}  # good DeepSpeed files are in test_distributed
    assert set(WORKS) <= names
    assert names == set(WORKS) | refused


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


def make_trainer(arguments, loaded, text):
    """The trainer as `recipe.run` makes it: with validation data only if the settings ask for validation."""
    model = copy.deepcopy(loaded.model)
    model.frames_per_chunk, model.packing = arguments.frames_per_chunk, arguments.packing
    validation = None if arguments.eval_strategy == "no" else text
    collator = DataCollatorForSupervisedDataset(loaded.tokenizer)
    return VideoTrainer(
        model=model, args=arguments, train_dataset=text, eval_dataset=validation, data_collator=collator
    )


CASES = [settings for several in WORKS.values() for settings in several]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("settings", CASES, ids=["-".join(settings) for settings in CASES])
def test_settings_that_are_taken_work_for_a_step(settings, make, loaded, text):
    """Each case has a run of its own: beside other settings, one that lacks a setting that it needs would work."""
    arguments = make(**settings)
    try_settings(arguments)
    trainer = make_trainer(arguments, loaded, text)
    try:
        assert trainer.train().global_step == 1
    finally:
        torch.use_deterministic_algorithms(False)  # of full_determinism
    if arguments.learning_rate and not arguments.warmup_steps:
        before = loaded.model.state_dict()
        assert any(not torch.equal(before[key], value) for key, value in trainer.model.state_dict().items())


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=["-".join(settings) for settings, _ in REFUSED])
def test_a_setting_that_cannot_work_is_one_line_that_names_it(settings, message, make):
    with pytest.raises(FvvError, match=message) as error:
        try_settings(make(**settings))
    assert "\n" not in str(error.value)


def test_a_value_that_is_none_of_the_choices_is_refused_by_name(make):
    """transformers ignores some, and does not name the setting of others."""
    own = {one.name for one in fields(TrainingArguments)}
    for flag in transformers_flags():
        if flag.choices and flag.name in own:
            with pytest.raises(FvvError, match=rf"^Unknown {flag.name} 'nothing': choose one of .*{flag.choices[0]}"):
                make(**{flag.name: "nothing"})


def test_a_number_that_is_infinite_or_nan_is_refused_by_name(make):
    numbers = [one.name for one in fields(TrainingArguments) if one.init and float in (one.type, *get_args(one.type))]
    assert len(numbers) > 10
    for name in numbers:
        for value in (float("nan"), float("inf")):
            if {name: value} not in WORKS.get(name, []):
                with pytest.raises(FvvError, match=name):
                    make(**{name: value})
