"""Figures per cell become figures per row: mean and standard deviation over seeds, and averages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsevit_plugin.results.rows import TableRow

AVERAGE = "average"


@dataclass(frozen=True)
class Figures:
    """One metric of a table; index: row labels.

    Attributes:
        values: Means over seeds, NaN where missing; columns: the sets, and `AVERAGE`.
        std: Sample standard deviations over seeds, NaN for fewer than two; columns as `values`.
        seeds: How many seeds there are; columns as `values`.
        counts: Images behind a value, the fewest of its seeds; columns: the sets.
        most: The same, the most of its seeds.
        undefined: Images left out because their figure is undefined, over all seeds; columns: the
            sets.
    """

    values: pd.DataFrame
    std: pd.DataFrame
    seeds: pd.DataFrame
    counts: pd.DataFrame
    most: pd.DataFrame
    undefined: pd.DataFrame

    def at(self, what: str, label: str, column: str) -> float:
        """Return one number: `what` is one of the attributes."""
        number: Any = getattr(self, what).at[label, column]
        return float(number)

    def count(self, what: str, label: str, column: str) -> int:
        """Return one whole number: `what` is one of the attributes."""
        return int(self.at(what, label, column))


def over_seeds(
    figures: pd.DataFrame, rows: Sequence[TableRow], sets: Sequence[str], *, average: bool
) -> Figures:
    """Summarise the figures of each row's manifests.

    The average over the sets is made for each seed and then summarised. It is missing when any seed
    of the row misses any set, so that it is the mean of what stands beside it.

    Args:
        figures: From `aggregate.cell_figures`.
        rows: The table's rows.
        sets: Their columns.
        average: Whether to add the average.
    """
    wide = {name: _spread(figures[name], rows, sets) for name in ("value", "n", "undefined")}
    found: dict[str, list[NDArray[np.float64]]] = {
        name: [] for name in ("values", "std", "seeds", "counts", "most", "undefined")
    }
    for row in rows:
        values, counts, undefined = (
            wide[name].loc[row.manifest_ids].to_numpy() for name in ("value", "n", "undefined")
        )
        if average:
            values = np.column_stack([values, values.mean(axis=1)])
        n = (~np.isnan(values)).sum(axis=0)
        mean = np.divide(np.nansum(values, axis=0), n, out=np.full(n.shape, np.nan), where=n > 0)
        if average and n[-1] < len(row.members):
            mean[-1], n[-1] = np.nan, 0
        found["values"].append(mean)
        found["std"].append(_std(values, mean, n))
        found["seeds"].append(n.astype(np.float64))
        present = counts > 0
        fewest = np.where(present, counts, np.inf).min(axis=0)
        found["counts"].append(np.where(np.isinf(fewest), 0, fewest))
        found["most"].append(np.nan_to_num(counts).max(axis=0))
        found["undefined"].append(np.nansum(undefined, axis=0))
    labels = [row.label for row in rows]
    with_average = [*sets, AVERAGE] if average else list(sets)

    def frame(name: str, columns: Sequence[str]) -> pd.DataFrame:
        data = np.array(found[name]).reshape(len(labels), len(columns))
        return pd.DataFrame(data, index=labels, columns=list(columns))

    return Figures(
        values=frame("values", with_average),
        std=frame("std", with_average),
        seeds=frame("seeds", with_average).astype(int),
        counts=frame("counts", sets).astype(int),
        most=frame("most", sets).astype(int),
        undefined=frame("undefined", sets).astype(int),
    )


def _std(
    values: NDArray[np.float64], mean: NDArray[np.float64], n: NDArray[np.intp]
) -> NDArray[np.float64]:
    squares = np.nansum((values - mean) ** 2, axis=0)
    several = (n > 1) & ~np.isnan(mean)
    variance = np.divide(squares, n - 1, out=np.full(n.shape, np.nan), where=several)
    return np.sqrt(variance)


def _spread(figures: pd.Series, rows: Sequence[TableRow], sets: Sequence[str]) -> pd.DataFrame:
    """Lay figures per cell out as manifests x sets, NaN where there is no cell."""
    wide = figures.unstack("dataset") if len(figures) else pd.DataFrame(dtype=float)
    ids = [name for row in rows for name in row.manifest_ids]
    return wide.reindex(index=ids, columns=list(sets)).astype(float)
