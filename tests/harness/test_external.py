"""Scoring maps made elsewhere: the rows are those that the model itself would have got."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from sparsevit_plugin.backends.from_config import fabric_for, predictor_for
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.config import Config, resolve
from sparsevit_plugin.harness.datasets import collate
from sparsevit_plugin.harness.evaluate import model_inputs
from sparsevit_plugin.harness.external import (
    EXTRA,
    MISSING,
    POOLINGS,
    UNREADABLE,
    WRONG_ASPECT,
    MapsDoNotFit,
    ScoreReport,
    ScoreRequest,
    fits,
    score_maps,
)
from sparsevit_plugin.harness.metrics import pixel_statistics
from sparsevit_plugin.harness.pipeline import build_model, make_dataset
from sparsevit_plugin.harness.sources import fingerprint, read_source
from sparsevit_plugin.harness.testing import evaluate_checkpoints, recorded_settings
from sparsevit_plugin.results.store import Results, Store, load
from tests.conftest import mask_array
from tests.harness.maps import random_map, write_map, write_maps

SIZE = (48, 64)
KEY = ["sample_name", "score_at"]
OF_THE_RUN = ["manifest_id", "model", "checkpoint", "dataset", "backend", "number_format"]


def request(data: Path, pred: Path, out: Path, **changes) -> ScoreRequest:
    (source,) = read_source(data).values()
    changes = {"name": "X", "workers": 2, **changes}
    return ScoreRequest(pred=pred, source=source, store=Store(out), **changes)


def score(data: Path, pred: Path, out: Path, **changes) -> ScoreReport:
    return score_maps(request(data, pred, out, **changes))


def rows_of(folder: Path) -> pd.DataFrame:
    return load(folder).rows.sort_values(KEY, ignore_index=True)


def refused(data: Path, pred: Path, out: Path, **changes) -> MapsDoNotFit:
    with pytest.raises(MapsDoNotFit) as caught:
        score(data, pred, out, **changes)
    assert not out.exists()
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def pred(tmp_path):
    """Native maps of the four images of `tiny_set`, as npy."""
    write_maps(tmp_path / "pred", [f"{number:03d}" for number in range(4)], SIZE)
    return tmp_path / "pred"


# --- agreement with benco test -------------------------------------------------------------------


def dump_maps(cfg: Config, weights: Path | None, folder: Path, form: str) -> None:
    """Write a model's own maps, as somebody else would."""
    (source,) = read_source(cfg.test_data_path).values()
    dataset = make_dataset(cfg, source, training=False)
    model = build_model(cfg).eval()
    if weights is not None:
        save_file(model.state_dict(), weights)
    predictor = predictor_for(cfg, model, weights, fabric_for(cfg).device)  # as benco test has it
    for index in range(len(dataset)):
        batch = collate([dataset[index]])
        with torch.no_grad():
            output = predictor(**model_inputs(batch, torch.device("cpu")), if_predcit_label=False)
        stem = batch["sample_name"][0].rpartition(".")[0]
        write_map(folder / stem, output["pred_mask"][0, 0].numpy(), form)


@pytest.mark.parametrize("model", ["RandomScores", "SparseViT_tiny"])
@pytest.mark.parametrize("fitted", ["stretched", "native"])
def test_a_models_own_maps_give_the_rows_of_benco_test(tmp_path, make_set, model, fitted):
    data = make_set(tmp_path / "data", size=(40, 56) if fitted == "stretched" else (32, 32))
    flags = ["--model", model, "--test-data-path", str(data), "--image-size", "32"]
    flags += ["--device", "cpu", "--num-workers", "0", "--fit", "resize"]
    weights = None if model == "RandomScores" else tmp_path / "weights.safetensors"
    cfg = resolve("test", flags)
    dump_maps(cfg, weights, tmp_path / "npy", "npy")
    dump_maps(cfg, None, tmp_path / "png", "png16")
    flags += ["--checkpoint", str(weights), "--test-batch-size", "1"] if weights else []
    flags += ["--output-dir", str(tmp_path / "test")]
    evaluate_checkpoints(resolve("test", flags, recorded=recorded_settings))
    tested = rows_of(tmp_path / "test").drop(columns=OF_THE_RUN)
    allowed = fitted == "stretched"
    for form in ("npy", "png"):
        score(data, tmp_path / form, tmp_path / f"of_{form}", allow_stretched=allowed)
    same = rows_of(tmp_path / "of_npy").drop(columns=OF_THE_RUN)
    tested["pooling"] = same["pooling"]  # "model" where the model itself takes the maximum
    pd.testing.assert_frame_equal(same, tested, check_categorical=False, check_exact=True)
    near = rows_of(tmp_path / "of_png")
    for column, tolerance in (("f1", 0.01), ("auc", 1e-3), ("score", 1e-5)):
        np.testing.assert_allclose(near[column], tested[column], atol=tolerance)


