"""Ladders of perturbations and presets of social networks, from `benchmark_configs/robustness`."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Final

from pydantic import Field

from sparsevit_plugin.cards.reading import Strict, read_card

LADDER: Final = "ladder:"
"""Before a ladder's name, where perturbations are listed."""

_PACKAGE: Final = "sparsevit_plugin.benchmark_configs.robustness"


class Ladder(Strict):
    """A kind of perturbation at rising strengths.

    Attributes:
        perturbations: As `jpeg:90`, the mildest first; the photograph as it is is none of them.
        source: Where the strengths come from.
    """

    perturbations: list[str] = Field(min_length=1)
    source: str


class Network(Strict):
    """What happens to a photograph that is edited, saved and sent.

    Attributes:
        first_quality: JPEG quality that the edited photograph is saved with.
        longest_side: In pixels; a larger photograph is shrunk to it.
        quality: JPEG quality that it is saved with then.
        source: Where the values come from.
    """

    first_quality: int = Field(ge=1, le=100)
    longest_side: int = Field(gt=0)
    quality: int = Field(ge=1, le=100)
    source: str


class _Ladders(Strict):
    upstream: list[str] = Field(min_length=1)
    ladders: dict[str, Ladder] = Field(min_length=1)


class _Networks(Strict):
    networks: dict[str, Network] = Field(min_length=1)


def ladders() -> dict[str, Ladder]:
    """Return every ladder by its name."""
    return _ladders().ladders


def upstream_ladders() -> list[str]:
    """Return the names of the ladders of IMDLBenCo's robustness test."""
    return list(_ladders().upstream)


@cache
def networks() -> dict[str, Network]:
    """Return every preset of a social network by its name."""
    return read_card(_folder() / "networks.yaml", _Networks, "a list of networks").networks


@cache
def _ladders() -> _Ladders:
    return read_card(_folder() / "ladders.yaml", _Ladders, "a list of ladders")


def _folder() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"{_PACKAGE} is not installed")  # a broken installation
    return Path(spec.submodule_search_locations[0])
