# %% [markdown]
# # 03 · Tokenization mismatch
#
# The loss is zero, and no error says why. Somebody found a cure. What did it cost?

# %% [markdown]
# ## What you will be able to do
#
# - say which tokens of a conversation are learned, and see it
# - read a mismatch warning, and find the token where counting went wrong
# - say why a tolerance of five tokens brings the loss back, and what it hides
# - find the cause, and have the labels right for any tokenizer
# - set up the guards that would have caught it

# %% [markdown]
# ## Minutes and hardware
#
# 40 minutes. Any computer with Python; no GPU, no network.

# %% [markdown]
# ## The problem, seen with your own eyes
#
# Somebody fine-tunes FastVLM on video with LLaVA's code, and mistypes the name of the
# chat template. The code knows no such name and takes another one, `v1`, without a word.
# Here are questions and answers of the course, labelled by the algorithm of that code:
# `mismatch="strict"`.

# %%
import json
import os
import warnings
from pathlib import Path

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # a progress bar is not a result

import matplotlib.pyplot as plt
import torch

import fvv_lib
from fvv_lib import plotting
from fvv_lib.labels.exact import check_template

# %%
folder = "../data_samples"
base = fvv_lib.load_pretrained_model(f"{folder}/tiny-fastvlm")
tokenizer = base.tokenizer
samples = json.loads(Path(f"{folder}/val.json").read_text())
sources = [sample["conversations"] for sample in samples]


def label(mismatch, version="v1"):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        both = fvv_lib.preprocess(sources, tokenizer, True, version, mismatch)
    return both["labels"], [str(warning.message) for warning in caught]


strict, said = label("strict")
print(*said[:3], sep="\n")
learned = sum(int((one != -100).sum()) for one in strict)
print(f"{len(said)} warnings, {len(sources)} samples, {learned} tokens learned")

# %% [markdown]
# A label of -100 means: do not learn this token. Every label of every sample is -100.
# What is the loss of such a sample?