# --- one map -------------------------------------------------------------------------------------


def test_a_native_map_has_the_same_figures_at_both_sizes(tiny_set, pred, tmp_path):
    report = score(tiny_set, pred, tmp_path / "out")
    assert report.images == 4
    rows = rows_of(tmp_path / "out")
    model, image = (
        rows[rows["score_at"] == at].reset_index(drop=True) for at in ("model", "image")
    )
    pd.testing.assert_frame_equal(
        model.drop(columns="score_at"), image.drop(columns="score_at"), check_categorical=False
    )
    wanted = pixel_statistics(random_map(*SIZE, 2), mask_array(*SIZE, 2) > 0)
    third = image[image["sample_name"] == "Tp/002.jpg"].iloc[0]
    assert (third["f1"], third["auc"], third["tp"]) == (wanted.f1, wanted.auc, wanted.tp)
    histograms = load(tmp_path / "out").histograms
    assert len(histograms) == 8
    assert (histograms["tampered"].map(sum) + histograms["authentic"].map(sum) == 48 * 64).all()


def test_a_smaller_map_is_scored_at_its_own_size_and_bilinearly_at_the_photographs(
    tiny_set, tmp_path
):
    maps = write_maps(tmp_path / "pred", [f"{n:03d}" for n in range(4)], (24, 32), "npz")
    report = score(tiny_set, tmp_path / "pred", tmp_path / "out")
    assert (report.facts["native_size"], report.facts["resized_bilinearly"]) == (0, 4)
    rows = rows_of(tmp_path / "out").set_index(KEY)
    mask, small = mask_array(*SIZE, 1), maps["001"]
    assert rows.loc[("Tp/001.jpg", "model"), ["height", "width"]].tolist() == [24, 32]
    nearest = cv2.resize(mask, (32, 24), interpolation=cv2.INTER_NEAREST)
    wanted = pixel_statistics(small, nearest > 0)
    assert rows.loc[("Tp/001.jpg", "model"), "auc"] == wanted.auc
    large = F.interpolate(
        torch.from_numpy(small)[None, None], size=SIZE, mode="bilinear", align_corners=False
    )[0, 0]
    wanted = pixel_statistics(large.numpy(), mask > 0)
    assert rows.loc[("Tp/001.jpg", "image"), "auc"] == wanted.auc
    assert rows.loc[("Tp/001.jpg", "image"), ["height", "width"]].tolist() == [48, 64]


@given(
    st.integers(16, 3000), st.integers(16, 3000), st.floats(0.05, 3), st.sampled_from([0, 0.5, 1])
)
def test_every_scaled_photograph_fits_however_it_was_rounded(height, width, scale, rounding):
    size = tuple(max(1, int(side * scale + rounding * 0.999)) for side in (height, width))
    assert fits(size, (height, width))


@pytest.mark.parametrize(
    ("size", "fitting"),
    [((512, 512), False), ((256, 384), True), ((257, 384), True), ((259, 384), False)],
)
def test_the_aspect_ratio_may_be_one_pixel_off(size, fitting):
    assert fits(size, (512, 768)) is fitting


