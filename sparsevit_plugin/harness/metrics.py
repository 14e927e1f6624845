"""Localisation and classification figures of one map or one set of scores, exact.

Conventions, the same everywhere in this package:

* A pixel is predicted tampered when its value is **greater** than the threshold (`map > 0.5`),
  compared in the map's own precision, as IMDLBenCo's evaluators do.
* Pixels outside the valid mask (the border that padding added) take part in nothing.
* A figure whose denominator is 0 is NaN (undefined), never 0 and never 1. What an undefined figure
  counts for is decided where a table is made, not here.

Everything about a map comes from one sort of its values: the ranks of the tampered pixels give the
confusion matrix at every threshold. The formulas (confusion matrix, F1, IoU, accuracy, the
ROC curve's area with half a point for a tie) are those of scikit-learn's `f1_score`,
`precision_score`, `recall_score`, `jaccard_score`, `accuracy_score` and `roc_auc_score`; the area
is computed in its rank form (Mann and Whitney 1947; Hanley and McNeil 1982,
https://doi.org/10.1148/radiology.143.1.7063747).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

BINS = 256
"""Bins of a histogram. Bin k holds the values in (k / 256, (k + 1) / 256]; 0 is in the first, 1 in
the last.

A value exactly on an edge lies below it, as it does for a threshold (`value > edge` is false), so
that a count from bins equals the exact count at every threshold that is an edge (0.5 is one)."""

ROUNDING = 1e-6
"""How far outside [0, 1] a value may lie: interpolation in single precision overshoots by
rounding."""

_INTEGERS = {np.dtype(np.float32): np.int32, np.dtype(np.float64): np.int64}


@dataclass(frozen=True)
class PixelStatistics:
    """Figures of one map against its mask, over the valid pixels.

    Attributes:
        threshold: Pixels above it are predicted tampered.
        tp: Tampered pixels predicted tampered.
        fp: Authentic pixels predicted tampered.
        fn: Tampered pixels predicted authentic.
        tn: Authentic pixels predicted authentic.
        f1: `2 tp / (2 tp + fp + fn)`; NaN when nothing is tampered and nothing is predicted.
        precision: `tp / (tp + fp)`; NaN when nothing is predicted.
        recall: `tp / (tp + fn)`; NaN without tampered pixels.
        iou: `tp / (tp + fp + fn)`; NaN when nothing is tampered and nothing is predicted.
        accuracy: `(tp + tn) / (tp + fp + fn + tn)`; NaN only without any valid pixel.
        auc: Area under the ROC curve, ties counted half; NaN when the mask has one class only.
        best_f1: The largest F1 over all thresholds; NaN without tampered pixels.
        best_threshold: The largest threshold t whose `map > t` has `best_f1`: a value of the map,
            or the next number below its smallest value where predicting every pixel is best.
        predicted_area: `(tp + fp) / (tp + fp + fn + tn)`.
        tampered_histogram: Tampered pixels in 256 bins, see `BINS`; int64.
        authentic_histogram: Authentic pixels in 256 bins; int64.
    """

    threshold: float
    tp: int
    fp: int
    fn: int
    tn: int
    f1: float
    precision: float
    recall: float
    iou: float
    accuracy: float
    auc: float
    best_f1: float
    best_threshold: float
    predicted_area: float
    tampered_histogram: NDArray[np.int64]
    authentic_histogram: NDArray[np.int64]

    @property
    def pixels(self) -> int:
        """Valid pixels."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def tampered_pixels(self) -> int:
        """Valid pixels that the mask calls tampered."""
        return self.tp + self.fn


RELIABILITY_BINS = 15
"""Bins of equal width over [0, 1] that image scores are sorted into for the calibration error, as
many as Guo et al. take (ICML 2017, arXiv:1706.04599). Bin k holds (k / 15, (k + 1) / 15], 0 is in
the first."""


