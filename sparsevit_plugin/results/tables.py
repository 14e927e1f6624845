"""Cross-dataset tables: rows are models, columns are test sets, the caption has the conventions.

    >>> table = sparsevit_plugin.results.load("runs").table(["pixel_f1", "pixel_auc"])
    >>> table.to_frame()  # rows x (set, metric), full precision
    >>> table.long()  # one line per row, set and metric
    >>> table.to_latex()

How to read and to cite one is in `docs/tables.md`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TextIO

import pandas as pd

from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.results import arrange, describe, html, latex, render
from sparsevit_plugin.results.aggregate import (
    Conventions,
    Selected,
    choose_sets,
    codes_of,
    mixed_figures,
    rows_of_other_terms,
    select_rows,
)
from sparsevit_plugin.results.columns import ProtocolColumns, protocol_columns
from sparsevit_plugin.results.conventions import CELLS, METRICS, UNPERTURBED
from sparsevit_plugin.results.differences import DifferenceTable, difference_table
from sparsevit_plugin.results.images import Departure, departures
from sparsevit_plugin.results.layout import Layout
from sparsevit_plugin.results.paired import (
    AUTOMATIC,
    DEFAULT_REFERENCE,
    Paired,
    compare,
    find_references,
)
from sparsevit_plugin.results.published import Published, load_published
from sparsevit_plugin.results.rows import TableRow, choose_rows, find_rows
from sparsevit_plugin.results.seeds import AVERAGE, Figures, over_seeds
from sparsevit_plugin.results.store import Cell, Results
from sparsevit_plugin.results.terms import apart, row_facts

__all__ = ["DifferenceTable", "Table", "build_table", "difference_table"]


@dataclass(frozen=True)
class Table:
    """Some metrics of several models on several sets.

    Attributes:
        conventions: One for each metric; they differ in nothing else.
        rows: What the rows are.
        sets: The columns.
        figures: Metric to its figures: values, standard deviations, counts.
        caption: Every convention behind the numbers.
        notes: Row label to what a reader must know of that row.
        marks: Row label and set to what a reader must know of that cell.
        incomparable: Row labels and sets whose images are not those of their column, or whose
            terms are not the table's; they are not ranked, nor is the average of their row.
        apart: Row label to the terms in which the row differs from the table; such rows are there
            only where mixed terms were allowed, and are not tested.
        remarks: What else a reader must know.
        cells: How several metrics are shown: `columns` or `joined`.
        paired: The paired test; None without one.
        published: The block of published rows; None without one.
        threshold: Of the rows; None where no metric has one.
        protocol: What the protocol says about the columns; None without one.
        show_complexity: Whether parameters and MACs are columns, where a row knows them.
    """

    conventions: tuple[Conventions, ...]
    rows: tuple[TableRow, ...]
    sets: tuple[str, ...]
    figures: Mapping[str, Figures]
    caption: str
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    marks: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)
    incomparable: frozenset[tuple[str, str]] = frozenset()
    apart: Mapping[str, Sequence[str]] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    cells: str = "columns"
    paired: Paired | None = None
    published: Published | None = None
    threshold: float | None = None
    protocol: ProtocolColumns | None = None
    show_complexity: bool = True

    @property
    def metrics(self) -> tuple[str, ...]:
        """Keys of `conventions.METRICS`, in order."""
        return tuple(self.figures)

    @property
    def metric(self) -> str:
        """The first metric."""
        return self.metrics[0]

    @property
    def higher_is_better(self) -> bool:
        """Which end of the first metric is good."""
        return METRICS[self.metric].higher_is_better

    @property
    def roles(self) -> dict[str, str]:
        """Each column of figures to what it is: `set`, or `average` (the mean of the sets)."""
        columns = self.figures[self.metric].values.columns
        return {name: AVERAGE if name not in self.sets else "set" for name in columns}

    @property
    def values(self) -> pd.DataFrame:
        """Means over seeds at full precision, NaN where missing.

        Index: row labels. Columns: sets and the average; with several metrics (set, metric).
        """
        return self._frame("values")

    @property
    def std(self) -> pd.DataFrame:
        """Sample standard deviations over seeds, NaN for fewer than two; shaped as `values`."""
        return self._frame("std")

    @property
    def seeds(self) -> pd.DataFrame:
        """Seeds behind each value; shaped as `values`."""
        return self._frame("seeds")

    @property
    def counts(self) -> pd.DataFrame:
        """Images behind each value, the fewest of its seeds; columns: the sets."""
        return self._frame("counts")

    @property
    def undefined(self) -> pd.DataFrame:
        """Images left out because their figure is undefined, over all seeds; columns: the sets."""
        return self._frame("undefined")

    def _frame(self, what: str) -> pd.DataFrame:
        frames = {name: getattr(figures, what) for name, figures in self.figures.items()}
        if len(frames) == 1:
            return frames[self.metric]
        wide = pd.concat(frames, axis=1, names=["metric", "set"]).swaplevel(axis=1)
        order = [(name, metric) for name in frames[self.metric].columns for metric in frames]
        return wide[order]

    @property
    def complexity(self) -> pd.DataFrame:
        """Columns `parameters` and `macs` of each row, NaN where unknown."""
        found = {
            row.label: [row.complexity.get(name) for name in ("parameters", "macs")]
            for row in self.rows
        }
        frame = pd.DataFrame.from_dict(found, orient="index", columns=["parameters", "macs"])
        return frame.astype(float)

    @property
    def has_complexity(self) -> bool:
        """Whether parameters and MACs are shown."""
        return self.show_complexity and any(row.complexity for row in self.rows)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.rows or not self.sets

    def to_frame(self) -> pd.DataFrame:
        """Return the values at full precision; as `values`, and the caller's own."""
        return self.values.copy()

    def long(self) -> pd.DataFrame:
        """Return one line per row, set and metric, at full precision.

        Columns: `kind`, measured or published; `group`, `row`, `model`, `metric`; `set`, its name
        or "average"; `role`; `value`, `std`, `seeds`, `n`, `undefined`; `reference`, `difference`,
        `low`, `high`, `p`, `p_holm`, `verdict`, of the paired test, in the lines of what it is of;
        `parameters`, `macs`; `authentic`, `score_at`, `evaluator`, `perturbation`, `threshold`;
        `source`, of a published number; `notes`.
        """
        return arrange.to_long(self)

    def layout(self, digits: int = 3) -> Layout:
        """Return the table as every format shows it, figures rounded to `digits`."""
        return arrange.lay_out(self, digits)

    def lines(self) -> list[str]:
        """Return what stands below the table: caption, footnotes, remarks."""
        return self.layout().lines()

    def grid(self, digits: int = 3) -> list[list[str]]:
        """Return head and rows as text, with the number of images where a reader needs it.

        A count that all rows of a column share stands in its head, others in their cells.
        """
        return render.grid(self.layout(digits))

    def to_markdown(self, digits: int = 3) -> str:
        """Return the table, its caption and its footnotes as Markdown."""
        return render.layout_to_markdown(self.layout(digits))

    def to_html(self, digits: int = 3) -> str:
        """Return a self-contained page: sortable columns, light and dark, nothing to download."""
        return html.to_html(self.layout(digits), self._title())

    def to_latex(self, digits: int = 3, *, standalone: bool = False) -> str:
        r"""Return a `table` environment; the document needs `\\usepackage{booktabs}`.

        Args:
            digits: After the point.
            standalone: Whether to return a whole document that compiles by itself.
        """
        label = self.protocol.name if self.protocol else self.metric
        return latex.to_latex(self.layout(digits), label, standalone=standalone)

    def to_csv(self, *, header: bool = True) -> str:
        """Return `long()` and the caption as CSV; missing values are empty.

        Args:
            header: Whether the first line names the columns.
        """
        frame = self.long().assign(caption=self.caption)
        return str(frame.to_csv(index=False, header=header, lineterminator="\n"))

    def print(self, file: TextIO | None = None, digits: int = 3) -> None:
        """Print the table with its caption and footnotes."""
        render.print_layout(self.layout(digits), file)

    def _title(self) -> str:
        return self.protocol.title if self.protocol else self.caption.partition(":")[0]


