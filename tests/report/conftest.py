"""A run that was really tested, with names that a careless page would run as code."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.model.kernels import Kernels, use_kernels
from tests.conftest import mask_array, photo_array
from tests.harness.helpers import save_tiny

EVIL = "<script>document.title='run'</script>"
PLAIN = "plain"
TAMPERED, AUTHENTIC = 6, 2


@dataclass
class FinishedRun:
    """Two tested sets: `data` holds them, `run` the results and the weights."""

    data: Path
    run: Path

    @property
    def weights(self) -> Path:
        return self.run / "best.safetensors"


def write_corpus(folder: Path) -> None:
    """Write six tampered and two authentic photographs of 48 x 64 with their list."""
    records = []
    for number in range(TAMPERED + AUTHENTIC):
        kind = "Tp" if number < TAMPERED else "Au"
        image = folder / kind / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo_array(48, 64, number)).save(image)
        mask = folder / "Gt" / f"{number}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        if number < TAMPERED:
            Image.fromarray(mask_array(48, 64, number)).save(mask)
        of_image = f"Gt/{number}.png" if number < TAMPERED else "Negative"
        records.append([f"{kind}/{number}.png", of_image])
    (folder / "list.json").write_text(json.dumps(records))


def write_log(run: Path, epochs: int = 3, steps: int = 4) -> None:
    """Write a log as training does, selected on a hold-out."""
    lines = []
    for epoch in range(epochs):
        for step in range(steps):
            position = epoch * steps + step
            losses = {"predict_loss": 1 / (position + 1), "<b>loss</b>": 0.5}
            point = {"position": position, "epoch": epoch, "step": step, "lr": 1e-3, **losses}
            lines.append(point)
        selected = {"select": "val", "pixel_f1": 0.2 + 0.1 * epoch}
        lines.append({"position": lines[-1]["position"], "epoch": epoch, **selected})
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    options = {"name": EVIL, "model": "SparseViT_tiny", "seed": 0}
    (run / "run.json").write_text(json.dumps({"config": {"options": options}}))


@pytest.fixture(scope="session")
def tested(tmp_path_factory) -> FinishedRun:
    """A SparseViT_tiny tested on two sets, one of them under two perturbations too."""
    folder = tmp_path_factory.mktemp("tested")
    data, run = folder / "data", folder / "runs" / "a"
    write_corpus(data / "corpus")
    sets = {EVIL: "corpus/list.json", PLAIN: "corpus/list.json"}
    (data / "tests.json").write_text(json.dumps(sets))
    (data / "plain.json").write_text(json.dumps({PLAIN: "corpus/list.json"}))
    run.mkdir(parents=True)
    save_tiny(run / "best.safetensors")
    for listing, *more in (
        ["tests.json"],
        ["plain.json", "--perturbation", "jpeg:90"],
        ["plain.json", "--perturbation", "jpeg:50"],
    ):
        words = ["--test-data-path", str(data / listing), "--output-dir", str(run), *more]
        shared = ["--device", "cpu", "--num-workers", "0", "--test-batch-size", "8"]
        checkpoint = ["--model", "SparseViT_tiny", "--checkpoint", str(run / "best.safetensors")]
        assert main(["test", *checkpoint, "--name", EVIL, *words, *shared]) == 0
    assert main(["test", "--model", "AllTampered", "--image-size", "64", "--fit", "resize",
                 "--test-data-path", str(data / "tests.json"), "--output-dir",
                 str(folder / "runs" / "b"), *shared]) == 0  # fmt: skip
    use_kernels(Kernels())
    write_log(run)
    return FinishedRun(data, run)


@pytest.fixture(scope="session")
def page(tested, tmp_path_factory) -> Path:
    """The report of both runs."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    words = ["--images", "2", "--device", "cpu", "--out", str(out)]
    assert main(["report", str(tested.run.parent), *words]) == 0
    use_kernels(Kernels())
    return out
