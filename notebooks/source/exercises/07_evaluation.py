# %% [markdown]
### BEGIN SOLUTION
# # Solutions 07 · Evaluation
#
# Answers to the [exercises](../exercises/07_evaluation.ipynb) of
# [07 · Evaluation](../07_evaluation.ipynb). Try first; yours may be shorter.
### STUB
# # Exercises 07 · Evaluation
#
# Four exercises for [07 · Evaluation](../07_evaluation.ipynb). Change the cells that
# begin with `# Your turn`, then run the check below. It says `passed`, or `not yet` and
# a hint. The answers are in [solutions](../solutions/07_evaluation.ipynb).
### END SOLUTION

# %%
import os

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # a progress bar is not a result

import json
import math
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch

import fvv_lib
from fvv_lib.evaluation.generation import generate_answers, prompt_ids

# %%
folder = "../../data_samples"
trained = fvv_lib.load_pretrained_model(f"{folder}/tiny-fastvlm-video")

# %% [markdown]
# ## Exercise 1: what counts as right
#
# *Easy, 10 minutes.* `choices` are the texts of which an answer must name one. Return
# True where the answer `said` names `right` and no other choice. Upper and lower case
# do not matter. A choice must stand there as a whole word: "infrared" is not "red". A
# choice may be two words. No choice is a part of another one here.


# %%
# Your turn
def names_only(said, right, choices):
    ### BEGIN SOLUTION
    pattern = rf"\b({'|'.join(choices)})\b"
    named = {word.lower() for word in re.findall(pattern, said, re.IGNORECASE)}
    return named == {right}
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 1
choices = ["left", "right", "up", "down", "red circle", "blue square"]
asked = [
    ("It moves to the left.", "left", True, "the plain case"),
    ("Left!", "left", True, "upper and lower case are the same"),
    ("It moves to the right.", "left", False, "another choice is wrong"),
    ("It moves.", "left", False, "no choice is wrong"),
    ("It moves left or right.", "left", False, "two choices are no answer"),
    ("It is upside.", "up", False, "a choice must be a whole word"),
    ("The red circle comes first.", "red circle", True, "a choice may be two words"),
]
hints = [
    hint for said, way, truth, hint in asked if names_only(said, way, choices) != truth
]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 2: the blind guesser
#
# *Medium, 15 minutes.* How far does one come without any video? `train` and `test` are
# lists of (question, answer). For each question of `test`, guess the answer that this
# very question has most often in `train`; a question that is not in `train` is answered
# wrong. Return the share that is right. A real test set that a blind guesser passes
# asks nothing about the video.


# %%
# Your turn
def blind(train, test):
    ### BEGIN SOLUTION
    answers = defaultdict(Counter)
    for question, answer in train:
        answers[question][answer] += 1
    guess = {question: a.most_common(1)[0][0] for question, a in answers.items()}
    return sum(guess.get(q) == answer for q, answer in test) / len(test)
    ### STUB
    # return None
    ### END SOLUTION


# %%
# For the check: all questions of a kind, with their answers
def pairs(split, kind):
    for sample in json.loads(Path(f"{folder}/{split}.json").read_text()):
        turns = [t["value"].removeprefix("<image>\n") for t in sample["conversations"]]
        rows = zip(sample["kinds"], turns[::2], turns[1::2], strict=True)
        yield from ((q, a) for k, q, a in rows if k == kind)


