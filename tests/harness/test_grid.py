"""The fit `grid`: photographs stay on their JPEG grid, whole in tests and cropped in training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from IMDLBenCo.registry import POSTFUNCS
from PIL import Image
from skimage import data

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness import datasets, jpeg, sources
from sparsevit_plugin.harness.config import resolve
from sparsevit_plugin.harness.datasets import BadSample, Origin
from sparsevit_plugin.harness.perturb import build_perturbation
from sparsevit_plugin.harness.pipeline import evaluation_settings, left_out_transforms
from sparsevit_plugin.harness.post_functions import (
    NOTE_PERTURBED,
    NOTE_RESAVED,
    jpeg_coefficients,
    resaved_tensor_coefficients,
)
from sparsevit_plugin.results.store import load

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture
def real_set(tmp_path: Path) -> Path:
    """Three photographs of different sizes: JPEGs of quality 60 and 90, and a PNG."""
    folder = tmp_path / "real"
    (folder / "Tp").mkdir(parents=True)
    (folder / "Gt").mkdir()
    pictures = {
        "a.jpg": (data.astronaut()[:117, 100:275], {"quality": 60}),
        "b.jpg": (data.chelsea()[:64, :40], {"quality": 90}),
        "c.png": (data.coffee()[:50, :90], {}),
    }
    for name, (pixels, settings) in pictures.items():
        Image.fromarray(pixels).save(folder / "Tp" / name, **settings)
        mask = np.zeros(pixels.shape[:2], np.uint8)
        mask[-12:, -20:] = 255  # to the last row and column
        Image.fromarray(mask).save(folder / "Gt" / f"{name[0]}.png")
    return folder


def read(path: Path) -> sources.Source:
    (found,) = sources.read_source(path).values()
    return found


def build(path: Path, **settings) -> datasets.SeededDataset:
    return datasets.build_dataset(
        read(path), fit="grid", origin_function=jpeg_coefficients, **{"image_size": 64, **settings}
    )


def pixels_of(item: dict) -> np.ndarray:
    """Undo the normalisation: H x W x 3, 0..255."""
    image = item["image"].permute(1, 2, 0) * STD + MEAN
    return (image * 255).round().numpy().astype(int)


def luma_of(path: Path) -> jpeg.Luma:
    luma = jpeg.read_luma(path)
    assert luma is not None
    return luma


# --- whole photographs ----------------------------------------------------------------------------


def test_tests_see_whole_photographs_padded_to_the_grid(real_set):
    built = build(real_set, native_mask=True)
    for index, (height, width) in enumerate([(117, 175), (64, 40), (50, 90)]):
        item = built[index]
        padded = (-(-height // 8) * 8, -(-width // 8) * 8)
        assert item["image"].shape == (3, *padded)
        assert item["mask"].shape == item["shape_mask"].shape == (1, *padded)
        assert item["DCT_coef"].shape == padded
        assert item["shape"].tolist() == item["origin_shape"].tolist() == [height, width]
        assert item["shape_mask"].sum() == height * width
        assert item["shape_mask"][0, height - 1, width - 1] == 1
        np.testing.assert_array_equal(item["mask"][0, :height, :width], item["native_mask"])
        photograph = np.array(Image.open(read(real_set).samples[index].image))
        np.testing.assert_array_equal(pixels_of(item)[:height, :width], photograph)


def test_coefficients_are_the_files_own(real_set):
    built = build(real_set)
    first, second, third = built[0], built[1], built[2]
    own = luma_of(real_set / "Tp" / "a.jpg")
    np.testing.assert_array_equal(first["DCT_coef"], own.coefficients)
    np.testing.assert_array_equal(first["qtables"], own.table)
    assert (first["qtables"] > second["qtables"]).all()  # quality 60 and 90
    assert (third["qtables"] == 1).all()  # a PNG
    assert first["input_note"] == second["input_note"] == ""
    assert third["input_note"] == NOTE_RESAVED


def test_a_damaged_jpeg_is_a_bad_sample(real_set):
    path = real_set / "Tp" / "a.jpg"
    path.write_bytes(path.read_bytes()[:200])
    bad = build(real_set)[0]
    assert isinstance(bad, BadSample)
    assert bad.path == path


# --- crops ----------------------------------------------------------------------------------------


def test_crops_lie_on_the_grid_and_carry_their_own_coefficients(real_set):
    built = build(real_set, image_size=48, random_crop=True, seed=5)
    photograph = np.array(Image.open(real_set / "Tp" / "a.jpg")).astype(int)
    own = luma_of(real_set / "Tp" / "a.jpg")
    corners = set()
    for epoch in range(40):
        item = built[(epoch, 0)]
        assert item["image"].shape == (3, 48, 48)
        assert item["shape_mask"].all()
        pixels = pixels_of(item)
        at = [
            (top, left)
            for top in range(0, 117 - 47, 8)
            for left in range(0, 175 - 47, 8)
            if np.array_equal(photograph[top : top + 48, left : left + 48], pixels)
        ]
        assert len(at) == 1
        ((top, left),) = at
        expected = own.coefficients[top : top + 48, left : left + 48]
        np.testing.assert_array_equal(item["DCT_coef"], expected)
        corners.add((top, left))
    assert {top for top, _ in corners} == set(range(0, 72, 8))  # 40 draws of 9: misses 1 in 12
    assert len(corners) > 25


def test_a_smaller_photograph_is_padded_at_right_and_bottom(real_set):
    item = build(real_set, random_crop=True)[2]  # 50 x 90 in 64 x 64
    assert item["image"].shape == (3, 64, 64)
    assert item["shape"].tolist() == [50, 64]
    assert item["origin_shape"].tolist() == [50, 90]
    assert item["shape_mask"][0, :50].all()
    assert not item["shape_mask"][0, 50:].any()
    assert not item["mask"][0, 50:].any()
    assert not item["DCT_coef"][56:].any()
    assert item["DCT_coef"][48:56].any()  # the block that the border cuts is whole


def test_the_label_is_that_of_the_crop(real_set):
    mask = np.zeros((117, 175), np.uint8)
    mask[0] = 255  # in one of nine crops
    Image.fromarray(mask).save(real_set / "Gt" / "a.png")
    built = build(real_set, image_size=48, random_crop=True)
    items = [built[(epoch, 0)] for epoch in range(60)]
    assert all(item["label"] == item["mask"].any() for item in items)
    assert {int(item["label"]) for item in items} == {0, 1}


def test_crops_depend_on_seed_epoch_and_index_only(real_set):
    settings = {"image_size": 48, "random_crop": True}
    first, again = build(real_set, seed=1, **settings), build(real_set, seed=1, **settings)
    other = build(real_set, seed=2, **settings)
    assert torch.equal(first[(4, 0)]["image"], again[(4, 0)]["image"])
    crops = [first[(epoch, 0)]["image"] for epoch in range(4)]
    assert not all(torch.equal(crops[0], crop) for crop in crops)
    assert not all(torch.equal(c, other[(epoch, 0)]["image"]) for epoch, c in enumerate(crops))


def test_edge_masks_are_those_of_the_crop(real_set):
    item = build(real_set, image_size=48, random_crop=True, edge_width=7)[0]
    assert item["edge_mask"].shape == (1, 48, 48)


# --- what cannot be -------------------------------------------------------------------------------


def test_sizes_off_the_grid_and_other_fits_are_refused(real_set):
    with pytest.raises(UserError, match="--image-size 60: --fit grid takes multiples of 8"):
        build(real_set, image_size=60)
    for fit in ("resize", "pad"):
        with pytest.raises(UserError, match="--fit grid"):
            datasets.build_dataset(read(real_set), fit=fit, origin_function=jpeg_coefficients)


def test_a_transform_that_may_move_pixels_is_a_mistake(real_set):
    with pytest.raises(ValueError, match="moves pixels"):
        build(real_set, transform=lambda image, mask: {"image": image[::-1], "mask": mask})


# --- perturbed photographs ------------------------------------------------------------------------


def test_a_photograph_saved_again_has_the_coefficients_of_that_jpeg(real_set):
    """IMDLBenCo's wrapper draws of two qualities, and hands its encoder RGB where BGR is due."""
    item = build(real_set, transform=build_perturbation("jpeg:30"))[0]
    taken = Image.fromarray(np.asarray(Image.open(real_set / "Tp" / "a.jpg"))[..., ::-1])
    saved = []
    for quality in (29, 30):
        taken.save(real_set / "again.jpg", quality=quality)
        saved.append(luma_of(real_set / "again.jpg"))
    (again,) = [one for one in saved if np.array_equal(one.table, item["qtables"])]
    np.testing.assert_array_equal(item["DCT_coef"], again.coefficients)
    assert item["input_note"] == NOTE_PERTURBED


