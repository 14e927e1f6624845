"""Small charts as SVG: line charts and histograms that a page's style colours, light or dark.

A chart is about as wide as a phone, so that its words can be read there; a page shows several
beside each other. What is drawn is worked out here, as numbers and texts; a template writes the
SVG, so that names are escaped where all others are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

STYLES: Final = 8
"""Colours, dashes and markers that the page's style knows, by number."""

WIDTH: Final = 340
HEIGHT: Final = 210
_RIGHT, _TOP, _BOTTOM = 12.0, 10.0, 40.0
_LABEL = 26.0  # left of the texts of the vertical axis, for its name
_MOST_MARKED = 30  # points of a series that get a marker each
_DIGIT = 6.2  # units that a letter of a tick is wide
_ROOM = 8.0  # between the texts of two ticks


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: As in the legend.
        x: Horizontal places; of a histogram the edges of its bins, one more than `y`.
        y: Values; where one is NaN, the line has a gap.
        style: Below `STYLES`.
        low: Lower ends of a band around the line; empty for none.
        high: Upper ends.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: int = 0
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Attributes:
        title: Above it, and its name for those who do not see it.
        x_label: Of the horizontal axis.
        y_label: Of the vertical one.
        series: The lines.
        description: What there is to see, in words.
        y_range: Of the vertical axis; None for that of the values.
        x_range: Of the horizontal axis; None for that of the places.
        x_ticks: Places and texts of the horizontal axis; empty to choose them.
        steps: Whether it is a histogram.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    description: str
    y_range: tuple[float, float] | None = None
    x_range: tuple[float, float] | None = None
    x_ticks: tuple[tuple[float, str], ...] = ()
    steps: bool = False


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: its place in the drawing, its text, and which end of it stands there."""

    place: float
    text: str
    anchor: str = "middle"


@dataclass(frozen=True)
class Line:
    """A drawn series: paths of SVG, and the places of its markers."""

    name: str
    style: int
    path: str
    area: str = ""
    markers: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Drawing:
    """A chart as a template writes it; lengths are units of the view box.

    Attributes:
        chart: What is drawn.
        x_ticks: Of the horizontal axis.
        y_ticks: Of the vertical one.
        lines: The series.
        left: Of the plot, as the following.
        right: Its right end.
        top: Its upper end.
        bottom: Its lower end.
        width: Of the view box.
        height: Of the view box.
    """

    chart: Chart
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    left: float
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True)
class _Scale:
    """A linear map of values to places."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def draw(chart: Chart) -> Drawing:
    """Work out where everything of a chart stands.

    Args:
        chart: With at least one finite value.
    """
    values = [v for s in chart.series for part in (s.y, s.low, s.high) for v in part]
    low, high = chart.y_range or _span(values)
    y_values = _nice(low, high, 4)
    if chart.y_range is None:
        low, high = min(low, y_values[0]), max(high, y_values[-1])
    y = _Scale(low, high, HEIGHT - _BOTTOM, _TOP)
    y_ticks = tuple(Tick(y(v), _number(v)) for v in y_values if low <= v <= high)
    left = round(_LABEL + _DIGIT * max((len(tick.text) for tick in y_ticks), default=0), 1)
    x_range = chart.x_range or _span([v for s in chart.series for v in s.x])
    x = _Scale(*x_range, left, WIDTH - _RIGHT)
    given = chart.x_ticks or tuple((v, _number(v)) for v in _nice(x.low, x.high, 5))
    x_ticks = [Tick(x(place), text) for place, text in given if x.low <= place <= x.high]
    lines = [_steps(s, x, y) if chart.steps else _line(s, x, y) for s in chart.series]
    return Drawing(chart, tuple(_without_overlaps(x_ticks)), y_ticks, tuple(lines), left)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return the least and largest finite value, apart from each other."""
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(finite), max(finite)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _nice(low: float, high: float, count: int) -> list[float]:
    """Return round values between two, and one beyond each end where that is the next."""
    from matplotlib.ticker import MaxNLocator

    return [float(v) for v in MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]


def _number(value: float) -> str:
    return f"{value:.4g}".replace("e-0", "e-").replace("-", "\u2212")


def _without_overlaps(ticks: Sequence[Tick]) -> list[Tick]:
    """Keep texts inside the drawing, and leave those out that would stand on the one before."""
    kept: list[Tick] = []
    end = -math.inf
    for tick in ticks:
        length = len(tick.text) * _DIGIT
        anchor = "end" if tick.place + length / 2 > WIDTH else "middle"
        start = tick.place - (length if anchor == "end" else length / 2)
        shown = start >= end + (_ROOM if kept else 0)
        kept.append(Tick(tick.place, tick.text if shown else "", anchor))
        end = start + length if shown else end
    return kept


def _line(series: Series, x: _Scale, y: _Scale) -> Line:
    points = list(zip(series.x, series.y, strict=True))
    path, pen = [], "M"
    places = []
    for one, value in points:
        if not math.isfinite(value):
            pen = "M"
            continue
        places.append((x(one), y(value)))
        path.append(f"{pen}{x(one):g} {y(value):g}")
        pen = "L"
    marked = tuple(places) if len(places) <= _MOST_MARKED else ()
    return Line(series.name, series.style, "".join(path), _band(series, x, y), marked)


def _band(series: Series, x: _Scale, y: _Scale) -> str:
    """Return the area between the ends of a band, where both are known."""
    if not series.low:
        return ""
    ends = [
        (x(one), y(low), y(high))
        for one, low, high in zip(series.x, series.low, series.high, strict=True)
        if math.isfinite(low) and math.isfinite(high)
    ]
    outline = [(one, high) for one, _, high in ends] + [(one, low) for one, low, _ in ends[::-1]]
    return "M" + "L".join(f"{one:g} {other:g}" for one, other in outline) + "Z" if ends else ""


def _steps(series: Series, x: _Scale, y: _Scale) -> Line:
    """Return a histogram's outline, and the area below it."""
    ground = y(max(0.0, y.low))
    path = [f"M{x(series.x[0]):g} {ground:g}"]
    for end, value in zip(series.x[1:], series.y, strict=True):
        path.append(f"V{y(value):g}H{x(end):g}")
    path.append(f"V{ground:g}")
    outline = "".join(path)
    return Line(series.name, series.style, outline, outline + "Z")


def histogram(
    values: Sequence[float], low: float = 0.0, high: float = 1.0, bins: int = 20
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Count values in bins of equal width.

    Args:
        values: Finite ones.
        low: Left end of the first bin.
        high: Right end of the last one.
        bins: How many.

    Returns:
        The edges, and the share of the values in each bin (0 where there is no value).
    """
    counts, edges = np.histogram(np.asarray(values, np.float64), bins, (low, high))
    shares = counts / max(1, len(values))
    return tuple(float(e) for e in edges), tuple(float(s) for s in shares)
