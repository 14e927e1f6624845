"""The demo, on a hundredth of its pictures: every stage runs and every file is there."""

import pytest
from PIL import Image

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.results.store import load


@pytest.mark.slow
def test_the_demo_ends_in_a_cross_dataset_table_and_pictures(tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--scale", "0.01", "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "total:" in printed
    assert "95 % interval" in printed
    models = {"SparseViT_tiny", "AllTampered", "RandomScores"}
    table = load(out / "runs").table(metric="pixel_f1").to_frame()
    assert {label.split(" ")[0] for label in table.index} == models
    assert table.shape[1] >= 4  # three test sets or more, and their average
    assert table.notna().all(axis=None)
    assert "SparseViT_tiny" in (out / "table.md").read_text(encoding="utf-8")
    with Image.open(out / "predictions.png") as picture:
        assert min(picture.size) > 300
    # Started again, it finds everything done.
    assert main(["demo", "--out", str(out), "--scale", "0.01", "--workers", "1"]) == 0
    assert "not evaluated again" in capsys.readouterr().out
