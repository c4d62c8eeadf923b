# %% [markdown]
### BEGIN SOLUTION
# # Solutions 05 · Dataset and validation
#
# Answers to the [exercises](../exercises/05_dataset_and_validation.ipynb) of
# [05 · Dataset and validation](../05_dataset_and_validation.ipynb). Try first; yours may
# be shorter.
### STUB
# # Exercises 05 · Dataset and validation
#
# Four exercises for
# [05 · Dataset and validation](../05_dataset_and_validation.ipynb). Change the cells that
# begin with `# Your turn`, then run the check below. It says `passed`, or `not yet` and a
# hint. The answers are in [solutions](../solutions/05_dataset_and_validation.ipynb).
### END SOLUTION

# %%
import os

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # a progress bar is not a result

import hashlib
import json
import random
import shutil
import tempfile
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

import fvv_lib

# %%
folder = "../../data_samples"
base = fvv_lib.load_pretrained_model(f"{folder}/tiny-fastvlm")
every = json.loads(Path(f"{folder}/train.json").read_text())

# %% [markdown]
# ## Exercise 1: a sample of your own
#
# *Easy, 5 minutes.* You have a clip, and pairs of question and answer about it. Return a
# sample in LLaVA's format: a dict with `id`, `video` and `conversations`. One `<image>`
# and a line break belong before the first question, and nowhere else.


# %%
# Your turn
def to_llava(name, video, pairs):
    ### BEGIN SOLUTION
    said = []
    for question, answer in pairs:
        said.append({"from": "human", "value": question})
        said.append({"from": "gpt", "value": answer})
    said[0]["value"] = "<image>\n" + said[0]["value"]
    return {"id": name, "video": video, "conversations": said}
    ### STUB
    # return None
    ### END SOLUTION


# %%
# For the check: open a sample as training would
spec = fvv_lib.make_frame_spec(base, base.model.video_config)
open_data = fvv_lib.LazySupervisedDataset


def opens(sample):
    args = fvv_lib.DataArguments(image_folder=folder, decode_timeout=0)
    with tempfile.TemporaryDirectory() as here:
        Path(here, "mine.json").write_text(json.dumps([sample]))
        path = [f"{here}/mine.json"]
        return open_data(base.tokenizer, path, args, frame_spec=spec)[0]


# %%
# Check 1
asked = [("What shape is it?", "It is a cross."), ("Which way?", "To the right.")]
mine = to_llava("mine", "videos/train/motion-0001.mp4", asked) or {}
turns = mine.get("conversations", [])
told = [turn["value"].removeprefix("<image>\n") for turn in turns]
begins = [turn["value"].startswith("<image>\n") for turn in turns]
tests = [
    ({"id", "video", "conversations"} <= set(mine), "three keys: id, video, ..."),
    (len(turns) == 4, "each question is a turn, and so is each answer"),
    (begins[:1] == [True], "the first question begins with <image> and a line break"),
    (told == [*asked[0], *asked[1]], "each turn has its text and nothing more"),
    (sum(begins) == 1, "one video, one <image>"),
]
hints = [hint for right, hint in tests if not right]
hints = hints or ["it does not open"] * (len(opens(mine)["images"]) != 8)
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 2: an honest split
#
# *Medium, 15 minutes.* In many data sets a clip has a sample for each question. Split
# such samples into two lists and return (training, validation).
# `round(share * number of clips)` of the *clips* go to validation, with all their
# samples; the same seed gives the same split, another seed another one.


# %%
# Your turn
def split(samples, share, seed):
    ### BEGIN SOLUTION
    clips = sorted({sample["video"] for sample in samples})
    random.Random(seed).shuffle(clips)
    chosen = set(clips[: round(share * len(clips))])
    train = [sample for sample in samples if sample["video"] not in chosen]
    return train, [sample for sample in samples if sample["video"] in chosen]
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 2
asked = [{"id": f"{q}-{c}", "video": f"{c}.mp4"} for q in range(3) for c in range(40)]


def clips_of(samples):
    return {sample["video"] for sample in samples}


def ids_of(samples):
    return sorted(sample["id"] for sample in samples)


