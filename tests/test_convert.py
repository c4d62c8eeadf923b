import json
import shutil
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor

from fvv_lib import ModelFolderError, VideoConfig, ask, load_pretrained_model, preprocess_frames
from fvv_lib.course.scenes import still
from fvv_lib.weights import apple
from fvv_lib.weights.converting import convert_model

QUESTION = "What colour is the shape?"
STOCK = """
import json, sys
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

for line in sys.stdin:
    folder, picture, question = json.loads(line)
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    prompt = processor.apply_chat_template([message], add_generation_prompt=True)
    inputs = processor(images=Image.open(picture), text=prompt, return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1]:]
    assert not any(name.startswith("fvv_lib") for name in sys.modules)
    answer = processor.decode(tokens, skip_special_tokens=True)
    print(json.dumps({"kind": type(model).__name__, "answer": answer}), flush=True)
"""


@cache
def stock():
    """Start a process with stock transformers, which does not import fvv_lib. It ends when this one closes its pipe."""
    return subprocess.Popen([sys.executable, "-c", STOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask_stock(folder, picture):
    """Return the answer of stock transformers."""
    process = stock()
    process.stdin.write(json.dumps([str(folder), str(picture), QUESTION]) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


@pytest.fixture
def picture(tmp_path):
    """A wide image, so that a center crop would show another image."""
    image = Image.fromarray(still(np.random.default_rng(3))[0])
    image.resize((image.width * 2, image.height)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.parametrize("vocab_size", [512, 474], ids=["padded", "full"])
def test_stock_transformers_gives_our_answer(apple_checkpoint, picture, tmp_path, fvv, vocab_size):
    source = apple_checkpoint(vocab_size=vocab_size)
    settings = VideoConfig(num_video_frames=3, frame_sampling="segment")
    settings.save(source)
    assert fvv("convert", source, tmp_path / "out").returncode == 0
    before, after = (load_pretrained_model(path, device="cpu") for path in (source, tmp_path / "out"))
    one, other = before.model.state_dict(), after.model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one | other)
    assert VideoConfig.load(tmp_path / "out") == settings
    assert before.context_len == after.context_len == 1024
    answer = ask(before, picture, QUESTION, 12)
    assert answer == ask(after, picture, QUESTION, 12)
    assert ask_stock(tmp_path / "out", picture) == {"kind": "FastVlmForConditionalGeneration", "answer": answer}
    image = after.tokenizer.convert_tokens_to_ids("<image>")
    assert image == after.model.config.image_token_index == 474 < after.model.config.text_config.vocab_size
    assert list((tmp_path / "out").glob("*.safetensors"))
    assert not list((tmp_path / "out").glob("*.bin"))


def test_the_stock_processor_shows_the_whole_image(apple_checkpoint, picture, tmp_path):
    convert_model(apple_checkpoint(), tmp_path / "out")
    image = Image.open(picture)
    theirs = AutoProcessor.from_pretrained(tmp_path / "out")(images=image, text="<image>", return_tensors="pt")
    ours = preprocess_frames(np.asarray(image)[None], 64)
    assert (theirs.pixel_values - ours / 255).abs().mean() < 0.01
    assert (theirs.input_ids == 474).sum() == 4


def test_a_reference_checkpoint_answers_the_same_in_stock_transformers(real_data, tmp_path):
    convert_model(real_data / "apple_layout" / "checkpoint_tied", tmp_path / "out")
    picture = real_data / "apple_layout" / "images" / "image_a.png"
    answer = ask(load_pretrained_model(tmp_path / "out", device="cpu"), picture, QUESTION, 12)
    assert ask_stock(tmp_path / "out", picture)["answer"].strip() == answer


def weights_and_settings(folder):
    weights = {key: tensor for file in folder.glob("*.safetensors") for key, tensor in load_file(file).items()}
    return weights, json.loads((folder / "config.json").read_text())


def test_converting_to_hugging_face_and_back_changes_no_weight_and_no_setting(apple_checkpoint, tmp_path):
    source = apple_checkpoint(lambda weights, settings: settings.update(image_aspect_ratio="square"))
    VideoConfig(num_video_frames=3, image_aspect_ratio="crop").save(source)
    (source / "generation_config.json").write_text('{"eos_token_id": 2, "max_new_tokens": 7}')
    convert_model(source, tmp_path / "hf")
    convert_model(tmp_path / "hf", tmp_path / "apple", layout="apple")
    before, after = weights_and_settings(source), weights_and_settings(tmp_path / "apple")
    assert before[0].keys() - after[0].keys() == {apple.CLIP_HEAD}
    assert all(torch.equal(tensor, before[0][key]) for key, tensor in after[0].items())
    assert after[1] == before[1]
    one, other = (load_pretrained_model(tmp_path / name, device="cpu") for name in ("hf", "apple"))
    assert one.model.video_config == other.model.video_config
    assert other.model.generation_config.max_new_tokens == 7
    assert one.model.generation_config.to_dict() == other.model.generation_config.to_dict()
    assert one.context_len == other.context_len
    assert len(one.tokenizer) == len(other.tokenizer)


def test_apples_own_checkpoints_are_written_unchanged(real_data, tmp_path):
    for name in ("checkpoint_untied", "checkpoint_tied"):
        source = real_data / "apple_layout" / name
        convert_model(source, tmp_path / name, layout="apple")
        before, after = weights_and_settings(source), weights_and_settings(tmp_path / name)
        assert before[0].keys() - after[0].keys() == {apple.CLIP_HEAD}
        assert all(torch.equal(tensor, before[0][key]) for key, tensor in after[0].items())
        assert {key: after[1][key] for key in after[1].keys() & before[1].keys()} == {
            key: before[1][key] for key in after[1].keys() & before[1].keys()
        }


def test_a_setting_that_apples_layout_cannot_hold_is_an_error(base, tmp_path):
    source = shutil.copytree(base, tmp_path / "source")
    VideoConfig(image_aspect_ratio="resize").save(source)
    with pytest.raises(ModelFolderError, match="cropped, but this is fast_vlm with image_aspect_ratio 'resize'"):
        convert_model(source, tmp_path / "out", layout="apple")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(apple_checkpoint, fvv):
    source = apple_checkpoint()
    before = sorted(path.name for path in source.iterdir())
    with pytest.raises(ModelFolderError, match="not empty"):
        convert_model(source, source)
    with pytest.raises(ModelFolderError, match="not empty"):
        convert_model(source, source / "config.json")
    assert sorted(path.name for path in source.iterdir()) == before
    done = fvv("convert", source, source)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(f"error: {source}: it is not empty. Give a new folder; nothing is overwritten.")


def test_a_broken_checkpoint_writes_nothing(apple_checkpoint, tmp_path):
    source = apple_checkpoint(lambda weights, settings: weights.pop("model.norm.weight"))
    with pytest.raises(ModelFolderError, match="missing"):
        convert_model(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
