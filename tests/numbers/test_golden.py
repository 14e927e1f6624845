"""A committed checkpoint gives its committed maps and rows, and a changed one does not."""

import numpy as np
import pytest

from sparsevit_plugin.backends import torch as torch_backend
from sparsevit_plugin.errors import UserError
from tests.numbers import golden

ALL = {golden.FOLDER / "model.safetensors": 200, golden.FOLDER / "maps": 150}
"""Kilobytes that may be committed."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return golden.copied(tmp_path_factory.mktemp("golden"))


def test_what_is_committed_is_small():
    for path, kilobytes in ALL.items():
        files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
        assert sum(one.stat().st_size for one in files) < kilobytes * 1000


@pytest.mark.parametrize("matmul", ["mkl", "onednn"])
@pytest.mark.parametrize("fit", golden.FITS)
def test_torch_gives_the_golden_maps(fit, matmul):
    """As `benco test` and `benco predict` compute them: fused, on either library."""
    maps = golden.predicted_maps(fit, matmul=matmul)
    assert golden.largest(maps, fit) <= golden.tolerance(fit)


def test_the_network_that_is_not_fused_gives_the_golden_maps(monkeypatch):
    used = []

    def plain(model, device):
        used.append(type(model).__name__)
        return model.to(device).eval()

    monkeypatch.setattr(torch_backend, "inference_copy", plain)
    assert golden.largest(golden.predicted_maps("pad"), "pad") <= golden.tolerance("pad")
    assert used == ["SparseViT_tiny"]


@pytest.mark.parametrize(
    ("backend", "precision"),
    [("torch", "bf16"), ("openvino", "32"), ("openvino", "bf16"), ("onnxruntime", "32")],
)
def test_every_backend_gives_the_golden_maps(checkpoint, backend, precision):
    try:
        maps = golden.predicted_maps("pad", checkpoint, backend=backend, precision=precision)
    except UserError as error:
        pytest.skip(str(error))  # an extra that is not installed, or a processor without bf16
    assert golden.largest(maps, "pad") <= golden.tolerance("pad", precision)


@pytest.mark.parametrize(("fit", "batch"), [("pad", 1), ("pad", 3), ("resize", 2)])
def test_the_command_stores_the_golden_rows(tmp_path, fit, batch):
    rows = golden.rows_of_test(fit, tmp_path, "--test-batch-size", str(batch))
    assert sorted(rows.index) == sorted(golden.golden_rows(fit).index)
    assert golden.outside(rows, fit, golden.tolerance(fit)) == []


def test_the_golden_rows_are_those_of_the_golden_maps():
    for fit in golden.FITS:
        assert golden.outside(golden.golden_rows(fit), fit, golden.tolerance("pad")) == []


def test_figures_are_held_closely():
    """The widest that a figure may be in single precision; otherwise nothing would be noticed."""
    for name in golden.names():
        for figure, (low, high) in golden.bounds(name, "pad", golden.tolerance("pad")).items():
            widest = 15 if figure in ("tp", "fp", "fn", "tn") else 0.01
            assert np.isnan(low) or high - low <= widest, (name, figure)


# --- what is changed is seen ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"s_blocks3": "1,2"}, {"s_blocks4": "1,2"}, {"sparsity": "group"}],
    ids="-".join,
)
def test_a_changed_network_is_noticed(change):
    apart = golden.largest(golden.predicted_maps("pad", **change), "pad")
    assert apart > 5 * golden.tolerance("pad")


def test_swapped_sparsity_rates_change_the_rows(tmp_path):
    rows = golden.rows_of_test("pad", tmp_path, "--s-blocks3", "1,2")
    problems = golden.outside(rows, "pad", golden.tolerance("pad"))
    assert any("auc" in problem for problem in problems)
    assert any("score" in problem for problem in problems)
