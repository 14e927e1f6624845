"""Distributions of single images, against NumPy."""

import math

import numpy as np
import pytest

from sparsevit_plugin.report.scores import distributions
from sparsevit_plugin.results.aggregate import Conventions
from tests.results.helpers import counted, in_memory, manifest

F1 = (0.0, 0.2, 0.4, 0.9, math.nan)
SCORES = (0.1, 0.5, 0.6, 0.9, 0.95)
AUTHENTIC = (0.2, 0.3, math.nan)


@pytest.fixture
def found():
    rows = [
        counted(f"Tp/{n}", 1, 1, 1, 1, f1=f1, score=score)
        for n, (f1, score) in enumerate(zip(F1, SCORES, strict=True))
    ]
    rows += [counted(f"Au/{n}", 0, 1, 0, 3, score=score) for n, score in enumerate(AUTHENTIC)]
    other = [counted("Tp/0", 1, 1, 1, 1, score=math.nan)]
    results = in_memory((manifest("A"), "s", rows), (manifest("B"), "s", other))
    table = results.table(allow_mixed=True)
    return distributions(results, table.rows, ["s", "missing"], Conventions())


def test_quartiles_are_those_of_the_images(found):
    (one,) = found
    first = one.models[0]
    assert first.tampered.quartiles == pytest.approx(np.quantile(SCORES, (0.25, 0.5, 0.75)))
    assert (first.authentic.count, first.authentic.undefined) == (2, 1)
    assert first.authentic.quartiles[1] == pytest.approx(0.25)
    assert (first.f1.count, first.f1.undefined) == (4, 1)
    assert first.f1.quartiles[1] == pytest.approx(0.3)
    assert first.missed == 0.25


def test_charts_hold_every_image_that_has_a_figure(found):
    first, second = found[0].models
    scores, reliability, f1 = first.charts
    assert reliability.series[0].name == "scores (n=7)"
    assert sum(reliability.series[0].y) > 0
    assert "15 bins" in reliability.description
    assert [one.name for one in scores.series] == ["authentic (n=2)", "tampered (n=5)"]
    assert all(sum(one.y) == pytest.approx(1) for one in (*scores.series, *f1.series))
    # Without scores there is the distribution of F1 alone.
    assert [chart.title for chart in second.charts] == ["Pixel F1 of single images"]
    assert math.isnan(second.authentic.quartiles[1])


def test_scores_beyond_0_and_1_are_not_lost():
    rows = [counted(f"Tp/{n}", 1, 1, 1, 1, score=score) for n, score in enumerate((-3.0, 7.0))]
    results = in_memory((manifest("A"), "s", rows))
    (one,) = distributions(results, results.table().rows, ["s"], Conventions())
    series = one.models[0].charts[0].series[0]
    assert (series.x[0], series.x[-1]) == (-3, 7)
    assert sum(series.y) == pytest.approx(1)
