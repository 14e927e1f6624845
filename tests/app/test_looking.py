"""What the page does with a photograph, without a page."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from sparsevit_plugin.app import looking
from sparsevit_plugin.app.looking import Limits, forget, look, view
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.predict import Localiser
from tests.conftest import photo_array
from tests.harness.helpers import save_tiny

LIMITS = Limits(pixels=20_000, bytes=200_000)


@pytest.fixture(scope="module")
def localiser(tmp_path_factory) -> Localiser:
    return Localiser(save_tiny(tmp_path_factory.mktemp("w") / "tiny.safetensors"), device="cpu")


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_photograph_gets_the_map_that_predict_gives(localiser, tmp_path, make_photo):
    file = make_photo(tmp_path / "照片 🏖.png", (60, 90))
    expected = localiser(file)
    found = look(localiser, file, LIMITS, tmp_path / "pictures")
    assert found.map_file.name == "照片 🏖-map.png"
    np.testing.assert_array_equal(read(found.map_file), np.rint(expected.map.astype(float) * 255))
    for threshold in (0.5, 0.37):
        seen = view(found, threshold)
        mask = expected.map > np.float32(threshold)
        np.testing.assert_array_equal(read(seen.mask_file), mask * 255)
        assert (seen.pixels, seen.area) == (mask.sum(), mask.mean())
        assert read(seen.overlay_file).shape == (60, 90, 3)
    forget(found)
    assert list((tmp_path / "pictures").iterdir()) == []
    forget(None)


def test_another_threshold_does_not_run_the_model(localiser, tmp_path, make_photo, monkeypatch):
    found = look(localiser, make_photo(tmp_path / "a.png"), LIMITS, tmp_path)
    monkeypatch.setattr(Localiser, "stream", None)  # what would run it
    names = {view(found, threshold).mask_file.name for threshold in (0, 0.25, 1)}
    assert names == {f"a-above-{threshold}-mask.png" for threshold in ("0.00", "0.25", "1.00")}


def test_a_photograph_is_turned_upright(localiser, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.fromarray(photo_array(40, 70, 1)).transpose(Image.Transpose.ROTATE_90)
    lying.save(tmp_path / "lying.jpg", exif=exif)
    found = look(localiser, tmp_path / "lying.jpg", LIMITS, tmp_path)
    assert found.prediction.map.shape == (40, 70)
    assert found.small.shape == (40, 70, 3)


def test_the_overlay_of_a_large_photograph_is_shrunk_and_its_mask_is_not(
    localiser, tmp_path, make_photo, monkeypatch
):
    monkeypatch.setattr(looking, "SHOWN_SIDE", 50)
    found = look(localiser, make_photo(tmp_path / "a.png", (60, 100)), LIMITS, tmp_path)
    seen = view(found, 0.5)
    assert read(seen.overlay_file).shape == (30, 50, 3)
    assert read(seen.mask_file).shape == read(found.map_file).shape == (60, 100)


def test_what_cannot_be_used_is_named_without_its_folder(localiser, tmp_path, make_photo):
    cases = {
        "has too many pixels: 200 x 101 is 0.0 million": make_photo(tmp_path / "m.png", (101, 200)),
        "is a text file, not an image": tmp_path / "note.jpg",
        "is too large: 0.2 MB; the limit is 0.2 MB": tmp_path / "large.png",
        "cannot be decoded": tmp_path / "cut.png",
        "no such file": tmp_path / "gone.png",
    }
    (tmp_path / "note.jpg").write_text("a note")
    (tmp_path / "large.png").write_bytes(bytes(200_001))
    whole = make_photo(tmp_path / "whole.png", (60, 60)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for words, file in cases.items():
        with pytest.raises(UserError) as caught:
            look(localiser, file, LIMITS, tmp_path / "pictures")
        assert str(caught.value).startswith(file.name)
        assert words in str(caught.value).lower() or words in str(caught.value)
        assert str(tmp_path) not in str(caught.value)
    assert not (tmp_path / "pictures").exists()


def test_a_photograph_of_too_many_pixels_is_not_decoded(localiser, tmp_path, monkeypatch):
    Image.new("RGB", (300, 200)).save(tmp_path / "a.png")  # without EXIF
    loaded = []
    load = PngImageFile.load
    monkeypatch.setattr(PngImageFile, "load", lambda self: loaded.append(self) or load(self))
    with pytest.raises(UserError, match="too many pixels"):
        look(localiser, tmp_path / "a.png", LIMITS, tmp_path)
    assert loaded == []
    look(localiser, tmp_path / "a.png", Limits(pixels=60_000, bytes=200_000), tmp_path)
    assert loaded


def test_sixteen_bits_and_grey(localiser, tmp_path):
    wide = photo_array(30, 40, 2).astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "wide.tif"), wide[:, :, ::-1])
    found = look(localiser, tmp_path / "wide.tif", LIMITS, tmp_path)
    np.testing.assert_array_equal(found.small, photo_array(30, 40, 2))
