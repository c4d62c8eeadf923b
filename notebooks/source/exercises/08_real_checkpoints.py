# %% [markdown]
### BEGIN SOLUTION
# # Solutions 08 · Real checkpoints
#
# Answers to the [exercises](../exercises/08_real_checkpoints.ipynb) of
# [08 · Real checkpoints](../08_real_checkpoints.ipynb). Try first; yours may be shorter.
### STUB
# # Exercises 08 · Real checkpoints
#
# Four exercises for [08 · Real checkpoints](../08_real_checkpoints.ipynb). Change the
# cells that begin with `# Your turn`, then run the check below. It says `passed`, or
# `not yet` and a hint. The answers are in
# [solutions](../solutions/08_real_checkpoints.ipynb).
### END SOLUTION

# %%
import os

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # a progress bar is not a result
os.environ["DS_ACCELERATOR"] = "cpu"  # else DeepSpeed says that it looks for a GPU

import json
import math
import tempfile
from pathlib import Path

import torch

import fvv_lib

# %%
from fvv_lib.model.parts import part_of

# %%
tiny = Path("../../data_samples/tiny-fastvlm")
base = fvv_lib.load_pretrained_model(tiny, "cpu")

# %% [markdown]
# ## Exercise 1: what is it?
#
# *Easy, 10 minutes.* Return what a folder holds: `"adapter"`, `"Apple's"`,
# `"Hugging Face's"`, or None for anything else. An adapter has `adapter_config.json`.
# Otherwise `model_type` in `config.json` tells: `llava_qwen2`, or `fast_vlm`, or `llava`.
# But `llava` with `mm_vision_tower` in it is LLaVA's original layout, which is none of
# the three. The name of the folder tells nothing.


# %%
# Your turn
def what_is(folder):
    ### BEGIN SOLUTION
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    file = folder / "config.json"
    settings = json.loads(file.read_text()) if file.is_file() else {}
    kinds = {"llava_qwen2": "Apple's", "fast_vlm": "Hugging Face's"}
    kinds |= {} if "mm_vision_tower" in settings else {"llava": "Hugging Face's"}
    return kinds.get(settings.get("model_type"))
    ### STUB
    # return "?"
    ### END SOLUTION


# %%
# For the check: folders with no more in them than tells what they are
def told(name, **files):
    with tempfile.TemporaryDirectory() as here:
        folder = Path(here, name)
        folder.mkdir()
        for file, content in files.items():
            (folder / f"{file}.json").write_text(json.dumps(content))
        return what_is(folder)


