"""Evaluation: every image once, in one process or two, at both resolutions."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.harness.baselines import AllTampered
from sparsevit_plugin.harness.devices import make_fabric
from sparsevit_plugin.harness.evaluate import EvaluationSettings, evaluate_set, native_map
from sparsevit_plugin.harness.testing import checkpoint_files
from sparsevit_plugin.results.store import load
from tests.harness.helpers import TINY, run_train

KEY = ["sample_name", "score_at"]


@pytest.fixture
def test_set(tmp_path, make_set):
    return make_set(tmp_path / "seven", count=7, size=(40, 56))


@pytest.fixture
def checkpoint(tmp_path, make_set):
    assert run_train(make_set(tmp_path / "train", count=8), tmp_path / "trained") == 0
    return tmp_path / "trained/best.safetensors"


def run_test(model: str, data: Path, out: Path, *flags: str) -> pd.DataFrame:
    code = main(
        [
            *("test", "--model", model, "--test-data-path", str(data), "--output-dir", str(out)),
            *(
                "--image-size",
                "32",
                "--if-resizing",
                "--device",
                "cpu",
                "--num-workers",
                "0",
                *flags,
            ),
        ]
    )
    assert code == 0
    return load(out).rows.sort_values(KEY, ignore_index=True)


def run_in_processes(count: int, model: str, data: Path, out: Path, *flags: str) -> pd.DataFrame:
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"),
            *(str(count), "-m", "sparsevit_plugin", "test", "--model", model, "--image-size", "32"),
            *(
                "--if-resizing",
                "--device",
                "cpu",
                "--num-workers",
                "0",
                "--test-data-path",
                str(data),
            ),
            *("--output-dir", str(out), *flags),
        ],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    return load(out).rows.sort_values(KEY, ignore_index=True)


def assert_same_rows(a: pd.DataFrame, b: pd.DataFrame, tolerance: float = 1e-9) -> None:
    assert a[KEY].equals(b[KEY])
    numbers = a.select_dtypes("number").columns
    np.testing.assert_allclose(
        a[numbers].to_numpy(float),
        b[numbers].to_numpy(float),
        rtol=0,
        atol=tolerance,
        equal_nan=True,
    )


def test_every_image_is_scored_once_at_both_resolutions(test_set, tmp_path):
    rows = run_test("RandomScores", test_set, tmp_path / "out", "--test-batch-size", "3")
    assert rows.groupby("score_at").size().to_dict() == {"image": 7, "model": 7}
    assert (rows[rows["score_at"] == "image"][["height", "width"]] == [40, 56]).all(axis=None)
    assert (rows[rows["score_at"] == "model"][["height", "width"]] == [32, 32]).all(axis=None)
    assert (rows[["tp", "fp", "fn", "tn"]].sum(axis=1) == rows["height"] * rows["width"]).all()


@pytest.mark.slow
def test_several_processes_give_the_rows_of_one(test_set, tmp_path):
    """By the real torchrun; other numbers of processes and images are in test_processes."""
    alone = run_test("RandomScores", test_set, tmp_path / "one", "--test-batch-size", "3")
    several = run_in_processes(2, "RandomScores", test_set, tmp_path / "several")
    assert_same_rows(alone, several)


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one_for_a_trained_model(test_set, checkpoint, tmp_path):
    flags = ("--checkpoint", str(checkpoint), "--test-batch-size", "1")
    alone = run_test("SparseViT_tiny", test_set, tmp_path / "one", *flags)
    several = run_in_processes(2, "SparseViT_tiny", test_set, tmp_path / "two", *flags)
    counts = ["tp", "fp", "fn", "tn"]
    # One thread against two may round differently: flips at the threshold are counted and bounded.
    flips = (alone[counts] - several[counts]).abs().sum(axis=1) / alone["pixels"]
    assert flips.max() <= 0.002
    np.testing.assert_allclose(alone["auc"], several["auc"], atol=1e-4)


def test_the_batch_size_changes_no_row_beyond_rounding(test_set, checkpoint, tmp_path):
    flags = ("--checkpoint", str(checkpoint))
    one = run_test("SparseViT_tiny", test_set, tmp_path / "b1", *flags, "--test-batch-size", "1")
    four = run_test("SparseViT_tiny", test_set, tmp_path / "b4", *flags, "--test-batch-size", "4")
    flips = (one[["tp", "fp"]] - four[["tp", "fp"]]).abs().sum(axis=1) / one["pixels"]
    assert flips.max() <= 0.002


def test_a_checkpoint_says_how_its_model_is_built_and_fed(test_set, checkpoint, tmp_path):
    code = main(
        [
            *("test", "--model", "SparseViT_tiny", "--checkpoint", str(checkpoint)),
            *("--test-data-path", str(test_set), "--output-dir", str(tmp_path / "out")),
            *("--device", "cpu", "--num-workers", "0"),
        ]
    )
    assert code == 0
    (manifest,) = load(tmp_path / "out").manifests.values()
    assert manifest["image_size"] == 32
    assert manifest["selection"] == "last"


def test_a_set_that_is_stored_is_not_evaluated_again(test_set, tmp_path, capsys):
    run_test("RandomScores", test_set, tmp_path / "out")
    capsys.readouterr()
    run_test("RandomScores", test_set, tmp_path / "out")
    assert "not evaluated again" in capsys.readouterr().out
    Image.new("L", (56, 40), 255).save(test_set / "Gt" / "000.png")
    run_test("RandomScores", test_set, tmp_path / "out")
    assert "not evaluated again" not in capsys.readouterr().out


def test_upstream_evaluators_come_through_the_same_door(test_set, tmp_path):
    exact = run_test("RandomScores", test_set, tmp_path / "exact")
    exact = exact[exact["score_at"] == "model"].reset_index(drop=True)
    benco = run_test("RandomScores", test_set, tmp_path / "benco", "--evaluators", "benco")
    assert set(benco["score_at"]) == {"model"}
    assert set(benco["evaluator"]) == {"benco"}
    for column in ("f1", "iou", "accuracy", "auc"):
        np.testing.assert_allclose(exact[column], benco[column], atol=1e-4)


def test_several_named_sets_and_authentic_images(tmp_path, test_set, tiny_corpus):
    listing = tmp_path / "tests.json"
    listing.write_text(f'{{"a": "{test_set}", "b": "{tiny_corpus / "list.json"}"}}')
    rows = run_test("AllTampered", listing, tmp_path / "out")
    at_model = rows[rows["score_at"] == "model"]
    assert at_model.groupby("dataset").size().to_dict() == {"a": 7, "b": 15}
    authentic = at_model[at_model["tampered_pixels"] == 0]
    assert len(authentic) == 3
    assert authentic["auc"].isna().all()
    assert (authentic["predicted_area"] == 1).all()


def test_of_a_balanced_list_every_image_is_tested_once(tmp_path, test_set, tiny_set):
    listing = tmp_path / "balanced.json"
    parts = [["ManiDataset", str(test_set)], ["ManiDataset", str(tiny_set)]]
    listing.write_text(json.dumps(parts))
    rows = run_test("AllTampered", listing, tmp_path / "out")
    names = rows[rows["score_at"] == "model"]["sample_name"]
    assert len(names) == names.nunique() == 7 + 4


def test_bad_images_stop_a_test_or_are_skipped_and_listed(test_set, tmp_path, capsys):
    (test_set / "Tp" / "003.jpg").write_text("this is text")
    flags = ("--device", "cpu", "--num-workers", "0", "--image-size", "32", "--if-resizing")
    base = ("test", "--model", "AllTampered", "--test-data-path", str(test_set), *flags)
    assert main([*base, "--output-dir", str(tmp_path / "stop")]) == 2
    assert "003.jpg" in capsys.readouterr().err.splitlines()[-1]
    rows = run_test("AllTampered", test_set, tmp_path / "skip", "--on-bad-image", "skip")
    assert rows["sample_name"].nunique() == 6
    (cell,) = load(tmp_path / "skip").cells
    assert [entry["name"] for entry in cell.facts["skipped"]] == ["Tp/003.jpg"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--checkpoint", "nowhere.pth"), "no such file"),
        ((), "name them with --checkpoint"),
        (("--checkpoint", "tests"), "neither best.safetensors"),
    ],
)
def test_a_test_without_weights_ends_in_one_line(test_set, tmp_path, capsys, flags, said):
    base = ("test", *TINY, "--test-data-path", str(test_set), "--output-dir", str(tmp_path / "o"))
    assert main([*base, *flags]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_checkpoint_of_another_model_is_refused(test_set, tmp_path, checkpoint, capsys):
    base = ("test", "--model", "SparseViT_small", "--checkpoint", str(checkpoint))
    flags = (
        "--test-data-path",
        str(test_set),
        "--output-dir",
        str(tmp_path / "o"),
        "--depth",
        "1,1,4,2",
    )
    assert main([*base, *flags, "--device", "cpu"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_upstream_folders_give_all_their_checkpoints_in_order(tmp_path):
    for number in (100, 20, 3):
        (tmp_path / f"checkpoint-{number}.pth").touch()
    names = [path.name for path in checkpoint_files(str(tmp_path))]
    assert names == ["checkpoint-3.pth", "checkpoint-20.pth", "checkpoint-100.pth"]


def test_a_padded_map_is_cropped_before_it_is_scaled():
    probability = torch.zeros(1, 8, 8)
    probability[:, :4, :6] = 1
    scaled = native_map(probability, shape=(4, 6), size=(8, 12))
    assert scaled.shape == (1, 8, 12)
    assert scaled.eq(1).all()


class MadeImages(Dataset):
    """Items as `build_dataset` gives them, made when asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, object]:
        mask = torch.zeros(16, 16, dtype=torch.uint8)
        mask[:4, : 1 + index % 16] = 1
        return {
            "image": torch.zeros(3, 16, 16),
            "mask": mask[None].double(),
            "native_mask": mask,
            "shape": torch.tensor([16, 16]),
            "label": 1,
            "sample_index": index,
            "sample_name": f"Tp/{index:06d}.png",
        }


def memory_of_evaluating(count: int) -> int:
    """Return the bytes that are held after all images of a set are scored."""
    settings = EvaluationSettings(batch_size=8, num_workers=0)
    fabric = make_fabric("cpu", "32")
    tracemalloc.start()
    try:
        result = evaluate_set(fabric, AllTampered(), MadeImages(count), settings, label="made")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(result.rows) == len(result.histograms) == 2 * count
    return held


def test_an_image_leaves_few_bytes_behind():
    memory_of_evaluating(8)  # what is imported or kept once
    grown = memory_of_evaluating(768) - memory_of_evaluating(256)
    assert grown / 512 < 1024  # its two rows with four histograms take 10 KB as Python objects