@pytest.mark.parametrize(("pooling", "wanted"), [("max", 0.9), ("mean", 0.105), ("top1", 0.5)])
def test_the_image_score_comes_from_the_map(make_set, tmp_path, pooling, wanted):
    data = make_set(tmp_path / "data", count=1, size=(20, 10))
    values = np.full((20, 10), 0.1)
    values[3, 3] = 0.9  # of 200 pixels the highest hundredth is two
    values[4, 4] = 0.3 if pooling == "mean" else 0.1
    write_map(tmp_path / "pred/000", values)
    score(data, tmp_path / "pred", tmp_path / "out", pooling=pooling)
    rows = rows_of(tmp_path / "out")
    assert set(rows["pooling"]) == {pooling}
    np.testing.assert_allclose(rows["score"], wanted)


@given(st.integers(1, 300))
def test_poolings_are_ordered(count):
    values = np.random.default_rng(count).random((1, count))
    mean, top, largest = (POOLINGS[name](values) for name in ("mean", "top1", "max"))
    assert mean <= top + 1e-12 <= largest + 2e-12


def test_inverted_maps_score_as_their_complement(tiny_set, tmp_path):
    for number in range(4):
        values = random_map(*SIZE, number)
        write_map(tmp_path / f"pred/{number:03d}", values)
        write_map(tmp_path / f"inverse/{number:03d}", 1 - values)
    score(tiny_set, tmp_path / "pred", tmp_path / "a")
    score(tiny_set, tmp_path / "inverse", tmp_path / "b", invert=True)
    plain, inverted = rows_of(tmp_path / "a"), rows_of(tmp_path / "b")
    np.testing.assert_allclose(plain["auc"], inverted["auc"], atol=1e-6)
    assert set(plain["manifest_id"]).isdisjoint(inverted["manifest_id"])


def test_an_image_whose_region_is_lost_when_shrunk_is_tampered_all_the_same(tmp_path, make_set):
    data = make_set(tmp_path / "data", count=1, size=(40, 40))
    dot = np.zeros((40, 40), np.uint8)
    dot[1, 1] = 255
    Image.fromarray(dot).save(data / "Gt/000.png")
    write_maps(tmp_path / "pred", ["000"], (10, 10))
    score(data, tmp_path / "pred", tmp_path / "out")
    rows = rows_of(tmp_path / "out").set_index("score_at")
    assert rows["tampered_pixels"].to_dict() == {"image": 1, "model": 0}
    assert rows["label"].tolist() == [1, 1]


# --- what does not fit ---------------------------------------------------------------------------


def test_every_problem_is_counted_named_and_listed_and_nothing_is_stored(tiny_set, pred, tmp_path):
    (pred / "000.npy").unlink()
    write_map(pred / "stranger", random_map(4, 4))
    write_map(pred / "001", random_map(48, 48))
    (pred / "002.npy").write_bytes(b"no array")
    (pred / "003.npy").rename(pred / "003.jpg")
    error = refused(tiny_set, pred, tmp_path / "out")
    assert [(problem.kind, problem.name) for problem in error.problems] == [
        (UNREADABLE, "003.jpg"),
        (MISSING, "Tp/000.jpg"),
        (MISSING, "Tp/003.jpg"),
        (EXTRA, "stranger.npy"),
        (WRONG_ASPECT, "001.npy"),
        (UNREADABLE, "002.npy"),
    ]
    for words in (
        "2 missing (Tp/000.jpg, Tp/003.jpg)",
        "1 extra (stranger.npy)",
        "1 wrong aspect ratio (001.npy: is 48 x 48, its photograph 64 x 48 pixels)",
        "2 unreadable (003.jpg: .jpg is no map",
        "--allow-stretched",
        "nothing was stored",
    ):
        assert words in str(error)


def test_only_the_first_few_are_named(tmp_path, make_set):
    data = make_set(tmp_path / "data", count=9)
    write_maps(tmp_path / "pred", ["000"], SIZE)
    error = refused(data, tmp_path / "pred", tmp_path / "out")
    assert "8 missing (Tp/001.jpg, Tp/002.jpg, Tp/003.jpg, ...)" in str(error)
    assert len(error.problems) == 8


