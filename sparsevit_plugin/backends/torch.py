"""The `torch` backend: the model itself, made fast for inference."""

import contextlib
import copy
import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from sparsevit_plugin.model.fused import FusedSparseViT
from sparsevit_plugin.model.kernels import current_kernels, using_kernels

AUTOCAST: Final = {
    "bf16": torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
}


BF16: Final = "bf16"
"""Everything in bfloat16, where a model can; autocast converts the operands of products alone."""


def prepare_torch(
    model: nn.Module, precision: str, device: torch.device, *, compiled: bool = False
) -> "TorchPredictor":
    """Return a copy of a model for inference.

    Args:
        model: Left as it is.
        precision: One of the backend's.
        device: Where it computes.
        compiled: Whether it goes through `torch.compile`, its weights frozen where that is the CPU.
    """
    inner = inference_copy(model, device)
    autocast = AUTOCAST.get(precision)
    if isinstance(inner, FusedSparseViT):
        if precision == BF16:
            inner, autocast = inner.to(torch.bfloat16), None
        # Packed layers take one format, and the compiler packs by itself.
        by_onednn = current_kernels().matmul == "onednn" or precision == BF16
        if device.type == "cpu" and by_onednn and not (autocast or compiled):
            inner = inner.pack()
    return TorchPredictor(inner, autocast, compiled=compiled)


def inference_copy(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy in evaluation mode; of a model that has a method `fuse()`, what that returns.

    Args:
        model: Left as it is.
        device: Where the copy is.
    """
    inner = copy.deepcopy(model).to(device).eval().requires_grad_(False)
    fuse = getattr(inner, "fuse", None)
    return fuse().eval() if callable(fuse) else inner


def compile_whole(model: nn.Module) -> Callable[..., Any]:
    """Compile a model; a fused one is one graph, or an error, others may fall into several."""
    return torch.compile(model, fullgraph=isinstance(model, FusedSparseViT))


def frozen_weights() -> contextlib.AbstractContextManager[Any]:
    """Let the compiler make constants of the weights, which it can pack then.

    The setting must hold while a call is traced, which the options of `torch.compile` do not do.
    Where this PyTorch has no such setting nothing happens.
    """
    config = importlib.import_module("torch._inductor.config")
    try:
        patched: contextlib.AbstractContextManager[Any] = config.patch(freezing=True)
    except AttributeError:
        return contextlib.nullcontext()
    return patched


class TorchPredictor(nn.Module):
    """A model in PyTorch, in one number format.

    Args:
        model: Called as IMDLBenCo's models are.
        autocast: What products are computed in; None for the format of the weights.
        compiled: Whether it goes through `torch.compile`.
    """

    def __init__(
        self, model: nn.Module, autocast: torch.dtype | None, *, compiled: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.autocast = autocast
        self.compiled = compiled
        self._call = compile_whole(model) if compiled else model
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
        with self._scope(image.device.type):
            output = self._call(image=image, **batch)
        label = output.get("pred_label")
        return {
            "pred_mask": output["pred_mask"].float(),
            "pred_label": None if label is None else label.float(),
        }

    @contextlib.contextmanager
    def _scope(self, kind: str) -> Iterator[None]:
        """Choose the number format, and for the compiler the form that it fuses best."""
        with contextlib.ExitStack() as stack:
            if self.autocast:
                stack.enter_context(torch.autocast(kind, self.autocast))
            if self.compiled and kind == "cpu":
                stack.enter_context(frozen_weights())
                # It runs what follows a convolution inside it, which it does not for a product.
                stack.enter_context(using_kernels(replace(current_kernels(), matmul="onednn")))
            yield
