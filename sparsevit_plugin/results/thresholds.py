"""What thresholds do to pixel F1: curves, the fixed and the best ones, and what is calibration.

    >>> study = build_thresholds(sparsevit_plugin.results.load("runs"))
    >>> study.table, study.differences, study.curves  # pandas DataFrames

Every figure is made from the histograms that tests store for each image, at the thresholds k / 256:
there it equals what a run at that threshold would give. Four ways to choose a threshold:

* fixed at 0.5;
* `validation`: the best one on the hold-out of the model's own training, one for all sets;
* `set oracle`: the best one on the test set itself, one for each set;
* `image oracle`: the best one of every image.

The oracles know the answers: they bound what any threshold could give. Two models that differ at
0.5 and not under the set oracle differ in calibration only. Intervals are percentile bootstraps
over source photographs; a set oracle is chosen anew in every resample, the validation threshold is
what it is.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results import describe
from sparsevit_plugin.results.aggregate import (
    Conventions,
    Selected,
    choose_sets,
    codes_of,
    is_validation,
    select_rows,
)
from sparsevit_plugin.results.columns import protocol_columns
from sparsevit_plugin.results.conventions import UNPERTURBED
from sparsevit_plugin.results.paired import AUTOMATIC, DEFAULT_REFERENCE, IMAGE, MIXED, PHOTOGRAPH
from sparsevit_plugin.results.rows import Member, TableRow, choose_rows, find_rows, meant_rows
from sparsevit_plugin.results.seeds import AVERAGE
from sparsevit_plugin.results.statistics import base_photographs
from sparsevit_plugin.results.store import Cell, Results, read_histograms
from sparsevit_plugin.results.terms import apart

BINS: Final = 256
HALF: Final = BINS // 2
FIXED, VALIDATION, SET_ORACLE, IMAGE_ORACLE = "fixed", "validation", "set_oracle", "image_oracle"
CHOICES: Final = (FIXED, VALIDATION, SET_ORACLE, IMAGE_ORACLE)
CALIBRATION: Final = "calibration"
"""The part of a difference at 0.5 that is gone under the set oracle: the first minus the second."""

THRESHOLDS: Final = np.arange(BINS + 1) / BINS
"""At 0 every pixel is predicted, also one of value 0."""

_WITH_THRESHOLD: Final = re.compile(r" at threshold > [\d.]+")
_WORK: Final = 1 << 22  # numbers of one block of resamples

Array: TypeAlias = NDArray[np.float64]
_Places: TypeAlias = tuple[Sequence[int] | None, Sequence[int] | None]


@dataclass(frozen=True)
class Chosen:
    """The threshold that a hold-out chose for one trained model.

    Attributes:
        place: k of the threshold k / 256.
        f1: The mean there, over the hold-out.
        images: Of the hold-out that have a figure.
        sets: Names of the hold-out.
    """

    place: int
    f1: float
    images: int
    sets: tuple[str, ...]


@dataclass(frozen=True)
class ThresholdStudy:
    """Pixel F1 against thresholds.

    Attributes:
        table: One line per model and set, and per model for the average over the sets: `model`,
            `set`, `images`, `photographs`; `fixed`, `validation`, `set_oracle`, `image_oracle`, the
            figure by each choice; `validation_threshold` and `set_oracle_threshold`, one for each
            seed; `validation_f1` and `validation_images` of the hold-out; `seeds`.
        differences: One line per model, set and choice (and `CALIBRATION`): `model`, `reference`,
            `set`, `choice`, `difference` (model - reference), `low`, `high`, `images`, `units`.
        curves: One line per model, set and threshold: `model`, `set`, `threshold`, `f1`, `low`,
            `high`, `images`.
        caption: Every convention behind the numbers.
        remarks: What else a reader must know.
        unit: What was resampled.
    """

    table: pd.DataFrame
    differences: pd.DataFrame
    curves: pd.DataFrame
    caption: str
    remarks: Sequence[str] = ()
    unit: str = PHOTOGRAPH

    @property
    def models(self) -> list[str]:
        """Row labels, in order."""
        return list(dict.fromkeys(self.table["model"]))

    @property
    def sets(self) -> list[str]:
        """Sets, in order, without the average."""
        return [name for name in dict.fromkeys(self.table["set"]) if name != AVERAGE]

    def table_csv(self) -> str:
        """Return `table` and the caption as CSV; missing values are empty."""
        return _csv(self.table.assign(caption=self.caption))

    def differences_csv(self) -> str:
        """Return `differences` as CSV."""
        return _csv(self.differences)

    def curves_csv(self) -> str:
        """Return `curves` as CSV."""
        return _csv(self.curves)

    def answers(self) -> list[str]:
        """Say in a sentence per pair what of its difference is calibration."""
        name = AVERAGE if len(self.sets) > 1 else (self.sets or [""])[0]
        lines = self.differences[self.differences["set"] == name]
        pairs = lines.groupby("model", sort=False)
        return [_answer(_records(part)) for _, part in pairs]


def build_thresholds(
    results: Results,
    *,
    authentic: str = "tampered",
    score_at: str = "model",
    rows: Sequence[str] | None = None,
    sets: Sequence[str] | None = None,
    protocol: str | None = None,
    against: str = AUTOMATIC,
    choose_on: str = "",
    allow_mixed: bool = False,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> ThresholdStudy:
    """Study thresholds on stored results.

    Args:
        results: From `sparsevit_plugin.results.load`.
        authentic: What an authentic image counts for, see `aggregate.Conventions`.
        score_at: `model` or `image`.
        rows: Model names, row labels, groups or manifest ids, in order; None for all.
        sets: Set names, in order; None for the protocol's, without one for all but hold-outs.
        protocol: A protocol's name or file: gives the sets.
        against: The model that the others are compared with; `auto` for SparseViT where it is
            there, else the first row.
        choose_on: A set of the results to choose the validation threshold on, in the place of the
            hold-out of each training; it is none of the test sets then.
        allow_mixed: Whether rows may differ in what their checkpoint was chosen on, which a remark
            says then.
        level: Of the intervals.
        samples: Bootstrap resamples.
        seed: Of the resampling.

    Raises:
        UserError: There are no such rows, rows without histograms, or rows of different terms.
    """
    conventions = Conventions("pixel_f1", authentic, score_at)
    stored = results.rows.reset_index(drop=True)
    chosen = select_rows(stored, conventions, names=True)
    columns = protocol_columns(protocol) if protocol else None
    names = _test_sets(chosen, sets, columns.sets if columns else None, choose_on)
    tested = chosen[chosen["dataset"].isin(names)]
    if tested.empty:
        raise UserError(
            f"no rows of the exact evaluators, scored at {score_at}, to choose thresholds for: see "
            "--score-at and --sets"
        )
    shown = choose_rows(find_rows(results, tested, codes_of(tested)), rows)
    names = [name for name in names if name in set(tested["dataset"].astype(str))]
    source = _Source(results, chosen, conventions)
    cells = source.cells_of([one for row in shown for one in row.manifest_ids], names)
    describe.refuse_conflicts(cells)
    selected = Selected(stored, tested, codes_of(tested))
    _, differing = apart(selected, shown, conventions, with_threshold=False)
    if not allow_mixed:
        describe.refuse_mixed(differing, [])
    thresholds = {
        member.manifest_id: source.choose(member, choose_on)
        for row in shown
        for member in row.members
    }
    units = _Units()
    found = {
        (row.label, name): figure
        for name in names
        for row in shown
        if (figure := source.figure(row, name, units)) is not None
    }
    study = _Study(shown, names, found, thresholds, units, _Drawing(level, samples, seed))
    labels = {one: row.label for row in shown for one in row.manifest_ids}
    of_table = tested[tested["manifest_id"].isin(labels)]
    caption = _WITH_THRESHOLD.sub("", describe.caption([conventions], of_table, cells, labels), 1)
    return ThresholdStudy(
        table=study.table(),
        differences=study.differences(_reference(shown, against)),
        curves=study.curves(),
        caption=f"{caption} {_explained(study, choose_on)}",
        remarks=[*study.remarks(choose_on), *describe.unlike_the_rest(differing)],
        unit=units.word,
    )


def _test_sets(
    rows: pd.DataFrame, wanted: Sequence[str] | None, named: Sequence[str] | None, choose_on: str
) -> list[str]:
    present = set(rows["dataset"].astype(str))
    if choose_on and choose_on not in present:
        choose_sets(rows, [choose_on])  # says which there are
    if choose_on and choose_on in (wanted or ()):
        raise UserError(
            f"--choose-on {choose_on}: it is one of --sets, on which it would be tested"
        )
    return [name for name in choose_sets(rows, wanted, named) if name != choose_on]


def _reference(shown: Sequence[TableRow], against: str) -> TableRow:
    """Return the row that the others are compared with.

    Raises:
        UserError: The name means no row, or several.
    """
    if against == AUTOMATIC:
        found = [row for row in shown if row.model == DEFAULT_REFERENCE]
        return (found or list(shown))[0]
    found = meant_rows(shown, against)
    labels = ", ".join(row.label for row in found or shown)
    if len(found) != 1:
        what = "means several rows" if found else "is no row"
        raise UserError(f'--against "{against}" {what}: give one of {labels}')
    return found[0]


# --- from rows and histograms to figures ---------------------------------------------------------


class _Units:
    """Numbers what is resampled: source photographs by name, over all sets."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self.known, self.unknown = 0, 0

    def number(self, dataset: str, part: pd.DataFrame) -> NDArray[np.intp]:
        """Return the unit of every image; one of unknown source is a unit of its own."""
        names, known = base_photographs(part["photos"])
        own = dataset + "\0" + part["sample_name"].to_numpy(object)
        words = np.where(known, names, own)
        self.known += int(known.sum())
        self.unknown += int((~known).sum())
        return np.array([self.codes.setdefault(word, len(self.codes)) for word in words], np.intp)

    @property
    def word(self) -> str:
        """What the units are."""
        if self.known and self.unknown:
            return MIXED
        return PHOTOGRAPH if self.known else IMAGE


