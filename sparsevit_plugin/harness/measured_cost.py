"""What a model costs on this machine: time of a call, images a second, memory.

Each model is measured in a process of its own, so that its crash, its memory and its settings touch
no other. Where a reference is given, its process takes turns with the model's and the ratio of the
two is stored: machines differ and their load varies, ratios of one run do so less.

    >>> cost = measure(Subject("SparseViT_tiny", 128), Settings(batch_sizes=(1,)))
    >>> cost.of("inference", 1).seconds  # median of ten calls
    0.0107
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from sparsevit_plugin.backends.choices import INT8, OPENVINO, TORCH
from sparsevit_plugin.backends.from_config import (
    calibration_facts,
    calibration_sets,
    choice_of,
    device_of,
    matmul_of,
)
from sparsevit_plugin.cards import load_model_card
from sparsevit_plugin.files import file_name, parse_json, write_json_atomic
from sparsevit_plugin.harness.child_process import ChildError, ChildProcess
from sparsevit_plugin.harness.complexity import sources_hash
from sparsevit_plugin.harness.config import resolve
from sparsevit_plugin.harness.devices import accelerator_of, format_of
from sparsevit_plugin.machine import processor_name
from sparsevit_plugin.model.probe import choose_kernels
from sparsevit_plugin.versions import DISTRIBUTION, installed_version

MODES: Final = ("inference", "training")

COST_VERSION: Final = 1
"""Raised when the same model would be measured differently: stored costs are measured again."""

_CHILD: Final = "sparsevit_plugin.harness.cost_child"
_TURNS: Final = 5
_NAN: Final = float("nan")


@dataclass(frozen=True)
class Subject:
    """What is measured: all that a process needs to build it.

    Attributes:
        model: A registered model or a card.
        image_size: Side of the square input in pixels; None for the card's own.
        device: As `--device`.
        backend: What computes the predictions, see `sparsevit_plugin.backends`.
        precision: One of the backend's, or `auto`: what the model is tested in by default.
        threads: Of the CPU; None for what PyTorch takes.
        matmul: As `--matmul`: which library multiplies matrices on a CPU.
        imports: What `--import` was given.
        words: More words of a `benco test` command, as constructor arguments.
    """

    model: str
    image_size: int | None = None
    device: str = "auto"
    backend: str = TORCH
    precision: str = "auto"
    threads: int | None = None
    matmul: str = "auto"
    imports: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def command(self) -> list[str]:
        """Return the words of the `benco test` command whose model this is; no set is read."""
        given = ["--model", self.model, "--device", self.device, "--backend", self.backend]
        given += ["--matmul", self.matmul]
        if self.precision != "auto":
            given += ["--precision", self.precision]
        if self.image_size is not None:
            given += ["--image-size", str(self.image_size)]
        if "--fit" not in self.words and load_model_card(self.model) is None:
            given += ["--fit", "resize"]
        for name in self.imports:
            given += ["--import", name]
        return [*given, "--test-data-path", "none", *self.words]


@dataclass(frozen=True)
class Settings:
    """How it is measured.

    Attributes:
        batch_sizes: Images a call; larger ones are not tried once memory has run out.
        training: Whether a training step (forward, loss, backward) is measured too.
        repeats: Timed calls at each batch size.
        timeout: Seconds that a process may take to build a model, to prepare a batch size, or for
            its turn; it is ended then.
    """

    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    training: bool = False
    repeats: int = 10
    timeout: float = 600.0

    @property
    def modes(self) -> tuple[str, ...]:
        """What is measured, of `MODES`."""
        return MODES if self.training else MODES[:1]

    @property
    def steps(self) -> int:
        """Measurements of one model."""
        return len(self.modes) * len(self.batch_sizes)


@dataclass(frozen=True)
class Measurement:
    """One mode at one batch size. What could not be measured is NaN.

    Attributes:
        mode: `inference` (evaluation mode, no gradients) or `training` (forward, loss and backward
            in training mode, no optimiser).
        batch_size: Images in a call.
        seconds: Of one call, the median.
        seconds_low: Their first quartile.
        seconds_high: Their third quartile.
        repeats: Timed calls.
        warm_up: Calls before them.
        settled: Whether the last calls of the warm-up agreed.
        held_bytes: Memory that the model takes between calls: weights, and what it keeps.
        call_bytes: Memory that a call takes above that, at its highest.
        ratio: Its seconds as a multiple of the reference's, measured in turns: the median over
            turns of the ratio of medians.
        ratio_low: The first quartile over turns.
        ratio_high: The third quartile over turns.
        reason: Why something is NaN; empty where nothing is.
    """

    mode: str
    batch_size: int
    seconds: float = _NAN
    seconds_low: float = _NAN
    seconds_high: float = _NAN
    repeats: int = 0
    warm_up: int = 0
    settled: bool = False
    held_bytes: float = _NAN
    call_bytes: float = _NAN
    ratio: float = _NAN
    ratio_low: float = _NAN
    ratio_high: float = _NAN
    reason: str = ""

    @property
    def images_per_second(self) -> float:
        """The batch size over the median time."""
        return self.batch_size / self.seconds

    @property
    def peak_bytes(self) -> float:
        """All memory of the model at the highest point of a call; the batch itself is left out."""
        return self.held_bytes + self.call_bytes


@dataclass(frozen=True)
class MeasuredCost:
    """What one model costs on one device.

    Attributes:
        model: Its card or registered name.
        image_size: Side of its input in pixels.
        device: Name of the processor or GPU.
        threads: Of the CPU.
        backend: What computed the predictions.
        precision: As `--precision`, never `auto`.
        reference: The model that ratios are to; empty without one.
        versions: Of Python, PyTorch, the backend, IMDLBenCo and this package.
        kernels: What multiplied matrices and computed attention on the CPU, by mode, as
            `model.kernels.Kernels`; empty on other devices.
        measured: When, in UTC.
        measurements: Each mode at each batch size.
    """

    model: str
    image_size: int
    device: str
    threads: int
    backend: str
    precision: str
    reference: str
    versions: Mapping[str, str]
    kernels: Mapping[str, Mapping[str, Any]]
    measured: str
    measurements: tuple[Measurement, ...]

    def of(self, mode: str, batch_size: int) -> Measurement:
        """Return a measurement; all NaN where it was not made."""
        for measurement in self.measurements:
            if (measurement.mode, measurement.batch_size) == (mode, batch_size):
                return measurement
        return Measurement(mode, batch_size, reason="not measured")

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why figures are missing, each once."""
        return tuple(dict.fromkeys(one.reason for one in self.measurements if one.reason))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it: NaN becomes None."""
        content = asdict(self)
        content["measurements"] = [
            {name: _plain(value) for name, value in one.items()} for one in content["measurements"]
        ]
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "MeasuredCost":
        """Read what `to_dict` wrote.

        Raises:
            TypeError: A field is missing or unknown.
        """
        measurements = []
        for one in content["measurements"]:
            values: dict[str, Any] = {k: _NAN if v is None else v for k, v in one.items()}
            measurements.append(Measurement(**values))
        return cls(**{**content, "measurements": tuple(measurements)})


def _plain(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value


# --- measuring -----------------------------------------------------------------------------------

Advance = Callable[[], None]


def measure(
    subject: Subject,
    settings: Settings,
    reference: Subject | None = None,
    advance: Advance | None = None,
) -> MeasuredCost:
    """Measure a model, each mode in a fresh process.

    Args:
        subject: The model.
        settings: How.
        reference: Measured in turns with it; its figures are of this run alone and not kept.
        advance: Called after each of `settings.steps` measurements.

    Returns:
        The costs; what a crash, the time limit or want of memory left unmeasured is NaN and has a
        reason.

    Raises:
        UserError: The model is not registered, or its flags are wrong.
    """
    cfg = resolve("test", subject.command())
    choice = choice_of(cfg)
    is_reference = reference is not None and _is_same(subject, reference)
    found: list[Measurement] = []
    kernels: dict[str, dict[str, Any]] = {}
    for mode in settings.modes:
        with contextlib.ExitStack() as stack:
            model = _Runner(stack, subject, mode, settings.timeout)
            if model.facts.get("kernels"):
                kernels[mode] = model.facts["kernels"]
            other = None
            if reference is not None and not is_reference:
                other = _Runner(stack, reference, mode, settings.timeout)
            for batch_size in settings.batch_sizes:
                one = _measurement(model, other, mode, batch_size, settings.repeats)
                found.append(_as_reference(one) if is_reference else one)
                if advance is not None:
                    advance()
    return MeasuredCost(
        model=subject.model,
        image_size=cfg.image_size,
        device=device_name(device_of(cfg)),
        threads=model.facts.get("threads", subject.threads or torch.get_num_threads()),
        backend=choice.backend,
        precision=choice.precision,
        reference=reference.model if reference else "",
        versions=_versions(choice.backend),
        kernels=kernels,
        measured=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        measurements=tuple(found),
    )


class _Runner:
    """A process with a model in it. Its questions never fail: what did fail is in `reason`.

    Attributes:
        facts: What the model runs on; empty where it could not be built.
        reason: Why the last question has no answer; empty where it has one.
    """

    def __init__(
        self, stack: contextlib.ExitStack, subject: Subject, mode: str, timeout: float
    ) -> None:
        self._timeout = timeout
        self._ended = ""  # why nothing more is asked
        self._batch_size = 0
        self.reason = ""
        self._process = stack.enter_context(ChildProcess(_CHILD, _environment(subject)))
        self.facts = self._ask(
            do="build", words=subject.command(), threads=subject.threads, mode=mode
        )
        self._ended = self.reason

    def prepare(self, batch_size: int) -> dict[str, Any]:
        """Warm up and measure memory; empty where that failed."""
        self._batch_size = batch_size
        return self._ask(do="prepare", batch_size=batch_size)

    def seconds(self, calls: int) -> list[float]:
        """Time some calls; empty where that failed, or what came before."""
        return [] if self.reason else list(self._ask(do="run", calls=calls).get("seconds", []))

    def _ask(self, **question: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
        self.reason = self._ended
        if self._ended:
            return {}
        try:
            return self._process.ask(question, self._timeout)
        except ChildError as error:
            self.reason = str(error)
            if error.is_over or error.out_of_memory:
                self._ended = f"not tried after batch {self._batch_size}: {error}"
            return {}


def _measurement(
    model: _Runner, other: _Runner | None, mode: str, batch_size: int, repeats: int
) -> Measurement:
    """Measure a mode at a batch size, in turns with the reference."""
    prepared = model.prepare(batch_size)
    if model.reason:
        return Measurement(mode, batch_size, reason=model.reason)
    if other is not None:
        other.prepare(batch_size)
    turns = [
        (model.seconds(calls), other.seconds(calls) if other else [])
        for calls in _calls_of_turns(repeats)
    ]
    if model.reason:
        return Measurement(mode, batch_size, reason=model.reason)
    low, middle, high = _quartiles([second for mine, _ in turns for second in mine])
    found = Measurement(
        mode,
        batch_size,
        seconds=middle,
        seconds_low=low,
        seconds_high=high,
        repeats=repeats,
        warm_up=prepared["warm_up"],
        settled=prepared["settled"],
        held_bytes=prepared["held_bytes"],
        call_bytes=prepared["call_bytes"],
    )
    if other is None:
        return found
    if other.reason:
        return replace(found, reason=f"no ratio, the reference failed: {other.reason}")
    ratios = [float(np.median(mine) / np.median(theirs)) for mine, theirs in turns]
    low, middle, high = _quartiles(ratios)
    return replace(found, ratio=middle, ratio_low=low, ratio_high=high)


def _as_reference(one: Measurement) -> Measurement:
    """Give the reference itself its ratio, 1, where it was measured."""
    ratio = _NAN if math.isnan(one.seconds) else 1.0
    return replace(one, ratio=ratio, ratio_low=ratio, ratio_high=ratio)


def _calls_of_turns(repeats: int) -> list[int]:
    """Spread timed calls over turns, as evenly as may be."""
    turns = min(_TURNS, repeats)
    return [repeats // turns + (turn < repeats % turns) for turn in range(turns)]


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float(low), float(middle), float(high)


def _environment(subject: Subject) -> dict[str, str]:
    """Give a process its threads before any library starts its own."""
    threads = {} if subject.threads is None else {"OMP_NUM_THREADS": str(subject.threads)}
    return {**os.environ, **threads}


# --- stored costs --------------------------------------------------------------------------------


def stored_cost(
    subject: Subject, settings: Settings, reference: Subject | None, folder: str | PathLike[str]
) -> MeasuredCost | None:
    """Return what `measure_stored` has stored of just this; None where it has nothing whole.

    Raises:
        UserError: The model or the reference is not registered, or its flags are wrong.
    """
    content = _content(subject, settings, reference, kernels_of(subject, settings.modes))
    try:
        text = _file(content, Path(folder)).read_text(encoding="utf-8")
        found = MeasuredCost.from_dict(parse_json(text)["cost"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return None if found.reasons else found


def measure_stored(
    subject: Subject,
    settings: Settings,
    reference: Subject | None,
    folder: str | PathLike[str],
    advance: Advance | None = None,
) -> MeasuredCost:
    """Measure a model, or return what an earlier run in the same folder measured.

    A cost is found again by all that it depends on: the model, its arguments and the Python files
    beside that of its class; the same of the reference; the settings; the device and its threads;
    the kernels chosen for the CPU; the versions of Python, PyTorch, the backend, IMDLBenCo and this
    package. To measure again, remove the file. One with a figure missing for a reason, as a process
    that was ended or want of memory, is returned but not stored: the next run tries again.

    Args:
        subject: The model.
        settings: How.
        reference: As `measure`.
        folder: Holds one JSON file for each model; made when the first is written.
        advance: As `measure`; not called for what was stored.

    Raises:
        UserError: As `measure`; or the folder cannot be written.
    """
    found = stored_cost(subject, settings, reference, folder)
    if found is None:
        found = measure(subject, settings, reference, advance)
        if not found.reasons:
            of = _content(subject, settings, reference, found.kernels)
            write_json_atomic(_file(of, Path(folder)), {"cost": found.to_dict(), "of": of})
    return found


def kernels_of(subject: Subject, modes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the kernels that a process would compute a model with, by mode.

    None but of PyTorch on a CPU.

    Raises:
        UserError: The model is not registered, or its flags are wrong.
    """
    cfg = resolve("test", subject.command())
    backend, precision = choice_of(cfg)
    if backend != TORCH or accelerator_of(device_of(cfg))[0] != "cpu":
        return {}
    threads = subject.threads or torch.get_num_threads()
    number_format = format_of(precision)
    return {mode: _kernels(matmul_of(cfg, mode), mode, number_format, threads) for mode in modes}


