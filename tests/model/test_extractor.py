"""SparseViT with hand-crafted features in front."""

import pytest
import torch

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.model.choices import EXTRACTORS
from sparsevit_plugin.model.sparsevit import SparseViT_tiny
from sparsevit_plugin.zoo import extractors

from .conftest import randomised

NAMES = [name for name in EXTRACTORS if name != "none"]


def make_model(extractor, seed=3):
    torch.manual_seed(0)
    model = SparseViT_tiny(extractor=extractor).eval()
    state = model.state_dict()
    drawn = {name: value for name, value in state.items() if not name.startswith("features.")}
    model.load_state_dict({**state, **randomised(drawn, seed=seed)})
    return model


def test_the_names_are_the_toolkits():
    assert set(NAMES) == set(extractors.EXTRACTORS)


def test_the_published_model_has_no_extractor_and_no_tensor_of_one():
    torch.manual_seed(0)
    model = SparseViT_tiny()
    assert model.features is None
    assert not [name for name in model.state_dict() if name.startswith("features")]
    with pytest.raises(UserError, match=r"extractor: unknown value .srn.*srm"):
        SparseViT_tiny(extractor="srn")


@pytest.mark.parametrize("name", NAMES)
def test_the_network_sees_the_image_and_the_features_of_the_toolkit(name):
    model = make_model(name)
    features, channels = extractors.build_extractor(name)
    features.load_state_dict(model.features.state_dict())
    features.eval()
    image = torch.randn(2, 3, 64, 96)
    seen = []
    model.encoder_net.patch_embed1.proj.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    with torch.no_grad():
        model(image)
        torch.testing.assert_close(seen[0], torch.cat([image, features(image)], dim=1))
    assert model.encoder_net.patch_embed1.proj.in_channels == 3 + channels


@pytest.mark.parametrize("name", NAMES)
def test_the_features_change_the_map_in_every_form_of_the_model(name):
    model = make_model(name)
    image = torch.randn(1, 3, 70, 64)
    with torch.no_grad():
        expected = model(image)["pred_mask"]
        fused = model.fuse().pack()(image)["pred_mask"]
        weight = model.encoder_net.patch_embed1.proj.weight
        weight[:, 3:] = 0
        without = model(image)["pred_mask"]
    torch.testing.assert_close(fused, expected, rtol=0, atol=1e-5)
    assert (expected - without).abs().max() > 1e-3


def test_pretrained_kernels_of_the_image_are_kept():
    torch.manual_seed(0)
    alone = SparseViT_tiny()
    torch.manual_seed(0)
    wide = SparseViT_tiny(extractor="srm")
    narrow = alone.encoder_net.patch_embed1.proj
    widened = wide.encoder_net.patch_embed1.proj
    assert torch.equal(widened.weight[:, :3], narrow.weight)
    assert torch.equal(widened.bias, narrow.bias)


@pytest.mark.parametrize("name", NAMES)
def test_what_can_learn_gets_gradients(name):
    model = SparseViT_tiny(extractor=name, layer_scale_init=1.0, lff_init=1.0).train()
    image, mask = torch.randn(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    model(image, mask)["backward_loss"].backward()
    lacking = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not lacking
