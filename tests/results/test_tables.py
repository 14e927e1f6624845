"""Tables by every convention, with numbers worked out by hand."""

import csv
import io
import itertools

import numpy as np
import pandas as pd
import pytest

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.conventions import METRICS
from sparsevit_plugin.results.store import Results, Store, load
from tests.results.helpers import counted, manifest

# F1: 0.75 and 0.25 on tampered images; authentic: predicted empty, and with a false alarm.
CASIA = [
    counted("Tp/1", 3, 1, 1, 5, auc=0.9, best_f1=0.8, score=0.9),
    counted("Tp/2", 1, 3, 3, 3, auc=0.5, best_f1=0.4, score=0.4),
    counted("Au/1", 0, 0, 0, 10, score=0.2),
    counted("Au/2", 0, 4, 0, 6, score=0.6),
]
PERFECT = [
    *(counted(name, 5, 0, 0, 5) for name in ("Tp/1", "Tp/2")),
    *(counted(name, 0, 0, 0, 10) for name in ("Au/1", "Au/2")),
]
COLUMBIA = [counted("Tp/1", 2, 0, 0, 8, score=0.8), counted("Tp/2", 0, 0, 2, 8, score=0.3)]


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "runs")
    store.write(manifest("A", created="1"), "casia", CASIA)
    store.write(manifest("A", created="1"), "columbia", COLUMBIA)
    store.write(manifest("B", created="2"), "casia", PERFECT)
    store.write(manifest("A", created="1"), "val", [counted("Tp/1", 1, 0, 0, 1)])
    return store


def value(store, metric, dataset="casia", model="A", **conventions):
    return load(store.folder).table(metric, **conventions).values.at[model, dataset]


@pytest.mark.parametrize(
    ("metric", "authentic", "expected"),
    [
        ("pixel_f1", "tampered", (0.75 + 0.25) / 2),
        ("pixel_f1", "zero", (0.75 + 0.25 + 0 + 0) / 4),
        ("pixel_f1", "one", (0.75 + 0.25 + 1 + 0) / 4),
        ("pixel_best_f1", "tampered", 0.6),
        ("pixel_best_f1", "zero", 0.3),
        ("pixel_auc", "tampered", 0.7),
        ("pixel_auc", "zero", 0.35),
        ("pixel_iou", "tampered", (3 / 5 + 1 / 7) / 2),
        ("pixel_iou", "one", (3 / 5 + 1 / 7 + 1 + 0) / 4),
        ("pixel_precision", "tampered", 0.5),
        ("pixel_recall", "one", (0.75 + 0.25 + 1 + 0) / 4),
        ("pixel_accuracy", "tampered", (0.8 + 0.4) / 2),
        ("pixel_accuracy", "zero", (0.8 + 0.4 + 1.0 + 0.6) / 4),
        ("pooled_f1", "tampered", 2 * 4 / (2 * 4 + 4 + 4)),
        ("pooled_f1", "zero", 2 * 4 / (2 * 4 + 8 + 4)),
        ("pooled_iou", "tampered", 4 / 12),
        ("pooled_precision", "zero", 4 / 12),
        ("pooled_recall", "zero", 4 / 8),
        ("pooled_accuracy", "tampered", 12 / 20),
        ("image_f1", "tampered", 2 * 1 / (2 * 1 + 1 + 1)),
        ("image_auc", "tampered", 3 / 4),
        ("image_accuracy", "tampered", 2 / 4),
        ("authentic_fp_area", "tampered", (0 + 0.4) / 2),
    ],
)
def test_conventions(store, metric, authentic, expected):
    assert value(store, metric, authentic=authentic) == pytest.approx(expected)


LOWER_IS_BETTER = ("image_eer", "image_ece", "authentic_fp_area")


def test_every_metric_makes_a_table(store):
    for metric in METRICS:
        table = load(store.folder).table(metric)
        assert table.values.shape == (2, 3)
        assert table.higher_is_better == (metric not in LOWER_IS_BETTER)


