"""The paired test: right under the null, able to see an effect, equal to SciPy where it can be."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sparsevit_plugin.results.statistics import Effect, base_photographs, holm, paired_tests


def one_level(values):
    """An effect whose units are all there is: the mean of the values."""
    values = np.asarray(values, float)
    return Effect(values / values.size, (values - values.mean()) / values.size)


def simulated(generator, units, seeds, *, between=0.0, difference=0.0, images=1):
    """Two models that differ by `difference` on photographs that differ themselves.

    `between` is the standard deviation that training anew makes; a model's luck on a photograph and
    an image's noise are there too.
    """
    photo = np.repeat(np.arange(units), images)
    hard = generator.normal(0, 0.3, units)[photo]
    luck = generator.normal(0, 0.2, units)[photo]

    def trained(shift):
        noise = generator.normal(0, 0.1, (seeds, photo.size))
        return hard + shift + noise + generator.normal(0, between, seeds)[:, None]

    a, b = trained(luck + difference), trained(0.0)
    apart = a.mean(0) - b.mean(0)
    errors = [(y.mean(1).std(ddof=1) / seeds**0.5, seeds - 1) for y in (a, b)] if seeds > 1 else []
    return Effect(
        np.bincount(photo, apart) / photo.size,
        np.bincount(photo, apart - apart.mean()) / photo.size,
        tuple(errors),
    )


def run(draws, **world):
    generator = np.random.default_rng(0)
    effects = [simulated(generator, **world) for _ in range(draws)]
    return effects, paired_tests(effects, resamples=999)


def positives(tested):
    return np.mean([one.p < 0.05 for one in tested])


@pytest.mark.parametrize(
    "world", [{"units": 60, "seeds": 1}, {"units": 25, "seeds": 1, "images": 4}]
)
def test_under_the_null_one_in_twenty_is_positive(world):
    _, tested = run(1000, **world)
    assert 0.03 < positives(tested) < 0.07
    assert 0.90 < np.mean([one.low <= 0 <= one.high for one in tested]) < 0.97


@pytest.mark.parametrize(("seeds", "between"), [(3, 0.05), (3, 0.0), (5, 0.05)])
def test_under_the_null_seeds_make_no_false_positives(seeds, between):
    effects, tested = run(1000, units=100, seeds=seeds, between=between)
    assert 0.005 < positives(tested) < 0.06
    blind = paired_tests([Effect(e.shares, e.deviations) for e in effects], resamples=999)
    if between:
        assert positives(blind) > 0.2  # what would be claimed if the seeds were forgotten
    assert np.mean([one.low <= 0 <= one.high for one in tested]) > 0.94


def test_photographs_of_many_images_are_not_many_photographs():
    generator = np.random.default_rng(0)
    as_images = []
    for _ in range(300):
        by_photo = np.repeat(generator.normal(0, 0.2, 15), 10)
        as_images.append(one_level(by_photo + generator.normal(0, 0.05, by_photo.size)))
    assert positives(paired_tests(as_images, resamples=499)) > 0.3


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_clear_effect_is_found_and_its_interval_covers_it(seeds):
    _, tested = run(200, units=200, seeds=seeds, between=0.01 * (seeds > 1), difference=0.1)
    assert positives(tested) > 0.9
    assert np.mean([one.low <= 0.1 <= one.high for one in tested]) > 0.9


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(2, 11), st.integers(0, 1000))
def test_few_units_are_tested_exactly_as_scipy_does(units, seed):
    values = np.random.default_rng(seed).normal(0.1, 0.3, units)
    reference = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=9999
    )
    assert paired_tests([one_level(values)])[0].p == pytest.approx(reference.pvalue, abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.1])
def test_many_units_agree_with_scipy(shift):
    values = np.random.default_rng(3).normal(shift, 0.3, 70)
    reference = stats.permutation_test(
        (values,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        n_resamples=9999,
        vectorized=True,
        random_state=np.random.default_rng(1),  # SciPy < 1.15 does not know rng
    )
    assert paired_tests([one_level(values)])[0].p == pytest.approx(reference.pvalue, abs=0.02)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(4, 12), st.integers(0, 1000))
def test_signed_ranks_give_wilcoxons_p(units, seed):
    values = np.random.default_rng(seed).normal(0.1, 0.3, units)
    ranks = stats.rankdata(np.abs(values)) * np.sign(values)
    reference = stats.wilcoxon(values, method="exact")
    assert paired_tests([one_level(ranks)])[0].p == pytest.approx(reference.pvalue)


def test_the_interval_of_many_units_is_students():
    values = np.random.default_rng(0).normal(0.1, 0.3, 400)
    found = paired_tests([one_level(values)])[0]
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.003)


def test_seeds_alone_give_welchs_test():
    """Where photographs say next to nothing, only the seeds' error is left."""
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.02, 0.02, 4), generator.normal(0, 0.01, 3)
    errors = tuple((y.std(ddof=1) / y.size**0.5, y.size - 1) for y in (a, b))
    units = 1000
    share = np.full(units, (a.mean() - b.mean()) / units)
    tested = paired_tests([Effect(share, np.zeros(units), errors)])[0]
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert tested.p == pytest.approx(welch.pvalue, abs=0.015)
    low, high = welch.confidence_interval(0.95)
    assert (tested.low, tested.high) == pytest.approx((low, high), rel=0.1)


def test_results_are_the_same_every_time_and_do_not_depend_on_others():
    generator = np.random.default_rng(0)
    one, other = (one_level(generator.normal(0.05, 0.3, 50)) for _ in range(2))
    alone = paired_tests([one])
    assert paired_tests([one]) == alone
    beside = paired_tests([other, one])[1]
    assert beside.p == alone[0].p
    assert (beside.low, beside.high) == pytest.approx((alone[0].low, alone[0].high), abs=1e-12)


def test_edges():
    assert paired_tests([]) == []
    (nothing,) = paired_tests([one_level(np.zeros(30))])
    assert (nothing.p, nothing.low, nothing.high) == (1.0, 0.0, 0.0)
    (single,) = paired_tests([one_level([0.3])])
    assert single.p == 1.0
    assert np.isnan(single.low)
    (sure,) = paired_tests([one_level(np.full(60, 0.3))], resamples=999)
    assert sure.p == 1 / 1000  # never 0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01, float("nan"), 0.02]) == pytest.approx(
        [0.02, float("nan"), 0.02], nan_ok=True
    )
    assert holm([0.5, 0.9, 0.6]) == pytest.approx([1.0, 1.0, 1.0])
    assert holm([]).size == 0
    # The largest is held down only by those before it.
    assert holm([0.001, 0.012, 0.9]) == pytest.approx([0.003, 0.024, 0.9])


def test_base_photographs_of_lists_and_of_arrow():
    lists = [["cat", "cup"], [], None, ["sea"]]
    chunks = [
        pa.array(lists[:2], pa.list_(pa.string())),
        pa.array(lists[2:], pa.list_(pa.string())),
    ]
    arrow = pd.Series(pd.arrays.ArrowExtensionArray(pa.chunked_array(chunks)))
    for photos in (pd.Series(lists), arrow):
        names, known = base_photographs(photos)
        assert names.tolist() == ["cat", None, None, "sea"]
        assert known.tolist() == [True, False, False, True]
        assert base_photographs(photos.iloc[:0])[0].size == 0
