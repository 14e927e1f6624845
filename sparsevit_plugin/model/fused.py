"""SparseViT for inference alone: everything that is constant then is part of a weight.

BatchNorm with its running statistics, the affine part of a LayerNorm, the layer scales and the
fusion scales are linear maps beside another linear map, and two of them are one. Folding is done in
double precision, so the result differs from the model's by rounding in single precision.

Every map is a B x H x W x C grid from the first block to the head. Residual additions and GELUs are
arguments of the layer before them: `packed` runs them inside it.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit_plugin.model.attention import Spacing, attend_on_lattices
from sparsevit_plugin.model.backbone import SparseViTBackbone
from sparsevit_plugin.model.blocks import (
    NORM_EPSILON,
    ConvBlock,
    PatchEmbed,
    SparseBlock,
    channels_first,
    channels_last,
)
from sparsevit_plugin.model.head import FusionHead, MlpDecoder, enlarge
from sparsevit_plugin.model.kernels import linear
from sparsevit_plugin.model.packed import pack_layers
from sparsevit_plugin.model.sparsevit import MLP_STRIDE, enlarge_logits, pool, with_features

if TYPE_CHECKING:
    from sparsevit_plugin.model.sparsevit import SparseViT


class Pointwise(nn.Module):
    """A linear map of the channels of a grid.

    Args:
        weight: K x C.
        bias: K.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        # Of four dimensions: the compiler packs a convolution's weight only where it is no view.
        self.weight = _constant(weight.float().contiguous()[:, :, None, None])
        self.bias = _constant(bias.float().contiguous())

    def forward(self, grid: Tensor, residual: Tensor | None = None, gelu: bool = False) -> Tensor:
        """Map B x H x W x C to B x H x W x K, then apply GELU and add `residual`, if asked to."""
        return _finish(linear(grid, self.weight, self.bias), residual, gelu)


class Window(nn.Module):
    """A depthwise convolution of a grid that keeps its size.

    Args:
        conv: The convolution, with a bias.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.padding = conv.kernel_size[0] // 2
        assert conv.bias is not None  # noqa: S101 - every convolution of the model has one
        self.weight = _constant(conv.weight.detach().clone())
        self.bias = _constant(conv.bias.detach().clone())

    def forward(self, grid: Tensor, residual: Tensor | None = None, gelu: bool = False) -> Tensor:
        """Map B x H x W x C to the same shape, then apply GELU and add `residual`, if asked to."""
        maps = F.conv2d(
            channels_first(grid),
            self.weight,
            self.bias,
            padding=self.padding,
            groups=len(self.weight),
        )
        return _finish(channels_last(maps), residual, gelu)


class Scaled(nn.Module):
    """A factor per channel.

    Args:
        scale: C.
    """

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale = _constant(scale.float())

    def forward(self, grid: Tensor, residual: Tensor | None = None) -> Tensor:
        """Scale B x H x W x C and add `residual`."""
        return _finish(grid * self.scale, residual, gelu=False)


class FusedConvBlock(nn.Module):
    """A `ConvBlock` with its norms folded."""

    def __init__(self, block: ConvBlock) -> None:
        super().__init__()
        self.position = Window(block.pos_embed)
        self.enter = _after_batch_norm(block.norm1, block.conv1)
        self.mix = Window(block.attn)
        self.leave = _plain(block.conv2)
        self.expand = _after_batch_norm(block.norm2, block.mlp.fc1)
        self.contract = _plain(block.mlp.fc2)

    def forward(self, grid: Tensor) -> Tensor:
        """Map B x H x W x C to the same shape."""
        grid = self.position(grid, residual=grid)
        grid = self.leave(self.mix(self.enter(grid)), residual=grid)
        return self.contract(self.expand(grid, gelu=True), residual=grid)


class FusedSparseBlock(nn.Module):
    """A `SparseBlock` with its layer scales and the affine part of its norms folded."""

    def __init__(self, block: SparseBlock) -> None:
        super().__init__()
        self.spacing: Spacing = block.attn.spacing
        self.num_heads = block.attn.num_heads
        self.embed = _after_layer_norm(block.norm1, block.attn.qkv)
        self.project = _scaled(block.attn.proj, block.gamma_1)
        self.expand = _after_layer_norm(block.norm2, block.mlp.fc1)
        self.neighbours = Window(block.mlp.dwconv.dwconv)
        self.contract = _scaled(block.mlp.fc2, block.gamma_2)

    def forward(self, grid: Tensor) -> Tensor:
        """Map B x H x W x C to the same shape."""
        mixed = attend_on_lattices(self.embed(_normalise(grid)), self.spacing, self.num_heads)
        grid = self.project(mixed, residual=grid)
        hidden = self.neighbours(self.expand(_normalise(grid)), gelu=True)
        return self.contract(hidden, residual=grid)


class FusedHead(nn.Module):
    """A `FusionHead` of any kind as a sum of linear maps of its taps.

    A LayerNorm follows the sum and does not see its scale but for epsilon, so the maps are brought
    to a scale near 1, and epsilon with them: fusion scales of 1e-6 would vanish in half precision.
    """

    def __init__(self, head: FusionHead, widths: Sequence[int]) -> None:
        super().__init__()
        self.taps3 = head.taps3
        maps = _tap_maps(head, widths)
        scale = max(float(weight.abs().max()) for weight, _ in maps) or 1.0
        self.epsilon = NORM_EPSILON / scale**2
        self.maps = nn.ModuleList(
            Scaled(weight / scale) if bias is None else Pointwise(weight / scale, bias / scale)
            for weight, bias in maps
        )
        self.last = _after_layer_norm(head.norm, head.conv_last)

    def forward(self, taps3: list[Tensor], taps4: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Return logits, B x 1 x h x w; see `FusionHead.forward`."""
        small: Tensor | None = None
        for layer, tap in zip(self.maps[self.taps3 :], taps4, strict=True):
            small = layer(tap, residual=small)
        assert small is not None  # noqa: S101 - stage 4 always has a tap
        fused = channels_last(enlarge(channels_first(small), size))
        for layer, tap in zip(self.maps[: self.taps3], taps3, strict=True):
            fused = layer(tap, residual=fused)
        return channels_first(self.last(_normalise(fused, self.epsilon)))


