"""Another IMDLBenCo than the tested one: named once, and one line where it cannot be used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsevit_plugin import registration, upstream
from sparsevit_plugin.cli.main import main
from sparsevit_plugin.upstream import import_upstream, untested_version
from sparsevit_plugin.versions import DISTRIBUTION
from tests.registry import fresh_registry  # noqa: F401 - a fixture

MEND = "pip install 'IMDLBenCo==0.1.45' && sparsevit env --fix"


def stand_in(site: Path, version: str) -> Path:
    """Put the metadata of an IMDLBenCo into a folder of the search path."""
    info = site / "imdlbenco-9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: imdlbenco\nVersion: {version}\n")
    return site


@pytest.fixture
def another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An IMDLBenCo 0.1.46 that is found first, in a process that has not warned yet."""
    monkeypatch.syspath_prepend(stand_in(tmp_path / "another", "0.1.46"))
    upstream._warn_once.cache_clear()
    yield tmp_path / "another"
    upstream._warn_once.cache_clear()


def start(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sparsevit_plugin", *words],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_tested_version_is_not_mentioned(caplog):
    upstream._warn_once.cache_clear()
    assert untested_version() == ""
    import_upstream()
    assert caplog.text == ""


def test_another_version_is_named_once_in_a_command(another, capsys):
    assert main(["models"]) == 0
    import_upstream("IMDLBenCo.registry")
    said = capsys.readouterr()
    assert said.err == (
        "benco: warning: IMDLBenCo 0.1.46 is installed; sparsevit-plugin was tested with "
        f"IMDLBenCo==0.1.45 alone: {MEND}\n"
    )
    assert "SparseViT" in said.out


def test_of_several_processes_the_first_warns(another, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert main(["models"]) == 0
    assert capsys.readouterr().err == ""


def test_env_names_another_version_among_the_problems(another, capsys):
    assert main(["env"]) == 0
    assert f"! {untested_version()}" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("version", ["0.1.44", "1.0", "0.1.45.post1", "0.1.45rc1", "unknown"])
def test_what_was_not_tested_is_found(version, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(stand_in(tmp_path / "another", version))
    assert f"IMDLBenCo {version} is installed; " in untested_version()


@pytest.mark.usefixtures("fresh_registry")
def test_a_registry_of_another_kind_ends_in_one_line(another, capsys, monkeypatch):
    class Registry:
        pass

    monkeypatch.setattr(import_upstream("IMDLBenCo.registry"), "MODELS", Registry())
    with pytest.raises(registration.UserError, match=r"registry of IMDLBenCo cannot be read"):
        registration._models()
    assert main(["train", "--model", "SparseViT", "--print-config"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert lines[0].endswith(MEND)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"__init__.py": ""}, "IMDLBenCo.registry cannot be imported (ModuleNotFoundError: "),
        ({"__init__.py": "import no_such_library"}, "No module named 'no_such_library'"),
        ({"__init__.py": "", "registry.py": "MODELS = {}"}, "cannot be read (AttributeError: "),
    ],
)
def test_a_stand_in_that_cannot_be_read_ends_a_command(tmp_path, files, said):
    site = stand_in(tmp_path / "site", "0.2.0")
    (site / "IMDLBenCo").mkdir()
    for name, text in files.items():
        (site / "IMDLBenCo" / name).write_text(text)
    answer = start(site, "models")
    assert answer.returncode == 2, answer.stderr
    error = answer.stderr.splitlines()[-1]
    assert error.startswith("benco: error: ")
    assert said in error
    assert f"IMDLBenCo 0.2.0 is installed; {DISTRIBUTION} was tested" in error
    assert error.endswith(MEND)
    assert "Traceback" not in answer.stderr


def test_no_imdlbenco_at_all_is_said(tmp_path):
    site = tmp_path / "site" / "IMDLBenCo"
    site.mkdir(parents=True)
    (site / "__init__.py").write_text("raise ModuleNotFoundError('No module named IMDLBenCo')")
    answer = start(site.parent, "models")
    assert answer.returncode == 2
    assert "sparsevit env says what is broken, and the mend" in answer.stderr
