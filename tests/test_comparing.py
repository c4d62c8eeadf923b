"""Comparing runs: every setting is compared, or cannot change a result."""

import json
import os
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from fvv_lib import CheckpointError, DataArguments, DataFormatError, ModelArguments, TrainingArguments
from fvv_lib.arguments import REFUSED
from fvv_lib.finetuning import comparing
from fvv_lib.finetuning.comparing import (
    COMPARED,
    COMPARED_WHERE,
    FILES,
    FREE,
    GROWING,
    MEDIA_FOLDER,
    MULTIPLIED,
    check_same_run,
    describe_settings,
    differences,
    identify,
    length_change,
    uncompared,
)

LISTS = {
    "files": FILES,
    "folder": (MEDIA_FOLDER,),
    "compared": COMPARED,
    "where": COMPARED_WHERE,
    "growing": GROWING,
    "product": MULTIPLIED,
}


def test_every_setting_is_in_exactly_one_list():
    """For a new setting, decide whether it can change a result."""
    settings = (ModelArguments, DataArguments, TrainingArguments)
    names = sorted({field.name for each in settings for field in fields(each) if field.init})
    assert sorted(name for one in (*LISTS.values(), FREE) for name in one) == names


def test_a_setting_whose_other_values_are_refused_is_not_compared():
    assert set(REFUSED) <= set(FREE)


@pytest.fixture
def described(base, annotate, tmp_path):
    """Return the settings of a run as its record stores them."""
    paths = {name: annotate([{"id": name}], f"{name}.json") for name in ("train", "val", "test")}

    def make(model=None, data=None, **training):
        training = {"output_dir": str(tmp_path / "o"), "use_cpu": True, "report_to": "none", **training}
        return describe_settings(
            ModelArguments(**{"model_name_or_path": str(base), **(model or {})}),
            DataArguments(**{"data_path": (paths["train"],), "test_data_path": paths["test"], **(data or {})}),
            TrainingArguments(**training),
        )

    make.paths = paths
    return make


def changed(settings, name):
    """Return the settings with another value of `name`."""
    other = json.loads(json.dumps(settings))
    for part in other.values():
        if name in part:
            part[name] = "other" if part[name] != "other" else "another"
    return other


@pytest.mark.parametrize("name", COMPARED)
def test_a_setting_that_can_change_a_result_is_compared_and_named(described, name):
    settings = described(model={"lora_rank": 4, "lora_alpha": 8})
    (found,) = differences(identify(settings, 1), identify(changed(settings, name), 1))
    assert found.startswith(f"{name} (")


