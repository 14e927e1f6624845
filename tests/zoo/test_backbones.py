"""The 36 backbone baselines build, train and predict offline, and equal IMDLBenCo's."""

import importlib
import random
import re

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from sparsevit_plugin.cards import load_model_card
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.complexity import count
from sparsevit_plugin.registration import get_model_class, register_all
from sparsevit_plugin.zoo.backbones import FAMILIES, MODELS
from sparsevit_plugin.zoo.extractors import DCT, EXTRACTORS, FFT, Bayar, Sobel
from sparsevit_plugin.zoo.offline import offline, replaced
from sparsevit_plugin.zoo.unet import UNet
from tests.zoo.localisers import build, check_contract, make_item, no_network, side_of

pytestmark = pytest.mark.usefixtures("no_network")
__all__ = ["no_network"]

UPSTREAM = "IMDLBenCo.modules"
FIXED_AT_512 = ("swin", "vit", "vit16")


def family_of(name: str) -> str:
    return name.rpartition("_")[2]


def sample() -> list[str]:
    """Each family once and each extractor once (and one family without), by a fixed seed."""
    extractors = ["", *EXTRACTORS]
    random.Random(5).shuffle(extractors)
    return [f"{e}_{f}".lstrip("_") for e, f in zip(extractors, FAMILIES, strict=True)]


SAMPLE = sample()
REST = [name for name in MODELS if name not in SAMPLE]
SAMPLE_AND_REST = [*SAMPLE, *(pytest.param(name, marks=pytest.mark.zoo_full) for name in REST)]


def test_every_name_of_upstream_is_ours_and_has_a_card():
    prefixes = ("", "sobel_", "srm_", "bayar_", "fft_", "dct_")
    families = ("resnet", "segformer", "swin", "unet", "vit", "vit16")
    names = {prefix + family for prefix in prefixes for family in families}
    assert names == set(MODELS)
    registered = register_all()
    for name in names:
        assert hasattr(importlib.import_module(f"{UPSTREAM}.backbones.{family_of(name)}"), name)
        assert registered[name].constructor is MODELS[name]
        card = load_model_card(name)
        assert (card.model, card.recipe, card.fit) == (name, "benco-backbone", "resize")
        assert card.image_size == (512 if family_of(name) in FIXED_AT_512 else 1024)


@pytest.mark.parametrize("name", SAMPLE_AND_REST)
def test_it_trains_a_step_and_predicts_the_same_map_twice(name):
    model = build(name)
    check_contract(model, side_of(name))
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    assert {key for key in frozen if not key.startswith(("head.", "input_head."))} == set()


@pytest.mark.parametrize("name", SAMPLE_AND_REST)
def test_upstreams_parser_reads_the_constructor(name):
    from IMDLBenCo.training_scripts.utils.misc import create_argparser

    parser = create_argparser(MODELS[name])
    weights = load_model_card(name).weight_arguments[0]
    assert getattr(parser.parse_args([]), weights) is None
    assert getattr(parser.parse_args([f"--{weights}", "file.pth"]), weights) == "file.pth"


# --- against upstream ----------------------------------------------------------------------------


def upstreams(name: str) -> torch.nn.Module:
    """IMDLBenCo's own model; the network that `unet` fetches is replaced by the plugin's."""
    constructor = getattr(importlib.import_module(f"{UPSTREAM}.backbones.{family_of(name)}"), name)
    arguments = ("no file",) if family_of(name) == "segformer" else ()
    with offline({"no file": {}}), replaced({"torch.hub.load": lambda *_, **__: UNet()}):
        return constructor(*arguments)


def upstreams_way(name: str) -> torch.nn.Module:
    """The plugin's model at full size, with everything mended taken back."""
    mended = load_model_card(name).mended
    return MODELS[name](**{choice.argument: choice.upstream for choice in mended})


def shorten(model: torch.nn.Module) -> None:
    """Leave one block a stage: these models take 512 x 512 images only."""
    if hasattr(model, "layers"):
        for stage in model.layers:
            stage.blocks = stage.blocks[:1]
    else:
        model.blocks = model.blocks[:1]


