"""Rows that differ in a term share no table unless asked; what belongs to a row is a footnote."""

import re

import pytest

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results.terms import arguments_text, facts_of
from tests.results.helpers import in_memory, manifest, scored


def cell(name, rows=None, dataset="casia", facts=None, **more):
    return (manifest(name, created=name, **more), dataset, rows or scored([0.5, 0.7]), facts or {})


def changed(**more):
    return [{**row, **more} for row in scored([0.5, 0.7])]


MIXED = {
    "threshold > 0.3": cell("C", changed(threshold=0.3)),
    "checkpoint chosen on test": cell("C", selection="test"),
    "casia: 1 image, 1 of the 2 of A missing": cell("C", scored([0.9])),
}
SCORED_OTHERWISE = {
    "scored by IMDLBenCo's evaluators": changed(evaluator="benco"),
    "scored at the photograph's own size": changed(score_at="image"),
}


def three(third):
    """Two rows of the same terms, and another."""
    return in_memory(cell("A", selection="val"), cell("B", selection="val"), third)


@pytest.mark.parametrize("text", MIXED)
def test_rows_of_other_terms_are_refused_by_name(text):
    results = three(MIXED[text])
    with pytest.raises(UserError, match=re.escape(f"C ({text})")) as error:
        results.table()
    assert "--allow-mixed" in str(error.value)
    assert list(results.table(rows=["A", "B"]).values.index) == ["A", "B"]


@pytest.mark.parametrize("text", MIXED)
def test_they_are_marked_where_they_are_allowed_and_not_ranked(text):
    table = three(MIXED[text]).table(allow_mixed=True)
    assert list(table.values.index) == ["A", "B", "C"]
    layout = table.layout()
    rows = {row.name: row for block in layout.blocks for row in block.rows}
    (mark,) = rows["C"].cells[0].marks
    assert layout.footnotes[mark - 1] == text
    assert rows["C"].cells[0].parts[0].rank == ""
    assert rows["A"].cells[0].parts[0].rank == "best"
    assert not rows["A"].cells[0].marks


def test_a_threshold_that_no_figure_has_differs_in_nothing():
    results = in_memory(cell("A", changed(auc=0.5)), cell("B", changed(auc=0.6, threshold=0.3)))
    assert list(results.table("pixel_auc").values["casia"]) == [0.5, 0.6]
    with pytest.raises(UserError, match=r"threshold > 0\.3"):
        results.table(["pixel_auc", "pixel_f1"])


@pytest.mark.parametrize("selection", ["none", "unknown", ""])
def test_what_is_not_known_differs_from_nothing(selection):
    assert not three(cell("C", selection=selection)).table().apart


def test_images_that_a_test_had_to_skip_are_marked_and_not_refused():
    table = three(cell("C", scored([0.9]), facts={"skipped": [{"path": "x"}]})).table()
    assert "1 of the 2 of A missing" in table.marks["C", "casia"][0]


@pytest.mark.parametrize("text", SCORED_OTHERWISE)
def test_a_row_that_was_only_scored_otherwise_is_left_out_by_name_or_marked(text):
    results = three(cell("C", SCORED_OTHERWISE[text]))
    table = results.table()
    assert list(table.values.index) == ["A", "B"]
    assert any("Left out: C," in remark for remark in table.lines())
    mixed = results.table(allow_mixed=True, paired="A")
    assert mixed.values.at["C", "casia"] == pytest.approx(0.6)
    assert mixed.marks["C", "casia"] == [text]
    assert not any("Left out" in remark for remark in mixed.lines())
    assert mixed.paired is not None
    assert list(mixed.paired.frame["row"]) == ["B"]  # no test across terms


def test_a_figure_of_other_evaluators_is_computed_their_way():
    rows = [{**row, "label": i % 2, "score": 0.1 * i} for i, row in enumerate(scored([1] * 6))]
    exact, benco = ([{**row, "evaluator": name} for row in rows] for name in ("exact", "benco"))
    mixed = in_memory(cell("A", exact), cell("B", exact), cell("C", benco))
    alone = in_memory(cell("C", benco))
    found = mixed.table("image_f1", allow_mixed=True).values.at["C", "casia"]
    assert found == alone.table("image_f1", evaluator="benco").values.at["C", "casia"]


def test_a_reference_of_other_terms_is_compared_with_nothing():
    table = three(cell("C", selection="test")).table(allow_mixed=True, paired="C")
    assert table.paired is not None
    assert table.paired.frame.empty


def test_what_most_rows_share_is_said_once_and_the_rest_is_a_footnote():
    usual = {"image_size": 512, "fit": "resize", "recipe": "ours", "effective_batch": 16}
    other = {**usual, "image_size": 1024, "fit": "pad"}
    table = in_memory(
        cell("A", **usual), cell("B", **usual), cell("C", **other), cell("D", kind="external maps")
    ).table()
    sentence = "Rows that no footnote excepts: input 512 x 512, resized; recipe ours; "
    assert f"{sentence}effective batch 16." in table.caption
    assert table.notes["C"] == ["input 1024 x 1024, padded"]
    assert "A" not in table.notes


def test_tiles_the_grid_and_precision_are_facts():
    tiled = {"image_size": 512, "fit": "grid", "config": {"options": {"tile": 768}}}
    assert facts_of({**tiled, "precision": "32", "number_format": "bf16"}) == {
        "input": "the photographs' own size, on their JPEG grid, in tiles of 768",
        "precision": "bf16",
    }


def test_arguments_that_were_chosen_by_hand_are_named():
    config = {"argument_origin": {"s_blocks3": "flag", "dice_weight": "recipe ours"}}
    given = {"s_blocks3": [1, 1], "dice_weight": 2.0}
    chosen = {"model": "A", "config": config, "model_arguments": given}
    assert arguments_text(chosen) == "model arguments s_blocks3 [1,1]"
    # A protocol's row has a label for them.
    assert arguments_text({**chosen, "model": "dense", "registered_model": "A"}) == ""
