"""Benchmarks of the field: published layouts become questions, and answers are scored as the public programs do.

The expected values of the official rules are those of the functions of lmms-eval (commit 75571cf) for the same answers.
"""

import json
import os
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shared import ROOT

from fvv_lib import DataFormatError, FvvError, Medium, load_benchmark, score_benchmark
from fvv_lib.cli.evaluate import BENCHMARK_NAMES
from fvv_lib.evaluation.benchmarks import rules
from fvv_lib.evaluation.benchmarks.layouts import MVBENCH, BenchmarkQuestion
from fvv_lib.evaluation.benchmarks.report import format_benchmark
from fvv_lib.evaluation.benchmarks.table import BENCHMARKS

OPTIONS = ["red ball", "blue", "moving left", "a red ball falls down now"]
LISTED = "Which?\nA. red ball\nB. blue\nC. moving left"
CAPTIONS = "Which?\nOption 1: A dog runs.\nOption 2: A man runs."

VIDEOMME = {"videoID": "v0", "question_id": "001-1", "question": "Which?", "options": ["A. red ball", "B. blue"]}
VIDEOMME |= {"answer": "B", "duration": "short", "domain": "Life", "sub_category": "Food", "task_type": "OCR Problems"}
TOMATO = {"id": "7", "video_path": "videos/human/k.mp4", "question": "Which?", "options": OPTIONS, "answer": 1}
TOMATO |= {"reason_type": "count", "demonstration_type": "human"}
LONG = {"id": "q9", "video_path": "v0.mp4", "question": "Which?", "correct_choice": 1, "duration_group": 15}
LONG |= {"question_category": "S2E", "option0": "red ball", "option1": "blue", "option2": "N/A"}
NEXT = {"video": 4010069381, "qid": 6, "type": "CH", "question": "which ", "answer": 1}
NEXT |= {f"a{number}": f"text {number}" for number in range(5)}
MV = {"video": "v0.mp4", "question": "Which?", "candidates": OPTIONS, "answer": "blue"}

# For each benchmark: an annotation file, a row of it, its video, and the end of the question's prompt.
ROWS = {
    "videomme": ("videomme/test-0.parquet", VIDEOMME, "data/v0.mp4", "\nA. red ball\nB. blue\n\nAnswer with the"),
    "mvbench": ("json/moving_count.json", MV, "video/clevrer/video_validation/v0.mp4", "(B) blue\n(C) moving left\n"),
    "tvbench": ("json/object_count.json", MV, "video/object_count/v0.mp4", "now\nAnswer with the option letter only."),
    "tempcompass": (
        "multi-choice/test-0.parquet",
        {"video_id": "v0", "question": LISTED, "answer": "B. blue", "dim": "speed"},
        "videos/v0.mp4",
        "C. moving left\nPlease directly give the best option:",
    ),
    "egoschema": (
        "Subset/test-0.parquet",
        {"video_idx": "v0", "question": "Which?", "option": ["A. red", "B. blue"], "answer": "1"},
        "videos/v0.mp4",
        "Which?\nA. red\nB. blue\nAnswer with the option's letter from the given choices directly.",
    ),
    "nextqa": ("MC/test-0.parquet", NEXT, "NExTVideo/4010069381.mp4", "\nwhich\nA. text 0\nB. text 1\n"),
    "tomato": ("data/test-0.parquet", TOMATO, "videos/human/k.mp4", "{'A': 'red ball', 'B': 'blue', "),
    "mlvu": (
        "mlvu/test-0.parquet",
        {"video_name": "v0.mp4", "question": "Which?\n(A) red\n(B) blue", "answer": "B", "task_type": "count"},
        "v0.mp4",
        "(B) blue\nOnly give the best option.\nBest option: (",
    ),
    "longvideobench": (
        "validation-0.parquet",
        LONG,
        "videos/v0.mp4",
        "\nA. red ball\nB. blue\nAnswer with the option's",
    ),
}


def write(folder, file, rows):
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows))


def touch(folder, file):
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).touch()


def set_up(folder, name, *rows):
    """Write the annotation file of a benchmark and its video, without content."""
    file, row, video, _ = ROWS[name]
    write(folder, file, list(rows) or [row])
    touch(folder, video)
    if name == "tempcompass":
        base = {key: row[key] for key in ("video_id", "dim")}
        write(folder, "yes_no/test-0.parquet", [{**base, "question": "Does it fall?", "answer": "no"}])
        caption = {**base, "question": CAPTIONS, "answer": "Option 2: A man runs."}
        write(folder, "caption_matching/test-0.parquet", [caption])


