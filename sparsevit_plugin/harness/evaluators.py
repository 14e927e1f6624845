"""Evaluators behind IMDLBenCo's interface: exact ones, and IMDLBenCo's own.

Both kinds are `IMDLBenCo.evaluation.AbstractEvaluator`: `batch_update` takes a batch and returns
one number per image (pixel level) or collects (image level), `epoch_update` closes the set,
`recovery` starts anew. The exact ones are undefined (NaN) where IMDLBenCo's count an authentic
image as 0, break ties by sort order, or fail; IMDLBenCo's give its published numbers. Neither needs
a process group.
"""

import math
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from sparsevit_plugin.harness.metrics import (
    ImageMetrics,
    PixelStatistics,
    image_metrics,
    pixel_statistics,
)
from sparsevit_plugin.upstream import import_upstream

_evaluation = import_upstream("IMDLBenCo.evaluation")

from IMDLBenCo.evaluation import AbstractEvaluator  # noqa: E402 - imported quietly above

PIXEL_FIGURES = {
    "f1": "pixel-level F1",
    "best_f1": "pixel-level F1 at each image's best threshold",
    "best_threshold": "the threshold of that F1",
    "precision": "pixel-level precision",
    "recall": "pixel-level recall",
    "iou": "pixel-level IoU",
    "auc": "pixel-level AUC",
    "accuracy": "pixel-level accuracy",
    "predicted_area": "share of pixels predicted tampered",
}
"""Columns of a result row that the exact pixel-level evaluators fill."""

IMAGE_FIGURES = {
    "f1": "image-level F1",
    "auc": "image-level AUC",
    "accuracy": "image-level accuracy",
    "balanced_accuracy": "image-level balanced accuracy",
    "eer": "image-level equal error rate",
    "ap": "image-level average precision",
    "ece": "calibration error of image scores",
}

_UPSTREAM_PIXEL = {
    "f1": "PixelF1",
    "auc": "PixelAUC",
    "iou": "PixelIOU",
    "accuracy": "PixelAccuracy",
}
UPSTREAM_IMAGE = {"f1": "ImageF1", "auc": "ImageAUC", "accuracy": "ImageAccuracy"}


