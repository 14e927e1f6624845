"""Image-level figures from stored rows, and reliability: numbers, files, what has none."""

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, roc_auc_score

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.detection import DETECTION_METRICS, build_detection
from sparsevit_plugin.results.detection_plots import reliability_plot
from sparsevit_plugin.results.store import Store, load
from tests.results.helpers import counted, manifest


def drawn(name, count=60):
    generator = np.random.default_rng(sum(map(ord, name)))
    labels = (np.arange(count) % 3 > 0).astype(int)
    return labels, np.clip(generator.normal(0.35 + 0.3 * labels, 0.2), 0, 1)


def rows_of(labels, scores, pooling="topk"):
    return [
        counted(f"{i}.png", 2 * label, 0, label, 6, score=float(score), pooling=pooling)
        for i, (label, score) in enumerate(zip(labels, scores, strict=True))
    ]


@pytest.fixture
def folder(tmp_path):
    store = Store(tmp_path / "runs")
    for name in ("A", "B"):
        one = manifest(name, task="detection", image_head="topk", trained_task="detection")
        one["detection_loss_weights"] = {"image": 0.5, "mask": 1.0}
        store.write(one, "mixed", rows_of(*drawn(name)))
        labels, scores = drawn(name + "!")
        store.write(one, "tampered only", rows_of(labels[labels == 1], scores[labels == 1]))
    return tmp_path / "runs"


def test_figures_are_those_of_the_scores(folder):
    study = build_detection(load(folder))
    line = study.figures.set_index(["set", "model"]).loc[("mixed", "A")]
    labels, scores = drawn("A")
    assert line["image_auc"] == pytest.approx(roc_auc_score(labels, scores))
    assert line["image_ap"] == pytest.approx(average_precision_score(labels, scores))
    assert (line["tampered"], line["authentic"]) == (40, 20)
    share, mean = calibration_curve(labels, scores, n_bins=15)
    bins = study.reliability[study.reliability["model"] == "A"]
    assert np.allclose(bins["tampered_share"].astype(float), share)
    assert np.allclose(bins["mean_score"].astype(float), mean)
    assert bins["images"].sum() == 60


def test_one_class_has_no_figure_and_no_panel(folder):
    study = build_detection(load(folder))
    line = study.figures.set_index(["set", "model"]).loc[("tampered only", "A")]
    undefined = ["image_auc", "image_ap", "image_eer", "image_ece", "image_balanced_accuracy"]
    assert line[undefined].isna().all()
    assert study.sets == ["mixed"]
    assert [axes.get_title().split("\n")[0] for axes in reliability_plot(study).axes] == ["mixed"]
    alone = build_detection(load(folder), sets=["tampered only"])
    with pytest.raises(UserError, match="there is no calibration to draw"):
        reliability_plot(alone)


def test_what_a_reader_must_know_stands_below(folder):
    words = " ".join(build_detection(load(folder)).lines())
    assert "from the mean of the map's highest 1 % of logits" in words
    assert "Bold" not in words
    assert "trained for detection: image score by topk, loss weights 0.5 (image)" in words


def test_the_verb_writes_tables_bins_and_figures(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["detection", str(folder), "--out", str(out)]) == 0
    assert "balanced accuracy" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        *("detection.md", "detection.tex", "detection.csv", "reliability.csv"),
        *("reliability.pdf", "reliability.png"),
    }
    written = pd.read_csv(out / "detection.csv")
    assert set(DETECTION_METRICS) <= set(written.columns)
    assert "15 bins" in written["caption"].iloc[0]
    assert main(["detection", str(folder), "--sets", "tampered only", "--out", str(out)]) == 0
    assert "no reliability plot" in capsys.readouterr().out


def test_rows_without_scores_are_refused(tmp_path, capsys):
    Store(tmp_path / "runs").write(manifest("A"), "set", [counted("a", 1, 1, 1, 1)])
    assert main(["detection", str(tmp_path / "runs")]) == 2
    assert "no row has an image score" in capsys.readouterr().err


def test_imdlbencos_evaluators_have_no_such_figure(folder):
    results = load(folder)
    results.rows["evaluator"] = "benco"
    with pytest.raises(UserError, match="IMDLBenCo has no evaluator for it"):
        results.table("image_eer", evaluator="benco")
