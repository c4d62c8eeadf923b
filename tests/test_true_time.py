"""Frames are chosen by the times at which they are shown, and each place knows how many frames a clip has."""

import json
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import SPEC, write_at_rate
from test_training import sample

from fvv_lib import (
    IMAGE_TOKEN_INDEX,
    Chat,
    DataArguments,
    DataCollatorForSupervisedDataset,
    FvvError,
    LazySupervisedDataset,
    Medium,
    MemorySettings,
    ModelArguments,
    TokenBudgetError,
    TrainingArguments,
    VideoConfig,
    VideoDecodeError,
    load_pretrained_model,
    read_video,
    sample_frame_indices,
    train,
)
from fvv_lib.course.numbered import read_numbers, write_numbered
from fvv_lib.evaluation.scoring import evaluate
from fvv_lib.scaling.budget import predict_memory
from fvv_lib.video.read import count_sampled, read_media, video_times

STILL = np.concatenate([np.arange(25) / 25, 60 + np.arange(1, 26) / 25])  # a second of motion, a minute, a second
RNG = np.random.default_rng(7)
PHONE = np.concatenate([[0], np.cumsum(RNG.choice([0.016, 0.033, 0.05], 199, p=[0.2, 0.5, 0.3]))])  # uneven, 6 to 7 s
RATE = {"frame_sampling": "fps", "sample_fps": 2.0, "max_frames": 6, "min_frames": 2}


def unrounded(times):
    """The reference: equal steps, if they differ only as rounding to milliseconds lets them."""
    steps = np.diff(times)
    is_constant = len(steps) and max(steps) - min(steps) <= min(0.0012, np.mean(steps) / 4)
    return np.linspace(times[0], times[-1], len(times)) if is_constant else times


def shown_at(times, moments):
    """The reference: the last frame whose time is not after each moment, but for the rounding of its time."""
    times = unrounded(times)
    late = min(6e-4, min(np.diff(times), default=1) / 2.1)
    return [max(i for i, time in enumerate(times) if time <= moment + late) for moment in moments]


# --- which frames -----------------------------------------------------------------------------------------------------

intervals = st.lists(st.integers(1, 400), min_size=0, max_size=60)
thorough = settings(database=None, derandomize=True, deadline=None, max_examples=150)


@thorough
@given(intervals, st.integers(1, 40))
def test_uniform_time_takes_the_frames_that_are_shown_at_equal_times(steps, count):
    times = np.concatenate([[0], np.cumsum(steps)]) / 1000 + 3.5
    chosen = sample_frame_indices(len(times), count, "uniform_time", times=times)
    assert chosen.tolist() == shown_at(times, np.linspace(times[0], times[-1], count))
    assert chosen.dtype == np.int64


@thorough
@given(intervals, st.floats(0.05, 3), st.integers(1, 40), st.integers(1, 40))
def test_fps_takes_the_frames_that_are_shown_at_each_step_between_floor_and_cap(steps, rate, one, two):
    times = np.concatenate([[0], np.cumsum(steps)]) / 1000
    least, most = sorted((one, two))
    limits = {"max_frames": most, "min_frames": least}
    chosen = sample_frame_indices(len(times), 8, "fps", times=times, sample_fps=rate, **limits)
    shortest = min(np.diff(unrounded(times)), default=0)
    rate = min(rate, 1 / shortest) if shortest else rate
    late = min(6e-4, shortest / 2.1) if shortest else 6e-4
    moments = [k / rate for k in range(1000) if k / rate < times[-1] + shortest - late] or [0.0]
    if len(moments) < least:
        assert chosen.tolist() == shown_at(times, np.linspace(0, times[-1], least))
    elif len(moments) <= most:
        assert chosen.tolist() == shown_at(times, moments)
    else:
        assert len(chosen) == most
        assert set(chosen.tolist()) <= set(shown_at(times, moments))
        assert chosen[0] == 0


@thorough
@given(st.integers(1, 3000), st.integers(1, 64), st.sampled_from([8.0, 24.0, 25.0, 30.0, 30000 / 1001]))
def test_at_a_constant_rate_equal_times_are_equal_steps(total, count, rate):
    by_time = sample_frame_indices(total, count, "uniform_time", video_fps=rate)
    assert np.abs(by_time - sample_frame_indices(total, count)).max() <= 1  # linspace may round a whole number down
    assert np.array_equal(by_time, np.floor(np.linspace(0, total - 1, count) + 6e-4 * rate).astype(int))


