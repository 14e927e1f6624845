"""Building IMDLBenCo's models without a network and without files: scoped patches.

Several of its constructors download weights or read a file that must be there, and print what they
do. `offline` changes what they call for as long as one is running, and puts everything back, also
after an error.

    >>> import timm
    >>> with offline():
    ...     model = timm.create_model("resnet18", pretrained=True)  # random weights
"""

import contextlib
import importlib
import io
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor

# The patched functions are the process's own: one constructor at a time.
_LOCK = threading.RLock()

Files = Mapping[str, Mapping[str, Tensor]]


@contextmanager
def replaced(replacements: Mapping[str, object]) -> Iterator[None]:
    """Put other objects in the place of modules' attributes, and then the originals back.

    Args:
        replacements: New object by dotted name, e.g. `torch.hub.load`. The module is imported. A
            name is changed where it is looked up: code that did `from timm import create_model` is
            reached through its own module.
    """
    with _LOCK:
        originals: list[tuple[object, str, object]] = []
        try:
            for dotted, new in replacements.items():
                module_name, _, name = dotted.rpartition(".")
                module = importlib.import_module(module_name)
                originals.append((module, name, getattr(module, name)))
                setattr(module, name, new)
            yield
        finally:
            for owner, name, original in reversed(originals):
                setattr(owner, name, original)


@contextmanager
def offline(files: Files | None = None) -> Iterator[None]:
    """Let a constructor of IMDLBenCo's run without a network, without files and without output.

    As long as it lasts:

    - `load_url` and `load_state_dict_from_url` answer with an empty state dict, which a model that
      loads with `strict=False` takes as it is;
    - `timm.create_model` builds with random weights whatever `pretrained` says;
    - `torch.load` answers with what `files` holds for a path, and refuses any other;
    - `torch.hub.load`, which runs code from the network, is refused;
    - what is printed is dropped.

    Args:
        files: State dict by path, for constructors that cannot do without a file. Real files go
            through `zoo.pretrained` instead, after the constructor.
    """
    import timm

    create_model: Callable[..., Any] = timm.create_model

    def with_random_weights(*args: object, **kwargs: object) -> object:
        return create_model(*args, **{**kwargs, "pretrained": False})

    def from_files(path: object, *args: object, **kwargs: object) -> dict[str, Tensor]:
        if files is None or str(path) not in files:
            raise FileNotFoundError(f"{path}: a constructor asked for a file that it was not given")
        return dict(files[str(path)])

    patches = {
        "torch.hub.load": _refuse_code,
        "torch.hub.load_state_dict_from_url": _nothing,
        "torch.load": from_files,
        "torch.utils.model_zoo.load_url": _nothing,
        "timm.create_model": with_random_weights,
    }
    with replaced(patches), contextlib.redirect_stdout(io.StringIO()):
        yield


def _nothing(*_args: object, **_kwargs: object) -> dict[str, torch.Tensor]:
    return {}


def _refuse_code(*args: object, **_kwargs: object) -> NoReturn:
    raise RuntimeError(f"torch.hub.load{args} would run code from the network")
