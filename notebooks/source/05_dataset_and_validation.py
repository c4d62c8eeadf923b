# %% [markdown]
# # 05 · Dataset and validation
#
# Text, pictures and videos become batches. And a validation set tells the truth, or does
# not.

# %% [markdown]
# ## What you will be able to do
#
# - write annotations in LLaVA's format, for whole videos and for parts of them
# - say when pixels are read, and what a sample costs until then
# - make a batch of text, pictures and videos
# - hold out clips for validation, and recognise a validation set that leaks
# - say what a broken clip does to a training that hides it
# - check a data set before you train on it

# %% [markdown]
# ## Minutes and hardware
#
# 40 minutes. Any computer with Python; no GPU, no network.

# %% [markdown]
# ## The problem, seen with your own eyes
#
# A data set is small as long as nobody looks. The course's own:

# %%
import os

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # a progress bar is not a result

import json
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import fvv_lib
from fvv_lib import plotting

# %%
folder = "../data_samples"
train_file = Path(folder) / "train.json"
every = json.loads(train_file.read_text())
print(f"{len(every)} samples in {train_file.stat().st_size / 2**20:.1f} MiB of text")
for size in (64, 1024):
    frames = 8 * 3 * size * size  # bytes: frames, colours, height, width
    print(f"8 frames of {size:>4} px: {frames:>10,} bytes,", end=" ")
    print(f"of all samples {len(every) * frames / 2**30:.1f} GiB")

# %% [markdown]
# At full size even these few short clips are more than most computers have memory for,
# and real data sets are far larger. So nobody reads all pixels at the start. They are
# read one sample at a time, while the model trains, by several workers, for hours. And
# whatever is wrong with a file shows only then.

# %% [markdown]
# ## The smallest thing that works
#
# ### The annotation file
#
# LLaVA's format is a JSON list. A sample has its conversation and, under `image` or
# `video`, a path or a list of paths. The text has one `<image>` for each of them.

# %%
sample = every[1]
shown = {key: sample[key] for key in ("id", "video", "conversations")}
print(json.dumps(shown, indent=1))

# %% [markdown]
# Paths start from the folder of the file, or from `image_folder`. The ending of a
# path says whether it is a video or a picture, not its key: many data sets write `image`
# for both.
# Without either key, a sample is text alone. A `.jsonl` file, with one sample on a line,
# or a Parquet file will do as well. The one here has all three kinds:


# %%
def kind_of(sample):
    path = sample.get("image", sample.get("video"))
    if path is None:
        return "text"
    return "video" if fvv_lib.is_video_file(path) else "picture"


print(dict(Counter(map(kind_of, every))))

# %% [markdown]
# ### Lazy
#
# `LazySupervisedDataset` checks the *text* of every sample when it is made: turns, roles,
# counts of `<image>`, whether the file exists, how long the prompt will be. It reads
# *pixels* when you ask for a sample.
#
# You need the settings that training would have. What a frame is to the model comes from
# the checkpoint: how large it is, how many tokens it becomes, how many fit. That is its
# `FrameSpec`.

# %%
base = fvv_lib.load_pretrained_model(f"{folder}/tiny-fastvlm")
spec = fvv_lib.make_frame_spec(base, base.model.video_config)


def settings(path, **more):
    here = {"image_folder": folder, "decode_timeout": 0}  # 0: read in this process
    return fvv_lib.DataArguments(data_path=[str(path)], **here, **more)


def open_data(path, **more):
    args, paths = settings(path, **more), [str(path)]
    return fvv_lib.LazySupervisedDataset(base.tokenizer, paths, args, frame_spec=spec)


data = open_data(train_file)
print(len(data), "samples; the longest takes", int(max(data.lengths)), "positions")

# %% [markdown]
# Now a sample, and what each part of it costs in bytes.

# %%
item = data[1]
for key, value in item.items():
    print(f"{key:<10}{tuple(value.shape)!s:<17}{value.dtype!s:<12}{value.nbytes:>7,}")

# %% [markdown]
# `input_ids` and `labels` are those of lessons 02 and 03, one sentinel for each frame.
# `images` is uint8 (T, C, H, W): one byte for a value, which the model turns into a
# number from 0 to 1 on its own device. As floats they would be four times as much for
# every worker to hand over.
#
# Is it really lazy? Make a data set of one clip, and take the clip away.

