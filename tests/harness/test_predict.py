"""Predictions: the maps of `benco test`, of files, pictures, arrays and tensors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import sparsevit_plugin
from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness import evaluate
from sparsevit_plugin.harness.datasets import BadSample
from sparsevit_plugin.harness.images import BadImage, decode_image, read_image
from sparsevit_plugin.harness.predict import Localiser, Photo, as_photo, as_pixels, predict
from sparsevit_plugin.results.store import load
from tests.conftest import photo_array
from tests.harness.helpers import save_tiny

SIZES = [(40, 56), (64, 64), (75, 50), (40, 56), (37, 90)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def localiser(checkpoint) -> Localiser:
    return Localiser(checkpoint, device="cpu")


@pytest.fixture
def photographs(tmp_path, make_photo, make_mask) -> Path:
    """A set of five photographs in four sizes, as benco test reads it."""
    for number, size in enumerate(SIZES):
        make_photo(tmp_path / f"set/Tp/{number}.png", size, number)
        make_mask(tmp_path / f"set/Gt/{number}.png", size, number)
    return tmp_path / "set"


def files_of(folder: Path) -> list[Path]:
    return sorted((folder / "Tp").iterdir())


# --- the maps of benco test -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fit": "pad", "image_size": 96},
        {"fit": "grid"},
        {"tile": 32, "tile_overlap": 0},
        {"batch_size": 3},
    ],
    ids=["resize", "pad", "grid", "tiles", "batch"],
)
def test_a_map_is_the_one_that_benco_test_scores(
    photographs, checkpoint, tmp_path, monkeypatch, options
):
    scored = []
    native_map = evaluate.native_map

    def recording(*args):
        scored.append(native_map(*args))
        return scored[-1]

    monkeypatch.setattr(evaluate, "native_map", recording)
    flags = {"device": "cpu", "num_workers": 0, **options}
    flags["test_batch_size"] = flags.pop("batch_size", 1)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    words += ["--model", "SparseViT_tiny", "--checkpoint", str(checkpoint)]
    words += ["--test-data-path", str(photographs), "--output-dir", str(tmp_path / "out")]
    assert main(["test", *words]) == 0
    predictions = Localiser(checkpoint, device="cpu", **options)(files_of(photographs))
    assert len(predictions) == len(scored) == len(SIZES)
    for prediction, expected, size in zip(predictions, scored, SIZES, strict=True):
        assert prediction.map.shape == size
        assert prediction.map.dtype == np.float32
        np.testing.assert_array_equal(prediction.map, expected[0].numpy())
    rows = load(tmp_path / "out").rows
    rows = rows[rows["score_at"] == "image"].sort_values("sample_name")
    assert [p.score for p in predictions] == rows["score"].tolist()
    assert [int(p.mask.sum()) for p in predictions] == (rows["tp"] + rows["fp"]).tolist()


def test_photographs_of_one_size_are_seen_together_and_change_nothing(photographs, checkpoint):
    seen = []
    several = Localiser(checkpoint, device="cpu", fit="grid", batch_size=8)
    several.model.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(tuple(inputs["image"].shape)), with_kwargs=True
    )
    together = several(files_of(photographs))
    assert sorted(seen) == [(1, 3, 40, 96), (1, 3, 64, 64), (1, 3, 80, 56), (2, 3, 40, 56)]
    alone = Localiser(checkpoint, device="cpu", fit="grid")(files_of(photographs))
    for one, other in zip(together, alone, strict=True):
        assert one.name == other.name
        np.testing.assert_allclose(one.map, other.map, atol=1e-5)


def test_sizes_are_asked_for_only_where_photographs_are_grouped_by_them(
    photographs, checkpoint, monkeypatch
):
    monkeypatch.setattr(Photo, "size", lambda self: pytest.fail("read before its turn"))
    one_by_one = Localiser(checkpoint, device="cpu", fit="grid")
    assert len(one_by_one(files_of(photographs))) == len(SIZES)


def test_tiles_compose_with_another_backend(checkpoint, tmp_path, make_photo):
    pytest.importorskip("openvino")
    path = make_photo(tmp_path / "a.png", (75, 90))
    options = {"device": "cpu", "tile": 32, "tile_overlap": 0, "batch_size": 2}
    exported = Localiser(checkpoint, backend="openvino", **options)
    assert exported.settings()["backend"] == "openvino"
    expected = Localiser(checkpoint, **options)(path)
    np.testing.assert_allclose(exported(path).map, expected.map, rtol=0, atol=1e-5)


# --- pictures of every kind -----------------------------------------------------------------------


def test_files_pictures_arrays_and_tensors_give_the_same_map(localiser, tmp_path, make_photo):
    path = make_photo(tmp_path / "a.png", (45, 61))
    pixels = read_image(path)
    kinds = {
        "path": path,
        "text": str(path),
        "picture": Image.open(path),
        "array": pixels,
        "floats": pixels / 255,
        "16 bits": pixels.astype(np.uint16) * 257,
        "alpha": np.dstack([pixels, np.full(pixels.shape[:2], 7, np.uint8)]),
        "tensor": torch.from_numpy(pixels).permute(2, 0, 1),
        "float tensor": torch.from_numpy(pixels).permute(2, 0, 1) / 255,
    }
    expected = localiser(path)
    for kind, picture in kinds.items():
        np.testing.assert_array_equal(localiser(picture).map, expected.map, err_msg=kind)
    for batch in ([pixels, path], np.stack([pixels] * 2), torch.stack([kinds["tensor"]] * 2)):
        for one in localiser(batch):
            np.testing.assert_array_equal(one.map, expected.map)


def test_grey_pictures_are_repeated_into_three_channels():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(as_pixels(grey), expected)
    np.testing.assert_array_equal(as_pixels(grey[:, :, None]), expected)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((3, 8, 8, 8, 3)), "shape"),
        (np.zeros((3, 20, 20), np.uint8), r"shape is \(3, 20, 20\)"),
        (np.zeros((0, 8, 3), np.uint8), "shape"),
        (np.zeros((8, 8, 3), np.int64), "int64"),
        (np.full((8, 8, 3), -1.5), "from 0 to 1"),
        (np.full((8, 8, 3), np.nan), "from 0 to 1"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(values, words):
    with pytest.raises(UserError, match=words):
        as_pixels(values)


def test_what_is_no_picture_at_all_is_refused(localiser):
    with pytest.raises(UserError, match="dict is no picture"):
        localiser({"image": 1})


def test_pillow_pictures_of_every_mode_are_read_as_their_files_are(tmp_path):
    ramp = np.linspace(0, 250, 48).reshape(6, 8)
    pictures = {
        "I": Image.fromarray(ramp.astype(np.int32)),
        "F": Image.fromarray(ramp.astype(np.float32)),
        "I;16": Image.fromarray((ramp * 257).astype(np.uint16)),
        "L": Image.fromarray(ramp.astype(np.uint8)),
        "RGBA": Image.fromarray(photo_array(6, 8, 1)).convert("RGBA"),
        "P": Image.fromarray(photo_array(6, 8, 1)).convert("P"),
    }
    for mode, picture in pictures.items():
        assert picture.mode == mode
        picture.save(tmp_path / "a.tif")
        file = decode_image(tmp_path / "a.tif").pixels
        np.testing.assert_array_equal(as_photo(picture).pixels, file, err_msg=mode)


def test_a_tensor_of_half_the_bits_is_taken():
    values = torch.rand(3, 6, 8)
    for kind in (torch.bfloat16, torch.float16):
        expected = np.rint(values.to(kind).double().numpy().transpose(1, 2, 0) * 255)
        np.testing.assert_array_equal(as_photo(values.to(kind)).pixels, expected)


def test_a_damaged_picture_that_nobody_has_decoded_is_one_line(tmp_path, make_photo):
    whole = make_photo(tmp_path / "a.jpg", (64, 64)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with Image.open(tmp_path / "cut.jpg") as picture, pytest.raises(UserError) as caught:
        as_photo(picture)
    assert "picture 0: cannot be decoded: " in str(caught.value)


def test_the_same_file_may_be_given_twice(localiser, tmp_path, make_photo):
    path = make_photo(tmp_path / "a.png")
    first, second = localiser([path, path])
    np.testing.assert_array_equal(first.map, second.map)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_with_an_exif_orientation_is_seen_upright(localiser, tmp_path, orientation):
    picture = Image.fromarray(photo_array(40, 56, seed=3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "turned.png", exif=exif)
    upright = Localiser.__call__(localiser, tmp_path / "turned.png")
    assert upright.map.shape == ((56, 40) if orientation >= 5 else (40, 56))
    with Image.open(tmp_path / "turned.png") as opened:
        np.testing.assert_array_equal(localiser(opened).map, upright.map)


def test_the_python_entry_loads_and_predicts(checkpoint, localiser, tmp_path, make_photo):
    path = make_photo(tmp_path / "a.png")
    one = sparsevit_plugin.predict(path, checkpoint=checkpoint, device="cpu", threshold=0.25)
    np.testing.assert_array_equal(one.map, localiser(path).map)
    assert one.threshold == 0.25
    assert sparsevit_plugin.Localiser is Localiser
    assert sparsevit_plugin.predict is predict


# --- what a prediction says -----------------------------------------------------------------------


def test_the_threshold_is_passed_not_reached(checkpoint, tmp_path, make_photo):
    path = make_photo(tmp_path / "a.png")
    values = np.unique(Localiser(checkpoint, device="cpu")(path).map)
    middle = float(values[len(values) // 2])
    prediction = Localiser(checkpoint, device="cpu", threshold=middle)(path)
    np.testing.assert_array_equal(prediction.mask, prediction.map > np.float32(middle))
    assert 0 < prediction.tampered_area < 1
    assert prediction.tampered_area == prediction.mask.mean()
    assert prediction.seconds > 0


# --- mistakes -------------------------------------------------------------------------------------


def test_a_damaged_file_is_an_error_of_a_call_and_passed_over_in_a_stream(
    localiser, tmp_path, make_photo
):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG broken")
    good = make_photo(tmp_path / "good.png")
    with pytest.raises(BadImage, match=r"bad\.png"):
        localiser(tmp_path / "bad.png")
    photos = [Photo("bad", tmp_path / "bad.png"), Photo("good", good)]
    bad, prediction = localiser.stream(photos)
    assert isinstance(bad, BadSample)
    assert prediction.name == "good"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 1.5}, "--threshold 1.5"),
        ({"model": "Nonsense"}, "Nonsense"),
        ({"fit": "squash"}, "--fit"),
        ({"fitt": "pad"}, "--fitt"),
        ({"tile": 100}, "multiple of 32"),
        ({"model": "unet", "width": 4}, "not one tensor fits"),
        ({"batch_size": 0}, "--batch-size 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(checkpoint, options, words):
    with pytest.raises(UserError, match=words):
        Localiser(checkpoint, device="cpu", **options)


def test_a_checkpoint_that_is_not_there_or_says_no_model_is_refused(tmp_path, checkpoint):
    with pytest.raises(UserError, match="no such file"):
        Localiser(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="none is named"):
        Localiser("")
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match="give --model NAME"):
        Localiser(tmp_path / "bare.safetensors")


def test_a_model_that_gives_no_probabilities_is_refused(checkpoint, tmp_path, make_photo):
    localiser = Localiser(checkpoint, device="cpu")
    localiser.model.forward = lambda image, **_: {"pred_mask": image[:, :1], "pred_label": None}
    with pytest.raises(UserError, match="needs a sigmoid"):
        localiser(make_photo(tmp_path / "a.png"))
