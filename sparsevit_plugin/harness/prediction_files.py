"""What `benco predict` writes: pictures of every map, a record a photograph, and tables of all.

    OUT/maps/NAME.png       the map: grey, of 8 or 16 bits, white for a probability of 1
    OUT/masks/NAME.png      255 where the map is above the threshold, else 0
    OUT/overlays/NAME.jpg   the photograph under the map, the mask outlined
    OUT/records/NAME.json   what is known of the photograph; written last, so that it stands for all
    OUT/settings.json       the settings that all records of the folder share
    OUT/predictions.csv     all records, a line each
    OUT/predictions.jsonl   the same as JSON lines
    OUT/passed-over.csv     files that could not be used, where there are any

`maps/` is a folder as `benco score --pred` takes it.
"""

import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import (
    atomic_path,
    parse_json,
    prove_writable,
    sha256_file,
    write_json_atomic,
    write_text_atomic,
)
from sparsevit_plugin.harness.datasets import BadSample
from sparsevit_plugin.harness.images import BadImage
from sparsevit_plugin.harness.predict import Photo, Prediction

PICTURES: Final = {"map": "maps/{}.png", "mask": "masks/{}.png", "overlay": "overlays/{}.jpg"}
"""The pictures that can be written, and where."""

MAP_BITS: Final = (8, 16)

COLUMNS: Final = (
    *("name", "photograph", "width", "height", "score", "tampered_pixels", "tampered_area"),
    *("threshold", "backend", "precision", "seconds", "model", "checkpoint_sha256"),
    *("fit", "image_size", "tile", "tile_overlap", "sha256", *PICTURES),
)
"""The columns of the tables. `tampered_area` is a share of the pixels, 0 to 1."""

_LOCK: Final = ".lock"
_SETTINGS: Final = "settings.json"
_TABLES: Final = ("predictions.csv", "predictions.jsonl")
_LISTING: Final = "passed-over.csv"
_LISTED: Final = ("photograph", "reason")
_ESCAPE: Final = re.compile(r"\\u(dc[89a-f][0-9a-f])")  # of a byte that is no UTF-8
_OWN: Final = (_SETTINGS, *_TABLES, _LISTING, "records", "maps", "masks", "overlays")
_LONGEST_NAME: Final = 255  # bytes of a file's name, on nearly every file system
_HEAT: Final = (255, 32, 96)
_HEAT_SHARE: Final = 0.7  # of the colour where the map is 1
_OUTLINE: Final = ((0, 0, 0), (255, 255, 255))  # a dark line under a light one: seen on any ground
_OUTLINE_SHARE: Final = 400  # the light line is this part of the longer side
_PNG_EFFORT: Final = 2  # a map of noise is hardly smaller at higher ones, and takes seconds
_JPEG_QUALITY: Final = 90
_JPEG_SIDE: Final = 65500  # the longest that its libraries write


