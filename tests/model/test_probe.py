"""The choice of kernels: by measurement, kept, the same for all who ask."""

import json

import pytest
import torch

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.model import probe
from sparsevit_plugin.model.kernels import Kernels
from sparsevit_plugin.model.probe import (
    FORMATS,
    PURPOSES,
    Probe,
    choose_kernels,
    measure,
    probed,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sparsevit-plugin"


@pytest.fixture
def fixed(monkeypatch):
    """A measurement that takes no time; returns the list of calls."""
    calls = []
    onednn = {"inference": 200.0, "training": 101.0}

    def measured(purpose, number_format):
        calls.append((purpose, number_format))
        rates = {"mkl": 100.0, "onednn": onednn[purpose]}
        return Probe(number_format, rates, {"fp32": 64, "bf16": 1024}[number_format], threads=2)

    monkeypatch.setattr(probe, "measure", measured)
    return calls


def test_the_faster_library_is_taken_where_it_is_clearly_faster(fixed):
    assert choose_kernels("auto", "inference") == Kernels("onednn", attention_fp32=64)
    assert choose_kernels("auto", "training").matmul == "mkl"
    assert choose_kernels("auto", "training", "bf16") == Kernels("mkl", attention_bf16=1024)
    assert fixed == [("inference", "fp32"), ("training", "fp32"), ("training", "bf16")]


@pytest.mark.parametrize("library", ["mkl", "onednn"])
def test_a_named_library_is_taken(fixed, library):
    assert choose_kernels(library, "training").matmul == library


def test_it_is_measured_once(fixed, own_cache):
    assert probed("inference") == probed("inference")
    assert len(fixed) == 1
    assert len(list(own_cache.glob("kernels-*.json"))) == 1


def test_other_threads_are_measured_anew(fixed):
    before = torch.get_num_threads()
    probed("inference")
    try:
        torch.set_num_threads(before + 1)
        probed("inference")
    finally:
        torch.set_num_threads(before)
    assert len(fixed) == 2


PARTIAL = json.dumps(
    {"probe": {"number_format": "fp32", "gflops": {}, "attention": 0, "threads": 2}}
)


@pytest.mark.parametrize("content", ["", "{}", '{"probe": {"gflops": 1}}', PARTIAL, "[]"])
def test_a_damaged_file_is_measured_anew(fixed, own_cache, content):
    probed("inference")
    file = next(own_cache.glob("kernels-*.json"))
    file.write_text(content)
    probed("inference")
    assert len(fixed) == 2
    assert json.loads(file.read_text())["probe"]["threads"] == 2


def test_without_a_place_to_keep_it(fixed, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
    assert probed("training") == probed("training")
    assert len(fixed) == 2


def test_a_full_disk_costs_the_file_only(fixed, monkeypatch):
    def full(*_):
        raise UserError("cannot write")

    monkeypatch.setattr(probe, "write_json_atomic", full)
    assert probed("training").threads == 2
    assert len(fixed) == 1


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize("number_format", FORMATS)
def test_a_real_measurement_leaves_torch_as_it_was(purpose, number_format):
    state, grad = torch.get_rng_state(), torch.is_grad_enabled()
    found = measure(purpose, number_format)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled() == grad
    assert all(rate > 0 for rate in found.gflops.values())
    assert found.attention in (0, 16, 64, 256, 1024)
    assert found.threads == torch.get_num_threads()
    assert "GFLOP/s" in found.reason()
    other = next(name for name in FORMATS if name != number_format)
    assert getattr(found.kernels(), f"attention_{other}") == 0


@pytest.mark.parametrize(("purpose", "backward"), [("inference", 0), ("training", 1)])
def test_what_is_timed_is_what_the_purpose_needs(monkeypatch, purpose, backward):
    """Forward and backward turn at other sizes of a group, so each has its own measurement."""
    seen = []
    grad = torch.autograd.grad

    def counted(result, *more):
        seen.append(result.dtype)
        return grad(result, *more)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    measure(purpose, "bf16")
    assert bool(seen) == bool(backward)
    assert set(seen) <= {torch.bfloat16}


def test_a_slow_comparison_is_left_at_fewer_repeats(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(probe.time, "perf_counter", lambda: float(next(clock)))
    calls = []
    assert probe._interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")})
    assert calls == ["a", "b"] * 2  # warm-up, and one turn of each


def test_unknown_words_are_named(fixed):
    with pytest.raises(UserError, match=r'matmul: unknown value "onedn".*"onednn"'):
        choose_kernels("onedn", "inference")
