"""Files that are written whole or not at all.

A reader, or the same command started again after a kill, must never meet half a file: everything
goes to a temporary name in the target's own folder and is renamed over the target when complete.
"""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsevit_plugin.errors import UserError

_CHUNK = 1 << 20
_LONGEST_NAME = 180  # bytes; suffixes and the names of temporary files come on top of it
_CUT_NAME = 160


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block ends without an error.

    The temporary file stands in the target's folder (a rename is atomic only within one file
    system), starts with a dot, keeps the target's suffix (some writers choose a format by it) and
    is removed when the block raises. Missing folders are created. The permissions are those of any
    new file.

    Args:
        path: The file to write; replaced when it exists.

    Yields:
        The path to write to.

    Raises:
        UserError: The folder cannot be created or written, the disk is full, or the path is that of
            a folder, a device or a pipe, which a rename would replace.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(6)}.tmp{target.suffix}")
    try:
        if target.exists() and not target.is_file():
            raise UserError(f"cannot write {target}: it is there and is no plain file")
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        os.replace(temporary, target)  # noqa: PTH105 - the two arguments' order is the point
        _flush_folder(target.parent)
    except OSError as error:
        if error.filename and Path(str(error.filename)) not in (temporary, target, *target.parents):
            raise  # the block's own trouble with another file
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _flush(path: Path) -> None:
    """Wait until a file's contents are on the disk: a rename must not overtake them."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Wait until a rename in the folder is on the disk, where the system can do that."""
    with contextlib.suppress(OSError):  # Windows cannot open a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def prove_writable(folder: Path, name: str = "") -> None:
    """Make a folder and prove that it can be written.

    Args:
        folder: The folder.
        name: What the user calls it, as "--output-dir"; empty for its path alone.

    Raises:
        UserError: It cannot be written.
    """
    probe = folder / f".write-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        shown = f"{name} {folder}".strip()
        raise UserError(f"{shown} cannot be written: {error.strerror or error}") from error


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file (UTF-8, line ends as given) whole or not at all.

    Raises:
        UserError: The file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json_atomic(path: str | os.PathLike[str], value: Any) -> None:  # noqa: ANN401 - any JSON
    """Write a value as indented JSON, whole or not at all; paths become strings.

    Raises:
        UserError: The file cannot be written.
        TypeError: The value holds something that JSON has no form for.
        ValueError: The value holds a NaN or an infinity, which JSON has no form for either.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_as_json)
    write_text_atomic(path, text + "\n")


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - whatever it holds
    """Return what a JSON text holds.

    Raises:
        ValueError: It is no JSON, no UTF-8, or nested too deeply to be anybody's data.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _as_json(value: object) -> object:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON: {value!r}")


def file_name(text: str) -> str:
    """Return a text as a file's name: what is not a letter, digit, dot, hyphen or @ becomes `_`.

    What file systems would refuse as too long is cut, and told apart by a hash.
    """
    kept = "".join(sign if sign.isalnum() or sign in ".-_@" else "_" for sign in text)
    if len(kept.encode()) > _LONGEST_NAME:
        short = kept.encode()[:_CUT_NAME].decode(errors="ignore")
        kept = f"{short}-{hashlib.sha256(kept.encode()).hexdigest()[:8]}"
    return kept.strip(".") or "_"


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hash a file's contents.

    Returns:
        SHA-256 as 64 hexadecimal digits.

    Raises:
        UserError: The file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()
