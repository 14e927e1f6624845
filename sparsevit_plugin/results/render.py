"""Layouts and grids of text as Markdown and terminal output."""

from collections.abc import Callable, Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from sparsevit_plugin.results.layout import (
    SEPARATOR,
    LaidCell,
    Layout,
    Part,
    head_text,
    marks_text,
)

Grid = Sequence[Sequence[str]]
"""Rows of cells; the first is the header."""


def to_markdown(grid: Grid, names: int = 1) -> str:
    """Return a grid as a Markdown table.

    Args:
        grid: What to show.
        names: So many columns at the left hold names, which stand to the left, numbers to the
            right.
    """
    escaped = [[_escaped(cell) for cell in row] for row in grid]
    return _markdown_table(escaped, names)


def _escaped(text: str) -> str:
    """Escape what would end a Markdown cell."""
    return text.replace("|", "\\|")


def _markdown_table(escaped: Grid, names: int) -> str:
    widths = [max(len(row[i]) for row in escaped) for i in range(len(escaped[0]))]
    rule = ["-" * width if i < names else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    body = [_pad(row, widths, names) for row in escaped]
    lines = [body[0], rule, *body[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _pad(row: Sequence[str], widths: Sequence[int], names: int) -> list[str]:
    cells = enumerate(zip(row, widths, strict=True))
    return [cell.ljust(width) if i < names else cell.rjust(width) for i, (cell, width) in cells]


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
    _print_whole(console, table)
    for line in caption:
        console.print(Text(line), soft_wrap=not console.is_terminal)


def grid(layout: Layout) -> list[list[str]]:
    """Return a layout's head and rows as text, without the headings of its blocks."""
    rows = [[layout.names, *(head_text(column) for column in layout.columns)]]
    for block in layout.blocks:
        for row in block.rows:
            cells = [cell_text(cell, lambda part: part.text) for cell in row.cells]
            rows.append([f"{row.name}{marks_text(row.marks)}", *cells])
    return rows


def cell_text(cell: LaidCell, styled: Callable[[Part], str]) -> str:
    """Return a cell as text: its figures, the number of images, its footnotes.

    Args:
        cell: The cell.
        styled: Makes text of a figure.
    """
    text = SEPARATOR.join(styled(part) for part in cell.parts)
    count = f" (n={cell.count})" if cell.count else ""
    return f"{text}{count}{marks_text(cell.marks)}"


def layout_to_markdown(layout: Layout) -> str:
    """Return a layout as Markdown: best figures bold, second ones underlined by a tag."""
    rows = [[layout.names, *(head_text(column) for column in layout.columns)]]
    for block in layout.blocks:
        if block.heading:
            rows.append([f"*{_literal(block.heading)}*", *("" for _ in layout.columns)])
        for row in block.rows:
            cells = [cell_text(cell, _markdown_part) for cell in row.cells]
            rows.append([f"{_literal(row.name)}{marks_text(row.marks)}", *cells])
    table = _markdown_table([rows[0], *rows[1:]], 1)
    below = "\n".join(f"{_literal(line)}\n" for line in layout.lines())
    return f"{table}\n{below}"


def _markdown_part(part: Part) -> str:
    before, after = {"best": ("**", "**"), "second": ("<u>", "</u>"), "": ("", "")}[part.rank]
    return f"{before}{part.text}{after}"


def _literal(text: str) -> str:
    """Escape what Markdown would read as markup or as the end of a cell."""
    for character in "\\|*<`":
        text = text.replace(character, f"\\{character}")
    return text


def print_layout(layout: Layout, file: TextIO | None = None) -> None:
    """Print a layout with its caption and footnotes.

    Best figures are bold and second ones underlined where the output is a terminal.
    """
    console = Console(file=file, highlight=False)
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(Text(layout.names), justify="left", overflow="fold")
    for column in layout.columns:
        table.add_column(Text(head_text(column, "\n")), justify="right", overflow="fold")
    for place, block in enumerate(layout.blocks):
        if place:
            table.add_section()
        if block.heading:
            table.add_row(Text(block.heading, style="italic"))
        style = "dim" if block.kind == "published" else ""
        for row in block.rows:
            name = Text(f"{row.name}{marks_text(row.marks)}", style=style)
            table.add_row(name, *(_terminal_cell(cell, style) for cell in row.cells))
    _print_whole(console, table)
    for line in layout.lines():
        console.print(Text(line), soft_wrap=not console.is_terminal)


def _terminal_cell(cell: LaidCell, style: str) -> Text:
    styles = {"best": "bold", "second": "underline", "": ""}
    text = Text(style=style)
    for place, part in enumerate(cell.parts):
        text.append(SEPARATOR if place else "")
        text.append(part.text, style=styles[part.rank])
    text.append(f" (n={cell.count})" if cell.count else "")
    text.append(marks_text(cell.marks))
    return text


def _print_whole(console: Console, table: RichTable) -> None:
    """Print a table; where the output is no terminal it is as wide as it needs to be."""
    if not console.is_terminal:
        wanted = console.measure(table, options=console.options.update(max_width=10_000)).maximum
        console.width = max(console.width, wanted)
    console.print(table)
