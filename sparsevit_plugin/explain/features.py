"""Feature maps of a photograph: what leaves each stage and tap, the fused map, the logits."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsevit_plugin.explain.subject import Fed, Subject, patch_side, tap_places
from sparsevit_plugin.model.blocks import channels_first
from sparsevit_plugin.model.head import FusionHead


@dataclass(frozen=True)
class FeatureMap:
    """The channels of one place of the network.

    Attributes:
        name: For files: "stage1", "stage3_block5", "fused", "logits".
        words: For figures.
        patch: Side, in pixels of the model's image, of a cell.
        values: float32, channels x rows x columns.
    """

    name: str
    words: str
    patch: int
    values: NDArray[np.float32]

    def energy(self) -> NDArray[np.float32]:
        """Return the root mean square over channels, rows x columns."""
        return np.sqrt(np.square(self.values, dtype=np.float32).mean(0))

    def by_variance(self, count: int) -> list[int]:
        """Return the channels (from 0) that vary most over the map, most first."""
        variance = self.values.reshape(len(self.values), -1).var(1, dtype=np.float64)
        return np.argsort(-variance, kind="stable")[:count].tolist()


def feature_maps(subject: Subject, fed: Fed) -> list[FeatureMap]:
    """Compute the maps of one photograph.

    Taps are taken as they leave their blocks, before the norm that the last of a stage gets. Cells
    that show padding alone are left out.

    Raises:
        UserError: The model is no SparseViT.
    """
    backbone = subject.backbone("feature maps by stage are shown")
    found: list[FeatureMap] = []
    hooks = []

    def watch(module: nn.Module, name: str, words: str, stage: int, *, first: bool) -> None:
        patch = patch_side(stage)

        def keep(maps: Tensor) -> None:
            rows, columns = (-(-side // patch) for side in fed.shape)
            values = maps[0, :, :rows, :columns].float().cpu().numpy()
            found.append(FeatureMap(name, words, patch, values))

        if first:
            hooks.append(
                module.register_forward_pre_hook(lambda _, given: keep(channels_first(given[0])))
            )
        elif stage in (1, 2) or isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(lambda _, __, out: keep(out)))
        else:
            hooks.append(module.register_forward_hook(lambda _, __, out: keep(channels_first(out))))

    for stage in (1, 2):
        blocks = getattr(backbone, f"blocks{stage}")
        words = f"stage {stage}, block {len(blocks)}"
        watch(blocks[-1], f"stage{stage}_block{len(blocks)}", words, stage, first=False)
    for place in tap_places(backbone):
        block = getattr(backbone, f"blocks{place.stage}")[place.block - 1]
        name = f"stage{place.stage}_block{place.block}"
        watch(block, name, place.words, place.stage, first=False)
    for module in subject.model.modules():
        if isinstance(module, FusionHead):
            stage = 4 if module.fusion == "last" else 3
            watch(module.norm, "fused", f"fused ({module.fusion})", stage, first=True)
            watch(module.conv_last, "logits", "logits", stage, first=False)
    try:
        with torch.no_grad():
            subject.model(**fed.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found
