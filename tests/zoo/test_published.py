"""The published baselines build, train and predict offline, and equal upstream's if asked to."""

import socket

import pytest
import torch

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.config import resolve
from sparsevit_plugin.registration import register_all

from .published import (
    NAMES,
    build,
    build_upstream,
    card_of,
    make_item,
    smallest,
    upstreams_way,
)

OUTPUT = {"backward_loss", "pred_mask", "pred_label", "visual_loss", "visual_image"}
SCORES_IMAGES = {"MVSSNet", "PSCC_Net", "Trufor"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("no network in tests")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)


def check_map(tensor: torch.Tensor, side: int, batch: int) -> None:
    assert tensor.shape == (batch, 1, side, side)
    assert tensor.dtype == torch.float32
    assert torch.isfinite(tensor).all()
    assert tensor.min() >= 0
    assert tensor.max() <= 1
    assert tensor.std() > 0


def check_model(model: torch.nn.Module, name: str, side: int) -> None:
    """One training step, then two predictions."""
    item = make_item(side)
    output = model.train()(**item)
    assert output.keys() == OUTPUT
    assert output["backward_loss"].shape == ()
    assert torch.isfinite(output["backward_loss"])
    check_map(output["pred_mask"], side, 2)
    output["backward_loss"].backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert sum(bool(gradient.any()) for gradient in gradients) > len(gradients) / 2
    model.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        first, second = model(**item), model(**item)
    check_map(first["pred_mask"], side, 2)
    assert torch.equal(first["pred_mask"], second["pred_mask"])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    if name in SCORES_IMAGES:
        assert first["pred_label"].shape == (2,)
        assert ((first["pred_label"] >= 0) & (first["pred_label"] <= 1)).all()
    else:
        assert first["pred_label"] is None
    assert all(value.numel() == 1 for value in first["visual_loss"].values())


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_a_step_and_predicts_the_same_map_twice(name):
    model = build(name)
    check_model(model, name, smallest(name)[0])


@pytest.mark.parametrize("name", NAMES)
def test_upstreams_way_equals_upstream_in_map_loss_gradient_and_keys(name):
    side = smallest(name)[0]
    ours = build(name, **upstreams_way(name))
    state = {key: value.clone() for key, value in ours.state_dict().items()}
    upstream = build_upstream(name, state)
    assert list(upstream.state_dict()) == list(state)
    item = make_item(side)
    outputs = []
    for model in (ours, upstream):
        model.eval()
        torch.manual_seed(3)  # SPAN's random layers
        output = model(**{k: v.clone() if torch.is_tensor(v) else v for k, v in item.items()})
        output["backward_loss"].backward()
        outputs.append(output)
    mine, theirs = outputs
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(mine["pred_mask"], theirs["pred_mask"], **close)
    torch.testing.assert_close(mine["backward_loss"], theirs["backward_loss"], **close)
    assert (mine["pred_label"] is None) == (theirs["pred_label"] is None)
    if mine["pred_label"] is not None:
        torch.testing.assert_close(mine["pred_label"], theirs["pred_label"], **close)
    expected = dict(upstream.named_parameters())
    for key, parameter in ours.named_parameters():
        assert parameter.requires_grad == expected[key].requires_grad
        assert (parameter.grad is None) == (expected[key].grad is None), key
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[key].grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_it_predicts_without_ground_truth(name):
    side = smallest(name)[0]
    model = build(name).eval()
    with torch.no_grad():
        bare = model(image=make_item(side, batch=1)["image"])
        full = model(**make_item(side, batch=1))
    assert bare["backward_loss"] is None
    check_map(bare["pred_mask"], side, 1)
    assert torch.equal(bare["pred_mask"], full["pred_mask"])
    if name in SCORES_IMAGES:
        assert bare["pred_label"].shape == full["pred_label"].shape == (1,)


@pytest.mark.parametrize("name", ["IML_ViT", "MSCDI_Net", "MVSSNet"])
def test_training_without_an_edge_mask_says_which_flag_is_missing(name):
    item = make_item(smallest(name)[0], edge=False)
    with pytest.raises(UserError, match=rf"{name} trains with edge_mask; pass --edge-mask-width 7"):
        build(name)(**item)


@pytest.mark.parametrize("name", ["IML_ViT", "ObjectFormer", "PSCC_Net", "Mesorch"])
def test_another_size_than_it_was_built_for_is_one_line(name):
    side = smallest(name)[0]
    with pytest.raises(
        UserError, match=rf"built for {side} x {side} images \(\w+_size\), not 128 x 128"
    ):
        build(name)(**make_item(128))


def test_mscdi_net_takes_sides_that_its_windows_divide():
    from sparsevit_plugin.zoo.mscdi_net import MSCDI_Net

    model = MSCDI_Net(backbone="mit_bit2").eval()
    with torch.no_grad():
        check_map(model(**make_item(256, batch=1))["pred_mask"], 256, 1)
    with pytest.raises(UserError, match="multiples of 256, not 128 x 128; with --glca 0"):
        model(**make_item(128))
    with pytest.raises(UserError, match="fusion_mode 0 takes no noise model"):
        MSCDI_Net(noise_model="SRM", fusion_mode=0)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("MVSSNet", {"label_loss": "x"}),
        ("MSCDI_Net", {"noise_model": "x"}),
        ("MSCDI_Net", {"ff_domain": 1}),
        ("MantraNet", {"loss": "x"}),
        ("SPAN", {"last_layer": "x"}),
        ("SPAN", {"attention": "x"}),
        ("Trufor", {"input_range": "x"}),
        ("Trufor", {"noiseprint": "x"}),
        ("Trufor", {"pretrain_branches": "x"}),
        ("Trufor", {"pred_label": "x"}),
        ("Trufor", {"detection": "x"}),
    ],
)
def test_an_unknown_choice_is_one_line(name, arguments):
    ((argument, value),) = arguments.items()
    with pytest.raises(UserError, match=rf'^{argument}: unknown value "{value}"'):
        build(name, **arguments)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_and_its_recipe_load_with_full_numbers(name):
    card = card_of(name)
    assert register_all()[name].source.startswith("sparsevit-plugin")
    cfg = resolve("train", ["--model", name, "--data-path", "x", "--weights", "none"])
    assert (cfg.image_size, cfg.fit, cfg.precision) == (card.image_size, card.fit, card.precision)
    assert cfg.edge_mask_width == card.edge_mask_width
    assert cfg.no_model_eval is not card.eval_mode
    assert cfg.select == "val"
    assert cfg.recipe_file.name == f"benco-{name.lower()}" or name in ("ObjectFormer", "MantraNet")
    assert cfg.recipe_file.effective_batch
    sizes = {"input_size", "image_size"} & cfg.model_arguments.keys()
    assert all(cfg.model_arguments[argument] == card.image_size for argument in sizes)
    for argument in card.weight_arguments:
        assert cfg.model_arguments[argument] is None


@pytest.mark.zoo_full
@pytest.mark.parametrize("name", NAMES)
def test_it_trains_and_predicts_at_its_cards_size(name):
    from sparsevit_plugin.registration import get_model_class

    card = card_of(name)
    cfg = resolve("train", ["--model", name, "--data-path", "x", "--weights", "none"])
    model = get_model_class(name)(**cfg.model_arguments)
    check_model(model, name, card.image_size)
