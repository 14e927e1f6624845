"""Which images stand behind the cells of a column, and where columns compare different ones."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsevit_plugin.results.aggregate import Codes, Selected
from sparsevit_plugin.results.rows import TableRow
from sparsevit_plugin.results.store import Cell

_SHORT = 8


@dataclass(frozen=True)
class SetImages:
    """The images of one set, and the result row that each manifest has for each of them.

    Attributes:
        dataset: The set's name.
        names: Paths below the set's root, shape (images,).
        place: Position of the selected row, -1 where a manifest has none; shape
            (manifests, images), manifests by their code.
    """

    dataset: str
    names: NDArray[np.object_]
    place: NDArray[np.intp]

    def values(self, code: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return one manifest's values of all images, NaN where it has none.

        Args:
            code: The manifest's.
            values: Of all selected rows, shape (rows,).
        """
        place = self.place[code]
        return np.where(place < 0, np.nan, values[place])


def images_of(selected: Selected, dataset: str) -> SetImages:
    """Gather the images of a set, which has rows."""
    codes = selected.codes
    places = np.flatnonzero(codes.dataset == codes.datasets.index(dataset))
    code, names = pd.factorize(selected.names(places))
    place = np.full((len(codes.manifests), len(names)), -1, np.intp)
    place[codes.manifest[places], code] = places
    return SetImages(dataset, np.asarray(names, dtype=object), place)


@dataclass(frozen=True)
class Departure:
    """A cell that is not about the images that its column is about.

    Attributes:
        label: Of the row.
        dataset: Of the column.
        text: How it departs.
        is_comparable: Whether it is about the column's images all the same: all of the column
            depart from the card.
        is_skipped: Whether the images that it lacks are those that its test had to skip: the set
            is the same.
    """

    label: str
    dataset: str
    text: str
    is_comparable: bool = False
    is_skipped: bool = False


def departures(
    selected: Selected,
    shown: Sequence[TableRow],
    cells: Sequence[Cell],
    expected: Mapping[str, int],
) -> tuple[list[Departure], list[str]]:
    """Find the cells whose images are not those of their column, and what else is doubtful.

    A column is about the images that most of its cells hold (of several such sets, those of the
    first row). Equal fingerprints and counts need no look at the images' names; otherwise the names
    decide.

    Args:
        selected: The rows behind the table.
        shown: The table's rows.
        cells: The cells behind them, for the sets' fingerprints.
        expected: Images that a set has by its card, where it is known.

    Returns:
        The cells, and sentences on sets whose files differ although their names agree.
    """
    codes = selected.codes
    counts = np.bincount(codes.cell, minlength=codes.cells).reshape(-1, len(codes.datasets) or 1)
    prints = _prints(cells)
    found: list[Departure] = []
    doubts: list[str] = []
    for place, dataset in enumerate(codes.datasets):
        holders = [
            (row, codes.manifests.index(name), prints.get((name, dataset), ""))
            for row in shown
            for name in row.manifest_ids
            if counts[codes.manifests.index(name), place]
        ]
        sizes = {counts[code, place] for _, code, _ in holders}
        fingerprints = {fingerprint for _, _, fingerprint in holders}
        certain = len(sizes) == 1 and len(fingerprints) == 1 and "" not in fingerprints
        if len(holders) > 1 and not certain:
            images = images_of(selected, dataset)
            other = _other_images(
                images, [(row.label, code) for row, code, _ in holders], _skipped(cells, codes)
            )
            found += other
            if not other and len(fingerprints - {""}) > 1:
                doubts.append(_other_files(dataset, [(row, text) for row, _, text in holders]))
        for row, code, _ in holders:
            size = int(counts[code, place])
            if size != expected.get(dataset, size):
                text = f"{dataset}: {_images(size)}, its card says {expected[dataset]}"
                found.append(Departure(row.label, dataset, text, is_comparable=True))
    return list(dict.fromkeys(found)), doubts


def _prints(cells: Sequence[Cell]) -> dict[tuple[str, str], str]:
    """Return a fingerprint for each manifest and set: that of copies where all cells have it."""
    key = "sizes_fingerprint"
    copied = {cell.dataset for cell in cells} - {c.dataset for c in cells if key not in c.facts}
    return {
        (cell.manifest_id, cell.dataset): str(
            cell.facts.get(key if cell.dataset in copied else "fingerprint") or ""
        )
        for cell in cells
    }


def _skipped(cells: Sequence[Cell], codes: Codes) -> dict[tuple[int, str], int]:
    """Return how many images each test had to skip: code of the manifest and set to a number."""
    return {
        (codes.manifests.index(cell.manifest_id), cell.dataset): len(
            cell.facts.get("skipped") or ()
        )
        for cell in cells
        if cell.manifest_id in codes.manifests
    }


def _other_images(
    images: SetImages,
    holders: Sequence[tuple[str, int]],
    skipped: Mapping[tuple[int, str], int],
) -> list[Departure]:
    """Find the holders whose images are not those that most hold."""
    held = {code: images.place[code] >= 0 for _, code in holders}
    often = Counter(held[code].tobytes() for _, code in holders)
    usual, code = max(holders, key=lambda holder: often[held[holder[1]].tobytes()])
    reference = held[code]
    found = []
    for label, code in holders:
        missing = int((reference & ~held[code]).sum())
        more = int((held[code] & ~reference).sum())
        if missing or more:
            words = [f"{images.dataset}: {_images(int(held[code].sum()))}"]
            words += [f"{missing} of the {int(reference.sum())} of {usual} missing"] * bool(missing)
            words += [f"{more} that {usual} does not have"] * bool(more)
            lacks = skipped.get((code, images.dataset), 0) >= missing and not more
            found.append(Departure(label, images.dataset, ", ".join(words), is_skipped=lacks))
    return found


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _other_files(dataset: str, holders: Sequence[tuple[TableRow, str]]) -> str:
    by_print: dict[str, dict[str, None]] = {}
    for row, fingerprint in holders:
        if fingerprint:
            by_print.setdefault(fingerprint[:_SHORT], {})[row.label] = None
    words = "; ".join(f"{name}: {', '.join(labels)}" for name, labels in by_print.items())
    return (
        f"{dataset}: the images' names agree, but their files' fingerprints do not ({words}): "
        "sizes or times of some differ."
    )
