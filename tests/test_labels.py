import warnings
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from fvv_lib import DataFormatError, LabelMismatchError, conversation_templates, diagnose_labels, preprocess
from fvv_lib.course.tiny import build_tokenizer
from fvv_lib.data.checking import RememberingTokenizer
from fvv_lib.labels.counting import count_labels
from fvv_lib.labels.exact import check_template, tokenize_pieces
from fvv_lib.prompt.placeholders import IGNORE_INDEX, IMAGE_TOKEN_INDEX, bos_ids, tokenizer_image_token
from fvv_lib.prompt.templates import Piece

TOKENIZER = build_tokenizer()


def conversation(turns, end, image=True):
    """Return `turns` rounds of question and answer. Each answer ends with `end`."""
    result = []
    for i in range(turns):
        before = "<image>\n" if image and i == 0 else ""
        result += [
            {"from": "human", "value": before + "What is it?"},
            {"from": "gpt", "value": "It is a red square" + end},
        ]
    return result


def learned_text(tokenizer, labels):
    return tokenizer.decode([int(label) for label in labels if label != IGNORE_INDEX])


def exact(tokenizer, turns, version):
    both = preprocess([turns], tokenizer, has_image=True, version=version)
    return both["input_ids"][0], both["labels"][0]


@cache
def real_qwen2(folder):
    """Cached, because its vocabulary has 151,646 entries."""
    return AutoTokenizer.from_pretrained(folder / "real" / "qwen2_tokenizer")


@pytest.fixture(params=["tiny", "llama", "real qwen2"])
def any_tokenizer(request, llama_tokenizer):
    if request.param == "real qwen2":
        return real_qwen2(request.getfixturevalue("real_data"))
    return TOKENIZER if request.param == "tiny" else llama_tokenizer


@pytest.mark.parametrize("version", conversation_templates)
@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("end", [".", ""])
def test_exact_labels_are_the_answers_and_their_end_marks(any_tokenizer, version, turns, end):
    template = conversation_templates[version]
    _, labels = exact(any_tokenizer, conversation(turns, end), version)
    answer = template.answer_prefix + "It is a red square" + end + template.answer_end
    assert learned_text(any_tokenizer, labels).lstrip() == (answer * turns).lstrip()


@pytest.mark.parametrize("version", [name for name, one in conversation_templates.items() if one.own_system])
def test_a_system_prompt_of_a_conversation_is_read_and_never_learned(any_tokenizer, version):
    turns = conversation(2, ".")
    _, without = exact(any_tokenizer, turns, version)
    ids, labels = exact(any_tokenizer, [{**turns[0], "system": "Answer with a colour."}, *turns[1:]], version)
    text = any_tokenizer.decode([token for token in ids.tolist() if token != IMAGE_TOKEN_INDEX])
    assert "Answer with a colour." in text
    assert "assistant." not in text
    assert learned_text(any_tokenizer, labels) == learned_text(any_tokenizer, without)


sentence = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda text: text.strip() and "<image>" not in text
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(sentence, sentence), min_size=1, max_size=3), st.sampled_from(list(conversation_templates)))
def test_exact_labels_are_correct_for_any_text(rounds, version):
    turns = [
        {"from": role, "value": value} for pair in rounds for role, value in zip(("human", "gpt"), pair, strict=True)
    ]
    template = conversation_templates[version]
    pieces = template.render(turns)
    ids, labels = tokenize_pieces(pieces, TOKENIZER)
    assert TOKENIZER.decode(ids) == "".join(piece.text for piece in pieces)
    assert learned_text(TOKENIZER, labels) == "".join(piece.text for piece in pieces if piece.learned)


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("end", [".", ""])
def test_with_qwen_2_exact_equals_the_original_algorithm(turns, end):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        strict = preprocess([conversation(turns, end)], TOKENIZER, True, "qwen_2", "strict")
    ids, labels = exact(TOKENIZER, conversation(turns, end), "qwen_2")
    assert strict["input_ids"][0].tolist() == ids.tolist()
    assert strict["labels"][0].tolist() == labels.tolist()


# --- linear time ------------------------------------------------------------------------------------------------------


