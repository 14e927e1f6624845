"""Calling a model by its shapes alone: nothing is computed, and no memory is taken.

On the meta device a tensor has a shape and no contents. A model that mixes in tensors of the CPU is
called with PyTorch's fake tensors, which know the device that they stand for; and one that needs
values (it reads a number from a tensor, calls NumPy) is run as it is, on the device it is on. What
is counted is the same.
"""

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

Inputs = Mapping[str, Any]
T = TypeVar("T")
Action = Callable[[nn.Module, Inputs], T]
"""Calls the model with the inputs, by name, and returns what it found."""


def by_shape(model: nn.Module, inputs: Inputs, action: Action[T]) -> T:
    """Act on a copy without contents where the model allows, else on one that is run.

    Whatever fails without contents fails again, with its own message, where the model is run.
    """
    with contextlib.suppress(Exception):
        return on_meta(model, inputs, action)
    return by_fakes(model, inputs, action)


def by_fakes(model: nn.Module, inputs: Inputs, action: Action[T]) -> T:
    """Act on fake tensors, which choose the same operations as the real ones, else on real ones."""
    with contextlib.suppress(Exception):
        return on_fakes(model, inputs, action)
    return on_copy(model, inputs, action)


def on_meta(model: nn.Module, inputs: Inputs, action: Action[T]) -> T:
    """Act on a copy on the meta device."""

    def bare(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device="meta")

    return action(_with_tensors(model, bare), _converted(inputs, bare))


def on_fakes(model: nn.Module, inputs: Inputs, action: Action[T]) -> T:
    """Act on a copy made of fake tensors of the same devices."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    copied = _with_tensors(model, mode.from_tensor)
    converted = _converted(inputs, mode.from_tensor)
    with mode, warnings.catch_warnings():
        # A model that asks where its memory is gets a warning for every time.
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        return action(copied, converted)


def on_copy(model: nn.Module, inputs: Inputs, action: Action[T]) -> T:
    """Act on a copy that is really run; on the model itself where it cannot be copied."""
    copied = model
    with contextlib.suppress(Exception):
        copied = _with_tensors(model, torch.clone)
    return action(copied, inputs)


def _with_tensors(model: nn.Module, convert: Callable[[Tensor], Tensor]) -> nn.Module:
    """Copy a model's structure with its parameters, buffers and other tensors converted."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        converted = convert(parameter.detach())
        memo[id(parameter)] = nn.Parameter(converted, requires_grad=parameter.requires_grad)
    plain = (value for module in model.modules() for value in vars(module).values())
    for tensor in (*model.buffers(), *(value for value in plain if isinstance(value, Tensor))):
        memo.setdefault(id(tensor), convert(tensor.detach()))
    return copy.deepcopy(model, memo)


def _converted(inputs: Inputs, convert: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return {k: convert(v) if isinstance(v, Tensor) else v for k, v in inputs.items()}


@contextlib.contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a model into training or evaluation mode; each module gets its own mode back."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yield the tensors in a nest of lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def storages_in(value: object) -> Iterator[torch.UntypedStorage]:
    """Yield the memory behind the tensors in a nest; one that several share comes several times.

    A tensor without memory of its own (a sparse one, say) has none.
    """
    for tensor in tensors_in(value):
        with contextlib.suppress(NotImplementedError, RuntimeError):
            yield tensor.untyped_storage()
