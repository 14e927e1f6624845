"""Evaluation: every image of every set once, one row each.

One pass scores each map twice: at the model's size against the fitted mask (as upstream does) and
at the photograph's own size against its own mask. Which one a table shows is chosen when the table
is made.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.datasets import NOTE_KEY, BadSample, collate
from sparsevit_plugin.harness.evaluators import (
    evaluate_batch,
    exact_evaluators,
    upstream_evaluators,
)
from sparsevit_plugin.harness.progress import Progress
from sparsevit_plugin.results.packed import PackedRecords

NOT_FOR_THE_MODEL = ("bad", "native_mask", "sample_name", NOTE_KEY)
"""Keys of a batch that are the harness's own."""


@dataclass
class EvaluationSettings:
    """How maps are made and scored.

    Attributes:
        batch_size: Images per forward pass and process.
        num_workers: Loader processes.
        evaluators: `exact`, or `benco` for upstream's (which score at the model's size only).
        model_eval: Whether the model is put into eval mode (upstream's `--no_model_eval` leaves
            it).
        skip_bad: Whether an unreadable image is passed over and listed instead of ending the run.
        predict_label: Upstream's `--if_predict_label`.
        score_name: What rows call the origin of a score that the model answers with.
    """

    batch_size: int = 2
    num_workers: int = 1
    evaluators: str = "exact"
    model_eval: bool = True
    skip_bad: bool = False
    predict_label: bool = False
    score_name: str = "model"


@dataclass
class SetResult:
    """What the evaluation of one set gave, in the order of the set.

    Attributes:
        rows: As in `results.schema`.
        histograms: As there.
        bad: Images that could not be used.
        notes: How many photographs were fed to the model otherwise than as they are, by what was
            done.
    """

    rows: PackedRecords = field(default_factory=PackedRecords)
    histograms: PackedRecords = field(default_factory=PackedRecords)
    bad: list[BadSample] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


