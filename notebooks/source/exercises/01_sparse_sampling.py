# %% [markdown]
### BEGIN SOLUTION
# # Solutions 01 · Sparse sampling
#
# Answers to the [exercises](../exercises/01_sparse_sampling.ipynb) of
# [01 · Sparse sampling](../01_sparse_sampling.ipynb). Try first; yours may be shorter.
### STUB
# # Exercises 01 · Sparse sampling
#
# Three exercises for [01 · Sparse sampling](../01_sparse_sampling.ipynb). Change the
# cells that begin with `# Your turn`, then run the check below. It says `passed`, or
# `not yet` and a hint. The answers are in
# [solutions](../solutions/01_sparse_sampling.ipynb).
### END SOLUTION

# %%
import av
import matplotlib.pyplot as plt
import numpy as np

import fvv_lib
from fvv_lib import plotting

folder = "../../data_samples"

# %% [markdown]
# ## Exercise 1: the middles
#
# *Easy, 5 minutes.* Cut a clip into `num_frames` equal parts and return the index of the
# frame in the middle of each part, without calling `sample_frame_indices`. Part *i*
# reaches from *i* × total / N to (*i* + 1) × total / N; round its middle down.


# %%
# Your turn
def middles(total_frames, num_frames):
    ### BEGIN SOLUTION
    parts = np.arange(num_frames)
    return (2 * parts + 1) * total_frames // (2 * num_frames)
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 1
def same(total, n):
    wanted = fvv_lib.sample_frame_indices(total, n, "segment")
    return np.array_equal(middles(total, n), wanted)


tests = [
    (same(24, 1), "one part of 24 frames has its middle at frame 12"),
    (same(24, 4), "four parts of 24 frames: 3, 9, 15, 21"),
    (same(5, 8), "a clip of 5 frames must give 8 indices too; some repeat"),
    (all(same(t, n) for t in range(1, 50) for n in range(1, 50)), "try odd lengths"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 2: how many frames are enough?
#
# *Medium, 15 minutes.* Something happens in `length` frames of a clip of `total_frames`,
# and you do not know when. Return the smallest number of frames with which uniform
# sampling never misses it, wherever it begins.


# %%
# Your turn
def enough(total_frames, length):
    ### BEGIN SOLUTION
    for n in range(1, total_frames + 1):
        chosen = fvv_lib.sample_frame_indices(total_frames, n)
        unseen = np.diff(chosen, prepend=-1, append=total_frames) - 1
        if unseen.max() < length:
            return n
    return total_frames
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 2
def misses(total, length, n):
    chosen = set(fvv_lib.sample_frame_indices(total, n).tolist())
    starts = range(total - length + 1)
    return any(chosen.isdisjoint(range(start, start + length)) for start in starts)


def smallest(total, length):
    return next(n for n in range(1, total + 1) if not misses(total, length, n))


cases = [(total, length) for total in range(2, 30) for length in range(1, total)]
tests = [
    (enough(24, 24) == 1, "what lasts the whole clip is seen with 1 frame"),
    (enough(24, 1) == 24, "what lasts one frame is only sure to be seen with all 24"),
    (enough(24, 8) == 4, "what lasts 8 of 24 frames needs 4: look at the longest gap"),
    (all(enough(*case) == smallest(*case) for case in cases), "try every start"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# What you wrote, drawn. The row in the middle is just dense enough for the hatched event.

# %%
needed = {length: enough(24, length) for length in (3, 8, 12)}
print("frames needed for events of 3, 8 and 12 frames:", list(needed.values()))
rows = {
    f"{length} frames long": fvv_lib.sample_frame_indices(24, n or 1)
    for length, n in needed.items()
}
plotting.plot_sampling(24, rows, {"an event of 8 frames": (8, 15)})
plt.show()

# %% [markdown]
# *Figure: three timelines, one for each length of event, and a hatched span of eight
# frames. Once you are done, the shorter the event, the more dots there are.*

# %% [markdown]
# ## Exercise 3: the guard
#
# *Hard, 20 minutes.* Somebody's reader gives you `frames`, uint8 (N, H, W, 3), and says
# that they are the frames at `indices` of the clip at `path`. Return the list of places
# *i* at which `frames[i]` is not the true frame. Decode from the first packet to the
# last, with PyAV: `container.decode(video=0)`, then `frame.to_ndarray(format="rgb24")`.


# %%
# Your turn
def wrong_places(path, indices, frames):
    ### BEGIN SOLUTION
    with av.open(path) as container:
        decoded = container.decode(video=0)
        every = [frame.to_ndarray(format="rgb24") for frame in decoded]
    pairs = zip(indices, frames, strict=True)
    same = [np.array_equal(every[i], frame) for i, frame in pairs]
    return [place for place, right in enumerate(same) if not right]
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 3
path = f"{folder}/videos/test/motion-0007.mp4"
true = fvv_lib.read_video(path, 8)
every = fvv_lib.read_video(path, true.total_frames).frames
two = np.array([5, 1])
mixed, bent = true.frames.copy(), true.frames.copy()
mixed[[2, 5]] = mixed[[5, 2]]
bent[7, 0, 0, 0] += 1
tests = [
    (
        wrong_places(path, true.indices, true.frames) == [],
        "of true frames none is wrong",
    ),
    (wrong_places(path, true.indices, mixed) == [2, 5], "frames 2 and 5 were swapped"),
    (wrong_places(path, true.indices, bent) == [7], "one wrong pixel is wrong, too"),
    (wrong_places(path, two, every[[5, 20]]) == [1], "look at indices, in any order"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")
