"""Reading photographs and masks: each kind of file a public set holds, good and bad."""

import pickle
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from IMDLBenCo.datasets.utils import pil_loader
from PIL import Image, ImageOps

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness import images
from sparsevit_plugin.harness.images import BadImage, SizeMismatch
from sparsevit_plugin.pixel_limit import limited_to
from tests.conftest import mask_array, photo_array

EXIF_ORIENTATION = 0x0112


def save_turned(path: Path, picture: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    Image.fromarray(picture).save(path, exif=exif, quality=95)


@pytest.mark.parametrize("extension", ["jpg", "png", "bmp", "tif", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_eight_bit_files_read_as_upstream_reads_them(tmp_path, extension, mode):
    path = tmp_path / f"a.{extension}"
    Image.fromarray(photo_array(20, 30, 1)).convert(mode).save(path)
    np.testing.assert_array_equal(images.read_image(path), np.array(pil_loader(path)))


def test_palette_with_transparency_reads_without_a_warning(tmp_path):
    path = tmp_path / "a.png"
    palette = Image.fromarray(photo_array(20, 30, 1)).quantize(16)
    palette.save(path, transparency=bytes(range(16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = images.decode_image(path)
    np.testing.assert_array_equal(found.pixels, np.array(palette.convert("RGB")))
    assert found.notes == (images.NOTE_PALETTE, images.NOTE_ALPHA)


@pytest.mark.parametrize("extension", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bit_samples_are_divided_by_257_and_rounded(tmp_path, extension, channels):
    path = tmp_path / f"a.{extension}"
    shape = (16, 16) if channels == 1 else (16, 16, channels)
    wide = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    cv2.imwrite(str(path), wide)  # takes BGR(A)
    expected = np.rint(wide / 257).astype(np.uint8)
    expected = np.repeat(expected[..., None], 3, 2) if channels == 1 else expected[..., 2::-1]
    found = images.decode_image(path)
    np.testing.assert_array_equal(found.pixels, expected)
    assert images.NOTE_WIDE in found.notes
    assert (images.NOTE_ALPHA in found.notes) == (channels == 4)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
    ],
)
def test_thirty_two_bit_samples_take_the_smallest_scale_that_holds_them(
    tmp_path, samples, expected
):
    path = tmp_path / "a.tif"
    Image.fromarray(samples).save(path)
    assert images.read_image(path)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("value", [-1.0, 70000.0, float("nan")])
def test_samples_on_no_known_scale_are_refused(tmp_path, value):
    path = tmp_path / "a.tif"
    Image.fromarray(np.full((2, 2), value, np.float32)).save(path)
    with pytest.raises(BadImage, match="samples"):
        images.read_image(path)


def test_alpha_is_dropped_and_cmyk_converted_with_a_note(tmp_path):
    picture = Image.fromarray(photo_array(20, 30, 1))
    picture.convert("RGBA").save(tmp_path / "a.png")
    picture.convert("CMYK").save(tmp_path / "c.jpg")
    alpha, cmyk = (images.decode_image(tmp_path / name) for name in ("a.png", "c.jpg"))
    np.testing.assert_array_equal(alpha.pixels, np.array(picture))
    assert alpha.notes == (images.NOTE_ALPHA,)
    assert cmyk.pixels.shape == (20, 30, 3)
    assert cmyk.notes == (images.NOTE_CMYK,)


@pytest.mark.parametrize("extension", ["gif", "tif", "webp", "png"])
def test_the_first_of_several_frames_is_used(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    first, second = (Image.new("RGB", (8, 6), colour) for colour in ("red", "blue"))
    first.save(path, save_all=True, append_images=[second], lossless=True)
    found = images.decode_image(path)
    assert images.NOTE_FRAMES in found.notes
    np.testing.assert_array_equal(found.pixels, np.array(first))


def write_broken(folder: Path, kind: str, extension: str = "jpg") -> Path:
    path = folder / f"broken.{extension}"
    whole = folder / f"whole.{extension}"
    Image.fromarray(photo_array(64, 64, 0)).save(whole)
    contents = {
        "empty": b"",
        "text": b"<html>\n404 Not Found\n</html>\n",
        "truncated": whole.read_bytes()[: whole.stat().st_size // 2],
        "headless": whole.read_bytes()[64:],
    }
    path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", "empty"),
        ("text", "text file"),
        ("truncated", "cannot be decoded"),
        ("headless", "known format"),
    ],
)
@pytest.mark.parametrize("read", [images.read_image, images.read_mask])
def test_broken_files_are_named_with_the_reason_in_one_line(tmp_path, kind, words, read):
    path = write_broken(tmp_path, kind)
    with pytest.raises(BadImage, match=words) as caught:
        read(path)
    assert caught.value.path == path
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize("extension", ["png", "tif", "bmp", "webp", "gif"])
def test_truncated_files_of_any_format_are_refused(tmp_path, extension):
    with pytest.raises(BadImage):
        images.read_image(write_broken(tmp_path, "truncated", extension))


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(BadImage, match="no such file"):
        images.read_image(tmp_path / "a.jpg")
    with pytest.raises(BadImage, match="folder"):
        images.read_image(tmp_path)


def test_a_decompression_bomb_is_refused(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(photo_array(20, 30, 1)).save(path)
    with limited_to(100), pytest.raises(BadImage, match="too many pixels"):
        images.read_image(path)


def test_errors_survive_pickling(tmp_path):
    with pytest.raises(BadImage) as caught:
        images.read_image(tmp_path / "a.jpg")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    assert copy.path == caught.value.path


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    extension=st.sampled_from(["jpg", "png", "tif", "webp", "gif", "bmp"]),
    place=st.floats(0, 1),
    junk=st.binary(min_size=1, max_size=8),
)
def test_damaged_bytes_never_raise_anything_else(tmp_path_factory, extension, place, junk):
    path = tmp_path_factory.mktemp("damaged") / f"a.{extension}"
    Image.fromarray(photo_array(24, 24, 0)).save(path)
    data = bytearray(path.read_bytes())
    start = int(place * (len(data) - 1))
    data[start : start + len(junk)] = junk
    path.write_bytes(data)
    try:
        found = images.read_image(path)
    except BadImage:
        return
    assert found.dtype == np.uint8
    assert found.ndim == 3


# --- masks ----------------------------------------------------------------------------------------


def save_mask(path: Path, kind: str, truth: np.ndarray) -> None:
    wide = truth.astype(np.uint16)
    forms = {
        "0/255": lambda: Image.fromarray(truth),
        "0/1": lambda: Image.fromarray(truth // 255),
        "colour": lambda: Image.fromarray(truth).convert("RGB"),
        "colour 0/1": lambda: Image.fromarray(truth // 255).convert("RGB"),
        "bilevel": lambda: Image.fromarray(truth).convert("1"),
        "palette": lambda: Image.fromarray(truth).convert("P"),
        "alpha": lambda: Image.fromarray(truth).convert("LA"),
        "16 bits": lambda: Image.fromarray(wide * 257),
        "16 bits 0/255": lambda: Image.fromarray(wide),
        "16 bits 0/1": lambda: Image.fromarray(wide // 255),
    }
    forms[kind]().save(path)


@pytest.mark.parametrize("extension", ["png", "tif"])
@pytest.mark.parametrize(
    "kind",
    [
        *("0/255", "0/1", "colour", "colour 0/1", "bilevel", "palette", "alpha"),
        *("16 bits", "16 bits 0/255", "16 bits 0/1"),
    ],
)
def test_every_form_of_a_binary_mask_reads_the_same(tmp_path, kind, extension):
    truth = mask_array(20, 30, 0)
    path = tmp_path / f"m.{extension}"
    save_mask(path, kind, truth)
    found = images.decode_mask(path)
    np.testing.assert_array_equal(found.pixels, truth)
    assert found.binary


def test_soft_masks_are_cut_above_127_and_a_half(tmp_path):
    path = tmp_path / "m.png"
    ramp = np.arange(256, dtype=np.uint8)[None]
    Image.fromarray(ramp).save(path)
    found = images.decode_mask(path)
    np.testing.assert_array_equal(found.pixels, np.where(ramp > 127.5, 255, 0))
    assert not found.binary


def test_coloured_masks_use_the_mean_of_the_channels_as_upstream(tmp_path):
    path = tmp_path / "m.png"
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(colours).save(path)
    expected = np.mean(np.array(pil_loader(path)), axis=2) > 127.5
    np.testing.assert_array_equal(images.read_mask(path) > 0, expected)


def test_jpeg_masks_keep_their_region_and_dark_noise_is_no_mask(tmp_path):
    truth = np.zeros((32, 32), np.uint8)
    truth[9:22, 9:22] = 255
    Image.fromarray(truth).save(tmp_path / "m.jpg", quality=90)
    found = images.decode_mask(tmp_path / "m.jpg")
    np.testing.assert_array_equal(found.pixels, truth)
    assert not found.binary
    Image.fromarray(truth // 255).save(tmp_path / "dark.jpg", quality=100)
    assert not images.read_mask(tmp_path / "dark.jpg").any()


def test_an_empty_mask_is_empty(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "m.png")
    found = images.decode_mask(tmp_path / "m.png")
    assert not found.pixels.any()
    assert found.binary


# --- pairs ----------------------------------------------------------------------------------------


def test_an_authentic_image_has_an_empty_mask(make_photo, tmp_path):
    image, mask, _ = images.read_pair(make_photo(tmp_path / "a.png"), None)
    assert mask.shape == image.shape[:2]
    assert not mask.any()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_exif_turns_an_image_only_where_that_matches_the_mask(tmp_path, orientation):
    picture = photo_array(16, 24, 0)
    path, mask = tmp_path / "a.png", tmp_path / "m.png"
    save_turned(path, picture, orientation)
    with Image.open(path) as stored:
        upright = np.array(ImageOps.exif_transpose(stored))
    Image.fromarray(mask_array(24, 16, 0)).save(mask)
    found, _, notes = images.read_pair(path, mask)
    np.testing.assert_array_equal(found, upright)
    assert notes == (images.NOTE_EXIF_TURNED,)
    Image.fromarray(mask_array(16, 24, 0)).save(mask)
    found, _, notes = images.read_pair(path, mask)
    np.testing.assert_array_equal(found, picture)
    assert notes == (images.NOTE_EXIF_STORED,)


def test_sizes_that_differ_are_refused_with_both_sizes_and_files(tmp_path, make_photo, make_mask):
    image = make_photo(tmp_path / "a.jpg", (48, 64))
    mask = make_mask(tmp_path / "m.png", (48, 65))
    with pytest.raises(SizeMismatch) as caught:
        images.read_pair(image, mask)
    for words in ("a.jpg", "m.png", "64 x 48", "65 x 48"):
        assert words in str(caught.value)
