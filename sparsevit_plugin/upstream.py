"""IMDLBenCo, imported without the warnings that it causes and that its user cannot mend."""

import contextlib
import importlib
import io
import warnings
from types import ModuleType

# (start of the message as a regular expression, category). Everything else is shown.
_KNOWN_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    (r"Importing from timm\.models\.layers is deprecated", FutureWarning),
    (r"Importing from timm\.optim\.optim_factory is deprecated", FutureWarning),
    (r"`torch\.jit\.script` is deprecated", FutureWarning),
    (r"`torch\.jit\.script` is deprecated", DeprecationWarning),
    # Addressed to those who edit IMDLBenCo's own train.py.
    (r"HOPE YOU TO READ: Starting from IMDLBenCo version v0\.1\.31", UserWarning),
    # Lightning's, on a login node: a cluster's jobs are started by the protocol runner here.
    (r"The `srun` command is available on your system but is not used", UserWarning),
)


def silence_known_warnings() -> None:
    """Add filters for the warnings that importing IMDLBenCo is known to cause."""
    for message, category in _KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category)


def import_upstream(module: str = "IMDLBenCo") -> ModuleType:
    """Import `module` of IMDLBenCo quietly.

    The process's warning filters are left as they were, and what the import prints (PyTorch's
    version, twice) does not get into the output of our commands, which may be read by a program.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        silence_known_warnings()
        return importlib.import_module(module)
