"""Optimiser and learning rate, as upstream sets them."""

import importlib
from types import SimpleNamespace

from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import Optimizer

from sparsevit_plugin.errors import UserError


def make_optimizer(
    model: nn.Module,
    *,
    name: str,
    lr: float,
    weight_decay: float,
    layer_decay: float | None = None,
    fused: bool = True,
) -> Optimizer:
    """Return timm's optimiser with upstream's settings.

    Betas are (0.9, 0.999); biases, norms and other one-dimensional parameters are not decayed.

    Args:
        model: What is trained.
        name: The optimiser.
        lr: Learning rate.
        weight_decay: Weight decay.
        layer_decay: Factor between the learning rates of a layer and of the next; None for one rate
            everywhere. What a layer is the model's `group_matcher` says, as timm's models do.
        fused: Whether PyTorch's fused kernel updates all parameters in one pass, on CPUs too. It
            undoes fp16's scaling of the loss within, where no norm of the gradients can be taken.

    Raises:
        UserError: Layers are asked for and not known.
    """
    if layer_decay is not None:
        matcher = getattr(model, "group_matcher", None)
        if matcher is None or matcher() is None:
            raise UserError(
                f"--layer-decay: the layers of this {type(model).__name__} are not known; leave it "
                "out (one learning rate everywhere)"
            )
    return create_optimizer_v2(
        model,
        opt=name,
        lr=lr,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        betas=(0.9, 0.999),
        fused=fused,
    )


class WarmupCosine:
    """Upstream's schedule, set every step: linear warm-up from 0, then half a cosine to `min_lr`.

    Args:
        lr: Highest learning rate.
        min_lr: Lowest learning rate.
        warmup_epochs: Length of the warm-up, may be a fraction of an epoch.
        epochs: Length of the training.
    """

    def __init__(self, *, lr: float, min_lr: float, warmup_epochs: float, epochs: int) -> None:
        # Upstream's package lacks an __init__.py there, hence the import by name.
        module = importlib.import_module("IMDLBenCo.training_scripts.schedular.cos_lr_schedular")
        self._adjust = module.adjust_learning_rate
        self._settings = SimpleNamespace(
            lr=lr, min_lr=min_lr, warmup_epochs=warmup_epochs, epochs=epochs
        )

    def apply(self, optimizer: Optimizer, epoch: float) -> float:
        """Set the rate for the position `epoch` (a fraction counts), and return it."""
        return float(self._adjust(optimizer, epoch, self._settings))
