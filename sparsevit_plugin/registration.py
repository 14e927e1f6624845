"""Models: who offers them, and how they get into IMDLBenCo's registry.

A distribution offers models through the entry-point group `sparsevit_plugin.models`; each entry
point names a callable without arguments that registers what it has in `IMDLBenCo.registry.MODELS`.
SparseViT comes through the same door.
A model that is not installed comes through `--import FILE.py` or `--import package.module`.

    >>> from sparsevit_plugin.registration import get_model_class
    >>> get_model_class("SparseViT").__name__
    'SparseViT'
"""

import importlib
import importlib.metadata
import importlib.util
import logging
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.upstream import import_upstream, unusable
from sparsevit_plugin.versions import installed_version

if TYPE_CHECKING:
    from sparsevit_plugin.cards import ModelCard

GROUP = "sparsevit_plugin.models"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registered:
    """A model in IMDLBenCo's registry.

    Attributes:
        name: The name that `--model` takes.
        source: Who offers it: a distribution and its version, or the imported file.
        constructor: The class or function that builds it.
    """

    name: str
    source: str
    constructor: Callable[..., Any]


@dataclass
class _State:
    """What this process has registered so far."""

    started: bool = False
    sources: dict[str, str] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)  # of top-level packages
    broken: dict[str, str] = field(default_factory=dict)
    imported: dict[str, str] = field(default_factory=dict)


_STATE = _State()


def register_all() -> dict[str, Registered]:
    """Register the models of IMDLBenCo, of this package and of every installed plugin.

    Plugins are loaded once in a process. One that fails is named in one warning and in
    `broken_plugins`; what the others offer is still there.

    Returns:
        Every registered model by name, those that were registered by other means included.
    """
    models = _models()
    if not _STATE.started:
        _STATE.started = True
        for entry_point in importlib.metadata.entry_points(group=GROUP):
            _register_plugin(entry_point)
    return {
        name: Registered(name, _source(name, constructor), constructor)
        for name, constructor in models.items()
    }


def broken_plugins() -> dict[str, str]:
    """Return the plugins that could not be loaded: entry-point name (distribution) to reason."""
    return dict(_STATE.broken)


def import_user(paths: list[str]) -> None:
    """Run the registrations of the user's own code.

    Args:
        paths: Python files or dotted module names, as given to `--import`. A file becomes the
            module named by its stem and its folder goes on `sys.path`, as for a script. Each is
            run once in a process.

    Raises:
        UserError: When one is missing or fails.
    """
    register_all()
    for path in paths:
        key = str(Path(path).resolve()) if _is_file_name(path) else path
        if key in _STATE.imported:
            continue
        before = dict(_models())
        if _is_file_name(path):
            _import_file(Path(path))
        else:
            _import_module(path)
        _STATE.imported[key] = path
        _note_additions(before, path)


def get_model_class(name: str) -> Callable[..., Any]:
    """Return the constructor that is registered as `name`.

    Raises:
        UserError: When there is none; names the closest one, and a `mymodel.py` in the working
            folder.
    """
    registered = register_all()
    if name in registered:
        return registered[name].constructor
    hint = suggest(name, registered)
    own = Path("mymodel.py")
    if own.is_file() and str(own.resolve()) not in _STATE.imported:
        hint += " If it is in the mymodel.py of this folder, pass --import mymodel.py."
    raise UserError(
        f'unknown model "{name}".{hint} "benco models" lists the {len(registered)} known.'
    )


def resolve_model(name: str) -> "tuple[ModelCard | None, Registered]":
    """Return what a model's name means, wherever one is written.

    Args:
        name: A card's, a registered model's, or `timm:NAME` for a backbone of timm's.

    Returns:
        The card, where there is one, and the registered model that it builds.

    Raises:
        UserError: There is no such model; names the closest.
    """
    from sparsevit_plugin.cards import load_model_card

    card = load_model_card(name)
    registered = card.model if card else name
    get_model_class(registered)
    return card, register_all()[registered]


def _models() -> dict[str, Callable[..., Any]]:
    """Return IMDLBenCo's own dictionary of models, imported on the first call."""
    import_upstream()
    registry = import_upstream("IMDLBenCo.registry")
    try:
        models: dict[str, Callable[..., Any]] = registry.MODELS.module_dict
    except AttributeError as error:
        raise unusable("the registry of IMDLBenCo cannot be read", error) from error
    return models


def _register_plugin(entry_point: importlib.metadata.EntryPoint) -> None:
    distribution = entry_point.dist
    owner = f"{distribution.name} {distribution.version}" if distribution else entry_point.value
    _STATE.owners.setdefault(entry_point.value.split(":")[0].split(".")[0], owner)
    before = dict(_models())
    try:
        entry_point.load()()
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        _STATE.broken[f"{entry_point.name} ({owner})"] = reason
        _LOG.warning("plugin %s of %s is broken and left out: %s", entry_point.name, owner, reason)
    _note_additions(before, owner)


def _note_additions(before: dict[str, Callable[..., Any]], owner: str) -> None:
    """Remember `owner` as the source of every name that is new or changed since `before`."""
    for name, constructor in _models().items():
        if before.get(name) is not constructor:
            _STATE.sources[name] = owner


def _source(name: str, constructor: Callable[..., Any]) -> str:
    """Return who made a model; a new name for one of IMDLBenCo's is still IMDLBenCo's.

    A plugin that was imported before it was asked to register has added nothing since: its package
    tells the owner.
    """
    module = constructor.__module__
    package = module.split(".")[0]
    if package == "IMDLBenCo":
        return f"IMDLBenCo {installed_version('imdlbenco')}"
    return _STATE.sources.get(name) or _STATE.owners.get(package, module)


def _is_file_name(path: str) -> bool:
    return path.endswith(".py") or "/" in path or "\\" in path


def _import_file(path: Path) -> None:
    file = path.resolve()
    if not file.is_file():
        raise UserError(f"--import {path}: there is no such file")
    name = file.stem
    present = sys.modules.get(name)
    if present is not None:
        if getattr(present, "__file__", None) and Path(str(present.__file__)).resolve() == file:
            return
        raise UserError(
            f'--import {path}: a module named "{name}" is loaded already; rename the file'
        )
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"--import {path}: not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"--import {path}: {_describe(error, file)}") from error


def _import_module(name: str) -> None:
    folder = str(Path.cwd())
    if folder not in sys.path:  # `python -m` puts it there, a console script does not
        sys.path.insert(0, folder)
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise UserError(f"--import {name}: {_describe(error, _module_file(name))}") from error


def _module_file(name: str) -> Path | None:
    """Return where a module's source is, None when it cannot be found."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _describe(error: BaseException, file: Path | None) -> str:
    """Say in one line what failed, and in which line of the user's file."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, SyntaxError):
        return text
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if file is not None and Path(frame.filename) == file
    ]
    return f"{text} (line {lines[-1]})" if lines else text
