"""A plain localiser on any timm backbone: a row that takes a card and no code."""

import textwrap

import pytest
import safetensors.torch
import timm
import torch

from sparsevit_plugin.cards import card_names, load_model_card
from sparsevit_plugin.cards.reading import REGISTRY_VARIABLE, forget_cards
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.config import resolve
from sparsevit_plugin.registration import get_model_class
from sparsevit_plugin.zoo.timm_localiser import TimmLocaliser
from tests.zoo.localisers import build, check_contract, make_item, no_network, side_of

pytestmark = pytest.mark.usefixtures("no_network")
__all__ = ["no_network"]

CARDS = [name for name in card_names() if load_model_card(name).model == "TimmLocaliser"]
# Maps in channels-last order, plain maps, tokens of one level, a stem at half size.
KINDS = ("mambaout_femto", "convnext_atto", "test_vit", "test_efficientnet")


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
    assert model.classifier.in_channels == 16


def test_the_head_is_segformers():
    """One projection a level to the width, one fusing layer of the concatenation, one logit."""
    model = TimmLocaliser("convnext_atto", width=24)
    assert [layer.in_channels for layer in model.projections] == [40, 80, 160, 320]
    assert model.fuse[0].weight.shape == (24, 4 * 24, 1, 1)
    assert model.classifier.weight.shape == (1, 24, 1, 1)


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
    with pytest.raises(UserError, match=r'has no "convnext_bass"\. Did you mean "convnext_base"'):
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
    model = TimmLocaliser("convit_tiny", width=8, img_size=32)
    assert model(**make_item(32))["pred_mask"].shape == (2, 1, 32, 32)
    own = TimmLocaliser("levit_128s", width=8).eval()  # its 224 is no multiple of its stride of 64
    assert own(**make_item(224, batch=1))["pred_mask"].shape == (1, 1, 224, 224)
    with pytest.raises(UserError, match="32 x 32 images only, not 64 x 64: change --image-size"):
        model(**make_item(64))
