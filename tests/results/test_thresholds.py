"""Thresholds: curves from histograms, the four choices, and what of a difference is calibration."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.metrics import pixel_statistics
from sparsevit_plugin.results.store import Store, load
from sparsevit_plugin.results.thresholds import (
    CALIBRATION,
    CHOICES,
    FIXED,
    SET_ORACLE,
    VALIDATION,
    best_place,
    build_thresholds,
)
from sparsevit_plugin.results.thresholds_plots import threshold_plot
from sparsevit_plugin.results.thresholds_tables import study_to_latex, study_to_markdown

SIDE = 12


def maps_of(dataset, count, authentic=0):
    """Maps that tell tampered pixels well at a threshold of about 0.3, and their masks."""
    generator = np.random.default_rng(sum(map(ord, dataset)))
    found = []
    for number in range(count + authentic):
        mask = np.zeros((SIDE, SIDE), bool)
        if number < count:
            mask[2 : 5 + number % 4, 3:8] = True
        noise = generator.normal(0, 0.12, mask.shape)
        found.append((np.clip(0.18 + 0.3 * mask + noise, 0, 1).astype(np.float32), mask))
    return found


def brightened(values):
    """The same order of pixels with another calibration."""
    return values**0.35


def blurred(values):
    """Another, worse map."""
    noise = np.random.default_rng(5).normal(0, 0.25, values.shape)
    return np.clip(values + noise, 0, 1).astype(np.float32)


def write(store, name, dataset, maps, *, sha="a", change=None, **more):
    rows, histograms = [], []
    for number, (values, mask) in enumerate(maps):
        values = change(values) if change else values  # noqa: PLW2901
        figures = pixel_statistics(values, mask)
        key = {"sample_index": number, "sample_name": f"{number}.png", "score_at": "model"}
        counts = {k: getattr(figures, k) for k in ("tp", "fp", "fn", "tn", "f1", "best_f1")}
        rows.append(
            {
                **key,
                **counts,
                "evaluator": "exact",
                "label": int(mask.any()),
                "tampered_pixels": int(mask.sum()),
                "pixels": mask.size,
                "threshold": 0.5,
                "pooling": "max",
                "score": float(values.max()),
                "photos": [f"{dataset[0]}{number // 2}"],
            }
        )
        bins = (figures.tampered_histogram, figures.authentic_histogram)
        histograms.append({**key, "tampered": bins[0], "authentic": bins[1]})
    manifest = {
        "manifest_id": f"id-{name}-{more.get('seed', '')}",
        "model": name,
        "checkpoint": {"sha256": sha * 64, "file": "best.safetensors"},
        "selection": "val",
        "image_size": SIDE,
        "fit": "resize",
        "created": sha,
        **more,
    }
    store.write(manifest, dataset, rows, histograms)
    return manifest


@pytest.fixture
def folder(tmp_path):
    """SparseViT, a brightened copy of it, and a worse model, on two sets and a hold-out."""
    store = Store(tmp_path / "results")
    models = (("SparseViT", "a", None), ("Bright", "b", brightened), ("Worse", "c", blurred))
    for name, sha, change in models:
        for dataset, count in (("one", 8), ("two", 6), ("val", 10)):
            write(
                store, name, dataset, maps_of(dataset, count, authentic=2), sha=sha, change=change
            )
    return tmp_path


def line_of(study, model, name):
    lines = study.table[(study.table["model"] == model) & (study.table["set"] == name)]
    return lines.iloc[0]


def difference(study, model, name, choice):
    frame = study.differences
    chosen = (frame["model"] == model) & (frame["set"] == name) & (frame["choice"] == choice)
    return frame[chosen].iloc[0]


@pytest.mark.parametrize("place", [0, 20, 100, 128, 200, 256])
def test_a_curve_is_what_a_run_at_that_threshold_would_give(folder, place):
    study = build_thresholds(load(folder), samples=100)
    curve = study.curves[(study.curves["model"] == "SparseViT") & (study.curves["set"] == "one")]
    expected = np.mean(
        [
            f1_score(m.ravel(), (v >= 0 if place == 0 else v > place / 256).ravel())
            for v, m in maps_of("one", 8)
        ]
    )
    assert curve["f1"].iloc[place] == pytest.approx(expected)
    assert curve["low"].iloc[place] <= expected + 1e-12
    assert curve["high"].iloc[place] >= expected - 1e-12


def test_the_four_choices(folder):
    study = build_thresholds(load(folder), samples=100)
    curves = {
        name: np.mean([_curve(v, m) for v, m in maps_of(name, count)], axis=0)
        for name, count in (("one", 8), ("val", 10))
    }
    assert study.caption.startswith("Pixel F1: mean over tampered images")
    line = line_of(study, "SparseViT", "one")
    chosen = int(np.argmax(curves["val"]))
    assert float(line["validation_threshold"]) * 256 == chosen
    assert line[VALIDATION] == pytest.approx(curves["one"][chosen])
    assert line[FIXED] == pytest.approx(curves["one"][128])
    assert line[SET_ORACLE] == pytest.approx(curves["one"].max())
    best = np.mean([_curve(v, m).max() for v, m in maps_of("one", 8)])
    assert line["image_oracle"] == pytest.approx(best)
    assert line[FIXED] < line[VALIDATION] <= line[SET_ORACLE] <= line["image_oracle"]
    assert (line["images"], line["validation_images"], line["photographs"]) == (8, 10, 4)
    table = load(folder).table(sets=["one"])
    assert table.values.at["SparseViT", "one"] == pytest.approx(line[FIXED])


def _curve(values, mask):
    """F1 by its definition at every threshold."""
    at = [values >= 0, *(values > k / 256 for k in range(1, 257))]
    return np.array([2 * (p & mask).sum() / (p.sum() + mask.sum()) for p in at])


def test_a_model_that_is_only_calibrated_otherwise_differs_by_calibration_alone(folder):
    """A monotone map keeps the order of pixels; bins round it."""
    study = build_thresholds(load(folder), samples=500)
    assert abs(difference(study, "Bright", "average", FIXED)["difference"]) > 0.1
    assert difference(study, "Bright", "average", SET_ORACLE)["difference"] == pytest.approx(
        0, abs=0.02
    )
    calibration = difference(study, "Bright", "average", CALIBRATION)
    assert calibration["low"] <= calibration["difference"] <= calibration["high"]
    worse = difference(study, "Worse", "average", SET_ORACLE)
    assert worse["high"] < 0
    answers = study.answers()
    assert answers[0].endswith("of the difference at 0.5 none is shown to remain.")
    assert answers[1].startswith("Worse - SparseViT: ")


def test_intervals_are_over_photographs_and_hold_the_difference(folder):
    study = build_thresholds(load(folder), samples=2000)
    one = difference(study, "Worse", "one", FIXED)
    assert (one["images"], one["units"]) == (8, 4)
    assert one["low"] <= one["difference"] <= one["high"]
    a, b = (
        np.array([_curve(v, m)[128] for v, m in ((c(v), m) for v, m in maps_of("one", 8))])
        for c in (blurred, lambda v: v)
    )
    by_photograph = (a - b).reshape(4, 2).mean(1)
    draws = np.random.default_rng(1).integers(4, size=(20000, 4))
    low, high = np.quantile(by_photograph[draws].mean(1), [0.025, 0.975])
    assert one["low"] == pytest.approx(low, abs=0.03)
    assert one["high"] == pytest.approx(high, abs=0.03)


def test_a_sets_interval_depends_on_no_other_set(folder):
    alone, both = (
        build_thresholds(load(folder), samples=500, sets=sets) for sets in (["two"], ["one", "two"])
    )
    for choice in CHOICES:
        ends = [
            [difference(study, "Worse", "two", choice)[end] for end in ("low", "high")]
            for study in (alone, both)
        ]
        assert ends[0] == ends[1]


def test_several_seeds_have_a_threshold_each(tmp_path):
    store = Store(tmp_path / "results")
    for seed, change in ((1, None), (2, brightened)):
        for dataset, count in (("one", 6), ("val", 6)):
            write(
                store, "SparseViT", dataset, maps_of(dataset, count), sha=str(seed), change=change,
                seed=seed, series="s",
            )  # fmt: skip
    study = build_thresholds(load(tmp_path), samples=100)
    line = line_of(study, "SparseViT", "one")
    first, second = map(float, line["validation_threshold"].split())
    assert first < second
    assert line["seeds"] == 2
    assert study.differences.empty
    assert "every training has its own thresholds" in study.caption


def test_the_hold_out_of_the_same_weights_in_another_run_counts(folder, tmp_path):
    """A test of a checkpoint in a folder of its own finds the training's hold-out by its hash."""
    other = Store(tmp_path / "other" / "results")
    write(other, "Tested", "three", maps_of("three", 4), sha="a")
    study = build_thresholds(load(folder), rows=["Tested"], samples=100)
    assert line_of(study, "Tested", "three")["validation_images"] == 10


