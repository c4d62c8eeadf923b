# %% [markdown]
# # 02 · Token expansion
#
# A prompt has one `<image>`. A video has eight frames. Who reads the other seven?

# %% [markdown]
# ## What you will be able to do
#
# - write a prompt with one `<image>` per frame, for any mix of videos and pictures
# - read token ids: which are text, which stand for a frame, which are learned
# - compute how long a prompt is before any model reads it
# - recognise an answer that was cut off, by its loss
# - write the time of each frame before it, and say what that costs

# %% [markdown]
# ## Minutes and hardware
#
# 35 minutes. Any computer with Python; no GPU, no network.

# %% [markdown]
# ## The problem, seen with your own eyes
#
# Here are eight frames, and a question as it stands in an annotation file.

# %%
import inspect
import os

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # a progress bar is not a result

import matplotlib.pyplot as plt

import fvv_lib
from fvv_lib import plotting

folder = "../data_samples"
video = fvv_lib.read_video(f"{folder}/videos/test/motion-0019.mp4", num_frames=8)
question = "<image>\nWhich way does it move?"
print("frames:", len(video.frames), "  <image>:", question.count("<image>"))
plotting.plot_frames(video.frames, video.timestamps)
plt.show()

# %% [markdown]
# *Figure: eight frames in a row; a shape sinks.*
#
# One `<image>` is one place for one picture. Give the model all eight frames for it.

# %%
import torch

from fvv_lib.prompt import placeholders

# %%
base = fvv_lib.load_pretrained_model(f"{folder}/tiny-fastvlm")
tokenizer = base.tokenizer
turns = [
    {"from": "human", "value": question},
    {"from": "gpt", "value": "It moves down."},
]
one_place = fvv_lib.preprocess([turns], tokenizer, has_image=True)["input_ids"][0]
images = fvv_lib.preprocess_frames(video.frames, 64)  # (8, 3, 64, 64)
try:
    base.model(input_ids=one_place[None], images=images[None])
except fvv_lib.FvvError as error:
    print(error)

# %% [markdown]
# Here that is an error. In the described system it is not: the first frame takes the one
# place, the other seven are dropped, and training goes on. **The prompt, not the video,
# says how many frames are read.**

# %% [markdown]
# ## The smallest thing that works
#
# Write `<image>` once per frame.

# %%
(expanded,) = fvv_lib.preprocess_multimodal([turns], num_frames=8)
print(expanded[0]["value"])
print(turns[0]["value"].count("<image>"), "in what you passed in, as before")

# %% [markdown]
# The **chat template** puts the turns into one text. It comes in pieces, and each piece
# knows whether it is to be learned. FastVLM was taught with the template `qwen_2`.

# %%
template = fvv_lib.conversation_templates["qwen_2"]
for piece in template.render(expanded):
    print("learned" if piece.learned else "given  ", repr(piece.text))

# %% [markdown]
# ### Ids, and one that no tokenizer makes
#
# The text becomes token ids. A frame is no text, so it must not get the id of any: each
# `<image>` becomes **-200**, the *sentinel*. Where nothing is to be learned, the label is
# **-100**.

# %%
print(inspect.getsource(fvv_lib.tokenizer_image_token))

# %%
both = fvv_lib.preprocess([expanded], tokenizer, has_image=True)
ids, labels = both["input_ids"][0], both["labels"][0]
for i in (13, 14, 21, 22, 23, 30, 33, 34, 37, 38, 39):
    text = "a frame" if ids[i] == -200 else repr(tokenizer.decode([int(ids[i])]))
    print(f"{i:>3}  id {int(ids[i]):>5}  label {int(labels[i]):>5}  {text}")
print(len(ids), "ids,", int((ids == fvv_lib.IMAGE_TOKEN_INDEX).sum()), "of them frames")

# %% [markdown]
# The model puts the features of one frame in the place of each -200. The tiny FastVLM of
# the course makes four of a frame, so the row grows. How far it grows you know before it
# runs:
#
# **expanded length = text tokens + frames × tokens per frame**

# %%
embeddings = fvv_lib.prepare_inputs_labels_for_multimodal(
    base.model, ids[None], None, None, None, labels[None], images[None]
)[4]  # (1, L', D)
print("said before:  ", fvv_lib.expanded_length(ids, tokens_per_frame=4))
print("in the model: ", embeddings.shape[1])

# %% [markdown]
# The same as a picture: the sequence as a bar. `sequence_runs` counts, `plot_sequence`
# draws.

# %%
runs = placeholders.sequence_runs(ids, 4, labels)
print(runs)
rows = {"1 <image>": placeholders.sequence_runs(one_place, 4), "8 <image>": runs}
plotting.plot_sequence(rows)
plt.show()

# %% [markdown]
# *Figure: two bars. In the upper one a single frame stands between two pieces of text. In
# the lower one there are eight frames in a row, then the question, then the hatched
# answer.*
#
# ### The budget
#
# The tiny model hides how large frames are. FastVLM turns a frame of 1024 × 1024 pixels
# into (1024 / 64)² tokens. Here is the same prompt for it, at three sizes.

