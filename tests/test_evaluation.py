import json
import operator
import re
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from shared import ROOT, SPEC
from starting import FORKSERVER

from fvv_lib import (
    DataFormatError,
    FvvError,
    LazySupervisedDataset,
    accuracy_by_kind,
    ask,
    evaluate,
    load_pretrained_model,
)
from fvv_lib.evaluation import is_correct
from fvv_lib.evaluation.generation import AnswerStreamer, generate_answers, prompt_ids
from fvv_lib.evaluation.scoring import Answer, confidence_interval, paired_p_value
from fvv_lib.settings import DataArguments

PLACES = ["left", "top left", "top"]


@pytest.mark.parametrize(
    ("generated", "expected", "choices", "right"),
    [
        ("It is red.", "It is red.", (), True),
        ("it is  RED", "It is red.", (), True),
        ("It is reddish.", "It is red.", (), False),
        ("left...", "left", (), True),
        ("left..", "left", (), True),
        ("left…", "left.", (), True),
        ("...", "left", (), False),
        ("Red, I think.", "It is red.", ["red", "blue"], True),
        ("Red or blue.", "It is red.", ["red", "blue"], False),
        ("It is infrared.", "It is red.", ["red", "blue"], False),
        ("It is at the left.", "It is at the top left.", PLACES, False),
        ("At the top left.", "It is at the top left.", PLACES, True),
        ("", "It is red.", ["red"], False),
        ("To the right.", "Left.", ["Left", "Right"], False),
        ("left", "Left.", ["Left", "Right"], True),
        # signs at the ends of choices
        ("The answer is (B).", "(B)", ["(A)", "(B)"], True),
        ("(B)", "(A)", ["(A)", "(B)"], False),
        ("(b)", "(B)", ["(A)", "(B)"], True),
        ("（Ｂ）です", "(B)", ["(A)", "(B)"], True),
        ("1", "-1", ["-1", "1"], False),
        ("It is -1.", "-1", ["-1", "1"], True),
        ("x=-1", "-1", ["-1", "1"], True),
        ("\N{MINUS SIGN}1", "-1", ["-1", "1"], True),
        ("3-1", "-1", ["-1", "1"], False),
        ("-1", "1", ["1", "2"], False),
        ("1.5", "1", ["1", "2"], False),
        ("12,000", "12", ["12", "000"], False),
        ("1, 2", "1", ["1", "2"], False),
        ("2, not 3.", "2", ["1", "2"], True),
        ("C", "C++", ["C++", "C"], False),
        ("C++.", "C++", ["C++", "C"], True),
        ("It is written in C#, I think.", "C#", ["C", "C++", "C#"], True),
        ("C++", "C", ["C", "Java"], False),
        ("Java+C", "C", ["C", "Java"], False),
        ("50%", "12%", ["12%", "50%"], False),
        ("It is 12%.", "12%", ["12%", "50%"], True),
        ("112%", "12%", ["12%", "50%"], False),
        ("\N{EN DASH}1", "1", ["-1", "1"], False),
        ("\N{NON-BREAKING HYPHEN}1", "-1", ["-1", "1"], True),
        # numbers and words that contain another
        (".5", "5", ["5", "7"], False),
        ("3,5", "3", ["3", "4"], False),
        ("1 000", "1", ["1", "2"], False),
        ("1'000 m", "1", ["1", "2"], False),
        ("about 1\N{NO-BREAK SPACE}000", "1000", ["100", "1000"], True),
        ("1,000,000", "1000000", ["1000", "1000000"], True),
        ("約1,000個", "1000", ["1", "1000"], True),
        ("in 2020 100 people", "100", ["100", "200"], True),
        ("1/2", "2", ["2", "5"], False),
        ("3^2", "2", ["2", "5"], False),
        ("10^-3", "10", ["5", "10"], False),
        ("1+1=2", "2", ["2", "3"], True),
        ("**3**", "3", ["2", "3"], True),
        ("C++14", "C++", ["C++", "C"], False),
        ("I can't.", "can", ["can", "must"], False),
        ("I\N{RIGHT SINGLE QUOTATION MARK}d say A", "A", ["A", "D"], True),
        ("l\N{RIGHT SINGLE QUOTATION MARK}homme", "homme", ["homme", "femme"], True),
        ("'left'", "left", ["left", "right"], True),
        ("no-one", "no", ["yes", "no"], False),
        ("counter-clockwise", "clockwise", ["clockwise", "left"], False),
        ("don\N{RIGHT SINGLE QUOTATION MARK}t know", "don't", ["do", "don't"], True),
        ("an un-even line, seen by no-one", "even", ["even", "one"], False),
        # hyphens, en dashes and 's separate
        ("It moves to the left-hand side.", "left", ["left", "right"], True),
        ("left-moving", "left", ["left", "right"], True),
        ("in the left\N{NON-BREAKING HYPHEN}most lane", "left", ["left", "right"], True),
        ("red-colored", "red", ["red", "blue"], True),
        ("right-hand", "left-hand", ["left-hand", "right-hand"], False),
        ("the left hand", "left-hand", ["left-hand", "right-hand"], True),
        ("top-left", "top left", PLACES, True),
        ("top\N{EN DASH}left", "left", PLACES, False),
        ("B-left", "B", ["A", "B", "C", "D"], True),
        ("B\N{EN DASH}left", "B", ["A", "B", "C", "D"], True),
        ("Option-B", "B", ["A", "B", "C", "D"], True),
        ("B's", "B", ["A", "B", "S"], True),
        ("the square's edge", "square", ["square", "circle"], True),
        ("No\N{EN DASH}it does not", "no", ["yes", "no"], True),
        ("3-year-old", "3", ["3", "4"], True),
        ("between 00:12-00:15", "00:12", ["00:12", "00:20"], True),
        ("between 00:12\N{EN DASH}00:15", "00:15", ["00:15", "00:20"], True),
        ("3\N{EN DASH}1", "-1", ["-1", "1"], False),
        ("\N{EN DASH}1", "-1", ["-1", "1"], True),
        ("left\N{EN DASH}right", "left-right", (), True),
        # spaces and lines
        ("It is 50 %.", "50%", ["12%", "50%"], True),
        ("top\nleft", "top left", PLACES, True),
        ("the  top\u00a0left", "top left", PLACES, True),
        ("1,000 people", "1000 people.", (), True),
        ("to night", "tonight", (), False),
        ("It is pear.", "It is plum.", ["apple", "fig"], False),
        # scripts without spaces
        ("右へ動く。", "右", ["左", "右"], True),
        ("它向左移动", "左", ["左", "右"], True),
        ("左上です", "左上", ["左", "左上"], True),
        ("左上です", "左", ["左", "左上"], False),
        ("左と右", "左", ["左", "右"], False),
        ("ไปทางซ้าย", "ซ้าย", ["ซ้าย", "ขวา"], True),
        ("ไม้", "ไม", ["ไม", "ขวา"], False),
        ("答案是A。", "A", ["A", "B"], True),
        ("3個", "3", ["3", "13"], True),
        ("13個", "3", ["3", "13"], False),
        # Korean: particles follow a word without a space
        ("왼쪽입니다", "왼쪽", ["왼쪽", "오른쪽"], True),
        ("오른쪽으로 갑니다.", "왼쪽", ["왼쪽", "오른쪽"], False),
        ("오른쪽", "쪽", ["쪽", "위"], False),
        ("답은 A입니다", "A", ["A", "B"], True),
        ("13개", "3", ["3", "13"], False),
        # scripts with spaces and marks
        ("нелевый", "левый", ["левый", "правый"], False),
        ("Он левый.", "левый", ["левый", "правый"], True),
        ("नीला", "नील", ["नील", "लाल"], False),
        ("cafe\u0301", "café", ["café", "tea"], True),
        ("cafés", "café", ["café", "tea"], False),
        ("右へ動く", "右へ動く。", (), True),
    ],
)
def test_an_answer_must_name_the_right_choice_and_no_other(generated, expected, choices, right):
    assert is_correct(generated, expected, choices) is right


