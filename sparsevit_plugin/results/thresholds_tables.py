"""Thresholds as tables: what each choice of a threshold gives, and what of a difference remains."""

import math
from collections.abc import Sequence

import pandas as pd

from sparsevit_plugin.results.latex import escape
from sparsevit_plugin.results.layout import MISSING, number
from sparsevit_plugin.results.render import to_markdown
from sparsevit_plugin.results.thresholds import (
    CALIBRATION,
    CHOICES,
    FIXED,
    IMAGE_ORACLE,
    SET_ORACLE,
    VALIDATION,
    ThresholdStudy,
)

HEADS = {
    FIXED: "at 0.5",
    VALIDATION: "at validation's",
    SET_ORACLE: "set oracle",
    IMAGE_ORACLE: "image oracle",
    CALIBRATION: "calibration",
}


def figures_grid(study: ThresholdStudy, digits: int = 3) -> list[list[str]]:
    """Return a head and a row per set and model: the figure by every choice of a threshold."""
    head = ["set", "model", "images", *(HEADS[choice] for choice in CHOICES)]
    rows = [[*head, "validation's threshold", "set's best"]]
    for name in dict.fromkeys(study.table["set"]):
        for line in study.table[study.table["set"] == name].to_dict("records"):
            cells = [number(line[choice], digits) for choice in CHOICES]
            thresholds = [
                _text(line[f"{choice}_threshold"], digits) for choice in (VALIDATION, SET_ORACLE)
            ]
            rows.append([name, line["model"], str(line["images"]), *cells, *thresholds])
    return rows


def differences_grid(study: ThresholdStudy, digits: int = 3) -> list[list[str]]:
    """Return a head and a row per set and pair: the difference by every choice, with interval."""
    choices = (*CHOICES, CALIBRATION)
    rows = [["set", "difference", "images", *(HEADS[choice] for choice in choices)]]
    frame = study.differences
    for name in dict.fromkeys(frame["set"]):
        for pair, part in frame[frame["set"] == name].groupby(["model", "reference"], sort=False):
            by_choice = part.set_index("choice")
            cells = [_interval(by_choice.loc[choice], digits) for choice in choices]
            rows.append([str(name), " - ".join(pair), str(part["images"].iloc[0]), *cells])
    return rows


def _text(value: object, digits: int) -> str:
    """Return the thresholds of all seeds, rounded."""
    words = [] if not isinstance(value, str) else value.split()
    return ", ".join(number(float(word), digits) for word in words) or MISSING


def _interval(line: pd.Series, digits: int) -> str:
    if math.isnan(line["difference"]):
        return MISSING
    value, low, high = (_signed(line[name], digits) for name in ("difference", "low", "high"))
    return value if math.isnan(line["low"]) else f"{value} ({low} to {high})"


def _signed(value: float, digits: int) -> str:
    text = number(value, digits)
    return f"+{text}" if value > 0 and float(text) else text


def lines_below(study: ThresholdStudy) -> list[str]:
    """Return what stands below the tables."""
    return [*study.answers(), study.caption, *study.remarks]


def study_to_markdown(study: ThresholdStudy, digits: int = 3) -> str:
    """Return both tables and what stands below them as Markdown."""
    tables = [to_markdown(figures_grid(study, digits), names=2)]
    if len(study.differences):
        tables.append(to_markdown(differences_grid(study, digits), names=2))
    below = "".join(f"\n{line}\n" for line in lines_below(study))
    return "\n".join(tables) + below


def study_to_latex(study: ThresholdStudy, digits: int = 3) -> str:
    r"""Return both tables as `table` environments; they need `\\usepackage{booktabs}`."""
    parts = [
        "% needs \\usepackage{booktabs}",
        _table(figures_grid(study, digits), study.caption, "f1"),
    ]
    if len(study.differences):
        caption = " ".join(study.answers())
        parts.append(_table(differences_grid(study, digits), caption, "differences"))
    return "\n".join(parts)


def _table(grid: Sequence[Sequence[str]], caption: str, label: str) -> str:
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{tab:thresholds-{label}}}",
        r"\small",
        rf"\begin{{tabular}}{{ll{'r' * (len(grid[0]) - 2)}}}",
        r"\toprule",
        _row(grid[0]),
        r"\midrule",
    ]
    before = grid[1][0]
    for row in grid[1:]:
        lines += [r"\addlinespace"] * (row[0] != before)
        lines.append(_row(row))
        before = row[0]
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "".join(f"{line}\n" for line in lines)


def _row(cells: Sequence[str]) -> str:
    return " & ".join(_cell(cell) for cell in cells) + r" \\"


def _cell(text: str) -> str:
    """Escape a cell; a hyphen before a figure is a minus sign."""
    if text == MISSING:
        return "--"
    words = [
        f"{word[:place]}$-${escape(word[place + 1 :])}"
        if (place := word.find("-")) in (0, 1) and word[place + 1 :][:1].isdigit()
        else escape(word)
        for word in text.split()
    ]
    return " ".join(words)
