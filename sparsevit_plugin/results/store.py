"""The store: a folder of Parquet files, one per cell (a manifest on an image set).

::

    rows/<cell>.parquet                 one row per image and score size
    histograms/<cell>--<hash>.parquet   the map's histograms, joined by the rows' key
    manifests/<manifest_id>.json        what was run, to read

A cell's name is `<manifest_id>--<set>`, `--<perturbation>` where there is one, and
`--<fingerprint>` of the set's files where it is known: a set that has changed makes a new cell, and
the old one stays. Readers take the newest.

A cell's row file is written last and replaced in one step. It names its histogram file and carries
its manifest and the facts of its set, so that whatever moment a writer is killed at, a reader finds
the old cell or the new one, whole. Two writers of one cell take turns. A writing's time is later
than that of every writing of its cell before it, also where the clock was set back meanwhile.
"""

import contextlib
import glob
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from numpy.typing import NDArray

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import atomic_path, parse_json, write_json_atomic
from sparsevit_plugin.results.conventions import DEFAULT_BACKEND, EXTERNAL, UNPERTURBED
from sparsevit_plugin.results.packed import chunks
from sparsevit_plugin.results.schema import (
    HISTOGRAM_COLUMNS,
    ROW_COLUMNS,
    SCHEMA_VERSION,
    Column,
    arrow_schema,
)

if TYPE_CHECKING:
    from sparsevit_plugin.results.differences import DifferenceTable
    from sparsevit_plugin.results.tables import Table

Records = pd.DataFrame | Iterable[Mapping[str, Any]]

_METADATA = b"sparsevit_plugin"
_ROW_KEY = ["sample_name", "score_at", "evaluator"]
_ID_DIGITS = 16
_MANIFEST_TEXTS = (
    *("manifest_id", "model", "registered_model", "backend", "number_format", "kind", "selection"),
    *("series", "group", "created", "fit", "device", "code_version"),
)
_MANIFEST_COUNTS = ("updates", "updates_left_out")
_COSTS = (
    "parameters",
    "live_parameters",
    "macs",
    "flops",
    "peak_bytes",
    "kept_bytes",
    "image_size",
)
_MOST = 1e30  # of a cost; NaN and infinity are none either
_MANIFEST_OBJECTS = ("checkpoint", "config", "libraries", "complexity", "model_arguments")
_CONFIG_OBJECTS = ("options", "origin", "model_arguments", "argument_origin", "recipe")
_FINGERPRINT_DIGITS = 8
_BINS = 256


