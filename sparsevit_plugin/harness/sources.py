"""Data sources: what a data path names, which mask belongs to which image, what is held out.

A source is a folder with `Tp/` and `Gt/`, a JSON list of `[image, mask or "Negative"]`, a JSON
list of `[dataset class, path]` (IMDLBenCo's BalancedDataset), or a JSON dict that names any of
these. Pairs are checked by file name at every load: IMDLBenCo pairs by position only, so that
there one missing file shifts every pair that follows.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from sparsevit_plugin.confinement import check_confined, is_confined
from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.files import parse_json
from sparsevit_plugin.harness.pairing import (
    EXAMPLES,
    Finding,
    Report,
    check_written_pairs,
    pair_by_name,
    pair_by_position,
)

Pair: TypeAlias = Literal["name", "position"]

NEGATIVE = "Negative"
# IMDLBenCo's BalancedDataset draws so many from each of its sets per epoch.
SAMPLES_PER_PART = 1840
IMAGE_EXTENSIONS = frozenset(
    f".{extension}"
    for extension in (
        *("bmp", "gif", "jfif", "jp2", "jpe", "jpeg", "jpg", "mpo", "pbm"),
        *("pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
)
_CLUTTER = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx"})
_MANIFEST = "manifest.json"
_MANIFEST_KIND = "sparsevit-corpus"
_MANIFEST_SCHEMA = 1
_PAIR = 2
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a set.

    Attributes:
        image: The image file.
        mask: Its mask file; None for an authentic image.
        name: Posix path relative to the set's root, unique in the set.
        photos: The source photographs, the base first and then the donors; () where unknown.
    """

    image: Path
    mask: Path | None
    name: str
    photos: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageSet:
    """A list of images with masks.

    Attributes:
        name: The set's name.
        kind: The IMDLBenCo dataset class that it stands for ("ManiDataset", "JsonDataset", ...).
        path: The folder or JSON file.
        samples: The images, in the order of IMDLBenCo's class.
        pairing: How masks were paired with images, in words.
        notes: What a user should know: ignored files, dropped samples.
    """

    name: str
    kind: str
    path: Path
    samples: tuple[Sample, ...]
    pairing: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class BalancedSet:
    """Several sets from each of which the same number of images is drawn per epoch.

    Attributes:
        name: The set's name.
        path: The JSON file.
        parts: The sets; their names are unique.
        sample_number: Draws from each part per epoch.
        notes: What a user should know beside the parts' own notes.
    """

    name: str
    path: Path
    parts: tuple[ImageSet, ...]
    sample_number: int = SAMPLES_PER_PART
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.sample_number * len(self.parts)


Source: TypeAlias = ImageSet | BalancedSet


def read_source(
    path: Path | str, *, pair: Pair = "name", name: str | None = None
) -> dict[str, Source]:
    """Read what a data path names.

    Args:
        path: Folder or JSON file.
        pair: "name" checks that image and mask names belong together; "position" takes sorted
            folders, or a list as it is written, without that check.
        name: The name of a source that is one set; its folder's or file's name by default.

    Returns:
        The named sets, in the order of the file.

    Raises:
        UserError: If the path is none of these, a listed file is missing, pairs do not fit or a
            set is empty.
    """
    return {entry.name: _read_entry(entry, pair, _raise) for entry in _entries(Path(path), name)}


def inspect_source(
    path: Path | str, *, pair: Pair = "name"
) -> dict[str, tuple[Source | None, list[Finding]]]:
    """Read a data path as `read_source` does, but collect the problems and read what is left.

    Args:
        path: Folder or JSON file.
        pair: As for `read_source`.

    Returns:
        For each name the set (None where nothing could be read) and its problems.

    Raises:
        UserError: If the path itself is no source.
    """
    found: dict[str, tuple[Source | None, list[Finding]]] = {}
    for entry in _entries(Path(path), None):
        problems: list[Finding] = []
        source: Source | None = None
        try:
            source = _read_entry(entry, pair, problems.append)
        except UserError as error:
            problems.append(Finding("unreadable set", str(error), "nothing in it was checked"))
        found[entry.name] = (source, problems)
    return found


