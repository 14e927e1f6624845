"""Figures of robustness curves: one per kind of perturbation, a panel per set, a curve per model.

Strengths rise from left to right, whichever way their numbers run, and the photographs as they are
stand at the left as "none". Sizes, type and colours are those of `cost_plots`.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from numpy.typing import NDArray

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.bands import IMAGES
from sparsevit_plugin.results.conventions import METRICS, UNPERTURBED
from sparsevit_plugin.results.cost_plots import (
    COLOURS,
    COLUMN_WIDTH,
    MARKERS,
    MOST_CURVES,
    PAGE_WIDTH,
    STYLE,
    no_formula,
    write_figure,
)
from sparsevit_plugin.results.robustness import BAND, KINDS, Curves, Kind

FORMATS: Final = ("pdf", "png")

_MOST_IN_A_ROW: Final = 4
_PANEL_HEIGHT: Final = 1.75  # inches, with its title, ticks and axis
_TOP: Final = 0.25  # for a row of the legend
_AXIS_NAME: Final = 0.17
_LINE_HEIGHT: Final = 0.105  # of the text below
_SMALL: Final = 6.0  # points
_SIGNS_PER_INCH: Final = 22.5  # of that text, on average
_LEGEND_SIGNS_PER_INCH: Final = 11.0  # of the legend's, a marker and gaps apart
_GAP: Final = 1.4  # between "none" and the mildest strength, in steps
_DODGE: Final = 0.2  # between models at one name, of the space between names
_MOST_DODGE: Final = 0.8  # of all models together
_BAND_ALPHA: Final = 0.15
_MOST_LEVEL_LABELS: Final = 7  # longer names than that are turned


def write_plots(
    curves: Curves, folder: str | PathLike[str], formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Write a figure per kind and metric that has any value, `<kind>-<metric>.<format>`.

    Raises:
        UserError: There are too many models to tell apart, or a file cannot be written.
    """
    written = []
    for metric in curves.metrics:
        for kind in curves.kinds:
            if not _has_values(curves, kind, metric):
                continue
            figure = robustness_plot(curves, kind, metric)
            for ending in formats:
                path = Path(folder) / f"{kind}-{metric}.{ending}"
                write_figure(figure, path)
                written.append(path)
    return written


def _has_values(curves: Curves, kind: str, metric: str) -> bool:
    points = curves.of(kind, metric)
    return bool(points["mean"][points["kind"] == kind].notna().any())


def robustness_plot(curves: Curves, kind: str, metric: str | None = None) -> Figure:
    """Draw the curves of one kind of perturbation.

    Args:
        curves: From `robustness.build_curves`.
        kind: As `jpeg`.
        metric: Which of its metrics; the first by default.

    Raises:
        UserError: It has no such points, or too many models to tell apart.
    """
    metric = metric or curves.metrics[0]
    frame = curves.of(kind, metric)
    if frame.empty or kind not in curves.kinds:
        raise UserError(f"no rows perturbed by {kind}, only by {', '.join(curves.kinds)}")
    if not _has_values(curves, kind, metric):
        raise UserError(f"{metric} has no value under {kind}: nothing to draw")
    # A set or a model without this kind would only be a point at the left.
    perturbed = frame[frame["kind"] == kind]
    frame = frame[frame["set"].isin(perturbed["set"]) & frame["model"].isin(perturbed["model"])]
    models = list(dict.fromkeys(frame["model"]))
    if len(models) > MOST_CURVES:
        raise UserError(
            f"{len(models)} models: a figure shows at most {MOST_CURVES}, name them by --rows"
        )
    known = KINDS.get(kind) or Kind(kind, kind, numeric=False)
    sets = list(dict.fromkeys(frame["set"]))
    short = curves.short[metric]
    if not known.numeric:
        short = short.replace(BAND, "Bars:", 1)
    text = [f"{known.title}. {short}", *curves.remarks]
    with mpl.rc_context(STYLE):
        figure, panels = _canvas(sets, models, " ".join(text))
        axis = _Axis(frame[frame["kind"] == kind]["perturbation"], known)
        for panel, name in zip(panels, sets, strict=True):
            of_set = frame[frame["set"] == name]
            _draw_panel(panel, of_set, models, axis)
            panel.set_title(f"{no_formula(name)}\n{_counts(of_set)}", fontsize=7)
        _name_axes(figure, _value_title(curves, metric), known.axis)
        _legend(figure, panels, models)
    return figure


