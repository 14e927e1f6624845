"""Feature maps are what the network computes, and are laid out without its padding."""

import numpy as np
import pytest
import torch

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.explain.draw_features import feature_figure
from sparsevit_plugin.explain.features import FeatureMap, feature_maps
from sparsevit_plugin.explain.fusion import contributions
from sparsevit_plugin.explain.subject import Subject
from sparsevit_plugin.model.sparsevit import enlarge_logits
from tests.conftest import photo_array
from tests.explain.helpers import save_model

NAMES = [
    *("stage1_block1", "stage2_block2"),
    *("stage3_block1", "stage3_block2", "stage3_block3", "stage3_block4"),
    *("stage4_block1", "stage4_block2", "fused", "logits"),
]


def test_maps_lead_to_the_models_answer(checkpoint):
    subject = Subject(checkpoint, device="cpu", fit="grid")
    fed = subject.feed(photo_array(72, 104, 2))
    maps = {one.name: one for one in feature_maps(subject, fed)}
    assert list(maps) == NAMES
    shapes = {name: one.values.shape for name, one in maps.items()}
    assert shapes["stage1_block1"] == (32, 18, 26)
    assert shapes["stage2_block2"] == (64, 9, 13)
    assert shapes["stage3_block4"] == (96, 5, 7)
    assert shapes["stage4_block2"] == (128, 3, 4)
    fused = sum(contributions(subject, fed)).numpy()
    np.testing.assert_allclose(maps["fused"].values, fused, atol=1e-5)
    logits = torch.from_numpy(maps["logits"].values)[None]
    probability = torch.sigmoid(enlarge_logits(logits, *fed.fed_size))[0, 0].numpy()
    np.testing.assert_allclose(probability[:72, :104], subject.probability(fed)[0], atol=1e-5)


def test_a_tap_is_what_its_block_gives(subject):
    fed = subject.feed(photo_array(50, 50, 2))
    maps = {one.name: one for one in feature_maps(subject, fed)}
    backbone = subject.backbone("maps")
    with torch.no_grad():
        first, _ = backbone(fed.inputs["image"])
    np.testing.assert_array_equal(
        maps["stage3_block2"].values, first[1][0].permute(2, 0, 1).numpy()
    )


@pytest.mark.parametrize("head", ["concat", "last"])
def test_other_heads_have_maps_too(tmp_path, head):
    path = save_model(tmp_path / "other.safetensors", "SparseViT_tiny", f"--head={head}")
    subject = Subject(path, device="cpu")
    maps = feature_maps(subject, subject.feed(photo_array(50, 50, 2)))
    assert [one.name for one in maps][-2:] == ["fused", "logits"]
    assert maps[-1].values.shape == ((1, 2, 2) if head == "last" else (1, 4, 4))


def test_channels_are_ranked_by_variance_and_summed_up_by_their_size():
    values = np.zeros((3, 2, 2), np.float32)
    values[0] = 5  # large, but the same everywhere
    values[1] = [[0, 1], [0, 1]]
    values[2] = [[0, 9], [0, 9]]
    one = FeatureMap("x", "x", 4, values)
    assert one.by_variance(2) == [2, 1]
    np.testing.assert_allclose(one.energy(), np.sqrt((values**2).mean(0)))


def test_a_model_without_blocks_and_a_flat_map(plain_checkpoint, subject):
    plain = Subject(plain_checkpoint, device="cpu")
    with pytest.raises(UserError, match="feature maps by stage are shown of SparseViT alone"):
        feature_maps(plain, plain.feed(photo_array(20, 20, 0)))
    fed = subject.feed(photo_array(20, 20, 0))
    flat = FeatureMap("flat", "flat", 16, np.ones((2, 4, 4), np.float32))
    assert feature_figure(fed, [flat], 3, width=6.9).width == 6.9
