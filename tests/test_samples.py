"""Samples: the committed data has enough questions of each kind, covers every case, and is complete."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from shared import SPEC

from fvv_lib.course.samples import SPLITS, Split, backwards, write_samples, write_split
from fvv_lib.course.scenes import DIRECTIONS
from fvv_lib.data.dataset import LazySupervisedDataset
from fvv_lib.evaluation.scoring import accuracy_by_kind, evaluate
from fvv_lib.settings import DataArguments
from fvv_lib.video.kinds import VIDEO_EXTENSIONS, is_video_file
from fvv_lib.video.read import read_video
from fvv_lib.weights.loading import load_pretrained_model, open_model_folder

FOLDER = Path(__file__).resolve().parents[1] / "data_samples"
TRAINED = FOLDER / "tiny-fastvlm-video"
TINY = Split(motion=11, order=2, short=1, stills=2, texts=1)


@pytest.fixture(scope="module")
def records():
    """The records of each split, by the name of the split."""
    return {name: json.loads((FOLDER / f"{name}.json").read_text()) for name in SPLITS}


def media(sample):
    """Return the path of a sample's image or clip, or `None` for text."""
    return sample.get("image") or sample.get("video")


def questions(samples):
    """Yield each question as (kind, text, answer, choices)."""
    for sample in samples:
        turns = [turn["value"] for turn in sample["conversations"]]
        yield from zip(sample["kinds"], turns[::2], turns[1::2], sample["choices"], strict=True)


@pytest.mark.parametrize("name", SPLITS)
def test_split_has_the_declared_number_of_samples(records, name):
    kinds = Counter(sample["id"].split("-")[1] for sample in records[name])
    split = SPLITS[name]
    expected = {
        "motion": split.motion,
        "order": split.order,
        "short": split.short,
        "still": split.stills,
        "text": split.texts,
    }
    assert kinds == {kind: count for kind, count in expected.items() if count}


def test_test_split_has_at_least_100_questions_of_each_kind(records):
    counts = Counter(kind for kind, *_ in questions(records["test"]))
    for kind in ("colour", "shape", "motion", "order"):
        assert counts[kind] >= 100


def test_ids_are_unique(records):
    ids = [sample["id"] for samples in records.values() for sample in samples]
    assert len(ids) == len(set(ids))