@dataclass(frozen=True)
class Cell:
    """One manifest on one image set.

    Attributes:
        manifest_id: Of its manifest.
        dataset: Name of the set.
        path: Its row file.
        manifest: What was run, as it was when the cell was written.
        facts: Of the image set: its fingerprint, that of copies of it (`sizes_fingerprint`), its
            path, what was skipped.
        histogram_path: Its histogram file; None when it has none.
        perturbation: What was done to the set's photographs.
        written: When, as ISO 8601 in UTC; empty when unknown.
    """

    manifest_id: str
    dataset: str
    path: Path
    manifest: dict[str, Any]
    facts: dict[str, Any]
    histogram_path: Path | None
    perturbation: str = UNPERTURBED
    written: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells cells apart."""
        return self.manifest_id, self.dataset, self.perturbation


@dataclass
class Results:
    """Stored results.

    Attributes:
        rows: One row per image, score size and cell; columns as in `schema.ROW_COLUMNS`. `photos`
            is an Arrow list column. Counts that are missing in some row are floats.
        cells: The cells that the rows are from.
    """

    rows: pd.DataFrame
    cells: list[Cell] = field(default_factory=list)

    @property
    def manifests(self) -> dict[str, dict[str, Any]]:
        """Manifests by their id; of several writings the last."""
        ordered = sorted(self.cells, key=lambda cell: str(cell.manifest.get("created", "")))
        return {cell.manifest_id: cell.manifest for cell in ordered}

    @cached_property
    def histograms(self) -> pd.DataFrame:
        """The maps' histograms, read on first use; columns as in `schema.HISTOGRAM_COLUMNS`.

        Raises:
            UserError: A histogram file is missing or broken.
        """
        paths = [cell.histogram_path for cell in self.cells if cell.histogram_path is not None]
        tables = [_read(path, HISTOGRAM_COLUMNS)[0] for path in paths]
        return _as_frame(pa.concat_tables(tables) if tables else _empty(HISTOGRAM_COLUMNS))

    def table(
        self,
        metric: str | Sequence[str] = "pixel_f1",
        **conventions: Any,  # noqa: ANN401
    ) -> "Table":
        """Make a table; arguments as of `sparsevit_plugin.results.tables.build_table`."""
        from sparsevit_plugin.results.tables import build_table

        return build_table(self, metric, **conventions)

    def difference_table(
        self,
        model: str,
        baselines: Sequence[str],
        metric: str = "pixel_f1",
        **conventions: Any,  # noqa: ANN401
    ) -> "DifferenceTable":
        """Compare models by photograph; arguments as of `differences.difference_table`."""
        from sparsevit_plugin.results.differences import difference_table

        return difference_table(self, model, baselines, metric, **conventions)


def read_histograms(
    cell: Cell,
) -> tuple[pd.DataFrame, NDArray[np.int64], NDArray[np.int64]] | None:
    """Read the histograms of a cell's maps.

    Args:
        cell: The cell.

    Returns:
        The rows' keys, and the counts of tampered and of authentic pixels, each of shape
        (rows, bins); None where the cell has none.

    Raises:
        UserError: Its file is missing or broken.
    """
    if cell.histogram_path is None:
        return None
    table, _ = _read(cell.histogram_path, HISTOGRAM_COLUMNS)
    keys = _as_frame(table.drop_columns(["tampered", "authentic"]))
    try:
        tampered, authentic = (
            table[name].combine_chunks().flatten().to_numpy().reshape(len(table), _BINS)
            for name in ("tampered", "authentic")
        )
    except ValueError as error:
        raise UserError(
            f"{cell.histogram_path} is broken, a histogram has not {_BINS} bins: remove it and its "
            "rows, and test again"
        ) from error
    return keys, tampered, authentic


def new_manifest_id(content: Mapping[str, Any]) -> str:
    """Name a manifest by what makes its results: the same content always has the same id.

    Args:
        content: What two runs must share to give the same rows: model and its arguments, checkpoint
            hash, evaluators, how images are fitted, precision, seed. Values as JSON has them.

    Returns:
        16 hexadecimal digits.
    """
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]


def _cell_name(manifest_id: str, dataset: str, perturbation: str, fingerprint: str | None) -> str:
    parts = [manifest_id, quote(dataset, safe="")]
    if perturbation != UNPERTURBED:
        parts.append(quote(perturbation, safe=""))
    if fingerprint:
        parts.append(fingerprint[:_FINGERPRINT_DIGITS])
    return "--".join(parts)


class Store:
    """Writes cells into a folder.

    Args:
        folder: Made when the first cell is written.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(folder)

    def write(
        self,
        manifest: Mapping[str, Any],
        dataset: str,
        rows: Records,
        histograms: Records = (),
        facts: Mapping[str, Any] | None = None,
        *,
        perturbation: str = UNPERTURBED,
    ) -> Path:
        """Write one cell; one of the same name that is there already is replaced.

        Args:
            manifest: What was run; holds at least `manifest_id` and `model`.
            dataset: Name of the image set.
            rows: One per image and score size. Columns that are missing are null. Of an iterator a
                part is in memory at a time.
            histograms: One per row of the exact evaluators; empty for none. Other columns of a row
                may stand beside theirs and are left out.
            facts: Of the image set, kept with the cell: `fingerprint`, `sizes_fingerprint`, `path`,
                `skipped`, `pairing`.
            perturbation: What was done to the photographs.

        Returns:
            The row file.

        Raises:
            UserError: The folder cannot be written, there is no row, or one image has two rows.
            ValueError: A row has a column that the schema does not know.
        """
        manifest_id, model = manifest["manifest_id"], manifest["model"]
        known = {"manifest_id": manifest_id, "dataset": dataset, "perturbation": perturbation}
        of_rows = {**known, "model": model, **_computed(manifest)}
        tables = _as_tables(rows, ROW_COLUMNS, of_rows)
        table = pa.concat_tables([_empty(ROW_COLUMNS), *tables]).unify_dictionaries()
        if not table.num_rows:
            raise UserError(f"{dataset}: no result row to store")
        _refuse_duplicates(table, dataset)
        stem = _cell_name(manifest_id, dataset, perturbation, (facts or {}).get("fingerprint"))
        stored_manifest = {**manifest, "schema_version": SCHEMA_VERSION}
        path = self.folder / "rows" / f"{stem}.parquet"
        with self._alone():
            note = {
                **known,
                "schema_version": SCHEMA_VERSION,
                "manifest": stored_manifest,
                "facts": dict(facts or {}),
                "written": self._time_of_writing(known),
                "histograms": self._write_histograms(stem, histograms, known),
            }
            write_json_atomic(self.folder / "manifests" / f"{manifest_id}.json", stored_manifest)
            with atomic_path(path) as temporary:
                _write_parquet([table], ROW_COLUMNS, temporary, note)
            self._remove_old_histograms(stem, note["histograms"])
        return path

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other writers out: they would remove histograms that a row file is about to name."""
        lock = FileLock(self.folder / ".lock")
        # Where a folder cannot be written, writing says so; where there are no locks, go without.
        with contextlib.suppress(OSError, NotImplementedError):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _time_of_writing(self, known: Mapping[str, str]) -> str:
        """Return the time, or one that is later than that of every writing of the cell."""
        now, cell = datetime.now(timezone.utc), dict(known)
        with contextlib.suppress(UserError, ValueError):  # a broken file is no older writing
            notes = self.notes(cell.pop("manifest_id"), cell.pop("dataset"), **cell)
            for note in notes:
                before = datetime.fromisoformat(note["written"])
                now = max(now, before + timedelta(microseconds=1))
        return now.isoformat()

    def has(
        self,
        manifest_id: str,
        dataset: str,
        fingerprint: str | None = None,
        *,
        perturbation: str = UNPERTURBED,
    ) -> bool:
        """Say whether a cell is there, made from a set with this fingerprint (None for any).

        Raises:
            UserError: Its file is broken.
        """
        notes = self.notes(manifest_id, dataset, perturbation=perturbation)
        return any(fingerprint in (None, note["facts"].get("fingerprint")) for note in notes)

    def notes(
        self, manifest_id: str, dataset: str, *, perturbation: str = UNPERTURBED
    ) -> list[dict[str, Any]]:
        """Return what was noted with every writing of a cell, one for each state of its set.

        Raises:
            UserError: A file is broken.
        """
        wanted = {"manifest_id": manifest_id, "dataset": dataset, "perturbation": perturbation}
        start = glob.escape(f"{manifest_id}--{quote(dataset, safe='')}")
        found = []
        for path in sorted((self.folder / "rows").glob(f"{start}*.parquet")):
            note = _note(path, _open(path))
            if all(note.get(key, UNPERTURBED) == value for key, value in wanted.items()):
                found.append({"facts": {}, **note})
        return found

    def all_notes(self) -> list[dict[str, Any]]:
        """Return what was noted with every writing of every cell.

        Raises:
            UserError: A file is broken.
        """
        paths = sorted((self.folder / "rows").glob("[!.]*.parquet"))
        return [{"facts": {}, **_note(path, _open(path))} for path in paths]

    def _write_histograms(
        self, stem: str, histograms: Records, known: Mapping[str, str]
    ) -> str | None:
        """Write a cell's histograms under a name of their own contents; return the name."""
        tables = _as_tables(histograms, HISTOGRAM_COLUMNS, known, others=ROW_COLUMNS)
        buffer, note = io.BytesIO(), {**known, "schema_version": SCHEMA_VERSION}
        if not _write_parquet(tables, HISTOGRAM_COLUMNS, buffer, note):
            return None
        contents = buffer.getvalue()
        name = f"{stem}--{hashlib.sha256(contents).hexdigest()[:8]}.parquet"
        with atomic_path(self.folder / "histograms" / name) as temporary:
            temporary.write_bytes(contents)
        return name

    def _remove_old_histograms(self, stem: str, current: str | None) -> None:
        for path in (self.folder / "histograms").glob(f"{stem}--{'[0-9a-f]' * 8}.parquet"):
            if path.name != current:
                path.unlink(missing_ok=True)


