"""Masks of every kind that sets come with become 0 and 255."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsevit_plugin.harness.images import BadImage
from sparsevit_plugin.harness.mask_rules import read_ruled_mask

REGION = np.zeros((24, 32), bool)
REGION[8:16, 8:24] = True
WANTED = REGION.astype(np.uint8) * 255


def saved(path: Path, pixels: np.ndarray, **how) -> list[Path]:
    Image.fromarray(pixels).save(path, **how)
    return [path]


def test_default_is_white_on_black(tmp_path: Path):
    mask = read_ruled_mask(saved(tmp_path / "a.png", WANTED), "default")
    assert np.array_equal(mask.pixels, WANTED)
    assert not mask.converted
    ones = read_ruled_mask(saved(tmp_path / "b.png", WANTED // 255), "default")
    assert np.array_equal(ones.pixels, WANTED)


def test_inverted_is_black_on_white(tmp_path: Path):
    mask = read_ruled_mask(saved(tmp_path / "a.png", 255 - WANTED), "inverted")
    assert np.array_equal(mask.pixels, WANTED)
    assert mask.converted
    white = read_ruled_mask(saved(tmp_path / "b.png", np.full_like(WANTED, 255)), "inverted")
    assert not white.pixels.any()


def test_nonzero_counts_every_level(tmp_path: Path):
    levels = WANTED.copy()
    levels[8:12, 8:24] = 40
    mask = read_ruled_mask(saved(tmp_path / "a.png", levels), "nonzero")
    assert np.array_equal(mask.pixels, WANTED)
    assert mask.converted
    assert not read_ruled_mask(saved(tmp_path / "b.png", WANTED), "nonzero").converted


@pytest.mark.parametrize("rule", ["green", "red"])
def test_painted_regions_survive_jpeg(tmp_path: Path, rule: str):
    painted = np.zeros((*REGION.shape, 3), np.uint8)
    inside, outside = (1, 0) if rule == "green" else (0, 1)
    painted[REGION, inside], painted[~REGION, outside] = 200, 200
    painted[7:9, :, outside] = 0  # a black line at the border
    mask = read_ruled_mask(saved(tmp_path / "a.jpg", painted, quality=90), rule)
    assert (mask.pixels[10:14, 10:22] == 255).all()
    assert not mask.pixels[18:].any()
    assert not mask.pixels[:6].any()


@pytest.mark.parametrize("shape", [(24, 32), (24, 32, 1), (1, 24, 32)])
def test_numpy_masks(tmp_path: Path, shape: tuple[int, ...]):
    file = tmp_path / "a.npz"
    np.savez_compressed(file, REGION.reshape(shape).astype(np.uint8) * 7)
    assert np.array_equal(read_ruled_mask([file], "nonzero").pixels, WANTED)


def test_several_masks_are_joined(tmp_path: Path):
    left, right = WANTED.copy(), WANTED.copy()
    left[:, 16:], right[:, :16] = 0, 0
    files = [*saved(tmp_path / "a.png", left), *saved(tmp_path / "b.png", right)]
    mask = read_ruled_mask(files, "default")
    assert np.array_equal(mask.pixels, WANTED)
    files += saved(tmp_path / "c.png", np.zeros((5, 5), np.uint8))
    with pytest.raises(BadImage, match=r"c\.png: is of another size"):
        read_ruled_mask(files, "default")


def test_bad_masks_are_named(tmp_path: Path):
    broken = tmp_path / "a.npz"
    broken.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(BadImage, match=r"a\.npz: cannot be read"):
        read_ruled_mask([broken], "nonzero")
    np.savez(tmp_path / "b.npz", REGION, REGION)
    with pytest.raises(BadImage, match=r"holds 2 arrays \(arr_0, arr_1\), expected one"):
        read_ruled_mask([tmp_path / "b.npz"], "nonzero")
    with pytest.raises(BadImage, match="which the mask rule default is not for"):
        read_ruled_mask([tmp_path / "b.npz"], "default")
    np.savez(tmp_path / "c.npz", np.array([{"code": 1}], dtype=object))
    with pytest.raises(BadImage, match="holds object"):
        read_ruled_mask([tmp_path / "c.npz"], "nonzero")
