"""The choice of kernels: by measurement, kept, the same for all who ask."""

import json

import pytest
import torch

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.model import probe
from sparsevit_plugin.model.kernels import Kernels
from sparsevit_plugin.model.probe import Probe, choose_kernels, measure, probed


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sparsevit-plugin"


@pytest.fixture
def fixed(monkeypatch):
    """A measurement that takes no time; returns the list of calls."""
    calls = []
    found = Probe(
        {
            "inference": {"mkl": 100.0, "onednn": 200.0},
            "training": {"mkl": 100.0, "onednn": 101.0},
        },
        attention_fp32=64,
        attention_bf16=1024,
        threads=2,
    )

    def measured():
        calls.append(1)
        return found

    monkeypatch.setattr(probe, "measure", measured)
    return calls


def test_the_faster_library_is_taken_where_it_is_clearly_faster(fixed):
    assert choose_kernels("auto", "inference") == Kernels("onednn", 64, 1024)
    assert choose_kernels("auto", "training").matmul == "mkl"


@pytest.mark.parametrize("library", ["mkl", "onednn"])
def test_a_named_library_is_taken(fixed, library):
    assert choose_kernels(library, "training").matmul == library


def test_it_is_measured_once(fixed, own_cache):
    assert probed() == probed()
    assert len(fixed) == 1
    assert len(list(own_cache.glob("kernels-*.json"))) == 1


def test_other_threads_are_measured_anew(fixed):
    before = torch.get_num_threads()
    probed()
    try:
        torch.set_num_threads(before + 1)
        probed()
    finally:
        torch.set_num_threads(before)
    assert len(fixed) == 2


PARTIAL = json.dumps(
    {"probe": {"gflops": {}, "attention_fp32": 0, "attention_bf16": 0, "threads": 2}}
)


@pytest.mark.parametrize("content", ["", "{}", '{"probe": {"gflops": 1}}', PARTIAL, "[]"])
def test_a_damaged_file_is_measured_anew(fixed, own_cache, content):
    probed()
    file = next(own_cache.glob("kernels-*.json"))
    file.write_text(content)
    probed()
    assert len(fixed) == 2
    assert json.loads(file.read_text())["probe"]["threads"] == 2


def test_without_a_place_to_keep_it(fixed, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
    assert probed() == probed()
    assert len(fixed) == 2


def test_a_full_disk_costs_the_file_only(fixed, monkeypatch):
    def full(*_):
        raise UserError("cannot write")

    monkeypatch.setattr(probe, "write_json_atomic", full)
    assert probed().threads == 2
    assert len(fixed) == 1


def test_a_real_measurement_leaves_torch_as_it_was():
    state, grad = torch.get_rng_state(), torch.is_grad_enabled()
    found = measure()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled() == grad
    assert all(rate > 0 for rates in found.gflops.values() for rate in rates.values())
    assert {found.attention_fp32, found.attention_bf16} <= {0, 16, 64, 256, 1024}
    assert found.threads == torch.get_num_threads()
    assert "GFLOP/s" in found.reason("inference")


def test_unknown_words_are_named(fixed):
    with pytest.raises(UserError, match=r'matmul: unknown value "onedn".*"onednn"'):
        choose_kernels("onedn", "inference")
