"""Multiply-accumulates of one call, by PyTorch's counter, and what that counter saw and left out.

MACs and FLOPs are named apart: a multiply-accumulate is two floating-point operations. PyTorch's
counter gives FLOPs. It counts matrix products, convolutions and the products inside attention, and
nothing else: no element-wise operation, no normalisation, no interpolation, no Fourier transform.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sparsevit_plugin.complexity.shapes import Inputs

TORCH_COUNTER: Final = "torch.utils.flop_counter"
FLOPS_PER_MAC: Final = 2


@dataclass(frozen=True)
class Products:
    """What a counter found in one call.

    Attributes:
        macs: Multiply-accumulates.
        flops: Floating-point operations, where the counter gives them.
        by_module: MACs by the qualified name of a module, those of its parts included; empty where
            the counter does not tell.
        by_operation: The same by operation.
        not_counted: Operation to calls: all that ran and are not in `macs`, element-wise ones too.
        fourier_flops: Of the Fourier transforms among them, an estimate: `fourier_flops`.
    """

    macs: int
    flops: int | None
    by_module: Mapping[str, int] = field(default_factory=dict)
    by_operation: Mapping[str, int] = field(default_factory=dict)
    not_counted: Mapping[str, int] = field(default_factory=dict)
    fourier_flops: float = 0.0


def torch_products(model: nn.Module, inputs: Inputs) -> Products:
    """Count one call by `torch.utils.flop_counter`.

    Args:
        model: In the mode in which it shall be counted.
        inputs: Its arguments, by name.
    """
    counter = _Counter()
    others = _Others(counter.counted)
    with _without_fused_products(model), others, counter:
        model(**inputs)
    counts = counter.get_flop_counts()
    flops = counter.get_total_flops()
    return Products(
        macs=flops // FLOPS_PER_MAC,
        flops=flops,
        by_module={
            _own_name(name): sum(found.values()) // FLOPS_PER_MAC for name, found in counts.items()
        },
        by_operation={
            str(operation): number // FLOPS_PER_MAC
            for operation, number in counts.get("Global", {}).items()
        },
        not_counted=dict(others.calls),
        fourier_flops=others.fourier_flops,
    )


class _Counter(FlopCounterMode):
    """PyTorch's counter, with formulas for products of a vector, which it has none for."""

    def __init__(self) -> None:
        super().__init__(
            display=False,
            custom_mapping={
                torch.ops.aten.mv: _mv_flops,
                torch.ops.aten.addmv: _addmv_flops,
                torch.ops.aten.dot: _dot_flops,
            },
        )

    def counted(self, operation: object) -> bool:
        """Say whether there is a formula for an operation."""
        return operation in self.flop_registry


def _mv_flops(matrix: Sequence[int], vector: object, **_: object) -> int:
    return FLOPS_PER_MAC * math.prod(matrix)


def _addmv_flops(added: object, matrix: Sequence[int], vector: object, **_: object) -> int:
    return FLOPS_PER_MAC * math.prod(matrix)


def _dot_flops(vector: Sequence[int], other: object, **_: object) -> int:
    return FLOPS_PER_MAC * math.prod(vector)


def _own_name(name: str) -> str:
    """Drop the class of the outermost module, with which PyTorch's counter begins every name."""
    return "" if name == "Global" else name.partition(".")[2]


class _Others(TorchDispatchMode):
    """Lists the operations that a counter has no formula for, as they run."""

    def __init__(self, counted: Callable[[object], bool]) -> None:
        super().__init__()
        self.counted = counted
        self.calls: Counter[str] = Counter()
        self.fourier_flops = 0.0

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if not self.counted(packet):
            self.calls[str(packet)] += 1
            self.fourier_flops += _fourier_flops_of(str(packet), args, out)
        return out


def _fourier_flops_of(name: str, args: tuple[Any, ...], out: object) -> float:
    """Estimate one call of `aten._fft_c2c`, `_fft_r2c` or `_fft_c2r`; 0 for all others."""
    kind = name.removeprefix("aten._fft_")
    if kind not in ("c2c", "r2c", "c2r") or not isinstance(out, Tensor):
        return 0.0
    full = out if kind == "c2r" else args[0]
    sides = [full.shape[axis] for axis in args[1]]
    return fourier_flops(sides, full.numel() // math.prod(sides), real=kind != "c2c")


def fourier_flops(sides: Sequence[int], batch: int, *, real: bool) -> float:
    """Estimate the floating-point operations of a Fourier transform.

    5 N log2 N for complex values and half of that for real ones, N the number of points: the
    convention of FFTW's benchmark (https://www.fftw.org/speed/method.html), the operations of a
    radix-2 algorithm of Cooley and Tukey. Other lengths and libraries need other numbers.

    Args:
        sides: Points along each transformed axis.
        batch: Transforms.
        real: Whether the values on one side are real.
    """
    points = math.prod(sides)
    return batch * (2.5 if real else 5.0) * points * math.log2(points)


@contextlib.contextmanager
def _without_fused_products(model: nn.Module) -> Iterator[None]:
    """Turn off what hides its products from PyTorch's counter on the CPU.

    That is fused attention, the fast path of `nn.MultiheadAttention`, and oneDNN's recurrent layers
    (oneDNN stays on for a model that has none: it makes convolutions fast). So a count does not
    depend on the device.
    """
    mha = torch.backends.mha
    onednn: Any = torch.backends.mkldnn  # its properties are typed as what makes them
    before = mha.get_fastpath_enabled(), onednn.enabled
    mha.set_fastpath_enabled(False)
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        onednn.enabled = False
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(before[0])
        onednn.enabled = before[1]
