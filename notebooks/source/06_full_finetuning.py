# %% [markdown]
# # 06 · Full fine-tuning
#
# All that you have built comes together: the model learns to read the flipbook in order.

# %% [markdown]
# ## What you will be able to do
#
# - say what is trained, and each part at what rate
# - do `make finetune` step by step, on a CPU or a GPU
# - read the curves of training and validation, and say what they hide
# - notice a part that does not learn, and one that forgets
# - stop a run anywhere, go on, and prove that nothing was lost

# %% [markdown]
# ## Minutes and hardware
#
# 50 minutes, and about 5 of them are training. Any computer with Python; no network. A
# GPU is used where there is one.

# %% [markdown]
# ## The problem, seen with your own eyes
#
# The tiny FastVLM has seen only stills. `benchmarks/motion.py` has asked it all questions
# of the test set, trained it on the course's samples, and asked again, three times.

# %%
import contextlib
import io
import json
import os
import signal
import tempfile
from pathlib import Path

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # a progress bar is not a result
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # a notebook is one process: one GPU

import matplotlib.pyplot as plt
import torch

# %%
import fvv_lib
from fvv_lib import plotting
from fvv_lib.evaluation.scoring import accuracy_by_kind, evaluate
from fvv_lib.finetuning import preparing
from fvv_lib.finetuning.recipe import report_plan
from fvv_lib.finetuning.record import format_table
from fvv_lib.finetuning.resume import find_checkpoint
from fvv_lib.finetuning.trainer import VideoTrainer
from fvv_lib.model import parts
from fvv_lib.provenance import hardware
from fvv_lib.scaling import budget
from fvv_lib.weights.loading import build_processor

measured = json.loads(Path("../benchmarks/results/motion.json").read_text())["runs"]
runs = [run for run in measured if run["frames"] == 8]
print(f"{'kind':<8}{'questions':>10}{'before':>8}   after, three runs")
for kind, count in runs[0]["questions"].items():
    after = " ".join(f"{run['after'][kind]:>7.1%}" for run in runs)
    print(f"{kind:<8}{count:>10}{runs[0]['before'][kind]:>8.1%}  {after}")
(single,) = (run for run in measured if run["frames"] == 1)
print(f"motion, trained and asked with one frame: {single['after']['motion']:.1%}")

# %% [markdown]
# What a still shows, it knew. Motion and order, which no still shows, it did not. After
# a few minutes it knows both, and one frame is not enough for that. In this lesson you
# make such a column yourself.

# %% [markdown]
# ## The smallest thing that works
#
# ### What is trained
#
# **Full** fine-tuning trains all three parts. Here they are, with their parameters.

# %%
folder, mine = "../data_samples", tempfile.TemporaryDirectory()
tiny = f"{folder}/tiny-fastvlm"
device = "cuda" if torch.cuda.is_available() else "cpu"
loaded = fvv_lib.load_pretrained_model(tiny, device=device, dtype=torch.float32)
parts.set_trainable(loaded.model, ["vision_tower", "projector", "language_model"])
print(parts.format_parts(parts.count_parameters(loaded.model)))

# %% [markdown]
# A parameter's name says to which part it belongs; to train it or not is one flag of the
# parameter, `requires_grad`. The weights stay float32, even where a GPU computes in
# bfloat16: a small update would be lost in it.
#
# ### At what rate
#
# These are the settings of `scripts/finetune_video.sh`, which `make finetune` runs.

# %%
recipe = {
    "max_steps": 600,
    "per_device_train_batch_size": 16,
    "learning_rate": 1e-3,
    "vision_tower_lr": 1e-4,
    "weight_decay": 0.01,
    "adam_beta2": 0.98,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 60,
    "eval_strategy": "steps",
    "eval_steps": 150,
    "save_strategy": "steps",
    "save_steps": 300,
    "save_total_limit": 2,
    "logging_steps": 10,
    "dataloader_num_workers": 1,
}
quiet = {"disable_tqdm": True, "report_to": "none"}  # no bars, no TensorBoard
quiet["use_cpu"] = device == "cpu"

# %% [markdown]
# The vision tower takes a tenth of the rate of the others. It can already see; it must
# not forget that. The language model has something new to learn. With AdamW a step is
# about as large as its rate, whatever the gradient is, so the rate says how far a part
# may move.
#
# ### What the machine has room for
#
# A step learns from 16 samples. Whether they go through at once, on one device or on
# eight, changes the speed and not the result: what does not fit is **accumulated**, one
# small batch after another, before the weights change. `plan_run` predicts the memory
# (lesson 09) and takes the first way that fits.


