import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from shared import SPEC
from torch.utils.data import DataLoader

from fvv_lib import (
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
    DataArguments,
    DataCollatorForSupervisedDataset,
    DataFormatError,
    FvvError,
    LazySupervisedDataset,
    TokenBudgetError,
    VideoDecodeError,
    make_supervised_data_module,
    read_video,
)
from fvv_lib.course.scenes import motion_clip, write_video
from fvv_lib.data.report import check_data
from fvv_lib.data.splits import open_splits
from fvv_lib.video import isolation


def sample(question="<image>\nWhat colour is it?", answer="It is red.", **rest):
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **rest}


@pytest.fixture
def make(tokenizer, annotate, media):
    def build(samples, frame_spec=SPEC, seed=0, **settings):
        data_args = DataArguments(**settings)
        return LazySupervisedDataset(tokenizer, [annotate(samples)], data_args, frame_spec=frame_spec, seed=seed)

    return build


def test_item_has_one_sentinel_per_frame(make):
    dataset = make(
        [
            sample(image="clip.mp4"),
            sample(video="short.mp4"),
            sample(image="still.png"),
            sample("Which colours?"),
            sample("<image> then <image>?", image=["still.png", "clip.mp4"]),
        ],
        num_video_frames=6,
    )
    for item, count in zip(dataset, (6, 6, 1, 0, 7), strict=False):
        assert item["images"].shape == (count, 3, 64, 64)
        assert item["images"].dtype == torch.uint8
        assert (item["input_ids"] == IMAGE_TOKEN_INDEX).sum() == count
        assert item["labels"].shape == item["input_ids"].shape
        assert (item["labels"] != IGNORE_INDEX).any()


def test_lengths_are_known_before_pixels_are_read(make):
    dataset = make([sample(image="clip.mp4"), sample("Which colours?")])
    for index, length in enumerate(dataset.lengths):
        ids = dataset[index]["input_ids"]
        assert length == len(ids) + 3 * (ids == IMAGE_TOKEN_INDEX).sum()


def text_of(dataset, ids):
    return dataset.tokenizer.decode([token for token in ids.tolist() if token >= 0])


def test_time_marks_are_the_true_times_and_only_of_videos(make, media):
    samples = [
        sample("<image> then <image>?", image=["still.png", "clip.mp4"]),
        sample(image="still.png"),
        sample("Which colours?"),
    ]
    plain, marked = make(samples), make(samples, time_marks="seconds", frame_sampling="segment")
    times = read_video(media / "clip.mp4", 8, strategy="segment").timestamps
    assert "user\n then " + "".join(f"<{time:.1f}s>" for time in times) + "?" in text_of(marked, marked[0]["input_ids"])
    for key in ("input_ids", "labels"):
        assert torch.equal(marked[1][key], plain[1][key])
        assert torch.equal(marked[2][key], plain[2][key])


def test_time_marks_are_not_learned(make):
    samples = [sample(video="clip.mp4")]
    plain, marked = make(samples)[0], make(samples, time_marks="seconds")[0]
    assert len(marked["labels"]) > len(plain["labels"])
    learned = [item["labels"][item["labels"] != IGNORE_INDEX] for item in (plain, marked)]
    assert torch.equal(*learned)
    with pytest.raises(DataFormatError, match="sample 0: an answer has <image>"):
        make([sample("What?", "It is <image>.", video="clip.mp4")], time_marks="seconds")


def test_lengths_have_the_time_marks_once_the_media_are_read(make):
    dataset = make([sample(video="clip.mp4"), sample("Which colours?")], time_marks="seconds")
    before = list(dataset.lengths)
    assert all(error is None for _, error in dataset.check_media())
    for index in range(2):
        ids = dataset[index]["input_ids"]
        assert dataset.lengths[index] == len(ids) + 3 * (ids == IMAGE_TOKEN_INDEX).sum()
    assert dataset.lengths[0] > before[0]
    assert dataset.lengths[1] == before[1]


