"""The whole network: sizes, losses, schedules, variants and options."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.model.backbone import grid_size, make_schedule
from sparsevit_plugin.model.blocks import DropPath
from sparsevit_plugin.model.sparsevit import (
    SparseViT,
    SparseViT_tiny,
    pool,
    soft_dice_loss,
    whole_numbers,
)

from .conftest import randomised


def visible_tiny(**arguments):
    """Build a tiny SparseViT in evaluation mode whose every branch shows."""
    torch.manual_seed(3)
    model = SparseViT_tiny(**arguments).eval()
    model.load_state_dict(randomised(model.state_dict(), seed=3))
    return model


@pytest.fixture(scope="module")
def tiny():
    return visible_tiny()


@pytest.mark.parametrize("sparsity", ["rate", "group"])
@pytest.mark.parametrize(("height", "width"), [(128, 128), (33, 65), (16, 16), (1, 7), (96, 224)])
def test_any_size_trains(height, width, sparsity):
    torch.manual_seed(0)
    model = SparseViT_tiny(sparsity=sparsity, layer_scale_init=0.1, lff_init=1.0, drop_path=0.0)
    mask = (torch.rand(2, 1, height, width) > 0.5).float()
    output = model(torch.randn(2, 3, height, width), mask)
    assert output["pred_mask"].shape == mask.shape
    assert output["pred_label"].shape == (2,)
    output["backward_loss"].backward()
    for name, tensor in model.named_parameters():
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name


@pytest.mark.parametrize("head", ["lff", "sum", "concat", "last", "mlp"])
def test_every_parameter_learns(head):
    torch.manual_seed(0)
    model = SparseViT_tiny(head=head, layer_scale_init=0.1, lff_init=1.0, drop_path=0.0)
    model(torch.randn(2, 3, 96, 160), torch.ones(2, 1, 96, 160))["backward_loss"].backward()
    silent = [name for name, tensor in model.named_parameters() if not tensor.grad.abs().max() > 0]
    assert not silent


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(1, 70), st.integers(1, 70))
def test_padding_an_image_with_zeros_to_whole_patches_changes_nothing(tiny, height, width):
    image = torch.randn(1, 3, height, width)
    padded = nn.functional.pad(image, (0, -width % 4, 0, -height % 4))
    with torch.inference_mode():
        small, large = tiny(image)["pred_mask"], tiny(padded)["pred_mask"]
    torch.testing.assert_close(small, large[..., :height, :width])
    assert small.isfinite().all()


def test_height_and_width_are_alike(tiny):
    """Transposing the image and every kernel transposes the map: no axis is taken for the other."""
    turned = visible_tiny()
    state = tiny.state_dict()
    kernels = {key: value.transpose(2, 3) for key, value in state.items() if value.dim() == 4}
    turned.load_state_dict({**state, **kernels})
    image = torch.randn(1, 3, 70, 200)
    with torch.inference_mode():
        expected = tiny(image)["pred_mask"]
        actual = turned(image.transpose(2, 3))["pred_mask"].transpose(2, 3)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_grid_size_rounds_up():
    assert [grid_size(512, 512, stage) for stage in (1, 2, 3, 4)] == [
        (128, 128),
        (64, 64),
        (32, 32),
        (16, 16),
    ]
    assert grid_size(33, 65, 4) == (math.ceil(33 / 32), math.ceil(65 / 32))


def test_without_a_mask_there_is_no_loss(tiny):
    item = {"image": torch.randn(1, 3, 64, 64), "label": torch.zeros(1), "name": ["a"]}
    output = tiny(**item)
    assert output["backward_loss"] is None
    assert output["visual_loss"] == {}
    assert output["pred_mask"].min() >= 0
    assert output["pred_mask"].max() <= 1


def test_dice_is_added_to_the_published_loss():
    model = visible_tiny(dice_weight=0.5)
    image, mask = torch.randn(2, 3, 64, 64), (torch.rand(2, 1, 64, 64) > 0.8).float()
    output = model(image, mask)
    losses = output["visual_loss"]
    bce = nn.functional.binary_cross_entropy(output["pred_mask"], mask)
    torch.testing.assert_close(losses["predict_loss"], bce)
    torch.testing.assert_close(output["backward_loss"], bce + 0.5 * losses["dice_loss"])
    torch.testing.assert_close(losses["dice_loss"], soft_dice_loss(output["pred_mask"], mask))


def test_soft_dice_is_per_image():
    mask = torch.zeros(3, 1, 10, 10)
    mask[:2, 0, :5] = 1
    right, wrong = mask[:1], 1 - mask[1:2]
    empty = torch.zeros(1, 1, 10, 10)
    loss = soft_dice_loss(torch.cat([right, wrong, empty]), mask)
    assert loss.item() == pytest.approx((0 + (1 - 1 / 101) + 0) / 3)


def test_image_score_heeds_the_padding():
    probability = torch.tensor([0.1, 0.4, 0.9, 0.2]).reshape(1, 1, 2, 2)
    valid = torch.tensor([1, 1, 0, 1]).reshape(1, 1, 2, 2)
    assert pool(probability, None, "max").tolist() == pytest.approx([0.9])
    assert pool(probability, valid, "max").tolist() == pytest.approx([0.4])
    assert pool(probability, None, "mean").tolist() == pytest.approx([0.4])
    assert pool(probability, valid, "mean").tolist() == pytest.approx([0.7 / 3])


def test_autocast_gives_single_precision_maps(tiny):
    image = torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        output = tiny(image, torch.zeros(1, 1, 64, 64))
    assert output["pred_mask"].dtype == output["backward_loss"].dtype == torch.float32
    assert (output["pred_mask"] - tiny(image)["pred_mask"]).abs().max() < 0.05


@pytest.mark.parametrize(
    ("depth", "rates", "taps", "per_block", "tapped"),
    [
        (20, (8, 4, 2, 1), (), [8] * 5 + [4] * 5 + [2] * 5 + [1] * 5, (5, 10, 15, 20)),
        (7, (2, 1), (), [2, 2, 2, 2, 1, 1, 1], (4, 7)),
        (20, (1, 1, 1, 1), (), [1] * 20, (5, 10, 15, 20)),
        (8, (8, 4, 2, 1), (), [8, 8, 4, 4, 2, 2, 1, 1], (2, 4, 6, 8)),
        (4, (8, 4, 2, 1), (), [8, 4, 2, 1], (1, 2, 3, 4)),
        (5, (8, 8, 8, 1, 1), (), [8, 8, 8, 1, 1], (3, 5)),
        (4, (1, 1, 1, 1), (), [1, 1, 1, 1], (4,)),
        (4, (1,), (1, 2, 3), [1, 1, 1, 1], (1, 2, 3, 4)),
    ],
)
def test_schedule(depth, rates, taps, per_block, tapped):
    schedule = make_schedule("s_blocks3", depth, rates, taps)
    assert schedule.rates == tuple(per_block)
    assert tuple(tap + 1 for tap in schedule.taps) == tapped


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "lf"}, 'head: unknown value "lf". Did you mean "lff"?'),
        ({"sparsity": "groups"}, 'sparsity: unknown value "groups". Did you mean "group"?'),
        ({"pretrained_keep": "none"}, "pretrained_keep: unknown value"),
        ({"image_pooling": "median"}, "image_pooling: unknown value"),
        ({"depth": (1, 2, 4)}, "depth: four whole numbers"),
        ({"depth": "1,2,four,2"}, "depth: a list of whole numbers"),
        ({"depth": (1, 2, 4, 2.5)}, "depth: a list of whole numbers"),
        ({"embed_dim": (32, 64, 90, 128)}, "head_dim: 32 does not divide"),
        ({"s_blocks3": (8, 4, 2, 1, 1)}, "s_blocks3: 5 rates do not fit 4 blocks"),
        ({"s_blocks4": (2, 0)}, "s_blocks4: rates must be whole numbers from 1"),
        ({"taps3": (0, 2)}, "taps3: [0, 2] are not all blocks from 1 to 4"),
    ],
)
def test_bad_options_are_named(arguments, message):
    with pytest.raises(UserError) as caught:
        SparseViT_tiny(**arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values", [(5, 8), [5, 8], "5,8", "[5, 8]", "(5, 8)", tuple("5,8"), tuple("[5, 8]")]
)
def test_lists_from_a_command_line(values):
    assert whole_numbers("depth", values) == (5, 8)


def test_empty_lists():
    assert whole_numbers("taps3", ()) == whole_numbers("taps3", "") == ()


def test_more_taps_than_published():
    model = SparseViT_tiny(s_blocks3=(1,), taps3=(1, 2, 3))
    assert [name for name, _ in model.lmu.named_parameters() if name.startswith("gamma")] == [
        f"gamma{number}" for number in range(1, 7)
    ]


def test_tiny_has_single_token_groups_in_its_first_sparse_block_only():
    model = SparseViT_tiny()
    sizes = model.group_sizes(model.img_size, model.img_size)
    assert [size.block for size in sizes if size.smallest == 1] == ["blocks3.0"]
    assert [size.largest for size in sizes] == [1, 4, 16, 64, 4, 16]
    uneven = model.group_sizes(16 * 9, 16 * 8)[1]
    assert (uneven.stride_height, uneven.smallest, uneven.largest) == (4, 4, 6)


def test_stochastic_depth_grows_linearly():
    model = SparseViT_tiny(drop_path=0.2)
    dropped = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert dropped == pytest.approx([0.2 * block / 8 for block in range(1, 9)])


def test_initialisation():
    torch.manual_seed(0)
    model = SparseViT()
    block = model.encoder_net.blocks4[0]
    assert block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.mlp.fc1.weight.abs().max() < 2
    assert block.mlp.dwconv.dwconv.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.05)
    assert block.attn.qkv.bias.abs().max() == block.mlp.dwconv.dwconv.bias.abs().max() == 0
    for scale in (block.gamma_1, block.gamma_2, model.lmu.gamma1):
        assert torch.equal(scale, torch.full_like(scale, 1e-6))
    kernel = model.encoder_net.blocks2[
        0
    ].conv1.weight  # torch's default: uniform in 1 / sqrt(fan-in)
    assert kernel.abs().max().item() == pytest.approx(1 / math.sqrt(128), rel=0.02)
