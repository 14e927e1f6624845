"""Which mask belongs to which image: by file name, or by position where a user asks for it.

By name means equal stems, or that each mask's stem is its image's stem plus one suffix common to
the set. A violation is reported as a `Finding`; who reads a set decides whether that ends it.
"""

import bisect
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sparsevit_plugin.errors import UserError

EXAMPLES = 5  # how many files a message names
_PROPOSERS = 50
_PROPOSALS = 10


@dataclass(frozen=True)
class Finding:
    """Something worth telling about the files of a set.

    Attributes:
        kind: What it is, in a word or two.
        text: What it is, how often and where.
        advice: What to do, or what is done; may be empty.
        count: How many files it concerns.
        examples: The first few of them.
    """

    kind: str
    text: str
    advice: str
    count: int = 1
    examples: tuple[str, ...] = ()

    def line(self) -> str:
        """Return the finding in one line."""
        shown = ", ".join(self.examples)
        if self.count > len(self.examples) > 0:
            shown += ", ..."
        told = f"{self.text}: {shown}" if shown else self.text
        return f"{told}; {self.advice}" if self.advice else told


Report: TypeAlias = Callable[[Finding], None]


def _stem(name: str) -> str:
    # One file system stores an accent apart from its letter, another does not.
    # Sets have up to a million names, for which Path is slow.
    return unicodedata.normalize("NFC", os.path.splitext(name)[0])  # noqa: PTH122


def pair_by_position(images: list[str], masks: list[str], folder: Path) -> list[tuple[str, str]]:
    """Pair two sorted listings as IMDLBenCo does, but only where they are equally long.

    Args:
        images: File names in Tp/, sorted.
        masks: File names in Gt/, sorted.
        folder: The set's folder, for the error.

    Returns:
        Pairs of image and mask.

    Raises:
        UserError: If the numbers differ.
    """
    if len(images) != len(masks):
        raise UserError(
            f"{folder}: {len(images)} images in Tp/ but {len(masks)} masks in Gt/; "
            "pairing by position needs equal numbers"
        )
    return list(zip(images, masks, strict=True))


def pair_by_name(
    images: list[str], masks: list[str], folder: Path, report: Report
) -> tuple[list[tuple[str, str]], str]:
    """Pair images and masks by their names.

    Args:
        images: File names in Tp/, sorted.
        masks: File names in Gt/, sorted.
        folder: The set's folder, for the problems.
        report: Takes files that have no counterpart, and names that fit more than one.

    Returns:
        The pairs that fit, sorted by image, and the rule in words.
    """
    for side, names in (("Tp", images), ("Gt", masks)):
        _report_equal_stems(folder / side, names, report)
    image_of = {_stem(name): name for name in reversed(images)}
    mask_of = {_stem(name): name for name in reversed(masks)}
    suffix = common_suffix(list(image_of), list(mask_of))
    pairs = [
        (image, mask_of[stem + suffix])
        for stem, image in sorted(image_of.items(), key=lambda item: item[1])
        if stem + suffix in mask_of
    ]
    paired_masks = {mask for _, mask in pairs}
    lone_images = [name for stem, name in image_of.items() if stem + suffix not in mask_of]
    lone_masks = [name for name in mask_of.values() if name not in paired_masks]
    if lone_images or lone_masks:
        report(_unpaired(folder, suffix, sorted(lone_images), sorted(lone_masks)))
    return pairs, _pairing_words(suffix)


def _pairing_words(suffix: str) -> str:
    return f'name, mask suffix "{suffix}"' if suffix else "name"


def _report_equal_stems(folder: Path, names: list[str], report: Report) -> None:
    counts = Counter(map(_stem, names))
    equal = [name for name in names if counts[_stem(name)] > 1]
    if equal:
        report(
            Finding(
                "ambiguous names",
                f"{folder}: {len(equal)} files differ in their extension only",
                "rename or remove one of each, or pair them in a JSON list",
                len(equal),
                tuple(equal[:EXAMPLES]),
            )
        )


def _unpaired(folder: Path, suffix: str, images: list[str], masks: list[str]) -> Finding:
    rule = f'ends in "{suffix}" in this set' if suffix else "has the image's name in this set"
    return Finding(
        "unpaired",
        f"{folder}: {len(images)} images without a mask and {len(masks)} masks without an image "
        f"(a mask {rule})",
        "add or remove the files, or pass --pair position if the sorted files do correspond",
        len(images) + len(masks),
        tuple(f"Tp/{name}" for name in images[:3]) + tuple(f"Gt/{name}" for name in masks[:2]),
    )


def common_suffix(image_stems: Sequence[str], mask_stems: Sequence[str]) -> str:
    """Find the one suffix that turns most image stems into mask stems.

    Args:
        image_stems: File names of images without extension.
        mask_stems: File names of masks without extension.

    Returns:
        The suffix, empty where names are equal or nothing fits better.
    """
    known = set(mask_stems)
    ordered = sorted(known)
    votes: Counter[str] = Counter()
    # A few images from all over the set propose; all of them judge.
    for stem in image_stems[:: max(1, len(image_stems) // _PROPOSERS)]:
        first = bisect.bisect_left(ordered, stem)
        near = ordered[first : first + _PROPOSERS]
        votes.update(name[len(stem) :] for name in near if name.startswith(stem))
    best = [suffix for suffix, _ in votes.most_common(_PROPOSALS)]
    proposed = sorted({"", *best}, key=lambda suffix: (len(suffix), suffix))
    return max(proposed, key=lambda suffix: sum(stem + suffix in known for stem in image_stems))


def check_written_pairs(pairs: list[tuple[Path, Path | None]], path: Path, report: Report) -> str:
    """See that a list's pairs follow the naming rule; a shifted column is the usual mistake.

    Args:
        pairs: Images with their masks, None for authentic ones.
        path: The list, for the problem.
        report: Takes the pairs whose names do not belong together.

    Returns:
        The rule in words.
    """
    named = [(image.name, mask.name) for image, mask in pairs if mask is not None]
    stems = [(_stem(image), _stem(mask)) for image, mask in named]
    endings = Counter(mask[len(image) :] for image, mask in stems if mask.startswith(image))
    suffix = endings.most_common(1)[0][0] if endings else ""
    misfits = [
        pair for pair, (image, mask) in zip(named, stems, strict=True) if mask != image + suffix
    ]
    if misfits:
        rule = f'the image\'s with "{suffix}" added' if suffix else "the image's"
        report(
            Finding(
                "unpaired",
                f"{path}: in {len(misfits)} of {len(named)} pairs the mask's name is not {rule}",
                "correct the list, or pass --pair position if it is right as written",
                len(misfits),
                tuple(f"{image} with {mask}" for image, mask in misfits[:EXAMPLES]),
            )
        )
    return _pairing_words(suffix)
