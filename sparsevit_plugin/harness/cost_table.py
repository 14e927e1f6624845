"""Measured costs beside counted ones: the columns, and the rows of a table with them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sparsevit_plugin.backends.choices import TORCH
from sparsevit_plugin.complexity.columns import Column, CostTable, Row
from sparsevit_plugin.harness.measured_cost import (
    MeasuredCost,
    Measurement,
    Settings,
    Subject,
    measure_stored,
    stored_cost,
)
from sparsevit_plugin.harness.progress import Progress

_MIB: Final = 2.0**20
_DONE: Final = {"inference": "call", "training": "step"}
_FACTS: Final = (
    Column("device", "", "name of the processor or GPU"),
    Column("threads", "", "threads of the processor"),
    Column("backend", "", "what computed"),
    Column("precision", "", "number format"),
    Column("reference", "", "the model that ratios are to"),
    Column("measured", "", "when, in UTC"),
    Column("versions", "", "of Python, the libraries and this package"),
    Column("kernels", "", "what computed products and attention on the CPU, by mode"),
)


@dataclass(frozen=True)
class Request:
    """What to measure of every row of a table.

    Attributes:
        subject: Device, backend, precision, threads and imports; its model and size are the row's.
        settings: How.
        relative_to: The reference's name, measured at the size of each row; empty for none.
        folder: Where the cost of each model is stored when it is there.
    """

    subject: Subject
    settings: Settings
    relative_to: str
    folder: str


def with_measured(costs: CostTable, request: Request) -> CostTable:
    """Measure the models of a table one after another, and add what was found to their rows.

    Models that an earlier run with the same folder has measured are not measured again. A row
    whose model could not be built stays as it is.

    Args:
        costs: Rows of counted models.
        request: What to measure.

    Raises:
        UserError: The reference is unknown, or the folder cannot be written.
    """
    pairs = [_pair(row, request) for row in costs.rows]
    stored = [
        stored_cost(subject, request.settings, reference, request.folder)
        for subject, reference in filter(None, pairs)
    ]
    steps = request.settings.steps
    done = steps * sum(cost is not None for cost in stored)
    rows, found = [], []
    with Progress(steps * len(stored), "measuring", start=done) as progress:
        for row, pair in zip(costs.rows, pairs, strict=True):
            if pair is None:
                rows.append(row)
                continue
            note = f"{row['model']} at {pair[0].image_size}"
            cost = measure_stored(
                pair[0],
                request.settings,
                pair[1],
                request.folder,
                lambda note=note: progress.advance(note=note),  # type: ignore[misc]
            )
            found.append(cost)
            rows.append(measured_row(row, cost))
    columns = (*costs.columns, *measured_columns(request.settings, request.relative_to), *_FACTS)
    caption = " ".join(filter(None, (costs.caption, describe(found, request.settings))))
    return replace(costs, rows=rows, columns=columns, caption=caption)


def _pair(row: Row, request: Request) -> tuple[Subject, Subject | None] | None:
    """Return the model of a row and its reference; None where the model could not be built."""
    if row.get("parameters") is None:
        return None
    side = row["image_size"]
    subject = replace(
        request.subject,
        model=row.get("registered", row["model"]),
        image_size=side,
        words=(*request.subject.words, *row.get("words", ())),
    )
    reference = replace(request.subject, model=request.relative_to, image_size=side)
    return subject, reference if request.relative_to else None


def measured_row(row: Row, cost: MeasuredCost) -> dict[str, Any]:
    """Return a row with a model's measured cost; what is NaN has no value."""
    found: dict[str, Any] = {}
    for one in cost.measurements:
        found |= {
            value_name(one.mode, name, one.batch_size): value
            for name, value in _values(one).items()
            if not math.isnan(value)
        }
    facts = {column.name: _as_text(getattr(cost, column.name)) for column in _FACTS}
    reasons = [
        f"{one.mode}, batch {one.batch_size}: {one.reason}"
        for one in cost.measurements
        if one.reason
    ]
    return {**row, **found, **facts, "reason": "; ".join(filter(None, (row["reason"], *reasons)))}