def test_the_average_is_empty_when_a_cell_is_missing(store):
    table = load(store.folder).table()
    assert table.roles == {"casia": "set", "columbia": "set", "average": "average"}
    assert table.values.at["A", "average"] == pytest.approx((0.5 + 0.5) / 2)
    assert np.isnan(table.values.at["B", "columbia"])
    assert np.isnan(table.values.at["B", "average"])
    assert "average" not in load(store.folder).table(average=False).roles
    assert "average" not in load(store.folder).table(sets=["casia"]).roles


def test_counts_stand_beside_the_values(store):
    table = load(store.folder).table()
    assert table.counts.at["A", "casia"] == 2
    assert table.counts.at["B", "columbia"] == 0
    assert load(store.folder).table(authentic="zero").counts.at["A", "casia"] == 4
    assert load(store.folder).table("image_f1").counts.at["A", "casia"] == 4
    header, first, second = table.grid()
    assert header == ["model", "casia (n=2)", "columbia (n=2)", "average"]
    assert first == ["A", "0.500", "0.500", "0.500"]
    assert second == ["B", "1.000", "-", "-"]


def test_an_undefined_figure_is_left_out_counted_and_said(store):
    table = load(store.folder).table("pixel_precision", sets=["columbia"], models=["A"])
    assert table.values.at["A", "columbia"] == 1.0
    assert table.counts.at["A", "columbia"] == 1
    assert table.undefined.at["A", "columbia"] == 1
    assert table.remarks == ["Images left out because their figure is undefined: A on columbia 1."]


def test_a_tampered_image_whose_mask_vanished_is_neither(tmp_path):
    store = Store(tmp_path)
    vanished = counted("Tp/2", 0, 3, 0, 7, label=1)
    store.write(manifest("A"), "casia", [CASIA[0], vanished, CASIA[2]])
    for authentic, expected in (("tampered", 0.75), ("one", (0.75 + 1) / 2)):
        table = load(tmp_path).table(authentic=authentic)
        assert table.values.at["A", "casia"] == pytest.approx(expected)
        assert table.undefined.at["A", "casia"] == 1
    assert load(tmp_path).table("authentic_fp_area").counts.at["A", "casia"] == 1


def test_the_hold_out_is_shown_only_when_asked(store):
    assert "val" not in load(store.folder).table().values
    assert value(store, "pixel_f1", "val", sets=["val"]) == 1.0


def test_each_score_size_has_its_rows(store):
    own = [{**row, "score_at": "image", "f1": 0.125} for row in COLUMBIA]
    store.write(manifest("A", created="1"), "columbia", [*COLUMBIA, *own])
    assert value(store, "pixel_f1", "columbia") == 0.5
    assert value(store, "pixel_f1", "columbia", score_at="image") == 0.125


class TestUpstreamsRows:
    @pytest.fixture
    def store(self, tmp_path):
        store = Store(tmp_path)
        numbers = ("f1", "iou", "auc", "accuracy", "score", "label", "tampered_pixels", "threshold")
        rows = [{k: row.get(k) for k in ("sample_name", "score_at", *numbers)} for row in CASIA]
        for row in rows:
            row |= {"evaluator": "benco", **({} if row["label"] else {"f1": 0.0, "auc": 0.0})}
        store.write(manifest("A"), "casia", rows)
        return store

    def test_they_are_shown_when_asked(self, store):
        assert load(store.folder).table().is_empty
        for metric, expected in (("pixel_f1", 0.5), ("image_f1", 0.5), ("image_auc", 0.75)):
            found = value(store, metric, evaluator="benco")
            assert found == pytest.approx(expected, abs=1e-6)
        assert value(store, "pixel_f1", evaluator="benco", authentic="zero") == 0.25

    @pytest.mark.parametrize(
        ("metric", "conventions", "message"),
        [
            ("pixel_f1", {"score_at": "image"}, "model's size only"),
            ("pixel_f1", {"authentic": "one"}, "needs the counts"),
            ("pixel_precision", {}, "has no evaluator"),
            ("pooled_f1", {}, "has no evaluator"),
            ("authentic_fp_area", {}, "has no evaluator"),
        ],
    )
    def test_what_they_cannot_give_is_refused(self, store, metric, conventions, message):
        with pytest.raises(UserError, match=message):
            load(store.folder).table(metric, evaluator="benco", **conventions)


