"""`benco predict`: its files, what it does again, and what it says of mistakes."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.harness import prediction_files
from sparsevit_plugin.harness.option_table import BY_NAME
from sparsevit_plugin.harness.predict import Localiser, Prediction
from sparsevit_plugin.harness.prediction_files import COLUMNS, held, map_picture, overlay
from sparsevit_plugin.results.store import load
from tests.harness.helpers import save_tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def photos(tmp_path, make_photo) -> Path:
    for number, size in enumerate([(40, 56), (64, 64), (75, 50)]):
        make_photo(tmp_path / f"photos/{number}.png", size, number)
    return tmp_path / "photos"


def run(checkpoint, out, *words) -> int:
    shared = ["--checkpoint", str(checkpoint), "--out", str(out), "--device", "cpu"]
    return main(["predict", *map(str, words), *shared, "--num-workers", "0"])


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def table(out) -> list[dict]:
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_photograph_has_its_pictures_and_a_line(photos, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(checkpoint, out, photos, "--threshold", "0.4", "--map-bits", "16") == 0
    expected = Localiser(checkpoint, device="cpu", threshold=0.4)(sorted(photos.iterdir()))
    rows = table(out)
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == [line["name"] for line in lines] == ["0", "1", "2"]
    for prediction, row, line in zip(expected, rows, lines, strict=True):
        assert list(row) == list(line) == list(COLUMNS)
        stored = read(out / row["map"])
        assert stored.dtype in (np.uint16, np.int32)  # as Pillow opens 16-bit grey
        np.testing.assert_array_equal(stored, np.rint(prediction.map.astype(float) * 65535))
        np.testing.assert_array_equal(read(out / row["mask"]), prediction.mask * 255)
        assert read(out / row["overlay"]).shape == (*prediction.map.shape, 3)
        assert line["score"] == prediction.score
        assert line["tampered_pixels"] == prediction.mask.sum()
        assert line["tampered_area"] == prediction.mask.mean()
        assert (line["height"], line["width"]) == prediction.map.shape
        assert (line["threshold"], line["precision"], line["backend"]) == (0.4, "32", "torch")
        assert line["seconds"] > 0
    assert "3 photographs; 0 passed over" in capsys.readouterr().out
    assert not (out / "passed-over.csv").exists()


def test_damaged_files_are_passed_over_and_told(photos, checkpoint, tmp_path, capsys):
    (photos / "bad.jpg").write_text("no photograph")
    out = tmp_path / "out"
    assert run(checkpoint, out, photos) == 1
    assert len(table(out)) == 3
    assert 'bad.jpg,"is a text file, not an image"' in (out / "passed-over.csv").read_text()
    assert "passed over" in capsys.readouterr().out
    (photos / "bad.jpg").unlink()
    assert run(checkpoint, out, photos) == 0
    assert not (out / "passed-over.csv").exists()


def test_finished_photographs_are_not_done_again(
    photos, checkpoint, tmp_path, make_photo, monkeypatch
):
    out = tmp_path / "out"
    seen: list[str] = []
    stream = Localiser.stream

    def recording(self, photographs):
        seen.extend(photo.name for photo in photographs)
        return stream(self, photographs)

    monkeypatch.setattr(Localiser, "stream", recording)
    assert run(checkpoint, out, photos) == 0
    assert seen == ["0", "1", "2"]
    seen.clear()
    assert run(checkpoint, out, photos) == 0
    assert seen == []
    make_photo(photos / "1.png", (30, 30), 9)  # another photograph under the same name
    (out / "maps/2.png").unlink()
    assert run(checkpoint, out, photos) == 0
    assert seen == ["1", "2"]
    seen.clear()
    assert run(checkpoint, out, photos, "--overwrite") == 0
    assert seen == ["0", "1", "2"]
    assert len(table(out)) == 3


def test_an_interrupted_run_leaves_whole_files_and_goes_on(
    photos, checkpoint, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    write = prediction_files.PredictionFolder.write

    def interrupted(self, photo, prediction):
        if photo.name == "1":
            raise KeyboardInterrupt
        return write(self, photo, prediction)

    monkeypatch.setattr(prediction_files.PredictionFolder, "write", interrupted)
    assert run(checkpoint, out, photos) == 130
    assert [row["name"] for row in table(out)] == ["0"]
    monkeypatch.undo()
    assert run(checkpoint, out, photos) == 0
    assert [row["name"] for row in table(out)] == ["0", "1", "2"]
    assert not list(out.rglob("*.tmp*"))


def test_a_photograph_that_changes_meanwhile_is_passed_over(
    photos, checkpoint, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    write = prediction_files.PredictionFolder.write

    def changing(self, photo, prediction):
        if photo.name == "0":
            Image.new("RGB", (20, 30)).save(photo.path)
        if photo.name == "1":
            photo.path.unlink()
        return write(self, photo, prediction)

    monkeypatch.setattr(prediction_files.PredictionFolder, "write", changing)
    assert run(checkpoint, out, photos) == 1
    assert [row["name"] for row in table(out)] == ["2"]
    assert not (out / "maps/0.png").exists()
    text = capsys.readouterr().out
    assert "0.png: changed while it was predicted on: was 56 x 40 pixels, is 20 x 30" in text
    assert "1.png: cannot be read any more" in text


def test_photographs_are_read_beside_the_model_as_the_help_says(photos, checkpoint, tmp_path):
    assert Localiser(checkpoint, device="cpu", num_workers=None).config.num_workers == 0
    words = ["predict", str(photos), "--checkpoint", str(checkpoint), "--device", "cpu"]
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        stream = Localiser.stream
        patch.setattr(
            Localiser,
            "stream",
            lambda self, of: seen.append(self.config.num_workers) or stream(self, of),
        )
        assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert seen == [BY_NAME["num_workers"].default]


def test_results_made_otherwise_are_not_mixed(photos, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(checkpoint, out, photos) == 0
    before = (out / "predictions.csv").read_text()
    assert run(checkpoint, out, photos, "--threshold", "0.3", "--fit", "pad") == 2
    message = capsys.readouterr().err
    assert "fit, threshold" in message
    assert "--overwrite" in message
    assert (out / "predictions.csv").read_text() == before
    assert run(checkpoint, out, photos / "0.png", "--threshold", "0.3", "--overwrite") == 0
    assert [row["threshold"] for row in table(out)] == ["0.3"]  # the others are of other settings


def test_another_photograph_of_the_same_name_replaces_nothing(
    photos, checkpoint, tmp_path, make_photo, capsys
):
    out = tmp_path / "out"
    other = make_photo(tmp_path / "other/0.png", (30, 30), 9)
    assert run(checkpoint, out, photos / "0.png") == 0
    before = (out / "maps/0.png").read_bytes()
    assert run(checkpoint, out, other) == 2
    assert "--out" in capsys.readouterr().err
    assert (out / "maps/0.png").read_bytes() == before
    assert run(checkpoint, out, other, "--overwrite") == 0
    assert [row["photograph"] for row in table(out)] == [str(other)]


@pytest.mark.parametrize(
    "name", ["settings.json", "predictions.csv", "passed-over.csv", "maps/a.png", "masks/0.png"]
)
def test_what_something_else_wrote_is_not_replaced(photos, checkpoint, tmp_path, capsys, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"settings": 5}')
    assert run(checkpoint, tmp_path / "out", photos / "0.png") == 2
    assert f"holds {name.partition('/')[0]} of something else" in capsys.readouterr().err
    assert path.read_text() == '{"settings": 5}'
    assert run(checkpoint, tmp_path / "out", photos / "0.png", "--overwrite") == 0
    assert len(table(tmp_path / "out")) == 1


def test_names_that_no_result_can_have_are_passed_over(photos, checkpoint, tmp_path, capsys):
    bytes_name = os.fsencode(photos) + b"/caf\xe9.png"
    longest, longer = "x" * 246, "x" * 247  # with ".png"; a record's name ends with ".json"
    for name in (bytes_name, photos / f"{longest}y.jpg", photos / f"{longer}yyyy.png"):
        shutil.copy(photos / "0.png", name)
    out = tmp_path / "out"
    assert run(checkpoint, out, photos) == 1
    assert [row["name"] for row in table(out)] == ["0", "1", "2", f"{longest}y"]
    rows = list(csv.DictReader((out / "passed-over.csv").open(newline="")))
    assert {Path(row["photograph"]).name: row["reason"] for row in rows} == {
        "caf\\udce9.png": "its name is not valid UTF-8: rename it",
        f"{longer}yyyy.png": "its name is too long for its results' files: rename it",
    }
    assert "2 passed over" in capsys.readouterr().out
    # Listed until a run that tries them can use them: one on other photographs keeps the list.
    long_bytes = os.fsencode(photos) + b"/" + b"\xe9" * 100 + b".png"
    shutil.copy(photos / "0.png", long_bytes)
    assert run(checkpoint, out, photos) == 1
    assert run(checkpoint, out, photos / "0.png") == 0
    rows = list(csv.DictReader((out / "passed-over.csv").open(newline="")))
    assert len(rows) == 3
    Path(os.fsdecode(bytes_name)).rename(photos / "cafe.png")
    Path(os.fsdecode(long_bytes)).unlink()
    assert run(checkpoint, out, photos) == 1
    rows = list(csv.DictReader((out / "passed-over.csv").open(newline="")))
    assert [row["reason"] for row in rows] == [
        "its name is too long for its results' files: rename it"
    ]


def test_a_photograph_that_is_called_otherwise_now_stands_once(
    photos, checkpoint, tmp_path, make_photo
):
    out = tmp_path / "out"
    assert run(checkpoint, out, photos) == 0
    make_photo(photos / "0.tif", (30, 30), 9)
    assert run(checkpoint, out, photos) == 0
    assert [row["name"] for row in table(out)] == ["0.png", "0.tif", "1", "2"]
    assert not (out / "maps/0.png").exists()  # it was the map of 0.png, which is 0.png.png now
    assert sorted(path.name for path in (out / "maps").iterdir()) == [
        *("0.png.png", "0.tif.png", "1.png", "2.png")
    ]


def test_what_was_passed_over_is_listed_until_it_is_mended(photos, checkpoint, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    for folder in (photos, other):
        (folder / "bad.jpg").write_text("no photograph")
    (photos / "gone.jpg").write_text("nor this")
    assert run(checkpoint, out, photos) == 1
    (photos / "gone.jpg").unlink()

    def listed():
        rows = csv.DictReader((out / "passed-over.csv").open(newline=""))
        return [row["photograph"] for row in rows]

    assert run(checkpoint, out, other) == 1
    assert listed() == [str(photos / "bad.jpg"), str(other / "bad.jpg")]
    Image.new("RGB", (20, 30)).save(photos / "bad.jpg")
    assert run(checkpoint, out, photos) == 0
    assert listed() == [str(other / "bad.jpg")]


def test_an_overlay_that_no_jpeg_can_hold_is_shrunk(checkpoint, tmp_path, make_photo):
    out, longest = tmp_path / "out", 66000
    photo = make_photo(tmp_path / "long.png", (2, longest), 1)
    assert run(checkpoint, out, photo) == 0
    assert read(out / "maps/long.png").shape == (2, longest)
    assert read(out / "overlays/long.jpg").shape == (1, 65500, 3)


def test_only_wanted_pictures_are_written(photos, checkpoint, tmp_path):
    out = tmp_path / "out"
    assert run(checkpoint, out, photos, "--write", "mask") == 0
    assert (out / "masks/0.png").is_file()
    assert not (out / "maps").exists()
    assert table(out)[0]["map"] == ""
    assert run(checkpoint, out, photos, "--write", "map,mask") == 0  # the maps are missing
    assert (out / "maps/0.png").is_file()


def test_the_maps_of_a_set_are_scored_as_benco_test_scores_them(
    make_set, checkpoint, tmp_path, capsys
):
    data = make_set(tmp_path / "set", count=3)
    shared = ["--test-data-path", str(data), "--output-dir"]
    assert run(checkpoint, tmp_path / "out", data / "Tp", "--map-bits", "16") == 0
    words = ["--model", "SparseViT_tiny", "--checkpoint", str(checkpoint), "--device", "cpu"]
    assert main(["test", *words, *shared, str(tmp_path / "test"), "--num-workers", "0"]) == 0
    score = ["score", "--pred", str(tmp_path / "out/maps"), "--name", "maps", *shared]
    assert main([*score, str(tmp_path / "score")]) == 0
    rows = [load(tmp_path / name).rows for name in ("test", "score")]
    native = [r[r["score_at"] == "image"].sort_values("sample_name") for r in rows]
    flips = np.abs(native[0]["tp"].to_numpy() - native[1]["tp"].to_numpy())
    assert flips.max() <= 2  # a map is rounded to 1 / 65535
    np.testing.assert_allclose(native[0]["auc"], native[1]["auc"], atol=1e-3)


def test_tiles_and_arguments_reach_the_model(photos, checkpoint, tmp_path):
    words = ("--tile", "32", "--tile-overlap", "0", "--argument", "image_pooling=mean")
    assert run(checkpoint, tmp_path / "out", photos, *words, "--batch-size", "2") == 0
    settings = json.loads((tmp_path / "out/settings.json").read_text())["settings"]
    assert (settings["tile"], settings["tile_overlap"], settings["fit"]) == (32, 0, "grid")
    assert settings["model_arguments"]["image_pooling"] == "mean"
    assert {row["tile"] for row in table(tmp_path / "out")} == {"32"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--write", "maps"], 'Did you mean "map"'),
        (["--argument", "sparsity"], "NAME=VALUE"),
        (["--argument", "sparsety=group"], "sparsity"),
        (["--threshold", "2"], "--threshold"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--tiles", "64"], 'Did you mean "--tile"'),
        (["--map-bits", "12"], "map-bits"),
    ],
)
def test_mistakes_are_one_line(photos, checkpoint, capsys, words, message):
    assert run(checkpoint, photos.parent / "out", photos, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


# --- pictures -------------------------------------------------------------------------------------


def test_a_map_is_rounded_to_its_bits():
    values = np.array([[0, 0.5, 1, 1 / 255]], np.float32)
    assert map_picture(values, 8).tolist() == [[0, 128, 255, 1]]
    assert map_picture(values, 16).tolist() == [[0, 32768, 65535, 257]]
    assert map_picture(values, 8).dtype == np.uint8
    assert map_picture(values, 16).dtype == np.uint16


def test_an_overlay_colours_what_is_tampered_and_leaves_the_rest():
    pixels = np.full((60, 80, 3), 100, np.uint8)
    values = np.zeros((60, 80), np.float32)
    values[20:40, 30:60] = 1
    drawn = overlay(pixels, Prediction("a", values, 1.0))
    assert (drawn[:15] == 100).all()
    assert (drawn[30, 45] != 100).any()
    assert drawn[30, 45, 0] > drawn[30, 45, 1]
    assert (drawn[20, 40] > 200).all()  # the outline


def test_two_runs_do_not_write_one_folder(photos, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    with held(out):
        assert run(checkpoint, out, photos) == 2
    assert "another benco predict writes there" in capsys.readouterr().err
    assert not (out / "settings.json").exists()
    assert run(checkpoint, out, photos) == 0


def test_names_are_shown_on_one_line_and_in_columns(checkpoint, tmp_path, make_photo, capsys):
    names = ["照片 🏖", "two\nlines", "100% [1] 'x'"]
    for seed, name in enumerate(names):
        make_photo(tmp_path / f"p/{name}.png", (40, 40), seed)
    assert run(checkpoint, tmp_path / "out", tmp_path / "p") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  score")[0].rstrip() for line in lines[:3]] == [
        "100% [1] 'x'",
        "two\\nlines",
        "照片 🏖",
    ]
    starts = [cell_len(line.split("score")[0]) for line in lines[:3]]
    assert len(set(starts)) == 1
    assert {row["name"] for row in table(tmp_path / "out")} == set(names)


def test_photographs_of_other_formats_are_named(photos, checkpoint, tmp_path, capsys):
    (photos / "sub").mkdir()
    (photos / "sub/phone.HEIC").write_bytes(b"heic")
    Image.new("RGB", (40, 40)).save(photos / "a.webp")
    assert run(checkpoint, tmp_path / "out", photos) == 0
    text = capsys.readouterr().out
    assert "not taken, of other formats: phone.HEIC; convert them, or name a file" in text
    assert "4 photographs; 0 passed over" in text
