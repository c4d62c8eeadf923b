# %% [markdown]
# # 04 · Encoder flattening
#
# A batch of videos has five dimensions. The vision encoder takes four.

# %% [markdown]
# ## What you will be able to do
#
# - send a batch of videos through an encoder that knows only pictures, and get it back
# - prove that this equals a loop over frames
# - follow the features of a frame to their places in the prompt
# - count what a frame costs in memory
# - recognise pixels that a `reshape` has mixed, though every shape is right
# - keep the encoder's BatchNorm from being overwritten while you fine-tune

# %% [markdown]
# ## Minutes and hardware
#
# 45 minutes. Any computer with Python; no GPU, no network.

# %% [markdown]
# ## The problem, seen with your own eyes
#
# Two clips, eight frames of each, make one tensor: B videos, T frames, C colours, height
# and width. Give it to the encoder.

# %%
import os

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # a progress bar is not a result

import inspect
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import fvv_lib
from fvv_lib import plotting

# %%
folder = "../data_samples"
base = fvv_lib.load_pretrained_model(f"{folder}/tiny-fastvlm")
model = base.model
print(type(model).__name__)

# %%
paths = [f"{folder}/videos/test/motion-{n:04d}.mp4" for n in (7, 19, 2, 3, 6, 4)]
clips = [fvv_lib.read_video(path, num_frames=8) for path in paths]
pixels = [fvv_lib.preprocess_frames(clip.frames, 64) for clip in clips]
videos = torch.stack(pixels[:2])  # (B, T, C, H, W)
print(videos.shape, videos.dtype)
try:
    model.get_image_features(model.normalize(videos))
except RuntimeError as error:
    print(error)

# %% [markdown]
# A picture encoder slides its filters over pictures. It has no dimension for time.
#
# You could write a loop, one call for each frame. That works. But each call does little,
# and a GPU is fast only where it has much to do at once.

# %% [markdown]
# ## The smallest thing that works
#
# The first dimension that the encoder takes is *the batch*: pictures side by side, each
# treated on its own. Whether two of them are from one video is nothing to it. So lay the
# frames of all videos in **one row**, encode the row in one pass, and cut it apart again.

# %%
row, sizes = fvv_lib.flatten_frames(videos)
print("(B, T, C, H, W)  ", tuple(videos.shape))
print("(B*T, C, H, W)   ", tuple(row.shape), "to be cut into", sizes)

with torch.no_grad():
    encoded = model.get_image_features(model.normalize(row)).pooler_output
features = fvv_lib.unflatten_frames(encoded, sizes)
print("(B*T, K, D)      ", tuple(encoded.shape))
print("B times (T, K, D)", [tuple(feature.shape) for feature in features])

# %% [markdown]
# K is how many tokens the encoder makes of a frame, D is the width of the language model.
# First comes all of one video, then all of the next: place *i* of the row is frame
# *i* % T of video *i* // T.

# %%
times = np.concatenate([clip.timestamps for clip in clips[:2]])
print("places in the row:", len(row))
plotting.plot_frames(row.permute(0, 2, 3, 1).numpy(), times)
plt.show()

# %% [markdown]
# *Figure: the row, on two lines of eight frames. The first eight show the cross of one
# clip, the next eight the square of the other; the times begin again at 0.*
#
# This is all the code that it takes. Most of it refuses what cannot be right.

# %%
for function in (fvv_lib.flatten_frames, fvv_lib.unflatten_frames):
    signature, _, body = inspect.getsource(function).split('"""')
    print(signature.rstrip() + body)

# %% [markdown]
# ### Is it the same as a loop?
#
# Say it as a test: encode each frame alone, and compare. Do not ask for equality to the
# last bit. A computer may add the same numbers in another order when there are more of
# them, and then the last digits differ. So there is a tolerance. Beside it belongs
# something that must *fail* it, or the test proves nothing: the frame before.


# %%
@torch.no_grad()
def encode(images, **settings):
    return fvv_lib.encode_images(model, images, **settings)