# %%
import shutil
import tempfile

temporary = tempfile.TemporaryDirectory()
mine = Path(temporary.name)


def plain(text):  # paths of your machine are not for print
    here = str(Path(folder).resolve())
    return str(text).replace(str(mine), "mine").replace(here, folder)


def write(name, samples):
    (mine / name).write_text(json.dumps(samples))
    return mine / name


clip = Path(shutil.copy(f"{folder}/{sample['video']}", mine / "clip.mp4"))
one = open_data(write("one.json", [{**sample, "video": str(clip)}]))
clip.unlink()
print("samples:", len(one), " positions:", [int(length) for length in one.lengths])
try:
    one[0]
except fvv_lib.VideoDecodeError as error:
    print(plain(error))

# %% [markdown]
# Length known, pixels never seen. The error comes when the sample is asked for, and it
# names the file, the sample and the clip.
#
# ### A part of a video
#
# A lecture takes an hour, and your question is about a minute of it. `start` and `end` of
# a sample say which: in seconds, or as `"0:02"`. You need not cut the file.

# %%
times = {"whole": {}, "start": {"end": 1}, "middle": {"start": 1, "end": "0:02"}}
parts = open_data(
    write("parts.json", [{**sample, **part} for part in times.values()]),
    num_video_frames=4,
    time_marks="seconds",
)
for index, name in enumerate(times):
    read = parts.read(parts.media(index)[0], index)
    marked = parts.show(index).turns[0]["value"].splitlines()[0]
    print(f"{name:<7}{read.indices.tolist()!s:<16}", marked.replace("<image>", " "))

# %% [markdown]
# A part has the frames with start <= time < end, to the frame. Time marks count from the
# start of the part, because the model sees nothing before it; `time_origin="file"`
# counts from the start of the file.
#
# A video may also be a pile of pictures, as robots and data sets of short clips store it.
# Then the sample says how fast they are shown:

# %%
from PIL import Image

pictures = [f"{mine}/{number}.png" for number in range(4)]
for picture, frame in zip(pictures, read.frames, strict=True):
    Image.fromarray(frame).save(picture)
piled = {**sample, "video": {"frames": pictures, "fps": 8}}
pile = open_data(write("pile.json", [piled]), num_video_frames=4)
print("times:", pile.read(pile.media(0)[0], 0).timestamps.tolist())
print("frames:", tuple(pile[0]["images"].shape))

# %% [markdown]
# ### A batch of everything
#
# A text, a picture and a video have different lengths and different numbers of frames.
# The **collator** makes a batch of them: it pads the text, and stacks the frames if it
# can.

# %%
val = open_data(f"{folder}/val.json")
names = [name.split("sample ")[1] for name in val.names]
wanted = ["val-motion-0002", "val-still-0072", "val-text-0078"]
items = [val[names.index(name)] for name in wanted]
collate = fvv_lib.DataCollatorForSupervisedDataset(base.tokenizer)
batch = collate(items)
for key in ("input_ids", "labels", "attention_mask"):
    print(f"{key:<15}{tuple(batch[key].shape)}")
print(f"{'images':<15}{[tuple(images.shape) for images in batch['images']]}")
print("two videos:    ", tuple(collate([data[0], data[1]])["images"].shape))

# %% [markdown]
# A text alone has zero frames, and still has a place in the list: entry *i* of `images`
# belongs to row *i* of `input_ids`. Where all have the same number of frames, the list
# becomes one tensor (B, T, C, H, W).

# %%
from fvv_lib.prompt.placeholders import sequence_runs

rows = {
    name: sequence_runs(item["input_ids"], 4, item["labels"])
    for name, item in zip(("video", "picture", "text"), items, strict=True)
}
lengths = {name: sum(count for _, count in runs) for name, runs in rows.items()}
print("positions:", lengths)
padding = len(lengths) * max(lengths.values()) - sum(lengths.values())
print("padding:", padding, "of", len(lengths) * max(lengths.values()))
plotting.plot_sequence(rows)
plt.show()

