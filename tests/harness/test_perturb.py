"""Perturbations against the libraries that do them, called directly."""

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness import ladders, perturb
from sparsevit_plugin.harness.datasets import build_dataset, seeded
from sparsevit_plugin.harness.jpeg import luma_of
from sparsevit_plugin.harness.perturb import build_perturbation, expand, parse_perturbation
from sparsevit_plugin.harness.post_functions import jpeg_coefficients
from sparsevit_plugin.harness.sources import read_source

PHOTO = np.ascontiguousarray(data.astronaut()[40:231, 100:321])  # 191 x 221, no multiple of 8
MASK = np.zeros(PHOTO.shape[:2], np.uint8)


def perturbed(text, image=PHOTO):
    with seeded(3, 0, 5):
        return build_perturbation(text)(image=image, mask=MASK)["image"]


def saved_by_pillow(image, quality, folder):
    Image.fromarray(image).save(folder / "saved.jpg", quality=quality)
    return np.asarray(Image.open(folder / "saved.jpg").convert("RGB"))


# --- what they do ---------------------------------------------------------------------------------


def test_jpeg_is_one_of_the_two_qualities_that_upstream_draws_from():
    files = [cv2.imencode(".jpg", PHOTO, [cv2.IMWRITE_JPEG_QUALITY, q])[1] for q in (69, 70)]
    expected = [cv2.imdecode(file, cv2.IMREAD_UNCHANGED) for file in files]
    assert any(np.array_equal(perturbed("jpeg:70"), one) for one in expected)


def test_blur_is_opencvs():
    expected = cv2.GaussianBlur(PHOTO, (7, 7), sigmaX=0)
    np.testing.assert_array_equal(perturbed("blur:7"), expected)


def test_noise_has_the_variance_and_is_drawn_from_seed_and_image():
    grey = np.full((256, 256, 3), 128, np.uint8)
    noise = perturbed("noise:23", grey).astype(np.float64) - 128
    assert noise.var() == pytest.approx(23, rel=0.03)
    np.testing.assert_array_equal(perturbed("noise:23", grey), noise + 128)
    with seeded(3, 0, 6):
        other = build_perturbation("noise:23")(image=grey, mask=MASK)["image"]
    assert (other != noise + 128).any()


def test_an_image_has_the_same_noise_at_every_strength():
    grey = np.full((64, 64, 3), 128, np.uint8)
    weak, strong = (perturbed(f"noise:{v}", grey).astype(np.float64) - 128 for v in (100, 400))
    assert np.abs(strong - 2 * weak).max() <= 3  # rounding


