"""Depthwise convolutions on a CPU: a faster gradient of 5 x 5 weights.

oneDNN has a fast kernel for the weight gradient of a 3 x 3 depthwise convolution and a slow one for
5 x 5. A tap of the 5 x 5 kernel is a tap of one of four 3 x 3 kernels over a shifted input, so four
fast gradients give the same 25 numbers.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

_SIDE = 5
_PAD = 2


def depthwise(conv: nn.Conv2d, maps: Tensor) -> Tensor:
    """Return `conv(maps)` for a depthwise convolution that keeps the size, B x C x H x W."""
    split = (
        conv.kernel_size == (_SIDE, _SIDE)
        and maps.device.type == "cpu"
        and conv.weight.requires_grad
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )
    if not split:
        return conv(maps)
    weight, bias = conv.weight, conv.bias
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        maps, weight = maps.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    result: Tensor = _Depthwise5.apply(maps, weight, bias)
    return result


class _Depthwise5(torch.autograd.Function):
    """A 5 x 5 depthwise convolution, padded by 2, whose weight gradient is made of four 3 x 3."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(maps, weight)
        return F.conv2d(maps, weight, bias, padding=_PAD, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        grad = grads[0]
        maps, weight = ctx.saved_tensors
        of_maps = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_maps = conv2d_input(maps.shape, weight, grad, padding=_PAD, groups=len(weight))
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(maps, grad)
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum((0, 2, 3))
        return of_maps, of_weight, of_bias


def weight_gradient(maps: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient of the weight of a 5 x 5 depthwise convolution that keeps the size.

    Args:
        maps: Its input, B x C x H x W.
        grad: Gradient of its output, B x C x H x W.

    Returns:
        C x 1 x 5 x 5.
    """
    channels, height, width = maps.shape[1:]
    padded = F.pad(maps, (_PAD,) * 4)
    gradient = maps.new_empty(channels, 1, _SIDE, _SIDE)
    for row in (0, 2):  # the middle row and column come out twice
        for column in (0, 2):
            shifted = padded[:, :, row : row + height + 2, column : column + width + 2]
            taps = conv2d_weight(shifted, (channels, 1, 3, 3), grad, groups=channels)
            gradient[:, :, row : row + 3, column : column + 3] = taps
    return gradient