def _as_text(fact: object) -> object:
    """Write names and their values, which may have names of their own, on a line."""
    if not isinstance(fact, Mapping):
        return fact
    return "; ".join(
        f"{name}: {', '.join(f'{k} {v}' for k, v in value.items())}"
        if isinstance(value, Mapping)
        else f"{name} {value}"
        for name, value in fact.items()
    )


def value_name(mode: str, name: str, batch_size: int) -> str:
    """Return the name of the column that holds a figure of a mode at a batch size.

    Args:
        mode: `inference` or `training`.
        name: A field of `Measurement`, or one of its properties.
        batch_size: Images in a call.
    """
    return f"{mode}_{name}:{batch_size}"


def _values(one: Measurement) -> dict[str, float]:
    return {
        "seconds": one.seconds,
        "seconds_low": one.seconds_low,
        "seconds_high": one.seconds_high,
        "spread": one.seconds_high - one.seconds_low,
        "images_per_second": one.images_per_second,
        "held_bytes": one.held_bytes,
        "peak_bytes": one.peak_bytes,
        "ratio": one.ratio,
        "ratio_low": one.ratio_low,
        "ratio_high": one.ratio_high,
    }


def measured_columns(settings: Settings, relative_to: str) -> list[Column]:
    """Return the columns of measured costs.

    Tables for people show time, spread, memory and ratio at the first batch size, and images a
    second at all of them; CSV has every figure.
    """
    return [
        column
        for mode in settings.modes
        for number, size in enumerate(settings.batch_sizes)
        for column in _columns_of(mode, size, relative_to, is_first=number == 0)
    ]


def _columns_of(mode: str, size: int, relative_to: str, *, is_first: bool) -> list[Column]:
    done = _DONE[mode]
    time = "latency" if (mode, size) == ("inference", 1) else f"{done} of {size}"
    each = f"in one {mode} {done} on {size} image{'s' if size > 1 else ''}"

    def column(name: str, unit: str, meaning: str, head: str = "", divisor: float = 1.0) -> Column:
        shown = head if is_first or name == "images_per_second" else ""
        return Column(value_name(mode, name, size), unit, meaning, shown, divisor)

    return [
        column("seconds", "s", f"median time {each}", f"{time}, ms", 1e-3),
        column("seconds_low", "s", f"first quartile of the time {each}"),
        column("seconds_high", "s", f"third quartile of the time {each}"),
        column("spread", "s", f"interquartile range of the time {each}", f"{time} IQR, ms", 1e-3),
        replace(
            column(
                "images_per_second",
                "1/s",
                f"{size} over the median time {each}",
                f"{done}s of {size}, images/s",
            ),
            higher_is_better=True,
        ),
        column("held_bytes", "B", f"memory that the model takes between calls, {mode}"),
        column(
            "peak_bytes",
            "B",
            f"memory that the model holds, and the most that is taken above it {each}",
            f"{done} of {size} peak, MiB",
            _MIB,
        ),
        column(
            "ratio",
            "",
            f"time {each} as a multiple of {relative_to}'s, the two taking turns",
            f"{time} / {relative_to}'s",
        ),
        column("ratio_low", "", "first quartile of that over turns"),
        column("ratio_high", "", "third quartile of that over turns"),
    ]


def describe(costs: Sequence[MeasuredCost], settings: Settings) -> str:
    """Say in a sentence on what, with what and how costs were measured; empty for none."""
    if not costs:
        return ""
    where = {
        f"{cost.device}, {cost.threads} thread{'s' if cost.threads > 1 else ''}, {cost.backend} "
        f"in {cost.precision}"
        for cost in costs
    }
    libraries = "; ".join(sorted(_libraries(costs)))
    return (
        f"Measured on {'; '.join(sorted(where))}; {libraries}; medians of {settings.repeats} calls "
        "after a warm-up, each model in a process of its own."
    )


def _libraries(costs: Sequence[MeasuredCost]) -> set[str]:
    """Name PyTorch and the other backends that computed, with their versions."""
    return {
        f"{'PyTorch' if name == TORCH else name} {cost.versions[name]}"
        for cost in costs
        for name in (TORCH, cost.backend)
    }
