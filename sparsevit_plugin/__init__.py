"""SparseViT for IMDLBenCo.

Importing this package puts SparseViT, and every model that another distribution offers through the
entry-point group `sparsevit_plugin.models`, into `IMDLBenCo.registry.MODELS`. The package's own
command line is the exception: there each verb registers when it needs models, so that
`benco --help` does not import torch.
"""

import importlib
import itertools
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsevit_plugin.harness.predict import Localiser, Prediction, predict

__all__ = ["Localiser", "Prediction", "predict"]


def _is_own_command_line() -> bool:
    """Return whether this process is `benco`, `sparsevit` or `python -m sparsevit_plugin`."""
    script = re.sub(r"(-script\.pyw?|\.exe)$", "", Path(sys.argv[0]).name) if sys.argv else ""
    if script in ("benco", "sparsevit"):
        return True
    words = sys.orig_argv
    modules = [after for word, after in itertools.pairwise(words) if word == "-m"]
    modules += [word[2:] for word in words[1:] if word.startswith("-m")]
    return any(name.split(".")[0] == __name__ for name in modules)


def __getattr__(name: str) -> Any:  # noqa: ANN401 (a module's attribute may be anything)
    """Import what predicts when it is first asked for: importing the package stays fast."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.harness.predict"), name)


if not _is_own_command_line():
    from sparsevit_plugin.registration import register_all

    register_all()
