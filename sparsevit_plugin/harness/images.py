"""Read photographs and masks from files as they are found in public sets.

Every photograph becomes 8-bit RGB and every mask 0/255, by rules that are written down here, and
every file that cannot be read ends in a `BadImage` that names it. For ordinary 8-bit files the
pixels are the ones that IMDLBenCo's own loader gives.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sparsevit_plugin.confinement import check_confined
from sparsevit_plugin.errors import UserError, one_line
from sparsevit_plugin.pixel_limit import FLAG, pixel_limit

MASK_RULE = (
    "a pixel is tampered where the mean of red, green and blue is above 127.5 on the 8-bit scale; "
    "a mask's scale is the smallest of 1, 255 and 65535 that holds its largest value "
    "(at least 255 for JPEG and WebP), so that masks of 0 and 1 count in full"
)
TAMPERED_ABOVE = 127.5

NOTE_GREY = "greyscale, repeated into three channels"
NOTE_PALETTE = "palette, converted to RGB"
NOTE_ALPHA = "alpha channel dropped"
NOTE_CMYK = "CMYK, converted to RGB"
NOTE_COLOUR = "other colour model, converted to RGB"
NOTE_WIDE = "more than 8 bits a sample, scaled to 8"
NOTE_FRAMES = "several frames or pages, the first one is used"
NOTE_EXIF_STORED = "EXIF orientation present, pixels used as stored"
NOTE_EXIF_UPRIGHT = "turned upright by its EXIF orientation"
NOTE_EXIF_TURNED = "turned by its EXIF orientation, which makes it match its mask"

_EIGHT_BIT = 255
_SIXTEEN_BIT = 65535
_PROGRAMS = frozenset({"EPS"})  # Pillow has Ghostscript run them
_LOSSY_FORMATS = frozenset({"JPEG", "MPO", "WEBP"})
_EXIF_ORIENTATION = 0x0112
# EXIF 2.32, tag 274: what has to be done to the stored pixels to see them upright.
_EXIF_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_SIDEWAYS = (5, 6, 7, 8)  # of these, height and width change places
_MODE_NOTES = {
    "1": NOTE_GREY,
    "L": NOTE_GREY,
    "LA": NOTE_GREY,
    "La": NOTE_GREY,
    "I": NOTE_GREY,
    "F": NOTE_GREY,
    "P": NOTE_PALETTE,
    "PA": NOTE_PALETTE,
    "CMYK": NOTE_CMYK,
    "YCbCr": NOTE_COLOUR,
    "LAB": NOTE_COLOUR,
    "HSV": NOTE_COLOUR,
}


class BadImage(UserError):  # noqa: N818 (named for what it is about, as `BadSample`)
    """An image or mask that cannot be used.

    Attributes:
        path: The file.
        reason: What is wrong with it, in words that follow the path.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        # Both go to `args`, so that the error survives the pickling between data loading processes.
        super().__init__(str(path), reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return one_line(f"{self.path}: {self.reason}")


class SizeMismatch(BadImage):
    """An image and a mask of different sizes."""


@dataclass(frozen=True)
class Photograph:
    """A decoded photograph.

    Attributes:
        pixels: uint8, H x W x 3, RGB, as stored (EXIF orientation not applied).
        orientation: The EXIF orientation, 1 where there is none.
        format: The file format's name ("JPEG", "PNG", ...).
        notes: What had to be converted; the `NOTE_` constants of this module.
    """

    pixels: NDArray[np.uint8]
    orientation: int
    format: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Mask:
    """A decoded mask.

    Attributes:
        pixels: uint8, H x W, 255 where tampered by `MASK_RULE`, else 0.
        binary: Whether the file holds nothing but black and its full value.
    """

    pixels: NDArray[np.uint8]
    binary: bool


def read_image(path: Path | str) -> NDArray[np.uint8]:
    """Read a photograph as stored.

    Args:
        path: The file.

    Returns:
        uint8, H x W x 3, RGB.

    Raises:
        BadImage: If the file cannot be read.
    """
    return decode_image(path).pixels


def read_mask(path: Path | str) -> NDArray[np.uint8]:
    """Read a mask by `MASK_RULE`.

    Args:
        path: The file.

    Returns:
        uint8, H x W: 255 where tampered, else 0.

    Raises:
        BadImage: If the file cannot be read.
    """
    return decode_mask(path).pixels


def read_pair(
    image: Path | str, mask: Path | str | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[str, ...]]:
    """Read a photograph and its mask and see that they fit.

    Args:
        image: The photograph.
        mask: Its mask; None for an authentic photograph.

    Returns:
        The photograph (uint8, H x W x 3), the mask (uint8, H x W, 0 or 255) and notes on what was
        converted.

    Raises:
        BadImage: If a file cannot be read or the sizes differ.
    """
    photograph = decode_image(image)
    if mask is None:
        return photograph.pixels, np.zeros(photograph.pixels.shape[:2], np.uint8), photograph.notes
    truth = decode_mask(mask)
    photograph = match_orientation(photograph, truth, image, mask)
    return photograph.pixels, truth.pixels, photograph.notes


def match_orientation(
    photograph: Photograph, mask: Mask, image_path: Path | str, mask_path: Path | str
) -> Photograph:
    """Turn a photograph by its EXIF orientation where that, and only that, makes it match its mask.

    Pixels are otherwise used as stored, as IMDLBenCo does: most sets were annotated on stored
    pixels.

    Args:
        photograph: The photograph as stored.
        mask: Its mask.
        image_path: The photograph's file, for the error.
        mask_path: The mask's file, for the error.

    Returns:
        The photograph at the mask's size.

    Raises:
        SizeMismatch: If the sizes differ either way.
    """
    stored, wanted = photograph.pixels.shape[:2], mask.pixels.shape
    if stored == wanted:
        return photograph
    turned = _upright(photograph)
    if turned.shape[:2] != wanted:
        raise SizeMismatch(
            image_path,
            f"is {stored[1]} x {stored[0]} pixels but its mask {mask_path} is "
            f"{wanted[1]} x {wanted[0]}: correct the pair, or leave it out of the set",
        )
    return _turned(photograph, turned, NOTE_EXIF_TURNED)


def decode_upright(path: Path | str) -> Photograph:
    """Read a photograph as `decode_image` does and turn it as viewers show it.

    Args:
        path: The file.

    Returns:
        The photograph, turned by its EXIF orientation where it has one.

    Raises:
        BadImage: If the file cannot be read.
    """
    photograph = decode_image(path)
    if photograph.orientation == 1:
        return photograph
    return _turned(photograph, _upright(photograph), NOTE_EXIF_UPRIGHT)


def upright_size(path: Path | str) -> tuple[int, int]:
    """Return height and width of what `decode_upright` gives.

    From the file's header alone, but for a PNG without EXIF there: it may follow the pixels, so
    they are decoded.

    Raises:
        BadImage: If the header cannot be read.
    """
    with open_picture(path) as picture:
        width, height = picture.size
        orientation = picture.getexif().get(_EXIF_ORIENTATION, 1)
    return (width, height) if orientation in _EXIF_SIDEWAYS else (height, width)


def _turned(photograph: Photograph, pixels: NDArray[np.uint8], note: str) -> Photograph:
    notes = tuple(other for other in photograph.notes if other != NOTE_EXIF_STORED)
    return replace(photograph, pixels=pixels, orientation=1, notes=(*notes, note))


def decode_image(path: Path | str) -> Photograph:
    """Read a photograph and say what had to be converted.

    Samples of 16 bits are divided by 257 and rounded. 32-bit samples are taken on the smallest of
    the scales 255 and 65535 (and 1, for floating point) that holds the largest one.

    Args:
        path: The file.

    Returns:
        The photograph.

    Raises:
        BadImage: If the file cannot be read.
    """
    samples, notes, orientation, file_format = decode_samples(path)
    return Photograph(to_rgb(path, samples), orientation, file_format, notes)


def to_rgb(path: Path | str, samples: NDArray) -> NDArray[np.uint8]:
    """Bring samples to 8-bit RGB, on the scales that `decode_image` names.

    Args:
        path: Named in the error.
        samples: H x W or H x W x 3.

    Returns:
        uint8, H x W x 3.

    Raises:
        BadImage: A sample is negative, not finite or above 65535.
    """
    if samples.dtype == np.uint8:
        return _three_channels(samples)
    smallest = {"u": _SIXTEEN_BIT, "i": _EIGHT_BIT, "f": 1}[samples.dtype.kind]
    return _three_channels(_to_eight_bits(samples, _full_value(path, samples, smallest)))


def decode_mask(path: Path | str) -> Mask:
    """Read a mask by `MASK_RULE` and say whether it was binary to begin with.

    Args:
        path: The file.

    Returns:
        The mask.

    Raises:
        BadImage: If the file cannot be read.
    """
    samples, _, _, file_format = decode_samples(path)
    # A black JPEG may decode to a few ones: noise, not a mask of 0 and 1.
    smallest = _EIGHT_BIT if file_format in _LOSSY_FORMATS else 1
    full = _full_value(path, samples, smallest)
    if samples.dtype == np.uint8 and samples.ndim == 3 and _is_grey(samples):  # noqa: PLR2004
        samples = np.ascontiguousarray(samples[..., 0])  # grey, stored as colour
    if samples.dtype == np.uint8 and samples.ndim == 2:  # noqa: PLR2004 (axes)
        # By a table of the 256 values: a tenth of the work.
        values = np.arange(_EIGHT_BIT + 1, dtype=np.uint8)
        counts = cv2.calcHist([samples], [0], None, [values.size], [0, values.size])
        binary = not counts[(values != 0) & (values != full)].any()
        return Mask(cv2.LUT(samples, _tampered(values, full)), binary)
    binary = bool(np.all((samples == 0) | (samples == full)))
    return Mask(_tampered(samples, full), binary)


def _tampered(samples: NDArray, full: int) -> NDArray[np.uint8]:
    """Apply `MASK_RULE` to samples of H x W, H x W x 3 or N: 255 where tampered, else 0."""
    scaled = samples.astype(np.float32) * (_EIGHT_BIT / full)
    grey = scaled.mean(axis=2) if scaled.ndim == 3 else scaled  # noqa: PLR2004 (axes)
    return (grey > TAMPERED_ABOVE).astype(np.uint8) * np.uint8(_EIGHT_BIT)


def _is_grey(samples: NDArray) -> bool:
    first = samples[..., 0]
    return np.array_equal(first, samples[..., 1]) and np.array_equal(first, samples[..., 2])


def decode_samples(
    path: Path | str, most_pixels: int | None = None
) -> tuple[NDArray, tuple[str, ...], int, str]:
    """Read the samples of a file as they are stored, on their own scale.

    Args:
        path: The file.
        most_pixels: Larger images are refused before they are decoded, if the limit of
            `--max-pixels` does not refuse them anyway.

    Returns:
        The samples (H x W or H x W x 3; uint8, uint16, int32 or float32), notes on what was
        converted, the EXIF orientation, and the file format's name.

    Raises:
        BadImage: If the file cannot be read.
    """
    path = Path(path)
    with open_picture(path, most_pixels) as picture:
        # Before the EXIF data: a PNG is loaded to find them, and forgets how it was stored.
        notes, is_wide_colour = _notes(picture), _has_wide_colour(picture)
        orientation = int(picture.getexif().get(_EXIF_ORIENTATION, 1))
        file_format = picture.format or ""
        if is_wide_colour:
            samples = None
        elif picture.mode in ("F", "I", "L") or picture.mode.startswith("I;16"):
            samples = np.array(picture)
        else:
            samples = np.array(as_rgb(picture))
    if samples is None:
        # Pillow would keep the upper byte of 16-bit colour; OpenCV gives the samples.
        samples = _decode_wide_colour(path)
    elif samples.dtype == np.int32 and file_format == "PNG":
        samples = samples.astype(np.uint16)  # older Pillow opens 16-bit PNG as 32-bit integers
    if orientation not in _EXIF_TRANSPOSITIONS:
        return samples, notes, 1, file_format
    return samples, (*notes, NOTE_EXIF_STORED), orientation, file_format


@contextlib.contextmanager
def open_picture(path: Path | str, most_pixels: int | None = None) -> Iterator[Image.Image]:
    """Open a picture that may be used: inside `--confine`, and within `--max-pixels`.

    Args:
        path: The file.
        most_pixels: A lower limit; None for that of `--max-pixels` alone.

    Yields:
        The picture, its header read and its pixels not.

    Raises:
        BadImage: It cannot be used, or the block meets what cannot be decoded.
    """
    path = Path(path)
    check_confined(path)
    limit = pixel_limit()
    # Pillow warns above this, and raises an error above twice as many.
    Image.MAX_IMAGE_PIXELS = limit
    with decoder_errors_named(path), Image.open(path) as picture:
        size = f"{picture.width} x {picture.height}"
        pixels = picture.width * picture.height
        if pixels > limit:
            raise BadImage(path, f"has too many pixels ({size}): {_limit_words(limit)}")
        if most_pixels is not None and pixels > most_pixels:
            raise BadImage(path, f"has too many pixels ({size})")
        if picture.format in _PROGRAMS:
            raise BadImage(path, f"is an {picture.format} file, a program, which is not run")
        yield picture


def _limit_words(limit: int) -> str:
    return f"the limit is {limit}, and {FLAG} sets another"


@contextlib.contextmanager
def decoder_errors_named(path: Path) -> Iterator[None]:
    """Turn whatever decoders raise in the block into a line that names the picture.

    Raises:
        BadImage: A decoder raised something.
    """
    try:
        yield
    except FileNotFoundError:
        raise BadImage(path, "no such file") from None
    except IsADirectoryError:
        raise BadImage(path, "is a folder, not an image") from None
    except UnidentifiedImageError:
        raise BadImage(path, _describe_alien(path)) from None
    except Image.DecompressionBombError:
        raise BadImage(path, f"has too many pixels: {_limit_words(pixel_limit())}") from None
    except UserError:
        raise
    except Exception as error:  # damaged files make the decoders raise whatever they stumble over
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise BadImage(path, f"cannot be decoded: {' '.join(words.split())}") from error


def _describe_alien(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "the file is empty (0 bytes)"
    with contextlib.suppress(UnicodeDecodeError):
        if start.decode("ascii").isprintable() or b"\n" in start:
            return "is a text file, not an image"
    return "is not an image in a known format, or its beginning is damaged"


def _notes(picture: Image.Image) -> tuple[str, ...]:
    notes = []
    if picture.mode in _MODE_NOTES:
        notes.append(_MODE_NOTES[picture.mode])
    elif picture.mode.startswith("I;16"):
        notes.append(NOTE_GREY)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16") or _has_wide_colour(picture):
        notes.append(NOTE_WIDE)
    if picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info:
        notes.append(NOTE_ALPHA)
    if getattr(picture, "is_animated", False):
        notes.append(NOTE_FRAMES)
    return tuple(notes)


def _has_wide_colour(picture: Image.Image) -> bool:
    """Tell whether an opened, not yet loaded file holds 16-bit colour or 16-bit grey with alpha."""
    layouts = (str(tile[3]) for tile in getattr(picture, "tile", ()))
    return picture.mode in ("RGB", "RGBA", "LA") and any(";16" in layout for layout in layouts)


def as_rgb(picture: Image.Image) -> Image.Image:
    """Return a picture of 8-bit samples as RGB; alpha is dropped."""
    if picture.mode == "P" and "transparency" in picture.info:
        # Straight to RGB, Pillow warns that the palette's transparency is lost.
        return picture.convert("RGBA").convert("RGB")
    return picture.convert("RGB")


def _decode_wide_colour(path: Path) -> NDArray:
    # imdecode and not imread, which cannot open every file name on every system.
    samples = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None:
        raise BadImage(path, "cannot be decoded: damaged 16-bit image")
    if samples.ndim == 2:  # noqa: PLR2004 (axes)
        return samples
    return np.ascontiguousarray(samples[:, :, 2::-1])


def _full_value(path: Path | str, samples: NDArray, smallest: int) -> int:
    """Return the smallest of 1, 255 and 65535, from `smallest` on, that holds every sample."""
    least, largest = samples.min(), samples.max()
    if not (np.isfinite(least) and np.isfinite(largest)) or least < 0:
        raise BadImage(path, "holds negative or non-finite samples")
    for full in (1, _EIGHT_BIT, _SIXTEEN_BIT):
        if full >= smallest and largest <= full:
            return full
    raise BadImage(path, f"holds samples up to {largest}: convert it to 8 or 16 bits")


def _to_eight_bits(samples: NDArray, full: int) -> NDArray[np.uint8]:
    return np.rint(samples.astype(np.float64) * (_EIGHT_BIT / full)).astype(np.uint8)


def _three_channels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.ndim == 2:  # noqa: PLR2004 (axes)
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    return pixels


def _upright(photograph: Photograph) -> NDArray[np.uint8]:
    transposition = _EXIF_TRANSPOSITIONS.get(photograph.orientation)
    if transposition is None:
        return photograph.pixels
    return np.array(Image.fromarray(photograph.pixels).transpose(transposition))