@dataclass(frozen=True)
class ImageMetrics:
    """Figures of image-level scores against image-level labels.

    Attributes:
        n: Images.
        tampered: Images with label 1.
        f1: `2 tp / (2 tp + fp + fn)` of the tampered class; NaN when nothing is tampered or
            predicted.
        auc: Area under the ROC curve, ties counted half; NaN when there is one class only, as all
            that follow but for accuracy.
        accuracy: Share of right predictions; NaN without images.
        balanced_accuracy: Mean of the shares of tampered and of authentic images that are right.
        eer: Equal error rate: where the shares of both classes that are wrong are the same, on the
            straight lines between the points of the ROC curve.
        ap: Average precision: precision summed over the steps of recall, without interpolation.
        ece: Expected calibration error: distance between mean score and share of tampered images
            in a bin (`RELIABILITY_BINS`), averaged over the images; NaN also when a score is no
            probability.
    """

    n: int
    tampered: int
    f1: float
    auc: float
    accuracy: float
    balanced_accuracy: float = math.nan
    eer: float = math.nan
    ap: float = math.nan
    ece: float = math.nan


@dataclass(frozen=True)
class _Levels:
    """The distinct values of a map that a tampered pixel has, ascending: L of them.

    No figure needs the other values: a threshold whose next larger value is authentic alone is
    beaten by the next one, and an authentic pixel takes part in the area by its rank alone.

    Attributes:
        below: How many pixels have a smaller value, int64, shape (L,).
        tampered_below: How many of them are tampered, int64, shape (L,).
        tampered: Tampered pixels of that value, int64, shape (L,).
        authentic: Authentic pixels of that value, int64, shape (L,).
    """

    below: NDArray[np.int64]
    tampered_below: NDArray[np.int64]
    tampered: NDArray[np.int64]
    authentic: NDArray[np.int64]


class _Ranking:
    """The valid pixels of a map, sorted by value and, among equal values, authentic ones first.

    The bits of a float that is not negative are ordered as the float is. With the class as one bit
    more they make one integer to sort, so that no index has to be carried along; torch sorts such
    integers by radix, 4 times as fast as numpy's `sort`.

    Args:
        values: float32 or float64 in [0, 1], shape (N,).
        tampered: The pixels' classes, bool, shape (N,).
    """

    def __init__(self, values: NDArray[np.floating], tampered: NDArray[np.bool_]) -> None:
        self._kind = values.dtype
        keys = self._keys(values)
        np.bitwise_or(keys, tampered, out=keys)
        self.keys: NDArray[np.integer] = torch.sort(torch.from_numpy(keys)).values.numpy()
        self.tampered_at: NDArray[np.int64] = np.flatnonzero((self.keys & 1).astype(np.bool_))

    def _keys(self, values: NDArray[np.floating]) -> NDArray[np.integer]:
        """Return the keys of authentic pixels; one more is that of a tampered one."""
        # The shift drops the sign bit, so -0.0 ties with 0.0.
        keys: NDArray[np.integer] = values.view(_INTEGERS[self._kind]) << 1
        return keys

    def upto(self, thresholds: NDArray[np.floating]) -> tuple[NDArray, NDArray]:
        """Count all and tampered pixels whose value is at most each threshold."""
        inside = np.clip(thresholds, 0, 1).astype(self._kind)
        upto = np.searchsorted(self.keys, self._keys(inside) + 1, side="right")
        upto[thresholds < 0] = 0
        return upto, np.searchsorted(self.tampered_at, upto)

    def value(self, position: int) -> np.floating:
        """Return the value of the pixel at a position, from 0 on."""
        found: np.floating = (self.keys[position : position + 1] >> 1).view(self._kind)[0]
        return found

    def levels(self) -> _Levels:
        """Count pixels per value."""
        keys = self.keys[self.tampered_at]
        # The first tampered pixel of each value; authentic ones of that value stand before it.
        first = np.flatnonzero(np.append([True][: keys.size], keys[1:] != keys[:-1]))
        keys, position = keys[first], self.tampered_at[first]
        # At position 0 this looks at the largest key, which is not smaller.
        tied = np.flatnonzero(self.keys[position - 1] == keys - 1)
        authentic = np.zeros(first.size, np.int64)
        authentic[tied] = position[tied] - np.searchsorted(self.keys, keys[tied] - 1)
        tampered = np.diff(first, append=self.tampered_at.size)
        return _Levels(position - authentic, first, tampered, authentic)


