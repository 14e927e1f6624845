"""Files are written whole or not at all."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.files import atomic_path, sha256_file, write_json_atomic, write_text_atomic


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
