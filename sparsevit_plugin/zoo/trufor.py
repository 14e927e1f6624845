"""IMDLBenCo's TruFor with its own default configuration and its departures from TruFor mended.

Guillaro et al., "TruFor: Leveraging All-Round Clues for Trustworthy Image Forgery Detection and
Localization", CVPR 2023, https://arxiv.org/abs/2212.10957. What is called official here is its
authors' training code, https://github.com/grip-unina/TruFor (folder TruFor_train_test).
"""

from collections.abc import Iterable
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.model.choices import check_choice
from sparsevit_plugin.model.weights import load_into
from sparsevit_plugin.upstream import import_upstream
from sparsevit_plugin.zoo.adapter import (
    probability_loss,
    settle,
    targets,
    without_normalisation,
)
from sparsevit_plugin.zoo.offline import offline
from sparsevit_plugin.zoo.pretrained import PretrainingReport, load_pretrained

import_upstream("IMDLBenCo.model_zoo")

from IMDLBenCo.model_zoo.trufor.cmx.builder_np_conf import (  # noqa: E402 - imported quietly above
    myEncoderDecoder,
)
from IMDLBenCo.model_zoo.trufor.config import _C as UPSTREAM_CONFIGURATION  # noqa: E402
from IMDLBenCo.model_zoo.trufor.trufor import Trufor as UpstreamTrufor  # noqa: E402

# Upstream's constructor merges files into its one configuration object; this copy stays as it was.
_DEFAULTS = UPSTREAM_CONFIGURATION.clone()

LOCALIZATION, DETECTION = 2, 3
"""What `phase` means; phase 1 is Noiseprint++'s own training."""

# What upstream's configs/trufor.yaml and the official configuration set for the network.
_NETWORK = {
    "MODEL.MODS": ("RGB", "NP++"),
    "MODEL.EXTRA.BACKBONE": "mit_b2",
    "MODEL.EXTRA.DECODER": "MLPDecoder",
    "MODEL.EXTRA.DECODER_EMBED_DIM": 512,
    "MODEL.EXTRA.PREPRC": "imagenet",
    "MODEL.EXTRA.BN_EPS": 0.001,
    "MODEL.EXTRA.BN_MOMENTUM": 0.1,
    "MODEL.EXTRA.DETECTION": "confpool",
    "MODEL.EXTRA.CONF": True,
    "DATASET.NUM_CLASSES": 2,
}