@dataclass(frozen=True)
class _Figure:
    """A row of a table on a set.

    Attributes:
        names: The images that every seed has a figure for, sorted, shape (images,).
        units: Their units, shape (images,).
        values: F1 at every threshold, shape (seeds, images, 257).
    """

    names: NDArray[np.object_]
    units: NDArray[np.intp]
    values: Array

    def on(self, names: NDArray[np.object_]) -> "_Figure":
        """Return the figure on some of its images."""
        kept = np.isin(self.names, names)
        return _Figure(self.names[kept], self.units[kept], self.values[:, kept])


@dataclass(frozen=True)
class _Source:
    """Where figures are from.

    Attributes:
        results: All results.
        rows: Those by the conventions, with names and photographs.
        conventions: What an authentic image counts for, and where maps were scored.
    """

    results: Results
    rows: pd.DataFrame
    conventions: Conventions

    def cells_of(self, manifests: Sequence[str], names: Sequence[str]) -> list[Cell]:
        """Return the cells of some manifests on some sets."""
        return [
            cell
            for cell in self.results.cells
            if cell.manifest_id in manifests
            and cell.dataset in names
            and cell.perturbation == UNPERTURBED
        ]

    def figure(self, row: TableRow, dataset: str, units: _Units) -> _Figure | None:
        """Return a row's figure on a set; None where a seed has no rows there."""
        parts = []
        for member in row.members:
            cells = self.cells_of([member.manifest_id], [dataset])
            if not cells:
                return None
            parts.append(self._of_cell(cells[-1]))
        names = sorted(set.intersection(*(set(part["sample_name"]) for part, _ in parts)))
        first = parts[0][0].set_index("sample_name", drop=False).loc[names]
        values = [
            figures[pd.Index(part["sample_name"]).get_indexer(names)] for part, figures in parts
        ]
        return _Figure(np.array(names, object), units.number(dataset, first), np.stack(values))

    def _of_cell(self, cell: Cell) -> tuple[pd.DataFrame, Array]:
        """Return the images of a cell that have a figure, and F1 at every threshold."""
        own = self.rows[
            (self.rows["manifest_id"] == cell.manifest_id) & (self.rows["dataset"] == cell.dataset)
        ].reset_index(drop=True)
        read = read_histograms(cell)
        if read is None:
            raise UserError(
                f"{cell.path}: no histograms stand beside these rows, so there is no other "
                "threshold: test again with the exact evaluators"
            )
        keys, tampered, authentic = read
        place = pd.Series(np.arange(len(keys)), index=keys["sample_name"].astype(str))
        place = place[(keys["score_at"] == self.conventions.score_at).to_numpy()]
        wanted = place.reindex(own["sample_name"].astype(str)).to_numpy()
        if np.isnan(wanted.astype(np.float64)).any():
            raise UserError(f"{cell.histogram_path}: images of {cell.path} are missing: test again")
        found = wanted.astype(np.intp)
        return self._valued(own, tampered[found], authentic[found])

    def _valued(
        self, own: pd.DataFrame, tampered: NDArray[np.int64], authentic: NDArray[np.int64]
    ) -> tuple[pd.DataFrame, Array]:
        """Apply what an authentic image counts for; see `aggregate.image_values`."""
        from sparsevit_plugin.harness.metrics import f1_at_edges  # imports torch

        values = f1_at_edges(tampered, authentic)
        is_tampered = own["tampered_pixels"].to_numpy() > 0
        is_authentic = ~is_tampered & (own["label"].to_numpy() != 1)
        if self.conventions.authentic == "tampered":
            return own[is_tampered], values[is_tampered]
        stand_in = np.zeros_like(values)
        if self.conventions.authentic == "one":
            pixels = authentic.sum(1, keepdims=True)
            above = pixels - np.concatenate([0 * pixels, np.cumsum(authentic, 1)], axis=1)
            stand_in = (above == 0).astype(np.float64)
        values[is_authentic] = stand_in[is_authentic]
        defined = is_tampered | is_authentic
        return own[defined], values[defined]

    def choose(self, member: Member, choose_on: str) -> Chosen | None:
        """Choose a trained model's threshold on its hold-out; None where there is none."""
        cells = self._validation(member, choose_on)
        parts = [values for _, values in map(self._of_cell, cells)]
        parts = [values for values in parts if len(values)]
        if not parts:
            return None
        mean = np.concatenate(parts).mean(0)
        place = best_place(mean)
        sets = tuple(cell.dataset for cell in cells)
        return Chosen(place, float(mean[place]), sum(map(len, parts)), sets)

    def _validation(self, member: Member, choose_on: str) -> list[Cell]:
        """Return the cells of a model's hold-out: its own, else those of the same weights."""
        found: dict[str, Cell] = {}
        for cell in self.results.cells:
            wanted = cell.dataset == choose_on if choose_on else is_validation(cell.dataset)
            if wanted and cell.perturbation == UNPERTURBED and _same(cell, member):
                own = cell.manifest_id == member.manifest_id
                if own or cell.dataset not in found:
                    found[cell.dataset] = cell
        return list(found.values())