# %% [markdown]
# *Figure: three bars. The video is the longest, with eight frames and hatched answers
# between its questions; the picture has one frame; the text none. Behind the two short
# bars is empty space.*
#
# The empty space is **padding**: the model computes it, and nothing comes of it. Since
# `lengths` is known without reading a pixel, samples of one length can be put together.


# %%
def padded(lengths, size=8):
    batches = [lengths[i : i + size] for i in range(0, len(lengths), size)]
    return sum(len(batch) * max(batch) for batch in batches)


lengths = [int(length) for length in data.lengths]
for name, order in (("as they come", lengths), ("sorted", sorted(lengths))):
    print(f"padding, {name:<13}{1 - sum(lengths) / padded(order):.0%}")

# %% [markdown]
# ### Two data sets
#
# `make_supervised_data_module` makes all that a Trainer wants: a set to learn from, one
# to be tested on while it learns, and the collator.

# %%
args = settings(train_file, validation_data_path=f"{folder}/val.json")
module = fvv_lib.make_supervised_data_module(base.tokenizer, args, frame_spec=spec)
for name, part in module.items():
    size = len(part) if hasattr(part, "__len__") else ""
    print(f"{name:<15}{type(part).__name__} {size}")

# %% [markdown]
# The **validation** set is for decisions while you train: when to stop, which rate to
# take. Since you choose by it, its result is a little too good. A third set, the **test**
# set, is asked once, at the end.

# %% [markdown]
# ## What can go wrong
#
# ### A validation set that has been learned
#
# **Break it.** You have one annotation file. You take every third sample of it for
# validation, and forget to take them out of the training set.
#
# To see what that does, you need a model that learns by heart. Here is the simplest of
# all: it keeps each training clip with its answer. Asked about a clip, it looks for the
# most similar one that it keeps, and repeats that answer.

# %%
clips = [s for s in every if "motion" in s.get("kinds", [])][:180]


def truth(sample):
    return sample["conversations"][2 * sample["kinds"].index("motion") + 1]["value"]


def pixels(data):
    small = [data[i]["images"][:, :, ::4, ::4] for i in range(len(data))]
    return torch.stack(small).flatten(1).double()


def by_heart(learned, asked):
    known = pixels(open_data(write("learned.json", learned)))
    new = pixels(open_data(write("asked.json", asked)))
    nearest = torch.cdist(new, known).argmin(dim=1).tolist()
    return [truth(learned[i]) for i in nearest]


# %%
learned, unseen = clips[:120], clips[120:]
scores = {}
for name, asked in (("held out", unseen), ("leaked", learned[::3])):
    said = by_heart(learned, asked)
    right = sum(map(str.__eq__, said, map(truth, asked)))
    scores[name] = right / len(asked)
    print(f"{name:<10}{right} of {len(asked)} directions are right")
plotting.plot_bars(scores, "right answers", percent=True)
plt.show()

# %% [markdown]
# *Figure: two bars. On clips that were held out the model is right about half the time,
# on leaked clips always.*
#
# **Symptom.** A result that is too good, and no error. This model has understood nothing:
# it is right on new clips where a similar one happened to move the same way. On a leaked
# set its memory looks like understanding, and the more a model learns by heart, the
# better it looks.
#
# **Measure.** Count the clips that are in both. Compare files, not ids: a clip may stand
# in a data set many times, with a question each.

# %%
from fvv_lib.data.splits import check_disjoint

train_set = open_data(write("train.json", learned))
for name, asked in (("unseen.json", unseen), ("leaked.json", learned[::3])):
    try:
        check_disjoint(train_set, open_data(write(name, asked)))
        print(f"{name}: no clip in both")
    except fvv_lib.DataFormatError as error:
        print(plain(error))

# %% [markdown]
# **Mend.** Split *clips*, not questions. If several clips are cut from one long video,
# split the long videos: neighbouring cuts show the same room and the same people.
#
# **Guard.** `make_supervised_data_module` checks it whenever there is a validation set.
# No training begins on a leak.

# %%
args = settings(mine / "train.json", validation_data_path=str(mine / "leaked.json"))
try:
    fvv_lib.make_supervised_data_module(base.tokenizer, args, frame_spec=spec)
