"""What a training step keeps for its backward pass, and what it makes again instead.

A norm and a GELU cost next to nothing beside the matrix product that follows them, yet their output
is as large as its input and would be kept for it. `through` keeps the input alone. `checkpointed`
goes further and keeps only the input of a whole block, for one more forward pass of the block.
"""

import threading
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

Layer = Callable[[Tensor], Tensor]


class _View(NamedTuple):
    """Which view of the value in between was to be kept."""

    size: torch.Size
    stride: tuple[int, ...]
    offset: int | torch.SymInt


_inside = threading.local()


def through(make: Layer, x: Tensor, product: Layer, remake: Layer | None = None) -> Tensor:
    """Return `product(make(x))`; the backward pass makes `make(x)` again instead of keeping it.

    The gradients are those of the plain composition. Under autocast the value in between is
    converted to its format here, so that it is the tensor that the product would keep.

    Args:
        make: Cheap and without randomness.
        x: Its input, which must not be written to afterwards.
        product: What would keep the value in between; it may save views of it.
        remake: What makes the value again where that is not `make` itself (BatchNorm counts what it
            has seen).
    """
    middle = _autocast(make(x))
    if not _is_saving(x, middle):
        return product(middle)
    storage = middle.untyped_storage().data_ptr()
    kept = x.detach()

    dtype = middle.dtype

    def pack(saved: Tensor) -> Tensor | _View:
        if saved.dtype != dtype or saved.untyped_storage().data_ptr() != storage:
            return saved
        return _View(saved.size(), saved.stride(), saved.storage_offset())

    def unpack(packed: Tensor | _View) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        with torch.no_grad():
            again = (remake or make)(kept).to(dtype)
        return again.as_strided(*packed)

    with saved_tensors_hooks(pack, unpack):
        return product(middle)


def batch_norm_again(norm: nn.BatchNorm2d) -> Layer:
    """Return what gives a BatchNorm's output once more without counting its input twice."""

    def again(x: Tensor) -> Tensor:
        running = (None, None) if norm.training else (norm.running_mean, norm.running_var)
        return torch.nn.functional.batch_norm(
            x, *running, norm.weight, norm.bias, training=norm.training, eps=norm.eps
        )

    return again


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Return `block(x)`; the backward pass runs the block again instead of keeping its insides.

    Stochastic depth draws the same samples again. BatchNorm would count its input twice, so blocks
    that hold one are not for this function.
    """

    def run(value: Tensor) -> Tensor:
        # What `through` drops is not kept here anyway, and its hooks would hide from checkpointing.
        _inside.checkpoint = True
        try:
            return block(value)
        finally:
            _inside.checkpoint = False

    result: Tensor = checkpoint(run, x, use_reentrant=False)
    return result


def _is_saving(x: Tensor, middle: Tensor) -> bool:
    """Say whether the value in between would be kept, and can be left out.

    torch.compile decides for itself what to make again.
    """
    return (
        middle.requires_grad
        and middle is not x
        and not torch.compiler.is_compiling()
        and not getattr(_inside, "checkpoint", False)
    )


def _autocast(value: Tensor) -> Tensor:
    kind = value.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return value.to(torch.get_autocast_dtype(kind))
    return value
