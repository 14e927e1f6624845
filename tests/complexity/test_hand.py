"""SparseViT's MACs by hand against PyTorch's counter and fvcore, and the table over S."""

import contextlib
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevit_plugin.complexity import count
from sparsevit_plugin.complexity.fvcore_counter import fvcore_products
from sparsevit_plugin.complexity.groups import grouped
from sparsevit_plugin.complexity.hand import HAND_COUNTER, sparse_block
from sparsevit_plugin.complexity.products import torch_products
from sparsevit_plugin.complexity.sparsity import RATES, block_rows
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.config import resolve
from sparsevit_plugin.harness.pipeline import build_model
from sparsevit_plugin.model.attention import Spacing
from sparsevit_plugin.model.blocks import SparseBlock
from sparsevit_plugin.model.sparsevit import SparseViT_tiny

# fvcore's names of the operations that torch.utils.flop_counter counts too.
PRODUCTS = ("conv", "linear", "addmm", "matmul", "bmm", "baddbmm", "einsum")


@pytest.mark.parametrize("rate", RATES)
@settings(max_examples=5, deadline=None)
@given(
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    heads=st.integers(1, 3),
    ratio=st.sampled_from([1, 2, 4]),
)
def test_a_sparse_block_has_the_macs_of_its_formula(rate, rows, columns, heads, ratio):
    height, width, channels = rows * rate, columns * rate, 8 * heads
    block = SparseBlock(channels, heads, Spacing(rate), mlp_ratio=ratio).eval()
    with torch.no_grad():
        found = torch_products(block, {"grid": torch.zeros(1, height, width, channels)})
    by_hand = sparse_block(height, width, channels, rate, ratio * channels)
    assert found.macs == by_hand.total
    assert found.by_operation["aten.bmm"] == by_hand.attention


@pytest.mark.parametrize("rate", RATES)
def test_attention_falls_by_s_squared_and_the_block_by_less(rate):
    dense, sparse = (sparse_block(32, 32, 320, one) for one in (1, rate))
    assert dense.attention == rate**2 * sparse.attention
    assert (dense.projections, dense.mlp) == (sparse.projections, sparse.mlp)
    assert dense.total <= rate**2 * sparse.total


def test_the_table_has_a_row_for_each_rate_that_divides_and_both_counters():
    rows = block_rows(512, stage=3, channels=320, heads=5)
    assert [(row["rate"], row["group"]) for row in rows] == [(1, 1024), (2, 256), (4, 64), (8, 16)]
    for row in rows:
        assert row["attention_hand"] == row["attention_torch"]
        assert row["block_hand"] == row["block_torch"]
        assert row["attention_ratio"] == row["rate"] ** 2
    assert rows[-1]["block_ratio"] == pytest.approx(1.5158, abs=1e-4)
    assert [row["rate"] for row in block_rows(96, stage=4, channels=64, heads=2)] == [1]


@pytest.mark.parametrize("flags", [{}, {"head": "sum"}, {"mlp_ratio": 2.0, "s_blocks3": (1,)}])
def test_a_whole_sparsevit_has_the_macs_of_its_formulas(flags):
    model = SparseViT_tiny(**flags)
    inputs = {"image": torch.zeros(2, 3, 256, 128)}
    by_hand, by_torch = count(model, inputs, HAND_COUNTER), count(model, inputs)
    assert by_hand.macs == by_torch.macs is not None
    assert by_hand.flops == by_torch.flops


@pytest.mark.parametrize(
    ("model", "side", "words"),
    [
        (SparseViT_tiny(), 100, "sides are multiples of 32, not 100 x 100"),
        (SparseViT_tiny(), 96, "rate 4 does not divide a grid of 6 x 6 tokens"),
        (SparseViT_tiny(head="last"), 128, 'no formula for head "last"'),
        (torch.nn.Conv2d(3, 1, 1), 128, "no formula for Conv2d"),
    ],
)
def test_what_has_no_formula_says_so(model, side, words):
    key = "input" if isinstance(model, torch.nn.Conv2d) else "image"
    found = count(model, {key: torch.zeros(1, 3, side, side)}, HAND_COUNTER)
    assert found.macs is None
    assert words in found.reason
    with pytest.raises(UserError, match="rate 3 does not divide a grid of 4 x 6 tokens"):
        sparse_block(4, 6, 8, rate=3)


def test_imdlbencos_sparsevit_at_512_by_two_counters():
    """50.35 M parameters, 50.25 M live; 46.2 GMACs by fvcore, 92.1 GFLOPs by PyTorch's counter.

    fvcore's products equal PyTorch's exactly: it counts normalisation and interpolation besides.
    """
    cfg = resolve("test", ["--model", "SparseViT_upstream", "--test-data-path", "unused"])
    with contextlib.redirect_stdout(io.StringIO()):
        model = build_model(cfg).eval()
    inputs = {"image": torch.zeros(1, 3, 512, 512), "mask": torch.zeros(1, 1, 512, 512)}
    by_torch = count(model, inputs)
    with torch.no_grad():
        by_fvcore = fvcore_products(model, inputs)
    assert (by_torch.parameters, by_torch.live_parameters) == (50_345_921, 50_245_697)
    assert by_torch.flops == 92_067_069_952
    assert by_fvcore.macs == pytest.approx(46.2e9, abs=0.05e9)
    products = sum(by_fvcore.by_operation.get(name, 0) for name in PRODUCTS)
    assert 2 * products == by_torch.flops
    assert grouped(by_fvcore.not_counted).keys() == {"losses", "softmax"}


def test_fvcore_misses_fused_attention_and_says_so():
    block = SparseBlock(16, 2, Spacing(2)).eval()
    with torch.no_grad():
        found = fvcore_products(block, {"grid": torch.zeros(1, 4, 4, 16)})
    assert found.not_counted["aten::scaled_dot_product_attention"] == 1
    by_hand = sparse_block(4, 4, 16, 2)
    products = sum(found.by_operation.get(name, 0) for name in PRODUCTS)
    assert products == by_hand.total - by_hand.attention
