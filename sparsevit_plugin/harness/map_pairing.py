"""Which map belongs to which image of a set: by relative path stem, or by what is as certain."""

import os
import posixpath
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.map_files import MAP_SUFFIXES
from sparsevit_plugin.harness.pairing import common_suffix
from sparsevit_plugin.harness.sources import IMAGE_EXTENSIONS, Sample

MISSING: Final = "missing"
EXTRA: Final = "extra"
DOUBLED: Final = "doubled"
UNREADABLE: Final = "unreadable"


@dataclass(frozen=True)
class Problem:
    """Something that keeps a folder of maps from being scored.

    Attributes:
        kind: In a word or a few.
        name: The image's name in its set, or the map's relative to its folder.
        reason: What is wrong; may be empty where the kind says it all.
    """

    kind: str
    name: str
    reason: str = ""

    def line(self) -> str:
        """Return it in one line."""
        return f"{self.kind}: {self.name}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class MapFolder:
    """The maps below a folder.

    Attributes:
        path: The folder.
        maps: Relative Posix paths without suffix to the files, in sorted order.
        problems: Files that cannot be taken.
        others: How many files are neither maps nor pictures.
    """

    path: Path
    maps: dict[str, Path]
    problems: tuple[Problem, ...] = ()
    others: int = 0


@dataclass(frozen=True)
class MapPairing:
    """Images with their maps.

    Attributes:
        rule: How they were paired, in words.
        pairs: Images and maps, in the order of the set.
        missing: Images without a map.
        extra: Stems of maps without an image.
        hint: What may be the matter with the names; may be empty.
    """

    rule: str
    pairs: tuple[tuple[Sample, Path], ...]
    missing: tuple[Sample, ...] = ()
    extra: tuple[str, ...] = ()
    hint: str = field(default="", compare=False)


def find_maps(folder: Path) -> MapFolder:
    """List the maps below a folder; links to folders are not followed, hidden files are left out.

    Raises:
        UserError: There is no such folder, or no map in it.
    """
    if not folder.is_dir():
        raise UserError(f"--pred {folder}: no such folder")
    maps: dict[str, Path] = {}
    problems: list[Problem] = []
    others = 0
    for file in _files(folder, problems):
        name = file.relative_to(folder).as_posix()
        suffix = file.suffix.lower()
        if suffix in MAP_SUFFIXES:
            stem = _stem(name)
            if stem in maps:
                first = maps[stem].relative_to(folder).as_posix()
                problems.append(Problem(DOUBLED, name, f"{first} is called the same"))
            maps.setdefault(stem, file)
        elif suffix in IMAGE_EXTENSIONS:
            words = f"{suffix} is no map: maps are {', '.join(MAP_SUFFIXES)}"
            problems.append(Problem(UNREADABLE, name, words))
        else:
            others += 1
    if not maps and not problems:
        raise UserError(f"--pred {folder}: holds no maps ({', '.join(MAP_SUFFIXES)})")
    return MapFolder(folder, maps, tuple(problems), others)


def _files(folder: Path, problems: list[Problem]) -> list[Path]:
    """Return every file below a folder, sorted by its relative path."""

    def report(error: OSError) -> None:
        place = os.path.relpath(error.filename or folder, folder)
        problems.append(Problem(UNREADABLE, place, error.strerror or str(error)))

    found = []
    for here, folders, names in os.walk(folder, onerror=report):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        found += [Path(here, name) for name in names if not _is_hidden(name)]
    return sorted(found)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def pair_maps(samples: Sequence[Sample], maps: dict[str, Path]) -> MapPairing:
    """Pair the images of a set with maps.

    The rules are tried in this order, and the first that pairs everything is taken, else the one
    that pairs most: the map's relative path without its suffix is the image's; or is so below the
    folder that all images, and all maps, have in common; or only their base names are equal. In
    each the map may also be named by the whole image file (`a.jpg.png`). Then all of them again
    with upper and lower case taken for equal. A rule that does not tell two images, or two maps,
    apart is left out.

    Args:
        samples: The images.
        maps: As in `MapFolder`.

    Raises:
        UserError: No rule tells the images apart.
    """
    best: MapPairing | None = None
    for words, image_key, map_key in _rules(samples, maps):
        keyed = {map_key(stem): stem for stem in maps}
        images = {image_key(sample.name): sample for sample in samples}
        if len(keyed) < len(maps) or len(images) < len(samples):
            continue
        found = _pair(words, images, keyed, maps)
        if best is None or len(found.pairs) > len(best.pairs):
            best = found
        if not best.missing and not best.extra:
            return best
    if best is None:
        raise UserError("images of the set differ in nothing but how an accent is stored: rename")
    return MapPairing(best.rule, best.pairs, best.missing, best.extra, _hint(samples, maps, best))


def _pair(
    words: str, images: dict[str, Sample], keyed: dict[str, str], maps: dict[str, Path]
) -> MapPairing:
    pairs = [(sample, maps[keyed[key]]) for key, sample in images.items() if key in keyed]
    missing = [sample for key, sample in images.items() if key not in keyed]
    extra = [stem for key, stem in keyed.items() if key not in images]
    return MapPairing(words, tuple(pairs), tuple(missing), tuple(extra))


_Key = Callable[[str], str]


def _rules(samples: Sequence[Sample], maps: dict[str, Path]) -> list[tuple[str, _Key, _Key]]:
    """Return each rule in words, with the keys of an image's name and of a map's stem."""
    image_root = _common_folder([sample.name for sample in samples])
    map_root = _common_folder(list(maps))
    places: list[tuple[str, _Key, _Key]] = [
        ("relative path", _same, _same),
        ("relative path below the common folder", _after(image_root), _after(map_root)),
        ("base name", _base, _base),
    ]
    rules = []
    for case, fold in (("", _same), (", upper and lower case taken for equal", str.casefold)):
        for place, image_place, map_place in places:
            for ending, cut in (("", _stem), (", the image's suffix included", _normal)):
                rules.append(
                    (
                        f"{place}{ending}{case}",
                        _chain(cut, image_place, fold),
                        _chain(_normal, map_place, fold),
                    )
                )
    return rules


def _chain(*steps: _Key) -> _Key:
    def key(name: str) -> str:
        for step in steps:
            name = step(name)
        return name

    return key


def _same(name: str) -> str:
    return name


def _normal(name: str) -> str:
    # One file system stores an accent apart from its letter, another does not.
    return unicodedata.normalize("NFC", name)


def _stem(name: str) -> str:
    # Sets have up to a million names, for which Path is slow.
    return _normal(os.path.splitext(name)[0])  # noqa: PTH122


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _after(folder: str) -> _Key:
    return lambda name: name[len(folder) :]


def _common_folder(names: Sequence[str]) -> str:
    """Return the folder that all names begin with, with its last slash; empty for none."""
    folders = {posixpath.dirname(_normal(name)) for name in names}
    common = posixpath.commonpath(folders) if folders else ""
    return f"{common}/" if common else ""


def _hint(samples: Sequence[Sample], maps: dict[str, Path], found: MapPairing) -> str:
    """Say what may be the matter where images have no maps."""
    if not found.missing:
        return ""
    suffix = common_suffix([_base(_stem(s.name)) for s in samples], [_base(stem) for stem in maps])
    if suffix:
        return f"the maps' names seem to end in \"{suffix}\": rename them to the images' names"
    bases = [_base(_stem(sample.name)) for sample in samples]
    if len(set(bases)) < len(bases) and not any("/" in stem for stem in maps):
        return "images of equal base names stand in several folders: keep these folders in --pred"
    return ""
