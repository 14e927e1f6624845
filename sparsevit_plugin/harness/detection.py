"""Detection, the image level: a score for each image beside its map, learnt from the image's label.

`--task detection` turns any registered model into one that scores images. Where the score comes
from is `--image-head`; z is the map's logit, p its probability, and only pixels of the photograph
count, not the border of padding:

========  =========================================================================================
own       the model's own `pred_label`
max       max z: the global max pooling of MVSS-Net (Chen et al., ICCV 2021, section 3.3)
topk      mean of the highest 1 % of z, one at least: top instances of a bag (Li and Vasconcelos,
          CVPR 2015, "Multiple instance learning for soft bags via top instances")
gem       logit of (mean p^3)^(1/3): generalised-mean pooling with the exponent that Radenovic,
          Tolias and Chum start from (TPAMI 2019, arXiv:1711.02512), of p because it needs numbers
          that are not negative
linear    a learned linear layer over four poolings of the map (max, topk, mean of z, gem), as
          TruFor pools its maps for its detector (Guillaro et al., CVPR 2023), and, of
          models that say where they are, over the averages of their deepest features
========  =========================================================================================

The score is the sigmoid of that logit. The loss is the model's own, times `--mask-loss-weight`, and
the binary cross-entropy of the score against the image's label, times `--image-loss-weight`. An
authentic image has a mask to learn too: nothing in it is tampered. A model whose own loss reads the
label (its card says so) trains with that loss alone where the score is its own.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit_plugin.cards import load_model_card
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.option_table import AUTO, DETECTION

if TYPE_CHECKING:
    from sparsevit_plugin.harness.config import Config

OWN, MAX, TOPK, GEM, LINEAR = "own", "max", "topk", "gem", "linear"

TOP_SHARE: Final = 0.01
GEM_EXPONENT: Final = 3.0
SMALLEST: Final = 1e-6
"""Probabilities are kept this far from 0 and 1 before they become logits (of 13.8 at most)."""

HEAD_PREFIX: Final = "image_head."
"""Of the learned head's tensors in a checkpoint; the others have their usual names."""

_NAMED_BY_MODEL: Final = "model"  # what rows call a score that is the model's own
_POOLED: Final = 4


@dataclass(frozen=True)
class Detection:
    """How images are scored and how the score is learnt.

    Attributes:
        head: One of `option_table.IMAGE_HEADS`, settled.
        image_weight: Of the cross-entropy of the image score.
        mask_weight: Of the model's own loss.
        learns_score: Whether that cross-entropy is added to the model's own loss.
        new_head: Whether a checkpoint may lack the learned head, which then starts afresh.
    """

    head: str
    image_weight: float = 1.0
    mask_weight: float = 1.0
    learns_score: bool = True
    new_head: bool = False


def detection_of(cfg: "Config") -> Detection | None:
    """Return what a configuration asks for; None for localization."""
    if cfg.task != DETECTION:
        return None
    card = load_model_card(cfg.model)
    own_loss = card is not None and card.uses_label
    head = cfg.image_head
    if head == AUTO:
        head = OWN if own_loss else MAX
    return Detection(
        head=head,
        image_weight=cfg.image_loss_weight,
        mask_weight=cfg.mask_loss_weight,
        learns_score=not (head == OWN and own_loss),
        new_head=cfg.verb == "train",
    )


def detection_facts(cfg: "Config") -> dict[str, Any]:
    """Return what makes a manifest one of detection; nothing for localization."""
    found = detection_of(cfg)
    return {} if found is None else {"task": DETECTION, "image_head": found.head}


def training_facts(cfg: "Config") -> dict[str, Any]:
    """Return what manifests say of how the score was learnt; nothing for localization."""
    found = detection_of(cfg)
    if found is None:
        return {}
    weights = {"image": found.image_weight if found.learns_score else None}
    weights |= {"mask": found.mask_weight}
    return {"trained_task": DETECTION, "detection_loss_weights": weights}


def pooling_name(cfg: "Config") -> str:
    """Return what rows call the origin of a score that the model answers with."""
    found = detection_of(cfg)
    return _NAMED_BY_MODEL if found is None or found.head == OWN else found.head


def as_detector(model: nn.Module, detection: Detection) -> nn.Module:
    """Make a model answer with image scores too; the model itself is changed and returned.

    Its class becomes a subclass of its own, as `torch.nn.utils.parametrize` does it, so that
    whatever else the model has stays where it is, the names of its tensors too.

    Args:
        model: Any model of IMDLBenCo's interface.
        detection: How.
    """
    kind: Any = type(model)
    model.__class__ = _detecting(kind)
    model.image_head_kind = detection.head  # type: ignore[assignment]
    model.image_loss_weight = detection.image_weight  # type: ignore[assignment]
    model.mask_loss_weight = detection.mask_weight  # type: ignore[assignment]
    model.learns_score = detection.learns_score  # type: ignore[assignment]
    model.takes_new_head = detection.new_head  # type: ignore[assignment]
    if detection.head == LINEAR:
        source = feature_source(model)
        model.image_head = LinearHead(source.channels if source else 0)
    return model