@pytest.mark.parametrize("name", ROWS)
def test_the_published_layout_becomes_questions(name, tmp_path):
    set_up(tmp_path, name)
    question = load_benchmark(name, tmp_path)[-1 if name != "tempcompass" else 0]
    _, row, video, part = ROWS[name]
    assert question.media == (Medium(tmp_path / video),)
    assert part in question.prompt
    assert question.prompt.startswith("<image>\n")
    assert question.prompt.count("<image>") == 1
    assert question.expected == "B"
    assert question.labels == tuple("ABCDE"[: len(question.choices)])
    assert all(
        group in map(str, row.values()) or name in ("mvbench", "tvbench", "tempcompass")
        for group in question.groups.values()
    )


def test_every_benchmark_has_a_layout_here():
    assert set(ROWS) == set(BENCHMARKS) == set(BENCHMARK_NAMES)


def test_yes_no_and_caption_matching_have_labels_of_their_own(tmp_path):
    set_up(tmp_path, "tempcompass")
    _, yes_no, caption = load_benchmark("tempcompass", tmp_path)
    assert (yes_no.labels, yes_no.expected) == (("yes", "no"), "no")
    assert (caption.labels, caption.expected) == (("1", "2"), "2")
    assert caption.groups == {"task": "caption_matching", "aspect": "caption_matching, speed"}


def test_segments_and_folders_of_frames_are_media(tmp_path):
    rows = [{**MV, "start": 1.5, "end": 4.0}]
    for subset in ("action_sequence", "episodic_reasoning", "moving_count"):
        write(tmp_path, f"json/{subset}.json", rows)
        touch(tmp_path, f"video/{MVBENCH[subset][0]}/v0.mp4")
    cut, frames, whole = (question.media[0] for question in load_benchmark("mvbench", tmp_path))
    assert cut == Medium(tmp_path / "video/star/Charades_v1_480/v0.mp4", 1.5, 4.0)
    assert frames == Medium(tmp_path / "video/tvqa/frames_fps3_hq/v0.mp4", 1.5, 4.0, 3.0)
    assert not whole.is_part  # the public program uses times in five subsets only


def test_a_video_may_have_another_ending(tmp_path):
    set_up(tmp_path, "videomme")
    (tmp_path / "data/v0.mp4").rename(tmp_path / "data/v0.mkv")
    assert load_benchmark("videomme", tmp_path)[0].media == (Medium(tmp_path / "data/v0.mkv"),)


def test_missing_videos_are_counted_and_the_first_are_named(tmp_path):
    set_up(tmp_path, "videomme", *({**VIDEOMME, "videoID": f"v{number}"} for number in range(6)))
    with pytest.raises(DataFormatError, match=r"5 of 6 videos are missing: \S+v1.mp4, \S+v2.mp4, \S+v3.mp4, \.\.\."):
        load_benchmark("videomme", tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("videomme", {"answer": "C"}, "'answer' must be the letter of one of 2 options, got 'C'"),
        ("videomme", {"answer": "blue"}, "must be the letter"),
        ("videomme", {"options": "A. red"}, "'options' must be a list of texts"),
        ("videomme", {"duration": None}, "the field 'duration' is missing"),
        ("mvbench", {"answer": "green"}, "'answer' must be the text of one of"),
        ("mvbench", {"question": True}, "'question' must be a text"),
        ("egoschema", {"answer": "2"}, "must be the index of one of 2 options, got '2'"),
        ("egoschema", {"answer": "-1"}, "must be the index"),
        ("mlvu", {"question": "Which?"}, "'question' must list at least two options"),
        ("mlvu", {"question": "Which?\n(A) red\n(C) blue"}, "must list at least two options"),
        ("tempcompass", {"answer": "D. green"}, "must begin with the letter of one of 3 options"),
        ("longvideobench", {"correct_choice": 2}, "must be the index of one of 2 options"),
    ],
)
def test_a_wrong_row_is_an_error_that_names_it(name, changes, message, tmp_path):
    file, row, *_ = ROWS[name]
    set_up(tmp_path, name)
    (tmp_path / file).unlink()
    path = (tmp_path / file).with_suffix(".json")
    path.write_text(json.dumps([row, {**row, **changes}]))
    with pytest.raises(DataFormatError, match=message) as raised:
        load_benchmark(name, tmp_path)
    assert f"{path}, sample 1: " in str(raised.value)


@pytest.mark.parametrize(("start", "message"), [(5, "start=5 s must be before end=4 s"), ("x", "not a time")])
def test_a_wrong_segment_is_an_error_that_names_its_row(start, message, tmp_path):
    write(tmp_path, "json/action_sequence.json", [{**MV, "start": start, "end": 4}])
    with pytest.raises(DataFormatError, match=rf"action_sequence.json, sample 0: .*{message}"):
        load_benchmark("mvbench", tmp_path)


