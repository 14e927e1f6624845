"""From one row per image to one figure per cell, by named conventions.

Every image weighs once in a mean over images. An image whose figure is undefined (NaN) is left out
and counted; it never becomes a 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.results.conventions import (
    AUTHENTIC,
    EVALUATORS,
    METRICS,
    SCORE_AT,
    UNPERTURBED,
    Metric,
)

GROUP = ["manifest_id", "dataset"]
_COUNTS = ["tp", "fp", "fn", "tn"]
_NEEDED = [
    *GROUP,
    "model",
    "checkpoint",
    "sample_name",
    "photos",
    "label",
    "tampered_pixels",
    "threshold",
    "pooling",
]


@dataclass(frozen=True)
class Conventions:
    """How rows become figures; refuses what it does not know when it is made.

    Attributes:
        metric: A key of `METRICS`.
        authentic: What an authentic image counts for in a mean over images: `tampered` (it is left
            out), `zero`, or `one` (1 when nothing in it is predicted, else 0). Pooled figures
            include authentic images' pixels unless it is `tampered`. Pixel accuracy, which an
            authentic image has, is averaged as it is.
        score_at: `model` or `image`.
        evaluator: `exact` or `benco`.
        perturbation: What was done to the photographs, as `jpeg:75`; `none` for nothing.
    """

    metric: str = "pixel_f1"
    authentic: str = "tampered"
    score_at: str = "model"
    evaluator: str = "exact"
    perturbation: str = UNPERTURBED

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("metric", self.metric, tuple(METRICS)),
            ("authentic", self.authentic, AUTHENTIC),
            ("score_at", self.score_at, SCORE_AT),
            ("evaluator", self.evaluator, EVALUATORS),
        ):
            if value not in choices:
                hint = suggest(value, choices)
                raise UserError(f'{name} "{value}" is not one of {", ".join(choices)}.{hint}')
        if self.evaluator == "benco" and self.score_at == "image":
            raise UserError("IMDLBenCo's evaluators score at the model's size only: use exact rows")
        if self.evaluator == "benco" and self.authentic == "one" and self.figure.kind == "mean":
            raise UserError('authentic "one" needs the counts of exact rows: IMDLBenCo keeps none')

    @property
    def figure(self) -> Metric:
        """The metric's description."""
        return METRICS[self.metric]


def select_rows(rows: pd.DataFrame, conventions: Conventions) -> pd.DataFrame:
    """Return the rows and columns that a figure is made from.

    Columns are chosen before rows: copying all of a million rows takes longer than averaging them.
    """
    chosen = (
        (rows["score_at"] == conventions.score_at)
        & (rows["evaluator"] == conventions.evaluator)
        & (rows["perturbation"] == conventions.perturbation)
    )
    figure = conventions.figure
    more = ["score"] if figure.kind == "image" else _COUNTS
    own = [figure.column] if figure.kind in ("mean", "area") else []
    return rows[[*_NEEDED, *more, *own]][chosen.to_numpy()]