@pytest.mark.parametrize(
    ("seconds", "frames"), [(0.5, 4), (3.0, 4), (4.0, 4), (5.0, 5), (31.5, 32), (32.0, 32), (33.0, 32), (3600.0, 32)]
)
def test_a_clip_has_as_many_frames_as_its_length_gives(seconds, frames):
    """`--frame_sampling fps --sample_fps 1 --max_frames 32 --min_frames 4`."""
    limits = {"max_frames": 32, "min_frames": 4}
    chosen = sample_frame_indices(round(seconds * 30), 8, "fps", video_fps=30.0, sample_fps=1.0, **limits)
    assert len(chosen) == frames
    assert len(np.unique(chosen)) == frames


def test_frames_of_one_moment_and_clips_of_one_frame_are_sampled():
    for strategy in ("uniform_time", "fps"):
        assert sample_frame_indices(1, 3, strategy, times=np.array([2.0])).tolist() == [0, 0, 0]
        assert len(sample_frame_indices(3, 5, strategy, times=np.zeros(3))) == 5
    assert sample_frame_indices(1, 3, "fps", times=np.zeros(1), max_frames=9, sample_fps=1e-320).tolist() == [0]


@pytest.mark.parametrize("rate", [24, 30, Fraction(30000, 1001)])
def test_a_clip_gives_the_same_frames_in_a_container_that_rounds_times_to_milliseconds(tmp_path, rate):
    """MP4 has a fine clock, Matroska has not."""
    total = 100
    for name in ("clip.mp4", "clip.mkv"):
        write_at_rate(tmp_path / name, rate, total)
    exact, rounded = (video_times(tmp_path / name) for name in ("clip.mp4", "clip.mkv"))
    assert 0 < np.abs(exact - rounded).max() < 0.001
    for sample_fps in (1, 3, 10, 24, 30, 60):
        chosen = [
            sample_frame_indices(total, 8, "fps", times=times, sample_fps=sample_fps, max_frames=1000)
            for times in (exact, rounded)
        ]
        assert chosen[0].tolist() == chosen[1].tolist()
        assert len(chosen[0]) <= total
        if sample_fps >= rate:
            assert chosen[0].tolist() == list(range(total))
    for count in (4, 7, 25, total):
        chosen = [sample_frame_indices(total, count, "uniform_time", times=times) for times in (exact, rounded)]
        assert chosen[0].tolist() == chosen[1].tolist()


def test_a_huge_rate_is_lowered_though_two_frames_have_one_time():
    chosen = sample_frame_indices(3, 8, "fps", times=np.array([0.0, 0.0, 1.0]), sample_fps=1e308, max_frames=9)
    assert chosen.tolist() == [1, 2]


@pytest.mark.parametrize("rate", ["1", None, True, float("nan"), float("inf"), 0, -1])
def test_a_rate_is_a_number_above_zero(tmp_path, rate):
    for use in (
        lambda: VideoConfig(frame_sampling="fps", sample_fps=rate),
        lambda: sample_frame_indices(9, 3, "fps", video_fps=10, sample_fps=rate),
        lambda: sample_frame_indices(9, 3, "uniform_time", video_fps=rate),
        lambda: read_video([tmp_path / "1.png"], 2, picture_rate=rate),
    ):
        with pytest.raises(FvvError, match=r"above 0"):
            use()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "uniform_time"}, "'uniform_time' needs the times of the frames"),
        ({"strategy": "fps", "times": np.arange(3)}, "There are 10 frames, but 3 times"),
        ({"strategy": "fps", "video_fps": 5, "sample_fps": float("nan")}, "above 0"),
        ({"strategy": "fps", "video_fps": 5, "sample_fps": float("inf")}, "above 0"),
        ({"strategy": "fps", "video_fps": 5, "max_frames": 0}, "max_frames must be a whole number of at least 1"),
        ({"strategy": "fps", "video_fps": 5, "min_frames": 3}, "min_frames=3 needs a max_frames"),
        (
            {"strategy": "fps", "video_fps": 5, "min_frames": 3, "max_frames": 2},
            "min_frames=3 is more than max_frames=2",
        ),
        ({"strategy": "fps", "times": 3.0 + np.arange(10), "start": 2.5}, "must begin at 3 s or later"),
        ({"strategy": "uniform_time", "video_fps": 5, "start": 1.0, "end": 1.0}, "and end after it begins"),
        ({"strategy": "uniform", "max_frames": 3}, "max_frames and min_frames are for the strategy 'fps'"),
    ],
)
def test_times_and_limits_that_cannot_be_meant_are_errors(arguments, message):
    with pytest.raises(FvvError, match=message):
        sample_frame_indices(10, 4, **arguments)


