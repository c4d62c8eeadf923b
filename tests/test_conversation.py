import pytest

from fvv_lib import DataFormatError, conversation_templates
from fvv_lib.prompt.templates import check_turns, get_template

TURNS = [
    {"from": "human", "value": "Q1"},
    {"from": "gpt", "value": "A1"},
    {"from": "human", "value": "Q2"},
    {"from": "gpt", "value": "A2"},
]


def text_of(pieces):
    return "".join(piece.text for piece in pieces)


EXPECTED = {
    "qwen_2": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n"
    "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\nA2<|im_end|>\n",
    "v1": "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: Q1 ASSISTANT: A1</s>USER: Q2 ASSISTANT: A2</s>",
    "plain": "Q1A1\nQ2A2\n",
    "llama_2": "[INST] <<SYS>>\nYou are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural language.\n<</SYS>>\n\n"
    "Q1 [/INST] A1 </s><s>[INST] Q2 [/INST] A2 </s>",
}


@pytest.mark.parametrize("version", EXPECTED)
def test_rendering_equals_the_published_template(version):
    assert text_of(conversation_templates[version].render(TURNS)) == EXPECTED[version]


@pytest.mark.parametrize("version", EXPECTED)
def test_learned_pieces_are_answers_with_their_end_marks(version):
    template = conversation_templates[version]
    learned = [piece.text for piece in template.render(TURNS) if piece.learned]
    assert learned == [template.answer_prefix + answer + template.answer_end for answer in ("A1", "A2")]
    assert all(template.stop in piece or version == "plain" for piece in learned)


@pytest.mark.parametrize("version", EXPECTED)
def test_generation_prompt_is_the_training_text_up_to_the_answer(version):
    template = conversation_templates[version]
    whole = text_of(template.render(TURNS))
    prompt = template.render(TURNS[:3])
    assert whole.startswith(text_of(prompt))
    assert whole[len(text_of(prompt)) :] == template.answer_prefix + "A2" + template.answer_end
    assert not prompt[-1].learned


@pytest.mark.parametrize("version", EXPECTED)
def test_marks_of_a_template_occur_in_its_rendering(version):
    rendered = text_of(conversation_templates[version].render(TURNS))
    assert all(mark in rendered for mark in conversation_templates[version].marks)
    stop = conversation_templates[version].stop
    assert stop in conversation_templates[version].marks or not stop.strip()


def test_unknown_template_is_an_error_that_lists_known_templates():
    with pytest.raises(DataFormatError, match=r"'qwen2'.*qwen_2, v1, plain, llama_2"):
        get_template("qwen2")


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (None, "no conversation"),
        ([], "no conversation"),
        ("hello", "no conversation"),
        ([{"value": "Q"}], "turn 1: a turn must be"),
        ([{"from": "human", "value": 3}], "turn 1: a turn must be"),
        ([{"from": "robot", "value": "Q"}], "unknown role 'robot'"),
        ([{"from": "gpt", "value": "A"}], "turn 1: expected a turn from 'human'"),
        ([TURNS[0], TURNS[0]], "turn 2: expected a turn from 'gpt'"),
        ([TURNS[0], {"from": "gpt", "value": " \n"}], "turn 2: the text is empty"),
        ([{"from": "human", "value": [{"type": "video", "video": "a.mp4"}]}], "turn 1: .* list of content parts"),
        ([TURNS[0], {**TURNS[1], "weight": 0.5}], "turn 2: 'weight' must be true or 1 .* got 0.5"),
        ([TURNS[0], {**TURNS[1], "loss": "false"}], "turn 2: 'loss' must be true or 1 .* got 'false'"),
        ([{**TURNS[0], "weight": -1}, TURNS[1]], "turn 1: 'weight' must be true or 1 .* got -1"),
        ([TURNS[0], {**TURNS[1], "weight": 1, "loss": False}], "turn 2: 'loss' and 'weight' contradict"),
        (TURNS[:1], "no answer to learn"),
        (TURNS[:3], "no answer to learn"),
    ],
)
def test_malformed_conversation_is_an_error_that_names_the_sample(turns, message):
    with pytest.raises(DataFormatError, match=message) as error:
        check_turns(turns, "a.json, sample 3")
    assert str(error.value).startswith("a.json, sample 3")


OWN_SYSTEM = {
    "qwen_2": "<|im_start|>system\nBe {brief}.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n",
    "v1": "Be {brief}. USER: Q1 ",
    "llama_2": "[INST] <<SYS>>\nBe {brief}.\n<</SYS>>\n\nQ1 ",
}


@pytest.mark.parametrize("version", OWN_SYSTEM)
def test_a_system_prompt_of_a_conversation_replaces_that_of_the_template(version):
    turns = [{**TURNS[0], "system": "Be {brief}."}, *TURNS[1:]]
    template = conversation_templates[version]
    given = template.answer_start + template.answer_prefix + "A1"
    assert text_of(template.render(turns)).startswith(OWN_SYSTEM[version] + given)
    assert [piece for piece in template.render(turns) if piece.learned] == [
        piece for piece in template.render(TURNS) if piece.learned
    ]


def test_a_template_without_a_place_for_a_system_prompt_refuses_one():
    with pytest.raises(DataFormatError, match=r"^a: it has a system prompt, but the template 'plain' has no place"):
        conversation_templates["plain"].render([{**TURNS[0], "system": "Be brief."}, TURNS[1]], "a")