def hold_out(
    source: Source, fraction: float = 0.05, seed: int = 0, most: int = 500
) -> tuple[Source, ImageSet]:
    """Hold photographs out of training.

    Photographs are ranked by a hash of seed and name, and the first are held out: the choice does
    not depend on the order of the set, and sets that share photographs hold out the same ones. At
    least one held-out photograph has a tampered image where the set has any. Where a sample's
    photographs are unknown, it is its own photograph. A held-out sample may have a donor that
    training also sees; the reverse is excluded.

    Args:
        source: The training set; a balanced set is held out from part by part.
        fraction: The share of photographs to hold out (of each part), at least one.
        seed: The seed.
        most: The largest number of photographs to hold out (of each part).

    Returns:
        The training set, without any sample that has a held-out base or donor, and the held-out
        samples, each once, named `<part>/<name>` where they come from a balanced set.

    Raises:
        UserError: If nothing would be left to train on.
    """
    if not 0 < fraction < 1:
        raise UserError(f"hold-out fraction {fraction} must lie between 0 and 1")
    parts = parts_of(source)
    held = frozenset().union(*(_choose_photographs(part, fraction, seed, most) for part in parts))
    splits = [_split(part, held) for part in parts]
    for part, (train, _) in zip(parts, splits, strict=True):
        if not train.samples:
            raise UserError(
                f"{part.path}: holding out photographs for validation leaves none of its "
                f"{len(part)} images to train on; use a larger set, or --select last"
            )
    if isinstance(source, ImageSet):
        return splits[0]
    validation = replace(source, parts=tuple(val for _, val in splits))
    return replace(source, parts=tuple(train for train, _ in splits)), each_once(validation)


def parts_of(source: Source) -> tuple[ImageSet, ...]:
    """Return the sets that a source is made of; a set is its own only part."""
    return source.parts if isinstance(source, BalancedSet) else (source,)


def each_once(source: Source) -> ImageSet:
    """Return a source for evaluation: every image once, none drawn at random.

    Args:
        source: A set, returned as it is, or a balanced one, whose parts are joined.

    Returns:
        The set; samples of a balanced one are named `<part>/<name>`.
    """
    if isinstance(source, ImageSet):
        return source
    return ImageSet(
        name=source.name,
        kind="parts of a BalancedDataset, each image once",
        path=source.path,
        samples=tuple(
            replace(sample, name=f"{part.name}/{sample.name}")
            for part in source.parts
            for sample in part.samples
        ),
        pairing="; ".join(dict.fromkeys(part.pairing for part in source.parts)),
        notes=tuple(note for part in source.parts for note in part.notes),
    )


def thin_out(source: Source, count: int) -> Source:
    """Keep a few images of a set, evenly spread over it; for trying things out.

    Args:
        source: The set; of a balanced one each part is thinned, and its draws are reduced.
        count: The most images to keep (of each part). Tampered and authentic images are kept in the
            set's proportion, at least one of each where `count` allows it.

    Returns:
        The smaller set, in its own order; the same where it has no more images.
    """
    if isinstance(source, BalancedSet):
        parts = tuple(thin_out(part, count) for part in source.parts)
        kept = tuple(part for part in parts if isinstance(part, ImageSet))
        return replace(source, parts=kept, sample_number=min(source.sample_number, count))
    if len(source) <= count:
        return source
    tampered = [i for i, sample in enumerate(source.samples) if sample.mask is not None]
    authentic = [i for i, sample in enumerate(source.samples) if sample.mask is None]
    share = round(count * len(authentic) / len(source))
    wanted = min(max(share, min(1, len(authentic))), count - min(1, len(tampered)))
    chosen = {*_spread(tampered, count - wanted), *_spread(authentic, wanted)}
    note = f"{source.name}: {len(chosen)} of its {len(source)} images are used"
    samples = tuple(sample for i, sample in enumerate(source.samples) if i in chosen)
    return replace(source, samples=samples, notes=(*source.notes, note))