class _Axis:
    """Where strengths stand: their numbers, or evenly spaced names; "none" a step before them.

    Attributes:
        none: Place of the photographs as they are.
        places: Perturbation to place.
        known: The kind.
        is_reversed: Whether its numbers fall from left to right.
    """

    def __init__(self, texts: Sequence[str] | pd.Series, known: Kind) -> None:
        order = list(dict.fromkeys(texts))
        self.known = known
        names = [text.partition(":")[2] for text in order]
        numbers = [float(n) for n in names] if known.numeric else list(range(1, len(names) + 1))
        self.places = dict(zip(order, map(float, numbers), strict=True))
        self.names = dict(zip(order, names, strict=True))
        step = float(np.median(np.abs(np.diff(numbers)))) if len(numbers) > 1 else 1.0
        self.is_reversed = known.numeric and known.falls
        gap = step * (_GAP if known.numeric else 1.0)
        first = numbers[0] + (gap if self.is_reversed else -gap)
        self.none = float(first)
        self.places[UNPERTURBED] = self.none
        self.names[UNPERTURBED] = UNPERTURBED
        self.step = step

    def prepare(self, axes: Axes) -> None:
        """Set ticks and direction."""
        in_order = sorted(self.places.items(), key=lambda item: item[1])
        axes.xaxis.set_major_locator(FixedLocator([place for _, place in in_order]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FixedFormatter([_shown(self.names[t]) for t, _ in in_order]))
        margin = 0.5 * self.step
        low, high = in_order[0][1] - margin, in_order[-1][1] + margin
        axes.set_xlim((high, low) if self.is_reversed else (low, high))
        if not self.known.numeric or len(in_order) > _MOST_LEVEL_LABELS:
            axes.tick_params(axis="x", labelrotation=40, labelsize=6.5)
            for label in axes.get_xticklabels():
                label.set_horizontalalignment("right")
                label.set_rotation_mode("anchor")


def _shown(name: str) -> str:
    """Return a strength as an axis shows it."""
    return name.replace("-", "\N{RIGHTWARDS ARROW}", 1) if name[:1].isdigit() else name


@dataclass(frozen=True)
class _Line:
    """The points of a model on a set, from left to right.

    Attributes:
        x: Places, shape (points,), as all that follow.
        mean: Values.
        low: Lower ends of the band.
        high: Upper ends.
        style: Colour, marker and label.
    """

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    style: dict[str, Any]


def _draw_panel(axes: Axes, frame: pd.DataFrame, models: Sequence[str], axis: _Axis) -> None:
    axis.prepare(axes)
    for number, model in enumerate(models):
        points = frame[frame["model"] == model]
        x = np.array([axis.places[text] for text in points["perturbation"]])
        order = np.argsort(-x if axis.is_reversed else x)
        mean, low, high = (
            points[name].to_numpy(np.float64)[order] for name in ("mean", "low", "high")
        )
        style = {"color": COLOURS[number], "marker": MARKERS[number], "label": no_formula(model)}
        line = _Line(x[order], mean, low, high, style)
        if axis.known.numeric:
            _draw_curve(axes, line, axis.none)
        else:
            spread = min(_DODGE * len(models), _MOST_DODGE)
            _draw_points(axes, line, spread * ((number + 0.5) / len(models) - 0.5))


def _draw_curve(axes: Axes, line: _Line, none: float) -> None:
    """Draw a line with its band; dotted from "none", which is no number on the axis."""
    colour = line.style["color"]
    axes.fill_between(line.x, line.low, line.high, color=colour, alpha=_BAND_ALPHA, linewidth=0)
    axes.plot(line.x, line.mean, linestyle="none", markersize=3.2, **line.style)
    solid = line.x != none
    axes.plot(line.x[solid], line.mean[solid], color=colour, linewidth=1.1)
    if not solid.all():
        dotted = (0, (1, 1.5))
        axes.plot(line.x[:2], line.mean[:2], color=colour, linewidth=1.0, linestyle=dotted)


def _draw_points(axes: Axes, line: _Line, shift: float) -> None:
    """Draw points with bars: there is nothing between two names."""
    bars = np.nan_to_num(np.stack([line.mean - line.low, line.high - line.mean])).clip(0)
    axes.errorbar(
        line.x + shift,
        line.mean,
        bars,
        linestyle="none",
        markersize=3.2,
        elinewidth=0.9,
        capsize=1.5,
        **line.style,
    )


def _counts(frame: pd.DataFrame) -> str:
    """Say how many images and photographs stand behind a panel."""
    images = _span(frame["images"], "image")
    known = frame[(frame["unit"] != IMAGES) & (frame["photographs"] > 0)]
    return images if known.empty else f"{images} of {_span(known['photographs'], 'photograph')}"


def _span(values: pd.Series, word: str) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low if low == high else f'{low} to {high}'} {word}{'' if high == 1 else 's'}"


