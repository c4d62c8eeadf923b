"""The Trainer: optimizer groups, batches grouped by length, counting, labelled logits. Whole runs are in
`test_training`."""

import numpy as np
import pytest
import torch
from shared import SPEC
from torch import nn
from torch.utils.data import Dataset

from fvv_lib import DataArguments, LazySupervisedDataset
from fvv_lib.arguments import TrainingArguments
from fvv_lib.data.dataset import DataCollatorForSupervisedDataset
from fvv_lib.finetuning.trainer import Counter, VideoTrainer
from fvv_lib.model.parts import part_of, set_trainable
from fvv_lib.settings import PARTS

MANY = 1000  # more samples than the 50 batches that transformers sorts at a time


class Measured(Dataset):
    """Samples of known lengths. Reading a sample returns its number, or fails if `readable` is False."""

    def __init__(self, lengths, readable=True):
        self.lengths, self.readable, self.epochs = np.array(lengths), readable, []

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, number):
        assert self.readable, "a sample was read to find its length"
        return {"number": number}

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


@pytest.fixture(scope="module")
def lengths():
    """Return the lengths of a thousand samples, all different."""
    return np.random.default_rng(0).permutation(MANY) + 1


@pytest.fixture
def trainer_of(tmp_path):
    """Make a trainer of a model; by default of a linear layer, for tests in which only the data matter."""

    def make(model=None, dataset=None, **settings):
        defaults = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "disable_tqdm": True}
        arguments = TrainingArguments(**defaults, dataloader_num_workers=0, **settings)
        return VideoTrainer(model=model or nn.Linear(1, 1), args=arguments, train_dataset=dataset)

    return make


def numbers(loader, epoch=0):
    """Return the sample numbers of each batch."""
    loader.set_epoch(epoch)
    return [batch["number"].tolist() for batch in loader]


# --- optimizer ----------------------------------------------------------------------------------------------------


@pytest.fixture
def groups(model, trainer_of):
    """Return the optimizer's groups, each with the names of its parameters."""

    def make(parts, **settings):
        set_trainable(model, parts)
        settings = {"learning_rate": 1e-4, "weight_decay": 0.1, **settings}
        optimizer = trainer_of(model, **settings).create_optimizer()
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        return [{**group, "params": [names[id(p)] for p in group["params"]]} for group in optimizer.param_groups]

    return make


def test_a_trained_parameter_is_in_one_group_and_a_frozen_one_in_none(model, groups):
    found = groups(["projector", "language_model"])
    names = [name for group in found for name in group["params"]]
    assert len(names) == len(set(names))
    assert set(names) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(group["params"] for group in found)


def test_a_group_has_one_part_and_its_learning_rate(groups):
    found = groups(PARTS, vision_tower_lr=2e-6, projector_lr=1e-3)
    rates = {}
    for group in found:
        (part,) = {part_of(name) for name in group["params"]}
        rates.setdefault(part, set()).add(group["lr"])
    assert rates == {"vision_tower": {2e-6}, "projector": {1e-3}, "language_model": {1e-4}}


@pytest.mark.parametrize("rate", [0.0, None, 3e-5])
def test_a_part_without_its_own_rate_uses_the_common_one(groups, rate):
    """A rate of 0 counts as its own rate: that part does not change."""
    (rate_found,) = {group["lr"] for group in groups(["projector"], projector_lr=rate)}
    assert rate_found == (1e-4 if rate is None else rate)


def test_matrices_decay_in_every_part_and_biases_and_norms_do_not(model, groups):
    found = groups(PARTS, vision_tower_lr=1e-5)
    decay = {name: group["weight_decay"] for group in found for name in group["params"]}
    assert set(decay.values()) == {0.0, 0.1}
    modules = dict(model.named_modules())
    for name in decay:
        module = modules[name.rpartition(".")[0]]
        if name.endswith("bias") or type(module).__name__ == "Qwen2RMSNorm":
            assert decay[name] == 0.0, name
        elif isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
            assert decay[name] == 0.1, name
    for value in (0.0, 0.1):
        assert {part_of(name) for name in decay if decay[name] == value} == set(PARTS)