# %%
# Check 1
fast = {"model_type": "fast_vlm"}
original = {"model_type": "llava", "mm_vision_tower": "openai/clip-vit-large-patch14"}
tests = [
    (what_is(tiny) == "Hugging Face's", "the tiny base is a fast_vlm"),
    (told("x", config={"model_type": "llava_qwen2"}) == "Apple's", "llava_qwen2"),
    (told("x", config={"model_type": "llava"}) == "Hugging Face's", "llava"),
    (told("llava", config={"model_type": "gpt2"}) is None, "do not look at the name"),
    (told("fastvlm-hf", config=original) is None, "llava with mm_vision_tower"),
    (told("x", adapter_config={"r": 8}) == "adapter", "adapter_config.json"),
    (told("x", adapter_config={}, config=fast) == "adapter", "both: it is an adapter"),
    (told("llava") is None, "a folder may have no config.json"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 2: count without loading
#
# *Medium, 15 minutes.* How many numbers does each part of a checkpoint have? Read it from
# the table of contents of a `.safetensors` file, so that it takes no memory however
# large the file is. The first 8 bytes are the length of the table, an integer with its
# lowest byte first; then comes the table, JSON: for each tensor a dict with its `shape`.
# One entry, `__metadata__`, is no tensor. A shape of `[]` is one number. Return a dict:
# `vision_tower`, `projector`, `language_model`; `model.parts.part_of` tells the part of
# a name.


# %%
# Your turn
def count(file):
    ### BEGIN SOLUTION
    with open(file, "rb") as opened:
        table = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    table.pop("__metadata__", None)
    counts = dict.fromkeys(("vision_tower", "projector", "language_model"), 0)
    for name, entry in table.items():
        counts[part_of(name)] += math.prod(entry["shape"])
    return counts
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 2
wanted = dict.fromkeys(("vision_tower", "projector", "language_model"), 0)
for name, tensor in base.model.state_dict().items():
    if name != "lm_head.weight":  # it is the embedding, which is stored once
        wanted[part_of(name)] += tensor.numel()
mine = count(tiny / "model.safetensors") or {}
with tempfile.TemporaryDirectory() as here:
    table = b'{"lm_head.weight":{"dtype":"F32","shape":[9,8],"data_offsets":[0,288]}}'
    head = Path(here, "head.safetensors")
    head.write_bytes(len(table).to_bytes(8, "little") + table)  # a table, and no tensor
    only = count(head) or {}
tests = [
    (set(mine) == set(wanted), "three keys: vision_tower, projector, language_model"),
    (mine.get("projector") == wanted["projector"], "a shape of [2, 3] is 6 numbers"),
    (mine == wanted, "a shape of [] is one number: math.prod([]) is 1"),
    (only.get("language_model") == 72, "lm_head belongs to the language model"),
    (only.get("projector") == 0, "a part that is not there has 0"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 3: does it see?
#
# *Medium, 10 minutes.* You are given a model, and pictures, uint8 (N, C, H, W). Return
# True if the model can tell each of them from every other, else False: somewhere in the
# features that the language model reads, the two must differ by more than `least`.
# `fvv_lib.encode_images(model, pictures[None])[0]` gives features (N, K, D).


# %%
# Your turn
def sees(model, pictures, least=1e-3):
    ### BEGIN SOLUTION
    features = fvv_lib.encode_images(model, pictures[None])[0].flatten(1)
    apart = (features[:, None] - features).abs().amax(dim=2)  # (N, N)
    apart.fill_diagonal_(float("inf"))
    return bool(apart.min() > least)
    ### STUB
    # return None
    ### END SOLUTION


# %%
# For the check: pictures, two of which are equal, and a model with a random tower
generator = torch.Generator().manual_seed(0)
pictures = torch.randint(0, 256, (4, 3, 64, 64), generator=generator).byte()
twins = torch.stack([*pictures, pictures[1]])
torch.manual_seed(0)
fresh = fvv_lib.FastVlmForVideo(base.model.config).eval()
weights = base.model.state_dict()
kept = {name: value for name, value in weights.items() if "vision_tower" not in name}
print("random tower, not loaded:", len(fresh.load_state_dict(kept, False).missing_keys))

# %%
# Check 3
tests = [
    (sees(base.model, pictures) is True, "the tiny base tells these pictures apart"),
    (sees(fresh, pictures) is False, "a random tower gives the same for every picture"),
    (sees(base.model, twins) is False, "two are equal: compare every pair"),
    (sees(base.model, pictures, least=1e6) is False, "no feature differs by so much"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 4: merge
#
# *Medium, 15 minutes.* Merge an adapter into a weight: `w` is bfloat16 (out, in), `a` is
# float32 (rank, in), `b` is float32 (out, rank). Return two things: the merged weight in
# float32, and the share (0 to 1) of the numbers that the adapter changes but that
# bfloat16 would round back to what they were.


# %%
# Your turn
def merge(w, a, b, alpha):
    ### BEGIN SOLUTION
    old = w.float()
    merged = old + alpha / len(a) * (b @ a)
    changed = merged != old
    lost = changed & (merged.bfloat16() == w)
    return merged, lost.sum().item() / max(changed.sum().item(), 1)
    ### STUB
    # return torch.zeros(1), 0.0
    ### END SOLUTION


# %%
# For the check: weights from 1 to 2, where bfloat16 numbers are 1/128 apart
ones = torch.full((4, 2), 1.5, dtype=torch.bfloat16)


def near(mine, weight, share):
    merged, lost = mine
    same = merged.shape == weight.shape and torch.allclose(merged, weight)
    return same and merged.dtype == torch.float32 and abs(lost - share) < 1e-6


a, b = torch.ones(1, 2), torch.tensor([[0.001], [0.002], [0.1], [0.2]])
few = b * torch.tensor([[1], [1], [0], [0]])

# %%
# Check 4
full, two = torch.full((4, 2), 1.5), (a.repeat(2, 1), b.repeat(1, 2))
tests = [
    (
        near(merge(ones, a, b, 0.0), full, 0),
        "alpha 0 changes nothing, and loses nothing",
    ),
    (
        near(merge(ones, a, b, 1.0), full + b, 0.5),
        "0.001 and 0.002 are lost, no others",
    ),
    (near(merge(ones, a, b, 10.0), full + 10 * b, 0), "a larger alpha changes more"),
    (near(merge(ones, *two, 1.0), full + b, 0.5), "divide alpha by the rank"),
    (near(merge(ones, a, few, 1.0), full + few, 1), "count only what is changed"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")
