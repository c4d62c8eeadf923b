import functools
import json
import re
import shutil

import huggingface_hub
import pytest
import torch
import transformers.trainer
from bs4 import BeautifulSoup
from hub import Hub
from shared import SPEC
from test_convert import QUESTION, ask_stock
from transformers import AutoModelForImageTextToText, AutoProcessor

from fvv_lib import (
    Chat,
    DataArguments,
    DataFormatError,
    FastVlmForVideo,
    FvvError,
    LazySupervisedDataset,
    ModelArguments,
    TokenBudgetError,
    TrainingArguments,
    VideoDecodeError,
    ask,
    encode_images,
    load_pretrained_model,
    train,
)
from fvv_lib.cli.finetune import main
from fvv_lib.data.splits import open_splits
from fvv_lib.evaluation.summary import compare
from fvv_lib.finetuning import preparing, recipe
from fvv_lib.finetuning.record import format_kept
from fvv_lib.finetuning.trainer import VideoTrainer
from fvv_lib.model.parts import count_parameters, part_of, set_trainable
from fvv_lib.settings import PARTS


def sample(question, answer, **media):
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **media}


MIXED = [
    sample("<image>\nWhich way does it move?", "It moves to the left.", video="clip.mp4"),
    sample("<image>\nWhich way does it move?", "It moves up.", image="short.mp4"),
    sample("<image>\nWhat colour is the shape?", "It is red.", image="still.png"),
    sample("Which ways can a shape move?", "Any way."),
]


@pytest.fixture
def run(base, annotate, media, tmp_path):
    """Train the tiny base model for a few steps on four mixed samples."""

    def start(samples=MIXED, data=None, parts=PARTS, **settings):
        output = tmp_path / settings.pop("output", "output")
        defaults = {
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "disable_tqdm": True,
            "report_to": "none",
            "use_cpu": True,
            "save_strategy": "no",
        }
        metrics = train(
            ModelArguments(str(base), list(parts)),
            DataArguments(data_path=[annotate(samples)], **(data or {})),
            TrainingArguments(output_dir=str(output), **{**defaults, **settings}),
        )
        return output, metrics

    return start


