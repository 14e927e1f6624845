"""Is one model better than another? Differences by photograph, their intervals and their tests.

Images made from one photograph are not independent, so the unit that is compared and resampled is
the source photograph.

The test of tables, `paired_tests`, has two levels. Photographs: under the hypothesis of no
difference the sign of each photograph's share of the difference is as likely plus as minus, so the
difference is compared with what random signs give (the permutation test of paired samples, exact
where there are few photographs; a p-value from random signs counts the observed ones too and is
never 0: Phipson and Smyth 2010, doi:10.2202/1544-6115.1585). Seeds: two or three of them cannot be
resampled (the variance of resampled means is too small by the factor (n - 1) / n, and no resample
lies beyond those seen), so the error of the difference that the seeds make is drawn from Student's
t distribution, scaled by its standard error, with Welch's degrees of freedom (Welch 1947,
doi:10.1093/biomet/34.1-2.28), and added to each resampled difference. The interval of the
difference is made the same way from the photographs' shares about their mean: the wild cluster
bootstrap with Rademacher weights (Cameron, Gelbach and Miller 2008, doi:10.1162/rest.90.3.414).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.aggregate import Conventions, image_values

_BATCH = 1 << 22


def source_photographs(rows: pd.DataFrame) -> NDArray[np.object_]:
    """Return each image's base photograph (scene); an image of unknown source is its own."""
    photographs, known = base_photographs(rows["photos"])
    return np.where(known, photographs, rows["sample_name"].to_numpy(object))


def base_photographs(photos: pd.Series) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """Return the first of each image's source photographs, and where there is one.

    Args:
        photos: Lists of names, in Arrow or as objects; empty or null where unknown.

    Returns:
        Names and whether they are known, each of shape (len(photos),).
    """
    kind = pa.list_(pa.string())
    if isinstance(photos.dtype, pd.ArrowDtype):
        lists = pa.Table.from_pandas(photos.to_frame("photos"), preserve_index=False)["photos"]
    else:
        lists = pa.array(photos.tolist(), kind, from_pandas=True)
    lists = lists.cast(kind)
    known = pc.fill_null(pc.greater(pc.list_value_length(lists), 0), False)
    is_known = known.to_numpy(zero_copy_only=False)
    names = np.full(len(photos), None, object)
    names[is_known] = pc.list_element(lists.filter(known), 0).to_numpy(zero_copy_only=False)
    return names, is_known


def photograph_differences(
    rows_a: pd.DataFrame,
    rows_b: pd.DataFrame,
    metric: str = "pixel_f1",
    authentic: str = "tampered",
) -> pd.DataFrame:
    """Compare two models on the images of one set that both have a figure for.

    Args:
        rows_a: The one's rows on the set, one per image.
        rows_b: The other's.
        metric: A figure that each image has: `pixel_*` or `authentic_fp_area`.
        authentic: What an authentic image counts for, see `aggregate.Conventions`.

    Returns:
        Sorted by photograph: `photo`; `n`, its images; `a` and `b`, the mean over them;
            `difference`,
        a - b.

    Raises:
        UserError: The metric is one of a whole set.
    """
    conventions = Conventions(metric, authentic)
    if conventions.figure.kind not in ("mean", "area"):
        raise UserError(f"{metric} is a figure of a whole set, not of each photograph")
    a = _defined(rows_a, conventions).assign(photo=source_photographs)
    b = _defined(rows_b, conventions)
    both = a.merge(b[["sample_name", "value"]], on="sample_name", suffixes=("_a", "_b"))
    grouped = both.groupby("photo")
    found = grouped.agg(
        n=("value_a", "size"), a=("value_a", "mean"), b=("value_b", "mean")
    ).reset_index()
    return found.assign(difference=found["a"] - found["b"])


def _defined(rows: pd.DataFrame, conventions: Conventions) -> pd.DataFrame:
    """Return name, photographs and value of the images that take part and have a value."""
    member, values = image_values(rows, conventions)
    kept = member & ~np.isnan(values)
    return rows[["sample_name", "photos"]][kept].assign(value=values[kept])


