"""Reliability of image scores: the share of tampered images against the mean score, in bins.

The diagram of DeGroot and Fienberg ("The comparison and evaluation of forecasters", The
Statistician 32, 1983, doi:10.2307/2987588). The size of a marker says how many images are in its
bin.
"""

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
from sparsevit_plugin.results.detection import DetectionStudy
from sparsevit_plugin.results.panels import canvas, legend, name_axes, too_many

_TICKS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
_NAMES: Final = ("0", ".25", ".5", ".75", "1")
_LEAST, _MOST = 1.5, 6.5  # size of a marker, by the share of images in its bin


def write_reliability_plot(study: DetectionStudy, path: str | PathLike[str]) -> None:
    """Write the figure; its ending gives the format.

    Raises:
        UserError: There is nothing to draw, there are too many models to tell apart, or the file
            cannot be written.
    """
    write_figure(reliability_plot(study), path)


def reliability_plot(study: DetectionStudy) -> Figure:
    """Draw a panel per set and a line per model.

    Raises:
        UserError: There is nothing to draw, or there are too many models to tell apart.
    """
    sets, models = study.sets, study.models
    if not sets:
        raise UserError(
            "no set has both tampered and authentic images and scores that are probabilities: "
            "there is no calibration to draw"
        )
    if words := too_many(len(models)):
        raise UserError(words)
    text = (
        "Images in 15 bins of equal width by their score: the share of them that is tampered "
        "against their mean score. Larger markers: more images. On the dotted line scores are "
        "probabilities; below it they claim too much."
    )
    with mpl.rc_context(STYLE):
        figure, panels = canvas(sets, models, text)
        for panel, name in zip(panels, sets, strict=True):
            _draw(panel, study, name)
        name_axes(figure, "share of tampered images", "mean image score")
        most = sorted(panels, key=lambda panel: -len(panel.get_legend_handles_labels()[1]))
        legend(figure, most, models)
    return figure


def _draw(axes: Axes, study: DetectionStudy, name: str) -> None:
    axes.plot([0, 1], [0, 1], color="#777777", linewidth=0.8, linestyle=(0, (1, 1.5)))
    for number, model in enumerate(study.models):
        frame = study.reliability
        bins = frame[(frame["set"] == name) & (frame["model"] == model)]
        if bins.empty:
            continue
        x, y, count = (
            bins[column].to_numpy(np.float64)
            for column in ("mean_score", "tampered_share", "images")
        )
        colour, marker = COLOURS[number], MARKERS[number]
        axes.plot(
            x, y, color=colour, marker=marker, linewidth=0.8, markersize=4, markevery=[],
            label=no_formula(model),
        )  # fmt: skip
        size = _LEAST + (_MOST - _LEAST) * np.sqrt(count / count.sum())
        axes.scatter(
            x, y, s=size**2, color=colour, marker=marker, linewidths=0, clip_on=False, zorder=3
        )
    lines = study.figures[study.figures["set"] == name]
    counts = f"{lines['tampered'].iloc[0]} tampered, {lines['authentic'].iloc[0]} authentic"
    axes.set_title(f"{no_formula(name)}\n{counts}", fontsize=7)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xticks(_TICKS, _NAMES)
    axes.set_yticks(_TICKS, _NAMES)
