import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from fvv_lib import CheckpointError, VideoConfig, ask, load_pretrained_model, preprocess_frames
from fvv_lib.convert import convert
from fvv_lib.scenes import still

QUESTION = "What colour is the shape?"
STOCK = """
import json, sys
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

folder, picture, question = sys.argv[1:]
model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
prompt = processor.apply_chat_template([message], add_generation_prompt=True)
inputs = processor(images=Image.open(picture), text=prompt, return_tensors="pt")
tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1]:]
assert not any(name.startswith("fvv_lib") for name in sys.modules)
print(json.dumps({"kind": type(model).__name__, "answer": processor.decode(tokens, skip_special_tokens=True)}))
"""


def ask_stock(folder, picture):
    """The answer of stock transformers, in a process of its own that does not import fvv_lib."""
    command = [sys.executable, "-c", STOCK, str(folder), str(picture), QUESTION]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def picture(tmp_path):
    """Wide, so that its middle alone would be another picture."""
    image = Image.fromarray(still(np.random.default_rng(3))[0])
    image.resize((image.width * 2, image.height)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.parametrize("vocab_size", [512, 474], ids=["padded", "full"])
def test_stock_transformers_answers_as_we_do(apple_checkpoint, picture, tmp_path, vocab_size):
    source = apple_checkpoint(vocab_size=vocab_size)
    settings = VideoConfig(num_video_frames=3, frame_sampling="segment")
    settings.save(source)
    command = [sys.executable, "-m", "fvv_lib.convert", str(source), str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True)
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


def test_the_stock_processor_shows_the_whole_picture(apple_checkpoint, picture, tmp_path):
    convert(apple_checkpoint(), tmp_path / "out")
    image = Image.open(picture)
    theirs = AutoProcessor.from_pretrained(tmp_path / "out")(images=image, text="<image>", return_tensors="pt")
    ours = preprocess_frames(np.asarray(image)[None], 64)
    assert (theirs.pixel_values - ours / 255).abs().mean() < 0.01
    assert (theirs.input_ids == 474).sum() == 4


def test_a_reference_checkpoint_answers_the_same_in_stock_transformers(real_data, tmp_path):
    convert(real_data / "apple_layout" / "checkpoint_tied", tmp_path / "out")
    picture = real_data / "apple_layout" / "images" / "image_a.png"
    answer = ask(load_pretrained_model(tmp_path / "out", device="cpu"), picture, QUESTION, 12)
    assert ask_stock(tmp_path / "out", picture)["answer"].strip() == answer


def test_nothing_is_overwritten(apple_checkpoint, tmp_path):
    source = apple_checkpoint()
    before = sorted(path.name for path in source.iterdir())
    with pytest.raises(CheckpointError, match="not empty"):
        convert(source, source)
    with pytest.raises(CheckpointError, match="not empty"):
        convert(source, source / "config.json")
    assert sorted(path.name for path in source.iterdir()) == before
    command = [sys.executable, "-m", "fvv_lib.convert", str(source), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(f"error: {source}: it is not empty. Give a new folder; nothing is overwritten.")


def test_a_broken_checkpoint_leaves_nothing_behind(apple_checkpoint, tmp_path):
    source = apple_checkpoint(lambda weights, settings: weights.pop("model.norm.weight"))
    with pytest.raises(CheckpointError, match="missing"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
