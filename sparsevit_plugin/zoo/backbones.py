"""IMDLBenCo's backbone baselines: six networks, alone and with five feature extractors.

Each is a classification network whose last map is brought to the image's size by transposed
convolutions, trained with the binary cross-entropy alone. Tensors carry the names and shapes of the
models that IMDLBenCo 0.1.45 registers, so that its checkpoints load; unlike those, none downloads
anything, and each takes more than one image size.

The 36 registered classes are made in a loop: a class attribute names the extractor.
"""

# Constructors below are read by IMDLBenCo's argument parser, which uses annotations as callables:
# they must be plain types, and this file must not postpone their evaluation. None as the default of
# a text is what both that parser and the plugin's read as "may be left out".

from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from timm.models import swin_transformer, vision_transformer
from torch import Tensor, nn

from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.model.choices import check_choice
from sparsevit_plugin.model.sparsevit import whole_numbers
from sparsevit_plugin.upstream import import_upstream
from sparsevit_plugin.zoo.extractors import EXTRACTORS, build_extractor
from sparsevit_plugin.zoo.localiser import (
    Localiser,
    freeze,
    load_backbone,
    upsampler,
    widened,
)
from sparsevit_plugin.zoo.offline import offline
from sparsevit_plugin.zoo.unet import UNetLocaliser

_segformer = import_upstream("IMDLBenCo.modules.backbones.segformer")

POSITIONS = ("grid", "sequence")
"""How pretrained position embeddings come to a larger image: see `VitLocaliser`."""

_TRAINED_GRID = 32  # patches a side of the 512 x 512 images that IMDLBenCo's ViTs are made for
_PATCH = 16
_VIT_WIDTHS = (256, 128, 64, 1)
_STAGES = 4
_NO_FILE = "no file"


def _of_four_stages(depths: tuple) -> tuple[int, ...]:
    """Check the numbers of blocks, which may have come through a command line."""
    numbers = whole_numbers("depths", depths)
    if len(numbers) != _STAGES:
        raise UserError(f"depths: expected {_STAGES} numbers of blocks, got {len(numbers)}")
    return numbers


class ResNetLocaliser(Localiser, nn.Module):
    """IMDLBenCo's `resnet`: ResNet-152 up to its third stage, and four transposed convolutions.

    Args:
        pretrained_path: Weights of timm's network of that name; None for random weights.
        backbone: A ResNet of timm's whose first layer is one convolution.

    Raises:
        UserError: There is no such backbone, or the weights cannot be used.
    """

    stride = 16

    def __init__(
        self,
        pretrained_path: str = None,  # type: ignore[assignment]  # noqa: RUF013
        backbone: str = "resnet152",
    ) -> None:
        super().__init__()
        known = [name for name in timm.list_models("resnet*") if name[6:].isdigit()]
        if backbone not in known:
            raise UserError(
                f'backbone: no ResNet "{backbone}".{suggest(backbone, known)} '
                f"Choose one of: {', '.join(known)}."
            )
        network = timm.create_model(backbone, pretrained=False)
        if pretrained_path:
            self.load_report = load_backbone(network, pretrained_path, head=r"fc\.")
        # Everything before the fourth stage: conv1, bn1, act1, maxpool, layer1, layer2, layer3.
        self.backbone = nn.Sequential(*list(network.children())[:7])
        deepest = network.feature_info[3]["num_chs"]
        self.deconv_model = upsampler([deepest, 256, 128, 64, 1], kernel=4, activated=False)
        self.input_head, channels = build_extractor(self.extractor)
        if channels:
            self.backbone[0] = widened(network.conv1, channels)

    def logits(self, image: Tensor) -> Tensor:
        """Return the map before the sigmoid."""
        result: Tensor = self.deconv_model(self.backbone(self.with_features(image)))
        return result


