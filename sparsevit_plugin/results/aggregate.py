"""From one row per image to one figure per cell, by named conventions.

Every image weighs once in a mean over images. An image whose figure is undefined (NaN) is left out
and counted; it never becomes a 0.

Rows are told apart by the codes of their categories and summed with `numpy.bincount`: a million
rows take a fraction of a second, and no string is compared or copied.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

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

Counts: TypeAlias = NDArray[np.floating] | NDArray[np.integer]

GROUP = ["manifest_id", "dataset"]
_COUNTS = ["tp", "fp", "fn", "tn"]
_NEEDED = [
    *GROUP,
    "model",
    "checkpoint",
    "label",
    "tampered_pixels",
    "threshold",
    "pooling",
    "evaluator",
    "score_at",
]
NAMES = ["sample_name", "photos"]
"""What tells images and their photographs apart; long to copy, so only where it is needed."""


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


def select_rows(
    rows: pd.DataFrame,
    conventions: Conventions,
    metrics: Iterable[str] = (),
    *,
    names: bool = False,
) -> pd.DataFrame:
    """Return the rows and columns that figures are made from, with their place as index.

    Args:
        rows: Of `store.Results`.
        conventions: Which rows; its metric is one of the figures.
        metrics: More figures that shall be made from the same rows.
        names: Whether to add the columns `NAMES`.
    """
    chosen = np.ones(len(rows), bool)
    for column, word in (
        ("score_at", conventions.score_at),
        ("evaluator", conventions.evaluator),
        ("perturbation", conventions.perturbation),
    ):
        chosen &= _equals(rows[column], word)
    columns = _columns([conventions.metric, *metrics])
    wanted = rows[[*columns, *(NAMES if names else [])]]
    return wanted if chosen.all() else wanted[chosen]


def rows_of_other_terms(
    stored: pd.DataFrame, rows: pd.DataFrame, conventions: Conventions, metrics: Iterable[str] = ()
) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the rows of manifests that have none by some conventions, by their own terms.

    Args:
        stored: Rows of `store.Results`.
        rows: What `select_rows` returned for the conventions.
        conventions: Of the table.
        metrics: Its other figures.

    Returns:
        (evaluator, size of scoring) to rows as of `select_rows`; a manifest is in one of them, the
        first that it has rows of in the order: the same evaluator, the same size, neither.
    """
    others = ~stored["manifest_id"].isin(rows["manifest_id"].unique()).to_numpy()
    if not others.any():
        return {}
    pairs = sorted(
        itertools.product(EVALUATORS, SCORE_AT),
        key=lambda pair: (pair[0] != conventions.evaluator, pair[1] != conventions.score_at),
    )
    found: dict[tuple[str, str], pd.DataFrame] = {}
    for evaluator, score_at in pairs:
        chosen = others & _equals(stored["evaluator"], evaluator)
        chosen &= _equals(stored["score_at"], score_at)
        chosen &= _equals(stored["perturbation"], conventions.perturbation)
        if chosen.any():
            part = stored[chosen]
            others &= ~stored["manifest_id"].isin(part["manifest_id"].unique()).to_numpy()
            found[evaluator, score_at] = part[_columns([conventions.metric, *metrics])]
    return found


def _columns(metrics: Iterable[str]) -> list[str]:
    columns = list(_NEEDED)
    for metric in metrics:
        figure = METRICS[metric]
        columns += ["score"] if figure.kind == "image" else _COUNTS
        columns += [figure.column] if figure.kind in ("mean", "area") else []
    return list(dict.fromkeys(columns))


def _equals(column: pd.Series, word: str) -> NDArray[np.bool_]:
    """Say where a column is `word`, by the code of its category where it has categories."""
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return (column == word).to_numpy(bool)
    categories = column.cat.categories
    code = categories.get_loc(word) if word in categories else len(categories)
    return column.cat.codes.to_numpy() == code


@dataclass(frozen=True)
class Codes:
    """Which cell each row belongs to, as numbers.

    Attributes:
        manifests: Names of the manifests, by code.
        datasets: Names of the sets, by code.
        manifest: Code of each row's manifest, shape (rows,).
        dataset: Code of each row's set, shape (rows,).
    """

    manifests: list[str]
    datasets: list[str]
    manifest: NDArray[np.intp]
    dataset: NDArray[np.intp]

    @cached_property
    def cell(self) -> NDArray[np.intp]:
        """Code of each row's cell, shape (rows,)."""
        return self.manifest * len(self.datasets) + self.dataset

    @property
    def cells(self) -> int:
        """How many cells there could be."""
        return len(self.manifests) * len(self.datasets)

    def index(self, present: NDArray[np.bool_]) -> pd.MultiIndex:
        """Return manifest and set of some cells, `present` by code."""
        manifest, dataset = np.divmod(np.flatnonzero(present), max(1, len(self.datasets)))
        return pd.MultiIndex.from_arrays(
            [
                np.array(self.manifests, dtype=object)[manifest],
                np.array(self.datasets, dtype=object)[dataset],
            ],
            names=GROUP,
        )


