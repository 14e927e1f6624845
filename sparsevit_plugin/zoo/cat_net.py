"""CAT-Net on IMDLBenCo's network, fed with the photograph's own DCT coefficients.

Kwon et al., "Learning JPEG Compression Artifacts for Image Manipulation Detection and
Localization", IJCV 130 (2022), https://arxiv.org/abs/2108.12947. What is called official here is
its authors' code, https://github.com/mjkwon2021/CAT-Net.

Two streams: an HRNet on the pixels, and one on the luma's quantised DCT coefficients and
quantisation table. The network takes sides that are multiples of 8.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from yacs.config import CfgNode

from sparsevit_plugin.cards.reading import parse_yaml, read_yaml_text
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.model.choices import check_choice
from sparsevit_plugin.upstream import import_upstream
from sparsevit_plugin.zoo.adapter import settle, without_normalisation
from sparsevit_plugin.zoo.pretrained import PretrainingReport, load_pretrained

import_upstream()

from IMDLBenCo.model_zoo.cat_net import network_CAT  # noqa: E402

COEFFICIENTS = ("file", "upstream")
"""Where DCT coefficients come from, see `Cat_Net`."""

LARGEST = 20
"""Coefficients are told apart by their absolute value up to here; larger ones count as this."""

_IGNORED = -1
_CLASS_WEIGHTS = (0.5, 2.5)  # authentic, tampered: tools/train.py of the official code
_MIDDLE = 127.5  # pixels of 0..255 become (pixel - 127.5) / 127.5


def _stage(modules: int, channels: list[int], block: str = "BASIC") -> dict[str, Any]:
    return {
        "NUM_MODULES": modules,
        "NUM_BRANCHES": len(channels),
        "BLOCK": block,
        "NUM_BLOCKS": [4] * len(channels),
        "NUM_CHANNELS": channels,
        "FUSE_METHOD": "SUM",
    }


# experiments/CAT_full.yaml of the official code: HRNet-W48 for the pixels.
_PUBLISHED = {
    "DATASET": {"NUM_CLASSES": 2},
    "MODEL": {
        "EXTRA": {
            "FINAL_CONV_KERNEL": 1,
            "STAGE1": _stage(1, [64], "BOTTLENECK"),
            "STAGE2": _stage(1, [48, 96]),
            "STAGE3": _stage(4, [48, 96, 192]),
            "STAGE4": _stage(3, [48, 96, 192, 384]),
            "DC_STAGE3": _stage(3, [96, 192]),
            "DC_STAGE4": _stage(2, [96, 192, 384]),
            "STAGE5": _stage(1, [24, 48, 96, 192]),
        }
    },
}


class Cat_Net(nn.Module):  # noqa: N801 -- upstream's name
    """CAT-Net; the state dict's keys are those of IMDLBenCo's.

    Args:
        pretrained_rgb: HRNetV2-W48 trained on ImageNet, for the pixels' stream; None for random
            weights.
        pretrained_dct: The authors' weights of the DCT stream, trained to tell single from double
            JPEG compression; None for random weights.
        cfg_file: A YAML file of upstream's form; None for the published network. Of it the network
            is read, and not the paths of the pretraining files.
        coefficients: "file" takes the DCT coefficients and the quantisation table from the
            photograph's file (`--fit grid`), undoes the harness's normalisation before CAT-Net's
            own, and leaves padding out of the loss: all as the official code does. "upstream" is
            IMDLBenCo's way (`--fit resize`): coefficients of the normalised photograph, cast to 8
            bits and saved as JPEG of quality 75, and CAT-Net's normalisation on top of the
            harness's.

    Raises:
        UserError: A file is missing or does not fit, or there is no such choice.
    """

    def __init__(
        self,
        pretrained_rgb: str = None,  # type: ignore[assignment]  # noqa: RUF013
        pretrained_dct: str = None,  # type: ignore[assignment]  # noqa: RUF013
        cfg_file: str = None,  # type: ignore[assignment]  # noqa: RUF013
        coefficients: str = "file",
    ) -> None:
        super().__init__()
        check_choice("coefficients", coefficients, COEFFICIENTS)
        self.coefficients = coefficients
        self.model = network_CAT.CAT_Net(_settings(cfg_file))
        with _quiet(network_CAT.logger):  # warns of files that it is not to load
            self.model.init_weights("", "")
        self.loss = network_CAT.CrossEntropy(
            ignore_label=_IGNORED, weight=torch.tensor(_CLASS_WEIGHTS)
        )
        self.load_report = PretrainingReport()
        if pretrained_rgb:
            others = r"(dc_|transition4|stage5|last_layer).*"
            report = load_pretrained(self.model, pretrained_rgb, may_lack=others)
            self.load_report.parts["pretrained_rgb"] = report
        if pretrained_dct:
            report = load_pretrained(
                self.model, pretrained_dct, rename=_of_dct_stream, may_lack=r"(?!dc_).*"
            )
            self.load_report.parts["pretrained_dct"] = report

    def from_published(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Bring an official checkpoint's names to this model's; others stay as they are.

        The official code saves the network without the loss, whose class weights are constants.
        """
        if "dc_layer0_dil.0.weight" not in state:
            return state
        own = {f"model.{name}": value for name, value in state.items()}
        return {**own, "loss.criterion.weight": self.loss.criterion.weight}

    def forward(
        self,
        image: Tensor,
        mask: Tensor | None = None,
        DCT_coef: Tensor | None = None,
        qtables: Tensor | None = None,
        shape_mask: Tensor | None = None,
        **_kwargs: object,
    ) -> dict[str, Any]:
        """Predict, and compute the weighted cross-entropy.

        Args:
            image: Normalised, shape (B, 3, H, W); H and W are multiples of 8.
            mask: Shape (B, 1, H, W).
            DCT_coef: Quantised luma coefficients on the image's 8 x 8 grid, shape (B, H, W).
            qtables: Luma quantisation tables, shape (B, 8, 8).
            shape_mask: 1 where the image is no padding, shape (B, 1, H, W).
            **_kwargs: Ignored.

        Returns:
            See `settle`; CAT-Net gives no image score.
        """
        if DCT_coef is None or qtables is None:
            raise UserError(
                "Cat_Net needs each photograph's DCT_coef and qtables, which the post function of "
                "its card adds to every item"
            )
        features = torch.cat([self._pixels(image, shape_mask), one_hot(DCT_coef)], dim=1)
        logits = self.model(features, qtables.float()[:, None])
        # Upstream's choice of interpolation, which overshoots: probabilities end at 0 and 1.
        probability = F.interpolate(
            logits.float().softmax(dim=1)[:, 1:], size=image.shape[-2:], mode="bicubic"
        ).clamp(0, 1)
        loss = None if mask is None else self.loss(logits, self._target(mask, shape_mask))
        output = {
            "backward_loss": loss,
            "pred_mask": probability,
            "pred_label": None,
            "visual_loss": {"predict_loss": loss},
            "visual_image": {},
        }
        return settle(output, mask)

    def _pixels(self, image: Tensor, shape_mask: Tensor | None) -> Tensor:
        if self.coefficients == "upstream":
            return (image - _MIDDLE) / _MIDDLE
        pixels = (without_normalisation(image) * 255 - _MIDDLE) / _MIDDLE
        # The official code pads pixels with 127.5.
        return pixels if shape_mask is None else pixels * shape_mask.to(pixels.dtype)

    def _target(self, mask: Tensor, shape_mask: Tensor | None) -> Tensor:
        """Return classes, shape (B, H, W); padding, where it is left out of the loss, is -1."""
        target = mask[:, 0].long()
        if self.coefficients == "upstream" or shape_mask is None:
            return target
        return target.masked_fill(shape_mask[:, 0] == 0, _IGNORED)


