"""What the models of a report cost: from manifests, a table of `benco complexity`, or counted."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.rows import TableRow

COUNT: Final = "count"
_COLUMNS: Final = ("model", "image_size", "parameters", "macs", "flops", "counter")


@dataclass(frozen=True)
class Cost:
    """What one row of the table costs.

    Attributes:
        label: Of the row.
        image_size: Side of the square input, pixels; None when unknown.
        parameters: All that the model holds; None when unknown, as the following.
        macs: Multiply-accumulates of one forward pass on one image.
        flops: Floating-point operations of the same.
        counter: What counted.
        source: Where the figures are from.
        problem: Why there are none; empty when there are.
    """

    label: str
    image_size: int | None = None
    parameters: int | None = None
    macs: int | None = None
    flops: int | None = None
    counter: str = ""
    source: str = ""
    problem: str = ""


def costs(
    rows: Sequence[TableRow], wanted: str = "", imports: Sequence[str] = ()
) -> tuple[Cost, ...]:
    """Return what is known of the cost of a table's rows.

    Args:
        rows: The table's rows.
        wanted: A CSV file that `benco complexity` wrote; `count` to count every model that has no
            figures yet; empty for what the manifests say.
        imports: Modules that register models, for counting.

    Returns:
        The rows of which something is known, and with `wanted` also the others.

    Raises:
        UserError: The file cannot be used.
    """
    table = _read(Path(wanted)) if wanted not in ("", COUNT) else []
    found = []
    for row in rows:
        cost = _of_manifest(row) or _of_table(row, table, wanted)
        if cost is None and wanted == COUNT and not row.is_external:
            cost = _counted(row, imports)
        if cost is None and wanted:
            cost = Cost(row.label, problem="not known")
        if cost is not None:
            found.append(cost)
    return tuple(found)


def _of_manifest(row: TableRow) -> Cost | None:
    known = row.complexity
    if not known or known.get("parameters") is None:
        return None
    return _cost(row, known, "counted when it was tested")


def _of_table(row: TableRow, table: Sequence[Mapping[str, str]], name: str) -> Cost | None:
    """Return the line of a model at the size that it was tested at."""
    manifest = row.members[0].manifest
    model, size = manifest.get("registered_model", row.model), manifest.get("image_size")
    for line in table:
        if line["model"] == model and line["image_size"] == str(size):
            return _cost(row, line, Path(name).name)
    return None


def _cost(row: TableRow, figures: Mapping[str, Any], source: str) -> Cost:
    return Cost(
        row.label,
        image_size=_whole(figures.get("image_size")),
        parameters=_whole(figures.get("parameters")),
        macs=_whole(figures.get("macs")),
        flops=_whole(figures.get("flops")),
        counter=str(figures.get("counter") or ""),
        source=source,
    )


def _whole(value: Any) -> int | None:  # noqa: ANN401 - whatever a manifest or a table holds
    try:
        return int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            lines = list(reader)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--complexity {path}: cannot be read: {error}") from error
    if missing:
        raise UserError(
            f"--complexity {path}: has no column {missing[0]}: give a file of "
            '"benco complexity --format csv", or the word count'
        )
    return lines


def _counted(row: TableRow, imports: Sequence[str]) -> Cost:
    from sparsevit_plugin.harness.complexity import count_config
    from sparsevit_plugin.harness.config import resolve
    from sparsevit_plugin.harness.recorded import recorded_words

    words = recorded_words(row.members[0].manifest)
    words += [f"--import={name}" for name in imports]
    try:
        found = count_config(resolve("test", words, needs_data=False))
    except UserError as error:
        return Cost(row.label, problem=str(error))
    return replace(_cost(row, found.to_dict(), "counted for this page"), problem=found.reason)
