"""Robustness: a metric over the strength of what was done to the photographs."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sparsevit_plugin.report.charts import STYLES, Chart, Series
from sparsevit_plugin.results.conventions import METRICS, UNPERTURBED
from sparsevit_plugin.results.rows import TableRow
from sparsevit_plugin.results.tables import Table

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_TITLES: Final = {
    "jpeg": ("JPEG compression", "quality"),
    "blur": ("Gaussian blur", "kernel, pixels"),
    "noise": ("Gaussian noise", "variance"),
    "resize": ("Resizing", "per cent of each side"),
    "double": ("Two JPEG compressions", "qualities"),
    "social": ("As social networks do", "preset"),
}
_WEAKER_IF_LARGER: Final = ("jpeg", "resize", "double")


@dataclass(frozen=True)
class SetCurves:
    """One set.

    Attributes:
        dataset: Its name.
        charts: One for each kind of perturbation.
        perturbations: As they are written, `none` first, from weak to strong within a kind.
        rows: Label to the metric under each of them; NaN where there is no result.
    """

    dataset: str
    charts: tuple[Chart, ...]
    perturbations: tuple[str, ...]
    rows: dict[str, tuple[float, ...]]


def order_perturbations(names: Sequence[str]) -> dict[str, list[str]]:
    """Return perturbations by kind, from weak to strong within each; `none` is left out."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        if name != UNPERTURBED:
            kinds.setdefault(name.partition(":")[0], []).append(name)
    order = list(_TITLES)
    known = sorted(kinds, key=lambda k: (order.index(k) if k in order else len(order), k))
    return {kind: sorted(set(kinds[kind]), key=_strength) for kind in known}


def _strength(name: str) -> tuple[float, str]:
    kind, _, text = name.partition(":")
    found = _NUMBER.search(text)
    number = float(found.group()) if found else 0.0
    return (-number if kind in _WEAKER_IF_LARGER else number), name


def curves(tables: Mapping[str, Table], rows: Sequence[TableRow]) -> tuple[SetCurves, ...]:
    """Draw how a metric changes under perturbations.

    Args:
        tables: Perturbation to the table of one metric under it; `none` among them where
            photographs were tested as they are.
        rows: The report's rows; a row of another table is the one of these that has its runs.

    Returns:
        The sets that have a result under a perturbation, in the order of the tables.
    """
    kinds = order_perturbations(list(tables))
    names = [UNPERTURBED] * (UNPERTURBED in tables) + [one for of in kinds.values() for one in of]
    labels = {name: row.label for row in rows for name in row.manifest_ids}
    sets = list(dict.fromkeys(name for table in tables.values() for name in table.sets))
    found = []
    for dataset in sets:
        values = {name: _values(tables[name], labels, dataset) for name in names}
        of_rows = {
            row.label: tuple(values[name].get(row.label, math.nan) for name in names)
            for row in rows
        }
        perturbed = [name for name in names if name != UNPERTURBED and values[name]]
        if not perturbed:
            continue
        metric = next(iter(tables.values())).metric
        shown = {label: of for label, of in of_rows.items() if any(map(math.isfinite, of))}
        charts = [
            chart
            for of_kind in kinds.items()
            if (chart := _chart(*of_kind, names, shown, metric)) is not None
        ]
        found.append(SetCurves(dataset, tuple(charts), tuple(names), shown))
    return tuple(found)


def _values(table: Table, labels: Mapping[str, str], dataset: str) -> dict[str, float]:
    """Return the finite figures of a set by the report's labels."""
    if dataset not in table.sets:
        return {}
    column = table.values[dataset]
    found = {
        labels[row.manifest_ids[0]]: float(column[row.label])
        for row in table.rows
        if row.manifest_ids[0] in labels
    }
    return {label: value for label, value in found.items() if math.isfinite(value)}


def _chart(
    kind: str,
    of_kind: Sequence[str],
    names: Sequence[str],
    rows: Mapping[str, tuple[float, ...]],
    metric: str,
) -> Chart | None:
    """Draw one kind; the steps of its ladder stand at equal distances, `none` first."""
    ladder = [UNPERTURBED] * (UNPERTURBED in names) + list(of_kind)
    series = []
    words = []
    for style, (label, of_row) in enumerate(rows.items()):
        by_name = dict(zip(names, of_row, strict=True))
        y = tuple(by_name[name] for name in ladder)
        if not any(math.isfinite(by_name[name]) for name in of_kind):
            continue
        series.append(Series(label, tuple(map(float, range(len(ladder)))), y, style % STYLES))
        finite = [(name, v) for name, v in zip(ladder, y, strict=True) if math.isfinite(v)]
        (first, one), (last, other) = finite[0], finite[-1]
        words.append(f"{label}: {one:.3f} at {first}, {other:.3f} at {last}")
    if not series:
        return None
    title, unit = _TITLES.get(kind, (kind, "strength"))
    ticks = tuple(
        (float(place), name.partition(":")[2] or name) for place, name in enumerate(ladder)
    )
    return Chart(
        title, unit, METRICS[metric].title, tuple(series), f"{'; '.join(words)}.", x_ticks=ticks
    )
