"""Augmentation lists: YAML files that name transforms and their arguments.

    title: what the list is
    sources: [where it comes from]
    transforms:
      - HorizontalFlip: {p: 0.5}
      - IMDLBenCo.RandomCopyMove: {p: 0.1}
      - OneOf: {transforms: [{GaussianBlur: {}}, {ImageCompression: {}}], p: 0.3}

A plain name is one of albumentations' transforms, `IMDLBenCo.` stands before one of IMDLBenCo's,
and `register_transform` adds a lab's own. Nothing else is ever looked up, so a list runs no code of
its own. The name `none` is the empty list.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import albumentations
import IMDLBenCo.transforms

from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.harness.recipes import find_file, read_mapping, shipped

NO_AUGMENTATION: Final = "none"
_PACKAGE: Final = "sparsevit_plugin.benchmark_configs.augmentations"
_KEYS: Final = ("title", "sources", "transforms")
_OF_UPSTREAM: Final = "IMDLBenCo."
_REGISTERED: dict[str, type] = {}


def register_transform(transform: type) -> type:
    """Let augmentation lists name a transform of one's own; a decorator for its class.

    Raises:
        TypeError: It is no transform of albumentations'.
        ValueError: Another class has the name.
    """
    if not (isinstance(transform, type) and issubclass(transform, albumentations.BasicTransform)):
        raise TypeError(f"{transform!r} is not a class that extends albumentations.BasicTransform")
    name = transform.__name__
    if name in known_transforms() and _REGISTERED.get(name) is not transform:
        raise ValueError(f'a transform named "{name}" exists already')
    _REGISTERED[name] = transform
    return transform


def known_transforms() -> dict[str, type]:
    """Return every transform that a list may name."""
    plain = _transforms_of(albumentations)
    upstream = _transforms_of(IMDLBenCo.transforms)
    return {**plain, **{_OF_UPSTREAM + name: t for name, t in upstream.items()}, **_REGISTERED}


def _transforms_of(module: Any) -> dict[str, type]:  # noqa: ANN401 -- a module without types
    bases = (albumentations.BasicTransform, albumentations.BaseCompose)
    return {
        name: item
        for name, item in vars(module).items()
        if isinstance(item, type) and issubclass(item, bases) and item not in bases
    }


def build_transform(name: str) -> Any | None:  # noqa: ANN401 -- albumentations has no types
    """Return the transform that a list describes.

    Args:
        name: A shipped list (`benco`, `demo`), `none`, or the path of a YAML file.

    Returns:
        An `albumentations.Compose`; None for `none`.

    Raises:
        UserError: No such list, or an entry is wrong; names the file and the entry.
    """
    if name == NO_AUGMENTATION:
        return None
    path = _find(name)
    entries = _read(path)["transforms"]
    return albumentations.Compose(_build_all(entries, f"{path}: transforms"))


def transform_names(name: str) -> list[str]:
    """Return the names of a list's transforms in order, those inside a choice included.

    Args:
        name: As `build_transform` takes it.

    Raises:
        UserError: No such list, or an entry is wrong; names the file and the entry.
    """
    if name == NO_AUGMENTATION:
        return []
    build_transform(name)  # what is wrong with it is said there
    return list(_names(_read(_find(name))["transforms"]))


def _names(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        name, settings = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
        inner = (settings or {}).get("transforms")
        yield from _names(inner) if inner else [name]


def describe(name: str) -> dict[str, Any]:
    """Return what a manifest keeps of a list: its content, its hash, albumentations' version.

    Raises:
        UserError: No such list, or its file is not a list of transforms.
    """
    if name == NO_AUGMENTATION:
        return {"name": name, "transforms": []}
    path = _find(name)
    return {
        "name": path.stem,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "albumentations": albumentations.__version__,
        "transforms": _read(path)["transforms"],
    }


def _find(name: str) -> Path:
    return find_file(name, shipped(_PACKAGE), "augmentation", extra=(NO_AUGMENTATION,))


def _read(path: Path) -> dict[str, Any]:
    content = read_mapping(path)
    for key in content:
        if key not in _KEYS:
            raise UserError(f'{path}: unknown key "{key}".{suggest(str(key), _KEYS)}')
    if not isinstance(content.get("transforms"), list):
        raise UserError(f'{path}: it needs "transforms:", a list of transforms')
    return content


def _build_all(entries: object, where: str) -> list[object]:
    if not isinstance(entries, list):
        raise UserError(f"{where}: expected a list of transforms, got {entries!r}")
    return [_build(entry, f"{where}[{number}]") for number, entry in enumerate(entries)]


def _build(entry: object, where: str) -> object:
    """Build one entry: a name, or a name and its arguments."""
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise UserError(f"{where}: expected one transform and its arguments, got {entry!r}")
    (name, settings), *_ = entry.items()
    known = known_transforms()
    if name not in known:
        raise UserError(f'{where}: unknown transform "{name}".{suggest(str(name), known)}')
    if not isinstance(settings or {}, dict):
        raise UserError(f"{where} {name}: expected names and values, got {settings!r}")
    settings = dict(settings or {})
    if issubclass(known[name], albumentations.BaseCompose):
        settings["transforms"] = _build_all(settings.get("transforms"), f"{where} {name}")
    return _call(known[name], settings, f"{where} {name}")


def _call(transform: Callable[..., object], settings: dict[str, Any], where: str) -> object:
    # albumentations tells a range from a single bound by its being a tuple.
    settings = {k: tuple(v) if _is_range(k, v) else v for k, v in settings.items()}
    try:
        return transform(**settings)
    except Exception as error:  # another package's constructor may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{where}: {reason}") from error


def _is_range(name: str, value: object) -> bool:
    return isinstance(value, list) and name != "transforms"