# --- uneven files -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`still.mp4` stands still for a minute, `phone.mkv` has a variable rate, `short.mp4` lasts 0.2 and `even.mp4` 2.88
    seconds; each frame shows its number."""
    place = tmp_path_factory.mktemp("uneven")
    write_numbered(place / "still.mp4", times=STILL)
    write_numbered(place / "phone.mkv", times=PHONE)
    write_numbered(place / "short.mp4", count=5)
    write_numbered(place / "even.mp4")
    return place


@pytest.mark.parametrize(("name", "times"), [("still.mp4", STILL), ("phone.mkv", PHONE)])
def test_frames_of_an_uneven_clip_are_those_shown_at_equal_times(folder, name, times):
    times = np.round(times, 3)
    video = read_video(folder / name, 9, strategy="uniform_time")
    assert read_numbers(video.frames) == shown_at(times, np.linspace(0, times[-1], 9))
    for end in (2.5, min(60.5, times[-1])):
        video = read_video(folder / name, 5, strategy="uniform_time", start=0.507, end=end)
        last = max(times[times < end][-1], end - min(np.diff(times)))
        assert read_numbers(video.frames) == shown_at(times, np.linspace(0.507, last, 5))


def test_a_recording_that_stands_still_shows_one_frame_for_a_minute(folder):
    video = read_video(folder / "still.mp4", strategy="fps", sample_fps=1.0, max_frames=100)
    assert read_numbers(video.frames) == [0, *[24] * 60, 49]
    assert len(read_video(folder / "still.mp4", 8, strategy="fps").frames) == 8
    part = {"start": 0.5, "end": 59.5, "max_frames": 100}
    assert read_numbers(read_video(folder / "still.mp4", strategy="fps", **part).frames) == [12] + [24] * 58
    assert count_sampled(Medium(folder / "still.mp4", 0.5, 59.5), 8, strategy="fps", max_frames=100) == 59
    within = read_video(folder / "still.mp4", 3, strategy="uniform_time", start=10, end=50)
    assert read_numbers(within.frames) == [24] * 3
    with pytest.raises(VideoDecodeError, match=r"no frame begins from 10 s to 50 s\. .*uniform_time or fps"):
        read_video(folder / "still.mp4", 3, start=10, end=50)
    by_number = read_video(folder / "still.mp4", 8)
    assert len(set(read_numbers(by_number.frames))) == 8  # as if there were no minute


def test_four_hours_are_sampled_by_the_list_of_packets(folder, tmp_path):
    """The packets of a short clip, again and again: 14,400 frames, one per second."""
    path, count = tmp_path / "hours.mp4", 4 * 3600
    with av.open(str(folder / "even.mp4")) as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
        with av.open(str(path), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for number in range(count):
                packet = av.Packet(bytes(packets[number % 72]))
                packet.is_keyframe, packet.time_base = packets[number % 72].is_keyframe, Fraction(1)
                packet.pts = packet.dts = number
                packet.duration, packet.stream = 1, stream
                target.mux(packet)
    limits = {"strategy": "fps", "sample_fps": 0.5, "max_frames": 32, "min_frames": 4}
    medium = Medium(path)
    assert count_sampled(medium, 8, **limits) == 32
    video = read_media(medium, 8, **limits)
    expected = 2 * np.linspace(0, count // 2 - 1, 32, dtype=int)
    assert video.timestamps.tolist() == expected.tolist()
    assert read_numbers(video.frames) == (expected % 72).tolist()
    part = Medium(path, "3:59:30", "3:59:50")
    assert count_sampled(part, 8, **limits) == 10
    video = read_media(part, 8, **limits)
    assert video.timestamps.tolist() == list(range(14370, 14390, 2))
    assert read_numbers(video.frames) == [number % 72 for number in range(14370, 14390, 2)]


def test_times_are_those_of_the_frames_and_need_no_decoding(folder, tmp_path):
    assert np.allclose(video_times(folder / "phone.mkv"), np.round(PHONE, 3), atol=1e-6)
    content = (folder / "even.mp4").read_bytes()
    start = content.index(b"mdat") + 3000  # after the first key frame
    (tmp_path / "damaged.mp4").write_bytes(content[:start] + bytes(2000) + content[start + 2000 :])
    assert len(video_times(tmp_path / "damaged.mp4")) == 72
    with pytest.raises(VideoDecodeError):
        read_video(tmp_path / "damaged.mp4")
    assert video_times([folder / "a.png"] * 3, picture_rate=4).tolist() == [0, 0.25, 0.5]
    assert len(video_times(folder / "even.mp4", timeout=60)) == 72


# --- every place that counts frames -----------------------------------------------------------------------------------

SAMPLES = [
    sample("<image>\nWhich number?", "One.", video="short.mp4", id="short"),
    sample("<image>\nWhich number?", "One.", video="even.mp4", id="even"),
    sample("<image><image>\nWhich number?", "One.", video=["still.mp4", "even.mp4"], start=[None, "0:02"], id="two"),
    sample("Which?", "One."),
]
COUNTS = [2, 6, 6 + 2, 0]


@pytest.fixture
def make(tokenizer, folder, annotate, tmp_path):
    def build(samples=SAMPLES, spec=SPEC, **settings):
        arguments = {"image_folder": str(folder), "decode_timeout": 0, "cache_dir": str(tmp_path / "cache"), **settings}
        data_args = DataArguments(**arguments)
        return LazySupervisedDataset(tokenizer, [annotate(samples)], data_args, frame_spec=spec)

    return build


@pytest.mark.parametrize("time_marks", ["none", "seconds"])
def test_lengths_are_known_before_anything_is_decoded_and_are_those_of_the_items(make, time_marks):
    dataset = make(**RATE, time_marks=time_marks)
    before = dataset.lengths.tolist()
    if time_marks == "seconds":
        assert set(dict(dataset.check_media()).values()) == {None}
    for index, count in enumerate(COUNTS):
        item = dataset[index]
        assert len(item["images"]) == count == int((item["input_ids"] == IMAGE_TOKEN_INDEX).sum())
        assert dataset.lengths[index] == len(item["input_ids"]) + 3 * count
    assert (before == dataset.lengths.tolist()) == (time_marks == "none")


def test_a_batch_has_clips_of_different_lengths(make, model, tokenizer):
    dataset = make(**RATE)
    batch = DataCollatorForSupervisedDataset(tokenizer)([dataset[index] for index in range(4)])
    assert [len(clip) for clip in batch["images"]] == COUNTS
    model.eval()
    losses = []
    for packing in (False, True):
        model.packing = packing
        losses.append(model(**batch).loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_clip_that_is_replaced_by_a_longer_one_is_checked_again(make, folder):
    place = folder / "changing.mp4"
    samples = [sample("<image>?", "One.", video="changing.mp4")]
    write_numbered(place, count=25)
    (short,) = make(samples, **RATE).lengths
    write_numbered(place, count=75)
    (longer,) = make(samples, **RATE).lengths
    assert longer - short == 4 * SPEC.tokens_per_frame


def test_a_sample_that_only_its_length_makes_too_long_is_an_error_before_training(make):
    (length,) = make(SAMPLES[1:2], **RATE).lengths
    tight = replace(SPEC, max_length=int(length) - 1)
    with pytest.raises(TokenBudgetError, match=r"sample even: .* Use at most 5 frames in all \(max_frames\)"):
        make(SAMPLES[1:2], tight, **RATE)
    assert len(make(SAMPLES[:1], tight, **RATE)) == 1


def test_a_clip_whose_frames_cannot_be_counted_is_a_bad_sample(make, folder):
    (folder / "broken.mp4").write_bytes(b"no video")
    samples = [*SAMPLES, sample("<image>?", "One.", video="broken.mp4", id="x")]
    samples += [sample("<image>?", "One.", video="even.mp4", start=50, id="y")]
    with pytest.raises(VideoDecodeError, match=r"sample x: .*broken\.mp4"):
        make(samples, **RATE)
    dataset = make(samples, **RATE, bad_samples="skip")
    assert [name.split("sample ")[1] for name in dataset.bad] == ["x", "y"]
    assert [len(dataset[index]["images"]) for index in range(4)] == COUNTS


def test_samples_that_are_left_out_leave_the_counts_of_the_others(make):
    dataset = make(**RATE)
    dataset.samples.keep(np.array([False, True, True, True]))
    assert [dataset.text.frame_counts(index) for index in range(3)] == [[6], [6, 2], []]


def test_training_features_evaluation_and_chat_follow(base, folder, annotate, tmp_path, tokenizer):
    """One run with everything that once assumed one number of frames."""
    losses = []
    for cached in (False, True):
        data = {"image_folder": str(folder), "decode_timeout": 0, "cache_dir": str(tmp_path / "cache"), **RATE}
        output = tmp_path / f"output-{cached}"
        metrics = train(
            ModelArguments(str(base), ["projector", "language_model"]),
            DataArguments([annotate(SAMPLES)], cache_features=cached, time_marks="seconds", **data),
            TrainingArguments(
                output_dir=str(output), max_steps=2, per_device_train_batch_size=4, packing=cached, use_cpu=True,
                report_to="none", disable_tqdm=True, logging_steps=1, save_strategy="no", learning_rate=1e-3,
            ),
        )  # fmt: skip
        losses.append([entry["loss"] for entry in metrics["log"] if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    stored = json.loads((output / "fvv_config.json").read_text())
    assert (stored["sample_fps"], stored["max_frames"], stored["min_frames"]) == (2.0, 6, 2)
    loaded = load_pretrained_model(output, device="cpu")
    arguments = DataArguments(time_marks="seconds", **data)
    dataset = LazySupervisedDataset(tokenizer, [annotate(SAMPLES[:2])], arguments, frame_spec=SPEC)
    assert len(evaluate(loaded.model, tokenizer, dataset)) == 2
    for index, name in enumerate(("short.mp4", "even.mp4")):
        chat = Chat(loaded, max_new_tokens=2)
        video = chat.show(folder / name)
        assert len(video.frames) == COUNTS[index]
        prompt = chat.prompt("<image>\nWhich number?")
        assert dataset[index]["input_ids"].tolist()[: len(prompt)] == prompt
        assert torch.equal(dataset.pixels([video]), dataset[index]["images"])


def test_memory_is_predicted_for_the_most_frames(base):
    most, same = (
        predict_memory(MemorySettings(str(base), **{name: 12})) for name in ("max_frames", "num_video_frames")
    )
    assert most.tokens_per_sample == 128 + 12 * 4
    assert most.peak == same.peak
    assert "12 frames x" in str(most)
    with pytest.raises(FvvError, match="num_video_frames would do nothing"):
        MemorySettings(str(base), num_video_frames=4, max_frames=12)


@pytest.mark.parametrize("settings", [VideoConfig, DataArguments])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_frames": 4}, "max_frames would do nothing: frame_sampling is 'uniform'"),
        ({"sample_fps": 2.0, "frame_sampling": "random"}, "sample_fps would do nothing: frame_sampling is 'random'"),
        ({"frame_sampling": "fps", "min_frames": 4}, "min_frames=4 needs a max_frames"),
        ({"frame_sampling": "fps", "sample_fps": 0.0}, "sample_fps must be a number of frames per second above 0"),
        ({"frame_sampling": "fps", "max_frames": 0}, "max_frames must be a whole number of at least 1, got 0"),
        ({"frame_sampling": "fps", "max_frames": 4, "min_frames": 5}, "min_frames=5 is more than max_frames=4"),
        ({"frame_sampling": "fps", "max_frames": 4, "num_video_frames": 5}, "num_video_frames would do nothing"),
    ],
)
def test_settings_that_would_do_nothing_are_errors(settings, values, message):
    with pytest.raises(FvvError, match=message):
        settings(**values)


def test_without_a_cap_every_clip_has_the_same_number(make):
    dataset = make(SAMPLES[:2], frame_sampling="fps", num_video_frames=3)
    assert [len(dataset[index]["images"]) for index in range(2)] == [3, 3]


def test_the_frames_of_an_unchanged_clip_are_counted_once(make, folder, monkeypatch):
    from fvv_lib.data import checking, known

    counted = []
    count = checking.count_sampled
    monkeypatch.setattr(known, "RECENT", 0.0)
    monkeypatch.setattr(
        checking, "count_sampled", lambda medium, **rest: counted.append(medium) or count(medium, **rest)
    )
    lengths = make(**RATE).lengths.tolist()
    assert len(counted) == 4  # short, even, still and a part of even
    for changed, number in ((RATE, 0), ({**RATE, "max_frames": 5}, 4), ({**RATE, "check_again": True}, 4)):
        counted.clear()
        dataset = make(**changed)
        assert len(counted) == number
        if changed["max_frames"] == 6:
            assert dataset.lengths.tolist() == lengths
