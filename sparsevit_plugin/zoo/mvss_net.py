"""IMDLBenCo's MVSS-Net without its download, and with the image-level loss on probabilities.

Chen et al., "Image Manipulation Detection by Multi-View Multi-Scale Supervision", ICCV 2021,
https://arxiv.org/abs/2104.06832
"""

from contextlib import nullcontext
from typing import Any

from torch import Tensor

from sparsevit_plugin.model.choices import check_choice
from sparsevit_plugin.upstream import import_upstream
from sparsevit_plugin.zoo.adapter import probability_loss, restored, settle, targets
from sparsevit_plugin.zoo.offline import offline
from sparsevit_plugin.zoo.pretrained import PretrainingReport, load_pretrained

import_upstream("IMDLBenCo.model_zoo")

from IMDLBenCo.model_zoo.mvss_net.mvssnet import (  # noqa: E402 - imported quietly above
    MVSSNet as UpstreamMVSSNet,
)

LABEL_SHARE = 0.04
"""Upstream's weight of the image-level loss (its beta)."""


class MVSSNet(UpstreamMVSSNet):
    """Upstream's MVSS-Net; the state dict's keys are upstream's.

    Args:
        nclass: Maps in the output; upstream's loss takes 1.
        aux: Whether the head has two more outputs, which upstream's loss does not read.
        sobel: Whether the edge branch filters its features by Sobel's operator.
        if_label: Whether the image-level loss counts.
        constrain: Whether there is a noise branch behind a Bayar convolution.
        n_input: Channels of the photograph.
        resnet50_path: torchvision's ImageNet weights of a ResNet-50, for both branches; None for
            random ones. Upstream downloads them whatever its `pretrained_base` says.
        label_loss: "probability" takes the cross-entropy of the image's probability. "upstream"
            takes the probability for a logit and puts it through a second sigmoid.

    Raises:
        UserError: The file does not fit, or there is no such choice.
    """

    def __init__(
        self,
        *,
        nclass: int = 1,
        aux: bool = False,
        sobel: bool = True,
        if_label: bool = True,
        constrain: bool = True,
        n_input: int = 3,
        resnet50_path: str = None,  # type: ignore[assignment]  # noqa: RUF013
        label_loss: str = "probability",
    ) -> None:
        with offline():
            super().__init__(nclass, aux, sobel, if_label, constrain, n_input)
        check_choice("label_loss", label_loss, ("probability", "upstream"))
        self.label_loss = label_loss
        self.load_report = PretrainingReport()
        if resnet50_path:
            report = load_pretrained(self.model, resnet50_path)
            self.load_report.parts["resnet50_path"] = report
            if constrain:
                load_pretrained(self.noise_extractor.model, resnet50_path)

    def forward(
        self,
        image: Tensor,
        mask: Tensor | None = None,
        edge_mask: Tensor | None = None,
        label: Tensor | None = None,
        **_kwargs: object,
    ) -> dict[str, Any]:
        """Predict, and compute the loss.

        Args:
            image: Normalised, shape (B, 3, H, H), H a multiple of 16.
            mask: Shape (B, 1, H, H).
            edge_mask: Shape (B, 1, H, H).
            label: Shape (B,).
            **_kwargs: Ignored.

        Returns:
            See `settle`; `pred_label` is the maximum of the map.
        """
        wanted = ("mask", "edge_mask", "label")
        given = targets(self, image, wanted, mask=mask, edge_mask=edge_mask, label=label)
        bayar = restored(self.constrain_conv.kernel) if self.constrain else nullcontext()
        with bayar:
            output = super().forward(image, **given)
        if self.if_label and self.label_loss == "probability":
            losses = output["visual_loss"]
            mended = probability_loss(output["pred_label"], given["label"])
            total = losses["combined_loss"] + LABEL_SHARE * (mended - losses["label_loss"])
            losses |= {"label_loss": mended, "combined_loss": total}
            output["backward_loss"] = total
        return settle(output, mask)
