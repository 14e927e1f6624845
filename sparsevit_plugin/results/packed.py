"""Records in little memory: what a run over a large set collects until its cell is written."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

CHUNK = 256
"""Records that are packed together, and that are in memory as Python objects at a time."""


class PackedRecords:
    """A list of records that can only be added to and gone through in order.

    Every `CHUNK` records become one compressed Arrow batch: a result row or histogram takes some
    hundred bytes instead of thousands. Values come back as they were put in, but for these: a key
    that other records of the chunk have and this one has not is None, and sequences of numbers are
    arrays.

    Args:
        records: The first ones. Values are numbers, texts, None, or one-dimensional arrays of
            numbers; a key's values are of one kind.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]] = ()) -> None:
        self._packed: list[bytes] = []
        self._open: list[Mapping[str, Any]] = []
        for record in records:
            self.append(record)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record."""
        self._open.append(record)
        if len(self._open) == CHUNK:
            self._packed.append(_pack(self._open))
            self._open = []

    def __len__(self) -> int:
        return CHUNK * len(self._packed) + len(self._open)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for chunk in self._packed:
            yield from _unpack(chunk)
        yield from self._open


def chunks(records: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Go through records, `CHUNK` at a time."""
    remaining = iter(records)
    while chunk := list(itertools.islice(remaining, CHUNK)):
        yield chunk


def _pack(records: list[Mapping[str, Any]]) -> bytes:
    names = {name: None for record in records for name in record}
    table = pa.table({name: [record.get(name) for record in records] for name in names})
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def _unpack(chunk: bytes) -> Iterator[dict[str, Any]]:
    (batch,) = pa.ipc.open_stream(chunk)
    columns = [_values(column) for column in batch.columns]
    for values in zip(*columns, strict=True):
        yield dict(zip(batch.schema.names, values, strict=True))


def _values(column: pa.Array) -> list[Any]:
    if not pa.types.is_list(column.type):
        values: list[Any] = column.to_pylist()
        return values
    numbers, ends = column.values.to_numpy(), column.offsets.to_numpy()
    return [numbers[start:end] for start, end in itertools.pairwise(ends)]
