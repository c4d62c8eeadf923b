"""Shares of annotation files: drawn without replacement, the same in every run, and checked and recorded as drawn."""

import numpy as np
import pytest

from fvv_lib import DataArguments, DataFormatError, LazySupervisedDataset, ModelArguments, TrainingArguments
from fvv_lib.data.mixture import draw, parse_part
from fvv_lib.data.report import count_samples
from fvv_lib.data.table import Annotations
from fvv_lib.finetuning.comparing import describe_settings, differences, identify
from fvv_lib.video_config import FrameSpec

SPEC = FrameSpec(image_size=64, tokens_per_frame=4, max_length=2048)


def sample(number, answer="Yes."):
    turns = [{"from": "human", "value": f"{number}?"}, {"from": "gpt", "value": answer}]
    return {"id": str(number), "conversations": turns}


@pytest.mark.parametrize(
    ("word", "path", "amount"),
    [
        ("a.json", "a.json", ""),
        ("a.json*0.5", "a.json", "*0.5"),
        ("a*2.json#1000", "a*2.json", "#1000"),
        ("a.json*x", "a.json*x", ""),
        ("s3://set/a.jsonl*2", "s3://set/a.jsonl", "*2"),
    ],
)
def test_an_amount_is_the_end_of_a_path(word, path, amount):
    part = parse_part(word)
    assert (str(part.path), part.amount) == (path, amount)


@pytest.mark.parametrize(
    ("amount", "count"), [("", 10), ("*1", 10), ("*0.5", 5), ("*0.25", 2), ("#7", 7), ("*2", 20), ("*2.5", 25)]
)
def test_a_draw_has_each_sample_equally_often_and_no_other_order(amount, count):
    drawn = draw(parse_part(f"a.json{amount}"), 10)
    times = np.bincount(drawn, minlength=10)
    assert len(drawn) == count
    assert times.max() - times.min() <= (count % 10 > 0)
    assert (np.diff(drawn) >= 0).all()


def test_a_larger_share_has_the_samples_of_a_smaller_one():
    fewer, more = (set(draw(parse_part(f"a.json#{count}"), 1000).tolist()) for count in (100, 300))
    assert fewer < more
    assert max(fewer) > 900  # not the first ones


@pytest.mark.parametrize("amount", ["#0", "*0", "*0.01", "#11"])
def test_an_amount_that_the_file_cannot_give_is_an_error(annotate, amount):
    path = annotate(list(map(sample, range(10))))
    with pytest.raises(DataFormatError, match=r"data\.json.*(of 10|has 10 samples)"):
        Annotations([f"{path}{amount}"])


def test_only_drawn_samples_are_checked_and_counted_for_each_file(annotate, tokenizer):
    samples = list(map(sample, range(10)))
    used = draw(parse_part("a.json*0.5"), 10).tolist()
    for number in set(range(10)) - set(used):
        samples[number] = sample(number, answer="")
    first, second = f"{annotate(samples)}*0.5", annotate([sample("x"), sample("y")], "other.json")
    data = LazySupervisedDataset(tokenizer, [first, second], DataArguments(), frame_spec=SPEC)
    assert [data.samples[index]["id"] for index in range(len(data))] == [*map(str, used), "x", "y"]
    assert count_samples(data)["of each file"] == {first: 5, second: 2}
    with pytest.raises(DataFormatError, match="the text is empty"):
        LazySupervisedDataset(tokenizer, [first.replace("*0.5", "*0.9")], DataArguments(), frame_spec=SPEC)


def test_runs_with_other_amounts_differ(annotate, tmp_path):
    path = annotate(list(map(sample, range(10))))

    def identity(amount):
        arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        data = DataArguments(data_path=(f"{path}{amount}",))
        return identify(describe_settings(ModelArguments("x"), data, arguments), 1)

    assert not differences(identity("*0.5"), identity("*0.5"))
    assert differences(identity("*0.5"), identity("#5")) == [f"data_path ({path}*0.5 then, {path}#5 now)"]
