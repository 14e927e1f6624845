"""Measured costs beside counted ones: columns, rows and what is left as it was."""

import math

import pytest

from sparsevit_plugin.complexity.columns import Column, CostTable
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness import cost_table
from sparsevit_plugin.harness.cost_table import Request, value_name, with_measured
from sparsevit_plugin.harness.measured_cost import MeasuredCost, Measurement, Settings, Subject

SETTINGS = Settings(batch_sizes=(1, 2), repeats=3, training=True)
COLUMNS = (Column("macs", "", "counted", "GMACs", 1e9), Column("reason", "", "why not"))
COSTS = CostTable(
    [
        {"model": "a", "image_size": 64, "parameters": 7, "macs": 5_000_000_000, "reason": ""},
        {"model": "broken", "image_size": 64, "reason": "cannot be built"},
    ],
    COLUMNS,
    "Counted.",
)


def cost_of(subject: Subject, reference: Subject | None) -> MeasuredCost:
    measurements = [
        Measurement(mode, size, 0.5 * size, 0.25, 1.5, 3, 3, True, 2**20, 2**21, 2.0, 1.5, 2.5)
        for mode in SETTINGS.modes
        for size in (1, 2)
    ]
    measurements[-1] = Measurement("training", 2, reason="out of memory")
    return MeasuredCost(
        subject.model,
        subject.image_size or 0,
        "a processor",
        2,
        "torch",
        "32",
        reference.model if reference else "",
        {"torch": "2.0"},
        {},
        "now",
        tuple(measurements),
    )


@pytest.fixture
def asked(monkeypatch) -> list:
    calls = []

    def stand_in(subject, settings, reference, folder, advance):
        calls.append((subject, settings, reference, folder))
        return cost_of(subject, reference)

    monkeypatch.setattr(cost_table, "measure_stored", stand_in)
    monkeypatch.setattr(cost_table, "stored_cost", lambda *_: None)
    return calls


def request_for(relative_to: str = "") -> Request:
    return Request(Subject("", device="cpu", threads=2), SETTINGS, relative_to, "folder")


def test_every_row_that_was_built_is_measured_at_its_size_with_its_reference(asked):
    with_measured(COSTS, request_for("b"))
    ((subject, settings, reference, folder),) = asked
    assert subject == Subject("a", 64, device="cpu", threads=2)
    assert reference == Subject("b", 64, device="cpu", threads=2)
    assert (settings, folder) == (SETTINGS, "folder")


def test_figures_stand_in_the_row_in_base_units(asked):
    row, broken = with_measured(COSTS, request_for("b")).rows
    assert broken == COSTS.rows[1]
    assert row["macs"] == 5_000_000_000
    expected = {"seconds": 1.0, "spread": 1.25, "images_per_second": 2.0, "ratio": 2.0}
    for name, value in expected.items():
        assert row[value_name("inference", name, 2)] == value
    assert row["inference_peak_bytes:1"] == 3 * 2**20
    assert "training_seconds:2" not in row
    assert row["reason"] == "training, batch 2: out of memory"
    assert (row["device"], row["threads"], row["reference"]) == ("a processor", 2, "b")


def test_csv_has_every_figure_and_tables_a_choice(asked):
    table = with_measured(COSTS, request_for("b"))
    head = table.to_csv().splitlines()[0].split(",")
    for name in ("seconds", "seconds_low", "seconds_high", "held_bytes", "ratio_low"):
        assert value_name("inference", name, 2) in head
    heads = [column.top for column in table.layout().columns]
    assert heads == [
        "GMACs",
        *("latency, ms", "latency IQR, ms", "calls of 1, images/s", "call of 1 peak, MiB"),
        *("latency / b's", "calls of 2, images/s"),
        *("step of 1, ms", "step of 1 IQR, ms", "steps of 1, images/s", "step of 1 peak, MiB"),
        "step of 1 / b's",
    ]
    cells = table.layout().blocks[0].rows[0].cells
    assert [cell.text if hasattr(cell, "text") else cell.parts[0].text for cell in cells][:5] == [
        *("5.00", "500.00", "1250.00", "2.00", "3.00")
    ]


def test_without_a_reference_there_are_no_ratios(asked, monkeypatch):
    monkeypatch.setattr(
        cost_table,
        "measure_stored",
        lambda subject, *_: MeasuredCost(
            "a",
            64,
            "cpu",
            1,
            "torch",
            "32",
            "",
            {"torch": "2.0"},
            {},
            "now",
            (Measurement("inference", 1, 0.5, 0.5, 0.5, 3),),
        ),
    )
    table = with_measured(COSTS, request_for())
    assert not [column.name for column in table.present if "ratio" in column.name]
    assert math.isnan(Measurement("inference", 1).ratio)


def test_the_caption_says_on_what_and_how(asked):
    caption = with_measured(COSTS, request_for()).caption
    assert caption.startswith("Counted. Measured on a processor, 2 threads, torch in 32; ")
    assert "PyTorch 2.0" in caption
    assert "medians of 3 calls" in caption


def test_what_cannot_be_measured_is_no_sentence(asked):
    table = with_measured(CostTable([COSTS.rows[1]], COLUMNS, "Counted."), request_for())
    assert table.caption == "Counted."
    assert asked == []


def test_an_unknown_reference_is_refused():
    request = Request(Subject("", device="cpu"), SETTINGS, "SparseVit_tiny", "folder")
    costs = CostTable([{**COSTS.rows[0], "model": "SparseViT_tiny"}], COLUMNS, "")
    with pytest.raises(UserError, match="SparseViT_tiny"):
        with_measured(costs, request)
