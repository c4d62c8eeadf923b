# %% [markdown]
# # 08 · Real checkpoints
#
# A checkpoint is a folder that somebody else wrote. What is in it, and did all of it
# arrive in your model?

# %% [markdown]
# ## What you will be able to do
#
# - look into a checkpoint without loading it
# - load FastVLM as Apple published it, and say how you know what a folder holds
# - recognise a model that answers without its vision tower
# - save what stock transformers loads
# - train an adapter with LoRA, merge it, and not lose it in the merge

# %% [markdown]
# ## Minutes and hardware
#
# 45 minutes. Any computer with Python; no GPU, no network.

# %% [markdown]
# ## The problem, seen with your own eyes
#
# Two folders hold the same files, byte for byte. Here is a loader that goes by the name
# of the folder, as LLaVA's does: without "llava" in the name it expects a language model
# alone. And it loads with `strict=False`, so that it never complains.

# %%
import os

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # a progress bar is not a result
os.environ["DS_ACCELERATOR"] = "cpu"  # else DeepSpeed says that it looks for a GPU

import json
import shutil
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

# %%
import transformers

import fvv_lib
from fvv_lib import plotting
from fvv_lib.weights import apple

warnings.simplefilter("ignore", FutureWarning)  # of transformers, to PEFT
transformers.logging.set_verbosity_error()

# %%
from fvv_lib.weights.loading import LoadedModel, open_model_folder


def load_by_name(folder):
    checkpoint, weights = open_model_folder(folder), apple.read_weights(folder)
    if "llava" not in folder.name.lower():
        weights = {k: v for k, v in weights.items() if "vision_tower" not in k}
    torch.manual_seed(0)
    model = fvv_lib.FastVlmForVideo(checkpoint.config).eval()
    model.load_state_dict(weights, strict=False)
    return LoadedModel(checkpoint.tokenizer, model, checkpoint.image_processor, 2048)


# %%
folder, temporary = "../data_samples", tempfile.TemporaryDirectory()
mine = Path(temporary.name)
fvv_lib.convert_model(f"{folder}/tiny-fastvlm", mine / "llava-tiny", layout="apple")
shutil.copytree(mine / "llava-tiny", mine / "tiny")

clip = f"{folder}/videos/test/motion-0007.mp4"
by_name = {name: load_by_name(mine / name) for name in ("llava-tiny", "tiny")}
for question in ("What colour is the shape?", "What shape is it?"):
    for name, loaded in by_name.items():
        print(f"{name:<12}{question} {fvv_lib.ask(loaded, clip, question)}")

# %% [markdown]
# The clip shows a green cross. No error, no warning, answers in whole sentences: and
# one of the two models has never seen the picture. Hold that thought.

# %% [markdown]
# ## The smallest thing that works
#
# ### Look inside
#
# A `.safetensors` file begins with a table of contents: eight bytes that say how long it
# is, then JSON with name, type and shape of each tensor. To read it you load nothing and
# execute nothing. Here is the model of the course as Hugging Face's classes save it, and
# the same as Apple's code would.


# %%
def contents(file):
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        table = json.loads(opened.read(length))
    return {name: entry for name, entry in table.items() if name != "__metadata__"}


folders = {"Hugging Face's": Path(folder, "tiny-fastvlm"), "Apple's": mine / "tiny"}
for name, path in folders.items():
    config = json.loads((path / "config.json").read_text())
    table = contents(path / "model.safetensors")
    print(f"{name}: model_type {config['model_type']}, {len(table)} tensors")
    for ending in ("se.fc1.weight", "se.reduce.weight", "layers.0.mlp.up_proj.weight"):
        print(*[f"    {key}\n" for key in table if key.endswith(ending)], end="")

# %% [markdown]
# Other names for the same numbers. Apple's has fewer tensors, because FastViT trains
# several branches side by side and adds them up when it is done.
#
# `config.json` differs more. Hugging Face's says how large the vision tower is. Apple's
# does not: those sizes are constants of Apple's code.