def one_hot(coefficients: Tensor) -> Tensor:
    """Return the official code's DCT volume: which absolute value each coefficient has.

    Args:
        coefficients: Whole numbers, shape (B, H, W).

    Returns:
        Zeros and ones, shape (B, 21, H, W): channel i is 1 where the absolute value is i, the last
        one where it is at least 20.
    """
    values = torch.arange(LARGEST + 1, device=coefficients.device, dtype=coefficients.dtype)
    absolute = coefficients.abs().clamp(max=LARGEST)
    return (absolute[:, None] == values[None, :, None, None]).float()


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def _settings(path: str | None) -> CfgNode:
    """Return the network's settings: the published ones or a file's.

    Raises:
        UserError: The file cannot be read or says nothing of a network.
    """
    if not path:
        return CfgNode(_PUBLISHED)
    try:
        content, _ = parse_yaml(read_yaml_text(Path(path)))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    try:
        wanted = {"DATASET": content["DATASET"], "MODEL": {"EXTRA": content["MODEL"]["EXTRA"]}}
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: no settings of CAT-Net: it lacks {error}") from error
    return CfgNode(wanted)


def _of_dct_stream(name: str) -> Iterable[str]:
    return (name,) if name.startswith("dc_") else ()


def register() -> None:
    """Put this CAT-Net in the place of IMDLBenCo's."""
    from IMDLBenCo.registry import MODELS

    MODELS.register_module(name="Cat_Net", force=True, module=Cat_Net)