def test_text_images_and_videos_train_in_one_batch(run, annotate, media):
    shutil.copy(media / "clip.mp4", media / "held_out.mp4")
    held_out = annotate(
        [sample("<image>\nWhich way does it move?", "It moves to the left.", video="held_out.mp4")], "v.json"
    )
    output, metrics = run(
        data={"validation_data_path": held_out, "test_data_path": held_out},
        max_steps=8,
        eval_strategy="steps",
        eval_steps=4,
    )
    losses = [entry["loss"] for entry in metrics["log"] if "loss" in entry]
    assert losses[-1] < losses[0] / 2
    assert any("eval_loss" in entry for entry in metrics["log"])
    assert metrics["before"]["all"]["total"] == metrics["after"]["all"]["total"] == 1
    saved = json.loads((output / "metrics.json").read_text())
    assert saved["after"] == metrics["after"]
    assert saved["arguments"]["data"]["num_video_frames"] == 8
    assert (output / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_answers_before_and_after_training_are_in_a_file_beside_the_record(run, annotate, media):
    shutil.copy(media / "clip.mp4", media / "held_out.mp4")
    asked = sample("<image>\nWhat colour is the shape?", "It is red.", video="held_out.mp4")
    output, metrics = run(data={"test_data_path": annotate([asked], "t.json")})
    before, after = map(json.loads, (output / "answers.jsonl").read_text().splitlines())
    assert (before["time"], after["time"]) == ("before", "after")
    for line in (before, after):
        assert line["question"] == "<image>\nWhat colour is the shape?"
        assert line["answer"]
        assert line["media"] == [{"source": str(media / "held_out.mp4")}]
        assert line["right"] == (metrics[line["time"]]["all"]["correct"] == 1)
    page = BeautifulSoup((output / "report.html").read_bytes(), "html.parser")
    data = json.loads(page.find(id="data").string)
    (shown,) = data["questions"]
    assert shown["answers"] == {
        line["time"]: {"text": line["answer"], "right": line["right"]} for line in (before, after)
    }
    assert len(data["media"][0]["frames"]) == 8
    assert [list(chart["lines"]) for chart in data["charts"]] == [["training"], ["learning rate"]]
    assert page.find(id="samples").find_next("p").string.startswith("4 used, 0 dropped")


def test_questions_to_keep_are_asked_before_and_after_and_compared(run, annotate, media, capsys):
    shutil.copy(media / "clip.mp4", media / "held_out.mp4")
    asked = [
        sample("<image>\nWhat colour is the shape?", "It is red.", video="held_out.mp4"),
        sample("<image>\nWhat shape is it?", "It is a cross.", video="held_out.mp4"),
        sample("Is a square round?", "No."),
    ]
    keep = annotate(asked, "keep.json")
    output, metrics = run(data={"keep_path": keep})
    assert metrics["before"] is metrics["after"] is None
    kept = metrics["keep"]
    assert (kept["before"]["all"]["total"], kept["videos"]) == (3, 2)
    right = {time: kept[time]["all"]["correct"] for time in ("before", "after")}
    assert kept["difference"] == pytest.approx((right["before"] - right["after"]) / 3)
    lines = list(map(json.loads, (output / "answers.jsonl").read_text().splitlines()))
    assert [line["time"] for line in lines] == ["before"] * 3 + ["after"] * 3
    assert {line["data"] for line in lines} == {str(keep)}
    for time, count in right.items():
        assert sum(line["right"] for line in lines if line["time"] == time) == count
    assert re.search(
        r"keep: all +3 +[\d.]+% +[\d.]+%\n\nThe accuracy on the questions to keep ", capsys.readouterr().out
    )


def test_a_clip_that_is_trained_on_cannot_be_one_to_keep(run, annotate):
    leaking = annotate([sample("<image>\nWhat?", "A square.", video="clip.mp4")], "keep.json")
    with pytest.raises(DataFormatError, match=r"keep\.json: 1 of its clips are in the training data too"):
        run(data={"keep_path": leaking})


@pytest.mark.parametrize(
    ("lost", "says"),
    [(12, "fell by 12.0%.*more than chance"), (1, "fell by 1.0%.*may be chance"), (0, "did not fall"), (-3, "did not")],
)
def test_a_drop_is_called_forgetting_only_if_it_is_more_than_chance(lost, says):
    rows = [
        {"position": place, "video": f"{place}.mp4", "id": str(place), "right": place >= 50} for place in range(100)
    ]
    changed = range(50 - max(-lost, 0), 50 + max(lost, 0))
    after = [{**row, "right": row["right"] != (row["position"] in changed)} for row in rows]
    assert re.search(says, format_kept(compare(rows, after)))


@pytest.fixture
def validated(run, annotate, media):
    """Train with ten validation questions, of which some are asked."""
    shutil.copy(media / "clip.mp4", media / "held_out.mp4")
    colours = ["red", "green", "blue", "yellow", "white"]
    texts = [("<image>\n" * (place == 0) + f"Is it {colour}?", "It is red.") for place, colour in enumerate(colours)]
    turns = [{"from": who, "value": text} for pair in texts for who, text in zip(("human", "gpt"), pair, strict=True)]
    held_out = annotate([{"video": "held_out.mp4", "conversations": turns}] * 2, "v.json")

    def start(count, **settings):
        data = {"validation_data_path": held_out, "eval_questions": count, "max_new_tokens": 8}
        return run(data=data, max_steps=3, eval_strategy="steps", eval_steps=1, **settings)

    return start


def test_each_validation_asks_the_same_questions_and_logs_the_accuracy(validated, monkeypatch):
    asked, ask_and_score = [], recipe.ask_and_score

    def spy(model, tokenizer, dataset, questions, *given):
        asked.append(questions)
        return ask_and_score(model, tokenizer, dataset, questions, *given)

    monkeypatch.setattr(recipe, "ask_and_score", spy)
    _, metrics = validated(4)
    shares = [entry["eval_accuracy"] for entry in metrics["log"] if "eval_accuracy" in entry]
    assert len(shares) == len(asked) == 3
    assert all(share in (0, 0.25, 0.5, 0.75, 1) for share in shares)
    assert asked[0] == asked[1] == asked[2]
    assert len({(question.id, question.prompt) for question in asked[0]}) == 4
    assert len({question.id for question in asked[0]}) == 2  # they are drawn from all ten, five of each sample


def test_the_model_with_the_most_right_answers_is_kept(validated, monkeypatch):
    right = iter([0.25, 0.75, 0.5])
    monkeypatch.setattr(recipe, "ask_validation", lambda *_: lambda: next(right))
    output, _ = validated(
        4, save_strategy="steps", save_steps=1, load_best_model_at_end=True, metric_for_best_model="accuracy"
    )
    state = json.loads((output / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["best_global_step"] == 2
    kept, best = (load_pretrained_model(folder, device="cpu").model for folder in (output, output / "checkpoint-2"))
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), best.parameters(), strict=True))


