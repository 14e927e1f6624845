"""The best and worst images: which, from where, how large, and what is said when one is missing."""

import base64
import io
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sparsevit_plugin.report import pictures
from sparsevit_plugin.report.collect import Request, collect
from sparsevit_plugin.report.pictures import Wish, choose, find_weights, found_at
from sparsevit_plugin.results.aggregate import Conventions
from sparsevit_plugin.results.store import load
from tests.report.conftest import EVIL, PLAIN, FinishedRun
from tests.results.helpers import counted

CPU = Wish(count=2, device="cpu")


def rows(f1, areas=()):
    tampered = [counted(f"Tp/{n}", 1, 1, 1, 1, f1=value) for n, value in enumerate(f1)]
    authentic = [
        counted(f"Au/{n}", 0, 1, 0, 3, predicted_area=area) for n, area in enumerate(areas)
    ]
    return pd.DataFrame(tampered + authentic)


def names(choices, kind):
    return [choice.name for choice in choices if choice.kind == kind]


def gather(tested, wish=CPU):
    return collect(Request((tested.run,), pictures=wish)).pictures


@pytest.fixture
def copied(tested, tmp_path) -> FinishedRun:
    """A copy that a test may spoil; its manifests name the first one's places."""
    shutil.copytree(tested.run, tmp_path / "runs" / "a")
    return FinishedRun(tested.data, tmp_path / "runs" / "a")


@pytest.fixture
def away(tested):
    """The sets and weights are gone from where the manifests say they are."""
    data, weights = tested.data, tested.weights
    hidden = data.with_name("hidden")
    data.rename(hidden)
    weights.rename(weights.with_name("hidden.bin"))
    yield hidden
    hidden.rename(data)
    weights.with_name("hidden.bin").rename(weights)


def test_the_best_and_the_worst_are_chosen_by_f1():
    found = choose(rows([0.5, 0.1, math.nan, 0.9, 0.1]), 2, Conventions())
    assert names(found, "best") == ["Tp/3", "Tp/0"]
    assert names(found, "worst") == ["Tp/1", "Tp/4"]


@pytest.mark.parametrize(("count", "best", "worst"), [(1, 1, 0), (2, 1, 1), (3, 2, 1), (4, 2, 2)])
def test_no_image_is_both(count, best, worst):
    found = choose(rows([0.1 * n for n in range(count)]), 3, Conventions())
    assert (len(names(found, "best")), len(names(found, "worst"))) == (best, worst)
    assert len({choice.name for choice in found}) == count


def test_authentic_images_are_chosen_by_what_is_called_tampered():
    found = choose(rows([0.5], [0.1, 0.0, 0.7]), 6, Conventions())
    assert names(found, "authentic") == ["Au/2", "Au/0"]


def test_pictures_show_the_photograph_and_its_mask(tested):
    found = gather(tested)
    assert found.side == 360
    assert {gallery.dataset for gallery in found.galleries} == {EVIL, PLAIN}
    example = found.galleries[0].examples[0]
    assert example.note == ""  # what is drawn has the F1 that is stored
    assert [p.caption for p in example.pictures] == ["photograph", "mask", "map", "overlay"]
    shown, mask, drawn, _ = (opened(picture) for picture in example.pictures)
    assert shown.shape == (48, 64, 3)
    source = np.asarray(Image.open(tested.data / "corpus" / example.choice.name).convert("RGB"))
    assert np.abs(shown.astype(float) - source).mean() < 12
    file = (tested.data / "corpus" / example.choice.name.replace("Tp", "Gt")).with_suffix(".png")
    np.testing.assert_array_equal(mask, np.asarray(Image.open(file)) > 0)
    assert drawn.shape == (48, 64)
    every = [p for g in found.galleries for e in g.examples for p in e.pictures]
    assert found.size == sum(len(content(picture)) for picture in every)


def test_a_region_that_is_smaller_than_a_shown_pixel_is_seen_and_said():
    mask = np.zeros((800, 1200), bool)
    mask[401:403, 601:603] = True
    shown = pictures._Shown(
        np.zeros((800, 1200, 3), np.uint8), mask, np.zeros(mask.shape, np.float32), 0.5,
        float(mask.mean()), 0.0,
    )  # fmt: skip
    choice = pictures.Choice("a.png", "worst", 0.0, 0.0)
    _, drawn, _, over = pictures._pictures(shown, choice, "A", 120)
    assert opened(drawn).any()
    assert drawn.alt == "Mask: less than 0.1% of the photograph is tampered"
    assert over.alt.endswith("0.0% of it called tampered")
    nothing = replace(shown, mask=np.zeros_like(mask), area=0.0)
    assert pictures._pictures(nothing, choice, "A", 120)[1].alt == "Mask: nothing is tampered"


