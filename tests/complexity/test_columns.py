"""Tables of costs: what is shown, in which unit, and what a reader is told."""

import csv
import io

import pytest

from sparsevit_plugin.complexity import Complexity
from sparsevit_plugin.complexity.columns import (
    COLUMNS,
    Column,
    CostTable,
    counted_row,
    failed_row,
)
from sparsevit_plugin.results import html, latex, render

FOUND = Complexity(
    parameters=2_500_000,
    macs=3_000_000_000,
    counter="torch.utils.flop_counter",
    image_size=512,
    live_parameters=2_400_000,
    flops=6_000_000_000,
    not_counted={"fourier": {"aten._fft_c2c": 2}, "softmax": {"aten._softmax": 1}},
    fourier_flops=5e8,
    peak_bytes=3 * 2**20,
    kept_bytes=None,
    memory_reason="the training pass failed: ValueError: no",
)


@pytest.fixture
def table():
    rows = [
        counted_row("A", 256, FOUND),
        failed_row("B", 512, 512, FOUND.counter, "B cannot be built"),
    ]
    return CostTable(rows, COLUMNS, "Cost of a test. More.")


def test_csv_has_base_units_at_full_precision_and_says_what_is_missing(table):
    first, second = csv.DictReader(io.StringIO(table.to_csv()))
    assert (first["model"], first["own_size"], first["image_size"]) == ("A", "256", "512")
    assert (first["macs"], first["flops"]) == ("3000000000", "6000000000")
    assert (first["parameters"], first["live_parameters"]) == ("2500000", "2400000")
    assert first["not_counted"] == "fourier: aten._fft_c2c x 2; softmax: aten._softmax x 1"
    assert first["reason"] == "the training pass failed: ValueError: no"
    assert "kept_bytes" not in first  # no row has a value
    assert (second["macs"], second["reason"]) == ("", "B cannot be built")


def test_people_see_larger_units_and_notes_of_what_is_unusual(table):
    lines = render.layout_to_markdown(table.layout()).splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == ["A [1] [2]", "512", "2.50", "2.40", "3.00", "6.00", "0.50", "3.00"]
    assert [cell.strip() for cell in lines[3].strip("|").split("|")][3:] == ["-"] * 5
    notes = [line for line in lines if line.startswith("[")]
    assert notes == [
        "[1] the training pass failed: ValueError: no",
        "[2] not counted: fourier: aten._fft_c2c x 2",
        "[3] B cannot be built",
    ]
    assert "GMACs: multiply-accumulates of one forward pass" in "".join(lines)
    assert table.title == "Cost of a test"


def test_rows_may_know_more_than_counts(table):
    rows = [{**row, "seconds": 0.25} for row in table.rows]
    seconds = Column("seconds", "s", "median of a call", "ms", 1e-3, 1)
    wider = CostTable(rows, (*COLUMNS, seconds), table.caption, "what")
    layout = wider.layout()
    assert layout.columns[-1].top == "ms"
    assert layout.blocks[0].rows[0].cells[-1].parts[0].text == "250.0"
    assert wider.to_csv().startswith("what,")
    assert "what" in render.grid(layout)[0]
    assert 'data-column="0" data-first="ascending">what<' in html.to_html(layout, "title")
    assert "what & size" in latex.to_latex(layout, "costs")


@pytest.mark.parametrize(
    ("macs", "digits", "text"),
    [
        (3e9, 2, "3.00"),
        (5e8, 2, "0.50"),
        (4.56e7, 2, "0.046"),
        (1, 2, "0.0000000010"),
        (123, 0, "0.0000001"),
        (-2e6, 3, "-0.00200"),
        (0, 2, "0.00"),
        (9.999e8, 2, "1.00"),
    ],
)
def test_what_is_not_zero_never_shows_as_zero(macs, digits, text):
    layout = CostTable([{"model": "a", "macs": macs}], COLUMNS, "Cost.").layout(digits)
    assert layout.blocks[0].rows[0].cells[0].parts[0].text == text