tolerance = 1e-4
one_pass = encode(videos)
loop = [torch.cat([encode(frame)[0] for frame in video]) for video in videos]
for b in range(2):
    same = (one_pass[b] - loop[b]).abs().max() < tolerance
    before = (one_pass[b][1:] - loop[b][:-1]).abs().max() < tolerance
    print(f"video {b}: equals the loop: {bool(same)},", end=" ")
    print(f"equals the loop one frame off: {bool(before)}")

# %% [markdown]
# `encode_images` is the whole way: flatten, scale the bytes to numbers from 0 to 1,
# encode, cut apart.
#
# ### Into the prompt
#
# Now the features must get to their places. Take a video and a still picture, each with a
# question and an answer, and make a batch of them. They have different numbers of frames,
# so `images` is a **list**.


# %%
def sample(images, question, answer):
    question = "<image>" * len(images) + f"\n{question}"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    both = fvv_lib.preprocess([turns], base.tokenizer, has_image=True)
    return {key: value[0] for key, value in both.items()} | {"images": images}


picture = fvv_lib.load_image(f"{folder}/videos/train/still-1352.png")
picture = fvv_lib.preprocess_frames(picture, 64)  # (1, C, H, W)
samples = [
    sample(videos[1], "Which way does it move?", "It moves down."),
    sample(picture, "What colour is the shape?", "It is pink."),
]
collate = fvv_lib.DataCollatorForSupervisedDataset(base.tokenizer)
batch = collate(samples)
for key in ("input_ids", "attention_mask", "labels"):
    print(f"{key:<15}{tuple(batch[key].shape)}")
print(f"{'images':<15}{[tuple(images.shape) for images in batch['images']]}")
print("sentinels of each sample:", (batch["input_ids"] == -200).sum(dim=1).tolist())

# %% [markdown]
# `input_ids` has one sentinel, -200, for each frame.
# `prepare_inputs_labels_for_multimodal` gives every id its embedding, and every sentinel
# the K features of its frame. So rows of ids become longer rows of vectors, and mask and
# labels must grow with them.

# %%
with torch.no_grad():
    _, _, mask, _, embeds, labels = fvv_lib.prepare_inputs_labels_for_multimodal(
        model,
        batch["input_ids"],
        None,
        batch["attention_mask"],
        None,
        batch["labels"],
        batch["images"],
    )
print("ids       ", tuple(batch["input_ids"].shape), "->", tuple(embeds.shape))
print("mask      ", batch["attention_mask"].sum(dim=1).tolist(), "->", end=" ")
print(mask.sum(dim=1).tolist())
print("labels    ", (batch["labels"] != -100).sum(dim=1).tolist(), "->", end=" ")
print((labels != -100).sum(dim=1).tolist())

# %% [markdown]
# The rows grew, the number of learned labels did not: a feature is given, never learned.
# The shorter row is padded on the right, and the mask says so.

# %%
from fvv_lib.prompt.placeholders import sequence_runs

runs = [sequence_runs(s["input_ids"], 4, s["labels"]) for s in samples]
print("frames:", [sum(kind == "frame" for kind, _ in row) for row in runs])
print("positions:", [sum(count for _, count in row) for row in runs])
plotting.plot_sequence({"a video": runs[0], "a picture": runs[1]})
plt.show()

# %% [markdown]
# *Figure: two bars. The upper one is text, eight frames, text and a hatched answer. The
# lower one has a single frame and is shorter: the empty space at its end is padding.*
#
# Are they in their places? Look where the first sentinel was.

# %%
first = int((samples[0]["input_ids"] == -200).nonzero()[0])
print("first sentinel at", first)
for t in (0, 1, 7):
    there = embeds[0, first + 4 * t : first + 4 * t + 4]  # (K, D)
    right = (there - one_pass[1][t]).abs().max() < tolerance
    print(f"the features of frame {t} stand at {first + 4 * t}: {bool(right)}")

# %% [markdown]
# ### What a frame costs
#
# To learn, the backward pass needs much of what the layers of the encoder gave to each
# other on the way forward. So count that: note every tensor that a layer returns. It is a
# count and no measurement, so it is the same on every machine.