def tokenize_whole(pieces, tokenizer):
    """Compute the result of `tokenize_pieces` the simple way: tokenize each run of text again from its start."""
    ids = bos_ids(tokenizer)
    labels, run = [IGNORE_INDEX] * len(ids), ""
    for piece in pieces:
        for number, text in enumerate(piece.text.split("<image>")):
            if number > 0:
                ids, labels, run = [*ids, IMAGE_TOKEN_INDEX], [*labels, IGNORE_INDEX], ""
            before = tokenizer(run, add_special_tokens=False).input_ids if run else []
            joined = tokenizer(run + text, add_special_tokens=False).input_ids
            crosses = joined[: len(before)] != before
            new = tokenizer(text, add_special_tokens=False).input_ids if crosses else joined[len(before) :]
            run = text if crosses else run + text
            ids = [*ids, *new]
            labels += new if piece.learned else [IGNORE_INDEX] * len(new)
    return ids, labels


def awkward_tokenizer(prepend_scheme="first"):
    """A BPE tokenizer that merges across words, with added tokens of every kind: some overlap, some absorb spaces."""
    letters = [chr(code) for code in range(32, 127)] + ["▁"]
    merges = [(">", "U"), ("▁", "a"), ("a", "b"), (">", "a"), ("\\", "n"), ("s", ">"), ("▁a", "b")]
    vocabulary = {token: i for i, token in enumerate(["<unk>", *letters, *map("".join, merges)])}
    one = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    one.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme, split=False)
    overlapping = ["b<|im", "end|>a", "<|im_end|>ab", "ab", "x<y", "<y<|"]
    one.add_special_tokens(["<|im_start|>", "<|im_end|>", "</s>", *overlapping])
    one.add_tokens(
        [
            AddedToken("<left>", lstrip=True, normalized=False),
            AddedToken("<right>", rstrip=True, normalized=False),
            AddedToken("word", single_word=True, normalized=False),
            AddedToken("<normal>", normalized=True),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=one, pad_token="<unk>")


def normalizing_tokenizer():
    """A tokenizer like Llama's that finds its end mark in the normalized text, which starts with an added space."""
    letters = [chr(code) for code in range(32, 127)] + ["▁"]
    one = Tokenizer(models.BPE({token: i for i, token in enumerate(["<unk>", *letters])}, [], unk_token="<unk>"))
    one.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    one.add_tokens([AddedToken("</s>", normalized=True), AddedToken("<|im_end|>", normalized=True)])
    return PreTrainedTokenizerFast(tokenizer_object=one, pad_token="<unk>")


def splitting_tokenizer():
    """A tokenizer that treats its special tokens as ordinary text."""
    tokenizer = build_tokenizer()
    tokenizer.split_special_tokens = True
    return tokenizer


MARKS = [
    "<|im_start|>",
    "<|im_end|>",
    "</s>",
    "<s>",
    "<image>",
    "<|endoftext|>",
    "<left>",
    "<right>",
    "word",
    "<normal>",
]
WORDS = ["a", "b", "ab", "U", ">", "<", " ", "  ", "\n", "<|im_", "end|>", "s>", "é", "右", "1", ".", "user\n", "wordy"]
rendered = st.lists(
    st.builds(Piece, st.lists(st.sampled_from(MARKS + WORDS), max_size=6).map("".join), st.booleans()), max_size=7
)
TOKENIZERS = {
    "tiny": build_tokenizer,
    "awkward": awkward_tokenizer,
    "awkward, always a space": lambda: awkward_tokenizer("always"),
    "merging": lambda: merging_tokenizer(),
    "llama, not legacy": lambda: unprefixed_llama_tokenizer(),
    "normalizing": normalizing_tokenizer,
    "splitting": splitting_tokenizer,
}


@pytest.fixture(params=[*TOKENIZERS, "llama", "real qwen2"])
def every_tokenizer(request):
    if request.param == "llama":
        return request.getfixturevalue("llama_tokenizer")
    if request.param == "real qwen2":
        return real_qwen2(request.getfixturevalue("real_data"))
    return TOKENIZERS[request.param]()


def test_cutting_the_text_changes_no_label(every_tokenizer):
    @settings(max_examples=400, deadline=None)
    @given(rendered)
    def check(pieces):
        assert tokenize_pieces(pieces, every_tokenizer) == tokenize_whole(pieces, every_tokenizer)

    check()


def test_text_is_not_cut_if_a_token_crosses_a_boundary():
    """In the whole text, `x<y` hides `<y<|`. In the second piece alone, `<y<|` hides `<|im_end|>`."""
    pieces = [Piece("x", False), Piece("<y<|im_end|>", True)]
    tokenizer = awkward_tokenizer()
    ids, labels = tokenize_pieces(pieces, tokenizer)
    assert (ids, labels) == tokenize_whole(pieces, tokenizer)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in ids


@pytest.mark.parametrize("version", conversation_templates)
def test_labels_of_long_conversations_equal_those_of_the_whole_text(every_tokenizer, version):
    turns = [{**turn, "value": f"{turn['value']} {i} <|im_end|> </s>"} for i, turn in enumerate(conversation(6, "."))]
    pieces = conversation_templates[version].render(turns)
    assert tokenize_pieces(pieces, every_tokenizer) == tokenize_whole(pieces, every_tokenizer)


@pytest.mark.parametrize(("name", "version"), [("tiny", "qwen_2"), ("llama, not legacy", "v1"), ("llama", "llama_2")])
def test_work_grows_linearly_with_the_length_of_a_conversation(name, version, llama_tokenizer):
    tokenizer = llama_tokenizer if name == "llama" else TOKENIZERS[name]()
    read = []

    class Spy(RememberingTokenizer):
        def __call__(self, text, add_special_tokens=True):
            read.append(len(text))
            return super().__call__(text, add_special_tokens)

    def work(rounds):
        read.clear()
        tokenize_pieces(conversation_templates[version].render(conversation(rounds, ".")), Spy(tokenizer, 0))
        return sum(read)

    text = "".join(piece.text for piece in conversation_templates[version].render(conversation(80, ".")))
    assert work(80) < 2 * len(text)


# --- turns that are not learned ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [{"loss": False}, {"loss": 0}, {"weight": 0}, {"weight": 0.0}, {"weight": False}])
@pytest.mark.parametrize("version", conversation_templates)
def test_answer_marked_as_not_learned_is_input_but_has_no_label(any_tokenizer, version, mark):
    turns = conversation(3, ".")
    plain, labels = exact(any_tokenizer, turns, version)
    ids, less = exact(any_tokenizer, [*turns[:3], {**turns[3], **mark}, *turns[4:]], version)
    assert torch.equal(ids, plain)
    template = conversation_templates[version]
    answer = template.answer_prefix + turns[3]["value"] + template.answer_end
    assert learned_text(any_tokenizer, less).lstrip() == (answer * 2).lstrip()
    first = (labels != less).nonzero()
    assert set(less[first].flatten().tolist()) == {IGNORE_INDEX}


@pytest.mark.parametrize("mark", [{"loss": True}, {"weight": 1}, {"weight": 1.0}, {"loss": None, "weight": None}])
def test_answer_marked_as_learned_is_learned(mark):
    turns = conversation(2, ".")
    marked = [{**turn, **mark} for turn in turns]
    assert torch.equal(exact(TOKENIZER, marked, "qwen_2")[1], exact(TOKENIZER, turns, "qwen_2")[1])


def test_a_question_is_never_learned():
    turns = conversation(2, ".")
    for mark in ({"loss": True}, {"loss": False}, {"weight": 1}, {"weight": 0}):
        marked = [{**turns[0], **mark}, *turns[1:]]
        assert torch.equal(exact(TOKENIZER, marked, "qwen_2")[1], exact(TOKENIZER, turns, "qwen_2")[1])


def test_counting_raises_if_an_answer_is_marked_as_not_learned():
    turns = conversation(2, ".")
    turns[3]["loss"] = False
    for mode in ("tolerant", "strict"):
        with pytest.raises(LabelMismatchError, match=rf"conversation 0, turn 4: .* mismatch='{mode}' does not support"):
            preprocess([turns], TOKENIZER, True, mismatch=mode)
    with pytest.raises(LabelMismatchError, match=r"turn 4: .* counting does not support"):
        diagnose_labels(turns, TOKENIZER)


def test_exact_ids_equal_the_ids_of_the_whole_text():
    for version, template in conversation_templates.items():
        text = "".join(piece.text for piece in template.render(conversation(2, ".")))
        ids, _ = exact(TOKENIZER, conversation(2, "."), version)
        assert ids.tolist() == tokenizer_image_token(text, TOKENIZER)


def merging_tokenizer():
    """A tokenizer that merges the last letter of the end mark and the first letter of the next turn: `>U`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", *letters, ">U"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [(">", "U")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


def test_text_is_cut_if_a_token_would_cross_the_end_of_an_answer():
    tokenizer = merging_tokenizer()
    assert ">U" in tokenizer.tokenize("</s>USER")
    ids, labels = exact(tokenizer, conversation(2, "."), "v1")
    assert learned_text(tokenizer, labels) == " It is a red square.</s>" * 2
    text = "".join(piece.text for piece in conversation_templates["v1"].render(conversation(2, ".")))
    assert tokenizer.decode([i for i in ids.tolist() if i >= 0]) == text.replace("<image>", "")  # nothing is lost
    with pytest.raises(LabelMismatchError, match="merges the end of an answer"):
        diagnose_labels(conversation(2, "."), tokenizer, "v1")


# --- counting with the tokenizers that it was written for -------------------------------------------------------------


def unprefixed_llama_tokenizer():
    """A tokenizer like Llama's with `legacy=False`, which adds no space after `</s>`. As in Llama's own vocabulary,
    `USER` is one token there. At the start of a text, which gets a space, it is two tokens, `▁US` and `ER`."""
    pieces = [
        piece for name in ("v1", "llama_2") for piece in conversation_templates[name].render(conversation(1, "."))
    ]
    letters = sorted(set("".join(piece.text for piece in pieces).replace(" ", "▁")))
    merges = [("U", "S"), ("▁", "US"), ("E", "R"), ("US", "ER"), ("▁", "I")]
    tokens = ["<unk>", "<s>", "</s>", *letters, *map("".join, merges)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return LlamaTokenizer(vocabulary, merges, legacy=False, add_bos_token=True, pad_token="<unk>")


@pytest.fixture(params=["legacy", "not legacy"])
def any_llama_tokenizer(request, llama_tokenizer, monkeypatch):
    if request.param == "not legacy":
        return unprefixed_llama_tokenizer()
    monkeypatch.setattr(llama_tokenizer, "legacy", True, raising=False)  # as in Llama's own class
    return llama_tokenizer


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize("end", [".", ""])
@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("version", ["v1", "llama_2"])
def test_with_its_own_tokenizer_counting_equals_exact(any_llama_tokenizer, version, rounds, end, image):
    turns, template = conversation(rounds, end, image), conversation_templates[version]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        strict = preprocess([turns], any_llama_tokenizer, True, version, "strict")
    ids, labels = exact(any_llama_tokenizer, turns, version)
    assert count_labels(template.render(turns), any_llama_tokenizer, template).difference == 0
    assert strict["input_ids"][0].tolist() == ids.tolist()
    assert strict["labels"][0].tolist() == labels.tolist()
    assert learned_text(any_llama_tokenizer, labels).count("It is a red square") == rounds


def test_check_of_a_data_set_counts_as_training_does(any_llama_tokenizer):
    """The check of a data set caches tokenized texts. It must pass on the attributes of its tokenizer."""
    turns = [conversation(3, ".", image=False)]
    one, other = (
        preprocess(turns, tokenizer, False, "v1", "strict")["labels"]
        for tokenizer in (any_llama_tokenizer, RememberingTokenizer(any_llama_tokenizer))
    )
    assert torch.equal(one[0], other[0])
    assert (one[0] != IGNORE_INDEX).any()


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_counting_relies_on_the_legacy_attribute_of_the_tokenizer(llama_tokenizer, rounds):
    """Without `legacy`, the v1 algorithm subtracts one token from each later round. This tokenizer adds a space before
    every `USER`, so the subtraction is wrong, and the labels shift by one token per round."""
    assert not getattr(llama_tokenizer, "legacy", False)
    for version, difference in (("v1", 1 - rounds), ("llama_2", 0)):
        report = diagnose_labels(conversation(rounds, "."), llama_tokenizer, version)
        assert report.counted - report.total == difference
        assert (report.first_difference is None) == (difference == 0)


# The differences of a Vicuna template with a Qwen2 tokenizer: (rounds, end of the answers) -> counted minus true
# length, measured on the real Qwen2 tokenizer with the original code.
V1_DIFFERENCES = {(1, "."): -1, (1, ""): -2, (2, "."): -4, (2, ""): -6, (3, "."): -7}


@pytest.mark.parametrize(("case", "difference"), V1_DIFFERENCES.items())
def test_v1_mismatches_of_the_real_qwen2_tokenizer(real_data, case, difference):
    tokenizer = real_qwen2(real_data)
    turns = conversation(*case)
    assert diagnose_labels(turns, tokenizer, "qwen_2").first_difference is None
    report = diagnose_labels(turns, tokenizer, "v1")
    assert report.counted - report.total == difference
    with pytest.warns(UserWarning, match=rf"{report.counted} tokens counted, {report.total} in the text.*dropped"):
        strict = preprocess([turns], tokenizer, True, "v1", "strict")
    assert set(strict["labels"][0].tolist()) == {IGNORE_INDEX}
    outcome = "dropped" if abs(difference) > 5 else "used as it is"
    with pytest.warns(UserWarning, match=outcome):
        tolerant = preprocess([turns], tokenizer, True, "v1", "tolerant")
    assert (set(tolerant["labels"][0].tolist()) == {IGNORE_INDEX}) == (abs(difference) > 5)


def test_tolerance_trains_on_the_wrong_tokens(real_data):
    tokenizer = real_qwen2(real_data)
    report = diagnose_labels(conversation(2, "."), tokenizer, "v1")
    assert report.learned == "ISTANT:"
    assert report.missed == "> square.</s>"
    text = str(report)
    assert "difference -4" in text
    assert "'>' at" in text


def test_pad_token_in_the_text_is_a_mismatch_only_for_counting():
    turns = [{"from": "human", "value": "What is <|endoftext|>?"}, {"from": "gpt", "value": "A token."}]
    template = conversation_templates["qwen_2"]
    assert count_labels(template.render(turns), TOKENIZER, template).difference == 1
    assert learned_text(TOKENIZER, exact(TOKENIZER, turns, "qwen_2")[1]) == "A token.<|im_end|>\n"


def test_diagnosis_of_equal_labels_says_so():
    report = diagnose_labels(conversation(2, "."), TOKENIZER)
    assert report.first_difference is None
    assert "equal the exact ones" in str(report)
    assert report.tokens.count("<image>") == 1


def test_invalid_arguments_are_errors():
    turns = conversation(1, ".")
    with pytest.raises(LabelMismatchError, match="exact, tolerant, strict"):
        preprocess([turns], TOKENIZER, True, mismatch="loose")
    with pytest.raises(DataFormatError, match="no picture or video"):
        preprocess([turns], TOKENIZER, has_image=False)
    with pytest.raises(DataFormatError, match="no counting algorithm"):
        preprocess([turns], TOKENIZER, True, "plain", "strict")
    for mode in ("exact", "tolerant", "strict"):
        with pytest.raises(DataFormatError, match="no answer to learn"):
            preprocess([turns[:1]], TOKENIZER, True, mismatch=mode)


def test_template_of_another_tokenizer_is_a_warning(tokenizer, llama_tokenizer, recwarn):
    check_template("qwen_2", tokenizer)
    check_template("plain", tokenizer)
    check_template("v1", llama_tokenizer)
    assert not recwarn
    with pytest.warns(UserWarning, match=r"version='v1' ends an answer with '</s>', .* into \['<', '/', 's', '>'\]"):
        check_template("v1", tokenizer)
    with pytest.warns(UserWarning, match=r"version='qwen_2' ends an answer with '<\|im_end\|>'"):
        check_template("qwen_2", llama_tokenizer)
