"""Figures of robustness curves: one per kind of perturbation, a panel per set, a curve per model.

Strengths rise from left to right, whichever way their numbers run, and the photographs as they are
stand at the left as "none". Sizes, type and colours are those of `cost_plots`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from numpy.typing import NDArray

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.bands import IMAGES
from sparsevit_plugin.results.conventions import METRICS, UNPERTURBED
from sparsevit_plugin.results.cost_plots import (
    COLOURS,
    MARKERS,
    STYLE,
    no_formula,
    write_figure,
)
from sparsevit_plugin.results.panels import BAND_ALPHA, canvas, legend, name_axes, too_many
from sparsevit_plugin.results.robustness import BAND, KINDS, Curves, Kind

FORMATS: Final = ("pdf", "png")

_GAP: Final = 1.4  # between "none" and the mildest strength, in steps
_DODGE: Final = 0.2  # between models at one name, of the space between names
_MOST_DODGE: Final = 0.8  # of all models together
_MOST_LEVEL_LABELS: Final = 7  # longer names than that are turned


def write_plots(
    curves: Curves, folder: str | PathLike[str], formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Write a figure per kind and metric that has any value, `<kind>-<metric>.<format>`.

    Raises:
        UserError: There are too many models to tell apart, or a file cannot be written.
    """
    writers = plot_writers(curves, formats)
    for name, write in writers.items():
        write(Path(folder) / name)
    return [Path(folder) / name for name in writers]


def plot_writers(
    curves: Curves, formats: Sequence[str] = FORMATS
) -> dict[str, Callable[[Path], None]]:
    """Return what writes each figure of `write_plots`, by its name; each takes the path.

    Raises:
        UserError: There are too many models to tell apart.
    """
    found: dict[str, Callable[[Path], None]] = {}
    for metric in curves.metrics:
        for kind in curves.kinds:
            if not _has_values(curves, kind, metric):
                continue
            write = partial(write_figure, robustness_plot(curves, kind, metric))
            found |= {f"{kind}-{metric}.{ending}": write for ending in formats}
    return found


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
    if words := too_many(len(models)):
        raise UserError(words)
    known = KINDS.get(kind) or Kind(kind, kind, numeric=False)
    sets = list(dict.fromkeys(frame["set"]))
    short = curves.short[metric]
    if not known.numeric:
        short = short.replace(BAND, "Bars:", 1)
    text = [f"{known.title}. {short}", *curves.remarks]
    with mpl.rc_context(STYLE):
        figure, panels = canvas(sets, models, " ".join(text))
        axis = _Axis(frame[frame["kind"] == kind]["perturbation"], known)
        for panel, name in zip(panels, sets, strict=True):
            of_set = frame[frame["set"] == name]
            _draw_panel(panel, of_set, models, axis)
            panel.set_title(f"{no_formula(name)}\n{_counts(of_set)}", fontsize=7)
        name_axes(figure, _value_title(curves, metric), known.axis)
        legend(figure, panels, models)
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
    axes.fill_between(line.x, line.low, line.high, color=colour, alpha=BAND_ALPHA, linewidth=0)
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


def _value_title(curves: Curves, metric: str) -> str:
    """Say what the vertical axis shows."""
    at = METRICS[metric].at_threshold and curves.threshold is not None
    return METRICS[metric].title + (f" at > {curves.threshold:g}" if at else "")
