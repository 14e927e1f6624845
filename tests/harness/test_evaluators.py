"""The exact evaluators beside IMDLBenCo's: where they agree, and every case where they do not."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from IMDLBenCo.evaluation import (
    AbstractEvaluator,
    ImageAccuracy,
    PixelAccuracy,
    PixelAUC,
    PixelF1,
    PixelIOU,
)
from sklearn.metrics import roc_auc_score

from sparsevit_plugin.harness import evaluators as tested
from sparsevit_plugin.harness.evaluators import (
    evaluate_batch,
    exact_evaluators,
    upstream_evaluators,
    upstream_image_metrics,
)
from sparsevit_plugin.harness.metrics import image_metrics

BOTH = (exact_evaluators, upstream_evaluators)
SHARED = ("f1", "auc", "iou", "accuracy")


def mixed_batch(seed, count=3, size=(12, 17), padded=False):
    """Maps without ties, masks with both classes, as IMDLBenCo's data sets give them (doubles)."""
    generator = torch.Generator().manual_seed(seed)
    predict = torch.rand(count, 1, *size, generator=generator)
    mask = (torch.rand(count, 1, *size, generator=generator) > 0.6).double()
    mask[..., 0, 0], mask[..., 0, 1] = 1, 0
    shape_mask = None
    if padded:
        shape_mask = torch.zeros_like(mask)
        shape_mask[..., : size[0] - 3, : size[1] - 5] = 1
    output = {"pred_mask": predict, "pred_label": torch.rand(count, generator=generator)}
    label = torch.ones(count, dtype=torch.long)
    return output, {"mask": mask, "shape_mask": shape_mask, "label": label}


def rows(evaluators, output, batch):
    return evaluate_batch(evaluators, output, batch)


def single(probability, mask, score=0.7, label=1):
    """Batch of one image from nested lists."""
    output = {"pred_mask": torch.tensor([[probability]]), "pred_label": torch.tensor([score])}
    batch = {"mask": torch.tensor([[mask]]).double(), "label": torch.tensor([label])}
    return output, batch


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.booleans())
def test_agree_on_mixed_masks(seed, padded):
    output, batch = mixed_batch(seed, padded=padded)
    exact = rows(exact_evaluators(), output, batch)
    upstream = rows(upstream_evaluators(), output, batch)
    for ours, theirs in zip(exact, upstream, strict=True):
        assert {k: ours[k] for k in SHARED} == pytest.approx(
            {k: theirs[k] for k in SHARED}, abs=2e-6
        )
        assert (ours["pixels"], ours["label"]) == (theirs["pixels"], theirs["label"])


def test_adapters_do_not_change_a_number():
    output, batch = mixed_batch(1, padded=True)
    predict, mask, shape_mask = output["pred_mask"], batch["mask"], batch["shape_mask"]
    adapted = rows(upstream_evaluators(), output, batch)
    for column, evaluator in zip(
        SHARED, (PixelF1(), PixelAUC(), PixelIOU(), PixelAccuracy()), strict=True
    ):
        own = evaluator.batch_update(predict, mask, shape_mask).double().tolist()
        assert [row[column] for row in adapted] == own


def test_every_evaluator_has_upstreams_interface():
    for evaluator in [*exact_evaluators(), *upstream_evaluators()]:
        assert isinstance(evaluator, AbstractEvaluator)
        assert evaluator.name
        assert evaluator.threshold == 0.5