def test_conversations_are_well_formed(records):
    for sample in (sample for samples in records.values() for sample in samples):
        turns = sample["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert sum(turn["value"].count("<image>") for turn in turns) == (media(sample) is not None)
        assert all(turn["value"] for turn in turns)
        if media(sample):
            assert turns[0]["value"].startswith("<image>\n")


def test_each_answer_names_one_choice(records):
    for kind, _, answer, choices in questions(sample for samples in records.values() for sample in samples):
        if kind != "text":
            named = [choice for choice in choices if choice in answer]
            assert named
            assert kind == "place" or len(named) == 1


def test_no_answer_can_be_guessed_from_the_question(records):
    """Directions are equally frequent. About half of the order questions name the right shape first."""
    asked = list(questions(records["test"]))
    ways = Counter(way for kind, _, answer, _ in asked if kind == "motion" for way in DIRECTIONS if way in answer)
    assert max(ways.values()) - min(ways.values()) <= 2
    named_first = [choices[0] in answer for kind, _, answer, choices in asked if kind == "order"]
    assert 0.35 < sum(named_first) / len(named_first) < 0.65


def test_every_video_extension_occurs(records):
    occurring = {Path(media(sample)).suffix for sample in records["train"] if media(sample)}
    assert set(VIDEO_EXTENSIONS) <= occurring


@pytest.mark.parametrize("name", SPLITS)
def test_both_keys_are_used_for_clips(records, name):
    keys = {
        key for sample in records[name] for key in ("image", "video") if key in sample and is_video_file(sample[key])
    }
    assert keys == {"image", "video"}


@pytest.mark.parametrize("name", SPLITS)
def test_some_conversations_have_several_turns(records, name):
    assert any(len(sample["conversations"]) > 2 for sample in records[name])


@pytest.mark.parametrize("name", SPLITS)
def test_split_has_a_clip_with_too_few_frames(records, name):
    short = next(media(sample) for sample in records[name] if "-short-" in sample["id"])
    assert read_video(FOLDER / short, 8).total_frames < 8


@pytest.mark.parametrize("name", ["train", "val"])
def test_split_has_a_still_image_and_a_text(records, name):
    still = next(media(sample) for sample in records[name] if "-still-" in sample["id"])
    with Image.open(FOLDER / still) as picture:
        picture.load()
    assert any(media(sample) is None for sample in records[name])


@pytest.mark.parametrize("extension", VIDEO_EXTENSIONS)
def test_a_committed_clip_of_each_extension_can_be_read(records, extension):
    paths = (media(sample) for sample in records["train"] if "-short-" not in sample["id"] and media(sample))
    video = read_video(FOLDER / next(path for path in paths if path.endswith(extension)), 8)
    assert video.total_frames == 24


def test_samples_use_exactly_the_files_in_the_folder(records):
    used = [media(sample) for samples in records.values() for sample in samples if media(sample)]
    there = [path.relative_to(FOLDER).as_posix() for path in (FOLDER / "videos").rglob("*") if path.is_file()]
    assert sorted(used) == sorted(there)


def test_splits_share_no_file(records):
    contents = {
        name: {
            hashlib.sha256((FOLDER / media(sample)).read_bytes()).hexdigest()
            for sample in records[name]
            if media(sample)
        }
        for name in SPLITS
    }
    assert not contents["train"] & contents["val"]
    assert not contents["train"] & contents["test"]
    assert not contents["val"] & contents["test"]


def test_folder_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 16e6


def test_a_clip_played_backwards_has_the_opposite_answers(records):
    for sample in records["test"]:
        turned = backwards(sample)
        for before, after in zip(questions([sample]), questions([turned]), strict=True):
            kind, text, answer, choices = before
            assert (after[0], after[1], after[3]) == (kind, text, choices)
            if kind == "motion":
                ways = [next(way for way in DIRECTIONS if way in told) for told in (answer, after[2])]
                assert tuple(np.add(*(DIRECTIONS[way] for way in ways))) == (0, 0)
            elif kind == "order":
                assert {f"The {name} comes first." for name in choices} == {answer, after[2]}
            else:
                assert after[2] == answer
        assert backwards(turned) == sample


# --- the model trained on the samples ------------------------------------------------------------------------------


def test_the_trained_model_answers_questions_about_motion_and_order():
    loaded = load_pretrained_model(TRAINED)
    dataset = LazySupervisedDataset(
        loaded.tokenizer, [str(FOLDER / "test.json")], DataArguments(image_folder=str(FOLDER)), frame_spec=SPEC
    )
    table = accuracy_by_kind(evaluate(loaded.model, loaded.tokenizer, dataset))
    assert set(table) == {"colour", "shape", "motion", "order"}
    assert min(row["accuracy"] for row in table.values()) >= 0.95


def test_the_trained_model_differs_from_the_base_only_in_its_weights(base):
    before, after = open_model_folder(base), open_model_folder(TRAINED)
    for part in ("text_config", "vision_config"):
        assert {**before.config.to_dict()[part], "dtype": ""} == {**after.config.to_dict()[part], "dtype": ""}
    assert before.video_config == after.video_config
    assert before.tokenizer.get_vocab() == after.tokenizer.get_vocab()
    shapes = [
        {name: tensor.shape for name, tensor in load_file(folder / "model.safetensors").items()}
        for folder in (base, TRAINED)
    ]
    assert shapes[0] == shapes[1]


def test_the_trained_model_has_the_same_files_as_the_base(base):
    """`make trained` copies these files, but not checkpoints, logs and metrics.json, which contains local paths."""
    names = sorted(path.name for path in TRAINED.iterdir())
    assert names == sorted(path.name for path in base.iterdir())
    (listed,) = re.findall(r"^FILES +:= ((?:.*\\\n)?.*)$", (FOLDER.parent / "Makefile").read_text(), re.M)
    assert sorted(listed.replace("\\", "").split()) == names


@pytest.mark.parametrize("name", ["tiny-fastvlm", "tiny-fastvlm-video"])
def test_a_committed_model_contains_no_absolute_path(name):
    for path in [*(FOLDER / name).glob("*.json"), *(FOLDER / name).glob("*.jinja")]:
        assert not re.search(r'"(?:/|[A-Z]:)[\w.-]*[/\\]', path.read_text()), path.name


# --- writing ------------------------------------------------------------------------------------------------------


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_writing_a_split_twice_gives_the_same_bytes(tmp_path):
    first, again = (write_split(tmp_path / folder, "train", TINY, seed=5) for folder in "ab")
    assert first == again
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == len(first) - TINY.texts


def test_the_committed_questions_match_the_current_code(tmp_path, monkeypatch):
    """The questions do not depend on pixels. Without drawing and encoding, all three splits take a second."""
    monkeypatch.setattr("fvv_lib.course.scenes.draw", lambda *_, **__: np.zeros((1, 1, 3), dtype=np.uint8))
    monkeypatch.setattr("fvv_lib.course.samples.write_video", lambda *_: None)
    monkeypatch.setattr(Image.Image, "save", lambda *_: None)
    write_samples(tmp_path)
    for name in SPLITS:
        assert (tmp_path / f"{name}.json").read_text() == (FOLDER / f"{name}.json").read_text()


def test_written_split_uses_both_keys_and_other_containers(tmp_path):
    records = write_split(tmp_path, "train", TINY, seed=5)
    assert {key for sample in records for key in ("image", "video") if key in sample} == {"image", "video"}
    assert len({Path(media(sample)).suffix for sample in records if media(sample)} - {".mp4", ".png"}) >= 1


def test_another_seed_writes_different_samples(tmp_path):
    write_split(tmp_path / "a", "train", TINY, seed=5)
    write_split(tmp_path / "b", "train", TINY, seed=6)
    assert contents(tmp_path / "a") != contents(tmp_path / "b")


def test_writing_a_split_again_replaces_its_files_and_no_others(tmp_path):
    write_split(tmp_path, "val", TINY, seed=1)
    before = contents(tmp_path)
    write_split(tmp_path, "test", TINY, seed=2)
    records = write_split(tmp_path, "test", Split(motion=1, order=0, short=0, stills=0, texts=0), seed=2)
    after = contents(tmp_path)
    assert {path.parts[1] for path in after} == {"val", "test"}
    assert all(after[path] == content for path, content in before.items())
    assert [path.as_posix() for path in after if path not in before] == [media(sample) for sample in records]
