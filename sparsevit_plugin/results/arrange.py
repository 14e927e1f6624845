"""From a table to its layout, and to one line per figure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from sparsevit_plugin.results.conventions import METRICS
from sparsevit_plugin.results.layout import (
    BETTER,
    MISSING,
    SAME,
    SEPARATOR,
    WORSE,
    Block,
    LaidCell,
    LaidColumn,
    LaidRow,
    Layout,
    Part,
    Rank,
    Role,
    number,
)
from sparsevit_plugin.results.published import Published, PublishedRow
from sparsevit_plugin.results.rows import TableRow
from sparsevit_plugin.results.seeds import AVERAGE

if TYPE_CHECKING:
    from sparsevit_plugin.results.tables import Table

LONG_COLUMNS: Final = (
    *("kind", "group", "row", "model", "metric", "set", "role", "value", "std", "seeds", "n"),
    *("undefined", "reference", "difference", "low", "high", "p", "p_holm", "verdict"),
    *("parameters", "macs", "authentic", "score_at", "evaluator", "perturbation", "threshold"),
    *("source", "notes"),
)
_OF_TEST: Final = ("reference", "difference", "low", "high", "p", "p_holm", "verdict")
_WHOLE: Final = ("seeds", "n", "undefined", "parameters", "macs")
_MARKS: Final = {"better": BETTER, "worse": WORSE, "not significant": SAME}
_SCALES: Final[dict[str, tuple[Role, str, float]]] = {
    "parameters": ("parameters", "Params (M)", 1e6),
    "macs": ("macs", "MACs (G)", 1e9),
}
_SIGNIFICANT_DIGITS: Final = 3
_SMALLEST_P: Final = 0.001


class _Footnotes:
    """Numbers texts by their first use."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, texts: Iterable[str]) -> tuple[int, ...]:
        """Return the texts' numbers, in order."""
        for text in texts:
            if text not in self.texts:
                self.texts.append(text)
        return tuple(sorted(self.texts.index(text) + 1 for text in texts))


def lay_out(table: "Table", digits: int) -> Layout:
    """Return a table as it is shown, figures rounded to `digits`."""
    footnotes = _Footnotes()
    marks = {row.label: footnotes.number(table.notes.get(row.label, ())) for row in table.rows}
    figures = _FigureCells(table, digits, footnotes)
    heads = list(figures.columns)
    if table.has_complexity:
        heads += [LaidColumn(title, "", role) for role, title, _ in _SCALES.values()]
    heads += _paired_heads(table)
    blocks: list[Block] = []
    for row in table.rows:
        cells = (
            *figures.row(row.label),
            *_complexity_cells(table, row),
            *_paired_cells(table, row, digits),
        )
        laid = LaidRow(row.name, marks[row.label], cells)
        if blocks and blocks[-1].heading == row.group:
            blocks[-1] = Block(row.group, "measured", (*blocks[-1].rows, laid))
        else:
            blocks.append(Block(row.group, "measured", (laid,)))
    if table.published is not None:
        blocks.append(_published_block(table, table.published, heads, digits, footnotes))
    return Layout(
        tuple(heads), tuple(blocks), table.caption, tuple(footnotes.texts), tuple(table.remarks)
    )


