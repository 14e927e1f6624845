"""`benco table`."""

import csv

import pytest

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.results.store import Store
from tests.results.helpers import counted, manifest


@pytest.fixture
def runs(tmp_path):
    store = Store(tmp_path / "runs/a/results")
    rows = [counted("Tp/1", 3, 1, 1, 5, score=0.9), counted("Au/1", 0, 0, 0, 9, score=0.1)]
    for name in ("A", "B"):
        for dataset in ("casia", "columbia", "val"):
            store.write(manifest(name, created=name), dataset, rows)
    return str(tmp_path / "runs")


def test_prints_a_table_with_its_terms(runs, capsys):
    assert main(["table", runs]) == 0
    out = capsys.readouterr().out
    assert "casia (n=1)" in out
    assert "0.750" in out
    assert "authentic images are left out" in out
    assert "val (" not in out


def test_conventions_are_flags_in_either_spelling(runs, capsys):
    for flag in ("--no-average", "--no_average"):
        command = ["table", runs, "--authentic", "one", flag, "--sets", "columbia,casia"]
        assert main([*command, "--models", "B", "--format", "markdown"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == [
            "|",
            "model",
            "|",
            "columbia",
            "(n=2)",
            "|",
            "casia",
            "(n=2)",
            "|",
        ]
        assert lines[2].split() == ["|", "B", "|", "0.875", "|", "0.875", "|"]


def test_several_metrics_are_one_csv_file(runs, tmp_path, capsys):
    out = tmp_path / "new/table.csv"
    metrics = "pixel_f1,image_auc"
    assert main(["table", runs, "--metric", metrics, "--format", "csv", "--out", str(out)]) == 0
    rows = list(csv.DictReader(out.open(newline="")))
    assert [(row["metric"], row["row"]) for row in rows if row["set"] == "casia"] == [
        ("pixel_f1", "A"),
        ("image_auc", "A"),
        ("pixel_f1", "B"),
        ("image_auc", "B"),
    ]
    assert str(out) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metric", "pixel_f2"], 'Did you mean "pixel_f1"?'),
        (["--score-at", "image"], "no rows by the exact evaluators, scored at image"),
        (["--evaluators", "benco"], "no rows by the benco evaluators"),
        (["--sets", "cassia"], 'Did you mean "casia"?'),
        (["--format", "latx"], "is not one of"),
        (["absent"], "is no folder"),
    ],
)
def test_errors_are_one_line(runs, flags, message, capsys):
    assert main(["table", runs, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
