"""`report.html`: what it shows, that texts of users stay texts, and that no image or video is read without need."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image
from shared import SPEC

from fvv_lib.evaluation.answers import record_of
from fvv_lib.evaluation.questions import Question
from fvv_lib.evaluation.report import Asked, write_report
from fvv_lib.evaluation.strips import Strips
from fvv_lib.evaluation.summary import summarize
from fvv_lib.files import Url
from fvv_lib.video.medium import Medium
from fvv_lib.video.pixels import preprocess_frames
from fvv_lib.video.read import read_media

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u2028 \\ ' \" & {{ 7 * 7 }}"


class Reader:
    """Reads frames, and counts how often."""

    def __init__(self, num_frames=8):
        self.num_frames, self.media = num_frames, []

    def __call__(self, medium):
        self.media.append(medium)
        return read_media(medium, self.num_frames)


def question(*media, name="a", **more):
    return Question(name, tuple(media), "<image>\nWhat?", "It is red.", **more)


@pytest.fixture
def report(tmp_path):
    """Write a report of an evaluation of these questions and return its page, and the data of its script."""

    def write(questions, right, read=None, metrics=None, strips=None, name="test.json", text="It is red."):
        records = [
            record_of(name, place, one, text, is_right)
            for place, (one, is_right) in enumerate(zip(questions, right, strict=True))
        ]
        metrics = metrics or {"tests": {name: summarize(records)}, "identity": {"model": "m"}, "git_commit": None}
        asked = {name: Asked(questions, read or Reader())}
        write_report(tmp_path, metrics, records, asked, strips or Strips(SPEC, "pad"))
        page = BeautifulSoup((tmp_path / "report.html").read_bytes(), "html.parser")
        return page, json.loads(page.find(id="data").string)

    return write


def pictures(strip):
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in strip["frames"]]


def test_frames_are_those_that_the_model_saw_and_are_stored_once(report, media):
    clip = Medium(media / "clip.mp4")
    _, data = report([question(clip), question(clip, name="b"), question(Medium(media / "still.png"))], [True] * 3)
    assert [one["media"] for one in data["questions"]] == [[0], [0], [1]]
    strip, still = data["media"]
    video = read_media(clip, 8)
    seen = preprocess_frames(video.frames, SPEC.image_size, "pad").permute(0, 2, 3, 1).numpy()
    shown = np.stack([np.asarray(picture) for picture in pictures(strip)])
    assert shown.shape == seen.shape
    assert np.abs(shown.astype(int) - seen).mean(axis=(1, 2, 3)).max() < 8
    assert strip["times"] == pytest.approx(video.timestamps, abs=0.01)
    assert len(still["frames"]) == 1


def test_many_frames_are_spread_and_counted(report, media):
    _, data = report([question(Medium(media / "clip.mp4"))], [True], read=Reader(20))
    (strip,) = data["media"]
    assert (len(strip["frames"]), strip["total"]) == (16, 20)
    assert strip["times"][-1] == pytest.approx(read_media(media / "clip.mp4", 20).timestamps[-1], abs=0.01)


def test_frames_are_no_larger_than_those_of_the_model_and_no_larger_than_needed(report, media):
    strips = Strips(replace(SPEC, image_size=1024), "crop")
    _, data = report([question(Medium(media / "clip.mp4"))], [True], strips=strips)
    assert {picture.size for picture in pictures(data["media"][0])} == {(96, 96)}


def test_texts_of_users_are_data_and_never_code(report, media):
    evil = replace(question(name=EVIL, kind=EVIL, choices=(EVIL,), history=(EVIL, EVIL)), prompt=EVIL, expected=EVIL)
    log = {"log": [], "samples": {EVIL: {"used": 1, "dropped": [EVIL], "bad": {EVIL: EVIL}}}, "arguments": {EVIL: EVIL}}
    evaluated = {"tests": {EVIL: {**summarize([{**record_of(EVIL, 0, evil, EVIL, False)}]), "scores": {EVIL: 1.0}}}}
    page, data = report([evil], [False], metrics={**evaluated, **log}, name=EVIL, text=EVIL)
    assert len(page.find_all("script")) == 2
    assert page.find("img") is None
    assert EVIL in [title.string for title in page.find_all("h3")]
    assert [cell.string for cell in page.find_all("li")] == [EVIL, EVIL]
    (shown,) = data["questions"]
    assert [shown[name] for name in ("id", "kind", "question", "expected")] == [EVIL] * 4
    assert shown["answers"] == {"forwards": {"text": EVIL, "right": False}}


def test_the_page_may_load_nothing_and_run_nothing_but_its_script(report):
    page, _ = report([question()], [True])
    policy = page.find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert not [tag for tag in page.find_all(src=True) if not tag["src"].startswith("data:")]
    assert {tag["href"][:5] for tag in page.find_all("link")} == {"data:"}


def test_text_that_is_not_valid_unicode_is_written(report):
    page, data = report([question(kind="\ud83d")], [True], name="\udcff.json")
    assert data["questions"][0]["kind"] == "\ud83d"
    assert "\\udcff.json" in page.find("h3").string


def test_files_that_cannot_be_read_and_files_elsewhere_have_a_note(report, media):
    gone, far = Medium(media / "gone.mp4"), Medium(Url("s3://bucket/clip.mp4"))
    read = Reader()
    _, data = report([question(gone), question(far), question(Medium(media / "clip.mp4"))], [True] * 3, read=read)
    assert "gone.mp4: no such file" in data["media"][0]["note"]
    assert "not read again" in data["media"][1]["note"]
    assert len(data["media"][2]["frames"]) == 8
    assert far not in read.media


def test_beyond_the_limit_wrong_answers_have_frames_and_the_others_a_note(report, media):
    clips = [Medium(media / "clip.mp4", end=end) for end in (0.5, 0.6, 0.7)]
    strips = Strips(SPEC, "pad", limit=1)
    _, data = report([question(clip) for clip in clips], [True, False, True], strips=strips)
    assert ["frames" in medium for medium in data["media"]] == [False, True, False]
    assert "1 of 3 images and videos" in data["media"][0]["note"]


def test_what_was_read_for_the_answers_is_not_read_again(report, media):
    clip, other = Medium(media / "clip.mp4"), Medium(media / "short.mp4")
    strips, read = Strips(SPEC, "pad"), Reader()
    strips.watched(read)(clip)
    _, watched = report([question(clip), question(other)], [True, True], read=read, strips=strips)
    assert read.media == [clip, other]
    _, again = report([question(clip), question(other)], [True, True])
    assert watched == again


def test_tables_have_accuracy_and_interval_of_each_kind(report):
    page, _ = report([question(kind="colour"), question(kind="colour"), question(kind="place")], [True, False, True])
    rows = [[cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])] for row in page.find_all("tr")]
    assert rows[1:4] == [
        ["colour", "2", "50.0% 9% to 91%"],
        ["place", "1", "100.0% 21% to 100%"],
        ["all", "3", "66.7% 21% to 94%"],
    ]
    assert "git_commit" in [row[0] for row in rows]


def test_a_training_run_has_curves_and_its_test_sets_before_and_after(tmp_path):
    """Values that are not finite are no JSON: a browser would show nothing."""
    sets = {name: [question(name=name), question(name=name)] for name in ("test.json", "keep.json")}
    records = [
        {"time": time, **record_of(name, place, one, time, time == "after" and name == "test.json")}
        for name, questions in sets.items()
        for time in ("before", "after")
        for place, one in enumerate(questions)
    ]
    log = [{"step": 1, "loss": 2.5, "learning_rate": 1e-3}, {"step": 2, "loss": float("nan"), "learning_rate": 0.0}]
    metrics = {"log": [*log, {"step": 2, "eval_loss": 1.0}, {"step": 2, "train_loss": 2.0}]}
    asked = {name: Asked(questions, Reader()) for name, questions in sets.items()}
    write_report(tmp_path, metrics, records, asked, Strips(SPEC, "pad"))
    page = BeautifulSoup((tmp_path / "report.html").read_bytes(), "html.parser")
    data = json.loads(page.find(id="data").string)
    assert data["charts"] == [
        {"title": "Loss per learned token", "lines": {"training": [[1, 2.5], [2, None]], "validation": [[2, 1.0]]}},
        {"title": "Learning rate", "lines": {"learning rate": [[1, 1e-3], [2, 0.0]]}},
    ]
    assert (data["views"], data["main"]) == (["before", "after"], "after")
    assert data["questions"][0]["answers"]["after"] == {"text": "after", "right": True}
    assert {title.string for title in page.find_all("h3")} == set(sets)
    differences = [row.find_all("td")[-1].string for row in page.find_all("tr") if "Points" in row.th.string]
    assert differences == ["+100.0", "+0.0"]


def test_a_run_without_test_sets_has_a_report(tmp_path):
    write_report(tmp_path, {"log": [{"step": 1, "loss": 2.5}], "samples": {}}, [], {}, Strips(SPEC, "pad"))
    page = BeautifulSoup((tmp_path / "report.html").read_bytes(), "html.parser")
    assert page.find(id="questions") is None
    assert page.find(id="curves") is not None