def test_without_a_hold_out_there_is_no_validation_threshold(tmp_path):
    write(Store(tmp_path / "results"), "SparseViT", "one", maps_of("one", 4))
    study = build_thresholds(load(tmp_path), samples=100)
    assert np.isnan(line_of(study, "SparseViT", "one")[VALIDATION])
    assert study.remarks == [
        "No validation threshold of SparseViT: no rows of a hold-out of the training (train with "
        "--select val, or name a set by --choose-on)."
    ]


def test_a_set_of_ones_own_may_choose(folder):
    study = build_thresholds(load(folder), choose_on="two", samples=100)
    assert study.sets == ["one"]
    assert line_of(study, "SparseViT", "one")["validation_images"] == 6
    with pytest.raises(UserError, match="one of --sets"):
        build_thresholds(load(folder), choose_on="two", sets=["two"], samples=100)
    with pytest.raises(UserError, match='no rows of set "tow"'):
        build_thresholds(load(folder), choose_on="tow", samples=100)


def test_authentic_images_count_as_asked(folder):
    """With 'one', a threshold that predicts nothing on authentic images is rewarded."""
    left_out, zero, one = (
        build_thresholds(load(folder), authentic=how, sets=["one"], samples=100)
        for how in ("tampered", "zero", "one")
    )
    values = [line_of(study, "SparseViT", "one") for study in (left_out, zero, one)]
    assert values[1][FIXED] == pytest.approx(values[0][FIXED] * 8 / 10)
    empty = sum(not (v > 0.5).any() for v, m in maps_of("one", 8, 2) if not m.any())
    assert values[2][FIXED] == pytest.approx((values[0][FIXED] * 8 + empty) / 10)
    assert [line["images"] for line in values] == [8, 10, 10]


