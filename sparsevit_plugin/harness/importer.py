"""Import of a set as it is distributed into the shared format.

    DATA_ROOT/<folder>/Tp/            tampered images, the very files: linked or copied
    DATA_ROOT/<folder>/Gt/            their masks, PNG of 0 and 255, with the images' names
    DATA_ROOT/<folder>/Au/            authentic images
    DATA_ROOT/<folder>/list.json      [["Tp/...", "Gt/..."], ..., ["Au/...", "Negative"], ...]
    DATA_ROOT/<folder>/manifest.json  per image: its origin and source photographs; and what was
                                      converted, left out, or not known

Everything is written to a hidden folder beside the target, which takes the target's place when it
is whole. An import that was killed goes on from there.
"""

import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

import cv2
from filelock import FileLock, Timeout

from sparsevit_plugin.cards.datasets import DatasetCard
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import parse_json, write_json_atomic
from sparsevit_plugin.harness.images import BadImage, decode_image, open_picture
from sparsevit_plugin.harness.import_plan import Item, Plan, plan_import
from sparsevit_plugin.harness.mask_rules import read_ruled_mask
from sparsevit_plugin.harness.sources import NEGATIVE
from sparsevit_plugin.versions import installed_version

Link: TypeAlias = Literal["hard", "symlink", "copy"]
Advance: TypeAlias = Callable[[int, int], None]

LISTED = 5
"""How many files a message names."""

_EXIF_ORIENTATION = 0x0112
_FIRST_LYING_ORIENTATION = 5  # EXIF 2.32: 5 to 8 exchange width and height
_CHUNK = 64  # images in flight at a time: a set may have a million
_JOURNAL = "journal.jsonl"
_PLAN = "plan.json"
_CANNOT_LINK = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}
)


@dataclass(frozen=True)
class Problem:
    """An image that was left out, or a mask without one.

    Attributes:
        file: Its path below the imported folder.
        kind: What is wrong, in words that fit after a number.
        detail: More, where there is more to say.
    """

    file: str
    kind: str
    detail: str = ""


@dataclass
class ImportReport:
    """What an import did, or under `--dry-run` would do.

    Attributes:
        card: The set's card.
        target: The folder of the imported set.
        tampered: Tampered images in it.
        authentic: Authentic images in it.
        converted: Masks whose values were changed to 0 and 255.
        empty: Masks without a tampered pixel.
        renamed: Images that got another name because two had the same.
        problems: What was left out.
        clutter: Number of files that are known not to belong to the set, by what they are.
        others: Number of files that are no images, by their extension.
        unmatched: Image files that no rule knows.
        placed: How many images were linked or copied, by how.
        resumed: Images that an earlier, killed import had done.
        written: Whether the set was written.
    """

    card: DatasetCard
    target: Path
    tampered: int = 0
    authentic: int = 0
    converted: int = 0
    empty: int = 0
    renamed: int = 0
    problems: list[Problem] = field(default_factory=list)
    clutter: dict[str, int] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    placed: dict[str, int] = field(default_factory=dict)
    resumed: int = 0
    written: bool = False

    def count_differences(self) -> list[str]:
        """Return in words where the counts differ from the card's."""
        if not self.card.counts:
            return []
        expected = self.card.counts[0]
        return [
            f"{found} {label} images, but {wanted} according to {expected.source}"
            for label, found, wanted in (
                ("tampered", self.tampered, expected.tampered),
                ("authentic", self.authentic, expected.authentic),
            )
            if wanted is not None and found != wanted
        ]

    def lines(self) -> list[str]:
        """Return the report as text."""
        done = "imported" if self.written else "would import"
        text = [f"{self.card.name}: {done} {self.tampered} tampered and {self.authentic} authentic "
                f"images into {self.target}"]  # fmt: skip
        if self.card.layout == "unverified":
            text.append(
                "  layout: unverified: no source shows how the distribution is laid out, so the "
                "rules are a guess; look at some images and masks"
            )
        text += [f"  counts differ: {words}" for words in self.count_differences()]
        facts = {
            "masks were converted to 0 and 255": self.converted,
            "masks have no tampered pixel; these images count as authentic": self.empty,
            "images were renamed, because names repeat": self.renamed,
            "images were there from an import that was stopped": self.resumed,
        }
        text += [f"  {number} {words}" for words, number in facts.items() if number]
        text += [f"  left out: {line}" for line in problem_lines(self.problems)]
        if self.unmatched:
            text.append(f"  left out: {_listed(self.unmatched, 'images that match no rule')}")
        text += [f"  not of the set: {count} {what}" for what, count in self.clutter.items()]
        if self.others:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in self.others.items())
            text.append(f"  no images: {kinds}")
        if self.placed:
            how = ", ".join(f"{count} by {kind}" for kind, count in self.placed.items())
            text.append(f"  files placed: {how}")
        return text