def test_other_names_and_folders_are_errors(tmp_path):
    with pytest.raises(FvvError, match="Unknown benchmark 'mmbench': choose one of egoschema, "):
        load_benchmark("mmbench", tmp_path)
    with pytest.raises(DataFormatError, match=r"videomme: no file \S+videomme/test\* with the ending .parquet"):
        load_benchmark("videomme", tmp_path)
    message = r"nowhere: no such folder\. data_dir must be .*OpenGVLab/MVBench.* with json/\*\.$"
    with pytest.raises(DataFormatError, match=message):
        load_benchmark("mvbench", tmp_path / "nowhere")
    write(tmp_path, "json/new_subset.json", [MV])
    for name in ("mvbench", "tvbench"):
        with pytest.raises(DataFormatError, match="'new_subset' is not a subset of"):
            load_benchmark(name, tmp_path)


def question(options=OPTIONS, labels="ABCD", expected="B", **groups):
    return BenchmarkQuestion("q", (), "", expected, None, tuple(options), labels=tuple(labels), groups=groups)


RULES = {
    "videomme": rules.mentioned_letter,
    "mvbench": rules.first_lone_letter,
    "egoschema": rules.earliest_label,
    "nextqa": rules.latest_label,
    "tomato": rules.any_capital,
    "longvideobench": rules.first_capital,
    "tvbench": rules.first_letter_or_text,
    "strict": rules.strict,
}


ANSWERS = {  # the label that each rule finds, in the order of RULES
    "B": "BBBBBBBB",
    "b": "-B----BB",
    "(B)": "BBBBBBBB",
    "B. blue": "BBBBBBBB",
    "The answer is B.": "BBBBBBBB",
    "Answer: B": "BBBBAABB",
    "A or B": "AAABAAA-",
    "Because it falls": "B---BBB-",
    "a man": "-A----A-",
    "blue": "------BB",
    "": "--------",
    "it falls to the ground very fast and is moving left": "---CC-CC",
}


@pytest.mark.parametrize(("answer", "labels"), ANSWERS.items())
def test_a_rule_finds_what_the_public_program_finds(answer, labels):
    lettered = question([f"{label}. {text}" for label, text in zip("ABCD", OPTIONS, strict=True)])
    asked = {"egoschema": lettered}  # its options have letters
    found = {name: rule(answer, asked.get(name, question())) for name, rule in RULES.items()}
    assert found == {name: None if label == "-" else label for name, label in zip(RULES, labels, strict=True)}


@pytest.mark.parametrize(
    ("task", "answer", "label", "strictly"),
    [
        ("multi-choice", "B. anything", "B", "B"),
        ("multi-choice", "B) blue", "B", "B"),
        ("multi-choice", "(B)", None, "B"),
        ("multi-choice", "The answer is B.", None, "B"),
        ("multi-choice", "blue", None, "B"),
        ("yes_no", "Yes.", "yes", "yes"),
        ("yes_no", "not sure", "no", None),
        ("yes_no", "maybe", None, None),
        ("yes_no", "yes and no", "yes", None),
        ("caption_matching", "Option 2: A man runs.", "2", "2"),
        ("caption_matching", "A man runs.", "2", "2"),
        ("caption_matching", "2", "2", "2"),
        ("caption_matching", "Option 2.", "2", "2"),
        ("caption_matching", "2) A man runs.", "2", "2"),
        ("caption_matching", "the man", None, None),
    ],
)
def test_each_task_of_tempcompass_has_its_rule(task, answer, label, strictly):
    labels = {"multi-choice": "ABCD", "yes_no": ["yes", "no"], "caption_matching": "12"}[task]
    choices = {"multi-choice": OPTIONS, "yes_no": ["yes", "no"], "caption_matching": CAPTIONS.split("\n")[1:]}[task]
    asked = question(choices, labels, task=task)
    assert (rules.tempcompass(answer, asked), rules.strict(answer, asked)) == (label, strictly)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("A. red ball or B. blue", None),  # two labels
        ("B. blue, not C.", None),
        ("[B]", "B"),
        ("best option: b", "B"),
        ("E", None),  # no option has it
        ("blue and moving left", None),  # two texts
        ("it is blue", "B"),
        ("bluebell", None),
    ],
)
def test_the_strict_rule_wants_one_choice_and_no_other(answer, label):
    assert rules.strict(answer, question()) == label