@pytest.mark.parametrize(("percent", "size"), [(50, (110, 96)), (78, (172, 149)), (1, (2, 2))])
def test_resize_shrinks_and_enlarges_again(percent, size):
    small = cv2.resize(PHOTO, size, interpolation=cv2.INTER_AREA)
    expected = cv2.resize(small, (221, 191), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(perturbed(f"resize:{percent}"), expected)


def test_resize_moves_no_pixel():
    image = np.zeros((200, 200, 3), np.uint8)
    image[60:100, 120:180] = 255
    found = perturbed("resize:50", image)[..., 0].astype(np.float64)
    rows, columns = np.indices(found.shape)
    centre = [(axis * found).sum() / found.sum() for axis in (rows, columns)]
    assert centre == pytest.approx([79.5, 149.5], abs=0.05)


def test_a_double_save_is_two_saves_of_pillow(tmp_path):
    once = saved_by_pillow(PHOTO, 90, tmp_path)
    np.testing.assert_array_equal(perturb.save(PHOTO, 90), once)
    np.testing.assert_array_equal(perturbed("double:90-60"), saved_by_pillow(once, 60, tmp_path))


def test_a_double_save_shrinks_what_is_larger_only(tmp_path):
    np.testing.assert_array_equal(perturbed("double:90-60@221"), perturbed("double:90-60"))
    once = saved_by_pillow(PHOTO, 90, tmp_path)
    small = cv2.resize(once, (110, 95), interpolation=cv2.INTER_AREA)
    small = saved_by_pillow(small, 60, tmp_path)
    expected = cv2.resize(small, (221, 191), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(perturbed("double:90-60@110"), expected)


def test_a_preset_is_the_double_save_of_its_values():
    for name, network in ladders.networks().items():
        same = f"double:{network.first_quality}-{network.quality}@{network.longest_side}"
        np.testing.assert_array_equal(perturbed(f"social:{name}"), perturbed(same))
        assert network.source
    tall = np.tile(PHOTO, (7, 1, 1))
    telegram = ladders.networks()["telegram"]
    assert (telegram.longest_side, telegram.quality) == (1280, 87)
    assert max(tall.shape) > 1280
    np.testing.assert_array_equal(
        perturbed("social:telegram", tall), perturbed("double:95-87@1280", tall)
    )


@pytest.mark.parametrize("kind", perturb.KINDS)
def test_none_changes_size_type_or_mask_and_each_changes_pixels(kind):
    text = next(text for text in every_step() if text.startswith(f"{kind}:"))
    found = build_perturbation(text)(image=PHOTO, mask=MASK)
    assert found["mask"] is MASK
    assert found["image"].shape == PHOTO.shape
    assert found["image"].dtype == np.uint8
    assert (found["image"] != PHOTO).any()
    tiny = PHOTO[:1, :1].copy()
    assert build_perturbation(text)(image=tiny, mask=MASK[:1, :1])["image"].shape == tiny.shape


def test_an_item_is_the_same_whatever_was_asked_for_before(tmp_path):
    for folder in ("Tp", "Gt"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        Image.fromarray(PHOTO).save(tmp_path / "Tp" / f"{name}.png")
        Image.fromarray(MASK + 255).save(tmp_path / "Gt" / f"{name}.png")
    (source,) = read_source(tmp_path).values()
    for text in ("noise:11", "jpeg:50", "resize:40", "social:signal"):
        made = build_dataset(source, image_size=64, transform=build_perturbation(text), seed=4)
        first = [made[0]["image"], made[1]["image"]]
        again = build_dataset(source, image_size=64, transform=build_perturbation(text), seed=4)
        assert (again[1]["image"] == first[1]).all()
        assert (again[0]["image"] == first[0]).all()


# --- the JPEG grid --------------------------------------------------------------------------------


def item_on_the_grid(tmp_path, text, seed=0):
    for folder in ("Tp", "Gt"):
        (tmp_path / folder).mkdir(exist_ok=True)
    Image.fromarray(PHOTO).save(tmp_path / "Tp" / "a.png")
    Image.fromarray(MASK + 255).save(tmp_path / "Gt" / "a.png")
    (source,) = read_source(tmp_path).values()
    return build_dataset(
        source,
        fit="grid",
        image_size=64,
        transform=build_perturbation(text),
        origin_function=jpeg_coefficients,
        seed=seed,
    )[0]


@pytest.mark.parametrize(
    ("text", "quality"),
    [("double:90-40", 40), ("double:90-40@5000", 40), ("double:90-40@100", None)],
)
def test_coefficients_are_those_of_the_last_save_on_the_photographs_grid(tmp_path, text, quality):
    item = item_on_the_grid(tmp_path, text)
    if quality is None:  # shrunk: the grid of that JPEG is not the photograph's
        assert (item["qtables"] == 1).all()
        return
    once = saved_by_pillow(PHOTO, 90, tmp_path)
    Image.fromarray(once).save(tmp_path / "last.jpg", quality=quality)
    last = luma_of(tmp_path / "last.jpg", once)
    np.testing.assert_array_equal(item["DCT_coef"], last.coefficients)
    np.testing.assert_array_equal(item["qtables"], last.table)


def test_coefficients_of_upstreams_jpeg_are_those_of_the_file_that_its_encoder_made(
    tmp_path, monkeypatch
):
    encode, files = cv2.imencode, []

    def kept(kind, pixels, options):
        files.append(encode(kind, pixels, options))
        return files[-1]

    drawn = set()
    for seed in range(8):
        files.clear()
        with monkeypatch.context() as patch:
            patch.setattr(cv2, "imencode", kept)
            item = item_on_the_grid(tmp_path, "jpeg:60", seed)
        (tmp_path / "saved.jpg").write_bytes(files[0][1].tobytes())
        saved = luma_of(tmp_path / "saved.jpg", PHOTO)
        rows, columns = (min(64, side) for side in saved.coefficients.shape)
        np.testing.assert_array_equal(
            item["DCT_coef"][:rows, :columns], saved.coefficients[:rows, :columns]
        )
        np.testing.assert_array_equal(item["qtables"], saved.table)
        drawn.add(int(saved.table.sum()))
    assert len(drawn) == 2  # quality 59 and quality 60


# --- ladders --------------------------------------------------------------------------------------


def every_step():
    return [text for name in ladders.ladders() for text in perturb.ladder(name)]


def test_upstreams_ladders_are_those_of_its_script():
    assert ladders.upstream_ladders() == ["blur", "noise", "jpeg"]
    assert perturb.ladder("blur") == [f"blur:{side}" for side in (3, 7, 11, 15, 19, 23)]
    assert perturb.ladder("noise") == [f"noise:{variance}" for variance in (3, 7, 11, 15, 19, 23)]
    assert perturb.ladder("jpeg") == [f"jpeg:{quality}" for quality in (100, 90, 80, 70, 60, 50)]


def test_every_ladder_is_of_one_kind_sourced_and_can_be_run():
    for name, one in ladders.ladders().items():
        kinds = {parse_perturbation(text)[0] for text in one.perturbations}
        assert kinds == {name}
        assert one.source


def test_a_ladder_stands_for_its_steps():
    steps = perturb.ladder("jpeg")
    assert expand(["none", "ladder:jpeg", "jpeg:90", "blur:5"]) == ["none", *steps, "blur:5"]


def test_a_presets_numbers_are_part_of_what_a_cell_is():
    assert perturb.named_settings("social:telegram") == [95, 87, 1280]
    assert perturb.named_settings("jpeg:75") == perturb.named_settings("none") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jpg:5", "expected none, jpeg:QUALITY"),
        ("jpeg", "expected none, jpeg:QUALITY"),
        ("jpeg:7.5", "expected none"),
        ("jpeg:0", "between 1 and 100"),
        ("jpeg:101", "between 1 and 100"),
        ("blur:4", "odd side"),
        ("noise:0", "at least 1"),
        ("resize:100", "between 1 and 99 percent"),
        ("resize:0", "between 1 and 99 percent"),
        ("double:90", "expected two JPEG qualities, as double:90-70"),
        ("double:90-0", "between 1 and 100"),
        ("double:190-70", "between 1 and 100"),
        ("double:90-70@0", "longest side must be at least 1"),
        ("double:90-70@", "expected two JPEG qualities"),
        ("social:telegramm", 'no such preset. Did you mean "telegram"'),
        ("social:", "Presets: telegram, "),
        ("ladder:jpg", 'there is no ladder "jpg". Did you mean "jpeg"'),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(UserError) as raised:
        expand([text])
    assert message in str(raised.value)
