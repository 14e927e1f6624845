"""All counts of one model: parameters, multiply-accumulates, activation memory.

No number is forced to match another counter's, so each result carries the name of its counter.

    >>> from torch import nn, zeros
    >>> count(nn.Conv2d(3, 8, 3), {"input": zeros(1, 3, 10, 10)}).macs  # 8 * 3 * 9 * 8 * 8
    13824
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn

from sparsevit_plugin.complexity.fvcore_counter import FVCORE_COUNTER, fvcore_products
from sparsevit_plugin.complexity.groups import grouped
from sparsevit_plugin.complexity.hand import HAND_COUNTER, hand_products
from sparsevit_plugin.complexity.liveness import live_parameters
from sparsevit_plugin.complexity.memory import kept_bytes, peak_bytes
from sparsevit_plugin.complexity.products import TORCH_COUNTER, Products, torch_products
from sparsevit_plugin.complexity.shapes import Inputs, by_fakes, by_shape, in_mode
from sparsevit_plugin.errors import UserError

T = TypeVar("T")

COUNTERS: Final[Mapping[str, Callable[[nn.Module, Inputs], Products]]] = {
    TORCH_COUNTER: torch_products,
    FVCORE_COUNTER: fvcore_products,
    HAND_COUNTER: hand_products,
}
"""By name: a function of a model and its inputs that calls it once, or takes it apart."""


@dataclass(frozen=True)
class Complexity:
    """What a model costs.

    Attributes:
        parameters: All that the model holds, shared ones once, those that its forward never uses
            included.
        macs: Multiply-accumulates of one forward pass, in evaluation mode, on a batch of one; None
            when the forward pass failed.
        counter: What counted them.
        image_size: Side of the square input in pixels; of another input the longer side, 0 where
            there is no image.
        reason: Why there are no MACs; empty when there are.
        live_parameters: Those that the prediction depends on.
        flops: Floating-point operations, where the counter gives them.
        by_module: MACs by the name of a module; not kept by `to_dict`.
        by_operation: The same by the counter's names of operations; not kept either.
        not_counted: Group to operation to calls: what ran and is not in `macs`, without
            element-wise operations and those that move data.
        fourier_flops: Of the Fourier transforms among them, an estimate.
        peak_bytes: The most bytes of results alive at one time in that pass.
        kept_bytes: What a training pass leaves alive for its backward pass, for each image.
        memory_reason: Why one of these two is missing.
    """

    parameters: int
    macs: int | None
    counter: str
    image_size: int
    reason: str = ""
    live_parameters: int | None = None
    flops: int | None = None
    by_module: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)
    by_operation: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)
    not_counted: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    fourier_flops: float = 0.0
    peak_bytes: int | None = None
    kept_bytes: int | None = None
    memory_reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it, without the counts of single modules and operations."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("by_")}


def count(
    model: nn.Module,
    inputs: Inputs,
    counter: str = TORCH_COUNTER,
    *,
    training_inputs: Inputs | None = None,
) -> Complexity:
    """Count a model's parameters, the MACs of one call, and its activation memory.

    See `shapes` for how a model is called: by its shapes alone where it allows. The model is left
    as it was, and so is the random generator.

    Args:
        model: Any module.
        inputs: What to call it with, by argument name. The batch has one photograph where MACs
            shall be those of one photograph.
        counter: One of `COUNTERS`.
        training_inputs: What to call it with in training mode, a batch of any size; None for no
            `kept_bytes`.

    Returns:
        The counts; what could not be counted is None, with the reason.
    """
    tries = _Tries()
    with torch.random.fork_rng(devices=[]), in_mode(model, training=False), torch.no_grad():
        found = tries.make(lambda: by_shape(model, inputs, COUNTERS[counter]))
        reason = tries.reasons()
        live = tries.make(lambda: by_shape(model, inputs, live_parameters))
        peak = tries.make(lambda: by_fakes(model, inputs, peak_bytes))
    kept = None
    if training_inputs is not None:
        given = training_inputs
        with torch.random.fork_rng(devices=[]), in_mode(model, training=True):
            kept = tries.make(lambda: _kept_per_image(model, given), "training pass")
    sizes = [parameter.numel() for parameter in model.parameters()]
    return Complexity(
        parameters=sum(sizes),
        macs=found.macs if found else None,
        counter=counter,
        image_size=_image_size(inputs),
        reason=reason,
        live_parameters=None if live is None else sum(itertools.compress(sizes, live)),
        flops=found.flops if found else None,
        by_module=found.by_module if found else {},
        by_operation=found.by_operation if found else {},
        not_counted=grouped(found.not_counted) if found else {},
        fourier_flops=found.fourier_flops if found else 0.0,
        peak_bytes=peak,
        kept_bytes=kept,
        memory_reason=tries.reasons(),
    )


class _Tries:
    """Makes what can be made, and remembers why the rest could not."""

    def __init__(self) -> None:
        self._reasons: dict[str, None] = {}

    def make(self, action: Callable[[], T], what: str = "forward pass") -> T | None:
        """Return what an action makes, None where it fails: anybody's forward raises anything."""
        try:
            return action()
        except UserError as error:
            self._reasons[str(error)] = None
        except Exception as error:
            words = " ".join(str(error).split()) or "no message"
            self._reasons[f"the {what} failed: {type(error).__name__}: {words}"] = None
        return None

    def reasons(self) -> str:
        """Return why things failed since this was last asked."""
        text = "; ".join(self._reasons)
        self._reasons.clear()
        return text


def _kept_per_image(model: nn.Module, inputs: Inputs) -> int:
    """Return `kept_bytes` of a training pass over the images of its batch, rounded up."""
    images = next(value.shape[0] for value in inputs.values() if isinstance(value, Tensor))
    return -(-by_fakes(model, inputs, kept_bytes) // images)


def _image_size(inputs: Inputs) -> int:
    image = inputs.get("image")
    return max(image.shape[-2:]) if isinstance(image, Tensor) else 0
