"""What one token attends to: the softmax weights of every sparse block.

SparseViT computes attention by a fused product that keeps no weights. Here they are computed once
more, from the queries and keys of the same module, for the one token that is asked about: nothing
of the size of all pairs is ever held. "Dense" means the same parameters with a stride of 1 in every
block, from the first to the last: another computation of the same weights, not a model that was
trained that way.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.explain.subject import Fed, Place, Subject, patch_side, sparse_blocks
from sparsevit_plugin.model.attention import Spacing, SparseAttention, Stride
from sparsevit_plugin.model.backbone import SparseViTBackbone
from sparsevit_plugin.model.blocks import SparseBlock

DENSE = Spacing(1)
"""A stride of 1 at every size of grid."""


@dataclass(frozen=True)
class BlockAttention:
    """What a token attends to in one block.

    Attributes:
        place: The block.
        stride: Of its attention on this grid.
        token: Row and column of the token that attends.
        weights: float32, heads x rows x columns; each head sums to one, and is zero outside the
            token's group.
    """

    place: Place
    stride: Stride
    token: tuple[int, int]
    weights: NDArray[np.float32]

    @property
    def attended(self) -> NDArray[np.bool_]:
        """Bool, rows x columns: the tokens of the token's group, itself among them."""
        _, rows, columns = self.weights.shape
        chosen = np.zeros((rows, columns), np.bool_)
        chosen[_lattice(self.stride, self.token)] = True
        return chosen

    def of_head(self, head: int | None) -> NDArray[np.float32]:
        """Return the weights of one head (from 1), or their mean over heads.

        Raises:
            UserError: The block has no such head.
        """
        if head is None:
            return self.weights.mean(0)
        count = len(self.weights)
        if not 1 <= head <= count:
            raise UserError(f"--head {head}: {self.place.words} has the heads 1 to {count}")
        return self.weights[head - 1]

    def effective_tokens(self, head: int | None = None) -> float:
        """Return exp(entropy of the weights): how many tokens equal weights would be spread over.

        It is 1 where one token has all the weight, and the size of the group where all have the
        same.
        """
        weights = self.of_head(head).astype(np.float64)
        positive = weights[weights > 0]
        return math.exp(-float((positive * np.log(positive)).sum()))


def attention_from(
    attention: SparseAttention, grid: Tensor, token: tuple[int, int]
) -> tuple[Stride, Tensor]:
    """Compute what one token attends to.

    Args:
        attention: The module.
        grid: Its input, 1 x H x W x C.
        token: Row and column.

    Returns:
        The stride on this grid, and the weights: heads x H x W, zero outside the token's group.
    """
    height, width = grid.shape[1:3]
    stride = attention.spacing.stride(height, width)
    heads = attention.num_heads
    query, key, _ = attention.embed(grid)[0].unflatten(-1, (3, heads, -1)).unbind(2)
    rows, columns = _lattice(stride, token)
    keys = key[rows, columns]  # those of the group; padding is no part of the grid
    scores = torch.einsum("hd,rchd->hrc", query[token], keys) * query.shape[-1] ** -0.5
    weights = scores.float().flatten(1).softmax(-1).view_as(scores)
    whole = weights.new_zeros(heads, height, width)
    whole[:, rows, columns] = weights
    return stride, whole


def _lattice(stride: Stride, token: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and the columns of a token's group."""
    return (
        slice(token[0] % stride.height, None, stride.height),
        slice(token[1] % stride.width, None, stride.width),
    )


@contextlib.contextmanager
def evaluated_densely(backbone: SparseViTBackbone) -> Iterator[None]:
    """Let every token attend to every other one, in all blocks, within this context."""
    modules = [block.attn for block in sparse_blocks(backbone).values()]
    before = [module.spacing for module in modules]
    try:
        for module in modules:
            module.spacing = DENSE
        yield
    finally:
        for module, spacing in zip(modules, before, strict=True):
            module.spacing = spacing


def attention_at(
    subject: Subject, fed: Fed, x: int, y: int, *, dense: bool = False
) -> list[BlockAttention]:
    """Compute what the token at a pixel attends to in every sparse block.

    Args:
        subject: The model.
        fed: The photograph.
        x: Column of the pixel in the photograph.
        y: Its row.
        dense: Whether the model is evaluated densely.

    Returns:
        One entry a block, in their order.

    Raises:
        UserError: The model has no sparse blocks, or the photograph no such pixel.
    """
    backbone = subject.backbone("attention is drawn")
    row, column = fed.place(x, y)
    found: list[BlockAttention] = []
    with contextlib.ExitStack() as stack:
        for place, block in sparse_blocks(backbone).items():
            # Named before the context below makes them dense: a block keeps the name it was
            # trained under.
            token = (row // patch_side(place.stage), column // patch_side(place.stage))

            def look(
                _: torch.nn.Module,
                inputs: tuple[Tensor, ...],
                place: Place = place,
                block: SparseBlock = block,
                token: tuple[int, int] = token,
            ) -> None:
                (grid,) = inputs
                stride, weights = attention_from(block.attn, block.norm1(grid), token)
                found.append(BlockAttention(place, stride, token, weights.cpu().numpy()))

            stack.callback(block.register_forward_pre_hook(look).remove)
        if dense:
            stack.enter_context(evaluated_densely(backbone))
        with torch.no_grad():
            subject.model(**fed.inputs)
    return found
