# %% [markdown]
# # 01 · Sparse sampling
#
# A clip has more frames than a model can read. Which ones do you take, and are they the
# ones that you asked for?

# %% [markdown]
# ## What you will be able to do
#
# - choose frames by their number or by their time, and say when each is the right way
# - say what a number of frames can show, and what it cannot
# - compute what frames cost, in tokens
# - catch a video reader that hands out wrong frames
# - fit a wide frame into a square without losing its sides

# %% [markdown]
# ## Minutes and hardware
#
# 40 minutes. Any computer with Python; no GPU, no network.

# %% [markdown]
# ## The problem, seen with your own eyes
#
# A model has room for only a few frames. Here are two of a clip, the first and the last.
# The question is: *which shape comes first?*

# %%
import matplotlib.pyplot as plt
import numpy as np

import fvv_lib
from fvv_lib import plotting

folder = "../data_samples"
path = f"{folder}/videos/test/order-0121.mp4"
two = fvv_lib.read_video(path, num_frames=2)

print("frames", two.indices.tolist(), "of", two.total_frames)
plotting.plot_frames(two.frames, two.timestamps)
plt.show()

# %% [markdown]
# *Figure: two frames, both empty.*
#
# No model can answer from these two, however large it is. Look at the whole clip.

# %%
clip = fvv_lib.read_video(path, num_frames=two.total_frames)
print("frames", len(clip.frames), "of", clip.total_frames)
plotting.plot_frames(clip.frames, clip.timestamps, columns=12)
plt.show()

# %% [markdown]
# *Figure: all frames in two rows. Nothing, then one shape, nothing, then another shape,
# nothing.*
#
# So take all frames? FastVLM's encoder shrinks each side of a picture 64 times: a frame
# of 1024 × 1024 pixels becomes a grid of 16 × 16 vectors. Each takes one place in the
# prompt, as a piece of a word does. Such a piece is a **token**, and so the vectors are
# called tokens, too. Apple trained FastVLM to read up to 8192 of them.

