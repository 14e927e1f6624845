"""What is installed: versions of distributions, and the commit of a checkout."""

import importlib.metadata
import importlib.util
import re
import subprocess
from pathlib import Path

DISTRIBUTION = "sparsevit-plugin"


def installed_version(distribution: str) -> str:
    """Return the installed version of a distribution, "not installed" where there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def requirements() -> dict[str, str]:
    """Return what this package requires, extras left out: distribution name to requirement."""
    return {
        match.group(0): line
        for line in importlib.metadata.requires(DISTRIBUTION) or []
        if "extra ==" not in line and (match := re.match(r"[\w.-]+", line))
    }


def git_commit(package: str) -> str | None:
    """Return the commit of the checkout that a package runs from, None when it is installed.

    A file that git does not track, as in a virtual environment inside some repository, belongs to
    no checkout.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin)
    try:
        _git(file.parent, "ls-files", "--error-unmatch", file.name)
        return _git(file.parent, "rev-parse", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    answer = subprocess.run(  # noqa: S603 - fixed words
        ["git", "-C", str(folder), *words],  # noqa: S607 - the user's git
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return answer.stdout.strip()
