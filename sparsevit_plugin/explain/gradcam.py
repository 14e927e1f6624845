"""Grad-CAM of a map: which places of a layer raise the model's answer in a region.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017 (https://arxiv.org/abs/1610.02391), by the package `grad-cam`, which
IMDLBenCo brings. What is explained is the sum of the map's logits over a region: a probability near
0 or 1 has next to no gradient of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.explain.subject import Fed, Subject
from sparsevit_plugin.harness.evaluate import native_map
from sparsevit_plugin.model.backbone import SparseViTBackbone
from sparsevit_plugin.model.blocks import SparseBlock, channels_first

_EDGE: Final = 1e-6  # probabilities are kept so far from 0 and 1, where logits have no end
_MAPS: Final = 4  # axes of what a layer must give
_NAMED: Final = 8


@dataclass(frozen=True)
class Cam:
    """Grad-CAM of one layer.

    Attributes:
        layer: The module's name in the model.
        words: For figures.
        values: float32, H x W at the photograph's own size, 0 to 1: the largest of the layer is 1.
            All zero where nothing in the layer speaks for the answer.
    """

    layer: str
    words: str
    values: NDArray[np.float32]

    @property
    def is_empty(self) -> bool:
        """Whether nothing in the layer speaks for the answer."""
        return not self.values.any()


class _Logits(nn.Module):
    """A model as the library calls it: an image tensor in, logits of B x 1 x H x W out."""

    def __init__(
        self, model: nn.Module, inputs: dict[str, Any], has_run: Callable[[], None]
    ) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.has_run = has_run

    def forward(self, image: Tensor) -> Tensor:
        output = self.model(**{**self.inputs, "image": image})
        self.has_run()
        return torch.logit(output["pred_mask"].float(), eps=_EDGE)


def default_layers(subject: Subject) -> dict[str, str]:
    """Return the last block of each stage of SparseViT by its module's name, and in words.

    Raises:
        UserError: The model is no SparseViT: its layers must be named.
    """
    for name, module in subject.model.named_modules():
        if isinstance(module, SparseViTBackbone):
            prefix = f"{name}." if name else ""
            counts = {stage: len(getattr(module, f"blocks{stage}")) for stage in (1, 2, 3, 4)}
            return {
                f"{prefix}blocks{stage}.{count - 1}": f"stage {stage}, block {count}"
                for stage, count in counts.items()
            }
    raise UserError(
        f"{subject.config.model}: name the layers to look into with --layers, as "
        f"{', '.join(_some_layers(subject.model))}"
    )


def _some_layers(model: nn.Module) -> list[str]:
    """Return the names of the last few convolutions: places to begin."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return names[-_NAMED // 2 :] or [name for name, _ in model.named_children()][-_NAMED:]


def grad_cams(
    subject: Subject, fed: Fed, region: NDArray[np.bool_], layers: dict[str, str]
) -> list[Cam]:
    """Compute the Grad-CAM of each layer.

    Args:
        subject: The model.
        fed: The photograph.
        region: Bool, H x W at the photograph's own size: whose logits are summed.
        layers: Module names, with what figures call them.

    Raises:
        UserError: There is no such layer, or what it gives is no map.
    """
    modules = dict(subject.model.named_modules())
    for name in layers:
        if name not in modules or not name:
            raise UserError(
                f'--layers: {subject.config.model} has no layer "{name}".{suggest(name, modules)}'
            )
    target = _fed_region(fed, region)
    return [
        Cam(name, words, _cam(subject, fed, modules[name], name, target))
        for name, words in layers.items()
    ]


def _fed_region(fed: Fed, region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return a region of the photograph as one of the model's image."""
    import cv2

    rows, columns = fed.shape
    inside = cv2.resize(region.astype(np.float32), (columns, rows), interpolation=cv2.INTER_NEAREST)
    if not inside.any():  # shrinking lost it: take the nearest pixels
        inside = cv2.resize(
            region.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA
        )
    whole = np.zeros(fed.fed_size, np.float32)
    whole[:rows, :columns] = inside > 0
    return whole


def _cam(
    subject: Subject, fed: Fed, layer: nn.Module, name: str, target: NDArray[np.float32]
) -> NDArray[np.float32]:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget

    is_grid = isinstance(layer, SparseBlock)
    seen: list[Tensor] = []

    def has_run() -> None:
        if not (seen and seen[0].requires_grad):
            raise UserError(f"--layers {name}: the model's map does not depend on it")

    def as_maps(output: Tensor) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() != _MAPS:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UserError(
                f"--layers {name}: gives {shape}, but Grad-CAM needs maps of B x C x H x W"
            )
        seen.append(output)
        return channels_first(output) if is_grid else output

    wrapped = _Logits(subject.model, fed.inputs, has_run)
    with GradCAM(model=wrapped, target_layers=[layer], reshape_transform=as_maps) as library:
        values = library(fed.inputs["image"], targets=[SemanticSegmentationTarget(0, target)])
    subject.model.zero_grad(set_to_none=True)
    native = native_map(torch.from_numpy(values), fed.shape, fed.size)
    return native[0].numpy().clip(0, 1)


def layer_names(text: str) -> dict[str, str]:
    """Read a list of module names.

    Raises:
        UserError: It names none.
    """
    names: Sequence[str] = [word.strip() for word in text.split(",") if word.strip()]
    if not names:
        raise UserError("--layers: name at least one")
    return {name: name for name in names}