def test_accuracy_is_counted_by_kind():
    answers = [Answer("s", kind, "q", "a", "b", right) for kind, right in (("x", True), ("x", False), ("y", True))]
    assert accuracy_by_kind(answers) == {
        "x": {"accuracy": 0.5, "correct": 1, "total": 2},
        "y": {"accuracy": 1.0, "correct": 1, "total": 1},
    }
    with pytest.raises(FvvError, match="no answers"):
        accuracy_by_kind([])


def test_an_interval_contains_the_true_accuracy_as_often_as_its_confidence():
    generator = np.random.default_rng(0)
    for truth in (0.25, 0.6, 0.98):
        counts = generator.binomial(124, truth, size=4000)
        held = [low <= truth <= high for low, high in (confidence_interval(int(count), 124) for count in counts)]
        assert 0.92 < sum(held) / len(held) < 0.98


@pytest.mark.parametrize(
    ("correct", "total", "interval"),
    [(8, 10, (0.4902, 0.9433)), (0, 10, (0, 0.2775)), (10, 10, (0.7225, 1)), (980, 1000, (0.9694, 0.987))],
)
def test_an_interval_is_wilsons(correct, total, interval):
    assert confidence_interval(correct, total) == pytest.approx(interval, abs=1e-4)
    wide, narrow = (confidence_interval(correct, total, level) for level in (0.99, 0.5))
    assert wide[0] <= interval[0] + 1e-4
    assert narrow[1] - narrow[0] < interval[1] - interval[0] < wide[1] - wide[0]


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (2, 1), (-1, 3)])
def test_an_impossible_count_is_an_error(correct, total):
    with pytest.raises(FvvError, match=f"total at least 1, got {correct} of {total}"):
        confidence_interval(correct, total)


