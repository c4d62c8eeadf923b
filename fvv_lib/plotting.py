"""All figures of the course, in one style.

The functions take plain numbers and images and return a matplotlib figure. The palette is that of Okabe and Ito, whose
colours colour-blind readers can distinguish. Line styles, markers and hatches carry the same information in greyscale.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

PALETTE = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "red": "#D55E00",
    "purple": "#CC79A7",
    "grey": "#8C8C8C",
}
SPANS = (("orange", "//"), ("purple", "\\\\"), ("green", ".."))  # colour and hatch of each span in turn
HATCHES = ("", "//", "--", "||", "xx")  # of bars side by side
PARTS = (("grey", ""), ("orange", "//"), ("green", ".."), ("blue", ""), ("purple", "\\\\"))  # of a stack, in turn
SEQUENCE = {"text": ("grey", ""), "frame": ("blue", ""), "answer": ("orange", "//")}  # colour and hatch of each kind
LABELS: dict[str, Any] = {
    "not learned": {"facecolor": "white", "edgecolor": "#DDDDDD"},
    "learned": {"facecolor": "#9AD3BF", "edgecolor": PALETTE["green"]},
    "learned, no answer": {"facecolor": "#F6D9A0", "edgecolor": PALETTE["red"], "hatch": "////", "linewidth": 1.5},
    "answer, not learned": {"facecolor": "white", "edgecolor": "black", "linestyle": "--", "linewidth": 1.5},
}
STYLE: Any = {"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": "medium", "figure.dpi": 80}


def plot_frames(frames: np.ndarray, timestamps: Sequence[float], title: str = "", columns: int = 8) -> Figure:
    """Plot a strip of frames, uint8 (N, H, W, 3), with the time of each frame below it."""
    side = 10 / columns  # inches for one frame
    rows = math.ceil(len(frames) / columns)
    columns = min(columns, len(frames))
    height, width = frames.shape[1:3]
    size = columns * side, rows * (side * height / width + 0.35)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for axis, frame, time in zip(axes.flat, frames, timestamps, strict=False):
            axis.imshow(frame)
            axis.text(0.5, -0.04, f"{time:.2f} s", ha="center", va="top", transform=axis.transAxes)
        if title:
            figure.suptitle(title)
        figure.tight_layout()
    return figure


def plot_pictures(pictures: Mapping[str, np.ndarray]) -> Figure:
    """Plot images of any shapes side by side, uint8 (H, W, 3), each with a border, all at the same scale."""
    with plt.rc_context(STYLE):
        widths = [picture.shape[1] for picture in pictures.values()]
        figure, axes = plt.subplots(
            1, len(pictures), figsize=(10, 2.6), width_ratios=widths, squeeze=False, layout="constrained"
        )
        for axis, (name, picture) in zip(axes.flat, pictures.items(), strict=True):
            axis.imshow(picture)
            axis.set(title=name, xticks=[], yticks=[])
            axis.spines[:].set_visible(True)
            axis.spines[:].set_color(PALETTE["grey"])
    return figure


def plot_data(
    seconds: Sequence[float], sizes: Sequence[tuple[int, int]], tokens: Sequence[int], max_length: int
) -> Figure:
    """Plot what a data set contains: histograms of video durations, of widths and heights, and of tokens per sample."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(12, 3), layout="constrained")
        axes[0].hist(seconds, bins=30, color=PALETTE["blue"])
        axes[0].set(title="duration of a video", xlabel="seconds", ylabel="videos")
        for i, (name, colour, hatch) in enumerate((("width", "orange", ""), ("height", "purple", "//"))):
            values = [size[i] for size in sizes]
            axes[1].hist(values, bins=30, color=PALETTE[colour], alpha=0.6, hatch=hatch, label=name)
        axes[1].set(title="size", xlabel="pixels", ylabel="pictures and videos")
        axes[1].legend(frameon=False)
        axes[2].hist(tokens, bins=30, color=PALETTE["green"])
        axes[2].axvline(max_length, color=PALETTE["red"], linestyle="--", label=f"limit {max_length}")
        axes[2].set(title="length of a sample", xlabel="tokens, frames included", ylabel="samples")
        axes[2].legend(frameon=False)
    return figure


