"""Cells are whole whatever happens, and what is not a result is named in one line."""

import json
import shutil
from threading import Thread

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparsevit_plugin import results
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.results import store as store_module
from sparsevit_plugin.results.schema import HISTOGRAM_COLUMNS, ROW_COLUMNS, SCHEMA_VERSION
from sparsevit_plugin.results.store import Store, load, new_manifest_id
from tests.results.helpers import counted, histogram, manifest

ROWS = [
    counted("Tp/a.png", 3, 1, 1, 5, photos=["cat", "dog"], score=0.9),
    counted("Au/b", 0, 0, 0, 9),
]
HISTOGRAMS = [histogram("Tp/a.png"), histogram("Au/b")]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def test_rows_come_back_as_they_were(store):
    store.write(manifest("A"), "casia", ROWS, HISTOGRAMS, {"fingerprint": "f"})
    found = load(store.folder)
    assert list(found.rows.columns) == [column.name for column in ROW_COLUMNS]
    first, second = found.rows.to_dict("records")
    assert first["f1"] == 0.75
    assert list(first["photos"]) == ["cat", "dog"]
    assert (first["model"], first["dataset"], first["manifest_id"]) == ("A", "casia", "id-A")
    assert pd.isna(second["f1"])
    assert pd.isna(second["score"])
    assert pd.isna(first["epoch"])
    assert found.rows["tp"].tolist() == [3, 0]
    assert found.manifests["id-A"]["schema_version"] == SCHEMA_VERSION
    assert found.cells[0].facts == {"fingerprint": "f"}


def test_histograms_are_joined_by_the_rows_key(store):
    store.write(manifest("A"), "casia", ROWS, [{**histogram("Tp/a.png", 7), "model": "A"}])
    found = load(store.folder)
    assert list(found.histograms.columns) == [column.name for column in HISTOGRAM_COLUMNS]
    joined = found.rows.merge(
        found.histograms, on=["manifest_id", "dataset", "sample_name", "score_at"]
    )
    assert joined["sample_name"].tolist() == ["Tp/a.png"]
    assert joined["tampered"].iloc[0][7] == 4


def test_records_may_come_one_by_one_and_in_many_parts(store, monkeypatch):
    monkeypatch.setattr("sparsevit_plugin.results.packed.CHUNK", 2)
    rows = [counted(f"Tp/{number}", number, 1, 1, 5) for number in range(5)]
    bins = [histogram(f"Tp/{number}", number) for number in range(5)]
    store.write(manifest("A"), "casia", iter(rows), iter(bins))
    found = load(store.folder)
    assert found.rows["tp"].tolist() == [0, 1, 2, 3, 4]
    assert [counts[number] for number, counts in enumerate(found.histograms["tampered"])] == [4] * 5


def test_a_store_without_histograms_has_an_empty_table_of_them(store):
    store.write(manifest("A"), "casia", ROWS)
    assert load(store.folder).histograms.empty


def test_every_column_says_what_it_means(store):
    path = store.write(manifest("A"), "casia", ROWS)
    assert all(pq.read_schema(path).field(c.name).metadata[b"meaning"] for c in ROW_COLUMNS)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            {"backend": "openvino", "number_format": "int8", "precision": "auto"},
            ("openvino", "int8"),
        ),
        ({"precision": "16-mixed"}, ("torch", "16-mixed")),
        ({}, ("torch", None)),
        ({"kind": "external maps", "precision": "32"}, (None, None)),
    ],
)
def test_rows_say_what_computed_them_also_where_files_are_older(store, more, expected):
    path = store.write(manifest("A", **more), "casia", ROWS)
    columns = ["backend", "number_format"]
    written = load(store.folder).rows
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(columns), path)  # as before these columns
    for rows in (written, load(store.folder).rows):
        for name, value in zip(columns, expected, strict=True):
            assert rows[name].astype(object).where(rows[name].notna(), None).tolist() == [value] * 2


def test_data_frames_are_rows_too(store):
    store.write(manifest("A"), "casia", pd.DataFrame(ROWS), pd.DataFrame(HISTOGRAMS))
    again = load(store.folder)
    store.write(manifest("B"), "casia", again.rows.drop(columns=["manifest_id", "model"]))
    assert len(load(store.folder).rows) == 4


def test_the_package_loads_by_itself(store):
    store.write(manifest("A"), "casia", ROWS)
    assert len(results.load(store.folder).rows) == 2