def codes_of(rows: pd.DataFrame) -> Codes:
    """Number the manifests and sets of some rows; sets by name, manifests by first appearance."""
    manifest, manifests = _coded(rows["manifest_id"])
    dataset, datasets = _coded(rows["dataset"])
    return Codes(manifests, datasets, manifest, dataset)


def _coded(column: pd.Series) -> tuple[NDArray[np.intp], list[str]]:
    if not isinstance(column.dtype, pd.CategoricalDtype):
        codes, names = pd.factorize(column)
        return codes, [str(name) for name in names]
    codes = column.cat.codes.to_numpy().astype(np.intp)
    # Categories that no selected row has would make empty cells.
    used = np.flatnonzero(np.bincount(codes, minlength=len(column.cat.categories)))
    renumbered = np.zeros(len(column.cat.categories), np.intp)
    renumbered[used] = np.arange(len(used))
    return renumbered[codes], [str(name) for name in column.cat.categories[used]]


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


@dataclass(frozen=True)
class Selected:
    """Selected rows, what they belong to, and where they come from.

    Attributes:
        stored: All rows of the results, numbered from 0.
        rows: Those that a table is made from, with the columns of `select_rows`; their index is
            their place in `stored`.
        codes: Of `rows`.
    """

    stored: pd.DataFrame
    rows: pd.DataFrame
    codes: Codes

    def names(self, places: NDArray[np.intp]) -> pd.Series:
        """Return the images' names of the selected rows at `places`."""
        return self.stored["sample_name"].iloc[self.rows.index[places]]

    def photos(self, places: NDArray[np.intp]) -> pd.Series:
        """Return the lists of source photographs of the selected rows at `places`."""
        return self.stored["photos"].iloc[self.rows.index[places]]


def cell_figures(
    rows: pd.DataFrame, conventions: Conventions, codes: Codes | None = None
) -> pd.DataFrame:
    """Return one figure per cell.

    Args:
        rows: With the columns of `select_rows`.
        conventions: How.
        codes: Of these rows, where they are known already.

    Returns:
        Indexed by manifest_id and dataset: `value`; `n`, the images behind it; `undefined`, the
        images left out because they have no figure.

    Raises:
        UserError: The evaluator's rows do not hold what the metric needs.
    """
    codes = codes_of(rows) if codes is None else codes
    if conventions.figure.kind == "image":
        return _image_level(rows, conventions, codes)
    if conventions.figure.kind == "pooled":
        return _pooled(rows, conventions, codes)
    _refuse_missing(rows, conventions.figure.column, conventions)
    member, values = image_values(rows, conventions)
    cell, values = codes.cell[member], values[member]
    total = np.bincount(cell, minlength=codes.cells)
    defined = ~np.isnan(values)
    n = np.bincount(cell[defined], minlength=codes.cells)
    sums = np.bincount(cell[defined], weights=values[defined], minlength=codes.cells)
    mean = np.divide(sums, n, out=np.full(codes.cells, np.nan), where=n > 0)
    return _figures(codes, total > 0, mean, n, total - n)


def mixed_figures(selected: Selected, conventions: Conventions) -> pd.DataFrame:
    """Return one figure per cell, each by the evaluator that made its rows; as `cell_figures`."""
    evaluators = [str(name) for name in selected.rows["evaluator"].unique()]
    if set(evaluators) <= {conventions.evaluator}:
        return cell_figures(selected.rows, conventions, selected.codes)
    parts = []
    for evaluator in evaluators:
        rows = selected.rows[_equals(selected.rows["evaluator"], evaluator)]
        # IMDLBenCo's evaluators score at the model's size only, whatever the table was asked for.
        score_at = str(rows["score_at"].iloc[0])
        parts.append(
            cell_figures(rows, replace(conventions, evaluator=evaluator, score_at=score_at))
        )
    return pd.concat(parts)


def _figures(
    codes: Codes,
    present: NDArray[np.bool_],
    value: NDArray[np.float64],
    n: NDArray[np.intp],
    undefined: NDArray[np.intp],
) -> pd.DataFrame:
    columns = {"value": value, "n": n, "undefined": undefined}
    found = {name: column[present] for name, column in columns.items()}
    return pd.DataFrame(found, index=codes.index(present))


def _refuse_missing(rows: pd.DataFrame, column: str, conventions: Conventions) -> None:
    if conventions.evaluator == "benco" and len(rows) and rows[column].isna().all():
        raise UserError(f"{conventions.metric}: IMDLBenCo has no evaluator for it, use exact rows")


