"""Files that are written whole or not at all.

A reader, or the same command started again after a kill, must never meet half a file: everything
goes to a temporary name in the target's own folder and is renamed over the target when complete.

A process that is killed outright leaves its temporary file behind. The name says which process of
which machine writes it, so that the next one that writes into the folder can remove it, and none
that somebody is still writing.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sparsevit_plugin.errors import UserError

_CHUNK = 1 << 20
_FORGOTTEN = 7 * 86400  # seconds without a change after which nobody writes a file any more
_TEMPORARY = re.compile(
    r"\..+\.(?:(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}|[0-9a-f]{12})\.tmp(\.[^.]+)?"
)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_swept: set[str] = set()
_LONGEST_NAME = 180  # bytes; suffixes and the names of temporary files come on top of it
_CUT_NAME = 160


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block ends without an error.

    The temporary file stands in the target's folder (a rename is atomic only within one file
    system), starts with a dot, keeps the target's suffix (some writers choose a format by it) and
    is removed when the block raises. Missing folders are created. The permissions are those of any
    new file. The first file that a process writes into a folder makes it look for what dead ones
    have left there, see `sweep`.

    Args:
        path: The file to write; replaced when it exists.

    Yields:
        The path to write to.

    Raises:
        UserError: The folder cannot be created or written, the disk is full, or the path is that of
            a folder, a device or a pipe, which a rename would replace.
    """
    target = Path(path)
    temporary = target.with_name(f".{_short(target.stem)}.{_writer()}.tmp{target.suffix}")
    try:
        if target.exists() and not target.is_file():
            raise UserError(f"cannot write {target}: it is there and is no plain file")
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        now = temporary.stat().st_mtime
        os.replace(temporary, target)  # noqa: PTH105 - the two arguments' order is the point
        _flush_folder(target.parent)
        _sweep_once(target.parent, now)
    except OSError as error:
        if error.filename and Path(str(error.filename)) not in (temporary, target, *target.parents):
            raise  # the block's own trouble with another file
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside a target, on its disk, that goes with all that is left in it.

    Missing folders are created. What dead processes left beside the target goes too, see `sweep`.

    Args:
        target: What is made from the folder's contents.

    Yields:
        The folder.

    Raises:
        UserError: It cannot be made, or the block cannot write.
    """
    folder = target.with_name(f".{_short(target.stem)}.{_writer()}.tmp")
    try:
        folder.mkdir(parents=True)
        _sweep_once(target.parent, folder.stat().st_mtime)
        yield folder
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _short(stem: str) -> str:
    """Cut a name that would be too long with what a temporary file's name has beside it."""
    return os.fsencode(stem)[:_CUT_NAME].decode(errors="ignore") or "_"


def _writer() -> str:
    return f"{_machine() or secrets.token_hex(4)}-{os.getpid()}-{secrets.token_hex(4)}"


@functools.cache
def _machine() -> str:
    """Return eight digits for where this process's number means this process, "" where unknown.

    A number belongs to one start of one kernel, and within it to a container's own numbering.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        numbering = Path("/proc/self/ns/pid").readlink()
    except OSError:  # not Linux
        return ""
    text = f"{boot} {numbering} {socket.gethostname()}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _sweep_once(folder: Path, now: float) -> None:
    """Sweep a folder that this process has not swept: a look at each of many files takes long."""
    key = os.path.abspath(folder)  # noqa: PTH100 - resolving links costs more than it brings
    if key not in _swept:
        _swept.add(key)
        sweep(folder, now)


def sweep(folder: Path, now: float) -> list[Path]:
    """Remove the temporary files and folders that dead processes have left in a folder.

    One goes when the process that its name tells was one of this machine (this start of it, this
    container) and is no more; of another machine, or of a name without a process, when nothing has
    been written to it for a week.

    Args:
        folder: The folder; those in it are not looked into.
        now: The time by the folder's own clock, which on a network disk is another machine's.

    Returns:
        What was removed.
    """
    removed = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _TEMPORARY.fullmatch(entry.name)
            if found is None or not _is_left_over(entry, found, now):
                continue
            with contextlib.suppress(OSError):  # another process sweeps too, or it is not ours
                _remove(entry)
                removed.append(Path(entry.path))
    return removed


def _is_left_over(entry: "os.DirEntry[str]", name: re.Match[str], now: float) -> bool:
    try:
        state = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    # Twelve digits alone are a date too, and a folder may hold anything: it has to name its writer.
    named = bool(name["machine"]) and entry.name.endswith(".tmp")
    folder = named and entry.is_dir(follow_symlinks=False)
    if not (folder or entry.is_file(follow_symlinks=False)):
        return False
    if name["machine"] and name["machine"] == _machine():
        return not _lives(int(name["process"]))
    return now - state.st_mtime > _FORGOTTEN


def _remove(entry: "os.DirEntry[str]") -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path)
    else:
        Path(entry.path).unlink()


def _lives(process: int) -> bool:
    """Say whether a process of this machine is there; asked on Linux alone, see `_machine`."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's, or no number of a process
        return True
    return True


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


def parse_json(
    text: str | bytes, pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:  # noqa: ANN401 - whatever it holds
    """Return what a JSON text holds.

    Args:
        text: In UTF-8, or another encoding that JSON allows.
        pairs_hook: Makes something of an object's names and values; by default a dictionary.

    Raises:
        ValueError: It is no JSON, no UTF-8, holds half of a character, which nothing can write, or
            is nested too deeply to be anybody's data.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text))
        content = json.loads(text, object_pairs_hook=pairs_hook)
        if _SURROGATE.search(text):  # two of them are a character
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return content


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
