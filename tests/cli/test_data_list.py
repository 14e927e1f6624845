"""`benco data list` shows every card, and one in full."""

import json
from pathlib import Path

from sparsevit_plugin.cards import dataset_card_names
from sparsevit_plugin.cli.main import main


def test_a_line_a_card(tmp_path: Path, capsys, make_set):
    make_set(tmp_path / "CASIAv1")
    assert main(["data", "list", "--data-root", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert set(dataset_card_names()) < set(lines)
    assert "921 / 800" in lines["CASIAv1"]
    assert lines["CASIAv1"].split()[4:6] == ["sourced", "yes"]
    assert lines["CASIAv2"].split()[4:6] == ["sourced", "no"]
    assert "unverified" in lines["NIST16_1024"]
    assert "made here" in lines["demo_train"]


def test_one_card_in_full(capsys):
    assert main(["data", "list", "NIST16"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for words in (
        "564 tampered, 560 authentic (NIST's own table",
        "layout source: https://github.com/usnistgov/MediScore/",
        "mask (inverted): {ProbeMaskFileName}",
        "benco data import NIST16 SRC",
        "there: ?",
    ):
        assert words in told
    assert main(["data", "list", "demo_train"]) == 0
    assert "import:" not in capsys.readouterr().out


def test_as_json(tmp_path: Path, capsys):
    assert main(["data", "list", "--json", "--data-root", str(tmp_path)]) == 0
    cards = {card["name"]: card for card in json.loads(capsys.readouterr().out)}
    assert set(cards) == set(dataset_card_names())
    assert cards["DSO-1"]["import"]["rules"][0]["mask_rule"] == "inverted"
    assert cards["DSO-1"]["present"] is False


def test_an_unknown_name_is_one_line(capsys):
    assert main(["data", "list", "NIST17"]) == 2
    captured = capsys.readouterr()
    assert 'unknown set "NIST17". Did you mean "NIST16"?' in captured.err
    assert captured.err.count("\n") == 1
