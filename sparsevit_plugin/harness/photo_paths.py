"""Which photographs the words of a command line mean, and what their results are called."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sparsevit_plugin.confinement import check_confined
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.predict import Photo
from sparsevit_plugin.harness.sources import IMAGE_EXTENSIONS

_FOREIGN = frozenset(
    f".{extension}"
    for extension in (
        *("arw", "avif", "cr2", "cr3", "dng", "heic", "heif", "jxl", "nef", "orf", "raf", "rw2"),
    )
)


def find_photographs(words: Sequence[str], leave_out: Path | None = None) -> list[Photo]:
    """Find photographs.

    A folder stands for the photographs in it at any depth, by their suffixes and without hidden
    ones; a pattern with `*`, `?`, `[` or `**` for the files and folders that it matches; a file for
    itself, whatever its suffix. What is named twice counts once.

    A photograph is called by its path below the folder, where that is all that was named, else
    below the deepest folder that holds all photographs; without its suffix, unless two could be
    called the same.

    Args:
        words: Paths and patterns.
        leave_out: A folder whose files are no photographs, even where it lies in a named one: that
            of the results.

    Raises:
        UserError: A word names nothing, a folder holds no photograph, or one of them lies outside
            the folder that data is confined to.
    """
    files: dict[str, Path] = {}
    for word in words:
        found = _of_word(word, leave_out)
        if not found:
            raise UserError(f"{word}: holds no photographs ({_suffixes()})")
        for path in found:
            check_confined(path)  # here: from a process that reads images it is no single line
            files.setdefault(os.path.abspath(path), path)  # noqa: PTH100 (links keep their names)
    root = words[0] if len(words) == 1 and Path(words[0]).is_dir() else _common_folder(list(files))
    return _named(files, os.path.abspath(root))  # noqa: PTH100


def foreign_photographs(words: Sequence[str]) -> list[Path]:
    """Return the photographs below the named folders whose formats are not read.

    A folder stands for files of the formats that Pillow reads everywhere; one of another format can
    still be named itself.
    """
    folders = [Path(word) for word in words if Path(word).is_dir()]
    found = {
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix.lower() in _FOREIGN and path.is_file() and not path.name.startswith(".")
    }
    return sorted(found)


def _of_word(word: str, leave_out: Path | None) -> list[Path]:
    path = Path(word)
    if path.is_dir():
        return _in_folder(path, leave_out)
    if path.exists():
        return [path]
    if not glob.has_magic(word):
        raise UserError(f"{word}: no such file or folder")
    matches = [Path(match) for match in sorted(glob.glob(word, recursive=True))]  # noqa: PTH207
    if not matches:
        raise UserError(f"{word}: matches no file")
    found = []
    for match in matches:
        if match.is_dir():
            found += _in_folder(match, leave_out)
        elif _is_photograph(match) and not _is_below(match, leave_out):
            found.append(match)
    return found


def _in_folder(folder: Path, leave_out: Path | None) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if _is_photograph(path)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not _is_below(path, leave_out)
    ]


def _is_photograph(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_EXTENSIONS


def _is_below(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.resolve().is_relative_to(folder.resolve())


def _common_folder(files: Sequence[str]) -> str:
    return os.path.commonpath([os.path.dirname(file) for file in files])  # noqa: PTH120


def _named(files: dict[str, Path], root: str) -> list[Photo]:
    """Name files by their path below `root`."""
    below = {file: Path(os.path.relpath(file, root)).as_posix() for file in files}
    stems = {file: str(Path(name).with_suffix("").as_posix()) for file, name in below.items()}
    count = Counter(stem.lower() for stem in stems.values())  # some systems know no case
    full = {name.lower() for name in below.values()}  # beside x.jpg, x.jpg.png is not called x.jpg
    return [
        Photo(stem if count[stem.lower()] == 1 and stem.lower() not in full else below[file], path)
        for (file, path), stem in zip(files.items(), stems.values(), strict=True)
    ]


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_EXTENSIONS))
