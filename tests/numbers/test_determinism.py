"""The same command twice on one machine: the same weights, byte by byte, and the same rows."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.results.store import load
from tests.protocol.conftest import lab  # noqa: F401 - a fixture
from tests.registry import fresh_registry  # noqa: F401 - a fixture

# Between them: stochastic depth, BatchNorm and dropout, each with random augmentations.
MODELS = {
    "SparseViT_tiny": ("--model", "SparseViT_tiny", "--drop-path", "0.3", "--image-size", "32"),
    "unet": ("--model", "unet", "--width", "8", "--image-size", "64"),
    "timm_resnet50": (
        *("--model", "timm_resnet50", "--backbone", "resnet18", "--width", "16"),
        *("--image-size", "64"),
    ),
}
COMMON = ("--recipe", "none", "--fit", "resize", "--device", "cpu", "--test-batch-size", "3")
TRAINING = (
    *("--batch-size", "4", "--accum-iter", "1", "--epochs", "2", "--warmup-epochs", "0.5"),
    *("--lr", "1e-3", "--select", "val", "--val-fraction", "0.3", "--augmentation", "benco"),
)
OF_THE_RUN = ["manifest_id"]


@pytest.fixture
def sets(tmp_path, make_set) -> tuple[Path, Path]:
    return make_set(tmp_path / "train", count=14), make_set(tmp_path / "test", count=5)


def train_words(model: str, sets: tuple[Path, Path], out: Path, workers: int) -> list[str]:
    more = ("--data-path", str(sets[0]), "--output-dir", str(out), "--num-workers", str(workers))
    return ["train", *MODELS[model], *COMMON, *TRAINING, *more]


def test_words(model: str, sets: tuple[Path, Path], out: Path, workers: int) -> list[str]:
    more = ("--num-workers", str(workers), "--output-dir", str(out / "tested"))
    checkpoint = ("--checkpoint", str(out / "best.safetensors"))
    return ["test", *MODELS[model], *COMMON, *checkpoint, "--test-data-path", str(sets[1]), *more]


test_words.__test__ = False  # it makes words, it is no test


def stored(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return rows and histograms without what names the run."""
    results = load(folder)
    frames = []
    for frame in (results.rows, results.histograms):
        kept = frame.drop(columns=[name for name in OF_THE_RUN if name in frame])
        lists = {name: kept[name].map(list) for name in ("tampered", "authentic") if name in kept}
        order = [name for name in ("dataset", "sample_name", "score_at") if name in kept]
        frames.append(kept.assign(**lists).sort_values(order, ignore_index=True))
    return frames[0], frames[1]


def assert_equal_runs(one: Path, other: Path) -> None:
    for name in ("best.safetensors", "last.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    for folder in (".", "tested"):  # of the hold-out, and of the test
        for found, wanted in zip(stored(one / folder), stored(other / folder), strict=True):
            assert len(found)
            pd.testing.assert_frame_equal(found, wanted, check_exact=True)


@pytest.mark.parametrize(
    "model",
    ["SparseViT_tiny", "unet", pytest.param("timm_resnet50", marks=pytest.mark.system)],
)
def test_training_and_testing_again_with_other_loader_processes(sets, tmp_path, model):
    for workers in (0, 2):
        assert main(train_words(model, sets, tmp_path / str(workers), workers)) == 0
        assert main(test_words(model, sets, tmp_path / str(workers), workers)) == 0
    assert_equal_runs(tmp_path / "0", tmp_path / "2")


def test_another_seed_gives_other_weights(sets, tmp_path):
    """So that what is equal above is so because the seed is."""
    for seed in ("1", "2"):
        words = train_words("SparseViT_tiny", sets, tmp_path / seed, 0)
        assert main([*words, "--seed", seed]) == 0
    one, other = (tmp_path / seed / "last.safetensors" for seed in ("1", "2"))
    assert one.read_bytes() != other.read_bytes()


# --- in processes of their own --------------------------------------------------------------------


def run(words: list[str], number: int) -> None:
    """Run a command in a new process, whose sets and dictionaries of words are ordered anew."""
    environment = {**os.environ, "PYTHONHASHSEED": str(number)}
    command = [sys.executable, "-m", "sparsevit_plugin", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.system
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_two_commands_again(sets, tmp_path, model, workers):
    for number in (1, 2):
        run(train_words(model, sets, tmp_path / str(number), workers), number)
        run(test_words(model, sets, tmp_path / str(number), workers), number)
    assert_equal_runs(tmp_path / "1", tmp_path / "2")


@pytest.mark.system
@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_protocol_run_again(lab, workers):  # noqa: F811
    models = "Plain,SparseViT_tiny,unet"
    for number in (1, 2):
        lab.runs = lab.root / f"runs{number}"
        words = lab.arguments("--tiny", "--seeds", "0,1", models=models)
        run(["protocol", "run", *words, "--set", f"num_workers={workers}"], number)
    one, other = (lab.root / f"runs{number}" / "lab" for number in (1, 2))
    found, wanted = (sorted(folder.rglob("best.safetensors")) for folder in (one, other))
    assert len(found) == 3 * 2
    assert [path.relative_to(one) for path in found] == [path.relative_to(other) for path in wanted]
    for path, same in zip(found, wanted, strict=True):
        assert path.read_bytes() == same.read_bytes()
    for frame, same in zip(stored(one), stored(other), strict=True):
        assert len(frame)
        pd.testing.assert_frame_equal(frame, same, check_exact=True)
