"""Corpora: what is made, from what, and that it is the same every time."""

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from sparsevit_plugin.cli import data_make
from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness import corpus_sets
from sparsevit_plugin.harness import manipulations as edits
from sparsevit_plugin.harness.corpus import make_corpus, make_demo
from sparsevit_plugin.harness.photos import embedded_photographs, join_repeats, read_folder
from sparsevit_plugin.harness.sources import hold_out, read_source
from sparsevit_plugin.harness.synthesis import Job, Maker, SetSpec

SCALE = 0.004  # of the demo: 32 training images, 6 of each test set
FEW = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def photographs():
    return embedded_photographs()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("demo") / "corpus", seed=3, scale=SCALE)


@pytest.fixture(scope="module")
def manifests(demo):
    names = demo.summary.sets
    return {
        name: json.loads((demo.summary.path / name / "manifest.json").read_text()) for name in names
    }


def file_hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def photo_folder(folder: Path, number: int, size: tuple[int, int] = (120, 150)) -> Path:
    folder.mkdir()
    for seed in range(number):
        rng = np.random.default_rng(seed)
        small = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        picture = cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)
        Image.fromarray(picture).save(folder / f"photo{seed}.png")
    return folder


# --- photographs


def test_embedded_photographs_are_photographs(photographs):
    assert len(photographs) == 18
    assert len({photograph.scene for photograph in photographs}) == 17
    for photograph in photographs:
        pixels = photograph.array
        assert pixels.dtype == np.uint8
        assert pixels.shape == (photograph.height, photograph.width, 3)
        assert min(pixels.shape[:2]) >= 300
        assert not pixels.flags.writeable
    left, right = (one for one in photographs if one.name.startswith("motorcycle"))
    assert left.scene == right.scene == "motorcycle"


def test_embedded_scenes_are_not_repeats_of_each_other(photographs):
    assert [one.scene for one in join_repeats(photographs)] == [one.scene for one in photographs]


def test_repeats_in_a_folder_are_one_scene(tmp_path):
    folder = photo_folder(tmp_path / "photos", 4)
    picture = Image.open(folder / "photo1.png")
    picture.resize((90, 70)).save(folder / "small.jpg", quality=80)
    photographs, _ = read_folder(folder)
    scenes = {photograph.name: photograph.scene for photograph in photographs}
    assert scenes["small.jpg"] == scenes["photo1.png"]
    assert len(set(scenes.values())) == 4


def test_photographs_of_a_folder_can_be_one_scene(tmp_path):
    photo_folder(tmp_path / "a", 3)
    photographs, _ = read_folder(tmp_path, scenes="folder")
    assert {photograph.scene for photograph in photographs} == {"a"}


def test_bad_photographs_are_named_or_skipped(tmp_path):
    folder = photo_folder(tmp_path / "photos", 2)
    (folder / "text.jpg").write_text("no picture")
    Image.new("RGB", (20, 10)).save(folder / "tiny.png")
    with pytest.raises(UserError) as error:
        read_folder(folder, smallest=(64, 64))
    message = str(error.value)
    assert "text.jpg" in message
    assert "tiny.png" in message
    assert "\n" not in message
    good, bad = read_folder(folder, smallest=(64, 64), on_bad_image="skip")
    assert [one.name for one in good] == ["photo0.png", "photo1.png"]
    assert {one.path.name for one in bad} == {"text.jpg", "tiny.png"}


# --- the demo's corpus


def test_demo_has_disjoint_scenes_donors_included(demo, manifests):
    used = {"train": set(), "test": set()}
    for manifest in manifests.values():
        for record in manifest["images"].values():
            used[manifest["split"]].update(record["photos"])
    assert used["train"] == set(corpus_sets.DEMO_TRAIN_SCENES)
    assert used["test"] == set(corpus_sets.DEMO_TEST_SCENES)
    assert not used["train"] & used["test"]
    assert len(demo.tests) >= 3
    for name in demo.tests:
        bases = {record["photos"][0] for record in manifests[name]["images"].values()}
        assert len(bases) >= 5


def test_every_embedded_scene_is_used(photographs):
    scenes = {photograph.scene for photograph in photographs}
    assert scenes == {*corpus_sets.DEMO_TRAIN_SCENES, *corpus_sets.DEMO_TEST_SCENES}


def test_masks_are_binary_and_match_their_images(demo, manifests):
    for name, manifest in manifests.items():
        for image_name, record in manifest["images"].items():
            image = Image.open(demo.summary.path / name / image_name)
            assert image.mode == "RGB"
            assert list(image.size) == record["size"]
            if record["manipulation"]:
                mask = np.asarray(Image.open(demo.summary.path / name / record["mask"]))
                assert mask.shape == image.size[::-1]
                assert set(np.unique(mask)) == {0, 255}
                assert (mask > 0).mean() == pytest.approx(record["mask_area"], abs=1e-6)


def test_manifests_are_complete(manifests):
    for manifest in manifests.values():
        assert manifest["schema"] == 1
        assert manifest["kind"] == "sparsevit-corpus"
        assert manifest["edge_rule"] == edits.EDGE_RULE
        for record in manifest["images"].values():
            operations = [one["operation"] for one in record["operations"]]
            assert operations[:2] == ["view", "camera"]
            assert operations[-1] == "finish"
            expected = {
                None: ["finish"],
                "splicing": ["view", "camera", "mask", "paste", "finish"],
                "copy-move": ["mask", "paste", "finish"],
                "removal": ["mask", "inpainting", "finish"],
            }
            assert operations[2:] == expected[record["manipulation"]]
            assert len(record["photos"]) == 1 + (record["manipulation"] == "splicing")


def test_test_sets_differ_in_manipulation_or_pipeline(manifests):
    kinds = {
        name: {one["manipulation"] for one in manifest["images"].values()} - {None}
        for name, manifest in manifests.items()
    }
    assert kinds["splicing"] == {"splicing"}
    assert kinds["copy-move"] == {"copy-move"}
    assert kinds["removal"] == {"removal"}
    assert kinds["train"] == {"splicing", "copy-move", "removal"}
    for record in manifests["resaved"]["images"].values():
        camera, finish = record["operations"][1], record["operations"][-1]
        assert camera["jpeg"] is not None  # compressed by the camera ...
        assert finish["jpeg"] is not None  # ... and again


def test_lists_name_every_image(demo, manifests):
    for name, part in demo.summary.sets.items():
        pairs = json.loads(part.path.read_text())
        images = manifests[name]["images"]
        assert [image for image, _ in pairs] == list(images)
        assert [mask for _, mask in pairs] == [
            record.get("mask", "Negative") for record in images.values()
        ]
        assert (part.tampered, part.authentic) == (
            sum(mask != "Negative" for _, mask in pairs),
            sum(mask == "Negative" for _, mask in pairs),
        )


def test_corpus_can_be_read_and_held_out_by_scene(demo):
    sets = read_source(demo.tests_file)
    assert set(sets) == set(demo.tests)
    (train,) = read_source(demo.train).values()
    kept, held = hold_out(train, 0.1, seed=1)
    scenes = [{photo for one in part.samples for photo in one.photos} for part in (kept, held)]
    assert held.samples
    assert not {one.photos[0] for one in held.samples} & scenes[0]


def test_authentic_image_is_the_pipeline_without_an_edit(demo, manifests, photographs):
    pixels = {photograph.name: photograph.array for photograph in photographs}
    seen = 0
    for name, manifest in manifests.items():
        for image_name, record in manifest["images"].items():
            if record["manipulation"]:
                continue
            view, camera, finish = (
                {key: value for key, value in one.items() if key != "operation"}
                for one in record["operations"]
            )
            view["size"] = tuple(view["size"])
            picture = edits.apply_view(pixels[view["photograph"]], edits.View(**view))
            picture = edits.apply_camera(picture, edits.Camera(**camera))
            picture = edits.apply_finish(picture, tuple(record["size"]), edits.Finish(**finish))
            data = (demo.summary.path / name / image_name).read_bytes()
            assert edits.encode(picture, finish["jpeg"]) == data
            seen += 1
    assert seen >= 4


# --- the same every time


def test_workers_and_runs_make_the_same_bytes(tmp_path, photographs, monkeypatch):
    # Processes that the command starts register no models, which spares them the import of torch.
    monkeypatch.setattr(sys, "argv", ["benco"])
    sets = [
        replace(spec, count=60 if spec.split == "train" else 6, authentic=2)
        for spec in corpus_sets.demo_sets()
    ]
    for number, workers in enumerate((1, 1, 2)):
        make_corpus(photographs, tmp_path / str(number), seed=5, sets=sets, workers=workers)
    first, again, parallel = (file_hashes(tmp_path / name) for name in "012")
    assert first == again
    assert first == parallel
    tampered, authentic, lists = 60 + 4 * 6, 5 * 2, 5 * 2 + 2
    assert len(first) == 2 * tampered + authentic + lists


def test_seed_and_index_change_an_image(photographs):
    spec = replace(corpus_sets.demo_sets()[0], count=3)
    images = [
        Maker(photographs, [spec], seed).sample(Job("train", True, index)).image.tobytes()
        for seed in (0, 1)
        for index in (0, len(spec.scenes) * 3)
    ]
    assert len(set(images)) == 4


def test_same_arguments_reuse_and_others_are_refused(tmp_path, photographs):
    sets = [SetSpec("train", "train", ("moon", "coffee"), 2, sizes=((64, 64),))]
    out = tmp_path / "out"
    assert not make_corpus(photographs, out, seed=0, sets=sets).reused
    before = file_hashes(out)
    assert make_corpus(photographs, out, seed=0, sets=sets, workers=2).reused
    assert file_hashes(out) == before
    with pytest.raises(UserError, match="other arguments"):
        make_corpus(photographs, out, seed=1, sets=sets)
    assert file_hashes(out) == before
    assert not make_corpus(photographs, out, seed=1, sets=sets, force=True).reused
    assert file_hashes(out) != before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("corpus.json", '{"kind": KIND, "fingerprint": PRINT}'),
        ("corpus.json", '{"kind": KIND, "fingerprint": PRINT, "sets": [3]}'),
        ("train/manifest.json", "{"),
        ("train/manifest.json", "[]"),
        ("train/manifest.json", '{"images": {"Au/000000.jpg": 3}}'),
    ],
)
def test_a_damaged_corpus_is_one_line_and_is_made_again_by_force(tmp_path, photographs, name, text):
    sets = [SetSpec("train", "train", ("moon", "coffee"), 2, sizes=((64, 64),))]
    out = tmp_path / "out"
    make_corpus(photographs, out, seed=0, sets=sets)
    index = json.loads((out / "corpus.json").read_text())
    for word, key in (("KIND", "kind"), ("PRINT", "fingerprint")):
        text = text.replace(word, json.dumps(index[key]))
    (out / name).write_text(text)
    with pytest.raises(UserError, match="--force makes it again"):
        make_corpus(photographs, out, seed=0, sets=sets)
    assert not make_corpus(photographs, out, seed=0, sets=sets, force=True).reused


def test_missing_images_are_noticed(tmp_path, photographs):
    sets = [SetSpec("train", "train", ("moon", "coffee"), 2, sizes=((64, 64),))]
    out = make_corpus(photographs, tmp_path / "out", seed=0, sets=sets).path
    before = file_hashes(out)
    next((out / "train" / "Tp").iterdir()).unlink()
    with pytest.raises(UserError, match="1 of its images"):
        make_corpus(photographs, out, seed=0, sets=sets)
    make_corpus(photographs, out, seed=0, sets=sets, force=True)
    assert file_hashes(out) == before


def test_a_foreign_folder_is_never_replaced(tmp_path, photographs):
    sets = [SetSpec("train", "train", ("moon", "coffee"), 1, sizes=((64, 64),))]
    (tmp_path / "thesis.txt").write_text("three years")
    for force in (False, True):
        with pytest.raises(UserError, match="not a corpus"):
            make_corpus(photographs, tmp_path, seed=0, sets=sets, force=force)
    assert (tmp_path / "thesis.txt").read_text() == "three years"


def test_a_broken_run_leaves_nothing(tmp_path, photographs):
    sets = [SetSpec("train", "train", ("moon", "coffee"), 120, sizes=((64, 64),))]

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_corpus(photographs, tmp_path / "out", seed=0, sets=sets, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scenes": ("moon",)}, "splicing needs two"),
        ({"scenes": ("moon", "nessie")}, "no photograph of nessie"),
        ({"sizes": ((16, 64),)}, "at least 32"),
        ({"sizes": ((400, 400),), "scenes": ("moon", "chelsea")}, "chelsea is 451 x 300"),
    ],
)
def test_impossible_sets_are_refused(tmp_path, photographs, change, words):
    spec = replace(SetSpec("train", "train", ("moon", "coffee"), 1), **change)
    with pytest.raises(UserError, match=words):
        make_corpus(photographs, tmp_path / "out", seed=0, sets=[spec])


def test_a_scene_in_both_splits_is_refused(tmp_path, photographs):
    sets = [
        SetSpec("train", "train", ("moon", "coffee"), 1),
        SetSpec("new", "test", ("coffee", "china"), 1),
    ]
    with pytest.raises(UserError, match="both splits: coffee"):
        make_corpus(photographs, tmp_path / "out", seed=0, sets=sets)


# --- manipulations


@FEW
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["paste", "telea", "navier-stokes"]),
    height=st.integers(40, 90),
    width=st.integers(40, 90),
    region=st.booleans(),
)
def test_pixels_outside_an_edit_keep_their_value(seed, kind, height, width, region):
    rng = np.random.default_rng(seed)
    base, donor = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    draw = edits.region_alpha if region else edits.polygon_alpha
    alpha = draw(base if region else (height, width), 0.1, 1.0, rng)
    if kind == "paste":
        paste = edits.draw_paste(alpha, 1.1, 10.0, rng, away=False)
        edited, shown = edits.apply_paste(base, donor, alpha, paste)
    else:
        edited, shown = edits.apply_inpainting(base, alpha, edits.Inpainting(kind, 3))
    assert edited.shape == base.shape
    assert shown.shape == base.shape[:2]
    assert np.array_equal(edited[shown == 0], base[shown == 0])
    mask = edits.binary_mask(shown)
    assume((mask > 0).any())  # regions of pure noise can be threads that the soft edge swallows
    assert not (mask[shown == 0]).any()
    assert edits.mean_change(base, edited, mask) > 1


def test_edge_rule_is_what_it_says():
    alpha = np.array([[0.0, 0.5, 0.500001, 1.0]], np.float32)
    assert edits.EDGE_RULE == "tampered where alpha > 0.5"
    assert edits.binary_mask(alpha).tolist() == [[0, 0, 255, 255]]


@FEW
@given(seed=st.integers(0, 10_000), area=st.floats(0.03, 0.25))
def test_polygons_have_the_area_that_was_asked(seed, area):
    alpha = edits.polygon_alpha((160, 160), area, 0.0, np.random.default_rng(seed))
    covered = float((edits.binary_mask(alpha) > 0).mean())
    # Rasterising adds the outline; what is as wide as the picture is cut at its border.
    assert 0.5 * area <= covered <= area * 1.2 + 0.01


def test_regions_follow_the_structure_of_the_image():
    image = np.full((96, 96, 3), 40, np.uint8)
    image[:, 48:] = 200
    for seed in range(5):
        alpha = edits.region_alpha(image, 0.08, 0.0, np.random.default_rng(seed))
        mask = edits.binary_mask(alpha) > 0
        left, right = mask[:, :46].any(), mask[:, 50:].any()
        assert left or right
        assert 0.02 < mask.mean() < 0.25


