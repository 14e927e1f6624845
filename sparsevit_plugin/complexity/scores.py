"""Scores of a protocol's table beside the costs of its models."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import pandas as pd

from sparsevit_plugin.complexity.columns import Column, CostTable, Row
from sparsevit_plugin.results.conventions import METRICS
from sparsevit_plugin.results.rows import TableRow
from sparsevit_plugin.results.tables import Table

SCORED_AT: Final = Column(
    "scored_at", "px", "side at which the scores were made", "scored at", digits=0
)


def score_name(metric: str, column: str) -> str:
    """Return the name of the column that holds a metric on a set, or its average."""
    return f"{metric}:{column}"


def with_scores(costs: CostTable, table: Table) -> CostTable:
    """Put the figures of a table's rows before the costs of their models.

    Args:
        costs: Rows by the labels of `table`'s, those of another program's maps by their model;
            then of other models. One at several sizes has several.
        table: Rows with scores.

    Returns:
        A row for each row of `table` and each size of its model, then those of other models.
    """
    scored: list[Row] = []
    for row in table.rows:
        name = row.model if row.is_external else row.label
        of_row = [one for one in costs.rows if one["model"] == name] or [{}]
        scored += [{**one, "model": row.label, **_scores(table, row)} for one in of_row]
    there = {row.model if row.is_external else row.label for row in table.rows}
    others = [one for one in costs.rows if one["model"] not in there]
    columns = (*_columns(table), SCORED_AT, *costs.columns)
    caption = f"{costs.caption} Scores: {table.caption}"
    return replace(costs, rows=[*scored, *others], columns=columns, caption=caption)


def _columns(table: Table) -> list[Column]:
    found = []
    for metric in table.metrics:
        about = METRICS[metric]
        for column in _values(table, metric).columns:
            found.append(
                Column(
                    name=score_name(metric, column),
                    unit="",
                    meaning=f"{about.title} on {column}",
                    head=f"{about.short} {column}",
                    digits=3,
                    higher_is_better=about.higher_is_better,
                )
            )
    return found


def _scores(table: Table, row: TableRow) -> dict[str, Any]:
    sides = {member.manifest.get("image_size") for member in row.members}
    found: dict[str, Any] = {SCORED_AT.name: sides.pop() if len(sides) == 1 else None}
    for metric in table.metrics:
        values = _values(table, metric)
        for column, value in zip(values.columns, _of(values, row.label), strict=True):
            found[score_name(metric, column)] = None if pd.isna(value) else float(value)
    return found


def _values(table: Table, metric: str) -> pd.DataFrame:
    return table.figures[metric].values


def _of(values: pd.DataFrame, label: str) -> Sequence[float]:
    return list(values.loc[label])
