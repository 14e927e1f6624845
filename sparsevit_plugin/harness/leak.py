"""Leaks: photographs that a training and a test set share, as they are or nearly.

Three kinds are looked for:

    identical        the same file, byte for byte
    near-duplicate   a perceptual hash that differs in few bits: the same photograph saved again,
                     resized, brightened, cropped a little, or with a part edited
    photograph       two images that their sets' manifests trace to one source photograph

The hash is pHash of the library imagehash with 16 x 16 = 256 bits. Different photographs differ in
about half of them; the default threshold is a quarter. Not found are mirrored or turned copies,
crops of more than a few per cent, and pictures in pictures; pictures without texture are not
compared, because their hash says nothing.
"""

import contextlib
import hashlib
import os
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeAlias

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparsevit_plugin.harness.images import BadImage, decode_image, open_picture
from sparsevit_plugin.harness.sources import ImageSet, Sample
from sparsevit_plugin.machine import user_cache

Kind: TypeAlias = Literal["identical", "near-duplicate", "photograph"]
Advance: TypeAlias = Callable[[int, int], None]

HASH_SIDE = 16
HASH_BITS = HASH_SIDE * HASH_SIDE
DEFAULT_THRESHOLD = HASH_BITS // 4
METHOD = f"phash-{HASH_SIDE}"

_THUMBNAIL = 4 * HASH_SIDE  # what imagehash shrinks a picture to
_FLATTEST = 2.0  # standard deviation of grey values below which a thumbnail has no texture
_CHUNK = 64
_ROWS = 2048  # of the distance matrix at a time, so that it stays below some 100 MB


@dataclass(frozen=True, slots=True)
class LeakPair:
    """An image of the first set that is (nearly) one of the second.

    Attributes:
        kind: How they were found; a pair is listed once, under the first kind that holds.
        first: Name of the image in the first set.
        second: Name of the image in the second set.
        distance: Bits in which the hashes differ, None where they were not compared.
        photo: The shared source photograph, for the kind `photograph`.
    """

    kind: Kind
    first: str
    second: str
    distance: int | None
    photo: str = ""


@dataclass
class LeakReport:
    """What two sets share.

    Attributes:
        first: Name of the first set.
        second: Name of the second set.
        first_images: Number of its images.
        second_images: Number of its images.
        threshold: Largest distance of a near-duplicate.
        method: The hash and its library's version.
        pairs: The pairs, the closest first.
        unreadable: Files that could not be read, with the reason.
        flat: Images that were not compared, because they have no texture.
    """

    first: str
    second: str
    first_images: int
    second_images: int
    threshold: int
    method: str
    pairs: list[LeakPair] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    flat: list[str] = field(default_factory=list)

    def touched(self, kind: Kind | None = None) -> int:
        """Return how many images of the second set are in a pair (of a kind)."""
        return len({pair.second for pair in self.pairs if kind in (None, pair.kind)})


def find_leaks(
    first: ImageSet,
    second: ImageSet,
    *,
    threshold: int = DEFAULT_THRESHOLD,
    cache: Path | None = None,
    progress: Advance | None = None,
) -> LeakReport:
    """Find what two sets share.

    Args:
        first: A set, usually for training.
        second: Another, usually for testing.
        threshold: Largest number of differing bits, of 256, of a near-duplicate.
        cache: File that remembers hashes by path, size and time of change; None for none.
        progress: Called with images hashed and images in all.

    Returns:
        The pairs and what could not be compared.
    """
    ((report,),) = leak_matrix(
        [first], [second], threshold=threshold, cache=cache, progress=progress
    )
    return report


def leak_matrix(
    first: Sequence[ImageSet],
    second: Sequence[ImageSet],
    *,
    threshold: int = DEFAULT_THRESHOLD,
    cache: Path | None = None,
    progress: Advance | None = None,
) -> list[list[LeakReport]]:
    """Compare each set of some with each of others; every file is hashed once.

    Args:
        first: Sets, usually for training.
        second: Others, usually for testing.
        threshold: As of `find_leaks`.
        cache: As of `find_leaks`.
        progress: As of `find_leaks`.

    Returns:
        One list for each of the first sets, in it a report for each of the second.
    """
    files = [sample.image for part in (*first, *second) for sample in part.samples]
    hashes = _hash_files(files, cache, progress)
    return [[_compared(one, other, hashes, threshold) for other in second] for one in first]


