"""Each defect of a published baseline: what upstream's way does, and what the mended way does."""

import pytest
import torch
import torch.nn.functional as F

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.zoo.adapter import without_normalisation
from sparsevit_plugin.zoo.mantra_net import MantraNet
from sparsevit_plugin.zoo.mesorch import Mesorch
from sparsevit_plugin.zoo.mvss_net import MVSSNet
from sparsevit_plugin.zoo.span import SPAN, NeighbourAttention
from sparsevit_plugin.zoo.trufor import DETECTION, Trufor, _configuration

from .published import TRUFOR_FILE, make_item


def predictions(model, item, times=2):
    model.eval()
    with torch.no_grad():
        return [model(**item)["pred_mask"] for _ in range(times)]


def test_spans_last_layers_are_random_at_every_pass_only_in_upstreams_way():
    item = make_item(32)
    first, second = predictions(SPAN(last_layer="upstream"), item)
    assert not torch.allclose(first, second, atol=1e-3)
    learned = SPAN()
    assert torch.equal(*predictions(learned, item))
    assert sum(p.numel() for p in learned.last_layer.parameters()) == 32 * 16 * 25 + 16 + (
        16 * 8 * 25 + 8 + 8 * 4 * 25 + 4 + 4 * 25 + 1
    )
    learned(**item)["backward_loss"].backward()
    assert all(p.grad.abs().sum() > 0 for p in learned.last_layer.parameters())


def attention_by_the_definition(block, x):
    """SPAN's block pixel by pixel: softmax over nine neighbours, those outside being zeros."""
    batch, width, height, length = x.shape
    keys, values, queries = block.k_p(x), block.v_p(x), block.q_p(x)
    attended = torch.zeros_like(x)
    for b in range(batch):
        for row in range(height):
            for column in range(length):
                logits, found = [], []
                for number in range(9):
                    r = row + (number // 3 - 1) * block.shift
                    c = column + (number % 3 - 1) * block.shift
                    inside = 0 <= r < height and 0 <= c < length
                    part = slice(number * width, (number + 1) * width)
                    key = keys[b, part, r, c] if inside else torch.zeros(width)
                    found.append(values[b, part, r, c] if inside else torch.zeros(width))
                    logits.append(key @ queries[b, :, row, column] / 8)
                weights = torch.stack(logits).softmax(0)
                attended[b, :, row, column] = weights @ torch.stack(found)
    mixed = x + attended
    return mixed + F.relu(block.ff3(F.relu(block.ff2(F.relu(block.ff1(mixed))))))


@pytest.mark.parametrize("shift", [1, 3, 9])
def test_spans_attention_is_that_of_its_paper_and_upstreams_is_not(shift):
    torch.manual_seed(0)
    ours = NeighbourAttention(in_channels=4, shift=shift, use_bn=False, use_res=True)
    upstream = NeighbourAttention.__base__(in_channels=4, shift=shift, use_bn=False, use_res=True)
    upstream.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 5, 7)
    with torch.no_grad():
        expected = attention_by_the_definition(ours, x)
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(upstream(x), expected, atol=1e-2)


def test_a_pixel_of_span_depends_on_its_neighbours_only():
    torch.manual_seed(0)
    block = NeighbourAttention(in_channels=4, shift=2, use_bn=False, use_res=True)
    x = torch.randn(1, 4, 16, 16)
    changed = x.clone()
    changed[..., 0, 0] += 1
    with torch.no_grad():
        moved = (block(x) - block(changed)).abs().amax(1)[0] > 0
    # Two pixels away through attention, three more through three 3 x 3 convolutions.
    assert moved[:6, :6].any()
    assert not moved[6:].any()
    assert not moved[:, 6:].any()


def test_mantranets_loss_reaches_zero_only_on_probabilities():
    item = make_item(32)
    model = MantraNet()
    perfect = item["mask"].clamp(1e-6, 1 - 1e-6)
    model.AnomalyDetector.forward = lambda _: perfect
    assert model(**item)["backward_loss"] < 1e-4
    model.loss = "upstream"
    tampered = item["mask"].mean()
    floor = 0.6931 * (1 - tampered) + 0.3133 * tampered
    assert model(**item)["backward_loss"] == pytest.approx(floor.item(), abs=1e-3)


def test_mantranet_changes_its_pooling_window_with_the_photograph():
    model = MantraNet()
    model(**make_item(32))
    grown = model(**make_item(48))["pred_mask"]
    fresh = MantraNet()
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(grown, fresh(**make_item(48))["pred_mask"], rtol=1e-4, atol=1e-4)


def test_mvssnets_image_level_loss_is_the_cross_entropy_of_its_probability():
    item = make_item(64)
    model = MVSSNet().eval()
    output = model(**item)
    expected = F.binary_cross_entropy(output["pred_label"], item["label"].float())
    torch.testing.assert_close(output["visual_loss"]["label_loss"], expected)
    model.label_loss = "upstream"
    upstream = model(**item)
    twice = F.binary_cross_entropy_with_logits(output["pred_label"], item["label"].float())
    torch.testing.assert_close(upstream["visual_loss"]["label_loss"], twice)
    difference = output["backward_loss"] - upstream["backward_loss"]
    torch.testing.assert_close(difference, 0.04 * (expected - twice), rtol=1e-3, atol=1e-6)
    assert torch.equal(output["pred_label"], output["pred_mask"].flatten(1).amax(1))
    model.if_label = False
    other = {**item, "label": 1 - item["label"]}
    with torch.no_grad():  # with gradients every pass scales the Bayar weights anew
        assert torch.equal(model(**item)["backward_loss"], model(**other)["backward_loss"])


