"""Model cards: what a registered model needs to be trained and tested as its authors meant.

A card is a YAML file named after the model. This package's are in `registry/models`; another
distribution offers its own through the entry-point group `sparsevit_plugin.cards`, each entry point
naming a package that holds `*.yaml`.

    >>> load_model_card("SparseViT").image_size
    512
"""

import importlib.metadata
import importlib.util
import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sparsevit_plugin.errors import UserError

GROUP = "sparsevit_plugin.cards"
_SHIPPED = "sparsevit_plugin.registry.models"
_LOG = logging.getLogger(__name__)

_Path = tuple[str | int, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WeightFile(_Strict):
    """A file of pretrained weights that a constructor argument names.

    Attributes:
        argument: The constructor's argument that takes the file's path.
        name: The file's usual name.
        where: Who publishes it, with a link.
        sha256: The hash that every copy must have, None where that is unknown.
        notes: What a user must know before choosing it.
    """

    argument: str
    name: str
    where: str
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    notes: str = ""


class ModelCard(_Strict):
    """How a model is built, fed and trained.

    Attributes:
        name: The registered name, which is also the file's.
        title: One line for people.
        paper: Citation or link; empty where there is none.
        source: Where the code comes from.
        licence: Licence of that code.
        arguments: Constructor arguments that differ from the constructor's defaults.
        image_size: Side of the square input in pixels.
        fit: How an image comes to that size.
        edge_mask_width: Width in pixels of the edge mask the model trains with, None for none.
        uses_label: Whether the loss reads the image-level label.
        post_function: IMDLBenCo's post function that adds to each item, None for none.
        precision: Numerical precision that it was made for.
        eval_mode: Whether it is tested in evaluation mode.
        weights: Pretrained files it can start from.
        recipe: The training recipe used when none is named.
        notes: What else a reader of a table should know.
    """

    name: str
    title: str
    paper: str = ""
    source: str
    licence: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    image_size: int = Field(gt=0)
    fit: Literal["resize", "pad"] = "resize"
    edge_mask_width: int | None = Field(default=None, gt=0)
    uses_label: bool = False
    post_function: str | None = None
    precision: Literal["auto", "32", "16-mixed", "bf16-mixed"] = "auto"
    eval_mode: bool = True
    weights: list[WeightFile] = Field(default_factory=list)
    recipe: str | None = None
    notes: str = ""


def load_model_card(name: str) -> ModelCard | None:
    """Return the card of the model registered as `name`, None where there is none.

    Raises:
        UserError: When the card is wrong; names the file, the line and the field.
    """
    file = _card_files().get(name)
    return None if file is None else read_model_card(file)


def card_names() -> list[str]:
    """Return the names of all models that have a card."""
    return sorted(_card_files())


def read_model_card(file: Path) -> ModelCard:
    """Read and check one card.

    Raises:
        UserError: When it is no YAML mapping or a field is wrong; names the file, the line and the
            field.
    """
    text = file.read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{file}:{line}: not YAML: {error.problem}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}:1: a model card is a mapping of fields to values")
    try:
        card = ModelCard.model_validate(content)
    except ValidationError as error:
        raise UserError(_first_mistake(file, root, error)) from error
    if card.name != file.stem:
        line = _line(root, ("name",))
        raise UserError(f'{file}:{line}: name: "{card.name}" must be the file\'s, "{file.stem}"')
    return card


@cache
def _card_files() -> dict[str, Path]:
    """Return the file of every card by model name; where two claim a name, the first has it."""
    files: dict[str, Path] = {}
    for folder in _card_folders():
        for file in sorted(folder.glob("*.yaml")):
            if file.stem in files:
                _LOG.warning("card %s is left out: %s comes first", file, files[file.stem])
            else:
                files[file.stem] = file
    return files


def _card_folders() -> Iterator[Path]:
    """Yield the folders of this package's cards and of those that other distributions offer."""
    offered = importlib.metadata.entry_points(group=GROUP)
    for package in [_SHIPPED, *(entry_point.value for entry_point in offered)]:
        try:
            spec = importlib.util.find_spec(package)
        except Exception as error:
            _LOG.warning("the cards of %s are left out: %s", package, error)
            continue
        if spec is None or not spec.submodule_search_locations:
            _LOG.warning("the cards of %s are left out: there is no such package", package)
            continue
        yield from map(Path, spec.submodule_search_locations)


def _first_mistake(file: Path, root: yaml.Node | None, error: ValidationError) -> str:
    """Describe the first mistake in one line, and count the others."""
    mistakes = error.errors()
    first = mistakes[0]
    path: _Path = tuple(first["loc"])
    field = ".".join(str(part) for part in path)
    more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    return f"{file}:{_line(root, path)}: {field}: {first['msg'].lower()}{more}"


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
