"""Detection from stored rows: image-level figures, and how well scores are calibrated.

    >>> study = build_detection(sparsevit_plugin.results.load("runs"))
    >>> study.figures, study.reliability  # pandas DataFrames

Scores are the rows' `score`: a detector's own, or one pooled from the map (the caption says which).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.aggregate import Conventions, select_rows
from sparsevit_plugin.results.conventions import METRICS, UNPERTURBED
from sparsevit_plugin.results.latex import escape
from sparsevit_plugin.results.layout import MISSING, number
from sparsevit_plugin.results.render import to_markdown
from sparsevit_plugin.results.store import Results
from sparsevit_plugin.results.tables import Table, build_table

_RANKS: Final = re.compile(r" Bold: best of a column;[^.]*\.")

DETECTION_METRICS: Final = (
    *("image_f1", "image_accuracy", "image_balanced_accuracy"),
    *("image_auc", "image_ap", "image_eer", "image_ece"),
)


@dataclass(frozen=True)
class DetectionStudy:
    """Image-level figures.

    Attributes:
        table: With all of `DETECTION_METRICS`.
        figures: One line per set and model: `set`, `model`, `tampered` and `authentic` images, and
            a column per metric; NaN where undefined, as with one class.
        reliability: One line per set, model and bin of scores that holds images: `set`, `model`,
            `low` (not in the bin) and `high`, `images`, `mean_score`, `tampered_share`. Images
            count once for each seed.
    """

    table: Table
    figures: pd.DataFrame
    reliability: pd.DataFrame

    @property
    def models(self) -> list[str]:
        """Row labels, in order."""
        return [row.label for row in self.table.rows]

    @property
    def sets(self) -> list[str]:
        """Sets that have both classes and scores that are probabilities, in order."""
        present = set(self.reliability["set"])
        return [name for name in self.table.sets if name in present]

    def grid(self, digits: int = 3) -> list[list[str]]:
        """Return a head and a row per set and model as text."""
        heads = [METRICS[name].short.removeprefix("image ") for name in DETECTION_METRICS]
        rows = [["set", "model", "tampered", "authentic", *heads]]
        for line in self.figures.to_dict("records"):
            cells = [number(line[name], digits) for name in DETECTION_METRICS]
            counts = [str(line["tampered"]), str(line["authentic"])]
            rows.append([line["set"], line["model"], *counts, *cells])
        return rows

    def lines(self) -> list[str]:
        """Return what stands below the table, in which no figure is ranked."""
        return [_RANKS.sub("", line, 1) for line in self.table.lines()]

    def to_markdown(self, digits: int = 3) -> str:
        """Return the table and what stands below it as Markdown."""
        below = "".join(f"\n{line}\n" for line in self.lines())
        return to_markdown(self.grid(digits), names=2) + below

    def to_latex(self, digits: int = 3) -> str:
        r"""Return a `table` environment; the document needs `\\usepackage{booktabs}`."""
        grid = self.grid(digits)
        body = [
            " & ".join("--" if cell == MISSING else escape(cell) for cell in row) + r" \\"
            for row in grid
        ]
        lines = [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}[htbp]",
            r"\centering",
            rf"\caption{{{escape(' '.join(self.lines()))}}}",
            r"\label{tab:detection}",
            r"\small",
            rf"\begin{{tabular}}{{ll{'r' * (len(grid[0]) - 2)}}}",
            *(r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule"),
            *(r"\end{tabular}", r"\end{table}"),
        ]
        return "".join(f"{line}\n" for line in lines)

    def figures_csv(self) -> str:
        """Return `figures` and the caption as CSV; missing values are empty."""
        frame = self.figures.assign(caption=self.table.caption)
        return str(frame.to_csv(index=False, lineterminator="\n"))

    def reliability_csv(self) -> str:
        """Return `reliability` as CSV."""
        return str(self.reliability.to_csv(index=False, lineterminator="\n"))


def build_detection(
    results: Results,
    *,
    rows: Sequence[str] | None = None,
    sets: Sequence[str] | None = None,
    protocol: str | None = None,
    perturbation: str = UNPERTURBED,
    allow_mixed: bool = False,
) -> DetectionStudy:
    """Gather image-level figures from stored rows.

    Args:
        results: From `sparsevit_plugin.results.load`.
        rows: Model names, row labels, groups or manifest ids, in order; None for all.
        sets: Set names, in order; None for the protocol's, without one for all but hold-outs.
        protocol: A protocol's name or file: gives the sets.
        perturbation: What was done to the photographs, as `jpeg:75`.
        allow_mixed: As of `tables.build_table`.

    Raises:
        UserError: As `build_table`; or no row has an image score.
    """
    table = build_table(
        results,
        DETECTION_METRICS,
        rows=rows,
        sets=sets,
        protocol=protocol,
        perturbation=perturbation,
        complexity=False,
        average=False,
        allow_mixed=allow_mixed,
    )
    if table.is_empty:
        raise UserError("no rows by the exact evaluators: run benco test --task detection first")
    conventions = Conventions("image_auc", perturbation=perturbation)
    chosen = select_rows(results.rows.reset_index(drop=True), conventions)
    chosen = chosen[chosen["score"].notna() & chosen["label"].notna()]
    lines: list[dict[str, Any]] = []
    bins: list[pd.DataFrame] = []
    for name in table.sets:
        of_set = chosen[chosen["dataset"] == name]
        for row in table.rows:
            own = of_set[of_set["manifest_id"].isin(row.manifest_ids)]
            if own.empty:
                continue
            labels = own["label"].to_numpy(np.int64)
            seeds = own["manifest_id"].nunique()
            figures = {
                metric: table.figures[metric].at("values", row.label, name)
                for metric in DETECTION_METRICS
            }
            counts = {"tampered": int(labels.sum()) // seeds}
            counts["authentic"] = len(labels) // seeds - counts["tampered"]
            lines.append({"set": name, "model": row.label, **counts, **figures})
            bins.append(_bins(labels, own["score"].to_numpy(np.float64), name, row.label))
    if not lines:
        raise UserError("no row has an image score: run benco test --task detection")
    columns = ["set", "model", "tampered", "authentic", *DETECTION_METRICS]
    return DetectionStudy(
        table, pd.DataFrame(lines, columns=columns), pd.concat(bins, ignore_index=True)
    )


def _bins(labels: np.ndarray, scores: np.ndarray, name: str, label: str) -> pd.DataFrame:
    """Return the bins that hold images; none with one class, or where a score is no probability."""
    from sparsevit_plugin.harness.metrics import reliability  # imports torch

    found = reliability(labels, scores) if 0 < labels.sum() < len(labels) else None
    columns = ["set", "model", "low", "high", "images", "mean_score", "tampered_share"]
    if found is None:
        return pd.DataFrame(columns=columns)
    frame = pd.DataFrame(
        {
            "set": name,
            "model": label,
            "low": found.low,
            "high": found.high,
            "images": found.count,
            "mean_score": found.mean_score,
            "tampered_share": found.tampered_share,
        }
    )
    return frame[frame["images"] > 0]
