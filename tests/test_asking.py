"""Questions of one video share its frames, its features and the start of their prompts, and get the answers that each
would get alone."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from shared import SPEC
from transformers import FastVlmConfig

from fvv_lib import DataArguments, DataFormatError, LazySupervisedDataset, TokenBudgetError, VideoDecodeError
from fvv_lib.evaluation import asking
from fvv_lib.evaluation.asking import answer_questions, rows_of
from fvv_lib.evaluation.controls import CONTROLS, order_of
from fvv_lib.evaluation.generation import prompt_ids
from fvv_lib.evaluation.questions import Question, read_questions
from fvv_lib.evaluation.scoring import evaluate, reader_for
from fvv_lib.model.video_model import FastVlmForVideo
from fvv_lib.prompt.templates import get_template
from fvv_lib.video.medium import Medium
from fvv_lib.video_config import VideoConfig

NEW_TOKENS = 12


def sample(*texts, **fields):
    speakers = ("human", "gpt")
    turns = [{"from": speakers[place % 2], "value": text} for place, text in enumerate(texts)]
    return {"conversations": turns, **fields}


MIXED = [
    sample("<image>\nWhat colour is it?", "It is red.", "What shape is it?", "It is a square.", video="clip.mp4"),
    sample("Which colours do you know?", "I know red."),
    sample("<image>\nWhich way does it move?", "It moves up.", video="clip.mp4"),
    sample("<image>\nWhere is it?", "It is at the top.", image="still.png"),
    sample("Look: <image> What colour is it?", "It is red.", video="short.mp4"),
    sample("<image>\nWhat shape is it?", "It is a cross.", "And <image>?", "A disc.", image=["clip.mp4", "still.png"]),
    sample("<image>\nWhat shape is it?", "It is a cross.", video="short.mp4"),
    sample("<image>\nWhat colour is it?", "It is blue.", video="clip.mp4", end=1.0),
]


@pytest.fixture(scope="module")
def wide(loaded):
    """A random language model as wide as that of FastVLM-0.5B, with one layer, behind the tower of the tiny base."""
    torch.manual_seed(0)
    settings = loaded.model.config.to_dict()
    settings["text_config"] |= {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 1}
    settings["text_config"] |= {"num_attention_heads": 14, "num_key_value_heads": 2, "layer_types": None}
    model = FastVlmForVideo(FastVlmConfig(**settings)).eval()
    model.model.vision_tower.load_state_dict(loaded.model.model.vision_tower.state_dict())
    return loaded._replace(model=model)


@pytest.fixture
def open_mixed(loaded, annotate, media):
    def make(samples=MIXED, **settings):
        spec = replace(SPEC, tokens_per_frame=SPEC.tokens_per_frame // settings.get("frame_pool", 1) ** 2)
        return LazySupervisedDataset(loaded.tokenizer, [annotate(samples)], DataArguments(**settings), frame_spec=spec)

    return make


def alone(loaded, dataset):
    """The reference: each question in a batch of its own, with all its frames, by the model's `generate`."""
    version = dataset.data_args.version
    stop = loaded.tokenizer(get_template(version).stop, add_special_tokens=False).input_ids
    for index in range(len(dataset)):
        shown = dataset.show(index)
        for number in range(len(shown.turns) // 2):
            turns = shown.turns[: 2 * number + 1]
            ids = prompt_ids(turns, loaded.tokenizer, version)
            yield loaded.model.generate(
                torch.tensor([ids]),
                images=[shown.images[: ids.count(-200)]],
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=stop if len(stop) == 1 else loaded.tokenizer.eos_token_id,
                pad_token_id=loaded.tokenizer.pad_token_id,
            )[0].tolist()


def tokens_of(loaded, dataset, **settings):
    """Return the tokens that the engine generates, by question and control."""
    found, rows, generate = {}, [], loaded.model.generate

    def spy(**given):
        output = generate(**given)
        rows.extend(output.tolist())
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded.model, "generate", spy)
        for batch in answers_of(loaded, dataset, **settings):
            found |= {(each.position, each.control): row for each, row in zip(batch, rows, strict=True)}
            rows.clear()
    return found


def answers_of(loaded, dataset, **settings):
    return answer_questions(
        loaded.model,
        loaded.tokenizer,
        read_questions(dataset),
        dataset.data_args.video_config(),
        dataset.frame_spec,
        read=reader_for(dataset),
        **{"max_new_tokens": NEW_TOKENS, **settings},
    )


def without_padding(row, tokenizer):
    while row and row[-1] == tokenizer.pad_token_id:
        row = row[:-1]
    return row


