"""Figures: each shows all its numbers and images, and is readable without colour."""

import inspect
import io
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from fvv_lib import plotting
from fvv_lib.plotting import (
    plot_accuracy,
    plot_bars,
    plot_data,
    plot_frames,
    plot_labels,
    plot_lines,
    plot_loss,
    plot_moments,
    plot_pictures,
    plot_sampling,
    plot_sequence,
    plot_similarity,
    plot_stacks,
)

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)
LOG = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "eval_loss": 2.5}, {"step": 2, "runtime": 1.0}]
EXAMPLES = {
    "plot_frames": lambda: plot_frames(FRAMES, range(5)),
    "plot_pictures": lambda: plot_pictures({"a": FRAMES[0], "b": FRAMES[1, :4]}),
    "plot_data": lambda: plot_data([1.0, 2.0], [(64, 36), (48, 64)], [10, 20], 30),
    "plot_sampling": lambda: plot_sampling(9, {"all": [0, 8]}, {"event": (2, 4)}),
    "plot_sequence": lambda: plot_sequence({"a": [("text", 3), ("frame", 4), ("answer", 2)]}, 8),
    "plot_labels": lambda: plot_labels(["a", "\n", "b"], [-100, 1, 2]),
    "plot_bars": lambda: plot_bars({"a": 1}, "tokens"),
    "plot_accuracy": lambda: plot_accuracy({"base": {"motion": 0.1}, "trained": {"motion": 0.9}}, {"motion": 0.25}),
    "plot_lines": lambda: plot_lines([1, 2], {"a": [1, 2]}, "frames", "tokens"),
    "plot_similarity": lambda: plot_similarity({"a": np.eye(2)}),
    "plot_stacks": lambda: plot_stacks({"a": {"x": 1, "y": 2}}, "GiB", {"a": 2}, "peak", {"a limit": 3}),
    "plot_moments": lambda: plot_moments({"a": np.ones((4, 2))}, ["x", "y"], "GiB"),
    "plot_loss": lambda: plot_loss(LOG),
}


@pytest.fixture(autouse=True)
def off_screen():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def shown(axis):
    return [text.get_text() for text in axis.texts]


def heights(axis):
    return heights_of(axis.patches)


def heights_of(bars):
    return [bar.get_height() for bar in bars]


@pytest.mark.parametrize("name", [name for name, _ in inspect.getmembers(plotting, inspect.isfunction)])
def test_every_plot_returns_a_figure_and_changes_no_style(name):
    before = dict(plt.rcParams)
    figure = EXAMPLES[name]()
    figure.savefig(io.BytesIO())
    assert isinstance(figure, Figure)
    assert figure.axes
    assert dict(plt.rcParams) == before


def test_a_strip_shows_exactly_the_given_frames_with_their_times():
    figure = plot_frames(FRAMES, [0.0, 0.5, 1.0, 1.5, 12.345], title="a clip", columns=3)
    assert len(figure.axes) == 6  # two rows of three
    *filled, empty = figure.axes
    assert all(np.array_equal(a.images[0].get_array(), f) for a, f in zip(filled, FRAMES, strict=True))
    assert [shown(axis) for axis in filled] == [["0.00 s"], ["0.50 s"], ["1.00 s"], ["1.50 s"], ["12.35 s"]]
    assert (list(empty.images), shown(empty), empty.axison) == ([], [], False)
    assert figure.get_suptitle() == "a clip"


def test_a_short_strip_has_no_empty_places():
    assert len(plot_frames(FRAMES[:2], [0, 1]).axes) == 2


def test_pictures_are_side_by_side_at_one_scale():
    pictures = {"wide": np.tile(FRAMES[0], (1, 5, 1)), "narrow": FRAMES[1]}
    figure = plot_pictures(pictures)
    figure.canvas.draw()
    for axis, (name, picture) in zip(figure.axes, pictures.items(), strict=True):
        assert axis.get_title() == name
        assert np.array_equal(axis.images[0].get_array(), picture)
    wide, narrow = (axis.get_window_extent().width for axis in figure.axes)
    assert wide / narrow == pytest.approx(5, rel=0.02)


def test_data_histograms_count_every_video_size_and_sample():
    seconds, sizes, tokens = [1.0, 1.0, 4.0], [(64, 36), (64, 48), (32, 48), (32, 48)], [100, 150, 300]
    figure = plot_data(seconds, sizes, tokens, max_length=256)
    durations, pixels, lengths = figure.axes
    assert sum(heights(durations)) == 3
    assert (heights(durations)[0], heights(durations)[-1]) == (2, 1)
    widths, high = pixels.containers
    assert [sum(bar.get_height() for bar in bars) for bars in (widths, high)] == [4, 4]
    assert (widths[0].get_height(), widths[-1].get_height()) == (2, 2)
    assert (high[0].get_height(), high[-1].get_height()) == (1, 3)
    assert widths[0].get_hatch() != high[0].get_hatch()
    assert sum(heights(lengths)) == 3
    assert list(lengths.lines[0].get_xdata()) == [256, 256]
    assert [text.get_text() for text in lengths.get_legend().get_texts()] == ["limit 256"]


