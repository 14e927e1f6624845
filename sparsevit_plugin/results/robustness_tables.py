"""Robustness curves as tables: a row per set and model, a column per strength."""

from collections.abc import Iterator, Sequence

import pandas as pd

from sparsevit_plugin.results.conventions import UNPERTURBED
from sparsevit_plugin.results.latex import escape
from sparsevit_plugin.results.layout import MISSING, number
from sparsevit_plugin.results.robustness import KINDS, Curves


def grid(curves: Curves, kind: str, metric: str, digits: int = 3) -> list[list[str]]:
    """Return the head and the rows of one kind of perturbation as text, means only.

    Args:
        curves: From `robustness.build_curves`.
        kind: As `jpeg`.
        metric: One of its metrics.
        digits: After the point.
    """
    wide, names = _wide(curves, kind, metric)
    head = ["set", "model", *names]
    return [head, *([*labels, *cells] for labels, cells in _lines(wide, digits))]


def to_latex(curves: Curves, digits: int = 3) -> str:
    r"""Return a `table` environment per kind and metric; they need `\\usepackage{booktabs}`.

    Args:
        curves: From `robustness.build_curves`.
        digits: After the point.
    """
    tables = [
        "\n".join(_table(curves, kind, metric, digits))
        for metric in curves.metrics
        for kind in curves.kinds
    ]
    return "\n\n".join(["% needs \\usepackage{booktabs}", *tables]) + "\n"


def _wide(curves: Curves, kind: str, metric: str) -> tuple[pd.DataFrame, list[str]]:
    """Return means by set and model, a column per perturbation in order, and the columns' heads."""
    frame = curves.of(kind, metric)
    order = list(dict.fromkeys([UNPERTURBED, *frame["perturbation"]]))
    sets, models = (list(dict.fromkeys(frame[name])) for name in ("set", "model"))
    rows = [(name, model) for name in sets for model in models]
    wide = frame.pivot_table(
        index=["set", "model"], columns="perturbation", values="mean", dropna=False, sort=False
    )
    wide = wide.reindex(index=pd.MultiIndex.from_tuples(rows), columns=order)
    perturbed = [text for text in order if text != UNPERTURBED]
    of_kind = frame[frame["kind"] == kind]
    present = set(zip(of_kind["set"], of_kind["model"], strict=True))
    wide = wide[[row in present for row in rows]]
    counted = {name: f"{name} (n={_images(frame[frame['set'] == name])})" for name in sets}
    wide = wide.rename(index=counted, level=0)
    names = [text.partition(":")[2] for text in perturbed]
    title = f"{kind} {names[0]}" if names else kind
    return wide, [UNPERTURBED, title, *names[1:]]


def _images(frame: pd.DataFrame) -> str:
    """Return how many images stand behind the values of a set."""
    low, high = int(frame["images"].min()), int(frame["images"].max())
    return str(low) if low == high else f"{low} to {high}"


def _lines(wide: pd.DataFrame, digits: int) -> Iterator[tuple[list[str], list[str]]]:
    """Yield set and model, and the cells; a set's name stands in its first row only."""
    before = ""
    names, models = (wide.index.get_level_values(level).astype(str) for level in (0, 1))
    for name, model, values in zip(names, models, wide.to_numpy(), strict=True):
        yield [name if name != before else "", model], [number(v, digits) for v in values]
        before = name


def _table(curves: Curves, kind: str, metric: str, digits: int) -> Iterator[str]:
    wide, heads = _wide(curves, kind, metric)
    known = KINDS.get(kind)
    axis, title = (known.axis, known.title) if known else (kind, kind)
    caption = f"{title}. {curves.plain[metric]}"
    yield r"\begin{table}[htbp]"
    yield r"\centering"
    yield rf"\caption{{{escape(' '.join([caption, *curves.remarks]))}}}"
    yield rf"\label{{tab:robustness-{_label(kind)}-{_label(metric)}}}"
    yield r"\small"
    yield rf"\begin{{tabular}}{{ll{'r' * len(heads)}}}"
    yield r"\toprule"
    count = len(heads) - 1
    yield rf" & & & \multicolumn{{{count}}}{{c}}{{{escape(axis)}}} \\"
    yield rf"\cmidrule(lr){{4-{3 + count}}}"
    plain = [heads[0], heads[1].removeprefix(f"{kind} "), *heads[2:]]
    yield _row(["set", "model", *plain])
    for labels, cells in _lines(wide, digits):
        if labels[0]:
            yield r"\midrule"
        yield _row([*labels, *("--" if cell == MISSING else cell for cell in cells)])
    yield r"\bottomrule"
    yield r"\end{tabular}"
    yield r"\end{table}"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cell if cell == "--" else escape(cell) for cell in cells) + r" \\"


def _label(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)
