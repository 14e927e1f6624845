"""SparseViT for image manipulation localization, and its variants.

Paper: Su et al., "Can We Get Rid of Handcrafted Feature Extractors? SparseViT", AAAI 2025
(https://arxiv.org/abs/2412.14598). The network is UniFormer's (Li et al., ICLR 2022,
https://arxiv.org/abs/2201.09450) with sparse attention in stages 3 and 4 and a fusion head. Written
from the published description; parameters carry the names and shapes of the model that IMDLBenCo
0.1.45 registers, so that its checkpoints and the official one load.
"""

# Constructors below are read by IMDLBenCo's argument parser, which uses annotations as callables:
# they must be plain types, and this file must not postpone their evaluation.

import ast
from collections.abc import Sequence
from functools import partialmethod
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.model.backbone import (
    GroupSize,
    SparseViTBackbone,
    grid_size,
)
from sparsevit_plugin.model.blocks import initialise
from sparsevit_plugin.model.choices import EXTRACTORS, check_choice
from sparsevit_plugin.model.head import HEADS, MLP, FusionHead, MlpDecoder
from sparsevit_plugin.model.hub import HubModel
from sparsevit_plugin.model.weights import KEEP, LoadReport, load_uniformer

if TYPE_CHECKING:
    from sparsevit_plugin.model.fused import FusedSparseViT

LOGIT_STRIDE = 16
"""Side, in pixels, of the patch of the image behind one logit before interpolation."""

MLP_STRIDE = 4
"""The same with the head "mlp"."""

POOLINGS = ("max", "mean")