train, val = split(asked, 0.25, seed=0) or ([], [])
again, other = split(asked, 0.25, seed=0), split(asked, 0.25, seed=1) or ([], [])
tests = [
    (ids_of([*train, *val]) == ids_of(asked), "each sample must be in one list, once"),
    (not clips_of(train) & clips_of(val), "a clip is in both: split clips"),
    (len(clips_of(val)) == 10, "a quarter of 40 clips is 10"),
    (tuple(again or ()) == (train, val), "the same seed must give the same split"),
    (clips_of(other[1]) != clips_of(val), "another seed must choose others"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 3: a leak under another name
#
# *Medium, 10 minutes.* `check_disjoint` compares paths. Write the check that compares
# what is in the files: return those of the paths `val`, in order, whose bytes are also in
# a file of `train`. Keep no more of a file than its hash, `hashlib.sha256`.


# %%
# Your turn
def copies(train, val):
    ### BEGIN SOLUTION
    def digest(path):
        return hashlib.sha256(Path(path).read_bytes()).digest()

    known = {digest(path) for path in train}
    return [path for path in val if digest(path) in known]
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 3
named = [str(sample.get("video")) for sample in every]
clips = [f"{folder}/{name}" for name in named if name.endswith(".mp4")]
train, others = clips[:6], clips[6:9]
with tempfile.TemporaryDirectory() as here:
    hidden = [shutil.copy(clip, f"{here}/{i}.mp4") for i, clip in enumerate(train[:2])]
    tests = [
        (copies(train, others) == [], "these files are all different"),
        (copies(train, train[:1]) == train[:1], "the same path is the same file"),
        (copies(train, [*others, *hidden]) == hidden, "a copy has the same bytes"),
    ]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 4: a collator
#
# *Hard, 20 minutes.* Make a batch of items, each a dict of `input_ids`, `labels` and
# `images`. Return a dict of `input_ids`, padded on the right with `pad_id`; `labels`,
# padded with -100; `attention_mask`, int64, 1 where there is an item and 0 where there is
# padding; and `images`, one tensor if all have one shape, else a list. Careful: `pad_id`
# may stand in the text itself, and there it is text.


# %%
# Your turn
def collate(items, pad_id):
    ### BEGIN SOLUTION
    ids, labels, images = ([one[key] for one in items] for key in items[0])
    ones = [torch.ones_like(one) for one in ids]
    same_shape = len({frames.shape for frames in images}) == 1
    padded = pad_sequence(ids, True, pad_id), pad_sequence(labels, True, -100)
    batch = dict(zip(("input_ids", "labels"), padded, strict=True))
    batch["attention_mask"] = pad_sequence(ones, True)
    return batch | {"images": torch.stack(images) if same_shape else images}
    ### STUB
    # return None
    ### END SOLUTION


# %%
# For the check: small items, and a comparison with the library's collator
def make(*ids, frames=2):
    ids = torch.tensor(ids)
    images = torch.zeros(frames, 3, 8, 8, dtype=torch.uint8)
    return {"input_ids": ids, "labels": ids.clamp(max=5), "images": images}


def as_lists(batch):
    return {key: [one.tolist() for one in value] for key, value in batch.items()}


def same(*items):
    wanted = fvv_lib.DataCollatorForSupervisedDataset(base.tokenizer)(items)
    mine = collate(items, base.tokenizer.pad_token_id) or {"images": None}
    kinds = [type(batch["images"]) for batch in (wanted, mine)]
    return kinds[0] is kinds[1] and as_lists(wanted) == as_lists(mine)


# %%
# Check 4
pad = base.tokenizer.pad_token_id
mask = (collate([make(5, 6, 7), make(8)], pad) or {}).get("attention_mask")
int64 = isinstance(mask, torch.Tensor) and mask.dtype == torch.int64
tests = [
    (same(make(5, 6, 7), make(8, 9, 10)), "two items of one length need no padding"),
    (same(make(5, 6, 7), make(8)), "the shorter row is padded: ids, labels and mask"),
    (same(make(5, pad, 7), make(8, pad)), "pad_id in the text counts: use the lengths"),
    (same(make(5, frames=0), make(6, frames=8)), "shapes that differ make a list"),
    (int64, "attention_mask is a tensor of int64"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")
