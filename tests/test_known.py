"""What was read once is not read again until the file changes; what is lost or damaged costs time and nothing else."""

import json
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from shared import ROOT, SPEC

from fvv_lib import DataArguments, DataFormatError, LazySupervisedDataset, VideoDecodeError
from fvv_lib.data import checking, known
from fvv_lib.data.checking import SampleText
from fvv_lib.data.inspecting import NOT_READING, Inspector
from fvv_lib.data.known import (
    FILE,
    FOLDER,
    MISSING,
    OTHER,
    Findings,
    find_in_files,
    look,
    look_into_folders,
    real_paths,
)
from fvv_lib.data.report import check_data
from fvv_lib.data.splits import check_disjoint
from fvv_lib.data.table import TABLE_CODE, _rows
from fvv_lib.finetuning.comparing import SKETCH_CODE, _sketch
from fvv_lib.video.read import count_sampled
from fvv_lib.video_config import sampling_of


def sample(video, name=None, **rest):
    turns = [{"from": "human", "value": "<image>\nWhat colour is it?"}, {"from": "gpt", "value": "It is red."}]
    return {"id": name or str(video), "video": str(video), "conversations": turns, **rest}


def in_arrow(paths):
    return pa.array([os.fsencode(path) for path in paths], pa.large_binary())


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once: waiting for seconds in each test would be slow."""
    monkeypatch.setattr(known, "RECENT", 0.0)


@pytest.fixture
def search(tmp_path):
    """Search files as text, and return what is in them and which were read."""

    def run(*paths, name="text", depends_on=1, again=False, where=None):
        paths = in_arrow(paths)
        read = []

        def text_of(path):
            read.append(os.path.basename(path))
            return open(path).read() or None

        findings = Findings(str(tmp_path / "cache"), name, depends_on, again)
        where = np.ones(len(paths), bool) if where is None else np.array(where)
        return find_in_files(findings, paths, look(paths.to_pylist()), text_of, where), read

    return run


# --- files ------------------------------------------------------------------------------------------------------------


def write(path, text):
    path.write_text(text)
    return path


def same_times(path, text):
    """Write another content, and set the time of modification back."""
    times = os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns
    path.write_text(text)
    os.utime(path, ns=times)


def replaced(path, text):
    """Put another file in its place, of the same size and time of modification."""
    other = write(path.with_name("other"), text)
    os.utime(other, ns=(os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns))
    other.replace(path)


CHANGES = {
    "size": lambda path: path.write_text("longer text"),
    "content": lambda path: path.write_text("late"),
    "content with the old date": lambda path: same_times(path, "late"),
    "another file of the same size and date": lambda path: replaced(path, "late"),
    "date": lambda path: os.utime(path, (1, 1)),
    "permissions": lambda path: path.chmod(0o600),
}


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", CHANGES)
def test_only_a_changed_file_is_read_again(search, tmp_path, change):
    one, two = write(tmp_path / "one", "soon"), write(tmp_path / "two", "else")
    assert search(one, two) == (["soon", "else"], ["one", "two"])
    assert search(one, two) == (["soon", "else"], [])
    CHANGES[change](one)
    assert search(two, one) == (["else", one.read_text()], ["one"])
    assert search(one, two) == ([one.read_text(), "else"], [])


def test_a_file_that_has_just_changed_is_not_remembered(search, tmp_path, monkeypatch):
    """A second change may come before the clock of the file system moves on: the file would look the same."""
    path = write(tmp_path / "one", "soon")
    assert search(path) == search(path) == (["soon"], ["one"])
    monkeypatch.setattr(known, "RECENT", 0.0)
    assert search(path) == (["soon"], ["one"])
    assert search(path) == (["soon"], [])


@pytest.mark.usefixtures("settled")
def test_a_search_that_finds_nothing_is_repeated(search, tmp_path):
    path = write(tmp_path / "one", "")
    assert search(path) == search(path) == ([None], ["one"])


@pytest.mark.usefixtures("settled")
def test_what_another_question_found_is_not_the_answer(search, tmp_path):
    path = write(tmp_path / "one", "soon")
    assert search(path) == (["soon"], ["one"])
    for other in ({"depends_on": 2}, {"name": "other"}, {"again": True}):
        assert search(path, **other) == (["soon"], ["one"])
    assert search(path) == (["soon"], [])


@pytest.mark.usefixtures("settled")
def test_the_same_name_in_another_folder_is_another_file(search, tmp_path):
    one = write(tmp_path / "one", "soon")
    (tmp_path / "there").mkdir()
    moved = shutil.copy2(one, tmp_path / "there")
    search(one)
    assert search(moved) == (["soon"], ["one"])


@pytest.mark.usefixtures("settled")
def test_files_that_are_not_asked_about_are_not_read(search, tmp_path):
    paths = [write(tmp_path / name, name) for name in ("one", "two")]
    assert search(*paths, where=[False, True]) == ([None, "two"], ["two"])
    assert search(*paths, where=[True, False]) == (["one", None], ["one"])


def parts(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.parquet"))


def other_columns(path):
    pq.write_table(pa.table({"path": [b"x"], "seen": [1]}), path)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b"PAR1" + bytes(200) + b"PAR1"),
        other_columns,
    ],
    ids=["empty", "cut", "zeros", "another build"],
)
def test_damaged_findings_are_replaced(search, tmp_path, damage):
    path = write(tmp_path / "one", "soon" * 100)
    search(path)
    (part,) = parts(tmp_path)
    damage(part)
    assert search(path)[1] == ["one"]
    assert len(parts(tmp_path)) == 1
    assert search(path) == (["soon" * 100], [])


@pytest.mark.usefixtures("settled")
def test_no_flipped_byte_changes_an_answer(search, tmp_path):
    path = write(tmp_path / "one", "soon" * 100)
    search(path)
    (part,) = parts(tmp_path)
    intact = part.read_bytes()
    read = 0
    for place in range(0, len(intact), 23):
        for old in parts(tmp_path):
            old.unlink()
        part.write_bytes(intact[:place] + bytes([intact[place] ^ 0xFF]) + intact[place + 1 :])
        found, seen = search(path)
        assert found == ["soon" * 100]
        read += len(seen)
    assert read > 10


@pytest.mark.usefixtures("settled")
def test_findings_that_cannot_be_written_are_not_an_error(search, tmp_path, capsys):
    path = write(tmp_path / "one", "soon")
    write(tmp_path / "cache", "a file")
    assert search(path) == search(path) == (["soon"], ["one"])
    assert "cannot be written" in capsys.readouterr().out


@pytest.mark.usefixtures("settled")
def test_many_small_parts_are_joined_and_the_newest_finding_counts(search, tmp_path):
    paths = [write(tmp_path / str(number), "old") for number in range(known.MOST_PARTS)]
    for path in paths:
        search(path)
    assert len(parts(tmp_path)) == known.MOST_PARTS
    paths[0].write_text("new")
    assert search(*paths) == (["new"] + ["old"] * (len(paths) - 1), ["0"])
    (part,) = parts(tmp_path)
    assert len(pq.read_table(part)) == len(paths)
    assert search(*paths) == (["new"] + ["old"] * (len(paths) - 1), [])


@pytest.mark.usefixtures("settled")
def test_several_writers_lose_nothing(tmp_path):
    """Ranks and runs share a folder: each writes files of its own, and any of them may join those of all."""
    names = [os.fsencode(write(tmp_path / f"{number}", "x")) for number in range(200)]
    looks = look(names)

    def write_one(place):
        findings = Findings(str(tmp_path / "cache"), "text", 1)
        findings.keep(names[place], looks, place, str(place))
        findings.save()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write_one, range(len(names))))
    found = Findings(str(tmp_path / "cache"), "text", 1).recall(in_arrow(names), looks)
    assert found.to_pylist() == list(map(str, range(len(names))))


def test_kinds_links_and_names_that_are_no_text(tmp_path):
    odd = os.fsencode(tmp_path) + b"/\xff"
    with open(odd, "wb") as file:
        file.write(b"12345")
    os.mkfifo(tmp_path / "pipe")
    os.symlink(odd, tmp_path / "link")
    os.symlink("nowhere", tmp_path / "broken")
    names = [odd, *(os.fsencode(tmp_path / name) for name in ("pipe", "link", "broken", "gone")), b"a\0b", b"x" * 9999]
    looks = look([*names, os.fsencode(tmp_path)])
    assert looks.kinds.tolist() == [FILE, OTHER, FILE, MISSING, MISSING, MISSING, MISSING, FOLDER]
    assert looks.links.tolist() == [False, False, True, True, False, False, False, False]
    assert looks.states[0].tolist() == looks.states[2].tolist()
    assert looks.states[0, 0] == 5
    assert look([]).states.shape == (0, 3)


@pytest.mark.parametrize("slow", [0.0, 1.0])
def test_looking_in_threads_gives_the_same_order(tmp_path, monkeypatch, slow):
    monkeypatch.setattr(known, "AT_ONCE", 2)
    monkeypatch.setattr(known, "FIRST", 3)
    monkeypatch.setattr(known, "LONG", slow)
    names = [os.fsencode(write(tmp_path / f"{size}", "x" * size)) for size in range(9)]
    assert look(names).states[:, 0].tolist() == list(range(9))


@pytest.mark.usefixtures("settled")
def test_a_folder_changes_with_every_file_in_it(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for name in ("1.png", "2.png"):
        write(folder / name, name)
    paths = in_arrow([folder])

    def state():
        looks = look_into_folders(paths, look(paths.to_pylist()))
        return looks.states[0].tolist(), bool(looks.settled[0])

    assert not look(paths.to_pylist()).settled[0]
    before, is_settled = state()
    assert is_settled
    assert state()[0] == before
    same_times(folder / "1.png", "3.png")
    after = state()[0]
    assert after[0] == before[0] == 2
    assert after != before
    os.symlink("nowhere", folder / "3.png")
    assert state()[0][0] == 3


def test_real_paths_are_those_of_the_system(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    write(tmp_path / "a" / "b" / "file", "x")
    os.symlink("a", tmp_path / "to_a")
    os.symlink("../a/b/file", tmp_path / "a" / "to_file")
    os.symlink("loop", tmp_path / "loop")
    names = [
        "a/b/file",
        "to_a/b/file",
        "to_a/to_file",
        "a/../to_a/./b/../b/file",
        "a//b/file",
        "a/b/",
        "loop",
        "gone/x",
    ]
    paths = [*(os.fsencode(tmp_path) + b"/" + name.encode() for name in names), b"/x", b"/", b"//x", b"/../x"]
    assert real_paths(paths, [os.path.islink(path) for path in paths]) == [os.path.realpath(path) for path in paths]


# --- samples ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def make(tokenizer, annotate, media, tmp_path):
    def build(samples, name="data.json", **settings):
        settings = {"cache_dir": str(tmp_path / "cache"), "decode_timeout": 0.0, "bad_samples": "skip", **settings}
        return LazySupervisedDataset(tokenizer, [annotate(samples, name)], DataArguments(**settings), frame_spec=SPEC)

    return build


@pytest.fixture
def read(monkeypatch):
    """The names of the files that were read since the list was last cleared."""
    seen = []
    whole = Inspector.read_all

    def spy(self, medium, index, place=0):
        seen.append(medium.source.name)
        return whole(self, medium, index, place)

    monkeypatch.setattr(Inspector, "read_all", spy)
    return seen


def found_by(check, read):
    read.clear()
    return check(), sorted(read)


@pytest.mark.usefixtures("settled")
def test_what_a_check_has_read_a_training_does_not_read_again(make, media, read):
    (media / "broken.mp4").write_text("not a video")
    samples = [sample("clip.mp4"), sample("short.mp4"), sample("clip.mp4", "again"), sample("broken.mp4")]
    reports, seen = found_by(lambda: check_data(make(samples), workers=1, quiet=True), read)
    assert seen == ["broken.mp4", "clip.mp4", "short.mp4"]  # the clip of two samples once
    assert found_by(lambda: check_data(make(samples), workers=1, quiet=True), read) == (reports, ["broken.mp4"])
    dataset = make(samples)
    problems, seen = found_by(lambda: dict(dataset.check_media()), read)
    assert seen == ["broken.mp4"]  # an error may have gone
    assert [error is None for error in problems.values()] == [True, True, True, False]
    assert dataset.media_counts == {"files": 3, "known": 2}
    shutil.copy(media / "clip.mp4", media / "broken.mp4")
    assert found_by(lambda: dict(make(samples).check_media()), read) == (dict.fromkeys(range(4)), ["broken.mp4"])
    assert found_by(lambda: dict(make(samples).check_media()), read) == (dict.fromkeys(range(4)), [])
    (media / "short.mp4").write_text("not a video")
    problems, seen = found_by(lambda: dict(make(samples).check_media()), read)
    assert seen == ["short.mp4"]
    assert isinstance(problems[1], VideoDecodeError)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    ("settings", "again"),
    [
        ({}, False),
        ({"check_again": True}, True),
        ({"num_video_frames": 5}, True),
        ({"frame_sampling": "random"}, True),
        ({"decode_timeout": 30.0}, True),
        ({"image_aspect_ratio": "crop", "frame_pool": 2, "max_new_tokens": 3, "eval_questions": 0}, False),
    ],
)
def test_files_are_read_again_only_where_another_setting_may_find_something_else(make, read, settings, again):
    list(make([sample("clip.mp4")]).check_media())
    assert found_by(lambda: dict(make([sample("clip.mp4")], **settings).check_media()), read) == (
        {0: None},
        ["clip.mp4"] * again,
    )


def test_each_setting_changes_what_is_read_or_does_not():
    """A new setting must be put on one of the two lists."""
    reading = {"num_video_frames", "frame_sampling", "sample_fps", "max_frames", "min_frames"}
    reading |= {"video_backend", "decode_timeout"}
    assert reading.isdisjoint(NOT_READING)
    assert reading | NOT_READING == {field.name for field in fields(DataArguments)}


# Modules that find and open files, or say which file is looked at; none decides what is written down about it.
AROUND = ("errors", "files", "far", "servers", "data/known", "data/dataset")
TABLE = ("data/table", "data/annotations")  # around findings in files, not around a table


def modules_that_run(function):
    """Return the modules of this package that run in this thread, like `data/table`."""
    package, seen = str(ROOT / "fvv_lib") + os.sep, set()

    def note(frame, event, _):
        if event == "call":
            seen.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return {Path(file.removeprefix(package)).with_suffix("").as_posix() for file in seen if file.startswith(package)}


def named_by(patterns):
    package = ROOT / "fvv_lib"
    found = {file for pattern in patterns for file in package.glob(f"{pattern}.py")}
    return {file.relative_to(package).with_suffix("").as_posix() for file in found}


def test_what_is_remembered_depends_on_all_modules_that_find_it(make, media, tmp_path):
    """Other code may find something else in the same file, or write it down in another way."""
    (media / "frames").mkdir()
    shutil.copy(media / "still.png", media / "frames" / "1.png")
    (media / "still.tif").write_bytes((media / "still.png").read_bytes())
    samples = [sample("clip.mp4", start="0:01"), sample("frames"), sample("still.tif"), sample("of a folder")]
    samples[-1]["video"] = {"frames": "frames", "fps": 2}
    dataset = make(samples, frame_sampling="fps", max_frames=4)
    annotations = tmp_path / "data.json"
    reading = checking.READING_CODE
    searches = {
        "table": (lambda: list(_rows(annotations)), TABLE_CODE, AROUND),
        "read": (
            lambda: [list(Inspector(dataset).facts(index)) for index in range(len(samples))],
            (*reading, "data/inspecting"),
            # What a check needs besides the files.
            (*AROUND, *TABLE, "data/media_units", "data/checking", "provenance", "machine"),
        ),
        "kind": (lambda: checking._kind(str(media / "still.tif")), (*reading, "data/checking"), AROUND),
        "frames": (
            lambda: [count_sampled(dataset.media(index)[0], **sampling_of(dataset.data_args)) for index in (0, 1, 3)],
            (*reading, "data/checking"),
            (*AROUND, *TABLE),
        ),
        "ends": (lambda: [_sketch(str(media / name)) for name in ("clip.mp4", "frames")], SKETCH_CODE, AROUND),
    }
    for name, (search, code, around) in searches.items():
        assert modules_that_run(search) - {*around} <= named_by(code), name


@pytest.mark.usefixtures("settled")
def test_a_file_that_breaks_while_a_data_set_is_open_is_noticed(make, media):
    dataset = make([sample("clip.mp4"), sample("short.mp4")])
    assert dict(dataset.check_media()) == dict.fromkeys(range(2))
    (media / "short.mp4").write_text("not a video")
    assert isinstance(dict(dataset.check_media())[1], VideoDecodeError)
    (report,) = [one for one in check_data(dataset, quiet=True) if one.problem]
    assert "short.mp4" in report.problem


RATE = {"frame_sampling": "fps", "max_frames": 4}


def test_a_clip_that_is_counted_too_slowly_keeps_its_first_error(make, monkeypatch):
    """A busy machine may be quicker the next time."""
    calls = []

    def count(medium, num_frames, **_):
        calls.append(medium.source.name)
        if calls.count("clip.mp4") == 1 and medium.source.name == "clip.mp4":
            raise VideoDecodeError("clip.mp4: it was not decoded within 1 seconds.")
        return 2

    monkeypatch.setattr(checking, "count_sampled", count)
    dataset = make([sample("clip.mp4"), sample("short.mp4")], **RATE)
    (error,) = dataset.bad.values()
    assert str(error).endswith(": clip.mp4: it was not decoded within 1 seconds.")
    assert sorted(calls) == ["clip.mp4", "short.mp4"]
    assert make([sample("clip.mp4"), sample("short.mp4")], **RATE).bad == {}


@pytest.mark.usefixtures("settled")
def test_frames_are_counted_on_all_cores_and_kept_when_that_is_stopped(make, media, monkeypatch):
    for number in range(20):
        shutil.copy(media / "short.mp4", media / f"{number}.mp4")
    running, most, calls = [], [], []

    def count(medium, num_frames, **_):
        running.append(1)
        time.sleep(0.01)
        most.append(len(running))
        running.pop()
        calls.append(medium.source.name)
        if medium.source.name == "9.mp4" and calls.count("9.mp4") == 1:
            raise KeyboardInterrupt
        return 2

    monkeypatch.setattr(known, "usable_cores", lambda: 3)
    monkeypatch.setattr(checking, "count_sampled", count)
    samples = [sample(f"{number}.mp4") for number in range(20)]
    with pytest.raises(KeyboardInterrupt):
        make(samples, **RATE)
    assert 2 <= max(most) <= 3
    done = {f"{number}.mp4" for number in range(9)}
    before = len(calls)
    assert len(make(samples, **RATE)) == 20
    assert done.isdisjoint(calls[before:])


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("sampling", ["uniform", "random"])
def test_lengths_with_time_marks_are_the_same_when_the_clips_are_known(make, read, sampling):
    def lengths():
        dataset = make([sample("clip.mp4"), sample("short.mp4")], time_marks="seconds", frame_sampling=sampling)
        before = dataset.lengths.tolist()
        assert dict(dataset.check_media()) == {0: None, 1: None}
        assert before != dataset.lengths.tolist()
        return dataset.lengths.tolist()

    first, seen = found_by(lengths, read)
    assert seen == ["clip.mp4", "short.mp4"]
    assert found_by(lengths, read) == (first, [])


def test_texts_are_tokenized_again_only_where_another_number_of_frames_is_read(make, monkeypatch):
    """The packets of a clip may promise frames that the decoder does not give."""
    dataset = make([sample("clip.mp4"), sample("short.mp4")], frame_sampling="fps", sample_fps=8.0, max_frames=4)
    counted = dataset.lengths.tolist()
    measured, tokens = [], SampleText.tokens
    monkeypatch.setattr(SampleText, "tokens", lambda *args: measured.append(args[1]) or tokens(*args))
    assert dict(dataset.check_media()) == {0: None, 1: None}
    assert measured == []
    read = LazySupervisedDataset.read

    def with_fewer(self, medium, index, place=0):
        video = read(self, medium, index, place)
        return replace(video, timestamps=video.timestamps[:-1]) if index == 0 else video

    with monkeypatch.context() as broken:
        broken.setattr(LazySupervisedDataset, "read", with_fewer)
        assert dict(dataset.check_media()) == {0: None, 1: None}
    assert measured == [0]
    assert dataset.lengths.tolist() == [counted[0] - SPEC.tokens_per_frame, counted[1]]
    assert dict(dataset.check_media()) == {0: None, 1: None}
    assert dataset.lengths.tolist() == counted


def test_the_files_in_a_folder_are_looked_at_once(make, media, monkeypatch):
    (media / "frames").mkdir()
    for number in range(3):
        shutil.copy(media / "still.png", media / "frames" / f"{number}.png")
    looked, look_at = [], known._look_at
    monkeypatch.setattr(known, "_look_at", lambda paths: looked.extend(paths) or look_at(paths))
    dataset = make([sample("frames"), sample("frames", "again")])
    assert dict(dataset.check_media()) == {0: None, 1: None}
    names = [os.path.basename(path) for path in looked]
    assert sorted(names) == [b"0.png", b"1.png", b"2.png", b"frames"]


@pytest.mark.usefixtures("settled")
def test_a_folder_of_frames_is_read_again_if_a_frame_changes(make, media, read):
    (media / "frames").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (60 * number, 0, 0)).save(media / "frames" / f"{number}.png")
    for expected in (["frames"], []):
        assert found_by(lambda: dict(make([sample("frames")]).check_media()), read) == ({0: None}, expected)
    same_times(media / "frames" / "1.png", "no picture")
    problems, seen = found_by(lambda: dict(make([sample("frames")]).check_media()), read)
    assert seen == ["frames"]
    assert isinstance(problems[0], VideoDecodeError)


@pytest.mark.usefixtures("settled")
def test_a_picture_that_becomes_an_animation_is_noticed(make, media):
    """Its name stays the same, and it is now read as a video of several frames."""
    Image.new("RGB", (40, 30)).save(media / "a.png")
    samples = [sample("a.png")]
    for _ in range(2):
        assert len(make(samples)[0]["images"]) == 1
    Image.new("RGB", (40, 30)).save(media / "a.png", save_all=True, append_images=[Image.new("RGB", (40, 30), "red")])
    assert len(make(samples)[0]["images"]) == 8


def test_a_clip_in_both_sets_is_found_through_any_link(make, media):
    train = make([sample("clip.mp4"), sample("gone.mp4")], "train.json")
    (media / "linked").symlink_to(".")
    (media / "link.mp4").symlink_to("linked/clip.mp4")
    for name in ("clip.mp4", "link.mp4", "linked/clip.mp4", "./clip.mp4", str(media / "linked" / "link.mp4")):
        with pytest.raises(DataFormatError, match=r"1 of its clips are in .*/clip\.mp4\."):
            check_disjoint(train, make([sample(name), sample("short.mp4")], "val.json"))
    check_disjoint(train, make([sample("short.mp4"), sample("gone.mp4")], "val.json"))  # no sample with it is left


def test_files_of_samples_that_are_left_out_do_not_count(make, media):
    (media / "broken.mp4").write_text("not a video")
    train = make([sample("clip.mp4"), sample("broken.mp4")], "train.json")
    train.leave_out({index: error for index, error in train.check_media() if error})
    check_disjoint(train, make([sample("broken.mp4")], "val.json"))
    assert {os.path.basename(path) for path in train.samples.real_media()} == {b"clip.mp4"}


def test_a_check_that_is_stopped_keeps_what_it_has_read(make, read, monkeypatch):
    monkeypatch.setattr(known, "RECENT", 0.0)
    checking = make([sample("clip.mp4"), sample("short.mp4")]).check_media(threads=1)
    assert next(checking) == (0, None)
    checking.close()
    read.clear()
    assert dict(make([sample("clip.mp4")]).check_media()) == {0: None}
    assert read == []


def test_workers_are_sent_no_paths(make):
    import pickle

    dataset = make([sample("clip.mp4")] * 3)
    dataset.samples.files.looks  # noqa: B018
    assert b"looks" not in pickle.dumps(dataset.samples)
    assert len(pickle.loads(pickle.dumps(dataset.samples)).files.paths) == 1


def test_a_sample_without_media_has_no_files(make):
    turns = [{"from": "human", "value": "Hm?"}, {"from": "gpt", "value": "Yes."}]
    dataset = make([{"conversations": turns}])
    assert dict(dataset.check_media()) == {0: None}
    assert dataset.media_counts == {"files": 0, "known": 0}
    assert json.loads(json.dumps(dataset.media_counts)) == dataset.media_counts
