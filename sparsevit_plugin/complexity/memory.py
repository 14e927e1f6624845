"""Activation memory, exact by definition: the bytes of what operations return and something holds.

Bytes are those of distinct pieces of memory. Parameters, buffers and inputs are left out: they were
there before. What a kernel takes for itself while it works, and what an allocator rounds up to, is
not in these figures: they are the part that the model decides.
"""

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from sparsevit_plugin.complexity.shapes import Inputs, storages_in

LOSS = "backward_loss"
"""What a localiser is trained on, by its key in the dictionary that the model returns."""


def peak_bytes(model: nn.Module, inputs: Inputs) -> int:
    """Return the most bytes of results that are alive at one time in one call without gradients.

    Args:
        model: In the mode in which it shall be called.
        inputs: Its arguments, by name.
    """
    meter = _LiveBytes()
    with torch.no_grad(), meter:
        model(**inputs)
    return meter.peak


def kept_bytes(model: nn.Module, inputs: Inputs) -> int:
    """Return the bytes of results that a forward pass leaves alive for its backward pass.

    Nothing is held but the loss, and so what its gradient needs, however the model keeps it: by
    autograd, by hooks of its own, or in its modules.

    Args:
        model: In training mode; its parameters say whether they need gradients.
        inputs: Its arguments, by name.
    """
    meter = _LiveBytes()
    with torch.enable_grad(), meter:
        output = model(**inputs)
        if isinstance(output, Mapping) and output.get(LOSS) is not None:
            output = output[LOSS]
        kept = meter.now
    del output
    return kept


class _LiveBytes(TorchDispatchMode):
    """Adds the memory that an operation returns, and takes it away when nothing holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self.now = 0
        self._known: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        for storage in storages_in((args, kwargs or {})):
            # A view's memory is that of its argument.
            self._known.setdefault(storage, None)
        for storage in storages_in(out):
            if storage not in self._known:
                self._known[storage] = None
                self._add(storage)
        self.peak = max(self.peak, self.now)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self.now += size
        weakref.finalize(storage, self._remove, size).atexit = False

    def _remove(self, size: int) -> None:
        self.now -= size
