"""`benco data leak` on folders, lists and registered sets."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sparsevit_plugin.cli.main import main


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sparsevit-plugin" / "hashes.sqlite"


@pytest.fixture
def sets(tmp_path: Path, make_set, make_mask) -> tuple[Path, Path]:
    """A training set of four photographs, and a test set with one of them, saved again smaller."""
    train = make_set(tmp_path / "train", size=(96, 128))
    test = make_set(tmp_path / "test", size=(96, 128), stems=["leaked"])
    with Image.open(train / "Tp" / "002.jpg") as photograph:
        photograph.resize((112, 84)).save(test / "Tp" / "leaked.jpg", quality=60)
    make_mask(test / "Gt" / "leaked.png", (84, 112))
    return train, test


def test_leaks_are_listed_and_change_the_exit_code(sets, capsys, own_cache: Path):
    train, test = sets
    assert main(["data", "leak", str(train), str(test)]) == 1
    told = capsys.readouterr().out
    assert "train (4 images) and test (1 images): 1 pairs" in told
    assert "pHash of 256 bits (imagehash " in told
    assert "at most 64 bits" in told
    assert "Tp/002.jpg  Tp/leaked.jpg" in told
    assert own_cache.is_file()


def test_no_leak_is_exit_code_0(sets, capsys, own_cache: Path, make_set, tmp_path: Path):
    other = make_set(tmp_path / "other", count=1, size=(96, 128))
    (other / "Tp" / "000.jpg").unlink()
    with Image.effect_mandelbrot((128, 96), (-2, -1, 1, 1), 50) as picture:
        picture.save(other / "Tp" / "000.png")
    assert main(["data", "leak", str(sets[0]), str(other), "--no-cache"]) == 0
    assert "0 pairs" in capsys.readouterr().out
    assert not own_cache.exists()


def test_as_json(sets, capsys):
    assert main(["data", "leak", str(sets[0]), str(sets[1]), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    (pair,) = report["pairs"]
    assert (pair["kind"], pair["second"]) == ("near-duplicate", "Tp/leaked.jpg")
    assert report["threshold"] == 64


def test_registered_sets(sets, capsys, tmp_path: Path):
    train, test = sets
    (tmp_path / "paths.yaml").write_text(f"CASIAv2: {train}\nCASIAv1: {test}\n")
    roots = ["--data-root", str(tmp_path)]
    assert main(["data", "leak", "set:CASIAv2:tampered", "set:CASIAv1", *roots]) == 1
    assert "CASIAv2 (4 images) and CASIAv1 (1 images)" in capsys.readouterr().out


def test_a_file_of_several_sets_and_few_shown(sets, capsys, tmp_path: Path):
    (tmp_path / "both.json").write_text(json.dumps({"a": "train", "b": "test"}))
    assert main(["data", "leak", str(tmp_path / "both.json"), str(sets[0]), "--show", "2"]) == 1
    told = capsys.readouterr().out
    assert "identical  0 bits  a/Tp/000.jpg  Tp/000.jpg" in told
    assert "... and 3 more" in told


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["lost", "lost"], "lost: no such folder or file"),
        (["set:NoSuch", "lost"], 'unknown set "NoSuch"'),
        (["set:CASIAv1:fake", "lost"], "after a set's name comes"),
        (["a", "b", "--threshold", "128"], "--threshold 128: must be"),
        (["a", "b", "--threshold", "-1"], "--threshold -1: must be"),
    ],
)
def test_bad_words_are_one_line(capsys, words, wanted):
    assert main(["data", "leak", *words]) == 2
    captured = capsys.readouterr()
    assert wanted in captured.err
    assert captured.err.count("\n") == 1
