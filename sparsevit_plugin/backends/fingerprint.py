"""What a model computes, as a hash: equal hashes, equal exported files."""

import hashlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

_PLAIN: Final = (bool, int, float, str, type(None))
_OF_EVERY_MODULE: Final = frozenset(vars(nn.Module()))  # hooks, the mode, tables of tensors
_OF_TORCH: Final = "torch."


def model_fingerprint(model: nn.Module) -> str:
    """Hash all that makes a model's answers, as 64 hexadecimal digits.

    That is its tensors (parameters, buffers and others), the classes of its modules with the source
    files around them, and the modules' own settings: numbers, words, and what is made of these.

    Args:
        model: Any module.
    """
    digest = hashlib.sha256()
    digest.update("\n".join(_lines(model)).encode())
    for path in _source_files(model):
        digest.update(path.read_bytes())
    for name, tensor in _tensors(model):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in model.named_modules():
        named = {**module._parameters, **module._buffers, **vars(module)}
        for name, value in sorted(named.items()):
            if isinstance(value, Tensor):
                yield f"{prefix}.{name}", value


def _lines(model: nn.Module) -> Iterator[str]:
    """Yield a line per module: its place, its class and its settings."""
    for name, module in model.named_modules():
        settings = {
            key: _settled(value)
            for key, value in sorted(vars(module).items())
            if key not in _OF_EVERY_MODULE
        }
        kind = type(module)
        yield f"{name} {kind.__module__}.{kind.__qualname__} {json.dumps(settings)}"


def _settled(value: object) -> object:
    """Return a setting as JSON can hold it; what has no value of its own is its class's name."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (list, tuple)):
        return [_settled(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _settled(item) for key, item in value.items()}
    text = repr(value)
    plain = not isinstance(value, (Tensor, nn.Module)) and " at 0x" not in text
    return text if plain else type(value).__qualname__


def _source_files(model: nn.Module) -> list[Path]:
    """Return the files that define the modules' classes, with all of a package's folder.

    Classes call functions of their neighbours. PyTorch's own are left out: its version is known.
    """
    files: set[Path] = set()
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    for kind in kinds - {object}:
        if kind.__module__.startswith(_OF_TORCH):
            continue
        try:
            file = Path(inspect.getsourcefile(kind) or "")
        except (OSError, TypeError):  # written in a console, or in no Python
            continue
        in_package = (file.parent / "__init__.py").is_file()
        files |= set(file.parent.glob("*.py")) if in_package else {file}
    return sorted(path for path in files if path.is_file())