# %%
settings = json.loads((mine / "tiny" / "config.json").read_text())
for key in ("model_type", "mm_vision_tower", "mm_projector_type", "hidden_size"):
    print(f"{key:<20}{settings[key]}")

# %% [markdown]
# So the sizes are read off the weights, and the side of a picture is the number that ends
# `mm_vision_tower`. From that comes a configuration that transformers knows.

# %%
weights = apple.read_weights(mine / "tiny")  # under the names of transformers
print(apple.tower_sizes(weights, "tiny"))
print("side of a picture:", apple.image_size(settings, "tiny"))
key = "model.vision_tower.vision_tower.model.network.7.0.convffn.fc1.weight"
print(key, "->", apple.rename(key), sep="\n")

# %% [markdown]
# ### One loader for all of them
#
# `load_pretrained_model` looks into `config.json` for what a folder is, and at the
# weights for how large. These are the kinds that it knows, and an adapter, to which we
# come. What else calls itself `llava` is looked at closely, and refused if it is another
# thing.

# %%
from fvv_lib.weights.loading import MODELS

for model_type, kind in MODELS.items():
    print(f"{model_type:<13}{kind.__name__}, in Hugging Face's layout")
print(f"{apple.MODEL_TYPE:<13}{MODELS['fast_vlm'].__name__}, in Apple's")

# %%
base = fvv_lib.load_pretrained_model(f"{folder}/tiny-fastvlm", "cpu")
read = {name: fvv_lib.load_pretrained_model(mine / name, "cpu") for name in by_name}
question = "What colour is the shape?"
for name, loaded in {"tiny-fastvlm": base, **read}.items():
    print(f"{name:<14}{question} {fvv_lib.ask(loaded, clip, question)}")

# %% [markdown]
# An answer may be right by luck. Compare the logits, and expect a difference in the last
# digits: adding up branches rounds. And compare with something that must differ.


# %%
@torch.no_grad()
def logits(model, frames, words=(5, 6, 7)):
    ids = torch.tensor([[*([-200] * len(frames)), *words]])  # one sentinel per frame
    return model.eval()(input_ids=ids, images=[frames]).logits[0, -len(words) :]


def same(one, other):
    return bool((one - other).abs().max() < 1e-3)


video = fvv_lib.read_video(clip, num_frames=8)
frames = fvv_lib.preprocess_frames(video.frames, 64)  # (T, C, H, W)
true = logits(base.model, frames)
for name, loaded in read.items():
    print(f"{name:<12}same logits: {same(logits(loaded.model, frames), true)}")
print("other frames, same logits:", same(logits(base.model, frames.flip(3)), true))

# %% [markdown]
# ### What a real one differs in
#
# In size. The course downloads nothing, but its shape is known: on PyTorch's device
# `meta` a model has names and shapes, and no contents.

# %%
from fvv_lib.model.parts import count_parameters, format_parts

big = fvv_lib.random_fastvlm("0.5b", device="meta")
for name, model in {"tiny": read["tiny"].model, "0.5b": big}.items():
    print(f"{name}: {len(model.state_dict())} tensors")
    print(format_parts(count_parameters(model)), "\n")
sizes = big.config.vision_config.model_args
print("tower:", sizes["layers"], sizes["embed_dims"])
print("tokens per frame:", big.config.image_seq_length)
gib = sum(p.numel() for p in big.parameters()) * 2 / 2**30
print(f"in bfloat16: {gib:.1f} GiB")

# %% [markdown]
# Three things more. A real one may come in several files with an index. Its vocabulary
# has spare rows, and the loader gives one of them to `<image>`. And in Apple's layout
# there is one tensor more, the head that CLIP trained the tower with, which nothing
# reads: the loader leaves out that one, by name, and no other.
#
# ### For stock transformers
#
# Stock transformers does not know Apple's layout. `convert_model` writes the folder
# in Hugging Face's; in a terminal that is
# `fvv convert path/to/FastVLM-0.5B path/to/FastVLM-0.5B-hf`.

# %%
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

try:
    AutoConfig.from_pretrained(mine / "tiny")
except (KeyError, ValueError) as error:
    print("Apple's layout:", type(error).__name__)