def test_more_validation_questions_than_there_are_is_an_error(validated):
    with pytest.raises(DataFormatError, match=r"eval_questions=11, but .*v\.json has 10 questions: lower it"):
        validated(11)
    with pytest.raises(FvvError, match=r"metric_for_best_model='accuracy' needs questions .* set eval_questions"):
        validated(0, save_strategy="steps", load_best_model_at_end=True, metric_for_best_model="accuracy")


def test_saved_model_loads_here_and_in_stock_transformers_with_the_same_logits_and_answer(run, media):
    output, _ = run(data={"num_video_frames": 4})
    ours = load_pretrained_model(output, device="cpu")
    assert ours.model.video_config.num_video_frames == 4
    stock = AutoModelForImageTextToText.from_pretrained(output).eval()
    processor = AutoProcessor.from_pretrained(output)
    frames = torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8)
    token = processor.tokenizer.convert_tokens_to_ids("<image>")
    with torch.no_grad():
        a = ours.model(torch.tensor([[5, -200, -200, 6, 7]]), frames).logits
        b = stock(input_ids=torch.tensor([[5, *[token] * 8, 6, 7]]), pixel_values=frames[0] / 255).logits
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    answer = ask(ours, media / "still.png", QUESTION, 12)
    assert ask_stock(output, media / "still.png")["answer"] == answer


def test_time_marks_and_pooling_are_used_in_training_saved_and_used_in_chat(run, media):
    output, metrics = run(data={"time_marks": "seconds", "frame_pool": 2, "num_video_frames": 4})
    assert metrics["frame"]["tokens_per_frame"] == 1
    loaded = load_pretrained_model(output, device="cpu")
    config = loaded.model.video_config
    assert (config.time_marks, config.frame_pool) == ("seconds", 2)
    chat = Chat(loaded)
    times = chat.show(media / "clip.mp4").timestamps
    text = loaded.tokenizer.decode([token for token in chat.prompt("Which way?") if token >= 0])
    assert "".join(f"<{time:.1f}s>" for time in times) in text
    assert chat.ask("Which way?")
    assert encode_images(loaded.model, chat.images)[0].shape[:2] == (1, 1)
    stock = AutoModelForImageTextToText.from_pretrained(output).eval()  # loads, but does not pool
    assert stock.get_image_features(chat.images / 255).pooler_output[0].shape[0] == 4


@pytest.mark.parametrize("parts", [["projector"], ["vision_tower", "projector"], ["language_model"], list(PARTS)])
def test_trained_parameters_have_a_gradient_and_all_others_have_none(model, parts):
    set_trainable(model, parts)
    counts = count_parameters(model)
    assert {part for part, (trained, _) in counts.items() if trained} == set(parts)
    assert sum(total for _, total in counts.values()) == sum(p.numel() for p in model.parameters())
    model.train()
    ids = torch.tensor([[5, -200, -200, 6, 7]])
    labels = torch.tensor([[-100, -100, -100, 6, 7]])
    model(ids, torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8), labels=labels).loss.backward()
    for name, parameter in model.named_parameters():
        has_gradient = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert has_gradient == (part_of(name) in parts), name


def test_training_changes_trained_parts_and_no_frozen_part(run, model):
    output, _ = run(parts=["projector"])
    before, after = model.state_dict(), load_pretrained_model(output, device="cpu").model.state_dict()
    changed = {part_of(name) for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"projector"}


