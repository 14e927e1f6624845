"""Sparse self-attention: every token attends to the tokens that lie on the same lattice as itself.

Su et al., "Can We Get Rid of Handcrafted Feature Extractors? SparseViT: Nonsemantics-Centered,
Parameter-Efficient Image Manipulation Localization through Spare-Coding Transformer", AAAI 2025
(https://arxiv.org/abs/2412.14598).

With strides `(sh, sw)` token (i, j) of an H x W grid attends to token (k, l) if and only if
`k % sh == i % sh` and `l % sw == j % sw`: sh * sw groups, strided over the grid and not local to a
window. A grid is a tensor of shape B x H x W x C; `split_heads` makes B * sh * sw groups of it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit_plugin.model.choices import check_choice
from sparsevit_plugin.model.kernels import attend, linear

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


def split_heads(grid: Tensor, stride: Stride, parts: int, num_heads: int) -> Tensor:
    """Gather the groups of a grid, with the heads of each group apart.

    Args:
        grid: B x H x W x C; C holds `parts` tensors (query, key, value) of `num_heads` heads of d
            channels, one after the other.
        stride: Strides that may exceed neither H nor W.
        parts: Tensors side by side in the channels.
        num_heads: Heads of each.

    Returns:
        parts x R x num_heads x N x d: R = B * sh * sw groups of N = ceil(H / sh) * ceil(W / sw)
        tokens. Sides that the stride does not divide are padded with zeros at the bottom and the
        right: see `real_keys`. It is copied once, and not at all where both strides are 1.
    """
    batch, height, width, _ = grid.shape
    sh, sw = stride
    if height % sh or width % sw:
        grid = F.pad(grid, (0, 0, 0, -width % sw, 0, -height % sh))
    rows, columns = -(-height // sh), -(-width // sw)
    lattices = grid.reshape(batch, rows, sh, columns, sw, parts, num_heads, -1)
    apart = lattices.permute(5, 0, 2, 4, 6, 1, 3, 7)
    return apart.reshape(parts, batch * sh * sw, num_heads, rows * columns, -1)


def join_heads(heads: Tensor, stride: Stride, height: int, width: int) -> Tensor:
    """Undo `split_heads` for one part, R x num_heads x N x d; return B x H x W x C, unpadded."""
    sh, sw = stride
    rows, columns = -(-height // sh), -(-width // sw)
    lattices = heads.unflatten(0, (-1, sh, sw)).unflatten(4, (rows, columns))
    grid = lattices.permute(0, 4, 1, 5, 2, 3, 6).reshape(
        -1, rows * sh, columns * sw, heads.shape[1] * heads.shape[3]
    )
    return grid[:, :height, :width]


def real_keys(stride: Stride, height: int, width: int, device: torch.device) -> Tensor | None:
    """Return which tokens of each group are real, or None where `split_heads` pads nothing.

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


def attend_on_lattices(qkv: Tensor, spacing: Spacing, num_heads: int) -> Tensor:
    """Attend within the groups of a grid.

    Args:
        qkv: Queries, keys and values side by side, B x H x W x 3C.
        spacing: Gives the strides on this grid.
        num_heads: Attention heads.

    Returns:
        The mixed values, B x H x W x C.
    """
    height, width = qkv.shape[1:3]
    stride = spacing.stride(height, width)
    query, key, value = split_heads(qkv, stride, 3, num_heads)
    mask = real_keys(stride, height, width, qkv.device)
    if mask is not None:
        mask = mask.repeat(qkv.shape[0], 1)[:, None, None, :]
    return join_heads(attend(query, key, value, mask), stride, height, width)


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

    def embed(self, grid: Tensor) -> Tensor:
        """Map a B x H x W x C grid to its queries, keys and values, B x H x W x 3C."""
        return linear(grid, self.qkv.weight, self.qkv.bias)

    def mix(self, qkv: Tensor) -> Tensor:
        """Attend, given what `embed` returns, and project; return B x H x W x C."""
        mixed = attend_on_lattices(qkv, self.spacing, self.num_heads)
        return linear(mixed, self.proj.weight, self.proj.bias)

    def forward(self, grid: Tensor) -> Tensor:
        """Map a B x H x W x C grid to one of the same shape."""
        return self.mix(self.embed(grid))

    def extra_repr(self) -> str:
        """Show the rate where the module is printed."""
        return f"num_heads={self.num_heads}, rate={self.spacing.rate}, {self.spacing.sparsity}"
