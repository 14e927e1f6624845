"""Packed records come back as they went in, in order, and take little memory."""

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevit_plugin.results import packed as packed_module
from sparsevit_plugin.results.packed import CHUNK, PackedRecords, chunks

VALUES = {
    "sample_name": st.text(max_size=5),
    "tp": st.integers(0, 2**53),
    "f1": st.none() | st.floats(allow_nan=True),
}


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(packed_module, "CHUNK", 3)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.fixed_dictionaries(VALUES), max_size=9))
def test_records_come_back_in_order(records):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_module, "CHUNK", 3)
        packed = PackedRecords(records)
        assert len(packed) == len(records)
        for _ in range(2):  # they can be gone through again
            np.testing.assert_equal(list(packed), records)


def test_numbers_in_a_row_come_back_as_arrays(small_chunks):
    rows = [{"bins": np.arange(first, first + 4)} for first in range(4)]
    for found, given_ in zip(PackedRecords(rows), rows, strict=True):
        np.testing.assert_array_equal(found["bins"], given_["bins"])


def test_a_key_that_only_others_have_is_none(small_chunks):
    assert list(PackedRecords([{"a": 1}, {"b": 2.5}, {}])) == [
        {"a": 1, "b": None},
        {"a": None, "b": 2.5},
        {"a": None, "b": None},
    ]


def test_they_travel_between_processes(small_chunks):
    packed = PackedRecords({"tp": number} for number in range(7))
    assert list(pickle.loads(pickle.dumps(packed))) == list(packed)


def test_chunks_hold_everything_once():
    records = [{"tp": number} for number in range(2 * CHUNK + 1)]
    parts = list(chunks(iter(records)))
    assert [len(part) for part in parts] == [CHUNK, CHUNK, 1]
    assert [record for part in parts for record in part] == records


def test_a_record_with_a_histogram_takes_less_than_half_of_its_numbers():
    generator = np.random.default_rng(0)
    packed = PackedRecords()
    tracemalloc.start()
    try:
        for number in range(4 * CHUNK):
            counts = generator.binomial(20, 0.3, 256)
            packed.append({"sample_name": f"Tp/{number:05d}.png", "tampered": counts})
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / len(packed) < 256 * 8 / 2