@pytest.mark.parametrize("name", SAMPLE_AND_REST)
def test_it_equals_upstream_at_equal_weights_in_keys_map_loss_and_gradients(name):
    torch.manual_seed(2)
    theirs, mine = upstreams(name), upstreams_way(name)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    state = {key: value.clone() for key, value in theirs.state_dict().items()}
    mine.load_state_dict(state)
    large = family_of(name) in FIXED_AT_512
    if large and name in SAMPLE:
        shorten(mine)
        shorten(theirs)
    item = make_item(512 if large else 64, batch=1)
    outputs = []
    for model in (mine, theirs):
        model.eval()
        with torch.no_grad():
            outputs.append(model(**item))
    torch.testing.assert_close(
        outputs[0]["pred_mask"], outputs[1]["pred_mask"], rtol=1e-4, atol=2e-5
    )
    torch.testing.assert_close(outputs[0]["backward_loss"], outputs[1]["backward_loss"])
    for model in (mine, theirs):
        # Upstream's Bayar convolution has changed its weights in the pass above.
        changed = {key: value for key, value in state.items() if "BayarConv2D" in key}
        model.load_state_dict(changed, strict=False)
        torch.manual_seed(3)  # stochastic depth
        model.train()(**item)["backward_loss"].backward()
    expected = dict(theirs.named_parameters())
    for key, parameter in mine.named_parameters():
        gradient = expected[key].grad
        assert (parameter.grad is None) == (gradient is None), key
        if gradient is not None:
            scale = gradient.abs().max().item() + 1e-12
            torch.testing.assert_close(
                parameter.grad / scale, gradient / scale, rtol=1e-3, atol=1e-3
            )


# --- choices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit", "sobel_vit", "vit16"])
def test_positions_follow_the_grid_or_the_sequence(name, tmp_path):
    network = timm.create_model("vit_base_patch16_224", depth=1, embed_dim=64, num_heads=1)
    row, column = np.divmod(np.arange(196), 14)
    with torch.no_grad():
        network.pos_embed[0, 1:, 0] = torch.from_numpy(row).float()
        network.pos_embed[0, 1:, 1] = torch.from_numpy(column).float()
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    sets = 2 if name == "sobel_vit" else 1
    grid = build(name, pretrained_path=str(tmp_path / "vit.pth")).pos_embed.detach()
    assert grid.shape == (1, 1 + sets * 1024, 64)
    torch.testing.assert_close(grid[0, 0], network.pos_embed[0, 0])
    for part in grid[0, 1:].chunk(sets):
        rows, columns = part.unflatten(0, (32, 32))[..., 0], part.unflatten(0, (32, 32))[..., 1]
        torch.testing.assert_close(rows, rows[:, :1].expand(32, 32), rtol=0, atol=1e-3)
        torch.testing.assert_close(columns, rows.T, rtol=0, atol=1e-3)
        assert (rows[1:, 0] > rows[:-1, 0]).all()
    old = build(name, pretrained_path=str(tmp_path / "vit.pth"), positions="sequence").pos_embed
    taken = np.floor(np.arange(sets * 1024) * 196 / (sets * 1024)).astype(int)
    torch.testing.assert_close(old.detach()[:, 1:], network.pos_embed.detach()[:, 1:][:, taken])


@pytest.mark.parametrize("name", FAMILIES)
def test_it_takes_other_sizes_and_oblong_images(name):
    model = build(name).eval()
    for height, width in ((96, 64), (64, 160)):
        item = make_item(height, batch=1, width=width)
        with torch.no_grad():
            assert model(**item)["pred_mask"].shape == (1, 1, height, width)


@pytest.mark.parametrize(("name", "stride"), [("resnet", 16), ("swin", 32), ("vit", 16)])
def test_a_size_that_it_cannot_divide_is_one_line(name, stride):
    with pytest.raises(UserError, match=rf"{name} takes images .* multiples of {stride}, not 72 x"):
        build(name)(**make_item(72))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet", {"backbone": "resnet151"}, r'no ResNet "resnet151"\. Did you mean "resnet152"'),
        ("swin", {"depths": (1, 1)}, "depths: expected 4 numbers of blocks, got 2"),
        ("vit", {"positions": "gird"}, r'positions: unknown value "gird"\. Did you mean "grid"'),
    ],
)
def test_a_wrong_argument_is_one_line(name, arguments, message):
    with pytest.raises(UserError, match=message):
        MODELS[name](**arguments)


# --- weights files -------------------------------------------------------------------------------


def published_network(family: str) -> torch.nn.Module:
    """A small network whose tensors are named like those of the file that the card names."""
    if family == "resnet":
        return timm.create_model("resnet18")
    if family == "swin":
        return timm.models.SwinTransformer(
            embed_dim=32, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), num_classes=10
        )
    if family == "unet":
        return UNet(width=8)
    if family == "segformer":
        return build("segformer")
    return timm.create_model("vit_base_patch16_224", depth=2, embed_dim=64, num_heads=1)


