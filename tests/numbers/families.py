"""Every metric beside a reference, in families that share their cases.

References are scikit-learn's functions, and plain arithmetic where it has none. A figure that is
undefined is NaN on both sides. No formula or order of steps of the package is used in them.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import sklearn
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from scipy import optimize, stats
from sklearn import metrics as oracle

from sparsevit_plugin.harness.evaluate import maps_and_scores
from sparsevit_plugin.harness.evaluators import IMAGE_FIGURES, evaluate_batch, exact_evaluators
from sparsevit_plugin.harness.external import POOLINGS
from sparsevit_plugin.harness.metrics import (
    BINS,
    binned_auc,
    binned_best_f1,
    binned_f1,
    image_metrics,
)
from sparsevit_plugin.model.sparsevit import pool
from sparsevit_plugin.results.aggregate import Conventions, cell_figures
from sparsevit_plugin.results.conventions import AUTHENTIC, METRICS
from sparsevit_plugin.results.rows import Member, TableRow
from sparsevit_plugin.results.seeds import AVERAGE, over_seeds
from tests.numbers import cases

EXACT, ROUNDED = 0.0, 1e-12
SEARCHED = 1e-11
"""Of what a numerical search found."""

SINGLE = 1e-6
"""Of scores that a model pools in single precision."""


@dataclass(frozen=True)
class Compared:
    """A figure of the package and its reference."""

    name: str
    found: float
    wanted: float
    tolerance: float = ROUNDED

    @property
    def undefined(self) -> bool:
        """Whether both say that there is no value."""
        return bool(np.isnan(self.found) and np.isnan(self.wanted))

    @property
    def difference(self) -> float:
        """How far they are apart; infinity where only one of them is undefined."""
        apart = abs(self.found - self.wanted)
        return 0.0 if self.undefined else float("inf") if np.isnan(apart) else float(apart)


# --- one map -------------------------------------------------------------------------------------


def of_a_map(image: cases.Image, threshold: float, edge: int) -> Iterator[Compared]:
    """Compare all figures of one map, through the evaluators, and those of its bins."""
    row = _rows([image], threshold)[0]
    truth, scores = image.pixels()
    predicted = scores > scores.dtype.type(threshold)
    for name, count in _counts(truth, predicted).items():
        yield Compared(name, row[name], count, EXACT)
    yield Compared("pixels", row["pixels"], truth.size, EXACT)
    yield Compared("tampered_pixels", row["tampered_pixels"], truth.sum(), EXACT)
    yield Compared("label", row["label"], truth.any(), EXACT)
    for name, wanted in {**_ratios(truth, predicted), **_of_all_thresholds(truth, scores)}.items():
        exact = EXACT if name == "best_threshold" else ROUNDED
        yield Compared(name, row[name], wanted, exact)
    bins = np.searchsorted(np.arange(1, BINS) / BINS, scores.astype(np.float64), side="left")
    both = row["tampered_histogram"], row["authentic_histogram"]
    apart = [
        np.abs(np.bincount(bins[part], minlength=BINS) - histogram).max()
        for part, histogram in zip((truth, ~truth), both, strict=True)
    ]
    yield Compared("counts in bins", float(max(apart)), 0, EXACT)
    at_edge = _ratios(truth, scores.astype(np.float64) > edge / BINS)["f1"]
    yield Compared("binned_f1", float(binned_f1(*both, edge / BINS)), at_edge)
    binned = _of_all_thresholds(truth, bins.astype(np.float64))
    yield Compared("binned_auc", float(binned_auc(*both)), binned["auc"])
    yield Compared("binned_best_f1", float(binned_best_f1(*both)), binned["best_f1"])


def _counts(truth: np.ndarray, predicted: np.ndarray) -> dict[str, int]:
    if not truth.size:
        return dict.fromkeys(("tn", "fp", "fn", "tp"), 0)
    found = oracle.confusion_matrix(truth, predicted, labels=[False, True]).ravel()
    return dict(zip(("tn", "fp", "fn", "tp"), found.tolist(), strict=True))


def _ratios(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return the figures at a threshold; scikit-learn says by itself what is undefined."""
    names = ("f1", "precision", "recall", "iou", "accuracy", "predicted_area")
    if not truth.size:
        return dict.fromkeys(names, np.nan)
    precision, recall, f1, _ = oracle.precision_recall_fscore_support(
        truth, predicted, average="binary", zero_division=np.nan
    )
    # The Jaccard index knows no NaN there: it is told to be 0.
    iou = oracle.jaccard_score(truth, predicted, zero_division=0.0)
    return {
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "iou": iou if (truth | predicted).any() else np.nan,
        "accuracy": oracle.accuracy_score(truth, predicted),
        "predicted_area": float(np.mean(predicted)),
    }