def test_each_part_has_its_learning_rate(model, tmp_path):
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        learning_rate=1e-4,
        vision_tower_lr=1e-5,
        projector_lr=0.0,
        use_cpu=True,
        report_to="none",
    )
    optimizer = VideoTrainer(model=model, args=arguments).create_optimizer()
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {"vision_tower": 1e-5, "projector": 0.0, "language_model": 1e-4}
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == expected[part_of(name)], name


def test_training_resumes_from_a_checkpoint(run, monkeypatch):
    warnings = []
    monkeypatch.setattr(transformers.trainer.logger, "warning", lambda text, *_: warnings.append(text))
    _, full = run(output="whole", max_steps=4, dataloader_num_workers=0)
    half, _ = run(output="half", max_steps=4, save_strategy="steps", save_steps=2)
    _, resumed = run(output="rest", max_steps=4, resume_from_checkpoint=str(half / "checkpoint-2"))
    losses = [[entry["loss"] for entry in metrics["log"] if "loss" in entry] for metrics in (full, resumed)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert not [text for text in warnings if "missing keys" in text]  # tied weights are saved once
    assert load_pretrained_model(half / "checkpoint-2", device="cpu").image_processor is not None


@pytest.fixture
def order(base, annotate, media, monkeypatch):
    """Train on 24 text samples of different lengths, and return the lengths of the samples of each step."""
    samples = [sample("Which? " * (1 + number * 7 % 24), "Any way.") for number in range(24)]

    def start(output, **settings):
        seen = []
        monkeypatch.setattr(VideoTrainer, "training_step", lambda self, model, inputs, *_: seen.append(inputs) or step)
        step = torch.zeros(())
        path = annotate(samples)
        args = {"max_steps": 36, "per_device_train_batch_size": 2, "save_steps": 18, "use_cpu": True, "seed": 3}
        args |= {"disable_tqdm": True, "report_to": "none", "output_dir": str(media / output), **settings}
        train(ModelArguments(str(base)), DataArguments(data_path=[path]), TrainingArguments(**args))
        return [sorted((step["attention_mask"].sum(1)).tolist()) for step in seen]

    start.media = media
    return start


def test_batches_are_grouped_by_expanded_length(order):
    mixed, grouped = order("a"), order("b", train_sampling_strategy="group_by_length")
    spread = [sum(longest - shortest for shortest, longest in batches[:12]) for batches in (mixed, grouped)]
    assert spread[1] < spread[0] / 2
    epochs = [grouped[start : start + 12] for start in (0, 12, 24)]
    for epoch in epochs:
        assert sorted(length for batch in epoch for length in batch) == sorted(
            length for batch in epochs[0] for length in batch
        )
    assert epochs[0] != epochs[1] != epochs[2]


def test_groups_use_the_length_with_frames_and_read_no_clip(model, tokenizer, annotate, media):
    """Without its frames, the first sample would be the shorter one."""
    samples = [sample("<image>\nHm?", "Yes.", video="clip.mp4"), sample("Which way? Which way?", "Any way.")] * 32
    dataset = LazySupervisedDataset(tokenizer, [annotate(samples)], DataArguments(), frame_spec=SPEC)
    (media / "clip.mp4").unlink()
    args = {"train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 2, "use_cpu": True}
    args |= {"per_device_eval_batch_size": 2, "output_dir": str(media), "report_to": "none"}
    trainer = VideoTrainer(model=model, args=TrainingArguments(**args), train_dataset=dataset)
    for indices in (list(trainer._get_train_sampler()), list(trainer._get_eval_sampler(dataset))):
        assert sorted(indices) == list(range(64))
        assert dataset.lengths[indices[0]] == dataset.lengths.max()
        batches = dataset.lengths[indices].reshape(32, 2)
        assert (batches[:, 0] != batches[:, 1]).sum() <= 4  # one in each of the four sorted groups


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_the_order_depends_on_the_seed_and_continues_after_a_stop(order, strategy):
    """36 steps are three epochs. The checkpoint of step 18 is in the middle of the second one."""
    whole = order("a", train_sampling_strategy=strategy)
    again = order("b", train_sampling_strategy=strategy)
    resumed = order(
        "c", train_sampling_strategy=strategy, resume_from_checkpoint=str(order.media / "a" / "checkpoint-18")
    )
    assert whole == again
    assert resumed == whole[18:]
    assert order("d", train_sampling_strategy=strategy, seed=4) != whole


@pytest.mark.filterwarnings("error:.*checkpointing")
def test_settings_that_save_memory_give_the_same_losses(run, monkeypatch):
    """Through the Trainer, and without its warning about deprecated names."""
    models = []
    configure = preparing.configure_model
    monkeypatch.setattr(preparing, "configure_model", lambda *a: (configure(*a), models.append(a[0].model)))
    losses = [
        [entry["loss"] for entry in run(output=f"run{i}", **settings)[1]["log"] if "loss" in entry]
        for i, settings in enumerate(({}, {"gradient_checkpointing": True}, {"frames_per_chunk": 3, "packing": True}))
    ]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert losses[2] == pytest.approx(losses[0], abs=1e-4)
    assert [model.checkpointing for model in models] == [False, True, False]
    assert [(model.frames_per_chunk, model.packing) for model in models] == [(None, False)] * 2 + [(3, True)]


def test_a_batch_without_media_gives_every_parameter_a_gradient(model):
    """Every rank must run the encoder in every step; otherwise the other ranks hang."""
    model.train()
    ids = torch.tensor([[5, 6, 7]])
    model(ids, [torch.empty(0, 3, 64, 64, dtype=torch.uint8)], labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_same_seed_gives_the_same_losses(run):
    losses = [
        [
            entry["loss"]
            for entry in run(output=f"run{i}", data={"frame_sampling": "random"})[1]["log"]
            if "loss" in entry
        ]
        for i in range(2)
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("mismatch", ["strict", "tolerant"])
@pytest.mark.filterwarnings("ignore:.*tokenization mismatch")
def test_a_wrong_template_with_counting_is_an_error(run, mismatch):
    """With the template `v1` and a Qwen tokenizer, even `tolerant` drops three rounds. Nothing would be learned."""
    turns = [turn for _ in range(3) for turn in sample("What?", "It is a red square.")["conversations"]]
    with pytest.raises(FvvError, match=r"drops every sample, the first is .*data\.json, sample 0"):
        run([{"conversations": turns}], {"version": "v1", "mismatch": mismatch}, per_device_train_batch_size=1)


@pytest.mark.parametrize(
    ("samples", "data", "error", "message"),
    [
        ([sample("<image>\nHm?", "Yes.", video="gone.mp4")], {}, VideoDecodeError, "gone.mp4: no such file"),
        ([sample("<image>\nHm?", "Yes.", video="empty.mp4")], {}, VideoDecodeError, "empty.mp4: the file is empty"),
        ([sample("<image>\nHm?", "Yes.", video="text.mp4")], {}, VideoDecodeError, "text.mp4: it cannot be decoded"),
        ([sample("<image>\nHm?", "Yes.", video="cut.mp4")], {}, VideoDecodeError, "cut.mp4: it cannot be decoded"),
        ("[{", {}, DataFormatError, "data.json: not valid JSON"),
        ([{"conversations": [{"from": "bot", "value": "x"}]}], {}, DataFormatError, "sample 0, turn 1: unknown role"),
        ([{"conversations": [{"from": "human", "value": "x"}]}], {}, DataFormatError, "sample 0: .*no answer"),
        ([sample("Hm?", "Yes.", video="clip.mp4")], {}, DataFormatError, "sample 0: its text has 0 <image>"),
        (MIXED, {"version": "qwen"}, DataFormatError, "Unknown template 'qwen'"),
        (MIXED, {"frame_pool": 3}, FvvError, "frame_pool=3 cannot average the 4 tokens"),
        (MIXED, {"num_video_frames": 285, "time_marks": "seconds"}, TokenBudgetError, "sample 0: .*285 frames x 4"),
        (MIXED, {"num_video_frames": 600}, TokenBudgetError, "sample 0: .*600 frames x 4.*Use at most"),
    ],
)
def test_wrong_data_stop_the_run_before_its_first_step(run, media, monkeypatch, samples, data, error, message):
    (media / "empty.mp4").touch()
    (media / "text.mp4").write_text("not a video")
    (media / "cut.mp4").write_bytes((media / "clip.mp4").read_bytes()[:900])
    steps = []
    monkeypatch.setattr(VideoTrainer, "training_step", lambda *_: steps.append(1))
    with pytest.raises(error, match=message):
        run(samples, data)
    assert not steps


def test_wrong_settings_are_errors(tmp_path):
    with pytest.raises(FvvError, match="tunable_parts must name some of"):
        ModelArguments("x", ["tower"])
    with pytest.raises(FvvError, match="Unknown image_aspect_ratio 'square'"):
        DataArguments(image_aspect_ratio="square")
    with pytest.raises(FvvError, match="num_video_frames must be at least 1"):
        DataArguments(num_video_frames=0)
    for setting, message in (
        ({"remove_unused_columns": True}, "remove_unused_columns"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 is not supported"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha=5.0 is not supported"),
        ({"ignore_data_skip": True}, "ignore_data_skip=True would train a resumed run"),
        ({"train_sampling_strategy": "batch_rebalance"}, "use group_by_length"),
        ({"projector_lr": -1.0}, "projector_lr must be 0 or more"),
    ):
        with pytest.raises(FvvError, match=message):
            TrainingArguments(output_dir=str(tmp_path), **setting)


def test_settings_that_do_not_go_together_are_errors(run, annotate):
    with pytest.raises(FvvError, match="go together"):
        run(eval_strategy="steps", eval_steps=1)
    with pytest.raises(FvvError, match="go together"):
        run(data={"validation_data_path": annotate(MIXED[3:], "v.json")})
    with pytest.raises(FvvError, match="leaves vision_tower out"):
        run(parts=["projector"], vision_tower_lr=1e-5)


def test_several_gpus_in_one_process_are_refused(run, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    with pytest.raises(FvvError, match="torchrun --nproc_per_node"):
        run()


def test_budget_below_a_sample_is_an_error_before_training(run):
    with pytest.raises(TokenBudgetError, match="model_max_length is 40"):
        run(model_max_length=40)


def test_budget_beyond_the_checkpoint_is_refused(run):
    with pytest.raises(TokenBudgetError, match="reads at most 2048 positions"):
        run(model_max_length=4096)


@pytest.mark.filterwarnings("ignore:.*tokenization mismatch")
def test_dropped_samples_are_listed_in_the_record(run):
    turns = [turn for _ in range(3) for turn in sample("What?", "It is a red square.")["conversations"]]
    _, metrics = run([*MIXED, {"id": "x7", "conversations": turns}], {"version": "v1", "mismatch": "tolerant"})
    assert [name.split(", ")[-1] for name in metrics["samples"]["train"]["dropped"]] == ["sample x7"]


def test_bad_samples_are_skipped_on_request_and_listed_in_the_record(run, media):
    (media / "text.mp4").write_text("not a video")
    bad = [sample("<image>\nHm?", "Yes.", video="text.mp4", id="pixels"), sample("<image>?", "No.", id="words")]
    with pytest.raises(FvvError):
        run([*MIXED, *bad])
    _, metrics = run([*MIXED, *bad], {"bad_samples": "skip"})
    record = metrics["samples"]["train"]
    assert record["used"] == 4
    assert {name.split("sample ")[1]: "text.mp4" in error for name, error in record["bad"].items()} == {
        "words": False,
        "pixels": True,
    }
    with pytest.raises(DataFormatError, match="All samples are bad"):
        run(bad, {"bad_samples": "skip"}, output="other")


def test_a_test_clip_in_the_training_set_is_an_error(run, annotate):
    with pytest.raises(DataFormatError, match=r"test\.json: 1 of its clips are in the training data"):
        run(data={"test_data_path": annotate(MIXED[:1], "test.json")})


def test_random_sampling_takes_other_frames_in_each_epoch(run, monkeypatch):
    seen = []
    monkeypatch.setattr(LazySupervisedDataset, "set_epoch", lambda self, epoch: seen.append(epoch))
    run(max_steps=3, data={"frame_sampling": "random"})
    assert list(dict.fromkeys(seen)) == [0, 1, 2]  # the Trainer calls it more than once


def test_evaluation_computes_no_logits_of_the_prompt(run, media, annotate, monkeypatch):
    shutil.copy(media / "clip.mp4", media / "held_out.mp4")
    held_out = annotate([sample("<image>\nHm?", "Yes.", video="held_out.mp4")], "v.json")
    shapes = []
    forward = FastVlmForVideo.forward

    @functools.wraps(forward)  # the Trainer reads its argument names
    def spy(self, *arguments, **settings):
        result = forward(self, *arguments, **settings)
        shapes.append((self.training, result.logits.ndim))
        return result

    monkeypatch.setattr(FastVlmForVideo, "forward", spy)
    run(data={"validation_data_path": held_out}, eval_strategy="steps", eval_steps=1)
    assert {training for training, _ in shapes} == {True, False}
    assert {dimensions for _, dimensions in shapes} == {2}  # (labelled tokens, V)


def test_a_run_that_would_take_no_step_is_an_error(run, capsys):
    with pytest.raises(
        DataFormatError, match=r"dataloader_drop_last drops every sample: there are 4, .* has 8\. Remove"
    ):
        run(per_device_train_batch_size=8, dataloader_drop_last=True)
    assert "training begins" not in capsys.readouterr().out
    _, metrics = run(per_device_train_batch_size=4, dataloader_drop_last=True)
    assert len([entry for entry in metrics["log"] if "loss" in entry]) == 2


def test_random_frames_follow_the_seed_of_the_run(run, monkeypatch):
    """The learning rate is zero, so the losses depend only on order and frames."""
    seen = []
    monkeypatch.setattr(preparing, "open_splits", lambda *a, **k: seen.append(k["seed"]) or open_splits(*a, **k))
    data = {"frame_sampling": "random", "num_video_frames": 2}
    losses = []
    for number, seed in enumerate((1, 2, 3, 1)):
        settings = {"seed": seed, "learning_rate": 0.0, "per_device_train_batch_size": 1, "max_steps": 1}
        _, metrics = run(MIXED[:1], data, output=f"run{number}", **settings)
        losses.append(metrics["log"][0]["loss"])
    assert seen == [1, 2, 3, 1]
    assert losses[0] == losses[3]
    assert len(set(losses)) == 3
    run(output="other", data=data, seed=5, data_seed=6)
    assert seen[-1] == 6  # like the order of samples


@pytest.fixture
def hub(monkeypatch):
    """A Hub on this machine, in place of the true one."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Hub() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # it keeps its endpoint
        huggingface_hub.close_session()  # it keeps its proxies
        yield server
    huggingface_hub.close_session()


UPLOAD = {"push_to_hub": True, "hub_strategy": "end", "hub_token": "hf_x"}


def test_an_upload_has_the_model_and_the_record(run, hub, capsys):
    with pytest.raises(FvvError, match="--hub_strategy end"):
        run(push_to_hub=True)
    output, _ = run(**UPLOAD, save_strategy="steps", save_steps=1)
    uploaded = hub.repositories["me/output"]
    assert set(uploaded) == {path.name for path in output.iterdir() if path.is_file()} - {"report.html"}
    assert {"metrics.json", "loss.png", "model.safetensors", "fvv_config.json", "README.md"} <= set(uploaded)
    assert all(content == (output / name).read_bytes() for name, content in uploaded.items())
    assert hub.requests.count("commit") == 1
    assert "uploaded to me/output" in capsys.readouterr().out


def test_a_run_that_may_not_upload_fails_before_data_are_read(run, hub):
    """To create a repository that is there needs no right to write to it."""
    hub.repositories["other/model"] = {}
    for settings, message in (
        ({"hub_model_id": "other/model"}, "hub_model_id=other/model: it cannot be used here: .*403"),
        ({"hub_model_id": "other/new"}, "hub_model_id=other/new: it cannot be used here: .*403"),
        ({"hub_revision": "v2"}, "hub_revision=v2: it cannot be used here: .*404"),
    ):
        with pytest.raises(FvvError, match=message):
            run(["not a sample"], **UPLOAD, **settings)


def test_a_failed_upload_is_repeated_without_training(run, hub, capsys):
    hub.refused.add("commit")
    with pytest.raises(FvvError, match=r"output: the run has finished, but cannot be uploaded to me/output \(.*403"):
        run(**UPLOAD)
    assert not hub.repositories["me/output"]
    hub.refused.clear()
    capsys.readouterr()
    output, _ = run(**UPLOAD, resume_from_checkpoint=True)
    assert "training begins" not in capsys.readouterr().out
    assert hub.repositories["me/output"]["model.safetensors"] == (output / "model.safetensors").read_bytes()


def test_a_finished_run_can_still_be_uploaded(run, hub):
    output, _ = run()
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    run(**UPLOAD, resume_from_checkpoint=True)
    assert set(hub.repositories["me/output"]) == set(before) - {"report.html"}
    assert before == {path.name: path.stat().st_mtime_ns for path in output.iterdir()}


def test_a_tensorboard_log_is_written(run):
    output, _ = run(report_to="tensorboard")
    assert list((output / "runs").rglob("events.out.tfevents.*"))


def test_command_reports_an_error_in_one_line(base, annotate, tmp_path, fvv):
    flags = ["--model_name_or_path", str(base), "--data_path", annotate("[{"), "--output_dir", str(tmp_path / "o")]
    result = fvv("finetune", *flags, "--use_cpu", "--report_to", "none")
    assert result.returncode == 1
    assert re.fullmatch(r"error: .*data\.json: not valid JSON.*", result.stderr.splitlines()[-1])


def test_an_error_in_a_worker_is_one_line(base, annotate, media, fvv):
    """torch passes on the worker's whole traceback."""
    path = annotate([sample("<image>\nWhich way?", "Up.", video="clip.mp4")])
    flags = ["--model_name_or_path", str(base), "--data_path", path, "--output_dir", str(media / "o")]
    flags += ["--check_media", "False", "--dataloader_num_workers", "1", "--max_steps", "1", "--use_cpu", "True"]
    (media / "clip.mp4").write_bytes((media / "clip.mp4").read_bytes()[:700])
    result = fvv("finetune", *flags, "--report_to", "none", "--disable_tqdm", "True")
    assert result.returncode == 1
    assert re.fullmatch(r"error: .*sample 0: .*clip\.mp4: .*", result.stderr.splitlines()[-1])


@pytest.mark.parametrize(("steps", "logged"), [(1, [1]), (3, [1, 3])])
def test_the_log_of_a_run_shorter_than_its_logging_steps_has_its_first_and_last_step(run, steps, logged):
    _, metrics = run(max_steps=steps, logging_steps=500)
    assert [entry["step"] for entry in metrics["log"] if "loss" in entry] == logged


def test_a_run_prints_its_length_and_where_its_result_is(run, capsys):
    batches = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 3}
    output, metrics = run(max_steps=4, **batches)  # of 4 samples, so an epoch has 2 steps
    printed = capsys.readouterr().out
    assert "4 steps of 3 samples = 2 epochs\n" in printed
    assert metrics["log"][-1]["epoch"] == 2
    assert f"model, report.html, metrics.json and loss.png: {output}" in printed


def test_command_accepts_a_yaml_file(base, annotate, tmp_path):
    yaml = tmp_path / "run.yaml"
    yaml.write_text(
        f"model_name_or_path: {base}\ndata_path: [{annotate([MIXED[3]])}]\noutput_dir: {tmp_path / 'o'}\n"
        "max_steps: 1\nuse_cpu: true\nreport_to: none\nsave_strategy: 'no'\ndisable_tqdm: true\n"
    )
    main([str(yaml)])
    assert (tmp_path / "o" / "model.safetensors").is_file()


def test_real_clips_train_for_a_few_steps(run, real_data, annotate):
    samples = json.loads((real_data / "real" / "captions.json").read_text())
    output, metrics = run(
        samples, {"image_folder": str(real_data / "real" / "videos")}, max_steps=6, per_device_train_batch_size=2
    )
    losses = [entry["loss"] for entry in metrics["log"] if "loss" in entry]
    assert losses[-1] < losses[0]
    assert load_pretrained_model(output, device="cpu")
