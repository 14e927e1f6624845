"""Reports of every kind of run: trained, by IMDLBenCo's evaluators, maps made elsewhere, seeds."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sparsevit_plugin.benchmark_configs.protocols
from sparsevit_plugin.cli.main import main
from sparsevit_plugin.report.collect import Request, collect
from sparsevit_plugin.report.pictures import Wish
from sparsevit_plugin.report.render import render
from sparsevit_plugin.results.columns import protocol_columns
from sparsevit_plugin.results.store import Store
from tests.harness.helpers import run_train
from tests.results.helpers import counted, manifest


@pytest.fixture
def two_seeds(tmp_path):
    """Two runs that differ in nothing but their seed, on a set with an undefined figure."""
    store = Store(tmp_path / "results")
    for seed in (0, 1):
        one = manifest("A", f"id-{seed}", series="s", seed=seed, libraries={"torch": f"2.{seed}"})
        rows = [counted("Tp/0", 3, 1, seed, 9, score=0.5), counted("Au/0", 0, 0, 0, 9, score=0.1)]
        store.write(one, "set", [*rows, counted("Tp/1", 1, 1, 1, 1, f1=float("nan"))])
    return tmp_path


def test_a_run_of_benco_train_has_its_curves_and_its_pictures(tiny_corpus, tmp_path):
    run = tmp_path / "run"
    words = ["--test-data-path", str(tiny_corpus / "list.json"), "--select", "val"]
    assert run_train(tiny_corpus / "list.json", run, *words, "--val-fraction", "0.3") == 0
    report = collect(Request((run,), pictures=Wish(count=1, device="cpu")))
    (training,) = report.training
    assert training.name == "SparseViT_tiny, seed 42"
    assert [epoch.number for epoch in training.epochs] == [1, 2]
    assert training.selected_on == "val"
    assert [len(chart.series[0].x) > 0 for chart in training.charts] == [True] * 3
    assert training.charts[0].series[0].x[-1] == pytest.approx(2)
    assert np.isfinite([epoch.selection for epoch in training.epochs]).all()
    (gallery,) = report.pictures.galleries  # the hold-out is no column
    assert [example.note for example in gallery.examples] == [""] * len(gallery.examples)
    assert len(gallery.examples) >= 2
    settings = {one.name: one.value for one in report.run_facts[0].settings}
    assert settings["select"] == "val"
    assert "Training" in render(report)


def test_rows_of_imdlbencos_evaluators(tiny_corpus, tmp_path):
    words = ["--evaluators", "benco", "--output-dir", str(tmp_path / "run"), "--name", "Mine"]
    data = ["--test-data-path", str(tiny_corpus / "list.json"), "--num-workers", "0"]
    model = ["--model", "AllTampered", "--image-size", "32", "--fit", "resize", "--device", "cpu"]
    assert main(["test", *model, *data, *words]) == 0
    report = collect(Request((tmp_path / "run",), evaluator="benco", pictures=Wish(count=1)))
    assert report.scores[0].models[0].f1.count == 12
    assert report.pictures.galleries == ()
    assert "no trained weights" in report.pictures.notes[0]
    assert "Mine" in render(report)


def test_maps_that_were_made_elsewhere(tiny_corpus, tmp_path):
    for kind in ("Tp", "Au"):
        (tmp_path / "maps" / kind).mkdir(parents=True)
        for image in (tiny_corpus / kind).iterdir():
            path = tmp_path / "maps" / kind / f"{image.stem}.png"
            Image.new("L", Image.open(image).size, 200).save(path)
    data, run = str(tiny_corpus / "list.json"), str(tmp_path / "run")
    words = ["--test-data-path", data, "--output-dir", run, "--num-workers", "1"]
    assert main(["score", "--pred", str(tmp_path / "maps"), "--name", "Theirs", *words]) == 0
    report = collect(Request((tmp_path / "run",), score_at="image"))
    assert report.pictures.galleries == ()
    assert "made elsewhere" in report.pictures.notes[0]
    assert ("kind", "external maps") in report.run_facts[0].facts
    assert "Theirs" in render(report)


def test_seeds_are_one_row_and_runs_of_their_own(two_seeds):
    report = collect(Request((two_seeds,), pictures=None))
    assert (report.models, report.runs, report.images) == (1, 2, 3)
    assert [one.title for one in report.run_facts] == ["A, seed 0", "A, seed 1"]
    (scores,) = report.scores[0].models
    assert scores.seeds == 2
    assert (scores.f1.count, scores.f1.undefined) == (2, 2)
    assert (scores.tampered.count, scores.tampered.undefined) == (2, 2)
    assert dict(report.libraries.rows)["torch"] == ("2.0", "2.1")
    text = render(report)
    assert "1 model (2 runs)" in text
    assert "2 undefined" in text


def test_nothing_that_is_undefined_is_a_number(two_seeds):
    text = render(collect(Request((two_seeds,), pictures=None)))
    assert not re.search(r"[>\s(]nan\b", text)


def test_a_protocol_gives_the_columns_also_those_without_a_result(tmp_path):
    store = Store(tmp_path / "results")
    for perturbation in ("none", "blur:3"):
        rows = [counted("Tp/0", 3, 1, 2, 9), counted("Tp/1", 1, 1, 1, 1)]
        store.write(manifest("A"), "demo_removal", rows, perturbation=perturbation)
    report = collect(Request((tmp_path,), protocol="demo", pictures=None))
    assert report.title == protocol_columns("demo").title
    heads = [column.top for column in report.table.columns]
    assert set(protocol_columns("demo").sets) <= set(heads)
    assert [one.dataset for one in report.robustness.sets] == ["demo_removal"]
    assert [one.dataset for one in report.scores] == ["demo_removal"]
    render(report)


@pytest.mark.parametrize("by_file", [False, True], ids=["name", "file"])
def test_a_protocol_means_its_folder_below_the_runs(tmp_path, by_file):
    word = "demo"
    if by_file:
        card = Path(sparsevit_plugin.benchmark_configs.protocols.__file__).parent / "demo.yaml"
        word = str(tmp_path / "mine.yaml")
        Path(word).write_text(card.read_text().replace("name: demo\n", "name: mine\n"))
    folder = tmp_path / "runs" / ("mine" if by_file else "demo")
    store = Store(folder / "results")
    store.write(manifest("A"), "demo_removal", [counted("Tp/0", 3, 1, 2, 9)])
    out = tmp_path / "report.html"
    words = ["--runs", str(tmp_path / "runs"), "--out", str(out), "--no-images"]
    assert main(["report", word, *words]) == 0
    text = out.read_text()
    assert "demo_splicing" in text  # a column without a result
    assert "Protocol mine" in text if by_file else "Protocol demo" in text
