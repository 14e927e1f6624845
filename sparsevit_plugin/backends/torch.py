"""The `torch` backend: the model itself, made fast for inference."""

import contextlib
import copy
from typing import Any, Final

import torch
from torch import Tensor, nn

AUTOCAST: Final = {
    "bf16": torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
}


def prepare_torch(
    model: nn.Module, precision: str, device: torch.device, *, compiled: bool = False
) -> "TorchPredictor":
    """Return a copy of a model for inference.

    Args:
        model: Left as it is.
        precision: One of the backend's.
        device: Where it computes.
        compiled: Whether it goes through `torch.compile`.
    """
    return TorchPredictor(inference_copy(model, device), precision, compiled=compiled)


def inference_copy(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy in evaluation mode; of a model that has a method `fuse()`, what that returns.

    Args:
        model: Left as it is.
        device: Where the copy is.
    """
    inner = copy.deepcopy(model).to(device).eval().requires_grad_(False)
    fuse = getattr(inner, "fuse", None)
    return fuse().eval() if callable(fuse) else inner


class TorchPredictor(nn.Module):
    """A model in PyTorch, in one precision.

    Args:
        model: Called as IMDLBenCo's models are.
        precision: One of the backend's.
        compiled: Whether it goes through `torch.compile`.
    """

    def __init__(self, model: nn.Module, precision: str, *, compiled: bool = False) -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self.compiled = compiled
        self._call = torch.compile(model) if compiled else model
        self.eval()

    @torch.no_grad()
    def forward(self, image: Tensor, **batch: Any) -> dict[str, Any]:  # noqa: ANN401
        """Predict.

        Args:
            image: Normalised photographs, shape (B, 3, H, W).
            **batch: What else the model reads.

        Returns:
            `pred_mask` (B, 1, H, W), probabilities in single precision; `pred_label` (B,), or None
            of a model that gives none.
        """
        dtype = AUTOCAST.get(self.precision)
        kind = image.device.type
        scope = torch.autocast(kind, dtype) if dtype else contextlib.nullcontext()
        with scope:
            output = self._call(image=image, **batch)
        label = output.get("pred_label")
        return {
            "pred_mask": output["pred_mask"].float(),
            "pred_label": None if label is None else label.float(),
        }
