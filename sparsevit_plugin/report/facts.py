"""What was run, on what, and how: the facts of manifests and sets in the words of a page."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from sparsevit_plugin.results.rows import TableRow
from sparsevit_plugin.results.store import Cell, Results

_SHORT: Final = 12
_CHOSEN: Final = ("plugin default", "upstream default")
"""Origins of an option that nobody chose."""


@dataclass(frozen=True)
class Setting:
    """An option of a run: its name, value, and where the value is from."""

    name: str
    value: str
    origin: str


@dataclass(frozen=True)
class RunFacts:
    """One run behind a row of the table.

    Attributes:
        title: The row's label, and its seed where the row has several.
        facts: Names and values.
        settings: Options that are no defaults, and arguments of the model.
        manifest: All of it, as JSON.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    settings: tuple[Setting, ...]
    manifest: str


@dataclass(frozen=True)
class SetFacts:
    """One image set as it was tested.

    Attributes:
        name: Its name.
        images: How many were scored.
        tampered: How many of them are tampered.
        authentic: How many are not.
        path: Where it was.
        fingerprint: The start of the hash over its files; empty when unknown.
        notes: What was skipped or fed otherwise than as it is.
    """

    name: str
    images: int
    tampered: int
    authentic: int
    path: str
    fingerprint: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Libraries:
    """Versions of libraries, a column for each set of versions that runs had.

    Attributes:
        columns: Which runs.
        rows: Library and its version in each column; "-" where it is not known.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def run_facts(rows: Sequence[TableRow]) -> tuple[RunFacts, ...]:
    """Describe every run behind a table."""
    found = []
    for row in rows:
        for member in row.members:
            title = row.label
            if len(row.members) > 1:
                title += f", seed {member.seed}"
            manifest = member.manifest
            found.append(
                RunFacts(
                    title, tuple(_facts(manifest)), tuple(_settings(manifest)), _json(manifest)
                )
            )
    return tuple(found)


def _facts(manifest: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    checkpoint = _mapping(manifest.get("checkpoint"))
    registered = manifest.get("registered_model")
    sha256 = str(checkpoint.get("sha256") or "")[:_SHORT]
    training = manifest.get("training_data")
    known = {
        "registered as": registered if registered != manifest.get("model") else None,
        "kind": manifest.get("kind"),
        "checkpoint": f"{checkpoint.get('file')}, SHA-256 {sha256}" if sha256 else "none",
        "epoch": checkpoint.get("epoch"),
        "checkpoint chosen on": manifest.get("selection"),
        "pretraining": manifest.get("pretraining"),
        "recipe": manifest.get("recipe"),
        "effective batch": manifest.get("effective_batch"),
        "training data": ", ".join(training) if isinstance(training, Mapping) else training,
        "seed": manifest.get("seed"),
        "images fitted by": manifest.get("fit"),
        "image size": manifest.get("image_size"),
        "evaluators": manifest.get("evaluators"),
        "computed by": " ".join(
            str(manifest[name]) for name in ("backend", "number_format") if manifest.get(name)
        ),
        "device": manifest.get("device"),
        "processes": manifest.get("world_size"),
        "code": manifest.get("code_version"),
        "command": manifest.get("command"),
        "tested": manifest.get("created"),
        "manifest": manifest.get("manifest_id"),
    }
    return [(name, _text(value)) for name, value in known.items() if value not in (None, "", {})]


def _settings(manifest: Mapping[str, Any]) -> Iterable[Setting]:
    config = _mapping(manifest.get("config"))
    origin = _mapping(config.get("origin"))
    for name, value in _mapping(config.get("options")).items():
        source = str(origin.get(name, ""))
        if source and source not in _CHOSEN:
            yield Setting(name, _text(value), source)
    of_argument = _mapping(config.get("argument_origin"))
    for name, value in _mapping(config.get("model_arguments")).items():
        yield Setting(f"model argument {name}", _text(value), str(of_argument.get(name, "")))


def _json(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=1, ensure_ascii=False, default=str)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value, ensure_ascii=False, default=str)


def libraries(rows: Sequence[TableRow]) -> Libraries:
    """Return the versions that the runs of a table had; equal ones share a column."""
    groups: dict[str, tuple[dict[str, str], list[str]]] = {}
    for row in rows:
        for member in row.members:
            versions = {
                str(name): str(version)
                for name, version in _mapping(member.manifest.get("libraries")).items()
            }
            key = json.dumps(versions, sort_keys=True)
            groups.setdefault(key, (versions, []))[1].append(row.label)
    known = [(versions, labels) for versions, labels in groups.values() if versions]
    names = dict.fromkeys(name for versions, _ in known for name in versions)
    columns = (
        ("version",)
        if len(known) == 1
        else tuple(", ".join(dict.fromkeys(labels)) for _, labels in known)
    )
    table = tuple((name, tuple(v.get(name, "-") for v, _ in known)) for name in names)
    return Libraries(columns if table else (), table)


def set_facts(results: Results, sets: Sequence[str], rows: pd.DataFrame) -> tuple[SetFacts, ...]:
    """Describe the sets of a table.

    Args:
        results: For what was noted of each set.
        sets: Their names; those without a result are left out.
        rows: Selected rows, of which each image of a run has one.
    """
    found = []
    for name in sets:
        of_set = rows[rows["dataset"] == name]
        cell = next((cell for cell in results.cells if cell.dataset == name), None)
        if of_set.empty or cell is None:
            continue
        largest = of_set["manifest_id"].value_counts().index[0]
        own = of_set[of_set["manifest_id"] == largest]
        tampered = int(((own["tampered_pixels"] > 0) | (own["label"] == 1)).sum())
        cells = [cell for cell in results.cells if cell.dataset == name]
        found.append(
            SetFacts(
                name,
                len(own),
                tampered,
                len(own) - tampered,
                str(cell.facts.get("path") or "unknown"),
                str(cell.facts.get("fingerprint") or "")[:_SHORT],
                tuple(dict.fromkeys(note for cell in cells for note in _set_notes(cell))),
            )
        )
    return tuple(found)


def _set_notes(cell: Cell) -> Iterable[str]:
    skipped = cell.facts.get("skipped") or ()
    if skipped:
        yield f"{len(skipped)} images could not be read and were skipped"
    for note, count in _mapping(cell.facts.get("input_notes")).items():
        yield f"{count} photographs: {note}"