def build_table(
    results: Results,
    metric: str | Sequence[str] = "pixel_f1",
    *,
    authentic: str = "tampered",
    score_at: str = "model",
    evaluator: str = "exact",
    perturbation: str = UNPERTURBED,
    rows: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    sets: Sequence[str] | None = None,
    average: bool = True,
    protocol: str | None = None,
    published: bool = False,
    paired: str | None = None,
    complexity: bool = True,
    cells: str = "columns",
    allow_mixed: bool = False,
) -> Table:
    """Make a table.

    Args:
        results: From `sparsevit_plugin.results.load`.
        metric: One or several keys of `conventions.METRICS`.
        authentic: What an authentic image counts for in a mean: `tampered` (left out), `zero`,
            `one` (1 when predicted empty).
        score_at: `model` or `image` (the photograph's own size).
        evaluator: `exact`, or `benco` for rows of IMDLBenCo's evaluators.
        perturbation: What was done to the photographs, as `jpeg:75`; `none` for nothing.
        rows: Model names, row labels, groups or manifest ids, in order; None for all.
        models: Another name of `rows`.
        sets: Set names, in order; None for the protocol's, without one for all but hold-outs.
        average: Whether to add the mean over the sets, where there are several.
        protocol: A protocol's name: gives the columns, the images that each set should have, and
            the published block.
        published: Whether to show the protocol's published rows, for the metric that they report.
        paired: The model that the others are compared with by a paired test, those of a group with
            that of the group where there is one; `auto` for SparseViT where the table has it; None
            for no test.
        complexity: Whether to show parameters and MACs, where a row knows them.
        cells: Several metrics as `columns` below each set, or `joined` as `F1 / AUC`.
        allow_mixed: Whether rows may differ in evaluators, size of scoring, threshold, what their
            checkpoint was chosen on, or the images of a set; their cells are marked then, and
            neither ranked nor tested.

    Returns:
        The table; empty when no row fits the conventions.

    Raises:
        UserError: An unknown name, rows that contradict each other, a metric that the rows cannot
            give, or rows of different terms.
    """
    if cells not in CELLS:
        raise UserError(f'cells "{cells}" is not one of {", ".join(CELLS)}')
    if rows is not None and models is not None:
        raise UserError("rows and models mean the same: give one of them")
    metrics = list(dict.fromkeys([metric] if isinstance(metric, str) else metric))
    if not metrics:
        raise UserError(f"no metric: give one of {', '.join(METRICS)}")
    chosen = [Conventions(name, authentic, score_at, evaluator, perturbation) for name in metrics]
    columns = protocol_columns(protocol) if protocol else None
    card = _published_card(columns) if published else None
    selected, shown, names, left_out = _select(
        results,
        chosen,
        columns.sets if columns else None,
        (rows if rows is not None else models, sets),
        allow_mixed=allow_mixed,
    )
    ids = {name for row in shown for name in row.manifest_ids}
    used = [
        cell
        for cell in results.cells
        if cell.manifest_id in ids and cell.dataset in names and cell.perturbation == perturbation
    ]
    describe.refuse_conflicts(used)
    shared, differing = apart(
        selected, shown, chosen[0], with_threshold=any(one.figure.at_threshold for one in chosen)
    )
    expected = columns.expected if columns else {}
    departed, doubts = departures(selected, shown, used, expected)
    if not allow_mixed:
        describe.refuse_mixed(differing, departed)
    figures = {
        one.metric: over_seeds(
            mixed_figures(selected, one), shown, names, average=average and len(names) > 1
        )
        for one in chosen
    }
    table = Table(
        conventions=tuple(chosen),
        rows=tuple(shown),
        sets=tuple(names),
        figures=figures,
        caption="",
        cells=cells if len(metrics) > 1 else "columns",
        apart=differing,
        threshold=shared.threshold,
        protocol=columns,
        show_complexity=complexity,
        remarks=[*left_out, *doubts],
    )
    return _explained(_compared(table, selected, paired), selected, used, card, departed)


