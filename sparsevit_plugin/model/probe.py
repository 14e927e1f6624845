"""Choose the kernels of this processor by measuring: a second of work, kept until the next boot.

Processors of one name differ, virtual ones most of all, so no decision follows from a name. What is
kept is found again by everything that it depends on: what is to be computed, the processor's flags
and caches, the number of threads, the version of PyTorch, and the boot.
"""

import contextlib
import functools
import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from filelock import FileLock
from torch import Tensor

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import parse_json, write_json_atomic
from sparsevit_plugin.machine import processor_facts, user_cache
from sparsevit_plugin.model.choices import LIBRARIES, MATMULS, check_choice
from sparsevit_plugin.model.kernels import Kernels, attend, linear, using_kernels
from sparsevit_plugin.model.packed import PackedPointwise, can_pack

PURPOSES = ("inference", "training")

FORMATS: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Number formats that linear layers and attention are computed in."""

VERSION: Final = 2
"""Raised when something else is measured: what was kept before is then measured again."""

_SHAPES: Final = ((1024, 320, 1280), (1024, 1280, 320))
"""Rows, inputs and outputs of the two largest linear layers of SparseViT at 512 x 512."""

_GROUPS: Final = ((64, 16), (16, 64), (4, 256), (1, 1024))
"""Groups and tokens in each, for the rates 8, 4, 2 and 1 of stage 3 at 512 x 512."""

_HEADS, _HEAD_DIM = 5, 64
_REPEATS: Final = 7
_LONGEST_S: Final = 0.5
"""What a comparison may take before it is left at fewer repeats: bfloat16 is slow without units."""

_GAIN: Final = 1.05
"""How much faster something other than PyTorch's plain way must be to be chosen."""


@dataclass(frozen=True)
class Probe:
    """What was measured for a purpose in a number format: forward, in training backward too.

    Attributes:
        number_format: One of `FORMATS`.
        gflops: Of linear layers by library, with two operations for a multiply-accumulate.
        attention: Tokens of the largest group that is faster by matrix products; 0 for none.
        threads: Of the processor.
    """

    number_format: str
    gflops: Mapping[str, float]
    attention: int
    threads: int

    def kernels(self, matmul: str = "auto") -> Kernels:
        """Return the choice; `matmul` may name the library."""
        if matmul == "auto":
            is_faster = self.gflops["onednn"] > _GAIN * self.gflops["mkl"]
            matmul = "onednn" if is_faster else "mkl"
        limits = {name: self.attention * (name == self.number_format) for name in FORMATS}
        return Kernels(matmul, attention_fp32=limits["fp32"], attention_bf16=limits["bf16"])

    def reason(self) -> str:
        """Say in a few words why."""
        return ", ".join(f"{name} {self.gflops[name]:.0f} GFLOP/s" for name in LIBRARIES)


def choose_kernels(matmul: str, purpose: str, number_format: str = "fp32") -> Kernels:
    """Return the kernels for this process.

    Args:
        matmul: "auto" measures; the name of a library is taken as it is.
        purpose: "inference" or "training".
        number_format: What most is computed in, one of `FORMATS`.

    Raises:
        UserError: There is no such choice.
    """
    check_choice("matmul", matmul, MATMULS)
    check_choice("purpose", purpose, PURPOSES)
    check_choice("number_format", number_format, FORMATS)
    return probed(purpose, number_format).kernels(matmul)


def probed(purpose: str, number_format: str = "fp32") -> Probe:
    """Return what was measured on this processor since it started; measure where nothing was.

    Processes that ask at once measure once: two at a time would measure each other.
    """
    content = {"purpose": purpose, "number_format": number_format, **_identity()}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    file = user_cache() / f"kernels-{digest}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            found = _read(file)
            if found is None:
                found = measure(purpose, number_format)
                with contextlib.suppress(UserError):  # a full disk: what was measured still holds
                    write_json_atomic(file, {"probe": asdict(found), "of": content})
            return found
    except OSError:  # nowhere to keep it
        return measure(purpose, number_format)


def measure(purpose: str, number_format: str = "fp32") -> Probe:
    """Measure, with the threads that PyTorch has now."""
    dtype = FORMATS[number_format]
    return Probe(
        number_format,
        _library_rates(purpose, dtype),
        _largest_by_products(purpose, dtype),
        torch.get_num_threads(),
    )


