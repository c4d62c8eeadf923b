"""Two processes on the CPU give what one gives; some are started by the script that users start."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from shared import ROOT, SPEC
from starting import ENVIRONMENT, finetune

from fvv_lib import FvvError, LazySupervisedDataset, encode_images, load_pretrained_model
from fvv_lib.finetuning.trainer import VideoTrainer
from fvv_lib.model.parts import part_of
from fvv_lib.settings import DataArguments


def sample(question, answer, **media):
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **media}


TEXT, TEXT_2 = sample("Which ways can a shape move?", "Any way."), sample("What is a shape?", "A square.")
VIDEO = sample("<image>\nWhich way does it move?", "It moves to the left.", video="clip.mp4")
STILL = sample("<image>\nWhat colour is the shape?", "It is red.", image="still.png")
BOTH = sample("<image>\n<image>\nIs it the same shape?", "No.", image=["still.png", "short.mp4"])
# Two samples for each of two processes: text against videos of different lengths, then a single frame against many.
STREAM = [TEXT, TEXT_2, BOTH, VIDEO, STILL, TEXT, VIDEO, VIDEO]
FROZEN = ["--tunable_parts", "projector", "language_model"]


def start(data, output, base, *flags, gpus=2, zero="", batch_size=2, use_cpu=True, script=False, before=None):
    """Train; returns the losses and the weights.

    Args:
        script: start as users do, with scripts/finetune_video.sh and torchrun; else the command alone (`starting`).
        before: a function of this file that each rank calls first.
    """
    settings = {
        "model_name_or_path": base,
        "data_path": data,
        "output_dir": output,
        "max_steps": 3,
        "per_device_train_batch_size": batch_size,
        "train_sampling_strategy": "sequential",
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0,  # the script has some
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "adam_epsilon": 1e-3,  # a gradient that is zero but for rounding must not become a step
        "logging_steps": 1,
        "save_steps": 2,
        "dataloader_num_workers": 0,
        "use_cpu": use_cpu,
        "report_to": "none",
        "disable_tqdm": True,
    }
    arguments = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    if script:
        run_script([*arguments, *flags], {"GPUS": str(gpus), "ZERO": zero})
    else:
        sharing = ["--deepspeed", str(ROOT / "scripts" / f"zero{zero}.json")] if zero else []
        finetune([*arguments, *sharing, *flags], gpus, before)
    return losses(output), load_pretrained_model(output, device="cpu").model.state_dict()


def run_script(arguments, launch):
    run = subprocess.run(
        ["bash", str(ROOT / "scripts" / "finetune_video.sh"), *arguments],
        env={**os.environ, **ENVIRONMENT, **launch, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-6000:]


def losses(output):
    return [entry["loss"] for entry in json.loads((output / "metrics.json").read_text())["log"] if "loss" in entry]


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """The mixed stream in a folder that all runs of this file share."""
    import numpy as np
    from PIL import Image

    from fvv_lib.course.scenes import motion_clip, still, write_video

    folder = tmp_path_factory.mktemp("stream")
    rng = np.random.default_rng(0)
    write_video(folder / "clip.mp4", motion_clip(rng, "left")[0])
    write_video(folder / "short.mp4", motion_clip(rng, "up", 5)[0])
    Image.fromarray(still(rng)[0]).save(folder / "still.png")
    (folder / "data.json").write_text(json.dumps(STREAM))
    return folder


@pytest.fixture(scope="module")
def single(stream, base):
    """One process with the same global batch, without a launcher."""
    return start(stream / "data.json", stream / "single", base, gpus=1, batch_size=4)


@pytest.mark.parametrize("zero", ["", "2", "3"])
def test_two_processes_give_the_losses_and_the_model_of_one(stream, base, single, zero):
    """And no process waits for another, whatever each one's batch holds."""
    output = stream / f"zero{zero}"
    got, weights = start(stream / "data.json", output, base, zero=zero, script=zero == "3")
    assert got == pytest.approx(single[0], abs=1e-4)
    assert set(weights) == set(single[1])
    for name, weight in single[1].items():
        torch.testing.assert_close(weights[name], weight, atol=1e-4, rtol=0, msg=name)
    if zero:  # the last step again, from the checkpoint after the second
        checkpoint = str(output / "checkpoint-2")
        resume = ["--resume_from_checkpoint", checkpoint, "--save_strategy", "no"]
        if zero == "3":  # and in chunks, of which one process needs more than the other
            resume += ["--frames_per_chunk", "4", "--gradient_checkpointing", "True"]
        again, resumed = start(stream / "data.json", stream / f"again{zero}", base, *resume, zero=zero)
        assert again == pytest.approx(got, abs=1e-5)
        for name, weight in weights.items():
            torch.testing.assert_close(resumed[name], weight, atol=1e-5, rtol=0, msg=name)


