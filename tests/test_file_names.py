"""Names with spaces, Chinese, accents and emoji; lists from Windows and macOS; every command."""

import json
import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from sparsevit_plugin.cli.main import main
from tests.conftest import mask_array, photo_array
from tests.harness.helpers import TINY

STEMS = ("a b", "图片 一", "📷 photo", "Élise ñ", "name.with.dots", "100% [x] 'q'")
FOLDER = "数据 set 📁 é"


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def windows(path: str) -> str:
    return path.replace("/", "\\")


def macos(path: str) -> str:
    return unicodedata.normalize("NFD", path)


SPELLINGS = {"linux": str, "windows": windows, "macos": macos, "both": lambda p: macos(windows(p))}


class Lab:
    """A set below a folder with an odd name, a list of it in every spelling, and a trained run."""

    def __init__(self, root: Path) -> None:
        self.root = root / composed(FOLDER)
        self.set = self.root / "set d'images"
        for number, stem in enumerate(STEMS):
            size = (64, 80)
            self._save(photo_array(*size, number), self.set / "Tp" / f"{composed(stem)}.png")
            self._save(mask_array(*size, number), self.set / "Gt" / f"{composed(stem)}_gt.png")
        self.maps = self.root / "maps 图"
        for stem in map(composed, STEMS):
            target = self.maps / self.set.name / "Tp" / f"{stem}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(self.set / "Gt" / f"{stem}_gt.png", target)
        self.photo = self.set / "Tp" / f"{STEMS[1]}.png"
        self.mask = self.set / "Gt" / f"{STEMS[1]}_gt.png"
        self.run = self.root / "run 一"
        self.tested = self.root / "test 📊"
        self.checkpoint = self.root / "最好 的.weights v2"  # no suffix that anybody knows
        assert main(self.training(self.list_of("linux"), self.run)) == 0
        os.link(self.run / "last.safetensors", self.checkpoint)
        assert main([*self.testing(self.list_of("linux"), self.tested)]) == 0

    @staticmethod
    def _save(pixels, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    def list_of(self, spelling: str) -> Path:
        """A list that names everything relative to itself, as that system writes paths."""
        spell = SPELLINGS[spelling]
        pairs = [
            [spell(f"{self.set.name}/Tp/{stem}.png"), spell(f"{self.set.name}/Gt/{stem}_gt.png")]
            for stem in map(composed, STEMS)
        ]
        path = self.root / f"list {spelling}.json"
        path.write_text(json.dumps(pairs, ensure_ascii=False), encoding="utf-8")
        return path

    def training(self, data: Path, out: Path) -> list[str]:
        words = ["train", *TINY, "--recipe", "none", "--epochs", "1", "--batch-size", "6"]
        return [*words, "--select", "last", "--data-path", str(data), "--output-dir", str(out)]

    def testing(self, data: Path, out: Path) -> list[str]:
        words = ["test", *TINY, "--checkpoint", str(self.checkpoint), "--test-data-path", str(data)]
        return [*words, "--output-dir", str(out)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("names"))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_list_from_any_system_is_checked_trained_on_and_tested(lab, tmp_path, spelling, capsys):
    path = lab.list_of(spelling)
    assert main(["data", "check", str(path)]) == 0
    assert main([*lab.training(path, tmp_path / "a"), "--print-config"]) == 0
    capsys.readouterr()
    assert main(lab.testing(path, tmp_path / "b")) == 0
    rows = results(tmp_path / "b")
    assert list(rows["sample_name"]) == list(results(lab.tested)["sample_name"])
    assert list(rows["auc"]) == list(results(lab.tested)["auc"])


def results(folder: Path):
    from sparsevit_plugin.results import load

    return load(str(folder)).rows.sort_values("sample_name")


def test_a_drive_of_another_machine_is_named(lab, capsys):
    path = lab.root / "drive.json"
    path.write_text(json.dumps([["C:\\data\\a.png", "C:\\data\\b.png"]]))
    assert main(["data", "check", str(path)]) != 0
    said = capsys.readouterr()
    assert "a drive of Windows" in said.out + said.err


def command_lines(lab: Lab, out: Path) -> dict[str, list[str]]:
    checkpoint = str(lab.checkpoint)
    use = ["--checkpoint", checkpoint, "--device", "cpu"]
    photos = str(lab.set / "Tp")
    scored = ["--name", "Ihre 方法", "--test-data-path", str(lab.list_of("windows"))]
    corpus = ["--count", "2", "--test-count", "2", "--sizes", "48x48", "--workers", "1"]
    return {
        "train --resume": [
            *lab.training(lab.list_of("linux"), lab.run),
            *("--resume", str(lab.run / "resume.pt")),
        ],
        "table": ["table", str(lab.tested), "--metric", "pixel_f1", "--out", f"{out}.tex"],
        "predict": ["predict", photos, *use, "--num-workers", "0", "--out", str(out)],
        "attention": ["attention", str(lab.photo), *use, "--at", "3,4", "--out", f"{out}.pdf"],
        "figure": [
            *("figure", "--models", f"我们=SparseViT_tiny@{checkpoint}", "--device", "cpu"),
            *("--images", str(lab.photo), "--masks", str(lab.mask), "--out", f"{out}.png"),
        ],
        "explain lff": ["explain", "lff", *use, "--out", f"{out}.pdf"],
        "explain features": ["explain", "features", str(lab.photo), *use, "--out", f"{out}.png"],
        "explain gradcam": [
            *("explain", "gradcam", str(lab.photo), "--mask", str(lab.mask), "--of", "mask"),
            *(*use, "--out", f"{out}.png"),
        ],
        "report": ["report", str(lab.tested), "--out", f"{out}.html", "--no-images"],
        "export": ["export", *use[:2], "--format", "torch", "--out", f"{out}.pt2"],
        "hub save": ["hub", "save", checkpoint, "--out", str(out)],
        "data leak": ["data", "leak", str(lab.set), str(lab.list_of("windows")), "--no-cache"],
        "data make": ["data", "make", "--photos", photos, "--out", str(out), *corpus],
        "score": ["score", "--pred", str(lab.maps), *scored, "--output-dir", str(out)],
    }


NAMES = (
    *("train --resume", "table", "predict", "attention", "figure", "explain lff"),
    *("explain features", "explain gradcam", "report", "export", "hub save", "data leak"),
    *("data make", "score"),
)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_takes_odd_names(lab, tmp_path, name, capsys):
    out = tmp_path / composed("出力 é 📤")
    line = command_lines(lab, out)[name]
    code = main(line)
    said = capsys.readouterr()
    assert code == (1 if name == "data leak" else 0), said.err  # it finds what both sets share
    if name == "data leak":
        assert STEMS[1] in said.out
    elif name != "train --resume":
        assert any(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
