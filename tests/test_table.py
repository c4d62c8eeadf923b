"""Samples are in a memory-mapped table that is made once and is never stale."""

import json
import multiprocessing
import os
import pickle

import numpy as np
import pytest
from shared import SPEC

from fvv_lib import DataFormatError, LazySupervisedDataset, Medium
from fvv_lib.course.tiny import build_tokenizer
from fvv_lib.data import table
from fvv_lib.data.checking import SampleText
from fvv_lib.data.table import Annotations, digest_annotations, open_table, table_digest
from fvv_lib.settings import DataArguments


def sample(question="Hm?", answer="Yes.", **rest):
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **rest}


SAMPLES = [
    sample("<image>?", image="still.png", id="a"),
    sample("<image><image>?", video=["clip.mp4", "short.mp4"], id="b"),
    sample("Which?", kinds=["x"], id="a"),
    sample("Where?"),
]


@pytest.fixture
def checked(monkeypatch):
    """The indices of the samples that were checked since the list was last cleared."""
    seen = []
    check = SampleText.check

    def spy(self, tokenizer, index):
        seen.append(index)
        return check(self, tokenizer, index)

    monkeypatch.setattr(SampleText, "check", spy)
    return seen


def test_samples_names_and_media_are_those_of_the_files(annotate, tmp_path):
    paths = [annotate(SAMPLES, "one.json"), annotate(SAMPLES[1:], "two.json")]
    both = Annotations(paths, cache_dir=str(tmp_path / "cache"))
    assert list(both) == SAMPLES + SAMPLES[1:]
    names = [both.name(index).split("/")[-1] for index in range(len(both))]
    assert names[:4] == [f"one.json, sample {name}" for name in ("a (at 0)", "b", "a (at 2)", "3")]
    assert names[4:] == [f"two.json, sample {name}" for name in ("b", "a", "2")]
    assert both.media(4) == [Medium(tmp_path / "clip.mp4"), Medium(tmp_path / "short.mp4")]
    both.keep(np.array([False, True, True, True, False, True, True]))
    assert list(both) == SAMPLES[1:] + SAMPLES[2:]
    assert both.real_media().keys() == {os.fsencode(medium.source) for medium in both.media(0)}
    assert both.name(3).endswith("two.json, sample a")


def test_the_table_is_a_mapped_file_and_workers_are_sent_little(annotate, tmp_path):
    samples = [sample("Which? " * 50, id=i) for i in range(2000)]
    many = Annotations([annotate(samples)], cache_dir=str(tmp_path / "cache"))
    (file,) = many.table.cache_files
    assert str(tmp_path / "cache") in file["filename"]
    sent = pickle.dumps(many)
    assert len(sent) < 30 * len(many) < len(json.dumps(samples)) / 10
    assert pickle.loads(sent)[1999] == samples[1999]


def test_nothing_is_written_beside_the_annotation_file(annotate, tmp_path):
    path = annotate(SAMPLES, "one.json")
    before = sorted(tmp_path.rglob("*"))
    cache = tmp_path / "cache"
    Annotations([path], cache_dir=str(cache))
    assert sorted(file for file in tmp_path.rglob("*") if cache not in [file, *file.parents]) == before


def test_a_file_that_fails_leaves_no_table(annotate, tmp_path):
    path = annotate('[{"id": 1}, {"id": }]')
    for _ in range(2):
        with pytest.raises(DataFormatError, match=r"data\.json: not valid JSON"):
            open_table(path, table_digest(path, digest_annotations(path)), str(tmp_path / "cache"))
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_a_changed_file_is_noticed(annotate, tmp_path):
    path = annotate([sample("One?", id="x")])
    times = os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns
    assert Annotations([path])[0] == sample("One?", id="x")
    annotate([sample("Two?", id="x")])  # same length, same times
    os.utime(path, ns=times)
    assert Annotations([path])[0] == sample("Two?", id="x")


@pytest.mark.parametrize(
    "bad",
    [
        sample("Hm? \ud83d"),
        sample("<image>?", image="\ud800.png"),
        sample(id="\udfff"),
        sample(note={"deep": ["\udc00"]}, image=None),
        {**sample(), "\ud83d": 1},
    ],
)
def test_half_a_surrogate_pair_is_an_error_of_its_sample(annotate, tokenizer, bad):
    path = annotate([sample("Which?"), bad])
    with pytest.raises(DataFormatError, match=r"data\.json, sample 1: its text is not valid Unicode: '\\ud") as error:
        LazySupervisedDataset(tokenizer, [path], DataArguments(), frame_spec=SPEC)
    str(error.value).encode()  # the message itself can be printed
    rest = LazySupervisedDataset(tokenizer, [path], DataArguments(bad_samples="skip"), frame_spec=SPEC)
    assert (len(rest), len(rest.bad)) == (1, 1)


