"""A plain localiser on any timm backbone: a row that takes a card and no code."""

import textwrap

import pytest
import safetensors.torch
import timm
import torch
from packaging.version import Version
from timm.models import group_parameters

from sparsevit_plugin.cards import card_names, load_model_card
from sparsevit_plugin.cards.reading import REGISTRY_VARIABLE, forget_cards
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.config import resolve
from sparsevit_plugin.model.head import FusionHead
from sparsevit_plugin.model.sparsevit import SparseViT_tiny
from sparsevit_plugin.registration import get_model_class
from sparsevit_plugin.zoo.timm_localiser import TimmLocaliser
from tests.zoo.localisers import build, check_contract, make_item, no_network, side_of

pytestmark = pytest.mark.usefixtures("no_network")
__all__ = ["no_network"]

CARDS = [name for name in card_names() if load_model_card(name).model == "TimmLocaliser"]
# Maps in channels-last order, plain maps, tokens of one level, a stem at half size.
KINDS = ("mambaout_femto", "convnext_atto", "test_vit", "test_efficientnet")

SMALLEST = {
    "resnet18": {},
    "convnext_atto": {},
    "swin_tiny_patch4_window7_224": {
        "backbone_arguments": "{embed_dim: 16, depths: [1, 1, 2, 1], num_heads: [1, 2, 4, 8]}"
    },
    "vit_tiny_patch16_224": {"backbone_arguments": "{depth: 4}"},
    "vit_small_patch14_dinov2": {"backbone_arguments": "{depth: 4, embed_dim: 96, num_heads: 2}"},
    "vit_small_patch16_dinov3": {"backbone_arguments": "{depth: 4, embed_dim: 96, num_heads: 2}"},
    "eva02_tiny_patch14_224": {"backbone_arguments": "{depth: 4}"},
    "hieradet_small": {"backbone_arguments": "{embed_dim: 16}"},
}
"""The smallest of each kind: CNNs, Swin, plain ViTs, DINOv2 and v3, EVA, a hierarchical ViT."""


def test_the_shipped_rows_say_that_they_are_no_published_model():
    assert len(CARDS) >= 3
    for name in CARDS:
        card = load_model_card(name)
        assert card.notes.startswith("Not a published model")
        assert timm.is_model(card.arguments["backbone"])
        assert card.parity == "unverified"


@pytest.mark.parametrize("name", CARDS)
def test_it_trains_a_step_and_predicts_the_same_map_twice(name):
    check_contract(build(name), side_of(name))


@pytest.mark.parametrize("backbone", KINDS)
def test_any_size_and_any_kind_of_backbone(backbone):
    torch.manual_seed(0)  # among all draws of weights some give a constant map
    check_contract(TimmLocaliser(backbone, width=8), 70, width=101)


def test_a_card_alone_makes_a_row(tmp_path, monkeypatch):
    card = """
        name: plain_mobilenet
        model: TimmLocaliser
        title: A plain MobileNetV3
        source: timm
        licence: Apache-2.0
        arguments: {backbone: mobilenetv3_small_050, width: 16}
        image_size: 128
    """
    (tmp_path / "models").mkdir()
    (tmp_path / "models/plain_mobilenet.yaml").write_text(textwrap.dedent(card))
    monkeypatch.setenv(REGISTRY_VARIABLE, str(tmp_path))
    forget_cards()
    cfg = resolve("train", ["--model", "plain_mobilenet", "--data-path", "x"])
    model = get_model_class(load_model_card("plain_mobilenet").model)(**cfg.model_arguments)
    assert model.backbone_name == "mobilenetv3_small_050"
    assert model.head.classifier.in_channels == 16


def test_the_decoder_is_segformers():
    """One projection a level to the width, one fusing layer of the concatenation, one logit."""
    model = TimmLocaliser("convnext_atto", width=24)
    assert [layer.in_channels for layer in model.head.projections] == [40, 80, 160, 320]
    assert model.head.fuse[0].weight.shape == (24, 4 * 24, 1, 1)
    assert model.head.classifier.weight.shape == (1, 24, 1, 1)


