# %% [markdown]
# # 00 · Start here
#
# FastVLM answers questions about a picture. This course teaches it to watch video.

# %% [markdown]
# ## What you will be able to do
#
# - say what FastVLM is made of, and what it has never been shown
# - explain how a video becomes something that a picture model can read
# - check that your machine has all that the course needs
# - ask a model about a video, and see where it fails

# %% [markdown]
# ## Minutes and hardware
#
# 15 minutes. Any computer with Python; no GPU, no network.

# %% [markdown]
# ## The problem, seen with your own eyes
#
# A **vision-language model** takes pictures and text, and writes text. FastVLM is
# Apple's fast one. It has three parts:
#
# 1. a **vision encoder**, FastViT-HD, turns a picture into a short row of vectors; in the
#    code it is `vision_tower`, so later lessons call it the tower;
# 2. a **projector**, two small layers, gives them the language model's width;
# 3. a **language model**, Qwen2, reads them in between the words of your question.
#
# It is fast because its encoder makes few vectors of a picture. But it was trained on
# **stills**. Here is what it misses. You get one frame of a clip: which way does the
# shape move?

# %%
import os

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # a progress bar is not a result

import json
from pathlib import Path

import matplotlib.pyplot as plt

import fvv_lib
from fvv_lib import plotting
from fvv_lib.course import environment

folder = "../data_samples"
path = f"{folder}/videos/test/motion-0019.mp4"
clip = fvv_lib.read_video(path, num_frames=8)

print("frame", clip.indices[0], "of", clip.total_frames)
plotting.plot_frames(clip.frames[:1], clip.timestamps[:1])
plt.show()

# %% [markdown]
# *Figure: one frame. One shape on a plain ground. Nothing tells where it goes.*
#
# Nobody can know. Now take eight frames of the same clip, from the first to the last,
# and read them like the pages of a flipbook.

# %%
print("frames ", clip.indices.tolist())
print("seconds", [f"{second:.2f}" for second in clip.timestamps])
plotting.plot_frames(clip.frames, clip.timestamps)
plt.show()

# %% [markdown]
# *Figure: eight frames in a row. The shape sinks from page to page.*
#
# That is the whole idea of the course. A video is a **flipbook**: a few pages, each one
# a picture that FastVLM can already read, laid side by side in the prompt. The encoder
# stays as it is. What must be learned is to read the pages *in order*.

# %% [markdown]
# ## The smallest thing that works
#
# First, is everything there? The doctor does not look at lists: it writes clips and reads
# them back, runs a vision encoder, and says what to do where something fails.

# %%
for check in environment.examine():
    if check.required:
        print(f"{check.name:<14}{'works' if check.works else check.detail}")

# %% [markdown]
# In a terminal, `fvv doctor` gives the long form, with versions, what is
# optional, and a remedy for each failure. If a line above does not say `works`, mend
# that first.
#
# Now one video in, one answer out. The course has its own tiny FastVLM: every part is
# real, only small, and it was trained as the big one was, on stills.

# %%
base = fvv_lib.load_pretrained_model(f"{folder}/tiny-fastvlm")
print(type(base.model).__name__)
print("frames of each video:", base.model.video_config.num_video_frames)

# %%
questions = [
    "What colour is the shape?",
    "What shape is it?",
    "Which way does it move?",
]
for question in questions:
    print(question, "->", fvv_lib.ask(base, path, question))

# %% [markdown]
# Colour and shape are right: each of the pages shows them, and stills taught the model
# to name them. The last answer is no direction. The model was taught *where* things are,
# never where they go, so it says the nearest thing that it knows.
#
# Lesson 06 mends that: a few minutes of fine-tuning on your own CPU, with pictures,
# language model and question all as they are here. The lessons before it build what
# fine-tuning needs, in the order in which a video turns into a loss.
#
# | lesson | what you build | room in `fvv_lib` |
# |---|---|---|
# | 00 | start here | `course` |
# | [01](01_sparse_sampling.ipynb) | which frames, and the true ones | `video` |
# | [02](02_token_expansion.ipynb) | a prompt with one `<image>` per frame | `prompt` |
# | [03](03_tokenization_mismatch.ipynb) | which tokens are learned | `labels` |
# | [04](04_encoder_flattening.ipynb) | frames through the encoder | `model` |
# | [05](05_dataset_and_validation.ipynb) | samples and batches | `data` |
# | [06](06_full_finetuning.ipynb) | fine-tuning | `finetuning` |
# | [07](07_evaluation.ipynb) | is it better? | `evaluation` |
# | [08](08_real_checkpoints.ipynb) | checkpoints of every layout | `weights` |
# | [09](09_scaling.ipynb) | the real model: memory and scale | `scaling` |

