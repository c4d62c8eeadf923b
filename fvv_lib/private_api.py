"""Private names of other libraries. The package uses them only through this module.

A private name may change in any release, without notice. Each is listed here with the reason why no public name does
the same. `tests/test_private_api.py` compares them with the installed libraries. It fails if a name is gone or has
other parameters, or if any other module of the package uses a private name. `pyproject.toml` excludes releases that
were not tested. Undocumented attributes without an underscore count as private. This module knows nothing about videos.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

# PyTorch has no public name for these three. Its own guides import the second one from this module.
from torch._subclasses.fake_tensor import FakeTensorMode  # tensors without memory that behave like CPU tensors
from torch.utils._python_dispatch import TorchDispatchMode  # sees each operation and its result
from torch.utils._pytree import tree_leaves  # the tensors in an operation's nested result
from torch.utils.data import DataLoader
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.trainer_pt_utils import DistributedLengthGroupedSampler

if TYPE_CHECKING:
    from transformers import Trainer  # slow to import, and not all verbs need it

__all__ = [
    "FakeTensorMode",
    "TorchDispatchMode",
    "full_shape",
    "has_forward_hooks",
    "is_sharded",
    "length_grouped_sampler",
    "model_from_config",
    "save_without_upload",
    "skip_compiled_all_reduce",
    "tied_weights",
    "torch_loader",
    "tree_leaves",
]

Model = TypeVar("Model", bound=PreTrainedModel)

# What this module imports or calls: its module or class, and its parameters.
CALLED = {
    "torch._subclasses.fake_tensor": (
        "FakeTensorMode(*, allow_fallback_kernels, allow_non_fake_inputs, shape_env, static_shapes, export)",
    ),
    "torch.utils._python_dispatch.TorchDispatchMode": ("__torch_dispatch__(self, func, types, args, kwargs)",),
    "torch.utils._pytree": ("tree_leaves(tree, is_leaf)",),
    "transformers.PreTrainedModel": ("_from_config(config, **kwargs)",),
    "transformers.Trainer": ("save_model(self, output_dir, _internal_call)",),
    "transformers.trainer_pt_utils": (
        "DistributedLengthGroupedSampler(batch_size, dataset, num_replicas, rank, seed, drop_last, lengths, "
        "model_input_name)",
    ),
}

# The methods of other libraries that our classes override, documented ones included. If a library renamed one, it would
# silently not call ours. The overrides themselves are in `finetuning` and `model`.
OVERRIDDEN = {
    "transformers.Trainer": (
        "_finalize_training(self, trial, num_train_samples, start_time)",
        "_get_dataloader(self, dataset, description, batch_size, sampler_fn, is_training, dataloader_key)",
        "_get_eval_sampler(self, eval_dataset)",
        "_get_output_dir(self, trial)",
        "_get_train_sampler(self, train_dataset)",
        "_issue_warnings_after_load(self, load_result)",
        "_run_epoch(self, model, epoch, train_dataloader, steps_in_epoch, num_update_steps_per_epoch, trial, "
        "ignore_keys_for_eval, start_time, resume_from_checkpoint, epochs_trained, steps_trained_in_current_epoch)",
        "_save(self, output_dir, state_dict)",
        "_save_checkpoint(self, model, trial)",
        "compute_loss(self, model, inputs, return_outputs, num_items_in_batch)",
        "create_optimizer(self, model)",
        "evaluation_loop(self, dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)",
        "get_batch_samples(self, epoch_iterator, num_batches, device)",
        "prediction_step(self, model, inputs, prediction_loss_only, ignore_keys)",
        "train(self, resume_from_checkpoint, trial, ignore_keys_for_eval)",
    ),
    "transformers.TrainerCallback": (
        "on_epoch_begin(self, args, state, control, **kwargs)",
        "on_epoch_end(self, args, state, control, **kwargs)",
        "on_step_end(self, args, state, control, **kwargs)",
        "on_train_begin(self, args, state, control, **kwargs)",
    ),
    "transformers.TextStreamer": ("on_finalized_text(self, text, stream_end)",),
    "transformers.PreTrainedModel": (
        "_set_gradient_checkpointing(self, enable, gradient_checkpointing_func, every_n_layers)",
        "from_pretrained(pretrained_model_name_or_path, *model_args, config, cache_dir, ignore_mismatched_sizes, "
        "force_download, local_files_only, token, revision, use_safetensors, weights_only, fusion_config, "
        "disable_mmap, **kwargs)",
        "is_custom_code()",
        "save_pretrained(self, save_directory, is_main_process, state_dict, push_to_hub, max_shard_size, variant, "
        "token, save_peft_format, save_original_format, distributed_checkpoint, **kwargs)",
        "train(self, mode)",
    ),
    "transformers.GenerationMixin": (
        "generate(self, inputs, generation_config, logits_processor, stopping_criteria, prefix_allowed_tokens_fn, "
        "synced_gpus, assistant_model, streamer, negative_prompt_ids, negative_prompt_attention_mask, "
        "custom_generate, **kwargs)",
    ),
    "transformers.FastVlmForConditionalGeneration": (
        "forward(self, input_ids, pixel_values, attention_mask, position_ids, past_key_values, inputs_embeds, "
        "vision_feature_layer, vision_feature_select_strategy, labels, logits_to_keep, mm_encoder_outputs, **kwargs)",
    ),
    "transformers.LlavaForConditionalGeneration": (
        "forward(self, input_ids, pixel_values, attention_mask, position_ids, past_key_values, inputs_embeds, "
        "vision_feature_layer, vision_feature_select_strategy, labels, logits_to_keep, image_sizes, "
        "mm_encoder_outputs, **kwargs)",
    ),
}


# --- torch ------------------------------------------------------------------------------------------------------------


def has_forward_hooks(module: nn.Module) -> bool:
    """Return True if the module has forward hooks. PyTorch's public names add and remove hooks but do not list them."""
    return bool(module._forward_pre_hooks or module._forward_hooks)