except fvv_lib.FvvError as error:
    print(type(error).__name__, "before the first step")

# %% [markdown]
# Two parts of one video are one clip, too: they show the same room and the same people.

# %%
halves = [{**sample, "start": 1.5}], [{**sample, "end": 1.5}]
try:
    check_disjoint(
        *(open_data(write(f"half{i}.json", s)) for i, s in enumerate(halves))
    )
except fvv_lib.DataFormatError as error:
    print(type(error).__name__, "although no frame is in both")

# %% [markdown]
# It knows files by their paths. A copy under another name goes through, as here; an
# exercise mends that.

# %%
copied = [{**s, "video": f"{mine}/copy{i}.mp4"} for i, s in enumerate(learned[:2])]
for s, copy in zip(learned, copied, strict=False):
    copy.pop("image", None)
    shutil.copy(f"{folder}/{s.get('video') or s['image']}", copy["video"])
check_disjoint(train_set, open_data(write("copied.json", copied)))  # no error
print("copies:", len(copied), "found: 0")

# %% [markdown]
# ### Sample 0, again and again
#
# **Break it.** Somewhere in every collection are files that were cut off on their way.
# The described system catches *any* exception of a sample, and returns sample 0 in its
# place. Here are twelve clips, five of them cut in half, and a data set that does so.


# %%
class ReturnsSample0(fvv_lib.LazySupervisedDataset):
    def __getitem__(self, index):
        try:
            return super().__getitem__(index)
        except Exception:
            return super().__getitem__(0)


