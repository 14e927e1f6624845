"""Heads that turn a backbone's maps into one map of logits.

"lff" is the paper's Learnable Feature Fusion; "sum", "concat" and "last" are the plain fusions it
is compared with, and "mlp" is SegFormer's decoder, which reads the last map of every stage.
"""

from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit_plugin.model.blocks import NORM_EPSILON, channels_first, channels_last
from sparsevit_plugin.model.choices import check_choice

FUSIONS = ("lff", "sum", "concat", "last")
"""What `FusionHead` does with its taps."""

MLP = "mlp"
HEADS = (*FUSIONS, MLP)


class FusionHead(nn.Module):
    """Fuse taps of two resolutions, normalise, and project to one channel.

    Every tap whose width is not `dim` goes through its own 1 x 1 convolution `conv_layer{i}` first,
    i being the number of the tap from 1; taps of stage 4 are brought to the grid of stage 3
    bilinearly. A plain ViT has taps of one resolution alone: they stand as those of stage 3.

    Args:
        widths3: Channels of each tap of stage 3.
        widths4: Channels of each tap of stage 4.
        dim: Channels of the fused map.
        fusion: "lff": sum with a learnt scale `gamma{i}` per tap and channel. "sum": plain sum.
            "concat": channels side by side, then a 1 x 1 convolution to `dim` in place of those of
            the taps. "last": the only tap there is.
        lff_init: Start of the scales.
    """

    def __init__(
        self,
        widths3: Sequence[int],
        widths4: Sequence[int],
        dim: int = 512,
        fusion: str = "lff",
        lff_init: float = 1e-6,
    ) -> None:
        super().__init__()
        check_choice("head", fusion, FUSIONS)
        widths = (*widths3, *widths4)
        self.fusion = fusion
        self.taps3, self.taps = len(widths3), len(widths)
        if fusion == "lff":
            for number in range(1, self.taps + 1):
                self.register_parameter(
                    f"gamma{number}", nn.Parameter(torch.full((dim,), lff_init))
                )
        if fusion == "concat":
            self.conv_fuse = nn.Conv2d(sum(widths), dim, 1)
        else:
            for number, width in enumerate(widths, start=1):
                if width != dim:
                    self.add_module(f"conv_layer{number}", nn.Conv2d(width, dim, 1))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.conv_last = nn.Conv2d(dim, 1, 1)

    def forward(self, taps3: list[Tensor], taps4: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Return logits of B x 1 x h x w.

        Args:
            taps3: Grids of B x h x w x C.
            taps4: Grids of B x ceil(h / 2) x ceil(w / 2) x C.
            size: (h, w).
        """
        fused = (
            self._concat(taps3, taps4, size)
            if self.fusion == "concat"
            else self._sum(taps3, taps4, size)
        )
        return self.conv_last(channels_first(self.norm(channels_last(fused))))

    def parts(
        self, taps3: list[Tensor], taps4: list[Tensor], size: tuple[int, int]
    ) -> list[Tensor]:
        """Return what each tap adds to the fused map, B x dim x h x w each; they sum to it.

        Only of "lff" and "sum". The arguments are those of `forward`.
        """
        scaled = [self._scale(number, tap) for number, tap in enumerate([*taps3, *taps4], start=1)]
        return [*scaled[: self.taps3], *(enlarge(maps, size) for maps in scaled[self.taps3 :])]

    def _concat(self, taps3: list[Tensor], taps4: list[Tensor], size: tuple[int, int]) -> Tensor:
        maps = [channels_first(tap) for tap in taps3]
        maps += [enlarge(channels_first(tap), size) for tap in taps4]
        return self.conv_fuse(torch.cat(maps, dim=1))

    def _sum(self, taps3: list[Tensor], taps4: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Add the taps of each stage; those of stage 4 are enlarged once, after their sum.

        Projection, scale and interpolation are linear and act on different axes, so their order
        does not change the result. The scales multiply the maps and not the weights of the
        projection: products of weights with scales of 1e-6 would underflow in half precision.
        """
        scaled = [self._scale(number, tap) for number, tap in enumerate([*taps3, *taps4], start=1)]
        if len(scaled) == self.taps3:  # nothing to enlarge
            return reduce(add, scaled)
        fused = enlarge(reduce(add, scaled[self.taps3 :]), size)
        return reduce(add, scaled[: self.taps3], fused)

    def _scale(self, number: int, tap: Tensor) -> Tensor:
        """Project and scale one tap; B x C x h x w."""
        maps = channels_first(tap)
        projection = getattr(self, f"conv_layer{number}", None)
        if projection is not None:
            maps = projection(maps)
        if self.fusion == "lff":
            maps = maps * getattr(self, f"gamma{number}")[:, None, None]
        return maps


class MlpDecoder(nn.Module):
    """SegFormer's decoder: maps of several resolutions to one map of logits at the finest's.

    Xie et al., "SegFormer", NeurIPS 2021, https://arxiv.org/abs/2105.15203, section 3.2: every map
    is projected to one width and brought to the size of the finest, and all are fused by one layer.

    Args:
        widths: Channels of each map, the finest first.
        dim: Channels to which each is projected.
        dropout: Share of the fused channels that are dropped while training.
    """

    fusion = MLP

    def __init__(self, widths: Sequence[int], dim: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in widths)
        self.fuse = nn.Sequential(
            nn.Conv2d(dim * len(widths), dim, 1, bias=False),
            nn.BatchNorm2d(dim),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
        )
        self.classifier = nn.Conv2d(dim, 1, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits of B x 1 x h x w for maps of B x C x h x w, the first the finest."""
        size = maps[0].shape[-2:]
        projected = [
            F.interpolate(layer(one), size=size, mode="bilinear", align_corners=False)
            for layer, one in zip(self.projections, maps, strict=True)
        ]
        result: Tensor = self.classifier(self.fuse(torch.cat(projected, dim=1)))
        return result


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Double both sides bilinearly, and crop to `size` where stage 4 padded an odd grid."""
    double = (2 * maps.shape[-2], 2 * maps.shape[-1])
    larger = F.interpolate(maps, size=double, mode="bilinear", align_corners=False)
    return larger[..., : size[0], : size[1]]