def test_lora_on_two_processes_gives_what_it_gives_on_one(stream, base):
    """Under ZeRO-3 adapters begin with other random numbers, so only the first loss is the same."""
    lora = ["--lora_rank", "4", "--tunable_parts", "projector", "language_model"]
    one, merged = start(stream / "data.json", stream / "lora", base, *lora, gpus=1, batch_size=4)
    got, weights = start(stream / "data.json", stream / "lora2", base, *lora, zero="2")
    assert got == pytest.approx(one, abs=1e-4)
    for name, weight in merged.items():
        torch.testing.assert_close(weights[name], weight, atol=1e-4, rtol=0, msg=name)
    got, _ = start(stream / "data.json", stream / "lora3", base, *lora, zero="3")
    assert got[0] == pytest.approx(one[0], abs=1e-4)
    assert got == pytest.approx(one, rel=0.02)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("zero", ["", "2"])
def test_two_processes_that_would_each_train_alone_are_an_error(stream, base, tmp_path, zero):
    with pytest.raises(AssertionError, match=r"2 processes were started.*--use_cpu True"):
        start(stream, tmp_path / "run", base, zero=zero, use_cpu=False, script=not zero)
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("zero", ["2", "3"])
def test_in_bfloat16_the_losses_are_near_and_the_statistics_whole(stream, base, single, zero):
    """DeepSpeed casts the weights; a BatchNorm whose statistics are rounded to 8 bits would be another model."""
    output = stream / f"bf16-{zero}"
    got, _ = start(stream / "data.json", output, base, "--bf16", "True", zero=zero)
    assert got == pytest.approx(single[0], rel=0.03)
    assert got != pytest.approx(single[0], abs=1e-4)  # it was bfloat16
    before, after = load_file(base / "model.safetensors"), load_file(output / "model.safetensors")
    statistics = [name for name in before if "running" in name]
    assert statistics
    for name in statistics:
        torch.testing.assert_close(after[name], before[name], atol=0, rtol=0)


@pytest.fixture(scope="module")
def single_frozen(stream, base):
    """One process with a frozen tower that encodes every frame."""
    return start(stream / "data.json", stream / "single_frozen", base, *FROZEN, gpus=1, batch_size=4)