# %%
text = [[{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hello."}]]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    dropped = fvv_lib.preprocess(text, tokenizer, version="v1", mismatch="strict")
hello, target = dropped["input_ids"][0], dropped["labels"][0]
with torch.no_grad():
    logits = base.model(input_ids=hello[None]).logits[0]
print("loss:", torch.nn.functional.cross_entropy(logits[:-1], target[1:]).item())

# %% [markdown]
# A mean over no tokens is 0 / 0, not a number. And what does a training show? Three steps
# of the Trainer of transformers, measured by `benchmarks/mismatch.py`:

# %%
results = "../benchmarks/results/mismatch.json"
measured = json.loads(Path(results).read_text())
run = measured["no label is left"]
print("loss of the model:  ", run["loss of the model"])
print("losses in the log:  ", run["losses in the log"])
print("parameters changed: ", run["parameters that changed"], "of", run["parameters"])
print("the log leaves out NaN:", fvv_lib.TrainingArguments.logging_nan_inf_filter)

# %% [markdown]
# There is the mystery. The Trainer leaves NaN out of its log, unless you tell it not to,
# and what remains is **0.0**. That looks like a perfect model. Nothing was learned.

# %% [markdown]
# ## The smallest thing that works
#
# An answer is learned, and the mark that ends it; all else is given. The template knows
# where each answer begins and ends, because it wrote them. So do not count: cut the text
# into pieces, tokenize, and label the tokens of the answers. That is `mismatch="exact"`,
# and it is the default.

# %%
dialogue = [
    {"from": "human", "value": "<image>\nWhat is it?"},
    {"from": "gpt", "value": "It is a red square."},
    {"from": "human", "value": "Which way does it move?"},
    {"from": "gpt", "value": "It moves down."},
]
for piece in fvv_lib.conversation_templates["qwen_2"].render(dialogue):
    print("learned" if piece.learned else "given  ", repr(piece.text))

# %% [markdown]
# Labels as highlighted text: each box is a token, the filled ones are learned.

# %%
both = fvv_lib.preprocess([dialogue], tokenizer, has_image=True)
ids, exact = both["input_ids"][0].tolist(), both["labels"][0].tolist()
words = ["<image>" if i == -200 else tokenizer.decode([i]) for i in ids]
print(sum(n != -100 for n in exact), "of", len(ids), "tokens are learned")
plotting.plot_labels(words, exact)
plt.show()

# %% [markdown]
# *Figure: the conversation, one line for each line of text, each token in a box. Filled
# are the two answers, each with its `<|im_end|>` and line break; the system prompt, the
# questions and the headings are not.*
#
# Read the labels of a whole set back, as text. They must be the answers, in order, and
# nothing else. This is an invariant: it holds for any template and any tokenizer.

# %%
right = 0
for source, one in zip(sources, label("exact", "qwen_2")[0], strict=True):
    wanted = "".join(turn["value"] + "<|im_end|>\n" for turn in source[1::2])
    right += tokenizer.decode(one[one != -100].tolist()) == wanted
print(right, "of", len(sources), "samples: the labels are the answers, to the letter")

# %% [markdown]
# ## What can go wrong
#
# ### The zero-loss mystery
#
# **Break it.** You did, above: `strict`, with `v1`. The old algorithm does not know where
# an answer is. It splits the text into rounds, tokenizes each round again, counts, adds a
# constant for the separator, and goes on by that many tokens. At the end, the tokens
# counted must be as many as the tokens of the whole text. Where they are not, it drops
# the sample.
#
# **Symptom.** One warning for each sample, two numbers in it, and a loss of 0.
#
# **Measure.** Read the numbers. How far off is the count, and on what does that depend?


# %%
def conversation(turns, end, frames=1):
    question = {"from": "human", "value": "What is it?"}
    answer = {"from": "gpt", "value": "It is a red square" + end}
    first = {"from": "human", "value": "<image>" * frames + "\nWhat is it?"}
    return [first, answer] + [question, answer] * (turns - 1)


def difference(turns, version="v1", **settings):
    report = fvv_lib.diagnose_labels(turns, tokenizer, version, **settings)
    return report.counted - report.total


for frames in (1, 4, 16):
    print(f"{frames:>2} frames: {difference(conversation(1, '.', frames)):+d}")
for turns in (1, 2, 3):
    print(f"{turns} rounds: {difference(conversation(turns, '.')):+d}")

# %% [markdown]
# Not the video: one frame or sixteen, the same. It grows with the **rounds**. So look at
# what stands at the end of a round: the separator.

# %%
print("v1 ends an answer with", repr(fvv_lib.conversation_templates["v1"].stop))
print("tiny: ", tokenizer.tokenize("red</s>"), tokenizer.tokenize("red.</s>"))
print("Qwen2:", measured["tokens"]["red</s>"], measured["tokens"]["red.</s>"])
print("token that begins a text:", tokenizer.bos_token)

# %% [markdown]
# `v1` was written for Llama's tokenizer. There `</s>` is **one** token, and each text
# begins with a token of its own (BOS). The code counts on both. A Qwen tokenizer has no
# BOS, and cuts `</s>` into three tokens, or four in our tiny one. After a full stop Qwen2
# merges: `.</` is one token. So it matters how an answer *ends*.
#
# All cases, on the tiny tokenizer (here) and on the real one of Qwen2 (measured by
# `benchmarks/mismatch.py`):

# %%
print("template  rounds  end          tiny  Qwen2")
for case in measured["cases"]:
    version, turns, end = case["version"], case["turns"], case["answers end in a"]
    here = difference(conversation(turns, "." * (end == "full stop")), version)
    there = case["counted - total"]
    print(f"{version:<10}{turns:<8}{end:<11}{here:>+6}{there:>+7}")

# %% [markdown]
# With `v1` no case adds up. With `qwen_2`, FastVLM's own template, all do. The authors of
# the described system write that differences of 1 or 2 tokens were common. Look at the
# column of Qwen2, one round: that is what a `v1` template makes.

# %% [markdown]
# ### The cure that was found
#
# **Break it.** The described system changed two things. It asks the tokenizer for the
# length of the separator, where the old code has a constant. And it accepts a difference
# of up to five tokens.
#
# The first sounds right. What does it change?

# %%
separator = fvv_lib.conversation_templates["qwen_2"].answer_end
asked = len(tokenizer(separator, add_special_tokens=False).input_ids)
print(f"the constant: 2, tiny: {asked}, Qwen2: {measured['separator']}")
for version in ("v1", "qwen_2"):
    pair = conversation(2, ".")
    both = [difference(pair, version, fixed_separator=fixed) for fixed in (True, False)]
    print(version, "constant {:+d}, asked {:+d}".format(*both))

# %% [markdown]
# Nothing. For `qwen_2` the constant was right, and the rounds of `v1` do not use it. So
# all that brought the loss back is the tolerance.
#
# **Symptom.** The loss is a number again.

# %%
tolerant, said = label("tolerant")
print(next(line for line in said if "used" in line))
used = sum(bool((one != -100).any()) for one in tolerant)
print(f"{used} of {len(sources)} samples are used")

# %% [markdown]
# **Measure.** Compare with exact labels, token by token. First a sample with one round,
# which the tolerance accepts.

# %%
report = fvv_lib.diagnose_labels(conversation(1, "."), tokenizer, "v1")
print(report)
plotting.plot_labels(report.tokens, report.by_counting, report.exact, start=29)
plt.show()

# %% [markdown]
# *Figure: the end of the conversation. The answer is filled, with its full stop and `<`;
# the last three tokens, `/`, `s` and `>`, have a dashed frame: they belong to the answer
# and are not learned.*
#
# Almost right. The answer begins where it should. Only the end mark is torn: the model is
# taught to begin `</s>` and never to finish it. Now the real Qwen2 tokenizer, and two
# rounds; the tolerance accepts this one, too.

# %%
qwen = fvv_lib.MismatchReport(**measured["two turns, full stop"])
print(qwen)
plotting.plot_labels(qwen.tokens, qwen.by_counting, qwen.exact, start=28)
plt.show()

# %% [markdown]
# *Figure: two rounds. The first answer is filled but for the last `>`. In the second, the
# hatched tokens `IST`, `ANT` and `:` of the heading ASSISTANT are learned, then `It is a
# red`; `square` and the end mark have a dashed frame: not learned.*
#
# **The labels slid.** One token lost in the first round moves all that follows. The model
# learns to say `ISTANT:`, and never the last word of its second answer, which is the one
# that counts. No warning says so: in the described system a difference of up to five is
# accepted in silence.
#
# Three rounds are too far off, and dropped. Here is the sum, for all that the course
# trains on, labelled with Qwen2's tokenizer.

# %%
data = measured["data_samples/train.json"]["v1"]
names = ["samples", "strict", "tolerant", "answer tokens"]
names += [
    f"tolerant, {name}" for name in ("learned answer tokens", "learned other tokens")
]
names += ["tolerant, whole end marks"]
print(f"{'rounds of a sample':<32}", *[f"{rounds:>6}" for rounds in data])
for name in names:
    label_of = {"strict": "strict, samples used", "tolerant": "tolerant, samples used"}
    counts = [f"{n[name]:>6}" for n in data.values()]
    print(f"{label_of.get(name, name):<32}", *counts)

# %%
total = sum(n["answer tokens"] for n in data.values())
share = {
    "strict": 0.0,
    "tolerant": sum(n["tolerant, learned answer tokens"] for n in data.values())
    / total,
    "exact": 1.0,
}
print({name: f"{value:.1%}" for name, value in share.items()})
plotting.plot_bars(share, "answer tokens learned", percent=True)
plt.show()

# %% [markdown]
# *Figure: three bars. Strict learns nothing of the answers, tolerant half, exact all.*
#
# Now you see why the cure **worked** for those who found it. Look at the column for one
# round: every sample is used, seven answer tokens of eight are learned, and no other. One
# question, one short answer with a full stop, a loss that is a number: nothing looks
# broken. And here is what they **paid**:
#
# - in no sample is an end mark learned whole;
# - in samples with two rounds the labels slide, and the end of the last answer is lost;
# - samples with three rounds are not used at all;
# - how much of this hits you depends on punctuation and on the number of questions, so
#   it comes and goes with the data, and nothing is reported.
#
# **Mend.** Take the template that belongs to the tokenizer, and exact labels. Either
# helps; together there is nothing to tolerate.

# %%
for version in ("v1", "qwen_2"):
    one = fvv_lib.preprocess([conversation(2, ".")], tokenizer, True, version)
    one = one["labels"][0]
    print(version, "exact:", repr(tokenizer.decode(one[one != -100].tolist())))
print("qwen_2 strict:", len(label("strict", "qwen_2")[1]), "warnings")

# %% [markdown]
# Exact labels are right even with the wrong template. But the model was taught another
# end mark: with `v1` it must unlearn `<|im_end|>` first. Take its own template.
#
# **Guard.** Three of them. A template name that does not exist is an error, not `v1`; an
# end mark that is not one token is a warning; and data of which nothing is learned stops
# the run before the first step.

# %%
for attempt in ("qwen2", "v1"):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_template(attempt, tokenizer)
    except (fvv_lib.FvvError, UserWarning) as problem:
        print(f"{attempt}: {type(problem).__name__}")
        print(problem)

# %%
settings = fvv_lib.DataArguments(version="v1", mismatch="strict")
spec = fvv_lib.make_frame_spec(base, settings.video_config())
path = [f"{folder}/val.json"]
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # you have read them
        fvv_lib.LazySupervisedDataset(tokenizer, path, settings, frame_spec=spec)
except fvv_lib.LabelMismatchError as error:
    print(error)

# %% [markdown]
# And should a batch without labels come from elsewhere, the model does not return a loss.

# %%
base.model.train()
try:
    base.model(input_ids=hello[None], labels=target[None])
except fvv_lib.LabelMismatchError as error:
    print(error)

# %% [markdown]
# ### A mismatch with the right template
#
# **Break it.** A question that names a special token, with `qwen_2`.

# %%
odd = [
    {"from": "human", "value": "What does <|endoftext|> mean?"},
    {"from": "gpt", "value": "It ends a text."},
]
print(f"counted - total: {difference(odd, 'qwen_2'):+d}")

# %% [markdown]
# **Symptom.** A difference of one, and `strict` drops a sample that is perfectly good.
#
# **Measure.** The old code counts the tokens of the text that are not padding. Qwen pads
# with `<|endoftext|>`, so the one in your text is not counted.

# %%
report = fvv_lib.diagnose_labels(odd, tokenizer, "qwen_2")
print(report)
print("pads with", tokenizer.pad_token)

# %% [markdown]
# **Mend.** Exact labels do not count, so there is nothing to go wrong.
#
# **Guard.** Before you train, `diagnose_labels` on a few samples of your own.

# %% [markdown]
# ## Takeaways
#
# - A loss of exactly 0 means that nothing is learned. Look at the labels.
# - The mismatch came from a template of one family and a tokenizer of another. Video had
#   no part in it.
# - A tolerance hides the symptom and keeps the disease: torn end marks, slid labels,
#   dropped dialogues.
# - Know where an answer is, do not count to it: exact labels come from spans.
# - Read labels back as text. That takes one line, and it shows everything.

# %% [markdown]
# ## Exercises
#
# Three, in
# [exercises/03_tokenization_mismatch.ipynb](exercises/03_tokenization_mismatch.ipynb).
# Each checks itself; the answers are in
# [solutions/03_tokenization_mismatch.ipynb](solutions/03_tokenization_mismatch.ipynb).
#
# Before: [02 · Token expansion](02_token_expansion.ipynb). Next:
# [04 · Encoder flattening](04_encoder_flattening.ipynb).

# %% [markdown]
# ## References
#
# - Liu et al., *Improved Baselines with Visual Instruction Tuning* (LLaVA-1.5),
#   CVPR 2024, [arXiv:2310.03744](https://arxiv.org/abs/2310.03744)
# - Yang et al., *Qwen2 Technical Report*, 2024,
#   [arXiv:2407.10671](https://arxiv.org/abs/2407.10671)
# - [LLaVA](https://github.com/haotian-liu/LLaVA), where the counting comes from
