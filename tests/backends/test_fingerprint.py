import torch
from torch import nn

from sparsevit_plugin.backends.fingerprint import model_fingerprint
from sparsevit_plugin.model.sparsevit import SparseViT_tiny
from tests.backends.conftest import SMALL, small_model


def test_equal_models_have_equal_fingerprints():
    assert model_fingerprint(small_model()) == model_fingerprint(small_model())


def test_the_mode_does_not_matter():
    assert model_fingerprint(small_model().train()) == model_fingerprint(small_model())


def test_every_weight_matters():
    model = small_model()
    before = model_fingerprint(model)
    model.lmu.conv_last.bias.add_(1e-6)
    assert model_fingerprint(model) != before


def test_buffers_matter():
    model = small_model()
    before = model_fingerprint(model)
    model.encoder_net.blocks1[0].norm1.running_var.mul_(2)
    assert model_fingerprint(model) != before


def test_settings_without_weights_matter():
    found = set()
    for more in ({}, {"sparsity": "group"}, {"image_pooling": "mean"}, {"head": "sum"}):
        torch.manual_seed(0)
        found.add(model_fingerprint(SparseViT_tiny(**SMALL, **more)))
    found.add(model_fingerprint(SparseViT_tiny(**{**SMALL, "s_blocks3": (4,)})))
    assert len(found) == 5


def test_the_class_matters():
    class Other(nn.ReLU):
        pass

    assert model_fingerprint(nn.ReLU()) != model_fingerprint(Other())


def test_tensors_of_any_kind_are_read():
    model = nn.Linear(2, 2).to(torch.bfloat16)
    model.plain = torch.tensor(3)
    before = model_fingerprint(model)
    model.plain = torch.tensor(4)
    assert model_fingerprint(model) != before
