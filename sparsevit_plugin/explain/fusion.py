"""Is each scale used? The gammas of the Learnable Feature Fusion, and what they let through.

The head sums its taps, each projected and then multiplied by its own gamma, one per channel. A
large gamma alone does not say that a tap matters: the projection before it may be small. What is
said of photographs is therefore the share that a tap has in the variance of the fused map, which is
F = sum of c_i over the taps i:

    share_i = sum over channels of cov(c_i, F) / sum over channels of var(F)

with covariance and variance over the tokens of one photograph. Shares sum to one; one is negative
where a tap works against the others, and undefined where F is the same everywhere.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsevit_plugin.explain.subject import Fed, Place, Subject, tap_places


@dataclass(frozen=True)
class Tap:
    """One input of the head.

    Attributes:
        place: The block that it comes from.
        gamma: float32, one value a channel of the fused map.
        shares: Share of the fused map's variance, one value a photograph.
    """

    place: Place
    gamma: NDArray[np.float32]
    shares: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @property
    def mean_magnitude(self) -> float:
        """The mean of |gamma| over channels."""
        return float(np.abs(self.gamma).astype(np.float64).mean())

    @property
    def known_shares(self) -> NDArray[np.float64]:
        """The shares that are defined."""
        return self.shares[~np.isnan(self.shares)]

    @property
    def mean_share(self) -> float:
        """The mean over photographs; NaN where none is defined."""
        known = self.known_shares
        return float(known.mean()) if known.size else math.nan

    @property
    def share_deviation(self) -> float:
        """The standard deviation over photographs; NaN below two."""
        known = self.known_shares
        return float(known.std(ddof=1)) if known.size > 1 else math.nan


def fusion_taps(subject: Subject, photographs: Iterable[Fed] = ()) -> list[Tap]:
    """Return the taps of a model's Learnable Feature Fusion.

    Args:
        subject: The model.
        photographs: What to compute shares on.

    Raises:
        UserError: The model has no Learnable Feature Fusion.
    """
    head = subject.head()
    places = tap_places(subject.backbone("fusion scales are shown"))
    shares = [variance_shares(contributions(subject, fed)) for fed in photographs]
    by_tap = np.array(shares, np.float64).reshape(len(shares), len(places)).T
    return [
        Tap(place, getattr(head, f"gamma{number}").detach().float().cpu().numpy(), of_tap)
        for number, (place, of_tap) in enumerate(zip(places, by_tap, strict=True), start=1)
    ]


def contributions(subject: Subject, fed: Fed) -> list[Tensor]:
    """Return what each tap adds to the fused map of a photograph, dim x rows x columns.

    Rows and columns that show padding alone are left out.
    """
    head = subject.head()
    found: list[Tensor] = []

    def look(
        _: torch.nn.Module, inputs: tuple[list[Tensor], list[Tensor], tuple[int, int]]
    ) -> None:
        found.extend(head.parts(*inputs))

    hook = head.register_forward_pre_hook(look)
    try:
        with torch.no_grad():
            subject.model(**fed.inputs)
    finally:
        hook.remove()
    rows, columns = (-(-side // 16) for side in fed.shape)
    return [part[0, :, :rows, :columns].cpu() for part in found]


def variance_shares(parts: list[Tensor]) -> list[float]:
    """Return the share of each part in the variance of their sum, as this module defines it.

    Args:
        parts: dim x rows x columns each.
    """
    centred = [part.double().flatten(1) for part in parts]
    centred = [part - part.mean(1, keepdim=True) for part in centred]
    fused = torch.stack(centred).sum(0)
    total = float((fused * fused).sum())
    if total == 0:
        return [math.nan] * len(parts)
    return [float((part * fused).sum()) / total for part in centred]
