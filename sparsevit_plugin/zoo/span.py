"""IMDLBenCo's SPAN with learned last layers and an attention that mixes a pixel's neighbours.

Hu et al., "SPAN: Spatial Pyramid Attention Network for Image Manipulation Localization", ECCV 2020,
https://arxiv.org/abs/2009.00726; its authors' code is https://github.com/ZhiHanZ/IRIS0-SPAN.
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit_plugin.model.choices import check_choice
from sparsevit_plugin.upstream import import_upstream
from sparsevit_plugin.zoo.adapter import FollowsDevice, restored, settle, targets
from sparsevit_plugin.zoo.offline import offline
from sparsevit_plugin.zoo.pretrained import PretrainingReport, load_pretrained

import_upstream("IMDLBenCo.model_zoo")

from IMDLBenCo.model_zoo.span.mantranet import IMTFE  # noqa: E402 - imported quietly above
from IMDLBenCo.model_zoo.span.PixelAttention import PixelAttention  # noqa: E402
from IMDLBenCo.model_zoo.span.SPAN import SPAN as UpstreamSPAN  # noqa: E402, N811

_CHANNELS = 32
_LAST_WIDTHS = (_CHANNELS, 16, 8, 4, 1)
_LOGIT_SCALE = 8  # SPAN's own code; not the square root of the width
_NO_FILE = "SPAN's own initialisation"


class NeighbourAttention(PixelAttention):
    """Attention of every pixel to itself and its eight neighbours `shift` pixels away.

    The weights are upstream's. Upstream stacks neighbours in front of the channels, reads the stack
    as if they stood behind the pixels (as in the authors' TensorFlow code, where they do), and so
    lets a pixel attend to scattered values of others.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return what the block makes of x, both (B, 32, H, W)."""
        queries = self.q_p(x)
        keys = self.k_p(x).chunk(self.kernel_range[0] * self.kernel_range[1], dim=1)
        values = self.v_p(x).chunk(len(keys), dim=1)
        # Outside the photograph keys and values are 0, so are the logits.
        logits = [
            (self._shifted(key, number) * queries).sum(1, keepdim=True) / _LOGIT_SCALE
            for number, key in enumerate(keys)
        ]
        weights = torch.softmax(torch.stack(logits), dim=0)
        attended = sum(
            weight * self._shifted(value, number)
            for number, (weight, value) in enumerate(zip(weights, values, strict=True))
        )
        mixed = x + attended
        return mixed + F.relu(self.ff3(F.relu(self.ff2(F.relu(self.ff1(mixed))))))

    def _shifted(self, features: Tensor, number: int) -> Tensor:
        """Bring each pixel's neighbour of that number to the pixel's own place."""
        height, width = features.shape[-2:]
        rows, columns = (side // 2 * self.shift for side in self.kernel_range)
        row, column = divmod(number, self.kernel_range[1])
        padded = F.pad(features, (columns, columns, rows, rows))
        top, left = row * self.shift, column * self.shift
        return padded[..., top : top + height, left : left + width]


class SPAN(FollowsDevice, UpstreamSPAN):
    """Upstream's SPAN. With `last_layer="upstream"` the state dict's keys are upstream's.

    Args:
        weight_path: ManTra-Net's feature extractor (IMTFEv4.pt); None for random weights.
        layers_steps: Distance to the neighbours in each attention block, in pixels.
        last_layer: "learned" ends in four convolutions that are parameters of the model. "upstream"
            draws four new random convolutions at every forward pass, in training and in tests.
        attention: "neighbours" as in SPAN's paper and its authors' code; "upstream" as in
            IMDLBenCo, where the pixels are scrambled (see `NeighbourAttention`).

    Raises:
        UserError: The file does not fit, or there is no such choice.
    """

    def __init__(
        self,
        *,
        weight_path: str = None,  # type: ignore[assignment]  # noqa: RUF013
        layers_steps: list = (1, 3, 9, 27, 81),  # type: ignore[assignment]
        last_layer: str = "learned",
        attention: str = "neighbours",
    ) -> None:
        with offline():
            initial = IMTFE(device="cpu").state_dict()
        with offline({_NO_FILE: initial}):
            super().__init__(_NO_FILE, list(layers_steps), device=torch.device("cpu"))
        check_choice("attention", attention, ("neighbours", "upstream"))
        if attention == "neighbours":
            blocks = [
                NeighbourAttention(in_channels=_CHANNELS, shift=step, use_bn=False, use_res=True)
                for step in layers_steps
            ]
            self.pixel_attention = nn.ModuleList(blocks)
        check_choice("last_layer", last_layer, ("learned", "upstream"))
        if last_layer == "learned":
            self.last_layer = _last_layer()
        self.load_report = PretrainingReport()
        if weight_path:
            extractor: Any = self.featex
            self.load_report.parts["weight_path"] = load_pretrained(extractor, weight_path)

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
        extractor: Any = self.featex
        with restored(extractor.BayarConv2D.weight):
            output = super().forward(image, **given)
        return settle(output, mask)


def _last_layer() -> nn.Sequential:
    """Return the layers that upstream draws anew each time: 5 x 5 convolutions with ReLUs."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(_LAST_WIDTHS):
        layers += [nn.Conv2d(before, after, kernel_size=5, padding=2), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