def model_inputs(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return what of a batch goes to the model, on its device.

    Masks come from upstream's datasets in double precision; they are floats from here on.
    """
    inputs = {}
    for key, value in batch.items():
        if key in NOT_FOR_THE_MODEL:
            continue
        if isinstance(value, Tensor):
            moved = value.to(device, non_blocking=True)
            inputs[key] = moved.float() if moved.dtype == torch.float64 else moved
        else:
            inputs[key] = value
    return inputs


def refuse_bad(bad: Sequence[BadSample], *, skip: bool) -> None:
    """Stop at the first bad image unless they are to be passed over.

    An image that has gone since its set was read is not passed over: when the folder is there
    again, the results would be of other images than they say.
    """
    for one in bad:
        if not one.path.exists():
            raise UserError(
                f"{one.path}: has gone since its set was read; when it is there again, run the "
                "same command once more, a training with --resume auto"
            )
    if bad and not skip:
        raise UserError(
            f"{bad[0].path}: {bad[0].reason}; mend or remove it, or pass --on-bad-image skip"
        )


def evaluate_set(
    fabric: Fabric, model: nn.Module, dataset: Dataset, settings: EvaluationSettings, *, label: str
) -> SetResult:
    """Predict and score every image of a set; in several processes each takes every n-th image.

    Args:
        fabric: The launched Fabric.
        model: The model on its device, not wrapped for several processes.
        dataset: Made by `build_dataset(..., native_mask=True)` for scores at the photograph's own
            size.
        settings: How to do it.
        label: Shown with the progress.

    Returns:
        On the main process all rows, in the order of the set; on others an empty result.

    Raises:
        UserError: If an image is bad and bad images are not to be skipped, or no image is left.
    """
    indices = range(fabric.global_rank, len(dataset), fabric.world_size)  # type: ignore[arg-type]
    loader = DataLoader(
        dataset,
        sampler=list(indices),
        batch_size=settings.batch_size,
        num_workers=settings.num_workers,
        collate_fn=collate,
    )
    was_training = model.training
    model.train(not settings.model_eval)
    local = SetResult()
    visible = fabric.is_global_zero
    with torch.no_grad(), Progress(len(indices), label, visible=visible) as progress:
        for batch in loader:
            bad = batch["bad"]
            refuse_bad(bad, skip=settings.skip_bad)
            local.bad += bad
            count = len(bad)
            if "image" in batch:
                _score_batch(fabric, model, batch, settings, local)
                local.notes.update(note for note in batch.get(NOTE_KEY, ()) if note)
                count += len(batch["image"])
            progress.advance(count)
    model.train(was_training)
    result = _gather(fabric, local)
    if fabric.is_global_zero and not result.rows:
        raise UserError(f"{label}: none of its {len(dataset)} images could be used")  # type: ignore[arg-type]
    return result


def _score_batch(
    fabric: Fabric,
    model: nn.Module,
    batch: dict[str, Any],
    settings: EvaluationSettings,
    result: SetResult,
) -> None:
    inputs = model_inputs(batch, fabric.device)
    with fabric.autocast():
        output = model(**inputs, if_predcit_label=settings.predict_label)
    output = maps_and_scores(output, batch, settings.score_name)
    try:
        _score(output, batch, settings, result)
    except ValueError as error:
        names = ", ".join(batch["sample_name"])
        raise UserError(
            f"the model's pred_mask cannot be scored: {error} ({names}); it must hold finite "
            "probabilities, so a model that gives logits needs a sigmoid"
        ) from error


def _score(
    output: dict[str, Any], batch: dict[str, Any], settings: EvaluationSettings, result: SetResult
) -> None:
    """Score a batch at the model's size and, with exact evaluators, at the photographs' own."""
    pooling = {"pooling": output.pop("pooling")}
    scored = {key: batch.get(key) for key in ("mask", "shape_mask", "label")}
    if settings.evaluators == "benco":
        fragments = evaluate_batch(upstream_evaluators(), output, scored)
        rows = _keyed(batch, fragments, {"score_at": "model", "evaluator": "benco", **pooling})
    else:
        fragments = evaluate_batch(exact_evaluators(), output, scored)
        rows = _keyed(batch, fragments, {"score_at": "model", "evaluator": "exact", **pooling})
    if settings.evaluators == "exact" and "native_mask" in batch:
        fragments = _native_fragments(output, batch)
        rows += _keyed(batch, fragments, {"score_at": "image", "evaluator": "exact", **pooling})
    for row in sorted(rows, key=_order):
        _collect(row, result)


def maps_and_scores(
    output: dict[str, Any], batch: dict[str, Any], score_name: str = "model"
) -> dict[str, Any]:
    """Return the map (B, 1, H, W) and the image scores (B,) on the CPU in single precision.

    The score is the model's own; a model that gives none is scored by the maximum of its map over
    the pixels that belong to the photograph (`pooling` says which; `score_name` is what it calls
    the model's own). Upstream's TruFor answers a batch of one with a 0-dimensional score.
    """
    probability = output["pred_mask"].detach().float().cpu()
    count = len(probability)
    label = output.get("pred_label")
    if label is not None and label.numel() == count:
        return {
            "pred_mask": probability,
            "pred_label": label.detach().float().cpu().reshape(count),
            "pooling": score_name,
        }
    shape_mask = batch.get("shape_mask")
    inside = probability if shape_mask is None else probability.masked_fill(shape_mask == 0, 0.0)
    # As each pixel's value is when it is scored: rounding takes interpolated ones out of [0, 1].
    score = inside.flatten(1).amax(1).clamp(0, 1)
    return {"pred_mask": probability, "pred_label": score, "pooling": "max"}


def native_map(probability: Tensor, shape: Sequence[int], size: Sequence[int]) -> Tensor:
    """Bring a map to the photograph's own size.

    Args:
        probability: Map at the model's size, shape (1, H, W).
        shape: Height and width that the photograph takes in it (all of it after resizing, a part
            of it after padding).
        size: Height and width of the photograph.

    Returns:
        The map, shape (1, size[0], size[1]), bilinear without aligned corners.
    """
    inside = probability[:, : int(shape[0]), : int(shape[1])]
    target = (int(size[0]), int(size[1]))
    if inside.shape[-2:] == target:
        return inside
    return F.interpolate(inside[None], size=target, mode="bilinear", align_corners=False)[0]


def _native_fragments(output: dict[str, Any], batch: dict[str, Any]) -> list[dict[str, Any]]:
    fragments = []
    for position, mask in enumerate(batch["native_mask"]):
        scaled = native_map(
            output["pred_mask"][position], batch["shape"][position], mask.shape[-2:]
        )
        single = {
            "pred_mask": scaled[None],
            "pred_label": output["pred_label"][position : position + 1],
        }
        scored = {
            "mask": mask.reshape(1, 1, *mask.shape[-2:]).bool(),
            "shape_mask": None,
            "label": batch["label"][position : position + 1],
        }
        fragments += evaluate_batch(exact_evaluators(), single, scored)
    return fragments


def _keyed(
    batch: dict[str, Any], fragments: Iterable[dict[str, Any]], convention: dict[str, str]
) -> list[dict[str, Any]]:
    """Put the batch's keys before the evaluators' fragments."""
    return [
        {
            "sample_index": int(batch["sample_index"][position]),
            "sample_name": batch["sample_name"][position],
            **convention,
            **fragment,
        }
        for position, fragment in enumerate(fragments)
    ]


def _collect(row: dict[str, Any], result: SetResult) -> None:
    """Add a row; its histograms go to a table of their own."""
    tampered, authentic = row.pop("tampered_histogram", None), row.pop("authentic_histogram", None)
    result.rows.append(row)
    if tampered is not None:
        key = {name: row[name] for name in ("sample_index", "sample_name", "score_at")}
        result.histograms.append({**key, "tampered": tampered, "authentic": authentic})


def _order(row: Mapping[str, Any]) -> tuple[int, str]:
    return row["sample_index"], row["score_at"]


def _gather(fabric: Fabric, local: SetResult) -> SetResult:
    """Bring the parts of all processes to the main one, in the order of the set."""
    if fabric.world_size == 1:
        return local
    slots: list[Any] | None = [None] * fabric.world_size if fabric.is_global_zero else None
    dist.gather_object(local, slots)
    parts: list[SetResult] = slots or []
    rows = PackedRecords(heapq.merge(*(part.rows for part in parts), key=_order))
    histograms = PackedRecords(heapq.merge(*(part.histograms for part in parts), key=_order))
    notes = sum((part.notes for part in parts), Counter[str]())
    bad = sorted((item for part in parts for item in part.bad), key=lambda item: item.name)
    return SetResult(rows, histograms, bad, notes)
