r"""Layouts as LaTeX: a `table` environment with booktabs, or a whole document."""

from collections.abc import Iterator, Sequence

from sparsevit_plugin.results.layout import SEPARATOR, LaidCell, Layout

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "▲": r"$\bigtriangleup$",
    "▼": r"$\bigtriangledown$",
    "·": r"$\cdot$",
}
_PREAMBLE = r"""\documentclass{article}
\usepackage[a2paper,landscape,margin=15mm]{geometry}
\usepackage{booktabs}
\begin{document}
"""


def escape(text: str) -> str:
    """Return text that LaTeX sets as it is written; line ends become spaces."""
    words = " ".join(text.split())
    # As the first of a row both would be taken for an argument of the command before them.
    start = "{}" if words[:1] in ("[", "*") else ""
    return start + "".join(_SPECIAL.get(character, character) for character in words)


def to_latex(layout: Layout, label: str, *, standalone: bool = False) -> str:
    r"""Return a layout as a `table` environment; the document needs `\\usepackage{booktabs}`.

    Args:
        layout: What to show.
        label: The table's label is `tab:` and this.
        standalone: Whether to return a whole document that compiles by itself.
    """
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{escape(layout.caption)}}}",
        rf"\label{{tab:{_label(label)}}}",
        r"\small",
        r"\setlength{\tabcolsep}{4pt}",
        rf"\begin{{tabular}}{{l{'r' * len(layout.columns)}}}",
        r"\toprule",
        *_head(layout),
        *_body(layout),
        r"\bottomrule",
        r"\end{tabular}",
        *_below(layout),
        r"\end{table}",
    ]
    text = "".join(f"{line}\n" for line in lines)
    return f"{_PREAMBLE}{text}\\end{{document}}\n" if standalone else text


def _label(text: str) -> str:
    """Return what may stand in a label: anything else becomes a hyphen."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)


def _head(layout: Layout) -> Iterator[str]:
    """Yield the lines of the head: one, or two with rules below what columns share."""
    if not layout.has_two_lines:
        yield _row(
            [layout.names, *(_head_cell(column.top, column.top_count) for column in layout.columns)]
        )
        return
    cells, rules, place = [""], [], 2
    for column, span in layout.spans():
        cells.append(rf"\multicolumn{{{span}}}{{c}}{{{_head_cell(column.top, column.top_count)}}}")
        if column.sub:
            rules.append(rf"\cmidrule(lr){{{place}-{place + span - 1}}}")
        place += span
    yield _row(cells)
    yield "".join(rules)
    yield _row(
        [layout.names, *(_head_cell(column.sub, column.sub_count) for column in layout.columns)]
    )


def _head_cell(text: str, count: str) -> str:
    return escape(text) + (f" ($n={escape(count)}$)" if count.isdecimal() else _count(count))


def _count(count: str) -> str:
    return f" (n={escape(count)})" if count else ""


def _body(layout: Layout) -> Iterator[str]:
    for block in layout.blocks:
        yield r"\midrule"
        if block.heading:
            width = len(layout.columns) + 1
            yield rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escape(block.heading)}}}}} \\"
        for row in block.rows:
            yield _row([escape(row.name) + _marks(row.marks), *map(_cell, row.cells)])


def _cell(cell: LaidCell) -> str:
    commands = {"best": r"\textbf{%s}", "second": r"\underline{%s}", "": "%s"}
    if cell.is_missing:
        return "--"
    parts = [commands[part.rank] % _figure(part.text) for part in cell.parts]
    return SEPARATOR.join(parts) + _count(cell.count) + _marks(cell.marks)


def _figure(text: str) -> str:
    """Escape a figure; a hyphen before a digit is a minus sign."""
    words = [
        f"$-${escape(word[1:])}" if _is_negative(word) else escape(word) for word in text.split()
    ]
    return " ".join("--" if word == "-" else word for word in words)


def _is_negative(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and word[1].isdigit()


def _marks(marks: Sequence[int]) -> str:
    numbers = ",".join(map(str, marks))
    return rf"\textsuperscript{{{numbers}}}" if marks else ""


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _below(layout: Layout) -> Iterator[str]:
    notes = [
        rf"\textsuperscript{{{number}}} {escape(text)}"
        for number, text in enumerate(layout.footnotes, 1)
    ]
    lines = [*notes, *(escape(remark) for remark in layout.remarks)]
    if not lines:
        return
    yield r"\par\smallskip"
    yield r"\begin{minipage}{\linewidth}\footnotesize"
    yield from (rf"{line}\par" for line in lines)
    yield r"\end{minipage}"
