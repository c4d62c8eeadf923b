# %% [markdown]
### BEGIN SOLUTION
# # Solutions 03 · Tokenization mismatch
#
# Answers to the [exercises](../exercises/03_tokenization_mismatch.ipynb) of
# [03 · Tokenization mismatch](../03_tokenization_mismatch.ipynb). Try first; yours may be
# shorter.
### STUB
# # Exercises 03 · Tokenization mismatch
#
# Three exercises for [03 · Tokenization mismatch](../03_tokenization_mismatch.ipynb).
# Change the cells that begin with `# Your turn`, then run the check below. It says
# `passed`, or `not yet` and a hint. The answers are in
# [solutions](../solutions/03_tokenization_mismatch.ipynb).
### END SOLUTION

# %%
import matplotlib.pyplot as plt

import fvv_lib
from fvv_lib import plotting

print("a frame is", fvv_lib.IMAGE_TOKEN_INDEX, " not learned is", fvv_lib.IGNORE_INDEX)

# %%
from fvv_lib.course.tiny import build_tokenizer

tokenizer = build_tokenizer()


def conversation(turns, answer):
    question = {"from": "human", "value": "What is it?"}
    return [question, {"from": "gpt", "value": answer}] * turns


# %% [markdown]
# ## Exercise 1: read the labels
#
# *Easy, 5 minutes.* Return what a model learns from `labels`, as text: the tokens that
# are not -100, decoded. `tokenizer.decode` takes a list of ids.


# %%
# Your turn
def learned_text(labels):
    ### BEGIN SOLUTION
    return tokenizer.decode([label for label in labels if label != -100])
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 1
def labels_of(turns, version="qwen_2"):
    return fvv_lib.preprocess([turns], tokenizer, version=version)["labels"][0].tolist()


one, two = (labels_of(conversation(n, "It is red.")) for n in (1, 2))
tests = [
    (learned_text([]) == "", "of no labels, nothing: an empty text"),
    (learned_text([-100, -100]) == "", "-100 is no token: leave it out"),
    (learned_text(one) == "It is red.<|im_end|>\n", "the answer with its end mark"),
    (learned_text(two) == f"{learned_text(one)}" * 2, "two rounds, two answers"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 2: foretell the warning
#
# *Medium, 20 minutes.* With `v1` the old code counts a BOS token that is not there: +1.
# In each round it counts the text up to `</s>`, and nothing for `</s>` itself. From the
# second round on it takes one more token off. Return counted minus total for `turns`
# rounds with this `answer`, without `diagnose_labels`.
#
# How many tokens does `</s>` add to a round? `tokenizer.tokenize` tells; a full stop
# before it may merge with it, so ask for the answer with `</s>` and without.


# %%
# Your turn
def difference(turns, answer):
    ### BEGIN SOLUTION
    mark = len(tokenizer.tokenize(answer + "</s>")) - len(tokenizer.tokenize(answer))
    return 1 - turns * mark - (turns - 1)
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 2
def right(turns, answer):
    report = fvv_lib.diagnose_labels(conversation(turns, answer), tokenizer, "v1")
    return difference(turns, answer) == report.counted - report.total


tests = [
    (right(1, "It is red."), "one round: 1 for BOS, minus the tokens of '</s>'"),
    (right(2, "It is red."), "two rounds: twice '</s>', and one more token off"),
    (all(right(n, "It is red.") for n in range(1, 6)), "try more rounds"),
    (all(right(n, "a <") for n in range(1, 6)), "' <' and '</' may merge: measure it"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# ## Exercise 3: labels from spans
#
# *Hard, 20 minutes.* `pieces` is a rendered conversation: a list of (text, learned).
# Return ids and labels, two lists of one length. An `<image>` in a text has the id -200
# and is never learned; `fvv_lib.tokenizer_image_token(text, tokenizer)` gives the ids of
# a text, with -200 for each.


# %%
# Your turn
def ids_and_labels(pieces):
    ### BEGIN SOLUTION
    ids, labels = [], []
    for text, learned in pieces:
        new = fvv_lib.tokenizer_image_token(text, tokenizer)
        ids += new
        labels += [n if learned and n != -200 else -100 for n in new]
    return ids, labels
    ### STUB
    # return None
    ### END SOLUTION


# %%
# Check 3
def agrees(turns, version):
    pieces = fvv_lib.conversation_templates[version].render(turns)
    exact = fvv_lib.preprocess([turns], tokenizer, True, version)
    wanted = exact["input_ids"][0].tolist(), exact["labels"][0].tolist()
    return ids_and_labels(pieces) == wanted


red, odd = conversation(2, "It is red."), conversation(1, "What is <|endoftext|>?")
shown = [{"from": "human", "value": "<image><image>\nWhat is it?"}, red[1]]
named = [red[0], {"from": "gpt", "value": "The one here: <image>"}]
tests = [
    (ids_and_labels([]) == ([], []), "of no pieces, two empty lists"),
    (agrees(red, "qwen_2"), "the tokens of a learned piece are their own labels"),
    (agrees(shown, "qwen_2"), "an <image> is -200 among the ids"),
    (agrees(named, "qwen_2"), "an <image> in an answer is not learned either"),
    (agrees(odd, "qwen_2") and agrees(red, "v1"), "any text, any template"),
]
hints = [hint for right, hint in tests if not right]
print(f"not yet: {hints[0]}" if hints else "passed")

# %% [markdown]
# What you wrote, drawn, with the template that made counting fail.

# %%
pieces = fvv_lib.conversation_templates["v1"].render(red)
ids, labels = ids_and_labels(pieces) or ([], [])
words = ["<image>" if i == -200 else tokenizer.decode([i]) for i in ids]
print(sum(label != -100 for label in labels), "of", len(ids), "tokens are learned")
plotting.plot_labels(words or ["nothing yet"], labels or [-100])
plt.show()

# %% [markdown]
# *Figure: the tokens of the conversation. Once you are done, both answers are filled,
# each with its whole end mark.*
