"""Figures of cost: what stands where, by the axes themselves; and files that papers can take."""

import itertools
import math

import numpy as np
import pytest
from matplotlib.text import Annotation

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.cost_plots import (
    MOST_CURVES,
    Curve,
    Point,
    is_own_figure,
    score_plot,
    side_plot,
    write_figure,
)

NAN = math.nan
POINTS = [
    Point("A", 0.6, 50e9, 50e6),
    Point("B", 0.4, 200e9, NAN),
    Point("C", 0.5, NAN, 20e6),
    Point("theirs", 0.45, 100e9, 70e6, "published"),
    Point("no score", NAN, 100e9, 70e6),
    Point("no layers", 0.1, 0, 0),
]
SIDES = (128, 256, 512, 1024)
CURVES = [
    Curve("square", {side: 1e5 * side**2 for side in SIDES}, {256: 0.02, 512: 0.08}),
    Curve("fourth", {side: 1e2 * side**4 for side in SIDES[:2]}, {256: NAN}),
]


def labels_of(axes):
    return {label.get_text(): label for label in axes.texts if label.get_text()}


def drawn(axes, kind):
    (found,) = [c for c in axes.collections if c.get_label() == kind]
    return found.get_offsets().tolist()


def test_scores_stand_over_macs_and_parameters_measured_and_published_apart():
    macs, parameters = score_plot(POINTS, "pixel F1").axes
    assert drawn(macs, "measured") == [[50, 0.6], [200, 0.4]]
    assert drawn(macs, "published") == [[100, 0.45]]
    assert drawn(parameters, "measured") == [[50, 0.6], [20, 0.5]]
    assert drawn(parameters, "published") == [[70, 0.45]]
    assert set(labels_of(macs)) == {"A", "B", "theirs"}
    assert set(labels_of(parameters)) == {"A", "C", "theirs"}
    assert (macs.get_xlabel(), macs.get_ylabel()) == ("MACs of one image (G)", "pixel F1")
    assert parameters.get_xlabel() == "parameters (M)"
    assert [axes.get_xscale() for axes in (macs, parameters)] == ["log", "log"]
    legend = [text.get_text() for text in macs.get_legend().get_texts()]
    assert legend == ["measured", "published"]


def test_kinds_differ_in_shape_as_well_as_colour():
    axes = score_plot(POINTS, "pixel F1").axes[0]
    shapes = {tuple(map(tuple, c.get_paths()[0].vertices)) for c in axes.collections}
    assert len(shapes) == 2


def test_published_points_alone_are_marked_too():
    alone = [point for point in POINTS if point.kind == "published"]
    legend = score_plot(alone, "pixel F1").axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["published"]


def test_measured_points_alone_need_no_legend():
    assert score_plot(POINTS[:2], "pixel F1").axes[0].get_legend() is None


@pytest.mark.parametrize("seed", range(3))
def test_labels_of_a_crowd_do_not_overlap(seed):
    draws = np.random.default_rng(seed).uniform(size=(25, 2)).tolist()
    points = [
        Point(f"model_{number}", 0.3 + 0.4 * score, 10 ** (10 + 2 * cost), 10 ** (7 + 2 * cost))
        for number, (score, cost) in enumerate(draws)
    ]
    figure = score_plot(points, "pixel F1")
    figure.canvas.draw()
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in labels_of(axes).values()]
        shrunk = [box.padded(-1) for box in boxes]
        overlaps = [a.overlaps(b) for a, b in itertools.combinations(shrunk, 2)]
        assert sum(overlaps) == 0
        inside = axes.get_window_extent()
        assert all(inside.x0 - 1 <= box.x0 and box.x1 <= inside.x1 + 1 for box in boxes)


def test_a_label_far_from_its_point_has_a_line_to_it():
    points = [Point(f"a long name {number}", 0.5, 50e9, 50e6) for number in range(12)]
    axes = score_plot(points, "pixel F1").axes[0]
    lines = [a for a in axes.texts if isinstance(a, Annotation) and a.arrow_patch is not None]
    assert lines