def content(picture):
    return base64.b64decode(picture.address.partition(",")[2])


def opened(picture):
    image = Image.open(io.BytesIO(content(picture)))
    assert image.size == (picture.width, picture.height)
    return np.asarray(image)


def test_pictures_shrink_until_they_fit(tested, monkeypatch):
    monkeypatch.setattr(pictures, "SIDES", (360, 32, 16))
    whole = gather(tested).size
    monkeypatch.setattr(pictures, "BUDGET", whole - 1)
    smaller = gather(tested)
    assert smaller.side == 32
    assert smaller.size < whole
    assert max(opened(p).shape[1] for g in smaller.galleries for e in g.examples
               for p in e.pictures) == 32  # fmt: skip
    monkeypatch.setattr(pictures, "BUDGET", 10)
    with pytest.raises(pictures.UserError, match="smaller --images"):
        gather(tested)


def test_weights_are_known_by_their_hash(copied, away):
    results = load(copied.run)
    manifest = results.cells[0].manifest
    assert find_weights(manifest, results.cells, [copied.run]) == copied.weights
    moved = copied.run.parent / "elsewhere" / copied.weights.name
    moved.parent.mkdir()
    copied.weights.rename(moved)
    assert find_weights(manifest, results.cells, [copied.run]) is None
    assert find_weights(manifest, results.cells, [copied.run.parent]) == moved
    moved.write_bytes(b"others")
    assert find_weights(manifest, results.cells, [copied.run.parent]) is None


def test_a_protocols_weights_are_found(copied, away):
    results = load(copied.run)
    inside = copied.run / "train" / "cell" / copied.weights.name
    inside.parent.mkdir(parents=True)
    copied.weights.rename(inside)
    assert find_weights(results.cells[0].manifest, results.cells, []) == inside


def test_missing_weights_are_said(copied, away):
    copied.weights.unlink()
    found = gather(copied)
    assert found.galleries == ()
    assert "not there any more" in found.notes[0]


def test_a_set_that_is_gone_is_said_and_found_elsewhere(copied, away):
    found = gather(copied)
    notes = {example.note for gallery in found.galleries for example in gallery.examples}
    assert all("--data-root" in note for note in notes)
    assert notes
    found = gather(copied, replace(CPU, data_root=away))
    assert all(e.pictures and not e.note for g in found.galleries for e in g.examples)


def test_an_image_that_is_gone_is_said(tested, tmp_path):
    shutil.copytree(tested.data, tmp_path / "data")
    listing = tmp_path / "data" / "corpus" / "list.json"
    best = gather(tested).galleries[0].examples[0].choice.name
    kept = [record for record in json.loads(listing.read_text()) if record[0] != best]
    listing.write_text(json.dumps(kept))
    (tmp_path / "data" / "corpus" / kept[0][0]).write_text("no photograph")
    cell = next(cell for cell in load(tested.run).cells if cell.dataset == PLAIN)
    moved = replace(cell, facts={**cell.facts, "path": str(listing)})
    samples = pictures._samples(moved, {best, kept[0][0]}, None)
    assert set(samples) == {kept[0][0]}
    localiser = pictures._localiser(cell.manifest, tested.weights, CPU)
    choice = pictures.Choice(kept[0][0], "best", 0.5, 0.1)
    with pytest.raises(pictures.UserError, match="not an image"):
        pictures._shown(samples[kept[0][0]], choice, localiser)


def test_a_map_that_is_not_the_tests_is_said(tested):
    cell = next(cell for cell in load(tested.run).cells if cell.dataset == PLAIN)
    localiser = pictures._localiser(cell.manifest, tested.weights, CPU)
    samples = pictures._samples(cell, {"Tp/0.png"}, None)
    choice = pictures.Choice("Tp/0.png", "best", 0.99, 0.1, own_f1=0.99)
    _, note = pictures._shown(samples["Tp/0.png"], choice, localiser)
    assert "differ from the test's" in note


def test_a_model_that_cannot_be_built_is_said(tested):
    cell = load(tested.run).cells[0]
    manifest = {**cell.manifest, "registered_model": "Unheard"}
    assert "Unheard" in pictures._localiser(manifest, tested.weights, CPU)


def test_paths_are_sought_near_the_run(tmp_path):
    run, data = tmp_path / "runs" / "a", tmp_path / "data" / "set"
    run.mkdir(parents=True)
    data.mkdir(parents=True)
    assert found_at("data/set", [run]) == [data]
    assert found_at("/gone/set", [run]) == []
    assert found_at("/gone/set", [run], tmp_path / "data")[0] == data
    assert found_at("../set", [run], tmp_path / "data")[0] == data
