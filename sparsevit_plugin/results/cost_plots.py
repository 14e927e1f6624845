"""Figures of what models cost: scores against cost, and cost against the side of the image.

Sizes and type are those of a paper's column or page; colours are those of Okabe and Ito ("Color
universal design", 2008), which people with any colour vision tell apart, and every colour comes
with a shape of its own.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
    ScalarFormatter,
)
from matplotlib.transforms import Bbox

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import atomic_path
from sparsevit_plugin.results.fonts import complete_fonts

FORMATS: Final = ("pdf", "png", "svg")
MOST_CURVES: Final = 8

COLUMN_WIDTH: Final = 3.35
"""Of a paper with two columns, in inches."""

PAGE_WIDTH: Final = 6.9

_HEIGHT: Final = 2.9
_DPI: Final = 200  # of PNG alone
_MARK: Final = "sparsevit-plugin figure"  # in a figure's metadata
STYLE: Final = {
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    # TrueType, embedded: conferences refuse PDF with the bitmaps of type 3.
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "sparsevit-plugin",
}
COLOURS: Final = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#E69F00", "#56B4E9", "#000000", "#8B6F00"),
)
MARKERS: Final = "osD^vP*X"
_GUIDE: Final = "#777777"
_LABEL_SIZE: Final = 6.5
_STEP: Final = 3.0  # between places that a label tries, in points
_RINGS: Final = 14
_GUIDE_GAP: Final = 2.0  # a guide's first cost, as a multiple of the highest
_ROOM: Final = 2.5  # between the costs and the edges of the axes, as a factor
_MOST_FINE_TICKS: Final = 1.7  # decades
_NEAR: Final = 2  # rings; a label further off gets a line to its point
_KINDS: Final[dict[str, dict[str, Any]]] = {
    "measured": {"marker": "o", "color": COLOURS[0], "s": 20},
    "published": {"marker": "D", "facecolors": "none", "edgecolors": COLOURS[1], "s": 18},
}


@dataclass(frozen=True)
class Point:
    """A model in a plot of scores.

    Attributes:
        label: Its name.
        score: What is on the vertical axis.
        macs: Of one forward pass; NaN where unknown.
        parameters: NaN where unknown.
        kind: `measured`, or `published`: the score is another's, the costs are counted here.
    """

    label: str
    score: float
    macs: float
    parameters: float
    kind: str = "measured"


@dataclass(frozen=True)
class Curve:
    """A model in a plot over sides.

    Attributes:
        label: Its name.
        macs: Side in pixels to multiply-accumulates.
        seconds: Side in pixels to the median time of a call on one image.
    """

    label: str
    macs: Mapping[int, float]
    seconds: Mapping[int, float]


def plot_format(path: str | PathLike[str]) -> str:
    """Return the format that a file's name asks for.

    Raises:
        UserError: It is none of `FORMATS`.
    """
    found = Path(path).suffix.lstrip(".").lower()
    if found not in FORMATS:
        endings = ", ".join(f".{name}" for name in FORMATS)
        raise UserError(f"{path}: a plot's file name ends with one of {endings}")
    return found


def write_figure(figure: Figure, path: str | PathLike[str], *, dpi: int = _DPI) -> None:
    """Write a figure; the same figure gives the same file.

    Args:
        figure: The figure.
        path: Its ending gives the format.
        dpi: Of a PNG.

    Raises:
        UserError: The name has another ending, or the file cannot be written.
    """
    kind = plot_format(path)
    undated: dict[str, Any] = {
        "png": {"Software": _MARK},
        "pdf": {"Creator": _MARK, "CreationDate": None},
        "svg": {"Creator": _MARK, "Date": None},
    }
    with mpl.rc_context(STYLE), atomic_path(path) as temporary:
        complete_fonts(figure)
        figure.savefig(temporary, format=kind, dpi=dpi, metadata=undated[kind])


def no_formula(name: str) -> str:
    """Return a name as a figure's text shows it: its dollars begin no formula."""
    return name.replace("$", r"\$")


def is_own_figure(path: Path) -> bool:
    """Say whether a file is a figure that `write_figure` wrote."""
    return path.is_file() and _MARK.encode() in path.read_bytes()


def refuse_other_file(option: str, path: str | PathLike[str]) -> None:
    """Refuse a name that no figure can have, or in whose place there is something else.

    Args:
        option: With which the user gave it.
        path: The figure.

    Raises:
        UserError: If so.
    """
    plot_format(path)
    if Path(path).exists() and not is_own_figure(Path(path)):
        raise UserError(
            f"{option} {path}: is there and is no figure of this program: give another name, or "
            "remove it"
        )