class SharedStatistics:
    """The statistics of the batch seen last, so that all evaluators of a batch sort each map once.

    Args:
        threshold: Pixels greater than it are predicted tampered.
    """

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self.clear()

    def clear(self) -> None:
        """Forget the batch."""
        self._seen: list[tuple[weakref.ref[Tensor], int]] = []
        self._statistics: list[PixelStatistics] = []

    def of(self, predict: Tensor, mask: Tensor, shape_mask: Tensor | None) -> list[PixelStatistics]:
        """Return each image's statistics.

        Args:
            predict: Probabilities, shape (B, 1, H, W).
            mask: 1 where tampered, shape (B, 1, H, W).
            shape_mask: 1 where the photograph is, 0 in the border of padding, shape (B, 1, H, W).

        Raises:
            ValueError: Shapes differ, or a map is not finite or holds no probabilities.
        """
        given = [predict, mask] if shape_mask is None else [predict, mask, shape_mask]
        if not self._has_seen(given):
            self._statistics = _batch_statistics(predict, mask, shape_mask, self.threshold)
            self._seen = [(weakref.ref(tensor), _version(tensor)) for tensor in given]
        return self._statistics

    def _has_seen(self, given: list[Tensor]) -> bool:
        return len(given) == len(self._seen) and all(
            reference() is tensor and version == _version(tensor)
            for tensor, (reference, version) in zip(given, self._seen, strict=True)
        )


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written in place; inference tensors do not count that."""
    return -1 if tensor.is_inference() else tensor._version


def _batch_statistics(
    predict: Tensor, mask: Tensor, shape_mask: Tensor | None, threshold: float
) -> list[PixelStatistics]:
    if predict.shape != mask.shape or predict.dim() != 4 or predict.shape[1] != 1:  # noqa: PLR2004
        raise ValueError(
            f"map {tuple(predict.shape)} and mask {tuple(mask.shape)} must both be (B, 1, H, W)"
        )
    maps, masks = _planes(predict), _planes(_tampered(mask))
    valid = [None] * len(maps) if shape_mask is None else list(_planes(shape_mask > 0))
    found = []
    for position, (values, tampered, inside) in enumerate(zip(maps, masks, valid, strict=True)):
        try:
            found.append(pixel_statistics(values, tampered, inside, threshold))
        except ValueError as error:
            raise ValueError(f"image {position} of the batch: {error}") from error
    return found


def _tampered(mask: Tensor) -> Tensor:
    """Return where a mask, boolean or of 0 and 1, calls pixels tampered."""
    return mask if mask.dtype == torch.bool else mask > 0.5  # noqa: PLR2004 - between 0 and 1


def _planes(batch: Tensor) -> np.ndarray:
    """Return a batch (B, 1, H, W) as an array (B, H, W); half precisions become single."""
    plain = batch.detach().cpu()[:, 0]
    return (plain.float() if plain.dtype in (torch.float16, torch.bfloat16) else plain).numpy()


class ExactPixelEvaluator(AbstractEvaluator):
    """One exact pixel-level figure per image; NaN where it is undefined.

    Args:
        column: One of `PIXEL_FIGURES`.
        shared: The statistics shared with the other evaluators of the batch.
    """

    def __init__(self, column: str, shared: SharedStatistics | None = None) -> None:
        super().__init__()
        self.column = column
        self.name = self.desc = PIXEL_FIGURES[column]
        self.shared = shared or SharedStatistics()
        self.threshold = self.shared.threshold

    def batch_update(
        self,
        predict: Tensor,
        mask: Tensor,
        shape_mask: Tensor | None = None,
        *args: object,
        **kwargs: object,
    ) -> Tensor:
        """Return each image's figure, float64, shape (B,); shapes as in `SharedStatistics.of`."""
        self._check_pixel_level_params(predict, mask)
        statistics = self.shared.of(predict, mask, shape_mask)
        return torch.tensor([getattr(s, self.column) for s in statistics], dtype=torch.float64)

    remain_update = batch_update

    def epoch_update(self) -> None:
        """Do nothing: as in IMDLBenCo, pixel-level figures are per image."""

    def recovery(self) -> None:
        """Forget the last batch."""
        self.shared.clear()


class _ImageEvaluator(AbstractEvaluator):
    """Collects image-level scores and labels of a set.

    Args:
        column: One of `IMAGE_FIGURES`.
        threshold: Images with a greater score are predicted tampered.
    """

    def __init__(self, column: str, threshold: float = 0.5) -> None:
        super().__init__()
        self.column = column
        self.name = self.desc = IMAGE_FIGURES[column]
        self.threshold = threshold
        self.recovery()

    def batch_update(
        self, predict_label: Tensor, label: Tensor, *args: object, **kwargs: object
    ) -> None:
        """Collect scores and labels, each of B elements in any shape."""
        self._chekc_image_level_params(predict_label, label)
        self._scores += predict_label.detach().double().reshape(-1).tolist()
        self._labels += label.detach().long().reshape(-1).tolist()
        if len(self._scores) != len(self._labels):
            raise ValueError(f"{len(self._scores)} image scores, {len(self._labels)} labels")

    remain_update = batch_update

    def epoch_update(self) -> float:
        """Return the figure over the set, in a process group over all processes' images."""
        parts = [(self._labels, self._scores)]
        if dist.is_available() and dist.is_initialized():
            parts = [([], [])] * dist.get_world_size()
            dist.all_gather_object(parts, (self._labels, self._scores))
        labels = np.concatenate([np.asarray(part[0], np.int64) for part in parts])
        scores = np.concatenate([np.asarray(part[1], np.float64) for part in parts])
        return self._compute(labels, scores)

    def _compute(self, labels: np.ndarray, scores: np.ndarray) -> float:
        raise NotImplementedError

    def recovery(self) -> None:
        """Forget the set."""
        self._scores: list[float] = []
        self._labels: list[int] = []


