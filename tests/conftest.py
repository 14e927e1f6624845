"""Fixtures shared by all tests: small photographs and sets made on the spot, no download."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import browser, open_page  # noqa: F401 - fixtures


def photo_array(height: int, width: int, seed: int) -> np.ndarray:
    """A textured picture, uint8, H x W x 3: smooth colours, sensor-like noise and a few edges."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(30, 225, (4, 5, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    picture = smooth.astype(np.float64) + draw.normal(0, 6, (height, width, 3))
    top, left = draw.integers(0, height // 2), draw.integers(0, width // 2)
    picture[top : top + height // 4, left : left + width // 3] *= 0.6
    return np.clip(picture, 0, 255).astype(np.uint8)


def mask_array(height: int, width: int, seed: int) -> np.ndarray:
    """A mask, uint8, H x W: one tampered rectangle of 255."""
    draw = np.random.default_rng(seed + 1_000_003)
    top, left = draw.integers(0, height // 2), draw.integers(0, width // 2)
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + height // 3, left : left + width // 3] = 255
    return mask


@pytest.fixture(autouse=True)
def plain_kernels() -> Iterator[None]:
    """A command run within a test chooses kernels for the process: undo that."""
    yield
    kernels = sys.modules.get("sparsevit_plugin.model.kernels")
    if kernels:  # not imported before: some tests count what a command imports
        kernels.use_kernels(kernels.Kernels())


MakePhoto = Callable[..., Path]
MakeSet = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_silent_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that joins a group within a test fails instead of ending the tests' own process."""

    def fail(code: int) -> None:
        raise RuntimeError(f"the command joined other processes and would end this one: {code}")

    monkeypatch.setattr("sparsevit_plugin.group_end._leave", fail)


@pytest.fixture
def make_photo() -> MakePhoto:
    """`make_photo(path, size=(48, 64), seed=0) -> path`: write a photograph; size is (H, W)."""

    def make(path: Path, size: tuple[int, int] = (48, 64), seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo_array(*size, seed)).save(path)
        return path

    return make


@pytest.fixture
def make_mask() -> MakePhoto:
    """`make_mask(path, size=(48, 64), seed=0) -> path`: write a mask; size is (H, W)."""

    def make(path: Path, size: tuple[int, int] = (48, 64), seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask_array(*size, seed)).save(path)
        return path

    return make


@pytest.fixture
def make_set(make_photo: MakePhoto, make_mask: MakePhoto) -> MakeSet:
    """`make_set(folder, count=4, size=(48, 64), stems=None) -> folder` of Tp/*.jpg, Gt/*.png."""

    def make(
        folder: Path,
        count: int = 4,
        size: tuple[int, int] = (48, 64),
        stems: list[str] | None = None,
    ) -> Path:
        for seed, stem in enumerate(stems or [f"{number:03d}" for number in range(count)]):
            make_photo(folder / "Tp" / f"{stem}.jpg", size, seed)
            make_mask(folder / "Gt" / f"{stem}.png", size, seed)
        return folder

    return make


@pytest.fixture
def tiny_set(tmp_path: Path, make_set: MakeSet) -> Path:
    """A folder with Tp/ and Gt/ of four pairs, 48 x 64."""
    return make_set(tmp_path / "tiny")


@pytest.fixture
def tiny_corpus(tmp_path: Path, make_photo: MakePhoto, make_mask: MakePhoto) -> Path:
    """A corpus as `benco data make` lays it out; returns its folder.

    Twelve tampered images in Tp/ (image i has base photograph i // 2 and donor i // 2 + 1, of
    seven), three authentic ones in Au/ (photographs 0, 2, 4), `list.json` and `manifest.json`.
    """
    folder = tmp_path / "corpus"
    records: list[list[str]] = []
    images: dict[str, dict[str, list[str]]] = {}
    for number in range(12):
        image, mask = f"Tp/{number:06d}.jpg", f"Gt/{number:06d}.png"
        make_photo(folder / image, seed=number)
        make_mask(folder / mask, seed=number)
        records.append([image, mask])
        images[image] = {"photos": [f"photo{number // 2}", f"photo{number // 2 + 1}"]}
    for number in range(3):
        image = f"Au/{number:06d}.jpg"
        make_photo(folder / image, seed=100 + number)
        records.append([image, "Negative"])
        images[image] = {"photos": [f"photo{2 * number}"]}
    (folder / "list.json").write_text(json.dumps(records))
    manifest = {"schema": 1, "kind": "sparsevit-corpus", "images": images}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