@pytest.mark.parametrize("zero", ["", "3"])
def test_two_processes_with_stored_features_give_the_losses_and_the_model_of_one(stream, base, single_frozen, zero):
    """Each computes a part of the features, and no process waits for another, though one has text alone."""
    output = stream / f"features{zero}"
    flags = [*FROZEN, "--cache_features", "True", "--cache_dir", str(stream / f"cache{zero}")]
    got, weights = start(stream / "data.json", output, base, *flags, zero=zero)
    assert json.loads((output / "metrics.json").read_text())["features"] == {"computed": 3, "found": 0}
    assert got == pytest.approx(single_frozen[0], abs=1e-4)
    for name, weight in single_frozen[1].items():
        torch.testing.assert_close(weights[name], weight, atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("zero", ["", "3"])
def test_two_processes_share_the_questions_and_report_as_one(stream, base, zero):
    """And the loss of validation. Five questions in batches of two: one process has one batch less, and each has a
    sample of validation twice, to be even."""
    shutil.copy(stream / "short.mp4", stream / "held_out.mp4")
    held = sample("<image>\nWhich way does it move?", "It moves up.", video="held_out.mp4")
    (stream / "test.json").write_text(json.dumps([held, TEXT, held, TEXT_2, held]))
    flags = ["--test_data_path", stream / "test.json", "--validation_data_path", stream / "test.json"]
    flags += ["--eval_strategy", "steps", "--eval_steps", "3", "--max_new_tokens", "8", "--save_strategy", "no"]
    flags += ["--eval_questions", "3"]
    flags = [*map(str, flags), "--per_device_eval_batch_size", "2", "--learning_rate", "0"]
    records = []
    for gpus, output in ((1, f"asked1{zero}"), (2, f"asked2{zero}")):
        start(stream / "data.json", stream / output, base, *flags, gpus=gpus, batch_size=4 // gpus,
              zero=zero if gpus > 1 else "")  # fmt: skip
        records.append(json.loads((stream / output / "metrics.json").read_text()))
    one, two = records
    assert one["before"]["all"]["total"] == one["after"]["all"]["total"] == 5
    assert (two["before"], two["after"]) == (one["before"], one["after"])
    answers = [(stream / f"asked{ranks}{zero}" / "answers.jsonl").read_text() for ranks in (1, 2)]
    assert answers[0] == answers[1]
    shares = [[entry["eval_accuracy"] for entry in record["log"] if "eval_accuracy" in entry] for record in records]
    losses = [[entry["eval_loss"] for entry in record["log"] if "eval_loss" in entry] for record in records]
    assert len(shares[0]) == len(losses[0]) == 1
    assert shares[0] == shares[1]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


def note_lengths():
    """Let each rank write down the lengths of its samples before it trains."""
    train = VideoTrainer.train

    def noting(self, **settings):
        torch.save(torch.as_tensor(self.train_dataset.lengths), f"{self.args.output_dir}/{os.environ['RANK']}.pt")
        return train(self, **settings)

    VideoTrainer.train = noting


def test_each_process_checks_a_part_and_knows_all_lengths(stream, base, tokenizer):
    """Time marks are counted when a clip is read. Processes that knew other lengths would make other batches of them,
    and train on some samples twice and on others never."""
    output = stream / "lengths"
    output.mkdir()
    flags = ["--time_marks", "seconds", "--train_sampling_strategy", "group_by_length", "--save_strategy", "no"]
    start(stream / "data.json", output, base, *flags, "--max_steps", "1", before=note_lengths)
    dataset = LazySupervisedDataset(
        tokenizer, [str(stream / "data.json")], DataArguments(time_marks="seconds"), frame_spec=SPEC
    )
    unmarked = dataset.lengths.copy()
    assert not any(error for _, error in dataset.check_media())
    assert (dataset.lengths > unmarked).any()
    for rank in range(2):
        assert torch.load(output / f"{rank}.pt").tolist() == dataset.lengths.tolist()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_text_alone_gives_the_encoder_a_gradient_of_exactly_zero(model, checkpointing):
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    ids = torch.tensor([[5, 6, 7]])
    model(ids, [torch.empty(0, 3, 64, 64, dtype=torch.uint8)], labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()) == (part_of(name) == "language_model"), name


def test_a_blank_frame_beside_a_single_one_changes_nothing(model, monkeypatch):
    frames = torch.randint(0, 256, (1, 1, 3, 64, 64), dtype=torch.uint8)
    alone = encode_images(model, frames)[0]
    monkeypatch.setattr("fvv_lib.model.sharding.is_deepspeed_zero3_enabled", lambda: True)
    (beside,) = encode_images(model, frames)
    torch.testing.assert_close(beside, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3", "zero3_offload"])
def test_what_the_trainer_sets_is_left_to_it(name):
    config = json.loads((ROOT / "scripts" / f"{name}.json").read_text())
    assert config["zero_optimization"]["stage"] == int(name[4])
    assert (
        config["train_micro_batch_size_per_gpu"] == config["gradient_clipping"] == config["bf16"]["enabled"] == "auto"
    )
    assert ("offload_param" in config["zero_optimization"]) == name.endswith("offload")


def test_an_unknown_zero_stage_is_an_error():
    script = ["bash", str(ROOT / "scripts" / "finetune_video.sh")]
    run = subprocess.run(script, env={**os.environ, "ZERO": "4"}, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "ZERO=4: choose 1, 2, 3 or 3_offload" in run.stderr


def test_chunks_of_one_frame_are_refused_under_zero3(model, monkeypatch):
    monkeypatch.setattr("fvv_lib.model.sharding.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(FvvError, match="a chunk must have at least 2 frames"):
        encode_images(model, torch.zeros(1, 3, 3, 64, 64), frames_per_chunk=1)
