"""The column of the paired test: what is compared with what, on which images, and what is said."""

import numpy as np
import pytest
from scipy import stats

from sparsevit_plugin.errors import UserError
from tests.results.helpers import counted, in_memory, manifest, scored

A = [0.9, 0.7, 0.8, 0.6, 0.7, 0.9]
REFERENCE = [0.5, 0.4, 0.6, 0.3, 0.6, 0.5]


def sparse(values=REFERENCE, dataset="casia", **more):
    return (manifest("SparseViT"), dataset, scored(values, **more))


def only(table):
    (line,) = table.paired.lines()
    return line


def text(table, label):
    return next(row[1:] for row in table.grid() if row[0] == label)


def test_one_seed_and_unknown_photographs_are_the_permutation_test_over_images():
    table = in_memory(sparse(), (manifest("A"), "casia", scored(A))).table(paired="SparseViT")
    line = only(table)
    reference = stats.permutation_test(
        (np.subtract(A, REFERENCE),), np.mean, permutation_type="samples", n_resamples=9999
    )
    assert line["p"] == line["p_holm"] == pytest.approx(reference.pvalue) == 2 / 64
    assert line["difference"] == pytest.approx(np.mean(A) - np.mean(REFERENCE))
    shown = table.values["casia"]
    assert line["difference"] == pytest.approx(shown["A"] - shown["SparseViT"])
    assert line["low"] < line["difference"] < line["high"]
    assert (line["verdict"], line["units"], line["unit"]) == ("better", 6, "image")
    assert text(table, "A")[-1] == "▲ +0.283 (p=0.031)"
    assert text(table, "SparseViT")[-1] == "-"
    for words in (
        "vs SparseViT: difference of the set's figure, row - SparseViT",
        "two-sided paired permutation test",
        "by image (n = 6), 9999 resamples",
        "generator seed 0",
        "one run a row, so the variation between trainings is not in it",
        "Holm-corrected over the 1 rows compared",
        "level 0.05",
        "Every comparison is on all images of both rows.",
    ):
        assert words in table.caption


def test_photographs_are_the_units_over_all_sets():
    photos = ["cat", "cat", "cup", "cup", "sea", "sea"]

    def cells(one, values):
        for dataset in ("x", "y"):
            rows = scored(values)
            named = [{**row, "photos": [p, "donor"]} for row, p in zip(rows, photos, strict=True)]
            yield one, dataset, named

    results = in_memory(*cells(sparse()[0], REFERENCE), *cells(manifest("A"), A))
    line = only(results.table(paired="SparseViT"))
    assert (line["units"], line["unit"], line["images"]) == (3, "source photograph", 12)
    assert line["p"] == 2 / 8  # three signs, all the same way
    assert "by source photograph (n = 3)" in results.table(paired="SparseViT").caption


def test_one_row_that_knows_the_photographs_is_enough():
    known = scored(REFERENCE, photos=["cat"])
    half = [*known[:3], *scored(REFERENCE)[3:]]
    cells = [(manifest("A"), "casia", scored(A)), (sparse()[0], "casia", half)]
    line = only(in_memory(*cells).table(paired="SparseViT"))
    assert (line["units"], line["unit"]) == (4, "source photograph, else image")


def test_images_that_only_one_has_are_left_out_and_said():
    table = in_memory(
        sparse(), (manifest("A"), "casia", [*scored(A)[:4], *scored([0.1] * 9)[7:]])
    ).table(paired="SparseViT", allow_mixed=True)
    line = only(table)
    assert (line["images"], line["left_out"]) == (4, 4)
    assert line["difference"] == pytest.approx(np.mean(A[:4]) - np.mean(REFERENCE[:4]))
    assert "the intersection, the images that both rows have a figure for (A 4 of 8)" in (
        table.caption
    )


def test_an_image_without_a_figure_is_left_out():
    line = only(
        in_memory(sparse(), (manifest("A"), "casia", scored([float("nan"), *A[1:]]))).table(
            paired="SparseViT"
        )
    )
    assert (line["images"], line["left_out"]) == (5, 1)


def test_sets_weigh_once_each_whatever_their_size():
    cells = [
        sparse([0.5] * 6, "large"),
        sparse([0.5], "small"),
        (manifest("A"), "large", scored([0.6] * 6)),
        (manifest("A"), "small", scored([0.3])),
    ]
    table = in_memory(*cells).table(paired="SparseViT")
    assert only(table)["difference"] == pytest.approx((0.1 - 0.2) / 2)
    assert "difference of the average" in table.caption


def test_seeds_widen_the_interval_by_what_trainings_differ():
    generator = np.random.default_rng(0)
    images = generator.normal(0.5, 0.1, 200)

    def runs(model, shifts):
        for seed, shift in enumerate(shifts):
            one = manifest(model, f"{model}{seed}", seed=seed, series=model)
            yield one, "casia", scored(images + shift + generator.normal(0, 0.05, 200))

    def tested(shifts):
        cells = [*runs("SparseViT", [0, 0.001, -0.001]), *runs("A", shifts)]
        table = in_memory(*cells).table(paired="auto")
        return table, only(table)

    table, steady = tested([0.05, 0.051, 0.049])
    _, unsteady = tested([0.2, 0.0, -0.05])
    assert steady["difference"] == pytest.approx(unsteady["difference"], abs=0.02)
    assert steady["verdict"] == "better"
    assert unsteady["verdict"] == "not significant"
    assert unsteady["high"] - unsteady["low"] > 5 * (steady["high"] - steady["low"])
    assert (steady["seeds"], steady["reference_seeds"]) == (3, 3)
    assert "seeds as a second level" in table.caption
    assert "unknown and not in it" not in table.caption
    mixed = in_memory(*runs("SparseViT", [0, 0.01]), *runs("A", [0.05])).table(paired="auto")
    assert "of rows with one run it is unknown and not in it" in mixed.caption


