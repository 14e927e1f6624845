"""Training curves from the logs that runs leave: losses, learning rate, and what is selected on."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import parse_json
from sparsevit_plugin.report.charts import STYLES, Chart, Series

LOG_NAME: Final = "metrics.jsonl"
RUN_NAME: Final = "run.json"

_MOST_POINTS: Final = 600  # of a line; of longer logs the mean of each epoch is drawn
_KEYS: Final = ("position", "epoch", "step", "lr")


@dataclass(frozen=True)
class Epoch:
    """One epoch of a log.

    Attributes:
        number: Counted from 1.
        losses: The mean of the logged steps, by the loss's name.
        lr: Learning rate at the last logged step; NaN where none is logged.
        selection: What the checkpoint is selected by after the epoch; NaN where it was not judged.
    """

    number: int
    losses: Mapping[str, float]
    lr: float
    selection: float


@dataclass(frozen=True)
class Training:
    """One training run.

    Attributes:
        name: Model and seed where they are known, else the folder's name.
        folder: Where its log is.
        charts: Its curves.
        losses: Names of the losses.
        epochs: The same as numbers.
        selected_on: What `selection` of the epochs is on: `val` or `test`; empty for nothing.
        notes: What a reader must know.
    """

    name: str
    folder: str
    charts: tuple[Chart, ...]
    losses: tuple[str, ...]
    epochs: tuple[Epoch, ...]
    selected_on: str = ""
    notes: tuple[str, ...] = ()


def find_logs(folders: Iterable[Path]) -> list[Path]:
    """Return the logs of all runs in and below some folders, each once, sorted by path."""
    found = {path.resolve(): path for folder in folders for path in folder.rglob(LOG_NAME)}
    return sorted(found.values())


def read_training(log: Path) -> Training | None:
    """Read the log of a run.

    Lines that are damaged, as by a kill, are passed over and counted in the notes.

    Returns:
        The run; None where the log holds no point.

    Raises:
        UserError: The log cannot be read.
    """
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {log}: {error.strerror or error}") from error
    points = [point for line in lines if (point := _point(line)) is not None]
    steps = [point for point in points if "step" in point]
    judged = [point for point in points if "select" in point and "pixel_f1" in point]
    if not steps and not judged:
        return None
    names = tuple(dict.fromkeys(name for point in steps for name in point if name not in _KEYS))
    epochs = _epochs(steps, judged, names)
    bad = sum(1 for line in lines if line.strip()) - len(points)
    notes = [f"{bad} damaged lines of the log were passed over"] if bad else []
    if len(steps) > _MOST_POINTS:
        notes.append(f"{len(steps)} steps are logged; drawn is the mean of each epoch")
    selected_on = str(judged[-1]["select"]) if judged else ""
    return Training(
        name=_name(log.parent),
        folder=str(log.parent),
        charts=tuple(_charts(steps, epochs, names, selected_on)),
        losses=names,
        epochs=tuple(epochs),
        selected_on=selected_on,
        notes=tuple(notes),
    )


def _point(line: str) -> dict[str, Any] | None:
    """Return a logged point: figures, and the word `select`; None for what is none."""
    try:
        content = parse_json(line)
        content["epoch"] = int(content["epoch"])
        return {k: v if k == "select" else float(v) for k, v in content.items()}
    except (ValueError, TypeError, KeyError, OverflowError):
        return None


def _name(folder: Path) -> str:
    try:
        options = parse_json((folder / RUN_NAME).read_text(encoding="utf-8"))["config"]["options"]
        return f"{options['name'] or options['model']}, seed {options['seed']}"
    except (OSError, ValueError, KeyError, TypeError):
        return folder.resolve().name


def _epochs(
    steps: Sequence[Mapping[str, Any]], judged: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[Epoch]:
    by_epoch: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for point in steps:
        by_epoch[int(point["epoch"])].append(point)
    selection = {int(point["epoch"]): float(point["pixel_f1"]) for point in judged}
    found = []
    for epoch in sorted({*by_epoch, *selection}):
        of_epoch = by_epoch[epoch]
        losses = {name: _mean([p[name] for p in of_epoch if name in p]) for name in names}
        lr = float(of_epoch[-1].get("lr", math.nan)) if of_epoch else math.nan
        found.append(Epoch(epoch + 1, losses, lr, selection.get(epoch, math.nan)))
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _charts(
    steps: Sequence[Mapping[str, Any]],
    epochs: Sequence[Epoch],
    names: Sequence[str],
    selected_on: str,
) -> Iterable[Chart]:
    """Yield the charts of a run; the horizontal axis is epochs done."""
    done = (0.0, float(max(epoch.number for epoch in epochs)))
    if names:
        losses = [
            Series(name, *_curve(steps, epochs, name), style=place % STYLES)
            for place, name in enumerate(names)
        ]
        ends = "; ".join(_first_and_last(name, [e.losses[name] for e in epochs]) for name in names)
        yield Chart(
            "Training loss",
            "epochs done",
            "loss",
            tuple(losses),
            f"Mean of an epoch: {ends}.",
            x_range=done,
        )
    rates = _curve(steps, epochs, "lr")
    if any(map(math.isfinite, rates[1])):
        largest = max(filter(math.isfinite, rates[1]))
        yield Chart(
            "Learning rate",
            "epochs done",
            "learning rate",
            (Series("learning rate", *rates),),
            f"Largest {largest:.3g}, last {rates[1][-1]:.3g}.",
            x_range=done,
        )
    judged = [epoch for epoch in epochs if math.isfinite(epoch.selection)]
    if judged:
        best = max(judged, key=lambda epoch: epoch.selection)
        values = tuple(epoch.selection for epoch in judged)
        yield Chart(
            f"Pixel F1 on {selected_on}",
            "epochs done",
            "pixel F1",
            (Series("pixel F1", tuple(float(epoch.number) for epoch in judged), values),),
            f"Best {best.selection:.3f} after epoch {best.number}.",
            x_range=done,
        )


def _curve(
    steps: Sequence[Mapping[str, Any]], epochs: Sequence[Epoch], name: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return a figure of the steps over epochs done, or of a long log the mean of each epoch."""
    if len(steps) > _MOST_POINTS:
        values = [epoch.lr if name == "lr" else epoch.losses[name] for epoch in epochs]
        return tuple(float(epoch.number) for epoch in epochs), tuple(values)
    length = _steps_per_epoch(steps)
    places = tuple((point["position"] + 1) / length for point in steps)
    return places, tuple(float(point.get(name, math.nan)) for point in steps)


def _steps_per_epoch(steps: Sequence[Mapping[str, Any]]) -> float:
    """Return what positions and epochs say; of a first epoch alone, as far as it has come."""
    for point in reversed(steps):
        if point["epoch"] > 0:
            return max(1.0, (point["position"] - point["step"]) / point["epoch"])
    return max((point["position"] + 1 for point in steps), default=1.0)


def _first_and_last(name: str, values: Sequence[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return f"{name} was never finite"
    return f"{name} {finite[0]:.3g} in the first epoch, {finite[-1]:.3g} in the last"