def load(*folders: str | PathLike[str]) -> Results:
    """Read every cell below some folders.

    A cell that is found twice with equal rows is read once, as it was written last. Of several
    writings of a cell in one store, made before and after its set changed, the newest is read.

    Args:
        folders: Stores, or folders with stores somewhere below them.

    Raises:
        UserError: A folder is missing or holds no results, or a row file is broken, no result of
            this package, or of a newer schema.
    """
    cells: list[Cell] = []
    tables: list[pa.Table] = []
    places: dict[tuple[str, str, str], list[int]] = {}
    for cell, table in _newest(_row_files(folders)):
        same = places.setdefault(cell.key, [])
        equal = next((place for place in same if _equal(table, tables[place])), None)
        if equal is None:
            same.append(len(cells))
            cells.append(cell)
            tables.append(table)
        elif cells[equal].written < cell.written:
            cells[equal] = cell
    if not cells:
        raise UserError(f"no results below {', '.join(map(str, folders))}: run benco test first")
    return Results(_as_frame(pa.concat_tables(tables)), cells)


def _newest(paths: Iterable[Path]) -> list[tuple[Cell, pa.Table]]:
    """Read row files; of a cell's writings in one store the newest, also where rows are equal."""
    newest: dict[tuple[Path, tuple[str, str, str]], tuple[Cell, pa.Table]] = {}
    for path in paths:
        table, note = _read(path, ROW_COLUMNS)
        cell = _cell(path, note)
        before, _ = newest.setdefault((path.parent, cell.key), (cell, table))
        if before.written < cell.written:
            newest[path.parent, cell.key] = cell, table
    return list(newest.values())


