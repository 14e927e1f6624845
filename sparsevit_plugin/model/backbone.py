"""The SparseViT backbone: two stages of convolution blocks, two of sparse attention blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.model.attention import Spacing
from sparsevit_plugin.model.blocks import (
    NORM_EPSILON,
    ConvBlock,
    PatchEmbed,
    SparseBlock,
    channels_first,
)
from sparsevit_plugin.model.memory import checkpointed

STAGES = 4
PATCHES = (4, 2, 2, 2)
REFERENCE_SIDES = (32, 16)
"""Sides of the grids of stages 3 and 4 at 512 x 512, to which upstream's group sizes refer."""


@dataclass(frozen=True)
class Schedule:
    """Sparsity rates and taps of one attention stage.

    Attributes:
        rates: The rate S of each block.
        taps: Positions (from 0) of the blocks whose output goes to the head, rising, the last block
            always.
    """

    rates: tuple[int, ...]
    taps: tuple[int, ...]


def make_schedule(
    option: str, depth: int, rates: Sequence[int], taps: Sequence[int] = ()
) -> Schedule:
    """Lay a list of rates over the blocks of a stage.

    Args:
        option: Name of the list, for error messages.
        depth: Blocks of the stage.
        rates: One rate per segment of ceil(depth / len(rates)) blocks, or, where there are as many
            rates as blocks, one per block: a segment is then a run of equal rates.
        taps: Numbers (from 1) of the blocks to tap. Empty: the last block of each segment.

    Raises:
        UserError: A rate below 1, a rate for which no block is left, or a tap that is no block.
    """
    if not rates or min(rates) < 1:
        raise UserError(f"{option}: rates must be whole numbers from 1, not {list(rates)}.")
    length = -(-depth // len(rates))
    if (len(rates) - 1) * length >= depth:
        raise UserError(
            f"{option}: {len(rates)} rates do not fit {depth} blocks in segments of {length}; "
            "give fewer rates, or one per block."
        )
    per_block = tuple(rates[block // length] for block in range(depth))
    if taps:
        ends = {tap - 1 for tap in taps}
        if min(ends) < 0 or max(ends) >= depth:
            name = option.replace("s_blocks", "taps")
            raise UserError(f"{name}: {list(taps)} are not all blocks from 1 to {depth}.")
    elif length == 1:
        ends = {block for block in range(depth - 1) if per_block[block] != per_block[block + 1]}
    else:
        ends = set(range(length - 1, depth, length))
    return Schedule(per_block, tuple(sorted(ends | {depth - 1})))


class GroupSize(NamedTuple):
    """Tokens that attend to each other in one sparse block at one image size."""

    block: str
    rate: int
    stride_height: int
    stride_width: int
    smallest: int
    largest: int


class SparseViTBackbone(nn.Module):
    """Image to token grids at 1/16 and 1/32 of its size.

    Args:
        depth: Blocks of the four stages.
        embed_dim: Channels of the four stages.
        head_dim: Channels of an attention head.
        rates: Sparsity rates of stages 3 and 4, see `make_schedule`.
        taps: Blocks of stages 3 and 4 that the head reads, see `make_schedule`.
        sparsity: "rate" or "group", see `Spacing`.
        mlp_ratio: Hidden width of the MLPs over their stage's channels.
        qkv_bias: Whether queries, keys and values have a bias.
        drop_path: Stochastic depth of the last block; it grows linearly from 0 at the first.
        layer_scale_init: Start of the layer scales of the attention blocks.
        last_only: Whether the head reads nothing but the last map (leaves out `norm3`, which would
            never learn).
    """

    def __init__(
        self,
        *,
        depth: Sequence[int],
        embed_dim: Sequence[int],
        head_dim: int,
        rates: tuple[Sequence[int], Sequence[int]],
        taps: tuple[Sequence[int], Sequence[int]] = ((), ()),
        sparsity: str = "rate",
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.2,
        layer_scale_init: float = 1e-6,
        last_only: bool = False,
    ) -> None:
        super().__init__()
        _check_widths(depth, embed_dim, head_dim)
        schedule3 = make_schedule("s_blocks3", depth[2], rates[0], taps[0])
        schedule4 = make_schedule("s_blocks4", depth[3], rates[1], taps[1])
        drop_rates = iter(torch.linspace(0, drop_path, sum(depth)).tolist())
        self.taps3, self.taps4 = schedule3.taps, schedule4.taps
        self.embed_dim = tuple(embed_dim)
        self.last_only = last_only
        self.checkpointing = False

        convolutions = [
            nn.ModuleList(ConvBlock(width, mlp_ratio, next(drop_rates)) for _ in range(blocks))
            for width, blocks in zip(embed_dim[:2], depth[:2], strict=True)
        ]
        attentions = [
            nn.ModuleList(
                SparseBlock(
                    width,
                    width // head_dim,
                    Spacing(rate, sparsity, side),
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    drop_path=next(drop_rates),
                    layer_scale_init=layer_scale_init,
                )
                for rate in schedule.rates
            )
            for width, schedule, side in zip(
                embed_dim[2:], (schedule3, schedule4), REFERENCE_SIDES, strict=True
            )
        ]
        self.patch_embed1 = PatchEmbed(3, embed_dim[0], PATCHES[0])
        self.patch_embed2 = PatchEmbed(embed_dim[0], embed_dim[1], PATCHES[1])
        self.patch_embed3 = PatchEmbed(embed_dim[1], embed_dim[2], PATCHES[2])
        self.patch_embed4 = PatchEmbed(embed_dim[2], embed_dim[3], PATCHES[3])
        self.blocks1, self.blocks2 = convolutions
        self.blocks3, self.blocks4 = attentions
        if not last_only:
            self.norm3 = nn.LayerNorm(embed_dim[2], eps=NORM_EPSILON)
        self.norm4 = nn.LayerNorm(embed_dim[3], eps=NORM_EPSILON)

    def stage_maps(self, image: Tensor) -> list[Tensor]:
        """Return the last map of every stage, B x C x h x w at 1/4, 1/8, 1/16 and 1/32.

        Those of stages 3 and 4 are normalised. The sides are rounded up.
        """
        first, second = self._convolve(image)
        grids3 = self._attend(self.patch_embed3(second), self.blocks3, self.taps3)
        grids4 = self._attend(
            self.patch_embed4(channels_first(grids3[-1])), self.blocks4, self.taps4
        )
        last = (self.norm3(grids3[-1]), self.norm4(grids4[-1]))
        return [first, second, *map(channels_first, last)]

    def forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the taps of stage 3 and of stage 4.

        Args:
            image: B x 3 x H x W, any H and W from 1.

        Returns:
            Grids of B x ceil(H / 16) x ceil(W / 16) x embed_dim[2] and of B x ceil(H / 32) x ceil(W
            / 32) x embed_dim[3], in the order of their blocks. The tap of a stage's last block is
            normalised, the others are as they leave their blocks; the next stage reads the map
            before its normalisation. With `last_only` the first list is empty and the second holds
            one grid.
        """
        maps = self._convolve(image)[-1]
        grids3 = self._attend(self.patch_embed3(maps), self.blocks3, self.taps3)
        grids4 = self._attend(
            self.patch_embed4(channels_first(grids3[-1])), self.blocks4, self.taps4
        )
        last = self.norm4(grids4[-1])
        if self.last_only:
            return [], [last]
        return [*grids3[:-1], self.norm3(grids3[-1])], [*grids4[:-1], last]

    def _convolve(self, image: Tensor) -> list[Tensor]:
        """Run stages 1 and 2; return the last map of each."""
        maps, found = image, []
        for embed, blocks in (
            (self.patch_embed1, self.blocks1),
            (self.patch_embed2, self.blocks2),
        ):
            maps = channels_first(embed(maps))
            for block in blocks:
                maps = block(maps)
            found.append(maps)
        return found

    def _attend(self, grid: Tensor, blocks: nn.ModuleList, taps: Sequence[int]) -> list[Tensor]:
        """Run a stage and return the grids behind the blocks in `taps`."""
        checkpointing = self.checkpointing and self.training and torch.is_grad_enabled()
        tapped = []
        for position, block in enumerate(blocks):
            grid = checkpointed(block, grid) if checkpointing else block(grid)
            if position in taps:
                tapped.append(grid)
        return tapped

    def tap_widths(self) -> tuple[list[int], list[int]]:
        """Return the channels of each tap of stage 3 and of stage 4, as `forward` returns them."""
        width3, width4 = self.embed_dim[2:]
        if self.last_only:
            return [], [width4]
        return [width3] * len(self.taps3), [width4] * len(self.taps4)

    def group_sizes(self, height: int, width: int) -> list[GroupSize]:
        """List the groups of every sparse block for an image of `height` x `width` pixels.

        Sizes differ within a block where its stride does not divide the side of the grid.
        """
        sizes = []
        for stage, blocks in ((3, self.blocks3), (4, self.blocks4)):
            rows, columns = grid_size(height, width, stage)
            for position, block in enumerate(blocks):
                spacing = cast(SparseBlock, block).attn.spacing
                sh, sw = spacing.stride(rows, columns)
                sizes.append(
                    GroupSize(
                        f"blocks{stage}.{position}",
                        spacing.rate,
                        sh,
                        sw,
                        (rows // sh) * (columns // sw),
                        -(-rows // sh) * -(-columns // sw),
                    )
                )
        return sizes


def grid_size(height: int, width: int, stage: int) -> tuple[int, int]:
    """Return the rows and columns of tokens of a stage (1 to 4) for an image in pixels."""
    for patch in PATCHES[:stage]:
        height, width = -(-height // patch), -(-width // patch)
    return height, width


def _check_widths(depth: Sequence[int], embed_dim: Sequence[int], head_dim: int) -> None:
    """Raise `UserError` unless there are four sound depths and widths."""
    for option, values in (("depth", depth), ("embed_dim", embed_dim)):
        if len(values) != STAGES or min(values) < 1:
            raise UserError(f"{option}: four whole numbers from 1 are needed, not {list(values)}.")
    if head_dim < 1 or embed_dim[2] % head_dim or embed_dim[3] % head_dim:
        raise UserError(
            f"head_dim: {head_dim} does not divide the widths {embed_dim[2]} and {embed_dim[3]} "
            "of stages 3 and 4."
        )
