"""Cross-dataset tables: rows are models, columns are test sets, the caption has the conventions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TextIO

import numpy as np
import pandas as pd

from sparsevit_plugin.results import describe, render
from sparsevit_plugin.results.aggregate import (
    Conventions,
    cell_figures,
    choose_sets,
    select_rows,
)
from sparsevit_plugin.results.differences import DifferenceTable, difference_table
from sparsevit_plugin.results.store import Results

__all__ = ["DifferenceTable", "Table", "build_table", "difference_table"]

AVERAGE = "average"


@dataclass(frozen=True)
class Table:
    """One metric of several models on several sets.

    Attributes:
        metric: Key of `conventions.METRICS`.
        higher_is_better: Which end is good.
        values: Full precision, NaN where missing; index: row labels; columns: as in `roles`.
        counts: Images behind each value; columns: the sets.
        undefined: Images left out because their figure is undefined; columns: the sets.
        roles: Each column of `values` to what it is: `set`, or `average` (the mean of the row's
            sets, missing when one of them is).
        caption: Every convention behind the numbers.
        notes: Row label to what a reader must know of that row.
        remarks: What a reader must know of single cells.
    """

    metric: str
    higher_is_better: bool
    values: pd.DataFrame
    counts: pd.DataFrame
    undefined: pd.DataFrame
    roles: dict[str, str]
    caption: str
    notes: dict[str, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return self.values.empty

    def footnotes(self) -> tuple[dict[str, str], list[str]]:
        """Number the notes: the marks of each row label, and the numbered lines."""
        texts = list(dict.fromkeys(note for notes in self.notes.values() for note in notes))
        marks = {
            label: "".join(f" [{place}]" for place in sorted(texts.index(n) + 1 for n in notes))
            for label, notes in self.notes.items()
        }
        return marks, [f"[{place + 1}] {text}" for place, text in enumerate(texts)]

    def lines(self) -> list[str]:
        """Return what stands below the table: caption, footnotes, remarks."""
        return [self.caption, *self.footnotes()[1], *self.remarks]

    def to_frame(self) -> pd.DataFrame:
        """Return the values at full precision."""
        return self.values.copy()

    def grid(self, digits: int = 3) -> list[list[str]]:
        """Return header and rows as text, with the number of images where a reader needs it.

        A count that all rows of a set share stands in the header, others in their cells.
        """
        marks, _ = self.footnotes()
        columns = [self._column(name, digits) for name in self.roles]
        rows = [["model", *(header for header, _ in columns)]]
        for place, label in enumerate(self.values.index):
            cells = [texts[place] for _, texts in columns]
            rows.append([f"{label}{marks.get(label, '')}", *cells])
        return rows

    def _column(self, name: str, digits: int) -> tuple[str, list[str]]:
        """Return a column's header and its cells as text."""
        values = self.values[name].tolist()
        texts = [render.number(value, digits) for value in values]
        if self.roles[name] == AVERAGE:
            return name, texts
        counts = self.counts[name].tolist()
        shown = {n for n, value in zip(counts, values, strict=True) if not np.isnan(value)}
        if len(shown) == 1:
            return f"{name} (n={shown.pop()})", texts
        return name, [
            text if text == render.MISSING else f"{text} (n={n})"
            for text, n in zip(texts, counts, strict=True)
        ]

    def to_markdown(self, digits: int = 3) -> str:
        """Return the table, its caption and its footnotes as Markdown."""
        below = "\n".join(f"{line}\n" for line in self.lines())
        return f"{render.to_markdown(self.grid(digits))}\n{below}"

    def to_csv(self, *, header: bool = True) -> str:
        """Return the table as CSV, for each set the value at full precision, n and n undefined.

        Missing values are empty. The last columns repeat the row's notes and the caption.

        Args:
            header: Whether the first line names the columns.
        """
        names = ["metric", "model"]
        for name, role in self.roles.items():
            names += [name] if role == AVERAGE else [name, f"{name} n", f"{name} undefined"]
        rows = [[*names, "notes", "caption"]] if header else []
        for label in self.values.index:
            cells = [self.metric, str(label)]
            for name, role in self.roles.items():
                value = self.values[name].loc[label]
                cells.append("" if np.isnan(value) else repr(float(value)))
                if role != AVERAGE:
                    cells += [str(part[name].loc[label]) for part in (self.counts, self.undefined)]
            notes = "; ".join([*self.notes.get(label, []), *self.remarks])
            rows.append([*cells, notes, self.caption])
        return render.to_csv(rows)

    def print(self, file: TextIO | None = None, digits: int = 3) -> None:
        """Print the table with its caption and footnotes."""
        render.print_grid(self.grid(digits), self.lines(), file)


