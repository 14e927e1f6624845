"""Photographs to make corpora from: inside scikit-image and scikit-learn, or a user's folder."""

from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import sha256_file
from sparsevit_plugin.harness.images import BadImage, read_image

#: File names that `read_folder` takes for photographs.
PHOTO_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

#: Two photographs whose 256-bit gradient hashes differ in no more bits than this are one scene.
REPEAT_BITS = 20

#: Bad photographs that an error line names one by one.
_NAMED = 10

_HASH_SIDE = 16
_NASA = "NASA, public domain"

# Every picture in both packages was looked at. Taken: what a camera, telescope, microscope or
# fundus camera recorded of the world, at 300 x 300 pixels or more. Left out: drawings and computed
# pictures (chessboards, colour wheel, horse, logo, phantom; cell is a phase map computed from a
# hologram), writing (page, text), and what is too small to cut from (microaneurysms, the 25 x 25
# faces).
# (file, scene, licence as the package's documentation states it, empty where it states none)
_SKIMAGE: tuple[tuple[str, str, str], ...] = (
    ("astronaut.png", "astronaut", _NASA),
    ("brick.png", "brick", "CC0 (CC0Textures)"),
    ("camera.png", "camera", "CC0 (Lav Varshney)"),
    ("chelsea.png", "chelsea", "CC0 (Stefan van der Walt)"),
    ("clock_motion.png", "clock", "public domain (Stefan van der Walt)"),
    ("coffee.png", "coffee", "CC0 (Rachel Michetti)"),
    ("coins.png", "coins", "no known restrictions (Brooklyn Museum)"),
    ("grass.png", "grass", "CC0"),
    ("gravel.png", "gravel", "CC0 (CC0Textures)"),
    ("hubble_deep_field.jpg", "hubble", _NASA),
    ("ihc.png", "ihc", "no known restrictions (CMMI)"),
    ("moon.png", "moon", ""),
    ("motorcycle_left.png", "motorcycle", ""),
    ("motorcycle_right.png", "motorcycle", ""),
    ("retina.jpg", "retina", "CC0 (Mikael Häggström)"),
    ("rocket.jpg", "rocket", "public domain (SpaceX)"),
)
_SKLEARN: tuple[tuple[str, str, str], ...] = (
    ("china.jpg", "china", "CC BY 2.0 (danielbuechele)"),
    ("flower.jpg", "flower", "CC BY 2.0 (vultilion)"),
)


@dataclass(frozen=True)
class Photograph:
    """A photograph that is read when it is needed.

    Attributes:
        name: Unique name.
        scene: What it shows. Views of one scene, such as a stereo pair, count as one source.
        path: The file.
        height: In pixels.
        width: In pixels.
        sha256: Hash of the file.
        source: Where it is from.
        licence: Its licence as the source states it; empty where unknown.
    """

    name: str
    scene: str
    path: Path
    height: int
    width: int
    sha256: str
    source: str
    licence: str

    @property
    def array(self) -> NDArray[np.uint8]:
        """The pixels, (height, width, 3), RGB. Shared and read-only."""
        return _read(self.path)


@lru_cache(maxsize=16)
def _read(path: Path) -> NDArray[np.uint8]:
    pixels = read_image(path)
    pixels.flags.writeable = False
    return pixels


def embedded_photographs() -> list[Photograph]:
    """List the photographs inside the installed scikit-image and scikit-learn.

    Returns:
        18 photographs of 17 scenes, sorted by name.

    Raises:
        UserError: If an installed package lacks one of its pictures.
    """
    found = [
        _open(_package_folder("skimage", "data") / file, scene, "scikit-image", licence)
        for file, scene, licence in _SKIMAGE
    ]
    found += [
        _open(_package_folder("sklearn", "datasets/images") / file, scene, "scikit-learn", licence)
        for file, scene, licence in _SKLEARN
    ]
    return sorted(found, key=lambda photograph: photograph.name)


