"""Layouts as one HTML page that needs nothing else: no network, no library, no font."""

from collections.abc import Iterator
from html import escape
from typing import Final

from sparsevit_plugin.results.layout import (
    SEPARATOR,
    Block,
    LaidCell,
    LaidColumn,
    LaidRow,
    Layout,
    Part,
    head_text,
)

_PAGE_STYLE: Final = """
:root { color-scheme: light dark; --line: #c8ccd2; --soft: #5b6470; --shade: #f3f4f6; }
@media (prefers-color-scheme: dark) {
  :root { --line: #454b54; --soft: #a5adb8; --shade: #22262c; }
}
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; }
main { width: fit-content; max-width: 100%; margin: auto; }
"""

TABLE_STYLE: Final = """
.scroll { overflow-x: auto; position: relative; }
.said {
  position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap;
}
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; white-space: nowrap; }
thead th { border-bottom: 1px solid var(--line); text-align: right; vertical-align: bottom; }
thead th[scope=colgroup] { text-align: center; }
thead th.name, tbody th { text-align: left; font-weight: normal; }
thead { border-top: 2px solid; }
tbody { border-top: 1px solid; }
tbody:last-of-type { border-bottom: 2px solid; }
td { text-align: right; }
tbody th[scope=rowgroup] { font-style: italic; color: var(--soft); }
.best { font-weight: bold; }
.second { text-decoration: underline; }
sup { line-height: 0; }
.n, sup, .published td, .published th { color: var(--soft); }
tbody tr:hover td, tbody tr:hover th[scope=row] { background: var(--shade); }
button { all: unset; cursor: pointer; font-weight: bold; }
button:focus-visible { outline: 2px solid; outline-offset: 2px; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
.notes { color: var(--soft); max-width: 60rem; }
"""
"""Of `table_html`; the page defines the colours `--line`, `--soft` and `--shade`."""

# Sorts the rows of each block for itself, so that published rows stay below measured ones; missing
# figures come last either way.
SORT_SCRIPT: Final = """
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const table = button.closest("table");
    const column = Number(button.dataset.column);
    const first = button.dataset.first;
    const other = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    for (const th of table.querySelectorAll("thead th[aria-sort]")) {
      th.setAttribute("aria-sort", th === head ? order : "none");
    }
    const sign = order === "ascending" ? 1 : -1;
    const key = (row) => row.cells[column].dataset.value ?? "";
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (column === 0 ? x.localeCompare(y) : Number(x) - Number(y));
    };
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => row.dataset.row !== undefined);
      rows.sort(compare).forEach((row) => body.append(row));
    }
  });
}
"""


def to_html(layout: Layout, title: str) -> str:
    """Return a layout as a page.

    Args:
        layout: What to show.
        title: The page's.
    """
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>{_PAGE_STYLE}{TABLE_STYLE}</style>",
        "</head>",
        "<body>",
        "<main>",
        f"<h1>{escape(title)}</h1>",
        table_html(layout),
        "</main>",
        f"<script>{SORT_SCRIPT}</script>",
        "</body>",
        "</html>",
    ]
    return "".join(f"{line}\n" for line in lines)


def table_html(layout: Layout, prefix: str = "", name: str = "") -> str:
    """Return a layout as a table with what stands below it, to be put into a page.

    The page holds `TABLE_STYLE` and, for sorting, `SORT_SCRIPT`.

    Args:
        layout: What to show.
        prefix: Begins every id, so that a page can hold several tables.
        name: What the table is called for those who hear the page; by default its caption.
    """
    caption = f"{prefix}caption"
    named = f'aria-label="{escape(name)}"' if name else f'aria-labelledby="{caption}"'
    lines = [
        f'<div class="scroll" role="region" {named} tabindex="0">',
        f'<table {named} aria-describedby="{caption}">' if name else f"<table {named}>",
        "<thead>",
        *_head(layout),
        "</thead>",
        *(
            line
            for block in layout.blocks
            for line in _block(block, len(layout.columns) + 1, prefix)
        ),
        "</table>",
        "</div>",
        '<div class="notes">',
        f'<p id="{caption}">{escape(layout.caption)}</p>',
        *(
            f'<p id="{prefix}note-{number}"><sup>{number}</sup> {escape(text)}</p>'
            for number, text in enumerate(layout.footnotes, 1)
        ),
        *(f"<p>{escape(remark)}</p>" for remark in layout.remarks),
        "</div>",
    ]
    return "\n".join(lines)


def _head(layout: Layout) -> Iterator[str]:
    """Yield the head: one line, or two where columns share their first."""
    two = layout.has_two_lines
    yield "<tr>"
    yield _sortable(layout.names, 0, "ascending", rows=2 if two else 1)
    place = 1
    for column, span in layout.spans():
        if column.sub:
            count = _count(column.top_count)
            text = f"{escape(column.top)}{count}"
            yield f'<th scope="colgroup" colspan="{span}">{text}</th>'
        else:
            yield _sortable(head_text(column), place, _first(column), rows=2 if two else 1)
        place += span
    yield "</tr>"
    if two:
        yield "<tr>"
        for place, column in enumerate(layout.columns, 1):
            if column.sub:
                text = f"{column.sub} (n={column.sub_count})" if column.sub_count else column.sub
                yield _sortable(text, place, _first(column))
        yield "</tr>"


def _first(column: LaidColumn) -> str:
    """Return the order of the first click: the best on top; the smallest and cheapest model."""
    is_size = column.role in ("parameters", "macs")
    return "ascending" if is_size or column.higher_is_better is False else "descending"


def _sortable(text: str, place: int, first: str, rows: int = 1) -> str:
    span = f' rowspan="{rows}"' if rows > 1 else ""
    span += "" if place else ' class="name"'
    button = f'<button type="button" data-column="{place}" data-first="{first}">'
    return f'<th scope="col"{span} aria-sort="none">{button}{escape(text)}</button></th>'


def _block(block: Block, width: int, prefix: str) -> Iterator[str]:
    yield f'<tbody class="{block.kind}">'
    if block.heading:
        heading = escape(block.heading)
        yield f'<tr><th scope="rowgroup" colspan="{width}">{heading}</th></tr>'
    yield from (_row(row, prefix) for row in block.rows)
    yield "</tbody>"


def _row(row: LaidRow, prefix: str) -> str:
    name = escape(row.name)
    head = f'<th scope="row" data-value="{name}">{name}{_marks(row.marks, prefix)}</th>'
    cells = "".join(_cell(cell, prefix) for cell in row.cells)
    return f"<tr data-row>{head}{cells}</tr>"


def _cell(cell: LaidCell, prefix: str) -> str:
    value = "" if cell.value is None else f' data-value="{cell.value!r}"'
    text = SEPARATOR.join(map(_part, cell.parts))
    return f"<td{value}>{text}{_count(cell.count)}{_marks(cell.marks, prefix)}</td>"


def _part(part: Part) -> str:
    """Return a figure; that it is the best or second is also there for those who hear the page."""
    text = escape(part.text)
    if not part.rank:
        return text
    return f'<span class="{part.rank}">{text}</span><span class="said"> {part.rank}</span>'


def _count(count: str) -> str:
    return f' <span class="n">(n={escape(count)})</span>' if count else ""


def _marks(marks: tuple[int, ...], prefix: str) -> str:
    links = ", ".join(f'<a href="#{prefix}note-{mark}">{mark}</a>' for mark in marks)
    return f"<sup>{links}</sup>" if marks else ""
