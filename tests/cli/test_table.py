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


@pytest.fixture
def protocol(tmp_path, monkeypatch):
    """A working folder with a protocol's runs where `benco protocol run` leaves them."""
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "runs/mvss/results")
    rows = [counted(f"Tp/{i}", 3, 1, 1, 5, auc=0.5) for i in range(2)]
    weak = [counted(f"Tp/{i}", 1, 3, 3, 3, auc=0.5) for i in range(2)]
    for name, of_name in (("SparseViT", rows), ("A", weak)):
        for dataset in ("NIST16", "CASIAv1", "elsewhere"):
            store.write(manifest(name, created=name), dataset, of_name)
    return tmp_path


def markdown(capsys, *flags):
    assert main(["table", *map(str, flags), "--format", "markdown"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_protocols_name_gives_its_folder_and_its_columns(protocol, capsys):
    head, _, _, sparse = markdown(capsys, "mvss", "--no-paired")
    sets = ("CASIAv1 ", "Columbia", "COVERAGE", "NIST16", "IMD2020", "average")
    assert len(head) == 7
    assert all(cell.startswith(name.strip()) for cell, name in zip(head[1:], sets, strict=True))
    assert sparse[2] == "-"
    assert sparse[-1] == "-"
    assert "card says 921" in (main(["table", "mvss"]), capsys.readouterr().out)[1]


def test_folders_below_the_runs_and_columns_of_a_named_protocol(protocol, tmp_path, capsys):
    (protocol / "runs/mvss").rename(protocol / "runs/mine")
    assert len(markdown(capsys, "mine")[0]) == 6  # three sets, the average, the test
    assert len(markdown(capsys, "mine", "--protocol", "mvss", "--no-paired")[0]) == 7
    (protocol / "runs").rename(protocol / "other")
    assert markdown(capsys, "mine", "--runs", "other")
    assert markdown(capsys, "other/mine", "other/mine/results")


def test_the_paired_test_is_against_sparsevit_unless_said_otherwise(protocol, capsys):
    sets = ("--sets", "NIST16,CASIAv1")
    assert markdown(capsys, "mvss", *sets)[0][-1] == "vs SparseViT"
    assert markdown(capsys, "mvss", *sets, "--paired", "A")[0][-1] == "vs A"
    assert markdown(capsys, "mvss", *sets, "--no-paired")[0][-1] == "average"
    assert main(["table", "mvss", "--paired", "A", "--no-paired"]) == 2
    assert main(["table", "mvss", "--paired", "B"]) == 2
    assert 'no row "B" to compare with' in capsys.readouterr().err


def test_rows_metrics_cells_and_digits(protocol, capsys):
    flags = ("--metric", "pixel_f1,pixel_auc", "--cells", "joined", "--sets", "elsewhere")
    found = markdown(capsys, "mvss", *flags, "--rows", "SparseViT", "--digits", "1")
    assert found[0] == ["model", "elsewhere (n=2) F1 / AUC"]
    assert found[2] == ["SparseViT", "0.8 / 0.5"]
    assert "**0.750**" in markdown(capsys, "mvss", "--sets", "elsewhere")[3][1]


def test_published_rows(protocol, capsys):
    found = markdown(capsys, "mvss", "--published", "--no-paired")
    assert found[4][0] == "*published, not measured here: as reported by RelayFormer*"
    assert found[7][:2] == ["SparseViT [3]", "0.646"]


@pytest.mark.parametrize(
    ("flags", "name", "start"),
    [
        (["--format", "latex"], "table.tex", "% needs"),
        (["--format", "latex", "--standalone"], "table.tex", "\\documentclass"),
        (["--format", "html"], "table.html", "<!DOCTYPE html>"),
        (["--format", "csv"], "table.csv", "kind,group,row"),
    ],
)
def test_files(protocol, flags, name, start, capsys):
    assert main(["table", "mvss", *flags, "--out", name]) == 0
    assert (protocol / name).read_text(encoding="utf-8").startswith(start)
    assert capsys.readouterr().out == f"wrote {name}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mvs"], 'mvs is no folder, nor is runs/mvs. Did you mean "mvss"?'),
        (["cat-benco"], "no results of protocol cat-benco in runs/cat-benco: run benco protocol"),
        (["mvss", "--runs", "absent"], "no results of protocol mvss in absent/mvss"),
        (["runs/mvss", "--published"], "name the protocol"),
        (["mvss", "--published", "--protocol", "cat-benco"], "cat-benco: no published numbers"),
        (["mvss", "--standalone"], "--standalone is of --format latex"),
        (["mvss", "--digits", "99"], "give 0 to 9"),
        (["mvss", "--perturbation", "jpeg:75"], 'no rows perturbed by "jpeg:75", only none'),
        (["runs/mvss", "--protocol", "mvsss"], 'Did you mean "mvss"?'),
        (["empty"], "no results below empty"),
    ],
)
def test_wrong_words_are_one_line(protocol, words, message, capsys):
    (protocol / "empty").mkdir()
    assert main(["table", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_two_protocols_are_not_one_table(protocol, capsys):
    (protocol / "runs/demo").symlink_to(protocol / "runs/mvss")
    assert main(["table", "mvss", "demo"]) == 2
    assert "mvss and demo are protocols: a table is of one" in capsys.readouterr().err