# --- scores against cost -------------------------------------------------------------------------


def score_plot(points: Sequence[Point], score: str) -> Figure:
    """Draw scores against MACs and against parameters, both on log axes.

    Args:
        points: A point without MACs is missing on the left, one without parameters on the right.
        score: What the scores are, as the vertical axis says it.

    Raises:
        UserError: There is no point to draw.
    """
    axes_of = {"macs": ("MACs of one image (G)", 1e9), "parameters": ("parameters (M)", 1e6)}
    drawn = {name: [p for p in points if _is_drawable(getattr(p, name), p)] for name in axes_of}
    if not any(drawn.values()):
        raise UserError("no model has both a score and a cost: nothing to plot")
    with mpl.rc_context(STYLE):
        figure, panels = _panels(2, sharey=True)
        for panel, (name, (words, scale)) in zip(panels, axes_of.items(), strict=True):
            _score_panel(panel, drawn[name], name, scale)
            panel.set_xlabel(words)
        panels[0].set_ylabel(score)
        _legend_of_kinds(panels[0], points)
        complete_fonts(figure)  # before labels are measured
        figure.canvas.draw()
        for panel in panels:
            place_labels(panel)
    return figure


def _is_drawable(cost: float, point: Point) -> bool:
    return cost > 0 and not math.isnan(point.score)


def _score_panel(axes: Axes, points: Sequence[Point], name: str, scale: float) -> None:
    axes.set_xscale("log")
    for kind, style in _KINDS.items():
        chosen = [point for point in points if point.kind == kind]
        costs = [getattr(point, name) / scale for point in chosen]
        axes.scatter(costs, [point.score for point in chosen], label=kind, linewidths=0.9, **style)
        for cost, point in zip(costs, chosen, strict=True):
            axes.annotate(
                no_formula(point.label),
                (cost, point.score),
                xytext=(0, 0),
                textcoords="offset points",
                fontsize=_LABEL_SIZE,
                ha="center",
                va="center",
            )
    axes.margins(x=0.12, y=0.12)
    _plain_ticks(axes)


def _legend_of_kinds(axes: Axes, points: Sequence[Point]) -> None:
    """Say which scores are published ones; measured ones alone need no word."""
    kinds = {point.kind for point in points}
    if kinds != {"measured"}:
        handles, labels = axes.get_legend_handles_labels()
        shown = [place for place, label in enumerate(labels) if label in kinds]
        axes.legend(
            [handles[place] for place in shown],
            [labels[place] for place in shown],
            loc="best",
            frameon=True,
            framealpha=0.9,
            borderpad=0.3,
            handletextpad=0.2,
        )


def place_labels(axes: Axes) -> None:
    """Move the labels of points to where they cover no other label and no point, as far as may be.

    Each label tries places on rings around its point and takes the first free one, or the one that
    covers least. One that ends far from its point gets a line to it.

    Args:
        axes: Its figure has been drawn once, so that sizes of text are known.
    """
    labels = [child for child in axes.texts if isinstance(child, Annotation)]
    places: Any = axes.transData.transform([label.xy for label in labels]) if labels else []
    inside = axes.get_window_extent()
    unit = axes.figure.dpi / 72  # pixels in a point
    taken = [Bbox.from_extents(x - 3, y - 3, x + 3, y + 3) for x, y in places]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent())
    for label, (x, y) in zip(labels, places, strict=True):
        extent = label.get_window_extent()
        ring, offset, box = _best_place(extent, (x, y), taken, inside, unit)
        label.set_position((offset[0] / unit, offset[1] / unit))
        taken.append(box)
        if ring > _NEAR:
            axes.annotate(
                "",
                label.xy,
                xytext=(offset[0] / unit, offset[1] / unit),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": _GUIDE, "linewidth": 0.4},
                zorder=1,
            )


def _best_place(
    extent: Bbox, point: tuple[float, float], taken: Sequence[Bbox], inside: Bbox, unit: float
) -> tuple[int, tuple[float, float], Bbox]:
    """Return the ring, the offset and the box (in pixels) of the place that covers least."""
    width, height = extent.width, extent.height
    best = None
    for ring, (right, up) in _directions():
        gap = _STEP * unit * (ring + 1)
        offset = (right * (width / 2 + gap), up * (height / 2 + gap))
        x, y = point[0] + offset[0], point[1] + offset[1]
        box = Bbox.from_bounds(x - width / 2, y - height / 2, width, height)
        cost = sum(_overlap(box, other) for other in taken)
        cost += width * height - _overlap(box, inside)
        if best is None or cost < best[0] - 1e-9:
            best = (cost, ring, offset, box)
        if cost <= 1e-9:  # noqa: PLR2004 - free, but for rounding
            break
    assert best is not None  # noqa: S101 - there are directions
    return best[1:]


