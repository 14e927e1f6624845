"""Charts: every value where it belongs, gaps where there is none."""

import math
import re

import numpy as np
import pytest

from sparsevit_plugin.report.charts import HEIGHT, WIDTH, Chart, Series, draw, histogram


def chart(*series, **more):
    return Chart("t", "x", "y", tuple(series), "d", **more)


def numbers(path):
    return [float(text) for text in re.findall(r"-?\d+(?:\.\d+)?", path)]


def test_values_are_placed_in_proportion():
    drawing = draw(chart(Series("a", (0, 1, 3), (0.0, 0.5, 1.0)), y_range=(0, 1)))
    (line,) = drawing.lines
    (x0, y0), (x1, y1), (x2, y2) = line.markers
    assert (x0, x2) == (drawing.left, drawing.right)
    assert x1 == pytest.approx(drawing.left + (drawing.right - drawing.left) / 3, abs=0.1)
    assert (y0, y2) == (drawing.bottom, drawing.top)
    assert y1 == pytest.approx((drawing.bottom + drawing.top) / 2, abs=0.1)


def test_everything_stays_inside(monkeypatch):
    draw_random = np.random.default_rng(0)
    for scale in (1e-6, 1, 1e7):
        values = tuple(draw_random.normal(0, scale, 50))
        low, high = (tuple(v + sign * scale for v in values) for sign in (-1, 1))
        drawing = draw(chart(Series("a", tuple(range(50)), values, low=low, high=high)))
        for path in (drawing.lines[0].path, drawing.lines[0].area):
            places = numbers(path)
            assert all(0 <= x <= WIDTH for x in places[::2])
            assert all(0 <= y <= HEIGHT for y in places[1::2])
        assert drawing.left > 6 * max(len(tick.text) for tick in drawing.y_ticks)
        assert len(drawing.y_ticks) >= 2


def test_a_missing_value_is_a_gap():
    (line,) = draw(chart(Series("a", (0, 1, 2, 3), (1.0, math.nan, 2.0, 3.0)))).lines
    assert line.path.count("M") == 2
    assert len(line.markers) == 3


def test_a_band_covers_what_is_known():
    series = Series("a", (0, 1), (1.0, 2.0), low=(0.5, math.nan), high=(1.5, math.nan))
    assert draw(chart(series)).lines[0].area.count("L") == 1
    series = Series("a", (0,), (1.0,), low=(math.nan,), high=(math.nan,))
    assert draw(chart(series)).lines[0].area == ""


def test_equal_values_can_be_drawn():
    drawing = draw(chart(Series("a", (2, 2), (0.5, 0.5))))
    assert all(map(math.isfinite, numbers(drawing.lines[0].path)))


def test_texts_of_ticks_do_not_cover_each_other():
    ticks = tuple((float(n), f"long-name-{n}") for n in range(12))
    drawing = draw(chart(Series("a", tuple(range(12)), (0.0,) * 12), x_ticks=ticks))
    assert len(drawing.x_ticks) == 12
    shown = [tick for tick in drawing.x_ticks if tick.text]
    assert 1 < len(shown) < 12
    for one, other in zip(shown, shown[1:], strict=False):  # noqa: RUF007
        assert other.place - one.place > 6 * len(one.text)
    assert drawing.x_ticks[-1].anchor == "end"  # its middle would reach beyond the drawing


def test_a_histogram_counts_every_value_once():
    values = [0.0, 0.01, 0.5, 1.0]
    edges, shares = histogram(values)
    assert (edges[0], edges[-1], len(edges)) == (0, 1, 21)
    assert shares[0] == 0.5
    assert shares[-1] == 0.25
    assert sum(shares) == pytest.approx(1)
    assert sum(histogram([])[1]) == 0


def test_a_histograms_outline_is_as_high_as_its_bins():
    edges, shares = histogram([0.1, 0.1, 0.9], bins=4)
    drawing = draw(chart(Series("a", edges, shares), y_range=(0, 1), steps=True))
    heights = [float(v) for v in re.findall(r"V([\d.]+)", drawing.lines[0].path)]
    span = drawing.bottom - drawing.top
    found = [(drawing.bottom - v) / span for v in heights[:-1]]
    assert found == pytest.approx(shares, abs=0.01)