# %%
# Check 2
taught = [("Which?", "A."), ("Which?", "B."), ("Which?", "B."), ("Who?", "Me.")]
motion = [list(pairs(split, "motion")) for split in ("train", "test")]
tests = [
    (blind(taught, [("Which?", "B."), ("Which?", "A.")]) == 0.5, "B is most frequent"),
    (blind(taught, [("Who?", "Me.")]) == 1, "each question has its own answers"),
    (blind(taught, [("Why?", "B."), ("Who?", "Me.")]) == 0.5, "Why? was never taught"),
    (blind(*motion) == 0.25, "one direction of four is right, on the course's data"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 3: does it turn round?
#
# *Medium, 15 minutes.* `answer` takes the frames of a clip, uint8 (T, C, H, W), and
# returns `left`, `right`, `up` or `down`. Return the share of `clips` for which the
# answer to the clip backwards is the opposite of the answer to the clip as it is.

# %%
opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}


# %%
# Your turn
def turns_round(answer, clips):
    ### BEGIN SOLUTION
    turned = [answer(clip.flip(0)) == opposite[answer(clip)] for clip in clips]
    return sum(turned) / len(turned)
    ### STUB
    # return None
    ### END SOLUTION


# %%
# For the check: a white bar, and three ways to answer
def bar(columns):
    frames = torch.zeros(len(columns), 3, 64, 64, dtype=torch.uint8)
    for frame, column in zip(frames, columns, strict=True):
        frame[:, :, column : column + 6] = 255
    return frames


def watches(frames):
    first, last = (frames[t, 0, 0].argmax() for t in (0, -1))
    return "right" if last > first else "left"


def looks_where(frames):
    return "right" if frames[..., 50:].any() else "left"


def looks_up(frames):
    return "up" if watches(frames) == "right" else "left"


# %%
# For the check: the trained model, and clips in which only time tells
from fvv_lib.course.scenes import motion_clip


def ask_model(frames):
    text = "<image>" * 8 + "\nWhich way does it move?"
    ids = prompt_ids([{"from": "human", "value": text}], trained.tokenizer, "qwen_2")
    said = generate_answers(trained.model, trained.tokenizer, [ids], [frames], "qwen_2")
    return next(way for way in opposite if way in said[0])


drawn = [motion_clip(np.random.default_rng(seed), "left", 8) for seed in range(12)]
stay = [fvv_lib.preprocess_frames(f, 64) for f, start in drawn if start.x > 0.55]

# %%
# Check 3
right, near_edge = bar(range(4, 32, 4)), bar(range(20, 56, 5))
tests = [
    (turns_round(watches, [right, right.flip(0)]) == 1, "what watches turns round"),
    (turns_round(looks_where, [right, near_edge]) == 0, "what looks where does not"),
    (turns_round(lambda frames: "up", [right]) == 0, "nor what says always the same"),
    (
        turns_round(looks_up, [right, right.flip(0)]) == 0,
        "another answer is not yet the opposite",
    ),
    (turns_round(ask_model, stay) == 1, "the trained model, where only time tells"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 4: is the second model better?
#
# *Hard, 20 minutes.* Two models have answered the same questions; `a` and `b` say for
# each question whether the answer was right. Where both are right or both are wrong,
# you learn nothing about who is better. Of the others, if the models were equally good,
# each would win half, like tosses of a coin. Return the probability that a coin gives a
# result at least as uneven as this one, to either side: 2 times that of the larger
# number of heads or more, at most 1; and 1.0 where no question is left.


# %%
# Your turn
def sign_test(a, b):
    ### BEGIN SOLUTION
    differ = [one for one, other in zip(a, b, strict=True) if one != other]
    n, most = len(differ), max(sum(differ), len(differ) - sum(differ))
    tail = sum(math.comb(n, heads) for heads in range(most, n + 1)) / 2**n
    return min(1.0, 2 * tail)
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 4
def wins(for_a, for_b, same=5):
    a = [True] * for_a + [False] * for_b + [True] * same
    return a, [False] * for_a + [True] * for_b + [True] * same


def near(mine, p):
    return mine is not None and math.isclose(mine, p)


known = {(10, 0): 2 / 1024, (0, 10): 2 / 1024, (9, 1): 22 / 1024, (3, 1): 10 / 16}
tests = [
    (near(sign_test(*wins(0, 0)), 1), "two models that are the same"),
    (near(sign_test(*wins(2, 2)), 1), "two wins each: at most 1"),
    *((near(sign_test(*wins(*n)), p), f"{n} wins: {p:.3f}") for n, p in known.items()),
    (
        near(sign_test(*wins(9, 1, 99)), 22 / 1024),
        "where both are right, nothing is learned",
    ),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")