def plot_sampling(
    total_frames: int, chosen: Mapping[str, Sequence[int]], spans: Mapping[str, tuple[int, int]] | None = None
) -> Figure:
    """Plot a timeline for each name, with a dot at each chosen frame index. `spans` marks events as (first, last)."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(10, 0.8 + 0.45 * len(chosen)), layout="constrained")
        for (name, (first, last)), (colour, hatch) in zip((spans or {}).items(), cycle(SPANS), strict=False):
            axis.axvspan(first - 0.5, last + 0.5, color=PALETTE[colour], alpha=0.25, hatch=hatch, label=name)
        for row, indices in enumerate(chosen.values()):
            axis.plot([0, total_frames - 1], [row, row], color=PALETTE["grey"], linewidth=1)
            counts = np.unique(np.asarray(indices), return_counts=True)
            axis.scatter(counts[0], [row] * len(counts[0]), s=45 * counts[1], color=PALETTE["blue"], zorder=3)
        axis.set_yticks(range(len(chosen)), list(chosen))
        axis.set_ylim(len(chosen) - 0.4, -0.6)
        axis.set_xlabel("frame")
        if spans:
            figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def plot_sequence(rows: Mapping[str, Sequence[tuple[str, int]]], limit: int | None = None) -> Figure:
    """Plot the sequence that a model reads as one bar for each name.

    A bar consists of runs of (kind, positions), where the kind is `text`, `frame` or `answer`. Each run has its own
    edge. The part beyond the dashed `limit` is shaded.
    """
    ends = [sum(count for _, count in runs) for runs in rows.values()]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(10, 1.0 + 0.45 * len(rows)), layout="constrained")
        for row, runs in enumerate(rows.values()):
            start = 0
            for kind, count in runs:
                colour, hatch = SEQUENCE[kind]
                axis.barh(row, count, 0.7, start, color=PALETTE[colour], hatch=hatch, edgecolor="white", label=kind)
                start += count
        if limit is not None:
            axis.axvline(limit, color="black", linestyle="--", label=f"limit {limit}")
            if max(ends) > limit:
                axis.axvspan(limit, max(ends), color="black", alpha=0.3, linewidth=0)
        axis.set_yticks(range(len(rows)), list(rows))
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_xlim(0, max(*ends, limit or 0))
        axis.set_xlabel("position")
        named = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))  # one entry for each kind
        figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def plot_labels(
    tokens: Sequence[str], labels: Sequence[int], exact: Sequence[int] | None = None, start: int = 0, columns: int = 96
) -> Figure:
    """Plot tokens as running text and highlight those with a label (not -100).

    With `exact` labels, the text shows where `labels` are wrong: tokens that are learned but belong to no answer, and
    answer tokens that are not learned. `start` is the first token shown.
    """
    exact = labels if exact is None else exact
    shown = [token.replace("\n", "↵") for token in tokens]
    style = {(True, True): "learned", (True, False): "learned, no answer", (False, True): "answer, not learned"}
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(layout="constrained")
        used, line, column = {}, 0, 0
        for i in range(start, len(tokens)):
            width = len(shown[i]) + 1  # columns: the text plus space for the edges
            if column + width > columns:
                line, column = line + 1, 0
            kind = style.get((labels[i] >= 0, exact[i] >= 0), "not learned")
            box = Rectangle((column, line - 0.4), width, 0.8, **LABELS[kind])
            used[kind] = axis.add_patch(box)
            axis.text(column + width / 2, line, shown[i], ha="center", va="center", family="monospace", fontsize=9)
            column += width
            if tokens[i].endswith("\n"):
                line, column = line + 1, 0
        lines = line + 1 if column else line
        figure.set_size_inches(10, 0.6 + 0.27 * lines)
        axis.set(xlim=(-0.5, columns + 0.5), ylim=(lines - 0.4, -0.6))
        axis.axis("off")
        figure.legend(used.values(), used.keys(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def plot_bars(values: Mapping[str, float], ylabel: str, percent: bool = False) -> Figure:
    """Plot a bar for each name, with its value above it."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7, 2.6))
        bars = axis.bar(list(values), list(values.values()), color=PALETTE["blue"], width=0.6)
        axis.bar_label(bars, fmt="{:.0%}" if percent else "{:.4g}")
        axis.set_ylabel(ylabel)
        axis.margins(y=0.15 if percent else 0.2)  # space for the labels, but not for a tick above 100%
        if percent:
            axis.yaxis.set_major_formatter("{x:.0%}")
        figure.tight_layout()
    return figure


def plot_accuracy(accuracies: Mapping[str, Mapping[str, float]], chance: Mapping[str, float] | None = None) -> Figure:
    """Plot a group of bars for each kind, with one bar for each name. `chance` is a dashed level in each group."""
    kinds, width = list(next(iter(accuracies.values()))), 0.8 / len(accuracies)
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(9, 2.7), layout="constrained")
        looks = zip(cycle(list(PALETTE.values())[:5]), cycle(HATCHES), strict=False)
        for i, ((name, values), (colour, hatch)) in enumerate(zip(accuracies.items(), looks, strict=False)):
            places = np.arange(len(kinds)) + (i - (len(accuracies) - 1) / 2) * width
            heights = [values[kind] for kind in kinds]
            bars = axis.bar(places, heights, 0.9 * width, color=colour, hatch=hatch, edgecolor="white", label=name)
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0}
            axis.bar_label(bars, fmt="{:.0%}", fontsize=8, padding=2, bbox=box)
        if chance:
            levels, ends = [chance[kind] for kind in kinds], np.arange(len(kinds))
            axis.hlines(levels, ends - 0.45, ends + 0.45, color="black", linestyle="--", label="chance")
        axis.set_xticks(range(len(kinds)), kinds)
        axis.set(ylabel="right answers", ylim=(0, 1.12))
        axis.yaxis.set_major_formatter("{x:.0%}")
        figure.legend(loc="outside right upper", frameon=False)
    return figure