twelve = [{k: v for k, v in s.items() if k != "image"} for s in clips[:12]]
for i, s in enumerate(twelve):
    content = Path(folder, clips[i].get("video") or clips[i]["image"]).read_bytes()
    s["video"] = f"{mine}/{s['id']}.mp4"
    cut = i in (3, 4, 6, 9, 10)
    Path(s["video"]).write_bytes(content[: len(content) // 2] if cut else content)
path = write("twelve.json", twelve)
silent = ReturnsSample0(base.tokenizer, [str(path)], settings(path), frame_spec=spec)
print("samples:", len(silent))

# %% [markdown]
# **Symptom.** None. It has the right length and every batch has the right shape. You see
# something only if you count:


# %%
def fingerprint(item):
    return tuple(item["input_ids"].tolist()), item["images"].sum().item()


learned = [fingerprint(silent[i]) for i in range(len(silent))]
counts = dict.fromkeys(map(str, range(len(silent))), 0)
for i, one in enumerate(learned):
    counts["0" if one == learned[0] else str(i)] += 1
print("different samples in one epoch:", len(set(learned)), "of", len(silent))
print("times that sample 0 is learned:", counts["0"])
plotting.plot_bars(counts, "times in one epoch")
plt.show()

# %% [markdown]
# *Figure: a bar for each sample. Sample 0 is learned six times; the five broken samples
# are not learned at all; the others once.*
#
# Half of the epoch is one clip. And *any* exception is more than a broken file: a bug in
# your own code, a disk that is full, a path that is wrong everywhere but in sample 0.
# Then the whole training is sample 0.
#
# **Measure.** Read every sample once before you train. `check_media` does, in threads.

# %%
loud = open_data(path)
problems = {index: error for index, error in loud.check_media() if error}
print("broken:", sorted(problems))
print(plain(problems[3]))

# %% [markdown]
# **Mend.** Repair the files, or leave those samples out *and say which*.
# `bad_samples="skip"` does that: here as training does it, before the first step.

# %%
skipping = open_data(path, bad_samples="skip")
problems = {index: error for index, error in skipping.check_media() if error}
skipping.leave_out(problems)
print(len(skipping), "samples are left; left out are:")
for name, error in skipping.bad.items():
    print(" ", name.split("sample ")[1], type(error).__name__)

# %% [markdown]
# **Guard.** The default is `bad_samples="raise"`: the first broken sample is an error,
# before any step. With `skip`, the names of all that were left out are written beside the
# results, in `metrics.json`.

# %%
try:
    loud[3]
except fvv_lib.VideoDecodeError as error:
    print("an error, and no other sample in its place:", type(error).__name__)

# %% [markdown]
# ### All that can be wrong, before you train
#
# Files are not the only thing. `fvv check` looks at everything and says
# what to do. Give it some of the twelve, and some that were written badly.


# %%
def said(*turns):
    return [{"from": who, "value": text} for who, text in turns]


good, video = twelve[0]["conversations"], twelve[1]["video"]
bad = {
    "no-place": said(("human", "What is it?"), ("gpt", "A cross.")),
    "no-answer": said(("human", "<image>\nWhat is it?")),
    "no-order": said(("gpt", "A cross."), ("human", "<image>\nWhat is it?")),
    "too-long": said(("human", "<image>\n" + "Why? " * 40), ("gpt", "So.")),
}
written_badly = [{"id": k, "video": video, "conversations": v} for k, v in bad.items()]
lost = {"id": "lost", "video": "nowhere.mp4", "conversations": good}
mixed = [*twelve[:4], *written_badly, lost]
path = write("mixed.json", mixed)
print(len(mixed), "samples")

# %%
import contextlib
import io

from fvv_lib.cli import check


def run_check(*arguments):
    flags = ["--model_name_or_path", f"{folder}/tiny-fastvlm"]
    flags += ["--image_folder", folder, "--model_max_length", "120"]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        check.main([*map(str, arguments), *flags])
    return plain(shown.getvalue())


print(run_check(path, "--write_clean", mine / "clean.json"))

# %% [markdown]
# In a terminal that is `fvv check mixed.json` with the same flags. One line
# for each kind of error, then each sample with its remedy. `--write_clean` has written
# the good ones to a file of their own. Train on that:

# %%
print(run_check(mine / "clean.json"))
temporary.cleanup()

# %% [markdown]
# In your own code, `check_data` gives the same as records, and `plot_data` draws what the
# data set holds.

# %%
from fvv_lib.data.report import check_data

reports = check_data(open_data(f"{folder}/val.json", bad_samples="skip"), quiet=True)
media = [one for report in reports for one in report.media]
seconds = [one.seconds for one in media if one.seconds]
tokens = [int(report.tokens) for report in reports]
print(f"{len(seconds)} videos of {min(seconds):.1f} to {max(seconds):.1f} seconds")
print(f"{len(tokens)} samples of {min(tokens)} to {max(tokens)} positions")
plotting.plot_data(
    seconds, [(one.width, one.height) for one in media], tokens, base.context_len
)
plt.show()

# %% [markdown]
# *Figure: three histograms. Nearly all videos last three seconds; there are two sizes;
# all samples are far left of the dashed limit of the model.*
#
# `--histograms` writes the same picture to a file. Look for what stands alone: a clip of
# an hour among clips of seconds, or a sample close to the limit.

# %% [markdown]
# ## Takeaways
#
# - A sample is text and a path. Its text is checked when the data set is made, its pixels
#   are read when it is asked for.
# - A batch may mix text, pictures and videos; `images` has an entry for each sample.
# - Split clips, not questions, and let the library compare the files of both sets.
# - A result that is too good is a leak until you have looked.
# - An exception that is caught and forgotten becomes a data set of sample 0.
# - Run `fvv check` before you train.

# %% [markdown]
# ## Exercises
#
# Four, in
# [exercises/05_dataset_and_validation.ipynb](exercises/05_dataset_and_validation.ipynb).
# Each checks itself; the answers are in
# [solutions/05_dataset_and_validation.ipynb](solutions/05_dataset_and_validation.ipynb).
#
# Before: [04 · Encoder flattening](04_encoder_flattening.ipynb). Next:
# [06 · Full fine-tuning](06_full_finetuning.ipynb).

# %% [markdown]
# ## References
#
# - Liu et al., *Visual Instruction Tuning* (LLaVA), NeurIPS 2023,
#   [arXiv:2304.08485](https://arxiv.org/abs/2304.08485)
# - Kapoor and Narayanan, *Leakage and the reproducibility crisis in
#   machine-learning-based science*, Patterns, 2023,
#   [arXiv:2207.07048](https://arxiv.org/abs/2207.07048)
# - PyTorch's [Dataset and DataLoader](https://docs.pytorch.org/docs/stable/data.html)
