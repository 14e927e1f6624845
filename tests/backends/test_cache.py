import json
import os
import threading
from pathlib import Path

import pytest

from sparsevit_plugin import files
from sparsevit_plugin.backends import cache
from sparsevit_plugin.backends.cache import ExportCache, default_folder, is_whole
from sparsevit_plugin.errors import UserError


class Builder:
    """Writes a file and counts how often."""

    def __init__(self, text: str = "graph") -> None:
        self.text, self.calls = text, 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "model.bin").write_text(self.text)


def test_an_entry_is_made_once_and_found_by_what_it_depends_on(tmp_path):
    build, other = Builder(), Builder("other")
    kept = ExportCache(tmp_path / "exports")
    first = kept.entry({"model": "a"}, build)
    assert kept.entry({"model": "a"}, build) == first
    assert ExportCache(tmp_path / "exports").entry({"model": "a"}, build) == first
    assert build.calls == 1
    second = kept.entry({"model": "b"}, other)
    assert (second / "model.bin").read_text() == "other"
    assert json.loads((first / "entry.json").read_text())["of"] == {"model": "a"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "model.bin").write_text("grap"),
        lambda entry: (entry / "model.bin").unlink(),
        lambda entry: (entry / "entry.json").write_text("{"),
        lambda entry: (entry / "entry.json").write_text("[]"),
        lambda entry: (entry / "entry.json").unlink(),
    ],
)
def test_a_damaged_entry_is_made_again(tmp_path, damage):
    build, kept = Builder(), ExportCache(tmp_path)
    entry = kept.entry({"model": "a"}, build)
    damage(entry)
    assert not is_whole(entry)
    assert kept.entry({"model": "a"}, build) == entry
    assert is_whole(entry)
    assert build.calls == 2


def test_what_a_killed_process_left_goes_when_an_entry_is_made(tmp_path):
    dead, own = (f"{files._machine()}-{process}-0123abcd" for process in (2**22 + 5, os.getpid()))
    left, other = (tmp_path / f".{'0' * 16}.{writer}.tmp" for writer in (dead, own))
    for folder in (left, other):
        folder.mkdir()
        (folder / "half").touch()
    assert is_whole(ExportCache(tmp_path).entry({"model": "a"}, Builder()))
    assert not left.exists()
    assert other.exists()


def test_what_fails_leaves_nothing(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "model.bin").write_text("half")
        raise RuntimeError("no such operator")

    with pytest.raises(RuntimeError, match="no such operator"):
        ExportCache(tmp_path).entry({"model": "a"}, fail)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    assert is_whole(ExportCache(tmp_path).entry({"model": "a"}, Builder()))


def test_two_at_once_make_it_once(tmp_path):
    inside, let_go = threading.Event(), threading.Event()
    build = Builder()

    def slow(folder: Path) -> None:
        inside.set()
        assert let_go.wait(10)
        build(folder)

    found: list[Path] = []

    def ask() -> None:
        found.append(ExportCache(tmp_path).entry({"model": "a"}, slow))

    first, second = threading.Thread(target=ask), threading.Thread(target=ask)
    first.start()
    assert inside.wait(10)
    second.start()
    let_go.set()
    first.join(10)
    second.join(10)
    assert len(found) == 2
    assert build.calls == 1


def test_only_so_many_are_kept_and_the_unused_go_first(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "KEPT", 2)
    kept, build = ExportCache(tmp_path), Builder()
    entries = [kept.entry({"size": size}, build) for size in (1, 2)]
    os.utime(entries[0], (1, 1))
    os.utime(entries[1], (2, 2))
    kept.entry({"size": 1}, build)  # used again
    kept.entry({"size": 3}, build)
    assert is_whole(entries[0])
    assert not entries[1].exists()


def test_files_stand_beside_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_folder(tmp_path / "best.pth") == tmp_path / "best.pth.exports"
    in_cache = tmp_path / "cache" / "sparsevit-plugin" / "exports"
    assert default_folder(None) == in_cache
    (tmp_path / "file").write_text("")  # nothing can be made below a file
    assert default_folder(tmp_path / "file" / "best.pth") == in_cache


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        ExportCache(tmp_path / "file" / "exports").entry({}, Builder())