# %%
def plan_for(model, gib, devices=1, gpu=True):
    wanted = fvv_lib.MemorySettings(model, num_devices=devices, bf16=gpu)
    return budget.plan_run(wanted, gib, recipe["per_device_train_batch_size"])


def show(name, plan):
    size, times = plan.per_device_train_batch_size, plan.gradient_accumulation_steps
    line = f"{name:<18}{'cuda  bfloat16' if plan.bf16 else 'cpu   float32 '}"
    line += f"  {plan.num_devices} x {size:>2} x {times}"
    line += "  checkpointed" * plan.gradient_checkpointing
    print(line + f"  zero{plan.zero_stage}.json" * (plan.zero_stage > 0))


show("CPU, 8 GiB, tiny", plan_for(tiny, 8, gpu=False))
show("8 x 80 GiB, 0.5B", plan_for("0.5b", 80, devices=8))

# %%
show("24 GiB, 0.5B", plan_for("0.5b", 24))

# %%
show("8 x 80 GiB, 7B", plan_for("7b", 80, devices=8))

# %% [markdown]
# Each line: device, type, devices x samples at a time x times, and what it takes to fit.
# `checkpointed` computes activations twice instead of keeping them. `zero2.json` is a
# DeepSpeed configuration in `scripts/`, for several GPUs; you start those in a terminal:
# `GPUS=8 ZERO=2 bash scripts/finetune_video.sh ...`. Now for your machine:

# %%
gpu = device == "cuda"
gib = torch.cuda.mem_get_info()[1] / 2**30 if gpu else hardware()["memory_gib"]
plan = plan_for(tiny, gib, gpu=gpu)  # to see it: show("here", plan)
names = ["per_device_train_batch_size", "gradient_accumulation_steps"]
here = {name: getattr(plan, name) for name in [*names, "gradient_checkpointing"]}
print("samples in a step:", here[names[0]] * here[names[1]])

# %% [markdown]
# ### From settings to a Trainer
#
# `configure_model` sets the model as the data want it, `make_frame_spec` says what a
# frame is to it, `open_data` checks every sample and reads every clip once, and
# `report_plan` says what will be trained, on what.


# %%
def quietly(call, *arguments):  # bars and logs are for a terminal
    with contextlib.redirect_stdout(io.StringIO()):
        return call(*arguments)


args = fvv_lib.TrainingArguments(f"{mine.name}/run", **{**recipe, **here, **quiet})
as_planned = args.device.type == device and args.bf16 == plan.bf16
print("device and type are those of the plan:", as_planned)

# %%
data_args = fvv_lib.DataArguments(
    data_path=[f"{folder}/train.json"],
    validation_data_path=f"{folder}/val.json",
    test_data_path=f"{folder}/test.json",
    cache_dir=f"{mine.name}/cache",
)
preparing.configure_model(loaded, data_args, args)
spec = fvv_lib.make_frame_spec(loaded, loaded.model.video_config)
data = preparing.open_data(loaded, data_args, args, spec)
report_plan(loaded.model, data)

# %%
processor = build_processor(loaded.tokenizer, loaded.image_processor, loaded.model)
trainer = quietly(
    lambda: VideoTrainer(
        model=loaded.model,
        args=args,
        train_dataset=data.train,
        eval_dataset=data.validation,
        data_collator=data.collator,
        processing_class=processor,
    )
)
trainer.create_optimizer_and_scheduler(args.max_steps)
named = {id(p): name for name, p in loaded.model.named_parameters()}
for group in trainer.optimizer.param_groups:
    part = parts.part_of(named[id(group["params"][0])])
    tensors, decay = len(group["params"]), group["weight_decay"]
    print(f"{part:<15}{group['initial_lr']:.0e}  decay {decay:<5}{tensors:>4} tensors")
of_rate = trainer.lr_scheduler.lr_lambdas[0]
print("of that:", {step: f"{of_rate(step):.0%}" for step in (0, 30, 60, 330, 600)})

# %% [markdown]
# Two groups for each part, because a bias or the scale of a norm is not pulled towards
# zero. The last line is the **schedule**: the rate grows for a tenth of the steps, while
# AdamW does not know the gradients yet, and then falls along a cosine.
#
# ### The run
#
# Ask, train, save, ask again. This is the cell that takes minutes. Nothing is printed
# while it runs; in a terminal, `make finetune` shows a bar.


