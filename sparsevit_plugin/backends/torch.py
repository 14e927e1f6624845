"""The `torch` backend: the model itself, made fast for inference."""

import contextlib
import copy
import importlib
import logging
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

MOST_SIZES: Final = 16
"""Sizes of photographs that are compiled, each for a minute or more; further ones are not."""

_GRAPHS_OF_A_SIZE: Final = 4  # of one image, of several, of any number

_LOG: Final = logging.getLogger(__name__)


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
    """
    return _setting("torch._inductor.config", freezing=True)


def many_sizes() -> contextlib.AbstractContextManager[Any]:
    """Let the compiler make a graph for every size; it would fail at the eighth."""
    return _setting("torch._dynamo.config", recompile_limit=_GRAPHS_OF_A_SIZE * MOST_SIZES)


def _setting(module: str, **values: object) -> contextlib.AbstractContextManager[Any]:
    """Change settings of the compiler in a block; nothing where this PyTorch has none of them."""
    config = importlib.import_module(module)
    if not all(hasattr(config, name) for name in ("patch", *values)):
        return contextlib.nullcontext()
    patched: contextlib.AbstractContextManager[Any] = config.patch(**values)
    return patched


def fix_size(image: Tensor) -> None:
    """Keep the compiler from graphs in which height and width are unknown.

    It tries that at the second size, and traces SparseViT's arithmetic of token groups for minutes
    without an end. The number of images stays free: that it manages.
    """
    mark = getattr(importlib.import_module("torch._dynamo"), "mark_static", None)
    if mark is not None:
        mark(image, [image.dim() - 2, image.dim() - 1])


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
        self._compiled = compile_whole(model) if compiled else None
        self._sizes: set[tuple[int, ...]] = set()
        self._told = False
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
        call = self._call_for(image)
        with self._scope(image.device.type):
            output = call(image=image, **batch)
        label = output.get("pred_label")
        return {
            "pred_mask": output["pred_mask"].float(),
            "pred_label": None if label is None else label.float(),
        }

    def _call_for(self, image: Tensor) -> Callable[..., Any]:
        """Return the compiled model, or the model itself for more sizes than can be compiled."""
        if self._compiled is None:
            return self.model
        size = tuple(image.shape[-2:])
        if size not in self._sizes and len(self._sizes) == MOST_SIZES:
            if not self._told:
                _LOG.warning(
                    "--compile: %d sizes of photographs are compiled; others run without",
                    MOST_SIZES,
                )
                self._told = True
            return self.model
        self._sizes.add(size)
        fix_size(image)
        return self._compiled

    @contextlib.contextmanager
    def _scope(self, kind: str) -> Iterator[None]:
        """Choose the number format, and for the compiler the form that it fuses best."""
        with contextlib.ExitStack() as stack:
            if self.autocast:
                stack.enter_context(torch.autocast(kind, self.autocast))
            if self.compiled:
                stack.enter_context(many_sizes())
            if self.compiled and kind == "cpu":
                stack.enter_context(frozen_weights())
                # It runs what follows a convolution inside it, which it does not for a product.
                stack.enter_context(using_kernels(replace(current_kernels(), matmul="onednn")))
            yield
