"""Masks as sets are distributed with them, read by the rule that a data set card names.

    default    tampered where `images.MASK_RULE` says so: white on black
    inverted   the reverse: black on white
    nonzero    tampered where any sample is above 0; also the rule for masks in NumPy's .npz
    green      tampered where green is above red, for masks that paint two regions
    red        tampered where red is above green

All samples are taken on the 8-bit scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsevit_plugin.cards.datasets import MaskRule
from sparsevit_plugin.harness.images import BadImage, decode_image, decode_mask
from sparsevit_plugin.harness.map_files import read_only_array

_TAMPERED = 255


@dataclass(frozen=True)
class RuledMask:
    """A mask in the shared form.

    Attributes:
        pixels: uint8, H x W, 255 where tampered, else 0.
        converted: Whether the file held something else than these values.
    """

    pixels: NDArray[np.uint8]
    converted: bool


def read_ruled_mask(files: Sequence[Path], rule: MaskRule) -> RuledMask:
    """Read the mask of one image.

    Args:
        files: Its mask files, at least one; tampered is what any of them says is tampered.
        rule: How each of them is read.

    Returns:
        The mask.

    Raises:
        BadImage: A file cannot be read, or they differ in size.
    """
    first, *others = (_read_one(file, rule) for file in files)
    pixels = first.pixels
    for file, other in zip(files[1:], others, strict=True):
        if other.pixels.shape != pixels.shape:
            raise BadImage(file, f"is of another size than {files[0]}, the same image's mask")
        pixels = np.maximum(pixels, other.pixels)
    return RuledMask(pixels, first.converted or bool(others))


def _read_one(file: Path, rule: MaskRule) -> RuledMask:
    if file.suffix.lower() == ".npz":
        return _binary(_read_npz(file, rule) != 0)
    if rule in ("default", "inverted"):
        mask = decode_mask(file)
        if rule == "default":
            return RuledMask(mask.pixels, not mask.binary)
        return _binary(mask.pixels == 0)
    pixels = decode_image(file).pixels
    if rule == "nonzero":
        tampered = pixels.any(axis=2)
        exact = np.array_equal(pixels, np.repeat(tampered[..., None], 3, axis=2) * _TAMPERED)
        return RuledMask(_binary(tampered).pixels, not exact)
    red, green = pixels[..., 0], pixels[..., 1]
    return _binary(green > red if rule == "green" else red > green)


def _binary(tampered: NDArray[np.bool_]) -> RuledMask:
    return RuledMask(tampered.astype(np.uint8) * np.uint8(_TAMPERED), converted=True)


def _read_npz(file: Path, rule: MaskRule) -> NDArray:
    if rule != "nonzero":
        raise BadImage(file, f"is a NumPy file, which the mask rule {rule} is not for")
    return read_only_array(file)
