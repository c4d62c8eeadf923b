"""`fvv evaluate`: the report of a run that was stopped, or shared by processes, is that of one run."""

import json
import os
import random
import re
import signal
import sys
import time
from importlib.metadata import version

import pytest
from shared import ROOT
from starting import ENVIRONMENT, FORKSERVER, _of_rank, leave_tests, print_to

from fvv_lib import CheckpointError
from fvv_lib.__main__ import main
from fvv_lib.evaluation import text_scores
from fvv_lib.evaluation.answers import AnswerFile, read_answers, write_answers
from fvv_lib.evaluation.scoring import percent
from fvv_lib.evaluation.summary import format_summary, summarize
from fvv_lib.scaling.ranks import _free_port

TRAINED = ROOT / "data_samples" / "tiny-fastvlm-video"
KILLS = 10


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A small test set about videos of the course, images and text, and a second one."""
    folder = tmp_path_factory.mktemp("asked")
    samples = json.loads((ROOT / "data_samples" / "val.json").read_text())
    wanted = ("motion-0000", "motion-0001", "motion-0002", "order-0040", "order-0041", "still-0072", "text")
    chosen = [sample for sample in samples if any(name in sample["id"] for name in wanted)]
    first, second = folder / "first.json", folder / "second.json"
    first.write_text(json.dumps(chosen))
    second.write_text(json.dumps(chosen[:1]))
    return first, second


def flags(asked, output, *more):
    settings = {"model": TRAINED, "image_folder": ROOT / "data_samples", "output": output, "batch_size": 2}
    named = [part for name, value in settings.items() for part in (f"--{name}", value)]
    fixed = ["--data", *asked, *named, "--max_new_tokens", 16, "--decode_timeout", 0, "--time_controls", "--use_cpu"]
    return [*map(str, fixed), *map(str, more)]


def results(folder):
    """Return what a run writes, except the machine and the name of the folder."""
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics.pop("hardware")
    report = (folder / "report.html").read_text().replace(f"Evaluation: {folder.name}", "")
    return (folder / "answers.jsonl").read_text(), metrics, report


@pytest.fixture(scope="module")
def unbroken(asked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    assert main(["evaluate", *flags(asked, folder)]) == 0
    return folder


def start(arguments, environment, log):
    leave_tests()
    os.environ.update(environment)
    print_to(log)
    sys.exit(main(["evaluate", *arguments]))


def begin(arguments, log, rank=0, ranks=1, port=0):
    environment = _of_rank(rank, ranks, port) if ranks > 1 else {**os.environ, **ENVIRONMENT}
    process = FORKSERVER.Process(target=start, args=(arguments, environment, str(log)))
    process.start()
    return process


# --- the report -------------------------------------------------------------------------------------------------------


def test_every_answer_is_a_line_and_the_counts_are_those_of_the_lines(unbroken, asked):
    head, *lines = map(json.loads, (unbroken / "answers.jsonl").read_text().splitlines())
    metrics = json.loads((unbroken / "metrics.json").read_text())
    assert set(metrics["tests"]) == set(map(str, asked))
    assert head["identity"] == metrics["identity"]
    for path in map(str, asked):
        mine = [line for line in lines if line["data"] == path]
        summary = metrics["tests"][path]
        forwards = [line for line in mine if line["control"] == "forwards"]
        assert summary["forwards"]["all"]["total"] == len(forwards)
        assert summary["forwards"]["all"]["correct"] == sum(line["right"] for line in forwards)
        assert summary["forwards"]["all"]["accuracy"] > 0.9
        videos = [line for line in forwards if line["video"] and not line["video"].endswith(".png")]
        assert summary["controls"]["backwards"]["all"]["total"] == len(videos)
        assert {"id", "question", "expected", "answer", "kind", "media", "history", "choices"} <= set(lines[0])
    compared = metrics["tests"][str(asked[0])]["compared"]
    assert set(compared) == {"backwards", "shuffled", "one_frame", "blank"}
    assert all(row["difference"] > 0 for row in compared.values())
    assert compared["blank"]["videos"] == 5


def test_the_command_prints_a_table_for_each_test_set(asked, unbroken, fvv):
    """The run has finished: it only prints its tables again."""
    result = fvv("evaluate", *flags(asked, unbroken))
    assert result.returncode == 0, result.stderr
    for path in map(str, asked):
        assert path in result.stdout.splitlines()
    assert re.search(r"^all +\d+ +\d+\.\d%   \d+% to \d+%$", result.stdout, re.M)
    assert re.search(r"^backwards: -\d+\.\d points against forwards, p = ", result.stdout, re.M)


# --- stopped and shared -----------------------------------------------------------------------------------------------


def test_a_run_that_is_killed_again_and_again_ends_with_the_report_of_an_unbroken_one(asked, unbroken, tmp_path):
    choose, folder, log = random.Random(0), tmp_path / "killed", tmp_path / "log"
    total = len((unbroken / "answers.jsonl").read_text().splitlines())
    for kill in range(KILLS):
        process = begin(flags(asked, folder), log)
        wanted = (kill + 1) * total // (KILLS + 2)
        while process.exitcode is None and count_lines(folder) < wanted:
            time.sleep(0.005)
        time.sleep(choose.random() * 0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0), log.read_text()
    before = count_lines(folder)
    process = begin(flags(asked, folder), log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert 0 < before <= total
    assert results(folder) == results(unbroken)


def count_lines(folder):
    files = [folder / "answers.jsonl", *folder.glob("answers.*.part")]
    return sum(file.read_bytes().count(b"\n") for file in files if file.exists())


def test_two_processes_write_the_report_of_one(asked, unbroken, tmp_path):
    folder, port = tmp_path / "shared", _free_port()
    logs = [tmp_path / f"log{rank}" for rank in range(2)]
    ranks = [begin(flags(asked, folder), logs[rank], rank, 2, port) for rank in range(2)]
    for process, log in zip(ranks, logs, strict=True):
        process.join(200)
        assert process.exitcode == 0, log.read_text()
    assert results(folder) == results(unbroken)
    assert sorted(path.name for path in folder.iterdir()) == ["answers.jsonl", "metrics.json", "report.html"]
    assert "questions" in logs[0].read_text()
    assert "questions" not in logs[1].read_text()


def test_a_model_folder_may_be_moved(tmp_path):
    write_answers(tmp_path, {"model": "m", "model folder": "a"}, [])
    assert read_answers(tmp_path, {"model": "m", "model folder": "b"}) == {}


RECORDS = [{"data": "a", "position": number, "control": "forwards", "answer": "\N{SNOWMAN}"} for number in range(3)]


def test_a_torn_line_is_asked_again_wherever_it_is_torn(tmp_path):
    write_answers(tmp_path, {"model": "m"}, RECORDS)
    content = (tmp_path / "answers.jsonl").read_bytes()
    ends = [place for place, byte in enumerate(content) if byte == 10]
    for cut in range(len(content) + 1):
        (tmp_path / "answers.jsonl").write_bytes(content[:cut])
        whole = sum(end < cut for end in ends)
        assert list(read_answers(tmp_path, {"model": "m"}).values()) == RECORDS[: max(whole - 1, 0)]


def test_answers_of_all_processes_are_merged(tmp_path):
    write_answers(tmp_path, {}, RECORDS[:1])
    for rank, record in enumerate(RECORDS):
        with AnswerFile(tmp_path, rank) as file:
            file.add([record])
    found = read_answers(tmp_path, {})
    assert list(found.values()) == RECORDS
    write_answers(tmp_path, {}, found.values())
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]
    assert list(read_answers(tmp_path, {}).values()) == RECORDS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"identity": {"model": "n"}}\n',
            r"answers\.jsonl: these answers are of an evaluation with another model \(theirs: unknown, now: b\)\. Use",
        ),
        ('{"identity": {}}\n', "with another model"),
        ('{"identity": {"model": "n", "model folder": "a"}}\n', r"another model \(theirs: a, now: b\)\. Use"),
        ('{"identity": {"model": "m"}}\n{"a\n{}\n', r"answers\.jsonl, line 2: it is damaged"),
        ('{"identity": {"model": "m"}}\n[]\n', "line 2: not an answer"),
        ('{"id": 3}\n', "not the answers of an evaluation"),
        ("[1]\n", "line 1: not an answer"),
    ],
)
def test_other_answers_are_neither_mixed_in_nor_overwritten(tmp_path, content, message):
    (tmp_path / "answers.jsonl").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read_answers(tmp_path, {"model": "m", "model folder": "b"})
    assert (tmp_path / "answers.jsonl").read_text() == content


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max_new_tokens", "8"], "answers.jsonl: these answers are of an evaluation with another max_new_tokens."),
        (["--time_controls", "False"], "another time_controls."),
        (["--data", ROOT / "data_samples" / "val.json"], "another data, images and videos."),
        (["--model", ROOT / "data_samples" / "tiny-fastvlm"], "another model (theirs: "),
    ],
)
def test_a_run_goes_on_only_with_the_same_model_data_and_settings(asked, unbroken, fvv, more, message):
    before = (unbroken / "answers.jsonl").read_text()
    result = fvv("evaluate", *flags(asked, unbroken, *more))
    assert result.returncode == 1
    assert message in result.stderr.splitlines()[-1]
    assert (unbroken / "answers.jsonl").read_text() == before


def test_the_record_of_a_training_run_is_not_overwritten(asked, tmp_path, fvv):
    (tmp_path / "metrics.json").write_text('{"arguments": {}}')
    result = fvv("evaluate", *flags(asked, tmp_path))
    assert result.returncode == 1
    assert "metrics.json: not the record of an evaluation" in result.stderr
    assert not (tmp_path / "answers.jsonl").exists()


# --- free texts -------------------------------------------------------------------------------------------------------


def records(rights, choices=()):
    common = {"control": "forwards", "choices": list(choices), "kind": None, "video": None}
    return [{"position": place, "right": right, **common} for place, right in enumerate(rights)]


def test_the_table_says_why_free_texts_are_never_right():
    text = format_summary("captions.json", summarize(records([False] * 40)))
    assert "0 of 40 answers to questions without choices are right: an answer must equal the expected text" in text
    for fine in (records([True] * 40), records([False] * 40, ["a", "b"])):
        assert "without choices" not in format_summary("captions.json", summarize(fine))


def compared(right_of):
    """Return the table of a test set with time controls: how many of the questions about each video are right."""
    one = {"choices": ["a", "b"], "kind": None}
    rows = [
        {"position": 10 * video + place, "right": place < count, "control": control, "video": f"{video}.mp4", **one}
        for control, count in right_of.items()
        for video in range(12)
        for place in range(10)
    ]
    return format_summary("test.json", summarize(rows))


def test_controls_of_a_model_that_is_not_above_blank_say_nothing_about_time():
    for same in ({"forwards": 0, "backwards": 0, "blank": 0}, {"forwards": 9, "backwards": 9, "blank": 9}):
        text = compared(same)
        assert "forwards is not clearly above blank (p < 0.05), so this comparison says nothing about time" in text
        assert "backwards: +0.0 points against forwards" in text
    text = compared({"forwards": 9, "backwards": 4, "blank": 1})
    assert "clearly" not in text
    assert "backwards: -50.0 points against forwards" in text


@pytest.mark.parametrize(("share", "digits", "text"), [(0.996, 0, "99%"), (0.9996, 1, "99.9%"), (0.001, 0, "1%")])
def test_only_everything_is_100_percent_and_only_nothing_0(share, digits, text):
    assert percent(share, digits) == text
    assert [percent(1, digits), percent(0, 1), percent(0.5)] == [f"{1:.{digits}%}", "0.0%", "50%"]


def test_texts_are_compared_by_a_library_that_the_report_names(asked, tmp_path, fvv):
    sacrebleu = pytest.importorskip("sacrebleu")
    result = fvv("evaluate", *flags(asked[1:], tmp_path, "--scores", "bleu", "chrf"))
    assert result.returncode == 0, result.stderr
    assert f"chrf (sacrebleu {sacrebleu.__version__}): " in result.stdout


def test_scores_without_their_library_are_refused_before_the_model_is_loaded(fvv, tmp_path, monkeypatch):
    monkeypatch.setattr(text_scores, "version", lambda name: version(f"no {name}"))
    result = fvv("evaluate", "--model", "no", "--data", "no", "--output", tmp_path, "--scores", "bleu")
    assert result.returncode == 1
    assert result.stderr == (
        'error: scores bleu needs sacrebleu, which is not installed: pip install -c constraints.txt -e ".[scores]".\n'
    )
