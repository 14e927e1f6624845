"""The rows of a table: which manifests make one, what it is called, and under which heading.

Manifests that share their key `series` differ in nothing but the seed, the device and the copy of
the data, and are one row. Where a seed is in a series twice, the manifests of each device are a
row, and where it is twice on one device, those of each copy. If it is twice even so, something else
differs too and each is a row of its own, as is a manifest without that key.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd

from sparsevit_plugin.errors import UserError, suggest
from sparsevit_plugin.results.aggregate import Codes
from sparsevit_plugin.results.conventions import DEFAULT_BACKEND, EXTERNAL
from sparsevit_plugin.results.store import Results

_SHORT = 8


@dataclass(frozen=True)
class Member:
    """One manifest of a row.

    Attributes:
        manifest_id: Its id.
        model: The model's name in its rows.
        checkpoint: Start of its checkpoint's hash; empty without one.
        manifest: What was run; empty where only rows are known.
    """

    manifest_id: str
    model: str
    checkpoint: str
    manifest: Mapping[str, Any]

    @property
    def device(self) -> str:
        """What computed its maps: `cpu`, or a GPU's name; empty when unknown."""
        return str(self.manifest.get("device") or "").partition(" (")[0]

    @property
    def series(self) -> str:
        """What its manifest shares with those that differ in the seed alone; empty when unknown."""
        return str(self.manifest.get("series") or "")

    @property
    def data(self) -> str:
        """The copy of the data that it was trained on, as text; "null" when unknown."""
        return json.dumps(self.manifest.get("training_data"), sort_keys=True, default=str)

    @property
    def seed(self) -> Any:  # noqa: ANN401 - whatever the manifest holds
        """Of the training; None when unknown."""
        return self.manifest.get("seed")


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Attributes:
        label: What it is called; no other row of the table is called so.
        name: What it is called under its group's heading.
        model: The model's name.
        group: Heading that it stands under; empty for none.
        members: Its manifests, one per seed.
    """

    label: str
    name: str
    model: str
    group: str
    members: tuple[Member, ...]

    @property
    def manifest_ids(self) -> list[str]:
        """Ids of its manifests."""
        return [member.manifest_id for member in self.members]

    @property
    def complexity(self) -> Mapping[str, Any]:
        """Parameters and MACs as a manifest has them; empty when none has."""
        known = (member.manifest.get("complexity") for member in self.members)
        return next((found for found in known if found), {})

    @property
    def computed(self) -> str:
        """What computed its maps, as "openvino int8"; empty for PyTorch's usual precisions."""
        return computed_by(self.members[0].manifest)

    @property
    def is_external(self) -> bool:
        """Whether its maps were made by something else than this package."""
        return any(member.manifest.get("kind") == EXTERNAL for member in self.members)


def computed_by(manifest: Mapping[str, Any]) -> str:
    """Name the backend and precision that a row is told apart by; empty for PyTorch's usual ones.

    Args:
        manifest: What was run.
    """
    backend = str(manifest.get("backend", DEFAULT_BACKEND))
    precision = str(manifest.get("number_format", ""))
    if backend == DEFAULT_BACKEND and precision != "bf16":
        return ""
    return f"{backend} {precision}".strip()


def find_rows(results: Results, rows: pd.DataFrame, codes: Codes) -> list[TableRow]:
    """Gather the manifests that have rows into the rows of a table.

    Args:
        results: For the manifests.
        rows: Selected rows.
        codes: Of these rows.

    Returns:
        The oldest first, the rows of a group beside each other.
    """
    series: dict[tuple[str, str], list[Member]] = {}
    for member in _members(results, rows, codes):
        # Without a series a manifest is one of its own.
        own = "" if member.series else member.manifest_id
        series.setdefault((member.series, own), []).append(member)
    found = []
    for members in series.values():
        found += [
            _row(part) for part in _parts(members, [attrgetter("device"), attrgetter("data")])
        ]
    groups = list(dict.fromkeys(row.group for row in found))
    groups.sort(key=bool)  # rows without a heading come first
    return _labelled([row for group in groups for row in found if row.group == group])


def _parts(members: list[Member], by: Sequence[Callable[[Member], str]]) -> list[list[Member]]:
    """Split a series by one thing after the other, until no part holds a seed twice."""
    if _has_each_once(members):
        return [members]
    if not by:
        return [[one] for one in members]
    parts: dict[str, list[Member]] = {}
    for member in members:
        parts.setdefault(by[0](member), []).append(member)
    return [smaller for part in parts.values() for smaller in _parts(part, by[1:])]


def _has_each_once(members: Sequence[Member]) -> bool:
    return len({str(member.seed) for member in members}) == len(members)


