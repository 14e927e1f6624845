"""Is one model better than another? Differences by photograph, and their bootstrap interval.

Images made from one photograph are not independent, so the unit that is compared and resampled is
the source
photograph: its value is the mean over its images.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.aggregate import Conventions, image_values

_BATCH = 1 << 22


def source_photographs(rows: pd.DataFrame) -> NDArray[np.object_]:
    """Return each image's base photograph (scene); an image of unknown source is its own."""
    return np.array(
        [
            photos[0] if photos is not None and photos is not pd.NA and len(photos) else name
            for photos, name in zip(rows["photos"], rows["sample_name"], strict=True)
        ],
        dtype=object,
    )


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