def read_folder(
    folder: Path,
    *,
    scenes: Literal["file", "folder"] = "file",
    on_bad_image: Literal["stop", "skip"] = "stop",
    smallest: tuple[int, int] = (1, 1),
) -> tuple[list[Photograph], list[BadImage]]:
    """List the photographs of a folder and its subfolders; every one is read once.

    Args:
        folder: The folder. Files that do not end like an image are passed over.
        scenes: `file`: each photograph is a scene of its own; `folder`: those in one folder show
            one scene. Repeats (the same picture, resized or saved again) are always one scene.
        on_bad_image: Whether a file that cannot be used ends the call or is left out.
        smallest: (width, height) that a photograph must have.

    Returns:
        The photographs sorted by name, and what was left out.

    Raises:
        UserError: If the folder does not exist or holds no photograph, or for bad files under
            `stop`: one line that names them.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of photographs")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file()
    )
    good: list[Photograph] = []
    bad: list[BadImage] = []
    for path in files:
        name = path.relative_to(folder).as_posix()
        scene = name if scenes == "file" else path.parent.relative_to(folder).as_posix()
        try:
            photograph = _open(path, scene, "", "", name=name)
            _check_size(photograph, smallest)
        except BadImage as error:
            bad.append(error)
        else:
            good.append(photograph)
    if bad and on_bad_image == "stop":
        named = "; ".join(str(error) for error in bad[:_NAMED])
        more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise UserError(f"{named}{more} (mend or remove, or pass --on-bad-image skip)")
    if not good:
        raise UserError(f"{folder}: no photographs found ({', '.join(sorted(PHOTO_SUFFIXES))})")
    return join_repeats(good), bad


def join_repeats(photographs: list[Photograph]) -> list[Photograph]:
    """Give the same scene to photographs that are one picture, perhaps resized or saved again.

    A gradient hash (is each pixel of a 17 x 16 thumbnail darker than the one to its right) survives
    resizing, recompression and brightness, but not cropping or another viewpoint.
    """
    hashes = np.stack([_gradient_hash(photograph.array) for photograph in photographs])
    signs = hashes.astype(np.float32) * 2 - 1
    differing = (hashes.shape[1] - signs @ signs.T) / 2
    names = np.array([photograph.scene for photograph in photographs])
    linked = (differing <= REPEAT_BITS) | (names[:, None] == names[None, :])
    _, labels = connected_components(linked, directed=False)
    first: dict[int, str] = {}
    for label, photograph in zip(labels, photographs, strict=True):
        first.setdefault(int(label), photograph.scene)
    return [
        replace(photograph, scene=first[int(label)])
        for label, photograph in zip(labels, photographs, strict=True)
    ]


def _open(
    path: Path, scene: str, source: str, licence: str, *, name: str | None = None
) -> Photograph:
    if not path.is_file():
        raise UserError(f"{path}: missing; the installed {source} does not hold this photograph")
    height, width = _read(path).shape[:2]
    return Photograph(
        name=name or path.stem,
        scene=scene,
        path=path,
        height=height,
        width=width,
        sha256=sha256_file(path),
        source=source,
        licence=licence,
    )


def _check_size(photograph: Photograph, smallest: tuple[int, int]) -> None:
    width, height = smallest
    if photograph.width < width or photograph.height < height:
        raise BadImage(
            photograph.path,
            f"is {photograph.width} x {photograph.height}, smaller than the {width} x {height} "
            "that the sizes of this corpus need",
        )


def _package_folder(package: str, folder: str) -> Path:
    """Find a data folder of an installed package without importing the package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{package} is not installed; the embedded photographs are part of it")
    return Path(spec.submodule_search_locations[0]) / folder


def _gradient_hash(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    thumbnail = cv2.resize(grey, (_HASH_SIDE + 1, _HASH_SIDE), interpolation=cv2.INTER_AREA)
    return (thumbnail[:, 1:] > thumbnail[:, :-1]).ravel()
