"""A model of the laboratory: high-pass residuals, two convolutions."""

import torch
from IMDLBenCo.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional


class LabNet(nn.Module):
    """Localises edits by the residual that a median-like blur leaves.

    Args:
        width: Channels between the two convolutions.
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, image: Tensor, mask: Tensor = None, **kwargs: object) -> dict:
        """Answer for a batch, as IMDLBenCo's models do."""
        residual = image - functional.avg_pool2d(image, 3, stride=1, padding=1)
        logits = self.last(torch.relu(self.first(residual)))
        loss = None
        if mask is not None:
            loss = functional.binary_cross_entropy_with_logits(logits, mask.float())
        return {
            "backward_loss": loss,
            "pred_mask": logits.sigmoid(),
            "pred_label": None,
            "visual_loss": {"predict_loss": loss},
            "visual_image": {"pred_mask": logits.sigmoid()},
        }


def register() -> None:
    """Put the model into IMDLBenCo's registry; called once by the plugin."""
    MODELS.register_module(module=LabNet, force=True)
