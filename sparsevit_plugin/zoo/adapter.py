"""What all adapters around IMDLBenCo's models share: devices, targets, sizes and the output."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevit_plugin.errors import UserError

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""ImageNet's statistics, which IMDLBenCo's transforms normalise every photograph by."""


class FollowsDevice(nn.Module):
    """A model whose plain tensors and `device` attributes go where its parameters go.

    Several of IMDLBenCo's models keep tensors that are no buffers, or a device that was chosen when
    they were built; `.to(device)` reaches neither.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FollowsDevice":
        super()._apply(fn, recurse)
        device = next(self.parameters()).device
        for module in self.modules():
            for name, value in list(vars(module).items()):
                if isinstance(value, Tensor):
                    setattr(module, name, value.to(device))
                elif name == "device":
                    setattr(module, name, device)
        return self


@contextmanager
def restored(parameter: nn.Parameter) -> Iterator[None]:
    """Undo what a forward pass without gradients does to a parameter.

    IMDLBenCo's Bayar convolutions scale their weights in place at every pass, also in tests: the
    second pass would differ from the first by rounding, and testing would change the model.
    """
    if torch.is_grad_enabled():
        yield
        return
    before = parameter.data.clone()
    try:
        yield
    finally:
        parameter.data = before


def check_side(model: nn.Module, image: Tensor, side: int, argument: str) -> None:
    """Refuse an image that a model of fixed size was not built for.

    Raises:
        UserError: Its height or width is not `side`.
    """
    height, width = image.shape[-2:]
    if (height, width) != (side, side):
        raise UserError(
            f"{type(model).__name__} was built for {side} x {side} images ({argument}), not "
            f"{height} x {width}"
        )


def targets(
    model: nn.Module, image: Tensor, wanted: tuple[str, ...], **given: Tensor | None
) -> dict[str, Tensor]:
    """Return the ground truth that a forward pass of upstream's cannot do without.

    Without a mask, or where no gradient is asked for, zeros stand in for what is missing: they
    reach the loss only.

    Args:
        model: Named in the message.
        image: Shape (B, 3, H, W).
        wanted: Of `mask`, `edge_mask` (B, 1, H, W) and `label` (B,), those that the loss needs.
        **given: Those that the harness gave.

    Raises:
        UserError: One is missing while training.
    """
    missing = [name for name in wanted if given.get(name) is None]
    if missing and given.get("mask") is not None and torch.is_grad_enabled():
        hint = "; pass --edge-mask-width 7" if "edge_mask" in missing else ""
        raise UserError(f"{type(model).__name__} trains with {', '.join(missing)}{hint}")
    batch, _, height, width = image.shape
    shapes = {
        "mask": (batch, 1, height, width),
        "edge_mask": (batch, 1, height, width),
        "label": (batch,),
    }
    found: dict[str, Tensor] = {}
    for name in wanted:
        value = given.get(name)
        found[name] = image.new_zeros(shapes[name]) if value is None else value
    return found


def settle(output: dict[str, Any], mask: Tensor | None) -> dict[str, Any]:
    """Bring upstream's output to the harness's contract.

    Args:
        output: Upstream's dictionary.
        mask: The mask that the harness gave; without one there is no loss.

    Returns:
        `backward_loss` (None without a mask), `pred_mask` (B, 1, H, W) in single precision,
        `pred_label` (B,) or None, `visual_loss` and `visual_image`.
    """
    pred_mask = output["pred_mask"].float()
    visual = {**output["visual_image"], "pred_mask": pred_mask}
    return {
        "backward_loss": None if mask is None else output["backward_loss"],
        "pred_mask": pred_mask,
        "pred_label": output["pred_label"],
        "visual_loss": {} if mask is None else output["visual_loss"],
        "visual_image": visual,
    }


def probability_loss(probability: Tensor, target: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of probabilities, in single precision.

    Autocast refuses it, because half precision rounds probabilities near 0 and 1; it is off here.
    """
    with torch.autocast(probability.device.type, enabled=False):
        return F.binary_cross_entropy(probability.float(), target.float())


def without_normalisation(image: Tensor) -> Tensor:
    """Undo the harness's normalisation by ImageNet's statistics.

    Args:
        image: Normalised, shape (B, 3, H, W).

    Returns:
        Values from 0 to 1, up to rounding.
    """
    mean = image.new_tensor(IMAGE_MEAN).view(1, 3, 1, 1)
    std = image.new_tensor(IMAGE_STD).view(1, 3, 1, 1)
    return image * std + mean
