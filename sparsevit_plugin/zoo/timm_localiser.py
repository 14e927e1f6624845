"""A plain localiser on any backbone of timm's, for rows that a table's designs must beat.

Not a published model. The backbone's maps go through SegFormer's decoder, or through SparseViT's
own head, so that encoder and head can be compared apart. `--model timm:NAME` is one
(`cards.timm_words`), and so is a card with `model: TimmLocaliser`, `arguments: {backbone: NAME}`.
"""

# The constructor below is read by IMDLBenCo's argument parser: annotations must be plain types, and
# this file must not postpone their evaluation.

import contextlib
import importlib
import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import timm
import torch.nn.functional as F
import yaml
from timm.models import group_parameters
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from sparsevit_plugin.cards.reading import parse_yaml
from sparsevit_plugin.cards.timm_words import check_backbone
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.model.blocks import channels_last, initialise
from sparsevit_plugin.model.choices import EXTRACTORS, check_choice
from sparsevit_plugin.model.head import MLP, FusionHead, MlpDecoder
from sparsevit_plugin.model.weights import LoadReport
from sparsevit_plugin.upstream import import_upstream
from sparsevit_plugin.zoo.extractors import build_extractor
from sparsevit_plugin.zoo.localiser import Localiser
from sparsevit_plugin.zoo.offline import replaced
from sparsevit_plugin.zoo.pretrained import load_pretrained

FINEST = 4
"""Levels whose maps are smaller than the image by less than this are not read."""

PLAIN_LEVELS = 4
"""So many evenly spaced blocks of a backbone of one resolution are read."""

LFF = "lff"
LFF_STRIDES = (16, 32)
"""The levels that SparseViT's head reads, as those of its own stages 3 and 4."""

# How timm's families are told to take any image size; the first that one accepts. Swin of timm
# before 1.0.31 accepts the second and does not heed it.
_ANY_SIZE: tuple[dict[str, bool], ...] = ({"strict_img_size": False}, {"dynamic_img_size": True})

# What this file asks timm for itself.
_OURS = frozenset({"features_only", "feature_cls", "out_indices", "in_chans", "img_size"})
_IMAGE_CHANNELS = 3