def pixel_statistics(
    probability: NDArray[np.floating],
    mask: NDArray[np.bool_],
    valid: NDArray[np.bool_] | None = None,
    threshold: float = 0.5,
) -> PixelStatistics:
    """Score one map against its mask.

    Args:
        probability: Map, shape (H, W), values in [0, 1]; float32 or float64 (others become
            float32).
        mask: Tampered pixels, bool, shape (H, W).
        valid: Pixels that count, bool, shape (H, W); None for all.
        threshold: Pixels greater than it are predicted tampered.

    Returns:
        All figures of the map.

    Raises:
        ValueError: The map holds a NaN, an infinity or a value outside [0, 1], shapes differ, or a
            mask is not boolean.
    """
    values, tampered = _select(probability, mask, valid)
    ranking = _Ranking(values, tampered)
    levels = ranking.levels()
    n, positives = values.size, ranking.tampered_at.size
    all_upto, tampered_upto = ranking.upto(np.asarray([threshold], values.dtype))
    fn, tn = int(tampered_upto[0]), int(all_upto[0] - tampered_upto[0])
    tp, fp = positives - fn, n - positives - tn
    best_f1, best_threshold = _best_f1(ranking, levels)
    tampered_bins, authentic_bins = _histograms(ranking)
    return PixelStatistics(
        threshold=float(threshold),
        tp=tp,
        fp=fp,
        fn=fn,
        tn=tn,
        f1=_ratio(2 * tp, 2 * tp + fp + fn),
        precision=_ratio(tp, tp + fp),
        recall=_ratio(tp, positives),
        iou=_ratio(tp, tp + fp + fn),
        accuracy=_ratio(tp + tn, n),
        auc=_auc(
            levels.tampered, levels.authentic, levels.below - levels.tampered_below, n - positives
        ),
        best_f1=best_f1,
        best_threshold=best_threshold,
        predicted_area=_ratio(tp + fp, n),
        tampered_histogram=tampered_bins,
        authentic_histogram=authentic_bins,
    )


def image_metrics(
    labels: NDArray, scores: NDArray[np.floating], threshold: float = 0.5
) -> ImageMetrics:
    """Score image-level predictions.

    Args:
        labels: 1 for tampered, 0 for authentic, shape (N,).
        scores: Higher means tampered, any finite range, shape (N,).
        threshold: Images with a greater score are predicted tampered.

    Returns:
        The figures.

    Raises:
        ValueError: Shapes differ, a label is neither 0 nor 1, or a score is not finite.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if labels.shape != scores.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape} must be two equal rows")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("an image label is neither 0 nor 1")
    if not np.isfinite(scores).all():
        raise ValueError("an image score is not finite")
    tampered = labels.astype(bool)
    predicted = scores > threshold
    tp = int(np.count_nonzero(predicted & tampered))
    fp = int(np.count_nonzero(predicted & ~tampered))
    wrong = int(np.count_nonzero(predicted != tampered))
    levels, position = np.unique(scores, return_inverse=True)
    positives = np.bincount(position[tampered], minlength=levels.size)
    negatives = np.bincount(position[~tampered], minlength=levels.size)
    both = bool(tampered.any()) and not bool(tampered.all())
    recall = _ratio(tp, int(positives.sum()))
    kept = 1 - _ratio(fp, int(negatives.sum()))
    return ImageMetrics(
        n=labels.size,
        tampered=int(np.count_nonzero(tampered)),
        f1=_ratio(2 * tp, 2 * tp + wrong),
        auc=_auc(positives, negatives, np.cumsum(negatives) - negatives, int(negatives.sum())),
        accuracy=_ratio(labels.size - wrong, labels.size),
        balanced_accuracy=(recall + kept) / 2 if both else math.nan,
        eer=_equal_error_rate(positives, negatives) if both else math.nan,
        ap=_average_precision(positives, negatives) if both else math.nan,
        ece=_calibration_error(labels, scores) if both else math.nan,
    )


def _equal_error_rate(positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> float:
    """Return the rate from counts per level of score, ascending; both classes are there."""
    # Misses rise and false alarms fall with the threshold: below the lowest level, then above each.
    missed = _with_zero(np.cumsum(positives)) / positives.sum()
    alarms = 1 - _with_zero(np.cumsum(negatives)) / negatives.sum()
    gap = missed - alarms
    after = int(np.argmax(gap >= 0))  # the last is 1
    before = after - 1  # the first is -1
    share = -gap[before] / (gap[after] - gap[before])
    return float(missed[before] + share * (missed[after] - missed[before]))


def _average_precision(positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> float:
    """Return it from counts per level of score, ascending."""
    hits = np.cumsum(positives[::-1])
    precision = hits / (hits + np.cumsum(negatives[::-1]))
    return float((positives[::-1] * precision).sum() / positives.sum())


def _calibration_error(labels: NDArray, scores: NDArray) -> float:
    """Return the expected calibration error; NaN when a score is outside [0, 1]."""
    bins = reliability(labels, scores)
    if bins is None:
        return math.nan
    distance = np.abs(bins.tampered_share - bins.mean_score)
    return float(np.nansum(bins.count * distance) / labels.size)


@dataclass(frozen=True)
class Reliability:
    """Image scores against labels in bins, see `RELIABILITY_BINS`; arrays of one value per bin.

    Attributes:
        low: Lower edge.
        high: Upper edge.
        count: Images.
        mean_score: Their mean score; NaN in an empty bin.
        tampered_share: The share of them that is tampered; NaN in an empty bin.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    count: NDArray[np.int64]
    mean_score: NDArray[np.float64]
    tampered_share: NDArray[np.float64]


