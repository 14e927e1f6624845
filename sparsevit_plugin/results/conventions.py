"""What a table can show and by which conventions: names, columns and wording; imports little."""

from dataclasses import dataclass

AUTHENTIC = ("tampered", "zero", "one")
"""What an authentic image counts for: it is left out, it counts 0, or 1 when predicted empty."""

SCORE_AT = ("model", "image")
"""Where a map was scored: at the model's size, or at the photograph's own."""

EVALUATORS = ("exact", "benco")

SCORED_AT = {
    "model": "scored at the model's size",
    "image": "scored at the photograph's own size",
}
"""What a size of scoring is in words."""

EVALUATOR_NAMES = {"exact": "the exact evaluators", "benco": "IMDLBenCo's evaluators"}

UNPERTURBED = "none"
"""The perturbation of a set as it is."""

EXTERNAL = "external maps"
"""A manifest's `kind` where the maps were made by something else than this package."""

DEFAULT_BACKEND = "torch"
"""What computed the maps of a manifest that does not say it."""

FORMATS = ("terminal", "markdown", "csv", "html", "latex")

CELLS = ("columns", "joined")
"""Several metrics as columns of their own below each set, or as `F1 / AUC` in one cell."""


@dataclass(frozen=True)
class Metric:
    """A figure of a table.

    Attributes:
        title: In words, for captions.
        short: In few letters, for the heads of columns.
        kind: `mean` of a column over images, `pooled` over the pixels of all images, `image` for a
            figure of image-level scores, `area` for the mean predicted area of authentic images.
        column: The column of a result row, or the figure that is computed from the counts.
        higher_is_better: Which end is good.
        at_threshold: Whether it depends on the rows' threshold.
    """

    title: str
    short: str
    kind: str
    column: str
    higher_is_better: bool = True
    at_threshold: bool = True


METRICS = {
    "pixel_f1": Metric("pixel F1", "F1", "mean", "f1"),
    "pixel_best_f1": Metric(
        "pixel F1 at each image's best threshold", "best F1", "mean", "best_f1", at_threshold=False
    ),
    "pixel_iou": Metric("pixel IoU", "IoU", "mean", "iou"),
    "pixel_auc": Metric("pixel AUC", "AUC", "mean", "auc", at_threshold=False),
    "pixel_precision": Metric("pixel precision", "precision", "mean", "precision"),
    "pixel_recall": Metric("pixel recall", "recall", "mean", "recall"),
    "pixel_accuracy": Metric("pixel accuracy", "accuracy", "mean", "accuracy"),
    "pooled_f1": Metric("pixel F1", "pooled F1", "pooled", "f1"),
    "pooled_iou": Metric("pixel IoU", "pooled IoU", "pooled", "iou"),
    "pooled_precision": Metric("pixel precision", "pooled precision", "pooled", "precision"),
    "pooled_recall": Metric("pixel recall", "pooled recall", "pooled", "recall"),
    "pooled_accuracy": Metric("pixel accuracy", "pooled accuracy", "pooled", "accuracy"),
    "image_f1": Metric("image-level F1", "image F1", "image", "f1"),
    "image_auc": Metric("image-level AUC", "image AUC", "image", "auc", at_threshold=False),
    "image_accuracy": Metric("image-level accuracy", "image accuracy", "image", "accuracy"),
    "image_balanced_accuracy": Metric(
        "image-level balanced accuracy", "balanced accuracy", "image", "balanced_accuracy"
    ),
    "image_eer": Metric(
        "image-level equal error rate", "EER", "image", "eer", False, at_threshold=False
    ),
    "image_ap": Metric(
        "image-level average precision", "image AP", "image", "ap", at_threshold=False
    ),
    "image_ece": Metric(
        "calibration error of image scores (15 bins)",
        "ECE",
        "image",
        "ece",
        False,
        at_threshold=False,
    ),
    "authentic_fp_area": Metric(
        "share of an authentic image predicted tampered",
        "false area",
        "area",
        "predicted_area",
        higher_is_better=False,
    ),
}
