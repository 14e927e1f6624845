"""Image-level figures against scikit-learn and SciPy."""

import math

import numpy as np
import pytest
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_curve

from sparsevit_plugin.harness.metrics import RELIABILITY_BINS, image_metrics, reliability

NAMES = ("auc", "balanced_accuracy", "eer", "ap", "ece")


def drawn(seed, levels):
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=60)
    scores = np.clip(generator.normal(0.4 + 0.2 * labels, 0.25), 0, 1)
    return labels, np.round(scores * levels) / levels if levels else scores


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("levels", [0, 5])  # 5: many ties
def test_figures_are_those_of_scikit_learn(seed, levels):
    labels, scores = drawn(seed, levels)
    found = image_metrics(labels, scores)
    assert found.ap == pytest.approx(average_precision_score(labels, scores))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, scores > 0.5))
    alarms, hits, _ = roc_curve(labels, scores, drop_intermediate=False)
    curve = interp1d(alarms, hits)
    assert found.eer == pytest.approx(brentq(lambda x: 1 - x - curve(x), 0, 1), abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_calibration_error_is_the_weighted_distance_of_the_bins(seed):
    labels, scores = drawn(seed, 0)
    share, mean = calibration_curve(labels, scores, n_bins=RELIABILITY_BINS)
    bins = reliability(labels, scores)
    filled = bins.count > 0
    assert np.allclose(bins.tampered_share[filled], share)
    assert np.allclose(bins.mean_score[filled], mean)
    weights = bins.count[filled] / len(labels)
    expected = float((weights * np.abs(share - mean)).sum())
    assert image_metrics(labels, scores).ece == pytest.approx(expected)


def test_a_perfect_and_a_reversed_score():
    labels = np.array([0, 0, 1, 1])
    assert image_metrics(labels, labels.astype(float)).eer == 0
    assert image_metrics(labels, labels.astype(float)).ece == 0
    assert image_metrics(labels, 1.0 - labels).eer == 1
    assert image_metrics(labels, np.full(4, 0.7)).eer == 0.5


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_such_figure(label):
    found = image_metrics(np.full(5, label), np.linspace(0, 1, 5))
    assert all(math.isnan(getattr(found, name)) for name in NAMES)
    assert not math.isnan(found.accuracy)


def test_edges_lie_in_the_bin_below():
    scores = np.array([0.0, 1 / 15, 2 / 15, 1.0])
    assert reliability(np.array([0, 1, 0, 1]), scores).count.tolist() == [2, 1, *[0] * 11, 0, 1]


def test_what_is_no_probability_has_no_calibration():
    labels = np.array([0, 1, 1])
    assert math.isnan(image_metrics(labels, np.array([-2.0, 0.5, 3.0])).ece)
    assert image_metrics(labels, np.array([-2.0, 0.5, 3.0])).auc == 1
