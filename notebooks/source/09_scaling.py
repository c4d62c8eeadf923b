# %% [markdown]
# # 09 · Scaling
#
# Will it fit? What to trade when it does not, and how several processes train one model.

# %% [markdown]
# ## What you will be able to do
#
# - say what fills the memory of a GPU in a training step, before you rent one
# - trade memory for time, for what is trained, or for more GPUs, and know what each saves
# - train on two ranks, with ZeRO-2 and ZeRO-3, and prove that nothing else has changed
# - compute the features of a frozen encoder only once
# - recognise a rank that waits for ever, and a loss that is averaged wrongly
# - kill a run and go on

# %% [markdown]
# ## Minutes and hardware
#
# 60 minutes. Any computer with Linux; no GPU, no network. Two CPU processes stand for two
# GPUs.

# %% [markdown]
# ## The problem, seen with your own eyes
#
# The weights of FastVLM-0.5B fit on any GPU. So you train it, on clips of eight frames of
# 1024 pixels, and are out of memory. Look at a step from its beginning to its end.
# `dry_run` runs it on tensors that have shapes and no contents, and counts.

# %%
import os
import warnings

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # a progress bar is not a result
warnings.simplefilter("ignore", FutureWarning)  # names that libraries will change

import inspect
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

torch.set_num_threads(1)  # the work is small, and the ranks want cores too

# %%
import fvv_lib
from fvv_lib import MemorySettings, plotting, predict_memory
from fvv_lib.scaling.budget import GIB
from fvv_lib.scaling.dryrun import dry_run

folder = "../data_samples"

# %%
whole = MemorySettings("0.5b", num_video_frames=8)
predictions = {"full": predict_memory(whole)}
print(predictions["full"])


# %%
def moments(prediction):  # GiB, (operations of a step, 3)
    states = prediction.weights + prediction.optimizer
    activations, gradients = dry_run(prediction.settings).moments.T / GIB
    return np.stack([np.full(len(gradients), states), gradients, activations], axis=1)


parts = ["weights and optimizer", "gradients", "activations"]
step = moments(predictions["full"])
print(f"the fullest moment: {step.sum(axis=1).max():.2f} GiB,", end=" ")
print(f"{step.sum(axis=1).argmax() / len(step):.0%} of the step is done")
plotting.plot_moments({"a training step": step}, parts, "GiB")
plt.show()

# %% [markdown]
# *Figure: a low even floor of weights and optimizer. On it a mountain of activations: it
# rises steeply while the frames go through the encoder and slowly through the language
# model, and falls on the way back, while a thin wedge of gradients grows.*
#
# The weights are a small part of it. What lies on top is nearly all **activations**: what
# the layers gave to each other, kept for the way back.

# %% [markdown]
# ## The smallest thing that works
#
# ### Four kinds of bytes
#
# Weights, gradients, optimizer, activations. The first three you can count on your
# fingers. Train the tiny model for one step, count its bytes, and compare with the paper.

# %%
base = fvv_lib.load_pretrained_model(f"{folder}/tiny-fastvlm")
model = base.model.train()
generator = torch.Generator().manual_seed(0)


def sample(frames, words=40):
    size = (1, frames, 3, 64, 64)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    ids = torch.tensor([[-200] * frames + list(range(5, 5 + words))])
    labels = ids.masked_fill(ids == -200, -100)
    return {"input_ids": ids, "images": images, "labels": labels}


# %%
optimizer = torch.optim.AdamW(model.parameters(), lr=0)
model(**sample(8)).loss.backward()
optimizer.step()
states = [t for state in optimizer.state.values() for t in state.values() if t.ndim]
paper = predict_memory(MemorySettings(f"{folder}/tiny-fastvlm", bf16=False))
for name, tensors in (
    ("weights", [*model.parameters(), *model.buffers()]),
    ("gradients", [parameter.grad for parameter in model.parameters()]),
    ("optimizer", states),
):
    counted, predicted = sum(t.nbytes for t in tensors), getattr(paper, name) * GIB
    each = counted / paper.parameters
    print(f"{name:<10}{counted:>10,} bytes, predicted {predicted:>10,.0f},", end=" ")
    print(f"{each:.1f} for each parameter")