def test_a_blurred_photograph_has_the_coefficients_of_its_new_pixels(real_set):
    item = build(real_set, transform=build_perturbation("blur:9"))[0]
    assert (item["qtables"] == 1).all()
    own = luma_of(real_set / "Tp" / "a.jpg")
    high = (slice(4, None, 8), slice(4, None, 8))
    assert item["DCT_coef"][high].abs().sum() < abs(own.coefficients[high] * own.table[4, 4]).sum()


# --- IMDLBenCo's way ------------------------------------------------------------------------------


class JpegioStandIn:
    """As much of jpegio as IMDLBenCo's post function uses, by jpeglib."""

    class Component:
        v_samp_factor = h_samp_factor = 2
        quant_tbl_no = 0

    def read(self, path: str) -> "JpegioStandIn":
        luma = luma_of(Path(path))
        self.comp_info = [self.Component()]
        self.coef_arrays, self.quant_tables = [luma.coefficients], [luma.table]
        return self


def test_upstreams_coefficients_are_reproduced_without_jpegio(real_set, monkeypatch):
    monkeypatch.setattr("IMDLBenCo.datasets.utils.import_jpegio", JpegioStandIn)
    tables = []
    for index in range(2):
        item = datasets.build_dataset(read(real_set), image_size=64)[index]
        theirs = dict(item)
        POSTFUNCS.get("cat_net_post_func")(theirs)
        resaved_tensor_coefficients(item)
        for key in ("DCT_coef", "qtables"):
            np.testing.assert_array_equal(item[key], theirs[key])
        tables.append(item["qtables"])
    np.testing.assert_array_equal(*tables)  # of photographs of quality 60 and 90