class TimmLocaliser(Localiser, nn.Module):
    """Any timm backbone with SegFormer's decoder or SparseViT's head.

    It takes images of any size: they are padded on the right and below to what the backbone can
    divide, and the map is cropped. Some backbones (BEiT, say) are built for one size.

    Of a hierarchical backbone the decoder reads every level from 1/4 on. A plain ViT has one
    resolution: four evenly spaced blocks stand for its levels, each behind its last norm.

    Args:
        backbone: A name of `timm.list_models()` that gives feature maps; a pretraining tag behind
            a dot says which weights are meant, and changes nothing else.
        pretrained_path: Weights of that backbone as timm or its authors publish them; None for
            random weights. Nothing is ever downloaded.
        width: Channels to which every level is projected.
        dropout: Share of the fused channels that the decoder drops while training.
        img_size: Side of the images. Only backbones that are built for one size heed it; None
            leaves them their own.
        head: "mlp": SegFormer's decoder. "lff": SparseViT's Learnable Feature Fusion, on the maps
            at 1/16 and 1/32, or on the four blocks of a plain ViT.
        lff_init: Start of the fusion scales of "lff"; the published one.
        extractor: Hand-crafted features of the toolkit's that the backbone sees beside the image:
            "sobel", "srm", "bayar", "fft", "dct", or "none".
        freeze: Whether the backbone stays as it is, its norms' statistics included. With an
            extractor its first convolution is trained all the same: it has new channels.
        dice_weight: Weight of a soft Dice loss, one term an image, beside the binary cross-entropy.
        backbone_arguments: Arguments of the backbone's own constructor, numbers or lists of them,
            as "{embed_dim: 32, depths: [2, 2, 4, 2]}"; None for the published ones.

    Raises:
        UserError: There is no such backbone, it gives no feature maps, or the weights cannot be
            used.
    """

    def __init__(
        self,
        backbone: str = "convnext_tiny",
        pretrained_path: str = None,  # type: ignore[assignment]  # noqa: RUF013
        *,
        width: int = 256,
        dropout: float = 0.1,
        img_size: int = None,  # type: ignore[assignment]  # noqa: RUF013
        head: str = MLP,
        lff_init: float = 1e-6,
        extractor: str = "none",
        freeze: bool = False,
        dice_weight: float = 0.0,
        backbone_arguments: str = None,  # type: ignore[assignment]  # noqa: RUF013
    ) -> None:
        super().__init__()
        check_backbone(backbone)
        check_choice("head", head, (MLP, LFF))
        check_choice("extractor", extractor, EXTRACTORS)
        self.backbone_name = backbone
        self.dice_weight = dice_weight
        self.input_head, more = build_extractor("" if extractor == "none" else extractor)
        request = _Request(
            backbone, pretrained_path, img_size, more, read_backbone_arguments(backbone_arguments)
        )
        built = request.build()
        self.backbone, self.fixed_size = built.network, built.fixed_size
        self.load_report = built.report
        info = built.network.feature_info
        self.divisor = 1 if self.fixed_size else math.lcm(*info.reduction())
        self.levels = _levels(backbone, head, info.reduction())
        self.channels = [info.channels()[level] for level in self.levels]
        self.strides = [info.reduction()[level] for level in self.levels]
        self.head = self._build_head(head, width, dropout, lff_init)
        self.frozen = freeze
        if freeze:
            self.backbone.requires_grad_(False)
            if more:
                _first_convolution(self.backbone, more, backbone).requires_grad_(True)
        self._layer_of = self._named_layers(built.layers)

    def _build_head(
        self, head: str, width: int, dropout: float, lff_init: float
    ) -> FusionHead | MlpDecoder:
        if head == MLP:
            return MlpDecoder(self.channels, width, dropout)
        finest = self.strides[0]
        channels = list(zip(self.strides, self.channels, strict=True))
        fusion = FusionHead(
            [count for stride, count in channels if stride == finest],
            [count for stride, count in channels if stride != finest],
            width,
            LFF,
            lff_init,
        )
        initialise(fusion)
        return fusion

    def _named_layers(self, layers: dict[int, int]) -> dict[str, int]:
        """Return the layer of the backbone's parameters by their names here."""
        return {
            f"backbone.{name}": layers[id(parameter)]
            for name, parameter in self.backbone.named_parameters()
            if id(parameter) in layers
        }

    def group_matcher(self, coarse: bool = False) -> Callable[[str], tuple[float, ...]] | None:
        """Say which layer a parameter is of, for layer-wise learning rates (timm's convention).

        Returns:
            The layers that timm knows of the backbone, the head and the extractor behind them as
            one more; None where timm knows no layers of this backbone.
        """
        if not self._layer_of:
            return None
        return lambda name: (float(self._layer_of.get(name, math.inf)),)

    def train(self, mode: bool = True) -> "TimmLocaliser":
        """Set training or evaluation mode; a frozen backbone stays in the latter."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def logits(self, image: Tensor) -> Tensor:
        """Return the map before the sigmoid."""
        height, width = image.shape[-2:]
        if self.fixed_size is not None and (height, width) != (self.fixed_size, self.fixed_size):
            raise UserError(
                f"{self.backbone_name} takes {self.fixed_size} x {self.fixed_size} images only, "
                f"not {height} x {width}: change --image-size (and --img-size, if given)"
            )
        below, right = (-side % self.divisor for side in (height, width))
        padded = F.pad(self.with_features(image), (0, right, 0, below))
        small = self._fuse(self._maps(padded))
        size = (height + below, width + right)
        large = F.interpolate(small.float(), size=size, mode="bilinear", align_corners=False)
        return large[..., :height, :width]

    def image_features(self) -> tuple[nn.Module, int, Callable[[Any], Tensor]]:
        """Return what a detector's learned head reads: the deepest level (`harness.detection`)."""
        return self.backbone, self.channels[-1], lambda found: self._read(found)[-1]

    def _maps(self, image: Tensor) -> list[Tensor]:
        """Return the levels that are read, B x C x h x w each."""
        return self._read(self.backbone(image))

    def _read(self, found: Sequence[Tensor]) -> list[Tensor]:
        """Pick the levels that are read out of what the backbone gives."""
        maps = [found[level] for level in self.levels]
        return [
            level if level.shape[1] == channels else level.permute(0, 3, 1, 2)
            for level, channels in zip(maps, self.channels, strict=True)
        ]

    def _fuse(self, maps: list[Tensor]) -> Tensor:
        if isinstance(self.head, MlpDecoder):
            result: Tensor = self.head(maps)
            return result
        fine = self.strides.count(self.strides[0])
        size = tuple(maps[0].shape[-2:])
        half = [-(-side // 2) for side in size]
        # Families that do not pad their convolutions have coarse maps of less than half.
        coarse = [_resized(level, half) for level in maps[fine:]]
        grids = [channels_last(level) for level in (*maps[:fine], *coarse)]
        fused: Tensor = self.head(grids[:fine], grids[fine:], size)
        return fused


def _resized(maps: Tensor, size: list[int]) -> Tensor:
    """Bring B x C x h x w maps to a size bilinearly, where they have another."""
    if list(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def read_backbone_arguments(text: str | None) -> dict[str, Any]:
    """Read arguments of a backbone's constructor: numbers, switches and lists of numbers.

    Nothing else is taken: the text may come from a checkpoint of a stranger's, and some of timm's
    arguments name files.

    Raises:
        UserError: It is something else.
    """
    form = 'a mapping to numbers or lists of them is needed, such as "{embed_dim: 32}"'
    if not text:
        return {}
    try:
        content = parse_yaml(text)[0]
    except yaml.YAMLError:
        raise UserError(f"backbone_arguments: {form}, not {text!r}") from None
    if not isinstance(content, dict):
        raise UserError(f"backbone_arguments: {form}, not {text!r}")
    for name, value in content.items():
        parts = value if isinstance(value, list) else [value]
        if not isinstance(name, str) or not all(isinstance(one, int | float) for one in parts):
            raise UserError(f"backbone_arguments: {name}: {form}, not {value!r}")
        if name in _OURS or "pretrained" in name:
            raise UserError(f"backbone_arguments: {name} is settled by other arguments")
    return {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}


def _levels(name: str, head: str, strides: list[int]) -> list[int]:
    """Return the numbers of the levels that a head reads.

    Raises:
        UserError: SparseViT's head finds no maps that it can read.
    """
    every = list(range(len(strides)))
    if len(set(strides)) == 1:
        return _evenly(len(strides))
    if head == MLP:
        first = next((level for level in every if strides[level] >= FINEST), 0)
        return every[first:]
    chosen = [level for level in every if strides[level] in LFF_STRIDES]
    if {strides[level] for level in chosen} != set(LFF_STRIDES):
        given = ", ".join(f"1/{stride}" for stride in dict.fromkeys(strides))
        raise UserError(
            f'head: lff reads maps at 1/16 and 1/32 of the image, and "{name}" gives {given}: '
            "take --head mlp"
        )
    return chosen


def _evenly(count: int) -> list[int]:
    """Return four of so many numbers from 0, evenly spaced, the last always."""
    wanted = min(PLAIN_LEVELS, count)
    return [round(step * count / wanted) - 1 for step in range(1, wanted + 1)]


@dataclass
class _Built:
    """A backbone that gives feature maps.

    Attributes:
        network: It.
        fixed_size: The only side of images that it takes; None where it takes any.
        report: What was loaded into it; None for random weights.
        layers: The layer of each parameter by its id; empty where timm knows none.
    """

    network: Any
    fixed_size: int | None = None
    report: LoadReport | None = None
    layers: dict[int, int] = field(default_factory=dict)


@dataclass
class _Request:
    """What is asked of timm, and what is seen of the whole network before timm takes it apart.

    Attributes:
        name: The backbone's.
        path: Its weights; None for random ones.
        img_size: For families that are built for one size.
        more: Channels behind the three of an image.
        arguments: Of its constructor.
    """

    name: str
    path: str | None
    img_size: int | None
    more: int
    arguments: dict[str, Any]
    _whole: nn.Module | None = None
    _norm: object = None
    _report: LoadReport | None = None
    _layers: dict[int, int] = field(default_factory=dict)

    def build(self) -> _Built:
        """Build the backbone.

        Raises:
            UserError: It gives no feature maps, or its weights do not fit.
        """
        # timm's iFormer looks for it, and numpy 1.26 does not load it by itself; 1.26.0 has none.
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module("numpy._core.multiarray")
        # timm calls this with the whole network and its own conversion of published files; its own
        # function would fetch the file, and take any that half fits.
        with replaced({"timm.models._builder.load_pretrained": self._look}):
            network, fixed_size = self._create()
        return _Built(self._evenly_spaced(network), fixed_size, self._report, self._layers)

    def _look(
        self,
        model: nn.Module,
        pretrained_cfg: dict[str, Any],
        filter_fn: Callable[..., dict[str, Tensor]] | None = None,
        **_: object,
    ) -> None:
        """Load the weights, and note what is lost when the network is taken apart."""
        widened = _first_convolution(model, self.more, self.name) if self.more else None
        if self.path:
            self._report = _load(model, self.path, pretrained_cfg, filter_fn, widened)
        self._whole, self._norm = model, getattr(model, "norm", None)
        matcher: Any = getattr(model, "group_matcher", None)
        if matcher is not None:
            layer_of = group_parameters(model, matcher(coarse=False), reverse=True)
            self._layers = {id(p): layer_of[name] for name, p in model.named_parameters()}

    def _create(self) -> tuple[Any, int | None]:
        """Try what a family may take until it takes one; the harness names an image size always."""
        size: tuple[dict[str, Any], ...] = ({"img_size": self.img_size},) if self.img_size else ()
        own = {"in_chans": _IMAGE_CHANNELS + self.more} if self.more else {}
        refused = ""
        for arguments in (*_ANY_SIZE, *size, {}):
            try:
                network = timm.create_model(
                    self.name,
                    pretrained=True,  # from the file or not at all, see `_look`
                    features_only=True,
                    **arguments,
                    **own,
                    **self.arguments,
                )
            except TypeError as error:  # this family takes no such argument
                refused = _first_line(error)
                continue
            except UserError:
                raise
            except Exception as error:  # families differ in what they raise
                raise self._without_maps(_first_line(error)) from error
            settings = network.pretrained_cfg
            if arguments in _ANY_SIZE or not settings.get("fixed_input_size"):
                return network, None
            return network, arguments.get("img_size", settings["input_size"][-1])
        raise self._without_maps(refused)

    def _without_maps(self, reason: str) -> UserError:
        return UserError(f'backbone: timm\'s "{self.name}" cannot give feature maps: {reason}')

    def _evenly_spaced(self, network: Any) -> Any:  # noqa: ANN401 -- timm has no types
        """Let a plain ViT give evenly spaced blocks, normalised, in the place of its last ones."""
        whole: Any = self._whole
        if not isinstance(network, FeatureGetterNet) or not hasattr(whole, "feature_info"):
            return network
        strides = [level["reduction"] for level in whole.feature_info]
        if len(strides) < PLAIN_LEVELS or len(set(strides)) > 1:
            return network
        normed = isinstance(self._norm, nn.Module)
        if normed:
            whole.norm = self._norm  # timm has taken it away
        spaced = FeatureGetterNet(
            whole, out_indices=_evenly(len(strides)), norm=normed, prune=False
        )
        spaced.pretrained_cfg = network.pretrained_cfg
        return spaced


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _first_convolution(model: nn.Module, more: int, name: str) -> nn.Conv2d:
    """Return the convolution that reads the image and the channels behind it.

    Raises:
        UserError: There is none.
    """
    channels = _IMAGE_CHANNELS + more
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == channels:
            return module
    raise UserError(f'extractor: timm\'s "{name}" has no convolution that could read more channels')


def _load(
    model: nn.Module,
    path: str,
    settings: dict[str, Any],
    convert: Callable[..., dict[str, Tensor]] | None,
    widened: nn.Conv2d | None,
) -> LoadReport:
    """Put a file into a network whose classifier is not used.

    Args:
        model: The whole network.
        path: The file.
        settings: timm's of it.
        convert: timm's conversion of published files.
        widened: The convolution that reads more channels than the file's; these stay as drawn.
    """
    named = settings.get("classifier") or ()
    heads = tuple(f"{head}." for head in ((named,) if isinstance(named, str) else named))
    first = {f"{name}.weight" for name, module in model.named_modules() if module is widened}

    def beside(name: str, own: Tensor, given: Tensor) -> Tensor:
        if name not in first or given.shape[1] != _IMAGE_CHANNELS:
            return given
        both = own.clone()
        both[:, :_IMAGE_CHANNELS] = given
        return both

    return load_pretrained(
        model,
        path,
        convert=None if convert is None else _of_two_arguments(convert),
        rename=lambda key: () if key.startswith(heads) else (key,),
        adapt=beside,
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
