"""The hand-crafted feature extractors that IMDLBenCo puts in front of its backbones.

They are IMDLBenCo's own modules, so that the names and the values of their tensors are, with three
defects mended. None of the mends changes an answer that upstream gives beyond rounding, so there
is nothing to choose:

- its Sobel kernels are views in which three channels share their memory, so that a checkpoint
  cannot be loaded into a model on the CPU;
- its FFT and DCT features divide by the range of an image's values, which is NaN for an image of
  one colour; and the DCT matrices stay on the device of the first image;
- its Bayar convolution writes to its weights in every forward pass, in evaluation too, where no two
  passes are then equal to the last bit. The paper constrains them after an update in training.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import is_autocast_available

from sparsevit_plugin.upstream import import_upstream

_FOLDER = "IMDLBenCo.modules.extractors"
_frequency = import_upstream(f"{_FOLDER}.high_frequency_feature_extraction")
_sobel = import_upstream(f"{_FOLDER}.sobel")
_bayar = import_upstream(f"{_FOLDER}.bayar_conv")
_srm = import_upstream(f"{_FOLDER}.srm_filter")


class Sobel(_sobel.SobelFilter):  # type: ignore[name-defined]
    """Magnitude of the image's gradient over all channels: (B, 3, H, W) to (B, 1, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        for convolution in (self.conv_x, self.conv_y):
            convolution.weight = nn.Parameter(convolution.weight.contiguous(), requires_grad=False)


class Bayar(_bayar.BayerConv):  # type: ignore[name-defined]
    """Constrained convolution: (B, 3, H, W) to (B, 3, H, W).

    Every kernel's centre is -1 and its other weights sum to 1 (Bayar and Stamm, "A Deep Learning
    Approach to Universal Image Manipulation Detection Using a New Convolutional Layer", IH&MMSec
    2016). In training the stored weights are brought to that form, in evaluation a copy of them.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the residuals."""
        weight = self.BayarConv2D.weight
        with torch.no_grad():
            around = weight * self.bayar_mask
            # Not a division: the sum may be near zero, and upstream's rounding is kept to the bit.
            scale = around.sum(dim=(2, 3), keepdim=True).pow(-1)
            constrained = around * scale + self.bayar_final
        if not self.training:
            return F.conv2d(x, constrained, padding=self.BayarConv2D.padding)
        weight.data.copy_(constrained)
        return self.BayarConv2D(x)


class FFT(_frequency.FFTExtractor):  # type: ignore[name-defined]
    """High-pass by Fourier transform, scaled to [0, 1] per image: (B, 3, H, W) to the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the features; zeros for an image of one colour."""
        return _without_nan(super().forward, x)


class DCT(_frequency.DCTExtractor):  # type: ignore[name-defined]
    """High-pass by cosine transform, scaled to [0, 1] per image: (B, 3, H, W) to the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the features; zeros for an image that leaves nothing to scale."""
        for name in ("dct_matrix_h", "dct_matrix_w"):
            matrix = getattr(self, name)
            if matrix is not None and matrix.device != x.device:
                setattr(self, name, None)  # made anew
        return _without_nan(super().forward, x)


def _without_nan(extract: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Extract in single precision, and give zeros where an image's features have no range."""
    kind = image.device.type
    single = torch.autocast(kind, enabled=False) if is_autocast_available(kind) else nullcontext()
    with single:
        features = extract(image.float())
    constant = features.flatten(1).isnan().all(dim=1) & image.flatten(1).isfinite().all(dim=1)
    return features.masked_fill(constant.view(-1, 1, 1, 1), 0.0)


EXTRACTORS: dict[str, tuple[Callable[[], Any], int]] = {
    "sobel": (Sobel, 1),
    "srm": (_srm.SRMConv2D, 9),
    "bayar": (Bayar, 3),
    "fft": (FFT, 3),
    "dct": (DCT, 3),
}
"""Constructor and number of output channels of every extractor by IMDLBenCo's prefix."""


def build_extractor(name: str) -> tuple[nn.Module | None, int]:
    """Return an extractor and the number of its channels; None and 0 for an empty name."""
    if not name:
        return None, 0
    constructor, channels = EXTRACTORS[name]
    return constructor(), channels
