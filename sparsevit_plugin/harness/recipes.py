"""Recipes: YAML files that set options, with the source of every number.

A recipe is named by a shipped name (`sparsevit-default`) or by the path of a YAML file. Its keys:

    name, title, notes   text
    sources              list of texts: where the numbers come from
    found_in             source to the names of the values that stand there; see cards.provenance
    unknown              list of texts: what a reader would want to know and no source says
    effective_batch      images in one optimiser step, for the reader; nothing is computed from it
    import               files or modules that register models, as --import takes them
    augmentation         a shipped augmentation list or a YAML file
    options              option names (see `benco train --help`) and their values
    model_arguments      arguments of the model's constructor and their values

The name `none` is the empty recipe: upstream's own defaults stay.
"""

import hashlib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml

from sparsevit_plugin.cards.provenance import problem
from sparsevit_plugin.cards.reading import parse_yaml, read_yaml_text
from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.harness import options
from sparsevit_plugin.harness.option_table import BY_NAME, Option

NO_RECIPE: Final = "none"
_PACKAGE: Final = "sparsevit_plugin.benchmark_configs.recipes"
_KEYS: Final = (
    "name",
    "title",
    "sources",
    "notes",
    "found_in",
    "unknown",
    "effective_batch",
    "import",
    "augmentation",
    "options",
    "model_arguments",
)


@dataclass(frozen=True)
class Recipe:
    """What a recipe file says.

    Attributes:
        name: Its name.
        title: One line for people.
        sources: Where its numbers come from.
        notes: Anything else a reader should know.
        found_in: Source to the names of the values that stand there.
        unknown: What no source says.
        effective_batch: Images in one optimiser step, as the recipe's author means it.
        imports: Files or modules that register models.
        options: Values by option name, of the options' types.
        model_arguments: Values by constructor argument, as YAML gave them.
        path: The file; None for the empty recipe.
        sha256: Hash of the file's bytes; empty for the empty recipe.
    """

    name: str = NO_RECIPE
    title: str = ""
    sources: tuple[str, ...] = ()
    notes: str = ""
    found_in: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    effective_batch: int | None = None
    imports: tuple[str, ...] = ()
    options: dict[str, object] = field(default_factory=dict)
    model_arguments: dict[str, object] = field(default_factory=dict)
    path: Path | None = None
    sha256: str = ""

    def values(self) -> dict[str, object]:
        """Return every value that it sets, by name."""
        batch = {} if self.effective_batch is None else {"effective_batch": self.effective_batch}
        return {**batch, **self.options, **self.model_arguments}

    def to_dict(self) -> dict[str, Any]:
        """Return what a manifest keeps of it."""
        return {
            "name": self.name,
            "title": self.title,
            "sources": list(self.sources),
            "effective_batch": self.effective_batch,
            "sha256": self.sha256,
        }


