"""Grids of text as Markdown, CSV and terminal output."""

import csv
import io
from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

MISSING = "-"

Grid = Sequence[Sequence[str]]
"""Rows of cells; the first is the header."""


def number(value: float, digits: int) -> str:
    """Format a figure; a missing one (NaN) is a dash, never a 0."""
    return MISSING if value != value else f"{value:.{digits}f}"  # noqa: PLR0124 - NaN only


def to_markdown(grid: Grid, names: int = 1) -> str:
    """Return a grid as a Markdown table.

    Args:
        grid: What to show.
        names: So many columns at the left hold names, which stand to the left, numbers to the
            right.
    """
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in grid]
    widths = [max(len(row[i]) for row in escaped) for i in range(len(escaped[0]))]
    rule = ["-" * width if i < names else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    body = [_pad(row, widths, names) for row in escaped]
    lines = [body[0], rule, *body[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _pad(row: Sequence[str], widths: Sequence[int], names: int) -> list[str]:
    cells = enumerate(zip(row, widths, strict=True))
    return [cell.ljust(width) if i < names else cell.rjust(width) for i, (cell, width) in cells]


def to_csv(grid: Grid) -> str:
    """Return a grid as CSV with plain line ends."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(grid)
    return text.getvalue()


def print_grid(
    grid: Grid, caption: Sequence[str], file: TextIO | None = None, names: int = 1
) -> None:
    """Print a grid and the lines below it; nothing is cut where the output is no terminal.

    Args:
        grid: What to print.
        caption: Lines below it.
        file: Where; standard output when None.
        names: So many columns at the left hold names.
    """
    console = Console(file=file, highlight=False)
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(grid[0]):
        table.add_column(
            Text(name), justify="left" if position < names else "right", overflow="fold"
        )
    for row in grid[1:]:
        table.add_row(*(Text(cell) for cell in row))
    if not console.is_terminal:
        wanted = console.measure(table, options=console.options.update(max_width=10_000)).maximum
        console.width = max(console.width, wanted)
    console.print(table)
    for line in caption:
        console.print(Text(line), soft_wrap=not console.is_terminal)