# %%
from torch.nn.modules.module import register_module_forward_hook

given_on = {}


def note(layer, given, result):
    if isinstance(result, torch.Tensor):
        given_on[id(result)] = result  # a layer that only passes it on adds nothing


def sizes_in_bytes(model, images, **settings):
    given_on.clear()
    with torch.no_grad(), register_module_forward_hook(note):
        fvv_lib.encode_images(model, images, **settings)
    return [tensor.nbytes for tensor in given_on.values()]


one = sum(sizes_in_bytes(model, videos[0, :1]))
for frames in (1, 2, 4, 8):
    total = sum(sizes_in_bytes(model, videos[0, :frames]))
    print(f"{frames} frames: {total:>9,} bytes = {total / one:g} times one frame")

# %% [markdown]
# Twice the frames are twice the bytes; nothing is shared. The tiny model hides how much
# that is. So take FastVLM at full size, on PyTorch's device `meta`: there, tensors have
# shapes and no contents, and nothing is computed.

# %%
from fvv_lib.scaling.released import full_size_config

config = full_size_config("0.5b")
config.text_config.num_hidden_layers = 1  # only the encoder is looked at here
big = fvv_lib.random_fastvlm(config, device="meta")
gib = {}
for size in (256, 512, 1024):
    frame = torch.empty(1, 3, size, size, device="meta")
    gib[f"{size} px"] = sum(sizes_in_bytes(big, frame)) / 2**30
print({name: f"{value:.1f} GiB" for name, value in gib.items()})

counts = [1, 2, 4, 8, 16, 32]
lines = {name: [n * value for n in counts] for name, value in gib.items()}
limit = {"80 GiB: a large GPU": 80}
plotting.plot_lines(counts, lines, "frames of a batch", "GiB", limit)
plt.show()

# %% [markdown]
# *Figure: three parallel rising lines. At 1024 pixels the line crosses the dashed level
# of 80 GiB just before 16 frames; at 256 pixels it stays far below.*
#
# These are 32-bit numbers; bfloat16 halves them. But 16 frames are no more than two
# clips. What helps: fewer pixels, a frozen encoder, and gradient checkpointing, which
# keeps little and computes it again. Lesson 09 predicts what each of them saves.
#
# ### In pieces
#
# `frames_per_chunk` encodes so many frames at a time. The features are the same, by the
# argument of this lesson: a frame does not know who stands beside it.

# %%
whole, chunked = encode(videos), encode(videos, frames_per_chunk=3)
same = [(a - b).abs().max() < tolerance for a, b in zip(whole, chunked, strict=True)]
print("same features:", [bool(yes) for yes in same])

largest = max(sizes_in_bytes(model, videos))
smaller = max(sizes_in_bytes(model, videos, frames_per_chunk=4))
print(f"largest tensor: {largest:,} bytes, in chunks of 4: {smaller:,}")

# %% [markdown]
# When you only ask a model, a tensor is thrown away as soon as the next layer has read
# it; so the largest counts, and chunks make it smaller. When you train, the backward pass
# is still to come. Count what it makes PyTorch keep:

# %%
kept = {}


def keep(tensor):
    kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
    return tensor


def bytes_kept(images, **settings):
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        fvv_lib.encode_images(model, images, **settings)
    return sum(storage.nbytes() for storage in kept.values())


less = bytes_kept(videos, frames_per_chunk=4) < bytes_kept(videos)
print("chunks keep less for the backward pass:", less)

# %% [markdown]
# Chunks alone spare nothing while you train. They are for asking, or to go with gradient
# checkpointing.
#
# You need not ask for one kind of piece. On a CPU at most a megapixel passes at a time,
# but at least one frame: `model.pixels_at_once`. The C library of Linux gives blocks of
# more than 32 MiB back to the system as soon as they are free, and the system clears them
# page by page before the next layer gets them. Smaller pieces have fewer such blocks.
# Here four small frames shall be as many pixels as may pass:

