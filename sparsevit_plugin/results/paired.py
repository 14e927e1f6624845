"""Is a row of a table better than another? The paired test of its average, see `docs/tables.md`.

What is tested is the difference that the table shows: the mean over images, each once, of the mean
over seeds, averaged over the sets; on the images that both rows have a figure for with every seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.aggregate import Codes, Conventions, Selected, image_values
from sparsevit_plugin.results.conventions import METRICS
from sparsevit_plugin.results.images import SetImages, images_of
from sparsevit_plugin.results.rows import TableRow, meant_rows
from sparsevit_plugin.results.statistics import Effect, base_photographs, holm, paired_tests

DEFAULT_REFERENCE: Final = "SparseViT"
AUTOMATIC: Final = "auto"
"""The reference is SparseViT where the table has it, else there is none."""

RESAMPLES: Final = 9999
ALPHA: Final = 0.05
SEED: Final = 0

PHOTOGRAPH, IMAGE, MIXED = "source photograph", "image", "source photograph, else image"

COLUMNS = (
    *("metric", "row", "reference", "difference", "low", "high", "p", "p_holm", "verdict"),
    *("images", "left_out", "units", "unit", "seeds", "reference_seeds"),
)


@dataclass(frozen=True)
class Paired:
    """Every row of a table against one of them.

    Attributes:
        reference: What the others are compared with, as it was named.
        frame: One line per metric and row that could be compared, columns `COLUMNS`: `reference`,
            label of the row that it is compared with; `difference`, row - reference; `low` and
            `high`, its interval; `p` and `p_holm`, before and after Holm's correction over the
            rows; `verdict`, better, worse or "not significant"; `images` compared; `left_out`,
            those that only one of both has a figure for; `units`, how many photographs or images
            were resampled.
        resamples: Random signs that were drawn.
        alpha: Level below which a corrected p-value is significant; the interval has 1 - alpha.
        seed: Of the resampling.
    """

    reference: str
    frame: pd.DataFrame
    resamples: int = RESAMPLES
    alpha: float = ALPHA
    seed: int = SEED

    def lines(self) -> list[dict[str, Any]]:
        """Return the comparisons, columns of `frame` to values."""
        return [
            {str(name): value for name, value in line.items()}
            for line in self.frame.to_dict("records")
        ]

    def of(self, metric: str, label: str) -> dict[str, Any] | None:
        """Return one comparison, None where there is none."""
        wanted = (metric, label)
        return next((one for one in self.lines() if (one["metric"], one["row"]) == wanted), None)


def find_references(rows: Sequence[TableRow], name: str) -> dict[str, TableRow]:
    """Return the row that each row is compared with.

    Where several groups have a row of that name, a row is compared with that of its own group:
    models that were trained by one recipe with each other. A row of a group that has none is
    compared with the first.

    Args:
        rows: The table's rows.
        name: A model, a row's label or a manifest id; or `AUTOMATIC`.

    Returns:
        Row label to reference, without the references themselves.

    Raises:
        UserError: The name means no row, or several of one group.
    """
    automatic = name == AUTOMATIC
    found = [row for row in rows if row.model == DEFAULT_REFERENCE]
    if not automatic:
        found = meant_rows(rows, name)
    if not found and automatic:
        return {}
    labels = ", ".join(row.label for row in found or rows)
    if not found:
        raise UserError(f'no row "{name}" to compare with, only {labels}')
    by_group: dict[str, TableRow] = {}
    for row in found:
        if by_group.setdefault(row.group, row) is not row and not automatic:
            raise UserError(f'"{name}" means several rows: {labels}; compare with one of them')
    references = list(by_group.values())
    return {
        row.label: by_group.get(row.group, references[0])
        for row in rows
        if all(row is not reference for reference in references)
    }


def compare(
    selected: Selected,
    shown: Sequence[TableRow],
    references: Mapping[str, TableRow],
    conventions: Sequence[Conventions],
    sets: Sequence[str],
) -> pd.DataFrame:
    """Compare rows with their references, by every metric that each image has.

    Args:
        selected: The rows behind the table.
        shown: The table's rows.
        references: From `find_references`.
        conventions: One for each metric.
        sets: The sets that are averaged; a row that lacks one is not compared.

    Returns:
        As `Paired.frame`.
    """
    codes = selected.codes
    frames = [pd.DataFrame(columns=list(COLUMNS))]
    if all(name in codes.datasets for name in sets):
        images = [images_of(selected, name) for name in sets]
        units = _units(selected, images)
        for convention in conventions:
            if convention.figure.kind not in ("mean", "area"):
                continue
            member, values = image_values(selected.rows, convention)
            values[~member] = np.nan
            by_row = {row.label: _values(row, images, codes, values) for row in shown}
            pairs = [(row, references[row.label]) for row in shown if row.label in references]
            contrasts = [_contrast(by_row[a.label], by_row[b.label], units) for a, b in pairs]
            frames.append(_frame(convention.metric, pairs, contrasts))
    known = [frame for frame in frames if len(frame)]
    return pd.concat(known, ignore_index=True) if known else frames[0]


@dataclass(frozen=True)
class _Units:
    """The unit of every image: `code` one array per set, and whether it is a photograph."""

    code: list[NDArray[np.intp]]
    is_photograph: list[NDArray[np.bool_]]


def _units(selected: Selected, images: Sequence[SetImages]) -> _Units:
    """Number the source photographs over all sets: one name is one photograph everywhere.

    An image whose photograph no manifest knows is a unit of its own.
    """
    names, known = [], []
    for one in images:
        photographs, is_known = _photographs(selected, one)
        own = one.dataset + "\0" + one.names
        names.append(np.where(is_known, photographs, own))
        known.append(is_known)
    code, _ = pd.factorize(np.concatenate(names))
    ends = np.cumsum([len(part) for part in names])[:-1]
    return _Units(np.split(code, ends), known)


def _photographs(
    selected: Selected, images: SetImages
) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """Return the base photograph of each image by the first manifest that knows it."""
    found = np.full(len(images.names), None, object)
    known = np.zeros(len(images.names), bool)
    for place in images.place:
        asked = np.flatnonzero(~known & (place >= 0))
        if asked.size == 0:
            continue
        names, are_known = base_photographs(selected.photos(place[asked]))
        found[asked], known[asked] = names, are_known
    return found, known


def _values(
    row: TableRow, images: Sequence[SetImages], codes: Codes, values: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Return a row's figures, one array of shape (seeds, images) per set."""
    members = [codes.manifests.index(name) for name in row.manifest_ids]
    return [np.stack([one.values(code, values) for code in members]) for one in images]