# %%
def quiz(model):
    asked = evaluate(model, loaded.tokenizer, data.samples["test"], 32, 16)
    return accuracy_by_kind(asked)


# %% tags=["training"]
before = quiz(loaded.model)
result = quietly(trainer.train)
quietly(trainer.save_model)
after = quiz(loaded.model)
print(result.global_step, "steps")

# %% [markdown]
# ### Curves

# %%
log = trainer.state.log_history
losses = {entry["step"]: entry["loss"] for entry in log if "loss" in entry}
held_out = {e["step"]: e["eval_loss"] for e in log if "eval_loss" in e}
print(len(losses), "training losses; validation after steps", *held_out)
first, last = losses[min(losses)], losses[max(losses)]
print("training loss fell to less than a tenth:", last < first / 10)
looks = list(held_out.values())
print("validation loss fell, too:", looks[-1] < looks[0])
plotting.plot_loss(log)
plt.show()

# %% [markdown]
# *Figure: training and validation loss on a logarithmic scale. Both fall, first fast,
# then slowly. Validation has four points; the last is above the training loss.*
#
# The validation clips are in no training step, so their curve says whether the model
# learns by heart. It may end a little higher; what must not be is that it rises while the
# other falls. Neither says *what* was learned. For that, ask. The folder that was saved
# loads in stock transformers, too; `make finetune` adds `metrics.json`, with settings,
# versions and log, and `loss.png`.

# %% [markdown]
# ### Before and after

# %%
# NBVAL_IGNORE_OUTPUT
# Reason: each processor and number of threads rounds in its way, and learns on from it.
print(format_table(before, after))
trained = fvv_lib.load_pretrained_model(args.output_dir)
clip, question = f"{folder}/videos/test/motion-0019.mp4", "Which way does it move?"
print(f"\n{question} -> {fvv_lib.ask(trained, clip, question)}")

# %%
for kind in ("motion", "order"):
    start, end = (table[kind]["accuracy"] for table in (before, after))
    print(f"{kind}: below 25 % before {start < 0.25}, above 90 % after {end > 0.9}")

# %% [markdown]
# ### Stop, and go on
#
# A scheduler takes the machine away, a cable is pulled. What does a run need to go on as
# if nothing had happened? More than its weights. This is its last checkpoint, a folder
# that appears only when all of it is written:

# %%
last = Path(find_checkpoint(True, args.output_dir))
kept = {
    "model.safetensors": "weights",
    "optimizer.pt": "AdamW's two averages for each weight",
    "scheduler.pt": "place on the schedule",
    "trainer_state.json": "steps done, place in the data, log",
    "rng_state.pth": "state of the random numbers",
    "fvv_config.json": "frames, template and all that asking needs",
}
for name, what in kept.items():
    print(f"{name:<20}{what if (last / name).is_file() else 'missing'}")
weights, averages = ((last / name).stat().st_size for name in list(kept)[:2])
print(f"the averages take {averages / weights:.0f} times the room of the weights")

# %% [markdown]
# Now try it, on short runs of 48 clips. `fvv_lib.train` does all the cells above in one
# call, and returns the record of the run.

# %%
every = ["vision_tower", "projector", "language_model"]
for name, count in (("train", 48), ("test", 16)):
    samples = json.loads(Path(f"{folder}/{name}.json").read_text())
    clips = [s for s in samples if "motion" in s.get("kinds", [])][:count]
    Path(mine.name, f"{name}.json").write_text(json.dumps(clips))
short = {**recipe, **quiet, "max_steps": 8, "per_device_train_batch_size": 4}
short |= {"warmup_steps": 2, "logging_steps": 1, "dataloader_num_workers": 0}
short |= {"eval_strategy": "no", "save_strategy": "no"}


def settings(name, **changes):
    return fvv_lib.TrainingArguments(f"{mine.name}/{name}", **{**short, **changes})


def run(args, model=tiny, trained=every, test=None):
    paths = [f"{mine.name}/train.json"], None, test and f"{mine.name}/{test}", folder
    data = fvv_lib.DataArguments(*paths, data_args.cache_dir, check_media=False)
    model_args = fvv_lib.ModelArguments(str(model), trained)
    metrics = quietly(fvv_lib.train, model_args, data, args)
    metrics["losses"] = [entry["loss"] for entry in metrics["log"] if "loss" in entry]
    return metrics


