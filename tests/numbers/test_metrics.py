"""A fixed sample of cases for every metric; `benchmarks/metrics.py` tries thousands."""

import math

import numpy as np
import pytest
import torch

from sparsevit_plugin.harness import evaluators, metrics
from sparsevit_plugin.harness.evaluate import maps_and_scores
from sparsevit_plugin.results import aggregate, seeds
from sparsevit_plugin.results.conventions import METRICS
from sparsevit_plugin.results.schema import ROW_COLUMNS
from tests.numbers.families import FAMILIES, try_family

CASES = {"one map": 200, "sets": 100, "seeds and sets": 100}
USUAL = 300
ENOUGH_DEFINED = 0.15


@pytest.mark.parametrize("family", FAMILIES)
def test_every_figure_equals_its_reference(family):
    """The sample must reach the rule as well as the exceptions."""
    tried, tallies = try_family(family, CASES.get(family, USUAL), None)
    assert tried >= CASES.get(family, USUAL) / 2
    for name, tally in tallies.items():
        assert tally.cases - tally.undefined > ENOUGH_DEFINED * tally.cases, name


def test_no_metric_is_left_out():
    names = set()
    for family in ("one map", "sets"):
        names |= set(try_family(family, 5, None)[1])
    assert names >= set(METRICS)
    assert names >= set(evaluators.PIXEL_FIGURES)
    floats = {column.name for column in ROW_COLUMNS if str(column.type) == "double"}
    assert names >= floats - {"score", "threshold"}


def test_a_score_that_rounding_took_out_of_range_is_a_probability():
    """Else the calibration error of its whole set would be undefined."""
    outside = torch.tensor([-5e-7, 1 + 5e-7]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    scored = maps_and_scores({"pred_mask": outside, "pred_label": None}, {})
    assert scored["pred_label"].tolist() == [0.0, 1.0]


# --- a metric that is wrong is seen ---------------------------------------------------------------


def without_ties(positives, ties, below, negatives):
    pairs = int(positives.sum()) * negatives
    return float((positives * below).sum()) / pairs if pairs else math.nan


def nothing_is_zero(over, under):
    return over / under if under else 0.0


def population_deviation(values, mean, n):
    with np.errstate(invalid="ignore"):
        return np.where(n > 1, np.sqrt(np.nansum((values - mean) ** 2, axis=0) / n), np.nan)


def at_least(select):
    """Predict pixels of the threshold's own value too."""
    return lambda ranking, thresholds: select(ranking, np.nextafter(thresholds, -1))


def mistaken_pool(column, tp, fp, fn, tn):
    return np.nan_to_num(REAL_POOL(column, tp, fp, fn, tn))


def unpadded(probability, mask, valid, threshold):
    return REAL_STATISTICS(probability, mask, None, threshold)


REAL_POOL, REAL_STATISTICS = aggregate.pooled_value, metrics.pixel_statistics


@pytest.mark.parametrize(
    ("family", "module", "name", "wrong"),
    [
        ("one map", metrics, "_auc", without_ties),
        ("one map", metrics, "_ratio", nothing_is_zero),
        ("one map", metrics._Ranking, "upto", at_least(metrics._Ranking.upto)),
        ("one map", evaluators, "pixel_statistics", unpadded),
        ("image-level scores", metrics, "_auc", without_ties),
        ("sets", aggregate, "pooled_value", mistaken_pool),
        ("seeds and sets", seeds, "_std", population_deviation),
    ],
)
def test_a_wrong_metric_is_noticed(monkeypatch, family, module, name, wrong):
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(Exception, match=r"Compared|not finite"):
        try_family(family, 300, None, shrink=False)