def _select(
    results: Results,
    chosen: Sequence[Conventions],
    named: Sequence[str] | None,
    wanted: tuple[Sequence[str] | None, Sequence[str] | None],
    *,
    allow_mixed: bool,
) -> tuple[Selected, list[TableRow], list[str], list[str]]:
    """Return the rows of results behind a table, its rows, its sets, and what was left out.

    Args:
        results: All.
        chosen: One for each metric.
        named: The protocol's sets; None without one.
        wanted: The rows and the sets that were asked for; None for all.
        allow_mixed: Whether rows of other evaluators or sizes of scoring take part.
    """
    wanted_rows, wanted_sets = wanted
    stored = results.rows.reset_index(drop=True)
    _refuse_unknown_perturbation(stored, chosen[0].perturbation)
    metrics = [one.metric for one in chosen]
    rows = select_rows(stored, chosen[0], metrics)
    others = rows_of_other_terms(stored, rows, chosen[0], metrics)
    if allow_mixed and others:
        rows = pd.concat([rows, *others.values()]).sort_index()
    names = choose_sets(rows, wanted_sets, named)
    left_out = [] if allow_mixed else describe.left_out(others, names, wanted_rows)
    rows = _kept(rows, "dataset", names)
    shown = choose_rows(find_rows(results, rows, codes_of(rows)), wanted_rows)
    rows = _kept(rows, "manifest_id", [name for row in shown for name in row.manifest_ids])
    return Selected(stored, rows, codes_of(rows)), shown, names, left_out


