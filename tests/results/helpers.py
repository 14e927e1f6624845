"""Small results made by hand."""

import math
from pathlib import Path

import pandas as pd

from sparsevit_plugin.results.store import Cell, Results


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


def scored(values, metric="f1", **more):
    """One tampered image per number, which is its figure; named by place."""
    rows = [counted(f"Tp/{i:04d}", 1, 1, 1, 1, **more) for i in range(len(values))]
    return [{**row, metric: float(value)} for row, value in zip(rows, values, strict=True)]


def in_memory(*cells):
    """Results without files, from (manifest, set, rows) or (manifest, set, rows, facts)."""
    rows, known = [], []
    for one, dataset, of_cell, *facts in cells:
        fixed = {"manifest_id": one["manifest_id"], "dataset": dataset, "model": one["model"]}
        start = (one.get("checkpoint") or {}).get("sha256", "")[:12]
        rows += [{"perturbation": "none", "checkpoint": start, **row, **fixed} for row in of_cell]
        place = Path(f"{one['manifest_id']}-{dataset}")
        given = facts[0] if facts else {}
        known.append(Cell(one["manifest_id"], dataset, place, one, given, None))
    frame = pd.DataFrame(rows)
    for name in ("manifest_id", "dataset", "perturbation", "score_at", "evaluator", "model"):
        frame[name] = frame[name].astype("category")
    return Results(frame, known)
