"""Differences by photograph and their intervals, against numbers worked out by hand and SciPy."""

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.statistics import bootstrap_interval, photograph_differences
from sparsevit_plugin.results.store import Store, load
from tests.results.helpers import counted, manifest


def images(f1_by_photo):
    """One tampered image per number, with its photograph."""
    return [
        {**counted(f"Tp/{photo}{i}", 1, 1, 1, 1, photos=[photo, "donor"]), "f1": f1}
        for photo, numbers in f1_by_photo.items()
        for i, f1 in enumerate(numbers)
    ]


GOOD = images({"cat": [0.8, 0.6], "cup": [0.9], "sea": [0.5, 0.5, 0.5]})
WEAK = images({"cat": [0.4, 0.2], "cup": [0.1], "sea": [0.2, 0.2, 0.2]})


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    store.write(manifest("Good"), "casia", GOOD)
    store.write(manifest("Weak"), "casia", WEAK)
    store.write(manifest("Good"), "val", GOOD)
    return store


def test_one_value_a_photograph():
    found = photograph_differences(pd.DataFrame(GOOD), pd.DataFrame(WEAK))
    assert found["photo"].tolist() == ["cat", "cup", "sea"]
    assert found["n"].tolist() == [2, 1, 3]
    assert found["a"].tolist() == pytest.approx([0.7, 0.9, 0.5])
    assert found["difference"].tolist() == pytest.approx([0.4, 0.8, 0.3])


def test_only_images_that_both_have_a_figure_for():
    weak = [{**WEAK[0], "f1": float("nan")}, *WEAK[2:]]
    found = photograph_differences(pd.DataFrame(GOOD), pd.DataFrame(weak))
    assert found["photo"].tolist() == ["cup", "sea"]


def test_authentic_images_count_by_convention():
    def with_authentic(rows, fp):
        return pd.DataFrame([*rows, counted("Au/1", 0, fp, 0, 9, photos=["owl"])])

    a, b = with_authentic(GOOD, 0), with_authentic(WEAK, 1)
    assert "owl" not in photograph_differences(a, b)["photo"].tolist()
    by_one = photograph_differences(a, b, authentic="one").set_index("photo")
    assert by_one.at["owl", "difference"] == 1.0
    area = photograph_differences(a, b, "authentic_fp_area")
    assert area["photo"].tolist() == ["owl"]
    assert area["difference"].tolist() == pytest.approx([-0.1])


def test_a_figure_of_a_whole_set_is_refused():
    with pytest.raises(UserError, match="whole set"):
        photograph_differences(pd.DataFrame(GOOD), pd.DataFrame(WEAK), "pooled_f1")


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(5, 40), st.integers(0, 100), st.sampled_from([0.9, 0.95]))
def test_the_interval_agrees_with_scipy(n, seed, level):
    values = np.random.default_rng(seed).normal(0.1, 0.2, n)
    found = bootstrap_interval(values, level)
    reference = stats.bootstrap(
        (values,), np.mean, confidence_level=level, method="percentile", n_resamples=10_000
    ).confidence_interval
    assert found == pytest.approx(tuple(reference), abs=0.06 * values.std())


def test_the_interval_in_cases_known_by_hand():
    assert bootstrap_interval([0.3, 0.3, 0.3]) == (0.3, 0.3)
    # Of n resampled zeros and ones of two values, a quarter are all 0 and a quarter all 1.
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], level=0.4) == (0.5, 0.5)
    assert all(np.isnan(bootstrap_interval([0.3])))


def test_the_interval_is_the_same_every_time_and_for_many_values():
    values = np.random.default_rng(0).random(3000)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    low, high = bootstrap_interval(values)
    spread = 1.96 * values.std() / np.sqrt(3000)
    assert (high - low) / 2 == pytest.approx(spread, rel=0.05)


def test_the_table_of_differences(store):
    found = load(store.folder).difference_table("Good", ["Weak"], "pixel_f1")
    (cell,) = found.cells
    assert (cell.dataset, cell.baseline, cell.n, cell.images) == ("casia", "Weak", 3, 6)
    assert cell.a == pytest.approx((0.7 + 0.9 + 0.5) / 3)
    assert cell.difference == pytest.approx((0.4 + 0.8 + 0.3) / 3)
    assert (cell.low, cell.high) == pytest.approx((0.3, 0.8))
    assert found.photographs["difference"].tolist() == pytest.approx([0.4, 0.8, 0.3])
    assert "over source photographs, each the mean over its images" in found.caption
    text = found.to_markdown()
    assert "| casia | Weak" in text
    assert "+0.300 to +0.800" in text
    assert "| casia | cup" in text
    printed = io.StringIO()
    found.print(printed)
    assert "+0.800" in printed.getvalue()


def test_images_of_unknown_source_are_their_own(store):
    for name, rows in (("Good", GOOD), ("Weak", WEAK)):
        store.write(manifest(name), "casia", [{**row, "photos": []} for row in rows])
    found = load(store.folder).difference_table("Good", ["Weak"])
    assert found.cells[0].n == 6
    assert "source photographs are unknown" in found.caption
    store.write(manifest("Good"), "casia", [{**GOOD[0], "photos": []}, *GOOD[1:]])
    assert "is its own" in load(store.folder).difference_table("Good", ["Weak"]).caption


def test_unusable_comparisons_are_refused(store):
    store.write(manifest("Weak"), "columbia", WEAK)
    found = load(store.folder)
    with pytest.raises(UserError, match="columbia: no image that Good and Weak both have"):
        found.difference_table("Good", ["Weak"])
    assert len(found.difference_table("Good", ["Weak"], sets=["casia"]).cells) == 1
    with pytest.raises(UserError, match="no rows of model"):
        found.difference_table("Best", ["Weak"])
    store.write(manifest("Weak", "another"), "casia", WEAK)
    with pytest.raises(UserError, match="means several rows"):
        load(store.folder).difference_table("Good", ["Weak"])