class TestDisagreements:
    """IMDLBenCo's behaviour is asserted too: when it changes, these say so."""

    def test_authentic_image_predicted_empty(self):
        case = single([[0.1, 0.2]], [[0, 0]], label=0)
        (ours,), (theirs,) = rows(exact_evaluators(), *case), rows(upstream_evaluators(), *case)
        assert all(math.isnan(ours[name]) for name in ("f1", "iou", "auc", "precision", "best_f1"))
        assert [theirs[name] for name in ("f1", "iou", "auc")] == [0.0, 0.0, 0.0]
        assert ours["accuracy"] == theirs["accuracy"] == 1.0

    def test_authentic_image_with_false_alarm(self):
        case = single([[0.9, 0.2]], [[0, 0]], label=0)
        (ours,), (theirs,) = rows(exact_evaluators(), *case), rows(upstream_evaluators(), *case)
        assert ours["f1"] == ours["precision"] == theirs["f1"] == 0.0
        assert math.isnan(ours["auc"])
        assert theirs["auc"] == 0.0

    def test_wholly_tampered_image(self):
        case = single([[0.9, 0.2]], [[1, 1]])
        (ours,), (theirs,) = rows(exact_evaluators(), *case), rows(upstream_evaluators(), *case)
        assert math.isnan(ours["auc"])
        assert math.isnan(theirs["auc"])
        assert ours["f1"] == pytest.approx(theirs["f1"]) == pytest.approx(2 / 3)

    def test_ties_are_broken_by_sort_order(self):
        scores = (torch.arange(1600) % 2).float().reshape(1, 1, 40, 40)
        mask = (torch.arange(1600) >= 800).double().reshape(1, 1, 40, 40)
        output, batch = {"pred_mask": scores}, {"mask": mask}
        (ours,), (theirs,) = (rows(make(), output, batch) for make in BOTH)
        truth = roc_auc_score(mask.flatten().numpy(), scores.flatten().numpy())
        assert ours["auc"] == pytest.approx(truth, abs=1e-12)
        assert truth == 0.5
        assert abs(theirs["auc"] - truth) > 0.05

    def test_constant_map(self):
        generator = torch.Generator().manual_seed(0)
        mask = (torch.rand(1, 1, 40, 40, generator=generator) > 0.7).double()
        output, batch = {"pred_mask": torch.full((1, 1, 40, 40), 0.3)}, {"mask": mask}
        (ours,), (theirs,) = (rows(make(), output, batch) for make in BOTH)
        assert ours["auc"] == 0.5
        assert theirs["auc"] != 0.5

    def test_nan_map(self):
        case = single([[math.nan, 0.2]], [[1, 0]])
        with pytest.raises(ValueError, match="image 0 of the batch: the map holds"):
            rows(exact_evaluators(), *case)
        (theirs,) = rows(upstream_evaluators(), *case)
        assert theirs["f1"] == 0.0

    def test_accuracy_of_the_last_batch_forgets_the_shape_mask(self):
        output, batch = mixed_batch(2, padded=True)
        arguments = output["pred_mask"], batch["mask"], batch["shape_mask"]
        wrong = PixelAccuracy().remain_update(*arguments).tolist()
        exact = [row["accuracy"] for row in rows(exact_evaluators(), output, batch)]
        adapted = [row["accuracy"] for row in rows(upstream_evaluators(), output, batch)]
        assert adapted == pytest.approx(exact, abs=1e-6)
        assert wrong != pytest.approx(exact, abs=1e-3)

    def test_image_accuracy_of_a_column_against_a_row(self):
        scores, labels = torch.tensor([[0.9], [0.8], [0.1], [0.2]]), torch.tensor([1.0, 1, 0, 0])
        wrong = ImageAccuracy()
        wrong.remain_update(scores, labels)
        assert wrong.epoch_update() == 2.0
        for adapted in (*upstream_evaluators(), *exact_evaluators()):
            if adapted.name == "image-level accuracy":
                adapted.batch_update(predict_label=scores, label=labels.bool())
                assert adapted.epoch_update() == 1.0

    def test_image_level_without_any_class(self):
        labels, scores = np.array([0, 0, 0]), np.array([0.1, 0.2, 0.3])
        assert math.isnan(image_metrics(labels, scores).f1)
        theirs = upstream_image_metrics(labels, scores)
        assert theirs.f1 == 0.0
        assert math.isnan(theirs.auc)


def test_image_level_runs_over_batches_without_a_process_group():
    batches = [mixed_batch(seed, count=4) for seed in range(3)]
    labels = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]])
    scores = np.concatenate([output["pred_label"].numpy() for output, _ in batches])
    expected = image_metrics(labels.flatten().numpy(), scores)
    for evaluators, tolerance in ((exact_evaluators(), 1e-12), (upstream_evaluators(), 1e-6)):
        for (output, batch), label in zip(batches, labels, strict=True):
            evaluate_batch(evaluators, output, {**batch, "label": label})
        image_level = [e for e in evaluators if e.epoch_update() is not None]
        for evaluator in image_level:
            wanted = getattr(expected, evaluator.column)
            assert evaluator.epoch_update() == pytest.approx(wanted, abs=tolerance)
            evaluator.recovery()
            evaluator.batch_update(torch.tensor([0.9, 0.1]), torch.tensor([1, 0]))
            perfect = {"eer": 0.0, "ece": 0.1}.get(evaluator.column, 1.0)
            assert evaluator.epoch_update() == pytest.approx(perfect, abs=1e-6)
        columns = {evaluator.column for evaluator in image_level}
        assert {"f1", "auc", "accuracy"} <= columns