def holds_results(folder: str | PathLike[str]) -> bool:
    """Say whether a folder has a result file somewhere below it."""
    return any(map(_is_row_file, Path(folder).rglob("*.parquet")))


def _is_row_file(path: Path) -> bool:
    return path.parent.name == "rows" and not path.name.startswith(".")


def _row_files(folders: Iterable[str | PathLike[str]]) -> list[Path]:
    found: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: give a run's folder or one that holds runs")
        for path in sorted(folder.rglob("*.parquet")):
            if _is_row_file(path):
                found.setdefault(path.resolve(), path)
    return list(found.values())


def _cell(path: Path, note: Mapping[str, Any]) -> Cell:
    name = note.get("histograms")
    if not isinstance(note.get("manifest"), dict):
        raise UserError(f"{path} is broken, it does not say what was run: remove it and test again")
    return Cell(
        manifest_id=note["manifest_id"],
        dataset=note["dataset"],
        path=path,
        manifest=note["manifest"],
        facts=note.get("facts") or {},
        histogram_path=path.parent.parent / "histograms" / name if name else None,
        perturbation=note.get("perturbation") or UNPERTURBED,
        written=note.get("written") or "",
    )


def _equal(one: pa.Table, other: pa.Table) -> bool:
    return one.num_rows == other.num_rows and _as_frame(one).equals(_as_frame(other))


def _as_tables(
    records: Records,
    columns: tuple[Column, ...],
    known: Mapping[str, str | None],
    others: tuple[Column, ...] = (),
) -> Iterator[pa.Table]:
    """Bring records to a schema, a part at a time."""
    for part in [records] if isinstance(records, pd.DataFrame) else chunks(records):
        yield _as_table(part, columns, known, others)


def _as_table(
    records: pd.DataFrame | Sequence[Mapping[str, Any]],
    columns: tuple[Column, ...],
    known: Mapping[str, str | None],
    others: tuple[Column, ...] = (),
) -> pa.Table:
    """Bring records to a schema; `known` are the columns that are the same in every record."""
    given, count = _columns(records), len(records)
    unknown = set(given) - {column.name for column in (*columns, *others)}
    if unknown:
        raise ValueError(f"columns that the schema does not know: {', '.join(sorted(unknown))}")
    schema = arrow_schema(columns)
    arrays = []
    for name, kind in zip(schema.names, schema.types, strict=True):
        if name in known:
            arrays.append(pa.array([known[name]] * count, kind))
        elif name in given:
            arrays.append(
                pa.array(given[name], kind, from_pandas=isinstance(records, pd.DataFrame))
            )
        else:
            arrays.append(pa.nulls(count, kind))
    return pa.Table.from_arrays(arrays, schema=schema)


def _columns(records: pd.DataFrame | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if isinstance(records, pd.DataFrame):
        return {str(name): records[name] for name in records.columns}
    names = {name: None for record in records for name in record}
    return {name: [record.get(name) for record in records] for name in names}


def _refuse_duplicates(table: pa.Table, dataset: str) -> None:
    keys = table.select(_ROW_KEY).to_pandas()
    doubled = keys[keys.duplicated()]
    if len(doubled):
        raise UserError(f"{dataset}: two rows for image {doubled['sample_name'].iloc[0]}")


def _empty(columns: tuple[Column, ...]) -> pa.Table:
    return arrow_schema(columns).empty_table()


def _write_parquet(
    tables: Iterable[pa.Table],
    columns: tuple[Column, ...],
    target: Path | io.BytesIO,
    note: Mapping[str, Any],
) -> int:
    """Write tables one behind the other; return how many rows they had."""
    text = json.dumps(note, ensure_ascii=False, default=str).encode()
    schema = arrow_schema(columns).with_metadata({_METADATA: text})
    count = 0
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.replace_schema_metadata(schema.metadata))
            count += table.num_rows
    return count


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is broken or no Parquet file: remove it and test again") from error


