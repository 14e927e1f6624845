"""Where a photograph's pixel is in what the model sees, however it was fitted."""

import numpy as np
import pytest
from PIL import Image

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.explain.subject import Subject, patch_side, sparse_blocks, tap_places
from sparsevit_plugin.harness.predict import Localiser

FITS = [{}, {"fit": "pad", "image_size": 96}, {"fit": "grid"}]


def spotted(height: int, width: int, x: int, y: int) -> np.ndarray:
    """A black picture with a white spot around a pixel."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5] = 255
    return pixels


@pytest.mark.parametrize("options", FITS, ids=["resize", "pad", "grid"])
@pytest.mark.parametrize("size", [(200, 130), (61, 90)])
def test_a_pixel_is_found_where_the_model_sees_it(checkpoint, options, size):
    height, width = size
    subject = Subject(checkpoint, device="cpu", **options)
    for x, y in [(20, 30), (width - 10, height - 10), (width // 2, 5)]:
        fed = subject.feed(spotted(height, width, x, y))
        bright = np.argwhere(fed.inputs["image"][0, 0].numpy() > 0)
        row, column = fed.place(x, y)
        assert np.abs(bright.mean(0) - (row, column)).max() <= 2.5
        assert row < fed.shape[0]
        assert column < fed.shape[1]


def test_coordinates_are_of_the_upright_photograph(subject, tmp_path):
    stored = Image.fromarray(spotted(40, 100, 80, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise: 100 high, 40 wide
    stored.save(tmp_path / "turned.png", exif=exif)
    fed = subject.feed(tmp_path / "turned.png")
    assert fed.size == (100, 40)
    bright = np.argwhere(fed.pixels[:, :, 0] > 128).mean(0)
    assert bright.tolist() == [80, 29]
    row, column = fed.place(29, 80)
    seen = np.argwhere(fed.inputs["image"][0, 0].numpy() > 0).mean(0)
    assert np.abs(seen - (row, column)).max() <= 2


@pytest.mark.parametrize(("x", "y"), [(-1, 0), (64, 0), (0, 48), (500, 500)])
def test_a_pixel_outside_is_refused(subject, x, y):
    fed = subject.feed(np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(UserError, match="is 64 x 48 pixels: x goes from 0 to 63, y from 0 to 47"):
        fed.place(x, y)


def test_values_of_tokens_are_spread_over_their_cells(checkpoint):
    subject = Subject(checkpoint, device="cpu", fit="grid")
    fed = subject.feed(np.zeros((40, 72, 3), np.uint8))  # 2.5 x 4.5 cells of 16 pixels
    cells = np.arange(15).reshape(3, 5)
    shown = fed.on_picture(cells, 16, (80, 144))
    assert shown.shape == (80, 144)
    for y in range(80):
        for x in range(0, 144, 7):
            assert shown[y, x] == cells[y // 32, x // 32]


@pytest.mark.parametrize("options", FITS, ids=["resize", "pad", "grid"])
def test_the_map_is_that_of_predict(checkpoint, make_photo, tmp_path, options):
    path = make_photo(tmp_path / "a.png", (75, 50))
    subject = Subject(checkpoint, device="cpu", **options)
    values, score = subject.probability(subject.feed(path))
    expected = Localiser(checkpoint, device="cpu", **options)(path)
    np.testing.assert_allclose(values, expected.map, atol=1e-5)
    assert score == pytest.approx(expected.score, abs=1e-5)


def test_blocks_are_counted_from_one(subject):
    backbone = subject.backbone("something")
    shorts = [place.short for place in sparse_blocks(backbone)]
    assert shorts == ["3.1", "3.2", "3.3", "3.4", "4.1", "4.2"]
    assert [place.rate for place in sparse_blocks(backbone)] == [8, 4, 2, 1, 2, 1]
    assert [place.short for place in tap_places(backbone)] == shorts  # tiny taps every block
    assert [patch_side(stage) for stage in (1, 2, 3, 4)] == [4, 8, 16, 32]


def test_a_model_without_sparse_blocks_says_so(plain_checkpoint):
    subject = Subject(plain_checkpoint, device="cpu")
    with pytest.raises(UserError, match="PlainConvolution has no sparse blocks"):
        subject.backbone("attention is drawn")
    with pytest.raises(UserError, match="no Learnable Feature Fusion"):
        subject.head()
