"""What the page does with a photograph: predict once, then show it at any threshold."""

import secrets
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.images import BadImage, decode_upright, open_picture
from sparsevit_plugin.harness.perturb import shrink
from sparsevit_plugin.harness.predict import Localiser, Prediction
from sparsevit_plugin.harness.prediction_files import map_picture, overlay, write_image

SHOWN_SIDE: Final = 1600
"""The longer side of the overlay on the page; map and mask have the photograph's own size."""


@dataclass(frozen=True)
class Limits:
    """What is refused before it is decoded.

    Attributes:
        pixels: The most that a photograph may have.
        bytes: The most that its file may have.
    """

    pixels: int
    bytes: int


@dataclass(frozen=True)
class Look:
    """A photograph that was predicted on.

    Attributes:
        prediction: At the photograph's own size.
        small: The photograph as it is shown, uint8, at most `SHOWN_SIDE` long.
        folder: Its pictures; removed when nobody looks any more.
        map_file: The map, 8-bit PNG, of the photograph's size.
    """

    prediction: Prediction
    small: NDArray[np.uint8]
    folder: Path
    map_file: Path


@dataclass(frozen=True)
class View:
    """A look at one threshold.

    Attributes:
        mask_file: 255 above the threshold, else 0; PNG of the photograph's size.
        overlay_file: The photograph under the map, the mask outlined.
        pixels: How many are above the threshold.
        area: Their share of all, 0 to 1.
    """

    mask_file: Path
    overlay_file: Path
    pixels: int
    area: float


def look(localiser: Localiser, file: Path, limits: Limits, folder: Path) -> Look:
    """Predict on a photograph's file.

    Args:
        localiser: The model.
        file: The photograph.
        limits: What is refused.
        folder: A new folder is made in it for the pictures.

    Raises:
        UserError: The file is no photograph, or too large; the message names it without its folder.
    """
    pixels = _read(file, limits)
    found = localiser(pixels) if _takes_pixels(localiser) else localiser(file)
    assert isinstance(found, Prediction)  # noqa: S101 (of one picture)
    prediction = replace(found, name=file.stem)
    own = folder / secrets.token_hex(8)
    own.mkdir(parents=True)
    map_file = own / f"{file.stem}-map.png"
    write_image(map_file, map_picture(prediction.map, bits=8))
    return Look(prediction, _shrunk(pixels), own, map_file)


def view(look: Look, threshold: float) -> View:
    """Show a look at a threshold; the model does not run.

    Args:
        look: The photograph.
        threshold: Pixels above it are called tampered, 0 to 1.

    Raises:
        UserError: A picture cannot be written.
    """
    full = replace(look.prediction, threshold=threshold)
    mask = full.mask
    # A new name for every threshold: a browser keeps what it has seen under a name.
    label = f"{full.name}-above-{threshold:.2f}"
    mask_file = look.folder / f"{label}-mask.png"
    write_image(mask_file, mask.astype(np.uint8) * np.uint8(255))
    height, width = look.small.shape[:2]
    small = full
    if (height, width) != full.map.shape:
        shrunk = cv2.resize(full.map, (width, height), interpolation=cv2.INTER_AREA)
        small = replace(full, map=np.clip(shrunk, 0, 1).astype(np.float32))
    overlay_file = look.folder / f"{label}-overlay.jpg"
    write_image(overlay_file, overlay(look.small, small)[:, :, ::-1])
    return View(mask_file, overlay_file, int(mask.sum()), full.tampered_area)


def forget(look: Look | None) -> None:
    """Remove the pictures of a look."""
    if look is not None:
        shutil.rmtree(look.folder, ignore_errors=True)


def _read(file: Path, limits: Limits) -> NDArray[np.uint8]:
    """Read a photograph upright, unless it is too large."""
    try:
        size = file.stat().st_size
        if size > limits.bytes:
            raise UserError(
                f"{file.name} is too large: {megabytes(size)}; the limit is "
                f"{megabytes(limits.bytes)}"
            )
        with open_picture(file) as picture:  # turned by EXIF or not, it has as many
            width, height = picture.size
        if height * width > limits.pixels:
            raise UserError(
                f"{file.name} has too many pixels: {width} x {height} is "
                f"{millions(height * width)}; the limit is {millions(limits.pixels)}"
            )
        return decode_upright(file).pixels
    except BadImage as error:
        raise UserError(f"{file.name} {_sentence(error.reason)}") from error
    except OSError as error:
        raise UserError(f"{file.name} cannot be read: {error.strerror or error}") from error


def _sentence(reason: str) -> str:
    """Let a reason follow a file's name, as "is a text file, not an image" does."""
    begins = ("is ", "has ", "cannot ", "changed ")
    return reason if reason.startswith(begins) else f"cannot be used: {reason}"


def _takes_pixels(localiser: Localiser) -> bool:
    from sparsevit_plugin.harness.post_functions import additions

    return not additions(localiser.config).origin_function


def _shrunk(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scale = SHOWN_SIDE / max(pixels.shape[:2])
    return pixels if scale >= 1 else shrink(pixels, scale)


def millions(count: int) -> str:
    """Return a number of pixels in millions."""
    return f"{count / 1e6:.1f} million"


def megabytes(count: int) -> str:
    """Return a number of bytes in MB (10^6 bytes)."""
    return f"{count / 1e6:.1f} MB"
