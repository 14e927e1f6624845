"""Which images a figure shows, whose maps, and what is said of them."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import f1_score

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.explain import qualitative
from sparsevit_plugin.explain.draw_qualitative import qualitative_figure
from sparsevit_plugin.explain.qualitative import (
    Candidate,
    CheckpointMaps,
    FolderMaps,
    Row,
    choose_at_random,
    choose_by_disagreement,
    chooser,
    disagreement,
    make_rows,
    of_set,
    pick,
    read_models,
)
from sparsevit_plugin.harness.datasets import BadSample
from sparsevit_plugin.harness.images import BadImage, read_image
from sparsevit_plugin.harness.predict import Localiser
from sparsevit_plugin.harness.sources import read_source

SIZE = (40, 56)


@pytest.fixture
def image_set(tmp_path, make_set):
    (source,) = read_source(make_set(tmp_path / "set", 4, SIZE)).values()
    return source


def save_maps(folder, values) -> None:
    """Write a constant 8-bit map for every value, called as the images of `make_set`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, value in enumerate(values):
        picture = Image.fromarray(np.full(SIZE, value, np.uint8))
        picture.save(folder / f"{number:03d}.png")


@pytest.fixture
def two_models(tmp_path, image_set):
    """Two folders of maps, whose difference is largest for image 2, then 0, 3 and 1."""
    save_maps(tmp_path / "one", [0, 10, 255, 100])
    save_maps(tmp_path / "two", [204, 10, 0, 151])
    candidates = of_set(image_set)
    return candidates, [FolderMaps(name, tmp_path / name, candidates) for name in ("one", "two")]


# --- disagreement ---------------------------------------------------------------------------------


def test_disagreement_is_the_mean_over_pairs_and_pixels():
    draw = np.random.default_rng(0)
    maps = [draw.random((5, 7), dtype=np.float32) for _ in range(3)]
    total = 0.0
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        for y in range(5):
            for x in range(7):
                total += abs(float(maps[a][y, x]) - float(maps[b][y, x]))
    assert disagreement(maps) == pytest.approx(total / (3 * 35), rel=1e-6)
    assert disagreement(maps[::-1]) == pytest.approx(disagreement(maps))
    assert disagreement([maps[0], maps[0]]) == 0
    assert disagreement([np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)]) == 1
    with pytest.raises(ValueError, match="a single map"):
        disagreement(maps[:1])
    with pytest.raises(ValueError, match="not of one image"):
        disagreement([maps[0], maps[0].T])


def test_images_with_the_largest_disagreement_are_chosen_in_its_order(
    two_models, image_set, tmp_path
):
    candidates, sources = two_models
    kept = tmp_path / "kept.json"
    choice = choose_by_disagreement(candidates, sources, 3, kept, [image_set])
    assert [one.name for one in choice.images] == [f"set/Tp/00{n}.jpg" for n in (2, 0, 3)]
    found = [choice.values[f"set/Tp/00{n}.jpg"] for n in range(4)]
    np.testing.assert_allclose(found, [0.8, 0, 1, 0.2], atol=1e-6)
    assert json.loads(kept.read_text())["disagreement"].keys() == choice.values.keys()


def test_an_interrupted_choice_goes_on_and_changed_maps_begin_anew(
    two_models, image_set, tmp_path, monkeypatch
):
    candidates, sources = two_models
    kept = tmp_path / "kept.json"
    asked = []
    maps_of = qualitative.maps_of

    def counting(candidate, given):
        if len(asked) == 2 and not kept.exists():
            raise KeyboardInterrupt
        asked.append(candidate.name)
        return maps_of(candidate, given)

    monkeypatch.setattr(qualitative, "maps_of", counting)
    with pytest.raises(KeyboardInterrupt):
        choose_by_disagreement(candidates, sources, 2, kept, [image_set])
    choice = choose_by_disagreement(candidates, sources, 2, kept, [image_set])
    assert asked == [one.name for one in candidates]  # each once
    assert [one.name[-5] for one in choice.images] == ["2", "0"]
    asked.clear()
    choose_by_disagreement(candidates, sources, 2, kept, [image_set])
    assert asked == []
    save_maps(tmp_path / "two", [0, 255, 255, 100])
    os.utime(tmp_path / "two/000.png", ns=(1, 1))
    choice = choose_by_disagreement(candidates, sources, 1, kept, [image_set])
    assert len(asked) == 4
    assert choice.images[0].name == "set/Tp/001.jpg"
    kept.write_text("[1, 2")
    choose_by_disagreement(candidates, sources, 1, kept, [image_set])
    assert len(asked) == 8


