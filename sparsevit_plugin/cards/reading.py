"""Reading YAML cards: where they are, and mistakes named by file, line and field."""

import importlib.metadata
import importlib.util
import logging
import os
import re
from collections.abc import Hashable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from sparsevit_plugin.errors import UserError

REGISTRY_VARIABLE = "SPARSEVIT_REGISTRY"
"""Folders of cards beside those of installed distributions, separated as in PATH."""

_MOST_BYTES = 1 << 18
_MOST_NODES = 100_000
_HALF = re.compile(r"[\ud800-\udfff]")  # surrogates, which an escape can name
_LOG = logging.getLogger(__name__)
_Path = tuple[str | int, ...]


class Strict(BaseModel):
    """A part of a card: fields that it does not know are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


CardT = TypeVar("CardT", bound=Strict)


def find_cards(kind: str) -> dict[str, Path]:
    """Return the file of every card of a kind by its stem; the first that claims a name has it.

    Args:
        kind: `model`, `dataset`, `protocol` or `published`. The cards of a kind are in this
            package's folder `<kind>s` (protocols also in `ablations`), in the packages that the
            entry-point group `sparsevit_plugin.<kind>_cards` names, and in `<kind>s` below each
            folder of `SPARSEVIT_REGISTRY`.
    """
    return _find_cards(kind, os.environ.get(REGISTRY_VARIABLE, ""))


@cache
def _find_cards(kind: str, folders: str) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for folder in _card_folders(kind, folders):
        for file in sorted(folder.glob("*.yaml")):
            if file.stem in files:
                _LOG.warning("card %s is left out: %s comes first", file, files[file.stem])
            else:
                files[file.stem] = file
    return files


def forget_cards() -> None:
    """Look for cards anew at the next question; for tests that add some."""
    _find_cards.cache_clear()


_SHIPPED = {
    "model": ("sparsevit_plugin.registry.models",),
    "dataset": ("sparsevit_plugin.registry.datasets",),
    "published": ("sparsevit_plugin.registry.published",),
    "protocol": (
        "sparsevit_plugin.benchmark_configs.protocols",
        "sparsevit_plugin.benchmark_configs.ablations",
    ),
}


def _folder_name(kind: str) -> str:
    return kind if kind == "published" else f"{kind}s"


def _card_folders(kind: str, folders: str) -> Iterator[Path]:
    """Yield the folders of this package's cards and of those that others offer."""
    offered = importlib.metadata.entry_points(group=f"sparsevit_plugin.{kind}_cards")
    for package in [*_SHIPPED[kind], *(entry_point.value for entry_point in offered)]:
        try:
            spec = importlib.util.find_spec(package)
        except Exception as error:  # a package of somebody else's may raise anything
            _LOG.warning("the cards of %s are left out: %s", package, error)
            continue
        if spec is None or not spec.submodule_search_locations:
            _LOG.warning("the cards of %s are left out: there is no such package", package)
            continue
        yield from map(Path, spec.submodule_search_locations)
    for folder in filter(None, folders.split(os.pathsep)):
        if not Path(folder).is_dir():
            _LOG.warning("%s names %s, which is no folder", REGISTRY_VARIABLE, folder)
        yield Path(folder) / _folder_name(kind)


def read_card(file: Path, card_type: type[CardT], what: str) -> CardT:
    """Read and check one card; its `name` must be the file's.

    Args:
        file: The YAML file.
        card_type: What it must be.
        what: What a user calls it, as in "a model card".

    Raises:
        UserError: It is no YAML mapping or a field is wrong; names the file, the line and the
            field.
    """
    content, root = read_yaml(file, what)
    return check_card(file, content, root, card_type)