fvv_lib.convert_model(mine / "tiny", mine / "tiny-hf")
print(*sorted(path.name for path in (mine / "tiny-hf").iterdir()), sep="\n")

# %% [markdown]
# Now without a line of `fvv_lib`: stock model, stock processor, a still picture. The
# class that comes out is transformers' own.

# %%
stock = AutoModelForImageTextToText.from_pretrained(mine / "tiny-hf").eval()
processor = AutoProcessor.from_pretrained(mine / "tiny-hf")
print(type(stock).__name__, type(processor).__name__)

path = f"{folder}/videos/train/still-1352.png"
asked = [{"type": "image"}, {"type": "text", "text": question}]
chat = [{"role": "user", "content": asked}]
prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
picture = np.array(fvv_lib.load_image(path))
inputs = processor(picture, text=prompt, return_tensors="pt")
length = inputs["input_ids"].shape[1]
said = stock.generate(**inputs, max_new_tokens=12, do_sample=False)[0, length:]
print("stock:", processor.decode(said, skip_special_tokens=True))
print("ours: ", fvv_lib.ask(read["tiny"], path, question))

# %% [markdown]
# For a video, stock transformers wants its frames as pictures, and as many `<image>` ids
# as there are features. Then it gives our logits.

# %%
image = stock.config.image_token_index
ids = torch.tensor([[image] * 4 * len(frames) + [5, 6, 7]])  # 4 tokens per frame
with torch.no_grad():
    theirs = stock(input_ids=ids, pixel_values=frames / 255).logits[0, -3:]
print("same logits:", same(theirs, logits(read["tiny"].model, frames)))

# %% [markdown]
# The number of frames, how they are chosen and how they are made square stand in
# `fvv_config.json`, which only `fvv_lib` reads.
#
# ### LoRA
#
# Fine-tuning changes every weight, so every result is a whole checkpoint, and the
# optimizer keeps two numbers more for each. **LoRA** leaves a weight `W` as it is and
# learns a small difference beside it: `W + (alpha / r) B A`.
#
# `W` has, say, 128 × 256 numbers. `B` is 128 × r and `A` is r × 256, with a **rank** `r`
# of 8 to 64. `B` begins as zero, so at first nothing is changed.
#
# `train` does it when `lora_rank` is set. The base is a bfloat16 checkpoint, as many real
# ones are. Four clips and 16 steps are no training that you would keep; you want to see
# what comes of it.

# %%
half = shutil.copytree(f"{folder}/tiny-fastvlm", mine / "half")
model = fvv_lib.FastVlmForVideo.from_pretrained(half, dtype=torch.bfloat16)
model.save_pretrained(half)

every = json.loads(Path(f"{folder}/train.json").read_text())
four = [s for s in every if "motion" in s.get("kinds", [])][:4]
(mine / "four.json").write_text(json.dumps(four))
shown = {"num_video_frames": 4, "decode_timeout": 0}  # 0: read in this process
data_args = fvv_lib.DataArguments([f"{mine}/four.json"], image_folder=folder, **shown)
model_args = fvv_lib.ModelArguments(str(half), ["language_model"], lora_rank=16)
training_args = fvv_lib.TrainingArguments(
    output_dir=str(mine / "lora"),
    max_steps=16,
    per_device_train_batch_size=4,
    learning_rate=2e-5,
    lr_scheduler_type="constant",
    save_steps=1,
    save_only_model=True,
    disable_tqdm=True,
    report_to="none",
    use_cpu=True,
)
print(len(four), "clips,", training_args.max_steps, "steps")

# %% tags=["training"]
import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()) as shown:
    fvv_lib.train(model_args, data_args, training_args)
print(shown.getvalue().split("training begins")[0])

# %% [markdown]
# A sixth of the language model's numbers are trained. At a real size it is far less:

# %%
from fvv_lib.weights.lora import add_lora

counts = count_parameters(add_lora(big, model_args))
trained, every_one = counts["language_model"]
print(f"0.5b: {trained:,} of {every_one:,}, {trained / every_one:.1%}")

# %% [markdown]
# And this is what training leaves behind.