def test_the_optimizer_is_created_only_once(model, trainer_of):
    trainer = trainer_of(model)
    assert trainer.create_optimizer() is trainer.create_optimizer() is trainer.optimizer


# --- batches grouped by length ------------------------------------------------------------------------------------


def descends(values):
    return bool((np.diff(values) <= 0).all())


def test_a_group_has_the_samples_of_a_step_with_gradient_accumulation(trainer_of, lengths):
    """transformers sorts the samples of 50 groups at a time: here 50 x 2 x 2."""
    settings = {"train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 2}
    dataset = Measured(lengths)
    order = numbers(trainer_of(dataset=dataset, gradient_accumulation_steps=2, **settings).get_train_dataloader())
    assert {len(batch) for batch in order} == {2}
    row = lengths[np.concatenate(order)]
    assert sorted(row) == sorted(lengths)  # each sample once
    assert row[0] == lengths.max()  # the sample that needs most memory comes first
    assert descends(row[:200])
    assert not descends(row[:201])


def test_groups_of_evaluation_have_the_evaluation_batch_size(trainer_of, lengths):
    settings = {"train_sampling_strategy": "group_by_length", "per_device_eval_batch_size": 4}
    trainer = trainer_of(gradient_accumulation_steps=2, **settings)
    order = numbers(trainer.get_eval_dataloader(Measured(lengths)))
    row = lengths[np.concatenate(order)]
    assert {len(batch) for batch in order} == {4}
    assert sorted(row) == sorted(lengths)
    assert descends(row[:200])
    assert not descends(row[:201])


def test_no_sample_is_read_to_find_its_length(trainer_of, lengths):
    dataset = Measured(lengths, readable=False)
    trainer = trainer_of(dataset=dataset, train_sampling_strategy="group_by_length")
    for loader in (trainer.get_train_dataloader(), trainer.get_eval_dataloader(dataset)):
        assert len(loader) == MANY / 8


def test_the_order_depends_on_seed_and_epoch(trainer_of, lengths):
    def order(epoch=0, **settings):
        trainer = trainer_of(dataset=Measured(lengths), train_sampling_strategy="group_by_length", **settings)
        torch.rand(3)  # the state of torch's random generator does not matter
        return numbers(trainer.get_train_dataloader(), epoch)

    first = order(seed=1)
    assert order(seed=1) == first
    assert order(seed=2) != first
    assert order(seed=2, data_seed=1) == first
    assert order(seed=1, data_seed=0) == order(seed=0) != first
    assert order(epoch=1, seed=1) != first
    assert order(epoch=1, seed=1) == order(epoch=1, seed=1)


def test_without_grouping_the_order_is_that_of_transformers(trainer_of, lengths):
    dataset = Measured(lengths)
    for strategy in ("random", "sequential"):
        trainer = trainer_of(dataset=dataset, train_sampling_strategy=strategy)
        order = np.concatenate(numbers(trainer.get_train_dataloader()))
        assert sorted(order) == list(range(MANY))
        assert not descends(lengths[order][:16])
        assert (order.tolist() == list(range(MANY))) == (strategy == "sequential")
        assert np.concatenate(numbers(trainer.get_eval_dataloader(dataset))).tolist() == list(range(MANY))


# --- epochs and counts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("progress", "epoch"), [(None, 0), (0.0, 0), (1.0, 1), (2.5, 2)])
def test_the_dataset_gets_the_epoch_that_starts_or_resumes(trainer_of, progress, epoch):
    """A run that resumes within an epoch uses the frames of that epoch."""
    dataset = Measured([1, 2, 3])
    trainer = trainer_of(dataset=dataset)
    trainer.state.epoch, trainer.callback_handler.train_dataloader = progress, trainer.get_train_dataloader()
    trainer.callback_handler.on_epoch_begin(trainer.args, trainer.state, trainer.control)
    assert dataset.epochs == [epoch]


def batches():
    ids = torch.tensor([[5, -200, -200, 6], [7, 8, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": torch.tensor([[-100] * 3 + [6]] * 2)}
    return iter([batch] * 5)


def test_the_batches_of_a_step_are_counted_and_no_others(trainer_of):
    trainer = trainer_of()
    trainer.counter = counter = Counter(tokens_per_frame=4)
    rest = batches()
    taken, learned = trainer.get_batch_samples(rest, 2, torch.device("cpu"))
    assert (len(taken), len(list(rest))) == (2, 3)
    assert learned is None or int(learned) == 4
    assert (counter.samples, counter.frames, counter.tokens) == (4, 4, 2 * (2 + 2 * 4 + 2))


def test_a_trainer_without_a_counter_counts_nothing(trainer_of):
    trainer = trainer_of()
    assert trainer.counter is None
    assert len(trainer.get_batch_samples(batches(), 2, torch.device("cpu"))[0]) == 2


# --- loss ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
def test_the_loss_computes_the_logits_of_labelled_tokens_only(loaded, trainer_of, training):
    """Also in evaluation, where the model by default computes all logits."""
    model = loaded.model.train(training)
    try:
        ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
        labels = torch.tensor([[-100, -100, 7, 8], [-100, -100, -100, 12]])
        inputs = {"input_ids": ids, "labels": labels, "images": torch.zeros(2, 0, 3, 64, 64, dtype=torch.uint8)}
        given = dict(inputs)
        loss, outputs = trainer_of(model).compute_loss(model, inputs, return_outputs=True)
        full = model(**given, full_logits=True)
    finally:
        model.eval()
    assert outputs.logits.shape == (3, full.logits.shape[-1])
    torch.testing.assert_close(loss, full.loss)
    assert inputs.keys() == given.keys()


def test_validation_weighs_every_learned_token_equally(loaded, trainer_of, tokenizer, annotate):
    """For every batch size, with a full or partial last batch, and answers of different lengths."""
    pairs = [
        ("Hm?", "Yes."),
        ("Which ways can a shape move?", "To the left, to the right, up, or down."),
        ("Or?", "No."),
    ]
    turns = [[{"from": "human", "value": ask}, {"from": "gpt", "value": say}] for ask, say in pairs]
    dataset = LazySupervisedDataset(
        tokenizer, [annotate([{"conversations": each} for each in turns])], DataArguments(), frame_spec=SPEC
    )
    collate = DataCollatorForSupervisedDataset(tokenizer)
    with torch.no_grad():
        alone = [(loaded.model(**collate([item])).loss, (item["labels"] != -100).sum()) for item in dataset]
    expected = sum(loss * count for loss, count in alone) / sum(count for _, count in alone)
    found = []
    for size, settings in ((1, {}), (2, {"dataloader_drop_last": True}), (3, {"prediction_loss_only": True}), (8, {})):
        trainer = trainer_of(loaded.model, per_device_eval_batch_size=size, **settings)
        trainer.data_collator = collate
        found.append(trainer.evaluate(dataset)["eval_loss"])
        assert trainer.args.dataloader_drop_last == settings.get("dataloader_drop_last", False)
    assert found == pytest.approx([expected.item()] * 4, abs=1e-5)
    of_batches = sum(loss for loss, _ in alone) / len(alone)
    assert abs(of_batches - expected) > 0.01  # the mean of means is another number


def test_a_frame_counts_as_the_tokens_that_the_model_makes_of_it():
    counter = Counter(tokens_per_frame=4)
    batch = {
        "input_ids": torch.tensor([[5, -200, -200, 6], [7, 8, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
    }
    counter.add([batch, batch])
    assert (counter.samples, counter.frames, counter.tokens) == (4, 4, 2 * (2 + 2 * 4 + 2))
    assert counter.per_second(2.0, processes=3) == {
        "samples_per_second": 6.0,
        "frames_per_second": 6.0,
        "tokens_per_second": 36.0,
    }