def _same(cell: Cell, member: Member) -> bool:
    """Say whether a cell is of the model, or of the same weights, fed alike."""
    if cell.manifest_id == member.manifest_id:
        return True
    ours, theirs = (
        (one.get("checkpoint") or {}).get("sha256") for one in (member.manifest, cell.manifest)
    )
    alike = all(cell.manifest.get(key) == member.manifest.get(key) for key in ("fit", "image_size"))
    return bool(ours) and ours == theirs and alike


def best_place(mean: Array) -> int:
    """Return k of the threshold k / 256 with the largest mean; of several the nearest to 0.5."""
    best = np.flatnonzero(mean >= np.max(mean) - 1e-12)
    return int(best[np.argmin(np.abs(best - HALF))])


# --- figures to tables ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Drawing:
    level: float
    samples: int
    seed: int

    @property
    def tails(self) -> list[float]:
        return [(1 - self.level) / 2, (1 + self.level) / 2]

    def weights(self, units: int) -> Iterator[Array]:
        """Yield blocks of (resamples, units): how often each unit is drawn."""
        generator = np.random.default_rng(self.seed)
        left, most = self.samples, max(1, _WORK // max(units, BINS))
        while left:
            count = min(left, most)
            left -= count
            places = generator.integers(units, size=(count, units))
            places += units * np.arange(count)[:, None]
            flat = np.bincount(places.ravel(), minlength=count * units)
            yield flat.reshape(count, units).astype(np.float64)

    def interval(self, drawn: Array) -> tuple[float, float]:
        """Return the ends; NaN where there are none."""
        defined = drawn[~np.isnan(drawn)]
        if not defined.size:
            return float("nan"), float("nan")
        low, high = np.quantile(defined, self.tails)
        return float(low), float(high)


@dataclass(frozen=True)
class _Sums:
    """A figure summed over the images of each unit.

    Attributes:
        units: Codes of the units, shape (units,).
        curves: Shape (seeds, units, 257).
        best: Sums of each image's own best, shape (seeds, units).
        counts: Images, shape (units,).
    """

    units: NDArray[np.intp]
    curves: Array
    best: Array
    counts: Array

    @classmethod
    def of(cls, figure: _Figure) -> "_Sums":
        units, code = np.unique(figure.units, return_inverse=True)
        seeds, _, width = figure.values.shape
        curves = np.zeros((seeds, units.size, width))
        best = np.zeros((seeds, units.size))
        for seed in range(seeds):
            np.add.at(curves[seed], code, figure.values[seed])
            np.add.at(best[seed], code, figure.values[seed].max(1))
        return cls(units, curves, best, np.bincount(code).astype(np.float64))

    def means(self, weights: Array, places: Sequence[int] | None) -> dict[str, Array]:
        """Return the figure by every choice, for each of some weightings of the units.

        Args:
            weights: Of these units, shape (weightings, units).
            places: The validation threshold of each seed; None where there is none.
        """
        with np.errstate(invalid="ignore"):
            total = weights @ self.counts
            curves = np.stack([weights @ one for one in self.curves]) / total[:, None]
            best = np.stack([weights @ one for one in self.best]) / total
        found = {
            FIXED: curves[:, :, HALF].mean(0),
            SET_ORACLE: curves.max(2).mean(0),
            IMAGE_ORACLE: best.mean(0),
            VALIDATION: np.full(len(weights), np.nan),
        }
        if places is not None:
            found[VALIDATION] = np.mean([c[:, k] for c, k in zip(curves, places, strict=True)], 0)
        return found


@dataclass(frozen=True)
class _Study:
    shown: Sequence[TableRow]
    sets: Sequence[str]
    found: Mapping[tuple[str, str], _Figure]
    thresholds: Mapping[str, Chosen | None]
    units: _Units
    drawing: _Drawing

    def chosen(self, row: TableRow) -> list[Chosen] | None:
        """Return the threshold of every seed of a row; None where one has none."""
        found = [self.thresholds[member.manifest_id] for member in row.members]
        known = [one for one in found if one is not None]
        return known if len(known) == len(found) else None

    def places(self, row: TableRow) -> list[int] | None:
        """Return the same as numbers k."""
        chosen = self.chosen(row)
        return None if chosen is None else [one.place for one in chosen]

    def table(self) -> pd.DataFrame:
        """See `ThresholdStudy.table`."""
        lines: list[dict[str, Any]] = []
        for row in self.shown:
            of_row = [
                self._line(row, name) for name in self.sets if (row.label, name) in self.found
            ]
            lines += of_row
            if len(of_row) == len(self.sets) > 1:
                means = {name: float(np.mean([one[name] for one in of_row])) for name in CHOICES}
                same = {"validation_threshold", "validation_f1", "validation_images", "seeds"}
                lines.append(
                    {
                        **{name: of_row[0][name] for name in same},
                        **means,
                        "model": row.label,
                        "set": AVERAGE,
                        "images": sum(one["images"] for one in of_row),
                    }
                )
        order = [
            *("model", "set", "images", "photographs", *CHOICES),
            *("validation_threshold", "set_oracle_threshold"),
            *("validation_f1", "validation_images", "seeds"),
        ]
        return pd.DataFrame(lines, columns=order)

    def _line(self, row: TableRow, name: str) -> dict[str, Any]:
        figure, chosen = self.found[row.label, name], self.chosen(row)
        sums = _Sums.of(figure)
        once = np.ones((1, sums.units.size))
        means = {k: float(v[0]) for k, v in sums.means(once, self.places(row)).items()}
        oracles = [best_place(one) for one in figure.values.mean(1)]
        return {
            "model": row.label,
            "set": name,
            "images": len(figure.names),
            "photographs": sums.units.size,
            **means,
            "validation_threshold": _texts([one.place for one in chosen or ()]),
            "set_oracle_threshold": _texts(oracles),
            "validation_f1": float(np.mean([one.f1 for one in chosen])) if chosen else np.nan,
            "validation_images": min((one.images for one in chosen or ()), default=0),
            "seeds": len(row.members),
        }

    def curves(self) -> pd.DataFrame:
        """See `ThresholdStudy.curves`."""
        frames = []
        for (label, name), figure in self.found.items():
            sums = _Sums.of(figure)
            curve = sums.curves.mean(0)
            low, high = np.full((2, BINS + 1), np.nan)
            if sums.units.size > 1:
                drawn = [
                    w @ curve / (w @ sums.counts)[:, None]
                    for w in self.drawing.weights(sums.units.size)
                ]
                low, high = np.quantile(np.concatenate(drawn), self.drawing.tails, axis=0)
            mean = curve.sum(0) / sums.counts.sum()
            columns = {"model": label, "set": name, "threshold": THRESHOLDS, "f1": mean}
            frames.append(
                pd.DataFrame({**columns, "low": low, "high": high, "images": len(figure.names)})
            )
        return pd.concat(frames, ignore_index=True)

    def differences(self, reference: TableRow) -> pd.DataFrame:
        """See `ThresholdStudy.differences`."""
        lines = [
            line
            for row in self.shown
            if row is not reference
            for line in self._compared(row, reference)
        ]
        order = ("model", "reference", "set", "choice", "difference", "low", "high")
        return pd.DataFrame(lines, columns=[*order, "images", "units"])

    def _compared(self, row: TableRow, reference: TableRow) -> list[dict[str, Any]]:
        pairs: dict[str, tuple[_Sums, _Sums]] = {}
        for name in self.sets:
            a, b = (self.found.get((one.label, name)) for one in (row, reference))
            if a is None or b is None:
                continue
            common = np.intersect1d(a.names, b.names)
            if common.size:
                pairs[name] = _summed(a.on(common), b.on(common))
        if not pairs:
            return []
        places = self.places(row), self.places(reference)
        once = {name: np.ones((1, a.units.size)) for name, (a, _) in pairs.items()}
        observed = _differences(pairs, places, once, self.sets)
        drawn = self._drawn(pairs, places)
        images = {name: int(a.counts.sum()) for name, (a, _) in pairs.items()}
        units = {name: a.units.size for name, (a, _) in pairs.items()}
        images[AVERAGE] = sum(images.values())
        units[AVERAGE] = np.unique(np.concatenate([a.units for a, _ in pairs.values()])).size
        lines = []
        for (name, choice), value in observed.items():
            enough = units[name] > 1
            low, high = self.drawing.interval(drawn[name, choice]) if enough else (np.nan, np.nan)
            lines.append(
                {
                    "model": row.label,
                    "reference": reference.label,
                    "set": name,
                    "choice": choice,
                    "difference": float(value[0]),
                    "low": low,
                    "high": high,
                    "images": images[name],
                    "units": units[name],
                }
            )
        return lines

    def _drawn(
        self, pairs: Mapping[str, tuple[_Sums, _Sums]], places: _Places
    ) -> dict[tuple[str, str], Array]:
        """Return the differences in every resample.

        A set's are over its own units, as if it were the only one. The average's are over all
        units at once, since one photograph may be behind images of several sets; it is NaN where
        a resample has no unit of a set.
        """
        found: dict[tuple[str, str], Array] = {}
        for name, pair in pairs.items():
            found |= self._joined(
                _differences({name: pair}, places, {name: weights}, [name])
                for weights in self.drawing.weights(pair[0].units.size)
            )
        if len(pairs) == len(self.sets) > 1:
            every = np.unique(np.concatenate([a.units for a, _ in pairs.values()]))
            columns = {name: np.searchsorted(every, a.units) for name, (a, _) in pairs.items()}
            of_all = self._joined(
                _differences(
                    pairs, places, {name: w[:, own] for name, own in columns.items()}, self.sets
                )
                for w in self.drawing.weights(every.size)
            )
            found |= {key: values for key, values in of_all.items() if key[0] == AVERAGE}
        return found

    @staticmethod
    def _joined(
        blocks: Iterable[dict[tuple[str, str], Array]],
    ) -> dict[tuple[str, str], Array]:
        several = list(blocks)
        return {key: np.concatenate([block[key] for block in several]) for key in several[0]}

    def remarks(self, choose_on: str) -> list[str]:
        """Say which rows have no validation threshold."""
        without = [row.label for row in self.shown if self.chosen(row) is None]
        if not without:
            return []
        how = (
            f"no rows on {choose_on}"
            if choose_on
            else "no rows of a hold-out of the training (train with --select val, or name a set by "
            "--choose-on)"
        )
        return [f"No validation threshold of {', '.join(without)}: {how}."]


def _summed(a: _Figure, b: _Figure) -> tuple[_Sums, _Sums]:
    """Sum two rows' figures of the same images over the same units: photographs if either knows."""
    units = min((a.units, b.units), key=lambda one: np.unique(one).size)
    return _Sums.of(replace(a, units=units)), _Sums.of(replace(b, units=units))


def _differences(
    pairs: Mapping[str, tuple[_Sums, _Sums]],
    places: _Places,
    weights: Mapping[str, Array],
    sets: Sequence[str],
) -> dict[tuple[str, str], Array]:
    """Return the differences by set and choice, and their averages, for some weightings.

    The weights are those of each set's units, by set.
    """
    found: dict[tuple[str, str], Array] = {}
    for name, (a, b) in pairs.items():
        of_a, of_b = a.means(weights[name], places[0]), b.means(weights[name], places[1])
        for choice in CHOICES:
            found[name, choice] = of_a[choice] - of_b[choice]
        found[name, CALIBRATION] = found[name, FIXED] - found[name, SET_ORACLE]
    if len(pairs) == len(sets) > 1:
        for choice in (*CHOICES, CALIBRATION):
            found[AVERAGE, choice] = np.mean([found[name, choice] for name in sets], axis=0)
    return found


# --- words ---------------------------------------------------------------------------------------


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in one.items()} for one in frame.to_dict("records")]


