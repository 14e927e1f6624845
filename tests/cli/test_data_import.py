"""`benco data import` from the command line, and a set of a third party's from card to training."""

from pathlib import Path

import pytest

from sparsevit_plugin.cards.reading import forget_cards
from sparsevit_plugin.cli.main import main
from sparsevit_plugin.harness.registered_sets import DataRoots, read_registered
from tests.harness.layouts import LAYOUTS, region, write_mask, write_photo

CARD = r"""
name: LabSet
title: A lab's own set
where: the lab's disk
import:
  example: [edits/1.jpg]
  rules:
    - label: tampered
      image: 'edits/(?P<stem>\d+)\.jpg'
      masks: ['truth/{stem}.png']
      mask_rule: inverted
      photos: ['LabSet:{stem}']
"""


def test_import_and_read(tmp_path: Path, capsys):
    folder = LAYOUTS["COVERAGE"].write(tmp_path / "download")
    words = ["data", "import", "COVERAGE", str(folder), "--data-root", str(tmp_path / "data")]
    assert main([*words, "--dry-run"]) == 0
    assert "would import 2 tampered and 2 authentic" in capsys.readouterr().out
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "imported 2 tampered and 2 authentic images" in told
    assert "counts differ: 2 tampered images, but 100 according to IMDLBenCo's doc" in told
    assert "not of the set: 2 masks of the copied region" in told
    assert "no images: " in told
    found = read_registered("COVERAGE", DataRoots(str(tmp_path / "data")), authentic="exclude")
    assert len(found) == 2
    assert main(["data", "check", str(tmp_path / "data" / "COVERAGE" / "list.json")]) == 0
    assert "4 images: 2 tampered, 2 authentic" in capsys.readouterr().out


def test_an_unverified_layout_is_printed(tmp_path: Path, capsys):
    folder = LAYOUTS["NIST16_1024"].write(tmp_path / "download")
    assert main(["data", "import", "NIST16_1024", str(folder), "--out", str(tmp_path / "x")]) == 0
    assert "layout: unverified: no source shows" in capsys.readouterr().out


def test_a_third_partys_set_needs_a_card_and_no_code(tmp_path: Path, capsys, monkeypatch):
    (tmp_path / "cards" / "datasets").mkdir(parents=True)
    (tmp_path / "cards" / "datasets" / "LabSet.yaml").write_text(CARD)
    for number in range(3):
        write_photo(tmp_path / "lab" / f"edits/{number}.jpg", number)
        write_mask(tmp_path / "lab" / f"truth/{number}.png", region(number), "black")
    monkeypatch.setenv("SPARSEVIT_REGISTRY", str(tmp_path / "cards"))
    forget_cards()
    try:
        root = str(tmp_path / "data")
        assert main(["data", "list", "--data-root", root]) == 0
        assert "LabSet" in capsys.readouterr().out
        assert main(["data", "import", "LabSet", str(tmp_path / "lab"), "--data-root", root]) == 0
        found = read_registered("LabSet", DataRoots(root))
        assert [sample.photos for sample in found.samples] == [(f"LabSet:{n}",) for n in range(3)]
    finally:
        monkeypatch.undo()
        forget_cards()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["COVERAG", "SRC", "--out", "x"], 'unknown set "COVERAG". Did you mean "COVERAGE"?'),
        (["COVERAGE", "SRC"], "give --data-root DIR"),
        (["COVERAGE", "SRC", "--out", "x", "--data-root", "y"], "give --data-root DIR"),
        (["COVERAGE", "lost", "--out", "x"], "lost: no such folder"),
        (["demo_train", "SRC", "--out", "x"], "needs no import"),
        (["COVERAGE", "SRC", "--out", "x", "--link", "soft"], '"soft" is not one of hard, sym'),
    ],
)
def test_bad_words_are_one_line(capsys, words, wanted):
    assert main(["data", "import", *words]) == 2
    captured = capsys.readouterr()
    assert wanted in captured.err
    assert captured.err.count("\n") == 1
