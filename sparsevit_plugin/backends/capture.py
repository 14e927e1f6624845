"""From a model and a batch to a graph: what `torch.export` captures, for other backends to read.

A graph is captured for one size of image and any batch. SparseViT decides on numbers how it pads
its grids and masks its keys, so a graph of any size would either be wrong for some or pay for all;
sizes have graphs of their own.
"""

import contextlib
import inspect
import io
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from sparsevit_plugin.model.kernels import Kernels, using_kernels

GROUND_TRUTH: Final = ("mask", "edge_mask", "label")
"""What a model is trained against: never an input of a graph."""

KERNELS: Final = Kernels()
"""How a model of this package writes its products in a graph: linear layers as such."""

OUTPUTS: Final = ("pred_mask", "pred_label")
_EXAMPLES: Final = 2  # torch.export takes a batch of one for a constant


@dataclass(frozen=True)
class InputSpec:
    """One input of a graph.

    Attributes:
        name: The keyword that the model takes it by.
        shape: Its shape without the batch.
        dtype: As in `float32`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Signature:
    """What a graph is captured for.

    Attributes:
        inputs: Its tensors.
        constants: Switches that the model is called with, as `(name, value)`.
        batch: The only batch that it takes; None for any.
    """

    inputs: tuple[InputSpec, ...]
    constants: tuple[tuple[str, bool], ...] = ()
    batch: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "inputs": [[one.name, list(one.shape), one.dtype] for one in self.inputs],
            "constants": [list(pair) for pair in self.constants],
            "batch": self.batch,
        }

    def example(self) -> dict[str, Tensor]:
        """Return tensors of these shapes; zeros, whose values no graph depends on."""
        batch = self.batch or _EXAMPLES
        return {
            one.name: torch.zeros(batch, *one.shape, dtype=getattr(torch, one.dtype))
            for one in self.inputs
        }


def chosen_inputs(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Pick the tensors of a batch that a model reads when it predicts.

    These are the ones that its `forward` names, without the ground truth; all of them where it
    names no `image`.

    Args:
        model: The model.
        batch: What it would be called with, by keyword.
    """
    named = inspect.signature(model.forward).parameters
    return {
        name: value
        for name, value in batch.items()
        if isinstance(value, Tensor)
        and name not in GROUND_TRUTH
        and (name in named or "image" not in named)
    }


def signature_of(model: nn.Module, batch: Mapping[str, Any]) -> Signature:
    """Describe the graph that a call needs.

    Args:
        model: The model.
        batch: The call, by keyword; the switches that the model's `forward` names become constants.
    """
    named = inspect.signature(model.forward).parameters
    specs = [
        InputSpec(name, tuple(value.shape[1:]), str(value.dtype).removeprefix("torch."))
        for name, value in sorted(chosen_inputs(model, batch).items())
    ]
    switches = [
        (name, value)
        for name, value in sorted(batch.items())
        if isinstance(value, bool) and (name in named or "image" not in named)
    ]
    return Signature(tuple(specs), tuple(switches))


class MapModel(nn.Module):
    """A model reduced to what a graph holds: named tensors in, map and image score out.

    A model that demands ground truth gets zeros: they reach its loss only, which nobody reads.

    Args:
        model: Called as IMDLBenCo's models are.
        constants: Switches to call it with.
    """

    def __init__(self, model: nn.Module, constants: Mapping[str, bool]) -> None:
        super().__init__()
        self.model = model
        self.constants = dict(constants)
        named = inspect.signature(model.forward).parameters
        self.demanded = tuple(
            name
            for name in GROUND_TRUTH
            if name in named and named[name].default is inspect.Parameter.empty
        )

    def forward(self, **tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the map (B, 1, H, W) and, of a model that gives one, the score (B,)."""
        image = tensors["image"]
        shapes = {
            "mask": (image.shape[0], 1, *image.shape[-2:]),
            "edge_mask": (image.shape[0], 1, *image.shape[-2:]),
            "label": (image.shape[0],),
        }
        truth = {name: image.new_zeros(shapes[name]) for name in self.demanded}
        output = self.model(**tensors, **truth, **self.constants)
        probability, label = output["pred_mask"].float(), output.get("pred_label")
        if label is None or label.numel() != image.shape[0]:
            return (probability,)
        return probability, label.float().reshape(image.shape[0])


def capture(model: nn.Module, signature: Signature) -> ExportedProgram:
    """Capture a model's graph in evaluation mode.

    Args:
        model: On the CPU, in evaluation mode.
        signature: For what.

    Raises:
        Exception: Whatever `torch.export`, or the model under it, has to say.
    """
    wrapped = MapModel(model, dict(signature.constants)).eval()
    example = signature.example()
    dynamic = None
    if signature.batch is None:
        batch = Dim("batch", min=1)
        dynamic = {"tensors": {name: {0: batch} for name in example}}
    # What this machine's PyTorch computes fastest with is no concern of a graph.
    with torch.no_grad(), quiet(), using_kernels(KERNELS):
        program = torch.export.export(wrapped, (), example, dynamic_shapes=dynamic, strict=False)
    # That several inputs have one batch becomes a check that exporters run and cannot (they know
    # the inputs by other names); a graph whose inputs differ fails by itself.
    program._guards_code = []
    return program


_QUIET = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what exporters print and warn about on the way; their errors come through.

    All of this belongs to the process: of two threads one waits, or the second would put back what
    the first had changed.
    """
    with _QUIET:
        disabled, level = logging.root.manager.disable, logging.root.level
        logging.disable(logging.WARNING)
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.disable(disabled)
            logging.root.setLevel(level)  # OpenVINO raises it when a conversion fails


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, with its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
