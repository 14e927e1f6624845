"""The words of a table: row labels, caption, footnotes. No number stands without its terms."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.results.aggregate import Conventions, threshold_of
from sparsevit_plugin.results.store import Cell, Results

_SHORT = 8
_LIBRARIES = ("IMDLBenCo", "torch")

_AUTHENTIC = {
    "tampered": "authentic images are left out",
    "zero": "an authentic image counts 0",
    "one": "an authentic image counts 1 when nothing in it is predicted, else 0",
}
_SCORE_AT = {
    "model": "scored at the model's size",
    "image": "scored at the photograph's own size",
}
_EVALUATOR = {
    "exact": "exact evaluators (an undefined figure is left out)",
    "benco": "IMDLBenCo's evaluators",
}


class _Identity(NamedTuple):
    """What tells the rows of a table apart."""

    manifest_id: str
    model: str
    checkpoint: str


def row_labels(results: Results, rows: pd.DataFrame) -> dict[str, str]:
    """Name every manifest that has rows: the model, and what tells it from others of that name.

    Args:
        results: For the manifests.
        rows: Selected rows.

    Returns:
        manifest_id to label, the oldest manifest first.
    """
    present = rows[list(_Identity._fields)].drop_duplicates().astype(str)
    manifests = results.manifests
    order = sorted(
        (_Identity(*map(str, row)) for row in present.to_numpy()),
        key=lambda row: (str(manifests.get(row.manifest_id, {}).get("created", "")), row.model),
    )
    labels: dict[str, str] = {}
    for row in order:
        same_name = [other for other in order if other.model == row.model]
        same_file = [other for other in same_name if other.checkpoint == row.checkpoint]
        label = row.model
        if len(same_file) < len(same_name) and row.checkpoint not in ("", "nan", "None"):
            label += f" {row.checkpoint[:_SHORT]}"
        if len(same_file) > 1:
            label += f" ({row.manifest_id[:_SHORT]})"
        labels[row.manifest_id] = label
    return labels


def choose_models(
    labels: Mapping[str, str], rows: pd.DataFrame, wanted: Sequence[str] | None
) -> dict[str, str]:
    """Return the chosen manifests with their labels, in the wanted order.

    Args:
        labels: Of all manifests, by id.
        rows: Selected rows.
        wanted: Model names (all of its checkpoints), labels or manifest ids; None for all.

    Raises:
        UserError: A wanted model has no rows.
    """
    if wanted is None:
        return dict(labels)
    pairs = rows[["manifest_id", "model"]].drop_duplicates().astype(str)
    model_of = dict(zip(pairs["manifest_id"], pairs["model"], strict=True))
    chosen: dict[str, str] = {}
    for name in wanted:
        found = {k: v for k, v in labels.items() if name in (k, v, model_of[k])}
        if not found:
            known = sorted({*labels.values(), *model_of.values()})
            hint = suggest(name, known)
            raise UserError(f'no rows of model "{name}", only of {", ".join(known)}.{hint}')
        chosen |= found
    return chosen


def refuse_conflicts(cells: Sequence[Cell]) -> None:
    """Refuse two different files for one cell: which is right cannot be known here.

    Raises:
        UserError: Naming both files.
    """
    seen: dict[tuple[str, str, str], Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.key, cell)
        if other is not cell:
            raise UserError(
                f"{other.path} and {cell.path} hold different rows of one run on one set: give "
                "only one of their folders"
            )


def caption(
    conventions: Conventions, rows: pd.DataFrame, cells: Sequence[Cell], labels: Mapping[str, str]
) -> str:
    """State every convention behind a table's numbers."""
    sentences = [
        f"{_figure(conventions, rows)}; {_SCORE_AT[conventions.score_at]}; "
        f"{_EVALUATOR[conventions.evaluator]}.",
        *_selection(cells, labels),
        *_versions(cells),
    ]
    return " ".join(sentences)


def _figure(conventions: Conventions, rows: pd.DataFrame) -> str:
    figure = conventions.figure
    threshold = threshold_of(rows)
    words = figure.title[0].upper() + figure.title[1:]
    if figure.at_threshold and threshold is not None:
        words += f" at threshold > {threshold:g}"
    if figure.kind == "image":
        return f"{words}, over all images; score {_pooling(rows)}"
    if figure.kind == "area":
        return f"{words}: mean over authentic images, lower is better"
    if figure.kind == "pooled":
        whose = "tampered" if conventions.authentic == "tampered" else "all"
        return f"{words} over the pixels of {whose} images together"
    if conventions.authentic == "tampered":
        return f"{words}: mean over tampered images, each once; {_AUTHENTIC['tampered']}"
    rule = _AUTHENTIC[conventions.authentic]
    if figure.column == "accuracy":
        rule = "authentic images included"
    return f"{words}: mean over all images, each once; {rule}"


def _pooling(rows: pd.DataFrame) -> str:
    words = {"model": "given by the model", "max": "the largest value of the map"}
    names = sorted(str(name) for name in rows["pooling"].dropna().unique())
    return " or ".join(words.get(name, name) for name in names) or "of unknown origin"


def _selection(cells: Sequence[Cell], labels: Mapping[str, str]) -> list[str]:
    by_model = {
        labels[cell.manifest_id]: str(cell.manifest["selection"])
        for cell in cells
        if cell.manifest.get("selection", "none") != "none"
    }
    words = ", ".join(f"{label} {how}" for label, how in by_model.items())
    return [f"One checkpoint per row, chosen on: {words}."] if words else []


def _versions(cells: Sequence[Cell]) -> list[str]:
    found: dict[str, dict[str, None]] = {}
    for cell in cells:
        code = cell.manifest.get("code_version")
        libraries = cell.manifest.get("libraries") or {}
        versions = {"sparsevit-plugin": code, **{name: libraries.get(name) for name in _LIBRARIES}}
        for name, version in versions.items():
            if version:
                found.setdefault(name, {})[str(version)] = None
    words = ", ".join(f"{name} {' and '.join(versions)}" for name, versions in found.items())
    return [f"Made with {words}."] if words else []


def manifest_notes(cells: Sequence[Cell], labels: Mapping[str, str]) -> dict[str, list[str]]:
    """Say for each row what a reader must know of its weights and its data.

    Returns:
        Label to footnotes; rows without any are absent.
    """
    notes: dict[str, dict[str, None]] = {}
    for cell in cells:
        label = labels[cell.manifest_id]
        for note in (*_weights_notes(cell.manifest), *_data_notes(cell)):
            notes.setdefault(label, {})[note] = None
    return {label: list(found) for label, found in notes.items()}


def _weights_notes(manifest: Mapping[str, Any]) -> list[str]:
    notes = []
    pretraining = manifest.get("pretraining")
    random = isinstance(pretraining, str) and "random weights" in pretraining
    if random and manifest.get("checkpoint"):
        notes.append("trained from random weights, without a pretraining file")
    elif random:
        notes.append("random weights, not trained")
    if manifest.get("selection") == "test":
        notes.append("checkpoint chosen on the test sets")
    if manifest.get("selection") == "unknown":
        notes.append("how the checkpoint was chosen is unknown")
    return notes


def _data_notes(cell: Cell) -> list[str]:
    notes = []
    if skipped := cell.facts.get("skipped"):
        images = (
            "1 unusable image was" if len(skipped) == 1 else f"{len(skipped)} unusable images were"
        )
        notes.append(f"{cell.dataset}: {images} skipped")
    if cell.facts.get("pairing") == "position":
        notes.append(f"{cell.dataset}: images and masks were paired by position")
    return notes
