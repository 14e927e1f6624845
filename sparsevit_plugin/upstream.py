"""IMDLBenCo, imported without the warnings that it causes and that its user cannot mend.

Another version than those that were tested is named once in a command; one that cannot be read ends
it. Both say how to mend that.
"""

import contextlib
import functools
import importlib
import io
import logging
import os
import warnings
from importlib.metadata import PackageNotFoundError
from types import ModuleType

from packaging.requirements import Requirement
from packaging.version import InvalidVersion

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.versions import DISTRIBUTION, installed_version, requirements

UPSTREAM = "IMDLBenCo"
_LOG = logging.getLogger(__name__)

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


def import_upstream(module: str = UPSTREAM) -> ModuleType:
    """Import `module` of IMDLBenCo quietly.

    The process's warning filters are left as they were, and what the import prints (PyTorch's
    version, twice) does not get into the output of our commands, which may be read by a program.

    Raises:
        UserError: It cannot be imported: the line says which version is installed, which was
            tested, and the mend.
    """
    _warn_once()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        silence_known_warnings()
        try:
            return importlib.import_module(module)
        except Exception as error:  # another version, or a broken library below it, may raise all
            raise unusable(f"{module} cannot be imported", error) from error


def unusable(what: str, error: Exception) -> UserError:
    """Return the error of an IMDLBenCo that cannot be used.

    Args:
        what: What failed.
        error: Why.
    """
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    mend = untested_version() or "sparsevit env says what is broken, and the mend"
    return UserError(f"{what} ({reason}): {mend}")


def untested_version() -> str:
    """Return which IMDLBenCo is installed, which was tested and the mend; "" for a tested one."""
    requirement = _requirement()
    if requirement is None:
        return ""
    try:
        tested = requirement.specifier.contains(installed_version(UPSTREAM), prereleases=True)
    except InvalidVersion:  # a version that no package index would take, or no IMDLBenCo at all
        tested = False
    if tested:
        return ""
    # Installing it again takes the script of that name, see `benco env`.
    return (
        f"{_found()}; {DISTRIBUTION} was tested with {requirement} alone: "
        f"pip install '{requirement}' && sparsevit env --fix"
    )


def _found() -> str:
    version = installed_version(UPSTREAM)
    there = version != "not installed"
    return f"{UPSTREAM} {version} is installed" if there else f"{UPSTREAM} is not installed"


def _requirement() -> Requirement | None:
    """Return what this package requires; None for a checkout that was never installed."""
    try:
        return Requirement(requirements()[UPSTREAM])
    except PackageNotFoundError:
        return None


@functools.cache
def _warn_once() -> None:
    """Warn of a version that was not tested, in the first of several processes."""
    if os.environ.get("RANK", "0") == "0" and (difference := untested_version()):
        _LOG.warning("%s", difference)