# %% [markdown]
# Sixteen bytes for each parameter, whatever you show to it: AdamW keeps two averages of
# each gradient. (bfloat16 makes only the activations smaller. The weights stay in
# float32, and are rounded on the way.)
#
# In a small model one weight is used twice: it turns ids into vectors and, as the head,
# vectors into scores. PyTorch would make a gradient of full size for each use, that of
# the head while the activations are all still there. `model.vocabulary` makes one, at
# the end.
#
# ### Pay with time
#
# **Gradient checkpointing** keeps little more than the input of each block. On the way
# back it computes the block again. `--frames_per_chunk 2` does that with the whole
# encoder: two frames at a time, however many there are.

# %%
checkpointed = replace(whole, gradient_checkpointing=True)
predictions["checkpointed"] = predict_memory(checkpointed)
print(f"checkpointed: {predictions['checkpointed'].peak:.2f} GiB")

# %%
chunked = replace(checkpointed, frames_per_chunk=2)
predictions["2 frames at a time"] = predict_memory(chunked)
print(f"2 frames at a time: {predictions['2 frames at a time'].peak:.2f} GiB")
panels = {name: moments(prediction) for name, prediction in predictions.items()}
plotting.plot_moments(panels, parts, "GiB")
plt.show()

# %% [markdown]
# *Figure: three panels at one scale. The mountain of the first is a low hill in the
# second, and four small waves in the third, one for each two frames on the way back.*
#
# Is it true? Count on the tiny model: the bytes that PyTorch keeps for the way back, and
# how often a block is computed.

# %%
kept, begun = {}, []
own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
in_each_block = ("RepMixer", "Attention", "Qwen2Attention")  # one of them
for module in model.modules():
    if type(module).__name__ in in_each_block:
        module.register_forward_pre_hook(lambda *_: begun.append(1))


def keep(tensor):
    storage = tensor.untyped_storage()
    kept.update({storage.data_ptr(): storage} if storage.data_ptr() not in own else {})
    return tensor


def forward_and_back(batch):  # bytes kept, blocks computed, the loss
    kept.clear(), begun.clear()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**batch).loss
    loss.backward()
    return sum(storage.nbytes() for storage in kept.values()), len(begun), loss.item()


# %%
counts = [2, 4, 8, 16]
batches = [sample(frames) for frames in counts]
kib = {}
for name, checkpoints, chunk in (
    ("plain", False, None),
    ("checkpointed", True, None),
    ("2 at a time", True, 2),
):
    if checkpoints:
        model.gradient_checkpointing_enable()
    model.frames_per_chunk = chunk
    measured = [forward_and_back(batch) for batch in batches]
    kib[name] = [size / 1024 for size, _, _ in measured]
    size, times, loss = measured[-1]
    print(f"{name:<13}16 frames: {size:>10,} bytes, {times:>3} blocks,", end=" ")
    print(f"loss {loss:.3f}")
plotting.plot_lines(counts, kib, "frames", "KiB kept for the way back")
plt.show()

# %% [markdown]
# *Figure: three rising lines. The plain one is the highest, the checkpointed one about
# half of it at the end; that of two frames at a time is far below, and much flatter.*
#
# The loss is the same, and each block is computed twice. In chunks those of the encoder
# are computed three times, for two frames at a time. That is the price.
#
# ### Train less
#
# A **frozen** encoder needs no gradients and no optimizer, and keeps nothing for the way
# back. **LoRA** (lesson 08) freezes the language model too, and trains small matrices
# beside its own.

# %%
frozen = replace(chunked, tunable_parts=("projector", "language_model"))
predictions["frozen tower"] = predict_memory(frozen)
print(f"{'frozen tower':<14}{predictions['frozen tower'].peak:.2f} GiB")

# %%
predictions["LoRA"] = predict_memory(replace(frozen, lora_rank=16))
print(f"LoRA: {predictions['LoRA'].peak:.2f} GiB,", end=" ")
print(f"{predictions['LoRA'].trained / predictions['LoRA'].parameters:.1%} is trained")

# %% [markdown]
# ### Share
#
# Eight GPUs that each train on clips of their own hold eight times the same weights,
# gradients and optimizer. **ZeRO** shares them out: stage 1 the optimizer, stage 2 the
# gradients too, stage 3 the weights too, which are put together layer by layer.

# %%
shared = replace(chunked, zero_stage=3, num_devices=8)
predictions["ZeRO-3 on 8"] = predict_memory(shared)
kinds = ("weights", "gradients", "optimizer", "activations")
bars = {n: {kind: getattr(p, kind) for kind in kinds} for n, p in predictions.items()}
peaks = {name: prediction.peak for name, prediction in predictions.items()}
for name, peak in peaks.items():
    fits = [gib for gib in (8, 16, 24, 40) if predictions[name].fits(gib)]
    print(f"{name:<20}{peak:>6.2f} GiB, fits a GPU of {fits[0]}")