@functools.cache
def _kernels(matmul: str, purpose: str, number_format: str, threads: int) -> dict[str, Any]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return choose_kernels(matmul, purpose, number_format).to_dict()
    finally:
        torch.set_num_threads(before)


def _file(content: Mapping[str, Any], folder: Path) -> Path:
    """Return the file of a cost by all that it depends on."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    model = content["model"]
    return folder / f"{file_name(model['model'])}-{model['image_size']}-{digest}.json"


def _content(
    subject: Subject,
    settings: Settings,
    reference: Subject | None,
    kernels: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return all that a cost depends on, as JSON can hold it."""
    cfg = resolve("test", subject.command())
    return {
        "cost_version": COST_VERSION,
        "model": _content_of(subject),
        "reference": _content_of(reference) if reference else None,
        "settings": asdict(settings),
        "device": device_name(device_of(cfg)),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "kernels": kernels,
        "versions": _versions(subject.backend),
    }


def _is_same(one: Subject, other: Subject) -> bool:
    """Say whether two are the same model, fed alike, in whatever words."""
    return one == other or {**_content_of(one), "subject": None} == {
        **_content_of(other),
        "subject": None,
    }


def _content_of(subject: Subject) -> dict[str, Any]:
    cfg = resolve("test", subject.command())
    plain = cfg.to_dict()
    calibrated = choice_of(cfg).precision == INT8
    calibration = calibration_facts(cfg, calibration_sets(cfg)) if calibrated else None
    return {
        "calibration": calibration,
        "subject": asdict(subject),
        "model": cfg.model,
        "image_size": cfg.image_size,
        "registered": cfg.registered,
        "arguments": {**plain["constructor_defaults"], **plain["model_arguments"]},
        "options": plain["options"],
        "sources": sources_hash(cfg.model_class),
    }


def _versions(backend: str) -> dict[str, str]:
    """Return the versions of all that computes; a backend is the distribution that it is of."""
    quantised = ("nncf",) if backend == OPENVINO else ()
    names = dict.fromkeys(("torch", backend, *quantised, "timm", "IMDLBenCo", DISTRIBUTION))
    return {"python": platform.python_version(), **{n: installed_version(n) for n in names}}


def device_name(device: str) -> str:
    """Name what `--device` means here: a GPU's name, or the processor's as its maker gives it.

    Raises:
        UserError: There is no such device.
    """
    kind, index = accelerator_of(device)
    if kind == "cuda":
        return torch.cuda.get_device_name(index or 0)
    return processor_name() if kind == "cpu" else kind
