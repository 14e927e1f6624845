"""Activation memory: against sums by hand, and by shapes against a run."""

import pytest
import torch
from torch import nn

from sparsevit_plugin.complexity.memory import kept_bytes, peak_bytes
from sparsevit_plugin.complexity.shapes import on_fakes
from sparsevit_plugin.model.sparsevit import SparseViT_tiny

FLOAT = 4


class Chain(nn.Module):
    """Three results of 100 numbers, of which two are alive at a time; a view takes no memory."""

    def forward(self, x):
        for _ in range(3):
            x = (x * 2).view(10, 10)
        return x


class Branches(nn.Module):
    """Keeps what it computed first to the end."""

    def forward(self, x):
        first = x * 2
        second = first * 2
        return first * (second * 2)


class Loss(nn.Module):
    """A layer whose input is made by an operation, and a branch that the loss does not need."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(10, 20, bias=False)

    def forward(self, x):
        y = self.layer(x.double().float())
        unneeded = self.layer(x * 3)
        return {"backward_loss": y.sum(), "pred_mask": unneeded}


def test_what_nothing_holds_any_more_is_not_alive():
    assert peak_bytes(Chain(), {"x": torch.zeros(10, 10)}) == 2 * 100 * FLOAT
    assert peak_bytes(Branches(), {"x": torch.zeros(10, 10)}) == 4 * 100 * FLOAT


def test_results_written_in_place_and_inputs_take_nothing():
    inputs = {"input": torch.zeros(10, 10)}
    assert peak_bytes(nn.ReLU(inplace=True), inputs) == 0
    assert peak_bytes(nn.Identity(), inputs) == 0


def test_a_loss_keeps_what_its_gradient_needs_and_nothing_else():
    # The layer's input, once in single precision, and the loss itself.
    assert kept_bytes(Loss().train(), {"x": torch.zeros(5, 10)}) == 5 * 10 * FLOAT + FLOAT


def test_parameters_without_gradients_keep_nothing():
    model = Loss().train().requires_grad_(False)
    assert kept_bytes(model, {"x": torch.zeros(5, 10)}) == FLOAT


@pytest.mark.parametrize("batch", [1, 2])
def test_shapes_alone_give_the_memory_of_a_run(batch):
    torch.manual_seed(0)
    model = SparseViT_tiny()
    inputs = {"image": torch.zeros(batch, 3, 64, 64), "mask": torch.zeros(batch, 1, 64, 64)}
    for training, measure in ((False, peak_bytes), (True, kept_bytes)):
        model.train(training)
        assert measure(model, inputs) == on_fakes(model, inputs, measure) > 0