FIRST_LAYER = {
    "resnet": ("conv1", "backbone.0"),
    "segformer": ("patch_embed1.proj", "patch_embed1.proj"),
    "swin": ("patch_embed.proj", "patch_embed.proj"),
    "unet": ("inc.double_conv.0", "net.inc.double_conv.0"),
    "vit": ("patch_embed.proj", "patch_embed.proj"),
    "vit16": ("patch_embed.proj", "patch_embed.proj"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_weights_file_is_taken_whole_or_refused(family, tmp_path):
    torch.manual_seed(6)
    state = published_network(family).state_dict()
    file, short = tmp_path / "file.safetensors", tmp_path / "short.pth"
    safetensors.torch.save_file(state, file)
    argument = load_model_card(family).weight_arguments[0]
    theirs, ours = FIRST_LAYER[family]
    for name in (family, f"srm_{family}"):
        model = build(name, **{argument: str(file)})
        weight = model.get_submodule(ours).weight
        torch.testing.assert_close(weight[:, :3].detach(), state[f"{theirs}.weight"])
        assert weight.shape[1] == (3 if name in (family, "srm_vit") else 12)
        assert len(model.load_report.loaded) > 15
    lacking = dict(state)
    missing = next(key for key in state if re.search(r"norm|bn|double_conv\.1", key))
    del lacking[missing]
    torch.save({"model": lacking}, short)
    with pytest.raises(UserError, match=rf"short\.pth: does not fit .*{missing}"):
        build(family, **{argument: str(short)})


def test_microsofts_own_swin_file_is_taken(tmp_path):
    """It names downsampling after the stage before, the classifier `head`, and holds masks."""
    state = published_network("swin").state_dict()
    old = {}
    for key, value in state.items():
        parts = key.split(".")
        if "downsample" in key:
            parts[1] = str(int(parts[1]) - 1)
        old[".".join(parts).replace("head.fc.", "head.")] = value
    old["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    torch.save({"model": old}, tmp_path / "swin.pth")
    model = build("swin", pretrained_path=str(tmp_path / "swin.pth"))
    key = "layers.3.downsample.reduction.weight"
    torch.testing.assert_close(model.state_dict()[key], state[key])


# --- extractors ----------------------------------------------------------------------------------


def test_a_sobel_model_can_be_loaded_on_the_cpu():
    state = {key: value.clone() + 1 for key, value in Sobel().state_dict().items()}
    sobel = Sobel()
    sobel.load_state_dict(state)
    assert torch.equal(sobel.conv_x.weight, state["conv_x.weight"])


@pytest.mark.parametrize("extractor", [FFT, DCT])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_frequencies_equal_upstreams_and_know_images_of_one_colour(extractor, size):
    image = torch.randn(3, 3, *size)
    upstream = super(extractor, extractor())
    torch.testing.assert_close(extractor()(image), upstream.forward(image), rtol=0, atol=0)
    image[1] = 0
    assert torch.isnan(upstream.forward(image)[1]).all()
    features = extractor()(image)
    assert (features[1] == 0).all()
    torch.testing.assert_close(features[2], upstream.forward(image)[2], rtol=0, atol=0)
    image[2, 0, 0, 0] = float("nan")  # a broken image must not become a blank one
    assert torch.isnan(extractor()(image)[2]).all()


def test_cosines_follow_the_image_to_another_device():
    extractor = DCT()
    extractor(torch.rand(1, 3, 16, 16, device="meta"))
    assert torch.isfinite(extractor(torch.rand(1, 3, 16, 16))).all()


def test_bayar_constrains_its_weights_in_training_and_leaves_them_in_evaluation():
    torch.manual_seed(7)
    bayar, image = Bayar(), torch.randn(1, 3, 16, 16)
    drawn = bayar.BayarConv2D.weight.detach().clone()
    answer = bayar.eval()(image)
    assert torch.equal(bayar.BayarConv2D.weight, drawn)
    torch.testing.assert_close(bayar.train()(image), answer, rtol=1e-5, atol=1e-5)
    weight = bayar.BayarConv2D.weight.detach()
    assert (weight[:, :, 2, 2] == -1).all()
    torch.testing.assert_close(weight.sum(dim=(2, 3)), torch.zeros(3, 3), rtol=0, atol=1e-4)


# --- cost and size -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLE)
def test_its_complexity_can_be_counted(name):
    item = make_item(side_of(name), batch=1)
    counted = count(build(name), {"image": item["image"], "mask": item["mask"]})
    assert counted.reason == ""
    assert counted.macs > 0


@pytest.mark.zoo_full
@pytest.mark.parametrize("name", FAMILIES)
def test_it_trains_and_predicts_at_its_cards_size(name):
    card = load_model_card(name)
    check_contract(get_model_class(name)(), card.image_size)
