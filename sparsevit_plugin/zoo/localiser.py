"""What the backbone baselines have in common: their loss, their output, their weights files."""

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.model.sparsevit import soft_dice_loss, with_features
from sparsevit_plugin.model.weights import LoadReport
from sparsevit_plugin.zoo.pretrained import load_pretrained


class Localiser:
    """The interface of IMDLBenCo's models around a network that answers with one logit a pixel.

    To be put before the network's class, a `torch.nn.Module`; the subclass provides `logits`.

    Attributes:
        extractor: Prefix of the feature extractor whose features are added to the image; empty for
            none.
        stride: The sides of an image must be multiples of this.
        input_head: The extractor, where there is one.
        load_report: Which pretrained tensors it started from; None for random weights.
        dice_weight: Weight of a soft Dice loss beside the binary cross-entropy.
    """

    extractor: ClassVar[str] = ""
    stride: ClassVar[int] = 1
    input_head: nn.Module | None
    load_report: LoadReport | None = None
    dice_weight: float = 0.0

    def logits(self, image: Tensor) -> Tensor:
        """Return the map before the sigmoid, (B, 1, H, W), for images of shape (B, 3, H, W)."""
        raise NotImplementedError

    def forward(
        self, image: Tensor, mask: Tensor | None = None, *args: object, **kwargs: object
    ) -> dict[str, Any]:
        """Localise manipulations, and compute the loss where a mask is given.

        Args:
            image: Normalised photographs, shape (B, 3, H, W).
            mask: Shape (B, 1, H, W), 1 where tampered. None: no loss.
            *args: Not used.
            **kwargs: Not used; a batch may hold more than this model reads.

        Returns:
            `backward_loss` (binary cross-entropy, and Dice where asked for; None without a mask),
            `pred_mask` (B, 1, H, W) in [0, 1], `pred_label` None, and `visual_loss` and
            `visual_image` for the log.

        Raises:
            UserError: The size of the images is not a multiple of `stride`.
        """
        if any(side % self.stride for side in image.shape[-2:]):
            height, width = image.shape[-2:]
            raise UserError(
                f"{type(self).__name__} takes images whose sides are multiples of {self.stride}, "
                f"not {height} x {width}: change --image-size"
            )
        return output_of(self.logits(image), mask, self.dice_weight)

    def with_features(self, image: Tensor) -> Tensor:
        """Return the image with the extractor's channels behind its own."""
        return with_features(image, self.input_head)


def output_of(logits: Tensor, mask: Tensor | None, dice_weight: float = 0.0) -> dict[str, Any]:
    """Return IMDLBenCo's output for logits (B, 1, H, W).

    The loss is the binary cross-entropy, and a soft Dice loss as often as `dice_weight` says.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    probability = torch.sigmoid(logits)
    losses = {}
    if mask is not None:
        target = mask.to(logits.dtype)
        losses["predict_loss"] = F.binary_cross_entropy_with_logits(logits, target)
        if dice_weight:
            losses["dice_loss"] = soft_dice_loss(probability, target)
    total = losses.get("predict_loss")
    if total is not None and dice_weight:
        total = total + dice_weight * losses["dice_loss"]
    return {
        "backward_loss": total,
        "pred_mask": probability,
        "pred_label": None,
        "visual_loss": losses,
        "visual_image": {"pred_mask": probability},
    }


def widened(convolution: nn.Conv2d, more: int) -> nn.Conv2d:
    """Return a convolution that reads `more` channels behind the three of an image.

    The image's weights are kept and the others are drawn by He's rule. The bias is dropped, as
    IMDLBenCo does: its checkpoints have none.
    """
    wide = nn.Conv2d(
        3 + more,
        convolution.out_channels,
        kernel_size=convolution.kernel_size,  # type: ignore[arg-type]
        stride=convolution.stride,  # type: ignore[arg-type]
        padding=convolution.padding,  # type: ignore[arg-type]
        bias=False,
    )
    with torch.no_grad():
        wide.weight[:, :3] = convolution.weight
        nn.init.kaiming_normal_(wide.weight[:, 3:])
    return wide


def upsampler(widths: list[int], *, kernel: int = 3, activated: bool = True) -> nn.Sequential:
    """Return transposed convolutions, each of which doubles the sides of its input.

    Args:
        widths: Channels before the first, between, and behind the last.
        kernel: Side of the kernels: 3 or 4.
        activated: Whether a ReLU stands between two of them.
    """
    layers: list[nn.Module] = []
    for before, behind in pairwise(widths):
        if layers and activated:
            layers.append(nn.ReLU())
        layers.append(
            nn.ConvTranspose2d(
                before, behind, kernel, stride=2, padding=1, output_padding=4 - kernel
            )
        )
    return nn.Sequential(*layers)


def freeze(*modules: nn.Module) -> None:
    """Exempt modules from training: what no output depends on would stop a distributed run."""
    for module in modules:
        module.requires_grad_(False)


def load_backbone(
    backbone: nn.Module,
    path: str,
    *,
    head: str,
    convert: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]] | None = None,
) -> LoadReport:
    """Start a backbone from a file of pretrained weights; its classifier is left out.

    Args:
        backbone: The network as it was pretrained.
        path: The file.
        head: Regular expression for the start of the names that stand for no part of it: its last
            layer's, say.
        convert: Brings the names and shapes of a published file to the backbone's.

    Raises:
        UserError: The file cannot be read, lacks a tensor, or has one of another shape; the
            backbone is unchanged then.
    """
    return load_pretrained(
        backbone,
        path,
        convert=convert,
        rename=lambda key: () if re.match(head, key) else (key,),
        may_lack=f"(?:{head}).*",
    )