def test_stored_rows_give_upstreams_image_level_numbers():
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(0, 2, 50), generator.random(50)
    ours, theirs = image_metrics(labels, scores), upstream_image_metrics(labels, scores)
    for column in ("f1", "auc", "accuracy"):
        assert getattr(theirs, column) == pytest.approx(getattr(ours, column), abs=1e-6)


def test_a_batch_is_sorted_once_for_all_evaluators(monkeypatch):
    calls = []
    real = tested.pixel_statistics
    monkeypatch.setattr(tested, "pixel_statistics", lambda *a: calls.append(1) or real(*a))
    evaluators = exact_evaluators()
    output, batch = mixed_batch(0, count=2)
    evaluate_batch(evaluators, output, batch)
    assert len(calls) == 2
    evaluate_batch(evaluators, *mixed_batch(1, count=2))
    assert len(calls) == 4


def test_a_map_written_over_in_place_is_scored_anew():
    evaluators = exact_evaluators()
    output, batch = mixed_batch(0, count=1)
    before = evaluate_batch(evaluators, output, batch)
    output["pred_mask"].copy_(batch["mask"])
    after = evaluate_batch(evaluators, output, batch)
    assert before[0]["f1"] < after[0]["f1"] == 1.0


def test_padding_takes_part_in_nothing():
    output, batch = mixed_batch(3, padded=True)
    plain = rows(exact_evaluators(), output, batch)
    outside = batch["shape_mask"] == 0
    output["pred_mask"][outside] = 1.0
    batch["mask"][outside] = 1.0
    noisy = rows(exact_evaluators(), output, batch)
    for one, other in zip(plain, noisy, strict=True):
        assert one["pixels"] == 9 * 12
        assert one["tampered_histogram"].tolist() == other["tampered_histogram"].tolist()
        assert one["auc"] == other["auc"]
        assert one["best_f1"] == other["best_f1"]


def test_a_row_has_counts_and_histograms():
    (row,) = rows(exact_evaluators(), *single([[0.9, 0.6], [0.5, 0.1]], [[1, 0], [1, 0]]))
    assert [row[name] for name in ("tp", "fp", "fn", "tn")] == [1, 1, 1, 1]
    assert (row["height"], row["width"], row["pixels"], row["tampered_pixels"]) == (2, 2, 4, 2)
    assert row["score"] == pytest.approx(0.7)
    assert row["tampered_histogram"].sum() == 2


def test_a_missing_label_comes_from_the_mask_and_a_missing_score_stays_missing():
    output, batch = single([[0.9, 0.6]], [[1, 0]])
    (row,) = rows(exact_evaluators(), {"pred_mask": output["pred_mask"]}, {"mask": batch["mask"]})
    assert row["label"] == 1
    assert row["score"] is None


def test_scores_of_any_shape_are_one_per_image():
    output, batch = single([[0.9, 0.6]], [[1, 0]])
    output["pred_label"] = torch.tensor(0.25)  # TruFor at batch 1
    assert rows(upstream_evaluators(), output, batch)[0]["score"] == 0.25
    output["pred_label"] = torch.tensor([0.25, 0.5])
    with pytest.raises(ValueError, match="2 image-level values for 1 images"):
        rows(exact_evaluators(), output, batch)


def test_half_precision_maps_are_scored():
    output, batch = single([[0.75, 0.25]], [[1, 0]])
    output["pred_mask"] = output["pred_mask"].to(torch.bfloat16)
    assert rows(exact_evaluators(), output, batch)[0]["f1"] == 1.0


def test_a_mask_of_another_size_is_refused():
    output, batch = single([[0.9, 0.6]], [[1, 0, 0]])
    with pytest.raises(ValueError, match="must both be"):
        rows(exact_evaluators(), output, batch)
