"""U-Net (Ronneberger et al., MICCAI 2015), written from the paper.

Paper: "U-Net: Convolutional Networks for Biomedical Image Segmentation",
https://arxiv.org/abs/1505.04597: a contracting path of five levels, each of two 3 x 3 convolutions
and a 2 x 2 pooling that doubles the channels; an expanding path of 2 x 2 up-convolutions that halve
them, each joined with the contracting path's map of the same level.

IMDLBenCo starts from the network that `torch.hub` fetches as `milesial/Pytorch-UNet`,
`unet_carvana`. Where that differs from the paper this one follows it, as far as its checkpoints
tell: convolutions are padded and have batch normalisation instead of a bias. Parameters carry the
names and shapes of those checkpoints; no code is shared.
"""

# Constructors of registered models are read by IMDLBenCo's argument parser: annotations must be
# plain types, and this file must not postpone their evaluation.

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit_plugin.zoo.extractors import build_extractor
from sparsevit_plugin.zoo.localiser import (
    Localiser,
    load_backbone,
    widened,
)

LEVELS = 5


class ConvolutionPair(nn.Module):
    """Two padded 3 x 3 convolutions, each normalised and rectified; keeps height and width."""

    def __init__(self, before: int, behind: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (before, behind):
            layers += [
                nn.Conv2d(channels, behind, 3, padding=1, bias=False),
                nn.BatchNorm2d(behind),
                nn.ReLU(inplace=True),
            ]
        self.double_conv = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, before, H, W) to (B, behind, H, W)."""
        result: Tensor = self.double_conv(features)
        return result


class Contraction(nn.Module):
    """One level down: pooling, then a pair of convolutions."""

    def __init__(self, before: int, behind: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), ConvolutionPair(before, behind))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, before, H, W) to (B, behind, H // 2, W // 2)."""
        result: Tensor = self.maxpool_conv(features)
        return result


class Expansion(nn.Module):
    """One level up: up-convolution, the other path's map, then a pair of convolutions."""

    def __init__(self, before: int, behind: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(before, behind, 2, stride=2)
        self.conv = ConvolutionPair(2 * behind, behind)

    def forward(self, features: Tensor, skipped: Tensor) -> Tensor:
        """Map (B, before, H // 2, W // 2) and (B, behind, H, W) to (B, behind, H, W)."""
        raised = self.up(features)
        # Pooling drops the last row or column of an odd side; it comes back as zeros, half of what
        # is missing (rounded down) on the top and left.
        rows, columns = (skipped.shape[axis] - raised.shape[axis] for axis in (-2, -1))
        edges = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        result: Tensor = self.conv(torch.cat([skipped, F.pad(raised, edges)], dim=1))
        return result


class Classifier(nn.Module):
    """The last 1 x 1 convolution."""

    def __init__(self, before: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, before, H, W) to (B, classes, H, W)."""
        result: Tensor = self.conv(features)
        return result


class UNet(nn.Module):
    """The network: images of any size from 16 x 16 on to one logit a class and pixel.

    Args:
        classes: Number of classes; two in the Carvana checkpoints.
        width: Channels of the first level; 64 in the paper, and each level doubles them.
    """

    def __init__(self, classes: int = 2, width: int = 64) -> None:
        super().__init__()
        widths = [width << level for level in range(LEVELS)]
        self.inc = ConvolutionPair(3, width)
        for level in range(1, LEVELS):
            self.add_module(f"down{level}", Contraction(widths[level - 1], widths[level]))
        for step in range(1, LEVELS):
            self.add_module(f"up{step}", Expansion(widths[-step], widths[-step - 1]))
        self.outc = Classifier(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, classes, H, W)."""
        levels = [self.inc(image)]
        for level in range(1, LEVELS):
            levels.append(self.get_submodule(f"down{level}")(levels[-1]))
        features = levels.pop()
        for step in range(1, LEVELS):
            features = self.get_submodule(f"up{step}")(features, levels.pop())
        result: Tensor = self.outc(features)
        return result


class UNetLocaliser(Localiser, nn.Module):
    """IMDLBenCo's `unet`: U-Net with one output, and an extractor's channels at its input.

    Args:
        pretrained_path: A Carvana checkpoint of the hub model; None for random weights.
        width: Channels of the first level.

    Raises:
        UserError: The weights cannot be used.
    """

    def __init__(
        self,
        pretrained_path: str = None,  # type: ignore[assignment]  # noqa: RUF013
        width: int = 64,
    ) -> None:
        super().__init__()
        self.input_head, channels = build_extractor(self.extractor)
        net = UNet(width=width)
        if pretrained_path:
            self.load_report = load_backbone(net, pretrained_path, head=r"outc\.")
        if channels:
            first = cast(nn.Conv2d, net.inc.double_conv[0])
            net.inc.double_conv[0] = widened(first, channels)
        net.outc.conv = nn.Conv2d(width, 1, 1, bias=False)
        self.net = net

    def logits(self, image: Tensor) -> Tensor:
        """Return the map before the sigmoid."""
        result: Tensor = self.net(self.with_features(image))
        return result
