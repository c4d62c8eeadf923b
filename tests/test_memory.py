import importlib.util
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from shared import ROOT, SPEC
from torch._subclasses.fake_tensor import FakeTensorMode

from fvv_lib import FvvError, LazySupervisedDataset, MemorySettings, predict_memory
from fvv_lib.scaling.budget import GIB, USABLE, find_preset, plan_run, suggest
from fvv_lib.scaling.dryrun import _LiveBytes, dry_run
from fvv_lib.settings import PARTS, DataArguments, ModelArguments
from fvv_lib.weights.lora import add_lora

FROZEN = ("projector", "language_model")


@pytest.fixture
def settings(base):
    return MemorySettings(str(base), bf16=False)


def states(prediction):
    return [round(value * GIB) for value in (prediction.weights, prediction.gradients, prediction.optimizer)]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak of a process")
def test_a_prediction_is_within_15_percent_of_the_measured_peak(tmp_path):
    """One row of `benchmarks/memory.py`."""
    spec = importlib.util.spec_from_file_location("memory", ROOT / "benchmarks" / "memory.py")
    memory = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(memory)
    memory.write_folder(tmp_path)
    row = memory.compare("8 frames", str(tmp_path))
    assert row["measured_gib"] > 1  # so that it is the model that was measured
    assert row["predicted_gib"] == pytest.approx(row["measured_gib"], rel=0.15)


def test_only_what_is_alive_is_counted():
    with FakeTensorMode(), _LiveBytes(torch.nn.Linear(10, 10)) as alive:
        one = torch.empty(250)
        two = one * 2
        del one
        three = two.view(5, 50) * 2  # a view is no new memory
        del two, three
        torch.empty(1)
    kib = [live / 1000 for live, _ in alive.moments]
    assert (kib[0], max(kib), kib[-1]) == (1, 2, 0.004)