class SegformerLocaliser(Localiser, _segformer.MixVisionTransformer):  # type: ignore[name-defined]
    """IMDLBenCo's `segformer`: SegFormer's encoder MiT-B2, and five transposed convolutions.

    The encoder is IMDLBenCo's own class, built without its weights file.

    Args:
        pretrain_pth_path: MiT weights for the encoder (IMDLBenCo's name for it); None for random
            weights.
        depths: Blocks of the four stages; those of MiT-B2.

    Raises:
        UserError: The weights cannot be used.
    """

    stride = 32
    deconv_model: nn.Module

    def __init__(
        self,
        pretrain_pth_path: str = None,  # type: ignore[assignment]  # noqa: RUF013
        depths: tuple = (3, 4, 6, 3),
    ) -> None:
        with offline(files={_NO_FILE: {}}):
            _segformer.MixVisionTransformer.__init__(
                self, pretrain_path=_NO_FILE, depths=list(_of_four_stages(depths))
            )
        if pretrain_pth_path:
            self.load_report = load_backbone(self, pretrain_pth_path, head=r"head\.|deconv_model\.")
        head = self.deconv_model
        del self.deconv_model  # to stand behind the extractor, as in IMDLBenCo's checkpoints
        self.input_head, channels = build_extractor(self.extractor)
        if channels:
            self.patch_embed1.proj = widened(self.patch_embed1.proj, channels)
        self.deconv_model = head

    def logits(self, image: Tensor) -> Tensor:
        """Return the map before the sigmoid."""
        features = self.with_features(image)
        for stage in range(1, _STAGES + 1):
            tokens, height, width = getattr(self, f"patch_embed{stage}")(features)
            for block in getattr(self, f"block{stage}"):
                tokens = block(tokens, height, width)
            tokens = getattr(self, f"norm{stage}")(tokens)
            features = tokens.transpose(1, 2).unflatten(2, (height, width)).contiguous()
        result: Tensor = self.deconv_model(features)
        return result


