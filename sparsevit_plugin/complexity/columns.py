"""Tables of costs: a row is a dictionary, and a column says what one of its values means.

A column is shown where a row has a value for it, so that rows may know more than the counts: times,
or figures of a protocol's table. CSV holds every value in its base unit at full precision; the
other formats show it in a larger one.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sparsevit_plugin.complexity.counting import Complexity
from sparsevit_plugin.complexity.groups import FOURIER
from sparsevit_plugin.results.layout import (
    MISSING,
    Block,
    LaidCell,
    LaidColumn,
    LaidRow,
    Layout,
    Part,
)

Row = Mapping[str, Any]

_MIB: Final = 2.0**20
EXPECTED_GROUPS: Final = frozenset(
    {"losses", "normalisation", "pooling", "reductions", "resampling", "softmax"}
)
"""What no count of products includes, in any model; a row with other groups says so in a note."""


@dataclass(frozen=True)
class Column:
    """What a value of a row is.

    Attributes:
        name: Its key in a row, and the head of its column in CSV.
        unit: Of the value in a row and in CSV; empty for a plain number or text.
        meaning: In a sentence, for the caption and the documentation.
        head: Of its column in a table for people; empty for a value that CSV alone shows.
        divisor: What one unit of the table is, in units of the row.
        digits: After the point; None for the table's, and as many significant ones below 1.
        higher_is_better: Which end is good.
    """

    name: str
    unit: str
    meaning: str
    head: str = ""
    divisor: float = 1.0
    digits: int | None = None
    higher_is_better: bool = False


COLUMNS: Final = (
    Column("own_size", "px", "side of the square input that the model's card gives"),
    Column("image_size", "px", "side of the square input of this row", "size", digits=0),
    Column(
        "parameters",
        "",
        "all that the model holds, shared ones once",
        "parameters, M",
        1e6,
    ),
    Column(
        "live_parameters",
        "",
        "those that the prediction depends on, found by following them through a forward pass",
        "live, M",
        1e6,
    ),
    Column(
        "macs",
        "",
        "multiply-accumulates of one forward pass, by this counter",
        "GMACs",
        1e9,
    ),
    Column(
        "flops",
        "",
        "floating-point operations, where the counter gives them: two for a multiply-accumulate",
        "GFLOPs",
        1e9,
    ),
    Column(
        "fourier_flops",
        "",
        "operations of Fourier transforms, not among the others: an estimate, 5 N log2 N for "
        "complex values and half of that for real ones",
        "Fourier GFLOPs, estimated",
        1e9,
    ),
    Column(
        "peak_bytes",
        "B",
        "most bytes of results alive at one time in that forward pass, without parameters, "
        "buffers, inputs and what kernels take for themselves",
        "activations, MiB",
        _MIB,
    ),
    Column(
        "kept_bytes",
        "B",
        "bytes of results that a training pass on two images leaves alive for its backward pass, "
        "per image",
        "kept to train, MiB",
        _MIB,
    ),
    Column("counter", "", "what counted macs and flops"),
    Column("not_counted", "", "what ran and is not in macs: group: operation x calls"),
    Column("reason", "", "why a value is missing"),
)
"""The columns of counts, in order; the name of the row stands before them."""


def counted_row(model: str, own_size: int | None, found: Complexity) -> dict[str, Any]:
    """Return the row of a counted model.

    Args:
        model: What the row is called.
        own_size: The side that the model's card gives; None without a card.
        found: Its counts.
    """
    has_fourier = FOURIER in found.not_counted
    # A forward pass that fails does so for its memory too.
    reasons = filter(None, f"{found.reason}; {found.memory_reason}".split("; "))
    return {
        "model": model,
        "own_size": own_size,
        "image_size": found.image_size,
        "parameters": found.parameters,
        "live_parameters": found.live_parameters,
        "macs": found.macs,
        "flops": found.flops,
        "fourier_flops": round(found.fourier_flops) if has_fourier else None,
        "peak_bytes": found.peak_bytes,
        "kept_bytes": found.kept_bytes,
        "counter": found.counter,
        "not_counted": not_counted_text(found.not_counted),
        "reason": "; ".join(dict.fromkeys(reasons)),
    }


def failed_row(
    model: str, own_size: int | None, image_size: int | None, counter: str, reason: str
) -> dict[str, Any]:
    """Return the row of a model that could not be built, with the reason."""
    return {
        "model": model,
        "own_size": own_size,
        "image_size": image_size,
        "counter": counter,
        "reason": reason,
    }


def not_counted_text(groups: Mapping[str, Mapping[str, int]]) -> str:
    """Return operations that were not counted in one line, by their groups."""
    return "; ".join(
        f"{group}: {', '.join(f'{name} x {calls}' for name, calls in operations.items())}"
        for group, operations in groups.items()
    )


@dataclass(frozen=True)
class CostTable:
    """Rows with the columns that explain them.

    Attributes:
        rows: Each has `model`, its name.
        columns: All that a row may have a value for, in order.
        caption: What the table is of, in sentences.
        names: The head of the names.
    """

    rows: Sequence[Row]
    columns: Sequence[Column]
    caption: str
    names: str = "model"

    @property
    def title(self) -> str:
        """The first sentence of the caption."""
        return self.caption.partition(".")[0]

    @property
    def present(self) -> list[Column]:
        """The columns that some row has a value for."""
        return [
            c for c in self.columns if any(row.get(c.name) not in (None, "") for row in self.rows)
        ]

    def to_csv(self) -> str:
        """Return every value in its base unit; missing ones are empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([self.names, *(column.name for column in self.present)])
        for row in self.rows:
            values = [row.get(column.name) for column in self.present]
            writer.writerow([row["model"], *("" if value is None else value for value in values)])
        return text.getvalue()

    def layout(self, digits: int = 2) -> Layout:
        """Lay the table out for people: the columns with a head, their meanings in the caption.

        Args:
            digits: After the point, where a column does not say; below 1 significant ones.
        """
        shown = [column for column in self.present if column.head]
        notes: dict[str, int] = {}
        rows = tuple(_laid_row(row, shown, digits, notes) for row in self.rows)
        meanings = "; ".join(f"{_bare(column.head)}: {column.meaning}" for column in shown)
        heads = tuple(
            LaidColumn(column.head, "", "set", higher_is_better=column.higher_is_better)
            for column in shown
        )
        return Layout(
            columns=heads,
            blocks=(Block("", "measured", rows),),
            caption=f"{self.caption} {meanings}.",
            footnotes=tuple(notes),
            remarks=(),
            names=self.names,
        )