def test_costs_stand_over_sides_with_guides():
    macs, seconds = side_plot(CURVES).axes
    square, fourth, *guides = macs.lines
    assert (square.get_label(), fourth.get_label()) == ("square", "fourth")
    assert list(square.get_xdata()) == list(SIDES)
    assert square.get_ydata() == pytest.approx([1e-4 * side**2 for side in SIDES])
    slopes = [np.diff(np.log(g.get_ydata()))[0] / np.diff(np.log(g.get_xdata()))[0] for g in guides]
    assert slopes == pytest.approx([2, 4])
    assert set(labels_of(macs)) == {r"$\propto$ side$^2$", r"$\propto$ side$^4$"}
    assert all(max(guide.get_ydata()) <= macs.get_ylim()[1] * (1 + 1e-9) for guide in guides)
    assert [macs.get_xscale(), macs.get_yscale()] == ["log", "log"]
    assert macs.get_ylabel() == "MACs of one image (G)"
    assert seconds.get_ylabel() == "latency of one image (ms)"
    assert [line.get_label() for line in seconds.lines if line.get_label()[0] != "_"] == ["square"]
    assert seconds.lines[0].get_ydata() == pytest.approx([20, 80])
    assert [tick.get_text() for tick in macs.get_xticklabels()] == ["128", "256", "512", "1024"]


def test_curves_differ_in_shape_as_well_as_colour():
    curves = [Curve(str(n), {64: n, 128: 4 * n}, {}) for n in range(1, MOST_CURVES + 1)]
    (axes,) = side_plot(curves).axes
    lines = axes.lines[:MOST_CURVES]
    assert len({line.get_color() for line in lines}) == MOST_CURVES
    assert len({line.get_marker() for line in lines}) == MOST_CURVES
    with pytest.raises(UserError, match=r"9 models: .* at most 8"):
        side_plot([*curves, CURVES[0]])


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(UserError, match="no model has both"):
        score_plot(POINTS[4:], "pixel F1")
    with pytest.raises(UserError, match="nothing to plot"):
        side_plot([Curve("a", {}, {128: NAN})])
    with pytest.raises(UserError, match="one side only"):
        side_plot([Curve("a", {128: 1.0}, {})])


@pytest.mark.parametrize("make", [lambda: score_plot(POINTS, "F1"), lambda: side_plot(CURVES)])
@pytest.mark.parametrize(
    ("ending", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("SVG", b"<")]
)
def test_files_are_of_their_format_and_the_same_every_time(tmp_path, make, ending, start):
    files = [tmp_path / f"{name}.{ending}" for name in "ab"]
    for file in files:
        write_figure(make(), file)
    first, second = (file.read_bytes() for file in files)
    assert first.startswith(start)
    assert first == second
    assert sorted(tmp_path.iterdir()) == files
    assert is_own_figure(files[0])


def test_a_file_of_another_program_is_no_figure_of_this_one(tmp_path):
    score_plot(POINTS, "F1").savefig(tmp_path / "a.png")
    assert not is_own_figure(tmp_path / "a.png")
    assert not is_own_figure(tmp_path / "gone.png")


def test_dollars_of_a_name_are_no_formula(tmp_path):
    score, side = Point("$x^{a_$", 0.6, 50e9, 50e6), Curve("$x^{a_$", CURVES[0].macs, {})
    for figure in (score_plot([score], "F1"), side_plot([side])):
        write_figure(figure, tmp_path / "a.pdf")
        assert (tmp_path / "a.pdf").is_file()


def test_fonts_of_a_pdf_are_embedded_as_truetype(tmp_path):
    write_figure(score_plot(POINTS, "pixel F1"), tmp_path / "a.pdf")
    content = (tmp_path / "a.pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content


def test_another_ending_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"a\.jpg: .*\.pdf, \.png, \.svg"):
        write_figure(score_plot(POINTS, "pixel F1"), tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())
