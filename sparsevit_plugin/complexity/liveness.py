"""Which parameters a prediction depends on, found by following data, not names."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from sparsevit_plugin.complexity.shapes import Inputs, storages_in

PREDICTIONS = ("pred_mask", "pred_label")
"""What a localiser predicts, by its key in the dictionary that the model returns."""


def live_parameters(model: nn.Module, inputs: Inputs) -> list[bool]:
    """Follow every parameter through one call, and say which ones reach the prediction.

    An operation's results depend on whatever its arguments depend on, gradients or not: a weight
    that is brought to another form without gradients counts, one whose result nothing reads does
    not, nor one that only the loss reads. What passes through NumPy or a Python number is lost.

    Args:
        model: In the mode in which it shall be called.
        inputs: Its arguments, by name.

    Returns:
        One entry for each of `model.parameters()`. The prediction is what `PREDICTIONS` names in
        the returned dictionary; all that the model returns where none of it is there.
    """
    parameters = list(model.parameters())
    follower = _Follower(parameters)
    with follower:
        output = model(**inputs)
    reached = follower.behind(_prediction(output))
    return [bool(reached >> place & 1) for place in range(len(parameters))]


def _prediction(output: object) -> object:
    if not isinstance(output, Mapping):
        return output
    named = [output[key] for key in PREDICTIONS if output.get(key) is not None]
    return named or output


class _Follower(TorchDispatchMode):
    """Keeps for each piece of memory the set of parameters behind it, as the bits of a number."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self._behind: Any = WeakIdKeyDictionary()
        for place, parameter in enumerate(parameters):
            self._add(parameter, 1 << place)

    def behind(self, value: object) -> int:
        """Return the parameters behind all tensors in a nest."""
        found = 0
        for storage in storages_in(value):
            found |= self._behind.get(storage, 0)
        return found

    def _add(self, value: object, parameters: int) -> None:
        for storage in storages_in(value):
            self._behind[storage] = self._behind.get(storage, 0) | parameters

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        found = self.behind((args, kwargs or {}))
        if found:
            self._add(out, found)
            self._add(_written(func, args, kwargs or {}), found)
        return out


def _written(func: Any, args: tuple, kwargs: Mapping[str, Any]) -> list[object]:  # noqa: ANN401
    """Return the arguments that an operation writes to, whether it returns them or not."""
    found: list[object] = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found.append(args[place] if place < len(args) else kwargs.get(argument.name))
    return found