# --- transformers -----------------------------------------------------------------------------------------------------


def tied_weights(model: nn.Module) -> Mapping[str, str]:
    """Return the names of tied weights, each with the name of the weight that it shares; empty for a plain module.

    The public `tie_weights` ties weights but does not return their names.
    """
    tied: Mapping[str, str] = getattr(model, "all_tied_weights_keys", {})
    return tied


def model_from_config(model_class: type[Model], config: PreTrainedConfig, dtype: torch.dtype) -> Model:
    """Create a model with random weights of this dtype. The public `from_config` belongs to Auto classes, which do not
    know our subclasses. Casting a finished model would need the memory of both, and round the buffers of RoPE."""
    return model_class._from_config(config, dtype=dtype)


def length_grouped_sampler(lengths: list[int], batch_size: int, seed: int) -> DistributedLengthGroupedSampler:
    """Return a sampler that groups samples of similar length, in an order that depends on seed and epoch. The Trainer
    has no argument for lengths: it only reads them from columns of `datasets`."""
    return DistributedLengthGroupedSampler(batch_size, num_replicas=1, rank=0, seed=seed, lengths=lengths)


def save_without_upload(trainer: "Trainer") -> None:
    """Save the model without uploading it, because the caller has more files to write. The Trainer has only a private
    argument for this."""
    trainer.save_model(_internal_call=True)


# --- accelerate -------------------------------------------------------------------------------------------------------


def torch_loader(loader: Any) -> DataLoader:
    """Return the DataLoader inside the one that `Accelerator.prepare` returns. It starts the workers. accelerate has no
    argument for the function that they call first."""
    inner: DataLoader = loader.base_dataloader
    return inner


# --- DeepSpeed --------------------------------------------------------------------------------------------------------


def skip_compiled_all_reduce() -> None:
    """Keep DeepSpeed from compiling an all-reduce in C++ when it starts on CPUs. That takes a compiler and up to a
    minute, and only inference calls it. DeepSpeed has no setting for this."""
    import deepspeed

    if deepspeed.get_accelerator().device_name() == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def is_sharded(parameter: torch.Tensor) -> bool:
    """Return True if ZeRO-3 has sharded the parameter. DeepSpeed's own function for this reads the same attribute, and
    is private, too."""
    return hasattr(parameter, "ds_id")


def full_shape(parameter: Any) -> torch.Size:
    """Return the shape of the whole parameter. Under ZeRO-3, `shape` is (0,)."""
    shape: torch.Size = parameter.ds_shape if is_sharded(parameter) else parameter.shape
    return shape