# %%
rows = {}
for size in (256, 512, 1024):
    per_frame = (size // 64) ** 2
    rows[f"{size} px"] = placeholders.sequence_runs(ids, per_frame, labels)
    length = fvv_lib.expanded_length(ids, per_frame)
    print(f"{size:>4} px: 32 of text + 8 x {per_frame:>3} = {length:>4}")
plotting.plot_sequence(rows, limit=2048)
plt.show()

# %% [markdown]
# *Figure: three bars and a dashed limit at 2048. At 256 and 512 pixels the bar ends well
# before it. At 1024 pixels eight long frames fill everything up to the limit; the
# question and the answer lie behind it, in the shade.*
#
# `model_max_length=2048` stands in many training scripts. Remember the shaded end of the
# third bar; you will meet it again below.

# %%
text = 32
for limit in (2048, 8192):
    fit = {size: (limit - text) // (size // 64) ** 2 for size in (256, 512, 1024)}
    print(f"limit {limit}: frames that fit, by size: {fit}")

# %% [markdown]
# ### Several videos and pictures
#
# One `<image>` in the text stands for one file. Say how many frames each has, in order; a
# picture has one. The text around them stays where you wrote it.

# %%
mixed = [
    {"from": "human", "value": "Before: <image>\nAfter: <image>\nWhat changed?"},
    {"from": "gpt", "value": "The shape is red now."},
    {"from": "human", "value": "And is it the one in this picture? <image>"},
    {"from": "gpt", "value": "Yes."},
]
(several,) = fvv_lib.preprocess_multimodal([mixed], num_frames=[4, 4, 1])
for turn in several:
    print(turn["from"], repr(turn["value"]))

# %%
more = fvv_lib.preprocess([several], tokenizer, has_image=True)
runs = placeholders.sequence_runs(more["input_ids"][0], 16, more["labels"][0])
print([count for kind, count in runs if kind != "frame"], "tokens of text and answers")
plotting.plot_sequence({"2 videos, 1 picture": runs})
plt.show()

# %% [markdown]
# *Figure: one bar. Text, four frames, a little text, four frames, text, a hatched answer,
# text, one frame, text, a short hatched answer.*
#
# ### Time marks
#
# A row of frames has an order, but no clock. Play the clip at half the speed: the same
# frames, the same prompt.

# %%
slow = [2 * second for second in video.timestamps]
for marks in ("none", "seconds"):
    fast_times = None if marks == "none" else [video.timestamps]
    slow_times = None if marks == "none" else [slow]
    fast_text = fvv_lib.expand_image_tokens(question, 8, fast_times)
    slow_text = fvv_lib.expand_image_tokens(question, 8, slow_times)
    print(f"time_marks={marks}: same prompt for both speeds: {fast_text == slow_text}")
print(slow_text)

# %% [markdown]
# With `time_marks="seconds"` the true time of each frame stands before it, as plain text
# that any tokenizer can read. Now "when" and "how fast" have an answer. The price:

# %%
without = fvv_lib.tokenizer_image_token(question.replace("<image>", ""), tokenizer)
for times in (video.timestamps, [100 + second for second in video.timestamps]):
    marked = fvv_lib.expand_image_tokens(question, 8, [times])
    marked_ids = fvv_lib.tokenizer_image_token(marked, tokenizer)
    extra = len(marked_ids) - 8 - len(without)
    print(f"{tokenizer.tokenize(marked)[:6]}: {extra} tokens for 8 marks")
near = fvv_lib.expand_image_tokens("<image>", 4, [[0, 1 / 24, 2 / 24, 3 / 24]])
print(near)

# %% [markdown]
# Against 256 tokens per frame a mark is cheap; against the four of the tiny model it is
# not. Marks have one decimal: frames of a fast burst, as in the last line, can share one.
# And a model that never saw marks must first learn what they mean: train with them, then
# ask with them. The setting is saved with the model.

# %% [markdown]
# ## What can go wrong
#
# ### The answer that was cut off
#
# **Break it.** A prompt that is too long must go somewhere. LLaVA's code, and with it the
# described system, cuts off the end. Do the same, with eight frames of 256 tokens: our
# tiny encoder shrinks a side 32 times, so 512 × 512 pixels give as many as FastVLM makes
# of 1024 × 1024.

# %%
large = fvv_lib.preprocess_frames(video.frames, 512)  # (8, 3, 512, 512)
with torch.no_grad():
    *_, embeddings, long_labels = fvv_lib.prepare_inputs_labels_for_multimodal(
        base.model, ids[None], None, None, None, labels[None], large[None]
    )
print("positions:", embeddings.shape[1], " learned:", int((long_labels != -100).sum()))


# %%
def loss_after_cut(limit, reduction="mean"):
    with torch.no_grad():
        logits = base.model(inputs_embeds=embeddings[:, :limit]).logits[0]
    target = long_labels[0, 1:limit]  # position t predicts token t + 1
    return torch.nn.functional.cross_entropy(logits[:-1], target, reduction=reduction)


for limit in (2080, 2048):
    left = int((long_labels[0, :limit] != -100).sum())
    mean, total = loss_after_cut(limit), loss_after_cut(limit, "sum")
    print(f"limit {limit}: {left} learned, loss: mean {mean:.1f}, sum {total:.1f}")

# %% [markdown]
# **Symptom.** The loss is NaN where it is a mean over no tokens, and 0 where it is a sum.
# No exception: the encoder works on eight frames, the model reads nearly all of them, the
# question and the answer are gone, and nothing is learned.
#
# **Measure.** Count the labels that are left, and read them. A cut a little later is
# worse: its loss is a number like any other.

# %%
for limit in (2048, 2075, 2077, 2079, 2080):
    left = long_labels[0, :limit]
    said = tokenizer.decode(left[left != -100].tolist())
    print(f"limit {limit}: loss {loss_after_cut(limit):.1f}  learned {said!r}")

# %% [markdown]
# Read from below. First the line break goes, then the end mark `<|im_end|>`, then the
# last words. A model that never sees the end mark never learns to stop.
#
# **Mend.** Choose what fits: fewer frames, smaller pictures, or a higher limit, where the
# model was trained for one (Apple's for 8192).

# %%
for frames, per_frame, limit in ((7, 256, 2048), (8, 64, 2048), (8, 256, 8192)):
    (fitting,) = fvv_lib.preprocess_multimodal([turns], num_frames=frames)
    fitting = fvv_lib.preprocess([fitting], tokenizer, True)["input_ids"][0]
    length = fvv_lib.check_token_budget(fitting, per_frame, limit, "sample 1")
    print(f"{frames} frames x {per_frame}: {length} of {limit}")

# %% [markdown]
# **Guard.** `check_token_budget` refuses what does not fit, and says the ways out. The
# data set calls it for every sample before the first step. It never cuts.

# %%
try:
    fvv_lib.check_token_budget(ids, 256, 2048, "train.json, sample 1")
except fvv_lib.TokenBudgetError as error:
    print(error)

# %%
from fvv_lib import DataArguments, FrameSpec, LazySupervisedDataset

large = FrameSpec(image_size=512, tokens_per_frame=256, max_length=2048)
path = [f"{folder}/val.json"]
try:
    LazySupervisedDataset(tokenizer, path, DataArguments(), frame_spec=large)
except fvv_lib.FvvError as error:
    print(type(error).__name__)
    print(str(error).partition(", but")[0])

# %% [markdown]
# ### One `<image>` in front, whatever you wrote
#
# **Break it.** This is how LLaVA's code treats a message with pictures, and what the
# described system adds for video.


# %%
def to_the_front(text):  # LLaVA
    return "<image>\n" + text.replace("<image>", "").strip()


def expand_each(text, num_frames):  # the described system
    return text.replace("<image>", "<image>" * num_frames)


message = "Before: <image>\nAfter: <image>\nWhat changed?"
print(repr(to_the_front(message)))
print(repr(expand_each("A picture: <image>\nA video: <image>", 4)))

# %% [markdown]
# **Symptom.** The first loses a picture, and the words `Before:` and `After:` point at
# nothing. The second gives the still picture four places as well.
#
# **Measure.** Count places and pictures, for each sample, and compare.

# %%
for text, counts in (
    (to_the_front(message), [1, 1]),
    (expand_each(message, 4), [4, 1]),
):
    print("places", text.count("<image>"), " frames", sum(counts))

# %% [markdown]
# **Mend.** One count for each `<image>`, in order. Nothing is moved, nothing dropped.
#
# **Guard.** A count too few or too many is an error that shows the text.

# %%
print(repr(fvv_lib.expand_image_tokens(message, [4, 1])))
try:
    fvv_lib.expand_image_tokens(message, [4])
except fvv_lib.FvvError as error:
    print(error)

# %% [markdown]
# ## Takeaways
#
# - One `<image>` is one place for one frame; a video needs as many as it has frames.
# - Among the ids a frame is -200; a label of -100 is not learned.
# - Length = text + frames × tokens per frame. You know it before anything runs.
# - Eight frames of 1024 pixels fill 2048 positions to the last: the answer is cut off,
#   and the loss is 0 or NaN. Refuse, never cut.
# - Order and position of pictures carry meaning; keep them.
# - Time marks give the row of frames a clock.

# %% [markdown]
# ## Exercises
#
# Three, in [exercises/02_token_expansion.ipynb](exercises/02_token_expansion.ipynb). Each
# checks itself; the answers are in
# [solutions/02_token_expansion.ipynb](solutions/02_token_expansion.ipynb).
#
# Before: [01 · Sparse sampling](01_sparse_sampling.ipynb). Next:
# [03 · Tokenization mismatch](03_tokenization_mismatch.ipynb).

# %% [markdown]
# ## References
#
# - Liu et al., *Visual Instruction Tuning* (LLaVA), NeurIPS 2023,
#   [arXiv:2304.08485](https://arxiv.org/abs/2304.08485)
# - Yang et al., *Qwen2 Technical Report*, 2024,
#   [arXiv:2407.10671](https://arxiv.org/abs/2407.10671)
# - Vasu et al., *FastVLM*, CVPR 2025,
#   [arXiv:2412.13303](https://arxiv.org/abs/2412.13303)
