"""`fvv check` reports every sample that training cannot use, and no other."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image
from shared import SPEC

from fvv_lib import FvvError, LazySupervisedDataset
from fvv_lib.data.report import check_data, format_problems
from fvv_lib.settings import DataArguments
from fvv_lib.video.read import count_frames


def sample(name, question="<image>\nWhat colour is it?", answer="It is red.", **rest):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "conversations": turns, **rest}


@pytest.fixture
def samples(media):
    """Good samples, and one for each kind of error."""
    (media / "broken.mp4").write_bytes((media / "clip.mp4").read_bytes()[:700])
    (media / "text.mp4").write_text("not a video")
    return {
        "video": sample("video", image="clip.mp4"),
        "picture": sample("picture", image="still.png"),
        "text": sample("text", "Which colours?"),
        "broken": sample("broken", image="broken.mp4"),
        "no-video": sample("no-video", video="text.mp4"),
        "gone": sample("gone", video="gone.mp4"),
        "no-image": sample("no-image", "What?", image="clip.mp4"),
        "silent": {"id": "silent", "conversations": [{"from": "human", "value": "x"}]},
        "long": sample("long", "Which? " * 3000),
    }


BAD = {
    "broken": "VideoDecodeError",
    "no-video": "VideoDecodeError",
    "gone": "VideoDecodeError",
    "no-image": "DataFormatError",
    "silent": "DataFormatError",
    "long": "TokenBudgetError",
}


@pytest.fixture
def run(fvv):
    """Run `fvv check` with these arguments in a folder."""
    return lambda *arguments, cwd: fvv("check", *arguments, cwd=cwd)


def name_of(report):
    return report["name"].split("sample ")[1]


def test_every_bad_sample_is_reported_and_no_good_one(samples, annotate, media, base, run):
    path = annotate(list(samples.values()))
    outputs = ["--report", "report.json", "--histograms", "data.png", "--write-clean", "clean.json"]
    result = run(path, "--model-name-or-path", base, *outputs, cwd=media)
    assert result.returncode == 1, result.stderr
    reports = json.loads((media / "report.json").read_text())
    assert {name_of(report): report["kind"] for report in reports if report["problem"]} == BAD
    assert {name_of(report) for report in reports if not report["problem"]} == {"video", "picture", "text"}
    assert "9 samples, 6 bad" in result.stdout
    for name in BAD:
        assert f"sample {name}:" in result.stdout
    by_name = {name_of(report): report for report in reports}
    assert by_name["video"]["media"][0]["frames"] == 24
    assert by_name["video"]["media"][0]["seconds"] == 3.0
    assert by_name["video"]["tokens"] - by_name["text"]["tokens"] > 8 * 4
    with Image.open(media / "data.png") as picture:
        assert min(picture.size) > 100


def test_labels_that_do_not_fit_the_questions_of_a_test_set_are_reported(annotate, media, base, samples, run):
    path = annotate([samples["video"]])
    held_out = [sample("wrong", "Which colours?", kinds=3), sample("fits", "Which colours?", kinds=["colour"])]
    (media / "test.json").write_text(json.dumps(held_out))
    result = run(path, "--model-name-or-path", base, "--test-data-path", "test.json", cwd=media)
    assert result.returncode == 1
    assert "3 samples, 1 bad" in result.stdout
    assert "test.json, sample wrong: 'kinds' must be a list" in result.stdout


def test_the_clean_file_is_clean_and_the_others_are_listed(samples, annotate, media, base, run):
    path = annotate(list(samples.values()))
    run(path, "--model-name-or-path", base, "--write-clean", "clean.json", cwd=media)
    assert json.loads((media / "clean.json").read_text()) == [samples[name] for name in ("video", "picture", "text")]
    dropped = json.loads((media / "clean.dropped.json").read_text())
    assert {name.split("sample ")[1] for name in dropped} == set(BAD)
    again = run("clean.json", "--model-name-or-path", base, "--report", "report.csv", cwd=media)
    assert (again.returncode, again.stdout.splitlines()[0]) == (0, "3 samples, 0 bad")
    rows = list(csv.DictReader((media / "report.csv").open()))
    assert [row["problem"] for row in rows] == ["", "", ""]


def test_a_wrong_setting_is_an_error_and_not_a_report(annotate, media, base, samples, run):
    path = annotate([samples["video"]])
    result = run(path, "--model-name-or-path", base, "--version", "qwen", cwd=media)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("error: Unknown template")
    assert run("nowhere.json", "--model-name-or-path", base, cwd=media).stderr.count("nowhere.json: no such") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-video-frames", "0"], "num_video_frames must be at least 1, got 0"),
        (["--frame-pool", "3"], "frame_pool=3 cannot average the 4 tokens"),
        (["--model-max-length", "4096"], "model_max_length=4096, but the model reads at most 2048 positions"),
        (["--model-name-or-path", "no/such/folder"], "no/such/folder: no such folder"),
        (["--model-name-or-path", "empty"], "empty: config.json is missing or broken"),
    ],
)
def test_a_wrong_setting_or_model_is_one_line(annotate, media, base, samples, flags, message, run):
    (media / "empty").mkdir()
    result = run(annotate([samples["text"]]), "--model-name-or-path", base, *flags, cwd=media)
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"write_clean": "data.json"}, "data.json is named twice, or is one of the checked annotation files"),
        ({"report": "folder/../data.json"}, "data.json is named twice, or is one of the checked annotation files"),
        ({"report": "one.json", "write_clean": "one.json"}, "one.json is named twice"),
        ({"report": "val.json", "validation_data_path": "val.json"}, "val.json is named twice"),
        ({"report": "one.dropped.json", "write_clean": "one.json"}, "one.dropped.json is named twice"),
        ({"report": "folder.json"}, "report: folder.json is a folder"),
        ({"write_clean": "gone/clean.json"}, "write_clean: the folder of gone/clean.json does not exist"),
        ({"histograms": "gone/data.png"}, "histograms: the folder of gone/data.png does not exist"),
        ({"report": "report.xlsx"}, "report: report.xlsx must end with .json or .csv"),
        ({"write_clean": "clean.jsonl"}, "write_clean: clean.jsonl must end with .json"),
        ({"write_clean": "../clean.json"}, "write_clean: without image_folder, media paths are relative to"),
    ],
)
def test_an_output_that_cannot_be_written_is_an_error_before_anything_is_read(annotate, media, run, outputs, message):
    """The model does not exist: an error about the output shows that the model was not opened."""
    path = Path(annotate([sample("text", "Which colours?")]))
    before = path.read_bytes()
    for name in ("folder", "folder.json"):
        (media / name).mkdir()
    flags = [part for name, file in outputs.items() for part in (f"--{name}", file)]
    result = run("data.json", "--model_name_or_path", "no-such-model", *flags, cwd=media)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert path.read_bytes() == before


def test_with_an_image_folder_the_clean_file_may_be_anywhere(annotate, media, base, samples, tmp_path, run):
    path, clean = annotate([samples["video"], samples["gone"]]), tmp_path / "elsewhere" / "clean.json"
    clean.parent.mkdir()
    flags = ["--model-name-or-path", base, "--image-folder", media]
    run(path, *flags, "--write-clean", clean, cwd=media)
    assert run(clean, *flags, cwd=media).stdout.splitlines()[0] == "1 samples, 0 bad"


def test_a_good_sample_that_shares_its_id_with_a_bad_one_stays(annotate, media, base, run):
    words, pixels = sample("same", "Two <image>?"), sample("same", video="text.mp4")
    good = [sample("same", "Which colours?"), sample("same", video="clip.mp4")]
    (media / "text.mp4").write_text("not a video")
    path = annotate([words, good[0], pixels, good[1]])
    result = run(path, "--model-name-or-path", base, "--write-clean", "clean.json", cwd=media)
    assert "4 samples, 2 bad" in result.stdout
    assert json.loads((media / "clean.json").read_text()) == good
    dropped = json.loads((media / "clean.dropped.json").read_text())
    assert [name.split("sample ")[1] for name in dropped] == ["same (at 0)", "same (at 2)"]


def test_time_marks_and_pooling_count_in_the_report(annotate, media, base, samples, run):
    path, tokens = annotate([samples["video"]]), []
    for flags in ([], ["--time-marks", "seconds"], ["--frame-pool", "2"]):
        run(path, "--model-name-or-path", base, *flags, "--report", "report.json", cwd=media)
        tokens.append(json.loads((media / "report.json").read_text())[0]["tokens"])
    assert tokens[1] == tokens[0] + 8 * len("<0.0s>")  # the tiny tokenizer has a token for each letter of a mark
    assert tokens[2] == tokens[0] - 8 * 3


def test_with_random_sampling_every_frame_is_checked(annotate, media, base, samples, run):
    """The frames of the first epoch may be undamaged, but training would still reject the clip."""
    content = bytearray((media / "clip.mp4").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    (media / "damaged.mp4").write_bytes(content)
    with pytest.raises(FvvError):
        count_frames(media / "damaged.mp4")
    path = annotate([samples["video"], sample("damaged", video="damaged.mp4")])
    result = run(path, "--model-name-or-path", base, "--frame-sampling", "random", "--num-video-frames", "1", cwd=media)
    assert "2 samples, 1 bad" in result.stdout


def test_a_video_that_takes_too_long_is_a_bad_sample(tokenizer, annotate, media, samples):
    arguments = DataArguments(bad_samples="skip", decode_timeout=0.0001)
    dataset = LazySupervisedDataset(
        tokenizer, [annotate([samples["video"], samples["text"]])], arguments, frame_spec=SPEC
    )
    reports = check_data(dataset, quiet=True)
    assert [bool(report.problem) for report in reports] == [True, False]
    assert "not decoded within 0.0001 seconds" in format_problems(reports)
    assert len(dataset) == 2


def test_a_clean_file_without_samples_is_an_error(annotate, media, base, samples, run):
    done = run(
        annotate([samples["gone"]]), "--model_name_or_path", base, "--write_clean", media / "good.json", cwd=media
    )
    assert done.returncode == 1
    assert "1 samples, 1 bad" in done.stdout
    assert done.stderr.endswith("good.json is not written, because no sample is good.\n")
    assert not list(media.glob("good*"))


def test_ignored_fields_are_listed(annotate, media, base, run):
    noted = [sample("a", video="clip.mp4", source="x", length=2), sample("b", video="clip.mp4", source="y")]
    done = run(annotate(noted), "--model_name_or_path", base, cwd=media)
    assert done.stdout.splitlines() == ["2 samples, 0 bad", "ignored fields: source (2), length (1)"]