def signs(differences):
    """Count all combinations of signs one by one."""
    sums = [sum(map(operator.mul, signs, differences)) for signs in product((1, -1), repeat=len(differences))]
    return sum(abs(each) >= abs(sum(differences)) for each in sums) / len(sums)


@pytest.mark.parametrize("differences", [[], [0, 0], [1], [1, 1, 1, 1, 1, -1], [3, -2, 0, 1, 1, 4], [2] * 10, [5, -5]])
def test_a_p_value_is_the_share_of_signs_with_a_sum_as_far_from_zero(differences):
    assert paired_p_value(differences) == pytest.approx(signs(differences))


def test_a_p_value_is_small_as_often_as_chance_says():
    generator = np.random.default_rng(0)
    values = [paired_p_value(generator.integers(-3, 4, size=60).tolist()) for _ in range(400)]
    assert 0.02 < sum(value <= 0.05 for value in values) / len(values) < 0.08


@pytest.fixture
def small_test_set(loaded, data_samples, annotate):
    samples = json.loads((data_samples / "val.json").read_text())
    chosen = [s for s in samples if any(part in s["id"] for part in ("motion-0000", "order-0040", "still", "text"))]
    args = DataArguments(image_folder=str(data_samples))
    return LazySupervisedDataset(loaded.tokenizer, [annotate(chosen)], args, frame_spec=SPEC)


def test_every_question_is_asked_with_the_true_history(loaded, small_test_set):
    answers = evaluate(loaded.model, loaded.tokenizer, small_test_set, batch_size=7)
    turns = sum(len(sample["conversations"]) // 2 for sample in small_test_set.samples)
    assert len(answers) == turns
    assert {answer.kind for answer in answers} >= {"colour", "shape", "motion", "order", "text"}
    table = accuracy_by_kind(answers)
    assert table["colour"]["accuracy"] >= 0.9
    assert all("<image>" not in answer.generated for answer in answers)


def shares(rank, folder):
    """Run one of two ranks: ask its part, then write all answers and the number of questions that it asked."""
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2, init_method=f"file://{folder}/meet")
    loaded = load_pretrained_model(ROOT / "data_samples" / "tiny-fastvlm", device="cpu")
    args = DataArguments(image_folder=str(ROOT / "data_samples"))
    dataset = LazySupervisedDataset(loaded.tokenizer, [f"{folder}/data.json"], args, frame_spec=SPEC)
    asked, generate = [], loaded.model.generate
    loaded.model.generate = lambda **given: asked.append(len(given["inputs_embeds"])) or generate(**given)
    answers = evaluate(loaded.model, loaded.tokenizer, dataset, batch_size=7)
    Path(folder, f"rank{rank}").write_text(json.dumps([sum(asked), [asdict(answer) for answer in answers]]))


