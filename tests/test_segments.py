"""A part of a video is read to the frame, and each place that knows videos by their files knows parts of them."""

import json
import os
import random
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shared import SPEC, write_at_rate

from fvv_lib import (
    Chat,
    DataArguments,
    DataFormatError,
    FvvError,
    LazySupervisedDataset,
    Medium,
    VideoDecodeError,
    load_pretrained_model,
    read_video,
)
from fvv_lib.course.numbered import paint, read_numbers, write_numbered
from fvv_lib.data import inspecting, known
from fvv_lib.data.annotations import media_of
from fvv_lib.data.known import FILE, MISSING
from fvv_lib.data.media_units import MediaUnits
from fvv_lib.data.report import check_data
from fvv_lib.data.splits import check_disjoint
from fvv_lib.data.table import LAST_NUMBER, Annotations
from fvv_lib.scaling import feature_store
from fvv_lib.scaling.feature_store import FeatureStore
from fvv_lib.video.medium import parse_time
from fvv_lib.video.read import _sample, read_media, video_times


def sample(question="<image>\nWhich number?", answer="One.", **rest):
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **rest}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`clip.mp4`, 72 numbered frames at 25 per second, `still.png`, and `frames`, images of the numbers 0 to 11."""
    place = tmp_path_factory.mktemp("segments")
    write_numbered(place / "clip.mp4", b_frames=2)
    Image.fromarray(paint(5)).save(place / "still.png")
    (place / "frames").mkdir()
    for number in range(12):
        Image.fromarray(paint(number)).save(place / "frames" / f"{number}.png")
    return place


@pytest.fixture
def make(tokenizer, folder, annotate):
    def build(samples, name="data.json", **settings):
        arguments = DataArguments(image_folder=str(folder), decode_timeout=0, **settings)
        return LazySupervisedDataset(tokenizer, [annotate(samples, name)], arguments, frame_spec=SPEC)

    return build


# --- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        *((0, 0), (2.5, 2.5), ("2.5", 2.5), ("75", 75), ("01:15", 75), ("90:00", 5400), ("1:02:03.5", 3723.5)),
        *(("00:00:00.040", 0.04), (" 0:07 ", 7)),
    ],
)
def test_a_time_is_a_number_of_seconds_or_a_text_of_hours_minutes_and_seconds(written, seconds):
    assert parse_time(written) == pytest.approx(seconds, abs=1e-12)


@pytest.mark.parametrize(
    "written",
    [
        *(
            -1,
            True,
            None,
            float("nan"),
            float("inf"),
            10**400,
            "",
            "now",
            "1:2:3:4",
            "-1",
            "1e3",
            "12 s",
            "1:60",
            "1:99:00",
        ),
        *("00:01,5", "٣", "9" * 5000, [1], {"a": 1}, "1:", ":5", "0x10"),
    ],
)
def test_what_is_no_time_is_an_error(written):
    with pytest.raises(FvvError, match="It must be a number of seconds"):
        parse_time(written)


@pytest.mark.parametrize(("start", "end"), [("0:01", "0:02"), (1, 2), ("1.0", 2.0)])
def test_the_reader_accepts_times_as_texts(folder, start, end):
    assert read_video(folder / "clip.mp4", 25, start=start, end=end).indices.tolist() == list(range(25, 50))


# --- what a sample may say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"video": "a.mp4", "start": 1, "end": "0:02"}, [Medium("a.mp4", 1, 2)]),
        ({"video": "a.mp4", "end": [2]}, [Medium("a.mp4", None, 2)]),
        ({"video": {"frames": ["a/1.jpg"]}}, [Medium(["a/1.jpg"])]),
        ({"video": {"frames": "a"}}, [Medium("a", fps=1)]),
        (
            {"image": ["a.mp4", "b.png", "a.mp4"], "start": [0.5, None, 2], "end": [1, None, None]},
            [Medium("a.mp4", 0.5, 1), Medium("b.png"), Medium("a.mp4", 2)],
        ),
        ({"video": {"frames": ["a/1.jpg", "a/2.jpg"], "fps": 8}}, [Medium(("a/1.jpg", "a/2.jpg"), fps=8)]),
        ({"video": {"frames": "a", "fps": 8}, "start": 1}, [Medium("a", 1, fps=8)]),
        ({"video": {"frames": ["a/1.jpg"]}}, [Medium(("a/1.jpg",))]),
        ({"video": ["a.mp4", {"frames": ["b/1.jpg"], "fps": None}]}, [Medium("a.mp4"), Medium(("b/1.jpg",))]),
        ({"video": ["a/1.jpg", "a/2.jpg"]}, [Medium("a/1.jpg"), Medium("a/2.jpg")]),
        ({"start": 3}, []),  # without a video, it is a note
    ],
)
def test_a_sample_names_parts_of_videos_and_videos_of_frames(fields, expected):
    assert media_of(fields) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"video": "a.mp4", "start": "open"}, r"start: 'open' is not a time\. It must be a number of seconds"),
        ({"video": "a.mp4", "end": "2024-05-01"}, "end: '2024-05-01' is not a time"),
        ({"video": "a.mp4", "start": -1}, "start: '-1' is not a time"),
        ({"video": "a.mp4", "start": 2, "end": 2}, "start=2 s must be before end=2 s"),
        ({"video": "a.mp4", "end": 0}, "start=0 s must be before end=0 s"),
        ({"video": ["a.mp4", "b.mp4"], "start": 1}, "'start' must have one time for each of the 2 images and videos"),
        ({"video": ["a.mp4", "b.mp4"], "end": [1]}, r"'end' must have one time for each of the 2 .*; got \[1\]"),
        ({"video": "a.mp4", "start": []}, "'start' must have one time for each of the 1 images and videos"),
        ({"video": {"frames": []}}, "a video of images must be .*, but its frames are missing"),
        ({"video": {"frame": ["a.png"]}}, "a video of images must be .*, but it has 'frame'"),
        (
            {"video": {"frames": ["a.png"], "start": 1}},
            ".*, but it has 'start'. Write 'start' and 'end' beside 'video'",
        ),
        ({"video": {"frames": ["a.png"], "fps": 0}}, "fps must be a number of frames per second above 0, got 0"),
        ({"video": {"frames": ["a.png"], "fps": "8"}}, "fps must be a number of frames per second above 0, got '8'"),
        ({"video": {"frames": ["a.png", 3]}}, "'video' must be a path or a list of paths"),
        ({"video": {"frames": {"a": 1}}}, "'video' must be a path or a list of paths"),
        ({"video": [["a.png"]]}, "'video' must be a path or a list of paths"),
    ],
)
def test_a_part_that_cannot_be_meant_is_an_error_that_names_the_sample(make, fields, message):
    with pytest.raises(DataFormatError, match=rf"data\.json, sample x: {message}"):
        make([sample(id="x", **fields)])


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"video": "still.png", "start": 1},
            DataFormatError,
            r"still\.png: a still image has no part\. Take out 'start'",
        ),
        (
            {"video": {"frames": "clip.mp4", "fps": 8}},
            DataFormatError,
            r"clip\.mp4: 'frames' must be a folder of images",
        ),
        ({"video": {"frames": "clip.mp4", "fps": None}}, DataFormatError, r"clip\.mp4: 'frames' must be a folder"),
        ({"video": {"frames": "clip.mp4"}}, DataFormatError, r"clip\.mp4: 'frames' must be a folder of images"),
        ({"video": {"frames": ["frames/1.png", "frames/99.png"]}}, VideoDecodeError, r"frames/99\.png: no such file"),
    ],
)
def test_a_part_that_the_file_cannot_have_is_an_error_before_training(make, fields, error, message):
    with pytest.raises(error, match=rf"data\.json, sample x: .*{message}"):
        make([sample(id="x", **fields)])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"start": 2.89}, r"start=2\.89 s, but the clip is 2\.88 s long\. Lower it\."),
        (
            {"start": 50, "end": 60},
            r"end=60 s, but the clip is 2\.88 s long\. Lower it, or leave it out",
        ),
        ({"end": 3.9}, r"end=3\.9 s, but the clip is 2\.88 s long"),
        (
            {"start": 0.41, "end": 0.43},
            r"no frame begins from 0\.41 s to 0\.43 s\. .* at 0\.400 s: start there, or",
        ),
        ({"end": 0.0001}, r"no frame begins from 0 s to 0\.0001 s\. .* at 0\.000 s"),
        ({"start": 2.87}, r"no frame begins from 2\.87 s\. The frame that is shown then begins at 2\.840 s"),
    ],
)
def test_a_part_that_the_clip_does_not_have_is_an_error_of_its_sample(make, fields, message):
    dataset = make([sample(id="x", video="clip.mp4", **fields)])
    (error,) = dict(dataset.check_media()).values()
    assert isinstance(error, VideoDecodeError)
    with pytest.raises(VideoDecodeError, match=rf"data\.json, sample x: .*clip\.mp4: {message}"):
        dataset[0]


def test_an_end_in_whole_seconds_may_be_later_than_that_of_the_clip(make, folder):
    dataset = make([sample(video="clip.mp4", start=1, end=3)])
    assert dict(dataset.check_media()) == {0: None}
    assert read_video(folder / "clip.mp4", 47, start=1, end=3).indices.tolist() == list(range(25, 72))
    for by_time in ({"strategy": "fps", "sample_fps": 25.0, "max_frames": 1000}, {"strategy": "uniform_time"}):
        to_the_end, later = (read_video(folder / "clip.mp4", 9, start=1, end=end, **by_time) for end in (None, 3.8))
        assert later.indices.tolist() == to_the_end.indices.tolist()


# --- what is read -----------------------------------------------------------------------------------------------------


def test_a_part_has_exactly_the_frames_that_are_shown_first_within_it(folder):
    for start, end in ((0.0, 0.2), (0.5, 0.84), (1.0, 2.88), (2.0, 2.04)):
        inside = [number for number in range(72) if start <= number / 25 < end]
        video = read_media(Medium(folder / "clip.mp4", start, end), len(inside))
        assert read_numbers(video.frames) == inside


@pytest.mark.parametrize("strategy", ["uniform_time", "fps"])
def test_a_part_that_begins_within_a_frame_shows_this_frame_by_time(folder, strategy):
    read = {"num_frames": 3, "strategy": strategy, "sample_fps": 25.0}
    assert read_numbers(read_media(Medium(folder / "clip.mp4", 0.41, 0.43), **read).frames) == [10, 10, 10]
    assert read_numbers(read_media(Medium(folder / "clip.mp4", 0.41, 0.52), **read).frames) == [10, 11, 12]
    assert read_numbers(read_media(Medium(folder / "clip.mp4", 2.87), **read).frames) == [71, 71, 71]


@pytest.mark.parametrize("strategy", ["uniform", "segment", "random"])
def test_two_parts_of_one_file_in_a_sample_have_frames_of_their_own(make, strategy):
    whole = {"video": ["clip.mp4", "clip.mp4"], "start": [None, "0:02"], "end": [1, None]}
    dataset = make([sample("<image> then <image>?", **whole)], frame_sampling=strategy, num_video_frames=4)
    first, second = (dataset.read(medium, 0, place) for place, medium in enumerate(dataset.media(0)))
    assert max(first.indices) < 25
    assert min(second.indices) >= 50
    assert torch.equal(dataset[0]["images"], dataset.pixels([first, second]))


@pytest.mark.parametrize("rate", [24, 30, Fraction(30000, 1001)])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_a_part_begins_and_ends_exactly_at_frames_of_any_rate(tmp_path, name, rate):
    """A time in seconds is not the exact time of a frame, and Matroska rounds it to milliseconds."""
    write_at_rate(tmp_path / name, rate, 90)
    times = video_times(tmp_path / name)
    for k in range(1, 88):
        for strategy in ("uniform", "uniform_time"):
            part = _sample("clip", times, float(k / rate), float((k + 2) / rate), 2, strategy)
            assert part.tolist() == [k, k + 1]
    assert read_numbers(read_video(tmp_path / name, 2, start=float(71 / rate)).frames) == [71, 89]


def test_random_frames_of_a_part_depend_on_the_part(make):
    parts = [{"start": 0, "end": 1}, {"start": 1, "end": 2}, {"start": 0, "end": 1}]
    dataset = make([sample(video="clip.mp4", **part) for part in parts], frame_sampling="random", num_video_frames=4)
    one, other, again = (dataset.read(dataset.media(i)[0], i).indices for i in range(3))
    assert not np.array_equal(one, other - 25)
    assert not np.array_equal(one, again)  # the third sample draws for itself, as every copy of a sample does


def test_frames_in_files_are_a_video_with_a_rate_of_its_own(make, folder):
    files = [f"frames/{number}.png" for number in (3, 9, 4, 1)]
    rate = {"fps": 2}
    videos = [{"frames": files, **rate}, {"frames": "frames", **rate}, "frames", {"frames": files[:1]}]
    dataset = make([sample("<image>" * 4 + "?", video=videos)], num_video_frames=4, time_marks="seconds")
    read = [dataset.read(medium, 0) for medium in dataset.media(0)]
    assert [read_numbers(video.frames) for video in read] == [[3, 9, 4, 1], [0, 3, 7, 11], [0, 3, 7, 11], [3] * 4]
    assert [video.timestamps[-1] for video in read] == [1.5, 5.5, 11.0, 0.0]
    assert dataset[0]["images"].shape[0] == 16
    assert "<1.5s>" in dataset.tokenizer.decode([i for i in dataset[0]["input_ids"].tolist() if i >= 0])
    part = read_media(Medium(tuple(folder / file for file in files), start=0.5, end=1.5, fps=2), 2)
    assert read_numbers(part.frames) == [9, 4]


def test_a_list_of_frames_is_read_in_a_process_of_its_own_too(folder):
    files = tuple(folder / "frames" / f"{number}.png" for number in (2, 8))
    assert read_numbers(read_media(Medium(files, fps=4), 2, timeout=60).frames) == [2, 8]
    with pytest.raises(VideoDecodeError, match=r"2\.png and 1 more frames: start=7 s, but"):
        read_media(Medium(files, start=7, fps=4), 2)


# --- where parts are known --------------------------------------------------------------------------------------------


def marks(dataset):
    return [word.partition("s>")[0] for word in text_of(dataset).split("<")[1:] if "s>" in word]


def text_of(dataset):
    return dataset.tokenizer.decode([i for i in dataset[0]["input_ids"].tolist() if i >= 0])


def test_time_marks_count_from_the_start_of_the_part_unless_the_file_is_asked_for(make):
    samples = [sample(video="clip.mp4", start=1, end=2)]
    settings = {"num_video_frames": 3, "time_marks": "seconds"}
    assert marks(make(samples, **settings)) == ["0.0", "0.5", "1.0"]
    assert marks(make(samples, **settings, time_origin="file")) == ["1.0", "1.5", "2.0"]


def test_a_frame_that_is_shown_before_the_part_begins_is_marked_with_its_start(make):
    settings = {"num_video_frames": 3, "time_marks": "seconds", "frame_sampling": "uniform_time"}
    for start, end in ((1.019, 1.06), (1.0004, 1.1)):  # 1.0004: the frame at 1 s, within the tolerance
        found = marks(make([sample(video="clip.mp4", start=start, end=end)], **settings))
        assert (found[0], min(found)) == ("0.0", "0.0")


def test_random_frames_of_a_part_are_measured_at_its_end(make, folder):
    write_numbered(folder / "long.mp4", times=list(range(0, 2000, 10)))
    settings = {"frame_sampling": "random", "num_video_frames": 2, "time_marks": "seconds"}
    for part, longest in (({}, "1999.9"), ({"end": 95}, "95.0"), ({"start": 20, "end": 95}, "95.0")):
        dataset = make([sample(video="long.mp4", **part)], **settings)
        assert dict(dataset.check_media()) == {0: None}
        digits = sum(map(len, marks(dataset)))
        most = len(dataset[0]["input_ids"]) + 2 * (SPEC.tokens_per_frame - 1) + 2 * len(longest) - digits
        assert dataset.lengths[0] == most  # a token for each digit


def test_a_file_of_which_parts_are_used_is_decoded_once_for_random_frames(make, folder, monkeypatch):
    write_numbered(folder / "other.mp4", count=5)
    decoded = []
    monkeypatch.setattr(inspecting, "count_frames", lambda source, timeout: decoded.append(source.name))
    parts = [sample(video="clip.mp4", start=k / 10, end=k / 10 + 1) for k in range(10)]
    whole = sample(video="other.mp4")
    dataset = make([*parts, whole], frame_sampling="random", num_video_frames=2)
    assert set(dict(dataset.check_media(threads=4)).values()) == {None}
    assert sorted(decoded) == ["clip.mp4", "other.mp4"]


def test_two_parts_of_a_clip_are_one_clip_for_leakage(make):
    train = make([sample(video="clip.mp4", end=1)])
    with pytest.raises(DataFormatError, match=r"1 of its clips are in the training data too, like .*clip\.mp4"):
        check_disjoint(train, make([sample(video="clip.mp4", start=2)], "val.json"))
    frames = make([sample(video={"frames": ["frames/1.png", "frames/2.png"]})])
    with pytest.raises(DataFormatError, match=r"like .*frames/2\.png"):
        check_disjoint(frames, make([sample(video={"frames": ["frames/2.png"]})], "val.json"))
    check_disjoint(train, make([sample(image="still.png")], "val.json"))


def test_stored_features_are_those_of_the_part(folder, tmp_path):
    store = FeatureStore(tmp_path, {"video": "v", "picture": "p"})
    frames = tuple(folder / "frames" / f"{number}.png" for number in (1, 2))
    media = [Medium(folder / "clip.mp4"), Medium(folder / "clip.mp4", 1), Medium(folder / "clip.mp4", end=1)]
    media += [Medium(frames), Medium(frames[::-1]), Medium(frames, fps=2), Medium(frames, 0, 1, 2), Medium(frames[0])]
    assert len({store.name(medium) for medium in media}) == len(media)
    assert store.name(Medium(folder / "clip.mp4", "0:01")) == store.name(media[1])


def test_a_file_is_read_once_for_the_names_of_all_its_parts_until_it_changes(tmp_path, monkeypatch):
    """A file that has just changed is read again: it could change once more without another time."""
    clip, read = tmp_path / "clip.mp4", []
    clip.write_bytes(b"first")
    digest = feature_store.hashlib.file_digest
    monkeypatch.setattr(
        feature_store.hashlib, "file_digest", lambda file, how: read.append(file.name) or digest(file, how)
    )
    parts = [Medium(clip, start) for start in (None, 1, 2)]
    store = FeatureStore(tmp_path, {"video": "v", "picture": "p"})
    names = [store.name(part) for part in parts]
    assert read == [str(clip)] * 3
    monkeypatch.setattr(known, "RECENT", 0.0)
    assert [store.name(part) for part in parts] == names
    assert read == [str(clip)] * 4
    times = clip.stat()
    clip.write_bytes(b"other")
    os.utime(clip, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not {store.name(part) for part in parts} & set(names)
    assert read == [str(clip)] * 5


def test_the_report_says_which_part_is_used(make, folder):
    parts = {"video": ["clip.mp4", {"frames": ["frames/1.png", "frames/2.png"], "fps": 4}], "start": ["0:01", None]}
    dataset = make([sample("<image><image>?", **parts)], num_video_frames=3, bad_samples="skip")
    (report,) = check_data(dataset, quiet=True)
    clip, frames = report.media
    assert (clip.path, clip.seconds, clip.frames, clip.sampled) == (str(folder / "clip.mp4"), 1.88, 72, 3)
    assert (clip.start, clip.end) == (1.0, None)
    assert (frames.path, frames.seconds) == (f"{folder / 'frames' / '1.png'} and 1 more frames", 0.5)


def test_a_dialogue_shows_the_part_that_training_reads(base, folder, make):
    loaded = load_pretrained_model(base, device="cpu")
    settings = {"time_marks": "seconds", "num_video_frames": 4}
    loaded.model.video_config = replace(loaded.model.video_config, **settings)
    chat = Chat(loaded, max_new_tokens=4)
    assert chat.show(folder / "clip.mp4", "0:01", 2).indices.tolist() == [25, 33, 41, 49]
    dataset = make([sample("<image>\nWhich number?", video="clip.mp4", start=1, end=2)], **settings)
    prompt = chat.prompt("Which number?")
    assert dataset[0]["input_ids"].tolist()[: len(prompt)] == prompt


def test_the_command_line_shows_a_part_of_each_video(fvv, base, folder):
    clip = ["--video", folder / "clip.mp4"]
    ask = ["--model", base, "--question", "Which?", "--max_new_tokens", "1"]
    done = fvv("chat", *ask, *clip, "--start", "0:01", "--end", "1.2")
    assert "clip.mp4 from 1 s to 1.2 s: 8 of 72 frames, at 1.00, 1.00, 1.04" in done.stdout
    done = fvv("chat", *ask, *clip, *clip, "--start", "none", "--start", "2")
    assert "8 of 72 frames, at 0.00," in done.stdout
    assert "clip.mp4 from 2 s: 8 of 72 frames, at 2.00," in done.stdout
    for flags, message in (
        ([*clip, "--start", "1", "--start", "2"], "--start must be given once for each --video: 2 for 1"),
        ([*clip, "--end", "soon"], "end: 'soon' is not a time"),
        ([*clip, "--start", "2", "--end", "1"], "start=2 s must be before end=1 s"),
        ([*clip, "--start", "9"], "start=9 s, but the clip is 2.88 s long"),
    ):
        done = fvv("chat", *ask, *flags)
        assert (done.returncode, message in done.stderr) == (1, True), done.stderr


def test_a_clean_file_keeps_the_parts(make, tmp_path):
    from fvv_lib.data.report import write_clean

    samples = [sample(video="clip.mp4", start="0:01"), sample(video="clip.mp4", start=70)]
    dataset = make(samples, bad_samples="skip")
    assert write_clean(tmp_path / "clean.json", dataset, check_data(dataset, quiet=True)) == 1
    assert json.loads((tmp_path / "clean.json").read_text()) == samples[:1]


def test_a_part_of_a_changed_annotation_file_is_noticed(make):
    assert make([sample(video="clip.mp4")]).media(0)[0].start is None
    dataset = make([sample(video="clip.mp4", start=1)])
    assert (dataset.media(0)[0].start, os.path.basename(dataset.media(0)[0].source)) == (1.0, "clip.mp4")


def test_a_folder_of_frames_and_a_list_of_its_images_are_one_clip_for_leakage(make):
    folder, images = sample(video="frames"), sample(video={"frames": ["frames/3.png", "frames/4.png"]})
    for train, held_out in ((folder, images), (images, folder)):
        with pytest.raises(DataFormatError, match=r"1 of its clips are in the training data too, like .*frames\."):
            check_disjoint(make([train]), make([held_out], "val.json"))
    check_disjoint(make([folder]), make([sample(image="still.png")], "val.json"))


def test_two_lists_of_one_numbered_series_are_one_clip_for_leakage(make):
    def listed(*numbers):
        return sample(video={"frames": [f"frames/{number}.png" for number in numbers]})

    with pytest.raises(DataFormatError, match=r"1 of its clips are in the training data too, like .*frames/\*\.png\."):
        check_disjoint(make([listed(1, 2, 3)]), make([listed(9, 10)], "val.json"))
    with pytest.raises(DataFormatError, match="1 of its clips are in"):  # one clip, not four
        check_disjoint(make([listed(1, 2, 3, 4)]), make([listed(1, 2, 3, 4)], "val.json"))
    with pytest.raises(DataFormatError, match="1 of its clips are in"):
        check_disjoint(make([listed(1, 2)]), make([sample(image="frames/2.png")], "val.json"))
    check_disjoint(make([listed(1, 2)]), make([sample(image="frames/3.png")], "val.json"))


@pytest.mark.parametrize(
    ("name", "series"),
    [
        (b"/a1/clip2_0003.jpg", b"/a1/clip2_*.jpg"),
        (b"/a/0003.png", b"/a/*.png"),
        (b"/a/3-left.jpg", b"/a/*-left.jpg"),
        (b"/a1/first.jpg", b"/a1/first.jpg"),
    ],
)
def test_a_numbered_series_has_a_star_for_the_number(name, series):
    assert LAST_NUMBER.sub(b"*", name) == series


# --- what is remembered -----------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch):
    """The media that were read since the list was last cleared."""
    seen = []
    read = LazySupervisedDataset.read

    def spy(self, medium, *rest):
        seen.append(str(medium).rpartition("/")[2])
        return read(self, medium, *rest)

    monkeypatch.setattr(LazySupervisedDataset, "read", spy)
    return seen


def test_what_was_read_of_one_part_is_not_taken_for_another(make, tmp_path, folder, reads, monkeypatch):
    monkeypatch.setattr("fvv_lib.data.known.RECENT", 0.0)
    frames = [f"frames/{number}.png" for number in (1, 2)]
    samples = [
        sample(video="clip.mp4"),
        sample(video="clip.mp4", start=1),
        sample("<image><image>?", video=["clip.mp4", {"frames": frames, "fps": 4}], end=["0:01", None]),
        sample(video={"frames": frames[::-1], "fps": 4}),
    ]
    settings = {"cache_dir": str(tmp_path / "cache"), "time_marks": "seconds"}
    first = make(samples, **settings)
    assert set(dict(first.check_media()).values()) == {None}
    assert len(reads) == 5
    reads.clear()
    again = make(samples, **settings)
    assert set(dict(again.check_media()).values()) == {None}
    assert reads == []
    assert again.media_counts == {"files": 5, "known": 5}
    assert (
        again.lengths.tolist()
        == first.lengths.tolist()
        == [len(again[i]["input_ids"]) + 3 * len(again[i]["images"]) for i in range(4)]
    )
    reads.clear()
    assert set(dict(make([*samples, sample(video="clip.mp4", start=2)], **settings).check_media()).values()) == {None}
    assert reads == ["clip.mp4 from 2 s"]
    reads.clear()
    broken = make([sample(video="clip.mp4", start=50)], bad_samples="skip", **settings)
    assert isinstance(dict(broken.check_media())[0], VideoDecodeError)


def test_each_different_part_is_a_unit_of_its_own(annotate, tmp_path):
    """Parts, lists and whole files in any mixture, with limits that differ in the last bit and lists that overlap."""
    frames = [f"frames/{number}.png" for number in range(4)]
    media = [
        *({"video": "a.mp4"}, {"video": ["a.mp4", "b.mp4"]}, {"image": "frames/1.png"}, {"video": "frames"}, {}),
        *({"video": "a.mp4", "start": 0}, {"video": "a.mp4", "end": 1}, {"video": "a.mp4", "start": "0:01"}),
        *({"video": "a.mp4", "start": np.nextafter(1, 2)}, {"video": "b.mp4", "start": 1, "end": 2}),
        *({"video": {"frames": "frames"}}, {"video": {"frames": "frames", "fps": 8}}),
        *({"video": {"frames": frames[start:end]}} for start in range(4) for end in range(start + 1, 5)),
        *({"video": {"frames": frames[::-1], "fps": 8}}, {"video": {"frames": frames, "fps": 8}, "start": 0.25}),
        {"video": ["a.mp4", {"frames": frames[:2]}, "b.mp4", {"frames": ["a.mp4", "b.mp4"]}], "end": [1, *[None] * 3]},
        {"video": ["a.mp4", "b.mp4"], "start": [None, 1]},
    ]
    random.Random(0).shuffle(media)
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_text(name)
    written = [sample(**one) for one in media]
    paths = [annotate(written, "x.json"), annotate(written * 2, "y.json")]
    samples = Annotations(paths, cache_dir=str(tmp_path / "cache"))
    assert [samples.media(i) for i in range(len(samples))] == [
        [medium.under(tmp_path) for medium in media_of(one)] for one in written * 3
    ]
    units, keys = MediaUnits(samples), {}
    for row, (start, end) in enumerate(pairwise(units.starts.tolist())):
        for medium, unit in zip(samples.media(row), units.places[start:end].tolist(), strict=True):
            key = units.paths[unit].as_py()
            assert units.medium(key) == medium
            assert keys.setdefault(medium, key) == key
            are_there = [Path(file).suffix == ".mp4" for file in medium.files]
            assert units.looks.kinds[unit] == (FILE if all(are_there) else MISSING)
            assert units.looks.states[unit, 0] == {1: 5 * are_there[0]}.get(len(are_there), len(are_there))
    assert len(set(keys.values())) == len(keys)


def test_a_changed_frame_of_a_list_is_read_again(make, tmp_path, folder, reads, monkeypatch):
    monkeypatch.setattr("fvv_lib.data.known.RECENT", 0.0)
    files = [tmp_path / f"{number}.png" for number in (1, 2)]
    for file in files:
        Image.fromarray(paint(1)).save(file)
    samples = [sample(video={"frames": list(map(str, files))})]
    settings = {"cache_dir": str(tmp_path / "cache")}
    for change, count in ((None, 1), (None, 0), (files[1], 1)):
        if change:
            Image.fromarray(paint(2)).save(change)
        reads.clear()
        assert dict(make(samples, **settings).check_media()) == {0: None}
        assert len(reads) == count
