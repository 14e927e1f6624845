"""Detection: image scores from maps or a learned layer, how they are learnt and recorded."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness import detection
from sparsevit_plugin.harness.config import resolve
from sparsevit_plugin.harness.detection import Detection, as_detector
from sparsevit_plugin.harness.pipeline import build_model
from sparsevit_plugin.model.weights import load_into, read_checkpoint
from sparsevit_plugin.results.store import load
from tests.harness.helpers import PlainConvolution, register_plain_convolution, run_train, weights

BATCH = {"image": torch.randn(2, 3, 32, 32), "mask": torch.zeros(2, 1, 32, 32)}
BATCH["mask"][0, :, :8, :8] = 1
LABEL = torch.tensor([1, 0])


def detector(head, **more):
    return as_detector(PlainConvolution(), Detection(head, **more))


@pytest.fixture
def mixed_set(tmp_path, make_set, make_photo):
    """Eight tampered and six authentic images, as a list."""
    folder = make_set(tmp_path / "data", count=8)
    records = [[f"Tp/{n:03d}.jpg", f"Gt/{n:03d}.png"] for n in range(8)]
    for number in range(6):
        make_photo(folder / "Au" / f"{number}.jpg", (48, 64), 100 + number)
        records.append([f"Au/{number}.jpg", "Negative"])
    path = folder / "set.json"
    path.write_text(json.dumps(records))
    return path


def random_map(shape=(3, 1, 20, 30)):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_poolings_follow_their_formulas():
    p = random_map()
    z = detection.logit_map(p)
    flat = p.flatten(1).double()
    logits = torch.logit(flat)
    assert torch.allclose(detection.pool_max(z), logits.amax(1).float(), atol=1e-5)
    top = logits.sort(1, descending=True).values[:, :6].mean(1)  # 1 % of 600
    assert torch.allclose(detection.pool_topk(z), top.float(), atol=1e-5)
    gem = torch.logit((flat**3).mean(1) ** (1 / 3))
    assert torch.allclose(detection.pool_gem(z), gem.float(), atol=1e-5)


@pytest.mark.parametrize("head", ["max", "topk", "gem", "linear"])
def test_padding_has_no_say(head):
    model = as_detector(PlainConvolution(), Detection(head)).eval()
    inside = torch.randn(1, 3, 20, 32)
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, :20] = inside
    image[:, :, 20:] = 9.0
    shape_mask = torch.zeros(1, 1, 32, 32)
    shape_mask[:, :, :20] = 1
    with torch.no_grad():
        whole = model(image=image, shape_mask=shape_mask)
        p = whole["pred_mask"][:, :, :20]
        z = detection.logit_map(p)
        alone = (
            model.image_head(z, None, None)
            if head == "linear"
            else detection.POOLINGS[head](z, None)
        )
    assert torch.allclose(torch.logit(whole["pred_label"]), alone, atol=1e-4)


@pytest.mark.parametrize("head", ["max", "topk", "gem", "linear"])
def test_the_loss_is_the_masks_and_the_scores_weighted(head):
    model = detector(head, image_weight=0.5, mask_weight=2.0)
    plain = PlainConvolution()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "image_head" not in k})
    out = model(**BATCH, label=LABEL)
    bce = nn.functional.binary_cross_entropy(out["pred_label"], LABEL.float())
    expected = 2.0 * plain(**BATCH)["backward_loss"] + 0.5 * bce
    assert float(out["backward_loss"]) == pytest.approx(float(expected), abs=1e-5)
    assert float(out["visual_loss"]["image_loss"]) == pytest.approx(float(bce), abs=1e-5)
    out["backward_loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_with_a_mask_weight_of_0_only_labels_are_learnt():
    model = detector("topk", mask_weight=0.0)
    one = model(**BATCH, label=LABEL)["backward_loss"]
    other = {**BATCH, "mask": 1 - BATCH["mask"]}
    assert torch.equal(one, model(**other, label=LABEL)["backward_loss"])


def test_a_label_alone_teaches_an_image_score():
    torch.manual_seed(0)
    model = detector("topk", mask_weight=0.0)
    image = torch.randn(16, 3, 16, 16)
    label = torch.arange(16) % 2
    image[label == 1, 0] += 2.0
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(60):
        loss = model(image=image, mask=torch.zeros(16, 1, 16, 16), label=label)["backward_loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    score = model(image=image)["pred_label"]
    assert score[label == 1].min() > score[label == 0].max()


def test_own_needs_a_model_that_answers_with_a_score():
    with pytest.raises(UserError, match="PlainConvolution gives no image score of its own"):
        detector("own")(**BATCH)


def cfg_of(*words, verb="test"):
    base = ["--model", "SparseViT_tiny", "--image-size", "32", "--fit", "resize", "--device", "cpu"]
    return resolve(verb, [*base, *words], needs_data=False)


def test_a_head_is_what_the_card_says_unless_chosen():
    assert detection.detection_of(cfg_of()) is None
    assert detection.detection_of(cfg_of("--task", "detection")).head == "max"
    trufor = resolve(
        "test", ["--model", "Trufor", "--task", "detection", "--device", "cpu"], needs_data=False
    )
    found = detection.detection_of(trufor)
    assert (found.head, found.learns_score) == ("own", False)


def test_localization_keeps_the_identity_that_runs_had_before_detection():
    """Stored cells and resumable runs know their settings by this hash."""
    cfg = cfg_of()
    assert not set(cfg.result_options()) & {"task", "image_head"}
    assert cfg.hash() != cfg_of("--task", "detection").hash()
    heads = [cfg_of("--task", "detection", "--image-head", head).hash() for head in ("topk", "gem")]
    assert heads[0] != heads[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image-head", "topk"], "--image-head belongs to --task detection"),
        (["--task", "detection", "--image-head", "lineal"], "Did you mean .linear"),
        (["--task", "detect"], "Did you mean .detection"),
    ],
)
def test_what_makes_no_sense_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        cfg_of(*words)


@pytest.mark.parametrize("head", ["topk", "linear"])
def test_what_infers_faster_scores_the_same(head):
    """SparseViT is fused for tests; a detector stays one."""
    from sparsevit_plugin.backends.torch import inference_copy

    torch.manual_seed(0)
    model = build_model(cfg_of("--task", "detection", "--image-head", head)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        slow = model(image=BATCH["image"])
        fast = inference_copy(model, torch.device("cpu"))(image=BATCH["image"])
    assert torch.allclose(slow["pred_label"], fast["pred_label"], atol=1e-4)
    assert 0 < float(slow["pred_label"].min()) < 1


def test_sparsevits_learned_head_reads_its_features():
    model = build_model(cfg_of("--task", "detection", "--image-head", "linear", verb="train"))
    width = model.encoder_net.tap_widths()[1][-1]
    assert model.image_head.layer.in_features == 4 + width
    model(**BATCH, label=LABEL)["backward_loss"].backward()
    assert model.image_head.layer.weight.grad[0, 4:].abs().sum() > 0


def test_a_timm_backbones_learned_head_reads_its_deepest_level():
    words = ["--model", "timm:resnet10t", "--image-size", "32", "--device", "cpu"]
    words += ["--task", "detection", "--image-head", "linear"]
    model = build_model(resolve("train", words, needs_data=False))
    assert model.image_head.layer.in_features == 4 + model.channels[-1]
    model(**BATCH, label=LABEL)["backward_loss"].backward()
    assert model.image_head.layer.weight.grad[0, 4:].abs().sum() > 0


def test_training_and_testing_a_detector(mixed_set, tmp_path, capsys):
    out = tmp_path / "run"
    flags = ("--task", "detection", "--image-head", "linear", "--test-data-path", str(mixed_set))
    assert run_train(mixed_set, out, *flags, "--select", "val", "--val-fraction", "0.4") == 0
    assert "mean image-level AUC on val" in capsys.readouterr().out
    assert any(name.startswith("image_head.") for name in weights(out / "best.safetensors"))
    results = load(out)
    tested = results.rows[results.rows["dataset"] == "set"]
    assert set(tested["pooling"]) == {"linear"}
    assert tested["score"].between(0, 1).all()
    manifest = results.manifests[tested["manifest_id"].iloc[0]]
    assert (manifest["task"], manifest["image_head"]) == ("detection", "linear")
    assert manifest["detection_loss_weights"] == {"image": 1.0, "mask": 1.0}
    table = results.table(["image_auc", "image_eer", "image_ece"], sets=["set"])
    assert "trained for detection: image score by linear" in " ".join(table.lines())

    again = tmp_path / "again"
    words = ["--checkpoint", str(out), "--test-data-path", str(mixed_set), "--output-dir"]
    base = ["test", "--model", "SparseViT_tiny", "--device", "cpu", "--num-workers", "0"]
    assert main([*base, *words, str(again)]) == 0  # the checkpoint says how it scores
    rows = load(again).rows
    one, two = (
        frame[frame["score_at"] == "model"].sort_values("sample_name")["score"].to_numpy()
        for frame in (tested, rows)
    )
    assert np.allclose(one, two, atol=1e-4)


def test_a_localizers_checkpoint_is_pooled_or_starts_a_head(mixed_set, tmp_path, capsys):
    assert run_train(mixed_set, tmp_path / "plain") == 0
    best = tmp_path / "plain/best.safetensors"
    base = ["test", "--model", "SparseViT_tiny", "--device", "cpu", "--num-workers", "0"]
    base += ["--checkpoint", str(best), "--test-data-path", str(mixed_set), "--task", "detection"]
    assert main([*base, "--image-head", "gem", "--output-dir", str(tmp_path / "gem")]) == 0
    results = load(tmp_path / "gem")
    assert set(results.rows["pooling"]) == {"gem"}
    assert "not learnt: the checkpoint is one of localization" in " ".join(results.table().lines())
    assert main([*base, "--image-head", "linear", "--output-dir", str(tmp_path / "no")]) == 2
    assert "holds no learned image head" in capsys.readouterr().err
    cfg = cfg_of("--task", "detection", "--image-head", "linear", verb="train")
    report = load_into(build_model(cfg), best)
    assert len(report.loaded) > 10


def test_pooled_detectors_give_checkpoints_that_localizers_read(mixed_set, tmp_path):
    flags = ("--task", "detection", "--image-head", "topk")
    assert run_train(mixed_set, tmp_path / "run", *flags) == 0
    best = tmp_path / "run/best.safetensors"
    load_into(build_model(cfg_of()), best)
    assert '"topk"' in read_checkpoint(best).metadata["options"]


def test_one_class_teaches_no_image_score(tmp_path, make_set, capsys):
    tampered = make_set(tmp_path / "set", count=6)
    assert run_train(tampered, tmp_path / "run", "--task", "detection") == 2
    assert "the training data has no authentic image" in capsys.readouterr().err


def test_any_models_map_is_pooled(mixed_set, tmp_path):
    register_plain_convolution()
    words = ["--model", "PlainConvolution", "--fit", "resize", "--task", "detection"]
    model = build_model(resolve("train", [*words, "--image-head", "topk"], needs_data=False))
    out = model(**BATCH, label=LABEL)
    assert out["pred_label"].shape == (2,)
    assert math.isfinite(float(out["backward_loss"]))


def test_a_protocol_may_ask_for_detection():
    from sparsevit_plugin.protocol.keys import testing_content, training_content
    from sparsevit_plugin.protocol.plan import testing_config
    from sparsevit_plugin.protocol.request import Request, read_rows, row_config
    from sparsevit_plugin.protocol.schema import load_protocol

    found = {}
    for name in ("mvss-with-authentic", "mvss-detection"):
        protocol = load_protocol(name)
        request = Request(name, ("SparseViT_tiny",), device="cpu")
        (row,) = read_rows(request, protocol)
        found[name] = row_config(request, protocol, row, 0)
    plain, detecting = found.values()
    assert detection.detection_of(plain) is None
    assert detection.detection_of(testing_config(detecting)).head == "max"
    assert not set(training_content(plain, 1)["options"]) & {"task", "image_head"}
    assert training_content(detecting, 1)["options"]["task"] == "detection"
    assert testing_content(testing_config(detecting), "w")["options"]["task"] == "detection"