class Trufor(UpstreamTrufor):
    """Upstream's TruFor; the state dict's keys are upstream's.

    Args:
        phase: 2 trains the localization, 3 the confidence and the detector on top of it.
        np_pretrain_weights: Noiseprint++; None for random weights. It is frozen in both phases.
        mit_b2_pretrain_weights: SegFormer's MiT-B2; None for random weights.
        config_path: A YAML file of upstream's form; None for the published network.
        det_resume_ckpt: What phase 2 left, for phase 3; None for random weights.
        input_range: "unit" undoes the harness's normalisation first, because the network expects
            values from 0 to 1. "upstream" feeds it the normalised photograph, so that Noiseprint++
            sees another range than it was trained on and the encoder a twice normalised one.
        noiseprint: "frozen" keeps Noiseprint++ in evaluation mode, as the official code does.
            "upstream" freezes its parameters only; its BatchNorms go on with the training batches.
        pretrain_branches: "both" loads MiT-B2 into the photograph's and the noise's branch, as
            the official code does; "upstream" leaves the noise's branch random.
        pred_label: "batch" gives the image scores the shape (B,); "upstream" none at a batch of 1.
        detection: "official" trains the confidence and the detector in phase 3, with the parts
            below in evaluation mode, and compares the sigmoid of the confidence with the true
            class probability. "upstream" trains the detector only and compares the logit.

    Raises:
        UserError: A file is missing or does not fit, or there is no such choice.
    """

    def __init__(
        self,
        *,
        phase: int = 2,
        np_pretrain_weights: str = None,  # type: ignore[assignment]  # noqa: RUF013
        mit_b2_pretrain_weights: str = None,  # type: ignore[assignment]  # noqa: RUF013
        config_path: str = None,  # type: ignore[assignment]  # noqa: RUF013
        det_resume_ckpt: str = None,  # type: ignore[assignment]  # noqa: RUF013
        input_range: str = "unit",
        noiseprint: str = "frozen",
        pretrain_branches: str = "both",
        pred_label: str = "batch",
        detection: str = "official",
    ) -> None:
        if phase not in (LOCALIZATION, DETECTION):
            raise UserError(f"phase: expected 2 (localization) or 3 (detection), got {phase}")
        nn.Module.__init__(self)  # upstream's own cannot do without files
        self.phase = phase
        check_choice("input_range", input_range, ("unit", "upstream"))
        self.input_range = input_range
        check_choice("noiseprint", noiseprint, ("frozen", "upstream"))
        self.noiseprint = noiseprint
        check_choice("pred_label", pred_label, ("batch", "upstream"))
        self.pred_label = pred_label
        check_choice("detection", detection, ("official", "upstream"))
        self.detection = detection
        check_choice("pretrain_branches", pretrain_branches, ("both", "upstream"))
        with offline():
            self.model = myEncoderDecoder(cfg=_configuration(config_path))
        self.load_report = PretrainingReport()
        if np_pretrain_weights:
            report = load_pretrained(self.model.dncnn, np_pretrain_weights)
            self.load_report.parts["np_pretrain_weights"] = report
        if mit_b2_pretrain_weights:
            report = _load_encoder(self.model.backbone, mit_b2_pretrain_weights, pretrain_branches)
            self.load_report.parts["mit_b2_pretrain_weights"] = report
        if det_resume_ckpt:
            self.load_report.parts["det_resume_ckpt"] = load_into(self, det_resume_ckpt)
        self._freeze()

    def _freeze(self) -> None:
        if self.phase == LOCALIZATION:
            self.model.dncnn.requires_grad_(False)
            self.model.detection.requires_grad_(False)
            return
        self.model.requires_grad_(False)
        self.model.detection.requires_grad_(True)
        if self.detection == "official":
            self.model.decode_head_conf.requires_grad_(True)

    def train(self, mode: bool = True) -> "Trufor":
        """Set training or evaluation mode, of the parts that train."""
        super().train(mode)
        if self.noiseprint == "frozen":
            self.model.dncnn.eval()
        if self.phase == DETECTION and self.detection == "official":
            self.model.backbone.eval()
            self.model.decode_head.eval()
        return self

    def confidence_loss(self, conf: Tensor, mask: Tensor, pred_mask: Tensor) -> Tensor:
        """Return the squared distance of the confidence from the true class probability."""
        if self.detection == "official":
            conf = torch.sigmoid(conf)
        return super().confidence_loss(conf, mask, pred_mask)

    def detection_loss(self, pred_label: Tensor, label: Tensor) -> Tensor:
        """Return the cross-entropy of the image scores; upstream's own raises for any batch."""
        return probability_loss(pred_label.reshape(-1), label.reshape(-1))

    def forward(
        self,
        image: Tensor,
        mask: Tensor | None = None,
        label: Tensor | None = None,
        **_kwargs: object,
    ) -> dict[str, Any]:
        """Predict, and compute the phase's loss.

        Args:
            image: Normalised, shape (B, 3, H, W).
            mask: Shape (B, 1, H, W).
            label: Shape (B,).
            **_kwargs: Ignored.

        Returns:
            See `settle`; `pred_label` is the detector's probability.
        """
        given = targets(self, image, ("mask", "label"), mask=mask, label=label)
        if self.input_range == "unit":
            image = without_normalisation(image)
        output = super().forward(image, **given)
        if self.pred_label == "batch":
            output["pred_label"] = output["pred_label"].reshape(len(image))
        return settle(output, mask)


def _configuration(path: str | None) -> Any:  # noqa: ANN401 -- yacs has no types
    """Return the network's configuration: the published one, or upstream's defaults and a file.

    Raises:
        UserError: The file cannot be read or holds what the configuration does not know.
    """
    configuration = _DEFAULTS.clone()
    configuration.defrost()
    try:
        if path:
            configuration.merge_from_file(path)
        else:
            for name, value in _NETWORK.items():
                _set(configuration, name.split("."), value)
    except (OSError, KeyError, ValueError, AssertionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: no configuration of TruFor: {reason}") from error
    configuration.freeze()
    return configuration


def _set(node: Any, names: list[str], value: object) -> None:  # noqa: ANN401 -- yacs has no types
    for name in names[:-1]:
        node = node[name]
    node[names[-1]] = value


def _load_encoder(encoder: nn.Module, path: str, branches: str) -> Any:  # noqa: ANN401
    """Load MiT-B2 into the encoder's branches; the modules that fuse them have no pretraining."""

    def both(key: str) -> Iterable[str]:
        return key, f"extra_{key}"

    if branches == "both":
        return load_pretrained(encoder, path, rename=both, may_lack=r"FRMs\..*|FFMs\..*")
    return load_pretrained(encoder, path, may_lack=r"FRMs\..*|FFMs\..*|extra_.*")
