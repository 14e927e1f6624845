"""Files are written whole or not at all."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparsevit_plugin import files
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import (
    atomic_path,
    sha256_file,
    temporary_folder,
    write_json_atomic,
    write_text_atomic,
)


def test_a_file_is_replaced_in_one_step(tmp_path):
    target = tmp_path / "new/folder/a.json"
    write_json_atomic(target, {"é": 1, "path": Path("x")})
    write_json_atomic(target, {"é": 2})
    assert json.loads(target.read_text(encoding="utf-8")) == {"é": 2}
    assert [p.name for p in target.parent.iterdir()] == ["a.json"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    write_text_atomic(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_the_temporary_file_keeps_the_suffix_and_the_folder(tmp_path):
    with atomic_path(tmp_path / "a.png") as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path
        temporary.touch()


@pytest.mark.parametrize("stem", ["x" * 251, "\u5c71" * 83, os.fsdecode(b"\xe9" * 251)])
def test_the_longest_names_are_written(tmp_path, stem):
    path = tmp_path / f"{stem}.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert files._TEMPORARY.fullmatch(temporary.name)  # so that it is swept
    assert path.read_text() == "whole"
    with temporary_folder(path) as folder:
        assert folder.is_dir()


def test_a_full_disk_is_one_line(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    wanted = pytest.raises(UserError, match=r"cannot write .*a\.txt: No space left")
    with wanted, atomic_path(tmp_path / "a.txt"):
        raise full


def test_trouble_with_another_file_is_not_blamed_on_the_target(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"), atomic_path(tmp_path / "a.txt"):
        (tmp_path / "absent").read_text()


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_text_atomic(tmp_path / "file/a.txt", "")


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is no plain file"):
        write_text_atomic(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo()


def test_values_without_a_json_form_are_refused(tmp_path):
    with pytest.raises(TypeError, match="set has no form in JSON"):
        write_json_atomic(tmp_path / "a.json", {"x": {1}})
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(tmp_path / "a.json", float("nan"))
    assert not (tmp_path / "a.json").exists()


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(UserError, match="cannot read"):
        sha256_file(tmp_path / "b")


def leave(folder: Path, target: str = "a.txt", *, age: float = 0.0) -> Path:
    """Let a process be killed while it writes; return what it leaves, as old as asked."""
    code = (
        "import os, signal, sys; from pathlib import Path; "
        "from sparsevit_plugin.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # As `-m sparsevit_plugin` the package leaves torch alone.
    command = [sys.executable, "-c", code, str(folder / target), "-m", "sparsevit_plugin"]
    before = set(folder.iterdir()) if folder.exists() else set()
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (left,) = set(folder.iterdir()) - before
    os.utime(left, (time.time() - age,) * 2)
    return left


@pytest.fixture
def unswept(monkeypatch):
    monkeypatch.setattr(files, "_swept", set())


@pytest.mark.usefixtures("unswept")
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path):
    left = leave(tmp_path / "new")
    other = leave(tmp_path / "new", "b.parquet")
    assert left.read_text() == "half"
    write_text_atomic(tmp_path / "new/a.txt", "whole")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]
    assert not other.exists()


@pytest.mark.usefixtures("unswept")
def test_what_a_live_process_writes_is_left_alone(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as live:
        theirs = tmp_path / f".a.{files._machine()}-{live.pid}-0123abcd.tmp.txt"
        theirs.write_text("half")
        os.utime(theirs, (1.0, 1.0))
        with atomic_path(tmp_path / "a.txt") as own:
            own.write_text("first")
            write_text_atomic(tmp_path / "b.txt", "second")
            assert own.exists()
            assert theirs.exists()
        live.communicate(b"\n")
    assert files.sweep(tmp_path, time.time()) == [theirs]


@pytest.mark.parametrize("name", [".a.00000000-1-0123abcd.tmp.txt", ".a.0123456789ab.tmp.txt"])
def test_of_another_machine_only_what_is_a_week_old_is_removed(tmp_path, name):
    theirs = tmp_path / name
    theirs.touch()
    now = theirs.stat().st_mtime
    assert files.sweep(tmp_path, now + 6 * 86400) == []
    assert files.sweep(tmp_path, now - 9 * 86400) == []  # a clock that goes back
    assert files.sweep(tmp_path, now + 8 * 86400) == [theirs]


@pytest.mark.usefixtures("unswept")
def test_a_temporary_folder_goes_and_so_does_what_a_killed_process_left_of_one(tmp_path):
    dead = tmp_path / f".a.{files._machine()}-{2**22 + 5}-0123abcd.tmp"
    (dead / "deep").mkdir(parents=True)
    (dead / "deep/half.bin").write_text("half")
    with temporary_folder(tmp_path / "a.onnx") as folder:
        assert not dead.exists()
        (folder / "a.onnx").write_text("whole")
        (folder / "a.onnx").rename(tmp_path / "a.onnx")
        assert files.sweep(tmp_path, time.time() + 8 * 86400) == []  # its process lives
        assert folder.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_a_temporary_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"cannot write .*file/a\.onnx: Not a directory"),
        temporary_folder(tmp_path / "file/a.onnx"),
    ):
        pass


def test_nothing_else_is_swept(tmp_path):
    dead = f"{files._machine()}-{2**22 + 5}-0123abcd"  # above the highest number of a process
    kept = ["a.txt", f"a.{dead}.tmp.txt", f".a.{dead}.tmp.txt.bak.x", ".a.tmp", ".tmp.0123456789"]
    for name in kept:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1.0, 1.0))
    (tmp_path / f".folder.{dead}.tmp.txt").mkdir()
    (tmp_path / ".photos.202611150930.tmp").mkdir()
    os.utime(tmp_path / ".photos.202611150930.tmp", (1.0, 1.0))
    (tmp_path / f".link.{dead}.tmp.txt").symlink_to(tmp_path / "a.txt")
    plain = tmp_path / f".gone.{dead}.tmp"
    plain.touch()
    assert files.sweep(tmp_path, time.time()) == [plain]
    assert len(list(tmp_path.iterdir())) == len(kept) + 3


@pytest.mark.usefixtures("unswept")
def test_a_folder_is_looked_through_once_in_a_process(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(files, "sweep", lambda folder, now: looked.append(folder))
    for number in range(3):
        write_text_atomic(tmp_path / f"{number}.txt", "")
    assert looked == [tmp_path]
