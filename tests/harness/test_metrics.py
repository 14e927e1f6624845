"""Exact figures against scikit-learn, and their conventions where scikit-learn has none."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as oracle

from sparsevit_plugin.harness.metrics import (
    BINS,
    binned_auc,
    binned_best_f1,
    binned_f1,
    image_metrics,
    pixel_statistics,
)

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)

# Few levels make ties, 0.5 and bin edges among them; single precision has values of its own.
LEVELS = st.sampled_from([0.0, 1 / 256, 0.25, 0.4999999, 0.5, 0.5000001, 0.75, 1.0])
FREE = st.floats(0, 1, width=32)


@st.composite
def scored_maps(draw, values=None):
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8))
    kind = draw(st.sampled_from([np.float32, np.float64]))
    elements = values or draw(st.sampled_from([LEVELS, FREE]))
    probability = draw(hnp.arrays(np.float64, shape, elements=elements)).astype(kind)
    mask = draw(hnp.arrays(np.bool_, shape))
    valid = draw(st.none() | hnp.arrays(np.bool_, shape))
    return probability, mask, valid


def selected(probability, mask, valid):
    inside = np.ones(mask.shape, bool) if valid is None else valid
    return mask[inside], probability[inside]


@SETTINGS
@given(scored_maps())
def test_counts_and_ratios_equal_scikit_learn(case):
    truth, scores = selected(*case)
    found = pixel_statistics(*case)
    predicted = scores > 0.5
    counts = oracle.confusion_matrix(truth, predicted, labels=[False, True]) if truth.size else None
    assert found.pixels == truth.size
    assert found.tampered_pixels == truth.sum()
    if counts is not None:
        assert [[found.tn, found.fp], [found.fn, found.tp]] == counts.tolist()
    for name, score in {
        "f1": oracle.f1_score,
        "precision": oracle.precision_score,
        "recall": oracle.recall_score,
        "iou": oracle.jaccard_score,
    }.items():
        zero, one = (
            score(truth, predicted, zero_division=value) if truth.size else value
            for value in (0.0, 1.0)
        )
        if zero == one:
            assert getattr(found, name) == pytest.approx(zero, abs=1e-12)
        else:  # scikit-learn has no value either: it gives what it is told to
            assert math.isnan(getattr(found, name))
    if truth.size:
        assert found.accuracy == pytest.approx(oracle.accuracy_score(truth, predicted))
        assert found.predicted_area == pytest.approx(predicted.mean())
    else:
        assert math.isnan(found.accuracy)


@SETTINGS
@given(scored_maps())
def test_auc_equals_scikit_learn(case):
    truth, scores = selected(*case)
    found = pixel_statistics(*case).auc
    if 0 < truth.sum() < truth.size:
        assert found == pytest.approx(oracle.roc_auc_score(truth, scores), abs=1e-12)
    else:
        assert math.isnan(found)


@SETTINGS
@given(scored_maps())
def test_best_f1_is_the_largest_over_all_thresholds(case):
    truth, scores = selected(*case)
    found = pixel_statistics(*case)
    if not truth.any():
        assert math.isnan(found.best_f1)
        assert math.isnan(found.best_threshold)
        return
    f1 = {t: oracle.f1_score(truth, scores > t, zero_division=0.0) for t in [-1.0, *scores]}
    assert found.best_f1 == pytest.approx(max(f1.values()), abs=1e-12)
    reached = scores > scores.dtype.type(found.best_threshold)
    assert oracle.f1_score(truth, reached) == pytest.approx(found.best_f1, abs=1e-12)
    larger = [t for t, value in f1.items() if t > found.best_threshold]
    assert all(f1[t] < found.best_f1 for t in larger)
    assert found.best_f1 >= found.f1 or math.isnan(found.f1)


def test_of_equal_best_thresholds_the_largest_is_reported():
    probability = np.array([[0.9, 0.8, 0.7, 0.6]], np.float32)
    found = pixel_statistics(probability, np.array([[True, False, False, True]]))
    assert found.best_f1 == pytest.approx(2 / 3)  # one pixel predicted, or all four
    assert found.best_threshold == np.float32(0.8)


def test_predicting_every_pixel_is_a_candidate():
    probability = np.array([[0.0, 0.0]], np.float32)
    found = pixel_statistics(probability, np.array([[True, True]]))
    assert found.best_f1 == 1.0
    assert (probability > found.best_threshold).all()


@SETTINGS
@given(scored_maps(), st.integers(1, BINS))
def test_bins_give_the_exact_f1_at_every_edge(case, edge):
    found = pixel_statistics(*case, threshold=edge / BINS)
    assert found.tampered_histogram.sum() == found.tampered_pixels
    assert found.authentic_histogram.sum() == found.pixels - found.tampered_pixels
    binned = binned_f1(found.tampered_histogram, found.authentic_histogram, edge / BINS)
    np.testing.assert_allclose(binned, found.f1, atol=1e-12)


@SETTINGS
@given(scored_maps())
def test_binned_figures_are_those_of_the_map_rounded_up_to_its_bin(case):
    probability, mask, valid = case
    found = pixel_statistics(*case)
    levels = np.maximum(np.ceil(probability.astype(np.float64) * BINS), 1) / BINS
    rounded = pixel_statistics(levels, mask, valid)
    both = found.tampered_histogram, found.authentic_histogram
    np.testing.assert_allclose(binned_auc(*both), rounded.auc, atol=1e-12)
    np.testing.assert_allclose(binned_best_f1(*both), rounded.best_f1, atol=1e-12)


def test_a_value_on_an_edge_is_counted_below_it():
    probability = np.array([[0.0, 0.5, np.nextafter(0.5, 1), 1.0]])
    found = pixel_statistics(probability, np.ones((1, 4), bool))
    assert np.flatnonzero(found.tampered_histogram).tolist() == [0, 127, 128, 255]


def test_binned_figures_take_many_images_at_once():
    generator = np.random.default_rng(0)
    tampered, authentic = generator.integers(0, 9, (2, 3, BINS))
    together = binned_auc(tampered, authentic)
    assert together.shape == (3,)
    assert together[1] == pytest.approx(binned_auc(tampered[1], authentic[1]))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.1])
def test_a_threshold_between_edges_is_refused(threshold):
    with pytest.raises(ValueError, match="edge"):
        binned_f1(np.ones(BINS, int), np.ones(BINS, int), threshold)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.01, -0.5])
def test_what_is_no_probability_is_refused(bad):
    probability = np.full((2, 2), 0.5, np.float32)
    probability[1, 1] = bad
    with pytest.raises(ValueError, match="the map holds"):
        pixel_statistics(probability, np.zeros((2, 2), bool))


def test_a_bad_value_outside_the_valid_pixels_does_no_harm():
    probability = np.array([[0.9, np.nan]], np.float32)
    valid = np.array([[True, False]])
    assert pixel_statistics(probability, np.array([[True, True]]), valid).f1 == 1.0


def test_rounding_just_above_one_is_borne():
    probability = np.array([[np.nextafter(np.float32(1), np.float32(2)), 0.0]], np.float32)
    assert pixel_statistics(probability, np.array([[True, False]])).auc == 1.0


def test_negative_zero_ties_with_zero():
    probability = np.array([[-0.0, 0.0]], np.float32)
    assert pixel_statistics(probability, np.array([[True, False]])).auc == 0.5


def test_half_precision_is_read_exactly():
    probability = np.array([[0.5, 0.5005]], np.float16)
    assert pixel_statistics(probability, np.array([[False, True]])).f1 == 1.0


def test_shapes_and_types_must_fit():
    with pytest.raises(ValueError, match="differ in shape"):
        pixel_statistics(np.zeros((2, 3)), np.zeros((3, 2), bool))
    with pytest.raises(ValueError, match="not bool"):
        pixel_statistics(np.zeros((2, 2)), np.zeros((2, 2)))


@SETTINGS
@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from([-3.0, 0.2, 0.5, 0.7, 9.0]))))
def test_image_figures_equal_scikit_learn(pairs):
    labels = np.array([label for label, _ in pairs], int)
    scores = np.array([score for _, score in pairs], float)
    found = image_metrics(labels, scores)
    predicted = scores > 0.5
    if not pairs:
        assert math.isnan(found.accuracy)
        return
    assert found.accuracy == pytest.approx(oracle.accuracy_score(labels, predicted))
    if labels.any() or predicted.any():
        assert found.f1 == pytest.approx(oracle.f1_score(labels, predicted, zero_division=0.0))
    else:
        assert math.isnan(found.f1)
    if 0 < labels.sum() < labels.size:
        assert found.auc == pytest.approx(oracle.roc_auc_score(labels, scores))
    else:
        assert math.isnan(found.auc)


@pytest.mark.parametrize(
    ("labels", "scores"), [([0, 2], [0.1, 0.2]), ([0, 1], [0.1, np.nan]), ([0], [0.1, 0.2])]
)
def test_image_level_nonsense_is_refused(labels, scores):
    with pytest.raises(ValueError, match=r"image|rows"):
        image_metrics(np.array(labels), np.array(scores))