class ExactImageEvaluator(_ImageEvaluator):
    """One exact image-level figure per set; NaN where it is undefined."""

    def _compute(self, labels: np.ndarray, scores: np.ndarray) -> float:
        return float(getattr(image_metrics(labels, scores, self.threshold), self.column))


class UpstreamPixelEvaluator(AbstractEvaluator):
    """A pixel-level evaluator of IMDLBenCo, its numbers unchanged.

    Every batch goes through its `batch_update`, the last one too, so that its accuracy heeds the
    shape mask throughout (its `remain_update` forgets it).

    Args:
        column: `f1`, `auc`, `iou` or `accuracy`.
        threshold: Handed to IMDLBenCo's evaluator.
    """

    def __init__(self, column: str, threshold: float = 0.5) -> None:
        super().__init__()
        self.wrapped = getattr(_evaluation, _UPSTREAM_PIXEL[column])(threshold=threshold)
        self.column = column
        self.name, self.desc, self.threshold = self.wrapped.name, self.wrapped.desc, threshold

    def batch_update(
        self,
        predict: Tensor,
        mask: Tensor,
        shape_mask: Tensor | None = None,
        *args: object,
        **kwargs: object,
    ) -> Tensor:
        """Return IMDLBenCo's number for each image as float64, shape (B,)."""
        return self.wrapped.batch_update(predict, mask, shape_mask).double().reshape(-1)

    remain_update = batch_update

    def epoch_update(self) -> None:
        """Do nothing, as IMDLBenCo's pixel-level evaluators."""

    def recovery(self) -> None:
        """Start anew."""
        self.wrapped.recovery()


class UpstreamImageEvaluator(_ImageEvaluator):
    """An image-level evaluator of IMDLBenCo that runs in one process or many.

    Its `batch_update` demands a process group; its `remain_update` does not, so everything goes
    there, as float rows of one shape (its accuracy counts (N, 1) against (N,) by broadcasting, and
    boolean labels make it fail).
    """

    def _compute(self, labels: np.ndarray, scores: np.ndarray) -> float:
        if self.column == "auc" and len(np.unique(labels)) < 2:  # noqa: PLR2004 - two classes
            return math.nan  # scikit-learn below it warns or raises, by its version
        evaluator = getattr(_evaluation, UPSTREAM_IMAGE[self.column])(threshold=self.threshold)
        evaluator.remain_update(
            torch.tensor(scores, dtype=torch.float32), torch.tensor(labels, dtype=torch.float32)
        )
        return float(evaluator.epoch_update())


def exact_evaluators(threshold: float = 0.5) -> list[ExactPixelEvaluator | ExactImageEvaluator]:
    """Return all exact evaluators; the pixel-level ones share one computation per batch."""
    shared = SharedStatistics(threshold)
    pixel = [ExactPixelEvaluator(column, shared) for column in PIXEL_FIGURES]
    return [*pixel, *(ExactImageEvaluator(column, threshold) for column in IMAGE_FIGURES)]


def upstream_evaluators(
    threshold: float = 0.5,
) -> list[UpstreamPixelEvaluator | UpstreamImageEvaluator]:
    """Return IMDLBenCo's evaluators, pixel and image level, in their default mode ("origin")."""
    pixel = [UpstreamPixelEvaluator(column, threshold) for column in _UPSTREAM_PIXEL]
    return [*pixel, *(UpstreamImageEvaluator(column, threshold) for column in UPSTREAM_IMAGE)]


def upstream_image_metrics(
    labels: np.ndarray, scores: np.ndarray, threshold: float = 0.5
) -> ImageMetrics:
    """Compute IMDLBenCo's image-level numbers from stored rows.

    Args:
        labels: 1 for tampered, 0 for authentic, shape (N,).
        scores: Image-level scores, shape (N,).
        threshold: Images with a greater score are predicted tampered.
    """
    figures = {}
    for column in UPSTREAM_IMAGE:
        evaluator = UpstreamImageEvaluator(column, threshold)
        figures[column] = evaluator._compute(np.asarray(labels), np.asarray(scores))
    return ImageMetrics(n=len(labels), tampered=int(np.sum(labels)), **figures)