def reliability(
    labels: NDArray, scores: NDArray[np.floating], bins: int = RELIABILITY_BINS
) -> Reliability | None:
    """Sort image scores into bins of equal width.

    Args:
        labels: 1 for tampered, 0 for authentic, shape (N,).
        scores: Shape (N,).
        bins: How many.

    Returns:
        What is in them; None when a score is no probability, or there is none.
    """
    if not scores.size or scores.min() < 0 or scores.max() > 1:
        return None
    edges = np.arange(bins + 1) / bins
    place = np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, weights=values, minlength=bins) for values in (scores, labels))
    empty = np.full(bins, np.nan)
    means = [np.divide(total, count, out=empty.copy(), where=count > 0) for total in sums]
    return Reliability(edges[:-1], edges[1:], count, means[0], means[1])


def binned_f1(
    tampered_histogram: NDArray[np.integer],
    authentic_histogram: NDArray[np.integer],
    threshold: float,
) -> NDArray[np.float64]:
    """Compute F1 at a threshold that is a bin's upper edge: equal to the exact F1 there.

    Args:
        tampered_histogram: Counts, shape (..., 256).
        authentic_histogram: Counts, shape (..., 256).
        threshold: k / 256 for a whole k from 1 to 256.

    Returns:
        F1, shape (...); NaN where nothing is tampered and nothing is predicted.

    Raises:
        ValueError: The threshold is not an edge.
    """
    edge = threshold * BINS
    if edge != round(edge) or not 1 <= edge <= BINS:
        raise ValueError(f"{threshold} is not an upper edge of {BINS} bins over [0, 1]")
    return f1_at_edges(np.asarray(tampered_histogram), np.asarray(authentic_histogram))[
        ..., int(edge)
    ]