def _note(path: Path, file: pq.ParquetFile) -> dict[str, Any]:
    """Return what was noted in a file when it was written."""
    metadata = file.schema_arrow.metadata or {}
    if _METADATA not in metadata:
        raise UserError(f"{path} holds no results of this package: move it out of the results")
    try:
        note = parse_json(metadata[_METADATA])
        _check_note(note)
    except ValueError as error:
        raise UserError(
            f"{path} is broken, what it says of itself is damaged ({error}): remove it and test "
            "again"
        ) from error
    if note["schema_version"] > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema {note['schema_version']}, this version reads up to "
            f"{SCHEMA_VERSION}: upgrade sparsevit-plugin"
        )
    return note


def _check_note(note: object) -> None:
    """Check the types of what is known by name; other keys of a manifest are free.

    Raises:
        ValueError: One is wrong.
    """
    if not isinstance(note, dict):
        raise ValueError("it is no JSON object")
    whole = note.get("schema_version")
    if not isinstance(whole, int) or isinstance(whole, bool):
        raise ValueError("schema_version is no number")
    for name in ("manifest_id", "dataset"):
        if not isinstance(note.get(name), str):
            raise ValueError(f"{name} is no text")
    _check_kinds(note, str, "a text", ("perturbation", "written", "histograms"))
    _check_kinds(note, dict, "a JSON object", ("manifest", "facts"))
    if Path(note.get("histograms") or "").name != (note.get("histograms") or ""):
        raise ValueError("histograms is no name of a file")
    manifest = note.get("manifest") or {}
    _check_kinds(manifest, str, "a text", _MANIFEST_TEXTS)
    _check_kinds(manifest, dict, "a JSON object", _MANIFEST_OBJECTS)
    _check_kinds(manifest, int, "a whole number", _MANIFEST_COUNTS)
    _check_kinds(manifest.get("checkpoint") or {}, str, "a text", ("file", "sha256"))
    _check_kinds(manifest.get("config") or {}, dict, "a JSON object", _CONFIG_OBJECTS)
    cost = manifest.get("complexity") or {}
    _check_kinds(cost, str, "a text", ("counter", "reason"))
    _check_kinds(cost, (int, float), "a number", _COSTS)
    if not all(0 <= (cost.get(name) or 0) < _MOST for name in _COSTS):
        raise ValueError("complexity holds what is no cost")


def _check_kinds(
    values: dict[str, Any],
    kind: type | tuple[type, ...],
    shown: str,
    names: Iterable[str],
) -> None:
    for name in names:
        if values.get(name) is not None and not isinstance(values[name], kind):
            raise ValueError(f"{name} is not {shown}")


def _read(path: Path, columns: tuple[Column, ...]) -> tuple[pa.Table, dict[str, Any]]:
    """Read a file into the schema's columns; an older file's missing ones are null."""
    file = _open(path)
    note = _note(path, file)
    try:
        table = file.read()
        schema = arrow_schema(columns)
        arrays = [
            table[name].cast(kind)
            if name in table.column_names
            else _absent(name, kind, len(table), note)
            for name, kind in zip(schema.names, schema.types, strict=True)
        ]
        whole = pa.Table.from_arrays(arrays, schema=schema)
        whole.validate(full=True)  # texts may be no UTF-8
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is broken: remove it and test again") from error
    for name in ("manifest_id", "dataset"):
        if any(part.null_count or part.dictionary.null_count for part in whole[name].chunks):
            raise UserError(f"{path} is broken, rows lack their {name}: remove it and test again")
    return whole, note


def _absent(name: str, kind: pa.DataType, count: int, note: Mapping[str, Any]) -> pa.Array:
    """Return a column that an older schema did not have.

    Before schema 2 nothing was perturbed. What computed the maps is in the manifest.
    """
    known = {"perturbation": UNPERTURBED, **_computed(note.get("manifest", {}))}
    if known.get(name) is None:
        return pa.nulls(count, kind)
    return pa.array([known[name]] * count, pa.string()).cast(kind)


def _computed(manifest: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the columns that say what computed a manifest's maps; external ones are unknown."""
    if manifest.get("kind") == EXTERNAL:
        return {"backend": None, "number_format": None}
    precision = manifest.get("number_format", manifest.get("precision"))
    return {
        "backend": str(manifest.get("backend", DEFAULT_BACKEND)),
        "number_format": None if precision is None else str(precision),
    }


def _as_frame(table: pa.Table) -> pd.DataFrame:
    """Convert to pandas; list columns stay in Arrow, which copies nothing."""
    return table.unify_dictionaries().to_pandas(
        types_mapper=lambda kind: pd.ArrowDtype(kind) if pa.types.is_list(kind) else None,
        split_blocks=True,
    )
