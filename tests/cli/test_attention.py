"""`benco attention`: its figure and numbers, and what it says of mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.explain.attention import attention_at
from sparsevit_plugin.explain.subject import Subject
from tests.explain.helpers import save_model, save_plain


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def photograph(tmp_path, make_photo) -> Path:
    return make_photo(tmp_path / "photograph.png", (75, 50))


def run(photograph, checkpoint, out, *words) -> int:
    shared = ["--checkpoint", str(checkpoint), "--out", str(out), "--device", "cpu"]
    return main(["attention", str(photograph), *shared, *map(str, words)])


def test_the_figure_and_the_numbers(photograph, checkpoint, tmp_path, capsys):
    out = tmp_path / "new/attention.png"
    assert run(photograph, checkpoint, out, "--at", "30,60", "--width", "5") == 0
    assert Image.open(out).width == 1500  # 5 inches at 300 dots
    subject = Subject(checkpoint, device="cpu")
    fed = subject.feed(photograph)
    with np.load(tmp_path / "new/attention.npz") as stored:
        about = json.loads(str(stored["about"]))
        for kind, dense in (("sparse", False), ("dense", True)):
            for one in attention_at(subject, fed, 30, 60, dense=dense):
                name = f"stage{one.place.stage}_block{one.place.block}_{kind}"
                np.testing.assert_array_equal(stored[name], one.weights)
        assert len(stored.files) == 13
    assert (about["x"], about["y"], about["model"]) == (30, 60, "SparseViT_tiny")
    assert about["blocks"][1] == {
        "stage": 3,
        "block": 2,
        "rate": 4,
        "stride": [4, 4],
        "token": [3, 2],
    }
    assert len(capsys.readouterr().out.splitlines()) == 8
    assert not list(tmp_path.rglob("*.tmp*"))


def test_blocks_heads_and_pdf(photograph, checkpoint, tmp_path):
    out = tmp_path / "a.pdf"
    words = ["--at", "30,60", "--blocks", "4.2,3.1", "--head", "2"]
    assert run(photograph, checkpoint, out, *words) == 0
    assert b"/FontFile2" in out.read_bytes()
    with np.load(tmp_path / "a.npz") as stored:
        names = {"stage4_block2_sparse", "stage3_block1_sparse"}
        assert set(stored.files) == names | {n.replace("sparse", "dense") for n in names} | {
            "about"
        }


MISTAKES = [
    (["--at", "50,10"], "is 50 x 75 pixels: x goes from 0 to 49, y from 0 to 74"),
    (["--at", "ten,10"], "--at ten,10: write two whole numbers"),
    (["--at", "1,2,3"], "write two whole numbers"),
    (["--at", "1,2", "--blocks", "2.1"], "--blocks 2.1: no such sparse block: there are 3.1"),
    (["--at", "1,2", "--blocks", ","], "--blocks: name at least one"),
    (["--at", "1,2", "--head", "4", "--blocks", "3.1"], "--head 4: stage 3, block 1"),
    (["--at", "1,2", "--pairs", "0"], "--pairs 0"),
    (["--at", "1,2", "--width", "1", "--pairs", "3"], "--width 1 inches: too narrow"),
    (["--at", "1,2", "--width", "wide"], "--width wide: give column, page or inches"),
]


def test_mistakes_are_told_in_one_line(photograph, checkpoint, tmp_path, capsys):
    for words, message in MISTAKES:
        assert run(photograph, checkpoint, tmp_path / "a.png", *words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "a.png").exists()


def test_damaged_images_other_models_and_wrong_endings(photograph, checkpoint, tmp_path, capsys):
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"\xff\xd8\xff\xe0" + bytes(50))
    assert run(damaged, checkpoint, tmp_path / "a.png", "--at", "1,2") == 2
    assert "damaged.jpg" in capsys.readouterr().err
    plain = save_plain(tmp_path / "plain.safetensors")
    assert run(photograph, plain, tmp_path / "a.png", "--at", "1,2") == 2
    assert "PlainConvolution has no sparse blocks" in capsys.readouterr().err
    assert run(photograph, checkpoint, tmp_path / "a.gif", "--at", "1,2") == 2
    assert "a.gif" in capsys.readouterr().err
    assert run(photograph, tmp_path / "gone", tmp_path / "a.png", "--at", "1,2") == 2
    assert "no such file or folder" in capsys.readouterr().err


def test_a_photograph_and_foreign_numbers_are_never_replaced(
    photograph, checkpoint, tmp_path, capsys
):
    before = photograph.read_bytes()
    assert run(photograph, checkpoint, photograph, "--at", "1,2") == 2
    assert "photograph.png: is there and is no figure" in capsys.readouterr().err
    assert photograph.read_bytes() == before
    numbers = tmp_path / "mine.npz"
    np.savez(numbers, a=np.ones(3))
    before = numbers.read_bytes()
    assert run(photograph, checkpoint, tmp_path / "mine.png", "--at", "1,2") == 2
    assert "mine.npz, beside which there is no figure" in capsys.readouterr().err
    assert numbers.read_bytes() == before
    assert not (tmp_path / "mine.png").exists()


def test_a_figure_is_replaced_with_its_numbers_and_joined_by_other_formats(
    photograph, checkpoint, tmp_path
):
    for name, at in (("a.png", "1,2"), ("a.png", "30,60"), ("a.pdf", "1,2"), ("a.svg", "1,2")):
        assert run(photograph, checkpoint, tmp_path / name, "--at", at, "--blocks", "3.1") == 0
        with np.load(tmp_path / "a.npz") as stored:
            about = json.loads(str(stored["about"]))
        assert f"{about['x']},{about['y']}" == at
