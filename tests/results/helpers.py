"""Small results made by hand."""

import math


def manifest(name, manifest_id=None, **more):
    return {"manifest_id": manifest_id or f"id-{name}", "model": name, **more}


def counted(name, tp, fp, fn, tn, **more):
    """One row whose figures follow from its counts."""
    row = {
        "sample_name": name,
        "score_at": "model",
        "evaluator": "exact",
        "label": int(tp + fn > 0),
        "tampered_pixels": tp + fn,
        "pixels": tp + fp + fn + tn,
        "threshold": 0.5,
        "pooling": "max",
        **{"tp": tp, "fp": fp, "fn": fn, "tn": tn},
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "iou": ratio(tp, tp + fp + fn),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "accuracy": ratio(tp + tn, tp + fp + fn + tn),
        "predicted_area": ratio(tp + fp, tp + fp + fn + tn),
        "photos": [],
    }
    return {**row, **more}


def ratio(over, under):
    return over / under if under else math.nan


def histogram(name, filled=0, **more):
    bins = [0] * 256
    bins[filled] = 4
    return {"sample_name": name, "score_at": "model", "tampered": bins, "authentic": bins, **more}
