"""Layers whose weights lie in oneDNN's own layout, with GELU and residual addition run inside.

PyTorch has the operations for this for its compiler and gives no public way to call them, so each
is tried against the public one first, and `pack_layers` leaves every layer as it is where one is
missing or differs.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_HINT = (1, 32, 32)
"""Batch, height and width for which oneDNN chooses the layout; any other is right too."""


class PackedPointwise(nn.Module):
    """A linear map of the channels of a grid; see `fused.Pointwise`.

    Args:
        weight: K x C, or K x C x 1 x 1.
        bias: K.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        batch, height, width = _HINT
        # Not buffers: tensors in oneDNN's layout can be neither copied nor saved.
        self.packed = _ops()._reorder_linear_weight(weight.flatten(1), batch * height * width)
        self.offset = bias

    def forward(self, grid: Tensor, residual: Tensor | None = None, gelu: bool = False) -> Tensor:
        """Map B x H x W x C to B x H x W x K."""
        run, given = _ops()._linear_pointwise, (self.packed, self.offset)
        grid = grid.contiguous()
        if gelu:
            grid = run(grid, *given, "gelu", [], "none")
        elif residual is not None:
            return run.binary(grid, residual.contiguous(), *given, "add")
        else:
            grid = run(grid, *given, "none", [], "")
        return grid if residual is None else grid + residual


class PackedWindow(nn.Module):
    """A depthwise convolution of a grid that keeps its size; see `fused.Window`.

    Args:
        weight: C x 1 x k x k.
        bias: C.
        padding: k // 2.
    """

    def __init__(self, weight: Tensor, bias: Tensor, padding: int) -> None:
        super().__init__()
        batch, height, width = _HINT
        channels = len(weight)
        self.geometry = ([padding] * 2, [1, 1], [1, 1], channels)
        self.packed = _ops()._reorder_convolution_weight(
            weight, *self.geometry, [batch, channels, height, width]
        )
        self.offset = bias

    def forward(self, grid: Tensor, residual: Tensor | None = None, gelu: bool = False) -> Tensor:
        """Map B x H x W x C to the same shape."""
        run = _ops()._convolution_pointwise
        given = (self.packed, self.offset, *self.geometry)
        maps = grid.contiguous().permute(0, 3, 1, 2)
        if gelu:
            maps = run(maps, *given, "gelu", [], "none")
        elif residual is not None:
            other = residual.contiguous().permute(0, 3, 1, 2)
            return run.binary(maps, other, *given, "add", None, None, [], None).permute(0, 2, 3, 1)
        else:
            maps = run(maps, *given, "none", [], "")
        grid = maps.permute(0, 2, 3, 1)
        return grid if residual is None else grid + residual


def pack_layers(model: nn.Module, pointwise: type[nn.Module], window: type[nn.Module]) -> list[str]:
    """Replace the layers of two kinds below `model` by packed ones.

    Args:
        model: On a CPU.
        pointwise: The class of linear maps, with `weight` and `bias`.
        window: The class of depthwise convolutions, with `weight` and `bias`.

    Returns:
        The names of the layers that were replaced: none where this PyTorch cannot.
    """
    replaced = []
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, pointwise | window):
            continue
        weight, bias = layer.get_parameter("weight").data, layer.get_parameter("bias").data
        if weight.device.type != "cpu" or not can_pack(weight.dtype):
            continue
        parent, _, child = name.rpartition(".")
        packed = (
            PackedPointwise(weight, bias)
            if isinstance(layer, pointwise)
            else PackedWindow(weight, bias, weight.shape[-1] // 2)
        )
        setattr(model.get_submodule(parent), child, packed)
        replaced.append(name)
    return replaced


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Say whether packed layers work here: they are there, and give what the public ones give."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    grid, weight, window, bias = draw(2, 5, 7, 16), draw(16, 16), draw(16, 1, 3, 3), draw(16)
    tolerance = 1e-4 if dtype == torch.float32 else 0.2
    try:
        with torch.no_grad():
            pointwise, depthwise = PackedPointwise(weight, bias), PackedWindow(window, bias, 1)
            linear = F.linear(grid, weight, bias)
            maps = F.conv2d(grid.permute(0, 3, 1, 2), window, bias, padding=1, groups=16)
            pairs = [
                (packed(grid, residual, gelu), _plain(public, residual, gelu))
                for packed, public in ((pointwise, linear), (depthwise, maps.permute(0, 2, 3, 1)))
                for residual, gelu in ((None, False), (grid, False), (None, True))
            ]
    # What is not there, or not for this format, fails in its own way in each version.
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    return all(bool(((a - b).abs() <= tolerance).all()) for a, b in pairs)


def _plain(value: Tensor, residual: Tensor | None, gelu: bool) -> Tensor:
    value = F.gelu(value) if gelu else value
    return value if residual is None else value + residual


def _ops() -> Any:  # noqa: ANN401 - made when it is looked up
    return torch.ops.mkldnn
