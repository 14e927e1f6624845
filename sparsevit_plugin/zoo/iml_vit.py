"""IMDLBenCo's IML-ViT, with its weights file checked.

Ma et al., "IML-ViT: Benchmarking Image Manipulation Localization by Vision Transformer", 2023,
https://arxiv.org/abs/2307.14863
"""

from typing import Any

from torch import Tensor

from sparsevit_plugin.upstream import import_upstream
from sparsevit_plugin.zoo.adapter import check_side, settle, targets
from sparsevit_plugin.zoo.offline import offline
from sparsevit_plugin.zoo.pretrained import PretrainingReport, load_pretrained

import_upstream("IMDLBenCo.model_zoo")

from IMDLBenCo.model_zoo.iml_vit.iml_vit import (  # noqa: E402 - imported quietly above
    IML_ViT as UpstreamIML_ViT,
)


class IML_ViT(UpstreamIML_ViT):  # noqa: N801 -- upstream's name
    """Upstream's IML-ViT; the state dict's keys are upstream's.

    Args:
        input_size: Side of the photographs, a multiple of 32.
        patch_size: Upstream's encoder has patches of 16 whatever this says.
        embed_dim: Width of the encoder, a multiple of 12.
        vit_pretrain_path: MAE's ViT-Base; None for random weights.
        fpn_channels: Width of the feature pyramid.
        fpn_scale_factors: Scales of the feature pyramid; upstream takes 4, 2, 1 and 0.5.
        mlp_embeding_dim: Width of the head; upstream's head takes `fpn_channels` only.
        predict_head_norm: Normalisation in the head: BN, IN or LN.
        edge_lambda: Weight of the edge loss.

    Raises:
        UserError: The file is missing or does not fit.
    """

    def __init__(
        self,
        *,
        input_size: int = 1024,
        patch_size: int = 16,
        embed_dim: int = 768,
        vit_pretrain_path: str = None,  # type: ignore[assignment]  # noqa: RUF013
        fpn_channels: int = 256,
        fpn_scale_factors: list = (4.0, 2.0, 1.0, 0.5),  # type: ignore[assignment]
        mlp_embeding_dim: int = 256,
        predict_head_norm: str = "BN",
        edge_lambda: int = 20,
    ) -> None:
        with offline():
            super().__init__(
                input_size=input_size,
                patch_size=patch_size,
                embed_dim=embed_dim,
                vit_pretrain_path=None,
                fpn_channels=fpn_channels,
                fpn_scale_factors=fpn_scale_factors,
                mlp_embeding_dim=mlp_embeding_dim,
                predict_head_norm=predict_head_norm,
                edge_lambda=edge_lambda,
            )
        self.load_report = PretrainingReport()
        if vit_pretrain_path:
            report = load_pretrained(
                self.encoder_net, vit_pretrain_path, may_lack=r".*\.rel_pos_[hw]"
            )
            self.load_report.parts["vit_pretrain_path"] = report

    def forward(
        self,
        image: Tensor,
        mask: Tensor | None = None,
        edge_mask: Tensor | None = None,
        **_kwargs: object,
    ) -> dict[str, Any]:
        """Predict, and compute the loss.

        Args:
            image: Normalised, shape (B, 3, H, H) of the side that the model was built for.
            mask: Shape (B, 1, H, H).
            edge_mask: Shape (B, 1, H, H).
            **_kwargs: Ignored.

        Returns:
            See `settle`; there is no `pred_label`.

        Raises:
            UserError: The photograph has another size.
        """
        check_side(self, image, self.input_size, "input_size")
        given = targets(self, image, ("mask", "edge_mask"), mask=mask, edge_mask=edge_mask)
        return settle(super().forward(image, **given), mask)
