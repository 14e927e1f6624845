"""SparseViT's multiply-accumulates by hand: formulas of its shapes, from its description alone.

A third count beside those of PyTorch and fvcore, which neither runs nor traces anything. N is the
number of tokens of a grid, C the channels, S the sparsity rate:

- joint projection to queries, keys and values: 3 N C C; projection after the attention: N C C;
- the attention's two products, queries by keys and weights by values: each token meets the N / S S
  tokens of its group, 2 N (N / S S) C in all, whatever the number of heads;
- MLP of ratio r: 2 r N C C, and its depthwise 3 x 3 convolution: 9 r N C.

Only the attention's products fall by S S. Sides that S does not divide are padded by the model; the
formulas here are for those that it divides.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from torch import Tensor, nn

from sparsevit_plugin.complexity.products import FLOPS_PER_MAC, Products
from sparsevit_plugin.complexity.shapes import Inputs
from sparsevit_plugin.errors import UserError

HAND_COUNTER: Final = "hand"

_POSITION_WINDOW: Final = 3 * 3
_MIXING_WINDOW: Final = 5 * 5
_MLP_WINDOW: Final = 3 * 3


@dataclass(frozen=True)
class BlockMacs:
    """Multiply-accumulates of one sparse block.

    Attributes:
        projections: To queries, keys and values, and after the attention.
        attention: Queries by keys and weights by values.
        mlp: Both layers and the depthwise convolution between them.
    """

    projections: int
    attention: int
    mlp: int

    @property
    def total(self) -> int:
        """Of the whole block."""
        return self.projections + self.attention + self.mlp


def sparse_block(
    height: int, width: int, channels: int, rate: int, hidden: int | None = None
) -> BlockMacs:
    """Count one sparse block on a grid of `height` x `width` tokens.

    Args:
        height: Rows of tokens, a multiple of `rate`.
        width: Columns of tokens, a multiple of `rate`.
        channels: Channels of a token.
        rate: The sparsity rate S.
        hidden: Channels between the MLP's layers; four times `channels` by default.

    Raises:
        UserError: The rate does not divide both sides.
    """
    if height % rate or width % rate:
        raise UserError(
            f"hand count: rate {rate} does not divide a grid of {height} x {width} tokens"
        )
    tokens = height * width
    hidden = 4 * channels if hidden is None else hidden
    return BlockMacs(
        projections=4 * tokens * channels**2,
        attention=2 * tokens * (tokens // rate**2) * channels,
        mlp=tokens * hidden * (2 * channels + _MLP_WINDOW),
    )


def convolution_block(height: int, width: int, channels: int, hidden: int) -> int:
    """Count one convolution block.

    A depthwise 3 x 3 convolution; a pointwise, a depthwise 5 x 5 and a pointwise one; and an MLP of
    two pointwise ones.
    """
    window = _POSITION_WINDOW + _MIXING_WINDOW
    return height * width * channels * (window + 2 * channels + 2 * hidden)


def hand_products(model: nn.Module, inputs: Inputs) -> Products:
    """Count a SparseViT of this package from its shapes.

    Args:
        model: A SparseViT of any widths, depths and rates, with its fusion head ("lff" or "sum").
        inputs: Holds `image`, B x 3 x H x W.

    Raises:
        UserError: There is no formula for the model, its head or the image's size.
    """
    from sparsevit_plugin.model.backbone import PATCHES
    from sparsevit_plugin.model.sparsevit import SparseViT

    if not isinstance(model, SparseViT):
        raise UserError(f"hand count: no formula for {type(model).__name__}, only for SparseViT")
    image = cast(Tensor, inputs["image"])
    batch, channels, height, width = image.shape
    smallest = math.prod(PATCHES)
    if height % smallest or width % smallest:
        raise UserError(f"hand count: sides are multiples of {smallest}, not {height} x {width}")
    backbone = model.encoder_net
    total = 0
    for stage, (patch, dim) in enumerate(zip(PATCHES, backbone.embed_dim, strict=True), start=1):
        height, width = height // patch, width // patch
        total += height * width * dim * channels * patch**2
        blocks = cast(nn.ModuleList, getattr(backbone, f"blocks{stage}"))
        total += sum(_block_macs(block, height, width, dim) for block in blocks)
        channels = dim
    total += _head_macs(model, image.shape[-2:])
    return Products(batch * total, FLOPS_PER_MAC * batch * total)


def _block_macs(block: nn.Module, height: int, width: int, channels: int) -> int:
    from sparsevit_plugin.model.blocks import SparseBlock

    if isinstance(block, SparseBlock):
        rate, across = block.attn.spacing.stride(height, width)
        if rate != across:
            raise UserError("hand count: the groups of a block have one stride along both axes")
        hidden = block.mlp.fc1.out_features
        return sparse_block(height, width, channels, rate, hidden).total
    hidden = cast(nn.Conv2d, cast(nn.Module, block.mlp).fc1).out_channels
    return convolution_block(height, width, channels, hidden)


def _head_macs(model: nn.Module, image_size: Sequence[int]) -> int:
    """Count the head: a projection for each tap of another width, and one to a single channel."""
    from sparsevit_plugin.model.backbone import grid_size
    from sparsevit_plugin.model.head import FusionHead
    from sparsevit_plugin.model.sparsevit import SparseViT

    assert isinstance(model, SparseViT)  # noqa: S101 - hand_products has looked
    head = model.lmu
    if not isinstance(head, FusionHead) or head.fusion not in ("lff", "sum"):
        raise UserError(f'hand count: no formula for head "{head.fusion}", only for lff and sum')
    dim = head.conv_last.in_channels
    total = 0
    for stage, widths in zip((3, 4), model.encoder_net.tap_widths(), strict=True):
        tokens = math.prod(grid_size(image_size[0], image_size[1], stage))
        total += sum(tokens * width * dim for width in widths if width != dim)
    return total + math.prod(grid_size(image_size[0], image_size[1], 3)) * dim
