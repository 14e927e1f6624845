"""Models come from IMDLBenCo, from plugins and from the user's own files."""

import subprocess
import sys
from pathlib import Path

import pytest

from sparsevit_plugin import registration
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.registration import get_model_class, import_user, register_all
from tests.registry import (
    WriteModel,
    fresh_registry,  # noqa: F401 - a fixture
    install_distribution,
    write_model,  # noqa: F401 - a fixture
)

pytestmark = pytest.mark.usefixtures("fresh_registry")


def test_sparsevit_is_registered_and_upstreams_stays_reachable():
    models = register_all()
    assert models["SparseViT"].source.startswith("sparsevit-plugin ")
    assert models["SparseViT"].constructor.__module__ == "sparsevit_plugin.model.sparsevit"
    assert models["SparseViT_upstream"].source == "IMDLBenCo 0.1.45"
    assert models["IML_ViT"].source.startswith("sparsevit-plugin ")
    assert models["SparseViTBackbone"].source == "IMDLBenCo 0.1.45"
    assert {"AllTampered", "RandomScores"} <= set(models)
    assert register_all() == models


def test_importing_the_package_registers_in_imdlbencos_registry():
    code = (
        "import sparsevit_plugin; from IMDLBenCo.registry import MODELS; "
        "print(MODELS.get('SparseViT').__module__)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["sparsevit_plugin.model.sparsevit"]
    assert answer.stderr == ""


def test_a_third_partys_plugin_is_found(tmp_path: Path, monkeypatch, write_model: WriteModel):  # noqa: F811
    write_model("third_party_model", "ThirdParty")
    (tmp_path / "third_party.py").write_text("def register():\n    import third_party_model\n")
    entry = "[sparsevit_plugin.models]\nthird = third_party:register\n"
    install_distribution(tmp_path, "third-party", entry)
    monkeypatch.syspath_prepend(tmp_path)
    found = register_all()["ThirdParty"]
    assert found.source == "third-party 2.5"
    assert get_model_class("ThirdParty") is found.constructor


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_module:register", "ModuleNotFoundError"),
        ("broken_plugin:fails", "ValueError: no licence"),
        ("broken_plugin:missing", "AttributeError"),
        ("broken_plugin:leaves", "SystemExit"),
    ],
)
def test_a_broken_plugin_is_one_warning_and_the_others_work(
    tmp_path: Path, monkeypatch, caplog, value: str, reason: str
):
    (tmp_path / "broken_plugin.py").write_text(
        "def fails():\n    raise ValueError('no licence\\nsecond line')\n"
        "def leaves():\n    raise SystemExit(3)\n"
    )
    install_distribution(tmp_path, "broken", f"[sparsevit_plugin.models]\nbroken = {value}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "SparseViT" in register_all()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "broken of broken 2.5" in caplog.text
    (named,) = registration.broken_plugins().items()
    assert named[0] == "broken (broken 2.5)"
    assert reason in named[1]
    assert "\n" not in named[1]


def test_import_of_a_file_that_reads_its_neighbour(tmp_path: Path, write_model: WriteModel):  # noqa: F811
    write_model("neighbour_of_mine", "Neighbour")
    path = tmp_path / "my_entry.py"
    path.write_text("import neighbour_of_mine\n")
    import_user([str(path), str(path)])
    assert register_all()["Neighbour"].source == str(path)


def test_import_of_a_module_in_the_working_folder(tmp_path: Path, monkeypatch):
    package = tmp_path / "lab_models"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "mine.py").write_text("VALUE = 1\n")
    monkeypatch.chdir(tmp_path)
    import_user(["lab_models.mine"])
    assert sys.modules["lab_models.mine"].VALUE == 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("import torch\nx = 1 / 0\n", ["ZeroDivisionError", "line 2"]),
        ("x = (\n", ["SyntaxError", "line 1"]),
        ("import no_such_library\n", ["no_such_library", "line 1"]),
        ("raise SystemExit(1)\n", ["SystemExit", "line 1"]),
        ("def f():\n    raise ValueError('a\\nb')\nf()\n", ["ValueError: a", "line 2"]),
    ],
)
@pytest.mark.parametrize("as_module", [False, True])
def test_a_failing_import_is_one_line_with_the_place(
    tmp_path: Path, monkeypatch, text: str, wanted: list[str], as_module: bool
):
    (tmp_path / "failing_model.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    given = "failing_model" if as_module else "failing_model.py"
    with pytest.raises(UserError) as caught:
        import_user([given])
    message = str(caught.value)
    assert message.startswith(f"--import {given}: ")
    assert all(part in message for part in wanted), message
    assert "\n" not in message


@pytest.mark.parametrize("given", ["nowhere.py", "some/where.py", "no_such_package.module"])
def test_a_missing_import_is_named(given: str):
    with pytest.raises(UserError, match=r"no such file|No module named"):
        import_user([given])


def test_a_file_named_as_a_loaded_module_is_refused(tmp_path: Path):
    path = tmp_path / "torch.py"
    path.touch()
    with pytest.raises(UserError, match="loaded already; rename"):
        import_user([str(path)])


def test_unknown_model_gets_a_suggestion():
    with pytest.raises(UserError, match=r'unknown model "sparsvit". Did you mean "SparseViT"\?'):
        get_model_class("sparsvit")


def test_unknown_model_names_the_mymodel_of_the_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as without:
        get_model_class("MyModel")
    assert "mymodel.py" not in str(without.value)
    (tmp_path / "mymodel.py").write_text("")
    with pytest.raises(UserError, match=r"pass --import mymodel\.py"):
        get_model_class("MyModel")


@pytest.mark.parametrize(
    ("argv", "orig_argv", "own"),
    [
        (["/venv/bin/benco", "train"], ["python", "/venv/bin/benco", "train"], True),
        (["sparsevit"], ["python", "sparsevit"], True),
        ([r"benco.exe"], ["python"], True),
        (["-m", "train"], ["python", "-u", "-m", "sparsevit_plugin", "train"], True),
        (["-m"], ["python", "-msparsevit_plugin"], True),
        (["-m"], ["python", "-m", "sparsevit_plugin.cli.probe", "X"], True),
        (["train.py"], ["python", "train.py", "--model", "SparseViT"], False),
        (["benco.py"], ["python", "benco.py"], False),
        (["-m"], ["python", "-m", "pytest"], False),
        ([], ["python"], False),
    ],
)
def test_only_the_own_command_line_registers_late(monkeypatch, argv, orig_argv, own):
    import sparsevit_plugin

    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    assert sparsevit_plugin._is_own_command_line() is own