def shipped(package: str) -> dict[str, Path]:
    """Return the YAML files of one of the package's folders by their stems."""
    # Setuptools installs packages as plain files, so a resource is a path.
    folder = Path(str(resources.files(package)))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that ship with the plugin, `none` included."""
    return [*shipped(_PACKAGE), NO_RECIPE]


def load_recipe(name: str) -> Recipe:
    """Read a recipe.

    Args:
        name: A shipped name, `none`, or the path of a YAML file.

    Raises:
        UserError: No such recipe, or something in the file is wrong; names the file and the key.
    """
    if name == NO_RECIPE:
        return Recipe()
    path = find_file(name, shipped(_PACKAGE), "recipe", extra=(NO_RECIPE,))
    return _read(path)


def find_file(name: str, known: dict[str, Path], what: str, extra: tuple[str, ...] = ()) -> Path:
    """Return the YAML file for a shipped name or a path.

    Raises:
        UserError: Neither; suggests the closest name and lists all of them.
    """
    if name in known:
        return known[name]
    if Path(name).is_file():
        return Path(name)
    names = [*known, *extra]
    if Path(name).suffix in (".yaml", ".yml"):
        raise UserError(f"{what} {name}: no such file")
    raise UserError(
        f'unknown {what} "{name}".{suggest(name, names)} Give one of {", ".join(names)}, '
        "or the path of a YAML file"
    )


def _read(path: Path) -> Recipe:
    content = read_mapping(path)
    for key in content:
        if key not in _KEYS:
            raise UserError(f'{path}: unknown key "{key}".{suggest(str(key), _KEYS)}')
    values = _options(path, content)
    recipe = Recipe(
        name=_text(path, content, "name") or path.stem,
        title=_text(path, content, "title"),
        sources=_texts(path, content, "sources"),
        notes=_text(path, content, "notes"),
        found_in=_found_in(path, content),
        unknown=_texts(path, content, "unknown"),
        effective_batch=_effective_batch(path, content),
        imports=tuple(near(path, item, (".py",)) for item in _texts(path, content, "import")),
        options=values,
        model_arguments=_mapping(path, content, "model_arguments"),
        path=path,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    if wrong := problem(recipe.found_in, recipe.values()):
        raise UserError(f"{path}: {wrong}")
    return recipe


def _found_in(path: Path, content: dict[str, object]) -> dict[str, tuple[str, ...]]:
    found = _mapping(path, content, "found_in")
    return {source: _texts(path, found, source) for source in found}


def _options(path: Path, content: dict[str, object]) -> dict[str, object]:
    """Return a recipe's options, converted; the top-level augmentation is one of them."""
    written = _mapping(path, content, "options")
    values = {
        name: options.convert(_option(path, name), value, f"{path}: options.{name}")
        for name, value in written.items()
    }
    if "augmentation" in content:
        if "augmentation" in values:
            raise UserError(f"{path}: augmentation is given twice; keep the one at the top level")
        values["augmentation"] = _text(path, content, "augmentation")
    if "augmentation" in values:
        values["augmentation"] = near(path, str(values["augmentation"]), (".yaml", ".yml"))
    return values


def _option(path: Path, name: str) -> Option:
    allowed = [option.name for option in BY_NAME.values() if option.in_recipe]
    if name not in BY_NAME:
        raise UserError(f'{path}: unknown option "{name}" under options.{suggest(name, allowed)}')
    if name not in allowed:
        flag = "--" + BY_NAME[name].flag
        raise UserError(f"{path}: options.{name} cannot be set in a recipe; it is the flag {flag}")
    return BY_NAME[name]


def near(path: Path, name: str, suffixes: tuple[str, ...]) -> str:
    """Return a file named in a YAML file: against that file's folder, then the working folder."""
    beside = path.parent / name
    if name.endswith(suffixes) and beside.is_file():
        return str(beside)
    return name


def _text(path: Path, content: dict[str, object], key: str) -> str:
    value = content.get(key, "")
    if not isinstance(value, str):
        raise UserError(f"{path}: {key}: expected text, got {value!r}")
    return value


def _texts(path: Path, content: dict[str, object], key: str) -> tuple[str, ...]:
    value = content.get(key, [])
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{path}: {key}: expected a list of texts, got {value!r}")
    return tuple(value)


def _mapping(path: Path, content: dict[str, object], key: str) -> dict[str, object]:
    value = content.get(key, {})
    if value is None:  # a key with nothing under it
        return {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{path}: {key}: expected names and values, got {value!r}")
    return value


def _effective_batch(path: Path, content: dict[str, object]) -> int | None:
    value = content.get("effective_batch")
    return None if value is None else options.to_int(value, f"{path}: effective_batch")


def read_mapping(path: Path) -> dict[str, object]:
    """Read a YAML file that holds names and values, without running anything that it holds.

    Raises:
        UserError: Unreadable, not YAML (with the line), or something else than names and values.
    """
    try:
        content, _ = parse_yaml(read_yaml_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or f"not YAML: {' '.join(str(error).split())}"
        raise UserError(f"{path}:{line} {problem}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected names and values, got {type(content).__name__}")
    return content