# %% [markdown]
# One run is left alone. The other gets SIGTERM, the signal that schedulers send, in its
# fourth step.

# %%
seen, stop_at, read = [], None, fvv_lib.LazySupervisedDataset.__getitem__


def noting(self, index):  # notes what is read, and plays the scheduler
    seen.append(index)
    if len(seen) == stop_at:
        os.kill(os.getpid(), signal.SIGTERM)
    return read(self, index)


fvv_lib.LazySupervisedDataset.__getitem__ = noting
whole = run(settings("whole"))
order, seen, stop_at = seen, [], 20  # the batch of step 5 is read while step 4 is done
try:
    run(settings("stopped"))
except SystemExit as end:
    print("exit code:", end.code)
print("saved:", find_checkpoint(True, f"{mine.name}/stopped").split("/")[-1])
stop_at = None

# %%
ways = {}


def go_on(name, args, model=tiny):
    seen.clear()
    ways[name] = run(args, model)["losses"][-4:]
    both = zip(ways[name], whole["losses"][4:], strict=True)
    again = len(set(seen[:16]) & set(order[:16]))
    same = max(abs(a - b) for a, b in both) < 1e-3
    print(f"{name:<13}losses as if never stopped: {same!s:<7}clips seen again: {again}")


go_on("resumed", settings("stopped", resume_from_checkpoint=True))

# %% [markdown]
# Steps 5 to 8 have the losses that they would have had. The clips are those that had not
# been seen yet, in the order that the seed gives. In a terminal, that is
# `--resume_from_checkpoint True`; where there is no checkpoint yet, it starts anew, so a
# job that is started again and again needs one command.

# %% [markdown]
# ## What can go wrong
#
# ### A run that goes on, and does not
#
# **Break it.** Two ways to go on that are often seen. One starts a new run from the
# weights of the checkpoint. The other resumes, and skips the skipping: `ignore_data_skip`
# of transformers.

# %%
checkpoint = f"{mine.name}/stopped/checkpoint-4"
go_on("weights only", settings("other", max_steps=4), checkpoint)
anew = settings("anew", resume_from_checkpoint=checkpoint)
anew.ignore_data_skip = True
go_on("data anew", anew)

# %% [markdown]
# **Symptom.** None. Both go on, and a loss that is lower than expected alarms nobody.
#
# **Measure.** Stop a short run, go on, and compare it with one that was left alone: its
# losses, and which clips it read. Both of these show the model the 16 clips that it has
# just learned, and leave 16 others out. With weights alone, the schedule begins anew,
# too, and AdamW has forgotten its averages.

# %%
print("step         " + "".join(f"{step:>5}" for step in range(5, 8)))
for name, losses in {"left alone": whole["losses"][4:], **ways}.items():
    print(f"{name:<13}" + "".join(f"{loss:>5.1f}" for loss in losses[:3]))

# %% [markdown]
# **Mend.** `resume_from_checkpoint`, with the same settings.
#
# **Guard.** The setting is refused, and a test of this project compares the losses.

# %%
try:
    settings("stopped", ignore_data_skip=True)
except fvv_lib.FvvError as error:
    print(error)

# %% [markdown]
# ### A part that was frozen by mistake
#
# **Break it.** Somebody takes over the settings of a run that kept the tower frozen.

# %%
frozen = run(settings("frozen", vision_tower_lr=None), trained=every[1:])
print("step   " + "".join(f"{step:>5}" for step in range(1, 9)))
for name, one in (("all", whole), ("frozen", frozen)):
    print(f"{name:<7}" + "".join(f"{loss:>5.1f}" for loss in one["losses"]))

# %% [markdown]
# **Symptom.** None. The loss falls all the same: the other parts learn around it.
#
# **Measure.** How far has each part moved from where it began?


# %%
def moved(name):
    far = dict.fromkeys(every, 0.0)
    new = fvv_lib.load_pretrained_model(f"{mine.name}/{name}").model.state_dict()
    for key, old in base.model.state_dict().items():
        part, change = parts.part_of(key), (new[key] - old).abs().max().item()
        far[part] = max(far[part], change)
    return far


