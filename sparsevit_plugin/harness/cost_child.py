"""The process in which one model is measured; `harness.measured_cost` starts it and asks.

Questions, each a line of JSON with `do`:

- `build`: the words of a `benco test` command, threads, and a mode.
- `prepare`: a batch size. Measures memory, warms up and answers with both.
- `run`: a number of calls. Answers with the seconds of each.
"""

import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from sparsevit_plugin.backends.choices import TORCH
from sparsevit_plugin.backends.from_config import choice_of, fabric_for, predictor_for
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.child_process import serve
from sparsevit_plugin.harness.complexity import example_inputs
from sparsevit_plugin.harness.config import Config, resolve
from sparsevit_plugin.harness.devices import PRECISIONS
from sparsevit_plugin.harness.pipeline import build_model
from sparsevit_plugin.model.kernels import current_kernels

TRAINING: Final = "training"

# Calls before the timed ones: until the last few agree, but no more than so many.
_AGREEING: Final = 3
_SPREAD: Final = 0.05
_MOST_WARM_UP: Final = 10

_KIB: Final = 1024

Call = Callable[[], object]


class Memory(Protocol):
    """How much memory is in use on a device."""

    def held(self) -> float:
        """Return the bytes in use now, NaN where that cannot be told."""

    def of_call(self, call: Call) -> float:
        """Return by how many bytes a call exceeds what was in use before, at its highest."""


class ResidentMemory:
    """This process's memory on Linux, see proc(5)."""

    _STATUS: Final = Path("/proc/self/status")
    _RESET: Final = Path("/proc/self/clear_refs")

    @classmethod
    def is_known(cls) -> bool:
        """Say whether this system lets a process reset and read its peak."""
        return os.access(cls._RESET, os.W_OK) and "RssAnon" in cls._STATUS.read_text()

    def held(self) -> float:
        """Return the resident bytes that no file backs: code and mapped weights do not count."""
        _give_back()
        return self._field("RssAnon")

    def of_call(self, call: Call) -> float:
        """Return the peak of the resident set in a call, above the resident set before it."""
        _give_back()
        self._RESET.write_text("5")  # the peak becomes the current resident set
        before = self._field("VmRSS")
        call()
        return self._field("VmHWM") - before

    def _field(self, name: str) -> float:
        for line in self._STATUS.read_text().splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return float(value.split()[0]) * _KIB
        raise OSError(f"{self._STATUS} has no {name}")


