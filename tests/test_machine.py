"""The processor's name, and the one place of the user's cache."""

import platform
import tempfile
from pathlib import Path

import pytest

from sparsevit_plugin import machine
from sparsevit_plugin.backends.cache import default_folder
from sparsevit_plugin.harness.leak import hashes_file
from sparsevit_plugin.machine import processor_facts, processor_name, user_cache

CPU_INFO = """\
processor\t: 0
model name\t: Some CPU: Fast
flags\t\t: fpu avx2
power management:

processor\t: 1
model name\t: Another
"""


@pytest.fixture
def nowhere(monkeypatch) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)


def test_the_first_processor_counts(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(CPU_INFO)
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    assert processor_name() == "Some CPU: Fast"
    assert processor_facts()["flags"] == "fpu avx2"
    assert processor_facts()["power management"] == ""


def test_without_linux_the_processor_has_its_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "missing")
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert processor_facts() == {}
    assert processor_name() == platform.machine()


@pytest.mark.usefixtures("nowhere")
def test_the_cache_is_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert user_cache() == tmp_path / ".cache/sparsevit-plugin"
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert user_cache() == tmp_path / "local/sparsevit-plugin"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_cache() == tmp_path / "local/sparsevit-plugin"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache() == tmp_path / "xdg/sparsevit-plugin"
    assert default_folder(None).parent == hashes_file().parent == user_cache()


@pytest.mark.usefixtures("nowhere")
def test_a_user_without_a_home_has_a_cache_too(monkeypatch):
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    assert user_cache().parent == Path(tempfile.gettempdir())
