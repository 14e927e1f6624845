"""Every choice of kernels gives the same numbers."""

import pytest
import torch
from torch.nn import functional as F

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.model.attention import Spacing
from sparsevit_plugin.model.blocks import SparseBlock
from sparsevit_plugin.model.kernels import (
    Kernels,
    attend,
    current_kernels,
    linear,
    using_kernels,
)

CHOICES = [Kernels(), Kernels("onednn"), Kernels("onednn", 1000, 1000), Kernels("mkl", 9, 0)]


@pytest.mark.parametrize("kernels", CHOICES, ids=str)
@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 7), (1, 1)])
def test_a_block_gives_the_same(kernels, height, width):
    torch.manual_seed(0)
    block = SparseBlock(8, 2, Spacing(2), layer_scale_init=0.7)
    grid = torch.randn(2, height, width, 8)
    results = []
    for chosen in (Kernels(), kernels):
        with using_kernels(chosen):
            output = block(grid)
        results.append((output, *torch.autograd.grad(output.sum(), [*block.parameters()])))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("library", ["mkl", "onednn"])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(library, bias):
    grid, weight = torch.randn(2, 3, 4, 5), torch.randn(7, 5)
    offset = torch.randn(7) if bias else None
    with using_kernels(Kernels(library)):
        actual = linear(grid, weight, offset)
    torch.testing.assert_close(actual, F.linear(grid, weight, offset), rtol=0, atol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_attention_by_products(masked):
    query, key, value = torch.randn(3, 4, 2, 9, 8)
    mask = None
    if masked:
        mask = torch.rand(4, 1, 1, 9) > 0.4
        mask[..., 0] = True
    with using_kernels(Kernels(attention_fp32=9)):
        actual = attend(query, key, value, mask)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_limits_are_per_format():
    kernels = Kernels("mkl", attention_fp32=16, attention_bf16=64)
    assert kernels.by_products(16, torch.float32)
    assert not kernels.by_products(17, torch.float32)
    assert kernels.by_products(64, torch.bfloat16)
    assert not kernels.by_products(1, torch.float64)


def test_a_block_restores_what_was_before():
    def fail():
        with using_kernels(Kernels("onednn")):
            assert current_kernels().matmul == "onednn"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert current_kernels() == Kernels()


def test_manifests_bring_it_back():
    kernels = Kernels("onednn", 64, 256)
    assert Kernels.from_dict(kernels.to_dict()) == kernels


def test_unknown_library():
    with pytest.raises(UserError, match="matmul: unknown value"):
        Kernels("blas")