def _bare(head: str) -> str:
    return head.partition(",")[0]


def _laid_row(row: Row, columns: Sequence[Column], digits: int, notes: dict[str, int]) -> LaidRow:
    marks = tuple(notes.setdefault(text, len(notes) + 1) for text in _notes_of(row))
    return LaidRow(row["model"], marks, tuple(_cell(row, column, digits) for column in columns))


def _notes_of(row: Row) -> list[str]:
    """Return what a reader must know of a row: why values are missing, what was not counted."""
    unusual = [
        part
        for part in filter(None, str(row.get("not_counted") or "").split("; "))
        if part.partition(":")[0] not in EXPECTED_GROUPS
    ]
    notes = [str(row["reason"])] if row.get("reason") else []
    return notes + ([f"not counted: {'; '.join(unusual)}"] if unusual else [])


def _cell(row: Row, column: Column, digits: int) -> LaidCell:
    value = row.get(column.name)
    if value is None or value != value:  # noqa: PLR0124 - NaN only
        return LaidCell((Part(MISSING),))
    if isinstance(value, str):
        return LaidCell((Part(value),))
    shown = value / column.divisor
    places = _places(shown, digits) if column.digits is None else column.digits
    return LaidCell((Part(f"{shown:.{places}f}"),), value=float(value))


def _places(value: float, digits: int) -> int:
    """Return the digits after the point that show a number: below 1 as many significant ones.

    What is not 0 never shows as 0.
    """
    if value == 0 or abs(value) >= 1 or math.isinf(value):
        return digits
    leading = -math.floor(math.log10(abs(value)))  # place of the first digit that is not 0
    return leading + max(digits, 1) - 1