def test_maps_of_0_and_1_that_were_never_scaled_are_refused(tiny_set, tmp_path):
    for number in range(4):
        write_map(tmp_path / f"pred/{number:03d}", (random_map(*SIZE) > 0.5).astype(np.uint8))
    error = refused(tiny_set, tmp_path / "pred", tmp_path / "out")
    assert "no sample of its 4 integer maps is above 1" in str(error)
    for file in (tmp_path / "pred").iterdir():
        np.save(file, np.load(file).astype(bool))
    score(tiny_set, tmp_path / "pred", tmp_path / "out")


def test_a_broken_photograph_of_the_set_is_a_problem_too(tiny_set, pred, tmp_path):
    (tiny_set / "Gt/001.png").write_bytes(b"no picture")
    error = refused(tiny_set, pred, tmp_path / "out")
    assert "1 unusable image (Tp/001.jpg: " in str(error)


def test_missing_maps_may_be_left_out_and_are_told(tiny_set, pred, tmp_path):
    (pred / "001.npy").unlink()
    report = score(tiny_set, pred, tmp_path / "out", allow_missing=True)
    assert (report.images, report.facts["without_map"]) == (3, 1)
    (cell,) = load(tmp_path / "out").cells
    assert cell.facts["skipped"] == [{"name": "Tp/001.jpg", "reason": "no map"}]
    table = load(tmp_path / "out").table("pixel_f1")
    assert "tiny: 1 image without a map was skipped" in table.notes["X"]
    for file in pred.iterdir():
        file.rename(file.with_stem(f"{file.stem}_other"))
    with pytest.raises(MapsDoNotFit, match="3 extra"):
        score(tiny_set, pred, tmp_path / "out", allow_missing=True)


def test_maps_of_the_tampered_images_alone_are_told_how_to_score_them(tiny_corpus, tmp_path):
    data = tiny_corpus / "list.json"
    write_maps(tmp_path / "pred", [f"Tp/{number:06d}" for number in range(12)], SIZE)
    error = refused(data, tmp_path / "pred", tmp_path / "out")
    assert "all 3 authentic images of the set lack a map" in str(error)
    assert "--authentic exclude" in str(error)


def test_maps_of_images_that_are_not_scored_are_no_strangers(tiny_corpus, tmp_path):
    whole = request(tiny_corpus / "list.json", tmp_path, tmp_path).source
    names = [sample.name.removesuffix(".jpg") for sample in whole.samples]
    write_maps(tmp_path / "pred", names, SIZE)
    (tampered,) = read_source(tiny_corpus / "list.json").values()
    tampered = tampered.__class__(
        tampered.name,
        tampered.kind,
        tampered.path,
        tuple(sample for sample in tampered.samples if sample.mask),
        tampered.pairing,
    )
    asked = ScoreRequest(
        tmp_path / "pred", "X", tampered, Store(tmp_path / "out"), whole=whole, workers=1
    )
    report = score_maps(asked)
    assert report.images == 12
    assert report.remarks == ("3 maps of images that are not scored here were left out",)
    write_map(tmp_path / "pred/stranger", random_map(*SIZE))
    with pytest.raises(MapsDoNotFit, match="1 extra"):
        score_maps(asked)


# --- what is stored ------------------------------------------------------------------------------


def read(folder: Path) -> tuple[Results, dict]:
    results = load(folder)
    (manifest,) = results.manifests.values()
    return results, manifest


def test_the_manifest_says_that_the_maps_are_not_ours(tiny_set, pred, tmp_path):
    write_map(pred / "000", random_map(24, 32))
    report = score(tiny_set, pred, tmp_path / "out", name="Their Method")
    results, manifest = read(tmp_path / "out")
    assert manifest["kind"] == "external maps"
    assert manifest["model"] == "Their Method"
    for unknown in ("selection", "training_data", "pretraining", "device"):
        assert manifest[unknown] == "unknown"
    assert manifest["threshold"] == 0.5
    assert manifest["code_version"]
    assert manifest["libraries"]["torch"]
    assert "complexity" not in manifest
    assert manifest["maps"] == report.facts
    assert report.facts["forms"] == {"npy float32": 4}
    assert (report.facts["native_size"], report.facts["resized_bilinearly"]) == (3, 1)
    (source,) = read_source(tiny_set).values()
    (cell,) = results.cells
    assert cell.facts["fingerprint"] == fingerprint(source)
    assert set(results.rows["checkpoint"]) == {manifest["checkpoint"]["sha256"][:12]}
    json.dumps(manifest)


