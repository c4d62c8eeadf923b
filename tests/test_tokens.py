import tracemalloc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fvv_lib import (
    IMAGE_TOKEN_INDEX,
    DataFormatError,
    FvvError,
    TokenBudgetError,
    check_token_budget,
    expand_image_tokens,
    expanded_length,
    preprocess_multimodal,
    tokenizer_image_token,
)
from fvv_lib.data.checking import RememberingTokenizer
from fvv_lib.labels.exact import own_tokens
from fvv_lib.prompt.placeholders import IGNORE_INDEX, sequence_runs


def test_one_image_becomes_one_per_frame():
    assert expand_image_tokens("<image>\nWhat?", 3) == "<image><image><image>\nWhat?"


def test_order_and_position_of_several_images_are_kept():
    text = "First <image> then <image>, what changed?"
    assert expand_image_tokens(text, [1, 3]) == "First <image> then <image><image><image>, what changed?"


def test_text_without_image_is_unchanged():
    assert expand_image_tokens("No picture.", 8) == "No picture."


def test_times_are_written_before_video_frames_but_not_before_images():
    text = "First <image> then <image>\nWhat?"
    marked = expand_image_tokens(text, [1, 3], [[], [0.0, 1.46, 12.0]])
    assert marked == "First <image> then <0.0s><image><1.5s><image><12.0s><image>\nWhat?"
    assert expand_image_tokens(text, [1, 3], [[], []]) == expand_image_tokens(text, [1, 3])
    for times in ([[], [0.0]], [[0.0, 1.0, 2.0]], [[0.0] * 3, [0.0] * 3]):
        with pytest.raises(DataFormatError, match=r"There are \[1, 3\] frames, but times for"):
            expand_image_tokens(text, [1, 3], times)


def test_wrong_frame_counts_are_an_error():
    with pytest.raises(DataFormatError, match="2 <image> but 1"):
        expand_image_tokens("<image> and <image>", [4])
    with pytest.raises(FvvError, match="at least one frame"):
        expand_image_tokens("<image>", [0])


def test_frame_counts_apply_across_turns_and_the_input_is_unchanged():
    source = [
        {"from": "human", "value": "<image>\nA?"},
        {"from": "gpt", "value": "b"},
        {"from": "human", "value": "And <image>?"},
    ]
    copy = [dict(turn) for turn in source]
    (expanded,) = preprocess_multimodal([source], None, num_frames=[2, 3])
    assert [turn["value"] for turn in expanded] == ["<image><image>\nA?", "b", "And <image><image><image>?"]
    assert source == copy
    (marked,) = preprocess_multimodal([source], None, [2, 1], timestamps=[[0.0, 0.5], []])
    assert [turn["value"] for turn in marked] == ["<0.0s><image><0.5s><image>\nA?", "b", "And <image>?"]
    with pytest.raises(DataFormatError, match="2 <image> but 1"):
        preprocess_multimodal([source], None, num_frames=[2])


def test_sentinels_replace_the_placeholders(tokenizer):
    ids = tokenizer_image_token("a<image><image>b", tokenizer)
    a, b = (tokenizer(letter, add_special_tokens=False).input_ids for letter in "ab")
    assert ids == [*a, IMAGE_TOKEN_INDEX, IMAGE_TOKEN_INDEX, *b]
    tensor = tokenizer_image_token("a<image><image>b", tokenizer, return_tensors="pt")
    assert tensor.dtype == torch.int64
    assert tensor.tolist() == ids
    with pytest.raises(FvvError, match="return_tensors"):
        tokenizer_image_token("a", tokenizer, return_tensors="np")


def test_bos_is_added_once_at_the_start(llama_tokenizer):
    ids = tokenizer_image_token("a<image>b<image>", llama_tokenizer)
    assert ids[0] == llama_tokenizer.bos_token_id
    assert ids.count(llama_tokenizer.bos_token_id) == 1


@given(st.lists(st.integers(0, 50) | st.just(IMAGE_TOKEN_INDEX), max_size=40), st.integers(1, 256))
def test_expanded_length_is_text_plus_frames_times_tokens(ids, tokens_per_frame):
    frames = ids.count(IMAGE_TOKEN_INDEX)
    assert expanded_length(ids, tokens_per_frame) == len(ids) - frames + frames * tokens_per_frame


def test_sequence_runs_cover_the_expanded_sequence():
    ids = [1, 2, IMAGE_TOKEN_INDEX, IMAGE_TOKEN_INDEX, 3, 4, 5, 6]
    labels = [IGNORE_INDEX] * 5 + [4, 5, IGNORE_INDEX]
    runs = [("text", 2), ("frame", 9), ("frame", 9), ("text", 1), ("answer", 2), ("text", 1)]
    assert sequence_runs(ids, 9, labels) == runs
    assert sequence_runs(torch.tensor(ids), 9, torch.tensor(labels)) == runs
    assert sequence_runs(ids, 9)[-1] == ("text", 4)
    assert sum(count for _, count in runs) == expanded_length(ids, 9)


def test_eight_frames_at_1024_do_not_fit_2048_positions():
    ids = [1] * 40 + [IMAGE_TOKEN_INDEX] * 8
    with pytest.raises(TokenBudgetError) as error:
        check_token_budget(ids, 256, 2048, "train.json, sample 7")
    message = str(error.value)
    assert "train.json, sample 7: 2088 tokens = 40 of text + 8 frames x 256" in message
    assert "at most 7 frames" in message
    assert check_token_budget(ids, 256, 2088, "sample") == 2088


@pytest.mark.parametrize("tokens_per_frame", [1, 4])
def test_budget_message_counts_frames_for_any_tokens_per_frame(tokens_per_frame):
    with pytest.raises(TokenBudgetError, match=f"5 of text \\+ 3 frames x {tokens_per_frame}"):
        check_token_budget([1] * 5 + [IMAGE_TOKEN_INDEX] * 3, tokens_per_frame, 6, "sample")


def test_remembering_tokenizer_equals_its_tokenizer(tokenizer, llama_tokenizer):
    for one in (tokenizer, llama_tokenizer):
        remembering = RememberingTokenizer(one, most_bytes=1000)
        for text in ["a", "It is red.", "What?", "a", "Way", "It is red.", "What?", "long " * 1000]:
            for special in (True, False):
                assert (
                    remembering(text, add_special_tokens=special).input_ids
                    == one(text, add_special_tokens=special).input_ids
                )
            assert tokenizer_image_token(f"<image>{text}", remembering) == tokenizer_image_token(f"<image>{text}", one)
        assert (remembering.pad_token_id, remembering.bos_token_id) == (one.pad_token_id, one.bos_token_id)
        assert own_tokens(remembering) == own_tokens(one)
        assert own_tokens(one).cutting


def test_memory_of_a_remembering_tokenizer_is_bounded(tokenizer):
    """Measures Python's allocations, not the count of the class."""
    remembering = RememberingTokenizer(tokenizer, most_bytes=200_000)
    remembering("a")
    tracemalloc.start()
    peak = 0
    for number in range(2000):
        remembering(f"text {number} " * 9)
        peak = max(peak, tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert 50_000 < peak < 260_000


def test_remembering_tokenizer_tokenizes_each_text_once(tokenizer):
    asked = []

    class Spy(RememberingTokenizer):
        def _keep(self, key, ids):
            asked.append(key)
            super()._keep(key, ids)

    spy = Spy(tokenizer)
    for text in ["a", "b", "a", "b", "a"]:
        spy(text)
    assert asked == [("a", True), ("b", True)]