@dataclass(frozen=True)
class Wanted:
    """Which pictures to write.

    Attributes:
        pictures: Of `PICTURES`.
        map_bits: 8 or 16.
    """

    pictures: tuple[str, ...] = tuple(PICTURES)
    map_bits: int = 8


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a folder of predictions from every other run while the block lasts.

    Two runs in one folder would each write tables of what it knew when it began.

    Args:
        folder: Made where it is missing.

    Raises:
        UserError: The folder cannot be written, or another run writes there.
    """
    prove_writable(folder, "--out")
    try:
        with FileLock(folder / _LOCK, timeout=0):
            yield
    except Timeout:
        raise UserError(
            f"--out {folder}: another benco predict writes there: wait for it, or give another "
            "folder"
        ) from None


def why_unusable(photo: Photo) -> str:
    """Say why no results can be written for a photograph, by its name; "" where they can."""
    try:
        name = photo.name.encode()
        str(photo.path).encode()
    except UnicodeEncodeError:
        return "its name is not valid UTF-8: rename it"
    longest = len(name.rpartition(b"/")[2]) + len(".json")
    return "its name is too long for its results' files: rename it" * (longest > _LONGEST_NAME)


class PredictionFolder:
    """The folder that predictions go to.

    Args:
        folder: Made where it is missing.
        settings: What makes the predictions, as `Localiser.settings` gives it.
        wanted: Which pictures to write.
        facts: More for `settings.json`: versions, device, command.
        overwrite: Whether predictions that were made otherwise, or before, are made again.

    Raises:
        UserError: The folder cannot be written, or holds predictions that were made otherwise, or
            files of their names that are something else.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        wanted: Wanted,
        *,
        facts: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.folder = folder
        self.wanted = wanted
        self.settings = json.loads(json.dumps({**settings, "map_bits": wanted.map_bits}))
        self._overwrite = overwrite
        prove_writable(folder, "--out")
        self._check_settings(overwrite)
        write_json_atomic(folder / _SETTINGS, {"settings": self.settings, **(facts or {})})

    def is_done(self, photo: Photo) -> bool:
        """Say whether a photograph, unchanged, has its record and all wanted pictures.

        Raises:
            UserError: What the folder holds under the photograph's name is of another file.
        """
        if self._overwrite:
            return False
        record = _read_json(self._record_path(photo.name))
        if record is None or record.get("settings") != self.settings:
            return False
        if not (photo.path.is_file() and record.get("sha256") == sha256_file(photo.path)):
            self._refuse_other_file(photo, record)
            return False
        pictures = [record.get(kind) for kind in self.wanted.pictures]
        return all(path and (self.folder / path).is_file() for path in pictures)

    def write(self, photo: Photo, prediction: Prediction) -> dict[str, Any]:
        """Write the pictures of a prediction, then its record.

        Returns:
            The record.

        Raises:
            BadImage: The photograph's file cannot be read any more, or has another size by now;
                nothing is written then.
            UserError: A file cannot be written.
        """
        sha256 = _sha256_of(photo)
        paths = {kind: PICTURES[kind].format(photo.name) for kind in self.wanted.pictures}
        pictures = {kind: self._picture(kind, photo, prediction) for kind in paths}
        for kind, path in paths.items():
            write_image(self.folder / path, pictures[kind])
        mask = prediction.mask
        record = {
            "name": photo.name,
            "photograph": str(photo.path),
            "sha256": sha256,
            "height": mask.shape[0],
            "width": mask.shape[1],
            "score": prediction.score,
            "tampered_pixels": int(mask.sum()),
            "tampered_area": prediction.tampered_area,
            "seconds": prediction.seconds,
            **paths,
            "settings": self.settings,
        }
        write_json_atomic(self._record_path(photo.name), record)
        return record

    def finish(
        self, photos: Sequence[Photo], bad: Sequence[BadSample] = ()
    ) -> list[dict[str, Any]]:
        """Write the tables.

        A photograph whose name depends on what else was named has one record, the newest: pictures
        under an earlier name go. The list of what could not be used keeps what an earlier run found
        and this one did not try.

        Args:
            photos: All that this run was about.
            bad: Those of them that could not be used.

        Returns:
            The records in the tables: all of the folder that were made with its settings.

        Raises:
            UserError: A table cannot be written.
        """
        records = [_line(record) for record in self._records({photo.name for photo in photos})]
        records.sort(key=lambda record: record["name"])
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        for name, text in zip(_TABLES, (_as_csv(COLUMNS, records), lines), strict=True):
            write_text_atomic(self.folder / name, text)
        tried = {os.path.abspath(photo.path) for photo in photos}  # noqa: PTH100 (not the links')
        rows = [
            *(row for row in self._listed() if _absolute(row) not in tried),
            *({"photograph": _as_text(one.path), "reason": one.reason} for one in bad),
        ]
        if rows:
            write_text_atomic(self.folder / _LISTING, _as_csv(_LISTED, rows))
        else:
            (self.folder / _LISTING).unlink(missing_ok=True)
        return records

    def _records(self, current: Set[str]) -> list[dict[str, Any]]:
        """Read the records of these settings, and remove those of an earlier name of `current`."""
        root = self.folder / "records"
        found = {
            path.relative_to(root).as_posix().removesuffix(".json"): _read_json(path)
            for path in sorted(root.rglob("*.json"))
        }
        records = {
            name: record
            for name, record in found.items()
            if record is not None and record.get("settings") == self.settings
        }
        newest = {_identity(record) for name, record in records.items() if name in current}
        earlier = [
            name
            for name, record in records.items()
            if name not in current and _identity(record) in newest
        ]
        for name in earlier:
            del records[name]
            for picture in PICTURES.values():
                (self.folder / picture.format(name)).unlink(missing_ok=True)
            self._record_path(name).unlink(missing_ok=True)
        return list(records.values())

    def _listed(self) -> list[dict[str, str]]:
        """Return what earlier runs could not use and is still there."""
        try:
            with (self.folder / _LISTING).open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        except (OSError, ValueError, csv.Error):
            return []
        return [
            {name: row[name] for name in _LISTED}
            for row in rows
            # Not Path.exists, which raises for a name that no file can have.
            if all(row.get(name) for name in _LISTED) and os.path.exists(_absolute(row))  # noqa: PTH110
        ]

    def _refuse_other_file(self, photo: Photo, record: Mapping[str, Any]) -> None:
        """Keep the pictures of a photograph from those of another one of the same name."""
        before = Path(str(record.get("photograph")))
        if before.resolve() != photo.path.resolve():
            raise UserError(
                f"--out {self.folder}: what it holds as {photo.name} is of {before}, not of "
                f"{photo.path}: give another --out, or --overwrite to replace it"
            )

    def _record_path(self, name: str) -> Path:
        return self.folder / "records" / f"{name}.json"

    def _check_settings(self, overwrite: bool) -> None:
        content = _read_json(self.folder / _SETTINGS)
        before = None if content is None else content.get("settings")
        if overwrite or before == self.settings:
            return
        if not isinstance(before, dict):
            self._refuse_other_content()
            return
        names = sorted(set(before) | set(self.settings))
        changed = [name for name in names if before.get(name) != self.settings.get(name)]
        raise UserError(
            f"--out {self.folder}: holds predictions that were made otherwise "
            f"({', '.join(changed)}): give another --out, or --overwrite to replace them"
        )

    def _refuse_other_content(self) -> None:
        there = [name for name in _OWN if (self.folder / name).exists()]
        if there:
            raise UserError(
                f"--out {self.folder}: holds {', '.join(there)} of something else: give another "
                "--out, or --overwrite to replace files of the same names"
            )

    def _picture(
        self, kind: str, photo: Photo, prediction: Prediction
    ) -> NDArray[np.uint8] | NDArray[np.uint16]:
        if kind == "map":
            return map_picture(prediction.map, self.wanted.map_bits)
        if kind == "mask":
            return prediction.mask.astype(np.uint8) * np.uint8(255)
        return _jpeg_sized(overlay(_same_photograph(photo, prediction), prediction))[:, :, ::-1]