# %%
tokens_per_frame = (1024 // 64) ** 2
print("tokens of one frame:", tokens_per_frame)
print("tokens of this clip:", tokens_per_frame * clip.total_frames)
print("tokens of one minute at 30 frames per second:", tokens_per_frame * 60 * 30)

# %% [markdown]
# This clip lasts three seconds and fits. A minute of ordinary video does not, by far.
# **You must choose frames, and what you leave out does not exist for the model.**

# %% [markdown]
# ## The smallest thing that works
#
# Spread the frames evenly from the first to the last. That is one line of NumPy, and it
# is what `sample_frame_indices` does unless you tell it otherwise.

# %%
indices = fvv_lib.sample_frame_indices(clip.total_frames, 8)
print(indices)
print(np.array_equal(indices, np.linspace(0, clip.total_frames - 1, 8, dtype=int)))

# %% [markdown]
# How many frames does this clip need? First find out when a shape is to be seen: a frame
# with nothing in it has (almost) no contrast.

# %%
visible = clip.frames.std(axis=(1, 2, 3)) > 3
first_in, first_out, second_in, second_out = np.flatnonzero(np.diff(visible))
shown = {
    "first shape": (int(first_in) + 1, int(first_out)),
    "second shape": (int(second_in) + 1, int(second_out)),
}
print(shown)

# %%
uniform = {
    n: fvv_lib.sample_frame_indices(clip.total_frames, n) for n in (1, 2, 4, 8, 16)
}
for n, chosen in uniform.items():
    seen = [int(((chosen >= a) & (chosen <= b)).sum()) for a, b in shown.values()]
    print(f"{n:>2} frames: {seen[0]} show the first shape, {seen[1]} show the second")

plotting.plot_sampling(
    clip.total_frames, {f"N = {n}": chosen for n, chosen in uniform.items()}, shown
)
plt.show()

# %% [markdown]
# *Figure: five timelines. With one or two frames every dot lies outside the two hatched
# spans in which a shape is shown; with four frames a dot falls into each span.*
#
# One frame and two frames see nothing. Four see each shape, and more frames see the same
# again. The question needs **few frames in the right places**.
#
# `read_video` chooses and reads in one step. You get the frames as uint8
# (N, height, width, 3), and where each comes from.

# %%
video = fvv_lib.read_video(path, num_frames=4)
print(video.frames.shape, video.frames.dtype)
print("indices", video.indices.tolist(), "of", video.total_frames)
print("fps", round(video.fps, 2), "seconds", round(video.duration, 2))
plotting.plot_frames(video.frames, video.timestamps)
plt.show()

# %% [markdown]
# *Figure: four frames. Nothing, the first shape, the second shape, nothing.*
#
# ### What one frame cannot show
#
# Motion is harder than order. Play a clip backwards: the pages are the same, and what
# moved left now moves right. Take one frame out of the middle of each. (The clip is
# drawn, and its edges are connected: a shape that leaves on one side comes back on the
# other.)

# %%
from fvv_lib.course.scenes import motion_clip

forwards, _ = motion_clip(np.random.default_rng(54), "right", num_frames=25)
backwards = forwards[::-1]
for n in (1, 4, 8, 16):
    chosen = fvv_lib.sample_frame_indices(25, n, strategy="segment")
    same = np.array_equal(forwards[chosen], backwards[chosen])
    print(f"{n:>2} frames, the same both ways: {same}")

chosen = fvv_lib.sample_frame_indices(25, 4, strategy="segment")
plotting.plot_frames(forwards[chosen], chosen / 8, title="forwards")
plotting.plot_frames(backwards[chosen], chosen / 8, title="backwards")
plt.show()

# %% [markdown]
# *Figure: two strips of four frames of one shape. Forwards it moves to the right,
# backwards to the left.*
#
# One frame is the same both ways, so no model can tell left from right by it. Four
# frames, **kept in order**, can. Shuffle them and the answer is gone again.

# %% [markdown]
# ### Strategies
#
# - `uniform` takes both ends, and evenly between them.
# - `segment` cuts the clip into equal parts and takes the middle of each. In a clip with
#   more than twice as many frames as you take, that leaves out the very first and the
#   very last, where clips often fade or are cut.
# - `random` takes one frame anywhere in each part, with a seed so that you can repeat it.
# - `fps` takes so many frames of each second. You get as many as you asked for all the
#   same: a long clip is thinned, a short one repeats some.
#
# The first three count frames. `fps` goes by time, and so does one more, `uniform_time`;
# you will see below which clips need them.

# %%
total = clip.total_frames
rows = {
    "uniform": fvv_lib.sample_frame_indices(total, 6),
    "segment": fvv_lib.sample_frame_indices(total, 6, "segment"),
    "random, seed 0": fvv_lib.sample_frame_indices(total, 6, "random", seed=0),
    "random, seed 1": fvv_lib.sample_frame_indices(total, 6, "random", seed=1),
    "fps, 2 per second": fvv_lib.sample_frame_indices(
        total, 6, "fps", video_fps=clip.fps, sample_fps=2
    ),
}
for name, chosen in rows.items():
    print(f"{name:<18}{chosen.tolist()}")
plotting.plot_sampling(total, rows)
plt.show()

# %% [markdown]
# *Figure: five timelines with six dots each. Uniform starts at the first frame and ends
# at the last; segment stays clear of both ends; the two random rows differ; fps has
# equal steps from the first frame on.*
#
# For answers you want the same frames each time: `uniform` or `segment`. For training,
# `random` has a charm that the ClipBERT paper made famous. Each epoch draws other frames,
# so you pay for few and, in time, see nearly all.

# %%
chosen = [fvv_lib.sample_frame_indices(total, 4, "random", seed=s) for s in range(16)]
for epochs in (1, 4, 16):
    different = len(np.unique(np.concatenate(chosen[:epochs])))
    print(f"{epochs:>2} epochs of 4 frames: {different} of {total} frames seen")

# %% [markdown]
# That is ClipBERT's argument: *less is more*. Neighbouring frames say the same, a few
# sparse ones carry nearly all, and what you save pays for training the whole model, end
# to end, instead of on features that were computed once and frozen.

# %% [markdown]
# ### Cost against coverage
#
# The prompt grows with frames × tokens per frame. What the frames leave out shrinks: the
# longest stretch in which something can happen and never be seen.

# %%
counts = [1, 2, 4, 8, 16, 32, 64]
tokens = {f"{s} px": [n * (s // 64) ** 2 for n in counts] for s in (256, 512, 1024)}
for n, *row in zip(counts, *tokens.values(), strict=True):
    chosen = fvv_lib.sample_frame_indices(900, n, "segment")
    unseen = np.diff(chosen, prepend=-1, append=900).max() - 1
    print(f"{n:>2} frames: tokens {row}, unseen in 30 s: {unseen / 30:.1f} s")

plotting.plot_lines(
    counts, tokens, "frames", "tokens", limits={"8192: what the model may read": 8192}
)
plt.show()

# %% [markdown]
# *Figure: three rising lines, one for each picture size. At 1024 pixels the line meets
# the dashed level of 8192 tokens at 32 frames; at 256 pixels it stays far below.*
#
# At 1024 pixels 32 frames fill all that the model may read, and leave no room for a
# question. Eight frames at 1024 pixels cost what 32 frames cost at 512. More frames or
# more pixels: that is a choice, and lesson 07 shows how to measure which one pays.

# %% [markdown]
# ### A wide frame in a square
#
# The encoder wants squares, video is wide. `preprocess_frames` fits all frames of a clip
# at once, in one of three ways.

# %%
from fvv_lib.course.scenes import Shape, draw

shapes = [
    Shape("red", "circle", 0.12, 0.5, 0.16),
    Shape("yellow", "cross", 0.88, 0.5, 0.16),
]
wide = draw((320, 180), 60, [*shapes, Shape("blue", "square", 0.5, 0.5, 0.16)])
pictures = {"320 x 180": wide}
for way in ("pad", "crop", "resize"):
    pixels = fvv_lib.preprocess_frames(
        wide[None], 180, aspect_ratio=way
    )  # (1, 3, S, S)
    print(f"{way:<7}{tuple(pixels.shape)}")
    pictures[way] = pixels[0].permute(1, 2, 0).numpy()
print(f"crop loses {1 - 180 / 320:.0%} of the width")
plotting.plot_pictures(pictures)
plt.show()

# %% [markdown]
# *Figure: a wide picture of a circle, a square and a cross, and three squares made of it.
# Pad keeps all three shapes, smaller, between black bars; crop keeps the square only;
# resize keeps all three, squeezed.*
#
# `pad` is what FastVLM was trained with, and it is the default. The stock processor of
# transformers crops: of a wide frame it throws 44 % of the width away, and with it
# whatever happens at the sides.

# %% [markdown]
# ## What can go wrong
#
# ### A clip shorter than the number of frames
#
# **Break it.** The described system takes as many frames as there are, when there are
# fewer than you ask for. But the prompt gets one `<image>` for each frame *asked for*.

# %%
short = f"{folder}/videos/test/short-0240.mp4"
frames_there = fvv_lib.read_video(short).total_frames
prompt = fvv_lib.expand_image_tokens("<image>\nWhich way does it move?", 8)
print("places in the prompt:", prompt.count("<image>"))
print("pictures for them:   ", min(8, frames_there))

# %% [markdown]
# **Symptom.** Nothing yet. It crashes later, in the model, with a message about shapes,
# on the one batch that holds the short clip.
#
# **Measure.** Count places and pictures, as you just did.
#
# **Mend.** Always give as many frames as were asked for: a short clip repeats some.

# %%
padded = fvv_lib.read_video(short, num_frames=8)
print(padded.indices.tolist())
plotting.plot_frames(padded.frames, padded.timestamps)
plt.show()

# %% [markdown]
# *Figure: eight frames; some stand twice in a row, with the same time below them.*
#
# **Guard.** A property that holds for every length, every count and every strategy.

# %%
settings = {"random": {"seed": 0}, "fps": {"video_fps": 8}}
settings["uniform_time"] = {"video_fps": 8}
for strategy in ("uniform", "segment", "random", "uniform_time", "fps"):
    for total in range(1, 40):
        for n in range(1, 40):
            more = settings.get(strategy, {})
            chosen = fvv_lib.sample_frame_indices(total, n, strategy, **more)
            assert len(chosen) == n
            assert chosen.min() >= 0
            assert chosen.max() < total
            assert (np.diff(chosen) >= 0).all()
    print(f"{strategy:<12} always as many as asked for, sorted, in range")

# %% [markdown]
# ### Frames that you did not ask for
#
# **Break it.** You ask for frame 40. How do you know that you got frame 40? Here is a
# clip that tells: frame *t* has a bar that is *t* + 1 pixels long.

# %%
import tempfile
from pathlib import Path

import av

bars = np.full((96, 64, 96, 3), 40, dtype=np.uint8)
for t in range(96):
    bars[t, 20:44, : t + 1] = 220


def write_avi(path, frames, codec="libx264", gop=12):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, width=96, height=64)
        stream.pix_fmt, stream.codec_context.gop_size = "yuv420p", gop
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


temporary = tempfile.TemporaryDirectory()
avi = Path(temporary.name) / "bars.avi"
write_avi(avi, bars)
print(avi.name, "has", fvv_lib.read_video(avi).total_frames, "frames")

# %% [markdown]
# An ordinary file: H.264 in an `.avi`, with a key frame every 12 frames. A reader that
# wants frame 40 jumps to the key frame before it and decodes from there. Two readers, the
# same eight frames; the length of the bar says which frame each one really is.
#
# **Symptom.** Look for an error. There is none.


# %%
# NBVAL_IGNORE_OUTPUT
# Reason: decord has no wheels for many machines; without it, this cell says so.
def bar_says(frames):
    return [int((frame[32, :, 0] > 130).sum()) - 1 for frame in frames]


for backend in ("pyav", "decord"):
    try:
        read = fvv_lib.read_video(avi, 8, backend=backend)
    except fvv_lib.FvvError as error:
        print(error)
        continue
    print(f"{backend:<7}asked for {read.indices.tolist()}")
    print(f"{backend:<7}got       {bar_says(read.frames)}")
    plotting.plot_frames(read.frames, read.timestamps, title=backend)
    plt.show()

# %% [markdown]
# *Figure: two strips of eight frames. In the upper one, read by PyAV, the bar grows from
# nearly nothing to the full width. In the lower one, read by decord, it stays short: all
# frames are from the beginning of the clip, and each has the time 0.*
#
# decord, the reader of the described system, counts from the start again after each jump.
# Your model would be trained on the first moments of the clip and graded on all of it,
# and nothing would ever say so. If decord is not installed on your machine, the cell says
# so instead; that is fine, since the library does not need it.
#
# **Measure.** Decode the file from the first packet to the last, without any jump. That
# is slow, and always right. Compare bit for bit.

# %%
with av.open(str(avi)) as container:
    every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]

read = fvv_lib.read_video(avi, 8)
print("frames decoded:", len(every))
print("same frames:", np.array_equal(read.frames, np.stack(every)[read.indices]))

# %% [markdown]
# **Mend.** `read_video` uses PyAV unless you ask for decord. The frames that it returns
# are those of a decode from the first packet to the last.
#
# **Guard.** The test-suite writes clips in many pairs of container and codec and makes
# this comparison for each. Make it once for *your* files too, before you train:

# %%
for extension in (".mp4", ".m4v", ".mov", ".mkv", ".flv", ".avi", ".wmv", ".webm"):
    sample = min(Path(f"{folder}/videos/test").glob(f"*{extension}"))
    read = fvv_lib.read_video(sample, 8)
    true = {}
    with av.open(str(sample)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in read.indices:  # phone clips are stored lying on their side
                upright = np.rot90(
                    frame.to_ndarray(format="rgb24"), frame.rotation // 90
                )
                true[number] = upright
    every = np.stack([true[number] for number in read.indices])
    print(f"{extension:<6}", np.array_equal(read.frames, every))

# %% [markdown]
# ### A clip that stands still
#
# **Break it.** A screen recording has a new frame only when something changes; a phone
# has fewer frames in the dark. Here is a recording that shows something new for a second,
# stands still for a minute, and goes on for another second.

# %%
from fvv_lib.course.numbered import read_numbers, write_numbered

second = np.arange(25) / 25
times = np.concatenate([second, 60 + second])
recording = Path(temporary.name) / "recording.mp4"
write_numbered(recording, times=times)

read = fvv_lib.read_video(recording, 8)
print(f"{read.total_frames} frames in {times[-1]:.0f} seconds")
print("frames   ", read.indices.tolist())
print("shown at ", read.timestamps.round(1).tolist(), "seconds")

# %% [markdown]
# **Symptom.** Half of the frames are from the first second, half from the last. The
# minute between them has gone: for the model this is a clip of two seconds.
#
# **Measure.** At any moment the frame on the screen is the last one whose time has come.
# Compare it with the frame that was taken, at equally spaced moments.

# %%
moments = np.linspace(0, times[-1], 8)
on_screen = np.searchsorted(times, moments + 1e-6, side="right") - 1
print("moments  ", moments.round(1).tolist())
print("on screen", on_screen.tolist())
print("taken    ", read.indices.tolist())
print(f"up to {np.abs(read.timestamps - moments).max():.0f} seconds off")

# %% [markdown]
# **Mend.** `uniform_time` takes the frames that are on the screen at equally spaced
# moments. A frame that stands comes again and again, as a viewer sees it. (Each frame of
# this recording shows its own number; `read_numbers` reads them.)

# %%
even = fvv_lib.read_video(recording, 8, strategy="uniform_time")
print("on screen", on_screen.tolist())
print("got      ", read_numbers(even.frames))

# %% [markdown]
# And why as many frames for a second as for an hour? With `max_frames`, `fps` gives each
# clip as many as its length needs: at least `min_frames`, at most `max_frames`.

# %%
rate = {"sample_fps": 1, "max_frames": 32, "min_frames": 2}
for name, file in (("short", short), ("clip", path), ("recording", recording)):
    some = fvv_lib.read_video(file, strategy="fps", **rate)
    print(f"{name:<10}{some.duration:5.1f} seconds, {len(some.frames):>2} frames")

# %% [markdown]
# Training does the same: `--frame_sampling fps --sample_fps 1 --max_frames 32
# --min_frames 2`. It knows how many frames each clip has before it reads any.
#
# **Guard.** Look at the times of *your* files. The container lists them, so no frame need
# be decoded. If the longest step is far from the shortest, go by time.

# %%
from fvv_lib.video.read import video_times

for name, file in (("clip", path), ("recording", recording)):
    steps = np.diff(video_times(file))
    print(f"{name:<10}steps of {steps.min():.2f} to {steps.max():.2f} seconds")

# %% [markdown]
# ### What need not be decoded
#
# Exact need not be slow. A frame is stored as what changes from others; a key frame needs
# none. So the reader begins at the last key frame before a wanted frame, and ends with
# the wanted frame; and H.264, HEVC and MPEG-4 say in the first bits of a packet that no
# other frame refers to it. Here is a clip, a sign for each packet in the order of
# decoding:
#
# | sign | packet |
# |---|---|
# | `#` | wanted |
# | `+` | decoded, because others may refer to it |
# | `.` | left out: nothing refers to it |
# | `_` | not reached |

# %%
from fvv_lib.video.exact.bitstream import is_disposable
from fvv_lib.video.exact.packets import group_by_key_frame, list_packets
from fvv_lib.video.exact.reader import open_video

with open_video(path) as (container, stream):
    packets = list_packets(path, container, stream)
    codec, extradata = stream.codec.name, stream.codec_context.extradata

wanted = packets.shown_pts[fvv_lib.sample_frame_indices(len(packets.pts), 8)]
signs = ["_"] * len(packets.pts)
for group in group_by_key_frame(packets, wanted):
    for i in range(group.first, group.last + 1):
        left_out = is_disposable(bytes(packets.kept[i]), codec, extradata)
        signs[i] = "#" if packets.pts[i] in group.pts else "." if left_out else "+"
print("".join(signs))
print("key frames at", np.flatnonzero(packets.key).tolist())

# %% [markdown]
# A long clip has many key frames, and most of it is never reached. Where a file does not
# tell (VP8, WMV, B-frames in an `.avi`), every frame is decoded: slow, and right.
#
# ### What need not be read
#
# `list_packets` reads the whole file to find its packets. But an MP4 has a table of them,
# its **index**. It says of each packet where it is in the file, how many bytes it has,
# when its frame is shown, and whether it is a key frame. Here are the first rows, read
# without reading a packet.

# %%
from fvv_lib.video.exact.mp4 import read_packets

with open(path, "rb") as file:
    index, _ = read_packets(file, track=1)

seconds = (index.pts - index.pts.min()) * float(index.time_base)
print("offset  bytes  shown at  key frame")
for i in range(8):
    place = f"{index.offset[i]:>6}{index.size[i]:>7}"
    print(f"{place}{seconds[i]:>8.3f} s  {'yes' if index.key[i] else 'no'}")

# %% [markdown]
# The packets are in the order of decoding, so the times may go up and down. With these
# columns you can say which bytes hold the frames that you want. Take four minutes of
# video with a key frame every two seconds.

# %%
long = Path(temporary.name) / "long.mp4"
write_numbered(long, gop=50, count=6000)
with open(long, "rb") as file:
    index, _ = read_packets(file, track=1)

wanted = index.shown_pts[fvv_lib.sample_frame_indices(len(index.pts), 8)]
groups = group_by_key_frame(index, wanted)
needed = [i for group in groups for i in range(group.first, group.last + 1)]
share = index.size[needed].sum() / long.stat().st_size
print(f"packets to read: {len(needed)} of {len(index.pts)}")
print("less than a tenth of the bytes:", bool(share < 0.1))

# %% [markdown]
# `read_video` reads these bytes, the index and little else. It does so for MP4, MOV,
# Matroska, WebM and some AVI, unless the file is small: reading all of it is then as
# fast. The price is that damage in the other packets is not found; `count_frames` decodes
# all of them. `benchmarks/long_video.py` measures what this saves for an hour of video.

# %% [markdown]
# ### Fast instead of exact, and files that do not answer
#
# Decoding can start at key frames only. If any frame near the wanted one will do (to look
# through a folder, say), `accuracy="keyframe"` takes the nearest of them, and tells how
# far off each is, in seconds; below zero it is too early. (Where a file does not tell its
# key frames you get the exact ones.)

# %%
mp4 = Path(temporary.name) / "bars.mp4"
write_avi(mp4, bars)
near = fvv_lib.read_video(mp4, 8, accuracy="keyframe")
print("asked for  ", fvv_lib.sample_frame_indices(96, 8).tolist())
print("got        ", bar_says(near.frames))
print("seconds off", near.errors.round(2).tolist())

# %% [markdown]
# Videos from elsewhere are cut short, damaged, or made to hang a decoder. Such a file is
# one error that names it, as far as container and decoder tell: some damage in HEVC looks
# like a picture, and a GIF that is cut short like a shorter one. With a time limit the
# file is read in a process of its own, which is stopped when the time is over. Training
# does that.

# %%
whole = min(Path(f"{folder}/videos/test").glob("*.avi"))
cut = Path(temporary.name) / "cut.avi"
cut.write_bytes(whole.read_bytes()[:4000])
for file, limit in ((cut, None), (mp4, 0.001)):
    try:
        fvv_lib.read_video(file, 8, timeout=limit)
    except fvv_lib.VideoDecodeError as error:
        print(str(error).replace(f"{temporary.name}/", ""))
temporary.cleanup()

# %% [markdown]
# ## Takeaways
#
# - What you do not sample does not exist for the model.
# - `uniform` takes both ends, `segment` the middles, `random` is for training. They count
#   frames; `uniform_time` and `fps` go by the clock.
# - You always get as many frames as you ask for; a short clip repeats some. Only `fps`
#   with `max_frames` gives a long clip more than a short one.
# - The cost is frames × tokens per frame: 256 tokens for a frame of 1024 pixels.
# - A wrong frame makes no noise. Compare with a full decode.
# - An index tells where each packet is, so of a long file only some parts are read.
# - A file that cannot be read is an error, within a time that you set.
# - Pad wide frames; a crop loses the sides.

# %% [markdown]
# ## Exercises
#
# Three, in [exercises/01_sparse_sampling.ipynb](exercises/01_sparse_sampling.ipynb). Each
# checks itself; the answers are in
# [solutions/01_sparse_sampling.ipynb](solutions/01_sparse_sampling.ipynb).
#
# Before: [00 · Start here](00_start_here.ipynb). Next:
# [02 · Token expansion](02_token_expansion.ipynb).

# %% [markdown]
# ## References
#
# - Lei et al., *Less is More: ClipBERT for Video-and-Language Learning via Sparse
#   Sampling*, CVPR 2021, [arXiv:2102.06183](https://arxiv.org/abs/2102.06183)
# - Wang et al., *Temporal Segment Networks*, ECCV 2016,
#   [arXiv:1608.00859](https://arxiv.org/abs/1608.00859)
# - Vasu et al., *FastVLM*, CVPR 2025,
#   [arXiv:2412.13303](https://arxiv.org/abs/2412.13303)
# - [PyAV](https://github.com/PyAV-Org/PyAV) and
#   [decord](https://github.com/dmlc/decord), the two readers
