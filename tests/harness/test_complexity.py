"""Parameters and multiply-accumulates, against closed forms and against counts of a real run."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsevit_plugin.harness import complexity
from sparsevit_plugin.harness.complexity import (
    TORCH_COUNTER,
    Complexity,
    cached_count,
    count,
    count_config,
    example_inputs,
)
from sparsevit_plugin.harness.config import Config, resolve
from sparsevit_plugin.harness.pipeline import build_model
from sparsevit_plugin.harness.sources import read_source
from tests.harness.helpers import TINY, PlainConvolution, register_plain_convolution


def tiny_config(*flags: str) -> Config:
    return resolve("test", [*TINY, "--test-data-path", "unused", *flags])


def macs_of(module: nn.Module, *shape: int) -> int | None:
    return count(module, {"input": torch.zeros(shape)}).macs


def counts(model: nn.Module, inputs: dict) -> list[int]:
    """Count by running the model, on the meta device, and with fake tensors."""
    model.eval()
    by_torch = complexity._torch_macs
    with torch.no_grad():
        return [
            by_torch(model, inputs),
            complexity._count_on_meta(model, inputs, by_torch),
            complexity._count_on_fakes(model, inputs, by_torch),
        ]


class MixesDevices(PlainConvolution):
    """Makes a tensor on the CPU and keeps another that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(1, 3, 1, 1)

    def forward(self, image, *args, **kwargs):
        with torch.autocast(image.device.type, enabled=False):
            return super().forward(image * self.scale + torch.zeros(3, 1, 1, device="cpu"))


class NeedsValues(PlainConvolution):
    """Reads a number from its input, which has none on the meta device."""

    def forward(self, image, *args, **kwargs):
        if image.sum().item() > 1e9:
            raise AssertionError
        return super().forward(image)


class Fails(PlainConvolution):
    def forward(self, image, *args, **kwargs):
        raise RuntimeError("no\nluck")


class SelfAttention(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, input):
        return self.attention(input, input, input, need_weights=False)


def test_a_linear_layer_has_rows_x_inputs_x_outputs():
    assert macs_of(nn.Linear(5, 7), 4, 3, 5) == 4 * 3 * 5 * 7


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 2), (2, 4)])
def test_a_convolution_has_outputs_x_window_x_channels_of_its_group(stride, groups):
    layer = nn.Conv2d(4, 8, 3, stride=stride, groups=groups)
    height, width = (11 - 3) // stride + 1, (9 - 3) // stride + 1
    assert macs_of(layer, 2, 4, 11, 9) == 2 * height * width * 8 * 9 * 4 // groups


def test_attention_has_four_projections_and_two_products():
    N, C = 6, 8  # tokens, channels
    assert macs_of(SelfAttention(C, heads=2), 1, N, C) == 4 * N * C * C + 2 * N * N * C


def test_what_is_fused_on_the_cpu_is_counted_there_too():
    N, C, F = 6, 8, 10
    layer = nn.TransformerEncoderLayer(C, 2, F, batch_first=True)
    wanted = 4 * N * C * C + 2 * N * N * C + 2 * N * C * F
    assert counts(layer, {"src": torch.zeros(1, N, C)}) == [wanted] * 3
    recurrent = nn.LSTM(4, 5)
    wanted = 3 * 4 * 5 * (4 + 5)  # three steps, four gates
    assert counts(recurrent, {"input": torch.zeros(3, 1, 4)}) == [wanted] * 3


@pytest.mark.parametrize("name", ["SparseViT_tiny", "PlainConvolution"])
def test_shapes_alone_count_what_a_run_counts(name):
    register_plain_convolution()
    cfg = dataclasses.replace(tiny_config(), image_size=64)
    model = build_model(cfg) if name == "SparseViT_tiny" else PlainConvolution()
    real, meta, fake = counts(model, example_inputs(cfg))
    assert real == meta == fake > 0


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


def test_a_model_that_needs_values_is_run():
    image = torch.zeros(1, 3, 10, 12)
    found = count(NeedsValues(), {"image": image})
    assert found == count(PlainConvolution(), {"image": image})
    assert found.macs == 10 * 12 * 9 * 3
    assert found.image_size == 12


def test_a_model_that_mixes_devices_is_counted_by_shape_too():
    image = torch.zeros(1, 3, 10, 12)
    model = MixesDevices()
    with pytest.raises(RuntimeError):
        complexity._count_on_meta(model, {"image": image}, complexity._torch_macs)
    found = complexity._count_on_fakes(model, {"image": image}, complexity._torch_macs)
    assert count(model, {"image": image}).macs == found == 10 * 12 * 9 * 3
    assert model.scale.device.type == "cpu"


def test_a_failing_model_has_parameters_and_a_reason():
    found = count(Fails(), {"image": torch.zeros(1, 3, 8, 8)})
    reason = "the forward pass failed: RuntimeError: no luck"
    assert found == Complexity(28, None, TORCH_COUNTER, 8, reason)
    assert json.loads(json.dumps(found.to_dict()))["macs"] is None


def test_parameters_count_unused_ones_and_shared_ones_once():
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, layer)
    model.unused = nn.Parameter(torch.zeros(5))
    assert count(model, {"input": torch.zeros(1, 3)}).parameters == 3 * 3 + 3 + 5
    assert macs_of(model, 1, 3) == 2 * 9


@pytest.mark.parametrize("kind", [PlainConvolution, MixesDevices, NeedsValues])
def test_a_counted_model_is_left_as_it_was(kind):
    model = nn.ModuleDict({"net": kind(), "norm": nn.BatchNorm2d(3)})
    net = model["net"]
    net.norm = model["norm"]
    net.train()
    net.norm.eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    random = torch.get_rng_state()
    count(net, {"image": torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))})
    assert net.training
    assert not net.norm.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(not parameter.is_meta for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mkldnn.enabled


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