def test_a_timeline_has_a_dot_for_each_frame_larger_for_repeated_frames():
    figure = plot_sampling(10, {"uniform": [0, 4, 9], "short": [0, 0, 0, 1]})
    (axis,) = figure.axes
    first, second = axis.collections
    assert first.get_offsets().tolist() == [[0, 0], [4, 0], [9, 0]]
    assert second.get_offsets().tolist() == [[0, 1], [1, 1]]
    assert second.get_sizes().tolist() == [3 * first.get_sizes()[0], first.get_sizes()[0]]
    assert [list(line.get_xdata()) for line in axis.lines] == [[0, 9], [0, 9]]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["uniform", "short"]
    assert axis.yaxis_inverted()  # the first row is at the top
    assert not figure.legends


@pytest.mark.parametrize("count", [1, 3, 5])
def test_every_span_is_marked_and_neighbours_differ_without_colour(count):
    spans = {f"event {i}": (10 * i, 10 * i + 4) for i in range(count)}
    figure = plot_sampling(60, {"all": [0, 59]}, spans)
    marked = figure.axes[0].patches
    assert [(span.get_x(), span.get_width()) for span in marked] == [(10 * i - 0.5, 5) for i in range(count)]
    assert all(span.get_hatch() for span in marked)
    assert len({span.get_hatch() for span in marked}) == min(count, 3)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(spans)


def test_a_sequence_is_as_long_as_its_runs_and_shaded_beyond_the_limit():
    figure = plot_sequence({"two": [("text", 3), ("frame", 4), ("frame", 4), ("answer", 2)], "none": [("text", 5)]}, 12)
    (axis,) = figure.axes
    *bars, shade = axis.patches
    assert [(bar.get_x(), bar.get_width()) for bar in bars] == [(0, 3), (3, 4), (7, 4), (11, 2), (0, 5)]
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in bars}) == 3
    assert (shade.get_x(), shade.get_width()) == (12, 1)
    assert list(axis.lines[0].get_xdata()) == [12, 12]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(texts) == ["answer", "frame", "limit 12", "text"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["two", "none"]
    assert axis.get_xlim() == (0, 13)


@pytest.mark.parametrize("limit", [None, 5, 9])
def test_a_sequence_that_fits_has_no_shade(limit):
    (axis,) = plot_sequence({"a": [("text", 5)]}, limit).axes
    assert len(axis.patches) == 1
    assert axis.get_xlim() == (0, limit or 5)


def test_labels_show_every_token_and_the_four_ways_to_label_it():
    tokens, exact, counted = ["So", " it", " is", ".", "\n"], [-100, 7, -100, 8, 9], [-100, 7, 5, -100, 9]
    figure = plot_labels(tokens, counted, exact)
    (axis,) = figure.axes
    assert shown(axis) == ["So", " it", " is", ".", "↵"]
    looks = [(box.get_facecolor(), box.get_hatch(), box.get_linestyle()) for box in axis.patches]
    assert len(set(looks)) == 4
    assert looks[1] == looks[4]  # both learned, both answers
    assert len({look[1:] for look in looks[:4]}) == 3  # three of the four differ without colour, the fourth is filled
    texts = {text.get_text() for text in figure.legends[0].get_texts()}
    assert texts == {"not learned", "learned", "learned, no answer", "answer, not learned"}


def test_labels_alone_are_learned_or_not_and_lines_do_not_overflow():
    figure = plot_labels(["abcd"] * 9, [-100] * 8 + [1], start=2, columns=10)
    (axis,) = figure.axes
    places = [(box.get_x(), round(box.get_y() + 0.4)) for box in axis.patches]
    assert places == [(0, 0), (5, 0), (0, 1), (5, 1), (0, 2), (5, 2), (0, 3)]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["not learned", "learned"]


@pytest.mark.parametrize(("percent", "labels"), [(False, ["0.25", "0.5"]), (True, ["25%", "50%"])])
def test_bars_have_the_heights_and_labels_of_their_values(percent, labels):
    (axis,) = plot_bars({"before": 0.25, "after": 0.5}, "accuracy", percent).axes
    assert heights(axis) == [0.25, 0.5]
    assert shown(axis) == labels
    assert [label.get_text() for label in axis.get_xticklabels()] == ["before", "after"]
    assert axis.get_ylabel() == "accuracy"


def test_percent_bars_have_no_tick_above_100_percent():
    (axis,) = plot_bars({"none": 0.0, "all": 1.0}, "accuracy", percent=True).axes
    axis.figure.canvas.draw()
    low, high = axis.get_ylim()
    ticks = [tick.label1.get_text() for tick in axis.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    assert (ticks[0], ticks[-1]) == ("0%", "100%")


def test_accuracies_are_grouped_by_kind_in_the_order_of_their_names():
    table = {
        "base": {"motion": 0.1, "order": 0.2},
        "trained": {"order": 0.98, "motion": 1.0},
        "blind": dict.fromkeys(["motion", "order"], 0.3),
    }
    figure = plot_accuracy(table, {"order": 0.5, "motion": 0.25})
    (axis,) = figure.axes
    assert [heights_of(bars) for bars in axis.containers] == [[0.1, 0.2], [1.0, 0.98], [0.3, 0.3]]
    assert shown(axis) == ["10%", "20%", "100%", "98%", "30%", "30%"]
    ends = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in sorted(axis.patches, key=lambda bar: bar.get_x())]
    assert all(a[1] <= b[0] for a, b in pairwise(ends))  # bars do not overlap
    assert [round(end[0]) for end in ends] == [0, 0, 0, 1, 1, 1]
    (levels,) = axis.collections
    assert [line[0][1] for line in levels.get_segments()] == [0.25, 0.5]
    assert len({bars[0].get_hatch() for bars in axis.containers}) == 3  # distinguishable without colour
    assert [label.get_text() for label in axis.get_xticklabels()] == ["motion", "order"]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {*table, "chance"}


def test_accuracies_without_chance_have_no_level():
    (axis,) = plot_accuracy({"a": {"motion": 0.5}}).axes
    assert not axis.collections


def test_lines_pass_through_their_values_and_end_with_their_names():
    x, lines = [1, 2, 4], {f"{i} px": [i, 2 * i, 4 * i] for i in range(1, 8)}
    (axis,) = plot_lines(x, lines, "frames", "tokens", limits={"the limit": 9}).axes
    *drawn, limit = axis.lines
    assert [list(line.get_xdata()) for line in drawn] == [x] * len(lines)
    assert [list(line.get_ydata()) for line in drawn] == list(lines.values())
    assert list(limit.get_ydata()) == [9, 9]
    assert shown(axis) == [*lines, "the limit"]
    assert len({line.get_marker() for line in drawn[:5]}) == 5  # distinguishable without colour
    assert limit.get_linestyle() == "--"
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "2", "4"]