class SwinLocaliser(Localiser, swin_transformer.SwinTransformer):
    """IMDLBenCo's `swin`: Swin-B with windows of 7, and five transposed convolutions.

    Args:
        pretrained_path: Weights of Swin-B, Microsoft's or timm's; None for random weights.
        depths: Blocks of the four stages; those of Swin-B.
        embed_dim: Channels of the first stage; each stage doubles them.

    Raises:
        UserError: The weights cannot be used.
    """

    stride = 32

    def __init__(
        self,
        pretrained_path: str = None,  # type: ignore[assignment]  # noqa: RUF013
        depths: tuple = (2, 2, 18, 2),
        embed_dim: int = 128,
    ) -> None:
        swin_transformer.SwinTransformer.__init__(
            self,
            img_size=512,
            window_size=7,
            embed_dim=embed_dim,
            depths=_of_four_stages(depths),
            num_heads=tuple(max(embed_dim // 32, 1) << stage for stage in range(_STAGES)),
            strict_img_size=False,  # other sizes: attention masks are made as they are needed
        )
        if pretrained_path:
            self.load_report = load_backbone(
                self,
                pretrained_path,
                head=r"head\.",
                convert=swin_transformer.checkpoint_filter_fn,
            )
        self.input_head, channels = build_extractor(self.extractor)
        if channels:
            self.patch_embed.proj = widened(self.patch_embed.proj, channels)
        self.deconv_model = upsampler([self.num_features, 256, 128, 64, 32, 1])
        freeze(self.head)

    def logits(self, image: Tensor) -> Tensor:
        """Return the map before the sigmoid."""
        features = self.forward_features(self.with_features(image))
        result: Tensor = self.deconv_model(features.permute(0, 3, 1, 2))
        return result


class _AnyVit(Localiser, vision_transformer.VisionTransformer):
    """What `vit` and `vit16` share: ViT-B/16, its position embeddings, the transposed convolutions.

    Position embeddings are stored for 512 x 512 images, 32 x 32 patches, and resampled for others.
    """

    stride = _PATCH
    pos_embed: nn.Parameter

    def _build(
        self, pretrained_path: str | None, depth: int, embed_dim: int, positions: str, sets: int
    ) -> None:
        """Build the network.

        Args:
            pretrained_path: Weights of ViT-B/16, of at least `depth` blocks.
            depth: Number of blocks that are used.
            embed_dim: Channels of a token.
            positions: One of `POSITIONS`.
            sets: Sets of patch tokens that go through the blocks together.
        """
        check_choice("positions", positions, POSITIONS)
        vision_transformer.VisionTransformer.__init__(
            self, depth=depth, embed_dim=embed_dim, num_heads=max(embed_dim // 64, 1)
        )
        self.patch_embed.strict_img_size = False
        if pretrained_path:
            self.load_report = load_backbone(
                self,
                pretrained_path,
                head=r"head\.",
                convert=vision_transformer.checkpoint_filter_fn,
            )
        self.pos_embed = nn.Parameter(_stretched(self.pos_embed.detach(), positions, sets))
        freeze(self.head)

    def _encode(self, sets: list[Tensor], grid: tuple[int, int]) -> list[Tensor]:
        """Send sets of patch tokens, each (B, N, C), through the blocks together."""
        batch = sets[0].shape[0]
        tokens = torch.cat([self.cls_token.expand(batch, -1, -1), *sets], dim=1)
        encoded = self.norm(self.blocks(tokens + self._positions(grid, len(sets))))
        return list(encoded[:, 1:].chunk(len(sets), dim=1))

    def _positions(self, grid: tuple[int, int], sets: int) -> Tensor:
        """Return the position embeddings of the class token and of every set for a grid."""
        if grid == (_TRAINED_GRID, _TRAINED_GRID):
            return self.pos_embed
        patches = self.pos_embed[:, 1:].chunk(sets, dim=1)
        resampled = [resample_abs_pos_embed(part, grid, num_prefix_tokens=0) for part in patches]
        return torch.cat([self.pos_embed[:, :1], *resampled], dim=1)

    def _map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Turn patch tokens (B, N, C) into logits (B, 1, H, W)."""
        result: Tensor = self.deconv_model(tokens.transpose(1, 2).unflatten(2, grid))
        return result


def _grid(image: Tensor) -> tuple[int, int]:
    """Return the patches of an image down and across."""
    return image.shape[-2] // _PATCH, image.shape[-1] // _PATCH


def _stretched(embedding: Tensor, positions: str, sets: int) -> Tensor:
    """Bring position embeddings (1, 1 + n * n, C) to `sets` grids of 512 x 512 images.

    Args:
        embedding: The class token's, then the patches' row by row.
        positions: "grid" resamples the n x n grid, the same for every set. "sequence" repeats
            entries of the row-by-row sequence, over all sets together, as IMDLBenCo does.
        sets: Number of grids.

    Returns:
        Shape (1, 1 + sets * 32 * 32, C).
    """
    first, patches = embedding[:, :1], embedding[:, 1:]
    if positions == "grid":
        size = [_TRAINED_GRID, _TRAINED_GRID]
        one = resample_abs_pos_embed(patches, size, num_prefix_tokens=0)
        return torch.cat([first, *[one] * sets], dim=1)
    length = sets * _TRAINED_GRID**2
    stretched = F.interpolate(patches.transpose(1, 2), size=length, mode="nearest").transpose(1, 2)
    return torch.cat([first, stretched], dim=1)


class VitLocaliser(_AnyVit):
    """IMDLBenCo's `vit`: eight blocks of ViT-B/16, and four transposed convolutions.

    An extractor's features become a second set of patch tokens; the two sets go through the blocks
    together and are added behind them.

    Args:
        pretrained_path: Weights of ViT-B/16; None for random weights.
        depth: Number of blocks that are used.
        embed_dim: Channels of a token.
        positions: "grid" resamples the pretrained grid of position embeddings. "sequence" repeats
            them along the row-by-row sequence as IMDLBenCo does, which gives patches the embeddings
            of other places (and, with an extractor, the image's patches those of the upper half).

    Raises:
        UserError: The weights cannot be used, or a choice has no such value.
    """

    def __init__(
        self,
        pretrained_path: str = None,  # type: ignore[assignment]  # noqa: RUF013
        depth: int = 8,
        embed_dim: int = 768,
        positions: str = "grid",
    ) -> None:
        self._build(pretrained_path, depth, embed_dim, positions, 2 if self.extractor else 1)
        self.input_head, channels = build_extractor(self.extractor)
        if channels:
            self.feature_patch_embed = nn.Conv2d(channels, embed_dim, _PATCH, _PATCH, bias=False)
        self.deconv_model = upsampler([embed_dim, *_VIT_WIDTHS])

    def logits(self, image: Tensor) -> Tensor:
        """Return the map before the sigmoid."""
        sets = [self.patch_embed(image)]
        if self.input_head is not None:
            features = self.feature_patch_embed(self.input_head(image))
            sets.append(features.flatten(2).transpose(1, 2))
        grid = _grid(image)
        return self._map(sum(self._encode(sets, grid)), grid)  # type: ignore[arg-type]


class Vit16Localiser(_AnyVit):
    """IMDLBenCo's `vit16`: all blocks of ViT-B/16, and four transposed convolutions.

    An extractor's channels stand behind the image's own at the patch embedding.

    Args:
        pretrained_path: Weights of ViT-B/16; None for random weights.
        depth: Number of blocks that are used.
        embed_dim: Channels of a token.
        positions: "grid" resamples the pretrained grid of position embeddings. "sequence" repeats
            them along the row-by-row sequence as IMDLBenCo does, which gives patches the embeddings
            of other places.

    Raises:
        UserError: The weights cannot be used, or a choice has no such value.
    """

    def __init__(
        self,
        pretrained_path: str = None,  # type: ignore[assignment]  # noqa: RUF013
        depth: int = 12,
        embed_dim: int = 768,
        positions: str = "grid",
    ) -> None:
        self._build(pretrained_path, depth, embed_dim, positions, 1)
        self.input_head, channels = build_extractor(self.extractor)
        if channels:
            self.patch_embed.proj = widened(self.patch_embed.proj, channels)
        self.deconv_model = upsampler([embed_dim, *_VIT_WIDTHS])

    def logits(self, image: Tensor) -> Tensor:
        """Return the map before the sigmoid."""
        grid = _grid(image)
        patches = self.patch_embed(self.with_features(image))
        return self._map(self._encode([patches], grid)[0], grid)


FAMILIES: dict[str, type[Any]] = {
    "resnet": ResNetLocaliser,
    "segformer": SegformerLocaliser,
    "swin": SwinLocaliser,
    "unet": UNetLocaliser,
    "vit": VitLocaliser,
    "vit16": Vit16Localiser,
}
"""The six baselines without an extractor, by IMDLBenCo's names."""


def variants() -> dict[str, type[Any]]:
    """Return the 36 models by the names that IMDLBenCo registers them under."""
    models: dict[str, type[Any]] = {}
    for family, base in FAMILIES.items():
        for extractor in ("", *EXTRACTORS):
            name = f"{extractor}_{family}" if extractor else family
            content: dict[str, Any] = {
                "extractor": extractor,
                "__module__": __name__,
                "__doc__": base.__doc__,
            }
            models[name] = type(name, (base,), content)
    return models


MODELS = variants()
"""The 36 registered classes by name."""


def register() -> None:
    """Put the baselines into IMDLBenCo's registry, in the place of its own. Safe to repeat."""
    registry = import_upstream("IMDLBenCo.registry").MODELS
    for name, model in MODELS.items():
        registry.register_module(name=name, module=model, force=True)