def test_a_cell_is_replaced_and_its_old_histograms_go(store):
    store.write(manifest("A"), "casia", ROWS, HISTOGRAMS)
    store.write(manifest("A"), "casia", ROWS[:1], [histogram("Tp/a.png", 9)])
    found = load(store.folder)
    assert len(found.rows) == 1
    assert found.histograms["tampered"].iloc[0][9] == 4
    assert len(list((store.folder / "histograms").iterdir())) == 1


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_kill_between_files_leaves_the_old_cell_whole(store, monkeypatch, step):
    store.write(manifest("A"), "casia", ROWS, HISTOGRAMS)
    writes = []
    real = store_module.atomic_path, store_module.write_json_atomic

    class KilledError(Exception):
        pass

    def counting(write):
        def wrapped(*args):
            if len(writes) == step:
                raise KilledError
            writes.append(args)
            return write(*args)

        return wrapped

    monkeypatch.setattr(store_module, "atomic_path", counting(real[0]))
    monkeypatch.setattr(store_module, "write_json_atomic", counting(real[1]))
    with pytest.raises(KilledError):
        store.write(manifest("A", created="later"), "casia", ROWS[:1], [histogram("Tp/a.png", 9)])
    monkeypatch.undo()
    found = load(store.folder)
    assert len(found.rows) == 2
    assert found.histograms["tampered"].iloc[0][0] == 4
    assert "created" not in found.manifests["id-A"]
    store.write(manifest("A"), "casia", ROWS[:1], [histogram("Tp/a.png", 9)])
    assert len(list((store.folder / "histograms").iterdir())) == 1


class ClockBack(store_module.datetime):
    """A clock that goes back by a year."""

    @classmethod
    def now(cls, tz=None):
        return super().now(tz).replace(year=super().now(tz).year - 1)


def test_the_newest_writing_is_read_though_the_clock_was_set_back(store, monkeypatch):
    store.write(manifest("A"), "casia", ROWS, HISTOGRAMS, {"fingerprint": "before"})
    monkeypatch.setattr(store_module, "datetime", ClockBack)
    store.write(manifest("A"), "casia", ROWS[:1], HISTOGRAMS[:1], {"fingerprint": "after"})
    found = load(store.folder)
    assert found.cells[0].facts == {"fingerprint": "after"}
    assert len(found.rows) == 1


