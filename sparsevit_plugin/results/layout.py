"""A table laid out for reading: text in cells, marks, blocks. Every output format renders this."""

from dataclasses import dataclass
from typing import Final, Literal

MISSING: Final = "-"
"""What stands where there is no number; never a 0."""

Rank = Literal["", "best", "second"]
Role = Literal["set", "average", "parameters", "macs", "paired"]
BETTER, WORSE, SAME = "▲", "▼", "·"
SEPARATOR: Final = " / "


@dataclass(frozen=True)
class Part:
    """One figure of a cell.

    Attributes:
        text: As it is shown.
        rank: Whether it is the best or second of its column.
    """

    text: str
    rank: Rank = ""


@dataclass(frozen=True)
class LaidCell:
    """A cell: one figure, or several with `SEPARATOR` between them.

    Attributes:
        parts: The figures.
        count: Images behind them, where that is said in the cell; else empty.
        marks: Numbers of the footnotes.
        value: What a reader sorts by; None for a missing one.
    """

    parts: tuple[Part, ...]
    count: str = ""
    marks: tuple[int, ...] = ()
    value: float | None = None

    @property
    def is_missing(self) -> bool:
        """Whether there is no figure in it."""
        return all(part.text == MISSING for part in self.parts)


@dataclass(frozen=True)
class LaidColumn:
    """The head of a column.

    Attributes:
        top: First line; columns beside each other with the same one share it.
        sub: Second line; empty where the table has none.
        role: What it holds.
        top_count: Images behind every figure under `top`, where all are the same; else empty.
        sub_count: Images behind every figure of this column, where only these are the same.
        higher_is_better: Which end is good; None where there is none.
    """

    top: str
    sub: str
    role: Role
    top_count: str = ""
    sub_count: str = ""
    higher_is_better: bool | None = None


@dataclass(frozen=True)
class LaidRow:
    """A row: its name, the numbers of its footnotes, its cells."""

    name: str
    marks: tuple[int, ...]
    cells: tuple[LaidCell, ...]


@dataclass(frozen=True)
class Block:
    """Rows that stand together.

    Attributes:
        heading: Over them; empty for none.
        kind: Published rows are never ranked with measured ones.
        rows: The rows.
    """

    heading: str
    kind: Literal["measured", "published"]
    rows: tuple[LaidRow, ...]


@dataclass(frozen=True)
class Layout:
    """A whole table.

    Attributes:
        columns: Without that of the names.
        blocks: From top to bottom.
        caption: Every convention.
        footnotes: Texts; the first has the number 1.
        remarks: Sentences below them.
        names: The head of the column of names.
    """

    columns: tuple[LaidColumn, ...]
    blocks: tuple[Block, ...]
    caption: str
    footnotes: tuple[str, ...]
    remarks: tuple[str, ...]
    names: str = "model"

    def spans(self) -> list[tuple[LaidColumn, int]]:
        """Return the first line of the head: each shared head with the number of its columns."""
        found: list[tuple[LaidColumn, int]] = []
        for column in self.columns:
            if found and found[-1][0].top == column.top and column.sub:
                found[-1] = (found[-1][0], found[-1][1] + 1)
            else:
                found.append((column, 1))
        return found

    @property
    def has_two_lines(self) -> bool:
        """Whether the head has a second line."""
        return any(column.sub for column in self.columns)

    def lines(self) -> list[str]:
        """Return what stands below the table: caption, numbered footnotes, remarks."""
        notes = [f"[{number}] {text}" for number, text in enumerate(self.footnotes, 1)]
        return [self.caption, *notes, *self.remarks]


def head_text(column: LaidColumn, joint: str = " ") -> str:
    """Return a column's head as text, both lines with `joint` between them."""
    lines = [
        f"{text} (n={count})" if count else text
        for text, count in ((column.top, column.top_count), (column.sub, column.sub_count))
        if text
    ]
    return joint.join(lines)


def marks_text(marks: tuple[int, ...]) -> str:
    """Return footnote numbers as text."""
    return "".join(f" [{mark}]" for mark in marks)


def number(value: float, digits: int) -> str:
    """Format a figure; a missing one (NaN) is a dash, never a 0."""
    return MISSING if value != value else f"{value:.{digits}f}"  # noqa: PLR0124 - NaN only