def _kept(rows: pd.DataFrame, column: str, names: Sequence[str]) -> pd.DataFrame:
    """Return the rows with one of some names; the same object when that is all."""
    kept = rows[column].isin(names).to_numpy()
    return rows if kept.all() else rows[kept]


def _refuse_unknown_perturbation(stored: pd.DataFrame, wanted: str) -> None:
    if wanted == UNPERTURBED:
        return
    present = sorted(str(name) for name in stored["perturbation"].dropna().unique())
    if wanted not in present:
        hint = suggest(wanted, present)
        raise UserError(f'no rows perturbed by "{wanted}", only {", ".join(present)}.{hint}')


def _published_card(columns: ProtocolColumns | None) -> Published:
    """Return a protocol's published card.

    Raises:
        UserError: There is no protocol, or it has none, or its card is of another protocol.
    """
    if columns is None:
        raise UserError(
            "published rows stand under the table of their protocol only: name the protocol"
        )
    if columns.published is None:
        raise UserError(f"protocol {columns.name}: no published numbers are on record for it")
    card = load_published(columns.published)
    if card.protocol != columns.name:
        raise UserError(
            f'published card {card.name} is of protocol "{card.protocol}", not of {columns.name}'
        )
    return card


def _compared(table: Table, selected: Selected, paired: str | None) -> Table:
    """Add the paired test."""
    if paired is None or table.is_empty:
        return table
    references = find_references(table.rows, paired)
    if not references:
        return table
    alike = [row for row in table.rows if row.label not in table.apart]
    references = {
        label: row for label, row in references.items() if not {label, row.label} & set(table.apart)
    }
    frame = compare(selected, alike, references, table.conventions, table.sets)
    name = DEFAULT_REFERENCE if paired == AUTOMATIC else paired
    return replace(table, paired=Paired(name, frame))


def _explained(
    table: Table,
    selected: Selected,
    cells: Sequence[Cell],
    card: Published | None,
    departed: Sequence[Departure],
) -> Table:
    """Add caption, notes and marks."""
    marks: dict[tuple[str, str], list[str]] = {
        (label, name): list(texts) for label, texts in table.apart.items() for name in table.sets
    }
    for one in departed:
        marks.setdefault((one.label, one.dataset), []).append(one.text)
    for label, name, text in describe.missing_seeds(table.rows, table.figures):
        marks.setdefault((label, name), []).append(text)
    shown, why_not = describe.usable_block(card, table.metrics, table.threshold)
    facts = row_facts(table.rows)
    notes = {
        row.label: [
            *describe.row_notes(row, table.rows, cells),
            *facts.departing.get(row.label, ()),
        ]
        for row in table.rows
    }
    others = {(one.label, one.dataset) for one in departed if not one.is_comparable}
    others |= {(label, name) for label in table.apart for name in table.sets}
    table = replace(
        table,
        published=shown,
        notes={label: texts for label, texts in notes.items() if texts},
        marks=marks,
        incomparable=frozenset(others),
        remarks=[*describe.undefined_remarks(table.figures), *table.remarks, *why_not],
    )
    caption = describe.table_caption(table, selected.rows, cells, facts)
    return replace(table, caption=caption)