def _identity(record: Mapping[str, Any]) -> tuple[str, object]:
    """Return which file a record is of, and its contents then."""
    return os.path.abspath(str(record.get("photograph"))), record.get("sha256")  # noqa: PTH100


def _as_text(path: Path) -> str:
    """Return a path as a table can hold it: bytes that are no UTF-8 as escapes."""
    return str(path).encode(errors="backslashreplace").decode()


def _absolute(row: Mapping[str, str]) -> str:
    """Return the path of a row of the list, of which `_as_text` made a text."""
    path = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), row["photograph"])
    return os.path.abspath(path)  # noqa: PTH100 (links keep their names)


def _sha256_of(photo: Photo) -> str:
    try:
        return sha256_file(photo.path)
    except UserError as error:
        raise BadImage(photo.path, "cannot be read any more") from error


def _same_photograph(photo: Photo, prediction: Prediction) -> NDArray[np.uint8]:
    """Return a photograph's pixels once more, to draw on.

    Raises:
        BadImage: The file is not the one that was predicted on any more.
    """
    pixels, _ = photo.read()
    if pixels.shape[:2] != prediction.map.shape:
        height, width = prediction.map.shape
        raise BadImage(
            photo.path,
            f"changed while it was predicted on: was {width} x {height} pixels, is "
            f"{pixels.shape[1]} x {pixels.shape[0]}",
        )
    return pixels


def map_picture(values: NDArray[np.float32], bits: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return a map as whole numbers, rounded: 1 becomes 255 (8 bits) or 65535 (16 bits)."""
    full = (1 << bits) - 1
    kind = np.uint8 if bits == MAP_BITS[0] else np.uint16
    return np.rint(values.astype(np.float64) * full).astype(kind)


def overlay(pixels: NDArray[np.uint8], prediction: Prediction) -> NDArray[np.uint8]:
    """Draw a map over its photograph: coloured by its probabilities, with the mask outlined.

    Args:
        pixels: The photograph, uint8, H x W x 3.
        prediction: Of the same size.

    Returns:
        uint8, H x W x 3.
    """
    share = (_HEAT_SHARE * prediction.map)[:, :, None]
    drawn = pixels * (1 - share) + np.array(_HEAT, np.float32) * share
    picture = np.ascontiguousarray(np.rint(drawn).astype(np.uint8))
    mask = prediction.mask.astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(max(pixels.shape[:2]) / _OUTLINE_SHARE))
    for colour, thickness in zip(_OUTLINE, (3 * width, width), strict=True):
        cv2.drawContours(picture, contours, -1, colour, thickness, cv2.LINE_AA)
    return picture


def _jpeg_sized(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shrink a picture that is longer than a JPEG file can be; an overlay is only looked at."""
    height, width = picture.shape[:2]
    scale = _JPEG_SIDE / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def write_image(path: Path, picture: NDArray[Any]) -> None:
    """Write grey, or colour in OpenCV's order, by the suffix of the path.

    Raises:
        UserError: It cannot be encoded or written.
    """
    effort = [cv2.IMWRITE_PNG_COMPRESSION, _PNG_EFFORT, cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    done, content = cv2.imencode(path.suffix, np.ascontiguousarray(picture), effort)
    if not done:
        raise UserError(f"{path}: the picture cannot be encoded")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.tobytes())


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return a file's dictionary; None where there is none, or something else."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _line(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as the tables have it: what its settings say stands beside the rest."""
    flat = {**record["settings"], **record}
    return {column: flat.get(column) for column in COLUMNS}


def _as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