def binned_best_f1(
    tampered_histogram: NDArray[np.integer], authentic_histogram: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Compute the largest F1 over the bins' edges.

    It is at most the exact best F1, which tries every value. Predicting every pixel is among the
    candidates, as it is there.

    Args:
        tampered_histogram: Counts, shape (..., 256).
        authentic_histogram: Counts, shape (..., 256).

    Returns:
        F1, shape (...); NaN without tampered pixels.
    """
    tampered = np.asarray(tampered_histogram)
    f1 = f1_at_edges(tampered, np.asarray(authentic_histogram))
    best = np.nan_to_num(f1, nan=0.0).max(-1)
    return np.where(tampered.sum(-1) > 0, best, np.nan)


def binned_auc(
    tampered_histogram: NDArray[np.integer], authentic_histogram: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Compute the area under the ROC curve as if all values in a bin were tied.

    Args:
        tampered_histogram: Counts, shape (..., 256).
        authentic_histogram: Counts, shape (..., 256).

    Returns:
        AUC, shape (...); NaN where there is one class only.
    """
    tampered = np.asarray(tampered_histogram, np.float64)
    authentic = np.asarray(authentic_histogram, np.float64)
    below = np.cumsum(authentic, -1) - authentic
    wins = (tampered * (below + authentic / 2)).sum(-1)
    pairs = tampered.sum(-1) * authentic.sum(-1)
    return np.divide(wins, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)


def f1_at_edges(
    tampered: NDArray[np.integer], authentic: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Compute F1 with every pixel predicted, then at 1 / 256, 2 / 256 ... 1.

    Args:
        tampered: Counts, shape (..., 256).
        authentic: Counts, shape (..., 256).

    Returns:
        F1, shape (..., 257); NaN where nothing is tampered and nothing is predicted.
    """
    positives = tampered.sum(-1, keepdims=True)
    hits = positives - _with_zero(np.cumsum(tampered, -1))
    both = tampered + authentic
    predicted = both.sum(-1, keepdims=True) - _with_zero(np.cumsum(both, -1))
    total = predicted + positives
    return np.divide(2 * hits, total, out=np.full(hits.shape, np.nan), where=total > 0)


def _select(
    probability: NDArray[np.floating], mask: NDArray[np.bool_], valid: NDArray[np.bool_] | None
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Check a map and its masks; return the valid pixels' values, in [0, 1], and classes."""
    for name, given in (("mask", mask), ("valid mask", valid)):
        if given is not None and given.shape != probability.shape:
            raise ValueError(f"map {probability.shape} and {name} {given.shape} differ in shape")
        if given is not None and given.dtype != np.bool_:
            raise ValueError(f"the {name} is {given.dtype}, not bool")
    values = probability if probability.dtype in _INTEGERS else probability.astype(np.float32)
    values, tampered = (
        (values.ravel(), mask.ravel()) if valid is None else (values[valid], mask[valid])
    )
    if values.size == 0:
        return values, tampered
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("the map holds a value that is not finite")
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise ValueError(
            f"the map holds values from {low:g} to {high:g}, which are no probabilities"
        )
    inside = low >= 0 and high <= 1
    return values if inside else values.clip(0, 1), tampered


def _auc(
    positives: NDArray[np.int64],
    ties: NDArray[np.int64],
    below: NDArray[np.int64],
    negatives: int,
) -> float:
    """Return the chance that a positive outranks a negative, ties half, from counts per level.

    Twice the number of won pairs is a whole number below 2**63 for anything under 4e9 pixels.

    Args:
        positives: Positives of each level, shape (L,).
        ties: Negatives of the same level, shape (L,).
        below: Negatives of lower levels, shape (L,).
        negatives: All negatives.
    """
    pairs = int(positives.sum()) * negatives
    return _ratio(int((positives * (2 * below + ties)).sum()), 2 * pairs)


def _best_f1(ranking: _Ranking, levels: _Levels) -> tuple[float, float]:
    """Return the largest F1 over all thresholds and the largest threshold that reaches it."""
    n, positives = ranking.keys.size, ranking.tampered_at.size
    if not positives:
        return math.nan, math.nan
    f1 = 2 * (positives - levels.tampered_below) / (n - levels.below + positives)
    best = f1.size - 1 - int(np.argmax(f1[::-1]))
    below = int(levels.below[best])
    value = ranking.value(max(below - 1, 0))
    threshold = value if below else np.nextafter(value, value.dtype.type(-1))
    return float(f1[best]), float(threshold)


def _histograms(ranking: _Ranking) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the counts of tampered and authentic pixels in the bins."""
    all_upto, tampered_upto = ranking.upto(np.arange(1, BINS + 1) / BINS)
    tampered = np.diff(tampered_upto, prepend=0)
    return tampered, np.diff(all_upto, prepend=0) - tampered


def _with_zero(counts: NDArray) -> NDArray:
    """Put a 0 before the last axis's first entry: the count of what lies below everything."""
    return np.concatenate([np.zeros((*counts.shape[:-1], 1), counts.dtype), counts], -1)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan
