"""U-Net: the names and shapes of the hub's checkpoints, and the sizes that it takes."""

import pytest
import torch

from sparsevit_plugin.zoo.unet import Expansion, UNet
from tests.zoo.localisers import build, no_network

pytestmark = pytest.mark.usefixtures("no_network")
__all__ = ["no_network"]


def pair(prefix: str, before: int, behind: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of two normalised convolutions, as the hub's checkpoints have them."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, channels in ((0, before), (3, behind)):
        shapes[f"{prefix}.double_conv.{number}.weight"] = (behind, channels, 3, 3)
        for statistic in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{prefix}.double_conv.{number + 1}.{statistic}"] = (behind,)
        shapes[f"{prefix}.double_conv.{number + 1}.num_batches_tracked"] = ()
    return shapes


def hub_shapes() -> dict[str, tuple[int, ...]]:
    widths = (64, 128, 256, 512, 1024)
    shapes = pair("inc", 3, 64)
    for level in range(1, 5):
        shapes |= pair(f"down{level}.maxpool_conv.1", widths[level - 1], widths[level])
    for step in range(1, 5):
        before, behind = widths[5 - step], widths[4 - step]
        shapes[f"up{step}.up.weight"] = (before, behind, 2, 2)
        shapes[f"up{step}.up.bias"] = (behind,)
        shapes |= pair(f"up{step}.conv", before, behind)
    return shapes | {"outc.conv.weight": (2, 64, 1, 1), "outc.conv.bias": (2,)}


def test_the_names_and_shapes_of_the_hubs_checkpoints():
    shapes = {key: tuple(value.shape) for key, value in UNet().state_dict().items()}
    assert shapes == hub_shapes()


def test_a_checkpoint_of_the_hub_is_taken(tmp_path):
    torch.manual_seed(1)
    state = {key: value + 1 for key, value in UNet(width=8).state_dict().items()}
    torch.save({**state, "mask_values": [0, 1]}, tmp_path / "carvana.pth")
    model = build("unet", pretrained_path=str(tmp_path / "carvana.pth"))
    own = model.net.state_dict()
    assert set(own) == set(state) - {"outc.conv.bias"}
    assert all(torch.equal(own[k], state[k]) for k in own if not k.startswith("outc."))
    assert own["outc.conv.weight"].shape == (1, 8, 1, 1)


def test_a_pixel_sees_what_the_paper_says_it_does():
    """Convolutions and poolings of five levels: 140 pixels (the paper's 572 - 388 and up-paths)."""
    model = build("unet").eval()
    image = torch.zeros(1, 3, 512, 512)
    image[..., 250:262, 250:262] = torch.randn(1, 3, 12, 12)
    with torch.no_grad():
        changed = (model.logits(image) - model.logits(image * 0)).abs()[0, 0] > 0
    rows = changed.any(dim=1).nonzero()
    assert changed.any()
    assert rows.min() > 256 - 150
    assert rows.max() < 256 + 150


@pytest.mark.parametrize(("height", "width"), [(67, 93), (16, 31), (64, 40)])
def test_odd_sizes_come_back(height, width):
    model = UNet(classes=1, width=2).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, height, width)).shape == (1, 1, height, width)


def test_the_skipped_map_stands_before_the_raised_one():
    step = Expansion(4, 2).eval()
    with torch.no_grad():
        step.conv.double_conv[0].weight[:, :2] = 0  # deaf to the skipped map
        features = torch.randn(1, 4, 4, 4)
        first = step(features, torch.randn(1, 2, 8, 8))
        second = step(features, torch.randn(1, 2, 8, 8))
    assert torch.equal(first, second)
    assert first.std() > 0
