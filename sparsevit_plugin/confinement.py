"""`--confine DIR`: files that data names are read below one folder only.

A list of images, a manifest or a link in a data set may name any file of the machine, and lists
made for IMDLBenCo do hold absolute paths. Where a set comes from somebody else, `benco --confine
DIR VERB ...` refuses every image, mask, list and map that is not below `DIR` once links are
followed. What the command line names itself (a checkpoint, a recipe, an output folder) is the
user's own and is not concerned, nor is what is dropped on the page of `benco app`.

The folder is kept in the environment, so that data loading processes and the jobs of a protocol
keep to it as well.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from sparsevit_plugin.errors import UserError

VARIABLE: Final = "SPARSEVIT_CONFINE"
FLAG: Final = "--confine"
_also: list[Path] = []


@contextlib.contextmanager
def confined_to(folder: str | Path | None) -> Iterator[None]:
    """Refuse data outside a folder, here and in processes that start meanwhile; None: nothing new.

    Raises:
        UserError: There is no such folder.
    """
    if folder is None:
        yield
        return
    path, before = Path(folder), os.environ.get(VARIABLE)
    if not path.is_dir():
        raise UserError(f"{FLAG} {folder}: no such folder")
    os.environ[VARIABLE] = str(path.resolve())
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


@contextlib.contextmanager
def also_readable(folder: str | Path) -> Iterator[None]:
    """Let this process read a folder of its own too, such as the one that uploads are put in."""
    path = Path(folder).resolve()
    _also.append(path)
    try:
        yield
    finally:
        _also.remove(path)


def check_confined(path: str | Path) -> None:
    """Refuse a file that data names if it is outside the folder that data is confined to.

    Raises:
        UserError: It is, links followed; names both.
    """
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return
    real = Path(path).resolve()
    if not any(real.is_relative_to(readable) for readable in (Path(folder), *_also)):
        target = "" if real == Path(path).absolute() else f" (which is {real})"
        raise UserError(
            f"{path}{target}: lies outside {folder}, and {FLAG} allows nothing else to be read"
        )


def is_confined() -> bool:
    """Say whether data is confined to a folder."""
    return VARIABLE in os.environ


def take_flag(
    words: Sequence[str], flag: str = FLAG, wanted: str = "a folder"
) -> tuple[list[str], str | None]:
    """Take a flag of every verb and its value out of a command line, wherever it stands.

    Args:
        words: The words after the command's name.
        flag: The flag.
        wanted: What its value is.

    Returns:
        The other words, and the value; None where there is none.

    Raises:
        UserError: The flag stands there twice, or without a value.
    """
    rest: list[str] = []
    values: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if word == flag:
            values.append(next(remaining, ""))
        elif word.startswith(f"{flag}="):
            values.append(word.partition("=")[2])
        else:
            rest.append(word)
    if len(values) > 1:
        raise UserError(f"{flag} is given twice")
    if "" in values:
        raise UserError(f"{flag} needs {wanted}")
    return rest, values[0] if values else None
