"""The photographs that int8 is calibrated on."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsevit_plugin.backends.capture import Signature


@dataclass(frozen=True)
class Calibration:
    """Inputs to calibrate on.

    Attributes:
        batches: One photograph each: what the model would be called with, by keyword.
        facts: Where they are from, for manifests.
    """

    batches: tuple[Mapping[str, Any], ...]
    facts: Mapping[str, Any]

    def fingerprint(self) -> str:
        """Hash the tensors, as 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for batch in self.batches:
            for name, value in sorted(batch.items()):
                if isinstance(value, Tensor):
                    digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                    digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def feeds(self, signature: Signature) -> list[dict[str, Tensor]]:
        """Return the inputs of a graph, a photograph at a time.

        Photographs of another size than the graph's are resized; what is no image of floats cannot
        be, and has to fit.

        Raises:
            ValueError: An input is missing or does not fit.
        """
        return [
            {one.name: _fitted(batch, one.name, one.shape) for one in signature.inputs}
            for batch in self.batches
        ]


def _fitted(batch: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> Tensor:
    value = batch.get(name)
    if not isinstance(value, Tensor):
        raise ValueError(f"the photographs of calibration have no {name}")
    if tuple(value.shape[1:]) == shape:
        return value
    if name == "image":
        return F.interpolate(value, size=shape[-2:], mode="bilinear", align_corners=False)
    if name == "shape_mask":
        return F.interpolate(value, size=shape[-2:])
    raise ValueError(f"{name} of calibration is {tuple(value.shape[1:])}, not {shape}")