def test_holm_is_over_the_rows_of_each_metric():
    generator = np.random.default_rng(0)
    base = generator.normal(0.5, 0.1, 30)

    def rows(shift):
        f1 = base + shift + generator.normal(0, 0.05, 30)
        return [{**row, "auc": value} for row, value in zip(scored(f1), f1[::-1], strict=True)]

    cells = [(manifest(n), "casia", rows(s)) for n, s in (("A", 0.03), ("B", 0.02), ("C", 0))]
    cells.append((manifest("SparseViT"), "casia", rows(0)))
    frame = in_memory(*cells).table(["pixel_f1", "pixel_auc"], paired="auto").paired.frame
    for _, family in frame.groupby("metric"):
        smallest, middle, largest = family.sort_values("p").to_dict("records")
        assert smallest["p_holm"] == pytest.approx(min(1, 3 * smallest["p"]))
        assert middle["p_holm"] == pytest.approx(min(1, max(smallest["p_holm"], 2 * middle["p"])))
        assert largest["p_holm"] == pytest.approx(min(1, max(middle["p_holm"], largest["p"])))


def test_less_can_be_better():
    def authentic(name, fp):
        rows = [counted(f"Au/{i}", 0, fp, 0, 10 - fp) for i in range(8)]
        return manifest(name), "casia", rows

    table = in_memory(authentic("SparseViT", 4), authentic("A", 1)).table(
        "authentic_fp_area", paired="auto"
    )
    assert only(table)["verdict"] == "better"
    assert only(table)["difference"] == pytest.approx(-0.3)


def test_figures_of_a_whole_set_have_no_test():
    cells = [sparse(score=0.9), (manifest("A"), "casia", scored(A, score=0.4))]
    table = in_memory(*cells).table(["pixel_f1", "pooled_f1"], paired="auto")
    assert text(table, "A")[-1] == "-"
    assert "no test of pooled F1, a figure of a whole set" in table.caption
    alone = in_memory(*cells).table("pooled_f1", paired="auto")
    assert "No paired test against SparseViT" in alone.caption


def test_a_row_that_lacks_a_set_is_not_compared():
    cells = [sparse(dataset="x"), sparse(dataset="y"), (manifest("A"), "x", scored(A))]
    table = in_memory(*cells).table(paired="auto")
    assert table.paired.lines() == []
    assert text(table, "A") == ["0.767", "-", "-", "-"]
    assert "no row shares every set with it" in table.caption


class TestReference:
    def test_automatic_is_sparsevit_or_nothing(self):
        cells = [(manifest("B"), "casia", scored(A)), (manifest("A"), "casia", scored(A))]
        assert in_memory(*cells).table(paired="auto").paired is None
        assert in_memory(*cells).table(paired="B").paired.reference == "B"
        assert in_memory(*cells, sparse()).table().paired is None  # only when asked for
        assert in_memory(sparse()).table(paired="auto").paired is None  # nothing to compare

    def test_rows_of_a_group_are_compared_within_it(self):
        recipe = {"group": "recipe r", "series": "r"}
        cells = [
            sparse(),
            (manifest("A", "a"), "casia", scored(A)),
            (manifest("SparseViT", "s-r", **recipe), "casia", scored(A)),
            (manifest("A", "a-r", **{**recipe, "series": "ra"}), "casia", scored(A)),
            (manifest("A", "a-q", group="recipe q"), "casia", scored(A)),
        ]
        table = in_memory(*cells).table(paired="SparseViT")
        found = {line["row"]: line["reference"] for line in table.paired.lines()}
        assert found == {
            "A": "SparseViT",
            "A, recipe r": "SparseViT, recipe r",
            "A, recipe q": "SparseViT",
        }
        assert "of the row's own group, where it is there" in table.caption
        one = in_memory(*cells).table(paired="SparseViT, recipe r")
        assert {line["reference"] for line in one.paired.lines()} == {"SparseViT, recipe r"}
        assert len(one.paired.frame) == 4

    def test_names_that_mean_nothing_or_too_much(self):
        cells = [
            (manifest("A", name, checkpoint={"sha256": name * 20}), "casia", scored(A))
            for name in ("one", "two")
        ]
        with pytest.raises(UserError, match='no row "B" to compare with, only A one'):
            in_memory(*cells).table(paired="B")
        with pytest.raises(UserError, match=r'"A" means several rows: A one.*A two'):
            in_memory(*cells).table(paired="A")


def test_the_long_frame_has_the_test_where_it_belongs():
    cells = [sparse(dataset=d) for d in "xy"]
    cells += [(manifest("A"), d, scored(A)) for d in "xy"]
    frame = in_memory(*cells).table(paired="auto").long().set_index(["row", "set"])
    assert frame.at[("A", "average"), "verdict"] == "better"
    assert frame.at[("A", "average"), "reference"] == "SparseViT"
    assert frame["p"].notna().sum() == 1
