"""Datasets: items equal to upstream's, seeded draws, broken images."""

import random
from pathlib import Path

import albumentations
import cv2
import numpy as np
import pytest
import torch
from IMDLBenCo.datasets import JsonDataset, ManiDataset
from IMDLBenCo.transforms import RandomCopyMove, RandomInpainting, get_albu_transforms
from PIL import Image
from torch.utils.data import DataLoader

from sparsevit_plugin.harness import datasets, sources
from sparsevit_plugin.harness.datasets import BadSample
from sparsevit_plugin.harness.sources import BalancedSet

OURS = {"sample_index", "sample_name", "native_mask"}


def read(path: Path) -> sources.Source:
    (found,) = sources.read_source(path).values()
    return found


def assert_same_items(first: dict, second: dict) -> None:
    assert set(first) - OURS == set(second) - OURS
    for key in set(first) - OURS:
        if isinstance(first[key], torch.Tensor):
            torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)
        else:
            assert first[key] == second[key], key


def augmentation() -> albumentations.Compose:
    return get_albu_transforms("train")


# --- parity with upstream -------------------------------------------------------------------------


@pytest.mark.parametrize("edge_width", [None, 7])
@pytest.mark.parametrize("fit", ["resize", "pad"])
@pytest.mark.parametrize("kind", ["folder", "list"])
def test_items_equal_upstreams(tiny_corpus, monkeypatch, kind, fit, edge_width):
    monkeypatch.chdir(tiny_corpus)
    settings = {
        "is_padding": fit == "pad",
        "is_resizing": fit == "resize",
        "output_size": (96, 96),
        "edge_width": edge_width,
    }
    theirs = (
        ManiDataset(".", **settings) if kind == "folder" else JsonDataset("list.json", **settings)
    )
    path = tiny_corpus if kind == "folder" else tiny_corpus / "list.json"
    ours = datasets.build_dataset(read(path), fit=fit, image_size=96, edge_width=edge_width)
    assert len(ours) == len(theirs)
    for index in (0, 5, len(ours) - 1):
        assert_same_items(ours[index], theirs[index])


@pytest.mark.parametrize("fit", ["resize", "pad"])
def test_augmented_items_equal_upstreams_from_the_same_random_state(tiny_set, fit):
    theirs = ManiDataset(
        str(tiny_set),
        is_padding=fit == "pad",
        is_resizing=fit == "resize",
        output_size=(96, 96),
        common_transforms=augmentation(),
    )
    ours = datasets.build_dataset(
        read(tiny_set), fit=fit, image_size=96, transform=augmentation(), seed=3
    )
    for index in range(4):
        with datasets.seeded(3, 2, index):
            expected = theirs[index]
        found = ours[(2, index)]
        if fit == "pad":
            expected.pop("origin_shape")  # ours is the photograph's own, before augmentation
            assert found.pop("origin_shape").tolist() == [48, 64]
        assert_same_items(found, expected)


def test_upstreams_manipulations_change_the_label_of_an_authentic_image(tiny_corpus):
    source = read(tiny_corpus / "list.json")
    for transform in (RandomCopyMove(p=1), RandomInpainting(p=1)):
        pipeline = albumentations.Compose([transform])
        item = datasets.build_dataset(source, image_size=48, transform=pipeline)[len(source) - 1]
        assert item["label"] == 1
        assert item["mask"].any()


def test_a_post_function_changes_the_item_as_upstream_has_it(tiny_set):
    def double(item: dict) -> None:
        item["twice"] = item["image"] * 2

    item = datasets.build_dataset(read(tiny_set), image_size=32, post_function=double)[0]
    torch.testing.assert_close(item["twice"], item["image"] * 2)


# --- what differs from upstream -------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["resize", "pad"])
def test_targets_need_not_be_square(tiny_set, fit):
    built = datasets.build_dataset(read(tiny_set), fit=fit, image_size=(24, 64), edge_width=3)
    item = built[0]
    assert item["image"].shape == (3, 24, 64)
    assert item["mask"].shape == item["edge_mask"].shape == (1, 24, 64)
    assert item["shape"].tolist() == ([24, 64] if fit == "resize" else [24, 32])


