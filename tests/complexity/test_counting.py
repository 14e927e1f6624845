"""Parameters and multiply-accumulates, against closed forms and against counts of a real run."""

import json

import pytest
import torch
from torch import nn

from sparsevit_plugin.complexity import TORCH_COUNTER, Complexity, count
from sparsevit_plugin.complexity.shapes import on_fakes, on_meta
from tests.complexity.helpers import (
    Fails,
    MixesDevices,
    NeedsValues,
    SelfAttention,
    counts,
    macs_of,
    torch_macs,
)
from tests.harness.helpers import PlainConvolution


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


def test_a_model_that_needs_values_is_run():
    image = torch.zeros(1, 3, 10, 12)
    found = count(NeedsValues(), {"image": image})
    same = count(PlainConvolution(), {"image": image})
    assert (found.macs, found.live_parameters) == (same.macs, same.live_parameters)
    assert found.macs == 10 * 12 * 9 * 3
    assert found.not_counted == {"reductions": {"aten.sum": 1}}
    assert found.image_size == 12


def test_a_model_that_mixes_devices_is_counted_by_shape_too():
    image = torch.zeros(1, 3, 10, 12)
    model = MixesDevices()
    with pytest.raises(RuntimeError):
        on_meta(model, {"image": image}, torch_macs)
    found = on_fakes(model, {"image": image}, torch_macs)
    assert count(model, {"image": image}).macs == found == 10 * 12 * 9 * 3
    assert model.scale.device.type == "cpu"


def test_a_failing_model_has_parameters_and_a_reason():
    found = count(Fails(), {"image": torch.zeros(1, 3, 8, 8)})
    reason = "the forward pass failed: RuntimeError: no luck"
    assert found == Complexity(28, None, TORCH_COUNTER, 8, reason, memory_reason=reason)
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