class FusedSparseViT(nn.Module):
    """What `SparseViT` computes in evaluation mode, faster; see `SparseViT.fuse`.

    None of its parameters takes a gradient: it cannot be trained. `to` converts it to another
    number format or device; the map comes out in single precision whatever the format.

    Args:
        model: Copied from; later changes of its weights are not seen.
    """

    def __init__(self, model: "SparseViT") -> None:
        super().__init__()
        net: SparseViTBackbone = model.encoder_net
        self.img_size = model.img_size
        self.image_pooling = model.image_pooling
        self.taps3, self.taps4 = net.taps3, net.taps4
        with torch.no_grad():
            self.features = None if model.features is None else _frozen(model.features)
            self.embeds = nn.ModuleList(_frozen(embed) for embed in _embeds(net))
            self.stages = nn.ModuleList(
                nn.ModuleList(kind(cast(Any, block)) for block in blocks)
                for kind, blocks in (
                    (FusedConvBlock, net.blocks1),
                    (FusedConvBlock, net.blocks2),
                    (FusedSparseBlock, net.blocks3),
                    (FusedSparseBlock, net.blocks4),
                )
            )
            self.norm3 = None if net.last_only else _frozen(net.norm3)
            self.norm4 = _frozen(net.norm4)
            self.head = _fused_head(model.lmu, [n for part in net.tap_widths() for n in part])
        self.eval()

    def pack(self) -> "FusedSparseViT":
        """Put the weights into oneDNN's own layout where this PyTorch can; return self.

        That is for a CPU, and for the number format that the weights have now.
        """
        pack_layers(self, Pointwise, Window)
        return self

    def forward(
        self,
        image: Tensor,
        mask: Tensor | None = None,
        label: Tensor | None = None,
        shape_mask: Tensor | None = None,
        *args: object,
        **kwargs: object,
    ) -> dict[str, Any]:
        """Localise manipulations, as `SparseViT.forward` without a mask."""
        probability = torch.sigmoid(self.logits(image))
        return {
            "backward_loss": None,
            "pred_mask": probability,
            "pred_label": pool(probability, shape_mask, self.image_pooling),
            "visual_loss": {},
            "visual_image": {"pred_mask": probability},
        }

    def logits(self, image: Tensor) -> Tensor:
        """Return the map before the sigmoid, B x 1 x H x W, in single precision."""
        height, width = image.shape[-2:]
        seen = with_features(image.to(next(self.embeds.parameters()).dtype), self.features)
        first = self._run(0, self._embed(0, seen))
        grid = self._run(1, self._embed(1, channels_first(first)))
        taps3 = self._tapped(2, self._embed(2, channels_first(grid)), self.taps3)
        taps4 = self._tapped(3, self._embed(3, channels_first(taps3[-1])), self.taps4)
        taps4[-1] = self.norm4(taps4[-1])
        size = (taps3[-1].shape[1], taps3[-1].shape[2])
        if self.norm3 is None:
            taps3, taps4 = [], taps4[-1:]
        else:
            taps3[-1] = self.norm3(taps3[-1])
        if isinstance(self.head, MlpDecoder):
            maps = [channels_first(one) for one in (first, grid, taps3[-1], taps4[-1])]
            return enlarge_logits(self.head(maps).float(), height, width, MLP_STRIDE)
        return enlarge_logits(self.head(taps3, taps4, size).float(), height, width)

    def _embed(self, stage: int, maps: Tensor) -> Tensor:
        embedded: Tensor = self.embeds[stage](maps.contiguous(memory_format=torch.channels_last))
        return embedded

    def _run(self, stage: int, grid: Tensor) -> Tensor:
        for block in cast(nn.ModuleList, self.stages[stage]):
            grid = block(grid)
        return grid

    def _tapped(self, stage: int, grid: Tensor, taps: Sequence[int]) -> list[Tensor]:
        tapped = []
        for position, block in enumerate(cast(nn.ModuleList, self.stages[stage])):
            grid = block(grid)
            if position in taps:
                tapped.append(grid)
        return tapped