def test_a_choice_of_a_letter_does_not_take_another():
    assert rules.strict("B. vitamin A.", question(["iron", "vitamin A."], "AB")) == "B"


def test_random_letters_depend_on_the_seed_and_the_question_only_and_are_counted():
    asked = [replace(question(), id=f"q{number}") for number in range(400)]
    answers = ["B"] * 100 + ["unclear"] * 300
    report = score_benchmark("egoschema", asked, answers)
    official, strict = report["official"], report["strict"]
    assert (strict["correct"], strict["unparsed"], strict["unparsed_share"]) == (100, 300, 0.75)
    assert official["unparsed"] == 300
    assert 50 <= official["guessed_right"] <= 100  # a quarter of 300
    assert official["correct"] == 100 + official["guessed_right"]
    back = score_benchmark("egoschema", asked[::-1], answers[::-1])
    assert back == report
    scores = {score_benchmark("egoschema", asked, answers, seed)["official"]["score"] for seed in range(4)}
    assert len(scores) > 1


def test_mvbench_leaves_empty_answers_out_and_the_strict_score_does_not():
    report = score_benchmark("mvbench", [question(subset="s")] * 4, ["B", "", "A", "B"])
    assert report["official"] | {"score": 2 / 3, "total": 3, "left_out": 1} == report["official"]
    assert report["strict"] | {"score": 0.5, "total": 4, "unparsed": 1} == report["strict"]
    assert report["groups"] == {"subset": {"s": {"total": 4, "official": 2 / 3, "strict": 0.5}}}
    nothing = score_benchmark("mvbench", [question(subset="s")], [""])
    assert nothing["official"]["score"] is None
    assert "-" in format_benchmark(nothing)


def test_mlvu_averages_over_task_types_and_the_others_over_questions():
    asked = [question(task_type="count"), question(task_type="count"), question(task_type="ego")]
    answers = ["B", "A", "B"]
    assert score_benchmark("mlvu", asked, answers)["official"]["score"] == 0.75  # of 0.5 and 1
    assert score_benchmark("videomme", asked, answers)["official"]["score"] == 2 / 3


def test_unparsed_answers_are_wrong_first_or_for_a_judge_as_the_benchmark_says():
    cases = [("videomme", 0), ("tvbench", 0), ("tomato", 1), ("tempcompass", 0)]
    for name, right in cases:
        asked = question(expected="A", task="multi-choice")
        official = score_benchmark(name, [asked], ["unclear"])["official"]
        assert (official["unparsed"], official["guessed_right"], official["correct"]) == (1, right, right)
    assert official["unparsed_are"] == "judge"


def test_there_must_be_an_answer_for_each_question():
    for asked, answers in (([], []), ([question()], []), ([question()], ["B", "B"])):
        with pytest.raises(FvvError, match="one answer for each question"):
            score_benchmark("videomme", asked, answers)


def test_the_command_asks_a_benchmark_and_reports_both_scores(tmp_path, fvv):
    clips = ROOT / "data_samples" / "videos" / "test"
    question = {"question": "What colour is the shape?", "candidates": ["purple", "It is red."], "answer": "purple"}
    rows = [{**question, "video": f"motion-000{number}.mp4", "start": 0, "end": 2} for number in range(2)]
    for subset in ("action_sequence", "object_count"):
        write(tmp_path, f"json/{subset}.json", rows)
        shutil.copytree(clips, tmp_path / "video" / subset, copy_function=os.symlink)
    model, output = ROOT / "data_samples" / "tiny-fastvlm-video", tmp_path / "output"
    arguments = ["evaluate", "--model", model, "--benchmark", "tvbench", "--data_dir", tmp_path, "--output", output]
    result = fvv(*arguments, "--max_new_tokens", "8", "--decode_timeout", "0", "--use_cpu")
    assert result.returncode == 0, result.stderr
    metrics = json.loads((output / "metrics.json").read_text())["tests"]["tvbench"]
    _, *lines = map(json.loads, (output / "answers.jsonl").read_text().splitlines())
    asked = load_benchmark("tvbench", tmp_path)
    assert metrics["benchmark"] == score_benchmark("tvbench", asked, [line["answer"] for line in lines])
    assert metrics["forwards"]["all"]["correct"] == metrics["benchmark"]["strict"]["correct"]
    assert format_benchmark(metrics["benchmark"]) in result.stdout
    assert [medium.get("end") for line in lines for medium in line["media"]] == [2, 2, None, None]
    write(tmp_path, "json/object_count.json", rows[:1])
    changed = fvv(*arguments, "--use_cpu")
    assert changed.returncode == 1
    assert "answers" in changed.stderr