def _compared(
    first: ImageSet, second: ImageSet, hashes: dict[Path, "_Found"], threshold: int
) -> LeakReport:
    report = LeakReport(
        first=first.name,
        second=second.name,
        first_images=len(first),
        second_images=len(second),
        threshold=threshold,
        method=f"pHash of {HASH_BITS} bits (imagehash {version('imagehash')})",
    )
    for sample in (*first.samples, *second.samples):
        found = hashes[sample.image]
        if isinstance(found, str):
            report.unreadable.append(f"{sample.image}: {found}")
        elif found is None:
            report.flat.append(sample.name)
    near = _near_pairs(first.samples, second.samples, hashes, threshold)
    identical = _identical_pairs(first.samples, second.samples)
    by_photo = _photo_pairs(first.samples, second.samples)
    report.pairs = _merged(first, second, identical, near, by_photo)
    return report


_Found: TypeAlias = NDArray[np.bool_] | str | None  # a hash, what is wrong, or None without texture
_Index: TypeAlias = tuple[int, int]


def _merged(
    first: ImageSet,
    second: ImageSet,
    identical: set[_Index],
    near: dict[_Index, int],
    by_photo: dict[_Index, str],
) -> list[LeakPair]:
    """List each pair once, under the strongest kind, the closest first."""

    def pair(kind: Kind, index: _Index, distance: int | None, photo: str = "") -> LeakPair:
        names = first.samples[index[0]].name, second.samples[index[1]].name
        return LeakPair(kind, *names, distance, photo)

    pairs = [pair("identical", index, 0) for index in sorted(identical)]
    rest = sorted((distance, index) for index, distance in near.items() if index not in identical)
    pairs += [pair("near-duplicate", index, distance) for distance, index in rest]
    told = {index[1] for index in identical} | {index[1] for index in near}
    pairs += [
        pair("photograph", index, None, photo)
        for index, photo in sorted(by_photo.items())
        if index[1] not in told
    ]
    return pairs


# --- hashes ---------------------------------------------------------------------------------------


def photograph_hash(path: Path) -> NDArray[np.bool_] | None:
    """Return a photograph's perceptual hash, 256 bits; None where it has no texture.

    Raises:
        BadImage: The file cannot be read.
    """
    grey = _small_grey(path)
    thumbnail = np.asarray(grey.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS))
    if thumbnail.std() < _FLATTEST:
        return None
    return np.asarray(imagehash.phash(grey, hash_size=HASH_SIDE).hash, dtype=bool).ravel()


def _small_grey(path: Path) -> Image.Image:
    """Read a photograph in grey; a JPEG at a fraction of its size, which takes less time."""
    try:
        with open_picture(path) as picture:
            if picture.format == "JPEG":
                picture.draft("L", (4 * _THUMBNAIL, 4 * _THUMBNAIL))
                return picture.convert("L")
    except Exception:  # noqa: S110 (whatever a damaged file makes a reader raise; read again below)
        pass
    return Image.fromarray(decode_image(path).pixels).convert("L")


def _hash_files(
    files: Sequence[Path], cache: Path | None, progress: Advance | None
) -> dict[Path, _Found]:
    """Hash every file once, in threads: the decoders release the interpreter's lock."""
    unique = list(dict.fromkeys(files))
    hashes: dict[Path, _Found] = {}
    with _HashCache(cache) as known, ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(unique), _CHUNK):
            chunk = unique[start : start + _CHUNK]
            states = [_state(path) for path in chunk]
            remembered = known.get(states)
            left = [path for path, state in zip(chunk, states, strict=True)
                    if state not in remembered]  # fmt: skip
            fresh = dict(zip(left, pool.map(_hash_file, left), strict=True))
            for path, state in zip(chunk, states, strict=True):
                hashes[path] = remembered[state] if state in remembered else fresh[path]
            known.put({_state(path): found for path, found in fresh.items()})
            if progress is not None:
                progress(min(start + _CHUNK, len(unique)), len(unique))
    return hashes


def _hash_file(path: Path) -> _Found:
    try:
        return photograph_hash(path)
    except BadImage as error:
        return error.reason


