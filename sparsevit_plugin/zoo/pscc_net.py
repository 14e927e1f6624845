"""IMDLBenCo's PSCC-Net, with a weights file that may be missing on purpose and only then.

Liu et al., "PSCC-Net: Progressive Spatio-Channel Correlation Network for Image Manipulation
Detection and Localization", IEEE TCSVT 2022, https://arxiv.org/abs/2103.10596
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from sparsevit_plugin.upstream import import_upstream
from sparsevit_plugin.zoo.adapter import check_side, settle, targets
from sparsevit_plugin.zoo.offline import offline
from sparsevit_plugin.zoo.pretrained import PretrainingReport, load_pretrained

import_upstream("IMDLBenCo.model_zoo")

from IMDLBenCo.model_zoo.pscc_net.pscc_net import (  # noqa: E402 - imported quietly above
    PSCC_Net as UpstreamPSCC_Net,
)

LEAST_SHARE = 0.5
"""Upstream takes an HRNet that lacks tensors; one that lacks more than half is another network."""


class PSCC_Net(UpstreamPSCC_Net):  # noqa: N801 -- upstream's name
    """Upstream's PSCC-Net; the state dict's keys are upstream's.

    Args:
        input_size: Side of the photographs, a multiple of 16.
        pretrain_path: ImageNet weights of HRNet-W18-Small-v2; None for random ones. Upstream fails
            for None and takes a path that leads nowhere for "no weights".

    Raises:
        UserError: The file is missing or does not fit.
    """

    def __init__(self, input_size: int = 256, pretrain_path: str = None) -> None:  # type: ignore[assignment]  # noqa: RUF013
        with offline():
            super().__init__(input_size, "")
        self.input_size = input_size
        self.load_report = PretrainingReport()
        if pretrain_path:
            report = load_pretrained(
                self.FENet, pretrain_path, rename=_hrnet_names, least=LEAST_SHARE
            )
            self.load_report.parts["pretrain_path"] = report

    def forward(
        self,
        image: Tensor,
        mask: Tensor | None = None,
        label: Tensor | None = None,
        **_kwargs: object,
    ) -> dict[str, Any]:
        """Predict, and compute the loss.

        Args:
            image: Normalised, shape (B, 3, H, H) of the side that the model was built for.
            mask: Shape (B, 1, H, H).
            label: Shape (B,).
            **_kwargs: Ignored.

        Returns:
            See `settle`; `pred_label` is the classifier's probability.

        Raises:
            UserError: The photograph has another size.
        """
        check_side(self, image, self.input_size, "input_size")
        given = targets(self, image, ("mask", "label"), mask=mask, label=label)
        return settle(super().forward(image, **given), mask)


def _hrnet_names(key: str) -> Iterable[str]:
    return (key.replace("model.", ""),)