class _FigureCells:
    """The columns of figures: of every set and the average, for every metric or joined."""

    def __init__(self, table: "Table", digits: int, footnotes: _Footnotes) -> None:
        self.table, self.digits, self.footnotes = table, digits, footnotes
        self.joined = table.cells == "joined"
        self.ranks = {name: _ranks(table, name, digits) for name in table.metrics}
        self.keys: list[tuple[str, tuple[str, ...]]] = []
        for name in table.roles:
            if self.joined:
                self.keys.append((name, table.metrics))
            else:
                self.keys += [(name, (metric,)) for metric in table.metrics]
        counts = {key: self._shared_count(*key) for key in self.keys}
        self.columns = [self._column(*key, counts) for key in self.keys]
        self.in_cells = {key: count is None for key, count in counts.items()}

    def row(self, label: str) -> list[LaidCell]:
        """Return a row's cells."""
        return [self._cell(label, name, metrics) for name, metrics in self.keys]

    def _column(
        self,
        name: str,
        metrics: tuple[str, ...],
        counts: Mapping[tuple[str, tuple[str, ...]], str | None],
    ) -> LaidColumn:
        of_set = [count for (other, _), count in counts.items() if other == name]
        on_top = of_set[0] if len(set(of_set)) == 1 else ""
        sub = ""
        if len(self.table.metrics) > 1:
            sub = SEPARATOR.join(METRICS[metric].short for metric in metrics)
        best = {METRICS[metric].higher_is_better for metric in metrics}
        return LaidColumn(
            top=name,
            sub=sub,
            role="average" if self.table.roles[name] == AVERAGE else "set",
            top_count=on_top or "",
            sub_count="" if on_top else counts[name, metrics] or "",
            higher_is_better=best.pop() if len(best) == 1 else None,
        )

    def _shared_count(self, name: str, metrics: tuple[str, ...]) -> str | None:
        """Return the images behind every figure of a column; None where they differ.

        Empty for the average and a column without figures.
        """
        if self.table.roles[name] == AVERAGE:
            return ""
        found = {
            self._count(label, name, metrics)
            for label in self._labels()
            if any(self._value(label, name, metric) is not None for metric in metrics)
        }
        departs = any((label, name) in self.table.marks for label in self._labels())
        if len(found) > 1 or (departs and found):
            return None
        return found.pop() if found else ""

    def _labels(self) -> list[str]:
        return [row.label for row in self.table.rows]

    def _count(self, label: str, name: str, metrics: Sequence[str]) -> str:
        """Return the images behind a cell; of several metrics, where they differ, of each."""
        words = []
        for metric in metrics:
            figures = self.table.figures[metric]
            fewest, most = (figures.count(what, label, name) for what in ("counts", "most"))
            words.append(str(fewest) if fewest == most else f"{fewest} to {most}")
        return words[0] if len(set(words)) == 1 else SEPARATOR.join(words)

    def _value(self, label: str, name: str, metric: str) -> float | None:
        value = self.table.figures[metric].at("values", label, name)
        return None if math.isnan(value) else value

    def _cell(self, label: str, name: str, metrics: tuple[str, ...]) -> LaidCell:
        values = [self._value(label, name, metric) for metric in metrics]
        if all(value is None for value in values):
            return LaidCell((Part(MISSING),))
        count = self._count(label, name, metrics) if self.in_cells[name, metrics] else ""
        parts = tuple(self._part(label, name, metric) for metric in metrics)
        return LaidCell(parts, count, self.footnotes.number(self._texts(label, name)), values[0])

    def _part(self, label: str, name: str, metric: str) -> Part:
        figures = self.table.figures[metric]
        text = number(figures.at("values", label, name), self.digits)
        std = figures.at("std", label, name)
        if not np.isnan(std):
            text += f" ± {number(std, self.digits)}"
        return Part(text, self.ranks[metric].get((label, name), ""))

    def _texts(self, label: str, name: str) -> list[str]:
        """Return the footnotes of a cell; the average has those of its incomparable sets."""
        marks = self.table.marks
        if self.table.roles[name] == "set":
            return list(marks.get((label, name), ()))
        return [
            text
            for one in self.table.sets
            if (label, one) in self.table.incomparable
            for text in marks[label, one]
        ]


def _ranks(table: "Table", metric: str, digits: int) -> dict[tuple[str, str], Rank]:
    """Return the best and the second of every column, by what is shown; equal figures share."""
    values = table.figures[metric].values
    found: dict[tuple[str, str], Rank] = {}
    for name in values.columns:
        ranked = {
            label: round(float(value), digits)
            for label, value in values[name].items()
            if not np.isnan(value) and not _is_apart(table, str(label), name)
        }
        if len(ranked) < 2:  # noqa: PLR2004 - one figure is not ranked
            continue
        places = sorted(set(ranked.values()), reverse=METRICS[metric].higher_is_better)
        ranks: dict[float, Rank] = dict(zip(places, ("best", "second"), strict=False))
        found |= {
            (str(label), name): ranks[value] for label, value in ranked.items() if value in ranks
        }
    return found


def _is_apart(table: "Table", label: str, name: str) -> bool:
    """Say whether a figure is about other images than those of its column."""
    sets = [name] if table.roles[name] == "set" else table.sets
    return any((label, one) in table.incomparable for one in sets)


def _complexity_cells(table: "Table", row: TableRow) -> list[LaidCell]:
    if not table.has_complexity:
        return []
    values = table.complexity.loc[row.label].to_dict()
    found = []
    for name, (_, _, scale) in _SCALES.items():
        value = values[name]
        is_missing = math.isnan(value)
        text = MISSING if is_missing else significant(value / scale)
        found.append(LaidCell((Part(text),), value=None if is_missing else value))
    return found


def significant(value: float) -> str:
    """Format a size with three significant digits, without an exponent; whole above 100."""
    if value == 0:
        return "0"
    places = _SIGNIFICANT_DIGITS - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(0, places)}f}"


def _paired_heads(table: "Table") -> list[LaidColumn]:
    if table.paired is None:
        return []
    top = f"vs {table.paired.reference}"
    subs = [METRICS[name].short if len(table.metrics) > 1 else "" for name in table.metrics]
    return [LaidColumn(top, sub, "paired") for sub in subs]


def _paired_cells(table: "Table", row: TableRow, digits: int) -> list[LaidCell]:
    if table.paired is None:
        return []
    found = []
    for metric in table.metrics:
        line = table.paired.of(metric, row.label)
        if line is None:
            found.append(LaidCell((Part(MISSING),)))
            continue
        difference = float(line["difference"])
        mark = _MARKS[line["verdict"]]
        text = f"{mark} {difference:+.{digits}f} ({p_text(float(line['p_holm']))})"
        found.append(LaidCell((Part(text),), value=difference))
    return found


