"""The building blocks of the SparseViT backbone.

The convolution blocks and the layout of the attention blocks are those of UniFormer (Li et al.,
ICLR 2022, https://arxiv.org/abs/2201.09450), with which they share the names and shapes of their
parameters. Convolution blocks work on B x C x H x W tensors, attention blocks on B x H x W x C
grids; a grid seen as B x C x H x W is a channels-last tensor, so going from one to the other copies
nothing.
"""

import math

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from sparsevit_plugin.model.attention import Spacing, SparseAttention
from sparsevit_plugin.model.depthwise import depthwise
from sparsevit_plugin.model.kernels import linear
from sparsevit_plugin.model.memory import Layer, batch_norm_again, through

NORM_EPSILON = 1e-6


def channels_first(grid: Tensor) -> Tensor:
    """View a B x H x W x C grid as B x C x H x W."""
    return grid.permute(0, 3, 1, 2)


def channels_last(maps: Tensor) -> Tensor:
    """View B x C x H x W maps as a B x H x W x C grid."""
    return maps.permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens: a convolution whose stride is its kernel, then LayerNorm.

    Sides that `patch` does not divide are padded with zeros at the bottom and the right.

    Args:
        in_channels: Channels of the input.
        dim: Channels of the tokens.
        patch: Side of a patch in pixels or tokens of the input.
    """

    def __init__(self, in_channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch, stride=patch)

    def widen(self, more: int) -> None:
        """Read `more` channels behind those that are read now, whose weights are kept.

        The new channels' weights are drawn as PyTorch draws those of a new convolution.
        """
        narrow = self.proj
        wide = nn.Conv2d(
            narrow.in_channels + more, narrow.out_channels, self.patch, stride=self.patch
        )
        with torch.no_grad():
            wide.weight[:, : narrow.in_channels] = narrow.weight
        wide.bias = narrow.bias
        self.proj = wide

    def forward(self, maps: Tensor) -> Tensor:
        """Map B x C x H x W to a grid of B x ceil(H / patch) x ceil(W / patch) x dim."""
        height, width = maps.shape[-2:]
        if height % self.patch or width % self.patch:
            maps = F.pad(maps, (0, -width % self.patch, 0, -height % self.patch))
        return self.norm(channels_last(self.proj(maps)))


class ConvMlp(nn.Module):
    """Two 1 x 1 convolutions with a GELU between them: `expand`, then `contract`."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def expand(self, maps: Tensor) -> Tensor:
        """Map B x C x H x W to B x hidden x H x W."""
        return self.fc1(maps)

    def contract(self, hidden: Tensor) -> Tensor:
        """Map B x hidden x H x W back to B x C x H x W."""
        return through(self.act, hidden, self.fc2)

    def forward(self, maps: Tensor) -> Tensor:
        """Map B x C x H x W to the same shape."""
        return self.contract(self.expand(maps))


