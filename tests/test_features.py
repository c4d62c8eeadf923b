"""While the vision tower is frozen, features are computed once and read in every epoch."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shared import ROOT, SPEC
from test_training import MIXED, sample

from fvv_lib import (
    DataArguments,
    DataCollatorForSupervisedDataset,
    DataFormatError,
    FvvError,
    LazySupervisedDataset,
    ModelArguments,
    TrainingArguments,
    VideoDecodeError,
    train,
)
from fvv_lib.finetuning.trainer import VideoTrainer
from fvv_lib.model.encoder import tower_features
from fvv_lib.model.parts import set_trainable
from fvv_lib.scaling import features
from fvv_lib.scaling.feature_store import KILLED_AFTER, UNFINISHED, Clip, FeatureStore
from fvv_lib.scaling.features import use_features

FROZEN = ["projector", "language_model"]
VALIDATION = [
    sample("<image>\nWhich way does it move?", "It moves to the left.", video="held_out.mp4"),
    sample("Which ways can a shape move?", "Any way."),
]


@pytest.fixture
def store(model, tokenizer, annotate, media, tmp_path):
    """Run `use_features` on the mixed samples; return the training dataset and the counts."""

    def run(samples=MIXED, bf16=False, **settings):
        args = DataArguments(cache_dir=str(tmp_path / "cache"), **settings)
        dataset = LazySupervisedDataset(tokenizer, [annotate(samples)], args, frame_spec=SPEC)
        training_args = TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True, bf16=bf16
        )
        changed, counts = use_features(model, {"train": dataset, "test": dataset}, training_args)
        assert changed["test"] is dataset
        return changed["train"], counts

    run.dataset = lambda **settings: LazySupervisedDataset(
        tokenizer, [annotate(MIXED)], DataArguments(**settings), frame_spec=SPEC
    )
    return run


def files(tmp_path):
    return sorted((tmp_path / "cache" / "features").glob("*.safetensors"))


@pytest.mark.parametrize(("packing", "pool", "checkpointing"), [(False, 1, False), (True, 2, False), (False, 1, True)])
def test_features_give_the_same_loss_and_gradients_as_frames(model, store, tokenizer, packing, pool, checkpointing):
    """Checked for a batch of text, an image and videos, for text alone, and for one video."""
    set_trainable(model, FROZEN)
    model.packing, model.video_config = packing, model.video_config.__class__(frame_pool=pool)
    if checkpointing:
        model.gradient_checkpointing_enable()
    with_features, _ = store()
    collate = DataCollatorForSupervisedDataset(tokenizer)
    for chosen in (range(4), [3], [0]):
        results = []
        for dataset in (with_features.dataset, with_features):
            model.train().zero_grad()
            batch = collate([dataset[i] for i in chosen])
            loss = model(**batch).loss
            loss.backward()
            results.append([loss, *(p.grad.clone() for p in model.parameters() if p.requires_grad)])
        for of_frames, of_features in zip(*results, strict=True):
            torch.testing.assert_close(of_features, of_frames, atol=1e-6, rtol=1e-6)
    assert batch.keys() == {"input_ids", "labels", "attention_mask", "vision_features"}


def test_a_text_only_batch_gives_the_projector_a_gradient(model):
    """All ranks must run the projector in every step, or the other ranks block."""
    set_trainable(model, FROZEN)
    ids = torch.tensor([[5, 6, 7]])
    model.train()(ids, vision_features=torch.empty(1, 0, 4, 128), labels=ids).loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.model.multi_modal_projector.parameters())


def test_images_and_features_together_are_an_error(model):
    ids, frames = torch.tensor([[5, -200, 6]]), torch.zeros(1, 1, 3, 64, 64)
    with pytest.raises(DataFormatError, match="the same frames twice"):
        model(ids, frames, vision_features=tower_features(model, frames[0])[None])


@pytest.fixture
def run(base, annotate, media, tmp_path):
    """Train the tiny base with a frozen tower for three epochs of two steps; return the losses and the record."""
    shutil.copy(media / "clip.mp4", media / "held_out.mp4")
    number = itertools.count()

    def start(cache_features, parts=FROZEN, lora_rank=0, data=None, **settings):
        defaults = {
            "output_dir": str(tmp_path / f"output{next(number)}"),
            "num_train_epochs": 3,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "eval_strategy": "epoch",
            "save_strategy": "no",
            "disable_tqdm": True,
            "report_to": "none",
            "use_cpu": True,
        }
        data_args = DataArguments(
            data_path=[annotate(MIXED)],
            validation_data_path=annotate(VALIDATION, "v.json"),
            cache_dir=str(tmp_path / "cache"),
            cache_features=cache_features,
            **(data or {}),
        )
        metrics = train(
            ModelArguments(str(base), parts, lora_rank), data_args, TrainingArguments(**{**defaults, **settings})
        )
        losses = [entry[key] for entry in metrics["log"] for key in ("loss", "eval_loss") if key in entry]
        return losses, metrics

    return start


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {
            "data": {"time_marks": "seconds", "frame_pool": 2},
            "packing": True,
            "gradient_checkpointing": True,
            "frames_per_chunk": 3,
            "train_sampling_strategy": "group_by_length",
            "dataloader_num_workers": 1,
        },
        {"lora_rank": 4},
    ],
)
def test_training_with_stored_features_gives_the_same_losses(run, settings):
    frames, record = run(False, **settings)
    assert record["features"] is None
    computed, record = run(True, **settings)
    assert record["features"] == {"computed": 3, "found": 0}  # the validation clip is a copy of a training clip
    found, record = run(True, **settings)
    assert record["features"] == {"computed": 0, "found": 3}
    assert len(frames) == 9
    assert computed == pytest.approx(frames, abs=1e-5)
    assert found == computed


def test_nothing_is_decoded_while_training_reads_features(run, monkeypatch):
    """Clips whose features are stored are decoded only by the check of all media, before the first step."""
    read, train_loop, reads = LazySupervisedDataset.read, VideoTrainer.train, []
    monkeypatch.setattr(LazySupervisedDataset, "read", lambda self, *a: reads.append(a) or read(self, *a))
    monkeypatch.setattr(VideoTrainer, "train", lambda self, **k: (reads.append("train"), train_loop(self, **k))[1])
    run(True)
    assert reads[-1] == "train"
    reads.clear()
    run(True)
    assert reads[-1] == "train"
    assert len(reads) == 4 + 1  # clips of the samples
    reads.clear()
    run(True, data={"check_media": False})
    assert reads == ["train"]
    reads.clear()
    run(False, data={"check_media": False})
    assert reads[0] == "train"
    assert len(reads) > 5


def test_a_changed_file_is_computed_again(store, media):
    assert store()[1] == {"computed": 3, "found": 0}
    clip, times = media / "clip.mp4", os.stat(media / "clip.mp4")
    data = bytearray(clip.read_bytes())
    data[-1] ^= 1  # same size, same times
    clip.write_bytes(data)
    os.utime(clip, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert store()[1] == {"computed": 1, "found": 2}


def test_a_folder_with_a_changed_image_is_computed_again(store, media):
    folder = media / "frames"
    folder.mkdir()
    for i in range(9):
        Image.new("RGB", (64, 64), (i, 0, 0)).save(folder / f"{i}.png")
    samples = [sample("<image>?", "Yes.", video="frames")]
    assert store(samples)[1] == {"computed": 1, "found": 0}
    assert store(samples)[1] == {"computed": 0, "found": 1}
    shutil.copy(folder / "0.png", folder / "8.png")
    assert store(samples)[1] == {"computed": 1, "found": 0}
    (folder / "8.png").rename(folder / "9.png")  # another name, same order
    assert store(samples)[1] == {"computed": 0, "found": 1}


@pytest.mark.parametrize(
    ("settings", "clips"),
    [
        ({"num_video_frames": 4}, 2),  # sampling does not affect images
        ({"frame_sampling": "segment"}, 2),
        ({"video_backend": "pyav"}, 2),
        ({"image_aspect_ratio": "crop"}, 3),
        ({"bf16": True}, 3),
    ],
)
def test_a_changed_setting_computes_features_again(store, settings, clips):
    store()
    assert store(**settings)[1] == {"computed": clips, "found": 3 - clips}
    assert store()[1] == {"computed": 0, "found": 3}


@pytest.mark.parametrize("change", [{"image_size": 96}, {"background": (9, 9, 9)}])
def test_depends_on_covers_size_and_background(store, model, change):
    data_args = store.dataset().data_args
    before = features.depends_on(model, data_args, SPEC, None)
    after = features.depends_on(model, data_args, replace(SPEC, **change), None)
    assert all(before[kind] != after[kind] for kind in ("picture", "video"))


def change_weight(model):
    next(model.model.vision_tower.parameters()).data.view(-1)[-1] += 1e-3


def change_statistics(model):
    next(b for n, b in model.model.vision_tower.named_buffers() if "running_mean" in n)[0] += 1e-3


def change_dtype(model):
    model.model.vision_tower.double()


def change_mean(model):
    model.video_config = model.video_config.__class__(image_mean=(0.1, 0.0, 0.0))


def change_std(model):
    model.video_config = model.video_config.__class__(image_std=(1.0, 1.0, 0.9))


def change_layer(model):
    model.config.vision_feature_layer = -2


def change_strategy(model):
    model.config.vision_feature_select_strategy = "default"


def change_tower_settings(model):
    model.config.vision_config.do_pooling = True


@pytest.mark.parametrize(
    "change",
    [
        *(change_weight, change_statistics, change_dtype, change_mean, change_std),
        *(change_layer, change_strategy, change_tower_settings),
    ],
)
def test_depends_on_covers_every_part_of_the_tower(store, model, change):
    data_args = store.dataset().data_args
    before = features.depends_on(model, data_args, SPEC, None)
    change(model)
    after = features.depends_on(model, data_args, SPEC, None)
    assert all(before[kind] != after[kind] for kind in ("picture", "video"))


@pytest.mark.parametrize("function", ["code_digest", "version"])
def test_changed_code_computes_features_again(store, monkeypatch, function):
    store()
    monkeypatch.setattr(features, function, lambda *_: "other")
    assert store()[1] == {"computed": 3, "found": 0}


def test_features_are_found_after_changes_that_do_not_affect_them(store, model, media):
    store()
    os.utime(media / "clip.mp4", (0, 0))
    (media / "short.mp4").rename(media / "renamed.mp4")
    next(model.model.multi_modal_projector.parameters()).data.add_(1)
    samples = [sample("<image>\nHow?", "So.", video="renamed.mp4"), *MIXED[::2]]
    assert store(samples, time_marks="seconds", frame_pool=2, decode_timeout=9.0)[1] == {"computed": 0, "found": 3}


def test_random_sampling_turns_the_cache_off_with_a_message(run, capsys, tmp_path):
    _, record = run(True, data={"frame_sampling": "random"}, num_train_epochs=1)
    assert record["features"] is None
    assert "cache_features is off: random sampling takes other frames in each epoch" in capsys.readouterr().out
    assert not files(tmp_path)


def test_data_without_clips_turn_the_cache_off_with_a_message(store, capsys):
    dataset, counts = store(MIXED[3:])
    assert counts is None
    assert dataset[0]["images"].shape == (0, 3, 64, 64)
    assert "cache_features is off: the data have no pictures or videos" in capsys.readouterr().out


def test_caching_features_of_a_tower_that_trains_is_an_error(run, tmp_path):
    with pytest.raises(FvvError, match="add --tunable_parts projector language_model"):
        run(True, parts=["vision_tower", "language_model"])
    assert not (tmp_path / "cache").exists()


def test_a_killed_writer_leaves_no_clip(tmp_path):
    """The writer is killed in the middle of a file."""
    code = (
        "import os, sys, torch; from pathlib import Path\n"
        "from fvv_lib.scaling.feature_store import Clip, FeatureStore\n"
        "write = Path.write_bytes\n"
        "def half(path, data): write(path, data[:len(data) // 2]); os.kill(os.getpid(), 9)\n"
        "Path.write_bytes = half\n"
        "FeatureStore(Path(sys.argv[1]), {}).write('x', Clip(torch.zeros(8, 4, 9), torch.zeros(8)))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    store = FeatureStore(tmp_path, {})
    assert not store.holds("x")
    (half,) = (tmp_path / UNFINISHED).iterdir()  # kept at first: another run may be writing it
    os.utime(half, times=(half.stat().st_mtime - KILLED_AFTER - 1,) * 2)
    FeatureStore(tmp_path, {})
    assert [path.name for path in tmp_path.rglob("*")] == [UNFINISHED]


def test_a_writer_that_fails_leaves_no_file(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    store = FeatureStore(tmp_path, {})
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(FvvError, match=r"No space left.*set cache_dir"):
        store.write("x", Clip(torch.zeros(8, 4, 9), torch.zeros(8)))
    assert [path.name for path in tmp_path.rglob("*")] == [UNFINISHED]


def test_a_clip_is_complete_at_any_time_while_several_threads_write_it(tmp_path):
    store = FeatureStore(tmp_path, {})
    clip = Clip(torch.randn(8, 256, 64), torch.arange(8.0))
    store.write("x", clip)
    with ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(store.write, "x", clip) for _ in range(40)]
        while not all(write.done() for write in writes):
            assert store.holds("x")
            assert torch.equal(store.read("x").features, clip.features)
        assert not any(write.exception() for write in writes)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["x.safetensors"]


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: b"\0" * len(data)])
def test_a_damaged_file_is_computed_again_with_a_message(store, tmp_path, capsys, damage):
    dataset, _ = store()
    before = dataset[0]["vision_features"]
    file = dataset.store.file(dataset.names[0].decode())
    file.write_bytes(damage(file.read_bytes()))
    again, counts = store()
    assert counts == {"computed": 1, "found": 2}
    assert f"{file}: it is damaged" in capsys.readouterr().out
    torch.testing.assert_close(again[0]["vision_features"], before)
    for spoil in (lambda: file.write_bytes(damage(file.read_bytes())), file.unlink):  # after the first step
        spoil()
        with pytest.raises(FvvError, match=rf"{file.name}: these features cannot be read .*Delete the file"):
            again[0]


def test_a_clip_that_changes_while_it_is_read_is_an_error(store, media, monkeypatch, tmp_path):
    read = LazySupervisedDataset.read

    def spoil(self, medium, index):
        video = read(self, medium, index)
        medium.source.write_bytes(medium.source.read_bytes() + b"more")
        return video

    monkeypatch.setattr(LazySupervisedDataset, "read", spoil)
    with pytest.raises(VideoDecodeError, match=r"data\.json, sample 0: .*clip\.mp4: it changed while it was read"):
        store()
    assert not files(tmp_path)


def test_stored_features_and_times_belong_to_each_frame(store, model, media):
    dataset, _ = store()
    item = dataset[0]
    assert item["vision_features"].shape == (8, 4, 128)
    frames = dataset.dataset[0]["images"]
    with torch.no_grad():
        expected = torch.cat([tower_features(model, frame[None]) for frame in frames])
    torch.testing.assert_close(item["vision_features"], expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected[0], expected[7], atol=1e-2)  # other frames have other features
    times = dataset.store.read(dataset.names[0].decode()).timestamps
    assert np.array_equal(times, dataset.dataset.read(media / "clip.mp4", 0).timestamps)


def test_features_are_computed_in_the_precision_of_training(store):
    assert store()[0][0]["vision_features"].dtype == torch.float32
    assert store(bf16=True)[0][0]["vision_features"].dtype == torch.bfloat16