def test_unusable_images_are_passed_over_and_one_model_is_refused(two_models, image_set, tmp_path):
    candidates, sources = two_models
    (tmp_path / "set/Tp/002.jpg").write_text("no photograph")
    choice = choose_by_disagreement(candidates, sources, 4, tmp_path / "k.json", [image_set])
    assert [one.name[-5] for one in choice.images] == ["0", "3", "1"]
    assert [bad.reason for bad in choice.bad] == ["is a text file, not an image"]
    with pytest.raises(UserError, match="name at least two"):
        choose_by_disagreement(candidates, sources[:1], 4, tmp_path / "k.json", [image_set])


# --- other ways to choose -------------------------------------------------------------------------


def test_random_choices_depend_on_the_seed_alone(image_set):
    candidates = of_set(image_set)
    chosen = {tuple(c.name for c in choose_at_random(candidates, 2, s).images) for s in range(20)}
    assert len(chosen) > 3
    again = choose_at_random(candidates, 2, 7).images
    assert again == choose_at_random(candidates, 2, 7).images
    assert [candidates.index(one) for one in again] == sorted(candidates.index(o) for o in again)
    assert len(choose_at_random(candidates, 9, 0).images) == 4
    assert chooser("disagreement") is None
    assert chooser("random:3")(candidates, 2).images == choose_at_random(candidates, 2, 3).images
    assert chooser("first")(candidates, 2).images == candidates[:2]
    for text in ("frist", "random:x", "first:2"):
        with pytest.raises(UserError, match="is not disagreement, first or random:SEED"):
            chooser(text)


def test_images_are_picked_by_number_name_and_path(tmp_path, make_set, make_photo):
    sets = [
        next(iter(read_source(make_set(tmp_path / name, 3)).values())) for name in ("one", "two")
    ]
    alone = make_photo(tmp_path / "alone.png")
    words = ["one:2", "two:Tp/001.jpg", "two:Tp/000", str(alone)]
    names = [one.name for one in pick(words, sets)]
    assert names == ["one/Tp/002.jpg", "two/Tp/001.jpg", "two/Tp/000.jpg", str(alone)]
    assert [one.name for one in pick(["1"], sets[:1])] == ["one/Tp/001.jpg"]
    for word, message in [
        ("one:3", "one has the images 0 to 2"),
        ("one:Tp/01.jpg", 'no such image in one. Did you mean "Tp/001.jpg"'),
        ("1", "say of which set, as one:1"),
        ("gone.jpg", "say of which set"),
    ]:
        with pytest.raises(UserError, match=message):
            pick([word], sets)
    with pytest.raises(UserError, match="no such file; for an image of a set add --set"):
        pick(["gone.jpg"], [])


# --- models ---------------------------------------------------------------------------------------


def test_words_of_models(tmp_path, checkpoint):
    run = tmp_path / "run"
    run.mkdir()
    (run / "best.safetensors").touch()
    predicted = tmp_path / "predicted"
    (predicted / "maps").mkdir(parents=True)
    (predicted / "settings.json").touch()
    plain = tmp_path / "maps"
    plain.mkdir()
    text = f"A@{run}, Our method=SparseViT_tiny@{checkpoint},P@{predicted},M@{plain}"
    words = read_models(text)
    assert [word.label for word in words] == ["A", "Our method", "P", "M"]
    assert words[1].name == "SparseViT_tiny"
    assert [word.maps_folder for word in words] == [None, None, predicted / "maps", plain]
    for wrong, message in [
        ("A", "write NAME@PATH"),
        ("@x", "write NAME@PATH"),
        ("", "name at least one"),
        (f"A@{tmp_path / 'gone'}", "no such file or folder"),
        (f"A@{run},A@{plain}", "two columns are called A"),
    ]:
        with pytest.raises(UserError, match=message):
            read_models(wrong)


def test_a_checkpoints_maps_are_those_of_predict(checkpoint, image_set):
    candidates = of_set(image_set)[:2]
    source = CheckpointMaps("tiny", checkpoint, device="cpu")
    expected = Localiser(checkpoint, device="cpu")([one.path for one in candidates])
    for found, prediction in zip(source.maps(candidates), expected, strict=True):
        np.testing.assert_array_equal(found, prediction.map)


