"""Figure of pixel F1 against the threshold: a panel per set, a curve per model."""

from os import PathLike
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.cost_plots import (
    COLOURS,
    MARKERS,
    STYLE,
    no_formula,
    write_figure,
)
from sparsevit_plugin.results.panels import BAND_ALPHA, canvas, legend, name_axes, too_many
from sparsevit_plugin.results.thresholds import BINS, HALF, ThresholdStudy

_LINE: Final = 1.1
_MARK: Final = 4.0
_TICKS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)


def write_threshold_plot(study: ThresholdStudy, path: str | PathLike[str]) -> None:
    """Write the figure; its ending gives the format.

    Raises:
        UserError: There are too many models to tell apart, or the file cannot be written.
    """
    write_figure(threshold_plot(study), path)


def threshold_plot(study: ThresholdStudy) -> Figure:
    """Draw mean F1 against the threshold, with its band, and where the choices lie.

    Raises:
        UserError: There are too many models to tell apart.
    """
    models, sets = study.models, study.sets
    if words := too_many(len(models)):
        raise UserError(words)
    text = (
        "Mean pixel F1 over images against the threshold, at k/256. Filled marker: the threshold "
        "that the hold-out of the training chose. Hollow marker: the best one of the set, an "
        f"oracle. Dotted: 0.5. Band: bootstrap over {study.unit}s."
    )
    with mpl.rc_context(STYLE):
        figure, panels = canvas(sets, models, text)
        for panel, name in zip(panels, sets, strict=True):
            _draw(panel, study, name)
        panels[0].set_ylim(0, _top(study))  # the panels share it
        name_axes(figure, "pixel F1", "threshold")
        legend(figure, _most_complete(panels, models), models)
    return figure


def _top(study: ThresholdStudy) -> float:
    """Return where the vertical axis ends."""
    highest = np.nanmax(study.curves[["f1", "high"]].to_numpy(np.float64))
    return float(min(1.0, 1.08 * highest)) or 1.0


def _most_complete(panels: list[Axes], models: list[str]) -> list[Axes]:
    """Put the panel with the most curves first: the legend is made from it."""
    return sorted(panels, key=lambda panel: -len(panel.get_legend_handles_labels()[1]))


def _draw(axes: Axes, study: ThresholdStudy, name: str) -> None:
    axes.axvline(HALF / BINS, color="#777777", linewidth=0.8, linestyle=(0, (1, 1.5)))
    images = 0
    for number, model in enumerate(study.models):
        curve = study.curves[(study.curves["model"] == model) & (study.curves["set"] == name)]
        if curve.empty:
            continue
        images = int(curve["images"].iloc[0])
        x, y, low, high = (
            curve[column].to_numpy(np.float64) for column in ("threshold", "f1", "low", "high")
        )
        colour = COLOURS[number]
        axes.fill_between(x, low, high, color=colour, alpha=BAND_ALPHA, linewidth=0)
        label = no_formula(model)
        axes.plot(
            x, y, color=colour, linewidth=_LINE, label=label, marker=MARKERS[number],
            markersize=_MARK, markevery=[],
        )  # fmt: skip
        for column, filled in (("set_oracle_threshold", False), ("validation_threshold", True)):
            for place in _places(study, model, name, column):
                axes.plot(
                    x[place], y[place], linestyle="none", marker=MARKERS[number], color=colour,
                    markersize=_MARK, markerfacecolor=colour if filled else "white",
                    zorder=3, clip_on=False,
                )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_xticks(_TICKS, ["0", ".25", ".5", ".75", "1"])
    axes.set_title(f"{no_formula(name)}\n{images} images", fontsize=7)


def _places(study: ThresholdStudy, model: str, name: str, column: str) -> list[int]:
    """Return the thresholds of a line of the table as numbers k, one for each seed."""
    lines = study.table[(study.table["model"] == model) & (study.table["set"] == name)]
    text = lines[column].iloc[0] if len(lines) else ""
    return [round(float(word) * BINS) for word in str(text or "").split()]