class SparseViT(nn.Module, HubModel):
    """SparseViT-Base as published: 50.25 M parameters, trained at 512 x 512.

    Lists may be given as tuples, lists, or text such as "5,8,20,7".

    Args:
        depth: Blocks of the four stages.
        embed_dim: Channels of the four stages.
        head_dim: Channels of an attention head.
        img_size: Side of the training images in pixels. The network takes any size; this is
            recorded for the tools that ask a model for its size.
        s_blocks3: Sparsity rates of stage 3: one per segment of ceil(depth / number) blocks, or one
            per block.
        s_blocks4: Sparsity rates of stage 4, likewise.
        mlp_ratio: Hidden width of the MLPs over their stage's channels.
        qkv_bias: Whether queries, keys and values have a bias.
        pretrained_path: UniFormer weights for the backbone; None or empty for none.
        sparsity: "rate": a rate is the stride of the attention at any image size (the paper's
            definition). "group": a rate fixes the size of the groups, as in IMDLBenCo, so that the
            stride grows with the image. They are equal at 512 x 512.
        head: "lff" (Learnable Feature Fusion), "sum", "concat", "last", or "mlp": SegFormer's
            decoder on the last map of each of the four stages, which reads no other taps.
        lff_dim: Channels of the fused map.
        taps3: Numbers (from 1) of the blocks of stage 3 that the head reads, besides the last,
            which it always reads. Empty: the last of each segment (of each run of equal rates,
            where each block has its own).
        taps4: The same for stage 4.
        layer_scale_init: Start of the layer scales.
        lff_init: Start of the fusion scales of "lff".
        drop_path: Stochastic depth of the last block, linear from 0 at the first.
        pretrained_keep: "all" keeps every pretrained tensor. "upstream" draws every Linear and
            LayerNorm afresh after loading, as IMDLBenCo and the official repository do.
        dice_weight: Weight of a soft Dice loss, one term per image, added to the binary
            cross-entropy. The published loss is the cross-entropy alone: 0.
        image_pooling: How `pred_label` follows from the map: its "max" or its "mean".
        extractor: Hand-crafted features of the toolkit's that the network sees beside the image:
            "sobel", "srm", "bayar", "fft", "dct", or "none", which is the published model.

    Raises:
        UserError: An option has no such value, or the pretrained weights cannot be used.
    """

    load_report: LoadReport | None = None

    def __init__(
        self,
        *,
        depth: tuple = (5, 8, 20, 7),
        embed_dim: tuple = (64, 128, 320, 512),
        head_dim: int = 64,
        img_size: int = 512,
        s_blocks3: tuple = (8, 4, 2, 1),
        s_blocks4: tuple = (2, 1),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        # IMDLBenCo's parser cannot read Optional.
        pretrained_path: str = None,  # type: ignore[assignment] # noqa: RUF013
        sparsity: str = "rate",
        head: str = "lff",
        lff_dim: int = 512,
        taps3: tuple = (),
        taps4: tuple = (),
        layer_scale_init: float = 1e-6,
        lff_init: float = 1e-6,
        drop_path: float = 0.2,
        pretrained_keep: str = "all",
        dice_weight: float = 0.0,
        image_pooling: str = "max",
        extractor: str = "none",
    ) -> None:
        super().__init__()
        check_choice("head", head, HEADS)
        check_choice("pretrained_keep", pretrained_keep, KEEP)
        check_choice("image_pooling", image_pooling, POOLINGS)
        check_choice("extractor", extractor, EXTRACTORS)
        self.img_size = img_size
        self.dice_weight = dice_weight
        self.image_pooling = image_pooling
        widths = whole_numbers("embed_dim", embed_dim)
        self.encoder_net = SparseViTBackbone(
            depth=whole_numbers("depth", depth),
            embed_dim=widths,
            head_dim=head_dim,
            rates=(whole_numbers("s_blocks3", s_blocks3), whole_numbers("s_blocks4", s_blocks4)),
            taps=(whole_numbers("taps3", taps3), whole_numbers("taps4", taps4)),
            sparsity=sparsity,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            drop_path=drop_path,
            layer_scale_init=layer_scale_init,
            last_only=head == "last",
        )
        self.lmu: FusionHead | MlpDecoder = (
            MlpDecoder(widths, lff_dim)
            if head == MLP
            else FusionHead(*self.encoder_net.tap_widths(), lff_dim, head, lff_init)
        )
        initialise(self)
        if pretrained_path:
            self.load_report = load_uniformer(self.encoder_net, pretrained_path, pretrained_keep)
        self.features = self._put_in_front(extractor)

    def forward(
        self,
        image: Tensor,
        mask: Tensor | None = None,
        label: Tensor | None = None,
        shape_mask: Tensor | None = None,
        *args: object,
        **kwargs: object,
    ) -> dict[str, Any]:
        """Localise manipulations, and compute the loss where a mask is given.

        Args:
            image: B x 3 x H x W, normalised; any H and W.
            mask: B x 1 x H x W in [0, 1], 1 where manipulated. None: no loss.
            label: Not used; part of the interface of IMDLBenCo's models.
            shape_mask: B x 1 x H x W, 1 where the image is no padding. Only `pred_label` heeds it:
                the loss covers the padding, which the mask calls authentic, as in IMDLBenCo.
            *args: Not used.
            **kwargs: Not used; a batch may hold more than this model reads.

        Returns:
            `backward_loss` (scalar, or None without a mask), `pred_mask` (B x 1 x H x W
            probabilities), `pred_label` (B probabilities), and `visual_loss` and `visual_image` for
            the training log.
        """
        logits = self.logits(image)
        probability = torch.sigmoid(logits)
        losses = {} if mask is None else self._losses(logits, probability, mask)
        total = None
        if losses:
            total = losses["predict_loss"]
            if "dice_loss" in losses:
                total = total + self.dice_weight * losses["dice_loss"]
        return {
            "backward_loss": total,
            "pred_mask": probability,
            "pred_label": pool(probability, shape_mask, self.image_pooling),
            "visual_loss": losses,
            "visual_image": {"pred_mask": probability},
        }

    def logits(self, image: Tensor) -> Tensor:
        """Return the map before the sigmoid, B x 1 x H x W, in single precision under autocast."""
        height, width = image.shape[-2:]
        seen = with_features(image, self.features)
        if isinstance(self.lmu, MlpDecoder):
            small = self.lmu(self.encoder_net.stage_maps(seen))
            stride = MLP_STRIDE
        else:
            small = self.lmu(*self.encoder_net(seen), grid_size(height, width, stage=3))
            stride = LOGIT_STRIDE
        if small.dtype in (torch.float16, torch.bfloat16):
            small = small.float()
        return enlarge_logits(small, height, width, stride)

    def checkpoint_activations(self, on: bool = True) -> None:
        """Keep only the input of each attention block for the backward pass, in training.

        The backward pass runs each block again, so a step takes more time and much less memory. The
        gradients are the same.
        """
        self.encoder_net.checkpointing = on

    def fuse(self) -> "FusedSparseViT":
        """Return a copy for inference alone, with everything constant folded into the weights.

        It is called as this model is, and gives the same map as in evaluation mode but for
        rounding.
        """
        from sparsevit_plugin.model.fused import FusedSparseViT

        return FusedSparseViT(self)

    def group_sizes(self, height: int, width: int) -> list[GroupSize]:
        """List the group sizes of every sparse block for an image size in pixels."""
        return self.encoder_net.group_sizes(height, width)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Say which parameters are one layer, for layer-wise learning rates (timm's convention).

        The first embedding; then every block, and the embedding before a stage as a layer of its
        own, in their order; what matches nothing (norms behind a stage, head) is the last.

        Args:
            coarse: Whether a stage is one layer.
        """
        embed = (r"^encoder_net\.patch_embed(\d)", None if coarse else (-1,))
        block = r"^encoder_net\.blocks(\d)" if coarse else r"^encoder_net\.blocks(\d)\.(\d+)"
        return {"stem": r"^encoder_net\.patch_embed1", "blocks": [embed, (block, None)]}

    def _put_in_front(self, extractor: str) -> nn.Module | None:
        """Let the network read an extractor's channels behind the image's; return the extractor."""
        if extractor == "none":
            return None
        # Here, not above: it is IMDLBenCo's, whose import takes seconds.
        from sparsevit_plugin.zoo.extractors import build_extractor

        features, channels = build_extractor(extractor)
        self.encoder_net.patch_embed1.widen(channels)
        return features

    def _losses(self, logits: Tensor, probability: Tensor, mask: Tensor) -> dict[str, Tensor]:
        target = mask.to(logits.dtype)
        losses = {"predict_loss": F.binary_cross_entropy_with_logits(logits, target)}
        if self.dice_weight:
            losses["dice_loss"] = soft_dice_loss(probability, target)
        return losses


def with_features(image: Tensor, features: nn.Module | None) -> Tensor:
    """Return B x 3 x H x W images with the channels of an extractor behind their own."""
    if features is None:
        return image
    return torch.cat([image, features(image).to(image.dtype)], dim=1)


def enlarge_logits(small: Tensor, height: int, width: int, stride: int = LOGIT_STRIDE) -> Tensor:
    """Bring logits at 1/stride of the image's size to it, B x 1 x height x width, bilinearly.

    Where the stride does not divide a side the grid is larger than the image, and is cropped.
    """
    rows, columns = small.shape[-2:]
    padded = (rows * stride, columns * stride)
    large = F.interpolate(small, size=padded, mode="bilinear", align_corners=False)
    return large[..., :height, :width]


def pool(probability: Tensor, shape_mask: Tensor | None, pooling: str) -> Tensor:
    """Return one score per image from its map.

    The default, "max", is the global max pooling with which MVSS-Net scores images (Chen et al.,
    "Image Manipulation Detection by Multi-View Multi-Scale Supervision", ICCV 2021, section 3.3).

    Args:
        probability: B x 1 x H x W.
        shape_mask: B x 1 x H x W, non-zero where the image is no padding; None: everywhere.
        pooling: "max" or "mean".

    Returns:
        B scores.
    """
    flat = probability.flatten(1)
    valid = torch.ones_like(flat) if shape_mask is None else (shape_mask.flatten(1) > 0).to(flat)
    if pooling == "max":
        return (flat * valid).amax(dim=1)
    return (flat * valid).sum(dim=1) / valid.sum(dim=1)


def soft_dice_loss(probability: Tensor, mask: Tensor, smooth: float = 1.0) -> Tensor:
    """Return 1 - (2 sum(p m) + s) / (sum(p) + sum(m) + s), averaged over images.

    The soft form of Milletari et al., "V-Net", 3DV 2016, with plain sums in the denominator;
    `smooth` (s, in pixels) defines it for authentic images.
    """
    p, m = probability.flatten(1), mask.flatten(1)
    overlap = 2 * (p * m).sum(dim=1) + smooth
    return (1 - overlap / (p.sum(dim=1) + m.sum(dim=1) + smooth)).mean()


def whole_numbers(option: str, values: str | Sequence[Any]) -> tuple[int, ...]:
    """Read a list of whole numbers that may have come through a command line.

    Args:
        option: Its name, for the error message.
        values: A sequence of integers, text such as "5,8,20,7" or "[5, 8]", or such text as a tuple
            of characters, which is what IMDLBenCo's parser makes of it.

    Raises:
        UserError: It is none of these.
    """
    try:
        if not isinstance(values, str) and all(isinstance(value, str) for value in values):
            values = "".join(values)
        if isinstance(values, str):
            values = ast.literal_eval(f"({values.strip().strip('()[]')},)") if values else ()
        if any(int(value) != value for value in values):
            raise ValueError
    except (ValueError, SyntaxError, TypeError):
        raise UserError(
            f"{option}: a list of whole numbers is needed, such as 5,8,20,7; not {values!r}."
        ) from None
    return tuple(int(value) for value in values)


class SparseViT_small(SparseViT):  # noqa: N801  (the registered name)
    """SparseViT on the widths and depths of UniFormer-Small, at SparseViT's rates.

    Widths, depths and head width: `uniformer_small` in image_classification/models/uniformer.py of
    https://github.com/Sense-X/UniFormer (commit 3b140e9). Its segments are 2, 2, 2, 2 blocks in
    stage 3 and 2, 1 in stage 4. This combination was not published: no official weights exist for
    it.
    """

    __init__ = partialmethod(SparseViT.__init__, depth=(3, 4, 8, 3))


class SparseViT_tiny(SparseViT):  # noqa: N801  (the registered name)
    """A SparseViT of 1.1 M parameters for 128 x 128 images, to be trained on a CPU in minutes.

    At its size stage 3 is a grid of 8 x 8 tokens and stage 4 one of 4 x 4. The groups of its blocks
    hold 1, 4, 16 and 64 tokens in stage 3 and 4 and 16 in stage 4: in the first block of stage 3
    (rate 8) every group is one token, which attends to nothing but itself. `group_sizes` computes
    this for any image size.
    """

    __init__ = partialmethod(
        SparseViT.__init__,
        depth=(1, 2, 4, 2),
        embed_dim=(32, 64, 96, 128),
        head_dim=32,
        img_size=128,
        s_blocks3=(8, 4, 2, 1),
        s_blocks4=(2, 1),
        lff_dim=64,
    )