# %%
lora = mine / "lora" / "checkpoint-16"
print(*sorted(path.name for path in lora.iterdir()), sep="\n")
adapter = json.loads((lora / "adapter_config.json").read_text())
print({key: adapter[key] for key in ("peft_type", "r", "lora_alpha")})
print("base:", Path(adapter["base_model_name_or_path"]).name)
for name, entry in list(contents(lora / "adapter_model.safetensors").items())[:2]:
    print(entry["shape"], name.split("language_model.")[1])

# %% [markdown]
# No model is in it, only what to add to one, and where that one lies. Keep the base: an
# adapter without it is nothing.
#
# It can be used in two ways. Beside the base, as it was trained. Or **merged**: compute
# `W + (alpha / r) B A` once and have a plain model, no slower than before.
# `load_pretrained_model` merges. Are they the same?

# %%
from peft import PeftModel

merged = fvv_lib.load_pretrained_model(lora, "cpu").model
plain = fvv_lib.FastVlmForVideo.from_pretrained(half, dtype=torch.float32)
beside = PeftModel.from_pretrained(plain, lora)
print(type(beside).__name__, "and", type(merged).__name__)
print("same logits:", same(logits(beside, frames), logits(merged, frames)))
with beside.disable_adapter():
    print("without it: ", same(logits(beside, frames), logits(merged, frames)))

# %% [markdown]
# ## What can go wrong
#
# ### A model without eyes
#
# **Break it.** You did, in the first cells. `load_by_name` gave the folder `tiny` a
# vision tower with the random weights that every new tower has.
#
# **Symptom.** Whole sentences. To see more, ask about many clips and count. Beside it
# stands a model that is blind for certain: every weight of its tower is zero.

# %%
import copy

from fvv_lib.evaluation.scoring import evaluate

test = json.loads(Path(f"{folder}/test.json").read_text())
seen = [s for s in test if s["kinds"][-1] == "motion" and len(s["kinds"]) == 3][:20]
for sample in seen:  # colour and shape: what a still shows
    for key, last in (("conversations", -2), ("kinds", -1), ("choices", -1)):
        sample[key] = sample[key][:last]
(mine / "seen.json").write_text(json.dumps(seen))
spec = fvv_lib.make_frame_spec(base, data_args.video_config())
data = fvv_lib.LazySupervisedDataset(
    base.tokenizer, [f"{mine}/seen.json"], data_args, frame_spec=spec
)

models = {"loaded": read["tiny"].model, "random tower": by_name["tiny"].model}
models["blind"] = copy.deepcopy(models["random tower"])
for parameter in models["blind"].model.vision_tower.parameters():
    parameter.data.zero_()
print(len(data), "clips,", 2 * len(data), "questions")

# %%
batch = fvv_lib.DataCollatorForSupervisedDataset(base.tokenizer)(list(data))
right = {}
for name, model in models.items():
    answers = evaluate(model, base.tokenizer, data, max_new_tokens=8)
    with torch.no_grad():
        loss = model(**batch, full_logits=False).loss.item()
    right[name] = sum(answer.correct for answer in answers) / len(answers)
    different = {answer.generated for answer in answers}
    print(f"{name:<13}loss {loss:.2f}, {len(different)} different answers", end="")
    print(f", {right[name]:.0%} right")
plotting.plot_bars(right, "right answers", percent=True)
plt.show()

# %% [markdown]
# *Figure: three bars. The loaded model is always right; the model with the random tower
# and the blind one are equal, and right as often as one who guesses.*
#
# Not "a little worse": blind. It has two answers, one to each question, whatever the
# clip shows. And in the log of a training 0.40 is no alarm: most words of an answer can
# be said without eyes, so a blind model has a small loss too.
#
# **Measure.** Why blind, and not just confused? Look at what the tower makes of eight
# clips, and at what the language model then reads.