def test_a_sample_that_fits_only_without_its_time_marks_is_refused_when_it_is_read(make):
    samples = [sample(video="clip.mp4")]
    (unmarked,) = make(samples).lengths
    short = replace(SPEC, max_length=int(unmarked) + 8)  # enough for frames and text, plus one token per mark
    dataset = make(samples, short, time_marks="seconds")
    (found,) = dict(dataset.check_media()).values()
    assert isinstance(found, TokenBudgetError)
    with pytest.raises(TokenBudgetError, match=r"data\.json, sample 0: \d+ tokens"):
        dataset[0]
    dataset = make(samples, time_marks="seconds")
    assert dict(dataset.check_media()) == {0: None}
    exactly = replace(SPEC, max_length=int(dataset.lengths[0]))
    assert len(make(samples, exactly, time_marks="seconds")[0]["images"]) == 8


def test_the_length_of_random_frames_with_time_marks_holds_in_every_epoch(make, media):
    rng = np.random.default_rng(0)
    write_video(media / "long.mp4", motion_clip(rng, "left", 100)[0])  # 12.5 seconds: marks of 6 and of 7 letters
    dataset = make([sample(video="long.mp4")] * 4, time_marks="seconds", frame_sampling="random")
    assert set(dict(dataset.check_media()).values()) == {None}
    for index, longest in enumerate(dataset.lengths):
        lengths = []
        for epoch in range(12):
            dataset.set_epoch(epoch)
            ids = dataset[index]["input_ids"]
            lengths.append(len(ids) + 3 * int((ids == IMAGE_TOKEN_INDEX).sum()))
        assert len(set(lengths)) > 1
        assert max(lengths) <= longest


def test_samples_that_share_an_id_have_different_names(make):
    names = make([sample("A?", id="x"), sample("B?", id="y"), sample("C?", id="x"), sample("D?")]).names
    assert [name.split("sample ")[1] for name in names] == ["x (at 0)", "y", "x (at 2)", "3"]


def test_short_clip_gives_as_many_frames_as_its_prompt_says(make):
    item = make([sample(video="short.mp4")])[0]
    assert len(item["images"]) == 8
    assert len(item["images"].flatten(1).unique(dim=0)) == 5


def test_paths_start_from_the_annotation_file_or_from_image_folder(tokenizer, annotate, media):
    (media / "elsewhere").mkdir()
    path = annotate([sample(video="clip.mp4")], "elsewhere/data.json")
    with pytest.raises(VideoDecodeError, match=r"elsewhere.clip\.mp4: no such file"):
        LazySupervisedDataset(tokenizer, [path], DataArguments(), frame_spec=SPEC)
    assert len(LazySupervisedDataset(tokenizer, [path], DataArguments(image_folder=str(media)), frame_spec=SPEC)) == 1


def test_random_sampling_depends_on_sample_and_epoch(make):
    samples = [sample(video="clip.mp4"), sample(video="clip.mp4")]
    one, two = make(samples, frame_sampling="random"), make(samples, frame_sampling="random")
    assert torch.equal(one[0]["images"], two[0]["images"])
    assert not torch.equal(one[0]["images"], one[1]["images"])
    two.set_epoch(1)
    assert not torch.equal(one[0]["images"], two[0]["images"])


def test_random_frames_follow_the_seed(make):
    samples = [sample(video="clip.mp4")]
    one, again, *others = (make(samples, frame_sampling="random", seed=seed)[0]["images"] for seed in (1, 1, 2, 3))
    assert torch.equal(one, again)
    assert not any(torch.equal(one, other) for other in others)
    assert not torch.equal(*others)


@pytest.mark.parametrize("count", [1, 2])
def test_random_frames_of_the_first_clip_do_not_depend_on_its_place(make, count):
    """They depend on seed, epoch and sample alone, so a run with one clip per sample can be repeated."""
    dataset = make([sample("<image>" * count + "?", video=["clip.mp4"] * count)], frame_sampling="random", seed=5)
    dataset.set_epoch(2)
    identity = map(int, dataset.identities[0])
    expected = read_video(dataset.media(0)[0].source, 8, strategy="random", seed=(5, 2, *identity))
    assert torch.equal(dataset[0]["images"][:8], dataset.pixels([expected]))


