"""A plain localiser on any backbone of timm's, for rows that a table's designs must beat.

Not a published model. The head is SegFormer's decoder (Xie et al., "SegFormer", NeurIPS 2021,
https://arxiv.org/abs/2105.15203, section 3.2): every level's map is projected to one width, brought
to the size of the finest, and all are fused by one layer. A card alone makes a row of it: `model:
TimmLocaliser` and `arguments: {backbone: NAME}`.
"""

# The constructor below is read by IMDLBenCo's argument parser: annotations must be plain types, and
# this file must not postpone their evaluation.

import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.model.weights import LoadReport
from sparsevit_plugin.upstream import import_upstream
from sparsevit_plugin.zoo.localiser import Localiser
from sparsevit_plugin.zoo.offline import replaced
from sparsevit_plugin.zoo.pretrained import load_pretrained

FINEST = 4
"""Levels whose maps are smaller than the image by less than this are not read."""

# How timm's families are told to take any image size; the first that one accepts.
_ANY_SIZE: tuple[dict[str, bool], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False})


class TimmLocaliser(Localiser, nn.Module):
    """Any timm backbone with SegFormer's head, trained with the binary cross-entropy.

    It takes images of any size: they are padded on the right and below to what the backbone can
    divide, and the map is cropped. Some backbones (BEiT, say) are built for one size.

    Args:
        backbone: A name of `timm.list_models()` that gives feature maps; a pretraining tag behind
            a dot is ignored.
        pretrained_path: Weights of that backbone as timm or its authors publish them; None for
            random weights. Nothing is ever downloaded.
        width: Channels to which every level is projected.
        dropout: Share of the fused channels that are dropped while training.
        img_size: Side of the images. Only backbones that are built for one size heed it; None
            leaves them their own.

    Raises:
        UserError: There is no such backbone, it gives no feature maps, or the weights cannot be
            used.
    """

    def __init__(
        self,
        backbone: str = "convnext_tiny",
        pretrained_path: str = None,  # type: ignore[assignment]  # noqa: RUF013
        width: int = 256,
        dropout: float = 0.1,
        img_size: int = None,  # type: ignore[assignment]  # noqa: RUF013
    ) -> None:
        super().__init__()
        check_backbone(backbone)
        self.backbone_name = backbone
        self.backbone, self.fixed_size, self.load_report = _build(
            backbone, pretrained_path, img_size
        )
        levels = zip(
            self.backbone.feature_info.reduction(),
            self.backbone.feature_info.channels(),
            strict=True,
        )
        reductions, channels = zip(*levels, strict=True)
        self.divisor = 1 if self.fixed_size else math.lcm(*reductions)
        first = next((i for i, step in enumerate(reductions) if step >= FINEST), 0)
        self.first_level = first
        self.channels = channels[first:]
        self.projections = nn.ModuleList(nn.Conv2d(before, width, 1) for before in self.channels)
        self.fuse = nn.Sequential(
            nn.Conv2d(width * len(self.channels), width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
        )
        self.classifier = nn.Conv2d(width, 1, 1)

    def logits(self, image: Tensor) -> Tensor:
        """Return the map before the sigmoid."""
        height, width = image.shape[-2:]
        if self.fixed_size is not None and (height, width) != (self.fixed_size, self.fixed_size):
            raise UserError(
                f"{self.backbone_name} takes {self.fixed_size} x {self.fixed_size} images only, "
                f"not {height} x {width}: change --image-size (and --img-size, if given)"
            )
        below, right = (-side % self.divisor for side in (height, width))
        maps = self.backbone(F.pad(image, (0, right, 0, below)))[self.first_level :]
        maps = [
            level if level.shape[1] == channels else level.permute(0, 3, 1, 2)
            for level, channels in zip(maps, self.channels, strict=True)
        ]
        projected = [
            _resized(layer(level), maps[0].shape[-2:])
            for layer, level in zip(self.projections, maps, strict=True)
        ]
        small = self.classifier(self.fuse(torch.cat(projected, dim=1)))
        large = _resized(small.float(), (height + below, width + right))
        return large[..., :height, :width]


def check_backbone(name: str) -> None:
    """Refuse what timm has no model for.

    Raises:
        UserError: Names the closest one.
    """
    if not timm.is_model(name):
        known = timm.list_models()
        raise UserError(
            f'backbone: timm {timm.__version__} has no "{name}".{suggest(name, known)} '
            f'Its {len(known)} names: python -c "import timm; print(*timm.list_models())"'
        )


def _resized(features: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


def _build(
    name: str, path: str | None, img_size: int | None
) -> tuple[Any, int | None, LoadReport | None]:
    """Build a backbone that gives feature maps.

    Returns:
        The backbone, the only side of images that it takes (None where it takes any), and what was
        loaded into it.
    """
    reports: list[LoadReport] = []

    def load(
        model: nn.Module,
        pretrained_cfg: dict[str, Any],
        filter_fn: Callable[..., dict[str, Tensor]] | None = None,
        **_: object,
    ) -> None:
        reports.append(_load(model, str(path), pretrained_cfg, filter_fn))

    # timm calls this with the whole network and its own conversion of published files, before it
    # takes the network apart; its own function would fetch the file, and take any that half fits.
    with replaced({"timm.models._builder.load_pretrained": load}):
        network, fixed_size = _create(name, bool(path), img_size)
    return network, fixed_size, reports[0] if reports else None


def _create(name: str, pretrained: bool, img_size: int | None) -> tuple[Any, int | None]:
    """Try what a family may take until it takes one; the harness names an image size always."""
    size: tuple[dict[str, Any], ...] = ({"img_size": img_size},) if img_size else ()
    for arguments in (*_ANY_SIZE, *size, {}):
        try:
            network = timm.create_model(
                name, pretrained=pretrained, features_only=True, **arguments
            )
        except TypeError:  # this family takes no such argument
            continue
        except (RuntimeError, AssertionError, AttributeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f'backbone: "{name}" cannot give feature maps: {reason}') from error
        settings = network.pretrained_cfg
        if arguments in _ANY_SIZE or not settings.get("fixed_input_size"):
            return network, None
        return network, arguments.get("img_size", settings["input_size"][-1])
    raise UserError(f'backbone: "{name}" cannot give feature maps')


def _load(
    model: nn.Module,
    path: str,
    settings: dict[str, Any],
    convert: Callable[..., dict[str, Tensor]] | None,
) -> LoadReport:
    """Put a file into a network whose classifier is not used."""
    named = settings.get("classifier") or ()
    heads = tuple(f"{head}." for head in ((named,) if isinstance(named, str) else named))
    return load_pretrained(
        model,
        path,
        convert=None if convert is None else _of_two_arguments(convert),
        rename=lambda key: () if key.startswith(heads) else (key,),
        may_lack="|".join(f"{re.escape(head)}.*" for head in heads),
    )


def _of_two_arguments(convert: Callable[..., dict[str, Tensor]]) -> Callable[..., Any]:
    """Let a conversion that asks for the state dict alone be called with the model too."""
    if len(inspect.signature(convert).parameters) > 1:
        return convert
    return lambda state, _: convert(state)


def register() -> None:
    """Put the localiser into IMDLBenCo's registry."""
    registry = import_upstream("IMDLBenCo.registry").MODELS
    registry.register_module(module=TimmLocaliser, force=True)
