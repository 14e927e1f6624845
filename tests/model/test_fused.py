"""The inference-only model, against the model that it is made from."""

import copy

import pytest
import torch

from sparsevit_plugin.model import packed
from sparsevit_plugin.model.fused import Pointwise, Window, _tap_maps
from sparsevit_plugin.model.head import FUSIONS
from sparsevit_plugin.model.kernels import Kernels, using_kernels
from sparsevit_plugin.model.packed import PackedPointwise, can_pack, pack_layers
from sparsevit_plugin.model.sparsevit import SparseViT_tiny

from .conftest import randomised

TOLERANCE = 1e-5


def make_model(**arguments):
    torch.manual_seed(0)
    model = SparseViT_tiny(**arguments).eval()
    model.load_state_dict(randomised(model.state_dict(), seed=3))
    return model


def maps(model, image, **more):
    with torch.inference_mode():
        return model(image=image, **more)


VARIANTS = [
    {},
    {"sparsity": "group"},
    {"head": "sum"},
    {"head": "concat"},
    {"head": "last"},
    {"head": "mlp"},
    {"lff_dim": 96},  # the taps of stage 3 have the head's width: no projection
    {"head": "sum", "lff_dim": 96},
    {"qkv_bias": False},
    {"taps3": (1,), "image_pooling": "mean"},
]


@pytest.mark.parametrize("head", FUSIONS)
@pytest.mark.parametrize("width", [64, 96])
def test_what_taps_go_through_stays_on_the_models_device(head, width):
    model = make_model(head=head, lff_dim=width)
    widths = [channels for part in model.encoder_net.tap_widths() for channels in part]
    tensors = [one for pair in _tap_maps(model.lmu.to("meta"), widths) for one in pair]
    assert {one.device.type for one in tensors if one is not None} == {"meta"}


@pytest.mark.parametrize("arguments", VARIANTS, ids=str)
@pytest.mark.parametrize("pack", [False, True])
def test_same_map_and_score(arguments, pack):
    model = make_model(**arguments)
    fused = model.fuse().pack() if pack else model.fuse()
    for height, width in ((128, 128), (70, 130)):
        image = torch.randn(2, 3, height, width)
        shape_mask = torch.ones(2, 1, height, width)
        shape_mask[..., height // 2 :, :] = 0
        expected = maps(model, image, shape_mask=shape_mask)
        for kernels in (Kernels(), Kernels("onednn", 64, 64)):
            with using_kernels(kernels):
                actual = maps(fused, image, shape_mask=shape_mask)
            assert expected["pred_mask"].std() > 0.01
            for key in ("pred_mask", "pred_label"):
                torch.testing.assert_close(actual[key], expected[key], rtol=0, atol=TOLERANCE)


def test_scales_at_their_start_survive_half_precision():
    """Fusion scales of 1e-6 times weights of 0.02 are below float16's smallest number."""
    torch.manual_seed(0)
    model = SparseViT_tiny().eval()
    head = model.fuse().head
    taps3 = [torch.randn(1, 4, 4, 96) for _ in range(4)]
    taps4 = [torch.randn(1, 2, 2, 128) for _ in range(2)]
    with torch.inference_mode():
        model.lmu.conv_last.bias.zero_()
        head.last.bias.zero_()
        expected = model.lmu(taps3, taps4, (4, 4))
        torch.testing.assert_close(head(taps3, taps4, (4, 4)), expected, rtol=0, atol=1e-6)
        half = copy.deepcopy(head).to(torch.bfloat16)
        actual = half([t.bfloat16() for t in taps3], [t.bfloat16() for t in taps4], (4, 4))
    assert max(layer.weight.abs().max() for layer in head.maps if hasattr(layer, "weight")) == 1
    assert (actual.float() - expected).abs().max() < 0.1 * expected.std()


def test_bfloat16_is_near_and_comes_out_in_single_precision():
    model = make_model()
    image = torch.randn(1, 3, 128, 128)
    expected = maps(model, image)["pred_mask"]
    for fused in (model.fuse().to(torch.bfloat16), model.fuse().to(torch.bfloat16).pack()):
        actual = maps(fused, image)["pred_mask"]
        assert actual.dtype == torch.float32
        assert 0 < (actual - expected).abs().max() < 0.1


def test_it_holds_nothing_to_train_and_leaves_the_model_alone():
    model = make_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fused = model.fuse()
    assert not [p for p in fused.parameters() if p.requires_grad]
    assert model.training
    assert not fused.training
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    image = torch.randn(1, 3, 64, 64)
    model.load_state_dict(before)
    assert torch.equal(maps(fused, image)["pred_mask"], maps(model.fuse(), image)["pred_mask"])


def test_its_answer_has_the_keys_of_the_models():
    model = make_model()
    image = torch.randn(1, 3, 64, 64)
    expected, actual = maps(model, image), maps(model.fuse(), image)
    assert actual.keys() == expected.keys()
    assert actual["backward_loss"] is None


def test_every_layer_is_packed_where_this_torch_can():
    model = make_model()
    fused = model.fuse()
    layers = [m for m in fused.modules() if isinstance(m, Pointwise | Window)]
    replaced = pack_layers(fused, Pointwise, Window)
    assert len(replaced) == (len(layers) if can_pack(torch.float32) else 0)


def test_layers_stay_plain_where_packing_fails(monkeypatch):
    class Missing:
        def __getattr__(self, name):
            raise AttributeError(name)

    monkeypatch.setattr(packed, "_ops", Missing)
    can_pack.cache_clear()
    try:
        model = make_model()
        fused = model.fuse().pack()
        assert not any(isinstance(m, PackedPointwise) for m in fused.modules())
        image = torch.randn(1, 3, 64, 64)
        expected = maps(model, image)["pred_mask"]
        torch.testing.assert_close(
            maps(fused, image)["pred_mask"], expected, rtol=0, atol=TOLERANCE
        )
    finally:
        can_pack.cache_clear()


def test_layers_stay_plain_where_packed_ones_are_wrong(monkeypatch):
    monkeypatch.setattr(PackedPointwise, "forward", lambda self, grid, *_: grid * 0)
    can_pack.cache_clear()
    try:
        assert not can_pack(torch.float32)
    finally:
        can_pack.cache_clear()