def image_values(
    rows: pd.DataFrame, conventions: Conventions
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which images take part in a mean over images, and the figure of each.

    An image is authentic when its label says so or, without a label, its mask is empty. One that is
    labelled tampered and whose mask is empty (too small for the model's size) has no figure.

    Args:
        rows: With the columns of `select_rows`.
        conventions: With a metric of kind `mean` or `area`.

    Returns:
        Membership and values, each of shape (len(rows),); NaN where undefined.
    """
    figure = conventions.figure
    tampered = rows["tampered_pixels"].to_numpy() > 0
    authentic = ~tampered & (rows["label"].to_numpy() != 1)
    values = rows[figure.column].to_numpy(np.float64, copy=True)
    if figure.kind == "area":
        return authentic, values
    values[~tampered & ~authentic] = np.nan
    if conventions.authentic == "tampered":
        return ~authentic, values
    if conventions.authentic == "one":
        empty = (rows["tp"] + rows["fp"]).to_numpy() == 0
        stand_in = empty.astype(np.float64)
    else:
        stand_in = np.zeros(len(rows))
    if figure.column != "accuracy":
        values[authentic] = stand_in[authentic]
    return np.ones(len(rows), bool), values


def cell_figures(rows: pd.DataFrame, conventions: Conventions) -> pd.DataFrame:
    """Return one figure per cell.

    Args:
        rows: With the columns of `select_rows`.
        conventions: How.

    Returns:
        Indexed by manifest_id and dataset: `value`; `n`, the images behind it; `undefined`, the
            images
        left out because they have no figure.

    Raises:
        UserError: The evaluator's rows do not hold what the metric needs.
    """
    if conventions.figure.kind == "image":
        return _image_level(rows, conventions)
    if conventions.figure.kind == "pooled":
        return _pooled(rows, conventions)
    _refuse_missing(rows, conventions.figure.column, conventions)
    member, values = image_values(rows, conventions)
    frame = rows[GROUP][member].assign(value=values[member])
    grouped = frame.groupby(GROUP, observed=True)["value"]
    found = grouped.agg(value="mean", n="count", total="size")
    return found.assign(undefined=found["total"] - found["n"]).drop(columns="total")


def _refuse_missing(rows: pd.DataFrame, column: str, conventions: Conventions) -> None:
    if conventions.evaluator == "benco" and len(rows) and rows[column].isna().all():
        raise UserError(f"{conventions.metric}: IMDLBenCo has no evaluator for it, use exact rows")


def _pooled(rows: pd.DataFrame, conventions: Conventions) -> pd.DataFrame:
    """Compute a figure from the counts of all images together."""
    _refuse_missing(rows, "tp", conventions)
    member = np.ones(len(rows), bool)
    if conventions.authentic == "tampered":
        member = rows["tampered_pixels"].to_numpy() > 0
    grouped = rows[member].groupby(GROUP, observed=True)
    sums = grouped[_COUNTS].sum().astype(np.float64)
    tp, fp, fn, tn = (sums[name] for name in _COUNTS)
    over, under = {
        "f1": (2 * tp, 2 * tp + fp + fn),
        "iou": (tp, tp + fp + fn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
        "accuracy": (tp + tn, tp + fp + fn + tn),
    }[conventions.figure.column]
    value = over / under.where(under > 0)
    return pd.DataFrame({"value": value, "n": grouped.size(), "undefined": 0})


def _image_level(rows: pd.DataFrame, conventions: Conventions) -> pd.DataFrame:
    """Compute a figure of image-level scores over all images that have a label and a score."""
    from sparsevit_plugin.harness import metrics  # imports torch, which other figures do without

    compute = metrics.image_metrics
    if conventions.evaluator == "benco":
        from sparsevit_plugin.harness.evaluators import upstream_image_metrics

        compute = upstream_image_metrics
    found = {}
    for key, group in rows.groupby(GROUP, observed=True):
        usable = group[group["label"].notna() & group["score"].notna()]
        value = np.nan
        if len(usable):
            labels, scores = usable["label"].to_numpy(), usable["score"].to_numpy()
            figures = compute(labels, scores, float(usable["threshold"].iloc[0]))
            value = getattr(figures, conventions.figure.column)
        found[key] = {"value": value, "n": len(usable), "undefined": len(group) - len(usable)}
    index = pd.MultiIndex.from_tuples(list(found), names=GROUP) if found else _no_cells()
    return pd.DataFrame(list(found.values()), index=index, columns=["value", "n", "undefined"])


def _no_cells() -> pd.MultiIndex:
    return pd.MultiIndex.from_arrays([[], []], names=GROUP)


def is_validation(dataset: str) -> bool:
    """Say whether a set is a hold-out of training data, which no table shows unless asked."""
    return dataset == "val" or dataset.startswith("val:")


def choose_sets(rows: pd.DataFrame, wanted: Sequence[str] | None) -> list[str]:
    """Return the sets to show, in order.

    Args:
        rows: Selected rows.
        wanted: Names, or None for all but hold-outs, sorted.

    Raises:
        UserError: A wanted set has no rows.
    """
    present = sorted(str(name) for name in rows["dataset"].unique())
    if wanted is None:
        return [name for name in present if not is_validation(name)]
    for name in wanted:
        if name not in present:
            hint = suggest(name, present)
            raise UserError(f'no rows of set "{name}", only of {", ".join(present)}.{hint}')
    return list(wanted)


def threshold_of(rows: pd.DataFrame) -> float | None:
    """Return the rows' threshold, or None when there are no rows.

    Raises:
        UserError: They have several.
    """
    thresholds = rows["threshold"].dropna().unique()
    if len(thresholds) > 1:
        raise UserError(f"rows with several thresholds in one table: {sorted(thresholds)}")
    return float(thresholds[0]) if len(thresholds) else None
