"""What figures of several panels share: their size, the legend above, the text below, the axes."""

import math
import textwrap
from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from sparsevit_plugin.results.cost_plots import COLUMN_WIDTH, MOST_CURVES, PAGE_WIDTH, no_formula

BAND_ALPHA: Final = 0.15

_MOST_IN_A_ROW: Final = 4
_PANEL_HEIGHT: Final = 1.75  # inches, with its title, ticks and axis
_TOP: Final = 0.25  # for a row of the legend
_AXIS_NAME: Final = 0.17
_LINE_HEIGHT: Final = 0.105  # of the text below
_SMALL: Final = 6.0  # points
_SIGNS_PER_INCH: Final = 22.5  # of that text, on average
_LEGEND_SIGNS_PER_INCH: Final = 11.0  # of the legend's, a marker and gaps apart


def too_many(models: int) -> str:
    """Say why so many models make no figure; empty where they do."""
    if models <= MOST_CURVES:
        return ""
    return f"{models} models: a figure shows at most {MOST_CURVES}, name them by --rows"


def canvas(sets: Sequence[str], models: Sequence[str], text: str) -> tuple[Figure, list[Axes]]:
    """Make a figure with a panel per set, room for the legend above and the text below."""
    rows = math.ceil(len(sets) / _MOST_IN_A_ROW)
    columns = math.ceil(len(sets) / rows)
    width = COLUMN_WIDTH if columns == 1 else PAGE_WIDTH
    lines = textwrap.wrap(text, int(width * _SIGNS_PER_INCH))
    below = _LINE_HEIGHT * (len(lines) + 1) + _AXIS_NAME
    above = _TOP * math.ceil(len(models) / legend_columns(models, width))
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


def legend_columns(models: Sequence[str], width: float) -> int:
    """Return how many names stand beside each other in a legend of so many inches."""
    longest = max(len(model) for model in models) + 5
    return max(1, min(len(models), int(width * _LEGEND_SIGNS_PER_INCH / longest)))


def legend(figure: Figure, panels: Sequence[Axes], models: Sequence[str]) -> None:
    """Name the models above all panels, by the handles of the first."""
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="upper center",
        ncols=legend_columns(models, figure.get_figwidth()),
        frameon=False,
        borderaxespad=0.2,
    )


def name_axes(figure: Figure, vertical: str, horizontal: str) -> None:
    """Name the axes of all panels once, beside and below the space that the panels have."""
    _, low, _, height = figure.get_layout_engine().get()["rect"]  # type: ignore[union-attr]
    figure.supylabel(vertical, fontsize=8, y=low + height / 2)
    # Below the panels' space: a name within it would be drawn over their ticks.
    figure.supxlabel(horizontal, fontsize=8, y=low, va="top")