# %%
usual, sizes = model.pixels_at_once, []
model.pixels_at_once = 4 * 64 * 64
with model.model.multi_modal_projector.register_forward_pre_hook(
    lambda _, inputs: sizes.append(len(inputs[0]))
):
    pieces = encode(videos)
model.pixels_at_once = usual
close = [(a - b).abs().max() < tolerance for a, b in zip(whole, pieces, strict=True)]
same = [bool(yes) for yes in close]
print("frames in each pass:", sizes, "same features:", same)

# %%
measured = json.loads(Path("../benchmarks/results/train_step.json").read_text())
sides = measured["cases"]["whole model, tower frozen, 8 frames"]["sides"]
print("a step, 8 frames of 1024 pixels, encoder frozen, on", measured["hardware"])
for side in ("ours, all frames at once", "ours"):
    seconds, gib = sides[side]["seconds per step"], sides[side]["peak GiB"]
    print(f"{side}: {seconds:.1f} s, {gib} GiB")

# %% [markdown]
# ## What can go wrong
#
# ### The right shape, the wrong pixels
#
# **Break it.** Many video loaders give (B, C, T, H, W), colours before time. You know
# the shape that you want, so you ask for it with `view`.

# %%
other = videos.transpose(1, 2).contiguous()  # (B, C, T, H, W), from such a loader
swapped = other.transpose(1, 2)  # (B, T, C, H, W), not in the order of the memory
try:
    swapped.view(16, 3, 64, 64)
except RuntimeError as error:
    print(error)

# %% [markdown]
# `view` never moves a number in memory, and here it would have to. The message says what
# to write. After `transpose`, `reshape` copies and is right. But `reshape` also takes the
# tensor as it came, and then `transpose` looks like a line that you do not need.

# %%
right = swapped.reshape(16, 3, 64, 64)
wrong = other.reshape(16, 3, 64, 64)
print("right:", tuple(right.shape), "equals the row:", torch.equal(right, row))
print("wrong:", tuple(wrong.shape), "equals the row:", torch.equal(wrong, row))

# %% [markdown]
# **Symptom.** No error, and every shape is right from here to the loss. Only the model
# has become a little stupid:

# %%
from fvv_lib.evaluation.generation import generate_answers, prompt_ids


def answer(images, question):
    question = "<image>" * len(images) + f"\n{question}"
    ids = prompt_ids([{"from": "human", "value": question}], base.tokenizer, "qwen_2")
    return generate_answers(model, base.tokenizer, [ids], [images], "qwen_2")[0]


for name, pixels_of in (("right", right), ("wrong", wrong)):
    print(name, "->", answer(pixels_of[8:], "What colour is the shape?"))

# %% [markdown]
# **Measure.** Look at what the encoder is given. On the right is its sister: frames as
# decoders and NumPy have them, (T, H, W, C), reshaped to (T, C, H, W).

# %%
numpy_order = videos[1].permute(0, 2, 3, 1).contiguous()  # (T, H, W, C)
numpy_wrong = numpy_order.reshape(8, 3, 64, 64)
shown = {
    "as it should be": right[8],
    "(C, T, H, W) reshaped": wrong[8],
    "(T, H, W, C) reshaped": numpy_wrong[0],
}
for name, frame in shown.items():
    print(f"{name:<22}{tuple(frame.shape)} {frame.dtype}")
plotting.plot_pictures({n: f.permute(1, 2, 0).numpy() for n, f in shown.items()})
plt.show()

# %% [markdown]
# *Figure: three pictures. A yellow square. A white square with coloured edges: its red,
# green and blue are the reds of three neighbouring frames. Rows of dots, green above and
# red below, and no square.*
#
# A picture is good for your eyes. For a test, paint every frame with its own place in the
# row. Then any mixture shows.

# %%
place = torch.arange(16).reshape(2, 8, 1, 1, 1)
probe = place.expand(2, 8, 3, 4, 4)  # (B, T, C, H, W)


def in_place(flat):
    return all(bool((frame == i).all()) for i, frame in enumerate(flat))