def test_a_gradient_is_counted_once_and_apart():
    layer = torch.nn.Linear(10, 10, bias=False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        layer.to_empty(device="cpu")
        with _LiveBytes(layer) as alive:
            layer(torch.empty(2, 10)).sum().backward()
    assert (alive.live, alive.gradients) == (0, 400)
    layer.weight.grad = None
    assert alive.live == 0


def test_tokens_are_those_that_the_dataset_counts(settings, tokenizer, annotate, media):
    turns = [{"from": "human", "value": "<image>\nWhich way?"}, {"from": "gpt", "value": "Left."}]
    path = annotate([{"id": "a", "video": "clip.mp4", "conversations": turns}])
    dataset = LazySupervisedDataset(tokenizer, [path], DataArguments(num_video_frames=5), frame_spec=SPEC)
    text = len(dataset[0]["input_ids"]) - 5
    prediction = predict_memory(replace(settings, num_video_frames=5, text_tokens=text, labelled_tokens=1))
    assert prediction.tokens_per_frame == 4
    assert prediction.tokens_per_sample == dataset.lengths[0]


def test_states_are_those_of_the_real_model(settings, model):
    prediction = predict_memory(settings)
    tensors = [*model.parameters(), *model.buffers()]
    count = sum(parameter.numel() for parameter in model.parameters())
    assert states(prediction) == [sum(tensor.nbytes for tensor in tensors), 4 * count, 8 * count]
    assert prediction.trained == prediction.parameters == count


def test_lora_leaves_no_gradient_and_no_optimizer_state_for_frozen_weights(settings, base, model):
    prediction = predict_memory(replace(settings, lora_rank=4, tunable_parts=FROZEN))
    adapted = add_lora(model, ModelArguments(str(base), list(FROZEN), lora_rank=4))
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert prediction.trained == trained
    assert states(prediction)[1:] == [4 * trained, 8 * trained]


def test_lora_is_predicted_as_it_is_trained(base):
    """The tower is frozen, unless it is named."""
    auto, frozen = (MemorySettings(str(base), lora_rank=4, **parts) for parts in ({}, {"tunable_parts": FROZEN}))
    assert auto == frozen
    assert MemorySettings(str(base)).tunable_parts == PARTS


@pytest.mark.parametrize(
    "more",
    [
        {"num_video_frames": 9},
        {"per_device_train_batch_size": 2},
        {"text_tokens": 256},
        {"labelled_tokens": 128},
        {"image_size": 128},
    ],
)
def test_more_data_takes_more_activations(settings, more):
    assert predict_memory(replace(settings, **more)).activations > predict_memory(settings).activations
    assert states(predict_memory(replace(settings, **more))) == states(predict_memory(settings))


@pytest.mark.parametrize(
    ("before", "less"),
    [
        ({}, {"gradient_checkpointing": True}),
        ({"gradient_checkpointing": True, "image_size": 128}, {"frames_per_chunk": 2}),
        ({}, {"frame_pool": 2}),
        ({}, {"tunable_parts": FROZEN}),
        ({}, {"bf16": True}),
    ],
)
def test_what_saves_memory_takes_less_activations(settings, before, less):
    settings = replace(settings, **before)
    assert predict_memory(replace(settings, **less)).activations < predict_memory(settings).activations


def test_accumulated_gradients_are_there_from_the_first_moment(settings):
    alone, more = (dry_run(replace(settings, gradient_accumulation_steps=steps)) for steps in (1, 2))
    assert alone.moments[0, 1] == 0
    assert set(more.moments[:, 1]) == {4 * more.size.trained}


def test_zero_shares_the_states_out(settings):
    settings = replace(settings, bf16=True, num_devices=4)
    count = predict_memory(settings).parameters
    _, gradients, optimizer = states(predict_memory(replace(settings, zero_stage=1)))
    assert (gradients, optimizer) == (2 * count, 12 * count / 4)
    whole, *shared = states(predict_memory(replace(settings, zero_stage=2)))
    assert shared == [2 * count / 4, 12 * count / 4]
    three = predict_memory(replace(settings, zero_stage=3))
    assert states(three)[1:] == shared
    assert states(three)[0] == pytest.approx(whole / 4 + 2 * count)  # its part, and what is gathered for use
    offloaded = predict_memory(replace(settings, zero_stage=3, offload=True))
    assert states(offloaded) == [2 * count, shared[0], 0]
    assert offloaded.peak < three.peak


def test_zero_3_makes_a_tied_gradient_as_pytorch_does():
    two, three = (predict_memory(MemorySettings("0.5b", zero_stage=stage, num_devices=8)) for stage in (2, 3))
    assert three.activations > two.activations


def test_each_change_is_tried_alone_until_one_fits(settings):
    settings = replace(settings, per_device_train_batch_size=2)
    frozen = predict_memory(replace(settings, tunable_parts=FROZEN))
    tried = list(suggest(settings, frozen.peak / 0.9 + 1e-9))
    assert [flags.split()[0] for flags, _ in tried][:2] == ["--gradient_checkpointing", "--per_device_train_batch_size"]
    assert tried[1][0].endswith("--gradient_accumulation_steps 2")
    fits = [prediction.fits(frozen.peak / 0.9 + 1e-9) for _, prediction in tried]
    assert fits == [False] * (len(tried) - 1) + [True]


def test_when_no_change_suffices_they_are_tried_together(settings):
    tried = list(suggest(settings, 1e-9))
    half = (len(tried) + 1) // 2  # all changes alone, then all but the first together with those before them
    alone, together = tried[:half], tried[half:]
    assert min(prediction.peak for _, prediction in together) < min(prediction.peak for _, prediction in alone)
    for (before, _), (flags, _) in pairwise(together):
        assert names_of(before) <= names_of(flags)
    assert names_of(together[-1][0]) == {name for flags, _ in alone for name in names_of(flags)}


def names_of(flags):
    return {word for word in flags.split() if word.startswith("--")}


@pytest.mark.parametrize(("devices", "room"), [(1, 1), (1, 5.5), (1, 50), (4, 1)])
def test_a_plan_fits_and_keeps_the_batch(settings, devices, room):
    """`room` is for how many samples there is room on each device."""
    settings = replace(settings, num_devices=devices)
    one = predict_memory(replace(settings, gradient_accumulation_steps=2))
    gib = (one.peak + (room - 1) * one.activations) / USABLE + 1e-9
    plan = plan_run(settings, gib, 16)
    assert predict_memory(plan).fits(gib)
    assert plan.per_device_train_batch_size * plan.gradient_accumulation_steps * devices == 16
    assert plan.per_device_train_batch_size == {1: 1, 5.5: 4, 50: 16}[room]
    assert (plan.gradient_checkpointing, plan.zero_stage) == (False, 0)


def test_a_plan_gives_time_for_memory_only_where_it_must(settings):
    plain = predict_memory(replace(settings, gradient_accumulation_steps=2))
    plan = plan_run(settings, plain.peak / USABLE - 1e-6, 16)
    assert plan.gradient_checkpointing
    assert predict_memory(plan).fits(plain.peak / USABLE - 1e-6)


def test_a_plan_for_several_devices_takes_as_little_of_zero_as_will_do():
    settings = MemorySettings("1.5b", num_devices=8)
    peaks = {stage: predict_memory(replace(settings, zero_stage=stage)).peak for stage in (0, 2, 3)}
    assert peaks[0] > peaks[2] > peaks[3]
    for stage, peak in peaks.items():
        plan = plan_run(settings, peak / USABLE + 1e-9, 8)
        assert (plan.zero_stage, plan.gradient_checkpointing) == (stage, False)


def test_what_can_not_be_planned_is_one_error(settings):
    with pytest.raises(FvvError, match=r"3 devices cannot share 16 samples evenly\. Use a multiple"):
        plan_run(replace(settings, num_devices=3), 80)
    with pytest.raises(FvvError, match=r"does not fit 1 x 0\.001 GiB\. `fvv memory` shows what to change"):
        plan_run(settings, 0.001)


def test_the_table_is_what_the_code_predicts_now():
    stored = json.loads((ROOT / "benchmarks" / "results" / "memory.json").read_text())
    lines = [line.split(" | ") for line in stored["presets"]]
    (column,) = (number for number, name in enumerate(lines[0]) if name == "0.5b")
    cells = {line[0].removeprefix("| "): line[column] for line in lines}
    for gib in (16, 40):
        assert cells[str(gib)] == find_preset(MemorySettings("0.5b"), gib)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"zero_stage": 4}, "zero_stage must be 0, 1, 2 or 3, got 4"),
        ({"num_video_frames": 0}, "num_video_frames must be at least 1, got 0"),
        ({"offload": True}, "offload is a part of ZeRO"),
        ({"labelled_tokens": 200}, "labelled_tokens=200 are more than text_tokens=128"),
        ({"tunable_parts": ("head",)}, "tunable_parts must name some of"),
        ({"num_video_frames": 500}, r"2128 tokens = 128 of text \+ 500 frames x 4, but .* reads 2048 at most"),
        ({"model": "no/such/folder"}, "no/such/folder: no such folder"),
        ({"image_size": 100}, "picture size 100 is no multiple"),
    ],
)
def test_a_wrong_setting_is_one_error(settings, wrong, message):
    with pytest.raises(FvvError, match=message):
        predict_memory(replace(settings, **wrong))


def test_the_command_says_whether_it_fits_and_what_to_change(base, fvv):
    command = ["memory", "--model", base, "--per_device_train_batch_size", "4"]
    fits = fvv(*command, "--device_gib", "1")
    assert (fits.returncode, fits.stdout.splitlines()[-1]) == (0, "fits 1 GiB with a tenth left free"), fits.stderr
    assert "160 tokens per sample = 128 of text + 8 frames x 4" in fits.stdout
    tight = fvv(*command, "--device_gib", "0.04")
    assert tight.returncode == 1
    assert "does not fit 0.04 GiB" in tight.stdout
    assert "GiB with --gradient_checkpointing True" in tight.stdout
    frozen = fvv(*command, "--tunable_parts", "projector", "language_model")
    assert frozen.returncode == 0
    trained = fits.stdout.splitlines()[1], frozen.stdout.splitlines()[1]
    assert [line.split()[0] == line.split()[2] for line in trained] == [True, False]  # of all, how many are trained
