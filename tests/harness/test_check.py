"""`benco data check`: what it finds, how it says so, and its exit codes."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness import check, images
from sparsevit_plugin.harness.check import check_source


def kinds(findings: list) -> dict[str, int]:
    return {finding.kind: finding.count for finding in findings}


def save(path: Path, array: np.ndarray) -> None:
    Image.fromarray(array).save(path)


def test_a_clean_set_is_ok(tiny_corpus):
    report = check_source(tiny_corpus / "list.json")
    (found,) = report.sets
    assert report.ok
    assert (found.images, found.tampered, found.authentic, found.photographs) == (15, 12, 3, 7)
    assert found.smallest == found.largest == (64, 48)
    assert found.formats == {"JPEG": 15}
    assert not found.remarks
    assert report.lines()[0].startswith("list: ok")


def test_every_problem_is_counted_and_named(tiny_set, make_photo, make_mask):
    (tiny_set / "Tp" / "000.jpg").write_bytes(b"")
    (tiny_set / "Gt" / "001.png").write_text("not an image")
    make_mask(tiny_set / "Gt" / "002.png", (20, 20))
    make_photo(tiny_set / "Tp" / "lone.jpg")
    (found,) = check_source(tiny_set).sets
    assert not found.ok
    assert kinds(found.problems) == {"unpaired": 1, "unreadable": 2, "sizes differ": 1}
    assert (found.images, found.tampered) == (4, 1)  # the paired ones are checked all the same
    text = "\n".join(found.lines())
    for words in ("lone.jpg", "000.jpg: the file is empty", "001.png", "20 x 20", "skip"):
        assert words in text
    assert found.lines()[1].startswith("  problem:")


def test_every_oddity_is_remarked(tiny_set, make_photo, make_mask):
    tp, gt = tiny_set / "Tp", tiny_set / "Gt"
    full, empty = np.full((48, 64), 255, np.uint8), np.zeros((48, 64), np.uint8)
    save(gt / "000.png", empty)
    save(gt / "001.png", full)
    save(gt / "002.png", np.full((48, 64), 200, np.uint8))
    (tp / "copy.jpg").write_bytes((tp / "003.jpg").read_bytes())
    save(gt / "copy.png", full // 255)
    make_mask(gt / "wide.png")
    cv2.imwrite(str(tp / "wide.png"), np.full((48, 64), 40000, np.uint16))
    make_mask(gt / "ink.png")
    Image.new("CMYK", (64, 48)).save(tp / "ink.jpg")
    make_mask(gt / "turned.png", (64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(make_photo(tp / "turned.png")).save(tp / "turned.png", exif=exif)
    (tp / "Thumbs.db").touch()
    report = check_source(tiny_set)
    (found,) = report.sets
    assert report.ok
    assert kinds(found.remarks) == {
        check.EMPTY_MASK: 1,
        check.FULL_MASK: 3,
        check.SOFT_MASK: 1,
        images.NOTE_GREY: 1,
        images.NOTE_WIDE: 1,
        images.NOTE_CMYK: 1,
        images.NOTE_EXIF_TURNED: 1,
        "repeated file": 1,
    }
    text = "\n".join(report.lines())
    assert "Thumbs.db" in text
    assert images.MASK_RULE in text
    assert "003.jpg = Tp/copy.jpg" in text


def test_one_bad_set_does_not_hide_the_others(tiny_set, tiny_corpus):
    content = {
        "good": "corpus/list.json",
        "hollow": "corpus/Tp",
        "missing": [["tiny/Tp/000.jpg", "tiny/Gt/000.png"], ["no.jpg", "Negative"]],
        "both": [["ManiDataset", "tiny"], ["ManiDataset", "corpus"]],
    }
    path = tiny_set.parent / "tests.json"
    path.write_text(json.dumps(content))
    report = check_source(path)
    assert {found.name: found.ok for found in report.sets} == {
        **{"good": True, "hollow": False, "missing": False},
        **{"both": True, "both/tiny": True, "both/corpus": True},
    }
    shared = [remark for remark in report.remarks if remark.kind == "shared file"]
    assert "good and both/corpus share 12 image files" in {remark.text for remark in shared}
    assert report.lines()[0].startswith("hollow")


def test_position_pairs_what_names_do_not(tiny_set):
    for number, mask in enumerate(sorted((tiny_set / "Gt").iterdir())):
        mask.rename(mask.with_name(f"mask{number}.png"))
    assert not check_source(tiny_set).ok
    (found,) = check_source(tiny_set, "position").sets
    assert found.ok
    assert found.pairing == "position"


def test_progress_counts_every_image_once(tiny_set):
    seen: list[tuple[int, int]] = []
    check_source(tiny_set, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 4) for number in (1, 2, 3, 4)]


def test_what_is_no_source_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        check_source(tmp_path / "nowhere")


def test_the_command_prints_writes_and_exits_by_what_it_found(tiny_set, tmp_path, capsys):
    assert main(["data", "check", str(tiny_set), "--json", str(tmp_path / "report.json")]) == 0
    assert "tiny: ok" in capsys.readouterr().out
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["ok"]
    assert written["sets"][0]["images"] == 4
    assert written["mask_rule"] == images.MASK_RULE
    (tiny_set / "Tp" / "000.jpg").write_bytes(b"")
    assert main(["data", "check", str(tiny_set)]) == 1
    assert "problem: 1 files cannot be read" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_runs_a_users_registrations_first(tiny_set, capsys):
    module = tiny_set.parent / "my_sets_for_check.py"
    module.write_text(
        "from IMDLBenCo.registry import DATASETS\n"
        "from IMDLBenCo.datasets import ManiDataset\n"
        "@DATASETS.register_module()\n"
        "class SetsForCheck(ManiDataset):\n"
        "    pass\n"
    )
    listing = tiny_set.parent / "b.json"
    listing.write_text(json.dumps([["SetsForCheck", "tiny"]]))
    assert main(["data", "check", str(listing), "--import", str(module)]) == 0
    assert "SetsForCheck" in capsys.readouterr().out