mixed = probe.transpose(1, 2).reshape(16, 3, 4, 4)
turned = probe.transpose(0, 1).reshape(16, 3, 4, 4)
print("flatten_frames:        ", in_place(fvv_lib.flatten_frames(probe)[0]))
print("colours before time:   ", in_place(mixed))
print("time before the videos:", in_place(turned))

# %% [markdown]
# The last one is the sneakiest: each picture is whole, but the frames of two videos take
# turns, and half of what a sample reads belongs to its neighbour.
#
# **Mend.** First put the dimensions in order, with `permute` or `transpose`. Then join
# them.
#
# **Guard.** `flatten_frames` takes one order, and refuses what has no three colours.

# %%
try:
    encode(other)
except fvv_lib.FvvError as error:
    print(error)

# %% [markdown]
# It cannot know better where T happens to be three. The probe does.
#
# ### A frame that knows its neighbours
#
# "Each picture is treated on its own" has one enemy: **BatchNorm**. In eval mode it
# scales with statistics that it stored long ago. In train mode it takes those of the
# batch, and writes them into the stored ones.
#
# **Break it.** Take one frame in two companies, once among the frames of its own clip,
# once among those of another, and let BatchNorm train.

# %%
tower = model.model.vision_tower
norms = [m for m in tower.modules() if isinstance(m, torch.nn.BatchNorm2d)]
print("BatchNorm layers:", len(norms), "here,", end=" ")
norms_big = [m for m in big.modules() if isinstance(m, torch.nn.BatchNorm2d)]
print(len(norms_big), "in the released FastVLM")

company = videos[1].clone()
company[3] = videos[0, 3]
stored = {name: value.clone() for name, value in model.state_dict().items()}


def moved(now, then):
    return f"{float((now - then).norm() / then.norm()):.0%}"


own, strange = encode([videos[0]])[0][3], encode([company])[0][3]
print("eval mode, moved by its company:", moved(strange, own))
model.train_batchnorm = True
model.train()
print("train mode:", moved(encode([company])[0][3], encode([videos[0]])[0][3]))
model.eval()
print("eval mode again, moved from before:", moved(encode([videos[0]])[0][3], own))

# %% [markdown]
# **Symptom.** In train mode the same frame has other features in other company. And back
# in eval mode it is not what it was: two forward passes, no loss, no optimizer, and the
# encoder has changed.
#
# **Measure.** Which numbers changed? And what becomes of a model that goes on like this?


# %%
def changed():
    now = model.state_dict()
    names = {name.split(".")[-1] for name in now if not now[name].equal(stored[name])}
    return sorted(names)


print(changed())
question, right_answers = "What colour is the shape?", {}
names = ("green", "yellow", "white", "white", "blue", "white")
for passes in (0, 1, 10, 100):
    model.load_state_dict(stored)
    model.train()
    for _ in range(passes):
        encode(videos)
    model.eval()
    said = [answer(images, question) for images in pixels]
    right_answers[passes] = sum(
        a == f"It is {n}." for a, n in zip(said, names, strict=True)
    )
print(right_answers, "of", len(names), "colours are right")
bars = {f"passes: {n}": count for n, count in right_answers.items()}
plotting.plot_bars(bars, "right answers")
plt.show()

# %% [markdown]
# *Figure: four bars, 6, 6, 3 and 1. After many forward passes in train mode, few answers
# are right.*
#
# One pass does little, which is why nobody notices. A fine-tuning is thousands. After a
# hundred the model no longer sees, and not one weight was trained: what changed are the
# stored statistics alone.
#
# **Mend.** Put back what was stored, and leave BatchNorm in eval mode, whatever mode the
# rest is in. Fine-tuning shows few clips; the statistics were made of millions of
# pictures.
#
# **Guard.** `VideoMixin.train` sees to it, every time that a Trainer calls
# `model.train()`.

# %%
print(inspect.getsource(fvv_lib.VideoMixin.train))