@pytest.mark.parametrize("fingerprints", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("names", [["runs"], ["runs", "copy"], ["copy", "runs"]])
def test_the_newest_writing_is_read_also_where_its_rows_are_the_same(
    store, tmp_path, fingerprints, names
):
    for fingerprint in fingerprints:
        store.write(manifest("A"), "casia", ROWS, HISTOGRAMS, {"fingerprint": fingerprint})
        if not (tmp_path / "copy").exists():
            shutil.copytree(store.folder, tmp_path / "copy")
    found = load(*(tmp_path / name for name in names))
    assert [cell.facts["fingerprint"] for cell in found.cells] == [fingerprints[-1]]
    assert len(found.rows) == len(ROWS)


def test_two_writers_of_a_cell_take_turns(store, monkeypatch):
    """Each would remove the histograms of the other, before its rows are there to name them."""
    store.write(manifest("A"), "casia", ROWS, HISTOGRAMS)
    whole, others = store_module._write_parquet, []

    def write_beside(tables, columns, target, note):
        if columns is ROW_COLUMNS and not others:
            other = Store(store.folder)
            changed = [histogram("Tp/a.png", 9)]
            others.append(Thread(target=other.write, args=(manifest("A"), "casia", ROWS, changed)))
            others[0].start()
            others[0].join(0.3)
        return whole(tables, columns, target, note)

    monkeypatch.setattr(store_module, "_write_parquet", write_beside)
    store.write(manifest("A"), "casia", ROWS, [histogram("Tp/a.png", 5)])
    others[0].join()
    histograms = load(store.folder).histograms
    assert histograms["tampered"].iloc[0][9] == histogram("Tp/a.png", 9)["tampered"][9]


def test_set_names_with_any_letters_are_files(store):
    names = ["a/b", "a b*[0]?", "..", "häßlich", "a--b"]
    for name in names:
        store.write(manifest("A"), name, ROWS, HISTOGRAMS)
    found = load(store.folder)
    assert sorted(cell.dataset for cell in found.cells) == sorted(names)
    assert len(found.histograms) == 2 * len(names)


def test_has_asks_for_the_sets_fingerprint(store):
    assert not store.has("id-A", "casia")
    store.write(manifest("A"), "casia", ROWS, facts={"fingerprint": "f"})
    assert store.has("id-A", "casia")
    assert store.has("id-A", "casia", "f")
    assert not store.has("id-A", "casia", "g")
    assert not store.has("id-A", "columbia")


def test_the_same_content_has_the_same_id():
    assert new_manifest_id({"a": 1, "b": [1]}) == new_manifest_id({"b": [1], "a": 1})
    assert new_manifest_id({"a": 1}) != new_manifest_id({"a": 2})


def test_stores_below_a_folder_are_found_and_read_once(store, tmp_path):
    store.write(manifest("A"), "casia", ROWS, HISTOGRAMS)
    shutil.copytree(store.folder, tmp_path / "copy")
    assert len(load(tmp_path, store.folder).rows) == 2


def test_a_writers_temporary_file_is_no_result(store):
    store.write(manifest("A"), "casia", ROWS)
    (store.folder / "rows/.x.1234.tmp.parquet").write_bytes(b"PAR1 half")
    assert len(load(store.folder).rows) == 2


class TestRefused:
    def test_truncated_file(self, store):
        path = store.write(manifest("A"), "casia", ROWS)
        path.write_bytes(path.read_bytes()[:-100])
        for use in (lambda: load(store.folder), lambda: store.has("id-A", "casia")):
            with pytest.raises(UserError, match=r"casia\.parquet is broken") as error:
                use()
            assert "\n" not in str(error.value)

    def test_damaged_pages(self, store):
        path = store.write(manifest("A"), "casia", [counted(f"{i}", i, 1, 1, 1) for i in range(99)])
        contents = bytearray(path.read_bytes())
        contents[4:2000] = b"\xff" * 1996
        path.write_bytes(contents)
        with pytest.raises(UserError, match=r"casia\.parquet is broken"):
            load(store.folder)

    def test_truncated_histograms_when_they_are_used(self, store):
        store.write(manifest("A"), "casia", ROWS, HISTOGRAMS)
        (path,) = (store.folder / "histograms").iterdir()
        path.write_bytes(b"PAR1")
        found = load(store.folder)
        with pytest.raises(UserError, match="is broken"):
            _ = found.histograms

    def test_alien_parquet(self, store):
        store.write(manifest("A"), "casia", ROWS)
        pq.write_table(pa.table({"x": [1]}), store.folder / "rows/other.parquet")
        with pytest.raises(UserError, match=r"other\.parquet holds no results"):
            load(store.folder)

    def test_newer_schema(self, store, monkeypatch):
        monkeypatch.setattr(store_module, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
        store.write(manifest("A"), "casia", ROWS)
        monkeypatch.undo()
        with pytest.raises(UserError, match=rf"has schema {SCHEMA_VERSION + 1}.*upgrade"):
            load(store.folder)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(UserError, match="no results below"):
            load(tmp_path)
        with pytest.raises(UserError, match="is no folder"):
            load(tmp_path / "absent")

    @pytest.mark.parametrize("more", [{"updates": "1000"}, {"updates_left_out": 2.5}])
    def test_a_manifest_with_a_count_that_is_none(self, store, more):
        store.write(manifest("A", **more), "casia", ROWS)
        (name,) = more
        with pytest.raises(UserError, match=f"{name} is not a whole number.*remove it and test"):
            load(store.folder)

    def test_two_rows_for_one_image(self, store):
        with pytest.raises(UserError, match=r"two rows for image Tp/a\.png"):
            store.write(manifest("A"), "casia", [ROWS[0], ROWS[0]])

    def test_no_rows(self, store):
        with pytest.raises(UserError, match="no result row"):
            store.write(manifest("A"), "casia", [])

    def test_unknown_column(self, store):
        with pytest.raises(ValueError, match="does not know: f2"):
            store.write(manifest("A"), "casia", [{**ROWS[0], "f2": 1.0}])

    def test_unwritable_folder(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="cannot write"):
            Store(tmp_path / "file").write(manifest("A"), "casia", ROWS)


def test_an_older_file_lacks_columns_and_is_read(store):
    path = store.write(manifest("A"), "casia", ROWS)
    table = pq.read_table(path)
    note = json.loads(table.schema.metadata[b"sparsevit_plugin"])
    old = table.drop_columns(["best_threshold"])
    metadata = {b"sparsevit_plugin": json.dumps({**note, "schema_version": 0}).encode()}
    pq.write_table(old.replace_schema_metadata(metadata), path)
    found = load(store.folder).rows
    assert found["best_threshold"].isna().all()
    assert found["f1"].iloc[0] == 0.75