# --- poolings ------------------------------------------------------------------------------------


def logit_map(probability: Tensor) -> Tensor:
    """Return a map's logits (B, N) in single precision, from probabilities (B, 1, H, W)."""
    return torch.logit(probability.float().flatten(1), eps=SMALLEST)


def pool_max(logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return each map's largest logit, (B,).

    Args:
        logits: (B, N).
        valid: (B, N) booleans, true where the photograph is; None: everywhere. As in all poolings.
    """
    return _only(logits, valid).amax(1)


def pool_topk(logits: Tensor, valid: Tensor | None = None, share: float = TOP_SHARE) -> Tensor:
    """Return the mean of each map's highest `share` of logits, rounded up to a pixel, (B,)."""
    highest = max(1, -int(-logits.shape[1] * share // 1))
    values = _only(logits, valid).topk(highest, dim=1).values
    if valid is None:
        return values.mean(1)
    wanted = (valid.sum(1) * share).ceil().clamp(min=1)
    taken = torch.arange(highest, device=values.device) < wanted[:, None]
    return values.where(taken, 0.0).sum(1) / wanted


def pool_mean(logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return each map's mean logit, (B,)."""
    return _mean(logits, valid)


def pool_gem(logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the logit of the generalised mean of each map's probabilities, (B,)."""
    mean = _mean(torch.sigmoid(logits) ** GEM_EXPONENT, valid).clamp(min=SMALLEST**GEM_EXPONENT)
    return torch.logit(mean ** (1 / GEM_EXPONENT), eps=SMALLEST)


def _only(logits: Tensor, valid: Tensor | None) -> Tensor:
    return logits if valid is None else logits.masked_fill(~valid, -torch.inf)


def _mean(values: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return values.mean(1)
    return values.where(valid, 0.0).sum(1) / valid.sum(1)


POOLINGS: Final[dict[str, Callable[[Tensor, Tensor | None], Tensor]]] = {
    MAX: pool_max,
    TOPK: pool_topk,
    GEM: pool_gem,
}


class LinearHead(nn.Module):
    """A linear layer over poolings of the map, and over averages of features where there are some.

    It starts as the mean of the poolings; the features start without a say.

    Args:
        channels: Of the features; 0 for none.
    """

    def __init__(self, channels: int = 0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels) if channels else None
        self.layer = nn.Linear(_POOLED + channels, 1)
        with torch.no_grad():
            self.layer.weight.zero_()
            self.layer.weight[:, :_POOLED] = 1 / _POOLED
            self.layer.bias.zero_()

    def forward(self, logits: Tensor, valid: Tensor | None, features: Tensor | None) -> Tensor:
        """Return the score's logit, (B,).

        Args:
            logits: (B, N).
            valid: (B, N) or None.
            features: (B, C, h, w); None where there are none.
        """
        pools = (pool_max, pool_topk, pool_mean, pool_gem)
        read = [torch.stack([pool(logits, valid) for pool in pools], dim=1)]
        if self.norm is not None:
            if features is None:
                raise UserError(
                    "the image head's features were not computed: use --image-head topk"
                )
            average = features.float().mean((2, 3))
            norm = self.norm
            weight, bias = norm.weight.float(), norm.bias.float()
            read.append(F.layer_norm(average, norm.normalized_shape, weight, bias, norm.eps))
        layer = self.layer
        return F.linear(torch.cat(read, 1), layer.weight.float(), layer.bias.float())[:, 0]


# --- the model -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureSource:
    """Where a model's deepest features are.

    Attributes:
        module: Its output holds them.
        channels: How many maps they are.
        pick: From that output to (B, C, h, w).
    """

    module: nn.Module
    channels: int
    pick: Callable[[Any], Tensor]


def feature_source(model: nn.Module) -> FeatureSource | None:
    """Return where a model's features are, None where it does not say.

    A model says it by a method `image_features()`, which returns a module, C, and a function from
    that module's output to (B, C, h, w). SparseViT's are the last tap of stage 4.
    """
    from sparsevit_plugin.model.backbone import SparseViTBackbone

    said = getattr(model, "image_features", None)
    if callable(said):
        return FeatureSource(*said())
    encoder = getattr(model, "encoder_net", None)
    if isinstance(encoder, SparseViTBackbone):
        return FeatureSource(encoder, encoder.tap_widths()[1][-1], pick=_last_tap)
    return None


def _last_tap(taps: tuple[list[Tensor], list[Tensor]]) -> Tensor:
    """Return the last grid of stage 4, (B, h, w, C), as (B, C, h, w)."""
    return taps[1][-1].permute(0, 3, 1, 2)


@cache
def _detecting(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass of a model's class that scores images."""
    inner = inspect.signature(kind.forward)
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inner.parameters.values())

    def forward(self: Any, *args: Any, **inputs: Any) -> dict[str, Any]:  # noqa: ANN401
        passed = {n: v for n, v in inputs.items() if takes_all or n in inner.parameters}
        with _listening(self) as heard:
            output = kind.forward(self, *args, **passed)
        return _with_score(self, output, inputs, heard)

    # Graphs are captured, and batches cut down, by the names that `forward` takes.
    forward.__signature__ = _with_parameters(inner, ("label", "shape_mask"))  # type: ignore[attr-defined]
    members: dict[str, Any] = {"forward": forward, "__module__": kind.__module__}
    members["from_published"] = _reader(getattr(kind, "from_published", None))
    if inspect.isfunction(getattr(kind, "fuse", None)):
        members["fuse"] = _fuser(kind)
    return type(f"Detecting{kind.__name__}", (kind,), members)


def _with_parameters(signature: inspect.Signature, names: tuple[str, ...]) -> inspect.Signature:
    """Add keywords to a signature that does not have them."""
    found = list(signature.parameters.values())
    end = len(found) - any(p.kind is inspect.Parameter.VAR_KEYWORD for p in found)
    keyword = inspect.Parameter.KEYWORD_ONLY
    more = [
        inspect.Parameter(name, keyword, default=None)
        for name in names
        if name not in signature.parameters
    ]
    return signature.replace(parameters=[*found[:end], *more, *found[end:]])


@contextmanager
def _listening(model: Any) -> Iterator[list[Tensor]]:  # noqa: ANN401 - a model with a head
    """Keep the features that a learned head reads while the model runs."""
    heard: list[Tensor] = []
    head = model.image_head if model.image_head_kind == LINEAR else None
    source = feature_source(model) if head is not None and head.norm is not None else None
    if source is None:
        yield heard
        return
    hook = source.module.register_forward_hook(lambda _m, _i, out: heard.append(source.pick(out)))
    try:
        yield heard
    finally:
        hook.remove()


def _with_score(
    model: Any,  # noqa: ANN401 - a model with a head
    output: dict[str, Any],
    inputs: Mapping[str, Any],
    heard: list[Tensor],
) -> dict[str, Any]:
    """Put the image score and its loss into what a model answered."""
    with torch.autocast(output["pred_mask"].device.type, enabled=False):
        score, logit = _score(model, output, inputs.get("shape_mask"), heard)
        loss, losses = output.get("backward_loss"), dict(output.get("visual_loss") or {})
        label = inputs.get("label")
        if loss is not None and model.learns_score and label is not None:
            target = label.reshape(-1).to(logit.dtype)
            losses["image_loss"] = F.binary_cross_entropy_with_logits(logit, target)
            loss = model.mask_loss_weight * loss + model.image_loss_weight * losses["image_loss"]
    return {**output, "pred_label": score, "backward_loss": loss, "visual_loss": losses}


def _score(
    model: Any,  # noqa: ANN401
    output: Mapping[str, Any],
    shape_mask: Tensor | None,
    heard: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """Return the score (B,), a probability, and its logit."""
    probability = output["pred_mask"]
    if model.image_head_kind == OWN:
        label = output.get("pred_label")
        if label is None or label.numel() != len(probability):
            raise UserError(
                f"{type(model).__mro__[1].__name__} gives no image score of its own: choose "
                "--image-head max, topk, gem or linear"
            )
        score = label.float().reshape(-1)
        return score, torch.logit(score, eps=SMALLEST)
    logits = logit_map(probability)
    valid = None if shape_mask is None else shape_mask.flatten(1) > 0
    if model.image_head_kind == LINEAR:
        logit = model.image_head(logits, valid, heard[-1] if heard else None)
    else:
        logit = POOLINGS[model.image_head_kind](logits, valid)
    return torch.sigmoid(logit), logit


def _reader(inner: Callable[..., dict[str, Tensor]] | None) -> Callable[..., dict[str, Tensor]]:
    """Return the `from_published` of a class: weights without a learned head may start one."""

    def from_published(self: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:  # noqa: ANN401
        state = inner(self, state) if inner is not None else state
        own = {k: v for k, v in self.state_dict().items() if k.startswith(HEAD_PREFIX)}
        if not own or any(key.startswith(HEAD_PREFIX) for key in state):
            return state
        if not self.takes_new_head:
            raise UserError(
                "the checkpoint holds no learned image head: choose --image-head max, topk or gem, "
                "or train one with benco train --task detection --image-head linear"
            )
        return {**state, **own}

    return from_published


def _fuser(kind: Any) -> Callable[[Any], nn.Module]:  # noqa: ANN401 - a class with `fuse`
    def fuse(self: Any) -> nn.Module:  # noqa: ANN401
        head = self.image_head if self.image_head_kind == LINEAR else None
        if head is not None and head.norm is not None:
            plain: nn.Module = self  # a fused network has no features to listen to
            return plain
        detection = Detection(
            self.image_head_kind, self.image_loss_weight, self.mask_loss_weight, self.learns_score
        )
        fused = as_detector(kind.fuse(self), detection)
        if head is not None:
            fused.image_head = head
        return fused

    return fuse
