"""Training curves: what a log says, also a damaged or a long one."""

import json
import math

import pytest

from sparsevit_plugin.report.training import find_logs, read_training
from tests.report.conftest import EVIL, write_log


def test_epochs_are_means_of_their_steps(tmp_path):
    write_log(tmp_path, epochs=2, steps=4)
    run = read_training(tmp_path / "metrics.jsonl")
    first, second = run.epochs
    assert run.name == f"{EVIL}, seed 0"
    assert first.number == 1
    assert first.losses["predict_loss"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert second.losses["<b>loss</b>"] == 0.5
    assert (first.selection, second.selection) == (0.2, pytest.approx(0.3))
    assert first.lr == 1e-3
    losses, rate, selection = run.charts
    assert len(losses.series) == 2
    assert losses.series[0].x[0] == 1 / 4
    assert losses.series[0].x[-1] == 2
    assert losses.x_range == (0, 2)
    assert set(rate.series[0].y) == {1e-3}
    assert selection.series[0].x == (1, 2)
    assert selection.title == "Pixel F1 on val"
    assert run.notes == ()


def test_without_a_selection_there_is_no_curve_of_it(tmp_path):
    point = {"position": 0, "epoch": 0, "step": 0, "lr": 0.1, "loss": 2.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(point))
    run = read_training(tmp_path / "metrics.jsonl")
    assert [chart.title for chart in run.charts] == ["Training loss", "Learning rate"]
    assert run.name == tmp_path.name
    assert math.isnan(run.epochs[0].selection)


def test_damaged_lines_are_passed_over_and_counted(tmp_path):
    write_log(tmp_path)
    log = tmp_path / "metrics.jsonl"
    whole = read_training(log)
    log.write_text(log.read_text() + '{"position": 12, "ep\n[1]\n{"epoch": "x"}\n\n')
    torn = read_training(log)
    assert torn.epochs == whole.epochs
    assert torn.notes == ("3 damaged lines of the log were passed over",)
    log.write_text("")
    assert read_training(log) is None


def test_of_a_long_log_epochs_are_drawn(tmp_path):
    write_log(tmp_path, epochs=70, steps=10)
    run = read_training(tmp_path / "metrics.jsonl")
    assert len(run.charts[0].series[0].y) == 70
    assert "700 steps" in run.notes[0]


def test_a_loss_that_is_no_number_is_a_gap(tmp_path):
    points = [
        {"position": n, "epoch": 0, "step": n, "lr": 0.1, "loss": loss}
        for n, loss in enumerate([1.0, math.nan, 3.0])
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(p)}\n" for p in points))
    run = read_training(tmp_path / "metrics.jsonl")
    assert math.isnan(run.charts[0].series[0].y[1])
    assert "never finite" in run.charts[0].description


def test_logs_are_found_once_wherever_they_are(tmp_path):
    for name in ("a", "train/b"):
        (tmp_path / name).mkdir(parents=True)
        write_log(tmp_path / name)
    assert len(find_logs([tmp_path, tmp_path / "a"])) == 2