limits = {"a GPU of 24 GiB": 24}
plotting.plot_stacks(bars, "GiB on each GPU", peaks, "peak", limits)
plt.show()

# %% [markdown]
# *Figure: six bars that become shorter, only the last is a little longer than the one of
# LoRA. In the first, most is activations. A black diamond on each is its peak: it lies
# before the end of the bar, because gradients grow while activations go.*
#
# In ZeRO-3 the weights are the longest part: what is put together for use counts too. So
# ZeRO pays for models far larger than this one. `fvv memory` prints all
# this for your checkpoint, and says which flags make it fit.
#
# ### Is the paper right?
#
# Predictions are arithmetic. So they were measured: peaks of the real Trainer, a process
# for each setting, on models that are FastVLM-0.5B with fewer layers.

# %%
results = Path("../benchmarks/results")
memory = json.loads((results / "memory.json").read_text())
rows = {row["name"]: row for row in memory["rows"]}
print("measured on:", memory["hardware"])
print(f"{'GiB':<44}{'predicted':>10}{'measured':>10}")
for name, row in rows.items():
    print(f"{name:<44}{row['predicted_gib']:>10.2f}{row['measured_gib']:>10.2f}")
worst = max(abs(row["error"]) for row in rows.values())
print(f"the prediction is at most {worst:.1%} from the measured peak")
bars = {name: {"predicted": row["predicted_gib"]} for name, row in rows.items()}
peaks = {name: row["measured_gib"] for name, row in rows.items()}
plotting.plot_stacks(bars, "GiB", peaks, "measured")
plt.show()

# %% [markdown]
# *Figure: a bar for each setting, and a diamond close to its end, mostly a little beyond
# it.*
#
# Where it is off by more than a percent, the prediction is too low: one reason why a
# tenth of the device is left free.
#
# And on a GPU? Ask the results which of them have seen one.

# %%
records = {path.name: json.loads(path.read_text()) for path in results.glob("*.json")}
where = {name: record["hardware"] for name, record in records.items()}
print("measured on a GPU:", [name for name in where if "core" not in where[name]])

# %% [markdown]
# An empty list says: no result names a GPU, so **no figure of this course was measured on
# one.** What it says
# about GPUs, and about the memory of ZeRO, is predicted by `fvv memory`: arithmetic.
# `benchmarks/train_step.py` measures on the GPU where there is one; run it where you
# train.
#
# ### Two ranks, for real
#
# A **rank** is a process of a distributed run. What makes it one are a few variables in
# its environment: which it is, how many there are, where they meet.

# %%
from fvv_lib.scaling import ranks

source = inspect.getsource(ranks._start)
print(source[source.index("    if ranks > 1") : source.index("    with open")])

# %% [markdown]
# `torchrun` sets the same on real machines. `train_on_ranks` starts the training command
# on CPU ranks. Each step has two samples: one process takes both, or each of two ranks
# takes one. What they hold differs as much as it can: text, a picture, videos.

# %%
temporary = tempfile.TemporaryDirectory()
mine = Path(temporary.name)
every = json.loads(Path(f"{folder}/train.json").read_text())
kinds = {"t": "train-text-", "v": "train-motion-", "p": "train-still-"}
of_kind = {k: [s for s in every if s["id"].startswith(n)] for k, n in kinds.items()}
stream = [of_kind[kind].pop(0) for kind in "tvptvvtv"]
(mine / "stream.json").write_text(json.dumps(stream))
print([sample["id"] for sample in stream])

# %%
settings = {
    "model_name_or_path": f"{folder}/tiny-fastvlm",
    "data_path": mine / "stream.json",
    "image_folder": folder,
    "cache_dir": mine / "cache",
    "max_steps": 4,
    "train_sampling_strategy": "sequential",
    "learning_rate": 1e-3,
    "adam_epsilon": 1e-3,  # a gradient of 0, but for rounding, must not become a step
    "logging_steps": 1,
    "save_strategy": "no",
    "check_media": False,
    "dataloader_num_workers": 0,
}