def problem_lines(problems: Sequence[Problem]) -> list[str]:
    """Return a line for each kind of problem: how many, and which for example."""
    kinds: dict[str, list[str]] = {}
    for problem in problems:
        shown = f"{problem.file} ({problem.detail})" if problem.detail else problem.file
        kinds.setdefault(problem.kind, []).append(shown)
    return [_listed(shown, kind) for kind, shown in kinds.items()]


def _listed(files: Sequence[str], what: str) -> str:
    more = ", ..." if len(files) > LISTED else ""
    return f"{len(files)} {what}: {', '.join(files[:LISTED])}{more}"


def import_set(
    card: DatasetCard,
    source: Path,
    target: Path,
    *,
    link: Link = "hard",
    allow_unmatched: bool = False,
    allow_mismatched: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Advance | None = None,
) -> ImportReport:
    """Import a set.

    Args:
        card: The set's card.
        source: The set as it is distributed, unpacked; never changed.
        target: Folder of the imported set.
        link: How photographs come into the target: by a hard link (or a copy, where the file
            system cannot link), a symbolic link, or a copy.
        allow_unmatched: Leave out image files that no rule knows, and list them in the manifest.
        allow_mismatched: Leave out images whose mask is missing, unreadable, one of several, or of
            another size, and masks without an image, and list them in the manifest.
        overwrite: Replace a target that an import wrote before.
        dry_run: Read everything and write nothing.
        progress: Called with images done and images in all.

    Returns:
        What was done.

    Raises:
        UserError: The folder does not hold the set, something does not match and is not allowed,
            the target may not be written, or the disk is full.
    """
    _check_target(card, source, target, overwrite=overwrite)
    plan = plan_import(card, source)
    report = _first_report(card, target, plan)
    if plan.unmatched and not allow_unmatched:
        raise UserError(_unmatched_line(card, source, plan.unmatched))
    names = _target_names(plan.items)
    report.renamed = sum(
        PurePosixPath(names[item.image]).name != PurePosixPath(item.image).name
        for item in plan.items
    )
    if dry_run:
        records = dict(_process(plan.items, lambda item: _check(source, item), progress))
        _finish_report(report, plan, records, allow_mismatched=allow_mismatched)
        return report
    with _locked(target):
        partial = target.with_name(f".{target.name}.importing")
        writer = _Writer(source, partial, names, link)
        try:
            records = writer.write(_fingerprint(card, source, plan, link), plan.items, progress)
            report.resumed = writer.resumed
            _finish_report(report, plan, records, allow_mismatched=allow_mismatched)
            _write_lists(partial, source, plan=plan, names=names, records=records, report=report)
            _take_place(partial, target)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise UserError(
                f"{target}: cannot be written: {error.strerror or error}{where}; what is done is "
                f"kept in {partial}, and the same command goes on from there"
            ) from error
    report.written = True
    return report


def _check_target(card: DatasetCard, source: Path, target: Path, *, overwrite: bool) -> None:
    here, there = source.resolve(), target.resolve()
    if here == there or there.is_relative_to(here) or here.is_relative_to(there):
        raise UserError(
            f"{target}: the imported set of {card.name} cannot be written into or around the "
            f"distributed one, {source}; choose another --out or --data-root"
        )
    if not target.exists():
        return
    if not overwrite:
        raise UserError(f"{target}: exists already; --overwrite replaces it")
    if not _was_imported(target):
        # Never deleted, not even under --overwrite: nobody knows what it is.
        raise UserError(f"{target}: was not written by an import; remove it yourself")


