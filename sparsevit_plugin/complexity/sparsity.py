"""What the sparsity rate saves: the cost of SparseViT's sparse blocks over S, counted twice.

The paper's claim is that the attention's products fall by S x S. They do; the projections and the
MLP of a block do not, so the block falls by less.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch

from sparsevit_plugin.complexity.columns import Column
from sparsevit_plugin.complexity.hand import sparse_block
from sparsevit_plugin.complexity.products import torch_products
from sparsevit_plugin.complexity.shapes import by_shape, in_mode
from sparsevit_plugin.model.attention import Spacing
from sparsevit_plugin.model.backbone import grid_size
from sparsevit_plugin.model.blocks import SparseBlock

RATES: Final = (1, 2, 4, 8)

SPARSITY_COLUMNS: Final = (
    Column("image_size", "px", "side of the square image", "size", digits=0),
    Column("rate", "", "sparsity rate S", "S", digits=0),
    Column("group", "", "tokens that attend to each other", "tokens of a group", digits=0),
    Column("attention_hand", "", "MACs of the attention's two products by the formula",
           "attention, GMACs by hand", 1e9, 4),
    Column("attention_torch", "", "the same products by torch.utils.flop_counter",
           "by torch", 1e9, 4),
    Column("attention_ratio", "", "the products at S = 1 over these",
           "S = 1 over S", digits=2),
    Column("block_hand", "", "MACs of the whole block by the formula",
           "block, GMACs by hand", 1e9, 4),
    Column("block_torch", "", "the same block by torch.utils.flop_counter", "by torch", 1e9, 4),
    Column("block_ratio", "", "the block at S = 1 over this one", "S = 1 over S", digits=2),
)  # fmt: skip


def block_rows(
    image_size: int, stage: int, channels: int, heads: int, rates: Sequence[int] = RATES
) -> list[dict[str, Any]]:
    """Return a row for each rate that divides the grid of a stage, the first of them S = 1.

    Args:
        image_size: Side of the square image in pixels.
        stage: 3 or 4.
        channels: Channels of a token.
        heads: Attention heads.
        rates: Sparsity rates, 1 first.
    """
    rows, columns = grid_size(image_size, image_size, stage)
    dense = sparse_block(rows, columns, channels, rate=1)
    found = []
    for rate in (rate for rate in rates if rows % rate == 0 and columns % rate == 0):
        macs = sparse_block(rows, columns, channels, rate)
        attention, block = _by_torch(rows, columns, channels, heads, rate)
        found.append(
            {
                "model": f"block of stage {stage}",
                "image_size": image_size,
                "rate": rate,
                "group": rows * columns // rate**2,
                "attention_hand": macs.attention,
                "attention_torch": attention,
                "attention_ratio": dense.attention / macs.attention,
                "block_hand": macs.total,
                "block_torch": block,
                "block_ratio": dense.total / macs.total,
            }
        )
    return found


def _by_torch(rows: int, columns: int, channels: int, heads: int, rate: int) -> tuple[int, int]:
    """Return the MACs of a block's attention products and of the block, by PyTorch's counter."""
    block = SparseBlock(channels, heads, Spacing(rate))
    inputs = {"grid": torch.empty(1, rows, columns, channels)}
    with in_mode(block, training=False), torch.no_grad():
        found = by_shape(block, inputs, torch_products)
    return found.by_operation.get("aten.bmm", 0), found.macs
