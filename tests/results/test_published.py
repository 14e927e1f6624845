"""Published cards, and the block that stands under a protocol's table."""

import numpy as np
import pytest

from sparsevit_plugin.cards.reading import REGISTRY_VARIABLE, forget_cards
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.columns import protocol_columns
from sparsevit_plugin.results.published import load_published, published_names
from tests.results.helpers import in_memory, manifest, scored

CARD = """
name: mine
title: as reported by somebody
protocol: null
metric: pixel_f1
figure: pixel F1
unit: percent
sources: {paper: A paper, other: Another paper}
source: paper
columns: [x, y]
rows:
  - {method: M, values: {x: 50, y: {value: 25, source: other}}, average: 37.5}
  - {method: N, values: {x: 10}, source: other}
"""


@pytest.fixture
def card_file(tmp_path, monkeypatch):
    monkeypatch.setenv(REGISTRY_VARIABLE, str(tmp_path))
    (tmp_path / "published").mkdir()
    file = tmp_path / "published/mine.yaml"
    file.write_text(CARD)
    forget_cards()
    yield file
    forget_cards()


def test_every_shipped_card_is_read_and_only_one_is_of_a_protocol():
    cards = [load_published(name) for name in published_names()]
    assert [card.name for card in cards if card.protocol] == ["mvss"]
    for card in cards:
        for row in card.rows:
            for column in (*row.values, None):
                assert card.source_of(row, column)


def test_what_mvss_reports():
    card = load_published("mvss")
    rows = {row.method: row for row in card.rows}
    assert set(rows) == {"TruFor", "IML-ViT", "SparseViT", "Relay-ViT", "Relay-Seg"}
    assert card.value(rows["SparseViT"], "CASIAv1") == 0.646
    assert card.title == "as reported by RelayFormer"
    assert set(card.columns) == set(protocol_columns("mvss").sets)
    for row in card.rows:  # a slip of the pen would show
        mean = np.mean([card.value(row, name) for name in card.columns])
        assert card.value(row, None) == pytest.approx(mean, abs=6e-4)


def test_numbers_units_and_sources(card_file):
    card = load_published("mine")
    m, n = card.rows
    assert card.value(m, "x") == 0.5
    assert card.value(m, "y") == 0.25
    assert card.value(m, None) == 0.375
    assert np.isnan(card.value(n, "y"))
    assert np.isnan(card.value(n, None))  # never computed
    assert [card.source_of(m, name) for name in ("x", "y", None)] == [
        "A paper",
        "Another paper",
        "A paper",
    ]
    assert card.source_of(n, "x") == "Another paper"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("metric: pixel_f1", "metric: pixel_f2", 'Did you mean "pixel_f1"'),
        ("source: paper", "source: pape", '"pape" is none of the sources'),
        ("source: other}}", "source: others}}", '"others" is none of the sources'),
        ("{x: 10}", "{z: 10}", 'N: "z" is none of the columns'),
        ("values: {x: 10}, ", "", "has values, an average, or both"),
        ("unit: percent", "unit: points", "mine.yaml:7: unit"),
        ("protocol: null\nmetric: pixel_f1", "protocol: mvss\nmetric: null", "need a metric"),
        ("title:", "titel:", "mine.yaml"),
    ],
)
def test_a_wrong_card_is_named(card_file, old, new, message):
    assert old in CARD
    card_file.write_text(CARD.replace(old, new))
    with pytest.raises(UserError) as caught:
        load_published("mine")
    assert message.lower() in str(caught.value).lower()
    assert "\n" not in str(caught.value)


def test_an_unknown_card():
    with pytest.raises(UserError, match='Did you mean "mvss"'):
        load_published("mvs")


SETS = protocol_columns("mvss").sets


def results(sets=SETS):
    cells = [(manifest(m), name, scored([0.99])) for m in ("A", "B") for name in sets]
    return in_memory(*((*cell[:2], [{**r, "auc": 0.9} for r in cell[2]]) for cell in cells))


def block(table):
    return {
        row.name: [[part.text for part in cell.parts] for cell in row.cells]
        for row in table.layout().blocks[-1].rows
    }


class TestBlock:
    def test_it_stands_below_marked_and_apart(self):
        table = results().table(protocol="mvss", published=True)
        measured, published = table.layout().blocks
        assert (measured.kind, published.kind) == ("measured", "published")
        assert published.heading == "published, not measured here: as reported by RelayFormer"
        assert block(table)["SparseViT"] == [
            [text] for text in ("0.646", "0.781", "0.287", "0.245", "0.230", "0.438")
        ]
        assert {
            part.rank for row in published.rows for cell in row.cells for part in cell.parts
        } == {""}
        assert all(row.marks for row in published.rows)
        assert any("RelayFormer (arXiv:2508.09459)" in line for line in table.lines())
        assert "were not measured here: they are not ranked" in table.caption

    def test_measured_rows_are_as_without_it(self):
        with_block = results().table(protocol="mvss", published=True, paired="A")
        without = results().table(protocol="mvss", paired="A")
        assert with_block.values.equals(without.values)
        assert with_block.paired.frame.equals(without.paired.frame)
        assert with_block.layout().blocks[0].rows == without.layout().blocks[0].rows

    @pytest.mark.parametrize(
        ("cells", "first"), [("columns", [["0.646"], ["-"]]), ("joined", [["0.646", "-"]])]
    )
    def test_other_metrics_are_dashes(self, cells, first):
        table = results().table(
            ["pixel_f1", "pixel_auc"], protocol="mvss", published=True, cells=cells
        )
        assert block(table)["SparseViT"][: len(first)] == first

    def test_the_sources_average_needs_the_sources_sets(self):
        table = results().table(protocol="mvss", published=True, sets=["NIST16", "CASIAv1"])
        assert block(table)["TruFor"] == [["0.311"], ["0.721"], ["-"]]
        assert set(table.long().query("kind == 'published'")["set"]) == {"NIST16", "CASIAv1"}

    def test_the_long_frame_names_its_kind_and_source(self):
        frame = results().table(protocol="mvss", published=True).long()
        published = frame[frame["kind"] == "published"]
        assert len(published) == 5 * 6
        assert published["source"].str.contains("secondary source").all()
        assert published[["n", "std", "p", "seeds"]].isna().all(axis=None)
        line = published.set_index(["row", "set"]).loc[("Relay-ViT", "average")]
        assert line["value"] == 0.554

    def test_where_it_does_not_fit_it_is_left_out_and_said(self):
        table = results().table("pixel_auc", protocol="mvss", published=True)
        assert table.published is None
        assert "are left out: they are pixel F1 at threshold 0.5, which is not" in table.remarks[0]
        rows = [{**row, "threshold": 0.3} for row in scored([0.5])]
        other = in_memory((manifest("A"), "NIST16", rows)).table(protocol="mvss", published=True)
        assert other.published is None
        assert "measured rows have the threshold 0.3" in other.remarks[0]

    def test_it_belongs_to_a_protocol(self):
        with pytest.raises(UserError, match="name the protocol"):
            results().table(published=True)
        with pytest.raises(UserError, match="mvss-with-authentic: no published numbers"):
            results().table(protocol="mvss-with-authentic", published=True)

    def test_a_card_of_another_protocol_is_refused(self, tmp_path):
        file = tmp_path / "mine.yaml"
        file.write_text(
            "{name: mine, title: T, train: {sets: [{set: CASIAv2}]}, "
            "test: {sets: [{set: NIST16}]}, published: mvss}"
        )
        with pytest.raises(UserError, match='of protocol "mvss", not of mine'):
            results().table(protocol=str(file), published=True)