class TestRows:
    def test_order_and_choice(self, store):
        found = load(store.folder)
        assert list(found.table().values.index) == ["A", "B"]
        assert list(found.table(models=["B", "A"]).values.index) == ["B", "A"]
        assert list(found.table(sets=["columbia", "casia"]).roles)[:2] == ["columbia", "casia"]

    def test_two_checkpoints_of_one_model_have_their_hashes(self, store):
        for start in ("aaaaaaaa", "bbbbbbbb"):
            rows = [{**row, "checkpoint": f"{start}cccc"} for row in COLUMBIA]
            store.write(manifest("C", f"id-{start}", created="3"), "columbia", rows)
        labels = list(load(store.folder).table().values.index)
        assert labels == ["A", "B", "C aaaaaaaa", "C bbbbbbbb"]
        assert list(load(store.folder).table(models=["C bbbbbbbb"]).values.index) == labels[3:]
        assert list(load(store.folder).table(models=["C"]).values.index) == labels[2:]

    def test_one_checkpoint_tested_in_two_ways_has_its_manifests_id(self, store):
        for name in ("id-1", "id-2"):
            store.write(manifest("C", name), "columbia", COLUMBIA)
        assert set(load(store.folder).table(models=["C"]).values.index) == {"C (id-1)", "C (id-2)"}

    def test_contradicting_files_are_named(self, store, tmp_path):
        Store(tmp_path / "other").write(manifest("A"), "casia", CASIA[:2])
        with pytest.raises(UserError, match=r"runs.*other.*different rows"):
            load(store.folder, tmp_path / "other").table()

    @pytest.mark.parametrize(
        ("conventions", "message"),
        [
            ({"metric": "pixel_f2"}, 'Did you mean "pixel_f1"'),
            ({"authentic": "ones"}, 'Did you mean "one"'),
            ({"score_at": "photo"}, "is not one of model, image"),
            ({"evaluator": "exactly"}, 'Did you mean "exact"'),
            ({"sets": ["cassia"]}, 'Did you mean "casia"'),
            ({"models": ["a"]}, 'Did you mean "A"'),
        ],
    )
    def test_unknown_names(self, store, conventions, message):
        with pytest.raises(UserError, match=message):
            load(store.folder).table(**conventions)