@pytest.mark.parametrize("head", ["mlp", "lff"])
@pytest.mark.parametrize(("backbone", "own"), SMALLEST.items())
def test_the_smallest_of_each_kind_trains_with_both_heads(backbone, own, head):
    torch.manual_seed(0)
    check_contract(TimmLocaliser(backbone, width=8, head=head, **own), 64)


def test_the_fusion_head_is_sparsevits_own_at_its_own_strides():
    model = TimmLocaliser("convnext_atto", width=24, head="lff")
    assert type(model.head) is FusionHead
    assert (model.strides, model.channels) == ([16, 32], [160, 320])
    assert model.head.gamma1.shape == (24,)
    assert torch.equal(model.head.gamma1[:3], SparseViT_tiny().lmu.gamma1[:3])


def test_a_plain_vit_gives_four_evenly_spaced_blocks_behind_its_norm():
    model = TimmLocaliser("vit_tiny_patch16_224", width=8, head="lff").eval()
    assert model.backbone.out_indices == [2, 5, 8, 11]
    assert (model.strides, model.head.taps3) == ([16] * 4, 4)
    whole = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True).eval()
    whole.load_state_dict(model.backbone.model.state_dict(), strict=False)
    image = make_item(64)["image"]
    with torch.no_grad():
        wanted = whole.forward_intermediates(
            image, indices=[2, 5, 8, 11], norm=True, intermediates_only=True
        )
        found = model.backbone(image)
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_the_fusion_head_refuses_a_backbone_without_its_strides():
    with pytest.raises(UserError, match="gives 1/2, 1/4, 1/8, 1/16: take --head mlp"):
        TimmLocaliser("test_efficientnet", head="lff", backbone_arguments="{output_stride: 16}")


def test_the_fusion_head_takes_coarse_maps_of_less_than_half():
    """Inception does not pad its convolutions: of 128 pixels it gives 6 x 6 and 2 x 2 tokens."""
    model = TimmLocaliser("inception_v3", width=8, head="lff").eval()
    with torch.no_grad():
        assert model(**make_item(128, batch=1))["pred_mask"].shape == (1, 1, 128, 128)


@pytest.mark.parametrize("extractor", ["sobel", "srm", "bayar", "fft", "dct"])
def test_the_toolkits_extractors_stand_in_front(extractor):
    torch.manual_seed(0)
    model = TimmLocaliser("convnext_atto", width=8, extractor=extractor)
    more = {"sobel": 1, "srm": 9}.get(extractor, 3)
    assert model.backbone.stem_0.in_channels == 3 + more
    check_contract(model, 64)


def test_with_an_extractor_the_files_kernels_of_the_image_are_kept(tmp_path):
    torch.manual_seed(2)
    state = timm.create_model("convnext_atto").state_dict()
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    model = TimmLocaliser(
        "convnext_atto", str(tmp_path / "model.safetensors"), width=8, extractor="srm"
    )
    assert torch.equal(model.backbone.stem_0.weight[:, :3], state["stem.0.weight"])
    assert model.backbone.stem_0.weight[:, 3:].std() > 0


def test_a_frozen_backbone_stays_as_it_is_with_its_statistics():
    torch.manual_seed(0)
    model = TimmLocaliser("resnet18", width=8, freeze=True).train()
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    model(**make_item(64))["backward_loss"].backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-1).step()
    assert all(
        torch.equal(value, before[key]) for key, value in model.backbone.state_dict().items()
    )
    assert all(p.grad is not None for p in model.head.parameters())


def test_frozen_with_an_extractor_the_first_convolution_is_trained():
    model = TimmLocaliser("resnet18", width=8, freeze=True, extractor="sobel")
    trained = [name for name, p in model.backbone.named_parameters() if p.requires_grad]
    assert trained == ["conv1.weight"]


def test_dice_is_added_as_sparsevit_adds_it():
    torch.manual_seed(0)
    model = TimmLocaliser("resnet18", width=8, dice_weight=2.0).eval()
    losses = model(**make_item(64))
    both = losses["visual_loss"]
    assert losses["backward_loss"] == both["predict_loss"] + 2 * both["dice_loss"]


