# %% [markdown]
### BEGIN SOLUTION
# # Solutions 00 · Start here
#
# Answers to the [exercises](../exercises/00_start_here.ipynb) of
# [00 · Start here](../00_start_here.ipynb). Try first; yours may be shorter.
### STUB
# # Exercises 00 · Start here
#
# Two exercises for [00 · Start here](../00_start_here.ipynb). Change the cells that begin
# with `# Your turn`, then run the check below. It says `passed`, or `not yet` and a hint.
# The answers are in [solutions](../solutions/00_start_here.ipynb).
### END SOLUTION

# %%
import os

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # a progress bar is not a result

import json
from pathlib import Path

import fvv_lib
from fvv_lib.evaluation.scoring import is_correct

folder = "../../data_samples"
samples = {s["id"]: s for s in json.loads(Path(f"{folder}/test.json").read_text())}
base = fvv_lib.load_pretrained_model(f"{folder}/tiny-fastvlm")

# %% [markdown]
# ## Exercise 1: two answers
#
# *Easy, 5 minutes.* Ask the model for the colour and the shape in the clip `video`. Put
# its two answers into the list `answers`, the colour first.

# %%
# Your turn
video = f"{folder}/videos/test/motion-0007.mp4"
### BEGIN SOLUTION
questions = ["What colour is the shape?", "What shape is it?"]
answers = [fvv_lib.ask(base, video, question) for question in questions]
### STUB
# answers = []
### END SOLUTION

# %%
# Check 1
sample = samples["test-motion-0007"]
said = [turn["value"] for turn in sample["conversations"]]
truth = dict(zip(sample["kinds"], said[1::2], strict=True))
tests = [
    (len(answers) == 2, "call fvv_lib.ask(base, video, question) for two questions"),
    (
        answers[:1] == [truth["colour"]],
        "the colour comes first: 'What colour is the shape?'",
    ),
    (answers[1:] == [truth["shape"]], "the shape comes second: 'What shape is it?'"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 2: count
#
# *Medium, 15 minutes.* One answer is no result. Write `count_right`: of these samples,
# how many questions of a kind are answered rightly? `answer(video, question)` returns the
# model's answer: give it the path as the sample has it. A sample has its file under
# `video` or `image`; `kinds`, a name for each question; `conversations`, in which
# question and true answer take turns; and `choices`, for each question the words of which
# an answer must name the right one. `is_correct(generated, expected, choices)` compares.


# %%
# Your turn
### BEGIN SOLUTION
def questions_of(sample, kind):
    said = [t["value"].removeprefix("<image>\n") for t in sample["conversations"]]
    for i, name in enumerate(sample["kinds"]):
        if name == kind:
            yield said[2 * i], said[2 * i + 1], sample["choices"][i]


### STUB
### END SOLUTION
def count_right(samples, kind, answer):
    ### BEGIN SOLUTION
    right = 0
    for sample in samples:
        video = sample.get("video") or sample["image"]
        for question, truth, choices in questions_of(sample, kind):
            right += is_correct(answer(video, question), truth, choices)
    return right
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 2: against a model that says "It is red." to everything
def red(video, question):
    asked.append((str(video), question))
    return "It is red."


asked = []
motion = [s for s in samples.values() if "motion" in s["kinds"]]
files = [s.get("video") or s["image"] for s in motion]
truly_red = sum("It is red." in str(s["conversations"]) for s in motion)
none, mine = (count_right(some, "colour", red) for some in ([], motion))
colour = all(question == "What colour is the shape?" for _, question in asked)
once = sorted(video for video, _ in asked) == sorted(files)
tests = [
    (isinstance(none, int), "of no samples, 0 are right"),
    (colour, "ask questions of this kind only, without '<image>\\n'"),
    (
        once,
        "ask once for each sample, with the path that it has, no folder before",
    ),
    (mine == truly_red, "question i is turn 2 * i; its answer follows it"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")


# %% [markdown]
# Now the real model, on clips in which the shape moves up or down.


# %%
def tiny(video, question):
    return fvv_lib.ask(base, f"{folder}/{video}", question)


chosen = [samples[f"test-motion-{number:04d}"] for number in (2, 3, 6, 7)]
for kind in ("colour", "motion"):
    print(kind, count_right(chosen, kind, tiny), "of", len(chosen))
