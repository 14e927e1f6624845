"""Where one number of a table comes from: `benco table --explain ROW SET`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.results.aggregate import (
    Conventions,
    Selected,
    codes_of,
    image_values,
    mixed_figures,
    rows_of_other_terms,
    select_rows,
)
from sparsevit_plugin.results.describe import measured
from sparsevit_plugin.results.layout import number
from sparsevit_plugin.results.published import Published, PublishedRow
from sparsevit_plugin.results.rows import Member, TableRow, meant_rows
from sparsevit_plugin.results.seeds import AVERAGE
from sparsevit_plugin.results.store import Cell, Results

if TYPE_CHECKING:
    from sparsevit_plugin.results.tables import Table

_DIGITS = 6
_HASH_DIGITS = 16


def explain(table: "Table", results: Results, row: str, column: str) -> list[str]:
    """Say where a cell's figures come from: rows, counts, checkpoint, command.

    Args:
        table: The table.
        results: What it was made from.
        row: A row's label or model, or a method of the published block.
        column: A set of the table, or `average`.

    Returns:
        Lines; one block for each metric.

    Raises:
        UserError: The table has no such row or column.
    """
    known = list(table.roles)
    if column not in known:
        hint = suggest(column, known)
        raise UserError(f'no column "{column}", only {", ".join(known)}.{hint}')
    found = meant_rows(table.rows, row)
    published = [one for one in _published_rows(table) if one.method == row]
    if not found and not published:
        names = [one.label for one in table.rows] + [one.method for one in _published_rows(table)]
        raise UserError(f'no row "{row}", only {", ".join(names)}.{suggest(row, names)}')
    lines = [
        line
        for one in found
        for convention in table.conventions
        for line in _of_row(table, results, one, column, convention)
    ]
    if table.published is not None:
        lines += [line for one in published for line in _of_published(table.published, one, column)]
    return lines


def _published_rows(table: "Table") -> Sequence[PublishedRow]:
    return () if table.published is None else table.published.rows


def _of_published(card: Published, row: PublishedRow, column: str) -> list[str]:
    name = None if column == AVERAGE else column
    if name is not None and name not in card.columns:
        return [f"{row.method}, {column}: nothing is published"]
    return [
        f"{row.method}, {column}: {number(card.value(row, name), _DIGITS)} ({card.figure})",
        "  published, not measured here",
        f"  source: {card.source_of(row, name)}",
    ]


def _of_row(
    table: "Table", results: Results, row: TableRow, column: str, convention: Conventions
) -> list[str]:
    figures = table.figures[convention.metric]
    value, std = (figures.at(what, row.label, column) for what in ("values", "std"))
    spread = "" if np.isnan(std) else f", sample standard deviation {number(std, _DIGITS)}"
    seeds = figures.count("seeds", row.label, column)
    of_seeds = f", mean of {seeds} seeds" if seeds > 1 else ""
    head = f"{row.label}, {column}, {convention.figure.title}: {number(value, _DIGITS)}"
    lines = [f"{head}{of_seeds}{spread}"]
    if table.roles[column] == AVERAGE:
        return lines + _of_average(table, row, convention)
    for member in row.members:
        lines += _of_member(results, member, column, convention)
    notes = [*table.marks.get((row.label, column), ()), *table.notes.get(row.label, ())]
    return lines + [f"  note: {text}" for text in notes]


def _of_average(table: "Table", row: TableRow, convention: Conventions) -> list[str]:
    figures = table.figures[convention.metric]
    lines = [f"  mean over {len(table.sets)} sets, each once; made for each seed first"]
    for name in table.sets:
        value = figures.at("values", row.label, name)
        lines.append(f"  {name}: {number(value, _DIGITS)}")
    return lines


def _of_member(results: Results, member: Member, column: str, convention: Conventions) -> list[str]:
    """Say where one seed's figure comes from."""
    seed = "" if member.seed is None else f"seed {member.seed}, "
    cells = [
        cell
        for cell in results.cells
        if cell.key == (member.manifest_id, column, convention.perturbation)
    ]
    chosen = _rows_behind(results, member, column, convention)
    if not len(chosen):
        return [f"  {seed}manifest {member.manifest_id}: no rows"]
    codes = codes_of(chosen)
    figure = mixed_figures(Selected(results.rows, chosen, codes), convention).iloc[0]
    used = f"{int(figure['n'])} of {len(chosen)} images"
    undefined = int(figure["undefined"])
    used += f", {undefined} more left out as undefined" if undefined else ""
    lines = [f"  {seed}manifest {member.manifest_id}: {number(figure['value'], _DIGITS)} ({used})"]
    first = chosen.iloc[0]
    own = replace(convention, evaluator=str(first["evaluator"]), score_at=str(first["score_at"]))
    lines += [f"    {measured([own], chosen)}", *_counts(chosen, convention)]
    for cell in cells:
        lines += _of_cell(cell)
    return lines + _of_manifest(member.manifest)


