"""What PyTorch's counter finds, what it leaves out, and where in a model it is."""

import math

import pytest
import torch
from torch import nn

from sparsevit_plugin.complexity import count
from sparsevit_plugin.complexity.columns import EXPECTED_GROUPS
from sparsevit_plugin.complexity.groups import group_of, grouped
from sparsevit_plugin.complexity.modules import module_rows
from sparsevit_plugin.complexity.products import fourier_flops, torch_products


class Spectrum(nn.Module):
    """A Fourier transform there and back, and a product."""

    def __init__(self, there, back):
        super().__init__()
        self.there, self.back = there, back
        self.weight = nn.Parameter(torch.ones(8, 8))

    def forward(self, image):
        return self.back(self.there(image)) @ self.weight


class Vectors(nn.Module):
    def forward(self, matrix, vector):
        return torch.dot(matrix @ vector, torch.addmv(vector, matrix, vector))


class Nest(nn.Module):
    """A list of layers that is not called itself, and one layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 6)])
        self.twice = nn.Linear(6, 6, bias=False)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.twice(self.twice(x))


@pytest.mark.parametrize(
    ("there", "back", "names", "factor"),
    [
        (torch.fft.fft2, lambda x: torch.fft.ifft2(x).real, {"aten._fft_c2c": 2}, 10),
        (torch.fft.rfft2, torch.fft.irfft2, {"aten._fft_c2r": 1, "aten._fft_r2c": 1}, 5),
    ],
)
def test_fourier_transforms_are_estimated_apart_and_listed(there, back, names, factor):
    found = count(Spectrum(there, back), {"image": torch.zeros(3, 4, 8)})
    assert found.macs == 3 * 4 * 8 * 8
    assert found.not_counted["fourier"] == names
    assert found.fourier_flops == factor * 3 * 32 * math.log2(32)
    assert not found.not_counted.keys() <= EXPECTED_GROUPS


def test_the_estimate_is_that_of_fftw():
    assert fourier_flops([1024], 1, real=False) == 5 * 1024 * 10
    assert fourier_flops([32, 32], 3, real=True) == 3 * 2.5 * 1024 * 10
    assert fourier_flops([1], 1, real=False) == 0


def test_products_of_vectors_are_counted():
    inputs = {"matrix": torch.zeros(5, 5), "vector": torch.zeros(5)}
    found = torch_products(Vectors(), inputs)
    assert found.by_operation == {"aten.mv": 25, "aten.addmv": 25, "aten.dot": 5}
    assert (found.macs, found.flops) == (55, 110)


def test_modules_have_their_own_macs_and_those_of_their_parts():
    model = Nest()
    found = count(model, {"x": torch.zeros(2, 4)})
    rows = {row["model"]: row for row in module_rows(model, found, depth=2)}
    assert {name: row["macs"] for name, row in rows.items()} == {
        "(whole model)": 2 * (16 + 24 + 72),
        "layers": 2 * 40,
        "layers.0": 2 * 16,
        "layers.1": 2 * 24,
        "twice": 2 * 72,
    }
    assert rows["layers"]["parameters"] == 16 + 4 + 24 + 6
    assert rows["twice"]["share"] == pytest.approx(100 * 72 / 112)
    assert [row["model"] for row in module_rows(model, found, depth=0)] == ["(whole model)"]


def test_every_kind_of_work_has_a_group_and_unknown_operations_are_their_own():
    assert group_of("aten.bmm") == group_of("aten::scaled_dot_product_attention") == "products"
    assert group_of("aten._fft_r2c") == "fourier"
    assert group_of("aten.native_layer_norm") == "normalisation"
    assert group_of("aten.linalg_vector_norm") == "reductions"
    assert group_of("aten.max_pool2d_with_indices") == "pooling"
    assert group_of("torchvision.deform_conv2d") == "torchvision.deform_conv2d"
    assert group_of("aten.some_new_thing") == "aten.some_new_thing"
    for light in ("aten.gelu", "aten::add_", "aten.view", "aten.cat", "prim.device", "aten.clone"):
        assert group_of(light) is None
    calls = {"aten.mul": 9, "aten.sum": 2, "aten.amax": 1}
    assert grouped(calls) == {"reductions": {"aten.amax": 1, "aten.sum": 2}}