@dataclass(frozen=True)
class _Contrast:
    """Two rows on the images that both have."""

    effect: Effect
    images: int
    left_out: int
    unit: str


def _contrast(
    a: Sequence[NDArray[np.float64]], b: Sequence[NDArray[np.float64]], units: _Units
) -> _Contrast | None:
    """Take the difference of two rows apart into units and seeds; None where a set has no image."""
    size = 1 + max((int(code.max()) for code in units.code if code.size), default=-1)
    shares, deviations, used = np.zeros(size), np.zeros(size), np.zeros(size, bool)
    seeds = [np.zeros(len(a[0])), np.zeros(len(b[0]))]
    images, either, photographs = 0, 0, 0
    for of_a, of_b, code, is_photograph in zip(a, b, units.code, units.is_photograph, strict=True):
        both = ~(np.isnan(of_a).any(0) | np.isnan(of_b).any(0))
        n = int(both.sum())
        if n == 0:
            return None
        difference = (of_a.mean(0) - of_b.mean(0))[both]
        weight = 1 / (n * len(a))
        shares += weight * np.bincount(code[both], difference, size)
        deviations += weight * np.bincount(code[both], difference - difference.mean(), size)
        used[code[both]] = True
        for means, values in zip(seeds, (of_a, of_b), strict=True):
            means += weight * values[:, both].sum(1)  # noqa: PLW2901 - adds in place
        images += n
        either += int((~np.isnan(of_a).all(0) | ~np.isnan(of_b).all(0)).sum())
        photographs += int(is_photograph[both].sum())
    errors = [
        (float(means.std(ddof=1) / np.sqrt(means.size)), means.size - 1)
        for means in seeds
        if means.size > 1
    ]
    unit = MIXED
    if photographs in (0, images):
        unit = PHOTOGRAPH if photographs else IMAGE
    effect = Effect(shares[used], deviations[used], tuple(errors))
    return _Contrast(effect, images, either - images, unit)


def _frame(
    metric: str,
    pairs: Sequence[tuple[TableRow, TableRow]],
    contrasts: Sequence[_Contrast | None],
) -> pd.DataFrame:
    made = [(*pair, one) for pair, one in zip(pairs, contrasts, strict=True) if one is not None]
    tested = paired_tests(
        [one.effect for *_, one in made], level=1 - ALPHA, resamples=RESAMPLES, seed=SEED
    )
    corrected = holm([result.p for result in tested])
    lines = [
        {
            "metric": metric,
            "row": row.label,
            "reference": reference.label,
            "difference": result.difference,
            "low": result.low,
            "high": result.high,
            "p": result.p,
            "p_holm": float(p_holm),
            "verdict": _verdict(metric, result.difference, float(p_holm)),
            "images": one.images,
            "left_out": one.left_out,
            "units": one.effect.shares.size,
            "unit": one.unit,
            "seeds": len(row.members),
            "reference_seeds": len(reference.members),
        }
        for (row, reference, one), result, p_holm in zip(made, tested, corrected, strict=True)
    ]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _verdict(metric: str, difference: float, p_holm: float) -> str:
    if not p_holm < ALPHA:
        return "not significant"
    return "better" if (difference > 0) == METRICS[metric].higher_is_better else "worse"