def test_clips_of_one_sample_get_different_random_frames(make):
    dataset = make([sample("<image><image><image>?", video=["clip.mp4"] * 3)], frame_sampling="random")
    one, two, three = dataset[0]["images"].split(8)
    assert not torch.equal(one, two)
    assert not torch.equal(one, three)
    assert not torch.equal(two, three)


def test_random_frames_of_a_sample_do_not_depend_on_its_position(make, media):
    """Frames stay the same if other samples are left out. Equal samples get different frames."""
    (media / "broken.mp4").write_text("not a video")
    bad = sample(video="broken.mp4")
    one, two = sample("<image>\nB?", video="clip.mp4"), sample("<image>\nC?", video="clip.mp4")
    settings = {"frame_sampling": "random", "bad_samples": "skip"}
    whole = make([bad, one, two, one], **settings)
    whole.leave_out({index: error for index, error in whole.check_media() if error})
    without, other = make([one, two, one], **settings), make([two, one], **settings)
    expected = [item["images"] for item in without]
    assert all(torch.equal(item["images"], images) for item, images in zip(whole, expected, strict=True))
    assert torch.equal(other[0]["images"], expected[1])
    assert torch.equal(other[1]["images"], expected[0])
    assert not torch.equal(expected[0], expected[2])


def test_random_frames_are_the_same_for_any_number_of_workers(make):
    dataset = make([sample(video="clip.mp4")] * 4, frame_sampling="random")
    dataset.set_epoch(3)
    alone, *others = (
        [item["images"] for item in DataLoader(dataset, batch_size=None, num_workers=workers)] for workers in (0, 1, 2)
    )
    for together in others:
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        ("[{", DataFormatError, "not valid JSON"),
        ("{}", DataFormatError, "must be a list"),
        ("[]", DataFormatError, "at least one sample"),
        ([sample(image="gone.mp4", id="x7")], VideoDecodeError, r"sample x7: .*gone\.mp4: no such file"),
        (
            [sample(image="clip.mp4"), {"image": "clip.mp4"}],
            DataFormatError,
            "sample 1: it has no 'conversations', only",
        ),
        ([sample("No picture?", image="clip.mp4")], DataFormatError, "0 <image> but 1 pictures"),
        ([sample("<image><image>", image="clip.mp4")], DataFormatError, "2 <image> but 1 pictures"),
        ([sample("<image>?")], DataFormatError, "1 <image> but 0 pictures"),
        (
            [sample("<video>\nWhat?", video="clip.mp4")],
            DataFormatError,
            r"0 <image> but 1 pictures or videos\. Write one <image> where each belongs, in place of '<video>', which",
        ),
        ([sample(image="clip.mp4", video="clip.mp4")], DataFormatError, "both 'image' and 'video'"),
        ([{**sample(image="clip.mp4"), "image": 3}], DataFormatError, "'image' must be"),
        ([{"conversations": [{"from": "robot", "value": "x"}]}], DataFormatError, "unknown role 'robot'"),
        ([{"conversations": [{"from": "human", "value": "x"}]}], DataFormatError, "no answer to learn"),
    ],
)
def test_bad_annotations_are_errors_that_name_file_and_sample(make, samples, error, message):
    with pytest.raises(error, match=message) as caught:
        make(samples)
    assert "data.json" in str(caught.value)


def test_missing_annotation_file_is_an_error(tokenizer):
    with pytest.raises(DataFormatError, match=r"nowhere\.json: no such annotation file"):
        LazySupervisedDataset(tokenizer, ["nowhere.json"], DataArguments(), frame_spec=SPEC)


def test_sample_that_does_not_fit_is_refused_when_the_dataset_is_made(tokenizer, annotate, media):
    path, short = annotate([sample(video="clip.mp4")]), replace(SPEC, max_length=40)
    with pytest.raises(TokenBudgetError, match=r"sample 0: \d+ tokens = \d+ of text \+ 8 frames x 4"):
        LazySupervisedDataset(tokenizer, [path], DataArguments(), frame_spec=short)