def _was_imported(target: Path) -> bool:
    try:
        manifest = parse_json((target / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and "import" in manifest


def _first_report(card: DatasetCard, target: Path, plan: Plan) -> ImportReport:
    suffixes = Counter(PurePosixPath(path).suffix.lower() or "(none)" for path in plan.others)
    problems = [Problem(file, "tampered images without a mask") for file in plan.without_mask]
    problems += [
        Problem(file, "tampered images with several possible masks") for file in plan.several_masks
    ]
    problems += [Problem(file, "masks without an image") for file in plan.without_image]
    return ImportReport(
        card=card,
        target=target,
        problems=problems,
        clutter={what: len(files) for what, files in plan.clutter.items()},
        others=dict(suffixes.most_common()),
        unmatched=plan.unmatched,
    )


def _unmatched_line(card: DatasetCard, source: Path, unmatched: Sequence[str]) -> str:
    folders = Counter(str(PurePosixPath(path).parent) for path in unmatched)
    counts = ", ".join(f"{count} in {folder}/" for folder, count in folders.most_common(LISTED))
    more = ", ..." if len(folders) > LISTED else ""
    return (
        f"{source}: {len(unmatched)} images match no rule of the card of {card.name} ({counts}"
        f"{more}; such as {unmatched[0]}); if they are not of the set, --allow-unmatched leaves "
        "them out"
    )


# --- names ----------------------------------------------------------------------------------------


def _target_names(items: Sequence[Item]) -> dict[str, str]:
    """Return each image's path in the target, by its path in the source.

    An image keeps its name unless another of its label has the same stem (case aside, as some file
    systems have it): then all of these get their folders' names in front.
    """
    stems = Counter(_stem(item, item.image.rpartition("/")[2]) for item in items)
    names: dict[str, str] = {}
    taken: set[str] = set()
    for item in items:
        name = item.image.rpartition("/")[2]
        if stems[_stem(item, name)] > 1:
            name = item.image.replace("/", "__")
        stem, dot, suffix = name.rpartition(".")
        number, unique = 1, name
        while _stem(item, unique) in taken:
            number += 1
            unique = f"{stem}_{number}{dot}{suffix}"
        taken.add(_stem(item, unique))
        names[item.image] = f"{_folder(item)}/{unique}"
    return names


def _folder(item: Item) -> str:
    return "Tp" if item.label == "tampered" else "Au"


def _stem(item: Item, name: str) -> str:
    return f"{_folder(item)}/{name.rpartition('.')[0].casefold()}"


def _mask_name(image_name: str) -> str:
    return f"Gt/{PurePosixPath(image_name).stem}.png"


# --- one image ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Record:
    """What is known of an image once it was looked at.

    Attributes:
        problem: What is wrong with it, None for nothing.
        detail: More about that.
        converted: Whether its mask's values were changed.
        empty: Whether its mask has no tampered pixel.
        placed: How the photograph came into the target.
    """

    problem: str | None = None
    detail: str = ""
    converted: bool = False
    empty: bool = False
    placed: str = ""


def _check(source: Path, item: Item, write_mask: Callable[[Any], None] | None = None) -> _Record:
    """Look at an image and its mask, and hand the mask on if both are as they should be."""
    try:
        size, lying = _image_size(source / item.image)
        if item.label == "authentic":
            return _Record()
        mask = read_ruled_mask([source / name for name in item.masks], item.mask_rule)
    except BadImage as error:
        if error.path.is_relative_to(source):
            return _Record("unreadable files", f"{error.path.relative_to(source)} {error.reason}")
        raise
    height, width = mask.pixels.shape
    if (width, height) != size and not (lying and (height, width) == size):
        turned = (height, width) == size
        kind = "masks lie on their side" if turned else "masks of another size"
        return _Record(kind, f"{size[0]} x {size[1]}, mask {width} x {height}")
    if write_mask is not None:
        write_mask(mask.pixels)
    return _Record(converted=mask.converted, empty=not mask.pixels.any())


def _image_size(path: Path) -> tuple[tuple[int, int], bool]:
    """Return (width, height) as stored, and whether EXIF says that the picture lies on its side.

    Only the file's header is read; where that fails the whole file is, for the reason.
    """
    try:
        with open_picture(path) as picture:
            orientation = picture.getexif().get(_EXIF_ORIENTATION, 1)
            return picture.size, orientation >= _FIRST_LYING_ORIENTATION
    except Exception:  # whatever a damaged file makes a reader raise
        pixels = decode_image(path).pixels
        return (pixels.shape[1], pixels.shape[0]), False


def _process(
    items: Sequence[Item], work: Callable[[Item], _Record], progress: Advance | None
) -> Iterator[tuple[str, _Record]]:
    """Work on every image in threads (the decoders release the interpreter's lock), in order."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(items), _CHUNK):
            chunk = items[start : start + _CHUNK]
            for item, record in zip(chunk, pool.map(work, chunk), strict=True):
                yield item.image, record
            if progress is not None:
                progress(min(start + _CHUNK, len(items)), len(items))


def _finish_report(
    report: ImportReport, plan: Plan, records: dict[str, _Record], *, allow_mismatched: bool
) -> None:
    """Count what was found.

    Raises:
        UserError: Something does not match and is not allowed.
    """
    for item in plan.items:
        record = records[item.image]
        if record.problem is not None:
            report.problems.append(Problem(item.image, record.problem, record.detail))
            continue
        report.tampered += item.label == "tampered"
        report.authentic += item.label == "authentic"
        report.converted += record.converted
        report.empty += record.empty
    placed = Counter(record.placed for record in records.values() if record.placed)
    report.placed = dict(placed.most_common())
    if report.problems and not allow_mismatched:
        raise UserError(
            f"{report.card.name}: {'; '.join(problem_lines(report.problems))}. --allow-mismatched "
            "leaves them out and lists them in the manifest"
        )
    if not report.tampered + report.authentic:
        raise UserError(f"{report.card.name}: 0 usable images are left")


# --- writing --------------------------------------------------------------------------------------


def _fingerprint(card: DatasetCard, source: Path, plan: Plan, link: Link) -> str:
    """Return a hash of what an import does, so that a killed one is only continued by its like."""
    digest = hashlib.sha256(card.model_dump_json().encode())
    digest.update(f"{source.resolve()}\0{link}".encode())
    for item in plan.items:
        for name in (item.image, *item.masks):
            status = (source / name).stat()
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _locked(target: Path) -> "_Lock":
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror or error}") from error
    return _Lock(target)


class _Lock:
    """Keeps a second import away from a target; the lock's file is removed afterwards."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._file = target.with_name(f".{target.name}.importing.lock")
        self._lock = FileLock(self._file)

    def __enter__(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"{self._target}: another import is writing it") from None
        except OSError as error:
            raise UserError(f"{self._target}: cannot be written: {error.strerror}") from error

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        self._file.unlink(missing_ok=True)


class _Writer:
    """Fills the hidden folder, and goes on where a killed import stopped."""

    def __init__(self, source: Path, folder: Path, names: dict[str, str], link: Link) -> None:
        self.resumed = 0
        self._source = source
        self._folder = folder
        self._names = names
        self._link = link

    def write(
        self, fingerprint: str, items: Sequence[Item], progress: Advance | None
    ) -> dict[str, _Record]:
        """Write every image that is not there yet; return what is known of each."""
        records = self._continue(fingerprint)
        self.resumed = len(records)
        left = [item for item in items if item.image not in records]
        # A line at a time goes to the system, so that a killed import loses none.
        with (self._folder / _JOURNAL).open("a", buffering=1, encoding="utf-8") as journal:
            for image, record in _process(left, self._write_one, progress):
                records[image] = record
                journal.write(json.dumps({"image": image, **asdict(record)}) + "\n")
        return records

    def _continue(self, fingerprint: str) -> dict[str, _Record]:
        """Return what a killed import had done, or begin anew."""
        plan = self._folder / _PLAN
        if not (plan.is_file() and fingerprint in plan.read_text(encoding="utf-8")):
            shutil.rmtree(self._folder, ignore_errors=True)
            for name in ("Tp", "Gt", "Au"):
                (self._folder / name).mkdir(parents=True)
            write_json_atomic(plan, {"fingerprint": fingerprint})
        journal = self._folder / _JOURNAL
        records: dict[str, _Record] = {}
        for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []:
            try:
                entry = parse_json(line)
                image = entry.pop("image")
                records[image] = _Record(**entry)
            except (ValueError, TypeError, KeyError):
                continue  # the line that was being written
        kept = [json.dumps({"image": image, **asdict(one)}) for image, one in records.items()]
        journal.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        return records

    def _write_one(self, item: Item) -> _Record:
        name = self._names[item.image]

        def write_mask(pixels: Any) -> None:  # noqa: ANN401 (an array)
            encoded = cv2.imencode(".png", pixels)[1].tobytes()
            self._put(self._folder / _mask_name(name), lambda path: path.write_bytes(encoded))

        record = _check(self._source, item, write_mask)
        if record.problem is not None:
            return record
        how = self._place(self._source / item.image, self._folder / name)
        return _Record(converted=record.converted, empty=record.empty, placed=how)

    def _place(self, photograph: Path, target: Path) -> str:
        """Link or copy a photograph; return which."""
        real = photograph.resolve()
        if self._link == "symlink":
            self._put(target, lambda path: path.symlink_to(real))
            return "symbolic link"
        if self._link == "hard":
            try:
                self._put(target, lambda path: path.hardlink_to(real))
                return "hard link"
            except OSError as error:
                if error.errno not in _CANNOT_LINK:
                    raise
        self._put(target, lambda path: shutil.copy2(real, path))
        return "copy"

    @staticmethod
    def _put(target: Path, make: Callable[[Path], object]) -> None:
        """Make a file under another name first: a killed import leaves no half one."""
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.unlink(missing_ok=True)
        make(temporary)
        # Over another link to the same file a rename does nothing and leaves both names.
        target.unlink(missing_ok=True)
        temporary.replace(target)


def _write_lists(
    folder: Path,
    source: Path,
    *,
    plan: Plan,
    names: dict[str, str],
    records: dict[str, _Record],
    report: ImportReport,
) -> None:
    """Write the list and the manifest, and remove what only a continued import needs."""
    images: dict[str, dict[str, Any]] = {}
    pairs: list[list[str]] = []
    for item in sorted(plan.items, key=lambda one: (one.label == "authentic", names[one.image])):
        if records[item.image].problem is not None:
            continue
        name = names[item.image]
        entry: dict[str, Any] = {"photos": list(item.photos), "origin": item.image}
        if item.label == "tampered":
            entry = {"mask": _mask_name(name), **entry, "mask_origin": list(item.masks)}
        images[name] = entry
        pairs.append([name, entry.get("mask", NEGATIVE)])
    _write_lines(folder / "list.json", "[", "]", [json.dumps(pair) for pair in pairs])
    manifest = {
        "schema": 1,
        "kind": "sparsevit-corpus",  # what `sources` reads source photographs from
        "name": report.card.name,
        "import": _import_section(source, plan, report),
    }
    head = json.dumps(manifest, indent=1, ensure_ascii=False).removesuffix("\n}")
    # One line an image: it can be searched with grep.
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in images.items()]
    _write_lines(folder / "manifest.json", f'{head},\n "images": {{', "}}", lines)
    (folder / _JOURNAL).unlink()
    (folder / _PLAN).unlink()


def _write_lines(path: Path, head: str, tail: str, lines: Sequence[str]) -> None:
    path.write_text(f"{head}\n" + ",\n".join(lines) + f"\n{tail}\n", encoding="utf-8")


def _import_section(source: Path, plan: Plan, report: ImportReport) -> dict[str, Any]:
    card = report.card
    return {
        "card": card.name,
        "source": source.resolve().name,
        "layout": card.layout,
        "layout_source": [one.model_dump() for one in card.layout_source],
        "counts": {"tampered": report.tampered, "authentic": report.authentic},
        "card_counts": [one.model_dump() for one in card.counts],
        "masks_converted": report.converted,
        "masks_empty": report.empty,
        "mask_rules": dict(Counter(item.mask_rule for item in plan.items if item.masks)),
        "renamed": report.renamed,
        "placed": report.placed,
        "left_out": [asdict(problem) for problem in report.problems],
        "unmatched": plan.unmatched,
        "clutter": plan.clutter,
        "no_images": report.others,
        "plugin": installed_version("sparsevit-plugin"),
    }


def _take_place(partial: Path, target: Path) -> None:
    """Move the whole set to its place; what an import wrote there before is removed."""
    if not target.exists():
        partial.rename(target)
        return
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    partial.rename(target)
    shutil.rmtree(old)