base = fvv_lib.load_pretrained_model(tiny)
for name in ("whole", "frozen"):
    print(name, {part: f"{1000 * far:.1f}" for part, far in moved(name).items()})

# %% [markdown]
# In thousandths: each part moves about as far as its rates of eight steps, and a frozen
# one not at all. You may want to freeze the tower: it saves memory. But it must
# not happen by accident.
#
# **Mend.** `--tunable_parts vision_tower projector language_model`, the default.
#
# **Guard.** Read the table of the parts before the first step: `train` prints it. A rate
# for a part that is not trained is an error:

# %%
try:
    run(settings("frozen"), trained=every[1:])
except fvv_lib.FvvError as error:
    print(error)

# %% [markdown]
# ### A rate that is too high for the tower
#
# **Break it.** The tower gets a rate of 1e-2, a hundred times its own.

# %%
hot = run(settings("hot", vision_tower_lr=1e-2, max_steps=12), test="test.json")
print(len(hot["losses"]), "steps")

# %%
cool = run(settings("cool", max_steps=12), test="test.json")
print(len(cool["losses"]), "steps")
curves = {"tower at 1e-2": hot["losses"], "tower at 1e-4": cool["losses"]}
plotting.plot_lines(range(1, 13), curves, "step", "training loss")
plt.show()

# %% [markdown]
# *Figure: two losses that zigzag down from one start. With the high rate the end is
# higher.*
#
# **Symptom.** None that alarms: the loss falls.
#
# **Measure.** Ask what the model knew before. That is why `train` asks the test set
# twice, and why the test set has questions that a still can answer.

# %%
for name, one in (("1e-4", cool), ("1e-2", hot)):
    knew, knows = (one[when]["colour"]["accuracy"] for when in ("before", "after"))
    print(f"tower at {name}: colours known before {knew > 0.9}, after {knows > 0.9}")
far, near = (moved(name)["vision_tower"] for name in ("hot", "cool"))
print("the tower moved more than ten times as far:", far > 10 * near)

# %% [markdown]
# Twelve steps, and the model no longer names all the colours that it knew. The loss falls
# all the same: much of an answer can be guessed without seeing.
#
# **Mend.** A lower rate for what is already trained, and a warm-up.
#
# **Guard.** A line of your own below each run: no kind of question may sink.


# %%
def forgotten(metrics):
    before, after = metrics["before"], metrics["after"]
    return [kind for kind in before if after[kind]["correct"] < before[kind]["correct"]]


print("at 1e-2, colour is among the forgotten:", "colour" in forgotten(hot))
print("at 1e-4, colour is among the forgotten:", "colour" in forgotten(cool))
fvv_lib.LazySupervisedDataset.__getitem__ = read
mine.cleanup()

# %% [markdown]
# ## Takeaways
#
# - Full fine-tuning trains all parts, each at its own rate: low for what can already see.
# - What fits decides how many samples go through at once. It does not decide the result.
# - A falling loss says that something learns. It does not say which part, and not what is
#   forgotten on the way.
# - Weights alone are no checkpoint: optimizer, schedule, place in the data and random
#   numbers belong to it.
# - Prove that a run can be stopped before you need it: compare losses.

# %% [markdown]
# ## Exercises
#
# Four, in
# [exercises/06_full_finetuning.ipynb](exercises/06_full_finetuning.ipynb).
# Each checks itself; the answers are in
# [solutions/06_full_finetuning.ipynb](solutions/06_full_finetuning.ipynb).
#
# Before: [05 · Dataset and validation](05_dataset_and_validation.ipynb). Next:
# [07 · Evaluation](07_evaluation.ipynb).

# %% [markdown]
# ## References
#
# - Liu et al., *Improved Baselines with Visual Instruction Tuning* (LLaVA-1.5),
#   CVPR 2024, [arXiv:2310.03744](https://arxiv.org/abs/2310.03744)
# - Loshchilov and Hutter, *Decoupled Weight Decay Regularization* (AdamW), ICLR 2019,
#   [arXiv:1711.05101](https://arxiv.org/abs/1711.05101)
# - Goyal et al., *Accurate, Large Minibatch SGD* (warm-up), 2017,
#   [arXiv:1706.02677](https://arxiv.org/abs/1706.02677)
# - Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter
#   Models*, 2020, [arXiv:1910.02054](https://arxiv.org/abs/1910.02054)
# - transformers'
#   [Trainer](https://huggingface.co/docs/transformers/main_classes/trainer)