def test_an_image_larger_than_the_padded_size_is_shrunk_and_not_cropped(
    tmp_path, make_photo, make_mask
):
    make_photo(tmp_path / "Tp" / "a.png", (120, 200))
    mask = np.zeros((120, 200), np.uint8)
    mask[90:, 150:] = 255  # upstream's crop would lose all of it
    (tmp_path / "Gt").mkdir()
    Image.fromarray(mask).save(tmp_path / "Gt" / "a.png")
    item = datasets.build_dataset(read(tmp_path), fit="pad", image_size=64)[0]
    assert item["shape"].tolist() == [38, 64]
    assert item["origin_shape"].tolist() == [120, 200]
    assert item["shape_mask"].sum() == 38 * 64
    assert item["mask"].sum() == pytest.approx(64 * 38 / 16, rel=0.1)
    assert not item["mask"][:, 38:].any()


def test_a_mask_of_zeros_and_ones_is_a_mask(tiny_set):
    path = tiny_set / "Gt" / "000.png"
    before = datasets.build_dataset(read(tiny_set), image_size=48)[0]
    Image.fromarray(np.array(Image.open(path)) // 255).save(path)
    assert_same_items(datasets.build_dataset(read(tiny_set), image_size=48)[0], before)


def test_the_label_is_one_exactly_where_the_mask_has_a_tampered_pixel(tiny_set):
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(tiny_set / "Gt" / "000.png")
    single = np.zeros((48, 64), np.uint8)
    single[1, 1] = 255
    Image.fromarray(single).save(tiny_set / "Gt" / "001.png")
    for fit in ("resize", "pad"):
        built = datasets.build_dataset(read(tiny_set), fit=fit, image_size=8)
        assert built[0]["label"] == 0
        assert built[1]["label"] == 1


def test_native_masks_have_the_photographs_own_size(tiny_set, make_photo, make_mask):
    make_photo(tiny_set / "Tp" / "big.jpg", (70, 90), seed=9)
    mask = make_mask(tiny_set / "Gt" / "big.png", (70, 90), seed=9)
    built = datasets.build_dataset(read(tiny_set), image_size=32, native_mask=True)
    items = [built[index] for index in range(len(built))]
    assert items[-1]["native_mask"].dtype == torch.uint8
    np.testing.assert_array_equal(items[-1]["native_mask"] * 255, np.array(Image.open(mask)))
    batch = datasets.collate(items)
    assert [tuple(native.shape) for native in batch["native_mask"]] == [(48, 64)] * 4 + [(70, 90)]
    assert batch["sample_name"][-1] == "Tp/big.jpg"


# --- seeds ----------------------------------------------------------------------------------------


def batches(built: torch.utils.data.Dataset, workers: int, epoch: int) -> list[dict]:
    keys = [(epoch, index) for index in range(6)]
    loader = DataLoader(
        built, batch_size=2, sampler=keys, num_workers=workers, collate_fn=datasets.collate
    )
    return list(loader)


@pytest.mark.parametrize("kind", ["list", "balanced"])
def test_items_depend_on_seed_epoch_and_index_only(tiny_corpus, kind):
    source = read(tiny_corpus / "list.json")
    if kind == "balanced":
        source = BalancedSet("b", tiny_corpus, (source, read(tiny_corpus)), sample_number=3)

    def build(seed: int) -> torch.utils.data.Dataset:
        return datasets.build_dataset(source, image_size=48, transform=augmentation(), seed=seed)

    alone = batches(build(1), 0, 4)
    random.seed(99)
    in_workers = batches(build(1), 2, 4)
    for first, second in zip(alone, in_workers, strict=True):
        assert_same_items(first, second)
        assert first["sample_name"] == second["sample_name"]
    other_epoch, other_seed = batches(build(1), 0, 5), batches(build(2), 0, 4)
    assert not torch.equal(alone[0]["image"], other_epoch[0]["image"])
    assert not torch.equal(alone[0]["image"], other_seed[0]["image"])


def test_a_plain_index_is_epoch_zero(tiny_set):
    built = datasets.build_dataset(read(tiny_set), image_size=48, transform=augmentation())
    assert_same_items(built[1], built[(0, 1)])
    with pytest.raises(IndexError):
        built[(0, 4)]


def test_global_random_states_are_left_as_found(tiny_set):
    def states() -> tuple:
        numbers = np.random.get_state()
        return random.getstate(), numbers[1].tolist(), numbers[2], torch.get_rng_state().tolist()

    def fail(image: np.ndarray, mask: np.ndarray) -> dict:
        random.random()
        raise RuntimeError("a mistake")

    before = states()
    _ = datasets.build_dataset(read(tiny_set), image_size=48, transform=augmentation())[(7, 2)]
    assert states() == before
    with pytest.raises(RuntimeError):
        datasets.build_dataset(read(tiny_set), image_size=48, transform=fail)[0]
    assert states() == before


def test_balanced_sets_draw_equally_often_from_each_part(tmp_path, make_set):
    parts = tuple(read(make_set(tmp_path / name, count)) for name, count in (("x", 3), ("y", 4)))
    built = datasets.build_dataset(BalancedSet("b", tmp_path, parts, 20), image_size=16)
    assert len(built) == 40
    items = [built[(1, index)] for index in range(40)]
    assert [item["sample_index"] for item in items] == list(range(40))
    names = [item["sample_name"] for item in items]
    assert {name.split("/")[0] for name in names[:20]} == {"x"}
    assert len(set(names[:20])) == 3  # drawn with replacement: 3 * (2/3)**20 = 0.1 % to miss one
    assert {name.split("/")[0] for name in names[20:]} == {"y"}
    assert "x" in str(built)
    assert names != [built[(2, index)]["sample_name"] for index in range(40)]


# --- broken images --------------------------------------------------------------------------------


def test_a_broken_image_becomes_a_bad_sample(tiny_set):
    (tiny_set / "Tp" / "001.jpg").write_bytes(b"no image")
    Image.new("L", (10, 10)).save(tiny_set / "Gt" / "002.png")
    source = read(tiny_set)
    built = datasets.build_dataset(source, image_size=48)
    batch = next(iter(DataLoader(built, 4, num_workers=1, collate_fn=datasets.collate)))
    assert batch["image"].shape == (2, 3, 48, 48)
    assert [bad.name for bad in batch["bad"]] == ["Tp/001.jpg", "Tp/002.jpg"]
    assert batch["bad"][0].path == tiny_set / "Tp" / "001.jpg"
    assert "10 x 10" in batch["bad"][1].reason
    assert datasets.collate([built[1]]) == {"bad": [built[1]]}
    balanced = datasets.build_dataset(BalancedSet("b", tiny_set, (source,), 30), image_size=48)
    bad = [item for item in (balanced[index] for index in range(30)) if isinstance(item, BadSample)]
    assert {item.name for item in bad} == {"tiny/Tp/001.jpg", "tiny/Tp/002.jpg"}


def test_an_image_too_small_for_its_edge_mask_becomes_a_bad_sample(tmp_path, make_set):
    built = datasets.build_dataset(
        read(make_set(tmp_path / "s", 1, (6, 40))), image_size=32, edge_width=7
    )
    assert "too small for edges" in built[0].reason


def test_a_transform_that_fails_on_an_image_is_reported_and_a_mistake_raised(tiny_set):
    def too_much(image: np.ndarray, mask: np.ndarray) -> dict:
        return {"image": cv2.resize(image, (0, 0)), "mask": mask}

    def mistaken(image: np.ndarray, mask: np.ndarray) -> dict:
        return {"image": image.no_such_thing, "mask": mask}

    source = read(tiny_set)
    bad = datasets.build_dataset(source, image_size=32, transform=too_much)[0]
    assert isinstance(bad, BadSample)
    assert "a transform failed" in bad.reason
    assert "\n" not in bad.reason
    with pytest.raises(AttributeError, match="no_such_thing"):
        datasets.build_dataset(source, image_size=32, transform=mistaken)[0]
