"""Luma DCT coefficients of photographs, on the photographs' own 8 x 8 grid.

A JPEG file holds, for each 8 x 8 block of a component, 64 quantised DCT coefficients. Networks that
read compression traces take the luma's from the file itself: the decoded pixels no longer have
them.

A photograph that is no JPEG has none. CAT-Net's published loader (mjkwon2021/CAT-Net,
Splicing/data/dataset_arbitrary.py) saves such a photograph as a JPEG of quality 100 without chroma
subsampling and reads that; `resave_luma` does the same for the coefficients. They then say that the
file was not compressed, and nothing more. (That loader also takes the pixels of the re-saved JPEG,
which differ by rounding; here they stay the photograph's own.)
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparsevit_plugin.confinement import check_confined
from sparsevit_plugin.harness.images import (
    NOTE_CMYK,
    NOTE_EXIF_TURNED,
    NOTE_EXIF_UPRIGHT,
    BadImage,
)

BLOCK = 8
"""Side of a JPEG block in pixels."""

RESAVED_QUALITY = 100
"""Of the JPEG that is made of a photograph which is none: CAT-Net's."""

LumaSource: TypeAlias = Literal["file", "resaved"]

_START_OF_JPEG = b"\xff\xd8\xff"
# Component 0 is the luma in these colour models only.
_WITH_LUMA = ("JCS_YCbCr", "JCS_GRAYSCALE")
_LONGEST_SIDE = 65500  # libjpeg's JPEG_MAX_DIMENSION


@dataclass(frozen=True)
class Luma:
    """The luma of a JPEG as its file holds it.

    Attributes:
        coefficients: Quantised DCT coefficients, int16, 8 ceil(H / 8) x 8 ceil(W / 8). The block of
            pixels [8i, 8i + 8) x [8j, 8j + 8) has its coefficients there; in a block the row is the
            vertical frequency, the column the horizontal one, and (0, 0) the mean.
        table: Quantisation steps, uint16, 8 x 8, in the order of a block (not zigzag). Step x
            coefficient is the coefficient of the orthonormal DCT of the luma less 128.
        source: "file", or "resaved" when a JPEG was made of the pixels.
    """

    coefficients: NDArray[np.int16]
    table: NDArray[np.uint16]
    source: LumaSource


def padded_to_grid(side: int) -> int:
    """Return the smallest multiple of 8 that is not below `side`."""
    return -(-side // BLOCK) * BLOCK


def is_jpeg(path: Path) -> bool:
    """Say whether a file begins as a JPEG does, whatever its name.

    Raises:
        BadImage: It cannot be opened.
    """
    check_confined(path)
    try:
        with path.open("rb") as file:
            return file.read(len(_START_OF_JPEG)) == _START_OF_JPEG
    except OSError as error:
        raise BadImage(path, f"cannot be read: {error.strerror or error}") from error


def read_luma(path: Path) -> Luma | None:
    """Read the luma of a JPEG file.

    Args:
        path: A JPEG file, baseline or progressive.

    Returns:
        The luma; None for a JPEG whose first component is none (RGB, CMYK and YCCK files).

    Raises:
        BadImage: It is no JPEG, or is damaged.
    """
    if not is_jpeg(path):
        raise BadImage(path, "is not a JPEG file, so it has no DCT coefficients")
    import jpeglib  # a twentieth of the start of benco test, for the one model that asks for it

    try:
        jpeg = jpeglib.read_dct(str(path))
        if jpeg.jpeg_color_space.name not in _WITH_LUMA:
            return None
        blocks, table = jpeg.Y, jpeg.qt[jpeg.quant_tbl_no[0]]
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        raise BadImage(path, "its DCT coefficients cannot be read: damaged JPEG") from error
    plane = blocks.transpose(0, 2, 1, 3).reshape(blocks.shape[0] * BLOCK, -1)
    return Luma(np.ascontiguousarray(plane), np.array(table), "file")


def resave_luma(pixels: NDArray[np.uint8], path: Path, *, quality: int = RESAVED_QUALITY) -> Luma:
    """Return the luma of a JPEG made of decoded pixels.

    Args:
        pixels: uint8, H x W x 3, RGB.
        path: Where they come from, for the error.
        quality: Of the JPEG, on libjpeg's scale.

    Raises:
        BadImage: A side is longer than a JPEG can have.
    """
    height, width = pixels.shape[:2]
    if max(height, width) > _LONGEST_SIDE:
        raise BadImage(path, f"is {width} x {height} pixels, more than a JPEG of it could have")
    # jpeglib reads files only.
    with tempfile.TemporaryDirectory(prefix="benco-jpeg-") as folder:
        file = Path(folder) / "resaved.jpg"
        Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
        luma = read_luma(file)
    if luma is None:
        raise AssertionError("a JPEG made of RGB pixels has a luma")
    return replace(luma, source="resaved")


_WITHOUT_OWN_LUMA = frozenset({NOTE_CMYK, NOTE_EXIF_TURNED, NOTE_EXIF_UPRIGHT})


def luma_of(path: Path, pixels: NDArray[np.uint8], notes: Sequence[str] = ()) -> Luma:
    """Return the luma of a photograph: its file's own where that has one, else of a re-save.

    A file has none of its own when it is no JPEG, when its colour model has no luma, and when the
    pixels in use were turned by the EXIF orientation: blocks that the right or lower border cuts
    would not lie on a grid that starts at the upper left corner once they are turned.

    Args:
        path: The photograph's file.
        pixels: What was decoded from it and is used, uint8, H x W x 3.
        notes: What was converted, as `images.read_pair` has it.

    Returns:
        The luma; its plane covers H x W.

    Raises:
        BadImage: The file is a damaged JPEG, or too large to be saved as one.
    """
    luma = None
    if _WITHOUT_OWN_LUMA.isdisjoint(notes) and is_jpeg(path):
        luma = read_luma(path)
    if luma is None:
        return resave_luma(pixels, path)
    height, width = pixels.shape[:2]
    if luma.coefficients.shape != (padded_to_grid(height), padded_to_grid(width)):
        rows, columns = luma.coefficients.shape
        raise BadImage(
            path,
            f"its DCT coefficients cover {columns} x {rows} pixels but it is {width} x {height}",
        )
    return luma