# --- the answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "settings", "batch_sizes"),
    [
        ("loaded", {}, (1, 3, 100)),
        ("loaded", {"time_marks": "seconds", "frame_pool": 2}, (4,)),
        ("loaded", {"version": "v1"}, (100,)),
        ("wide", {}, (3,)),
    ],
)
def test_in_any_grouping_each_question_gets_the_tokens_that_it_gets_alone(
    which, settings, batch_sizes, open_mixed, request, monkeypatch
):
    model, dataset = request.getfixturevalue(which), open_mixed(**settings)
    monkeypatch.setattr(model.model, "video_config", dataset.data_args.video_config())
    expected = [without_padding(row, model.tokenizer) for row in alone(model, dataset)]
    assert len({tuple(row) for row in expected}) > 3
    for batch_size in batch_sizes:
        found = tokens_of(model, dataset, batch_size=batch_size)
        got = [without_padding(found[position, "forwards"], model.tokenizer) for position in range(len(expected))]
        assert got == expected


def test_without_a_common_start_each_question_still_gets_its_answer(loaded, open_mixed):
    """The `plain` template begins with the question itself."""
    dataset = open_mixed([sample("Red?", "Yes."), sample("Blue?", "No.")], version="plain")
    together = [each.text for batch in answers_of(loaded, dataset) for each in batch]
    assert together == [each.text for batch in answers_of(loaded, dataset, batch_size=1) for each in batch]


def test_the_model_returns_to_the_mode_it_was_in(model, loaded, open_mixed):
    model.train()
    evaluate(model, loaded.tokenizer, open_mixed(MIXED[:2]), max_new_tokens=1)
    assert model.training


# --- what is computed once, and what is freed -------------------------------------------------------------------------


def test_each_video_is_read_and_encoded_once_and_freed_after_its_last_question(loaded, open_mixed, monkeypatch):
    views, reads, encoded = [], Counter(), []
    view, encode = asking._View, asking.encode_images
    monkeypatch.setattr(asking, "_View", lambda *given: views.append(view(*given)) or views[0])
    monkeypatch.setattr(asking, "encode_images", lambda m, clips, n: encoded.append(clips) or encode(m, clips, n))
    dataset = open_mixed()
    read = dataset.read
    monkeypatch.setattr(dataset, "read", lambda medium, *place: reads.update([medium]) or read(medium, *place))
    held = []
    for _ in answers_of(loaded, dataset, batch_size=2):
        held.append(len(views[0].features))
    media = {medium for index in range(len(dataset)) for medium in dataset.media(index)}
    assert reads == Counter(media)
    assert sum(len(clip) for clips in encoded for clip in clips) == 8 + 8 + 8 + 1
    assert max(held) < 8 + 8 + 8 + 1
    assert held[-1] == 0
    assert not views[0].times
    assert not views[0].reading


def test_the_common_start_of_prompts_is_read_once(loaded, open_mixed, monkeypatch):
    texts = [text for number in range(8) for text in (f"Is it number {number}?", "No.")]
    questions = [sample("<image>\n" + texts[2 * i], "No.", video="clip.mp4") for i in range(8)]
    dataset, lengths = open_mixed(questions), []
    forward = loaded.model.model.language_model.forward

    def spy(*given, **named):
        lengths.append(tuple(named["inputs_embeds"].shape[:2]))
        return forward(*given, **named)

    monkeypatch.setattr(loaded.model.model.language_model, "forward", spy)
    list(answers_of(loaded, dataset, max_new_tokens=1))
    (rows, start), (others, rest) = lengths
    assert (rows, others) == (1, 8)
    assert start > 8 * SPEC.tokens_per_frame
    assert rest < 20


# --- time controls ----------------------------------------------------------------------------------------------------


def test_a_control_shows_the_frames_in_another_order_and_encodes_none_again(loaded, open_mixed, monkeypatch):
    dataset = open_mixed([*MIXED[:4], MIXED[5]], time_marks="seconds")
    encoded, encode = [], asking.encode_images
    monkeypatch.setattr(asking, "encode_images", lambda m, clips, n: encoded.append(clips) or encode(m, clips, n))
    found = tokens_of(loaded, dataset, controls=tuple(CONTROLS), batch_size=3)
    assert sum(len(clip) for clips in encoded for clip in clips) == 8 + 1 + 1  # the clip, the still, the blank frame
    show, videos = dataset.show, (0, 1, 3, 5, 6)  # the last one shows a still, too
    assert set(found) == {(p, "forwards") for p in range(7)} | {(p, c) for p in videos for c in CONTROLS}
    for control in CONTROLS:

        def changed(index, show=show, control=control):
            shown = show(index)
            clip, rest = shown.images[:8], shown.images[8:]
            if len(clip) == 8:
                order = order_of(control, 8, (0, 0))
                clip = torch.full_like(clip, 128) if order is None else clip[order]
            return shown._replace(images=torch.cat([clip, rest]))

        monkeypatch.setattr(dataset, "show", changed)
        expected = list(alone(loaded, dataset))
        monkeypatch.setattr(dataset, "show", show)
        for position in videos:
            assert without_padding(found[position, control], loaded.tokenizer) == expected[position]
    assert len({tuple(found[3, control]) for control in CONTROLS}) > 1


