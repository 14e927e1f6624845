"""Models as Hugging Face has them: a folder, or a repository, of config, weights and model card.

    >>> from sparsevit_plugin import hub
    >>> hub.save_checkpoint("runs/a", "hub/a", results=["runs/b"])
    >>> model = hub.load("hub/a")  # any registered model; SparseViT.from_pretrained does the same
    >>> hub.push("hub/a", "someone/sparsevit-casia")

How to use it is in `docs/hub.md`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsevit_plugin.hub.loading import load
    from sparsevit_plugin.hub.remote import push
    from sparsevit_plugin.hub.saving import save_checkpoint

__all__ = ["load", "push", "save_checkpoint"]

_HOMES = {"load": "loading", "push": "remote", "save_checkpoint": "saving"}


def __getattr__(name: str) -> Any:  # noqa: ANN401 (a module's attribute may be anything)
    """Import what is asked for when it is: the command's start imports no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
