"""`benco explain lff`, `features` and `gradcam`: files and mistakes."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.explain.subject import Subject
from tests.explain.helpers import save_model, save_plain


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def photos(tmp_path, make_photo) -> Path:
    for number, size in enumerate([(40, 56), (64, 64)]):
        make_photo(tmp_path / f"photos/{number}.png", size, number)
    return tmp_path / "photos"


def run(kind, checkpoint, out, *words) -> int:
    shared = ["--checkpoint", str(checkpoint), "--out", str(out), "--device", "cpu"]
    return main(["explain", kind, *map(str, words), *shared])


def table(path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_lff_writes_gammas_and_shares(photos, checkpoint, tmp_path, capsys):
    out = tmp_path / "lff.png"
    assert run("lff", checkpoint, out, photos) == 0
    assert Image.open(out).width == 2070
    gammas = table(tmp_path / "lff.csv")
    assert len(gammas) == 6 * 64
    head = Subject(checkpoint, device="cpu").head()
    of_third = [float(row["gamma"]) for row in gammas if row["tap"] == "3"]
    np.testing.assert_allclose(of_third, head.gamma3.detach().numpy(), rtol=1e-6)
    taps = table(tmp_path / "lff-taps.csv")
    assert [(row["stage"], row["block"], row["rate"]) for row in taps[3:5]] == [
        ("3", "4", "1"),
        ("4", "1", "2"),
    ]
    assert sum(float(row["variance_share"]) for row in taps) == pytest.approx(1)
    assert {row["images"] for row in taps} == {"2"}
    assert "share of variance" in capsys.readouterr().out


def test_lff_needs_no_photograph(checkpoint, tmp_path):
    assert run("lff", checkpoint, tmp_path / "lff.pdf", "--width", "column") == 0
    taps = table(tmp_path / "lff-taps.csv")
    assert {(row["variance_share"], row["images"]) for row in taps} == {("", "0")}
    assert b"/FontFile2" in (tmp_path / "lff.pdf").read_bytes()


def test_features_and_gradcam_write_figures_and_numbers(photos, checkpoint, tmp_path):
    photo = photos / "0.png"
    assert run("features", checkpoint, tmp_path / "f.png", photo, "--channels", "2") == 0
    with np.load(tmp_path / "f.npz") as stored:
        assert stored["stage3_block4"].shape == (96, 4, 4)
    assert run("gradcam", checkpoint, tmp_path / "c.png", photo, "--of", "whole") == 0
    with np.load(tmp_path / "c.npz") as stored:
        assert stored["encoder_net.blocks4.1"].shape == stored["map"].shape == (40, 56)
    mask = tmp_path / "mask.png"
    Image.fromarray(np.pad(np.full((10, 10), 255, np.uint8), ((15, 15), (23, 23)))).save(mask)
    words = [photo, "--mask", mask, "--layers", "encoder_net.blocks3.1"]
    assert run("gradcam", checkpoint, tmp_path / "m.png", *words) == 0
    with np.load(tmp_path / "m.npz") as stored:
        assert set(stored.files) == {"map", "encoder_net.blocks3.1"}


def test_mistakes_are_told_in_one_line(photos, checkpoint, tmp_path, make_mask, capsys):
    photo = photos / "0.png"
    small = make_mask(tmp_path / "small.png", (20, 20))
    black = tmp_path / "black.png"
    Image.new("L", (56, 40)).save(black)
    for kind, words, message in [
        ("gradcam", [photo, "--of", "mask"], "--of mask and --mask FILE go together"),
        ("gradcam", [photo, "--mask", small], "is 20 x 20 pixels, the photograph 56 x 40"),
        ("gradcam", [photo, "--mask", black], "calls no pixel tampered"),
        ("gradcam", [photo, "--threshold", "1"], "no pixel is above --threshold 1 (the highest"),
        ("gradcam", [photo, "--layers", "encoder"], 'has no layer "encoder"'),
        ("features", [photo, "--channels", "99"], "--channels 99: give a number from 0 to 16"),
        ("features", [photo, "--width", "1"], "--width 1 inches: too narrow"),
        ("lff", ["--width", "1.5"], "--width 1.5 inches: too narrow"),
        ("features", [tmp_path / "gone.png"], "gone.png: no such file"),
        ("lff", [tmp_path / "gone"], "gone: no such file or folder"),
    ]:
        assert run(kind, checkpoint, tmp_path / "a.png", *words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    plain = save_plain(tmp_path / "plain.safetensors")
    assert run("lff", plain, tmp_path / "a.png") == 2
    assert "no Learnable Feature Fusion" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    "case", [("lff", "a.csv"), ("lff", "a-taps.csv"), ("features", "a.npz"), ("gradcam", "a.npz")]
)
def test_files_of_others_are_not_replaced(case, photos, checkpoint, tmp_path, capsys):
    kind, foreign = case
    photo = photos / "0.png"
    before = photo.read_bytes()
    assert run(kind, checkpoint, photo, photo) == 2
    assert "0.png: is there and is no figure of this program" in capsys.readouterr().err
    assert photo.read_bytes() == before
    (tmp_path / foreign).write_text("mine")
    assert run(kind, checkpoint, tmp_path / "a.png", photo) == 2
    assert f"{foreign}, beside which there is no figure" in capsys.readouterr().err
    assert (tmp_path / foreign).read_text() == "mine"