def _of_all_thresholds(truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    found = {"auc": np.nan, "best_f1": np.nan, "best_threshold": np.nan}
    if truth.any() and not truth.all():
        found["auc"] = oracle.roc_auc_score(truth, scores)
    if truth.any():
        precision, recall, _ = oracle.precision_recall_curve(truth, scores)
        both = precision + recall
        f1 = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
        found["best_f1"] = f1.max()
        found["best_threshold"] = _best_threshold(truth, scores)
    return found


def _best_threshold(truth: np.ndarray, scores: np.ndarray) -> float:
    """Try every value from the largest on, in whole numbers, and keep the first that is best."""
    levels, place = np.unique(scores, return_inverse=True)
    counts = np.stack([np.bincount(place, part, levels.size) for part in (truth, ~truth)]).tolist()
    positives, tp, fp, best, at = int(truth.sum()), 0, 0, Fraction(-1), 0
    for level in range(levels.size - 1, -1, -1):
        tp, fp = tp + int(counts[0][level]), fp + int(counts[1][level])
        f1 = Fraction(2 * tp, tp + fp + positives)
        if f1 > best:
            best, at = f1, level
    below = levels[at - 1] if at else np.nextafter(levels[0], scores.dtype.type(-1))
    return float(below)


# --- image level ---------------------------------------------------------------------------------


def of_scores(case: cases.Scored) -> Iterator[Compared]:
    """Compare image-level figures."""
    found = image_metrics(case.labels, case.scores, case.threshold)
    wanted = _image_level(case.labels, case.scores, case.threshold)
    for name in IMAGE_FIGURES:
        tolerance = SEARCHED if name == "eer" else ROUNDED
        yield Compared(f"image-level {name}", getattr(found, name), wanted[name], tolerance)


def _image_level(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, float]:
    truth, predicted = labels == 1, scores > threshold
    ratios = _ratios(truth, predicted)
    found = {"f1": ratios["f1"], "accuracy": ratios["accuracy"]}
    if not truth.any() or truth.all():
        return {**dict.fromkeys(("auc", "balanced_accuracy", "eer", "ap", "ece"), np.nan), **found}
    found["auc"] = oracle.roc_auc_score(truth, scores)
    found["balanced_accuracy"] = oracle.balanced_accuracy_score(truth, predicted)
    found["ap"] = oracle.average_precision_score(truth, scores)
    found["eer"] = _equal_error_rate(truth, scores)
    found["ece"] = _calibration_error(truth.tolist(), scores.astype(float).tolist())
    return found


def _equal_error_rate(truth: np.ndarray, scores: np.ndarray) -> float:
    """Search where false alarms are as frequent as misses on scikit-learn's ROC curve."""
    alarms, hits, _ = oracle.roc_curve(truth, scores, drop_intermediate=False)
    return float(optimize.brentq(lambda x: 1 - np.interp(x, alarms, hits) - x, 0, 1))


def _calibration_error(truth: list[bool], scores: list[float], bins: int = 15) -> float:
    """Go through the bins one by one."""
    if min(scores) < 0 or max(scores) > 1:
        return np.nan
    error = 0.0
    for k in range(bins):
        low, high = k / bins, (k + 1) / bins
        inside = [i for i, s in enumerate(scores) if low < s <= high or (k == 0 and s == 0)]
        if inside:
            share = math.fsum(truth[i] for i in inside) / len(inside)
            error += abs(share - math.fsum(scores[i] for i in inside) / len(inside)) * len(inside)
    return error / len(scores)


def of_poolings(image: cases.Image) -> Iterator[Compared]:
    """Compare how a map becomes an image-level score."""
    values = image.values.nan_to_num(0.7).float().clip(0, 1)
    inside = image.inside if image.inside.any() else np.ones(image.tampered.shape, bool)
    plain = values.numpy().astype(np.float64)
    ordered = np.sort(plain.ravel())[::-1]
    wanted = {"max": ordered[0], "mean": plain.mean()}
    wanted["top1"] = ordered[: max(1, int(np.ceil(ordered.size / 100)))].mean()
    for name, compute in POOLINGS.items():
        yield Compared(f"score: {name} of a map", compute(values.numpy()), wanted[name], SINGLE)
    batch = values[None, None]
    valid = torch.from_numpy(inside)[None, None].float()
    of_photograph = {"max": plain[inside].max(), "mean": plain[inside].mean()}
    for name, score in of_photograph.items():
        found = float(pool(batch, valid, name)[0])
        yield Compared(f"score: {name}, without padding", found, score, SINGLE)
    given = maps_and_scores({"pred_mask": batch, "pred_label": None}, {"shape_mask": valid})
    found = float(given["pred_label"][0])
    yield Compared("score: max, without padding", found, of_photograph["max"], SINGLE)


# --- sets ----------------------------------------------------------------------------------------


def of_a_set(case: cases.ImageSet, authentic: str) -> Iterator[Compared]:
    """Compare all figures of a table's cell, from rows that were made in two orders of batches."""
    orders = (range(len(case.images)), case.order)
    frames = [_frame(case, order, cuts) for order, cuts in zip(orders, case.cuts, strict=True)]
    both = pd.concat([frame.assign(dataset=f"way{i}") for i, frame in enumerate(frames)])
    rows = both.reset_index(drop=True).assign(manifest_id="one")
    references = _Cell(case, authentic)
    for name, metric in METRICS.items():
        wanted, n, undefined = references.of(metric.kind, metric.column)
        cells = cell_figures(rows, Conventions(name, authentic))
        for way in ("way0", "way1"):
            line = {"value": np.nan, "n": 0, "undefined": 0}
            if ("one", way) in cells.index:
                line = cells.loc[("one", way)]
            tolerance = SEARCHED if metric.column == "eer" else ROUNDED
            yield Compared(name, float(line["value"]), wanted, tolerance)
            yield Compared("images behind a figure", int(line["n"]), n, EXACT)
            yield Compared("images without a figure", int(line["undefined"]), undefined, EXACT)


def _rows(images: list[cases.Image], threshold: float, labels: Any = None) -> list[dict[str, Any]]:
    """Score a batch as an evaluation does; the score is the map's maximum in the photograph."""
    shape_mask = None
    if images[0].valid is not None:
        shape_mask = torch.stack([torch.from_numpy(one.valid) for one in images])[:, None].float()
    mask = torch.stack([torch.from_numpy(one.tampered) for one in images])[:, None].double()
    predicted = torch.stack([one.values for one in images])[:, None]
    batch = {"mask": mask, "shape_mask": shape_mask}
    output: dict[str, Any] = {"pred_mask": predicted}
    if labels is not None:
        batch["label"] = torch.tensor(labels)
        score = maps_and_scores({"pred_mask": predicted, "pred_label": None}, batch)
        output["pred_label"] = score["pred_label"]
    return evaluate_batch(exact_evaluators(threshold), output, batch)


def _frame(case: cases.ImageSet, order: Any, cuts: list[int]) -> pd.DataFrame:
    rows, left = [], list(order)
    for size in cuts:
        batch, left = left[:size], left[size:]
        images, labels = [case.images[i] for i in batch], [case.labels[i] for i in batch]
        rows += _rows(images, case.threshold, labels)
    return pd.DataFrame(rows).drop(columns=["tampered_histogram", "authentic_histogram"])


class _Cell:
    """The figures of one set, from its maps.

    Args:
        case: The set.
        authentic: What an authentic image counts for.
    """

    def __init__(self, case: cases.ImageSet, authentic: str) -> None:
        self.case, self.authentic = case, authentic
        self.parts = [one.pixels() for one in case.images]
        self.predicted = [scores > scores.dtype.type(case.threshold) for _, scores in self.parts]
        self.tampered = [bool(truth.any()) for truth, _ in self.parts]

    def of(self, kind: str, column: str) -> tuple[float, int, int]:
        """Return a figure, the images behind it, and those left out without a figure."""
        if kind == "image":
            return self.of_scores[column], len(self.parts), 0
        if kind == "pooled":
            return self.of_pixels[column], len(self.pooled), 0
        figures = self._each(column, authentic_alone=kind == "area")
        known = [value for value in figures if not np.isnan(value)]
        value = float(np.mean(known)) if known else np.nan
        return value, len(known), len(figures) - len(known)

    @cached_property
    def of_scores(self) -> dict[str, float]:
        """Image-level figures, of the largest value of each map in single precision."""
        scores = np.array([np.float32(scores.max()) for _, scores in self.parts], np.float64)
        return _image_level(np.array(self.case.labels), scores, self.case.threshold)

    @cached_property
    def pooled(self) -> list[int]:
        """Places of the images whose pixels are pooled."""
        everything = self.authentic != "tampered"
        return [i for i, present in enumerate(self.tampered) if present or everything]

    @cached_property
    def of_pixels(self) -> dict[str, float]:
        """Figures of all pixels together."""
        truth = [self.parts[i][0] for i in self.pooled]
        guess = [self.predicted[i] for i in self.pooled]
        nothing = [np.zeros(0, bool)]
        return _ratios(np.concatenate(nothing + truth), np.concatenate(nothing + guess))

    def _each(self, column: str, *, authentic_alone: bool) -> list[float]:
        """Return the figure of every image that takes part, NaN where it has none."""
        figures = []
        for i, (truth, scores) in enumerate(self.parts):
            authentic = not self.tampered[i] and self.case.labels[i] == 0
            figure = _figure(column, truth, self.predicted[i], scores)
            if authentic_alone:
                figures += [figure] if authentic else []
            elif self.tampered[i]:
                figures.append(figure)
            elif not authentic:
                figures.append(np.nan)  # its region vanished
            elif self.authentic != "tampered":
                counts = float(self.authentic == "one" and not self.predicted[i].any())
                figures.append(figure if column == "accuracy" else counts)
        return figures


def _figure(column: str, truth: np.ndarray, guess: np.ndarray, scores: np.ndarray) -> float:
    """Return one figure of one image by its definition."""
    hits, size = int((truth & guess).sum()), truth.size
    either, agreed = int((truth | guess).sum()), int((truth == guess).sum())
    if column == "auc":
        if truth.all() or not truth.any():
            return np.nan
        first = stats.mannwhitneyu(scores[truth], scores[~truth], method="asymptotic").statistic
        return float(first / (truth.sum() * (~truth).sum()))
    if column == "best_f1":
        f1 = [_figure("f1", truth, scores >= level, scores) for level in np.unique(scores)]
        return max(f1) if truth.any() else np.nan
    over, under = {
        "f1": (2 * hits, int(truth.sum() + guess.sum())),
        "iou": (hits, either),
        "precision": (hits, int(guess.sum())),
        "recall": (hits, int(truth.sum())),
        "accuracy": (agreed, size),
        "predicted_area": (int(guess.sum()), size),
    }[column]
    return over / under if under else np.nan


def of_runs(case: cases.Runs) -> Iterator[Compared]:
    """Compare means and standard deviations over seeds, and the average over sets."""
    seeds, sets = case.figures.shape
    names = [f"set{i}" for i in range(sets)]
    ids = [f"seed{i}" for i in range(seeds)]
    row = TableRow("a", "a", "a", "", tuple(Member(name, "a", "", {}) for name in ids))
    index = pd.MultiIndex.from_product([ids, names], names=["manifest_id", "dataset"])
    frame = pd.DataFrame({"value": case.figures.ravel(), "n": 1, "undefined": 0}, index=index)
    found = over_seeds(frame, [row], names, average=True)
    averages = [np.mean(one) for one in case.figures]
    columns = dict(zip(names, case.figures.T, strict=True)) | {AVERAGE: np.array(averages)}
    for name, figures in columns.items():
        known = figures[~np.isnan(figures)]
        if name == AVERAGE and known.size < seeds:
            known = known[:0]  # a seed misses a set
        what = "average over sets" if name == AVERAGE else "mean over seeds"
        mean = float(np.mean(known)) if known.size else np.nan
        yield Compared(what, found.at("values", "a", name), mean)
        std = float(np.std(known, ddof=1)) if known.size > 1 else np.nan
        yield Compared("standard deviation over seeds", found.at("std", "a", name), std)
        yield Compared("seeds", found.count("seeds", "a", name), known.size, EXACT)


# --- trying --------------------------------------------------------------------------------------

FAMILIES: dict[str, tuple[Callable[..., Iterator[Compared]], tuple[Any, ...]]] = {
    "one map": (
        of_a_map,
        (cases.images(), cases.THRESHOLDS, cases.st.integers(1, BINS)),
    ),
    "image-level scores": (of_scores, (cases.scored(),)),
    "scores from maps": (of_poolings, (cases.images(),)),
    "sets": (of_a_set, (cases.image_sets(), cases.st.sampled_from(AUTHENTIC))),
    "seeds and sets": (of_runs, (cases.runs(),)),
}


@dataclass
class Tally:
    """What came of a figure over all cases.

    Attributes:
        cases: How often it was compared.
        undefined: How often it was undefined, on both sides.
        largest: The largest difference of the others.
        tolerance: The largest that is allowed.
    """

    cases: int = 0
    undefined: int = 0
    largest: float = 0.0
    tolerance: float = 0.0


def try_family(
    family: str, examples: int, seed: int | None, *, shrink: bool = True
) -> tuple[int, dict[str, Tally]]:
    """Compare the figures of a family on many cases.

    Args:
        family: One of `FAMILIES`.
        examples: Cases.
        seed: Of the cases; None for the fixed ones of the tests.
        shrink: Whether the smallest case that fails is looked for.

    Returns:
        Cases tried, and what came of each figure.

    Raises:
        AssertionError: A figure differs by more than its tolerance, in the smallest case found.
    """
    compare, strategies = FAMILIES[family]
    tallies: dict[str, Tally] = {}
    tried: Counter[str] = Counter()

    def check(case: tuple[Any, ...]) -> None:
        tried[family] += 1
        for one in compare(*case):
            tally = tallies.setdefault(one.name, Tally(tolerance=one.tolerance))
            tally.cases += 1
            tally.undefined += one.undefined
            tally.largest = max(tally.largest, one.difference)
            assert one.difference <= one.tolerance, one

    fixed = settings(
        max_examples=examples,
        derandomize=seed is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
    )
    test = fixed(given(cases.st.tuples(*strategies))(check))
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        (test if seed is None else seeded(seed)(test))()
    return tried[family], tallies