def _rows_behind(
    results: Results, member: Member, column: str, convention: Conventions
) -> pd.DataFrame:
    """Return the rows of results behind one figure, by the conventions or their own terms."""
    stored = results.rows.reset_index(drop=True)
    here = (stored["manifest_id"] == member.manifest_id) & (stored["dataset"] == column)
    stored = stored[here.to_numpy(bool)]
    rows = select_rows(stored, convention)
    others = rows_of_other_terms(stored, rows, convention)
    return next(iter(others.values())) if not len(rows) and others else rows


def _counts(rows: pd.DataFrame, convention: Conventions) -> list[str]:
    """Say what was counted in the images that take part."""
    kind = convention.figure.kind
    if kind == "image":
        labels = rows["label"].dropna().astype(int)
        return [f"    {int((labels == 1).sum())} tampered and {int((labels == 0).sum())} authentic"]
    taking_part = rows
    if kind in ("mean", "area"):
        member, values = image_values(rows, convention)
        taking_part = rows[member & ~np.isnan(values)]
    elif convention.authentic == "tampered":
        taking_part = rows[rows["tampered_pixels"] > 0]
    if taking_part[["tp", "fp", "fn", "tn"]].isna().all(axis=None):
        return []
    sums = {name: int(taking_part[name].sum()) for name in ("tp", "fp", "fn", "tn")}
    words = ", ".join(f"{name} {value}" for name, value in sums.items())
    return [f"    pixels of these images together: {words}"]


def _of_cell(cell: Cell) -> list[str]:
    lines = [f"    rows: {cell.path}" + (f", written {cell.written}" if cell.written else "")]
    if path := cell.facts.get("path"):
        lines.append(f"    set: {path}")
    if skipped := cell.facts.get("skipped"):
        lines.append(f"    skipped: {len(skipped)} images")
    return lines


def _of_manifest(manifest: Mapping[str, Any]) -> list[str]:
    """Name checkpoint, choice and command, as far as the manifest has them."""
    checkpoint = manifest.get("checkpoint")
    lines = []
    if isinstance(checkpoint, Mapping) and checkpoint.get("sha256"):
        load = checkpoint.get("load")
        path = load.get("path") if isinstance(load, Mapping) else None
        epoch = checkpoint.get("epoch")
        lines.append(
            f"    checkpoint: {path or checkpoint.get('file')}, SHA-256 "
            f"{str(checkpoint['sha256'])[:_HASH_DIGITS]}..., chosen on "
            f"{manifest.get('selection') or 'unknown'}"
            + (f", epoch {epoch}" if epoch is not None else "")
        )
    elif manifest.get("pretraining"):
        lines.append(f"    checkpoint: none; pretraining weights: {manifest['pretraining']}")
    made = [str(manifest[key]) for key in ("created", "device") if manifest.get(key)]
    versions = manifest.get("code_version")
    if versions:
        made.append(f"sparsevit-plugin {versions}")
    if manifest.get("command"):
        lines.append(f"    command: {manifest['command']}")
    if made:
        lines.append(f"    made: {', '.join(made)}")
    return lines