def evaluate_batch(
    evaluators: Iterable[AbstractEvaluator], output: dict[str, Any], batch: dict[str, Any]
) -> list[dict[str, Any]]:
    """Score a batch with every evaluator.

    Args:
        evaluators: Exact, upstream's, or any of IMDLBenCo's interface (its `column`, else its
            `name`, is the key of its number).
        output: The model's: `pred_mask` (B, 1, H, W) probabilities, `pred_label` (B,) or None.
        batch: The data set's: `mask` (B, 1, H, W), of 0 and 1 or, for exact evaluators, boolean;
            `shape_mask` of that shape or None; `label` (B,) or None (then an image is tampered when
            its mask is not empty).

    Returns:
        One row fragment per image: sizes, label, score, threshold, every pixel-level number, and
            with
        exact evaluators the counts and both histograms.

    Raises:
        ValueError: Shapes differ, or a map is not finite or holds no probabilities.
    """
    evaluators = list(evaluators)
    predict, mask, shape_mask = output["pred_mask"], batch["mask"], batch.get("shape_mask")
    fragments = _facts(output, batch)
    arguments = {
        "predict": predict,
        "mask": mask,
        "shape_mask": shape_mask,
        "predict_label": output.get("pred_label"),
        "label": torch.tensor([fragment["label"] for fragment in fragments]),
    }
    for evaluator in evaluators:
        if arguments["predict_label"] is None and isinstance(evaluator, _ImageEvaluator):
            continue
        values = evaluator.batch_update(**arguments)
        if values is not None:
            column = getattr(evaluator, "column", evaluator.name)
            _fill(fragments, column, values.tolist())
    for evaluator in evaluators:
        if isinstance(evaluator, ExactPixelEvaluator):
            _add_counts(fragments, evaluator.shared.of(predict, mask, shape_mask))
            break
    _fill(fragments, "threshold", [evaluators[0].threshold] * len(fragments))
    return fragments


def _facts(output: dict[str, Any], batch: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is known of each image before it is scored."""
    mask, shape_mask = batch["mask"], batch.get("shape_mask")
    tampered, count = _tampered(mask), len(mask)
    if shape_mask is None:
        pixels = [tampered[0].numel()] * count
    else:
        inside = shape_mask > 0
        pixels, tampered = _true_per_image(inside), tampered & inside
    tampered_pixels = _true_per_image(tampered)
    label, score = batch.get("label"), output.get("pred_label")
    labels = [int(n > 0) for n in tampered_pixels] if label is None else _flat(label, count)
    scores = [None] * count if score is None else _flat(score, count)
    height, width = mask.shape[-2:]
    return [
        {
            "height": int(height),
            "width": int(width),
            "pixels": pixels[i],
            "tampered_pixels": tampered_pixels[i],
            "label": int(labels[i]),
            "score": scores[i],
        }
        for i in range(count)
    ]


def _true_per_image(flags: Tensor) -> list[int]:
    """Count what is true in each image; `count_nonzero` is many times as fast as a sum."""
    return [int(torch.count_nonzero(image)) for image in flags]


def _flat(values: Tensor | Sequence[float], count: int) -> list[Any]:
    """Return one number per image, whatever the shape that a model or data set gives."""
    flat = torch.as_tensor(values).detach().reshape(-1).tolist()
    if len(flat) != count:
        raise ValueError(f"{len(flat)} image-level values for {count} images")
    return flat


def _fill(fragments: list[dict[str, Any]], column: str, values: Sequence[Any]) -> None:
    for fragment, value in zip(fragments, values, strict=True):
        fragment[column] = value


def _add_counts(fragments: list[dict[str, Any]], statistics: list[PixelStatistics]) -> None:
    names = ("tp", "fp", "fn", "tn", "tampered_histogram", "authentic_histogram")
    for fragment, figures in zip(fragments, statistics, strict=True):
        fragment.update({name: getattr(figures, name) for name in names})
