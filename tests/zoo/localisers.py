"""What the tests of the backbone baselines share: models from cards, inputs, the contract."""

import socket

import pytest
import torch
from torch import nn

from sparsevit_plugin.cards import load_model_card
from sparsevit_plugin.registration import get_model_class

OUTPUT = {"backward_loss", "pred_mask", "pred_label", "visual_loss", "visual_image"}


@pytest.fixture
def no_network(monkeypatch):
    """Make every connection and look-up of a name fail at once."""

    def refuse(*_args, **_kwargs):
        raise OSError("the network is blocked in this test")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)


def build(name: str, **arguments) -> nn.Module:
    """Build a card's model the least costly way, with random weights."""
    card = load_model_card(name)
    torch.manual_seed(1)
    weights = dict.fromkeys(card.weight_arguments)
    own = {**weights, **card.arguments, **card.smallest.arguments, **arguments}
    return get_model_class(card.model)(**own)


def side_of(name: str) -> int:
    return load_model_card(name).smallest.image_size


def make_item(side: int, batch: int = 2, width: int | None = None) -> dict:
    """A batch of noise with a rectangle each, as the harness gives it to a model."""
    shape = (side, width or side)
    draw = torch.Generator().manual_seed(side + batch)
    mask = torch.zeros(batch, 1, *shape)
    mask[..., : side // 2, : side // 4] = 1
    image = torch.randn(batch, 3, *shape, generator=draw)
    return {"image": image, "mask": mask, "label": torch.ones(batch, dtype=torch.long)}


def check_contract(model: nn.Module, side: int, width: int | None = None) -> None:
    """One training step that reaches every trainable parameter, then two equal predictions."""
    item = make_item(side, width=width)
    output = model.train()(**item, if_predcit_label=False)
    assert output.keys() == OUTPUT
    assert output["backward_loss"].shape == ()
    assert torch.isfinite(output["backward_loss"])
    output["backward_loss"].backward()
    unreached = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert unreached == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    torch.optim.SGD(model.parameters(), 1e-3).step()

    model.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        first, second = model(**item), model(**item)
        bare = model(item["image"])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    scores = first["pred_mask"]
    assert scores.shape == item["mask"].shape
    assert scores.dtype == torch.float32
    assert torch.isfinite(scores).all()
    assert 0 <= scores.min() < scores.max() <= 1
    assert first["pred_label"] is None
    assert torch.equal(scores, second["pred_mask"])
    assert torch.equal(scores, bare["pred_mask"])
    assert bare["backward_loss"] is None
    expected = nn.functional.binary_cross_entropy(scores, item["mask"])
    torch.testing.assert_close(first["backward_loss"], expected, rtol=1e-4, atol=1e-6)
