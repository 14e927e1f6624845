"""`benco init` is IMDLBenCo's own, and what it makes works with `--import`."""

from pathlib import Path

import pytest

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.registration import get_model_class, import_user
from tests.registry import fresh_registry  # noqa: F401 - a fixture


def test_the_folder_of_init_base_works_with_import(tmp_path: Path, monkeypatch, fresh_registry):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    assert main(["init", "base"]) == 0
    assert {"train.py", "test.py", "mymodel.py", "test_datasets.json"} <= {
        path.name for path in tmp_path.iterdir()
    }
    import_user(["mymodel.py"])
    assert get_model_class("MyModel").__module__ == "mymodel"


def test_its_question_without_anyone_to_answer_is_one_line(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    monkeypatch.setattr("builtins.input", lambda prompt: (_ for _ in ()).throw(EOFError()))
    assert main(["init"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "train.py").read_text() == ""


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["bas"], 2)])
def test_its_help_and_exit_codes_are_kept(capsys, words, code):
    assert main(["init", *words]) == code
    captured = capsys.readouterr()
    assert "{base,model_zoo,backbone}" in captured.out + captured.err