def test_layers_are_those_that_timm_knows_and_the_head_is_above_them():
    model = TimmLocaliser("vit_tiny_patch16_224", width=8)
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    assert layers["backbone.model.patch_embed.proj.weight"] == 0
    assert layers["backbone.model.blocks.3.mlp.fc1.weight"] == 4
    assert layers["head.classifier.weight"] == max(layers.values())
    assert TimmLocaliser("test_efficientnet", width=8).group_matcher() is None


def test_the_backbones_own_arguments_are_numbers_alone():
    small = TimmLocaliser("convnext_atto", backbone_arguments="{depths: [1, 1, 1, 1]}")
    assert small.channels == [40, 80, 160, 320]
    assert len(small.backbone.stages_2.blocks) == 1
    for text in ("{checkpoint_path: a.pth}", "{dims: [a]}", "[1]", "{", "{in_chans: 5}"):
        with pytest.raises(UserError, match="backbone_arguments: "):
            TimmLocaliser("convnext_atto", backbone_arguments=text)
    with pytest.raises(UserError, match=r'"convnext_atto" cannot give feature maps: .*"?nothing'):
        TimmLocaliser("convnext_atto", backbone_arguments="{nothing: 1}")


@pytest.mark.parametrize("backbone", KINDS)
def test_a_weights_file_is_taken_whole(backbone, tmp_path):
    torch.manual_seed(2)
    state = timm.create_model(backbone).state_dict()
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    model = TimmLocaliser(backbone, pretrained_path=str(tmp_path / "model.safetensors"), width=8)
    held = {tensor.flatten()[:4].sum().item() for tensor in model.backbone.state_dict().values()}
    first = next(value for key, value in state.items() if key.endswith("weight"))
    assert first.flatten()[:4].sum().item() in held
    assert set(model.load_report.missing) <= {"head.weight", "head.bias"} | {
        key for key in state if key.startswith("head.fc.")
    }


def test_a_file_that_lacks_a_tensor_is_refused(tmp_path):
    state = timm.create_model("convnext_atto").state_dict()
    del state["stages.1.blocks.0.gamma"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(UserError, match=r"short\.pth: does not fit ConvNeXt: 1 tensors missing"):
        TimmLocaliser("convnext_atto", pretrained_path=str(tmp_path / "short.pth"))


def test_nothing_is_left_changed_in_timm():
    from timm.models import _builder

    before = _builder.load_pretrained
    with pytest.raises(UserError, match="no such weights file"):
        TimmLocaliser("resnet18", pretrained_path="nowhere.pth")
    assert _builder.load_pretrained is before


def test_unknown_names_are_answered_with_the_closest():
    nearest = r'has no "convnext_bass"\. Did you mean "convnext_base", "[a-z0-9_]+" or "[a-z0-9_]+"'
    with pytest.raises(UserError, match=nearest):
        TimmLocaliser("convnext_bass")
    with pytest.raises(UserError, match=r'has no "hf-hub:someone/model"'):
        TimmLocaliser("hf-hub:someone/model")


def test_a_backbone_without_maps_is_refused(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise RuntimeError("features_only not implemented")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(UserError, match=r'"resnet18" cannot give feature maps: features_only not'):
        TimmLocaliser("resnet18")


def test_a_backbone_of_a_fixed_size_says_which():
    own = TimmLocaliser("levit_128s", width=8).eval()  # its 224 is no multiple of its stride of 64
    assert own(**make_item(224, batch=1))["pred_mask"].shape == (1, 1, 224, 224)
    with pytest.raises(UserError, match="224 x 224 images only, not 64 x 64: change --image-size"):
        own(**make_item(64))


@pytest.mark.skipif(
    Version(timm.__version__) < Version("1.0.31"), reason="older timm takes no maps from ConViT"
)
def test_a_backbone_of_a_fixed_size_can_be_built_for_another():
    model = TimmLocaliser("convit_tiny", width=8, img_size=32)
    assert model(**make_item(32))["pred_mask"].shape == (2, 1, 32, 32)
    with pytest.raises(UserError, match="32 x 32 images only, not 64 x 64"):
        model(**make_item(64))
