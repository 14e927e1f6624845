"""IMDLBenCo's ManTra-Net, following its device, with its loss on probabilities.

Wu et al., "ManTra-Net: Manipulation Tracing Network for Detection and Localization of Image
Forgeries With Anomalous Features", CVPR 2019
"""

from typing import Any

from torch import Tensor

from sparsevit_plugin.model.choices import check_choice
from sparsevit_plugin.upstream import import_upstream
from sparsevit_plugin.zoo.adapter import (
    FollowsDevice,
    probability_loss,
    restored,
    settle,
    targets,
)
from sparsevit_plugin.zoo.offline import offline

import_upstream("IMDLBenCo.model_zoo")

from IMDLBenCo.model_zoo.mantra_net.mantranet import (  # noqa: E402 - imported quietly above
    MantraNet as UpstreamMantraNet,
)


class MantraNet(FollowsDevice, UpstreamMantraNet):
    """Upstream's ManTra-Net; the state dict's keys are upstream's.

    Args:
        in_channel: Channels of the photograph.
        eps: Least standard deviation that features are divided by.
        with_GRU: Whether the anomaly detector is recurrent by a GRU instead of an LSTM.
        loss: "probability" takes the cross-entropy of the map. "upstream" takes the map, which a
            sigmoid ends, for logits and puts it through a second sigmoid.

    Raises:
        UserError: There is no such choice.
    """

    def __init__(
        self,
        *,
        in_channel: int = 3,
        eps: float = 1e-6,
        with_GRU: bool = False,
        loss: str = "probability",
    ) -> None:
        with offline():
            super().__init__(in_channel, eps, device="cpu", with_GRU=with_GRU)
        check_choice("loss", loss, ("probability", "upstream"))
        self.loss = loss

    def forward(
        self, image: Tensor, mask: Tensor | None = None, **_kwargs: object
    ) -> dict[str, Any]:
        """Predict, and compute the loss.

        Args:
            image: Normalised, shape (B, 3, H, W).
            mask: Shape (B, 1, H, W).
            **_kwargs: Ignored.

        Returns:
            See `settle`; there is no `pred_label`.
        """
        given = targets(self, image, ("mask",), mask=mask)
        # In training upstream keeps the pooling window of the size that it met first or tested.
        if hasattr(self.AnomalyDetector, "GlobalPool"):
            del self.AnomalyDetector.GlobalPool
        extractor: Any = self.IMTFE
        with restored(extractor.BayarConv2D.weight):
            output = super().forward(image, **given)
        if self.loss == "probability":
            output["backward_loss"] = probability_loss(output["pred_mask"], given["mask"])
            output["visual_loss"] = {"predict_loss": output["backward_loss"]}
        return settle(output, mask)