# %%
eight = torch.stack([data[i]["images"][0] for i in range(8)])  # (8, C, H, W)
alike = {}
for name in ("loaded", "random tower"):
    model = models[name]
    tower = model.model.vision_tower.timm_model
    with torch.no_grad():
        x, powers = model.normalize(eight), []
        for layer in (tower.stem, *tower.stages, tower.final_conv):
            x = layer(x)
            powers.append(f"1e{round(x.std().log10().item())}")
        tokens = fvv_lib.encode_images(model, eight[None])[0].flatten(1)  # (8, K * D)
    print(f"{name:<13}stem, stages, end: about", *powers)
    unit = torch.nn.functional.normalize(tokens)
    alike[name] = (unit @ unit.T).numpy()
    others = alike[name][~np.eye(8, dtype=bool)]
    print(f"{'':<13}two clips are alike by {others.min():.1f} to {others.max():.1f}")
plotting.plot_similarity(alike)
plt.show()

# %% [markdown]
# *Figure: two tables of how alike the features of eight clips are, by the cosine. With
# the loaded tower the diagonal is black and nearly all the rest is light. With the random
# tower everything is black: 1.0.*
#
# The weights of a new tower are drawn small, and its layer scales, with which a block
# multiplies what it adds, begin near zero. So with each stage less of the picture is
# left. In the end the projector adds its bias, and the bias is all that the language
# model reads: the same for every picture. Does training mend it? The gradient goes the
# same way back.

# %%
for name in ("loaded", "random tower"):
    model = models[name]
    model(**batch, full_logits=False).loss.backward()
    first = next(model.model.vision_tower.parameters()).grad
    print(f"{name:<13}gradient below 1e-8: {bool(first.abs().max() < 1e-8)}")

# %% [markdown]
# Adam divides by the size of a gradient plus 1e-8. What is far smaller moves nothing.
#
# **Mend.** Let `config.json` say what a folder is, and the weights how large the tower
# is. Then compare the names, both ways.

# %%
needed = set(
    fvv_lib.FastVlmForVideo(open_model_folder(mine / "tiny").config).state_dict()
)
without = {key for key in weights if "vision_tower" not in key}
for name, stored in {"whole": set(weights), "without tower": without}.items():
    missing = [key for key in needed - stored if key != "lm_head.weight"]
    print(f"{name:<14}missing {len(missing)}, left over {len(stored - needed)}")

# %% [markdown]
# (`lm_head` may be missing: here it is the embedding itself, used twice.)
#
# **Guard.** `load_pretrained_model` does that with every folder, whatever its name, and
# refuses what is not whole. One missing weight is enough.


# %%
def try_without(name, lost):
    kept = {apple.apple_name(k): v for k, v in weights.items() if lost not in k}
    (mine / name / "model.safetensors").unlink()
    torch.save(kept, mine / name / "pytorch_model.bin")  # the old format
    try:
        fvv_lib.load_pretrained_model(mine / name)
    except fvv_lib.ModelFolderError as error:
        print(str(error).replace(f"{mine}/", ""), "\n")


for name in ("llava-no-tower", "llava-no-weight"):
    shutil.copytree(mine / "tiny", mine / name)
try_without("llava-no-tower", "vision_tower")
try_without("llava-no-weight", "final_conv.se.fc1.bias")

# %% [markdown]
# ### A merge that rounds
#
# **Break it.** The base is bfloat16, so it seems right to merge in bfloat16, and to save
# what comes out as small as the base was. A bfloat16 number has 8 significant bits.

# %%
one = torch.tensor(1.0, dtype=torch.bfloat16)
for difference in (0.01, 0.003):
    print(f"1 + {difference} = {(one + difference).item():.3f}")

# %% [markdown]
# **Symptom.** None, if the adapter is large. If it is small, the merged model answers as
# the base does, as if you had not trained.
#
# **Measure.** After how many steps is the difference large enough? There is a checkpoint
# of each. Merge it in float32, then round: how many weights have changed at all, and how
# much of what the loss had gained is left?

# %%
four_clips = fvv_lib.LazySupervisedDataset(
    base.tokenizer, [f"{mine}/four.json"], data_args, frame_spec=spec
)
batch = fvv_lib.DataCollatorForSupervisedDataset(base.tokenizer)(list(four_clips))
start = fvv_lib.load_pretrained_model(half, "cpu", torch.float32).model
start_weights = start.state_dict()


