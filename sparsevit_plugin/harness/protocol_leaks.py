"""The leaks of a protocol: every training set against every test set, as a matrix."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.leak import DEFAULT_THRESHOLD, Advance, LeakReport, leak_matrix
from sparsevit_plugin.harness.registered_sets import DataRoots, read_registered
from sparsevit_plugin.harness.sources import ImageSet
from sparsevit_plugin.protocol.schema import Protocol, SetUse
from sparsevit_plugin.results.layout import (
    MISSING,
    Block,
    LaidCell,
    LaidColumn,
    LaidRow,
    Layout,
    Part,
)

ANY = "any of them"
KINDS = ("identical", "near-duplicate", "photograph")
_PARTS = {"exclude": "tampered", "include": "all", "only": "authentic"}


@dataclass(frozen=True)
class ProtocolLeaks:
    """What the training and test sets of a protocol share.

    Attributes:
        protocol: Its name.
        first: Names of the training sets, in order.
        second: Names of the test sets, in order.
        reports: (training set, test set) to their report; a set that is not there has none.
        absent: Set to why it was not compared.
        hashed: How images were compared, and the threshold.
    """

    protocol: str
    first: Sequence[str]
    second: Sequence[str]
    reports: dict[tuple[str, str], LeakReport]
    absent: dict[str, str]
    hashed: str

    @property
    def has_leaks(self) -> bool:
        """Whether any training set shares a photograph with any test set."""
        return any(report.pairs for report in self.reports.values())

    def frame(self) -> pd.DataFrame:
        """Return one line per pair of sets.

        Columns: `protocol`, `train`, `test`; `train_images`, `test_images`; `shared`, the images of
        the test set that take part in a pair, and the same of each kind; empty where a set is not
        there.
        """
        columns = ["protocol", "train", "test", "train_images", "test_images", "shared", *KINDS]
        lines = []
        for one in self.first:
            for other in self.second:
                report = self.reports.get((one, other))
                counts: list[int | None] = [None] * (3 + len(KINDS))
                if report is not None:
                    kinds = [report.touched(kind) for kind in KINDS]  # type: ignore[arg-type]
                    sizes = [report.first_images, report.second_images]
                    counts = [*sizes, report.touched(), *kinds]
                lines.append([self.protocol, one, other, *counts])
        frame = pd.DataFrame(lines, columns=columns)
        return frame.astype(dict.fromkeys(columns[3:], "Int64"))

    def layout(self) -> Layout:
        """Return the matrix: rows are training sets, columns are test sets."""
        heads = tuple(LaidColumn(name, "", "set") for name in self.second)
        rows = [self._row(one) for one in self.first]
        if len(self.first) > 1:
            rows.append(LaidRow(ANY, (), tuple(self._any(name) for name in self.second)))
        caption = (
            f"Protocol {self.protocol}: images of each test set that share a photograph with a "
            f"training set, of how many. {self.hashed}"
        )
        remarks = tuple(f"Not compared: {text}" for text in self._not_compared())
        return Layout(heads, (Block("", "measured", tuple(rows)),), caption, (), remarks, "train")

    def _row(self, one: str) -> LaidRow:
        cells = []
        for other in self.second:
            report = self.reports.get((one, other))
            if report is None:
                cells.append(LaidCell((Part(MISSING),)))
                continue
            kinds = [
                f"{count} {kind}"
                for kind in KINDS
                if (count := report.touched(kind))  # type: ignore[arg-type]
            ]
            words = f" ({', '.join(kinds)})" if kinds else ""
            text = f"{report.touched()} of {report.second_images}{words}"
            cells.append(LaidCell((Part(text),), value=report.touched()))
        return LaidRow(one, (), tuple(cells))

    def _any(self, other: str) -> LaidCell:
        reports = [self.reports[one, other] for one in self.first if (one, other) in self.reports]
        if not reports:
            return LaidCell((Part(MISSING),))
        touched = {pair.second for report in reports for pair in report.pairs}
        text = f"{len(touched)} of {reports[0].second_images}"
        return LaidCell((Part(text),), value=len(touched))

    def _not_compared(self) -> list[str]:
        lines = list(self.absent.values())
        unreadable = {line for report in self.reports.values() for line in report.unreadable}
        lines += sorted(unreadable)
        flat = {name for report in self.reports.values() for name in report.flat}
        lines += [f"{len(flat)} images without texture"] if flat else []
        return lines


def protocol_leaks(
    protocol: Protocol,
    roots: DataRoots,
    *,
    threshold: int = DEFAULT_THRESHOLD,
    cache: Path | None = None,
    progress: Advance | None = None,
) -> ProtocolLeaks:
    """Compare every training set of a protocol with every test set.

    Args:
        protocol: The protocol.
        roots: Where sets are. A set that is not there, or cannot be read, is left out and named.
        threshold: As of `leak.find_leaks`.
        cache: As of `leak.find_leaks`.
        progress: As of `leak.find_leaks`.

    Raises:
        UserError: The protocol trains nothing, or no training set or no test set is there.
    """
    if protocol.train is None:
        raise UserError(f"protocol {protocol.name} trains nothing: it has no training set to leak")
    absent: dict[str, str] = {}
    first, trained = _read(protocol.train.sets, roots, absent)
    second, tested = _read(protocol.test.sets, roots, absent)
    for found, what in ((trained, "training"), (tested, "test")):
        if not found:
            raise UserError(
                f"protocol {protocol.name}: none of its {what} sets is there: "
                f"{next(iter(absent.values()))}"
            )
    matrix = leak_matrix(trained, tested, threshold=threshold, cache=cache, progress=progress)
    reports = {(report.first, report.second): report for line in matrix for report in line}
    sample = matrix[0][0]
    hashed = (
        f"Near-duplicates: {sample.method}, at most {threshold} bits differ; identical: equal "
        "files; photograph: their manifests name the same one."
    )
    return ProtocolLeaks(protocol.name, first, second, reports, absent, hashed)


def _read(
    uses: Sequence[SetUse], roots: DataRoots, absent: dict[str, str]
) -> tuple[list[str], list[ImageSet]]:
    """Return the sets' names, those that are used in parts with the part, and the sets found."""
    names, found = [], []
    often = [use.set for use in uses]
    for use in uses:
        part = f" ({_PARTS[use.authentic]})" if often.count(use.set) > 1 else ""
        names.append(f"{use.set}{part}")
        try:
            one = read_registered(use.set, roots, authentic=use.authentic)
        except UserError as error:
            absent.setdefault(use.set, str(error))
            continue
        found.append(replace(one, name=names[-1]))
    return names, found
