"""Measured costs against models that sleep, allocate, raise and die as told."""

import json
import math
import os
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness import cost_child, measured_cost
from sparsevit_plugin.harness.cost_child import Worker, warmed_up
from sparsevit_plugin.harness.measured_cost import (
    MODES,
    MeasuredCost,
    Measurement,
    Settings,
    Subject,
    measure,
    measure_stored,
    stored_cost,
)
from sparsevit_plugin.machine import processor_name
from tests.harness.helpers import register_plain_convolution

MIB = 1 << 20

MODELS = """
    import time
    import torch
    from IMDLBenCo.registry import MODELS


    @MODELS.register_module(force=True)
    class CostsAsTold(torch.nn.Module):
        def __init__(self, sleep: float = 0.0, mib: int = 0, weights_mib: int = 0, most: int = 99):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(max(weights_mib, 1) << 18))
            self.sleep, self.mib, self.most = sleep, mib, most

        def forward(self, image, mask, **kwargs):
            time.sleep(self.sleep)
            if len(image) > self.most:
                raise RuntimeError("CUDA out of memory. Tried to allocate")
            taken = torch.ones(self.mib << 18)
            pred = (image[:, :1] * self.weight[0]).sigmoid()
            loss = None if self.sleep < 0 else (pred - mask).square().mean()
            del taken
            return {"pred_mask": pred, "backward_loss": loss}
"""

# Answers as `cost_child` does, by the words of the command; the batch size decides what happens.
FAKE = """
    import os, sys, time
    sys.argv = ["benco"]  # as in the command line, nothing is registered and torch stays out
    from sparsevit_plugin.harness.child_process import serve

    state = {"size": 0, "slow": 1.0}

    def answer(question):
        if question["do"] == "build":
            words = question["words"]
            state["fail"] = words[words.index("--seed") + 1] if "--seed" in words else ""
            state["slow"] = 4.0 if "64" in words else 1.0
            assert question["mode"] in ("inference", "training")
            if state["fail"] == "1":
                raise ValueError("cannot be built")
            return {"threads": 7, "kernels": {"matmul": "onednn"}}
        size = state["size"] = question.get("batch_size", state["size"])
        fail = state["fail"] if size == 2 else ""
        if question["do"] == "prepare":
            if fail == "2":
                raise MemoryError
            if fail == "3":
                os._exit(5)
            if fail == "4":
                raise ValueError("one at a time")
            if fail == "5":
                time.sleep(60)
            return {"held_bytes": 8.0, "call_bytes": float("nan"), "warm_up": 3, "settled": True}
        if fail == "6":
            os._exit(6)
        return {"seconds": [state["slow"] * size * (i + 1) for i in range(question["calls"])]}

    serve(answer)
"""


@pytest.fixture
def models(tmp_path) -> str:
    path = tmp_path / f"{tmp_path.name}.py"  # a module of its own in every test
    path.write_text(textwrap.dedent(MODELS))
    return str(path)


@pytest.fixture
def fake(tmp_path, monkeypatch) -> None:
    (tmp_path / "fake_child.py").write_text(textwrap.dedent(FAKE))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(measured_cost, "_CHILD", "fake_child")
    monkeypatch.setattr(measured_cost, "_kernels", lambda *_: {"matmul": "onednn"})


def subject(*words: str, size: int = 32, **more) -> Subject:
    register_plain_convolution()
    return Subject("PlainConvolution", size, device="cpu", words=words, **more)


def build(of: Subject, mode: str = "inference") -> Worker:
    worker = Worker()
    words = of.command()
    worker.answer({"do": "build", "words": words, "threads": None, "mode": mode})
    return worker


def told(models: str, *words: str, **more) -> Subject:
    return Subject("CostsAsTold", 32, device="cpu", imports=(models,), words=words, **more)


def prepared(worker: Worker, size: int = 1) -> dict:
    return worker.answer({"do": "prepare", "batch_size": size})


# --- the measuring process -----------------------------------------------------------------------

on_linux = pytest.mark.skipif(
    not cost_child.ResidentMemory.is_known(), reason="this system keeps no peak that can be reset"
)


@on_linux
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_memory_of_a_call_is_what_the_model_allocates(models, mode):
    answer = prepared(build(told(models, "--mib", "64"), mode))
    assert answer["call_bytes"] == pytest.approx(64 * MIB, rel=0.1)


@on_linux
def test_memory_that_is_held_is_the_weights(models):
    answer = prepared(build(told(models, "--weights-mib", "96")))
    assert answer["held_bytes"] == pytest.approx(96 * MIB, rel=0.1)
    assert answer["call_bytes"] < 10 * MIB
    answer = prepared(build(told(models, "--weights-mib", "96"), "training"))
    assert answer["held_bytes"] == pytest.approx(96 * MIB, rel=0.1), "gradients are let go"
    assert answer["call_bytes"] > 95 * MIB, "gradients are of the step"  # but for a page or so