def test_similarities_show_every_value_on_one_scale():
    matrices = {"one": np.array([[1.0, -0.01], [0.3, -0.44]]), "other": np.ones((3, 3))}
    figure = plot_similarity(matrices)
    for axis, (name, matrix) in zip(figure.axes, matrices.items(), strict=True):
        assert axis.get_title() == name
        assert np.array_equal(axis.images[0].get_array(), matrix)
        assert axis.images[0].get_clim() == (0, 1)
    assert shown(figure.axes[0]) == ["1.0", "0.0", "0.3", "-0.4"]
    assert shown(figure.axes[1]) == ["1.0"] * 9
    assert {text.get_color() for text in figure.axes[0].texts} == {"white", "black"}  # readable on dark and light cells


def test_losses_are_plotted_at_their_steps():
    (axis,) = plot_loss(LOG).axes
    training, validation = axis.lines
    assert training.get_xydata().tolist() == [[1, 3], [2, 2]]
    assert validation.get_xydata().tolist() == [[2, 2.5]]
    assert training.get_linestyle() != validation.get_linestyle()
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["training", "validation"]


@pytest.mark.parametrize(("log", "count"), [([], 0), (LOG[:1], 1), (LOG[2:], 1)])
def test_a_log_without_one_of_the_losses_shows_the_other(log, count):
    (axis,) = plot_loss(log).axes
    assert len(axis.lines) == count
    assert (axis.get_legend() is not None) == (count > 0)


def test_a_loss_of_a_single_step_is_visible():
    (axis,) = plot_loss(LOG[:1]).axes
    (line,) = axis.lines
    assert line.get_marker() == "o"


def test_a_stack_is_as_long_as_its_parts_and_has_its_mark():
    bars = {"one": {"weights": 1.0, "states": 2.0}, "other": {"weights": 0.5, "states": 0.25}}
    (axis,) = plot_stacks(bars, "GiB", {"other": 0.6}, "peak", {"a card": 2.5}).axes
    ends = [bar.get_x() + bar.get_width() for bar in axis.patches]
    assert ends == [1.0, 3.0, 0.5, 0.75]
    first, second = axis.patches[:2]
    assert (first.get_facecolor(), first.get_hatch()) != (second.get_facecolor(), second.get_hatch())
    mark, limit = axis.lines
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (0.6, 1)
    assert (limit.get_xdata()[0], shown(axis)) == (2.5, ["a card"])
    assert [text.get_text() for text in axis.figure.legends[0].get_texts()] == ["peak", "weights", "states"]


def test_moments_are_stacked_at_one_scale():
    rising = np.array([[1.0, 0.0], [1.0, 4.0]])
    figure = plot_moments({"one": rising, "other": rising / 2}, ["weights", "rest"], "GiB")
    one, other = figure.axes
    assert one.get_ylim() == other.get_ylim()
    assert [layer.get_paths()[0].vertices[:, 1].max() for layer in one.collections] == [1.0, 5.0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["weights", "rest"]
