"""Bands about means over images: percentile bootstrap over the images' source photographs.

A photograph is drawn with all of its images, because images made from one are not independent, and
the figure is made again from what was drawn. Where no source is known, images are drawn.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsevit_plugin.results.aggregate import Conventions, image_values, pooled_value
from sparsevit_plugin.results.statistics import base_photographs

PHOTOGRAPHS: Final = "source photographs"
IMAGES: Final = "images"
MIXED: Final = "source photographs (an image whose source is unknown is its own)"

KeyT = TypeVar("KeyT", bound=Hashable)

_COUNTS = ("tp", "fp", "fn", "tn")
_BATCH: Final = 1 << 22


@dataclass(frozen=True)
class Drawing:
    """How bands are drawn.

    Attributes:
        level: Of confidence.
        samples: Resamples.
        seed: Of the resampling.
    """

    level: float
    samples: int
    seed: int


def photograph_sums(part: pd.DataFrame, conventions: Conventions) -> pd.DataFrame:
    """Sum what a figure is made of over the images of each source photograph.

    Args:
        part: Selected rows with their names and photographs.
        conventions: For the figure.

    Returns:
        Indexed by manifest, set and photograph: `known`, whether the source is; and what is summed:
        `total` and `n` of a mean, the four counts of a pooled figure; no rows for a figure of
        image-level scores.
    """
    photographs, known = base_photographs(part["photos"])
    frame = part[["manifest_id", "dataset"]].astype(str)
    frame = frame.assign(photo=np.where(known, photographs, part["sample_name"]), known=known)
    kind = conventions.figure.kind
    if kind == "image":
        return _summed(frame[:0].assign(n=0.0))
    if kind == "pooled":
        member = np.ones(len(part), bool)
        if conventions.authentic == "tampered":
            member = part["tampered_pixels"].to_numpy() > 0
        counts = {name: np.nan_to_num(part[name].to_numpy(np.float64)) for name in _COUNTS}
        return _summed(frame.assign(**counts)[member])
    member, values = image_values(part, conventions)
    defined = member & ~np.isnan(values)
    return _summed(frame.assign(total=values, n=1.0)[defined])


def _summed(frame: pd.DataFrame) -> pd.DataFrame:
    keys = ["manifest_id", "dataset", "photo"]
    how = {name: "all" if name == "known" else "sum" for name in frame.columns if name not in keys}
    return frame.groupby(keys).agg(how)


@dataclass(frozen=True)
class Sampling:
    """What the band of one point is drawn from.

    Attributes:
        sums: What is summed, shape (photographs, sums, seeds).
        unit: What the photographs are.
    """

    sums: NDArray[np.float64]
    unit: str

    @property
    def units(self) -> int:
        """How many photographs there are."""
        return int(self.sums.shape[0])

    @classmethod
    def of(cls, cells: Iterable[pd.DataFrame | None]) -> "Sampling":
        """Gather the photographs of a model on a set, sorted by name.

        Args:
            cells: What `photograph_sums` has of each seed, one group of its manifest and set; None
                where it has nothing.
        """
        frames = [frame.droplevel([0, 1]) for frame in cells if frame is not None]
        if not frames:
            return cls(np.zeros((0, 0, 0)), "")
        known = pd.concat([frame["known"] for frame in frames])
        unit = PHOTOGRAPHS if known.all() else (MIXED if known.any() else IMAGES)
        photos = sorted(set().union(*(frame.index for frame in frames)))
        sums = [frame.drop(columns="known").reindex(photos).fillna(0.0) for frame in frames]
        return cls(np.stack([frame.to_numpy(np.float64) for frame in sums], axis=2), unit)


def draw_bands(
    samplings: Mapping[KeyT, Sampling], conventions: Conventions, drawing: Drawing
) -> dict[KeyT, tuple[float, float]]:
    """Draw the bands of some points; those with equally many photographs are drawn alike.

    Args:
        samplings: What each is drawn from.
        conventions: For the figure.
        drawing: How.

    Returns:
        Lower and upper end of each; NaN with fewer than two photographs, and for figures of
        image-level scores.
    """
    found = dict.fromkeys(samplings, (float("nan"), float("nan")))
    alike: dict[int, list[KeyT]] = {}
    for key, sampling in samplings.items():
        if sampling.units > 1:
            alike.setdefault(sampling.units, []).append(key)
    tails = [(1 - drawing.level) / 2, (1 + drawing.level) / 2]
    for units, keys in alike.items():
        flat = [samplings[key].sums.reshape(units, -1) for key in keys]
        ends = np.cumsum([columns.shape[1] for columns in flat])[:-1]
        matrix = np.concatenate(flat, axis=1)
        drawn: list[list[NDArray[np.float64]]] = [[] for _ in keys]
        for weights in _weights(units, drawing):
            for place, sums in enumerate(np.split(weights @ matrix, ends, axis=1)):
                shape = samplings[keys[place]].sums.shape[1:]
                drawn[place].append(_value(sums.reshape(-1, *shape), conventions))
        for key, parts in zip(keys, drawn, strict=True):
            values = np.concatenate(parts)
            values = values[~np.isnan(values)]  # no image of that draw has a figure
            if values.size:
                low, high = np.quantile(values, tails)
                found[key] = (float(low), float(high))
    return found


def _weights(units: int, drawing: Drawing) -> Iterator[NDArray[np.float64]]:
    """Yield blocks of (resamples, units): how often each photograph is drawn."""
    generator = np.random.default_rng(drawing.seed)
    left = drawing.samples
    while left:
        count = min(left, max(1, _BATCH // units))
        left -= count
        places = generator.integers(units, size=(count, units)) + units * np.arange(count)[:, None]
        yield np.bincount(places.ravel(), minlength=count * units).reshape(count, units) * 1.0


def _value(sums: NDArray[np.float64], conventions: Conventions) -> NDArray[np.float64]:
    """Return the figure of each resample: the mean of its seeds'.

    Args:
        sums: Shape (resamples, sums, seeds).
        conventions: For the figure.
    """
    if conventions.figure.kind == "pooled":
        values = pooled_value(conventions.figure.column, *(sums[:, i] for i in range(4)))
    else:
        total, n = sums[:, 0], sums[:, 1]
        values = np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)
    return values.mean(axis=1)