def _state(path: Path) -> str:
    """Return what changes when a file does; a missing file's is never remembered."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}"  # noqa: PTH100


class _HashCache:
    """Hashes in an SQLite file; where it cannot be used, every hash is computed."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> "_HashCache":
        if self._file is not None:
            with contextlib.suppress(OSError, sqlite3.Error):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                database = sqlite3.connect(self._file, timeout=1)
                database.execute(
                    "create table if not exists hashes "
                    "(method text, state text, hash blob, primary key (method, state))"
                )
                self._database = database
        return self

    def __exit__(self, *_: object) -> None:
        if self._database is not None:
            self._database.close()

    def get(self, states: Sequence[str]) -> dict[str, _Found]:
        """Return the remembered hashes among these."""
        if self._database is None:
            return {}
        found: dict[str, _Found] = {}
        with contextlib.suppress(sqlite3.Error):
            places = ",".join("?" * len(states))
            rows = self._database.execute(
                f"select state, hash from hashes where method = ? and state in ({places})",  # noqa: S608
                (METHOD, *states),
            )
            for state, blob in rows:
                bits = np.unpackbits(np.frombuffer(blob, np.uint8)).astype(bool)
                found[state] = bits if len(bits) == HASH_BITS else None
        return found

    def put(self, fresh: dict[str, _Found]) -> None:
        """Remember hashes; what could not be read is tried again the next time."""
        if self._database is None:
            return
        rows = [
            (METHOD, state, b"" if found is None else np.packbits(found).tobytes())
            for state, found in fresh.items()
            if state and not isinstance(found, str)
        ]
        with contextlib.suppress(sqlite3.Error), self._database:
            self._database.executemany("insert or replace into hashes values (?, ?, ?)", rows)


def hashes_file() -> Path:
    """Return the file that remembers hashes: below the user's cache folder."""
    return user_cache() / "hashes.sqlite"


# --- pairs ----------------------------------------------------------------------------------------


def _near_pairs(
    first: Sequence[Sample],
    second: Sequence[Sample],
    hashes: dict[Path, _Found],
    threshold: int,
) -> dict[_Index, int]:
    """Return the pairs whose hashes differ in few bits, with the distance."""
    left, one = _hash_matrix(first, hashes)
    right, other = _hash_matrix(second, hashes)
    near: dict[_Index, int] = {}
    if not (len(left) and len(right)):
        return near
    for start in range(0, len(left), _ROWS):
        # Of +1 and -1, the product counts equal bits less differing ones; float32 is exact here.
        distances = (HASH_BITS - one[start : start + _ROWS] @ other.T) / 2
        for row, column in np.argwhere(distances <= threshold):
            index = (left[start + row], right[column])
            near[index] = int(distances[row, column])
    return near


def _hash_matrix(
    samples: Sequence[Sample], hashes: dict[Path, _Found]
) -> tuple[list[int], NDArray[np.float32]]:
    """Return the places of the samples that have a hash, and the hashes, N x 256 of +1 and -1."""
    places: list[int] = []
    rows: list[NDArray[np.bool_]] = []
    for place, sample in enumerate(samples):
        found = hashes[sample.image]
        if isinstance(found, np.ndarray):
            places.append(place)
            rows.append(found)
    matrix = np.stack(rows) if rows else np.zeros((0, HASH_BITS), bool)
    return places, matrix.astype(np.float32) * 2 - 1


def _identical_pairs(first: Sequence[Sample], second: Sequence[Sample]) -> set[_Index]:
    """Return the pairs of equal files; only files of equal size are read."""
    sizes = [_by_size(samples) for samples in (first, second)]
    found: set[_Index] = set()
    for size in sizes[0].keys() & sizes[1].keys():
        digests: dict[bytes, list[int]] = defaultdict(list)
        for place in sizes[0][size]:
            digests[_digest(first[place].image)].append(place)
        for place in sizes[1][size]:
            for match in digests.get(_digest(second[place].image), ()):
                found.add((match, place))
    return found


def _by_size(samples: Sequence[Sample]) -> dict[int, list[int]]:
    sizes: dict[int, list[int]] = defaultdict(list)
    for place, sample in enumerate(samples):
        with contextlib.suppress(OSError):
            sizes[sample.image.stat().st_size].append(place)
    return sizes


def _digest(path: Path) -> bytes:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).digest()


def _photo_pairs(first: Sequence[Sample], second: Sequence[Sample]) -> dict[_Index, str]:
    """Return for each image of the second set one of the first with the same photograph."""
    of_photo: dict[str, int] = {}
    for place, sample in enumerate(first):
        for photo in sample.photos:
            of_photo.setdefault(photo, place)
    return dict(_shared(second, of_photo))


def _shared(samples: Sequence[Sample], of_photo: dict[str, int]) -> Iterator[tuple[_Index, str]]:
    for place, sample in enumerate(samples):
        photo = next((one for one in sample.photos if one in of_photo), None)
        if photo is not None:
            yield (of_photo[photo], place), photo
