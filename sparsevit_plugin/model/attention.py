"""Sparse self-attention: every token attends to the tokens that lie on the same lattice as itself.

Su et al., "Can We Get Rid of Handcrafted Feature Extractors? SparseViT: Nonsemantics-Centered,
Parameter-Efficient Image Manipulation Localization through Spare-Coding Transformer", AAAI 2025
(https://arxiv.org/abs/2412.14598).

With strides `(sh, sw)` token (i, j) of an H x W grid attends to token (k, l) if and only if
`k % sh == i % sh` and `l % sw == j % sw`: sh * sw groups, strided over the grid and not local to a
window. A grid is a tensor of shape B x H x W x C; a group is a row of the B * sh * sw rows that
`partition` makes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit_plugin.model.choices import check_choice

SPARSITIES = ("rate", "group")


class Stride(NamedTuple):
    """Distance, in tokens, between neighbours of one group along each axis of the grid."""

    height: int
    width: int


@dataclass(frozen=True)
class Spacing:
    """How the stride of a block follows from its rate and the size of the grid.

    Attributes:
        rate: The paper's sparsity rate S, at least 1.
        sparsity: "rate": the stride is S whatever the size of the grid (the paper's definition).
            "group": the side of a group is `reference_side // rate` tokens, so the stride grows
            with the image, as in IMDLBenCo 0.1.45 and the official repository.
        reference_side: Side of the stage's grid at 512 x 512, where both readings agree. Only
            "group" uses it.
    """

    rate: int
    sparsity: str = "rate"
    reference_side: int = 32

    def stride(self, height: int, width: int) -> Stride:
        """Return the stride on a grid of `height` x `width` tokens, never more than its side.

        A stride beyond the side would leave each token alone on that axis, as a stride equal to the
        side does, and would add groups that hold nothing but padding.
        """
        return Stride(self._along(height), self._along(width))

    def _along(self, side: int) -> int:
        if self.sparsity == "rate":
            return min(self.rate, side)
        group_side = max(1, self.reference_side // self.rate)
        return -(-side // group_side)


def partition(grid: Tensor, stride: Stride) -> Tensor:
    """Gather the groups of a grid.

    Args:
        grid: B x H x W x C.
        stride: Strides that may exceed neither H nor W.

    Returns:
        B * sh * sw rows of ceil(H / sh) * ceil(W / sw) tokens with C channels. Sides that the
        stride does not divide are padded with zeros at the bottom and the right: see `real_keys`.
    """
    batch, height, width, channels = grid.shape
    sh, sw = stride
    if sh == sw == 1:
        return grid.reshape(batch, height * width, channels)
    if height % sh or width % sw:
        grid = F.pad(grid, (0, 0, 0, -width % sw, 0, -height % sh))
    grid = grid.unflatten(2, (-1, sw)).unflatten(1, (-1, sh))
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch * sh * sw, -1, channels)


def unpartition(groups: Tensor, stride: Stride, height: int, width: int) -> Tensor:
    """Undo `partition`: return the B x H x W x C grid, without its padding."""
    sh, sw = stride
    rows, columns = -(-height // sh), -(-width // sw)
    grid = groups.reshape(-1, sh, sw, rows, columns, groups.shape[-1]).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(-1, rows * sh, columns * sw, groups.shape[-1])[:, :height, :width]


def real_keys(stride: Stride, height: int, width: int, device: torch.device) -> Tensor | None:
    """Return which tokens of each group are real, or None where `partition` pads nothing.

    Returns:
        sh * sw x N booleans, N the tokens of a group. Every row holds at least one True, because a
        stride never exceeds the side, so no softmax runs over nothing.
    """
    sh, sw = stride
    if height % sh == 0 and width % sw == 0:
        return None
    rows = height > torch.arange(height + -height % sh, device=device).view(-1, sh).T
    columns = width > torch.arange(width + -width % sw, device=device).view(-1, sw).T
    return (rows[:, None, :, None] & columns[None, :, None, :]).reshape(sh * sw, -1)


class SparseAttention(nn.Module):
    """Multi-head self-attention within the groups of a strided partition of the token grid.

    Args:
        dim: Channels C, a multiple of `num_heads`.
        num_heads: Attention heads.
        spacing: Rate and reading of it.
        qkv_bias: Whether the joint projection to queries, keys and values has a bias.
    """

    def __init__(self, dim: int, num_heads: int, spacing: Spacing, qkv_bias: bool = True) -> None:
        super().__init__()
        check_choice("sparsity", spacing.sparsity, SPARSITIES)
        self.num_heads = num_heads
        self.spacing = spacing
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, grid: Tensor) -> Tensor:
        """Map a B x H x W x C grid to one of the same shape."""
        height, width = grid.shape[1:3]
        stride = self.spacing.stride(height, width)
        groups = partition(grid, stride)
        mask = real_keys(stride, height, width, grid.device)
        if mask is not None:
            mask = mask.repeat(grid.shape[0], 1)[:, None, None, :]
        return unpartition(self._attend(groups, mask), stride, height, width)

    def _attend(self, groups: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within each row of R x N x C; `mask`, R x 1 x 1 x N, is True at keys to use."""
        qkv = self.qkv(groups).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=mask)
        return self.proj(heads.transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        """Show the rate where the module is printed."""
        return f"num_heads={self.num_heads}, rate={self.spacing.rate}, {self.spacing.sparsity}"