class ConvBlock(nn.Module):
    """Position convolution, convolutional token mixing and an MLP, each added to its input.

    Args:
        dim: Channels.
        mlp_ratio: Hidden width of the MLP over `dim`.
        drop_path: Probability that a branch is left out for a sample in training.
    """

    def __init__(self, dim: int, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.pos_embed = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.BatchNorm2d(dim)
        self.conv1 = nn.Conv2d(dim, dim, 1)
        self.attn = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv2 = nn.Conv2d(dim, dim, 1)
        self.drop_path = stochastic_depth(drop_path)
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = ConvMlp(dim, int(dim * mlp_ratio))

    def forward(self, maps: Tensor) -> Tensor:
        """Map B x C x H x W to the same shape."""
        maps = maps + self.pos_embed(maps)
        mixed = depthwise(self.attn, _normalised(self.norm1, maps, self.conv1))
        maps = maps + self.drop_path(self.conv2(mixed))
        hidden = _normalised(self.norm2, maps, self.mlp.expand)
        return maps + self.drop_path(self.mlp.contract(hidden))


class DepthwiseConv(nn.Module):
    """A 3 x 3 depthwise convolution of a token grid."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, grid: Tensor) -> Tensor:
        """Map B x H x W x C to the same shape."""
        return channels_last(self.dwconv(channels_first(grid)))


class LocalMlp(nn.Module):
    """An MLP over tokens whose hidden layer also sees its eight neighbours."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def expand(self, grid: Tensor) -> Tensor:
        """Map B x H x W x C to B x H x W x hidden."""
        return linear(grid, self.fc1.weight, self.fc1.bias)

    def contract(self, hidden: Tensor) -> Tensor:
        """Mix neighbours and map B x H x W x hidden back to B x H x W x C."""
        return through(self.act, self.dwconv(hidden), self._project)

    def forward(self, grid: Tensor) -> Tensor:
        """Map B x H x W x C to the same shape."""
        return self.contract(self.expand(grid))

    def _project(self, hidden: Tensor) -> Tensor:
        return linear(hidden, self.fc2.weight, self.fc2.bias)


class SparseBlock(nn.Module):
    """Sparse attention and an MLP, each scaled per channel and added to its input.

    The scale is the layer scale of Touvron et al., "Going deeper with Image Transformers" (2021).

    Args:
        dim: Channels.
        num_heads: Attention heads.
        spacing: Sparsity of the attention.
        mlp_ratio: Hidden width of the MLP over `dim`.
        qkv_bias: Whether queries, keys and values have a bias.
        drop_path: Probability that a branch is left out for a sample in training.
        layer_scale_init: Start of both scales.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spacing: Spacing,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        layer_scale_init: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.attn = SparseAttention(dim, num_heads, spacing, qkv_bias)
        self.drop_path = stochastic_depth(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.mlp = LocalMlp(dim, int(dim * mlp_ratio))
        self.gamma_1 = nn.Parameter(torch.full((dim,), layer_scale_init))
        self.gamma_2 = nn.Parameter(torch.full((dim,), layer_scale_init))

    def forward(self, grid: Tensor) -> Tensor:
        """Map B x H x W x C to the same shape."""
        mixed = self.attn.mix(through(self.norm1, grid, self.attn.embed))
        grid = grid + self.drop_path(self.gamma_1 * mixed)
        hidden = through(self.norm2, grid, self.mlp.expand)
        return grid + self.drop_path(self.gamma_2 * self.mlp.contract(hidden))


def _normalised(norm: nn.Module, maps: Tensor, product: Layer) -> Tensor:
    """Return `product(norm(maps))`, without keeping what is between them where that is safe.

    Another norm put in the BatchNorm's place, such as SyncBatchNorm, is run as it is: made again on
    one process alone, its statistics would be others.
    """
    if type(norm) is nn.BatchNorm2d:
        return through(norm, maps, product, batch_norm_again(norm))
    return product(norm(maps))


def stochastic_depth(probability: float) -> nn.Module:
    """Return a module that drops its input per sample in training with this probability."""
    return DropPath(probability) if probability > 0 else nn.Identity()


def initialise(module: nn.Module) -> None:
    """Initialise every Linear, LayerNorm and MLP convolution below `module` as upstream does.

    Linear weights from a normal truncated at two, standard deviation 0.02; the MLP's convolution
    from a normal of variance 2 / fan-out; biases 0. Everything else keeps torch's own
    initialisation.
    """
    for child in module.modules():
        if isinstance(child, DepthwiseConv):
            conv = child.dwconv
            fan_out = math.prod(conv.kernel_size) * conv.out_channels // conv.groups
            nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_out))
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        else:
            reset_linear_or_norm(child)


def reset_linear_or_norm(module: nn.Module) -> bool:
    """Draw `module` afresh if it is a Linear or a LayerNorm, and say whether it was."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
    else:
        return False
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return True
