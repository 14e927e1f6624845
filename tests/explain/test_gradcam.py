"""Grad-CAM through the library equals Grad-CAM by hand."""

import cv2
import numpy as np
import pytest
import torch

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.explain.gradcam import default_layers, grad_cams
from sparsevit_plugin.explain.subject import Subject
from sparsevit_plugin.harness.evaluate import native_map
from tests.conftest import mask_array, photo_array


def by_hand(subject, fed, layer, region) -> np.ndarray:
    """The formula of the paper: the mean gradient weighs each channel, what is negative is cut."""
    kept = []
    hook = layer.register_forward_hook(lambda _, __, output: kept.append(output))
    logits = subject.model.logits(fed.inputs["image"])
    hook.remove()
    rows, columns = fed.shape
    target = torch.zeros(fed.fed_size)
    shown = cv2.resize(region.astype(np.uint8), (columns, rows), interpolation=cv2.INTER_NEAREST)
    target[:rows, :columns] = torch.from_numpy(shown)
    (gradient,) = torch.autograd.grad((logits[0, 0] * target).sum(), kept)
    maps = kept[0].detach()
    if maps.shape[1] != gradient.shape[1] or "Sparse" in type(layer).__name__:
        maps, gradient = maps.permute(0, 3, 1, 2), gradient.permute(0, 3, 1, 2)
    cam = (gradient.mean((2, 3), keepdim=True) * maps).sum(1).clamp(min=0)[0].numpy()
    cam = (cam - cam.min()) / (1e-7 + (cam - cam.min()).max())
    cam = cv2.resize(cam.astype(np.float32), fed.fed_size[::-1])
    cam = (cam - cam.min()) / (1e-7 + (cam - cam.min()).max())
    return native_map(torch.from_numpy(cam)[None], fed.shape, fed.size)[0].numpy()


@pytest.mark.parametrize("options", [{}, {"fit": "grid"}], ids=["resize", "grid"])
def test_cams_are_those_of_the_formula(checkpoint, options):
    subject = Subject(checkpoint, device="cpu", **options)
    fed = subject.feed(photo_array(72, 52, 4))
    region = mask_array(72, 52, 4) > 0
    layers = default_layers(subject)
    assert list(layers.values()) == [
        *("stage 1, block 1", "stage 2, block 2", "stage 3, block 4", "stage 4, block 2")
    ]
    modules = dict(subject.model.named_modules())
    cams = grad_cams(subject, fed, region, layers)
    assert any(not cam.is_empty for cam in cams)
    for cam in cams:
        assert cam.values.shape == (72, 52)
        assert 0 <= cam.values.min() <= cam.values.max() <= 1
        expected = by_hand(subject, fed, modules[cam.layer], region)
        np.testing.assert_allclose(cam.values, expected, atol=2e-3)
    assert all(parameter.grad is None for parameter in subject.model.parameters())
    assert not any(module._forward_hooks for module in modules.values())


def test_a_region_that_shrinking_loses_is_found_again(subject):
    region = np.zeros((640, 640), bool)
    region[3, 3] = True
    fed = subject.feed(photo_array(640, 640, 4))
    cams = grad_cams(subject, fed, region, default_layers(subject))
    assert any(not cam.is_empty for cam in cams)


def test_any_model_can_be_looked_into_by_naming_its_layers(plain_checkpoint):
    plain = Subject(plain_checkpoint, device="cpu")
    fed = plain.feed(photo_array(30, 40, 1))
    whole = np.ones((30, 40), bool)
    with pytest.raises(UserError, match="name the layers to look into with --layers, as convol"):
        default_layers(plain)
    (cam,) = grad_cams(plain, fed, whole, {"convolution": "convolution"})
    assert cam.values.shape == (30, 40)
    with pytest.raises(UserError, match=r'no layer "convolutoin"\. Did you mean "convolution"'):
        grad_cams(plain, fed, whole, {"convolutoin": ""})


def test_layers_that_give_no_map_or_are_not_used_are_refused(subject, plain_checkpoint):
    fed = subject.feed(photo_array(30, 40, 1))
    whole = np.ones((30, 40), bool)
    with pytest.raises(UserError, match="gives tuple, but Grad-CAM needs maps"):
        grad_cams(subject, fed, whole, {"encoder_net": ""})
    # A module that forward does not call: its weight is used directly.
    with pytest.raises(UserError, match="the model's map does not depend on it"):
        grad_cams(subject, fed, whole, {"encoder_net.blocks3.0.attn.qkv": ""})