class CudaMemory:
    """What PyTorch's allocator gave out on a GPU; the context and libraries do not count."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def held(self) -> float:
        """Return the bytes of all live tensors."""
        gc.collect()
        torch.cuda.empty_cache()
        return float(torch.cuda.memory_allocated(self._device))

    def of_call(self, call: Call) -> float:
        """Return the highest sum of live tensors in a call, above that before it."""
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        call()
        torch.cuda.synchronize(self._device)
        return float(torch.cuda.max_memory_allocated(self._device) - before)


class UnknownMemory:
    """Of a device or a system that keeps no peak."""

    def held(self) -> float:
        """Return NaN."""
        return float("nan")

    def of_call(self, call: Call) -> float:
        """Make the call and return NaN."""
        call()
        return float("nan")


def memory_of(device: torch.device) -> Memory:
    """Return how memory is measured on a device."""
    if device.type == "cuda":
        return CudaMemory(device)
    if device.type == "cpu" and ResidentMemory.is_known():
        return ResidentMemory()
    return UnknownMemory()


class Worker:
    """Answers questions about one model in one mode."""

    def __init__(self) -> None:
        self._call: Call = _nothing

    def answer(self, question: dict[str, Any]) -> Mapping[str, Any]:
        """Answer one question, see the module."""
        if question["do"] == "build":
            return self._build(question["words"], question["threads"], question["mode"])
        if question["do"] == "prepare":
            return self._prepare(question["batch_size"])
        return {"seconds": self._timed(question["calls"])}

    def _build(self, words: list[str], threads: int | None, mode: str) -> dict[str, Any]:
        if threads is not None:
            torch.set_num_threads(threads)
        self._cfg = resolve("test", words)
        if mode == TRAINING:
            refuse_without_backward(self._cfg)
        self._fabric = fabric_for(self._cfg, mode)
        self._device = self._fabric.device
        _exercise(self._device)
        self._memory = memory_of(self._device)
        self._before = self._memory.held()
        model = build_model(self._cfg)
        if mode == TRAINING:
            self._model, self._step = model.to(self._device).train(), self._training_step
        else:
            self._model = predictor_for(self._cfg, model, None, self._device)
            self._model.train(self._cfg.no_model_eval)
            self._step = self._forward
        by_kernels = self._device.type == "cpu" and self._cfg.backend == TORCH
        kernels = current_kernels().to_dict() if by_kernels else None
        return {"threads": torch.get_num_threads(), "kernels": kernels}

    def _prepare(self, batch_size: int) -> dict[str, Any]:
        self._call = _nothing  # lets go of the batch before
        self._model.zero_grad(set_to_none=True)
        inputs = {
            name: value.to(self._device) if isinstance(value, Tensor) else value
            for name, value in example_inputs(self._cfg, batch=batch_size).items()
        }
        self._call = lambda: self._step(inputs)
        self._call()  # what is made once, as plans of convolutions, is made here
        self._model.zero_grad(set_to_none=True)
        held = self._memory.held() - self._before - _bytes_of(inputs)
        in_call = self._memory.of_call(self._call)
        warm_up, settled = warmed_up(lambda: seconds_of(self._call, self._device))
        return {
            "held_bytes": max(held, 0.0),
            "call_bytes": in_call,
            "warm_up": warm_up,
            "settled": settled,
        }

    def _forward(self, inputs: Mapping[str, Any]) -> None:
        with torch.no_grad(), self._fabric.autocast():
            self._model(**inputs)

    def _training_step(self, inputs: Mapping[str, Any]) -> None:
        """Run forward, loss and backward; no optimiser."""
        self._model.zero_grad(set_to_none=True)
        with self._fabric.autocast():
            loss = self._model(**inputs)["backward_loss"]
        if loss is None or not loss.requires_grad:
            raise UserError("the model has no loss to train by")
        loss.backward()

    def _timed(self, calls: int) -> list[float]:
        """Return the seconds of each of some calls, after one that is not timed."""
        self._call()
        gc.collect()
        gc.disable()
        try:
            return [seconds_of(self._call, self._device) for _ in range(calls)]
        finally:
            gc.enable()


def refuse_without_backward(cfg: Config) -> None:
    """Refuse to train on a backend or in a precision that only predicts.

    Raises:
        UserError: The configuration asks for that.
    """
    backend, precision = choice_of(cfg)
    if backend != TORCH or precision not in PRECISIONS:
        raise UserError(
            f"{backend} {precision} only predicts: a training step needs --backend {TORCH} and "
            f"--precision {', '.join(PRECISIONS)}"
        )


def warmed_up(timed: Callable[[], float]) -> tuple[int, bool]:
    """Call until the last three times lie within 5 % of their median, ten times at most.

    Args:
        timed: Makes a call and returns its seconds.

    Returns:
        How many calls that took, and whether they came to agree.
    """
    times: list[float] = []
    while len(times) < _MOST_WARM_UP:
        times.append(timed())
        last = times[-_AGREEING:]
        if len(last) == _AGREEING and max(last) - min(last) <= _SPREAD * statistics.median(last):
            return len(times), True
    return len(times), False


def seconds_of(call: Call, device: torch.device) -> float:
    """Return how long a call takes until its results are there.

    On a GPU this is the time between two events of its stream, so that what other programs do on
    the CPU meanwhile counts only where the GPU waits for it.
    """
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        call()
        end.record()
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(end)) / 1e3
    began = time.perf_counter()
    call()
    if device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - began


def _bytes_of(inputs: Mapping[str, Any]) -> int:
    return sum(value.nbytes for value in inputs.values() if isinstance(value, Tensor))


def _exercise(device: torch.device) -> None:
    """Make PyTorch load its libraries and start its threads, which is not the model's doing."""
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten())
    layers.append(nn.Linear(8 * 62 * 62, 8)).to(device)
    layers(torch.zeros(2, 3, 64, 64, device=device)).softmax(1).sum().backward()


def _give_back() -> None:
    """Return freed memory to the system, so that what is resident is in use."""
    gc.collect()
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # the GNU C library's; others give back by themselves
        library.malloc_trim(0)


def _nothing() -> None:
    """Stand in where no call is prepared."""


if __name__ == "__main__":
    serve(Worker().answer)
