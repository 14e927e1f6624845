"""What is made again in the backward pass, against the plain composition."""

import gc

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from sparsevit_plugin.model.attention import Spacing
from sparsevit_plugin.model.blocks import ConvBlock, SparseBlock
from sparsevit_plugin.model.memory import batch_norm_again, checkpointed, through


def gradients(output, tensors):
    return torch.autograd.grad(output.square().sum(), tensors)


def saved_elements(run):
    """Count the elements of all tensors kept for the backward pass, each storage once."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storages.values()) // 4


@pytest.mark.parametrize("make", [nn.GELU(), nn.LayerNorm(6), lambda x: x.relu() * 2])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 5, 6)])
def test_gradients_are_those_of_the_composition(make, shape):
    torch.manual_seed(0)
    product = nn.Linear(6, 4)
    x = torch.randn(shape, requires_grad=True)
    tensors = [x, *product.parameters()]
    plain, thrifty = product(make(x)), through(make, x, product)
    assert torch.equal(plain, thrifty)
    for expected, actual in zip(
        gradients(plain, tensors), gradients(thrifty, tensors), strict=True
    ):
        assert torch.equal(expected, actual)


def test_views_of_the_value_are_made_again():
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, weight: through(torch.exp, x, lambda t: t.transpose(1, 2)[1:] @ weight),
        (x, weight),
    )


def test_the_value_between_is_made_again():
    x = torch.randn(64, 32, requires_grad=True)
    product = nn.Linear(32, 2)
    seen = []

    def watched(value):
        made = torch.nn.functional.gelu(value)
        seen.append(made.untyped_storage().data_ptr())
        return made

    result = through(watched, x, product)
    assert len(seen) == 1
    result.sum().backward()
    assert len(seen) == 2  # it was made again


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_counts_its_input_once(training):
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(3).train(training) for _ in range(2)]
    conv = nn.Conv2d(3, 2, 1)
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    plain = conv(norms[0](x))
    thrifty = through(norms[1], x, conv, batch_norm_again(norms[1]))
    tensors = [x, *conv.parameters()]
    for expected, actual in zip(
        gradients(plain, tensors), gradients(thrifty, tensors), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    for name, value in norms[0].state_dict().items():
        assert torch.equal(value, norms[1].state_dict()[name])


def test_autocast_keeps_its_format():
    x = torch.randn(2, 6, requires_grad=True)
    product = nn.Linear(6, 3)
    with torch.autocast("cpu", torch.bfloat16):
        plain, thrifty = (
            product(nn.functional.layer_norm(x, (6,))),
            through(lambda t: nn.functional.layer_norm(t, (6,)), x, product),
        )
    assert thrifty.dtype == torch.bfloat16
    for expected, actual in zip(
        gradients(plain, [product.weight, x]), gradients(thrifty, [product.weight, x]), strict=True
    ):
        assert torch.equal(expected, actual)


def test_blocks_keep_less_than_the_plain_composition(monkeypatch):
    block = ConvBlock(8)
    maps = torch.randn(2, 8, 16, 16, requires_grad=True)

    def kept():
        gc.collect()
        return saved_elements(lambda: block(maps))

    thrifty = kept()
    monkeypatch.setattr("sparsevit_plugin.model.memory._is_saving", lambda *_: False)
    plain = kept()
    hidden = 2 * 32 * 16 * 16  # what the GELU gives
    assert plain - thrifty >= hidden


def test_a_norm_of_another_class_is_run_as_it_is():
    """SyncBatchNorm's statistics are of all processes: it may not be made again on one."""

    class Counting(nn.BatchNorm2d):
        calls = 0

        def forward(self, maps):
            self.calls += 1
            return super().forward(maps)

    block = ConvBlock(4)
    block.norm1 = Counting(4)
    maps = torch.randn(2, 4, 6, 6, requires_grad=True)
    block(maps).sum().backward()
    assert block.norm1.calls == 1
    assert block.norm1.num_batches_tracked == 1


def test_checkpointing_draws_the_same_stochastic_depth():
    torch.manual_seed(0)
    block = SparseBlock(8, 2, Spacing(2), layer_scale_init=0.5, drop_path=0.5)
    grid = torch.randn(4, 6, 6, 8, requires_grad=True)
    results = []
    for run in (block, lambda x: checkpointed(block, x)):
        torch.manual_seed(3)
        output = run(grid)
        results.append((output, *gradients(output, [grid, *block.parameters()])))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_checkpointing_keeps_little_of_a_block():
    block = SparseBlock(8, 2, Spacing(1), layer_scale_init=0.5)
    grid = torch.randn(2, 8, 8, 8, requires_grad=True)
    plain = saved_elements(lambda: block(grid))
    thrifty = saved_elements(lambda: checkpointed(block, grid))
    assert thrifty < plain / 4
