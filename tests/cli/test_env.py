"""`benco env` tells the truth about the installation, and `--fix` mends the script."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sparsevit_plugin.cli import env
from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.model.probe import Probe

UPSTREAM_SCRIPT = """#!/somewhere/bin/python
import sys
from IMDLBenCo.cli import main
if __name__ == '__main__':
    sys.exit(main())
"""


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of scripts, first on PATH, whose `benco` is IMDLBenCo's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "benco").write_text(UPSTREAM_SCRIPT)
    (folder / "benco").chmod(0o775)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(env, "script_folder", lambda: folder)
    return folder


def facts(capsys) -> dict:
    capsys.readouterr()
    assert main(["env", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_facts_are_those_of_the_installation(capsys):
    import torch
    import torchvision

    found = facts(capsys)
    assert found["IMDLBenCo"] == "0.1.45"
    assert found["PyTorch"] == torch.__version__.split("+")[0] == found["Libraries"]["torch"]
    assert found["Torchvision"] == torchvision.__version__.split("+")[0]
    assert found["CPU"]["processors"] == os.cpu_count()
    assert found["CPU"]["PyTorch threads"] == torch.get_num_threads()
    assert found["OpenCV"]["opencv-python-headless"].startswith("4.")
    assert set(found["Optional"]) >= {"DeepSpeed", "Bitsandbytes", "vLLM", "OpenVINO"}
    assert "requests" in found["Libraries"]
    assert not any("pytest" in name for name in found["Libraries"])


def test_text_has_a_line_a_fact_and_marks_problems(capsys, scripts):
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "- sparsevit-plugin: 0.1.0"
    assert f"- benco on PATH: {scripts / 'benco'} (calls IMDLBenCo)" in lines
    assert lines[-1].startswith("! ")
    assert lines[-1].endswith("python -m sparsevit_plugin env --fix")


def test_two_opencvs_are_a_problem_with_its_mend(capsys, monkeypatch):
    both = {"opencv-python": "4.11", "opencv-python-headless": "4.11"}
    monkeypatch.setattr(env, "installed_opencv", lambda: both)
    (problem,) = [text for text in facts(capsys)["problems"] if "cv2" in text]
    assert "pip uninstall -y" in problem
    assert "'opencv-python-headless<4.12,>=4.8'" in problem


def test_a_broken_import_is_a_problem_and_the_rest_is_shown(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    found = facts(capsys)
    assert any(text.startswith("import cv2 fails: ") for text in found["problems"])
    assert found["Python"].startswith("3.")


def test_fix_makes_the_script_the_plugins_and_keeps_its_mode(capsys, scripts):
    script = scripts / "benco"
    assert main(["env", "--fix"]) == 0
    assert "called IMDLBenCo and is the plugin's now" in capsys.readouterr().out
    assert script.stat().st_mode & 0o777 == 0o775
    answer = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("sparsevit-plugin ")
    assert [path.name for path in scripts.iterdir()] == ["benco"]

    written = script.stat().st_mtime_ns
    assert main(["env", "--fix"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert script.stat().st_mtime_ns == written


@pytest.mark.parametrize("content", [None, b"\x7fELF\x00\xff", b"#!/bin/sh\nexec pyenv\n"])
def test_fix_replaces_what_is_missing_or_unknown(capsys, scripts, content):
    script = scripts / "benco"
    script.unlink()
    if content is not None:
        script.write_bytes(content)
        script.chmod(0o755)
    assert main(["env", "--fix"]) == 0
    assert env.called_package(script) == "sparsevit_plugin"
    assert os.access(script, os.X_OK)


def test_fix_points_a_plugin_script_of_another_environment_here(scripts):
    script = scripts / "benco"
    script.write_text(env.script_text("/other/bin/python"))
    env.fix_script(scripts)
    assert script.read_text() == env.script_text(sys.executable)


def test_fix_says_when_the_shell_finds_another_first(scripts, tmp_path, monkeypatch):
    shadowed = tmp_path / "other"
    shadowed.mkdir()
    assert f"The shell finds {scripts / 'benco'} first" in env.fix_script(shadowed)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "is not on PATH" in env.fix_script(shadowed)


def test_a_script_that_cannot_be_written_is_left_alone(capsys, scripts, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    assert main(["env", "--fix"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (scripts / "benco").read_text() == UPSTREAM_SCRIPT
    assert [path.name for path in scripts.iterdir()] == ["benco"]


@pytest.mark.parametrize("folder", ["with a space", "x" * 130])
def test_an_interpreter_that_no_first_line_can_name_is_started_by_a_shell(tmp_path, folder):
    python = tmp_path / folder / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    script = tmp_path / "benco"
    script.write_text(
        env.script_text(str(python)).replace("sys.exit(main())", "print(sys.argv[1])")
    )
    script.chmod(0o755)
    setting = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    answer = subprocess.run(
        [script, "a b"], capture_output=True, text=True, check=True, env=setting
    )
    assert answer.stdout == "a b\n"
    assert env.called_package(script) == "sparsevit_plugin"


def test_windows_is_told_what_to_do(scripts, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(
        UserError, match=r"pip install --force-reinstall --no-deps sparsevit-plugin"
    ):
        env.fix_script(scripts)


def test_a_windows_launcher_is_read(tmp_path):
    launcher = tmp_path / "benco.exe"
    with zipfile.ZipFile(launcher, "w") as archive:
        archive.writestr("__main__.py", UPSTREAM_SCRIPT)
    launcher.write_bytes(b"MZ program" + launcher.read_bytes())
    assert env.called_package(launcher) == "IMDLBenCo"


def test_the_script_folder_is_the_installers():
    assert (env.script_folder() / "sparsevit").exists()


def test_kernels_are_shown_with_their_reason(monkeypatch, capsys):
    mkl = {"inference": 100.0, "training": 300.0}

    def found(purpose, number_format):
        rates = {"mkl": mkl[purpose], "onednn": 200.0}
        return Probe(number_format, rates, {"fp32": 64, "bf16": 0}[number_format], threads=2)

    monkeypatch.setattr("sparsevit_plugin.model.probe.probed", found)
    assert main(["env"]) == 0
    shown = capsys.readouterr().out
    words = " ".join(shown.split())
    assert "inference in fp32 onednn (mkl 100 GFLOP/s, onednn 200 GFLOP/s; attention" in words
    assert "training in bf16 mkl (mkl 300 GFLOP/s, onednn 200 GFLOP/s; attention" in words
    assert words.count("by matrix products up to 64 tokens a group") == 2
    assert words.count("by matrix products up to 0 tokens a group") == 2