def test_the_photographs_of_a_corpus_stay_known(tiny_corpus, tmp_path):
    write_maps(tmp_path / "pred", [f"Tp/{number:06d}" for number in range(12)], SIZE)
    score(tiny_corpus / "list.json", tmp_path / "pred", tmp_path / "out", allow_missing=True)
    rows = rows_of(tmp_path / "out").set_index("sample_name")
    assert list(rows.loc["Tp/000002.jpg", "photos"].iloc[0]) == ["photo1", "photo2"]
    assert rows["sample_index"].max() == 11


def test_the_same_maps_again_are_the_same_cell_wherever_they_stand(tiny_set, pred, tmp_path):
    score(tiny_set, pred, tmp_path / "out")
    shutil.copytree(pred, tmp_path / "copy/Tp")
    score(tiny_set, tmp_path / "copy", tmp_path / "out", workers=1)
    assert len(list((tmp_path / "out/rows").iterdir())) == 1


def stored(folder: Path) -> dict[str, set[str]]:
    """Return the sets of each manifest."""
    found: dict[str, set[str]] = {}
    for cell in load(folder).cells:
        found.setdefault(cell.manifest_id, set()).add(cell.dataset)
    return found


def test_one_method_on_several_sets_is_one_row(tiny_set, pred, make_set, tmp_path):
    out = tmp_path / "out"
    second = make_set(tmp_path / "second")
    score(tiny_set, pred, out)
    assert score(second, pred, out).remarks == ()
    assert list(stored(out).values()) == [{"tiny", "second"}]
    for changes in ({"name": "Y"}, {"pooling": "mean"}, {"invert": True}):
        score(tiny_set, pred, out, **changes)
    assert len(stored(out)) == 4


def test_changed_maps_are_another_manifest_and_another_row(tiny_set, pred, make_set, tmp_path):
    out = tmp_path / "out"
    second = make_set(tmp_path / "second")
    shutil.copytree(pred, tmp_path / "old")
    score(tiny_set, pred, out)
    score(second, pred, out)
    write_map(pred / "000", random_map(*SIZE, 77))
    (remark,) = score(tiny_set, pred, out).remarks
    assert "other maps of X on tiny" in remark
    assert sorted(map(sorted, stored(out).values())) == [["second", "tiny"], ["tiny"]]
    assert score(second, pred, out).remarks == ()  # joins the changed maps of the other set
    assert score(tiny_set, tmp_path / "old", out).remarks == ()  # is stored already
    assert list(stored(out).values()) == [{"second", "tiny"}] * 2
    checkpoints = {cell.manifest["checkpoint"]["sha256"] for cell in load(out).cells}
    assert len(checkpoints) == 2


def test_sets_that_are_scored_at_once_become_one_row(pred, make_set, tmp_path):
    asked = [request(make_set(tmp_path / f"set{n}"), pred, tmp_path / "out") for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(score_maps, asked))
    assert [len(sets) for sets in stored(tmp_path / "out").values()] == [4]


@pytest.mark.parametrize("workers", [1, 4])
def test_rows_stand_in_the_order_of_the_set(tmp_path, make_set, workers):
    data = make_set(tmp_path / "data", count=12)
    write_maps(tmp_path / "pred", [f"{n:03d}" for n in range(12)], SIZE)
    score(data, tmp_path / "pred", tmp_path / "out", workers=workers)
    rows = load(tmp_path / "out").rows
    names = rows.loc[rows["score_at"] == "model", "sample_name"].tolist()
    assert names == sorted(names)


def test_a_store_that_cannot_be_written_is_one_line(tiny_set, pred, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        score(tiny_set, pred, tmp_path / "out")