@pytest.mark.parametrize("name", [*FREE, *COMPARED_WHERE])
def test_a_setting_that_cannot_change_a_result_is_not_compared(described, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # one of them is a folder
    settings = described()
    assert any(name in part for part in settings.values()), name
    assert differences(identify(settings, 1), identify(changed(settings, name), 1)) == []


@pytest.mark.parametrize("name", COMPARED_WHERE)
def test_a_setting_of_validation_or_reading_is_compared_if_it_affects_the_result(described, name):
    settings = described()
    settings["training"] |= {"load_best_model_at_end": True, "train_sampling_strategy": "group_by_length"}
    settings["training"] |= {"metric_for_best_model": "accuracy"}
    settings["data"] |= {"bad_samples": "skip", "time_marks": "seconds"}
    (found,) = differences(identify(settings, 1), identify(changed(settings, name), 1))
    assert found.startswith(name)


def test_the_samples_of_a_step_are_compared_as_a_product(described):
    one = identify(described(per_device_train_batch_size=4, gradient_accumulation_steps=2), 1)
    assert differences(one, identify(described(per_device_train_batch_size=1, gradient_accumulation_steps=4), 2)) == []
    (found,) = differences(one, identify(described(per_device_train_batch_size=4, gradient_accumulation_steps=2), 2))
    assert found == (
        "samples in a step (processes x per_device_train_batch_size x gradient_accumulation_steps) (8 then, 16 now)"
    )


def test_data_are_compared_by_content(described, tmp_path):
    before = identify(described(), 1)
    moved = shutil.copy(described.paths["train"], tmp_path / "moved.json")
    assert differences(before, identify(described(data={"data_path": (moved,)}), 1)) == []
    other = differences(before, identify(described(data={"data_path": (described.paths["val"],)}), 1))
    assert other == [f"data_path ({described.paths['train']} then, {described.paths['val']} now)"]
    assert differences(before, identify(described(data={"validation_data_path": moved}), 1)) == [
        f"validation_data_path (none then, {moved} now)"
    ]
    with open(described.paths["test"], "a") as file:
        file.write("\n")
    assert differences(before, identify(described(), 1)) == ["test_data_path (its content has changed)"]
    with pytest.raises(DataFormatError, match=r"gone\.json: no such annotation file\. Check the path"):
        identify(described(data={"data_path": ("gone.json",)}), 1)


@pytest.fixture
def with_media(described, tmp_path):
    """Return the identity of a run on a data set: annotations, a clip, a picture and a folder of frames."""

    def make(name, clip=b"clip", frame=b"frame", **data):
        folder = tmp_path / name
        if not folder.exists():
            (folder / "frames").mkdir(parents=True)
            (folder / "clip.mp4").write_bytes(clip)
            (folder / "still.png").write_bytes(b"still")
            (folder / "frames" / "1.png").write_bytes(frame)
            samples = [{"video": "clip.mp4"}, {"image": "still.png"}, {"video": "frames"}, {"id": "text"}]
            (folder / "train.json").write_text(json.dumps(samples))
        return identify(described(data={"data_path": (str(folder / "train.json"),), **data}), 1)

    return make


def test_images_and_videos_are_compared_by_content(with_media, tmp_path):
    """The annotations of two data sets may be equal, and the clips beside them differ."""
    before = with_media("v1")
    assert differences(before, with_media("copy")) == []
    os.utime(tmp_path / "copy" / "clip.mp4", (1, 1))
    assert differences(before, with_media("copy", image_folder=str(tmp_path / "v1"))) == []
    for other in ({"clip": b"longer clip"}, {"clip": b"CLIP"}, {"frame": b"other"}):
        (found,) = differences(before, with_media("v2", **other))
        assert found.startswith("image or video (data_path: the content of a file that ")
        assert found.endswith("v2/train.json names differs)")
        shutil.rmtree(tmp_path / "v2")
    for name in ("still.png", "frames/1.png", "clip.mp4"):
        (tmp_path / "copy" / name).unlink()  # reading the samples reports it
        assert len(differences(before, with_media("copy"))) == 1
    folder = str(tmp_path / "copy")
    (found,) = differences(before, with_media("v1", image_folder=folder))
    assert found.endswith(f"; image_folder None then, {folder} now)")


def test_a_file_that_cannot_be_read_is_named(with_media, tmp_path):
    """A disk that is not mounted must not look like other videos."""
    before = with_media("v1")
    clip = tmp_path / "v1" / "clip.mp4"
    clip.rename(tmp_path / "elsewhere.mp4")
    (found,) = differences(before, with_media("v1"))
    assert f"cannot be read now: 1, the first is {clip}" in found


def test_what_has_not_changed_is_not_opened_again(with_media, tmp_path, monkeypatch):
    """Neither files nor folders of frames."""
    monkeypatch.setattr("fvv_lib.data.known.RECENT", 0.0)
    opened, sketch = [], comparing._sketch
    monkeypatch.setattr(comparing, "_sketch", lambda name: opened.append(Path(name).name) or sketch(name))
    cache = {"cache_dir": str(tmp_path / "cache")}
    before = with_media("v1", **cache)
    assert sorted(opened) == ["clip.mp4", "frames", "still.png"]
    assert with_media("v1", **cache) == before
    assert len(opened) == 3
    (tmp_path / "v1" / "frames" / "1.png").write_bytes(b"FRAME")
    assert with_media("v1", **cache) != before
    assert opened[3:] == ["frames"]


def test_a_hidden_file_in_a_folder_of_frames_changes_nothing(with_media, tmp_path):
    before = with_media("v1")
    (tmp_path / "v1" / "frames" / ".nfs01").write_text("left by a file system")
    assert differences(before, with_media("v1")) == []


def test_the_start_and_the_end_of_a_large_file_are_compared(with_media, tmp_path):
    """And not all of it: a data set may have terabytes."""
    before = with_media("v1", clip=bytes(100_000))
    for place, changes in ((0, True), (99_999, True), (50_000, False)):
        content = bytearray(100_000)
        content[place] = 1
        (tmp_path / "v1" / "clip.mp4").write_bytes(content)
        assert bool(differences(before, with_media("v1"))) == changes


def test_a_run_of_an_earlier_build_is_compared_without_media(with_media, tmp_path):
    now = with_media("v1", image_folder=str(tmp_path / "v1"))
    old = json.loads(json.dumps(now))
    for name in ("data_path", "validation_data_path", "test_data_path"):
        del old[name]["media"]
    del old["keep_path"]  # a newer setting, which is not used here
    assert differences(old, now) == []
    assert uncompared(old, now) == ["images and videos"]
    assert uncompared(now, now) == []
    moved = with_media("v1", image_folder=str(tmp_path))
    assert differences(old, moved) == [f"image_folder ('{tmp_path / 'v1'}' then, '{tmp_path}' now)"]


def test_a_pipe_among_the_media_does_not_block(with_media, tmp_path):
    before = with_media("v1")
    (tmp_path / "v1" / "clip.mp4").unlink()
    os.mkfifo(tmp_path / "v1" / "clip.mp4")
    assert len(differences(before, with_media("v1"))) == 1


def test_a_model_is_compared_by_content(described, base, tmp_path):
    before = identify(described(), 1)
    copy = shutil.copytree(base, tmp_path / "copy")
    moved = described(model={"model_name_or_path": str(copy)})
    assert differences(before, identify(moved, 1)) == []
    (copy / "README.md").write_text("a note")  # loading does not read it
    assert differences(before, identify(moved, 1)) == []
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    (found,) = differences(before, identify(moved, 1))
    assert found.startswith("model_name_or_path (")
    assert differences(identify(described(model={"model_name_or_path": "org/a"}), 1), before)


def test_two_spellings_of_the_same_setting_are_equal(described, base, monkeypatch, tmp_path):
    lora = {"lora_rank": 4, "tunable_parts": ("projector", "language_model")}
    same = {"lora_rank": 4, "lora_alpha": 8, "tunable_parts": ("language_model", "projector")}
    assert differences(identify(described(model=lora), 1), identify(described(model=same), 1)) == []
    monkeypatch.chdir(tmp_path)
    here, there = ({"image_folder": folder} for folder in (".", str(tmp_path)))
    assert differences(*(identify(described(data=data), 1, read=False) for data in (here, there))) == []
    pyav = described(data={"video_backend": "pyav"})
    assert differences(identify(described(), 1), identify(pyav, 1)) == []


@pytest.mark.parametrize(
    ("before", "now", "change"),
    [
        ({"max_steps": 5}, {"max_steps": 5}, "same"),
        ({"max_steps": 5}, {"max_steps": 5, "num_train_epochs": 1}, "same"),  # steps overrule epochs
        ({"max_steps": 5}, {"max_steps": 6}, "longer"),
        ({"max_steps": 5}, {"max_steps": 4}, "shorter"),
        ({"num_train_epochs": 2}, {"num_train_epochs": 2.5}, "longer"),
        ({"num_train_epochs": 2}, {"num_train_epochs": 1}, "shorter"),
        ({"num_train_epochs": 2}, {"max_steps": 1}, "unknown"),
    ],
)
def test_a_run_may_grow_and_not_shrink(described, before, now, change):
    one, other = (identify(described(**settings), 1) for settings in (before, now))
    assert length_change(one, other) == change
    assert differences(one, other) == []
    if change != "shorter":
        check_same_run("there", one, other)
        return
    with pytest.raises(CheckpointError, match=r"^there: that run had (max_steps=5|num_train_epochs=2), .* only grow"):
        check_same_run("there", one, other)


def test_a_setting_that_an_old_record_lacks_is_not_compared(described, base, tmp_path):
    settings = described()
    old = json.loads(json.dumps(settings))
    del old["training"]["optim"], old["data"]["frame_pool"], old["training"]["gradient_accumulation_steps"]
    before = identify(old, None, read=False)
    assert differences(before, identify(changed(settings, "optim"), 3)) == []
    assert differences(before, identify(described(learning_rate=1e-2), 1)) == ["learning_rate (5e-05 then, 0.01 now)"]
    moved = shutil.copy(described.paths["train"], tmp_path / "moved.json")  # the record has only the old path
    (found,) = differences(before, identify(described(data={"data_path": (moved,)}), 1))
    assert found.startswith("data_path (")
    assert differences(before, {**identify(settings, 1), "a new setting": 1}) == []