# --- layout --------------------------------------------------------------------------------------


def _canvas(sets: Sequence[str], models: Sequence[str], text: str) -> tuple[Figure, list[Axes]]:
    """Make a figure with a panel per set, room for the legend above and the text below."""
    rows = math.ceil(len(sets) / _MOST_IN_A_ROW)
    columns = math.ceil(len(sets) / rows)
    width = COLUMN_WIDTH if columns == 1 else PAGE_WIDTH
    lines = textwrap.wrap(text, int(width * _SIGNS_PER_INCH))
    below = _LINE_HEIGHT * (len(lines) + 1) + _AXIS_NAME
    above = _TOP * math.ceil(len(models) / _legend_columns(models, width))
    height = _PANEL_HEIGHT * rows + 0.25 + above + below
    rect = (0.0, below / height, 1.0, 1.0 - (above + below) / height)
    layout = ConstrainedLayoutEngine(rect=rect)
    figure = Figure(figsize=(width, height), layout=layout, dpi=200)
    FigureCanvasAgg(figure)
    figure.text(
        0.01,
        0.4 * _LINE_HEIGHT / height,
        "\n".join(map(no_formula, lines)),
        fontsize=_SMALL,
        va="bottom",
    )
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    panels = list(grid.ravel())
    for panel in panels[len(sets) :]:
        panel.set_visible(False)
    return figure, panels[: len(sets)]


def _legend_columns(models: Sequence[str], width: float) -> int:
    longest = max(len(model) for model in models) + 5
    return max(1, min(len(models), int(width * _LEGEND_SIGNS_PER_INCH / longest)))


def _legend(figure: Figure, panels: Sequence[Axes], models: Sequence[str]) -> None:
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="upper center",
        ncols=_legend_columns(models, figure.get_figwidth()),
        frameon=False,
        borderaxespad=0.2,
    )


def _name_axes(figure: Figure, vertical: str, horizontal: str) -> None:
    """Name the axes of all panels once, beside and below the space that the panels have."""
    _, low, _, height = figure.get_layout_engine().get()["rect"]  # type: ignore[union-attr]
    figure.supylabel(vertical, fontsize=8, y=low + height / 2)
    # Below the panels' space: a name within it would be drawn over their ticks.
    figure.supxlabel(horizontal, fontsize=8, y=low, va="top")


def _value_title(curves: Curves, metric: str) -> str:
    """Say what the vertical axis shows."""
    at = METRICS[metric].at_threshold and curves.threshold is not None
    return METRICS[metric].title + (f" at > {curves.threshold:g}" if at else "")