def _spread(indices: list[int], count: int) -> list[int]:
    """Return so many of the indices, evenly spread."""
    return [indices[place * len(indices) // count] for place in range(min(count, len(indices)))]


def fingerprint(source: Source) -> str:
    """Return a hash over the names, sizes and times of change of a set's files.

    Args:
        source: The set.

    Returns:
        64 hexadecimal digits, the same as long as no file was added, removed, renamed or changed.

    Raises:
        UserError: If a file has gone.
    """
    return fingerprints(source)["fingerprint"]


def fingerprints(source: Source) -> dict[str, str]:
    """Return what a stored cell keeps of its set, in one look at every file.

    Args:
        source: The set.

    Returns:
        `fingerprint`, and `sizes_fingerprint`: without the times, so that a copy of the set has the
        same.

    Raises:
        UserError: If a file has gone.
    """
    timed, copied = hashlib.sha256(), hashlib.sha256()
    for name, status in _named_files(source):
        size = "" if status is None else f"\0{status.st_size}"
        time = "" if status is None else f"\0{status.st_mtime_ns}"
        timed.update(f"{name}{size}{time}\0".encode())
        copied.update(f"{name}{size}\0".encode())
    return {"fingerprint": timed.hexdigest(), "sizes_fingerprint": copied.hexdigest()}


def _named_files(source: Source) -> Iterator[tuple[str, os.stat_result | None]]:
    """Return the names of a set's parts and files in order, and the state of what is a file."""
    for part in parts_of(source):
        yield f"{part.name}\0{part.kind}\0{len(part)}", None
        for sample in part.samples:
            yield sample.name, _state(sample.image)
            mask = sample.mask
            yield (NEGATIVE, None) if mask is None else (mask.name, _state(mask))


# --- what a path names ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """A named set, not yet read: a folder, or the records of a JSON file."""

    name: str
    path: Path
    records: list[Any] | None = None


def _raise(problem: Finding) -> None:
    raise UserError(problem.line())


def _entries(path: Path, name: str | None) -> list[_Entry]:
    if _exists(path) and path.is_dir():
        return [_Entry(name or path.resolve().name, path)]
    content = _load_json(path)
    if isinstance(content, list):
        return [_Entry(name or path.stem, path, content)]
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON list or dict, found {_describe(content)}")
    if not content:
        raise UserError(f"{path}: names no set; expected a dict of name to path")
    return [_named_entry(key, value, path) for key, value in content.items()]


def _named_entry(name: str, value: object, listing: Path) -> _Entry:
    if isinstance(value, list):
        return _Entry(name, listing, value)
    if not isinstance(value, str):
        raise UserError(
            f'{listing}: "{name}" must be the path of a folder or JSON list, '
            f"found {_describe(value)}"
        )
    path = _locate(value, listing.parent)
    if path is None:
        raise UserError(
            f'{listing}: "{name}" names {value}, which is neither below {listing.parent or "."} '
            "nor below the working folder"
        )
    if path.is_dir():
        return _Entry(name, path)
    content = _load_json(path)
    if not isinstance(content, list):
        raise UserError(
            f'{listing}: "{name}" names {path}, which must be a folder or a JSON list, '
            f"found {_describe(content)}"
        )
    return _Entry(name, path, content)


def _load_json(path: Path) -> Any:  # noqa: ANN401 (whatever the file holds)
    if not _exists(path):
        near = suggest(path.name, _names_in(path.absolute().parent))
        raise UserError(f"{path}: no such folder or file.{near}")
    check_confined(path)
    try:
        return parse_json(path.read_text(encoding="utf-8-sig"), _unique_keys)
    except _DuplicateKeyError as error:
        raise UserError(f'{path}: the name "{error}" stands in it twice') from None
    except ValueError as error:
        where = f" ({error})" if path.suffix.lower() == ".json" else ""
        raise UserError(
            f"{path}: neither a folder with Tp/ and Gt/ nor a file that holds JSON{where}"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


class _DuplicateKeyError(Exception):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise _DuplicateKeyError(key)
        content[key] = value
    return content


def _describe(value: object) -> str:
    kinds: dict[type, str] = {dict: "a nested dict", list: "a list", str: "the string"}
    return f"{kinds.get(type(value), 'the value')} {json.dumps(value)[:60]}"


def _locate(text: str, base: Path) -> Path | None:
    """Find a path: absolute, or below the JSON's folder, or below the working folder.

    As it is written; else as Windows would read it, with backslashes between the folders; else with
    its accents as macOS stores them, or as everybody else does.
    """
    for name in _spellings(text):
        for path in (base / name, Path(name)):
            if _exists(path):
                return path
    return None


def _spellings(text: str) -> Iterator[str]:
    yield text
    if "\\" in text:
        yield (text := text.replace("\\", "/"))
    if not text.isascii():
        yield unicodedata.normalize("NFC", text)
        yield unicodedata.normalize("NFD", text)


def _exists(path: Path) -> bool:
    # Unlike Path.exists, this says no to a name that is too long or not allowed.
    return os.path.exists(path)  # noqa: PTH110


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 (names are wanted, not paths)
    except OSError:
        return []


def _read_entry(entry: _Entry, pair: Pair, report: Report) -> Source:
    source = _read_unconfined(entry, pair, report)
    if is_confined():  # before anything starts; reading a file checks it again
        for part in parts_of(source):
            for file in (file for sample in part.samples for file in (sample.image, sample.mask)):
                if file is not None:
                    check_confined(file)
    return source


def _read_unconfined(entry: _Entry, pair: Pair, report: Report) -> Source:
    if entry.records is None:
        return _read_folder(entry.path, entry.name, pair, report)
    records = _check_records(entry.records, entry.path)
    if not records:
        raise UserError(f"{entry.path}: the list is empty")
    if _names_classes(records, entry.path):
        return _read_balanced(records, entry, pair, report)
    return _read_list(records, entry.path, entry.name, pair, report)


def _check_records(records: list[Any], path: Path) -> list[tuple[str, str]]:
    checked = []
    for number, record in enumerate(records, 1):
        if not (isinstance(record, list) and len(record) == _PAIR):
            raise UserError(
                f'{path}: entry {number} must be [image, mask or "{NEGATIVE}"] or '
                f"[dataset class, path], found {_describe(record)}"
            )
        if not all(isinstance(text, str) for text in record):
            raise UserError(
                f"{path}: entry {number} must hold two strings, found {_describe(record)}"
            )
        checked.append((record[0], record[1]))
    return checked


# --- folders and lists ---------------------------------------------------------------------------


def _read_folder(folder: Path, name: str, pair: Pair, report: Report) -> ImageSet:
    tp, gt = folder / "Tp", folder / "Gt"
    for needed in (tp, gt):
        if not needed.is_dir():
            raise UserError(_describe_folder(folder, needed.name))
    images, image_notes = _list_images(tp)
    masks, mask_notes = _list_images(gt)
    if not images:
        raise UserError(f"{tp}: holds no images")
    if pair == "position":
        pairs, pairing = pair_by_position(images, masks, folder), "position"
    else:
        pairs, pairing = pair_by_name(images, masks, folder, report)
    photos, photo_notes = _read_photos(folder)
    samples = tuple(
        Sample(tp / image, gt / mask, f"Tp/{image}", photos.get(f"Tp/{image}", ()))
        for image, mask in pairs
    )
    notes = (*image_notes, *mask_notes, *photo_notes, *_authentic_note(folder))
    return ImageSet(name, "ManiDataset", folder, samples, pairing, notes=notes)


def _describe_folder(folder: Path, missing: str) -> str:
    names = _names_in(folder)
    found = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")  # noqa: PLR2004 (one line)
    lists = [name for name in names if name.lower().endswith(".json")]
    hint = suggest(missing, [name for name in names if name.lower() == missing.lower()])
    hint = hint or (f" Perhaps its list {folder / lists[0]} was meant." if lists else "")
    return (
        f"{folder}: has no {missing}/ (a data folder holds Tp/ and Gt/); "
        f"found {found or 'nothing'}.{hint}"
    )


def _authentic_note(folder: Path) -> tuple[str, ...]:
    if not (folder / "Au").is_dir():
        return ()
    return (
        f"{folder / 'Au'} is not read: a Tp/Gt folder holds tampered images only "
        "(authentic ones need a JSON list)",
    )


def _list_images(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    """Return a folder's image file names, sorted as IMDLBenCo sorts them, and notes on the rest."""
    images, clutter, others = [], [], []
    for name, is_folder in _scan(folder):
        if name.startswith(".") or name.lower() in _CLUTTER:
            clutter.append(name)
        elif is_folder or Path(name).suffix.lower() not in IMAGE_EXTENSIONS:
            others.append(name + ("/" if is_folder else ""))
        else:
            images.append(name)
    notes = tuple(
        f"{folder}: ignored {len(names)} {what} ({_some(sorted(names))})"
        for what, names in (("hidden or system files", clutter), ("that are no images", others))
        if names
    )
    return sorted(images), notes


def _scan(folder: Path) -> list[tuple[str, bool]]:
    """Return the names in a folder and whether each is a folder itself."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir()) for entry in entries]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from None
    for name, _ in found:
        if not name.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in name):
            raise UserError(f"{folder}: the file name {name!a} is not valid UTF-8; rename it")
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")


def _read_list(
    records: list[tuple[str, str]], path: Path, name: str, pair: Pair, report: Report
) -> ImageSet:
    located = _locate_records(records, path, report)
    if pair == "name":
        pairing = check_written_pairs(located, path, report)
    else:
        pairing = "position (as the list is written)"
    return _listed_set(located, path, name, "JsonDataset", pairing)


def _listed_set(
    pairs: list[tuple[Path, Path | None]], path: Path, name: str, kind: str, pairing: str
) -> ImageSet:
    if not pairs:
        raise UserError(f"{path}: no usable image is left of its list")
    folder = path if path.is_dir() else path.parent
    photos, notes = _read_photos(folder)
    # Absolute, but with links left as they are: a link's name is the name that the user knows.
    absolute = [os.path.abspath(image) for image, _ in pairs]  # noqa: PTH100
    photos_at = {os.path.abspath(folder / name): of for name, of in photos.items()}  # noqa: PTH100
    names, repeated = _unique_names(_relative_names(absolute, os.path.abspath(folder)))  # noqa: PTH100
    if repeated:
        notes += (f"{path}: {repeated} images are listed more than once, and count each time",)
    samples = tuple(
        Sample(image, mask, sample_name, photos_at.get(file, ()))
        for (image, mask), sample_name, file in zip(pairs, names, absolute, strict=True)
    )
    return ImageSet(name, kind, path, samples, pairing, notes=notes)


def _locate_records(
    records: list[tuple[str, str]], path: Path, report: Report
) -> list[tuple[Path, Path | None]]:
    located: list[tuple[Path, Path | None]] = []
    missing: list[str] = []
    for image_text, mask_text in records:
        image = _locate(image_text, path.parent)
        mask = None if mask_text == NEGATIVE else _locate(mask_text, path.parent)
        lost = [
            text
            for text, file in ((image_text, image), (mask_text, mask))
            if file is None and text != NEGATIVE
        ]
        missing += lost
        if image is not None and not lost:
            located.append((image, mask))
    if missing:
        mend = f"relative paths are sought below {path.parent or '.'} and the working folder"
        if any(text.lower() == NEGATIVE.lower() for text in missing):
            mend = f'an authentic image is marked "{NEGATIVE}", with this spelling'
        elif any(_DRIVE.match(text) for text in missing):
            mend = "a drive of Windows is not here: write paths relative to the list"
        report(
            Finding(
                "missing files",
                f"{path}: {len(missing)} files that it names do not exist",
                mend,
                len(missing),
                tuple(missing[:EXAMPLES]),
            )
        )
    return located


def _relative_names(files: list[str], folder: str) -> list[str]:
    """Return posix paths relative to `folder`, or to the deepest common one if some lie outside."""
    root = folder
    if not all(file.startswith(root + os.sep) for file in files):
        root = os.path.commonpath([os.path.dirname(file) for file in files])  # noqa: PTH120
    start = len(root.rstrip(os.sep)) + 1
    return [file[start:].replace(os.sep, "/") for file in files]


def _unique_names(names: list[str]) -> tuple[list[str], int]:
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return unique, sum(count > 1 for count in seen.values())


# --- balanced lists ------------------------------------------------------------------------------


def _names_classes(records: list[tuple[str, str]], path: Path) -> bool:
    """Tell a list of [dataset class, path] from one of [image, mask]."""
    classes = [
        first
        for first, _ in records
        if first.isidentifier() and _locate(first, path.parent) is None
    ]
    if not classes:
        return False
    if len(classes) < len(records):
        raise UserError(
            f'{path}: mixes dataset classes ("{classes[0]}") with image paths; '
            "a list holds either [image, mask] or [dataset class, path]"
        )
    known = _dataset_classes()
    for word in classes:
        if word not in known:
            raise UserError(
                f'{path}: "{word}" is neither an image nor a registered dataset class.'
                f"{suggest(word, known)}"
            )
    return True


def _dataset_classes() -> dict[str, Any]:
    # Imported here: IMDLBenCo's datasets import torch, which most of this module does without.
    import IMDLBenCo.datasets  # noqa: F401 (registers them)
    from IMDLBenCo.registry import DATASETS

    return DATASETS.module_dict


def _read_balanced(
    records: list[tuple[str, str]], entry: _Entry, pair: Pair, report: Report
) -> BalancedSet:
    parts = []
    for class_name, text in records:
        path = _locate(text, entry.path.parent)
        if path is None:
            raise UserError(f"{entry.path}: {class_name} is given {text}, which does not exist")
        parts.append(_read_part(class_name, path, pair, report))
    names, _ = _unique_names([part.name for part in parts])
    named = (replace(part, name=name) for part, name in zip(parts, names, strict=True))
    return BalancedSet(entry.name, entry.path, tuple(named))


def _read_part(class_name: str, path: Path, pair: Pair, report: Report) -> ImageSet:
    if class_name == "ManiDataset":
        return _read_folder(path, path.resolve().name, pair, report)
    if class_name == "JsonDataset":
        content = None if path.is_dir() else _load_json(path)
        if not isinstance(content, list) or not content:
            raise UserError(f"{path}: a JsonDataset is a JSON list of [image, mask] pairs")
        return _read_list(_check_records(content, path), path, path.stem, pair, report)
    return _read_foreign(class_name, path, report)


def _read_foreign(class_name: str, path: Path, report: Report) -> ImageSet:
    """Take the lists of a registered dataset class of someone else's."""
    from IMDLBenCo.datasets.abstract_dataset import AbstractDataset

    dataset_class = _dataset_classes()[class_name]
    if not (isinstance(dataset_class, type) and issubclass(dataset_class, AbstractDataset)):
        raise UserError(
            f"{path}: {class_name} cannot be a part of a balanced list; "
            "it is no subclass of IMDLBenCo's AbstractDataset"
        )
    try:
        dataset = dataset_class(str(path), is_resizing=True)
        written = list(zip(dataset.tp_path, dataset.gt_path, strict=True))
    except Exception as error:
        raise UserError(
            f"{path}: {class_name} cannot list it ({type(error).__name__}: {error})"
        ) from error
    pairs = _locate_records([(str(image), str(mask)) for image, mask in written], path, report)
    part = _listed_set(pairs, path, path.stem, class_name, f"as {class_name} lists them")
    return replace(
        part,
        notes=(*part.notes, f"{path}: {class_name} gives the list; images are read as in any set"),
    )


# --- photographs ---------------------------------------------------------------------------------


def _read_photos(folder: Path) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Read which photographs each image was made from, where a corpus manifest is in the folder."""
    path = folder / _MANIFEST
    if not path.is_file():
        return {}, ()
    content = _load_json(path)
    if not isinstance(content, dict) or content.get("kind") != _MANIFEST_KIND:
        return {}, (f"{path}: not a corpus manifest, ignored; source photographs are unknown",)
    if content.get("schema") != _MANIFEST_SCHEMA:
        raise UserError(
            f"{path}: has schema {content.get('schema')!r}, this version reads {_MANIFEST_SCHEMA}; "
            "upgrade the plugin or make the corpus again"
        )
    images = content.get("images")
    if not isinstance(images, dict):
        raise UserError(f'{path}: damaged, "images" is missing; make the corpus again')
    return {name: _photos_of(name, record, path) for name, record in images.items()}, ()


def _photos_of(name: str, record: object, path: Path) -> tuple[str, ...]:
    photos = record.get("photos") if isinstance(record, dict) else None
    if not isinstance(photos, list) or not all(isinstance(photo, str) for photo in photos):
        raise UserError(
            f'{path}: damaged, the entry of {name} has no list "photos"; make the corpus again'
        )
    return tuple(photos)


def _photograph(part: ImageSet, sample: Sample) -> str:
    """Return the base photograph's name, or one of the sample's own that no photograph can have."""
    return sample.photos[0] if sample.photos else f"{part.name}\0{sample.name}"


def _choose_photographs(part: ImageSet, fraction: float, seed: int, most: int) -> frozenset[str]:
    tampered: dict[str, bool] = {}
    for sample in part.samples:
        key = _photograph(part, sample)
        tampered[key] = tampered.get(key, False) or sample.mask is not None
    ranked = sorted(tampered, key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode()).digest())
    count = min(max(1, round(fraction * len(ranked))), most)
    chosen = ranked[:count]
    if not any(tampered[key] for key in chosen):
        # Validation is judged on tampered images: the last place goes to the first photograph that
        # has one.
        chosen[-1:] = next(([key] for key in ranked if tampered[key]), chosen[-1:])
    return frozenset(chosen)


def _split(part: ImageSet, held: frozenset[str]) -> tuple[ImageSet, ImageSet]:
    train, validation = [], []
    for sample in part.samples:
        if _photograph(part, sample) in held:
            validation.append(sample)
        elif held.isdisjoint(sample.photos):
            train.append(sample)
    dropped = len(part) - len(train) - len(validation)
    notes = part.notes
    if dropped:
        notes += (
            f"{part.path}: {dropped} images left out of training, a donor of theirs is held out",
        )
    return (
        replace(part, samples=tuple(train), notes=notes),
        replace(part, samples=tuple(validation), notes=()),
    )


def _state(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