def test_a_whole_surrogate_pair_is_a_letter(annotate):
    """JSON writes a character of more than 16 bits as two escapes."""
    assert Annotations([annotate([sample("\U0001f600")])])[0] == sample("\U0001f600")


def test_samples_are_checked_again_only_if_the_result_may_differ(annotate, media, tokenizer, checked):
    path = annotate(SAMPLES)

    def open_with(tokens=tokenizer, **settings):
        checked.clear()
        dataset = LazySupervisedDataset(tokens, [path], DataArguments(**settings), frame_spec=SPEC)
        return dataset.lengths.tolist(), checked[:]

    first, seen = open_with()
    assert seen == [0, 1, 2, 3]
    assert open_with(decode_timeout=5.0, bad_samples="skip") == (first, [])
    assert open_with(build_tokenizer()) == (first, [])  # another object with the same vocabulary
    more, seen = open_with(num_video_frames=9)
    assert [longer - length for longer, length in zip(more, first, strict=True)] == [0, 8, 0, 0]
    assert seen == [0, 1, 2, 3]
    other = build_tokenizer()
    other.add_tokens(["Which"])
    assert open_with(other)[1] == [0, 1, 2, 3]


def test_a_change_of_any_annotation_file_repeats_the_check(annotate, media, tokenizer, checked):
    """Results are stored with the table of the first file, but the second file may have changed."""
    first, second = annotate(SAMPLES, "first.json"), annotate([sample("Which?")], "second.json")

    def lengths():
        checked.clear()
        return LazySupervisedDataset(tokenizer, [first, second], DataArguments(), frame_spec=SPEC).lengths

    short = lengths()[4]
    assert (lengths()[4], checked) == (short, [])
    annotate([sample("Which? " * 20)], "second.json")
    assert lengths()[4] > short


def test_a_removed_or_restored_media_file_is_noticed(annotate, media, tokenizer, checked):
    path = annotate(SAMPLES)
    whole = LazySupervisedDataset(tokenizer, [path], DataArguments(bad_samples="skip"), frame_spec=SPEC)
    (media / "short.mp4").rename(media / "away.mp4")
    less = LazySupervisedDataset(tokenizer, [path], DataArguments(bad_samples="skip"), frame_spec=SPEC)
    assert (len(whole), len(less), len(less.bad)) == (4, 3, 1)
    (media / "away.mp4").rename(media / "short.mp4")
    checked.clear()
    assert len(LazySupervisedDataset(tokenizer, [path], DataArguments(bad_samples="skip"), frame_spec=SPEC)) == 4
    assert not checked


def test_cached_errors_equal_the_original_errors(annotate, media, tokenizer, checked):
    path = annotate([sample("<image>?", id="words"), *SAMPLES, sample("<image>?", image="gone.png", id="file")])
    first, again = (
        LazySupervisedDataset(tokenizer, [path], DataArguments(bad_samples="skip"), frame_spec=SPEC) for _ in range(2)
    )
    assert len(checked) == 6
    for name, error in first.bad.items():
        assert (type(error), str(error)) == (type(again.bad[name]), str(again.bad[name]))
    with pytest.raises(DataFormatError, match="sample words: its text has 1 <image>"):
        LazySupervisedDataset(tokenizer, [path], DataArguments(), frame_spec=SPEC)


def test_several_processes_find_what_one_finds(annotate, media, tokenizer, monkeypatch, tmp_path):
    bad = sample("<image>?", id="words")
    path = annotate([*SAMPLES, bad, *SAMPLES])
    one = LazySupervisedDataset(tokenizer, [path], DataArguments(bad_samples="skip"), frame_spec=SPEC)
    monkeypatch.setattr(table, "SAMPLES_PER_PROCESS", 3)
    monkeypatch.setattr(table, "usable_cores", lambda: 2)
    several = LazySupervisedDataset(
        tokenizer, [path], DataArguments(bad_samples="skip", cache_dir=str(tmp_path / "c")), frame_spec=SPEC
    )
    assert len(list((tmp_path / "c").rglob("cache-*.arrow"))) == 2
    assert several.lengths.tolist() == one.lengths.tolist()
    assert {name: str(error) for name, error in several.bad.items()} == {n: str(e) for n, e in one.bad.items()}
    with pytest.raises(DataFormatError, match="sample words: its text has 1 <image>"):
        LazySupervisedDataset(tokenizer, [path], DataArguments(cache_dir=str(tmp_path / "d")), frame_spec=SPEC)
    assert not multiprocessing.active_children()