def _library_rates(purpose: str, dtype: torch.dtype) -> dict[str, float]:
    """Return GFLOP/s of linear layers by library.

    In inference oneDNN's have their weights packed, where they can be; in training both gradients
    are counted.
    """
    operations = 0
    runs: dict[str, list[Callable[[], None]]] = {name: [] for name in LIBRARIES}
    for rows, inputs, outputs in _SHAPES:
        operations += 2 * rows * inputs * outputs * (3 if purpose == "training" else 1)
        shapes = ((1, rows, 1, inputs), (outputs, inputs), (outputs,))
        grid, weight, bias = (_draw(*shape).to(dtype) for shape in shapes)
        for name, listed in runs.items():
            listed.append(_linear_run(name, (grid, weight, bias), purpose))
    seconds = _interleaved({name: _in_turn(listed) for name, listed in runs.items()})
    return {name: operations / value / 1e9 for name, value in seconds.items()}


def _linear_run(
    library: str, tensors: tuple[Tensor, Tensor, Tensor], purpose: str
) -> Callable[[], None]:
    grid, weight, bias = tensors
    kernels = Kernels(library)
    if purpose == "inference":
        packed = library == "onednn" and can_pack(weight.dtype)
        layer = PackedPointwise(weight, bias) if packed else None

        def run() -> None:
            with torch.no_grad(), using_kernels(kernels):
                layer(grid) if layer else linear(grid, weight, bias)

        return run
    return _step(linear, tensors, kernels)


def _step(
    call: Callable[..., Tensor], tensors: tuple[Tensor, ...], kernels: Kernels
) -> Callable[[], None]:
    """Return what runs a call forward and backward."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]

    def step() -> None:
        with torch.enable_grad(), using_kernels(kernels):
            result = call(*leaves)
            torch.autograd.grad(result, leaves, torch.ones_like(result))

    return step


def _largest_by_products(purpose: str, dtype: torch.dtype) -> int:
    """Return the tokens of the largest group up to which products are faster than fused attention.

    0 where they are not faster even for the smallest.
    """
    largest = 0
    for groups, tokens in _GROUPS:
        heads = _draw(groups, _HEADS, tokens, _HEAD_DIM).to(dtype)
        tensors = (heads, heads.clone(), heads.clone())
        choices = {"fused": Kernels(), "products": Kernels("mkl", tokens, tokens)}
        seconds = _interleaved(
            {name: _attention_run(kernels, tensors, purpose) for name, kernels in choices.items()}
        )
        if seconds["fused"] < _GAIN * seconds["products"]:
            break
        largest = tokens
    return largest


def _attention_run(
    kernels: Kernels, tensors: tuple[Tensor, Tensor, Tensor], purpose: str
) -> Callable[[], None]:
    call = functools.partial(attend, mask=None)
    if purpose == "training":
        return _step(call, tensors, kernels)

    def run() -> None:
        with torch.no_grad(), using_kernels(kernels):
            call(*tensors)

    return run


def _draw(*shape: int) -> Tensor:
    """Draw a tensor without touching PyTorch's generator."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator)


def _in_turn(runs: list[Callable[[], None]]) -> Callable[[], None]:
    def every() -> None:
        for run in runs:
            run()

    return every


def _interleaved(runs: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    """Return the least seconds of each run, taken in turn so that all see the same machine.

    The least, not the median: other processes only ever add to it.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    began = time.perf_counter()
    for _ in range(_REPEATS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
        if time.perf_counter() - began > _LONGEST_S:
            break
    return {name: min(values) for name, values in taken.items()}


def _identity() -> dict[str, Any]:
    """Return everything that a measurement depends on."""
    # Names, flags and caches, but for the clock, which changes.
    described = {name: value for name, value in processor_facts().items() if "MHz" not in name}
    boot = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return {
        "version": VERSION,
        "processor": described or platform.processor(),
        "machine": platform.machine(),
        "host": platform.node(),
        "boot": boot,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _read(file: Path) -> Probe | None:
    try:
        found = Probe(**parse_json(file.read_text(encoding="utf-8"))["probe"])
        found.kernels()
        found.reason()
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    return found