@torch.no_grad()
def gain_of(model):
    losses = [m(**batch, full_logits=False).loss.item() for m in (start, model)]
    return losses[0] - losses[1]


def share_changed(model):
    names = [name for name in start_weights if "_proj.weight" in name]
    pairs = [(start_weights[name], model.state_dict()[name]) for name in names]
    changed = sum((a != b).sum().item() for a, b in pairs)
    return changed / sum(a.numel() for a, _ in pairs)


# %%
steps, changed, gained = (1, 2, 4, 8, 16), [], []
for step in steps:
    model = fvv_lib.load_pretrained_model(
        lora.parent / f"checkpoint-{step}", "cpu"
    ).model
    gain, before = gain_of(model), share_changed(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    changed.append(100 * share_changed(model))
    gained.append(100 * gain_of(model) / gain)
    print(f"step {step:>2}: weights that change {before:.0%},", end=" ")
    print(f"rounded {changed[-1]:.0f}%; of the gain {gained[-1]:.0f}% is left")
lines = {"weights changed": changed, "gain left": gained}
plotting.plot_lines(steps, lines, "steps", "% after rounding")
plt.show()

# %% [markdown]
# *Figure: two rising lines. After one step a small part of the weights has changed and
# most of the gain is gone; after 16 steps the gain is whole, though a third of the
# weights are still those of the base.*
#
# A difference of less than half the distance between two bfloat16 numbers is rounded back
# to the old weight, and lost. Larger ones survive, and they are those that matter most:
# so a long training at a high rate loses little, and a careful one loses most.
#
# **Mend.** Merge in float32 and leave the result in float32. Or keep the adapter beside
# its base. If you must round, measure the result first.
#
# **Guard.** The loader merges in float32, and leaves it so, whatever the base is;
# rounding is what you must ask for.

# %%
print("base:   ", json.loads((half / "config.json").read_text())["dtype"])
print("merged: ", merged.dtype)
asked_for = fvv_lib.load_pretrained_model(lora, "cpu", dtype=torch.bfloat16).model
print("rounded:", asked_for.dtype)
fvv_lib.convert_model(lora, mine / "merged")
stored = contents(mine / "merged" / "model.safetensors")
print("saved:  ", {entry["dtype"] for entry in stored.values()} - {"I64"})
temporary.cleanup()

# %% [markdown]
# ## Takeaways
#
# - A folder's name says nothing. `config.json` says what it is, its weights say the rest.
# - `strict=False` turns a missing tower into a model that answers and does not see.
# - Its features are the same for every picture. Compare two pictures before you trust a
#   model that you loaded.
# - Every weight must come from the checkpoint, and every weight of the checkpoint must be
#   used. Anything else is an error.
# - `fvv convert` writes what stock transformers loads. What training saves
#   is in that form already, but for an adapter.
# - LoRA trains a small difference. Merge it in float32: bfloat16 forgets small ones.

# %% [markdown]
# ## Exercises
#
# Four, in [exercises/08_real_checkpoints.ipynb](exercises/08_real_checkpoints.ipynb).
# Each checks itself; the answers are in
# [solutions/08_real_checkpoints.ipynb](solutions/08_real_checkpoints.ipynb).
#
# Before: [07 · Evaluation](07_evaluation.ipynb). Next:
# [09 · Scaling](09_scaling.ipynb).

# %% [markdown]
# ## References
#
# - Vasu et al., *FastVLM*, CVPR 2025,
#   [arXiv:2412.13303](https://arxiv.org/abs/2412.13303)
# - Touvron et al., *Going deeper with Image Transformers* (LayerScale), ICCV 2021,
#   [arXiv:2103.17239](https://arxiv.org/abs/2103.17239)
# - Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR 2022,
#   [arXiv:2106.09685](https://arxiv.org/abs/2106.09685)
# - Dettmers et al., *QLoRA*, NeurIPS 2023,
#   [arXiv:2305.14314](https://arxiv.org/abs/2305.14314)
# - Hugging Face, [Safetensors](https://huggingface.co/docs/safetensors): the format
