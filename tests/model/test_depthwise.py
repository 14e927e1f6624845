"""The weight gradient of a 5 x 5 depthwise convolution, against PyTorch's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsevit_plugin.model.depthwise import depthwise


def both(conv, maps):
    """Return output and gradients of the plain convolution and of ours."""
    results = []
    for run in (conv, lambda x: depthwise(conv, x)):
        output = run(maps)
        weights = output.new_tensor(range(1, output.shape[-1] + 1))
        found = torch.autograd.grad((output * weights).sum(), [maps, *conv.parameters()])
        results.append((output, *found))
    return results


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.booleans())
def test_gradients_at_any_size(height, width, batch, bias):
    torch.manual_seed(height * 10 + width)
    conv = nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=bias).double()
    maps = torch.randn(batch, 4, height, width, dtype=torch.float64, requires_grad=True)
    for expected, actual in zip(*both(conv, maps), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


def test_channels_last_and_autocast():
    conv = nn.Conv2d(8, 8, 5, padding=2, groups=8)
    maps = torch.randn(2, 8, 12, 10).contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        results = both(conv, maps)
    assert results[1][0].dtype == torch.bfloat16
    for expected, actual in zip(*results, strict=True):
        scale = expected.float().abs().max()
        assert (actual.float() - expected.float()).abs().max() <= 0.02 * scale


@pytest.mark.parametrize("side", [3, 7])
def test_other_kernels_are_plain(side):
    conv = nn.Conv2d(2, 2, side, padding=side // 2, groups=2)
    maps = torch.randn(1, 2, 8, 8, requires_grad=True)
    output = depthwise(conv, maps)
    assert "Depthwise" not in type(output.grad_fn).__name__
    assert torch.equal(output, conv(maps))


def test_nothing_special_without_gradients():
    conv = nn.Conv2d(2, 2, 5, padding=2, groups=2)
    with torch.no_grad():
        assert depthwise(conv, torch.randn(1, 2, 8, 8)).grad_fn is None
