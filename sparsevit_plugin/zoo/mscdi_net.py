"""IMDLBenCo's MSCDI-Net, built without a weights file.

https://github.com/csust-sonie/MSCDI-Net
"""

import warnings
from typing import Any

from torch import Tensor

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.model.choices import check_choice
from sparsevit_plugin.upstream import import_upstream
from sparsevit_plugin.zoo.adapter import settle, targets
from sparsevit_plugin.zoo.offline import offline
from sparsevit_plugin.zoo.pretrained import PretrainingReport, load_pretrained

import_upstream("IMDLBenCo.model_zoo")

from IMDLBenCo.model_zoo.mscdi_net.MSCDI_Net import (  # noqa: E402 - imported quietly above
    MSCDI_Net as UpstreamMSCDI_Net,
)

_NO_FILE = "random weights"
_STRIDE = 32  # of the last stage
_WINDOWED_STRIDE = 8 * _STRIDE  # windows of 8 x 8 in the last stage
BACKBONES = ("mit_bit2", "mit_bit3", "mit_bit4", "mit_bit5")


class MSCDI_Net(UpstreamMSCDI_Net):  # noqa: N801 -- upstream's name
    """Upstream's MSCDI-Net; the state dict's keys are upstream's.

    Args:
        backbone: SegFormer's encoder: mit_bit2, mit_bit3, mit_bit4 or mit_bit5.
        backbone_weights_path: ImageNet weights of that MiT; None for random ones.
        noise_model: None, SRM or Bayar; upstream's noise branches take 512 x 512 photographs only.
        ff_domain: 0, the encoder's own features; the branches behind upstream's 1 and 2 are
            commented out there.
        fusion_mode: 0 concatenates (without a noise model only), 1 weights channels, 2 lets the
            features interact.
        glca: So many blocks of stages 3 and 4 also attend within windows, for which the sides of a
            photograph must be multiples of 256; with 0, of 32.

    Raises:
        UserError: The file is missing or does not fit, or there is no such choice.
    """

    def __init__(
        self,
        *,
        backbone: str = "mit_bit4",
        backbone_weights_path: str = None,  # type: ignore[assignment]  # noqa: RUF013
        noise_model: str = "None",
        ff_domain: int = 0,
        fusion_mode: int = 2,
        glca: int = 12,
    ) -> None:
        check_choice("backbone", backbone, BACKBONES)
        check_choice("noise_model", noise_model, ("None", "SRM", "Bayar"))
        check_choice("ff_domain", str(ff_domain), ("0",))
        check_choice("fusion_mode", str(fusion_mode), ("0", "1", "2"))
        if noise_model != "None" and fusion_mode == 0:
            raise UserError(
                "fusion_mode 0 takes no noise model: upstream's widths do not fit there"
            )
        with offline({_NO_FILE: {}}), _quiet():
            super().__init__(backbone, _NO_FILE, noise_model, ff_domain, fusion_mode, glca)
        self.multiple = _WINDOWED_STRIDE if glca else _STRIDE
        self.load_report = PretrainingReport()
        if backbone_weights_path:
            report = load_pretrained(
                self.segformer.segformer, backbone_weights_path, may_lack=r".*\.attn\.fusion\..*"
            )
            self.load_report.parts["backbone_weights_path"] = report

    def forward(
        self,
        image: Tensor,
        mask: Tensor | None = None,
        edge_mask: Tensor | None = None,
        **_kwargs: object,
    ) -> dict[str, Any]:
        """Predict, and compute the loss.

        Args:
            image: Normalised, shape (B, 3, H, W).
            mask: Shape (B, 1, H, W).
            edge_mask: Shape (B, 1, H, W).
            **_kwargs: Ignored.

        Returns:
            See `settle`; there is no `pred_label`.

        Raises:
            UserError: The photograph has sides that windows or strides do not divide.
        """
        if any(side % self.multiple for side in image.shape[-2:]):
            raise UserError(
                f"{type(self).__name__} takes sides that are multiples of {self.multiple}, not "
                f"{image.shape[-2]} x {image.shape[-1]}; with --glca 0 multiples of {_STRIDE}"
            )
        given = targets(self, image, ("mask", "edge_mask"), mask=mask, edge_mask=edge_mask)
        with _quiet():
            output = super().forward(image, label=None, **given)
        return settle(output, mask)


class _quiet(warnings.catch_warnings):  # noqa: N801 -- used like the function that it is
    """Silences what upstream's code does at every forward pass and its user cannot mend."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message="To copy construct from a tensor")
        warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release")