def test_copy_move_shows_the_copied_part():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (80, 80, 3), dtype=np.uint8)
    alpha = np.zeros((80, 80), np.float32)
    alpha[10:20, 12:30] = 1
    shift = edits.Paste(1.0, 0.0, ((1.0, 0.0, 30.0), (0.0, 1.0, 40.0)))
    edited, shown = edits.apply_paste(base, base, alpha, shift)
    assert np.array_equal(edited[50:60, 42:60], base[10:20, 12:30])
    assert np.array_equal(shown > 0.5, np.roll(alpha, (40, 30), (0, 1)) > 0.5)


def test_view_of_the_whole_photograph_is_the_photograph():
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    view = edits.View("x", 0, 0, 50, 40, (50, 40), mirrored=False)
    assert np.array_equal(edits.apply_view(picture, view), picture)
    mirrored = edits.apply_view(picture, replace(view, mirrored=True))
    assert np.array_equal(mirrored, picture[:, ::-1])


@FEW
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(64, 300), st.integers(64, 300)),
    size=st.tuples(st.integers(32, 64), st.integers(32, 64)),
)
def test_views_lie_inside_their_photograph_and_are_not_enlarged(seed, shape, size):
    view = edits.draw_view("x", shape, size, np.random.default_rng(seed))
    assert 0 <= view.left <= view.left + view.width <= shape[1]
    assert 0 <= view.top <= view.top + view.height <= shape[0]
    assert view.width >= size[0]
    assert view.height >= size[1]


def test_camera_without_faults_changes_nothing():
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    camera = edits.Camera((1.0, 1.0, 1.0), 1.0, 0.0, 0.0, 0.0, 0, 0.0, None)
    assert np.array_equal(edits.apply_camera(picture, camera), picture)
    noisy = edits.apply_camera(np.full((200, 200, 3), 128, np.uint8), replace(camera, read_noise=4))
    assert noisy.std() == pytest.approx(4, rel=0.05)


# --- any folder, from the command line


def test_data_make(tmp_path, capsys):
    photos = photo_folder(tmp_path / "photos", 6)
    words = ["data", "make", "--photos", str(photos), "--out", str(tmp_path / "out")]
    words += ["--count", "6", "--sizes", "64x64,96x64", "--workers", "1"]
    assert main(words) == 0
    assert "only 2 test photographs" in capsys.readouterr().out
    sets = read_source(tmp_path / "out" / "tests.json")
    assert set(sets) == {"splicing", "copy-move", "removal", "resaved"}
    assert main(words) == 0
    assert "as it was made before" in capsys.readouterr().out
    assert main([*words, "--seed", "1"]) == 2
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sizes", "big"], '"big" is no size'),
        (["--count", "0"], "--count 0"),
        (["--seed", "-1"], "--seed -1"),
        (["--test-share", "1"], "--test-share"),
        (["--sizes", "640x480"], "smaller than"),
        (["--on-bad-image", "skip", "--sizes", "640x480"], "no photographs"),
        (["--scenes", "folder"], "at least 4 needed"),
    ],
)
def test_data_make_refuses_in_one_line(tmp_path, capsys, words, message):
    photos = photo_folder(tmp_path / "photos", 4)
    start = ["data", "make", "--photos", str(photos), "--out", str(tmp_path / "out")]
    assert main([*start, "--sizes", "64x64", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_data_make_keeps_out_of_the_photographs(tmp_path, capsys):
    photos = photo_folder(tmp_path / "photos", 4)
    assert main(["data", "make", "--photos", str(photos), "--out", str(photos / "out")]) == 2
    assert "inside the folder" in capsys.readouterr().err
    shutil.rmtree(photos)
    assert main(["data", "make", "--photos", str(photos), "--out", str(tmp_path / "out")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_sizes_are_read():
    assert data_make.parse_sizes("256x256, 320x240") == [(256, 256), (320, 240)]