def bootstrap_interval(
    differences: Sequence[float] | NDArray[np.float64] | pd.Series,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean (Efron 1979, doi:10.1214/aos/1176344552).

    Args:
        differences: One value per photograph.
        level: Of confidence.
        samples: Resamples.
        seed: Of the resampling.

    Returns:
        The lower and upper end; NaN with fewer than two values, which say nothing of their spread.
    """
    values = np.asarray(differences, np.float64)
    if values.size < 2:  # noqa: PLR2004 - two values are the fewest that have a spread
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    at_once = max(1, _BATCH // values.size)
    means = np.concatenate(
        [
            values[generator.integers(values.size, size=(count, values.size))].mean(1)
            for count in _split(samples, at_once)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _split(total: int, at_once: int) -> list[int]:
    """Divide a count into parts that fit in memory."""
    whole, rest = divmod(total, at_once)
    return [at_once] * whole + ([rest] if rest else [])


@dataclass(frozen=True)
class Effect:
    """The difference of two models, taken apart for `paired_tests`.

    Attributes:
        shares: What each unit (photograph) adds to the difference, shape (units,); they sum to it.
        deviations: The same about the mean: how each unit moves the difference from where it is,
            shape (units,); they sum to 0.
        seed_errors: Standard error of a model's mean over its seeds, and its degrees of freedom,
            for each model with several seeds.
    """

    shares: NDArray[np.float64]
    deviations: NDArray[np.float64]
    seed_errors: tuple[tuple[float, int], ...] = ()

    @property
    def difference(self) -> float:
        """The difference."""
        return float(self.shares.sum())


@dataclass(frozen=True)
class Tested:
    """What a test found.

    Attributes:
        difference: Of the two models.
        low: Lower end of its interval; NaN with fewer than two units.
        high: Upper end.
        p: Two-sided p-value of no difference.
    """

    difference: float
    low: float
    high: float
    p: float


def paired_tests(
    effects: Sequence[Effect], *, level: float = 0.95, resamples: int = 9999, seed: int = 0
) -> list[Tested]:
    """Test differences over photographs and seeds, see the top of this module.

    One effect's result does not depend on the others that are tested with it.

    Args:
        effects: The differences.
        level: Of confidence.
        resamples: Random signs. Where all signs of an effect without seeds are no more than these,
            each is taken once and the test is exact.
        seed: Of the resampling.

    Returns:
        One result per effect, in order.
    """
    found: list[Tested | None] = [None] * len(effects)
    alike: dict[tuple[int, bool], list[int]] = {}
    for place, effect in enumerate(effects):
        few = 1 << effect.shares.size <= resamples and not effect.seed_errors
        alike.setdefault((effect.shares.size, few), []).append(place)
    for (units, exact), places in alike.items():
        columns = [effects[place].shares for place in places]
        columns += [effects[place].deviations for place in places]
        matrix = np.stack(columns, axis=1)
        blocks = _all_signs(units) if exact else _random_signs(units, resamples, seed)
        drawn = np.concatenate([signs @ matrix for signs in blocks])
        for column, place in enumerate(places):
            effect = effects[place]
            noise = _seed_noise(effect, len(drawn), seed)
            under_null = drawn[:, column] + noise
            around = drawn[:, len(places) + column] + noise
            found[place] = _tested(effect, under_null, around, level, exact=exact)
    return [result for result in found if result is not None]


def _tested(
    effect: Effect,
    under_null: NDArray[np.float64],
    around: NDArray[np.float64],
    level: float,
    *,
    exact: bool,
) -> Tested:
    # Sums in another order differ in their last digits; equal ones must count as equal.
    tolerance = 1e-12 * np.abs(effect.shares).sum()
    as_large = int((np.abs(under_null) >= abs(effect.difference) - tolerance).sum())
    seen = 0 if exact else 1
    p = (as_large + seen) / (len(under_null) + seen)
    low, high = float("nan"), float("nan")
    if effect.shares.size > 1:
        ends = np.quantile(around, [(1 - level) / 2, (1 + level) / 2])
        low, high = (effect.difference + float(end) for end in ends)
    return Tested(effect.difference, low, high, p)


def _all_signs(units: int) -> Iterator[NDArray[np.float64]]:
    bits = np.arange(1 << units)[:, None] >> np.arange(units) & 1
    yield 2.0 * bits - 1.0


def _random_signs(units: int, count: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield blocks of random signs, shape (some, units), `count` of them in all."""
    generator = np.random.default_rng(seed)
    width = -(-units // 8)
    for some in _split(count, max(1, _BATCH // (8 * max(1, width)))):
        packed = generator.integers(256, size=(some, width), dtype=np.uint8)
        yield 2.0 * np.unpackbits(packed, axis=1, count=units) - 1.0


def _seed_noise(effect: Effect, count: int, seed: int) -> NDArray[np.float64]:
    """Draw the error that the seeds make, by Welch's approximation."""
    errors = [(error**2, freedom) for error, freedom in effect.seed_errors if error > 0]
    if not errors:
        return np.zeros(count)
    variance = sum(square for square, _ in errors)
    freedom = variance**2 / sum(square**2 / degrees for square, degrees in errors)
    generator = np.random.default_rng([seed, 1])
    return np.sqrt(variance) * generator.standard_t(freedom, count)


def holm(p_values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values corrected by Holm's step-down procedure (Holm 1979, Scand. J. Statist. 6:65).

    Args:
        p_values: Of one family of tests; NaN for a test that was not made, which does not count.

    Returns:
        Corrected p-values in the same order, NaN where there was none.
    """
    raw = np.asarray(p_values, np.float64)
    corrected = np.full(raw.shape, np.nan)
    made = np.flatnonzero(~np.isnan(raw))
    in_order = made[np.argsort(raw[made], kind="stable")]
    factors = np.arange(in_order.size, 0, -1)
    corrected[in_order] = np.minimum(1.0, np.maximum.accumulate(raw[in_order] * factors))
    return corrected