def p_text(p: float) -> str:
    """Format a p-value."""
    return f"p<{_SMALLEST_P:g}" if p < _SMALLEST_P else f"p={p:.3f}"


def _published_block(
    table: "Table",
    card: Published,
    heads: Sequence[LaidColumn],
    digits: int,
    footnotes: _Footnotes,
) -> Block:
    """Return the published rows; the average only where the table's sets are the source's."""
    rows = []
    for row in card.rows:
        cells, columns = [], []
        for head in heads:
            column = _published_column(table, card, head)
            texts = [MISSING]
            if column is not None:
                subs = head.sub.split(SEPARATOR) if head.sub else [METRICS[card.metric or ""].short]
                texts = [
                    number(card.value(row, column or None), digits)
                    if sub == METRICS[card.metric or ""].short
                    else MISSING
                    for sub in subs
                ]
                columns.append(column or None)
            value = None if column is None else card.value(row, column or None)
            known = None if value is None or math.isnan(value) else value
            cells.append(LaidCell(tuple(Part(text) for text in texts), value=known))
        sources = dict.fromkeys(card.source_of(row, column) for column in columns)
        marks = footnotes.number([f"published: {source}" for source in sources])
        rows.append(LaidRow(row.method, marks, tuple(cells)))
    return Block(f"published, not measured here: {card.title}", "published", tuple(rows))


def _published_column(table: "Table", card: Published, head: LaidColumn) -> str | None:
    """Return which column of a card stands in a column: a name, "" for the average, or None."""
    short = METRICS[card.metric or ""].short
    if head.sub and short not in head.sub.split(SEPARATOR):
        return None
    if head.role == "set":
        return head.top if head.top in card.columns else None
    if head.role == "average" and set(table.sets) == set(card.columns):
        return ""
    return None


def to_long(table: "Table") -> pd.DataFrame:
    """Return one line per row, metric and set, see `tables.Table.long`."""
    lines = [*_measured_lines(table), *_published_lines(table)]
    frame = pd.DataFrame(lines, columns=list(LONG_COLUMNS))
    return frame.astype(dict.fromkeys(_WHOLE, "Int64"))


def _measured_lines(table: "Table") -> list[dict[str, Any]]:
    """Return one line per row, metric and set of what was measured."""
    complexity = table.complexity
    lines = []
    for row in table.rows:
        for metric, figures in table.figures.items():
            for name in figures.values.columns:
                line: dict[str, Any] = {
                    **_terms(table, metric),
                    "kind": "measured",
                    "group": row.group,
                    "row": row.label,
                    "model": row.model,
                    "metric": metric,
                    "set": name,
                    "role": table.roles[name],
                    "parameters": complexity.at[row.label, "parameters"],
                    "macs": complexity.at[row.label, "macs"],
                }
                for column in ("values", "std", "seeds"):
                    key = "value" if column == "values" else column
                    line[key] = getattr(figures, column).at[row.label, name]
                texts = [*table.notes.get(row.label, ())]
                if name in figures.counts:
                    line["n"] = figures.counts.at[row.label, name]
                    line["undefined"] = figures.undefined.at[row.label, name]
                    texts += table.marks.get((row.label, name), ())
                line["notes"] = "; ".join(texts)
                lines.append(line | _test_of(table, metric, row.label, name))
    return lines


def _terms(table: "Table", metric: str) -> dict[str, Any]:
    shared = table.conventions[0]
    at_threshold = METRICS[metric].at_threshold
    return {
        "authentic": shared.authentic,
        "score_at": shared.score_at,
        "evaluator": shared.evaluator,
        "perturbation": shared.perturbation,
        "threshold": table.threshold if at_threshold else None,
    }


def _test_of(table: "Table", metric: str, label: str, name: str) -> dict[str, Any]:
    """Return the paired test, in the line of what it is of: the average, or the only set."""
    if table.paired is None or (len(table.sets) > 1 and table.roles[name] != AVERAGE):
        return {}
    found = table.paired.of(metric, label)
    return {} if found is None else {key: found[key] for key in _OF_TEST}


def _published_lines(table: "Table") -> list[dict[str, Any]]:
    """Return one line per published row and set; the average where the source's sets are shown."""
    card = table.published
    if card is None:
        return []
    lines = []
    columns: list[str | None] = [name for name in table.sets if name in card.columns]
    columns += [None] if AVERAGE in table.roles and set(table.sets) == set(card.columns) else []
    for row in card.rows:
        lines += [_published_line(card, row, column) for column in columns]
    return lines


def _published_line(card: Published, row: PublishedRow, column: str | None) -> dict[str, Any]:
    return {
        "kind": "published",
        "group": card.title,
        "row": row.method,
        "model": row.method,
        "metric": card.metric,
        "set": AVERAGE if column is None else column,
        "role": AVERAGE if column is None else "set",
        "value": card.value(row, column),
        "threshold": card.threshold,
        "source": card.source_of(row, column),
        "notes": card.notes,
    }