def test_upstreams_way_needs_whole_blocks_too(real_set):
    item = datasets.build_dataset(read(real_set), image_size=60)[0]
    with pytest.raises(UserError, match="multiple of a JPEG block"):
        resaved_tensor_coefficients(item)


# --- through the commands -------------------------------------------------------------------------


def test_transforms_that_break_the_grid_are_named():
    argv = ["--model", "SparseViT_tiny", "--data-path", "x", "--augmentation", "benco"]
    on_grid = resolve("train", [*argv, "--fit", "grid"])
    assert left_out_transforms(on_grid) == [
        *("RandomScale", "IMDLBenCo.RandomCopyMove", "IMDLBenCo.RandomInpainting"),
        *("HorizontalFlip", "VerticalFlip", "RandomBrightnessContrast", "ImageCompression"),
        *("RandomRotate90", "GaussianBlur"),
    ]
    assert left_out_transforms(resolve("train", [*argv, "--fit", "resize"])) == []
    assert left_out_transforms(resolve("train", [*argv[:-1], "none", "--fit", "grid"])) == []


def test_transforms_inside_a_choice_are_named(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("transforms: [OneOf: {transforms: [GaussianBlur, {HorizontalFlip: {p: 1}}]}]")
    argv = ["--model", "SparseViT_tiny", "--data-path", "x", "--augmentation", str(path)]
    assert left_out_transforms(resolve("train", [*argv, "--fit", "grid"])) == [
        *("GaussianBlur", "HorizontalFlip")
    ]


def test_batches_of_a_test_hold_one_photograph():
    argv = ["--model", "RandomScores", "--test-data-path", "x", "--test-batch-size", "5"]
    assert evaluation_settings(resolve("test", [*argv, "--fit", "grid"])).batch_size == 1
    assert evaluation_settings(resolve("test", [*argv, "--fit", "pad"])).batch_size == 5


def test_every_pixel_is_scored_and_no_padding(real_set, tmp_path):
    words = ["test", "--model", "RandomScores", "--fit", "grid", "--device", "cpu"]
    words += ["--num-workers", "0", "--test-batch-size", "3", "--test-data-path", str(real_set)]
    assert main([*words, "--output-dir", str(tmp_path / "out")]) == 0
    rows = load(tmp_path / "out").rows
    for score_at in ("model", "image"):
        scored = rows[rows["score_at"] == score_at].sort_values("sample_name")
        assert scored["pixels"].tolist() == [117 * 175, 64 * 40, 50 * 90]
        assert scored["tampered_pixels"].tolist() == [240] * 3
    figures = ["tp", "fp", "fn", "tn", "f1", "auc", "score"]
    at_model, at_image = (
        rows[rows["score_at"] == name].sort_values("sample_name")[figures].to_numpy(float)
        for name in ("model", "image")
    )
    np.testing.assert_array_equal(at_model, at_image)  # nothing was resized


def test_an_origin_function_is_told_where_the_pixels_come_from(real_set):
    seen: list[Origin] = []
    built = datasets.build_dataset(
        read(real_set),
        fit="grid",
        image_size=48,
        random_crop=True,
        origin_function=lambda item, origin: seen.append(origin),
    )
    item = built[(3, 0)]
    (origin,) = seen
    assert origin.path == real_set / "Tp" / "a.jpg"
    assert origin.decoded.shape == (117, 175, 3)
    np.testing.assert_array_equal(origin.window.cut(origin.decoded), pixels_of(item))
