"""IMDLBenCo's Mesorch at any size and without its download.

Zhu et al., "Mesoscopic Insights: Orchestrating Multi-scale & Hybrid Architecture for Image
Manipulation Localization", AAAI 2025, https://arxiv.org/abs/2412.13753
"""

from typing import Any

import torch
from torch import Tensor, nn

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.upstream import import_upstream
from sparsevit_plugin.zoo.adapter import FollowsDevice, check_side, settle, targets
from sparsevit_plugin.zoo.offline import offline
from sparsevit_plugin.zoo.pretrained import PretrainingReport, load_pretrained

import_upstream("IMDLBenCo.model_zoo")

from IMDLBenCo.model_zoo.mesorch.mesorch import (  # noqa: E402 - imported quietly above
    Mesorch as UpstreamMesorch,
)

_PHOTO_CHANNELS = 3
_CONVOLUTION = 4  # dimensions of its weight


class Mesorch(FollowsDevice, UpstreamMesorch):
    """Upstream's Mesorch; the state dict's keys are upstream's.

    Args:
        seg_pretrain_path: SegFormer's MiT-B3; None for random weights.
        conv_pretrain_path: timm's ConvNeXt-Tiny for ImageNet; None for random weights.
        conv_pretrain: Upstream's switch, which downloads that file; here it must be given.
        image_size: Side of the photographs, a multiple of 32. Upstream's maps are 512 x 512.

    Raises:
        UserError: A file is missing or does not fit, or `conv_pretrain` is given without one.
    """

    def __init__(
        self,
        *,
        seg_pretrain_path: str = None,  # type: ignore[assignment]  # noqa: RUF013
        conv_pretrain_path: str = None,  # type: ignore[assignment]  # noqa: RUF013
        conv_pretrain: bool = False,
        image_size: int = 512,
    ) -> None:
        if conv_pretrain and not conv_pretrain_path:
            raise UserError(
                "Mesorch: --conv-pretrain downloads in IMDLBenCo; name the file instead, with "
                "--conv-pretrain-path, or use --weights card"
            )
        with offline():
            super().__init__(None, conv_pretrain=False)
        self.image_size = image_size
        self.resize = nn.Upsample(
            size=(image_size, image_size), mode="bilinear", align_corners=True
        )
        self.load_report = PretrainingReport()
        parts: dict[str, tuple[Any, str | None]] = {
            "seg_pretrain_path": (self.segformer, seg_pretrain_path),
            "conv_pretrain_path": (self.convnext, conv_pretrain_path),
        }
        for argument, (part, path) in parts.items():
            if path:
                report = load_pretrained(
                    part, path, adapt=_widened, may_lack=r"head\.(norm|fc)\..*"
                )
                self.load_report.parts[argument] = report

    def forward(
        self, image: Tensor, mask: Tensor | None = None, **_kwargs: object
    ) -> dict[str, Any]:
        """Predict, and compute the loss.

        Args:
            image: Normalised, shape (B, 3, H, H) of the side that the model was built for.
            mask: Shape (B, 1, H, H).
            **_kwargs: Ignored.

        Returns:
            See `settle`; there is no `pred_label`.

        Raises:
            UserError: The photograph has another size.
        """
        check_side(self, image, self.image_size, "image_size")
        given = targets(self, image, ("mask",), mask=mask)
        return settle(super().forward(image, label=None, **given), mask)


def _widened(_name: str, own: Tensor, value: Tensor) -> Tensor:
    """Put a first convolution's weights for the photograph before those for its frequencies.

    As upstream does: the frequencies' weights stay random, and the convolution's bias is dropped.
    """
    is_convolution = own.ndim == value.ndim == _CONVOLUTION
    if not is_convolution or value.shape != own[:, :_PHOTO_CHANNELS].shape:
        return value
    return torch.cat([value, own[:, _PHOTO_CHANNELS:]], dim=1)
