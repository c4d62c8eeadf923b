"""The Trainer: a learning rate for each part, batches grouped by length, labelled logits only.             Lesson 6

Everything else is transformers' Trainer; `resume` adds stopping and resuming.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import IntervalStrategy

from fvv_lib.data.dataset import LazySupervisedDataset
from fvv_lib.finetuning.resume import ResumableTrainer
from fvv_lib.model.parts import part_of
from fvv_lib.model.video_model import VideoMixin
from fvv_lib.private_api import length_grouped_sampler
from fvv_lib.prompt.placeholders import IGNORE_INDEX, IMAGE_TOKEN_INDEX


class Counter:
    """Count the samples, frames and tokens of a run; a frame counts as the tokens that the model makes of it.

    Args:
        tokens_per_frame: tokens that the model makes of one frame.
    """

    def __init__(self, tokens_per_frame: int):
        self.tokens_per_frame = tokens_per_frame
        self.samples = self.frames = self.tokens = 0

    def add(self, batches: Iterable[dict[str, Any]]) -> None:
        """Count batches from the collator, which are still on the CPU."""
        for batch in batches:
            frames = int((batch["input_ids"] == IMAGE_TOKEN_INDEX).sum())
            self.samples += len(batch["input_ids"])
            self.frames += frames
            self.tokens += int(batch["attention_mask"].sum()) + frames * (self.tokens_per_frame - 1)

    def per_second(self, seconds: float, processes: int) -> dict[str, float]:
        """Return the rates of all processes together, from the counts of one process."""
        counts = {"samples": self.samples, "frames": self.frames, "tokens": self.tokens}
        return {f"{name}_per_second": round(processes * count / seconds, 2) for name, count in counts.items()}


class _TellEpoch(TrainerCallback):
    """Set the epoch of the dataset, so that `random` samples other frames in each epoch. Accelerate does this too, but
    not with several processes, and not in the epoch in which a run resumes."""

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        kwargs["train_dataloader"].dataset.set_epoch(int(state.epoch or 0))


class _LogShortRun(TrainerCallback):
    """Log the first and the last step of a run that has fewer steps than `logging_steps`: its log would be empty."""

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        is_short = args.logging_strategy == IntervalStrategy.STEPS and state.max_steps < state.logging_steps
        if is_short and state.global_step in (1, state.max_steps):
            control.should_log = True


class TellLength(TrainerCallback):
    """Print how long the whole run is, in steps, samples and epochs."""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            batches, loader = args.gradient_accumulation_steps, kwargs["train_dataloader"]
            steps_per_epoch = math.ceil(len(loader) / batches)
            samples = min(args.train_batch_size * batches * args.world_size, len(loader.dataset))
            epochs = f"{state.max_steps / steps_per_epoch:.3g} epochs"
            print(f"{state.max_steps} steps of {samples} samples = {epochs}", flush=True)


class VideoTrainer(ResumableTrainer):
    """A Trainer with a learning rate for each part. It evaluates the loss per learned token, and computes no logits of
    the prompt.

    Args:
        counter: counts what is trained on; None counts nothing.
        ask: returns the share of right answers to validation questions, which each validation then logs as
            `eval_accuracy`; None asks nothing. All other arguments are the Trainer's.
    """

    optimizer: torch.optim.Optimizer | None

    def __init__(
        self, *args: Any, counter: Counter | None = None, ask: Callable[[], float] | None = None, **kwargs: Any
    ):
        self.counter = counter
        self.ask = ask
        super().__init__(*args, **kwargs)
        self.add_callback(_TellEpoch())
        self.add_callback(_LogShortRun())

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimizer: groups by part and weight decay. A part without its own rate uses `learning_rate`."""
        if self.optimizer is None:
            model = self.model if model is None else model
            rates = {"vision_tower": self.args.vision_tower_lr, "projector": self.args.projector_lr}
            decayed = set(self.get_decay_parameter_names(model))
            groups: dict[tuple[str, bool], dict[str, Any]] = {}
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    part, decays = part_of(name), name in decayed
                    rate = rates.get(part)
                    new = {
                        "params": [],
                        "lr": self.args.learning_rate if rate is None else rate,
                        "weight_decay": self.args.weight_decay if decays else 0.0,
                    }
                    groups.setdefault((part, decays), new)["params"].append(parameter)
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(list(groups.values()), **settings)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: LazySupervisedDataset | None = None) -> Sampler | None:
        """Group samples of similar expanded length if `train_sampling_strategy="group_by_length"`. The Trainer would
        read every clip to find its length, count one token for each frame, and resume in another order."""
        dataset = train_dataset or self.train_dataset
        if self.args.train_sampling_strategy != "group_by_length" or dataset is None:
            return super()._get_train_sampler(train_dataset)
        at_a_time = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return self._grouped(dataset, at_a_time * self.args.world_size)

    def _get_eval_sampler(self, eval_dataset: LazySupervisedDataset) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_eval_sampler(eval_dataset)
        return self._grouped(eval_dataset, self.args.eval_batch_size)

    def _grouped(self, dataset: LazySupervisedDataset, batch_size: int) -> Sampler:
        """Return a sampler whose order depends only on seed and epoch. The batches are split across processes later."""
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return length_grouped_sampler(dataset.lengths.tolist(), batch_size, seed)

    def _get_dataloader(self, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        """Apply `dataloader_drop_last` in training only: validation drops no sample."""
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        batches, items = super().get_batch_samples(*args, **kwargs)
        if self.counter is not None:
            self.counter.add(batches)
        return batches, items

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(model, {**inputs, "full_logits": False}, *args, **kwargs)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Compute the loss as the mean over all learned tokens. transformers averages the means of batches: a token
        weighs more if its batch has fewer learned tokens, so the loss depends on the batch size."""
        self._loss_sum, self._learned = 0.0, 0
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self._learned:
            output.metrics[f"{metric_key_prefix}_loss"] = self._loss_sum / self._learned
        if self.ask is not None:
            output.metrics[f"{metric_key_prefix}_accuracy"] = self.ask()
        return output

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        loss, logits, labels = super().prediction_step(model, inputs, False, ignore_keys)  # logits: (S, V)
        counted = inputs["labels"][:, 1:] != IGNORE_INDEX
        targets = inputs["labels"][:, 1:][counted].to(logits.device)  # (S,)
        losses = F.cross_entropy(logits.float(), targets, reduction="none")
        counts = counted.sum(1).to(logits.device)  # (B,)
        of_samples = torch.stack([part.sum() for part in losses.split(counts.tolist())])
        # Drops the samples that only fill up the last batches, so that every process has the same number of batches.
        of_samples, counts = self.accelerator.gather_for_metrics((of_samples, counts))
        self._loss_sum += of_samples.double().sum().item()
        self._learned += int(counts.sum())
        return (loss, None, None) if prediction_loss_only else (loss, logits, labels)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if not isinstance(self.model, VideoMixin) and self.args.should_save:  # PEFT saves the adapter alone
            base = cast(VideoMixin, self.model.get_base_model())
            base.video_config.save(output_dir or self.args.output_dir)