def _pooled(rows: pd.DataFrame, conventions: Conventions, codes: Codes) -> pd.DataFrame:
    """Compute a figure from the counts of all images together."""
    _refuse_missing(rows, "tp", conventions)
    member = np.ones(len(rows), bool)
    if conventions.authentic == "tampered":
        member = rows["tampered_pixels"].to_numpy() > 0
    cell = codes.cell[member]
    n = np.bincount(cell, minlength=codes.cells)
    # Sums of whole numbers below 2^53 are exact in float64.
    tp, fp, fn, tn = (
        np.bincount(
            cell,
            weights=np.nan_to_num(rows[name].to_numpy(np.float64)[member]),
            minlength=codes.cells,
        )
        for name in _COUNTS
    )
    value = pooled_value(conventions.figure.column, tp, fp, fn, tn)
    return _figures(codes, n > 0, value, n, np.zeros(codes.cells, np.intp))


def pooled_value(
    column: str, tp: Counts, fp: Counts, fn: Counts, tn: Counts
) -> NDArray[np.float64]:
    """Return a figure from counts of pixels, NaN where it is undefined.

    Args:
        column: Which: `f1`, `iou`, `precision`, `recall` or `accuracy`.
        tp: Tampered pixels predicted tampered; all counts have one shape.
        fp: Authentic pixels predicted tampered.
        fn: Tampered pixels predicted authentic.
        tn: Authentic pixels predicted authentic.
    """
    over, under = {
        "f1": (2 * tp, 2 * tp + fp + fn),
        "iou": (tp, tp + fp + fn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
        "accuracy": (tp + tn, tp + fp + fn + tn),
    }[column]
    return np.divide(over, under, out=np.full(under.shape, np.nan), where=under > 0)


def _image_level(rows: pd.DataFrame, conventions: Conventions, codes: Codes) -> pd.DataFrame:
    """Compute a figure of image-level scores over all images that have a label and a score."""
    from sparsevit_plugin.harness import metrics  # imports torch, which other figures do without

    compute = metrics.image_metrics
    if conventions.evaluator == "benco":
        from sparsevit_plugin.harness.evaluators import UPSTREAM_IMAGE, upstream_image_metrics

        if conventions.figure.column not in UPSTREAM_IMAGE:
            raise UserError(
                f"{conventions.metric}: IMDLBenCo has no evaluator for it, use exact rows"
            )
        compute = upstream_image_metrics
    labels, scores = (rows[name].to_numpy(np.float64) for name in ("label", "score"))
    usable = ~(np.isnan(labels) | np.isnan(scores))
    thresholds = rows["threshold"].to_numpy(np.float64)
    total = np.bincount(codes.cell, minlength=codes.cells)
    n = np.bincount(codes.cell[usable], minlength=codes.cells)
    value = np.full(codes.cells, np.nan)
    places = np.flatnonzero(usable)
    in_order = places[np.argsort(codes.cell[places], kind="stable")]
    # Nothing split makes one empty part.
    parts = np.split(in_order, np.cumsum(n[n > 0])[:-1]) if places.size else []
    for cell, part in zip(np.flatnonzero(n), parts, strict=True):
        figures = compute(labels[part].astype(np.int64), scores[part], float(thresholds[part[0]]))
        value[cell] = getattr(figures, conventions.figure.column)
    return _figures(codes, total > 0, value, n, total - n)


def is_validation(dataset: str) -> bool:
    """Say whether a set is a hold-out of training data, which no table shows unless asked."""
    return dataset == "val" or dataset.startswith("val:")


def choose_sets(
    rows: pd.DataFrame, wanted: Sequence[str] | None, named: Sequence[str] | None = None
) -> list[str]:
    """Return the sets to show, in order.

    Args:
        rows: Selected rows.
        wanted: Names, or None for all.
        named: The sets of a protocol, which may be without rows; None for those that have rows, but
            for hold-outs, sorted.

    Raises:
        UserError: A wanted set has no rows and is none of the protocol's.
    """
    present = sorted(str(name) for name in rows["dataset"].unique())
    if wanted is None:
        return list(named or [name for name in present if not is_validation(name)])
    for name in wanted:
        if name not in (*present, *(named or ())):
            hint = suggest(name, present)
            raise UserError(f'no rows of set "{name}", only of {", ".join(present)}.{hint}')
    return list(dict.fromkeys(wanted))


def threshold_of(rows: pd.DataFrame) -> float | None:
    """Return the rows' threshold, or None when there are no rows.

    Raises:
        UserError: They have several.
    """
    thresholds = rows["threshold"].dropna().unique()
    if len(thresholds) > 1:
        raise UserError(f"rows with several thresholds in one table: {sorted(thresholds)}")
    return float(thresholds[0]) if len(thresholds) else None