def _members(results: Results, rows: pd.DataFrame, codes: Codes) -> list[Member]:
    """Return every manifest that has rows, the oldest first."""
    first = np.zeros(len(codes.manifests), np.intp)
    first[codes.manifest[::-1]] = np.arange(len(rows) - 1, -1, -1)
    models, checkpoints = (rows[name].iloc[first].tolist() for name in ("model", "checkpoint"))
    manifests = results.manifests
    members = [
        Member(name, str(model), "" if pd.isna(checkpoint) else str(checkpoint), {})
        for name, model, checkpoint in zip(codes.manifests, models, checkpoints, strict=True)
    ]
    members = [replace(one, manifest=manifests.get(one.manifest_id, {})) for one in members]
    return sorted(members, key=lambda one: (str(one.manifest.get("created", "")), one.model))


def _row(members: Sequence[Member]) -> TableRow:
    in_order = sorted(members, key=lambda one: (not isinstance(one.seed, int), str(one.seed)))
    if all(isinstance(one.seed, int) for one in members):
        in_order = sorted(members, key=lambda one: one.seed)
    first = in_order[0]
    group = str(first.manifest.get("group") or "")
    return TableRow(first.model, first.model, first.model, group, tuple(in_order))


def _labelled(rows: Sequence[TableRow]) -> list[TableRow]:
    """Name rows so that no two of a group, and no two of the table, are called the same."""
    places: dict[tuple[str, str, str], list[int]] = {}
    for number, row in enumerate(rows):
        places.setdefault((row.model, row.group, row.computed), []).append(number)
    found = list(rows)
    for numbers in places.values():
        differences = _differences([rows[number] for number in numbers])
        for number, words in zip(numbers, differences, strict=True):
            row = rows[number]
            name = row.model + (f" ({row.computed})" if row.computed else "") + words
            found[number] = replace(row, label=name, name=name)
    names = Counter(row.name for row in found)
    return [
        replace(row, label=f"{row.name}, {row.group}") if row.group and names[row.name] > 1 else row
        for row in found
    ]


def _differences(rows: Sequence[TableRow]) -> list[str]:
    """Return what tells rows of one place apart: devices, hashes, ids; nothing for a row alone.

    The device is named where a series was split by it. No row is left with the model's name alone,
    which means all of them.
    """
    if len(rows) == 1:
        return [""]
    devices: dict[str, set[str]] = {}
    for first in (row.members[0] for row in rows):
        devices.setdefault(first.series, set()).add(first.device)
    on = []
    for first in (row.members[0] for row in rows):
        split = first.series and len(devices[first.series]) > 1
        on.append(f" on {first.device or 'an unknown device'}" if split else "")
    marks = [_mark(row) for row in rows]
    of_device: dict[str, Counter[str]] = {}
    for words, mark in zip(on, marks, strict=True):
        of_device.setdefault(words, Counter())[mark] += 1
    found = []
    for row, words, mark in zip(rows, on, marks, strict=True):
        same = of_device[words]
        has_twin = same[mark] > 1
        known = words + (mark if len(same) > 1 or not (words or has_twin) else "")
        needs_id = has_twin or not known
        found.append(known + (f" ({row.manifest_ids[0][:_SHORT]})" if needs_id else ""))
    return found


def _mark(row: TableRow) -> str:
    """Return the start of a row's series, or of its checkpoint where it is of one run."""
    first = row.members[0]
    if len(row.members) > 1:
        return f" (series {first.series[:_SHORT]})"
    return f" {first.checkpoint[:_SHORT]}" if first.checkpoint else ""


def choose_rows(rows: Sequence[TableRow], wanted: Sequence[str] | None) -> list[TableRow]:
    """Return the wanted rows in the wanted order.

    Args:
        rows: All.
        wanted: Model names (all of their rows), labels, groups or manifest ids; None for all.

    Raises:
        UserError: A wanted name means no row.
    """
    if wanted is None:
        return list(rows)
    chosen: dict[str, TableRow] = {}
    for name in wanted:
        found = meant_rows(rows, name)
        if not found:
            known = sorted({name for row in rows for name in (row.label, row.model)})
            hint = suggest(name, known)
            raise UserError(f'no rows of model "{name}", only of {", ".join(known)}.{hint}')
        chosen |= {row.label: row for row in found}
    return list(chosen.values())


def meant_rows(rows: Sequence[TableRow], name: str) -> list[TableRow]:
    """Return the rows that a name means: the one with that label, else all that it could be."""
    exact = [row for row in rows if row.label == name and row.label != row.model]
    return exact or [
        row for row in rows if name in (row.label, row.model, row.group, *row.manifest_ids)
    ]