# %%
model.load_state_dict(stored)
model.train_batchnorm = False
model.train()
print("the model is in train mode:", model.training)
print("BatchNorm layers in train mode:", sum(norm.training for norm in norms))
print("moved by its company:", moved(encode([company])[0][3], own))
print("changed:", changed() or "nothing")
model = model.eval()

# %% [markdown]
# ### A picture among videos
#
# **Break it.** A batch has a video and a still picture. One tensor cannot hold both.

# %%
try:
    torch.stack([videos[1], picture[0]])
except RuntimeError as error:
    print(error)

# %% [markdown]
# That is loud. The quick remedy is not: repeat the picture until it is as long as a
# video. Or keep them in a list, and lose the order on the way.

# %%
repeated = torch.stack([videos[1], picture.expand(8, -1, -1, -1)])
print("frames to encode, repeated:", len(fvv_lib.flatten_frames(repeated)[0]))
print("frames to encode, as a list:", len(fvv_lib.flatten_frames(batch["images"])[0]))

# %% [markdown]
# **Symptom.** The repeated picture pays eight times for what it says once, and if its
# prompt has one `<image>`, seven of the eight have no place. A list in another order
# shows no symptom at all.
#
# **Measure.** Count sentinels and frames of each sample.

# %%
sentinels = (batch["input_ids"] == -200).sum(dim=1).tolist()
for name, images in (
    ("as collated", batch["images"]),
    ("repeated", repeated),
    ("exchanged", batch["images"][::-1]),
):
    sizes = fvv_lib.flatten_frames(images)[1]
    print(f"{name:<12}sentinels {sentinels}, frames {sizes}: {sizes == sentinels}")

# %% [markdown]
# **Mend.** A list with (T, C, H, W) for a video and (C, H, W) or (1, C, H, W) for a
# picture. `flatten_frames` lays all of them in one row, and `unflatten_frames` cuts it
# where it must.
#
# **Guard.** Before any feature gets a place, the two counts are compared.

# %%
try:
    model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        labels=batch["labels"],
        images=batch["images"][::-1],
    )
except fvv_lib.FvvError as error:
    print(error)

# %% [markdown]
# Two videos exchanged have equal counts. No check can see that; keep `images` and
# `input_ids` of a sample together, as the collator does.

# %% [markdown]
# ## Takeaways
#
# - Flatten, encode, cut apart: time goes through the encoder as part of the batch.
# - It equals a loop over frames, as long as no layer looks at its neighbours.
# - Put dimensions in order before you join them. A shape can be right and the pixels not.
# - BatchNorm in train mode looks at neighbours, and forgets what it was taught.
# - Each sentinel becomes the K features of one frame; mask and labels grow with it.
# - Memory grows with the number of frames. Chunks alone help only where no gradient is
#   kept.

# %% [markdown]
# ## Exercises
#
# Four, in
# [exercises/04_encoder_flattening.ipynb](exercises/04_encoder_flattening.ipynb). Each
# checks itself; the answers are in
# [solutions/04_encoder_flattening.ipynb](solutions/04_encoder_flattening.ipynb).
#
# Before: [03 · Tokenization mismatch](03_tokenization_mismatch.ipynb). Next:
# [05 · Dataset and validation](05_dataset_and_validation.ipynb).

# %% [markdown]
# ## References
#
# - Vasu et al., *FastVLM*, CVPR 2025,
#   [arXiv:2412.13303](https://arxiv.org/abs/2412.13303)
# - Vasu et al., *FastViT*, ICCV 2023,
#   [arXiv:2303.14189](https://arxiv.org/abs/2303.14189)
# - Ioffe and Szegedy, *Batch Normalization*, ICML 2015,
#   [arXiv:1502.03167](https://arxiv.org/abs/1502.03167)
# - Liu et al., *Visual Instruction Tuning* (LLaVA), NeurIPS 2023,
#   [arXiv:2304.08485](https://arxiv.org/abs/2304.08485)
# - Chen et al., *Training Deep Nets with Sublinear Memory Cost* (gradient
#   checkpointing), 2016, [arXiv:1604.06174](https://arxiv.org/abs/1604.06174)