def test_a_control_leaves_images_and_questions_about_them_as_they_are(loaded, open_mixed, monkeypatch):
    prompts, generate = [], asking.generate_batch
    monkeypatch.setattr(asking, "generate_batch", lambda *given: prompts.extend(given[2]) or generate(*given))
    dataset = open_mixed([MIXED[5], MIXED[3]])
    for batch in answers_of(loaded, dataset, controls=("forwards", "blank", "one_frame"), max_new_tokens=1):
        shown = {(each.position, each.control): prompt.frames for each, prompt in zip(batch, prompts, strict=True)}
    clip, still = [(0, frame) for frame in range(8)], (1, 0)
    assert shown[1, "forwards"] == [*clip, still]
    assert shown[1, "blank"] == [asking.BLANK] * 8 + [still]
    assert shown[1, "one_frame"] == [(0, 4)] * 8 + [still]
    assert [control for position, control in shown if position == 2] == ["forwards"]


def test_the_random_order_is_never_the_true_one_and_depends_on_the_seed_alone():
    orders = [order_of("shuffled", 3, (0, number)) for number in range(200)]
    assert [0, 1, 2] not in orders
    assert len({tuple(order) for order in orders}) == 5
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert orders == [order_of("shuffled", 3, (0, number)) for number in range(200)]
    assert order_of("shuffled", 1, (0,)) == [0]
    assert order_of("backwards", 3, ()) == [2, 1, 0]
    assert order_of("one_frame", 3, ()) == [1, 1, 1]


def test_questions_of_a_video_are_neighbours_and_done_ones_are_left_out(loaded, open_mixed):
    dataset = open_mixed()
    rows = rows_of(read_questions(dataset), ("forwards",))
    assert [position for position, _ in rows] == [0, 1, 3, 6, 7, 2, 4, 5, 8, 9]
    done = [(position, "forwards") for position in range(8)]
    left = [each.position for batch in answers_of(loaded, dataset, done=done) for each in batch]
    assert sorted(left) == [8, 9]


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "error", "message"),
    [
        (Question("one", (), "<image>?", "a"), DataFormatError, "1 <image> but 0"),
        (Question("one", (Medium("gone.mp4"),), "<image>?", "a"), VideoDecodeError, r"^one: gone\.mp4: no such file"),
        (Question("one", (), "Well? " * 3000, "a"), TokenBudgetError, "^one: .* tokens = "),
    ],
)
def test_an_error_names_the_question(loaded, question, error, message):
    with pytest.raises(error, match=message):
        list(answer_questions(loaded.model, loaded.tokenizer, [question], VideoConfig(), SPEC))


def test_questions_have_the_media_and_the_true_turns_before_them(open_mixed, media):
    samples = json.loads(json.dumps(MIXED))
    samples[0] |= {"kinds": ["colour", "shape"], "choices": [["red", "blue"], None]}
    questions = read_questions(open_mixed(samples))
    first, second = questions[:2]
    assert (first.kind, first.choices, first.history) == ("colour", ("red", "blue"), ())
    assert (second.kind, second.choices, second.expected) == ("shape", None, "It is a square.")
    assert second.history == ("<image>\nWhat colour is it?", "It is red.")
    assert first.media == second.media == (Medium(media / "clip.mp4"),)
    assert [len(question.media) for question in questions[6:8]] == [1, 2]
    assert [question.has_video for question in questions] == [*[True] * 2, False, True, False, *[True] * 5]


def test_a_question_is_asked_with_the_system_prompt_that_its_sample_was_trained_with(annotate, tokenizer):
    turns = [{"from": "human", "value": "Yes?"}, {"from": "gpt", "value": "Yes."}]
    path = annotate([{"system": "Be brief.", "conversations": turns * 2}, {"conversations": turns}])
    data = LazySupervisedDataset(tokenizer, [path], DataArguments(), frame_spec=SPEC)
    questions = read_questions(data)
    assert [question.turns()[0].get("system") for question in questions] == ["Be brief.", "Be brief.", None]
    asked = prompt_ids(questions[0].turns(), tokenizer, "qwen_2")
    assert asked == data[0]["input_ids"].tolist()[: len(asked)]