def _csv(frame: pd.DataFrame) -> str:
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _texts(places: Sequence[int]) -> str:
    """Return thresholds as text, one for each seed."""
    return " ".join(str(place / BINS) for place in places)


def _explained(study: _Study, choose_on: str) -> str:
    where = choose_on or "the hold-out of the model's own training data"
    drawing = study.drawing
    seeds = any(len(row.members) > 1 for row in study.shown)
    return (
        "Thresholds k/256, at which figures from the stored histograms are exact (at 0 every pixel "
        f"is predicted). Validation: the threshold with the highest mean on {where}, chosen there "
        "alone and the same for all sets. Set oracle: the best threshold of the test set itself; "
        "image oracle: of each image, among the same thresholds; both know the answers. "
        + ("Seeds: every training has its own thresholds; figures are means over seeds. " * seeds)
        + f"Differences: model - reference on the images that both have; {drawing.level:.0%} "
        f"percentile bootstrap over {study.units.word}s ({drawing.samples} resamples, generator "
        f"seed {drawing.seed}), set oracles chosen anew in each resample, validation thresholds "
        "as they are. Calibration: the difference at 0.5 less that under the set oracle."
    )


def _answer(lines: Sequence[Mapping[str, Any]]) -> str:
    """Say in a sentence what of a difference is calibration.

    Args:
        lines: Of `ThresholdStudy.differences`, one for each choice.
    """
    by_choice = {str(line["choice"]): line for line in lines}
    fixed, oracle, calibration = (
        float(by_choice[choice]["difference"]) for choice in (FIXED, SET_ORACLE, CALIBRATION)
    )
    at_half, at_best, part = (
        _words(by_choice[choice]) for choice in (FIXED, SET_ORACLE, CALIBRATION)
    )
    start = (
        f"{lines[0]['model']} - {lines[0]['reference']}: {at_half} at 0.5, {at_best} at each set's "
        f"best threshold, so {part} is calibration"
    )
    if not _is_shown(by_choice[FIXED]):
        return f"{start}; at 0.5 no difference is shown."
    if not _is_shown(by_choice[SET_ORACLE]):
        return f"{start}; of the difference at 0.5 none is shown to remain."
    if fixed * oracle < 0:
        return f"{start}; with the best thresholds the other model is ahead."
    share = 100 * calibration / fixed
    if share <= 0:
        return f"{start}; the difference at 0.5 is no larger than that: none of it is calibration."
    return f"{start}: {share:.0f} % of the difference at 0.5."


def _words(line: Mapping[str, Any]) -> str:
    return f"{line['difference']:+.3f} ({line['low']:+.3f} to {line['high']:+.3f})"


def _is_shown(line: Mapping[str, Any]) -> bool:
    """Say whether an interval leaves 0 out."""
    return bool(line["low"] > 0 or line["high"] < 0)
