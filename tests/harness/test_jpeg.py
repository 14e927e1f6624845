"""JPEG coefficients: they decode to what Pillow decodes, and say what they were read from."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.fft import idctn
from skimage import data

from sparsevit_plugin.harness import images, jpeg
from sparsevit_plugin.harness.images import BadImage

SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    """A photograph whose sides are no multiples of 8 or 16."""
    return Image.fromarray(data.astronaut()[40:157, 100:275])


def decoded(luma: jpeg.Luma, size: tuple[int, int]) -> np.ndarray:
    """Decode a plane by the textbook: ITU-T T.81, A.3.3 and A.3.4, without libjpeg's rounding."""
    rows, columns = (side // 8 for side in luma.coefficients.shape)
    blocks = luma.coefficients.reshape(rows, 8, columns, 8).transpose(0, 2, 1, 3)
    pixels = idctn(blocks * luma.table.astype(float), axes=(2, 3), norm="ortho") + 128
    plane = pixels.transpose(0, 2, 1, 3).reshape(luma.coefficients.shape)
    return np.clip(plane, 0, 255)[: size[0], : size[1]]


def luma_by_pillow(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        picture.draft("YCbCr" if picture.mode == "RGB" else "L", picture.size)
        return np.array(picture if picture.mode == "L" else picture.getchannel("Y"), float)


def assert_decodes_to_pillows(luma: jpeg.Luma, path: Path) -> None:
    expected = luma_by_pillow(path)
    # libjpeg works in integers, so a value near a half may round the other way.
    assert np.abs(decoded(luma, expected.shape) - expected).max() < 1.5
    height, width = expected.shape
    assert luma.coefficients.shape == (-(-height // 8) * 8, -(-width // 8) * 8)


# --- from the file --------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [30, 60, 95])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("progressive", [False, True])
def test_coefficients_decode_to_the_luma(photograph, tmp_path, quality, subsampling, progressive):
    path = tmp_path / "a.jpg"
    photograph.save(
        path,
        quality=quality,
        subsampling=SUBSAMPLINGS[subsampling],
        progressive=progressive,
    )
    luma = jpeg.read_luma(path)
    assert luma is not None
    assert luma.source == "file"
    assert_decodes_to_pillows(luma, path)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(luma.table.ravel(), picture.quantization[0])


def test_coefficients_of_a_greyscale_file(photograph, tmp_path):
    path = tmp_path / "grey.jpg"
    photograph.convert("L").save(path, quality=60)
    luma = jpeg.luma_of(path, *decoded_pair(path))
    assert luma.source == "file"
    assert_decodes_to_pillows(luma, path)


def test_tables_differ_with_the_quality_and_rows_are_vertical_frequencies(tmp_path):
    tables = []
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = 255  # changes from row to row only: no horizontal frequency but 0
    for quality in (30, 60, 95):
        Image.fromarray(stripes).save(tmp_path / f"{quality}.jpg", quality=quality)
        luma = jpeg.read_luma(tmp_path / f"{quality}.jpg")
        assert luma is not None
        in_blocks = luma.coefficients.reshape(8, 8, 8, 8)
        assert in_blocks[:, 7, :, 0].any()
        assert not in_blocks[:, :, :, 1:].any()
        tables.append(luma.table)
    assert (tables[0] > tables[1]).all()
    assert (tables[1] > tables[2]).all()
    # ITU-T T.81, table K.1: its first row and column, which differ, times 5 / 3 at quality 30
    assert tables[0][0, :3].tolist() == [27, 18, 17]
    assert tables[0][:3, 0].tolist() == [27, 20, 23]


def test_the_name_of_a_file_does_not_matter(photograph, tmp_path):
    photograph.save(tmp_path / "a.png", format="JPEG", quality=50)
    photograph.save(tmp_path / "a.jpg", format="PNG")
    assert jpeg.luma_of(tmp_path / "a.png", *decoded_pair(tmp_path / "a.png")).source == "file"
    assert jpeg.luma_of(tmp_path / "a.jpg", *decoded_pair(tmp_path / "a.jpg")).source == "resaved"


# --- from pixels ----------------------------------------------------------------------------------


def decoded_pair(path: Path, mask: Path | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    pixels, _, notes = images.read_pair(path, mask)
    return pixels, notes


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp"])
def test_other_formats_are_saved_as_cat_net_saves_them(photograph, tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    photograph.save(path)
    pixels, notes = decoded_pair(path)
    luma = jpeg.luma_of(path, pixels, notes)
    assert luma.source == "resaved"
    assert (luma.table == 1).all()
    theirs = tmp_path / "theirs.jpg"  # as Splicing/data/dataset_arbitrary.py says
    Image.fromarray(pixels).save(theirs, quality=100, subsampling=0)
    expected = jpeg.read_luma(theirs)
    assert expected is not None
    np.testing.assert_array_equal(luma.coefficients, expected.coefficients)
    assert_decodes_to_pillows(luma, theirs)


def test_a_wide_png_is_taken_from_its_eight_bits(tmp_path):
    wide = (np.arange(48 * 40, dtype=np.uint16) * 34).reshape(40, 48)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    pixels, notes = decoded_pair(tmp_path / "wide.png")
    luma = jpeg.luma_of(tmp_path / "wide.png", pixels, notes)
    assert np.abs(decoded(luma, (40, 48)) - pixels[..., 0]).max() < 1.5


@pytest.mark.parametrize("kind", ["cmyk", "rgb"])
def test_a_jpeg_without_luma_is_taken_from_its_pixels(photograph, tmp_path, kind):
    path = tmp_path / "a.jpg"
    if kind == "cmyk":
        photograph.convert("CMYK").save(path, quality=60)
    else:
        photograph.save(path, quality=60, keep_rgb=True)
    assert jpeg.read_luma(path) is None
    pixels, notes = decoded_pair(path)
    luma = jpeg.luma_of(path, pixels, notes)
    assert luma.source == "resaved"
    grey = np.asarray(Image.fromarray(pixels).convert("L"), float)
    assert np.abs(decoded(luma, grey.shape) - grey).max() < 2


def test_a_photograph_turned_to_its_mask_is_taken_from_its_pixels(photograph, tmp_path):
    path, mask = tmp_path / "a.jpg", tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph.save(path, quality=40, exif=exif)
    Image.new("L", photograph.size[::-1]).save(mask)
    pixels, notes = decoded_pair(path, mask)
    assert pixels.shape[:2] == photograph.size
    luma = jpeg.luma_of(path, pixels, notes)
    assert luma.source == "resaved"
    grey = np.asarray(Image.fromarray(pixels).convert("L"), float)
    assert np.abs(decoded(luma, grey.shape) - grey).max() < 2
    # With the mask at the stored size nothing is turned, and the file's own are used.
    Image.new("L", photograph.size).save(mask)
    assert jpeg.luma_of(path, *decoded_pair(path, mask)).source == "file"


# --- damaged files --------------------------------------------------------------------------------


def test_damaged_and_alien_files_are_named(photograph, tmp_path):
    whole, path = tmp_path / "a.jpg", tmp_path / "b.jpg"
    photograph.save(whole, quality=60)
    path.write_bytes(whole.read_bytes()[:20])
    with pytest.raises(BadImage, match="damaged JPEG") as caught:
        jpeg.read_luma(path)
    assert caught.value.path == path
    assert "\n" not in str(caught.value)
    path.write_bytes(b"no image")
    with pytest.raises(BadImage, match="not a JPEG"):
        jpeg.read_luma(path)
    with pytest.raises(BadImage, match="cannot be read"):
        jpeg.read_luma(tmp_path / "none.jpg")


def test_random_damage_never_ends_the_process(photograph, tmp_path):
    path = tmp_path / "a.jpg"
    photograph.save(path, quality=60)
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    outcomes = set()
    for _ in range(60):
        damaged = bytearray(whole[: draw.integers(3, len(whole))])
        for place in draw.integers(3, len(damaged), 4):
            damaged[place] = draw.integers(256)
        path.write_bytes(damaged)
        try:
            outcomes.add(type(jpeg.read_luma(path)))
        except BadImage as error:
            outcomes.add(type(error))
    assert BadImage in outcomes


def test_coefficients_that_do_not_cover_the_pixels_are_refused(photograph, tmp_path):
    path = tmp_path / "a.jpg"
    photograph.save(path)
    with pytest.raises(BadImage, match="cover 176 x 120 pixels but it is 16 x 16"):
        jpeg.luma_of(path, np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(BadImage, match="65501 x 1 pixels, more than a JPEG"):
        jpeg.luma_of(tmp_path / "a.jpg", np.zeros((1, 65501, 3), np.uint8), (images.NOTE_CMYK,))