@pytest.fixture(scope="module")
def trufor():
    torch.manual_seed(0)
    return Trufor().eval()


def test_trufors_scores_have_a_dimension_at_a_batch_of_one(trufor, monkeypatch):
    item = make_item(64, batch=1)
    with torch.no_grad():
        assert trufor(**item)["pred_label"].shape == (1,)
        monkeypatch.setattr(trufor, "pred_label", "upstream")
        assert trufor(**item)["pred_label"].shape == ()


def test_noiseprint_sees_values_from_0_to_1(trufor, monkeypatch):
    item = make_item(64, batch=1)
    photo = torch.rand(1, 3, 64, 64)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    item["image"] = (photo - mean) / std
    torch.testing.assert_close(without_normalisation(item["image"]), photo)
    seen = []
    handle = trufor.model.dncnn.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        trufor(**item)
        monkeypatch.setattr(trufor, "input_range", "upstream")
        trufor(**item)
    handle.remove()
    torch.testing.assert_close(seen[0], photo)
    torch.testing.assert_close(seen[1], item["image"])


def test_noiseprint_stays_in_evaluation_mode(trufor, monkeypatch):
    trufor.train()
    assert not any(module.training for module in trufor.model.dncnn.modules())
    assert trufor.model.backbone.training
    assert trufor.model.decode_head.training
    monkeypatch.setattr(trufor, "noiseprint", "upstream")
    trufor.train()
    assert all(module.training for module in trufor.model.dncnn.modules())
    trufor.eval()


def test_phase_2_trains_all_but_noiseprint_and_the_detector(trufor):
    frozen = {key.split(".")[1] for key, p in trufor.named_parameters() if not p.requires_grad}
    assert frozen == {"dncnn", "detection"}


def test_phase_3_trains_the_confidence_and_the_detector():
    item = make_item(64)
    model = Trufor(phase=DETECTION)
    output = model.train()(**item)
    assert set(output["visual_loss"]) == {"loss_conf", "loss_det", "combined_loss"}
    output["backward_loss"].backward()
    trained = {key.split(".")[1] for key, p in model.named_parameters() if p.grad is not None}
    assert trained == {"detection", "decode_head_conf"}
    assert not model.model.backbone.training
    single = model(**make_item(64, batch=1))
    assert torch.isfinite(single["backward_loss"])
    upstream = Trufor(phase=DETECTION, detection="upstream")
    upstream(**item)["backward_loss"].backward()
    trained = {key.split(".")[1] for key, p in upstream.named_parameters() if p.grad is not None}
    assert trained == {"detection"}


def test_the_confidence_is_compared_as_a_probability(trufor, monkeypatch):
    conf, mask = torch.full((1, 1, 2, 2), 20.0), torch.ones(1, 1, 2, 2)
    assert trufor.confidence_loss(conf, mask, mask) < 1e-6
    monkeypatch.setattr(trufor, "detection", "upstream")
    assert trufor.confidence_loss(conf, mask, mask) == pytest.approx(19.0**2)


def test_trufors_own_configuration_is_that_of_upstreams_file():
    ours, theirs = _configuration(None), _configuration(str(TRUFOR_FILE))
    assert ours.MODEL == theirs.MODEL
    assert ours.DATASET == theirs.DATASET
    assert not {"BACKBONE", "PREPRC"} & set(_configuration_defaults().MODEL.EXTRA)


def _configuration_defaults():
    from sparsevit_plugin.zoo.trufor import _DEFAULTS

    return _DEFAULTS


@pytest.mark.parametrize("text", ["MODEL: [", "NOSUCH: 1", "MODEL: {NAME: [1]}", None])
def test_a_wrong_configuration_file_is_one_line(tmp_path, text):
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=f"^{file}: no configuration of TruFor: ") as caught:
        Trufor(config_path=str(file))
    assert "\n" not in str(caught.value)


def test_trufor_knows_two_phases():
    with pytest.raises(UserError, match=r"phase: expected 2 \(localization\) or 3"):
        Trufor(phase=1)


@pytest.mark.parametrize("build", [SPAN, MantraNet])
def test_plain_tensors_and_devices_follow_the_model(build):
    model = build()
    extractor = model.featex if build is SPAN else model.IMTFE
    model.to("meta")
    assert extractor.bayar_mask.device == extractor.bayar_final.device == torch.device("meta")
    assert extractor.device == model.device == torch.device("meta")


def test_mesorchs_cached_transform_follows_the_model():
    model = Mesorch(image_size=64).eval()
    predictions(model, make_item(64), 1)
    model.to("meta")
    assert model.low_dct.dct_matrix_h.device == torch.device("meta")
