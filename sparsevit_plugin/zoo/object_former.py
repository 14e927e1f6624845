"""IMDLBenCo's ObjectFormer at any size, with its weights file checked.

Wang et al., "ObjectFormer for Image Manipulation Detection and Localization", CVPR 2022,
https://arxiv.org/abs/2203.14681
"""

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from sparsevit_plugin.upstream import import_upstream
from sparsevit_plugin.zoo.adapter import check_side, settle, targets
from sparsevit_plugin.zoo.offline import offline
from sparsevit_plugin.zoo.pretrained import PretrainingReport, load_pretrained

import_upstream("IMDLBenCo.model_zoo")

from IMDLBenCo.model_zoo.object_former.object_former import (  # noqa: E402 - imported quietly above
    ObjectFormer as UpstreamObjectFormer,
)

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


class ObjectFormer(UpstreamObjectFormer):
    """Upstream's ObjectFormer; the state dict's keys are upstream's.

    Args:
        patch_size: Side of a patch; upstream's decoder enlarges 16 times.
        input_size: Side of the photographs, a multiple of `patch_size`.
        num_prototypes: Object prototypes. Upstream's attention takes as many as there are patches
            of the photograph and of its high frequencies together, and None means that number.
        embedding_dim: Width; upstream's head takes 768.
        num_layers: Encoder-decoder pairs.
        init_weight_path: A ViT prepared for ObjectFormer (processed_model_weights.pth); None for
            random weights.

    Raises:
        UserError: The file is missing or does not fit.
    """

    def __init__(
        self,
        *,
        patch_size: int = 16,
        input_size: int = 224,
        num_prototypes: int = None,  # type: ignore[assignment]  # noqa: RUF013
        embedding_dim: int = 768,
        num_layers: int = 8,
        init_weight_path: str = None,  # type: ignore[assignment]  # noqa: RUF013
    ) -> None:
        tokens = 2 * (input_size // patch_size) ** 2
        with offline():
            super().__init__(
                patch_size, input_size, num_prototypes or tokens, embedding_dim, num_layers, None
            )
        self.load_report = PretrainingReport()
        if init_weight_path:
            report = load_pretrained(
                self,
                init_weight_path,
                rename=_names_of_vit,
                may_lack=r".*\.object_prototypes|localization\..*",
            )
            self.load_report.parts["init_weight_path"] = report

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
        check_side(self, image, self.input_size, "input_size")
        given = targets(self, image, ("mask",), mask=mask)
        output = super().forward(image, label=None, **given)
        output["visual_loss"] = {"predict_loss": output["backward_loss"]}
        return settle(output, mask)


def _names_of_vit(key: str) -> Iterable[str]:
    """Give a ViT's block to the encoder and the decoder, its patch embedding to both inputs."""
    block = _BLOCK.fullmatch(key)
    if block:
        pair, rest = block.groups()
        return [f"encoder_decoders.{pair}.{part}.{rest}" for part in ("encoder", "decoder")]
    if key.startswith("patch_embed.proj."):
        return [key.replace("patch_embed.proj", f"encoder_net_{part}.0") for part in "rq"]
    return ["pos_encoding"] if key == "pos_embed" else []
