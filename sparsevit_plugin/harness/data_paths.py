"""Data paths: what `--data-path` and `--test-data-path` may name.

Beside the folders and JSON files of `sources` a data path may be

    set:CASIAv1                     a registered set, below --data-root
    set:CASIAv1:tampered,Columbia   several; of the first its tampered images only
    protocol:mvss                   the training or the test sets of a protocol
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final, Literal, cast

from sparsevit_plugin.cards.datasets import Authentic
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.config import Config
from sparsevit_plugin.harness.registered_sets import DataRoots, read_registered
from sparsevit_plugin.harness.sources import (
    BalancedSet,
    ImageSet,
    Pair,
    Source,
    read_source,
    thin_out,
)
from sparsevit_plugin.protocol.schema import Protocol, SetUse, load_protocol

Side = Literal["train", "test"]

_CLASSES: Final[dict[str, Authentic]] = {"": "include", "tampered": "exclude", "authentic": "only"}


def read_data_path(cfg: Config, path: str, side: Side) -> dict[str, Source]:
    """Read what a data path names.

    Args:
        cfg: For the roots of registered sets, the pairing rule and `--limit-images`.
        path: Folder, JSON file, `set:...` or `protocol:NAME`.
        side: Which sets of a protocol are meant.

    Returns:
        The named sets in order.

    Raises:
        UserError: If it names nothing that can be read.
    """
    kind, colon, rest = path.partition(":")
    roots = DataRoots(cfg.data_root, cfg.data_paths)
    pair = cast(Pair, cfg.pair)
    if colon and kind == "protocol":
        protocol = load_protocol(rest)
        read = training_sets if side == "train" else tested_sets
        sets = read(protocol, roots, pair=pair)
    elif colon and kind == "set":  # without a colon it is a folder of that name
        sets = dict(_read_uses(set_uses(path), roots, pair))
    else:
        sets = read_source(path, pair=pair)
    if cfg.limit_images is None:
        return sets
    return {name: thin_out(source, cfg.limit_images) for name, source in sets.items()}


def set_uses(path: str) -> list[SetUse]:
    """Return the registered sets that a path of the form `set:...` names.

    Raises:
        UserError: It names none, or something else follows a set's name.
    """
    uses = [_set_use(word) for word in path.partition(":")[2].split(",") if word]
    if not uses:
        raise UserError(f"{path}: name the sets after the colon, as set:CASIAv1,Columbia")
    return uses


def _set_use(word: str) -> SetUse:
    name, _, kind = word.partition(":")
    if kind not in _CLASSES:
        raise UserError(f"set:{word}: after a set's name comes :tampered, :authentic or nothing")
    return SetUse(set=name, authentic=_CLASSES[kind])


def training_sets(
    protocol: Protocol, roots: DataRoots, *, pair: Pair = "name"
) -> dict[str, Source]:
    """Return what a protocol trains on: one balanced set where it draws, else each set by name.

    Raises:
        UserError: There is none, a set is missing or has no usable image.
    """
    if protocol.train is None:
        raise UserError(f"protocol {protocol.name} has no training sets")
    parts = dict(_read_uses(protocol.train.sets, roots, pair))
    if protocol.train.draw is None:
        return dict(parts)
    balanced = BalancedSet(
        name=protocol.name,
        path=next(iter(parts.values())).path,
        parts=tuple(parts.values()),
        sample_number=protocol.train.draw,
    )
    return {protocol.name: balanced}


def tested_sets(protocol: Protocol, roots: DataRoots, *, pair: Pair) -> dict[str, Source]:
    """Return what a protocol tests on, by name, in the order of its columns.

    Raises:
        UserError: A set is missing or has no usable image.
    """
    return dict(_read_uses(protocol.test.sets, roots, pair))


def _read_uses(
    uses: Iterable[SetUse], roots: DataRoots, pair: Pair
) -> Iterable[tuple[str, ImageSet]]:
    """Yield each set by a name that is unique among them."""
    seen: set[str] = set()
    for use in uses:
        source = read_registered(use.set, roots, authentic=use.authentic, pair=pair)
        name = use.set if use.set not in seen else f"{use.set} {use.authentic}"
        seen.add(name)
        yield name, replace(source, name=name)