def test_a_call_takes_as_long_as_the_model_sleeps(models):
    worker = build(told(models, "--sleep", "0.02"))
    prepared(worker, 2)
    seconds = worker.answer({"do": "run", "calls": 3})["seconds"]
    assert len(seconds) == 3
    assert min(seconds) >= 0.02


def test_a_model_without_a_loss_has_no_training_step():
    worker = build(Subject("AllTampered", 32, device="cpu"), "training")
    with pytest.raises(UserError, match="no loss"):
        prepared(worker)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_training_steps_run_in_fabrics_precisions(precision):
    answer = prepared(build(subject(precision=precision), "training"), 2)
    assert answer["warm_up"] >= 3


def test_a_training_step_needs_pytorch_and_a_precision_to_train_in():
    with pytest.raises(UserError, match="torch bf16 only predicts"):
        build(subject(precision="bf16"), "training")
    with pytest.raises(UserError, match="openvino 32 only predicts"):
        build(subject(backend="openvino"), "training")


def test_warm_up_ends_when_the_last_three_agree():
    times = iter([9.0, 2.0, 1.0, 1.02, 1.01])
    assert warmed_up(lambda: next(times)) == (5, True)
    growing = iter(range(1, 100))
    assert warmed_up(lambda: float(next(growing) ** 2)) == (10, False)


# --- processes together --------------------------------------------------------------------------


def test_a_real_model_in_turns_with_itself_asleep(models):
    """The whole way: the reference sleeps 40 ms, the model does not; two images are too many."""

    steps = []
    settings = Settings(batch_sizes=(1, 2, 4), repeats=3, timeout=300)
    cost = measure(
        told(models, "--most", "1", threads=1),
        settings,
        told(models, "--sleep", "0.04"),
        lambda: steps.append(1),
    )
    assert len(steps) == settings.steps == 3
    assert (cost.model, cost.image_size, cost.threads) == ("CostsAsTold", 32, 1)
    assert (cost.backend, cost.precision, cost.reference) == ("torch", "32", "CostsAsTold")
    one, two, four = cost.measurements
    assert one.seconds_low <= one.seconds <= one.seconds_high
    assert one.repeats == 3
    assert one.images_per_second == 1 / one.seconds
    assert 0 < one.ratio_low <= one.ratio <= one.ratio_high < 1
    assert math.isnan(two.seconds)
    assert two.reason == "out of memory"
    assert four.reason == "not tried after batch 2: out of memory"


@pytest.mark.usefixtures("fake")
def test_medians_quartiles_and_ratios():
    settings = Settings(batch_sizes=(1, 2), repeats=10, training=True)
    cost = measure(subject(size=64), settings, subject())
    assert [(one.mode, one.batch_size) for one in cost.measurements] == [
        (mode, size) for mode in ("inference", "training") for size in (1, 2)
    ]
    two = cost.of("inference", 2)
    # Five turns of two calls, each of 8 and 16 seconds.
    assert (two.seconds_low, two.seconds, two.seconds_high) == (8, 12, 16)
    assert (two.ratio_low, two.ratio, two.ratio_high) == (4, 4, 4)
    assert two.images_per_second == 2 / 12
    assert (two.held_bytes, two.warm_up, two.settled) == (8, 3, True)
    assert math.isnan(two.peak_bytes)
    assert cost.threads == 7


@pytest.mark.usefixtures("fake")
def test_the_reference_itself_has_the_ratio_one():
    cost = measure(subject(), Settings(batch_sizes=(1,), repeats=1), subject())
    assert cost.measurements[0].ratio == 1
    assert math.isnan(measure(subject(), Settings((1,), repeats=1)).measurements[0].ratio)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("fail", "reasons"),
    [
        ("1", ["ValueError: cannot be built"] * 3),
        ("2", ["", "out of memory", "not tried after batch 2: out of memory"]),
        ("3", ["", "ended with code 5", "not tried after batch 2: ended with code 5"]),
        ("4", ["", "ValueError: one at a time", ""]),
        ("5", ["", "stopped after 5 s", "not tried after batch 2: stopped after 5 s"]),
        ("6", ["", "ended with code 6", "not tried after batch 2: ended with code 6"]),
    ],
)
def test_what_fails_is_nan_with_a_reason(fail, reasons):
    settings = Settings(batch_sizes=(1, 2, 4), repeats=2, timeout=5)
    cost = measure(subject("--seed", fail), settings)
    assert [one.reason for one in cost.measurements] == reasons
    assert [math.isnan(one.seconds) for one in cost.measurements] == [bool(r) for r in reasons]
    assert cost.reasons == tuple(dict.fromkeys(reason for reason in reasons if reason))


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("fail", ["1", "3", "6"])
def test_a_reference_that_fails_costs_the_ratio_alone(fail):
    settings = Settings(batch_sizes=(2,), repeats=2)
    one = measure(subject(), settings, subject("--seed", fail)).measurements[0]
    assert one.seconds == 2 * 1.0
    assert math.isnan(one.ratio)
    assert one.reason.startswith("no ratio, the reference failed: ")


