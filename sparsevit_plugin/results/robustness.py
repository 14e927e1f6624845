"""Robustness curves: a figure of each model on each set, under every stored perturbation.

    >>> results = sparsevit_plugin.results.load("runs/mvss")
    >>> robustness_curves(results, metric="pixel_f1")  # one line per point, a pandas DataFrame

The value of a point is that of the cell in `benco table --perturbation`: the mean over images, each
once, and over seeds. Its band is a percentile bootstrap over source photographs, whose images are
drawn together (where no source is known, over images): what another draw of photographs would have
given. Every point of a set is drawn alike, so bands of two models move together.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results import describe
from sparsevit_plugin.results.aggregate import (
    Conventions,
    Selected,
    cell_figures,
    choose_sets,
    codes_of,
    select_rows,
)
from sparsevit_plugin.results.bands import (
    IMAGES,
    MIXED,
    Drawing,
    Sampling,
    draw_bands,
    photograph_sums,
)
from sparsevit_plugin.results.columns import protocol_columns
from sparsevit_plugin.results.conventions import METRICS, UNPERTURBED
from sparsevit_plugin.results.rows import TableRow, choose_rows, find_rows
from sparsevit_plugin.results.seeds import over_seeds
from sparsevit_plugin.results.store import Results
from sparsevit_plugin.results.terms import Terms, apart

COLUMNS: Final = (
    *("model", "group", "set", "kind", "strength", "perturbation", "metric"),
    *("mean", "low", "high", "std", "images", "undefined", "photographs", "unit", "seeds"),
)
"""Of the curves' frame; see `robustness_curves`."""

BAND: Final = "Band:"
"""Before the words that say what a band is."""

_MOST_NAMED: Final = 4


@dataclass(frozen=True)
class Kind:
    """A kind of perturbation, as a figure shows it.

    Attributes:
        title: In words.
        axis: What the strengths are, with their unit.
        numeric: Whether strengths are numbers on an axis; else they are names, in order.
        falls: Whether a smaller number is stronger, so that the axis runs from large to small.
    """

    title: str
    axis: str
    numeric: bool = True
    falls: bool = False


KINDS: Final = {
    "jpeg": Kind("JPEG compression", "JPEG quality (libjpeg's scale)", falls=True),
    "blur": Kind("Gaussian blur", "side of the Gaussian kernel (pixels)"),
    "noise": Kind("Gaussian noise", "variance of the noise (8-bit levels squared)"),
    "resize": Kind("Shrinking", "size that it was shrunk to (% of each side)", falls=True),
    "double": Kind("JPEG saved twice", "qualities of the two saves", numeric=False, falls=True),
    "social": Kind("Sent through a network", "preset of a network", numeric=False),
}


@dataclass(frozen=True)
class Curves:
    """Robustness curves.

    Attributes:
        frame: One line per point, see `robustness_curves`.
        captions: Metric to every convention behind its curves.
        plain: Metric to the same without the bands, for a table of means.
        short: Metric to the same in few words, for a figure.
        threshold: Of the rows; None where no metric has one.
        remarks: What else a reader must know.
    """

    frame: pd.DataFrame
    captions: Mapping[str, str]
    plain: Mapping[str, str]
    short: Mapping[str, str]
    threshold: float | None = None
    remarks: Sequence[str] = ()

    @property
    def kinds(self) -> list[str]:
        """Kinds of perturbation that have points, known kinds first."""
        present = [str(kind) for kind in self.frame["kind"].unique() if kind != UNPERTURBED]
        return sorted(present, key=lambda kind: list(KINDS).index(kind) if kind in KINDS else 99)

    @property
    def metrics(self) -> list[str]:
        """Metrics, in order."""
        return list(self.captions)

    def of(self, kind: str, metric: str) -> pd.DataFrame:
        """Return the points of one kind with those of the photographs as they are, in order."""
        frame = self.frame
        chosen = frame["kind"].isin([UNPERTURBED, kind]) & (frame["metric"] == metric)
        return frame[chosen]

    def to_csv(self) -> str:
        """Return the frame and the captions as CSV; missing values are empty."""
        captions = self.frame["metric"].map(dict(self.captions))
        return str(self.frame.assign(caption=captions).to_csv(index=False, lineterminator="\n"))


def robustness_curves(
    results: Results,
    metric: str | Sequence[str] = "pixel_f1",
    **conventions: Any,  # noqa: ANN401 - those of `build_curves`
) -> pd.DataFrame:
    """Return one line per model, set, perturbation and metric, at full precision.

    Args:
        results: From `sparsevit_plugin.results.load`.
        metric: One or several keys of `conventions.METRICS`.
        **conventions: As of `build_curves`.

    Returns:
        `model`, the row's label, and its `group`; `set`; `kind` and `strength` of the perturbation
        (`none` and empty for the photographs as they are) and both together as `perturbation`;
        `metric`; `mean`; `low` and `high`, the ends of the band, NaN where there is none; `std`,
        the sample standard deviation over seeds; `images` behind the mean, and those left out
        because their figure is `undefined`; `photographs` that the band is drawn from, and what
        they are (`unit`); `seeds`.

    Raises:
        UserError: See `build_curves`.
    """
    return build_curves(results, metric, **conventions).frame


