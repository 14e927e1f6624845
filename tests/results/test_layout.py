"""What a reader sees: several metrics, ranks, digits, and cells that are about other images."""

import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results import columns, render
from sparsevit_plugin.results.columns import ProtocolColumns
from tests.results.helpers import counted, in_memory, manifest, scored


def both(f1, auc):
    return [{**row, "auc": float(v)} for row, v in zip(scored(f1), auc, strict=True)]


def two_metrics():
    return in_memory(
        (manifest("A", created="1"), "casia", both([0.5, 0.7], [0.9, 0.9])),
        (manifest("A", created="1"), "nist", both([0.3], [0.8])),
        (manifest("B", created="2"), "casia", both([0.1, 0.3], [0.95, 0.97])),
    )


class TestSeveralMetrics:
    def test_they_are_two_levels_of_columns(self):
        frame = two_metrics().table(["pixel_f1", "pixel_auc"]).to_frame()
        assert frame.columns.names == ["set", "metric"]
        assert frame.columns.tolist() == [
            (name, metric)
            for name in ("casia", "nist", "average")
            for metric in ("pixel_f1", "pixel_auc")
        ]
        assert frame.at["A", ("casia", "pixel_auc")] == pytest.approx(0.9)
        assert np.isnan(frame.at["B", ("average", "pixel_f1")])
        only = two_metrics().table("pixel_f1").to_frame()
        pd.testing.assert_frame_equal(
            frame.xs("pixel_f1", axis=1, level="metric"), only, check_names=False
        )

    def test_text_has_both_levels_in_one_line(self):
        header, first, second = two_metrics().table(["pixel_f1", "pixel_auc"]).grid()
        assert header[1:3] == ["casia (n=2) F1", "casia (n=2) AUC"]
        assert first[1:3] == ["0.600", "0.900"]
        assert second[3:] == ["-"] * 4

    def test_joined_cells_keep_each_metrics_rank(self):
        table = two_metrics().table(["pixel_f1", "pixel_auc"], cells="joined")
        assert table.grid()[1][1] == "0.600 / 0.900"
        assert "**0.600** / <u>0.900</u>" in table.to_markdown()
        assert table.grid()[2][2] == "-"
        assert "Cells: F1 / AUC." in table.caption
        one = two_metrics().table("pixel_f1", cells="joined")
        assert "Cells:" not in one.caption
        with pytest.raises(UserError, match="not one of columns, joined"):
            two_metrics().table(cells="beside")

    def test_metrics_of_other_images_have_their_own_counts(self):
        rows = [*scored([0.5]), counted("Au/1", 0, 0, 0, 9, score=0.1)]
        rows[0]["score"] = 0.9
        table = in_memory((manifest("A"), "casia", rows)).table(["pixel_f1", "image_auc"])
        assert table.grid()[0][1:] == ["casia F1 (n=1)", "casia image AUC (n=2)"]
        assert "over all images; score the largest" in table.caption

    def test_metrics_taken_alike_share_their_words(self):
        caption = two_metrics().table(["pixel_f1", "pixel_auc"]).caption
        assert caption.startswith("Pixel F1 at threshold > 0.5 and pixel AUC: mean over tampered")

    def test_no_metric(self):
        with pytest.raises(UserError, match="no metric"):
            two_metrics().table([])


def ranks(table, digits=3):
    return [
        [part.rank for cell in row.cells for part in cell.parts]
        for block in table.layout(digits).blocks
        for row in block.rows
    ]


class TestRanks:
    @pytest.fixture
    def results(self):
        figures = {"A": 0.6, "B": 0.7004, "C": 0.7001, "D": 0.5}
        return in_memory(*((manifest(m), "casia", scored([v])) for m, v in figures.items()))

    def test_figures_that_look_equal_share_their_rank(self, results):
        assert ranks(results.table()) == [["second"], ["best"], ["best"], [""]]
        assert ranks(results.table(), digits=4) == [[""], ["best"], ["second"], [""]]

    def test_lower_can_be_better(self):
        cells = [
            (manifest(name), "casia", [counted("Au/1", 0, fp, 0, 10 - fp)])
            for name, fp in (("A", 2), ("B", 1))
        ]
        assert ranks(in_memory(*cells).table("authentic_fp_area")) == [["second"], ["best"]]

    def test_one_row_is_not_ranked(self, results):
        table = results.table(rows=["A"])
        assert ranks(table) == [[""]]
        assert "Bold" not in table.caption

    def test_they_are_styles_of_a_terminal_and_marks_of_markdown(self, results):
        text = io.StringIO()
        table = results.table()
        console = Console(file=text, force_terminal=True, color_system="standard", width=200)
        cell = table.layout().blocks[0].rows[1].cells[0]
        console.print(render._terminal_cell(cell, ""), end="")
        assert text.getvalue() == "\x1b[1m0.700\x1b[0m"
        assert "| B     |    **0.700** |" in table.to_markdown()
        assert "| <u>0.600</u> |" in table.to_markdown()

    def test_digits(self, results):
        assert results.table().grid(digits=1)[1][1] == "0.6"


