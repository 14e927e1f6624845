"""The attention partition, against definitions written out token by token."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.model.attention import (
    Spacing,
    SparseAttention,
    Stride,
    join_heads,
    real_keys,
    split_heads,
)
from sparsevit_plugin.model.blocks import SparseBlock

few = settings(max_examples=40, deadline=None, derandomize=True)
sides = st.integers(1, 11)
rates = st.integers(1, 9)


def lattice(height, width, stride):
    """N x N booleans over tokens in row order: True where one may attend to the other."""
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    same_row = row[:, None] % stride[0] == row[None] % stride[0]
    return same_row & (column[:, None] % stride[1] == column[None] % stride[1])


def naive_attention(module, grid, allowed):
    """Attention over all pairs of tokens, masked to `allowed`: the definition, in O(N^2)."""
    _, height, width, channels = grid.shape
    heads = module.num_heads
    q, k, v = module.qkv(grid.flatten(1, 2)).chunk(3, dim=-1)
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = q @ k.transpose(-2, -1) * (channels // heads) ** -0.5
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    mixed = (weights @ v).transpose(1, 2).flatten(2)
    return module.proj(mixed).unflatten(1, (height, width))


def random_attention(rate, sparsity="rate", reference_side=32, dim=8, heads=2):
    torch.manual_seed(rate)
    return SparseAttention(dim, heads, Spacing(rate, sparsity, reference_side)).double()


@pytest.mark.parametrize(
    ("rate", "reference", "side", "by_rate", "by_group"),
    [
        (8, 32, 32, 8, 8),  # 512 x 512: both readings agree
        (1, 32, 32, 1, 1),
        (2, 16, 16, 2, 2),
        (8, 32, 64, 8, 16),  # 1024 x 1024: upstream's groups keep their size
        (1, 32, 64, 1, 2),
        (1, 16, 32, 1, 2),
        (8, 32, 8, 8, 2),  # 128 x 128
        (4, 32, 8, 4, 1),
        (1, 32, 33, 1, 2),  # no multiple: the stride is rounded up
        (8, 32, 5, 5, 2),  # the stride never exceeds the side
        (64, 32, 5, 5, 5),
    ],
)
def test_stride(rate, reference, side, by_rate, by_group):
    assert Spacing(rate).stride(side, 1) == (by_rate, 1)
    assert Spacing(rate, "group", reference).stride(1, side) == (1, by_group)


@few
@given(sides, sides, rates, st.integers(1, 3))
def test_attention_is_masked_dense_attention(height, width, rate, batch):
    attention = random_attention(rate)
    grid = torch.randn(batch, height, width, 8, dtype=torch.float64)
    expected = naive_attention(attention, grid, lattice(height, width, (rate, rate)))
    torch.testing.assert_close(attention(grid), expected, rtol=0, atol=1e-10)


@few
@given(sides, sides, rates)
def test_group_attention_is_masked_dense_attention(height, width, rate):
    attention = random_attention(rate, "group", reference_side=8)
    grid = torch.randn(2, height, width, 8, dtype=torch.float64)
    group = max(1, 8 // rate)
    stride = (-(-height // group), -(-width // group))
    expected = naive_attention(attention, grid, lattice(height, width, stride))
    torch.testing.assert_close(attention(grid), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 9), (7, 5), (3, 10)])
@pytest.mark.parametrize("rate", [1, 2, 4, 8])
def test_changing_a_token_moves_its_lattice_and_nothing_else(height, width, rate):
    attention = random_attention(rate)
    grid = torch.randn(1, height, width, 8, dtype=torch.float64)
    before = attention(grid)
    allowed = lattice(height, width, (rate, rate)).unflatten(0, (height, width))
    for i in range(height):
        for j in range(width):
            changed = grid.clone()
            changed[0, i, j] += 1
            moved = (attention(changed) != before).any(-1)[0]
            assert torch.equal(moved.flatten(), allowed[i, j])


@pytest.mark.parametrize(("height", "width", "rate"), [(8, 8, 4), (7, 10, 3), (12, 5, 4)])
def test_a_block_moves_the_lattice_and_its_eight_neighbours(height, width, rate):
    torch.manual_seed(0)
    block = SparseBlock(8, 2, Spacing(rate), layer_scale_init=0.7).double()
    grid = torch.randn(1, height, width, 8, dtype=torch.float64)
    before = block(grid)
    allowed = lattice(height, width, (rate, rate)).unflatten(0, (height, width))
    for i, j in [(0, 0), (height - 1, width - 1), (height // 2, 1)]:
        changed = grid.clone()
        changed[0, i, j] += torch.randn(8, dtype=torch.float64)  # LayerNorm hides a constant
        moved = (block(changed) != before).any(-1)[0]
        seen = allowed[i, j].unflatten(0, (height, width)).double()
        reach = F.max_pool2d(seen[None, None], 3, stride=1, padding=1)[0, 0].bool()
        assert torch.equal(moved, reach)


def test_rate_one_is_torch_multihead_attention():
    attention = random_attention(1)
    reference = torch.nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        reference.in_proj_weight.copy_(attention.qkv.weight)
        reference.in_proj_bias.copy_(attention.qkv.bias)
    reference.out_proj.load_state_dict(attention.proj.state_dict())
    grid = torch.randn(2, 5, 6, 8, dtype=torch.float64)
    tokens = grid.flatten(1, 2)
    expected = reference(tokens, tokens, tokens, need_weights=False)[0]
    torch.testing.assert_close(attention(grid).flatten(1, 2), expected, rtol=0, atol=1e-10)


@few
@given(sides, sides, st.integers(1, 5), st.integers(1, 5))
def test_joining_undoes_splitting(height, width, sh, sw):
    stride = Stride(min(sh, height), min(sw, width))
    grid = torch.randn(2, height, width, 3 * 2 * 5)
    parts = split_heads(grid, stride, 3, 2)
    joined = torch.cat([join_heads(part, stride, height, width) for part in parts], dim=-1)
    assert torch.equal(joined, grid)
    mask = real_keys(stride, height, width, grid.device)
    if mask is not None:
        assert mask.sum() == height * width
        assert mask.any(dim=1).all()


def test_no_mask_where_nothing_is_padded():
    assert real_keys(Stride(4, 2), 8, 6, torch.device("cpu")) is None


@pytest.mark.parametrize(("height", "width", "rate"), [(1, 1, 8), (5, 1, 8), (3, 7, 4), (2, 2, 2)])
def test_gradients_are_finite_where_sides_are_padded(height, width, rate):
    attention = random_attention(rate)
    grid = torch.randn(2, height, width, 8, dtype=torch.float64, requires_grad=True)
    attention(grid).square().sum().backward()
    tensors = [grid, *attention.parameters()]
    assert all(tensor.grad.isfinite().all() for tensor in tensors)


def test_unknown_sparsity_is_named():
    with pytest.raises(UserError, match=r'unknown value "rates"\. Did you mean "rate"'):
        SparseAttention(8, 2, Spacing(2, "rates"))