def build_table(
    results: Results,
    metric: str = "pixel_f1",
    *,
    authentic: str = "tampered",
    score_at: str = "model",
    average: bool = True,
    models: Sequence[str] | None = None,
    sets: Sequence[str] | None = None,
    evaluator: str = "exact",
) -> Table:
    """Make a table of one metric.

    Args:
        results: From `sparsevit_plugin.results.load`.
        metric: Key of `conventions.METRICS`.
        authentic: What an authentic image counts for in a mean: `tampered` (left out), `zero`,
            `one` (1 when predicted empty).
        score_at: `model` or `image` (the photograph's own size).
        average: Whether to add the mean over the sets, where there are several.
        models: Model names or row labels, in order; None for all.
        sets: Set names, in order; None for all but hold-outs (`val`).
        evaluator: `exact`, or `benco` for rows of IMDLBenCo's evaluators.

    Returns:
        The table; empty when no row fits the conventions.

    Raises:
        UserError: An unknown name, rows that contradict each other, or a metric that the rows
            cannot give.
    """
    conventions = Conventions(metric, authentic, score_at, evaluator)
    rows = select_rows(results.rows, conventions)
    names = choose_sets(rows, sets)
    rows = rows[rows["dataset"].isin(names).to_numpy()]
    labels = describe.choose_models(describe.row_labels(results, rows), rows, models)
    rows = rows[rows["manifest_id"].isin(list(labels)).to_numpy()]
    cells = [c for c in results.cells if c.manifest_id in labels and c.dataset in names]
    describe.refuse_conflicts(cells)
    figures = cell_figures(rows, conventions)
    values = _spread(figures["value"], labels, names)
    undefined = _spread(figures["undefined"], labels, names).fillna(0).astype(int)
    roles = dict.fromkeys(names, "set")
    if average and len(names) > 1:
        roles[AVERAGE] = AVERAGE
        values = values.assign(**{AVERAGE: values.mean(axis=1, skipna=False)})
    return Table(
        metric=metric,
        higher_is_better=conventions.figure.higher_is_better,
        values=values,
        counts=_spread(figures["n"], labels, names).fillna(0).astype(int),
        undefined=undefined,
        roles=roles,
        caption=describe.caption(conventions, rows, cells, labels) + _about_average(roles),
        notes=describe.manifest_notes(cells, labels),
        remarks=_remarks(undefined),
    )


def _spread(figures: pd.Series, labels: dict[str, str], sets: Sequence[str]) -> pd.DataFrame:
    """Lay figures per cell out as models x sets."""
    wide = figures.unstack("dataset") if len(figures) else pd.DataFrame(dtype=float)
    wide.index, wide.columns = wide.index.astype(str), wide.columns.astype(str)
    wide = wide.reindex(index=list(labels), columns=list(sets))
    return wide.set_axis(list(labels.values()), axis=0).astype(float)


def _about_average(roles: dict[str, str]) -> str:
    return " Average: mean of the sets' values, each set once." if AVERAGE in roles else ""


def _remarks(undefined: pd.DataFrame) -> list[str]:
    left_out = [
        f"{label} on {name} {n}"
        for name in undefined.columns
        for label, n in undefined[name].items()
        if n
    ]
    if not left_out:
        return []
    return [f"Images left out because their figure is undefined: {', '.join(left_out)}."]
