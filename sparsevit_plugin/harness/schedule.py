"""Optimiser and learning rate, as upstream sets them."""

import importlib
from types import SimpleNamespace

from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import Optimizer


def make_optimizer(model: nn.Module, *, name: str, lr: float, weight_decay: float) -> Optimizer:
    """Return timm's optimiser with upstream's settings.

    Betas are (0.9, 0.999); biases, norms and other one-dimensional parameters are not decayed.
    PyTorch's fused kernel updates all parameters in one pass, on CPUs too.
    """
    return create_optimizer_v2(
        model, opt=name, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.999), fused=True
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