# %% [markdown]
# Others have tried before. *Video Fine-tuning Adaptation for FastVLM* describes how
# LLaVA's training code was changed for it: decord reads the frames, the prompt gets one
# `<image>` for each, and labels may be off by a few tokens. The lessons call it **the
# described system**. They rebuild it piece by piece, and show where it goes wrong without
# a word.

# %% [markdown]
# ## What can go wrong
#
# ### A right answer by luck, a wrong one by accident
#
# **Break it.** You just judged a model by one clip. Would you trust that?
#
# **Symptom.** None: one answer always looks like a result.
#
# **Measure.** Ask about more clips, and count. The test set knows the true answers, and
# `is_correct` wants the one right word and no other.

# %%
from fvv_lib.evaluation.scoring import is_correct

samples = {s["id"]: s for s in json.loads(Path(f"{folder}/test.json").read_text())}
wanted = [f"test-motion-{number:04d}" for number in (2, 3, 6, 7)]
right = {"colour": 0, "motion": 0}
for sample in map(samples.get, wanted):
    video = f"{folder}/{sample.get('video') or sample['image']}"
    turns = sample["conversations"]
    for number, kind in enumerate(sample["kinds"]):
        if kind in right:
            question = turns[2 * number]["value"].removeprefix("<image>\n")
            truth, choices = turns[2 * number + 1]["value"], sample["choices"][number]
            right[kind] += is_correct(
                fvv_lib.ask(base, video, question), truth, choices
            )
print(right, "of", len(wanted))

# %% [markdown]
# **Mend.** Four clips are still few, but they say the same: it sees, and it does not
# watch. Lesson 07 counts over the whole test set, and says how sure a count is.
#
# **Guard.** Never report an answer; report a count, with the number of questions.

# %% [markdown]
# ### A path that is not there
#
# **Break it.** Paths in these notebooks are relative to the notebook's own folder.

# %%
try:
    fvv_lib.ask(base, "videos/motion-0019.mp4", "What shape is it?")
except fvv_lib.FvvError as error:
    print(type(error).__name__)
    print(error)

# %% [markdown]
# **Symptom.** A `VideoDecodeError` that names the file and says what to check.
#
# **Measure.** The path in the message is the one that you wrote: is it right from here?
#
# **Mend.** Write `../data_samples/...`, as above.
#
# **Guard.** All errors that your data or settings can cause are `FvvError`. Catch that
# one name, and nothing that is a bug of the library hides in it.

# %% [markdown]
# ## Takeaways
#
# - FastVLM reads pictures. A video is a flipbook of pictures.
# - Without training on video it names what a page shows, not what happens between pages.
# - The doctor says whether your machine is ready.
# - The answers above come from the checkpoint in `data_samples/tiny-fastvlm`. If you
#   train that again (`make base`), run `make notebooks` to renew what is printed here.

# %% [markdown]
# ## Exercises
#
# Two, in [exercises/00_start_here.ipynb](exercises/00_start_here.ipynb). Each checks
# itself; [solutions/00_start_here.ipynb](solutions/00_start_here.ipynb) has the answers.
#
# Next: [01 · Sparse sampling](01_sparse_sampling.ipynb).

# %% [markdown]
# ## References
#
# - Vasu et al., *FastVLM: Efficient Vision Encoding for Vision Language Models*,
#   CVPR 2025, [arXiv:2412.13303](https://arxiv.org/abs/2412.13303)
# - Liu et al., *Visual Instruction Tuning* (LLaVA), NeurIPS 2023,
#   [arXiv:2304.08485](https://arxiv.org/abs/2304.08485)
# - Li et al., *VideoChat: Chat-Centric Video Understanding*, 2023,
#   [arXiv:2305.06355](https://arxiv.org/abs/2305.06355)