def check_card(
    file: Path, content: dict[str, Any], root: yaml.Node | None, card_type: type[CardT]
) -> CardT:
    """Check what a card's file holds.

    Raises:
        UserError: A field is wrong, or the name is not the file's.
    """
    try:
        card = card_type.model_validate(content)
    except ValidationError as error:
        raise UserError(_first_mistake(file, root, error)) from error
    name = getattr(card, "name", file.stem)
    if name != file.stem:
        line = _line(root, ("name",))
        raise UserError(f'{file}:{line}: name: "{name}" must be the file\'s, "{file.stem}"')
    return card


def read_yaml(file: Path, what: str) -> tuple[dict[str, Any], yaml.Node | None]:
    """Return the mapping that a YAML file holds, and its nodes, which know their lines.

    Raises:
        UserError: The file cannot be read, is not YAML, has a key twice, or is no mapping.
    """
    try:
        content, root = parse_yaml(read_yaml_text(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{file}:{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:  # a character that YAML does not allow has no line
        raise UserError(f"{file}:1: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}:1: {what} is a mapping of fields to values")
    return content, root


def read_yaml_text(file: Path) -> str:
    """Return a YAML file's text.

    Raises:
        UserError: It is far too large for a card.
        OSError: It cannot be read.
        UnicodeDecodeError: It is no UTF-8.
    """
    size = file.stat().st_size
    if size > _MOST_BYTES:
        raise UserError(f"{file}: has {size} bytes, and no YAML of ours has over {_MOST_BYTES}")
    return file.read_text(encoding="utf-8")


def parse_yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """Return what a YAML text holds, and its nodes, which know their lines; nothing in it is run.

    Raises:
        yaml.YAMLError: It is no YAML, has a key twice, a value that its tag does not fit, half of a
            character, is nested too deeply, or its aliases unfold into more than anybody's data.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_unusable(root)
        return yaml.load(text, UniqueKeyLoader), root  # noqa: S506 -- a SafeLoader
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None


def _refuse_unusable(root: yaml.Node | None) -> None:
    """Refuse what no text can hold, and aliases that unfold into far more than is written."""
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def size(node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            if _HALF.search(node.value):
                raise yaml.MarkedYAMLError(
                    problem="half of a character", problem_mark=node.start_mark
                )
            return 1
        key = id(node)
        if key in above:
            raise yaml.MarkedYAMLError(
                problem="an alias stands for what holds it", problem_mark=node.start_mark
            )
        if key not in sizes:
            above.add(key)
            parts = (
                n for pair in node.value for n in (pair if isinstance(pair, tuple) else [pair])
            )
            sizes[key] = 1 + sum(map(size, parts))
            above.remove(key)
        return sizes[key]

    if root is not None and size(root) > _MOST_NODES:
        raise yaml.YAMLError("its aliases unfold into more than any file of ours holds")


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that is given twice."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ANN401
        """Build a value; one that its tag does not fit is an error of the text like others."""
        try:
            return super().construct_object(node, deep)
        except (
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            AttributeError,
            OverflowError,
        ) as error:
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"this is no {kind} ({error})", node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping once its keys are known to differ."""
        if not isinstance(node, yaml.MappingNode):  # another node that calls itself one
            return super().construct_mapping(node, deep)
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is a list or a mapping", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'"{key}" is given twice', key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _first_mistake(file: Path, root: yaml.Node | None, error: ValidationError) -> str:
    """Describe the first mistake in one line, and count the others."""
    mistakes = error.errors()
    first = mistakes[0]
    path: _Path = tuple(first["loc"])
    field = ".".join(str(part) for part in path)
    more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    ours = first.get("ctx", {}).get("error")  # raised by a check of ours, in our words
    text = str(ours) if first["type"] == "value_error" else first["msg"].lower()
    where = f"{field}: " if field else ""  # a check of the whole card names no field
    return f"{file}:{_line(root, path)}: {where}{text}{more}"


def _line(node: yaml.Node | None, path: _Path) -> int:
    """Return the line (from 1) of the field at `path`, or of the last part of it that exists."""
    line = 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif (
            isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value)
        ):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