def test_of_several_best_thresholds_the_nearest_to_a_half_is_taken():
    mean = np.zeros(257)
    mean[[10, 120, 140]] = 1
    assert best_place(mean) == 120
    assert best_place(np.ones(257)) == 128


def test_rows_without_histograms_are_refused(tmp_path):
    store = Store(tmp_path / "results")
    manifest = write(store, "SparseViT", "one", maps_of("one", 2))
    rows = load(tmp_path).rows.drop(columns=["manifest_id", "dataset", "model", "perturbation"])
    store.write(manifest, "one", rows)
    with pytest.raises(UserError, match="no histograms stand beside these rows"):
        build_thresholds(load(tmp_path), samples=100)


def test_the_verb_writes_tables_curves_and_figures(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["thresholds", str(folder), "--out", str(out), "--draws", "200"]) == 0
    printed = capsys.readouterr().out
    assert "validation's threshold" in printed
    assert "Bright - SparseViT" in printed
    assert "is calibration" in printed
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("thresholds.md", "thresholds.tex", "thresholds.csv", "differences.csv", "curves.csv"),
        *("curves.pdf", "curves.png"),
    }
    curves = pd.read_csv(out / "curves.csv")
    assert len(curves) == 3 * 2 * 257
    assert set(curves.columns) >= {"model", "set", "threshold", "f1", "low", "high"}
    assert "exact" in pd.read_csv(out / "thresholds.csv")["caption"].iloc[0]
    # The same command replaces its own files, and no other's of the same name.
    assert main(["thresholds", str(folder), "--out", str(out), "--draws", "200"]) == 0
    for name in ("thresholds.md", "curves.csv", "curves.pdf"):
        before = (out / name).read_bytes()
        (out / name).write_text("mine")
        changed = (out / "thresholds.csv").stat().st_mtime_ns
        assert main(["thresholds", str(folder), "--out", str(out), "--draws", "300"]) == 2
        assert f"--out {out / name}: is there and is no" in capsys.readouterr().err
        assert (out / name).read_text() == "mine"
        assert (out / "thresholds.csv").stat().st_mtime_ns == changed
        (out / name).write_bytes(before)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--against", "Nobody"], '--against "Nobody" is no row: give one of'),
        (["--rows", "Sparse"], 'no rows of model "Sparse"'),
        (["--level", "95"], "--level 95: give a share"),
        (["--sets", "thre"], 'no rows of set "thre"'),
    ],
)
def test_bad_input_is_one_line(folder, tmp_path, capsys, words, message):
    assert main(["thresholds", str(folder), "--out", str(tmp_path / "o"), *words]) == 2
    assert message in capsys.readouterr().err


def test_more_models_than_a_figure_shows_have_their_tables(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sparsevit_plugin.results.panels.MOST_CURVES", 1)
    out = tmp_path / "many"
    assert main(["thresholds", str(folder), "--out", str(out), "--draws", "200"]) == 0
    assert "a figure shows at most 1, name them by --rows" in capsys.readouterr().out
    assert (out / "curves.csv").is_file()
    assert not list(out.glob("*.p*"))


def test_tables_in_markdown_and_latex(folder):
    study = build_thresholds(load(folder), samples=100)
    markdown = study_to_markdown(study)
    assert markdown.count("| average |") + markdown.count("| average") >= 3
    latex = study_to_latex(study)
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 2
    assert "SparseViT" in latex
    assert "_" not in latex.replace(r"\_", "").replace("tab:thresholds", "")


def test_the_figure_has_a_panel_per_set_and_a_curve_per_model(folder):
    figure = threshold_plot(build_thresholds(load(folder), samples=100))
    titled = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title().split("\n")[0] for axes in titled] == ["one", "two"]
    assert json.dumps([text.get_text() for text in figure.legends[0].get_texts()]) == json.dumps(
        ["SparseViT", "Bright", "Worse"]
    )
    top = titled[0].get_ylim()[1]
    drawn = [line.get_ydata() for axes in titled for line in axes.get_lines()]
    assert max(np.max(y) for y in drawn if len(y) == 257) <= top