# %% tags=["training"]
def train(name, on=2, code=ranks.TRAIN, **more):
    where = {"output_dir": mine / name, "per_device_train_batch_size": 2 // on}
    metrics = fvv_lib.train_on_ranks({**settings, **where, **more}, on, code)
    losses = [entry["loss"] for entry in metrics["log"] if "loss" in entry]
    print(f"{name:<14}{on} rank{'s' * (on > 1):<2}", [f"{loss:.3f}" for loss in losses])
    return np.array(losses)


alone = train("alone", on=1)

# %%
print(Path("../scripts/zero3.json").read_text().split("},")[0] + "}, ...")

# %% tags=["training"]
zero2 = train("ZeRO-2", deepspeed="../scripts/zero2.json")

# %% tags=["training"]
zero3 = train("ZeRO-3", deepspeed="../scripts/zero3.json")
for name, losses in (("ZeRO-2", zero2), ("ZeRO-3", zero3)):
    same = bool(abs(losses - alone).max() < 1e-4)
    print(f"{name}: the losses of one process, to the fourth decimal: {same}")

# %% [markdown]
# That is all that a user of ZeRO should ever notice: nothing.
#
# ### Look at a clip once
#
# What a frozen encoder makes of a clip is the same in every epoch. With
# `--cache_features True` it is computed before the first step, and stored. Here two ranks
# share the work; a run without it looks at every clip again in its second epoch.

# %% tags=["training"]
frozen_parts = {"tunable_parts": ["projector", "language_model"], "max_steps": 8}
cached = train("cached", cache_features=True, **frozen_parts)
metrics = json.loads((mine / "cached" / "metrics.json").read_text())
print("clips:", metrics["features"])

# %% tags=["training"]
looking = train("not cached", on=1, **frozen_parts)
print("the same losses:", np.allclose(cached, looking, atol=1e-4))

# %% [markdown]
# A stored clip is known by all that its features depend on: what is in its file, which
# frames are taken, how they are prepared, every weight of the encoder. Change one of
# them, and the clip is not found but computed: a stale feature cannot be read. What you
# pay is room on the disk.

# %%
stored = list((mine / "cache" / "features").glob("*.safetensors"))
print(f"{len(stored)} clips: {sum(path.stat().st_size for path in stored):,} bytes")
mib = 8 * 256 * 3072 * 2 / 2**20  # frames, tokens, width of the encoder, bfloat16
print(f"a clip at full size: {mib:.0f} MiB")

# %% [markdown]
# What you gain depends on what is left to do. Measured with the encoder of full size, 8
# frames of 1024 pixels of each of 3 clips; in the first line the language model is cut to
# 2 of its 24 layers:

# %%
measured = json.loads((results / "feature_cache.json").read_text())
print("measured on:", measured["hardware"])
for name, case in measured["cases"].items():
    again, from_store = (s["seconds per epoch"] for s in case["sides"].values())
    print(f"{name}: an epoch of {again:.0f} s, with stored features {from_store:.0f} s")

# %% [markdown]
# ### From one machine to several
#
# `GPUS`, `ZERO` and `NODES` choose what `finetune_video.sh` puts before the command.

# %%
script = Path("../scripts/finetune_video.sh").read_text()
start = script.index('if [ -n "${GPUS')
print(script[start : script.index("zero=()")])

# %% [markdown]
# So on one machine, on two, and under Slurm, which sets the variables for each of them:

# %%
print("GPUS=8 ZERO=2 bash scripts/finetune_video.sh --data_path train.json ...")
slurm = Path("../scripts/slurm_finetune.sh").read_text()
for line in script.splitlines()[:20] + slurm.splitlines():
    if re.search(r"NODES=2|^#SBATCH --[gnrs]|^export|^MASTER|^srun|--resume", line):
        print(line.removeprefix("#   "))

# %% [markdown]
# All machines must see one output folder. `--signal=TERM@300`: five minutes
# before the time is up the run saves and ends; submit the same command again and it goes
# on. With `--requeue` Slurm does that itself after a machine failed or was taken away.

# %% [markdown]
# ## What can go wrong
#
# ### A rank that has nothing to see
#
# **Break it.** A batch of text has no frames. "Then there is nothing to encode", says
# most code, and leaves the encoder out.

# %% tags=["training"]
leaves_it_out = """
import sys, torch
from fvv_lib.cli.finetune import main
from fvv_lib.model import splicing

encode = splicing.encode_images

def only_if_needed(model, images, *settings):
    if sum(map(len, images)):
        return encode(model, images, *settings)
    return [torch.empty(0, 4, 128) for _ in images]

splicing.encode_images = only_if_needed
main(sys.argv[1:])
"""
try:
    train("left out", code=leaves_it_out, deepspeed="../scripts/zero3.json")
except fvv_lib.FvvError as error:
    print(re.search(r"Received data size .*", str(error))[0])

# %% [markdown]
# **Symptom.** The first step is the last. Rank 1 asked for a piece of the encoder's first
# layer and got a piece of the language model's, because that is where rank 0 was. On CPUs
# the library that carries the pieces compares sizes, and says so. On GPUs people report
# worse: **the ranks wait for each other for ever**, at full load, and no line is printed.
#
# **Measure.** Each layer's weights are put together when the layer runs, by all ranks at
# once. So list the layers that run, for each rank's batch.


# %%
from torch.nn.modules.module import register_module_forward_pre_hook as before_each

layers = {m for m in model.modules() if list(m.parameters(recurse=False))}


def layers_of(batch):
    ran = []
    with torch.no_grad(), before_each(lambda module, _: ran.append(module)):
        model(**batch)
    return [module for module in ran if module in layers]


model.frames_per_chunk = None
text, video = sample(0), sample(8)
left_out = {key: value for key, value in text.items() if key != "images"}
for name, batch in (
    ("a video", video),
    ("a text, encoder left out", left_out),
    ("a text, as it is here", text),
):
    ran = layers_of(batch)
    same = ran == layers_of(video)
    print(f"{name:<25}{len(ran):>4} layers; in step with a video: {same}")

# %% [markdown]
# **Mend.** A rank without frames encodes a blank one and throws its features away: its
# part of every gradient is 0, and it keeps step. Under ZeRO-3 ranks that encode in chunks
# agree on how many.

# %%
from fvv_lib.model import sharding

print(inspect.getsource(sharding.blank_frames).split('"""')[2])

# %% [markdown]
# **Guard.** `tests/test_distributed.py` trains on such a stream and compares losses and
# weights. On GPUs, `TORCH_DISTRIBUTED_DEBUG=DETAIL` makes PyTorch compare what the ranks
# are about to do. And give every run an end: for `train_on_ranks`, ranks that fail or
# that wait too long are an error, and none of them is left behind.
#
# ### The average of averages
#
# **Break it.** Each rank computes the mean loss of its own tokens, and the ranks average
# their means. That is what you get when nobody counts the tokens of all.

# %% tags=["training"]
counts_alone = """
import sys
from fvv_lib.cli.finetune import main
from fvv_lib.finetuning.trainer import VideoTrainer

count = VideoTrainer.get_batch_samples
VideoTrainer.get_batch_samples = lambda *batches: (count(*batches)[0], None)
main(sys.argv[1:])
"""
wrong = train("own means", code=counts_alone)
print("one process   1 rank  ", [f"{loss:.3f}" for loss in alone])

# %% [markdown]
# **Symptom.** None that you would see without the lower line: a loss like any other. It
# even is a sensible loss, only another one, and another one again on four ranks.
#
# **Measure.** How many tokens does each rank learn?

# %%
args = fvv_lib.DataArguments(
    image_folder=folder, cache_dir=str(mine / "cache"), decode_timeout=0
)
spec = fvv_lib.make_frame_spec(base, args.video_config())
path = [str(mine / "stream.json")]
data = fvv_lib.LazySupervisedDataset(base.tokenizer, path, args, frame_spec=spec)
learned = [int((data[i]["labels"] != -100).sum()) for i in range(len(data))]
for step in range(4):
    left, right = learned[2 * step : 2 * step + 2]
    print(f"step {step + 1}: {left:>2} and {right:>2} tokens; each on rank 1", end=" ")
    print(f"counts {left / right:.1f} times as much")

# %% [markdown]
# **Mend.** Divide the *sum* of the losses by the tokens of all ranks, and of all batches
# that are accumulated: gradient accumulation has the same trap.
#
# **Guard.** The Trainer counts before the step and hands `num_items_in_batch` to the
# model; `FastVlmForVideo` divides by it. Whoever computes a loss of their own must do so
# too. The test is the one above: one process and two must give the same losses.
#
# ### Somebody kills it
#
# **Break it.** Machines are taken away, and jobs run out of time. Here rank 1 dies by
# SIGKILL, which no program can catch, in the fourth step. Every second step is saved.

# %% tags=["training"]
dies = """
import os, signal, sys
from fvv_lib.cli.finetune import main
from fvv_lib.finetuning.trainer import VideoTrainer

step = VideoTrainer.training_step

def step_or_die(trainer, *batch, **settings):
    if trainer.state.global_step == 3 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return step(trainer, *batch, **settings)

VideoTrainer.training_step = step_or_die
main(sys.argv[1:])
"""
saves = {"save_strategy": "steps", "save_steps": 2}
saves["deepspeed"] = "../scripts/zero2.json"
try:
    train("killed", code=dies, **saves)
except fvv_lib.FvvError as error:
    print(str(error).split(";")[0])

# %% [markdown]
# **Symptom.** A rank is gone, and with it the run: the other one would wait for it.
#
# **Measure.** What is left? A checkpoint is more than a model.

# %%
left = mine / "killed" / "checkpoint-2"
shares = sorted(left.glob("global_step2/*optim_states.pt"))
state = json.loads((left / "trainer_state.json").read_text())
print("checkpoints:", [path.name for path in left.parent.glob("checkpoint-*")])
print("a model to load:  ", type(fvv_lib.load_pretrained_model(left).model).__name__)
print("step and epoch:   ", state["global_step"], state["epoch"])
print("learning rate:    ", (left / "scheduler.pt").exists())
print("random numbers of:", len(list(left.glob("rng_state_*.pth"))), "ranks")
print("optimizer of:     ", len(shares), "ranks,", end=" ")
size = sum(path.stat().st_size for path in shares) / paper.parameters
print(f"{size:.0f} bytes for each parameter, shared out")

# %% [markdown]
# Twelve: two averages, and the weights once more. Each rank wrote its half: this is the
# share of ZeRO, on your disk.
#
# **Mend.** The same command again. `--resume_from_checkpoint True` goes on from the last
# checkpoint that is whole.

# %% tags=["training"]
again = train("killed", resume_from_checkpoint=True, **saves)
print("the losses of the run that nobody killed:", np.allclose(again, zero2, atol=1e-4))

# %% [markdown]
# Steps 3 and 4 were computed again, on the same samples in the same order. One death is
# luck, so a longer run was killed again and again, half of the times while it was saving,
# and its last weights compared with those of a run that was left alone:

# %%
record = json.loads((results / "kill.json").read_text())
saving = sum(death["in a save"] for death in record["kills"])
largest = record["largest difference of a weight"]
print(f"{len(record['kills'])} kills, {saving} in a save; {record['hardware']}")
print(f"largest difference of a weight: {largest:g}")

# %% [markdown]
# **Guard.** A checkpoint is written under another name, and moved to its place when every
# rank has written its part: what lies there is whole. And in a job script,
# `--resume_from_checkpoint True` belongs to the command from the first start: where there
# is no checkpoint it begins anew.

# %%
temporary.cleanup()

# %% [markdown]
# ## Takeaways
#
# - In full training the activations are the most. Checkpointing and chunks take them away
#   and cost time; a frozen encoder and LoRA change what is trained.
# - ZeRO shares out what every GPU would hold for itself. The losses stay what they are.
# - Predict first, then rent. And say of each figure whether it was measured, and where.
# - All ranks must do the same things in the same order, whatever their batches hold.
# - Divide by the tokens of all, not by each rank's own.
# - A job must be able to die at any moment, and go on.

# %% [markdown]
# ## Exercises
#
# Four, in [exercises/09_scaling.ipynb](exercises/09_scaling.ipynb). Each checks itself;
# the answers are in [solutions/09_scaling.ipynb](solutions/09_scaling.ipynb).
#
# Before: [08 · Real checkpoints](08_real_checkpoints.ipynb). This is the last lesson.

# %% [markdown]
# ## References
#
# - Chen et al., *Training Deep Nets with Sublinear Memory Cost* (gradient
#   checkpointing), 2016, [arXiv:1604.06174](https://arxiv.org/abs/1604.06174)
# - Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter
#   Models*, SC 2020, [arXiv:1910.02054](https://arxiv.org/abs/1910.02054)
# - Hu et al., *LoRA*, ICLR 2022, [arXiv:2106.09685](https://arxiv.org/abs/2106.09685)
# - Ranks that wait for each other under ZeRO-3:
#   [DeepSpeed 7170](https://github.com/deepspeedai/DeepSpeed/issues/7170)
