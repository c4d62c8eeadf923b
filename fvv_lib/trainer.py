"""The Trainer: a learning rate for each part, batches of like lengths, labelled logits only.               Lesson 6

All else is transformers' Trainer, and `checkpoints` for stopping and going on.
"""

from typing import Any, cast

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_pt_utils import DistributedLengthGroupedSampler

from fvv_lib.checkpoints import ResumableTrainer
from fvv_lib.dataset import LazySupervisedDataset
from fvv_lib.model import VideoMixin
from fvv_lib.parts import part_of
from fvv_lib.record import Counter


class _TellEpoch(TrainerCallback):
    """Tells the dataset its epoch, so that `random` takes other frames in each. Accelerate does that too, but not with
    several processes, nor in the epoch that a run is resumed in."""

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        kwargs["train_dataloader"].dataset.set_epoch(int(state.epoch or 0))


class VideoTrainer(ResumableTrainer):
    """A Trainer with a learning rate for each part, and evaluation without the logits of the prompt.

    Attributes:
        counter: counts what is trained on, if there is one.
    """

    optimizer: torch.optim.Optimizer | None
    counter: Counter | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.add_callback(_TellEpoch())

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Groups by part and by weight decay; a part without a rate of its own takes `learning_rate`."""
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
        """With `train_sampling_strategy="group_by_length"`, batches of samples whose expanded lengths are alike. The
        Trainer would read every clip to find them, count one token for each frame, and resume in another order."""
        dataset = train_dataset or self.train_dataset
        if self.args.train_sampling_strategy != "group_by_length" or dataset is None:
            return super()._get_train_sampler(train_dataset)
        return self._grouped(dataset, self.args.train_batch_size * self.args.gradient_accumulation_steps)

    def _get_eval_sampler(self, eval_dataset: LazySupervisedDataset) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_eval_sampler(eval_dataset)
        return self._grouped(eval_dataset, self.args.eval_batch_size)

    def _grouped(self, dataset: LazySupervisedDataset, batch_size: int) -> Sampler:
        """The order follows from seed and epoch alone. Processes share the batches out among them later."""
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        lengths = dataset.lengths.tolist()
        return DistributedLengthGroupedSampler(batch_size, num_replicas=1, rank=0, seed=seed, lengths=lengths)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        batches, items = super().get_batch_samples(*args, **kwargs)
        if self.counter is not None:
            self.counter.add(batches)
        return batches, items

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(model, {**inputs, "full_logits": False}, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if not isinstance(self.model, VideoMixin) and self.args.should_save:  # PEFT saves what is its own
            base = cast(VideoMixin, self.model.base_model.model)
            base.video_config.save(output_dir or self.args.output_dir)
