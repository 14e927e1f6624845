"""Small models that are counted, and counts of them in every way."""

import torch
from torch import nn

from sparsevit_plugin.complexity import count
from sparsevit_plugin.complexity.products import torch_products
from sparsevit_plugin.complexity.shapes import Inputs, on_fakes, on_meta
from tests.harness.helpers import PlainConvolution


def macs_of(module: nn.Module, *shape: int) -> int | None:
    return count(module, {"input": torch.zeros(shape)}).macs


def torch_macs(model: nn.Module, inputs: Inputs) -> int:
    return torch_products(model, inputs).macs


def counts(model: nn.Module, inputs: dict) -> list[int]:
    """Count by running the model, on the meta device, and with fake tensors."""
    model.eval()
    with torch.no_grad():
        return [
            torch_macs(model, inputs),
            on_meta(model, inputs, torch_macs),
            on_fakes(model, inputs, torch_macs),
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
