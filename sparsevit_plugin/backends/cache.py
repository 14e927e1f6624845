"""Exported files, kept beside the checkpoint: found again by all that they depend on.

An entry is a folder, `<digest>/`, with the files and `entry.json`: what it was made from, and the
hash of every file. It is written under another name and renamed when complete, under a lock, so
that a reader finds it whole or not at all. One that is damaged is made again.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import (
    parse_json,
    prove_writable,
    sha256_file,
    temporary_folder,
    write_json_atomic,
)
from sparsevit_plugin.machine import user_cache

ENTRY: Final = "entry.json"
KEPT: Final = 12
"""Entries that a folder keeps; those that were not used for the longest time go first."""

_DIGITS: Final = 16


def default_folder(checkpoint: str | os.PathLike[str] | None) -> Path:
    """Return where exported files of a checkpoint are kept.

    That is `<checkpoint>.exports` beside it. Where that cannot be written, or without a checkpoint,
    it is `exports` in the user's cache, see `machine.user_cache`.
    """
    if checkpoint is not None:
        beside = Path(f"{os.fspath(checkpoint)}.exports")
        with contextlib.suppress(UserError):
            prove_writable(beside)
            return beside
    return user_cache() / "exports"


class ExportCache:
    """A folder of exported files.

    Args:
        folder: Made when the first entry is.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def entry(self, content: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
        """Return the folder of an entry; make it where it is missing or damaged.

        Two processes that ask for one entry at once make it once: the second waits.

        Args:
            content: All that the files depend on, as JSON can hold it.
            build: Writes the files into an empty folder.

        Raises:
            UserError: The folder cannot be written.
        """
        text = json.dumps(content, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
        target = self.folder / digest
        prove_writable(self.folder)
        with FileLock(self._lock(digest)):
            if not is_whole(target):
                self._make(target, content, build)
            os.utime(target)
        self._forget_oldest(digest)
        return target

    def _make(
        self, target: Path, content: Mapping[str, Any], build: Callable[[Path], None]
    ) -> None:
        with temporary_folder(target) as temporary:
            build(temporary)
            hashes = {path.name: sha256_file(path) for path in sorted(temporary.iterdir())}
            write_json_atomic(temporary / ENTRY, {"of": dict(content), "files": hashes})
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)

    def _forget_oldest(self, current: str) -> None:
        """Remove what is beyond `KEPT` and not in use."""
        entries = [path.parent for path in self.folder.glob(f"[!.]*/{ENTRY}")]
        entries.sort(key=_last_used, reverse=True)
        for path in entries[KEPT:]:
            if path.name == current:
                continue
            with contextlib.suppress(Timeout, OSError), FileLock(self._lock(path.name), timeout=0):
                shutil.rmtree(path, ignore_errors=True)

    def _lock(self, digest: str) -> Path:
        return self.folder / f".{digest}.lock"


def is_whole(entry: Path) -> bool:
    """Say whether an entry holds the files that it was written with, unchanged."""
    try:
        hashes = parse_json((entry / ENTRY).read_text(encoding="utf-8"))["files"]
        return bool(hashes) and all(
            sha256_file(entry / name) == wanted for name, wanted in hashes.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError):
        return False


def _last_used(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:  # another process has removed it
        return 0.0