def _directions() -> Iterable[tuple[int, tuple[float, float]]]:
    around = [(1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    return ((ring, (float(x), float(y))) for ring in range(_RINGS) for x, y in around)


def _overlap(one: Bbox, other: Bbox) -> float:
    """Return the area that two boxes share."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)


# --- cost against the side -----------------------------------------------------------------------


def side_plot(curves: Sequence[Curve]) -> Figure:
    """Draw MACs, and times where there are any, against the side of the image, on log axes.

    Two dashed lines show how a cost grows with side^2 (convolutions, attention in windows or
    groups of fixed size) and with side^4 (attention between all pixels).

    Raises:
        UserError: There is nothing to draw, or there are too many curves to tell apart.
    """
    if len(curves) > MOST_CURVES:
        raise UserError(
            f"{len(curves)} models: a plot over sides shows at most {MOST_CURVES}, name them by "
            "--models"
        )
    kinds = {"macs": ("MACs of one image (G)", 1e9), "seconds": ("latency of one image (ms)", 1e-3)}
    present = [name for name in kinds if any(_known(getattr(c, name)) for c in curves)]
    if not present:
        raise UserError("no model has a cost at any side: nothing to plot")
    sides = {side for c in curves for name in present for side in _known(getattr(c, name))}
    if len(sides) == 1:
        raise UserError("costs at one side only: give several, as --image-size 256,512,1024")
    with mpl.rc_context(STYLE):
        figure, panels = _panels(len(present))
        for panel, name in zip(panels, present, strict=True):
            words, scale = kinds[name]
            _side_panel(panel, [(c.label, _known(getattr(c, name), scale)) for c in curves])
            panel.set_ylabel(words)
        panels[0].legend(loc="lower right", frameon=True, framealpha=0.9, borderpad=0.3)
    return figure


def _known(values: Mapping[int, float], scale: float = 1.0) -> dict[int, float]:
    return {side: v / scale for side, v in sorted(values.items()) if v == v and v > 0}  # noqa: PLR0124


def _side_panel(axes: Axes, curves: Sequence[tuple[str, Mapping[int, float]]]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for number, (label, values) in enumerate(curves):
        if values:
            axes.plot(
                list(values),
                list(values.values()),
                color=COLOURS[number],
                marker=MARKERS[number],
                markersize=3.5,
                linewidth=1.1,
                label=no_formula(label),
            )
    sides = sorted({side for _, values in curves for side in values})
    axes.set_xlabel("side of the image (pixels)")
    axes.xaxis.set_major_locator(FixedLocator(sides))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    _guides(axes, [values for _, values in curves], sides)


def _guides(axes: Axes, curves: Sequence[Mapping[int, float]], sides: Sequence[int]) -> None:
    """Draw side^2 and side^4 from above the highest cost of the smallest side."""
    values = [value for curve in curves for value in curve.values()]
    start = _GUIDE_GAP * max(curve[sides[0]] for curve in curves if sides[0] in curve)
    top = _ROOM * max(values)
    axes.set_ylim(min(values) / _ROOM, top)
    for power, share in ((2, 0.5), (4, 0.8)):
        end = min(sides[-1], sides[0] * (top / start) ** (1 / power))
        ends = np.array([sides[0], end])
        axes.plot(
            ends,
            start * (ends / sides[0]) ** power,
            color=_GUIDE,
            linestyle=(0, (4, 2)),
            linewidth=0.8,
            zorder=1,
        )
        at = sides[0] ** (1 - share) * end**share
        axes.annotate(
            rf"$\propto$ side$^{power}$",
            (at, start * (at / sides[0]) ** power),
            xytext=(-3, 2),
            textcoords="offset points",
            color=_GUIDE,
            fontsize=_LABEL_SIZE,
            ha="right",
            va="bottom",
        )


# --- both ----------------------------------------------------------------------------------------


def _panels(count: int, *, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Make a figure of one panel (a column wide) or two (a page wide)."""
    width = COLUMN_WIDTH if count == 1 else PAGE_WIDTH
    figure = Figure(figsize=(width, _HEIGHT), layout="constrained", dpi=_DPI)
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, count, squeeze=False, sharey=sharey)[0])


def _plain_ticks(axes: Axes) -> None:
    """Write 10 and 100 instead of powers of ten; over few decades 20 and 50 as well."""
    low, high = axes.get_xlim()
    fine = math.log10(high / low) < _MOST_FINE_TICKS
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if fine else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