@pytest.mark.parametrize("frame_sampling", ["uniform", "random"])
def test_media_that_cannot_be_decoded_are_found_before_training(make, media, frame_sampling):
    (media / "broken.mp4").write_bytes((media / "clip.mp4").read_bytes()[:700])
    (media / "text.mp4").write_text("not a video")
    samples = [sample(video="clip.mp4"), sample(video="broken.mp4"), sample("Hm?"), sample(video="text.mp4")]
    found = dict(make(samples, frame_sampling=frame_sampling).check_media())
    assert [found[0], found[2]] == [None, None]
    for index, name in ((1, "broken.mp4"), (3, "text.mp4")):
        assert isinstance(found[index], VideoDecodeError)
        assert name in str(found[index])


def test_pixels_in_place_of_a_path_are_an_error_about_the_sample(make):
    """Some data sets store pixels there. The operating system then reports that the name is too long."""
    with pytest.raises(VideoDecodeError, match=r"sample 0: .*data:image/png;base64,AAA.*: no such file") as error:
        make([sample(image="data:image/png;base64," + "A" * 10_000)])
    assert len(str(error.value)) < 1000


def test_if_no_clip_can_be_decoded_no_sample_is_blamed(make, monkeypatch):
    """No sample is left out either."""
    monkeypatch.setattr(isolation, "_mine", threading.local())
    monkeypatch.setattr(isolation, "START", "raise SystemExit(3)")
    dataset = make([sample(video="clip.mp4")], bad_samples="skip", decode_timeout=30)
    with pytest.raises(FvvError, match=r"did not start .*exit code 3"):
        list(dataset.check_media())
    with pytest.raises(FvvError, match=r"did not start .*exit code 3"):
        check_data(dataset, quiet=True)


def test_bad_samples_are_raised_or_left_out_and_listed(make, media):
    (media / "text.mp4").write_text("not a video")
    good = sample(video="clip.mp4", id="good")
    samples = [sample("Two <image>?", id="words"), good, sample(video="text.mp4", id="pixels")]
    with pytest.raises(DataFormatError, match="sample words"):
        make(samples)
    dataset = make(samples, bad_samples="skip")
    assert [name.split("sample ")[1] for name in dataset.names] == ["good", "pixels"]
    dataset.leave_out({index: error for index, error in dataset.check_media() if error})
    assert [name.split("sample ")[1] for name in dataset.names] == ["good"]
    assert [name.split("sample ")[1] for name in dataset.bad] == ["words", "pixels"]
    assert (len(dataset), len(dataset.lengths), len(dataset.names)) == (1, 1, 1)
    assert torch.equal(dataset[0]["images"], make([good])[0]["images"])
    dataset = make(samples[1:])
    with pytest.raises(VideoDecodeError, match=r"text\.mp4"):
        dataset.leave_out({index: error for index, error in dataset.check_media() if error})


def test_of_two_samples_that_share_an_id_only_the_bad_one_is_left_out(make):
    same = [sample("Two <image>?", id="same"), sample("Fine?", id="same")]
    dataset = make(same, bad_samples="skip")
    assert len(dataset) == len(dataset.bad) == 1


def test_skipping_bad_samples_needs_check_media():
    with pytest.raises(FvvError, match="needs check_media=True"):
        DataArguments(bad_samples="skip", check_media=False)


def test_a_folder_of_frames_is_a_video(make, media):
    (media / "frames").mkdir()
    for number in range(4):
        Image.new("RGB", (40, 30), (60 * number, 0, 0)).save(media / "frames" / f"{number}.png")
    item = make([sample(video="frames")], num_video_frames=4)[0]
    assert item["images"][:, 0, 32, 32].tolist() == [0, 60, 120, 180]


@pytest.mark.usefixtures("anamorphic")
def test_pixels_that_are_not_square_are_shown_in_their_true_shape(make):
    """64 x 64 pixels that are twice as wide as high are a 2:1 image, padded to a black square."""
    for aspect_ratio, light in (("pad", 32), ("crop", 64), ("resize", 64)):
        images = make([sample(video="wide.mp4")], image_aspect_ratio=aspect_ratio)[0]["images"]
        assert (images[:, 0, :, 32] > 150).sum(1).tolist() == [light] * 8


def test_an_unknown_template_is_refused_at_once(tokenizer, annotate):
    with pytest.raises(DataFormatError, match="Unknown template"):
        LazySupervisedDataset(tokenizer, [annotate([sample("Hm?")])], DataArguments(version="qwen"), frame_spec=SPEC)


