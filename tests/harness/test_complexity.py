"""Counts of configurations: their models' own input, and the folder of earlier counts."""

import dataclasses
import functools
import importlib
import json
from pathlib import Path

import pytest
import torch

from sparsevit_plugin.complexity.shapes import by_shape, on_fakes
from sparsevit_plugin.harness import complexity
from sparsevit_plugin.harness.complexity import cached_count, count_config, example_inputs
from sparsevit_plugin.harness.config import Config, resolve
from sparsevit_plugin.harness.pipeline import build_model
from sparsevit_plugin.harness.sources import read_source
from tests.complexity.helpers import Fails, torch_macs
from tests.harness.helpers import TINY, PlainConvolution, register_plain_convolution


def tiny_config(*flags: str) -> Config:
    return resolve("test", [*TINY, "--test-data-path", "unused", *flags])


@pytest.mark.parametrize("name", ["SparseViT_tiny", "PlainConvolution"])
def test_shapes_alone_count_what_a_run_counts(name):
    register_plain_convolution()
    cfg = dataclasses.replace(tiny_config(), image_size=64)
    model = build_model(cfg) if name == "SparseViT_tiny" else PlainConvolution()
    inputs = example_inputs(cfg)
    with torch.no_grad():
        real = torch_macs(model.eval(), inputs)
        assert real == by_shape(model, inputs, torch_macs) == on_fakes(model, inputs, torch_macs)
    assert real > 0


def test_sparsevit_at_512_has_the_counts_of_imdlbencos_forward():
    """92.1 GFLOPs by this counter, and 50.25 M parameters without those that upstream never uses.

    Exactly: 92 067 069 952 and 50 245 697, the first equal to that of IMDLBenCo's own class.
    """
    cfg = resolve("test", ["--model", "SparseViT", "--test-data-path", "unused"])
    found = count_config(cfg)
    assert found.image_size == 512
    assert found.macs is not None
    assert 2 * found.macs / 1e9 == pytest.approx(92.1, abs=0.05)
    assert found.parameters / 1e6 == pytest.approx(50.25, abs=0.005)


def test_inputs_are_those_of_a_test_whether_made_up_or_real(tiny_set):
    cfg = tiny_config("--edge-mask-width", "3")
    made = example_inputs(cfg)
    (source,) = read_source(tiny_set).values()
    real = example_inputs(cfg, source)
    assert made.keys() == real.keys()
    assert {"image", "mask", "edge_mask", "label", "shape"} <= made.keys()
    assert made["image"].shape == real["image"].shape == (1, 3, 32, 32)
    assert real["name"] != made["name"]
    assert not torch.equal(made["image"], real["image"])


def test_a_count_is_read_back_without_building_the_model(tmp_path, monkeypatch):
    first = cached_count(tiny_config(), tmp_path)
    monkeypatch.setattr(complexity, "build_model", lambda cfg: pytest.fail("built again"))
    assert cached_count(tiny_config(), tmp_path) == first
    assert first.macs is not None


@pytest.mark.parametrize(
    "flags", [["--image-size", "64"], ["--fit", "pad"], ["--depth", "1,1,4,2"]]
)
def test_what_changes_a_count_makes_another_file(tmp_path, flags):
    cached_count(tiny_config(), tmp_path)
    words = [word for word in TINY if word != "--if-resizing"] if "--fit" in flags else [*TINY]
    if "--image-size" in flags:
        words[words.index("--image-size") + 1] = "64"
        flags = []
    cached_count(resolve("test", [*words, "--test-data-path", "unused", *flags]), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_weights_file_or_another_version_of_torch(tmp_path, monkeypatch):
    cached_count(tiny_config(), tmp_path)
    small = ["--model", "SparseViT_small", "--image-size", "32", "--test-data-path", "unused"]
    contents = [
        complexity._content(resolve("test", [*small, *weights]))
        for weights in ([], ["--pretrained-path", "some.pth"])
    ]
    assert contents[0] == contents[1]
    monkeypatch.setattr(complexity, "installed_version", lambda name: "another")
    cached_count(tiny_config(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_changed_file_beside_the_models_makes_another_count(tmp_path, monkeypatch):
    package = tmp_path / "forensics_of_mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "width.py").write_text("WIDTH = 3\n")
    (package / "model.py").write_text("class Mine:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    constructor = functools.partial(importlib.import_module("forensics_of_mine.model").Mine, 1)
    before = complexity.sources_hash(constructor)
    assert complexity.sources_hash(constructor) == before
    (package / "width.py").write_text("WIDTH = 8\n")
    changed = complexity.sources_hash(constructor)
    assert changed != before
    # What an editor leaves beside a file, and what only looks like one.
    (package / ".#model.py").symlink_to("nowhere")
    (package / "folder.py").mkdir()
    assert complexity.sources_hash(constructor) == changed
    assert complexity.sources_hash(int) == ""


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"complexity": {"macs": 1}}', "\x00"])
def test_a_damaged_file_is_made_again(tmp_path, damage):
    whole = cached_count(tiny_config(), tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(damage)
    assert cached_count(tiny_config(), tmp_path) == whole
    assert json.loads(file.read_text())["complexity"] == whole.to_dict()


def test_a_failure_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(complexity, "build_model", lambda cfg: Fails())
    assert cached_count(tiny_config(), tmp_path / "new").macs is None
    assert not Path(tmp_path / "new").exists()