class TestOtherImages:
    def table(self, *fingerprints, names=("Tp/0000", "Tp/0001"), **more):
        """Two rows agree, the third's second image is another."""
        cells = []
        for place, label in enumerate("ABC"):
            rows = scored([0.5, 0.6])
            if label == "C":
                rows = [
                    {**row, "sample_name": name} for row, name in zip(rows, names, strict=False)
                ]
            facts = {"fingerprint": fingerprints[place]} if fingerprints else {}
            cells.append((manifest(label), "casia", rows, facts))
        return in_memory(*cells).table(allow_mixed=True, **more)

    def test_equal_fingerprints_and_counts_are_the_same_images(self):
        table = self.table("x", "x", "x", names=("Tp/0000", "Tp/other"))
        assert table.marks == {}  # the names are not even looked at

    def test_other_names_mark_the_cell_with_its_n_and_a_footnote(self):
        table = self.table("x", "x", "y", names=("Tp/0000", "Tp/other"))
        assert table.grid()[3][1] == "0.550 (n=2) [1]"
        assert table.grid()[1][1] == "0.550 (n=2)"
        assert table.lines()[1] == (
            "[1] casia: 2 images, 1 of the 2 of A missing, 1 that A does not have"
        )
        assert ranks(table)[2] == [""]
        assert "cells with other images are not ranked" in table.caption

    def test_fewer_images_without_fingerprints(self):
        table = self.table(names=("Tp/0000",))
        assert table.lines()[1] == "[1] casia: 1 image, 1 of the 2 of A missing"

    def test_the_average_of_such_a_row_is_marked_and_not_ranked(self):
        cells = [
            (manifest(label), name, scored([0.9] * (1 if (label, name) == ("C", "x") else 2)))
            for label in "ABC"
            for name in ("x", "y")
        ]
        table = in_memory(*cells).table(allow_mixed=True)
        assert table.grid()[3] == ["C", "0.900 (n=1) [1]", "0.900", "0.900 [1]"]
        assert ranks(table)[2] == ["", "best", ""]

    @pytest.mark.parametrize("sizes", [("s", "s"), ("s", "t"), ("s", None)])
    def test_copies_of_a_set_with_other_times_are_not_doubted(self, sizes):
        cells = []
        for label, time, size in zip("AB", "xy", sizes, strict=True):
            facts = {"fingerprint": time} | ({"sizes_fingerprint": size} if size else {})
            cells.append((manifest(label), "casia", scored([0.5]), facts))
        doubted = any("fingerprints do not" in line for line in in_memory(*cells).table().remarks)
        assert doubted is (sizes != ("s", "s"))

    def test_files_that_changed_under_their_names_are_doubted(self):
        table = self.table("xxxxxxxxxx", "xxxxxxxxxx", "yyyyyyyyyy")
        assert table.marks == {}
        assert table.remarks == [
            "casia: the images' names agree, but their files' fingerprints do not (xxxxxxxx: A, B; "
            "yyyyyyyy: C): sizes or times of some differ."
        ]

    def test_a_count_that_is_not_the_cards(self, monkeypatch):
        asked = ProtocolColumns("p", "A protocol", ("nist", "casia"), {"casia": 3})
        monkeypatch.setattr(
            "sparsevit_plugin.results.tables.protocol_columns", {"p": asked}.__getitem__
        )
        table = self.table("x", "x", "x", protocol="p")
        assert table.grid()[1] == ["A", "-", "0.550 (n=2) [1]", "-"]
        assert "[1] casia: 2 images, its card says 3" in table.lines()
        assert ranks(table)[0] == ["", "best", ""]  # all rows have the same images
        assert table.caption.startswith("Protocol p: A protocol. Pixel F1")


def test_a_protocols_sets_are_columns_even_without_rows():
    table = two_metrics().table(protocol="mvss")
    assert list(table.roles) == [*columns.protocol_columns("mvss").sets, "average"]
    assert table.is_empty  # none of its sets has rows
    cells = [(manifest("A"), name, scored([0.5])) for name in ("NIST16", "elsewhere")]
    table = in_memory(*cells).table(protocol="mvss", complexity=False)
    assert table.grid()[1] == ["A", "-", "-", "-", "0.500 (n=1) [1]", "-", "-"]
    only = in_memory(*cells).table(protocol="mvss", sets=["NIST16", "Columbia"])
    assert list(only.roles) == ["NIST16", "Columbia", "average"]
    with pytest.raises(UserError, match='Did you mean "NIST16"'):
        in_memory(*cells).table(protocol="mvss", sets=["NIST"])


def test_perturbed_rows_are_another_table():
    plain = (manifest("A"), "casia", scored([0.5]))
    results = in_memory(
        plain, (manifest("A"), "casia", [{**r, "perturbation": "jpeg:75"} for r in scored([0.2])])
    )
    results.cells = results.cells[:1]
    assert results.table().values.at["A", "casia"] == 0.5
    perturbed = results.table(perturbation="jpeg:75")
    assert perturbed.values.at["A", "casia"] == 0.2
    assert "perturbed before the test: jpeg:75" in perturbed.caption
    with pytest.raises(
        UserError, match=r'by "jpeg:70", only jpeg:75, none. Did you mean "jpeg:75"'
    ):
        results.table(perturbation="jpeg:70")


def test_the_long_frame_is_tidy():
    table = two_metrics().table(["pixel_f1", "pixel_auc"], authentic="zero")
    frame = table.long()
    assert len(frame) == 2 * 3 * 2
    line = frame.set_index(["row", "metric", "set"]).loc[("A", "pixel_auc", "casia")]
    assert line["value"] == pytest.approx(0.9)
    assert (line["n"], line["seeds"], line["kind"], line["role"]) == (2, 1, "measured", "set")
    assert line["authentic"] == "zero"
    assert ",1,2,0," in table.to_csv()  # seeds, n and undefined are whole numbers
    assert pd.isna(line["threshold"])  # AUC has none
    of_f1 = frame[frame["metric"] == "pixel_f1"]
    assert (of_f1["threshold"] == 0.5).all()


def test_markdown_escapes_what_it_would_read():
    text = in_memory((manifest("A|b*c<d"), "casia", scored([0.5]))).table().to_markdown()
    assert r"| A\|b\*c\<d |" in text
