"""Read maps that another program wrote: PNG of 8 or 16 bits, npy and npz, all to 0..1.

What a file may hold, and what it means:

=================== ==============================================================================
float               values in 0..1, taken as they are
bool                0 and 1
uint8, 8-bit PNG    divided by 255
uint16, 16-bit PNG  divided by 65535
=================== ==============================================================================

Other integers are refused: nothing says what their full value is. A PNG is grey, or colour whose
three channels are equal. An array has two axes, or others of length 1 around them.

Files come from strangers, so nothing is unpickled, and an array's claimed size is checked before
memory is reserved for it.
"""

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from sparsevit_plugin.confinement import check_confined
from sparsevit_plugin.harness.images import BadImage, decode_samples
from sparsevit_plugin.pixel_limit import pixel_limit

MAP_SUFFIXES: Final = (".png", ".npy", ".npz")
MAP_ARRAYS: Final = ("map", "pred")
"""What the map of an npz file with several arrays may be called."""

_FULL: Final = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
_PLANE: Final = 2
_HEADERS: Final = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True)
class StoredMap:
    """A map as it was read.

    Attributes:
        values: Shape (H, W), 0..1; float64 where the file holds that, else float32.
        form: How it was stored, as `png uint16` or `npy float32`.
        top: Its largest sample on the stored scale.
    """

    values: NDArray[np.floating]
    form: str
    top: float

    @property
    def is_integer(self) -> bool:
        """Whether it was stored on an integer scale."""
        return "uint" in self.form


def read_map(path: Path, most_pixels: int) -> StoredMap:
    """Read one map.

    Args:
        path: A file with one of `MAP_SUFFIXES`, in whatever case.
        most_pixels: A larger map is refused before its samples are read, if `--max-pixels` does not
            refuse it anyway.

    Raises:
        BadImage: It is no map by the rules of this module; names the file and the reason.
    """
    check_confined(path)
    most_pixels = min(most_pixels, pixel_limit())
    kind = path.suffix.lower().removeprefix(".")
    if kind == "png":
        samples = _read_png(path, most_pixels)
    elif kind in ("npy", "npz"):
        samples = _read_array_file(path, kind, most_pixels)
    else:
        raise BadImage(path, f"is no map: a map is one of {', '.join(MAP_SUFFIXES)}")
    return StoredMap(_to_unit(path, samples), f"{kind} {samples.dtype.name}", float(samples.max()))


def read_only_array(path: Path) -> NDArray[Any]:
    """Read an npz file that holds one array of one plane.

    Args:
        path: The file.

    Returns:
        Shape (H, W), of numbers, as they are stored.

    Raises:
        BadImage: It holds something else, or more pixels than `--max-pixels` allows.
    """
    check_confined(path)
    return _read_array_file(path, "npz", pixel_limit(), names=())


def _to_unit(path: Path, samples: NDArray[Any]) -> NDArray[np.floating]:
    """Bring samples to 0..1 by the scale of their type."""
    kind, full = samples.dtype.kind, _FULL.get(samples.dtype)
    if full is not None:
        return samples.astype(np.float32) / np.float32(full)
    if kind == "b":
        return samples.astype(np.float32)
    if kind != "f":
        raise BadImage(
            path,
            f"holds {samples.dtype.name}, whose full value is not known: save floats in 0..1, "
            "bool, uint8 or uint16",
        )
    low, high = samples.min(), samples.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadImage(path, "holds NaN or infinite values")
    if low < 0 or high > 1:
        raise BadImage(path, f"holds values from {low:g} to {high:g}: a map of floats lies in 0..1")
    wide = samples.dtype.itemsize > np.dtype(np.float32).itemsize
    return samples.astype(np.float64 if wide else np.float32)


# --- PNG -----------------------------------------------------------------------------------------


def _read_png(path: Path, most_pixels: int) -> NDArray[Any]:
    samples, _, _, file_format = decode_samples(path, most_pixels)
    if file_format != "PNG":
        raise BadImage(path, f"is a {file_format} file by its contents: save maps as PNG or npy")
    if samples.ndim == _PLANE:
        return samples
    first = samples[..., 0]
    if not all(np.array_equal(first, samples[..., channel]) for channel in range(1, 3)):
        raise BadImage(path, "is a colour picture: a map is grey, or has three equal channels")
    return np.ascontiguousarray(first)


# --- npy and npz ---------------------------------------------------------------------------------


def _read_array_file(
    path: Path, kind: str, most_pixels: int, names: tuple[str, ...] = MAP_ARRAYS
) -> NDArray[Any]:
    try:
        if kind == "npy":
            with path.open("rb") as file:
                return _read_array(path, file, most_pixels)
        with zipfile.ZipFile(path) as archive:
            member = _member(path, archive, names)
            with archive.open(member) as stream:
                return _read_array(path, stream, most_pixels)
    except BadImage:
        raise
    except Exception as error:  # zipfile and NumPy's header parser raise a dozen kinds on damage
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise BadImage(path, f"cannot be read: {' '.join(words.split())}") from error


def _member(path: Path, archive: zipfile.ZipFile, names: tuple[str, ...]) -> str:
    """Return the entry of an npz file that is the only one, or has one of the names."""
    entries = [name for name in archive.namelist() if name.endswith(".npy")]
    if len(entries) == 1:
        return entries[0]
    named = [f"{name}.npy" for name in names if f"{name}.npy" in entries]
    if len(named) == 1:
        return named[0]
    found = ", ".join(name.removesuffix(".npy") for name in entries[:5]) or "none"
    called = f", or one that is called {' or '.join(names)}" if names else ""
    raise BadImage(path, f"holds {len(entries)} arrays ({found}), expected one{called}")


def _read_array(path: Path, stream: IO[bytes], most_pixels: int) -> NDArray[Any]:
    """Read an array of NumPy's format once its header has been found harmless."""
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise BadImage(path, f"has version {version[0]}.{version[1]} of NumPy's format")
    shape, by_column, dtype = _HEADERS[version](stream)
    if dtype.hasobject or dtype.kind not in "bfiu":
        raise BadImage(path, f"holds {dtype}, expected numbers in 0..1")
    plane = _plane(path, shape)
    count = math.prod(plane)
    if min(plane) <= 0:
        raise BadImage(path, f"is empty: its shape is {shape}")
    if count > most_pixels:
        raise BadImage(path, f"has too many pixels ({plane[1]} x {plane[0]})")
    content = stream.read(count * dtype.itemsize)
    # Reading on to the end has an archive compare its checksum.
    if len(content) < count * dtype.itemsize or stream.read(1):
        raise BadImage(path, "is damaged: its length is not what its header says")
    samples = np.frombuffer(content, dtype).reshape(shape, order="F" if by_column else "C")
    return np.ascontiguousarray(samples.reshape(plane)).astype(dtype.newbyteorder("="), copy=False)


def _plane(path: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return height and width of an array of one plane: (H, W), (1, H, W), (H, W, 1) and so on."""
    sides = list(shape)
    while len(sides) > _PLANE and sides[0] == 1:
        sides.pop(0)
    while len(sides) > _PLANE and sides[-1] == 1:
        sides.pop()
    if len(sides) != _PLANE:
        raise BadImage(path, f"has shape {shape}, expected (height, width)")
    return sides[0], sides[1]