def test_maps_of_other_programs_come_at_the_photographs_size(tmp_path, image_set):
    candidates = of_set(image_set)
    folder = tmp_path / "maps"
    folder.mkdir()
    values = np.random.default_rng(0).random((20, 28), dtype=np.float32)
    np.save(folder / "000.npy", values)
    np.save(folder / "001.npy", values.repeat(2, 0).repeat(2, 1))
    np.save(folder / "002.npy", np.zeros((9, 9), np.float32))
    source = FolderMaps("theirs", folder, candidates)
    half, whole, square, gone = source.maps(candidates)
    assert half.shape == whole.shape == SIZE
    np.testing.assert_array_equal(whole, values.repeat(2, 0).repeat(2, 1))
    assert isinstance(square, BadSample)
    assert "--allow-stretched" in square.reason
    assert isinstance(gone, BadSample)
    assert gone.reason == "holds no map of set/Tp/003.jpg"
    stretched = FolderMaps("theirs", folder, candidates, allow_stretched=True)
    assert next(stretched.maps(candidates[2:3])).shape == SIZE


def test_a_folder_without_maps_of_the_images_is_refused(tmp_path, image_set):
    folder = tmp_path / "other"
    folder.mkdir()
    with pytest.raises(UserError, match=r"--models other@.*: holds no maps"):
        FolderMaps("other", folder, of_set(image_set))
    np.save(folder / "else.npy", np.zeros(SIZE, np.float32))
    with pytest.raises(UserError, match=r"holds no map of set.Tp.000\.jpg or the other images"):
        FolderMaps("other", folder, of_set(image_set))


def test_maps_of_several_sets_are_told_apart_by_folders(tmp_path, make_set):
    """Two sets whose images have the same names: a map is of one of them only."""
    sets = [
        next(iter(read_source(make_set(tmp_path / name, 2, SIZE)).values())) for name in ("a", "b")
    ]
    both = [one for source in sets for one in of_set(source)]
    save_maps(tmp_path / "flat", [10, 20])
    with pytest.raises(UserError, match=r"could be of a/Tp/000\.jpg and of b/Tp/000\.jpg: put the"):
        FolderMaps("flat", tmp_path / "flat", both)
    save_maps(tmp_path / "apart/a", [10, 20])
    save_maps(tmp_path / "apart/b", [30, 40])
    found = FolderMaps("apart", tmp_path / "apart", both).maps(both)
    assert [round(255 * float(one[0, 0])) for one in found] == [10, 20, 30, 40]
    assert len(FolderMaps("flat", tmp_path / "flat", of_set(sets[0])).files) == 2


# --- rows -----------------------------------------------------------------------------------------


def test_f1_is_scikit_learns_and_undefined_figures_are_nan():
    draw = np.random.default_rng(3)
    values, mask = draw.random((30, 20), dtype=np.float32), draw.random((30, 20)) > 0.7
    pixels = np.zeros((30, 20, 3), np.uint8)
    row = Row(Candidate("a", None), pixels, mask, (values,), 0.4, np.nan)
    assert row.f1(0) == pytest.approx(f1_score(mask.ravel(), values.ravel() > 0.4))
    empty = Row(Candidate("a", None), pixels, mask & False, (values * 0,), 0.4, np.nan)
    assert np.isnan(empty.f1(0))
    unknown = Row(Candidate("a", None), pixels, None, (values,), 0.4, np.nan)
    assert np.isnan(unknown.f1(0))


def test_columns_that_are_too_narrow_are_refused():
    pixels = np.zeros((30, 20, 3), np.uint8)
    row = Row(Candidate("a", None), pixels, None, (pixels[:, :, 0] / 255,) * 9, 0.5, 0.0)
    with pytest.raises(UserError, match="--width 1 inches: too narrow"):
        qualitative_figure([row], [f"model {n}" for n in range(9)], width=1)


def test_rows_hold_what_is_shown(two_models, tmp_path):
    candidates, sources = two_models
    first, _ = make_rows(candidates[:2], sources, 0.5)
    np.testing.assert_array_equal(first.pixels, read_image(tmp_path / "set/Tp/000.jpg"))
    mask = np.asarray(Image.open(tmp_path / "set/Gt/000.png")) > 127
    np.testing.assert_array_equal(first.mask, mask)
    assert first.disagreement == pytest.approx(0.8)
    assert (first.f1(0), first.f1(1)) == (0, pytest.approx(2 * mask.mean() / (1 + mask.mean())))
    (tmp_path / "two/001.png").unlink()
    with pytest.raises(BadImage):
        make_rows(candidates[:2], sources, 0.5)