class TestWords:
    def test_the_caption_names_every_convention(self, store):
        store.write(
            manifest(
                "A",
                selection="val",
                code_version="0.1.0",
                libraries={"IMDLBenCo": "0.1.45", "torch": "2.6"},
            ),
            "casia",
            CASIA,
        )
        caption = load(store.folder).table().caption
        for words in (
            "Pixel F1 at threshold > 0.5",
            "mean over tampered images, each once",
            "authentic images are left out",
            "scored at the model's size",
            "exact evaluators",
            "chosen on: A val",
            "sparsevit-plugin 0.1.0, IMDLBenCo 0.1.45, torch 2.6",
            "Average: mean of the sets' values",
        ):
            assert words in caption
        assert "threshold" not in load(store.folder).table("pixel_auc").caption
        assert "largest value of the map" in load(store.folder).table("image_f1").caption
        assert "lower is better" in load(store.folder).table("authentic_fp_area").caption
        assert (
            "all images together" in load(store.folder).table("pooled_f1", authentic="zero").caption
        )
        assert "counts 0" in load(store.folder).table(authentic="zero").caption
        assert "authentic images included" in (
            load(store.folder).table("pixel_accuracy", authentic="one").caption
        )

    def test_weights_and_data_are_marked(self, store):
        random = "none (random weights)"
        scratch = manifest("C", pretraining=random, checkpoint={"sha256": "x"}, selection="test")
        store.write(scratch, "columbia", COLUMBIA, facts={"skipped": [{}], "pairing": "position"})
        store.write(manifest("D", pretraining=random, checkpoint={}), "columbia", COLUMBIA)
        store.write(manifest("E", pretraining="none needed"), "columbia", COLUMBIA)
        store.write(manifest("F", selection="unknown"), "columbia", COLUMBIA)
        table = load(store.folder).table(models=["C", "D", "E", "F"], sets=["columbia"])
        assert table.notes == {
            "C": [
                "trained from random weights, without a pretraining file",
                "checkpoint chosen on the test sets",
                "columbia: 1 unusable image was skipped",
                "columbia: images and masks were paired by position",
            ],
            "D": ["random weights, not trained"],
            "F": ["how the checkpoint was chosen is unknown"],
        }
        labels = [row[0] for row in table.grid()[1:]]
        assert labels == ["C [1] [2] [3] [4]", "D [5]", "E", "F [6]"]
        assert "[5] random weights, not trained" in table.lines()

    @pytest.mark.parametrize(("left_out", "said"), [(0, False), (10, False), (11, True)])
    def test_a_training_that_left_out_many_updates_is_marked(self, store, *, left_out, said):
        one = manifest("C", updates=1000, updates_left_out=left_out, seed=3)
        store.write(one, "columbia", COLUMBIA)
        notes = load(store.folder).table(models=["C"], sets=["columbia"]).notes.get("C", ())
        words = f"seed 3: {left_out} of 1000 updates left out: gradients that were not finite"
        assert (words in notes) is said

    def test_markdown(self, store):
        text = load(store.folder).table().to_markdown()
        lines = text.splitlines()
        assert lines[0] == "| model |  casia (n=2) | columbia (n=2) | average |"
        assert lines[1] == "| ----- | -----------: | -------------: | ------: |"
        assert lines[3] == "| B     |    **1.000** |              - |       - |"
        assert load(store.folder).table().caption in text

    def test_csv_reads_back(self, store):
        table = load(store.folder).table()
        frame = pd.read_csv(io.StringIO(table.to_csv()), index_col=["row", "set"])
        for row, name in itertools.product(("A", "B"), ("casia", "columbia", "average")):
            found, wanted = frame.at[(row, name), "value"], table.values.at[row, name]
            assert found == wanted or (np.isnan(found) and np.isnan(wanted))
        assert frame.xs("casia", level="set")["n"].tolist() == [2, 2]
        assert frame.at[("A", "casia"), "caption"] == table.caption
        without = next(csv.reader(io.StringIO(table.to_csv(header=False))))
        assert without[:6] == ["measured", "", "A", "A", "pixel_f1", "casia"]

    def test_terminal_output_is_whole_where_there_is_no_terminal(self, store):
        for i in range(12):
            store.write(manifest("A", created="1"), f"a rather long set name {i}", COLUMBIA)
        text = io.StringIO()
        load(store.folder).table().print(text)
        lines = text.getvalue().splitlines()
        assert all(f"a rather long set name {i}" in lines[1] for i in range(12))
        caption = next(line for line in lines if line.startswith("Pixel F1 at threshold > 0.5: me"))
        assert "each set once." in caption

    def test_to_frame_is_a_copy(self, store):
        table = load(store.folder).table()
        copy = table.to_frame()
        copy["casia"] = 0
        assert table.values.at["A", "casia"] == 0.5


def test_rows_without_cells_or_categories_make_a_table():
    rows = [{**row, "manifest_id": "a", "dataset": "casia", "model": "A"} for row in CASIA]
    rows = [{**row, "checkpoint": "", "perturbation": "none"} for row in rows]
    assert Results(pd.DataFrame(rows)).table().values.at["A", "casia"] == 0.5


def test_an_empty_category_makes_no_row(store):
    found = load(store.folder)
    found.rows = found.rows[found.rows["model"] == "A"]
    assert list(found.table().values.index) == ["A"]