def test_an_unknown_model_is_refused():
    with pytest.raises(UserError, match="SparseVit_tiny"):
        measure(Subject("SparseVit_tiny"), Settings())


# --- stored costs --------------------------------------------------------------------------------


def test_a_cost_comes_back_from_json():
    one = Measurement("inference", 2, seconds=0.5, held_bytes=3.0, reason="no ratio")
    kernels = {"inference": {"matmul": "mkl"}}
    versions = {"torch": "2"}
    cost = MeasuredCost("a", 64, "cpu", 2, "torch", "32", "b", versions, kernels, "now", (one,))
    text = json.dumps(cost.to_dict(), allow_nan=False)
    again = MeasuredCost.from_dict(json.loads(text))
    assert repr(again) == repr(cost)  # NaN is not equal to itself
    assert again.of("training", 8).reason == "not measured"


@pytest.mark.usefixtures("fake")
def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    settings = Settings(batch_sizes=(1,), repeats=2)
    folder = tmp_path / "costs"
    first = measure_stored(subject(), settings, None, folder)
    (file,) = folder.iterdir()
    assert file.name.startswith("PlainConvolution-32-")

    monkeypatch.setattr(measured_cost, "measure", pytest.fail)
    assert repr(measure_stored(subject(), settings, None, folder)) == repr(first)
    others = [
        (subject(size=64), settings, None),
        (subject("--spoil", "1"), settings, None),
        (subject(threads=3), settings, None),
        (subject(matmul="mkl"), settings, None),
        (subject(), Settings(batch_sizes=(1,), repeats=3), None),
        (subject(), settings, subject()),
    ]
    assert [stored_cost(*other, folder) for other in others] == [None] * len(others)

    for name, changed in (("sources_hash", "changed"), ("_kernels", {"matmul": "mkl"})):
        with monkeypatch.context() as patch:
            patch.setattr(measured_cost, name, lambda *_, changed=changed: changed)
            assert stored_cost(subject(), settings, None, folder) is None
    assert stored_cost(subject(), settings, None, folder) is not None
    file.write_text(file.read_text()[:-40])
    assert stored_cost(subject(), settings, None, folder) is None


@pytest.mark.usefixtures("fake")
def test_a_reference_in_other_words_is_still_the_reference():
    """As a stored row has it, with every argument by name."""
    named = replace(subject(), words=("--fit", "resize"))
    cost = measure(named, Settings(batch_sizes=(1,), repeats=2), subject())
    assert (cost.of("inference", 1).ratio, cost.of("inference", 1).ratio_low) == (1, 1)
    other = measure(subject(size=64), Settings(batch_sizes=(1,), repeats=2), subject())
    assert other.of("inference", 1).ratio > 1.5


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("fail", ["1", "2", "3", "4"])
def test_a_cost_with_a_reason_is_not_kept(fail, tmp_path):
    settings = Settings(batch_sizes=(1, 2), repeats=1)
    assert measure_stored(subject("--seed", fail), settings, None, tmp_path / "costs").reasons
    assert not (tmp_path / "costs").exists()


@pytest.mark.usefixtures("fake")
def test_a_stored_cost_with_a_reason_is_measured_again(tmp_path):
    settings = Settings(batch_sizes=(1,), repeats=1)
    measure_stored(subject(), settings, None, tmp_path / "costs")
    (file,) = (tmp_path / "costs").iterdir()
    content = json.loads(file.read_text())
    content["cost"]["measurements"][0]["reason"] = "ended with code 9"
    file.write_text(json.dumps(content))
    assert not measure_stored(subject(), settings, None, tmp_path / "costs").reasons


def test_the_kernels_are_those_that_the_process_answers():
    of = subject(matmul="onednn")
    question = {"do": "build", "words": of.command(), "threads": None, "mode": "inference"}
    found = measured_cost.kernels_of(of, ("inference", "training"))
    assert found["inference"] == Worker().answer(question)["kernels"]
    assert found["training"]["matmul"] == "onednn"


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_other_backends_compute_on_the_processor_and_without_kernels(monkeypatch, backend):
    """Also where there is a GPU, which `--device auto` means for PyTorch alone."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
    of = replace(subject(), device="auto", backend=backend)
    content = measured_cost._content(of, Settings(), None, measured_cost.kernels_of(of, MODES))
    assert (content["device"], content["kernels"]) == (processor_name(), {})
    by_torch = replace(of, backend="torch")
    assert measured_cost._content(by_torch, Settings(), None, {})["device"] == "a GPU"
    assert measured_cost.kernels_of(by_torch, MODES) == {}


def test_the_files_beside_the_class_are_part_of_the_key(models):
    def key() -> str:
        content = measured_cost._content(of, Settings(), None, {})
        return measured_cost._file(content, Path("x")).name

    of = told(models)
    before = key()
    assert key() == before
    Path(models).with_name("beside.py").write_text("a = 1\n")
    assert key() != before
