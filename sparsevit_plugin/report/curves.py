"""Robustness: a metric over the strength of what was done to the photographs, drawn for a page."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import pandas as pd

from sparsevit_plugin.report.charts import STYLES, Chart, Series
from sparsevit_plugin.results.conventions import METRICS, UNPERTURBED
from sparsevit_plugin.results.robustness import KINDS, Curves, Kind

_BANDED: Final = 4
"""Bands of more models than this cover each other, so they stand in the table alone."""


@dataclass(frozen=True)
class Point:
    """A figure with its band; NaN where there is none."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class SetCurves:
    """One set.

    Attributes:
        dataset: Its name.
        charts: One for each kind of perturbation.
        perturbations: As they are written, `none` first, from mild to strong within a kind.
        rows: Label to the metric under each of them.
    """

    dataset: str
    charts: tuple[Chart, ...]
    perturbations: tuple[str, ...]
    rows: dict[str, tuple[Point, ...]]


@dataclass(frozen=True)
class Robustness:
    """All curves of a page.

    Attributes:
        metric: What they show.
        caption: Every convention behind them.
        remarks: What else a reader must know.
        sets: The sets that have a result under a perturbation.
    """

    metric: str
    caption: str
    remarks: tuple[str, ...]
    sets: tuple[SetCurves, ...]


def robustness(curves: Curves) -> Robustness:
    """Draw the curves of the first metric.

    Args:
        curves: From `results.robustness.build_curves`.
    """
    metric = curves.metrics[0]
    frame = curves.frame[curves.frame["metric"] == metric]
    models = list(dict.fromkeys(frame[frame["kind"] != UNPERTURBED]["model"]))
    styles = {label: place % STYLES for place, label in enumerate(models)}
    found = []
    for dataset, part in frame.groupby("set", sort=False):
        perturbed = part[(part["kind"] != UNPERTURBED) & part["mean"].notna()]
        if not perturbed.empty:
            names = tuple(dict.fromkeys(part["perturbation"]))
            charts = tuple(_charts(part, curves.kinds, metric, styles))
            found.append(SetCurves(str(dataset), charts, names, _rows(part, names)))
    return Robustness(
        METRICS[metric].title, curves.captions[metric], tuple(curves.remarks), tuple(found)
    )


def _rows(part: pd.DataFrame, names: tuple[str, ...]) -> dict[str, tuple[Point, ...]]:
    missing = Point(math.nan, math.nan, math.nan)
    found = {}
    for label, of_model in part.groupby("model", sort=False):
        points = {
            text: Point(float(mean), float(low), float(high))
            for text, mean, low, high in of_model[
                ["perturbation", "mean", "low", "high"]
            ].itertuples(index=False)
        }
        found[str(label)] = tuple(points.get(name, missing) for name in names)
    return found


def _charts(
    part: pd.DataFrame, kinds: Iterable[str], metric: str, styles: dict[str, int]
) -> Iterable[Chart]:
    """Yield a chart for each kind of which a set has points."""
    for kind in kinds:
        own = part[part["kind"].isin([UNPERTURBED, kind])]
        ladder = list(dict.fromkeys(own["perturbation"]))
        series, words = [], []
        for label, points in _rows(own, tuple(ladder)).items():
            shown = [
                (name, p) for name, p in zip(ladder, points, strict=True) if math.isfinite(p.mean)
            ]
            if all(name == UNPERTURBED for name, _ in shown):
                continue
            series.append(
                Series(
                    label,
                    tuple(float(place) for place in range(len(ladder))),
                    tuple(p.mean for p in points),
                    styles[label],
                    tuple(p.low for p in points),
                    tuple(p.high for p in points),
                )
            )
            (first, one), (last, other) = shown[0], shown[-1]
            words.append(f"{label}: {one.mean:.3f} at {first}, {other.mean:.3f} at {last}")
        if len(series) > _BANDED:
            series = [replace(one, low=(), high=()) for one in series]
        if series:
            about = KINDS.get(kind, Kind(kind, "strength"))
            ticks = [(float(n), name.partition(":")[2] or name) for n, name in enumerate(ladder)]
            yield Chart(
                about.title,
                about.axis,
                METRICS[metric].title,
                tuple(series),
                f"{'; '.join(words)}.",
                x_ticks=tuple(ticks),
            )
