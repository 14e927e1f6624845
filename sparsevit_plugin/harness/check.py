"""Check a data source: read every image and mask once and report what a user should know.

Problems make a set unusable as it stands (or with `--on-bad-image skip` smaller than its user
thinks); remarks are things that the plugin copes with by a rule, named in the report.
"""

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from sparsevit_plugin.harness.images import (
    MASK_RULE,
    BadImage,
    SizeMismatch,
    decode_image,
    decode_mask,
    match_orientation,
)
from sparsevit_plugin.harness.pairing import EXAMPLES, Finding
from sparsevit_plugin.harness.sources import (
    ImageSet,
    Pair,
    Sample,
    Source,
    inspect_source,
)

Progress: TypeAlias = Callable[[int, int], None]

EMPTY_MASK = "mask without a tampered pixel"
FULL_MASK = "mask that is tampered all over"
SOFT_MASK = "mask that is not binary"
_MASK_ADVICE = {
    EMPTY_MASK: "these count as authentic",
    FULL_MASK: "these have no AUC, and every prediction's precision is 1",
    SOFT_MASK: f"the rule is: {MASK_RULE}",
}
_CHUNK = 64  # images in flight at a time: a set may have a million


@dataclass
class SetReport:
    """What was found in one set.

    Attributes:
        name: The set's name.
        kind: The IMDLBenCo dataset class.
        path: Its folder or list.
        pairing: How masks were paired with images.
        images: How many images were checked.
        tampered: How many of them have a tampered pixel.
        authentic: How many have none.
        photographs: How many source photographs are known.
        smallest: (width, height) of the image with the fewest pixels.
        largest: (width, height) of the image with the most pixels.
        formats: How many images there are of each file format.
        problems: What makes the set unusable as it stands.
        remarks: What the plugin copes with.
        notes: Ignored files and the like.
    """

    name: str
    kind: str
    path: str
    pairing: str = ""
    images: int = 0
    tampered: int = 0
    authentic: int = 0
    photographs: int = 0
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    formats: dict[str, int] = field(default_factory=dict)
    problems: list[Finding] = field(default_factory=list)
    remarks: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the set can be used as it stands."""
        return not self.problems

    def lines(self) -> list[str]:
        """Return the report as text, problems first."""
        state = "ok" if self.ok else f"{sum(found.count for found in self.problems)} problems"
        text = [f"{self.name}: {state} ({self.kind}, {self.path})"]
        text += [f"  problem: {found.line()}" for found in self.problems]
        if self.images:
            text.append(f"  {self._summary()}")
        text += [f"  remark: {found.line()}" for found in self.remarks]
        text += [f"  note: {note}" for note in self.notes]
        return text

    def _summary(self) -> str:
        parts = [f"{self.images} images: {self.tampered} tampered, {self.authentic} authentic"]
        if self.photographs:
            parts.append(f"from {self.photographs} photographs")
        if self.smallest and self.largest:
            sizes = [f"{width} x {height}" for width, height in (self.smallest, self.largest)]
            parts.append(" to ".join(dict.fromkeys(sizes)) + " pixels")
        parts += [f"{count} {name}" for name, count in self.formats.items()]
        return ", ".join(parts) + f"; paired by {self.pairing}"


@dataclass
class CheckReport:
    """What was found in a source.

    Attributes:
        path: The data path.
        sets: One report for each set; the parts of a balanced list each have theirs.
        remarks: What concerns several sets.
    """

    path: str
    sets: list[SetReport]
    remarks: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every set can be used as it stands."""
        return all(found.ok for found in self.sets)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as what JSON can hold."""
        sets = [{**asdict(found), "ok": found.ok} for found in self.sets]
        return {**asdict(self), "ok": self.ok, "mask_rule": MASK_RULE, "sets": sets}

    def lines(self) -> list[str]:
        """Return the report as text: sets with problems first, problems first in each."""
        ordered = sorted(self.sets, key=lambda found: found.ok)
        text = [line for found in ordered for line in found.lines()]
        return text + [f"remark: {found.line()}" for found in self.remarks]


def check_source(
    path: Path | str, pair: Pair = "name", *, progress: Progress | None = None
) -> CheckReport:
    """Read everything that a data path names and report on it.

    Args:
        path: Folder or JSON file, as `benco train --data_path` takes it.
        pair: "name" or "position", as `sources.read_source` takes it.
        progress: Called with the number of images done and the number of all.

    Returns:
        The report.

    Raises:
        UserError: If the path itself is no source.
    """
    found = inspect_source(path, pair=pair)
    total = sum(len(part) for source, _ in found.values() for part in _parts(source))
    done = itertools.count(1)

    def advance() -> None:
        if progress is not None:
            progress(next(done), total)

    report = CheckReport(str(path), [])
    digests: dict[str, dict[bytes, list[str]]] = {}
    for name, (source, problems) in found.items():
        if not isinstance(source, ImageSet):
            report.sets.append(_unread_set(name, source, path, problems))
        for part in _parts(source):
            part_name = name if source is part else f"{name}/{part.name}"
            part_report, digests[part_name] = _check_set(part, part_name, advance)
            if source is part:
                part_report.problems[:0] = problems
            report.sets.append(part_report)
    report.remarks += _shared_files(digests)
    return report


@dataclass(frozen=True)
class _Checked:
    """What is kept of one image once it has been read."""

    name: str
    error: BadImage | None = None
    tampered: bool = False
    size: tuple[int, int] = (0, 0)  # width, height
    format: str = ""
    digest: bytes = b""
    remarks: tuple[str, ...] = ()


def _parts(source: Source | None) -> tuple[ImageSet, ...]:
    if source is None:
        return ()
    return (source,) if isinstance(source, ImageSet) else source.parts


def _unread_set(
    name: str, source: Source | None, path: Path | str, problems: list[Finding]
) -> SetReport:
    """Report on what has no images of its own: a set that could not be read, a balanced list."""
    if source is None:
        return SetReport(name, "not readable", str(path), problems=problems)
    notes = [f"{len(_parts(source))} parts, each drawn from equally often"]
    return SetReport(name, "BalancedDataset", str(source.path), problems=problems, notes=notes)


def _check_set(
    images: ImageSet, name: str, advance: Callable[[], None]
) -> tuple[SetReport, dict[bytes, list[str]]]:
    """Check one set; return the report and the names of its images by the hash of their files."""
    checked = []
    for result in _check_samples(images.samples):
        checked.append(result)
        advance()
    readable = [result for result in checked if result.error is None]
    by_digest: dict[bytes, list[str]] = {}
    for result in readable:
        by_digest.setdefault(result.digest, []).append(result.name)
    sizes = sorted((result.size for result in readable), key=lambda size: size[0] * size[1])
    report = SetReport(
        name=name,
        kind=images.kind,
        path=str(images.path),
        pairing=images.pairing,
        images=len(checked),
        tampered=sum(result.tampered for result in readable),
        authentic=sum(not result.tampered for result in readable),
        photographs=len({photo for sample in images.samples for photo in sample.photos}),
        smallest=sizes[0] if sizes else None,
        largest=sizes[-1] if sizes else None,
        formats=dict(Counter(result.format for result in readable).most_common()),
        problems=_bad_images(checked),
        remarks=[*_group_remarks(readable), *_repeated_files(by_digest)],
        notes=list(images.notes),
    )
    return report, by_digest


def _check_samples(samples: Sequence[Sample]) -> Iterator[_Checked]:
    # Threads are enough: the decoders release the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(samples), _CHUNK):
            yield from pool.map(_check_sample, samples[start : start + _CHUNK])


def _check_sample(sample: Sample) -> _Checked:
    try:
        photograph = decode_image(sample.image)
        tampered, mask_remarks = False, []
        if sample.mask is not None:
            mask = decode_mask(sample.mask)
            photograph = match_orientation(photograph, mask, sample.image, sample.mask)
            tampered = bool(mask.pixels.any())
            facts = {
                EMPTY_MASK: not tampered,
                FULL_MASK: bool(mask.pixels.all()),
                SOFT_MASK: not mask.binary,
            }
            mask_remarks = [kind for kind, holds in facts.items() if holds]
        digest = hashlib.sha1(sample.image.read_bytes(), usedforsecurity=False).digest()
    except BadImage as error:
        return _Checked(sample.name, error)
    height, width = photograph.pixels.shape[:2]
    remarks = (*photograph.notes, *mask_remarks)
    return _Checked(
        sample.name, None, tampered, (width, height), photograph.format, digest, remarks
    )


def _bad_images(checked: Iterable[_Checked]) -> list[Finding]:
    errors = [result.error for result in checked if result.error is not None]
    mismatched = [error for error in errors if isinstance(error, SizeMismatch)]
    unreadable = [error for error in errors if not isinstance(error, SizeMismatch)]
    kinds = (
        ("unreadable", "files cannot be read", "replace or remove them", unreadable),
        ("sizes differ", "masks are not of their image's size", "correct the pairs", mismatched),
    )
    return [
        Finding(
            kind,
            f"{len(group)} {text}",
            f"{advice}, or pass --on-bad-image skip",
            len(group),
            tuple(str(error) for error in group[:EXAMPLES]),
        )
        for kind, text, advice, group in kinds
        if group
    ]


def _group_remarks(readable: Iterable[_Checked]) -> list[Finding]:
    groups: dict[str, list[str]] = {}
    for result in readable:
        for remark in result.remarks:
            groups.setdefault(remark, []).append(result.name)
    return [
        Finding(
            kind,
            f"{len(names)} x {kind}",
            _MASK_ADVICE.get(kind, ""),
            len(names),
            tuple(names[:EXAMPLES]),
        )
        for kind, names in sorted(groups.items())
    ]


def _repeated_files(by_digest: dict[bytes, list[str]]) -> list[Finding]:
    repeated = [names for names in by_digest.values() if len(names) > 1]
    if not repeated:
        return []
    return [
        Finding(
            "repeated file",
            f"{len(repeated)} image files stand in it more than once",
            "each copy counts",
            len(repeated),
            tuple(" = ".join(names[:2]) for names in repeated[:EXAMPLES]),
        )
    ]


def _shared_files(digests: dict[str, dict[bytes, list[str]]]) -> list[Finding]:
    findings = []
    for (first, one), (second, other) in itertools.combinations(digests.items(), 2):
        shared = [digest for digest in one if digest in other]
        if shared:
            findings.append(
                Finding(
                    "shared file",
                    f"{first} and {second} share {len(shared)} image files",
                    "a model trained on one has seen these of the other",
                    len(shared),
                    tuple(one[digest][0] for digest in shared[:EXAMPLES]),
                )
            )
    return findings