# --- folding -------------------------------------------------------------------------------------


def _constant(value: Tensor) -> nn.Parameter:
    """Return a parameter that takes no gradient: the compiler folds those, and no buffers."""
    return nn.Parameter(value, requires_grad=False)


def _finish(grid: Tensor, residual: Tensor | None, gelu: bool) -> Tensor:
    if gelu:
        grid = F.gelu(grid)
    return grid if residual is None else grid + residual


def _normalise(grid: Tensor, epsilon: float = NORM_EPSILON) -> Tensor:
    """Return a LayerNorm's output before its affine part."""
    return F.layer_norm(grid, (grid.shape[-1],), eps=epsilon)


def _embeds(net: SparseViTBackbone) -> tuple[PatchEmbed, ...]:
    return net.patch_embed1, net.patch_embed2, net.patch_embed3, net.patch_embed4


def _fused_head(head: FusionHead | MlpDecoder, widths: Sequence[int]) -> nn.Module:
    """Fold a fusion head; a decoder is taken as it is."""
    return _frozen(head) if isinstance(head, MlpDecoder) else FusedHead(head, widths)


def _frozen(module: nn.Module) -> nn.Module:
    """Copy a module; its parameters take no gradients."""
    return copy.deepcopy(module).requires_grad_(False)


def _matrix(layer: nn.Linear | nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return weight (K x C) and bias (K) of a Linear or a 1 x 1 convolution, in double precision.

    A layer without a bias has one of zeros.
    """
    weight = layer.weight.detach().double().flatten(1)
    if layer.bias is None:
        return weight, weight.new_zeros(len(weight))
    return weight, layer.bias.detach().double()


def _plain(layer: nn.Linear | nn.Conv2d) -> Pointwise:
    return Pointwise(*_matrix(layer))


def _after(scale: Tensor, shift: Tensor, layer: nn.Linear | nn.Conv2d) -> Pointwise:
    """Fold `x * scale + shift`, which comes before a layer, into it."""
    weight, bias = _matrix(layer)
    return Pointwise(weight * scale, bias + weight @ shift)


def _after_batch_norm(norm: nn.Module, layer: nn.Linear | nn.Conv2d) -> Pointwise:
    assert isinstance(norm, nn.BatchNorm2d)  # noqa: S101 - what ConvBlock makes
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None  # noqa: S101
    assert variance is not None  # noqa: S101
    scale = norm.weight.detach().double() / torch.sqrt(variance.double() + norm.eps)
    return _after(scale, norm.bias.detach().double() - mean.double() * scale, layer)


def _after_layer_norm(norm: nn.LayerNorm, layer: nn.Linear | nn.Conv2d) -> Pointwise:
    return _after(norm.weight.detach().double(), norm.bias.detach().double(), layer)


def _scaled(layer: nn.Linear | nn.Conv2d, scale: Tensor) -> Pointwise:
    """Fold a scale per output channel into a layer."""
    weight, bias = _matrix(layer)
    factor = scale.detach().double()
    return Pointwise(weight * factor[:, None], bias * factor)


def _tap_maps(head: FusionHead, widths: Sequence[int]) -> list[tuple[Tensor, Tensor | None]]:
    """Return weight and bias of what each tap goes through before the sum.

    A tap that is only scaled has a weight of C, one number per channel, and no bias.
    """
    if head.fusion == "concat":
        weight, bias = _matrix(head.conv_fuse)
        parts = weight.split(list(widths), dim=1)
        # Interpolation keeps constants, so the one bias may be added before it or after.
        biases = [bias] + [torch.zeros_like(bias)] * (len(parts) - 1)
        return list(zip(parts, biases, strict=True))
    maps: list[tuple[Tensor, Tensor | None]] = []
    unscaled = torch.ones_like(head.norm.weight)
    for number in range(1, len(widths) + 1):
        scale = getattr(head, f"gamma{number}", unscaled).detach().double()
        projection = getattr(head, f"conv_layer{number}", None)
        if projection is None:
            maps.append((scale, None))
        else:
            weight, bias = _matrix(projection)
            maps.append((weight * scale[:, None].to(weight), bias * scale.to(bias)))
    return maps
