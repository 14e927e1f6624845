"""A protocol of the sets that a data path names, for ready checkpoints: nothing is trained."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import write_text_atomic
from sparsevit_plugin.harness.data_paths import set_uses
from sparsevit_plugin.harness.sources import Pair, Source, each_once, read_source
from sparsevit_plugin.protocol.schema import protocol_names


@dataclass(frozen=True)
class Unnamed:
    """Where a protocol without a name of its own was written.

    Attributes:
        protocol: Its card.
        paths: The file that says where its sets are; None where that is known otherwise.
    """

    protocol: Path
    paths: Path | None


def write_unnamed(
    path: str, runs: Path, *, name: str = "", data_paths: str = "", pair: str = "name"
) -> Unnamed:
    """Write the card of a protocol that tests on the sets of a data path, below `runs/<name>`.

    Args:
        path: Folder, JSON file or `set:NAME`.
        runs: Where protocols' folders are.
        name: Of the protocol; made from the path where it is empty.
        data_paths: The user's file of paths, which `set:NAME` may need.
        pair: How masks are paired with images.

    Raises:
        UserError: The path names no sets, or sets that have no path of their own.
    """
    kind, colon, rest = path.partition(":")
    if colon and kind == "protocol":
        raise UserError(
            f"--test-data-path {path}: give the protocol itself, as benco robust {rest}"
        )
    name = name or f"robust-{_slug(rest if colon and kind == 'set' else Path(path).stem)}"
    if name != _slug(name):
        raise UserError(f"--name {name}: give letters, digits, dots and hyphens")
    if name in protocol_names():
        raise UserError(f"--name {name}: a protocol is called so, whose results are its own")
    card = unnamed_card(runs / name)
    paths: Path | None = Path(data_paths) if data_paths else None
    if colon and kind == "set":
        sets = [{"set": use.set, "authentic": use.authentic} for use in set_uses(path)]
    else:
        if data_paths:
            raise UserError("--data-paths says where registered sets are: --test-data-path says it")
        sources = read_source(path, pair=cast(Pair, pair))
        sets = [{"set": key, "authentic": _authentic(one)} for key, one in sources.items()]
        paths = card.with_name("paths.yaml")
        _write(paths, {key: str(_own_path(key, one, pair)) for key, one in sources.items()})
    title = f"The sets of {path}; ready checkpoints are tested"
    _write(card, {"name": name, "title": title, "test": {"sets": sets}})
    return Unnamed(card, paths)


def unnamed_card(folder: Path) -> Path:
    """Return where the card of such a protocol is, in the folder of its runs."""
    return folder / "protocol" / f"{folder.resolve().name}.yaml"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.") or "sets"


def _authentic(source: Source) -> str:
    """Return whether authentic images take part, so that the very images of the path are read."""
    return "include" if any(one.mask is None for one in each_once(source).samples) else "exclude"


def _own_path(name: str, source: Source, pair: str) -> Path:
    """Return the path of a set, which must name it alone."""
    path = source.path.resolve()
    if path.is_file() and len(read_source(path, pair=cast(Pair, pair))) != 1:
        raise UserError(
            f"{source.path}: {name} is written out beside other sets: give it a file of its own"
        )
    return path


def _write(path: Path, content: dict[str, Any]) -> None:
    write_text_atomic(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
