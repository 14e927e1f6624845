"""How the scores of single images are distributed, for each set and model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsevit_plugin.report.charts import Chart, Series, histogram
from sparsevit_plugin.results.aggregate import Conventions, image_values, select_rows
from sparsevit_plugin.results.rows import TableRow
from sparsevit_plugin.results.store import Results

TAMPERED, AUTHENTIC = "tampered", "authentic"
_STYLES = {TAMPERED: 1, AUTHENTIC: 0}
_QUARTERS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Spread:
    """Quartiles of some figures.

    Attributes:
        count: How many figures there are.
        undefined: How many more are undefined.
        quartiles: The first, the median and the third; NaN where there is no figure.
    """

    count: int
    undefined: int
    quartiles: tuple[float, float, float]


@dataclass(frozen=True)
class ModelScores:
    """The images of one set under one row of the table.

    Attributes:
        label: Of the row.
        seeds: How many runs stand behind it; each gives every image a figure.
        tampered: Image-level scores of tampered images.
        authentic: Those of authentic ones.
        f1: Pixel F1 of tampered images.
        missed: The share of these whose F1 is 0; NaN where there is none.
        charts: The distributions that there are.
    """

    label: str
    seeds: int
    tampered: Spread
    authentic: Spread
    f1: Spread
    missed: float
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class SetScores:
    """One set.

    Attributes:
        dataset: Its name.
        models: Every row of the table that has results on it.
    """

    dataset: str
    models: tuple[ModelScores, ...]


def distributions(
    results: Results, rows: Sequence[TableRow], sets: Sequence[str], conventions: Conventions
) -> tuple[SetScores, ...]:
    """Gather the distributions of a table's sets.

    Args:
        results: Where the rows are from.
        rows: The table's rows.
        sets: Its sets, in order; those without a result are left out.
        conventions: Where maps were scored, by which evaluators, under which perturbation.
    """
    one = Conventions(
        "pixel_f1", "tampered", conventions.score_at, conventions.evaluator,
        conventions.perturbation,
    )  # fmt: skip
    chosen = select_rows(results.rows.reset_index(drop=True), one, ["image_auc"])
    found = []
    for dataset in sets:
        of_set = chosen[chosen["dataset"] == dataset]
        models = [_scores(of_set, row, one) for row in rows]
        present = tuple(model for model in models if model is not None)
        if present:
            found.append(SetScores(dataset, present))
    return tuple(found)


def _scores(of_set: pd.DataFrame, row: TableRow, conventions: Conventions) -> ModelScores | None:
    own = of_set[of_set["manifest_id"].isin(row.manifest_ids)]
    if own.empty:
        return None
    scores = own["score"].to_numpy(np.float64)
    is_tampered, f1 = image_values(own, conventions)
    # Without a label of its own an image is what its mask says.
    tampered, authentic = scores[is_tampered], scores[~is_tampered]
    f1 = f1[is_tampered]
    defined = f1[np.isfinite(f1)]
    return ModelScores(
        label=row.label,
        seeds=int(own["manifest_id"].nunique()),
        tampered=_spread(tampered),
        authentic=_spread(authentic),
        f1=_spread(f1),
        missed=float((defined == 0).mean()) if len(defined) else math.nan,
        charts=tuple(
            chart
            for chart in (
                _score_chart(tampered, authentic),
                _reliability_chart(tampered, authentic),
                _f1_chart(f1),
            )
            if chart is not None
        ),
    )


def _spread(values: NDArray[np.float64]) -> Spread:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Spread(0, len(values), (math.nan, math.nan, math.nan))
    low, middle, high = (float(v) for v in np.quantile(finite, _QUARTERS))
    return Spread(len(finite), len(values) - len(finite), (low, middle, high))


def _score_chart(tampered: NDArray[np.float64], authentic: NDArray[np.float64]) -> Chart | None:
    kinds = {AUTHENTIC: authentic, TAMPERED: tampered}
    kinds = {name: values[np.isfinite(values)] for name, values in kinds.items()}
    every = np.concatenate(list(kinds.values()))
    if not len(every):
        return None
    # A score is a probability, unless a model gives something else.
    low, high = min(0.0, float(every.min())), max(1.0, float(every.max()))
    series = [
        Series(f"{name} (n={len(values)})", *histogram(list(values), low, high), _STYLES[name])
        for name, values in kinds.items()
        if len(values)
    ]
    words = [
        f"{name}: median {np.median(values):.3f}" for name, values in kinds.items() if len(values)
    ]
    return Chart(
        "Image-level score",
        "score",
        "share of images",
        tuple(series),
        f"{'; '.join(words)}.",
        (0.0, _top(series)),
        steps=True,
    )


def _reliability_chart(
    tampered: NDArray[np.float64], authentic: NDArray[np.float64]
) -> Chart | None:
    """Draw whether scores are probabilities; nothing with one class, or where they are none."""
    from sparsevit_plugin.harness.metrics import image_metrics, reliability  # imports torch

    kept = [values[np.isfinite(values)] for values in (authentic, tampered)]
    if not all(map(len, kept)):
        return None
    labels, scores = np.repeat([0, 1], [len(values) for values in kept]), np.concatenate(kept)
    bins = reliability(labels, scores)
    if bins is None:
        return None
    filled = bins.count > 0
    x, y = (values[filled].tolist() for values in (bins.mean_score, bins.tampered_share))
    series = (
        Series(f"scores (n={len(scores)})", x, y, _STYLES[TAMPERED]),
        Series("probabilities", [0.0, 1.0], [0.0, 1.0], _STYLES[AUTHENTIC]),
    )
    error = image_metrics(labels, scores).ece
    words = f"Expected calibration error {error:.3f}, in {len(bins.count)} bins of equal width."
    one = (0.0, 1.0)
    return Chart(
        "Reliability of image scores", "mean score", "share tampered", series, words, one, one
    )


def _f1_chart(f1: NDArray[np.float64]) -> Chart | None:
    finite = f1[np.isfinite(f1)]
    if not len(finite):
        return None
    series = (Series(f"{TAMPERED} (n={len(finite)})", *histogram(list(finite)), _STYLES[TAMPERED]),)
    return Chart(
        "Pixel F1 of single images",
        "pixel F1",
        "share of images",
        series,
        f"Median {np.median(finite):.3f}; {(finite == 0).mean():.0%} of the images have F1 0.",
        (0.0, _top(series)),
        steps=True,
    )


def _top(series: Sequence[Series]) -> float:
    return max(1e-9, 1.05 * max(v for one in series for v in one.y))