def test_processes_share_the_questions_and_each_has_all_answers_in_order(loaded, small_test_set, tmp_path):
    alone = evaluate(loaded.model, loaded.tokenizer, small_test_set, batch_size=7)
    ranks = [FORKSERVER.Process(target=shares, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
        assert process.exitcode == 0
    found = [json.loads((tmp_path / f"rank{rank}").read_text()) for rank in range(2)]
    assert [Answer(**answer) for answer in found[0][1]] == alone
    assert found[1][1] == found[0][1]
    asked = [count for count, _ in found]
    assert sum(asked) == len(alone)
    assert abs(asked[0] - asked[1]) <= 7


def test_batched_answers_equal_single_ones(loaded, small_test_set):
    """Text, images and videos in one batch, with or without a history."""
    shown = [small_test_set.show(i) for i in range(len(small_test_set))]
    images = [each.images for each in shown]
    prompts = [
        prompt_ids(s.turns[: 1 + 2 * (i % 2) * (len(s.turns) > 2)], loaded.tokenizer, "qwen_2")
        for i, s in enumerate(shown)
    ]
    assert {len(frames) for frames in images} == {0, 1, 8}
    assert len(set(map(len, prompts))) > 3
    together = generate_answers(loaded.model, loaded.tokenizer, prompts, images, "qwen_2")
    alone = [
        generate_answers(loaded.model, loaded.tokenizer, [prompt], [frames], "qwen_2")[0]
        for prompt, frames in zip(prompts, images, strict=True)
    ]
    assert together == alone
    assert len(set(together)) > 3


def test_text_after_the_end_mark_is_not_written(tokenizer):
    """`</s>` is several tokens here, so generation continues after it."""
    pieces = []
    streamer = AnswerStreamer(tokenizer, re.compile("</s>"), pieces.append)
    streamer.put(torch.empty(1, 0, dtype=torch.long))  # the prompt
    for token in tokenizer("It is red.</s>USER: And what </s> now?").input_ids:
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert "".join(pieces) == "It is red."


def test_a_clip_may_come_in_a_later_turn(loaded, annotate, media):
    """A question is asked with the frames that were shown so far, not with those of later turns."""
    question, answer = "<image>\nWhat colour is the shape?", "It is red."
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}] * 2
    path = annotate([{"image": ["clip.mp4", "still.png"], "conversations": turns}])
    dataset = LazySupervisedDataset(loaded.tokenizer, [path], DataArguments(), frame_spec=SPEC)
    answers = evaluate(loaded.model, loaded.tokenizer, dataset)
    assert answers[0].generated == ask(loaded, media / "clip.mp4", question)
    assert answers[1].generated.startswith("It is ")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kinds": ["a"]}, "'kinds' must be a list with a text for each of its 2 questions, got ..a'"),
        ({"kinds": 3}, "'kinds' must be a list .* got 3"),
        ({"kinds": "ab"}, "'kinds' must be a list .* got 'ab'"),
        ({"kinds": ["a", None]}, "'kinds' must be a list with a text"),
        ({"choices": 3}, "'choices' must be a list with a list of texts for each"),
        ({"choices": [3, 4]}, "'choices' must be a list"),
        ({"choices": ["Yes", "No"]}, "'choices' must be a list"),
        ({"choices": [["Yes", 1], ["Yes"]]}, "'choices' must be a list"),
        ({"choices": [["Yes"]]}, "'choices' must be a list"),
        ({"choices": [["Yes", "No"], ["No", "Maybe"]]}, "the answer 'Yes.' must name exactly one of its choices"),
    ],
)
def test_labels_of_questions_must_match_the_questions_before_media_are_read(
    tokenizer, annotate, media, fields, message
):
    """The clip cannot be decoded: an error about the text shows that it was not tried."""
    (media / "broken.mp4").write_text("no video")
    turns = [{"from": "human", "value": "Hm?"}, {"from": "gpt", "value": "Yes."}] * 2
    turns[0] = {"from": "human", "value": "<image>?"}
    path = annotate([{"video": "broken.mp4", "conversations": turns, **fields}])
    with pytest.raises(DataFormatError, match=message):
        LazySupervisedDataset(tokenizer, [path], DataArguments(), frame_spec=SPEC, scored=True)
    dataset = LazySupervisedDataset(tokenizer, [path], DataArguments(), frame_spec=SPEC)
    with pytest.raises(DataFormatError, match=message):
        evaluate(None, tokenizer, dataset)


@pytest.mark.parametrize("fields", [{"kinds": ["a", "b"], "choices": [["Yes", "No"], []]}, {"choices": [None, None]}])
def test_a_question_may_have_no_choices(tokenizer, annotate, fields):
    turns = [{"from": "human", "value": "Hm?"}, {"from": "gpt", "value": "Yes."}] * 2
    path = annotate([{"conversations": turns, **fields}])
    assert len(LazySupervisedDataset(tokenizer, [path], DataArguments(), frame_spec=SPEC, scored=True)) == 1