def build_curves(
    results: Results,
    metric: str | Sequence[str] = "pixel_f1",
    *,
    authentic: str = "tampered",
    score_at: str = "model",
    evaluator: str = "exact",
    rows: Sequence[str] | None = None,
    sets: Sequence[str] | None = None,
    perturbations: Sequence[str] | None = None,
    protocol: str | None = None,
    allow_mixed: bool = False,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> Curves:
    """Make robustness curves from stored rows.

    Args:
        results: From `sparsevit_plugin.results.load`.
        metric: One or several keys of `conventions.METRICS`.
        authentic: What an authentic image counts for, see `aggregate.Conventions`.
        score_at: `model` or `image`.
        evaluator: `exact` or `benco`.
        rows: Model names, row labels, groups or manifest ids, in order; None for all.
        sets: Set names, in order; None for the protocol's, without one for all but hold-outs.
        perturbations: Which; None for all that are stored. The photographs as they are always
            belong to them.
        protocol: A protocol's name or file: gives the sets.
        allow_mixed: Whether rows may differ in terms that `benco table` asks rows to share, which a
            remark says then.
        level: Of the bands.
        samples: Bootstrap resamples.
        seed: Of the resampling.

    Raises:
        UserError: No row is perturbed, a name is unknown, a metric cannot be made from the rows, or
            they are of different terms.
    """
    metrics = list(dict.fromkeys([metric] if isinstance(metric, str) else metric))
    if not metrics:
        raise UserError(f"no metric: give one of {', '.join(METRICS)}")
    chosen = [Conventions(name, authentic, score_at, evaluator) for name in metrics]
    points = _Points.of(
        results, chosen, wanted=rows, sets=sets, perturbations=perturbations, protocol=protocol
    )
    terms, differing = points.terms(chosen)
    if not allow_mixed:
        describe.refuse_mixed(differing, [])
    drawing = Drawing(level, samples, seed)
    frames = [_curves_of(points, one, drawing) for one in chosen]
    frame = pd.concat(frames, ignore_index=True)
    common = points.at(terms.threshold)
    about = {one.metric: common if one.figure.at_threshold else points for one in chosen}
    return Curves(
        frame=frame,
        captions={
            one.metric: _caption(about[one.metric], one, frame, [_about_bands(one, frame, drawing)])
            for one in chosen
        },
        plain={one.metric: _caption(about[one.metric], one, frame, []) for one in chosen},
        short={
            one.metric: _short_caption(about[one.metric], one, frame, drawing) for one in chosen
        },
        threshold=terms.threshold,
        remarks=[*describe.unlike_the_rest(differing), *_remarks(points)],
    )


@dataclass(frozen=True)
class _Points:
    """The stored rows behind the curves.

    Attributes:
        results: All results.
        parts: Perturbation to its rows, the photographs as they are first.
        shown: The models.
        sets: The sets.
    """

    results: Results
    parts: Mapping[str, pd.DataFrame]
    shown: Sequence[TableRow]
    sets: Sequence[str]

    @classmethod
    def of(
        cls,
        results: Results,
        chosen: Sequence[Conventions],
        *,
        wanted: Sequence[str] | None,
        sets: Sequence[str] | None,
        perturbations: Sequence[str] | None,
        protocol: str | None,
    ) -> "_Points":
        """Select the rows."""
        stored = results.rows.reset_index(drop=True)
        texts = _choose_perturbations(stored, perturbations)
        names = [one.metric for one in chosen]
        parts = {text: _selected(stored, chosen[0], names, text) for text in texts}
        rows = pd.concat(parts.values())
        columns = protocol_columns(protocol) if protocol else None
        sets = choose_sets(rows, sets, columns.sets if columns else None)
        rows = rows[rows["dataset"].isin(sets)]
        if rows.empty:
            raise UserError(
                f"no rows by the {chosen[0].evaluator} evaluators, scored at "
                f"{chosen[0].score_at}: see --evaluators, --score-at and --sets"
            )
        shown = choose_rows(find_rows(results, rows, codes_of(rows)), wanted)
        ids = [name for row in shown for name in row.manifest_ids]
        kept = {
            text: part[part["dataset"].isin(sets) & part["manifest_id"].isin(ids)]
            for text, part in parts.items()
        }
        found = cls(results, {t: p for t, p in kept.items() if len(p)}, shown, sets)
        describe.refuse_conflicts(found.cells)
        found.refuse_lonely(stored)
        return found

    @property
    def cells(self) -> list[Any]:
        """The cells of the store behind the curves."""
        ids = {name for row in self.shown for name in row.manifest_ids}
        return [
            cell
            for cell in self.results.cells
            if cell.manifest_id in ids
            and cell.dataset in self.sets
            and cell.perturbation in self.parts
        ]

    @property
    def rows(self) -> pd.DataFrame:
        """All rows together."""
        return pd.concat(self.parts.values())

    @property
    def labels(self) -> dict[str, str]:
        """Manifest to row label."""
        return {name: row.label for row in self.shown for name in row.manifest_ids}

    def terms(self, chosen: Sequence[Conventions]) -> tuple[Terms, dict[str, list[str]]]:
        """Return the terms of most rows, and row label to those in which a row differs."""
        rows = self.rows
        selected = Selected(self.results.rows.reset_index(drop=True), rows, codes_of(rows))
        at_threshold = any(one.figure.at_threshold for one in chosen)
        return apart(selected, self.shown, chosen[0], with_threshold=at_threshold)

    def at(self, threshold: float | None) -> "_Points":
        """Return the same with the rows of a threshold alone, of which a caption can speak."""
        if threshold is None:
            return self
        parts = {
            text: part[part["threshold"].isna() | (part["threshold"] == threshold)]
            for text, part in self.parts.items()
        }
        return replace(self, parts={text: part for text, part in parts.items() if len(part)})

    def refuse_lonely(self, stored: pd.DataFrame) -> None:
        """Refuse to draw a curve of the photographs as they are alone."""
        if any(text != UNPERTURBED for text in self.parts):
            return
        kinds = {str(text).partition(":")[0] for text in stored["perturbation"].dropna().unique()}
        others = ", ".join(sorted(kinds - {UNPERTURBED}))
        if others:
            raise UserError(
                f"no rows of these models, sets and perturbations together; stored are {others}: "
                "see --ladders, --rows and --sets"
            )
        raise UserError(
            "no perturbed rows: a curve needs some. Run benco robust PROTOCOL --models ..., or "
            "benco test --perturbation jpeg:75"
        )


def _choose_perturbations(stored: pd.DataFrame, wanted: Sequence[str] | None) -> list[str]:
    """Return what is to be shown, the photographs as they are first, kinds together, rising."""
    present = [str(name) for name in stored["perturbation"].dropna().unique()]
    chosen = {text for text in present if wanted is None or text in wanted} - {UNPERTURBED}
    others = sorted(chosen, key=_rising)
    return [UNPERTURBED, *others]


def _rising(text: str) -> tuple[int, tuple[float, ...], str]:
    """Sort by kind, then from mild to strong."""
    kind, _, strength = text.partition(":")
    if kind not in KINDS:
        return len(KINDS), (), text
    numbers = [float(number) for number in re.findall(r"\d+", strength)]
    if kind == "social":
        from sparsevit_plugin.harness.ladders import networks

        presets = list(networks())
        numbers = [float(presets.index(strength) if strength in presets else len(presets))]
    sign = -1.0 if KINDS[kind].falls else 1.0
    return list(KINDS).index(kind), tuple(sign * number for number in numbers), strength


def _selected(
    stored: pd.DataFrame, conventions: Conventions, metrics: Sequence[str], perturbation: str
) -> pd.DataFrame:
    one = Conventions(
        conventions.metric,
        conventions.authentic,
        conventions.score_at,
        conventions.evaluator,
        perturbation,
    )
    return select_rows(stored, one, metrics, names=True)


# --- points --------------------------------------------------------------------------------------


def _curves_of(points: _Points, conventions: Conventions, drawing: Drawing) -> pd.DataFrame:
    """Return the points of one metric."""
    samplings: dict[tuple[str, str, str], Sampling] = {}
    lines: list[dict[str, Any]] = []
    for text, part in points.parts.items():
        codes = codes_of(part)
        figures = over_seeds(
            cell_figures(part, conventions, codes), points.shown, points.sets, average=False
        )
        sums = photograph_sums(part, conventions)
        by_cell = dict(list(sums.groupby(level=["manifest_id", "dataset"], observed=True)))
        for row in points.shown:
            for name in points.sets:
                images, undefined = (
                    figures.count(what, row.label, name) for what in ("counts", "undefined")
                )
                if not images + undefined:  # there is no such cell
                    continue
                sampling = Sampling.of([by_cell.get((i, name)) for i in row.manifest_ids])
                samplings[row.label, name, text] = sampling
                lines.append(
                    {
                        **_identity(row, name, text, conventions.metric),
                        "mean": figures.at("values", row.label, name),
                        "std": figures.at("std", row.label, name),
                        "images": images,
                        "undefined": undefined,
                        "photographs": sampling.units,
                        "unit": sampling.unit,
                        "seeds": figures.count("seeds", row.label, name),
                    }
                )
    bands = draw_bands(samplings, conventions, drawing)
    for line in lines:
        line["low"], line["high"] = bands[line["model"], line["set"], line["perturbation"]]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _identity(row: TableRow, dataset: str, text: str, metric: str) -> dict[str, Any]:
    kind, _, strength = text.partition(":")
    return {
        "model": row.label,
        "group": row.group,
        "set": dataset,
        "kind": kind,
        "strength": strength,
        "perturbation": text,
        "metric": metric,
    }


# --- words ---------------------------------------------------------------------------------------


def _caption(
    points: _Points, conventions: Conventions, frame: pd.DataFrame, bands: Sequence[str]
) -> str:
    """State every convention behind the curves of a metric."""
    sentences = [
        describe.caption([conventions], points.rows, points.cells, points.labels),
        *_seeds(points.shown),
        *bands,
        *_undefined(conventions.metric, frame),
        _ABOUT_MASKS,
    ]
    return " ".join(sentences)


_ABOUT_MASKS: Final = (
    "Photographs are perturbed before they are fitted to the model's size; no perturbation moves a "
    "pixel, and masks stay as they are."
)


def _short_caption(
    points: _Points, conventions: Conventions, frame: pd.DataFrame, drawing: Drawing
) -> str:
    """State what a figure must say of itself."""
    sentences = [
        describe.measured([conventions], points.rows),
        *_seeds(points.shown),
        _about_bands(conventions, frame, drawing),
        *_undefined(conventions.metric, frame),
    ]
    return " ".join(sentences)


def _seeds(shown: Sequence[TableRow]) -> list[str]:
    several = [row for row in shown if len(row.members) > 1]
    if not several:
        return []
    words = ", ".join(f"{row.label} {len(row.members)}" for row in several)
    return [f"Mean over seeds ({words})."]


def _undefined(metric: str, frame: pd.DataFrame) -> list[str]:
    """Name the models that have no value of a metric at all."""
    of_metric = frame[frame["metric"] == metric]
    found = of_metric.groupby("model", sort=False)["mean"].count()
    names = [str(model) for model in found.index[found == 0]]
    return [f"Undefined under every perturbation: {', '.join(names)}."] if names else []


def _about_bands(conventions: Conventions, frame: pd.DataFrame, drawing: Drawing) -> str:
    of_metric = frame[frame["metric"] == conventions.metric]
    if conventions.figure.kind == "image":
        return "No band: it is a figure of a whole set."
    if of_metric["low"].isna().all():
        return "No band: fewer than two photographs."
    by_unit: dict[str, list[str]] = {}
    for name, unit in of_metric[of_metric["unit"] != ""].groupby("set", sort=False)["unit"]:
        by_unit.setdefault(_one_unit(unit), []).append(str(name))
    one = len(by_unit) == 1
    units = "; ".join(
        _unit_words(unit) + ("" if one else f" on {', '.join(names)}")
        for unit, names in by_unit.items()
    )
    draws = f"{drawing.samples:,} draws"
    if of_metric["seeds"].max() > 1:
        draws += ", without what seeds differ by"
    return f"{BAND} {drawing.level:.0%} percentile bootstrap over {units}; {draws}."


def _one_unit(units: pd.Series) -> str:
    found = set(units)
    return str(units.iloc[0]) if len(found) == 1 else MIXED


def _unit_words(unit: str) -> str:
    return "images (their source photographs are unknown)" if unit == IMAGES else unit


def _remarks(points: _Points) -> list[str]:
    """Find points that are not about the images that most points of their set are about."""
    found: dict[str, dict[bytes, list[str]]] = {}
    rows = points.rows
    code = pd.Series(pd.factorize(rows["sample_name"])[0], index=rows.index)
    start = 0
    for text, part in points.parts.items():
        codes = code.iloc[start : start + len(part)].to_numpy()
        start += len(part)
        cells = part[["manifest_id", "dataset"]].astype(str).reset_index(drop=True)
        by_cell: Any = cells.groupby(["manifest_id", "dataset"]).indices
        for (manifest, dataset), places in by_cell.items():
            images = np.sort(codes[places]).tobytes()
            label = f"{points.labels[manifest]} under {text}"
            found.setdefault(dataset, {}).setdefault(images, []).append(label)
    return [_other_images(name, held) for name, held in found.items() if len(held) > 1]


def _other_images(dataset: str, held: Mapping[bytes, Sequence[str]]) -> str:
    usual = max(held.values(), key=len)
    others = [label for labels in held.values() if labels is not usual for label in labels]
    named = ", ".join(others[:_MOST_NAMED])
    more = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
    return f"{dataset}: other images than the rest: {named}{more}."
