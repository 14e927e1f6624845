"""`benco figure`: what is laid out, for a paper's page, and what it says of mistakes."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsevit_plugin import hub
from sparsevit_plugin.cli.main import main
from tests.explain.helpers import save_model

SIZE = (40, 56)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def data(tmp_path, make_set) -> Path:
    """A set of three images, and maps of another program in `maps`."""
    make_set(tmp_path / "set", 3, SIZE)
    (tmp_path / "maps").mkdir()
    for number in range(3):
        values = np.full(SIZE, 100 * number, np.uint8)
        Image.fromarray(values).save(tmp_path / f"maps/00{number}.png")
    return tmp_path / "set"


def run(*words) -> int:
    return main(["figure", *map(str, words), "--device", "cpu"])


def models(checkpoint, data) -> str:
    return f"SparseViT_tiny@{checkpoint},Theirs@{data.parent / 'maps'}"


def test_a_figure_of_a_model_and_maps_as_pdf_and_png(checkpoint, data, tmp_path, capsys):
    pdf, png = tmp_path / "figure.pdf", tmp_path / "figure.png"
    words = ["--models", models(checkpoint, data), "--test-data-path", data, "--out", pdf]
    look = ["--f1", "--names", "--binary", "--threshold", "0.3", "--width", "column"]
    assert run(*words, "--out", png, "--choose", "disagreement", "--count", "2", *look) == 0
    content = pdf.read_bytes()
    assert b"/Type3" not in content
    assert b"/FontFile2" in content  # TrueType, embedded
    (box,) = set(re.findall(rb"/MediaBox \[([^\]]+)\]", content))
    assert float(box.split()[2]) == pytest.approx(3.35 * 72)
    assert Image.open(png).width == round(3.35 * 300)
    with (tmp_path / "figure.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["SparseViT_tiny", "Theirs"] * 2
    values = [float(row["disagreement"]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert {row["set"] for row in rows} == {"set"}
    theirs = [row for row in rows if row["model"] == "Theirs"]
    for row in theirs:
        above = int(row["image"][5]) * 100 / 255 > 0.3
        assert float(row["predicted_area"]) == above
        mask = np.asarray(Image.open(data / f"Gt/00{row['image'][5]}.png")) > 127
        expected = 2 * mask.mean() / (1 + mask.mean()) if above else 0
        assert float(row["f1"]) == pytest.approx(expected)
    assert (tmp_path / "figure.candidates.json").is_file()
    assert "disagreement" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.tmp*"))


def test_images_by_path_with_and_without_masks(checkpoint, data, tmp_path, make_photo):
    tall = make_photo(tmp_path / "tall.png", (120, 30))
    out = tmp_path / "figure.png"
    photo, mask = data / "Tp/001.jpg", data / "Gt/001.png"
    words = ["--models", f"A=SparseViT_tiny@{checkpoint}", "--images", photo, tall, "--out", out]
    assert run(*words) == 0
    without = Image.open(out).size
    assert run(*words, "--masks", mask, "none", "--f1") == 0
    assert Image.open(out).size != without  # a column more, and a line under each row
    with (tmp_path / "figure.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["f1"]
    assert (second["f1"], second["disagreement"], second["model"]) == ("", "", "A")


def test_a_set_gives_the_same_figure_by_name_and_number(checkpoint, data, tmp_path):
    words = ["--models", models(checkpoint, data), "--test-data-path", data]
    assert run(*words, "--images", "1", "--out", tmp_path / "a.png") == 0
    assert run(*words, "--images", "set:Tp/001.jpg", "--out", tmp_path / "b.png") == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_mistakes_are_told_in_one_line(checkpoint, data, tmp_path, capsys):
    one = f"SparseViT_tiny@{checkpoint}"
    photo = data / "Tp/000.jpg"
    of_set = ["--test-data-path", data]
    for words, message in [
        ([], "either --images, or --choose"),
        (["--images", photo, "--choose", "first"], "either --images, or --choose"),
        (["--choose", "first"], "--choose needs images to choose from"),
        (["--choose", "frist", *of_set], 'Did you mean "first"'),
        (["--choose", "disagreement", *of_set], "name at least two with --models"),
        (["--choose", "first", "--count", "0", *of_set], "--count is a number above 0"),
        (["--images", photo, "--count", "2"], "goes with --choose"),
        (["--images", photo, "--masks", photo, photo], "2 of 1 photographs that are given by path"),
        (["--images", photo, photo], "is named twice"),
        (["--images", photo, "--threshold", "2"], "--threshold 2.0: a probability"),
        (["--images", photo, "--width", "0.5"], "--width 0.5: give column, page or inches"),
        (["--images", tmp_path / "gone.jpg"], "no such file; for an image of a set"),
        (["--choose", "first", "--set", "NoSuchSet"], 'unknown set "NoSuchSet"'),
        (["--choose", "first", "--authentic", "only", *of_set], "leaves no image"),
    ]:
        assert run("--models", one, "--out", tmp_path / "a.png", *words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("benco: error") == 1
    assert (
        run("--models", f"SparseViT@{checkpoint}", "--out", tmp_path / "a.png", "--images", photo)
        == 2
    )
    assert "does not fit SparseViT" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


def test_files_of_others_are_not_replaced(checkpoint, data, tmp_path, make_photo, capsys):
    photo, one = make_photo(tmp_path / "own.png"), f"SparseViT_tiny@{checkpoint}"
    before = photo.read_bytes()
    words = ["--models", one, "--images", photo, "--out", tmp_path / "new.pdf", "--out", photo]
    assert run(*words) == 2
    assert "own.png: is there and is no figure of this program" in capsys.readouterr().err
    assert photo.read_bytes() == before
    assert not (tmp_path / "new.pdf").exists()
    (tmp_path / "table.csv").write_text("mine")
    assert run("--models", one, "--images", photo, "--out", tmp_path / "table.png") == 2
    assert "table.csv, beside which there is no figure" in capsys.readouterr().err
    assert (tmp_path / "table.csv").read_text() == "mine"


def test_a_model_folder_is_a_checkpoint_and_no_folder_of_maps(checkpoint, data, tmp_path, capsys):
    hub.save_checkpoint(checkpoint, tmp_path / "model", device="cpu")
    words = ["--test-data-path", data, "--choose", "first", "--count", "1"]
    model = f"A=SparseViT_tiny@{checkpoint},B@{tmp_path / 'model'}"
    assert run("--models", model, "--out", tmp_path / "a.png", *words) == 0
    assert "disagreement 0.0000" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    empty = f"B@{tmp_path / 'empty'}"
    assert run("--models", empty, "--out", tmp_path / "b.png", *words) == 2
    assert f"--models {empty}: holds no maps" in capsys.readouterr().err
