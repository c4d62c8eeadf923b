# %% [markdown]
### BEGIN SOLUTION
# # Solutions 02 · Token expansion
#
# Answers to the [exercises](../exercises/02_token_expansion.ipynb) of
# [02 · Token expansion](../02_token_expansion.ipynb). Try first; yours may be shorter.
### STUB
# # Exercises 02 · Token expansion
#
# Three exercises for [02 · Token expansion](../02_token_expansion.ipynb). Change the
# cells that begin with `# Your turn`, then run the check below. It says `passed`, or
# `not yet` and a hint. The answers are in
# [solutions](../solutions/02_token_expansion.ipynb).
### END SOLUTION

# %%
import fvv_lib

print("a frame is", fvv_lib.IMAGE_TOKEN_INDEX, " not learned is", fvv_lib.IGNORE_INDEX)

# %%
from fvv_lib.course.tiny import build_tokenizer

tokenizer = build_tokenizer()

# %% [markdown]
# ## Exercise 1: how many frames fit?
#
# *Easy, 5 minutes.* A prompt has `text` tokens of text. FastVLM makes (size / 64)² tokens
# of a frame of `size` pixels. Return how many frames fit into `limit` positions, 0 if
# none does.


# %%
# Your turn
def frames_that_fit(text, size, limit):
    ### BEGIN SOLUTION
    return max(0, (limit - text) // (size // 64) ** 2)
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 1
tests = [
    (frames_that_fit(32, 1024, 2080) == 8, "32 + 8 x 256 = 2080 just fits"),
    (frames_that_fit(32, 1024, 2079) == 7, "one position less, one frame less"),
    (frames_that_fit(32, 256, 2048) == 126, "a frame of 256 pixels is 4 x 4 tokens"),
    (frames_that_fit(100, 512, 50) == 0, "the text alone is too long: 0, not -1"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 2: one count for each
#
# *Medium, 15 minutes.* Write `expand` without the library: `counts` has one number for
# each `<image>` of the text, in order. Where there are more numbers than `<image>`, or
# fewer, raise a `ValueError`: a wrong prompt must not get through.


# %%
# Your turn
def expand(text, counts):
    ### BEGIN SOLUTION
    first, *others = text.split("<image>")
    pairs = zip(counts, others, strict=True)  # strict raises the ValueError
    return first + "".join("<image>" * count + piece for count, piece in pairs)
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 2
def refuses(text, counts):
    try:
        expand(text, counts)
    except ValueError:
        return True
    return False


pair = "Before: <image>\nAfter: <image>\nWhat changed?"
tests = [
    (expand("<image>\nWhat?", [3]) == "<image>" * 3 + "\nWhat?", "one video first"),
    (
        expand(pair, [2, 1]) == fvv_lib.expand_image_tokens(pair, [2, 1]),
        "split the text at '<image>': between two pieces stand counts[i] of them",
    ),
    (expand("No picture.", []) == "No picture.", "a text without <image> stays"),
    (refuses(pair, [2]), "two <image> but one count: raise ValueError"),
    (refuses(pair, [2, 1, 1]), "two <image> but three counts: raise ValueError"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 3: what a cut leaves
#
# *Hard, 20 minutes.* Somebody's trainer cuts a sample off at `limit` positions, after
# each -200 has become `per_frame` features. Return what it still learns: the list of the
# labels (not -100) that lie before the limit, without expanding anything. Here is the
# sample.

# %%
turns = [
    {"from": "human", "value": "<image><image>\nWhat shape is it?"},
    {"from": "gpt", "value": "It is a circle."},
    {"from": "human", "value": "And here? <image>"},
    {"from": "gpt", "value": "It is a cross."},
]
both = fvv_lib.preprocess([turns], tokenizer, has_image=True)
ids, labels = both["input_ids"][0].tolist(), both["labels"][0].tolist()


# %%
# Your turn
def still_learned(ids, labels, per_frame, limit):
    ### BEGIN SOLUTION
    position, left = 0, []
    for token, label in zip(ids, labels, strict=True):
        if label != -100 and position < limit:
            left.append(label)
        position += per_frame if token == -200 else 1
    return left
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 3
def expanded(ids, labels, per_frame):
    repeats = [per_frame if token == -200 else 1 for token in ids]
    return [n for n, times in zip(labels, repeats, strict=True) for _ in range(times)]


def right(limit, per_frame):
    wanted = [n for n in expanded(ids, labels, per_frame)[:limit] if n != -100]
    return still_learned(ids, labels, per_frame, limit) == wanted


tests = [
    (right(10_000, 4), "with a high limit all labels are left"),
    (right(0, 4), "with no positions at all, nothing: an empty list"),
    (right(47, 9), "a frame takes per_frame positions, any other token takes one"),
    (all(right(n, k) for n in range(120) for k in (1, 4, 16)), "try every limit"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# What you wrote, with frames of 16 tokens: the lower the limit, the less is said.

# %%
for limit in (102, 100, 70, 62, 57):
    left = still_learned(ids, labels, 16, limit) or []
    print(f"limit {limit}: {tokenizer.decode(left)!r}")
