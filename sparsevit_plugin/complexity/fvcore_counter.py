"""Counting by fvcore, which IMDLBenCo's own script uses: a second opinion on every count.

fvcore traces a model and adds up formulas. It counts a multiply-accumulate as one operation and
calls the sum FLOPs; here it is called MACs. Beside products it counts normalisation and
interpolation, and it knows no fused attention, so its sum differs from other counters' for reasons
that can be listed: `by_operation` and `not_counted`.
"""

from typing import Any, Final

from torch import Tensor, nn

from sparsevit_plugin.complexity.products import Products
from sparsevit_plugin.complexity.shapes import Inputs, tensors_in

FVCORE_COUNTER: Final = "fvcore"

_INNER: Final = "model"  # the attribute of `_ByPosition` that holds the model


def fvcore_products(model: nn.Module, inputs: Inputs) -> Products:
    """Count one call by fvcore.

    Returns:
        `macs` is fvcore's sum. `flops` is None: fvcore gives no number of its own for them.
    """
    analysis = _analysis(model, inputs)
    by_module = {
        name.removeprefix(_INNER).removeprefix("."): round(total)
        for name, total in analysis.by_module().items()
    }
    return Products(
        macs=round(analysis.total()),
        flops=None,
        by_module=by_module,
        by_operation={name: round(total) for name, total in analysis.by_operator().items()},
        not_counted=dict(analysis.unsupported_ops()),
    )


def _analysis(model: nn.Module, inputs: Inputs) -> Any:  # noqa: ANN401 - fvcore has no types
    from fvcore.nn import FlopCountAnalysis

    called = _ByPosition(model, inputs)
    analysis = FlopCountAnalysis(called, called.positional())
    analysis.unsupported_ops_warnings(False)
    analysis.uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    return analysis


class _ByPosition(nn.Module):
    """A model as PyTorch's tracer takes it: tensors by position, a tuple of tensors back."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self._inputs = dict(inputs)
        self._names = [name for name, value in inputs.items() if isinstance(value, Tensor)]

    def positional(self) -> tuple[Tensor, ...]:
        """Return the tensors of the inputs in the order of `forward`."""
        return tuple(self._inputs[name] for name in self._names)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Call the model as the inputs do."""
        given = self._inputs | dict(zip(self._names, tensors, strict=True))
        return tuple(tensors_in(self.model(**given)))
