"""The machine that computes: its processor, and the user's cache folder on it.

Nothing heavy is imported.
"""

import contextlib
import os
import platform
import tempfile
from pathlib import Path
from typing import Final

CPU_INFO: Final = Path("/proc/cpuinfo")
"""Where Linux describes its processors, see proc(5)."""

_FOLDER: Final = "sparsevit-plugin"


def processor_facts() -> dict[str, str]:
    """Return what Linux says of the first processor, as `flags` or `cpu family`; empty elsewhere.

    The processors of a machine agree but for their numbers and clocks.
    """
    try:
        first = CPU_INFO.read_text(encoding="utf-8").partition("\n\n")[0]
    except (OSError, ValueError):  # only Linux has the file
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def processor_name() -> str:
    """Return the processor's name as its maker gives it; elsewhere than on Linux its kind."""
    return processor_facts().get("model name") or platform.processor() or platform.machine()


def user_cache() -> Path:
    """Return the folder for what can be made again; it need not exist, or be writable.

    It is `sparsevit-plugin` in `XDG_CACHE_HOME`, `LOCALAPPDATA` or `~/.cache`, the first that there
    is; a relative path does not count. A user without a home has it in the temporary folder.
    """
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        root = Path(os.environ.get(name, ""))
        if root.is_absolute():
            return root / _FOLDER
    with contextlib.suppress(RuntimeError):
        return Path.home() / ".cache" / _FOLDER
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"{_FOLDER}-{user}"
