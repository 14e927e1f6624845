"""Equality with IMDLBenCo's own SparseViT, all scales and statistics drawn at random."""

import pytest
import torch

from sparsevit_plugin.model.sparsevit import SparseViT

from .conftest import randomised

TOLERANCE = 1e-4


def ours_with(state, **arguments):
    model = SparseViT(**arguments).eval()
    names = model.state_dict().keys()
    model.load_state_dict({key: value for key, value in state.items() if key in names})
    return model


def sample(side, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(1, 3, side, side, generator=generator)
    mask = (torch.rand(1, 1, side, side, generator=generator) > 0.7).float()
    return image, mask


@pytest.fixture(scope="module")
def pair(make_upstream, upstream_state):
    upstream = make_upstream()
    upstream.load_state_dict(upstream_state)
    return ours_with(upstream_state), upstream


def test_parameters_are_upstreams_without_the_dead_ones(pair):
    ours, upstream = (model.state_dict() for model in pair)
    assert all(upstream[key].shape == value.shape for key, value in ours.items())
    dead = upstream.keys() - ours.keys()
    assert len(dead) == 27 * 2 + 4
    assert all(".pos_embed." in key or key.startswith("encoder_net.norm") for key in dead)


@pytest.mark.slow
def test_forward_and_gradients_at_512(pair):
    """BatchNorm and stochastic depth are in evaluation mode.

    A gradient tensor may differ by 1e-4 of its own largest value, or by 1e-4 where that is below 1.
    """
    image, mask = sample(512)
    outputs = []
    for model in pair:
        model.zero_grad()
        outputs.append(model(image, mask))
        outputs[-1]["backward_loss"].backward()
    ours, upstream = outputs
    assert upstream["pred_mask"].std() > 0.01
    torch.testing.assert_close(ours["pred_mask"], upstream["pred_mask"], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(
        ours["backward_loss"], upstream["backward_loss"], rtol=0, atol=TOLERANCE
    )
    expected = {name: tensor.grad for name, tensor in pair[1].named_parameters()}
    for name, tensor in pair[0].named_parameters():
        scale = max(1.0, expected[name].abs().max().item())
        assert (tensor.grad - expected[name]).abs().max() <= TOLERANCE * scale, name
        assert tensor.grad.abs().max() > 0, name
    assert ours.keys() == upstream.keys()
    assert ours["visual_loss"].keys() == upstream["visual_loss"].keys()


@pytest.mark.slow
def test_group_reading_is_upstreams_at_1024(make_upstream):
    """Fewer blocks than published, to be quick, but with every rate and every tap."""
    image, mask = sample(1024)
    upstream = make_upstream(img_size=1024, depth=[1, 1, 16, 5])
    state = randomised(upstream.state_dict(), seed=11)
    upstream.load_state_dict(state)
    rates = {"s_blocks3": (8,) * 5 + (4,) * 5 + (2,) * 5 + (1,), "s_blocks4": (2,) * 4 + (1,)}
    ours = ours_with(state, depth=(1, 1, 16, 5), sparsity="group", **rates)
    with torch.inference_mode():
        actual, expected = ours(image)["pred_mask"], upstream(image, mask)["pred_mask"]
    assert expected.std() > 0.01
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)
    sizes = ours.group_sizes(1024, 1024)
    assert {(size.rate, size.largest) for size in sizes[:16]} == {
        (8, 16),
        (4, 64),
        (2, 256),
        (1, 1024),
    }
    assert {(size.rate, size.largest) for size in sizes[16:]} == {(2, 64), (1, 256)}
