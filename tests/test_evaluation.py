import pytest

from fvv_lib import (
    DataFormatError,
    FvvError,
    LazySupervisedDataset,
    TokenBudgetError,
    accuracy_by_kind,
    ask,
    evaluate,
)
from fvv_lib.evaluation import Answer, generate_answers, is_correct
from fvv_lib.tokens import preprocess_multimodal

PLACES = ["left", "top left", "top"]


@pytest.mark.parametrize(
    ("generated", "expected", "choices", "right"),
    [
        ("It is red.", "It is red.", (), True),
        ("it is  RED", "It is red.", (), True),
        ("It is reddish.", "It is red.", (), False),
        ("Red, I think.", "It is red.", ["red", "blue"], True),
        ("Red or blue.", "It is red.", ["red", "blue"], False),
        ("It is infrared.", "It is red.", ["red", "blue"], False),
        ("It is at the left.", "It is at the top left.", PLACES, False),
        ("At the top left.", "It is at the top left.", PLACES, True),
        ("", "It is red.", ["red"], False),
        ("To the right.", "Left.", ["Left", "Right"], False),
        ("left", "Left.", ["Left", "Right"], True),
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


@pytest.fixture
def small_test_set(loaded, data_args, data_samples, annotate):
    import json

    samples = json.loads((data_samples / "val.json").read_text())
    chosen = [s for s in samples if any(part in s["id"] for part in ("motion-0000", "order-0040", "still", "text"))]
    args = data_args(image_folder=str(data_samples))
    return LazySupervisedDataset(loaded.tokenizer, [annotate(chosen)], args)


def test_every_question_is_asked_with_the_true_history(loaded, small_test_set):
    answers = evaluate(loaded.model, loaded.tokenizer, small_test_set, batch_size=7)
    turns = sum(len(sample["conversations"]) // 2 for sample in small_test_set.samples)
    assert len(answers) == turns
    assert {answer.kind for answer in answers} >= {"colour", "shape", "motion", "order", "text"}
    table = accuracy_by_kind(answers)
    assert table["colour"]["accuracy"] >= 0.9
    assert all("<image>" not in answer.generated for answer in answers)


def test_batched_answers_equal_single_ones(loaded, small_test_set):
    turns = [
        preprocess_multimodal([s["conversations"][:1]], None, small_test_set.frame_counts(i))[0]
        for i, s in enumerate(small_test_set.samples)
    ]
    images = [small_test_set.frames(i) for i in range(len(turns))]
    together = generate_answers(loaded.model, loaded.tokenizer, turns, images, "qwen_2")
    alone = [
        generate_answers(loaded.model, loaded.tokenizer, [t], [i], "qwen_2")[0]
        for t, i in zip(turns, images, strict=True)
    ]
    assert together == alone


def test_a_clip_may_come_in_a_later_turn(loaded, data_args, annotate, media):
    """A question is asked with the frames that were shown so far, not with those of later turns."""
    question, answer = "<image>\nWhat colour is the shape?", "It is red."
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}] * 2
    path = annotate([{"image": ["clip.mp4", "still.png"], "conversations": turns}])
    dataset = LazySupervisedDataset(loaded.tokenizer, [path], data_args())
    answers = evaluate(loaded.model, loaded.tokenizer, dataset)
    assert answers[0].generated == ask(loaded, media / "clip.mp4", question)
    assert answers[1].generated.startswith("It is ")


def test_a_question_that_does_not_fit_is_refused(loaded, media):
    with pytest.raises(TokenBudgetError, match=r"The question 'Well\? .*at most \d+ frames in all"):
        ask(loaded, [media / "clip.mp4"] * 60, "Well? " * 30)
    with pytest.raises(TokenBudgetError, match=r"0 frames x 4.*Use shorter text, or"):
        ask(loaded, [], "Well? " * 3000)


def test_labels_of_questions_must_match_the_questions(loaded, data_args, annotate):
    turns = [{"from": "human", "value": "Hm?"}, {"from": "gpt", "value": "Yes."}]
    path = annotate([{"conversations": turns, "kinds": ["a", "b"]}])
    dataset = LazySupervisedDataset(loaded.tokenizer, [path], data_args())
    with pytest.raises(DataFormatError, match="'kinds' must have an entry for each of its 1 questions"):
        evaluate(loaded.model, loaded.tokenizer, dataset)


def test_ask_takes_a_picture_a_video_several_or_none(loaded, media):
    one = ask(loaded, media / "still.png", "What colour is the shape?")
    assert one.startswith("It is ")
    assert ask(loaded, [media / "still.png"], "<image>\nWhat colour is the shape?") == one
    assert ask(loaded, media / "clip.mp4", "What colour is the shape?").startswith("It is ")
    assert ask(loaded, [media / "still.png", media / "clip.mp4"], "What colour is the shape?")
    assert ask(loaded, [], "Which colours do you know?")
    with pytest.raises(DataFormatError, match="1 <image> but 2"):
        ask(loaded, [media / "still.png", media / "clip.mp4"], "<image>\nWhat?")