def test_collator_stacks_equal_shapes_and_lists_the_others(tokenizer, make):
    dataset = make([sample(video="clip.mp4"), sample(video="short.mp4"), sample(image="still.png"), sample("Hm?")])
    collate = DataCollatorForSupervisedDataset(tokenizer)
    assert collate([dataset[0], dataset[1]])["images"].shape == (2, 8, 3, 64, 64)
    mixed = collate(list(map(dataset.__getitem__, range(4))))
    assert [len(images) for images in mixed["images"]] == [8, 8, 1, 0]
    for i in range(4):
        length = len(dataset[i]["input_ids"])
        assert mixed["attention_mask"][i].tolist() == [1] * length + [0] * (mixed["input_ids"].shape[1] - length)
        assert (mixed["labels"][i, length:] == IGNORE_INDEX).all()
        assert (mixed["input_ids"][i, length:] == tokenizer.pad_token_id).all()


def test_pad_token_in_the_text_counts_as_text(tokenizer, make):
    item = make([sample("What is <|endoftext|>?")], allow_special_tokens=True)[0]
    assert tokenizer.pad_token_id in item["input_ids"]
    assert DataCollatorForSupervisedDataset(tokenizer)([item])["attention_mask"].all()


def test_data_module_has_a_validation_set_when_one_is_named(tokenizer, annotate, media):
    train = annotate([sample(video="clip.mp4")], "train.json")
    val = annotate([sample(video="short.mp4")], "val.json")
    module = make_supervised_data_module(tokenizer, DataArguments(data_path=[train]), frame_spec=SPEC)
    assert module["eval_dataset"] is None
    module = make_supervised_data_module(
        tokenizer, DataArguments(data_path=[train], validation_data_path=val, frame_sampling="random"), frame_spec=SPEC
    )
    assert len(module["eval_dataset"]) == 1
    assert module["eval_dataset"].data_args.frame_sampling == "segment"
    assert module["train_dataset"].data_args.frame_sampling == "random"


def test_a_clip_in_both_sets_is_an_error(tokenizer, annotate, media):
    train = annotate([sample(video="clip.mp4")], "train.json")
    with pytest.raises(DataFormatError, match=r"1 of its clips.*clip\.mp4"):
        make_supervised_data_module(
            tokenizer, DataArguments(data_path=[train], validation_data_path=train), frame_spec=SPEC
        )
    with pytest.raises(DataFormatError, match="No training data"):
        make_supervised_data_module(tokenizer, DataArguments(), frame_spec=SPEC)


def test_committed_samples_are_well_formed(tokenizer, data_samples):
    for split in ("train", "val", "test"):
        dataset = LazySupervisedDataset(
            tokenizer, [str(data_samples / f"{split}.json")], DataArguments(), frame_spec=SPEC
        )
        assert len(dataset) == len(json.loads((data_samples / f"{split}.json").read_text()))


# --- fields that only scoring reads -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"choices": ["left", "right"]},
        {"choices": {"A": "x"}},
        {"choices": "A, B"},
        {"kinds": "counting"},
        {"choices": [["A", "B", "C", "D"]]},
        {"choices": [["green", "blue"]]},
    ],
)
def test_training_ignores_the_fields_of_test_sets(make, annotate, media, tokenizer, fields):
    """Data sets with multiple choice use these names in other ways. A check without scoring must not be taken from the
    cache for a test set."""
    samples = [sample(image="still.png", **fields)]
    assert len(make(samples)) == 1
    path = annotate(samples)
    with pytest.raises(DataFormatError, match="sample 0: "):
        LazySupervisedDataset(tokenizer, [path], DataArguments(), frame_spec=SPEC, scored=True)
    (media / "train.json").write_text(json.dumps([sample(image="clip.mp4", **fields)]))
    settings = DataArguments(data_path=(str(media / "train.json"),), validation_data_path=path)
    assert len(open_splits(tokenizer, settings, frame_spec=SPEC)["validation"]) == 1
    with pytest.raises(DataFormatError, match="sample 0: "):
        open_splits(tokenizer, replace(settings, test_data_path=path), frame_spec=SPEC)
