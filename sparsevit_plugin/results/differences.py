"""Does a model beat its baselines? Differences per set and photograph, with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

import pandas as pd

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results import describe, render
from sparsevit_plugin.results.aggregate import Conventions, choose_sets, select_rows
from sparsevit_plugin.results.layout import number
from sparsevit_plugin.results.statistics import bootstrap_interval, photograph_differences
from sparsevit_plugin.results.store import Results


@dataclass(frozen=True)
class DifferenceCell:
    """The comparison of a model with one baseline on one set.

    Attributes:
        dataset: Name of the set.
        baseline: Row label of the baseline.
        n: Photographs compared.
        images: Images behind them, those that both models have a figure for.
        a: The model's mean over photographs.
        b: The baseline's.
        difference: a - b.
        low: Lower end of the interval of the difference; NaN with one photograph.
        high: Upper end.
    """

    dataset: str
    baseline: str
    n: int
    images: int
    a: float
    b: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class DifferenceTable:
    """A model against its baselines.

    Attributes:
        model: Row label of the model.
        cells: One per set and baseline.
        photographs: One row per set, baseline and photograph: `dataset`, `baseline`, `photo`, `n`
            (images), `a` (the model), `b` (the baseline), `difference`.
        caption: Every convention behind the numbers.
    """

    model: str
    cells: list[DifferenceCell]
    photographs: pd.DataFrame
    caption: str

    def grid(self, digits: int = 3) -> list[list[str]]:
        """Return one row per set and baseline as text."""
        rows = [["set", "against", "photographs", "images", self.model, "baseline", "difference"]]
        rows[0].append("interval")
        for cell in self.cells:
            interval = f"{_signed(cell.low, digits)} to {_signed(cell.high, digits)}"
            rows.append(
                [
                    cell.dataset,
                    cell.baseline,
                    str(cell.n),
                    str(cell.images),
                    number(cell.a, digits),
                    number(cell.b, digits),
                    _signed(cell.difference, digits),
                    interval,
                ]
            )
        return rows

    def photograph_grid(self, digits: int = 3) -> list[list[str]]:
        """Return one row per set and photograph as text: the model, and its difference to each."""
        baselines = list(dict.fromkeys(cell.baseline for cell in self.cells))
        rows = [["set", "photograph", "images", self.model, *(f"- {name}" for name in baselines)]]
        for (dataset, photo), group in self.photographs.groupby(["dataset", "photo"], sort=False):
            by_baseline = group.set_index("baseline")["difference"]
            differences = [
                _signed(float(by_baseline.get(name, float("nan"))), digits) for name in baselines
            ]
            first = group.iloc[0]
            figure = number(first["a"], digits)
            rows.append([str(dataset), str(photo), str(first["n"]), figure, *differences])
        return rows

    def to_markdown(self, digits: int = 3) -> str:
        """Return both tables and the caption as Markdown."""
        grids = (self.grid(digits), self.photograph_grid(digits))
        tables = (render.to_markdown(grid, names=2) for grid in grids)
        return "\n".join([*tables, f"{self.caption}\n"])

    def print(self, file: TextIO | None = None, digits: int = 3) -> None:
        """Print both tables and the caption."""
        render.print_grid(self.grid(digits), [], file, names=2)
        render.print_grid(self.photograph_grid(digits), [self.caption], file, names=2)


def _signed(value: float, digits: int) -> str:
    text = number(value, digits)
    return f"+{text}" if value > 0 else text


def difference_table(
    results: Results,
    model: str,
    baselines: Sequence[str],
    metric: str = "pixel_f1",
    *,
    authentic: str = "tampered",
    score_at: str = "model",
    sets: Sequence[str] | None = None,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> DifferenceTable:
    """Compare a model with baselines on every set, photograph by photograph.

    Args:
        results: From `sparsevit_plugin.results.load`.
        model: Model name, row label or manifest id; must mean one row.
        baselines: The same, for each baseline.
        metric: A figure that each image has: `pixel_*` or `authentic_fp_area`.
        authentic: What an authentic image counts for, see `aggregate.Conventions`.
        score_at: `model` or `image`.
        sets: Set names; None for all but hold-outs.
        level: Of confidence.
        samples: Bootstrap resamples.
        seed: Of the resampling.

    Returns:
        The comparison, sets in order, baselines in order within them.

    Raises:
        UserError: A name is unknown or means several rows, or a set has no image that both have.
    """
    conventions = Conventions(metric, authentic, score_at)
    rows = select_rows(results.rows, conventions, names=True)
    names = choose_sets(rows, sets)
    rows = rows[rows["dataset"].isin(names).to_numpy()]
    labels = describe.row_labels(results, rows)
    chosen = {name: _only(name, labels, rows) for name in (model, *baselines)}
    shown = {key: labels[key] for key in chosen.values()}
    cells = [
        cell
        for cell in results.cells
        if cell.manifest_id in shown
        and cell.dataset in names
        and cell.perturbation == conventions.perturbation
    ]
    describe.refuse_conflicts(cells)
    found, parts = [], []
    for name in names:
        for baseline in baselines:
            rows_a, rows_b = (_rows_of(rows, chosen[key], name) for key in (model, baseline))
            photographs = photograph_differences(rows_a, rows_b, metric, authentic)
            label = shown[chosen[baseline]]
            if photographs.empty:
                raise UserError(f"{name}: no image that {model} and {baseline} both have")
            interval = bootstrap_interval(photographs["difference"], level, samples, seed)
            found.append(_cell(name, label, photographs, interval))
            parts.append(photographs.assign(dataset=name, baseline=label))
    return DifferenceTable(
        model=shown[chosen[model]],
        cells=found,
        photographs=pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(),
        caption=describe.caption([conventions], rows, cells, shown)
        + _about_interval(rows, level, samples),
    )


def _only(name: str, labels: dict[str, str], rows: pd.DataFrame) -> str:
    """Return the one manifest that a name means."""
    found = describe.choose_models(labels, rows, [name])
    if len(found) > 1:
        raise UserError(f'"{name}" means several rows: {", ".join(found.values())}; name one')
    return next(iter(found))


def _rows_of(rows: pd.DataFrame, manifest_id: str, dataset: str) -> pd.DataFrame:
    return rows[(rows["manifest_id"] == manifest_id) & (rows["dataset"] == dataset)]


def _cell(
    dataset: str, baseline: str, photographs: pd.DataFrame, interval: tuple[float, float]
) -> DifferenceCell:
    return DifferenceCell(
        dataset=dataset,
        baseline=baseline,
        n=len(photographs),
        images=int(photographs["n"].sum()),
        a=float(photographs["a"].mean()),
        b=float(photographs["b"].mean()),
        difference=float(photographs["difference"].mean()),
        low=interval[0],
        high=interval[1],
    )


def _about_interval(rows: pd.DataFrame, level: float, samples: int) -> str:
    known = [
        photos is not None and photos is not pd.NA and len(photos) > 0 for photos in rows["photos"]
    ]
    unit = "source photographs"
    if not any(known):
        unit = "images (their source photographs are unknown)"
    elif not all(known):
        unit = "source photographs (an image whose source is unknown is its own)"
    return (
        f" Means and differences over {unit}, each the mean over its images; interval: {level:.0%} "
        f"percentile bootstrap over them, {samples} resamples."
    )
