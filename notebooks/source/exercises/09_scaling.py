# %% [markdown]
### BEGIN SOLUTION
# # Solutions 09 · Scaling
#
# Answers to the [exercises](../exercises/09_scaling.ipynb) of
# [09 · Scaling](../09_scaling.ipynb). Try first; yours may be shorter.
### STUB
# # Exercises 09 · Scaling
#
# Four exercises for [09 · Scaling](../09_scaling.ipynb). Change the cells that begin with
# `# Your turn`, then run the check below. It says `passed`, or `not yet` and a hint. The
# answers are in [solutions](../solutions/09_scaling.ipynb).
### END SOLUTION

# %%
import os

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # a progress bar is not a result

from dataclasses import replace

from fvv_lib import MemorySettings, predict_memory

folder = "../../data_samples"

# %% [markdown]
# ## Exercise 1: ZeRO on paper
#
# *Easy, 10 minutes.* With 16-bit weights, a model has for each parameter 2 bytes of
# weights, 2 of gradients, and 12 of the optimizer: two averages and the weight itself in
# 32 bits. Return how many GB (1e9 bytes) each of `gpus` holds of these states. Stage 1
# shares out the optimizer, stage 2 the gradients too, stage 3 the weights too.


# %%
# Your turn
def states(parameters, gpus, stage):
    ### BEGIN SOLUTION
    each = {"weights": 2, "gradients": 2, "optimizer": 12}
    shared = {"optimizer": 1, "gradients": 2, "weights": 3}  # from this stage on
    held = [each[kind] / (gpus if stage >= shared[kind] else 1) for kind in each]
    return sum(held) * parameters / 1e9
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 1
def close(value, paper):
    return value is not None and abs(value - paper) < 0.05 * paper


tests = [
    (close(states(7.5e9, 64, 0), 120), "without ZeRO: 16 bytes for each parameter"),
    (close(states(7.5e9, 64, 1), 31.4), "stage 1: a 64th of the optimizer"),
    (close(states(7.5e9, 64, 2), 16.6), "stage 2: a 64th of the gradients too"),
    (close(states(7.5e9, 64, 3), 1.9), "stage 3: a 64th of everything"),
    (close(states(7.5e9, 1, 3), 120), "a single GPU has nobody to share with"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 2: one loss for all
#
# *Medium, 10 minutes.* A step has several ranks, and each rank accumulates several
# batches. `losses[rank][batch]` is the mean loss of the tokens that are learned in that
# batch, `tokens[rank][batch]` how many they are. Return the mean loss of all tokens of
# the step: what one process with one large batch would have.


# %%
# Your turn
def step_loss(losses, tokens):
    ### BEGIN SOLUTION
    total = learned = 0
    for of_rank, counts in zip(losses, tokens, strict=True):
        total += sum(mean * n for mean, n in zip(of_rank, counts, strict=True))
        learned += sum(counts)
    return total / learned
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 2
def is_near(value, truth):
    return value is not None and abs(value - truth) < 1e-9


tests = [
    (is_near(step_loss([[2.0]], [[7]]), 2), "a single batch keeps its loss"),
    (is_near(step_loss([[1.0], [4.0]], [[20], [10]]), 2), "ranks count by tokens"),
    (is_near(step_loss([[1.0, 4.0]], [[20, 10]]), 2), "and so do accumulated batches"),
    (
        is_near(step_loss([[1.0, 2.0], [3.0]], [[1, 1], [8]]), 2.7),
        "a rank may have fewer batches than another",
    ),
    (is_near(step_loss([[5.0, 1.0]], [[0, 9]]), 1), "a batch of 0 tokens adds nothing"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 3: in step
#
# *Medium, 15 minutes.* Under ZeRO-3 all ranks must run the encoder equally often.
# `frames[rank]` says how many frames each rank has, and `chunk` how many pass the encoder
# at a time. Return, for each rank, how many blank frames it must add, so that each has
# equally many *whole* chunks, as few as possible. A step in which nobody has a frame
# still runs the encoder once.


# %%
# Your turn
def blanks(frames, chunk):
    ### BEGIN SOLUTION
    chunks = -(-max(1, *frames) // chunk)  # rounded up
    return [chunks * chunk - count for count in frames]
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 3
tests = [
    (blanks([8, 8], 4) == [0, 0], "whole chunks and equally many: nothing to add"),
    (blanks([0, 8], 4) == [8, 0], "text alone keeps step with a video"),
    (blanks([7, 1], 2) == [1, 7], "round up to whole chunks"),
    (blanks([0, 0], 2) == [2, 2], "nobody has frames: one chunk, so that it runs"),
    (blanks([3, 9, 5], 4) == [9, 3, 7], "the rank with the most frames decides"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 4: as long as it fits
#
# *Hard, 15 minutes.* How many frames fit? `fits(n)` says whether a clip of `n` frames
# does; more frames never take less memory. Return the largest `n` from 0 to `limit` that
# fits; 0 always does, so never ask about it. An answer takes a second, so ask seldom: for
# a limit of a million, no more than twenty times.


# %%
# Your turn
def most_frames(fits, limit):
    ### BEGIN SOLUTION
    fitting, too_many = 0, limit + 1
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        yes = fits(middle)
        fitting, too_many = (middle, too_many) if yes else (fitting, middle)
    return fitting
    ### STUB
    # return None
    ### END SOLUTION


# %%
# For the check: a model that is asked, and count how often
asked = []


def up_to(most):
    asked.clear()
    return lambda n: asked.append(n) or n <= most


def tiny_up_to(most):
    tiny = MemorySettings(f"{folder}/tiny-fastvlm", text_tokens=32, labelled_tokens=8)
    gib = predict_memory(replace(tiny, num_video_frames=most)).peak / 0.9 + 1e-9
    return lambda n: predict_memory(replace(tiny, num_video_frames=n)).fits(gib)


# %%
# Check 4
tests = [
    (most_frames(up_to(5), 8) == 5, "5 frames fit and 6 do not: 5"),
    (most_frames(up_to(0), 8) == 0, "not even one frame fits: 0"),
    (most_frames(up_to(99), 8) == 8, "never more than the limit"),
    (most_frames(up_to(123456), 10**6) == 123456, "wrong for a limit of a million"),
    (0 < len(asked) <= 20 and 0 not in asked, "asked too often: halve what is left"),
]
hints = [hint for right, hint in tests if not right]
hints = hints or ["the tiny model"] * (most_frames(tiny_up_to(3), 4) != 3)
print(f"not yet: {hints[0]}" if hints else "passed")
