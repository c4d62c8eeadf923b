# %% [markdown]
### BEGIN SOLUTION
# # Solutions 04 · Encoder flattening
#
# Answers to the [exercises](../exercises/04_encoder_flattening.ipynb) of
# [04 · Encoder flattening](../04_encoder_flattening.ipynb). Try first; yours may be
# shorter.
### STUB
# # Exercises 04 · Encoder flattening
#
# Four exercises for [04 · Encoder flattening](../04_encoder_flattening.ipynb). Change the
# cells that begin with `# Your turn`, then run the check below. It says `passed`, or
# `not yet` and a hint. The answers are in
# [solutions](../solutions/04_encoder_flattening.ipynb).
### END SOLUTION

# %%
import os

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # a progress bar is not a result

import torch

import fvv_lib

# %%
folder = "../../data_samples"
base = fvv_lib.load_pretrained_model(f"{folder}/tiny-fastvlm")
model = base.model

# %% [markdown]
# ## Exercise 1: whose frame is it?
#
# *Easy, 5 minutes.* A batch is laid in one row: first all frames of entry 0, then all of
# entry 1, and so on. `sizes` says how many frames each entry has; it may be 0, for text
# alone. Return the entry, and the frame in that entry, that stands at place `i`.


# %%
# Your turn
def whose(i, sizes):
    ### BEGIN SOLUTION
    for entry, size in enumerate(sizes):
        if i < size:
            return entry, i
        i -= size
    return None
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 1
def every_place(sizes):
    return [(entry, frame) for entry, size in enumerate(sizes) for frame in range(size)]


def all_right(sizes):
    return [whose(i, sizes) for i in range(sum(sizes))] == every_place(sizes)


tests = [
    (whose(0, [8, 8]) == (0, 0), "place 0 is frame 0 of entry 0"),
    (whose(11, [8, 8]) == (1, 3), "place 11 of two videos of 8 is frame 3 of entry 1"),
    (all_right([8, 1, 3]), "entries may have different numbers of frames"),
    (all_right([0, 2, 0, 0, 1]), "an entry of 0 frames has no place"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 2: a probe
#
# *Medium, 15 minutes.* Somebody gives you a function that flattens: (B, T, C, H, W) goes
# in, (B*T, C, H, W) should come out. Write the test for it: return True if every single
# value of every frame is in its place, else False. Choose what you put in so that no
# mixture can hide; it must have three colours (C = 3). Expect that a bad function may
# fail with a RuntimeError.


# %%
# Your turn
def is_right(flatten):
    ### BEGIN SOLUTION
    probe = torch.arange(2 * 3 * 3 * 4 * 5).reshape(2, 3, 3, 4, 5)  # no value twice
    try:
        row = flatten(probe)
    except RuntimeError:
        return False
    wanted = torch.cat([probe[0], probe[1]])
    return row.shape == wanted.shape and torch.equal(row, wanted)
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 2
good = [
    ("fvv_lib's own", lambda videos: fvv_lib.flatten_frames(videos)[0]),
    ("torch's own", lambda videos: videos.flatten(0, 1)),
]
bad = [
    ("time before the videos", lambda videos: videos.transpose(0, 1).flatten(0, 1)),
    ("height and width exchanged", lambda videos: videos.flatten(0, 1).mT),
    ("blue before red", lambda videos: videos.flatten(0, 1).flip(1)),
    ("the last frame is lost", lambda videos: videos.flatten(0, 1)[:-1]),
    (
        "every frame is frame 0",
        lambda videos: videos[:, :1].expand_as(videos).flatten(0, 1),
    ),
    ("a view that cannot be", lambda videos: videos.transpose(0, 1).view(-1)),
]
said = {name: is_right(flatten) for name, flatten in good + bad}
tests = [(said[name] is True, f"'{name}' is right: say True") for name, _ in good]
tests += [(said[name] is False, f"'{name}' is wrong: say False") for name, _ in bad]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 3: freeze the statistics
#
# *Medium, 10 minutes.* Here is a model whose BatchNorm trains whenever the model does.
# Write `freeze`, to be called after `model.train()`: every BatchNorm2d in the vision
# tower goes to eval mode, and everything else stays in train mode.


# %%
# Your turn
def freeze(model):
    ### BEGIN SOLUTION
    for module in model.model.vision_tower.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 3
model.train_batchnorm = True
model.train()
freeze(model)
tower = model.model.vision_tower
norms = [m for m in tower.modules() if isinstance(m, torch.nn.BatchNorm2d)]
inside = {m for norm in norms for m in norm.modules()}
others = [m for m in model.modules() if m not in inside]
stored = {name: value.clone() for name, value in model.state_dict().items()}
generator = torch.Generator().manual_seed(0)
noise = torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)
with torch.no_grad():
    fvv_lib.encode_images(model, noise)
kept = all(value.equal(stored[name]) for name, value in model.state_dict().items())
tests = [
    (not any(m.training for m in norms), "some BatchNorm2d is in train mode: .eval()"),
    (kept, "a forward pass has changed the stored statistics"),
    (all(m.training for m in others), "freeze nothing else"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 4: splice
#
# *Hard, 20 minutes.* Put the features of one sample into its prompt. `ids`, int64 (l,),
# has -200 once per frame; `features` is (T, K, D), with T frames, K tokens of each;
# `embed(ids)` gives (l, D), and fails on -200. Return the embeddings (l', D): text in its
# order, and in the place of each -200 the K features of its frame.


# %%
# Your turn
def splice(ids, embed, features):
    ### BEGIN SOLUTION
    rows, t = [], 0
    for i in ids:
        frame = i == -200
        rows.append(features[t] if frame else embed(i[None]))
        t += int(frame)
    return torch.cat(rows)
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 4
model.load_state_dict(stored)
model.eval()
embed = model.get_input_embeddings()


@torch.no_grad()
def same(ids, frames):
    images = torch.arange(frames).reshape(-1, 1, 1, 1).expand(-1, 3, 64, 64).byte() * 90
    ids, call = torch.tensor(ids), fvv_lib.prepare_inputs_labels_for_multimodal
    wanted = call(model, ids[None], None, None, None, None, [images])[4][0]
    mine = splice(ids, embed, fvv_lib.encode_images(model, [images])[0])
    return mine is not None and torch.equal(mine, wanted)


tests = [
    (same([5, -200, 6], 1), "4 features between two words: 6 rows"),
    (same([-200, -200, 7, 8, -200], 3), "frame t belongs to sentinel number t"),
    (same([5, 6, 7], 0), "text alone has no features, and its rows stay as they are"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")