def plot_lines(
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    xlabel: str,
    ylabel: str,
    limits: Mapping[str, float] | None = None,
) -> Figure:
    """Plot a line for each name, with the name at its end. `limits` are dashed levels. Both axes are log2."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
        styles = zip(cycle(list(PALETTE.values())[:5]), cycle("osD^v"), strict=False)
        for (name, values), (colour, marker) in zip(lines.items(), styles, strict=False):
            axis.plot(x, values, marker + "-", color=colour, markersize=4)
            axis.annotate(name, (x[-1], values[-1]), xytext=(6, 0), textcoords="offset points", va="center")
        for name, level in (limits or {}).items():
            axis.axhline(level, color="black", linestyle="--", linewidth=1)
            axis.annotate(name, (x[0], level), xytext=(0, 3), textcoords="offset points", va="bottom")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.set_xticks(x, [f"{value:g}" for value in x])
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.set(xlabel=xlabel, ylabel=ylabel)
    return figure


def plot_similarity(matrices: Mapping[str, np.ndarray]) -> Figure:
    """Plot a similarity matrix (N, N) for each name, from white (0 and less) to black (1)."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(matrices), figsize=(10, 4), squeeze=False, layout="constrained")
        for axis, (name, matrix) in zip(axes.flat, matrices.items(), strict=True):
            axis.imshow(matrix, cmap="Greys", vmin=0, vmax=1)
            for (row, column), value in np.ndenumerate(matrix.round(1) + 0.0):  # -0.0 becomes 0.0
                colour = "white" if value > 0.5 else "black"
                axis.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour)
            axis.set(title=name, xticks=[], yticks=[])
            axis.spines[:].set_visible(True)
    return figure


def plot_stacks(
    bars: Mapping[str, Mapping[str, float]],
    xlabel: str,
    marks: Mapping[str, float] | None = None,
    mark: str = "",
    limits: Mapping[str, float] | None = None,
) -> Figure:
    """Plot a horizontal bar of named parts for each name.

    `marks` are extra values, drawn on the bars of their names and called `mark` in the legend. `limits` are dashed
    levels.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(10, 1.0 + 0.4 * len(bars)), layout="constrained")
        for row, parts in enumerate(bars.values()):
            start = 0.0
            for (name, value), (colour, hatch) in zip(parts.items(), cycle(PARTS), strict=False):
                axis.barh(row, value, 0.7, start, color=PALETTE[colour], hatch=hatch, edgecolor="white", label=name)
                start += value
        for name, value in (marks or {}).items():
            axis.plot(value, list(bars).index(name), "D", color="black", markersize=6, label=mark)
        for name, level in (limits or {}).items():
            axis.axvline(level, color="black", linestyle="--", linewidth=1)
            axis.annotate(name, (level, -0.5), xytext=(3, 0), textcoords="offset points", va="bottom")
        axis.set_yticks(range(len(bars)), list(bars))
        axis.set(ylim=(len(bars) - 0.5, -0.5), xlabel=xlabel)
        named = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))  # one entry for each part
        figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=6, frameon=False)
    return figure


def plot_moments(panels: Mapping[str, np.ndarray], parts: Sequence[str], ylabel: str) -> Figure:
    """Plot how much memory each part uses over time: (moments, parts) for each panel, all panels at one scale."""
    colours = [PALETTE[colour] for colour, _ in PARTS]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(10, 3.2), sharey=True, squeeze=False, layout="constrained")
        for axis, (name, values) in zip(axes.flat, panels.items(), strict=True):
            layers = axis.stackplot(np.linspace(0, 100, len(values)), values.T, labels=parts, colors=colours)
            for layer, (_, hatch) in zip(layers, PARTS, strict=False):
                layer.set(hatch=hatch, edgecolor="white", linewidth=0)
            axis.set(title=name, xlabel="% of its operations", xlim=(0, 100))
        axes[0, 0].set_ylabel(ylabel)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def plot_loss(log_history: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot training and validation loss over steps, from the `log_history` of the Trainer."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7, 3.2))
        curves = (("loss", "training", "blue", "-"), ("eval_loss", "validation", "orange", "--o"))
        for key, label, colour, line in curves:
            points = [(entry["step"], entry[key]) for entry in log_history if key in entry]
            if points:
                line = "o" if len(points) == 1 else line  # a line of one point is not visible
                axis.plot(*zip(*points, strict=True), line, color=PALETTE[colour], label=label, markersize=4)
        axis.set(xlabel="step", ylabel="loss per learned token (nats)", yscale="log")
        if axis.lines:
            axis.legend(frameon=False)
        figure.tight_layout()
    return figure
