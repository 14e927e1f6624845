"""The command: what it needs, where it listens, and what it keeps Gradio from."""

import importlib.util
import os
import socket

import pytest

from sparsevit_plugin.app.server import _stay_at_home, free_port, is_loopback
from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "gradio" else find_spec(name)
    )
    assert main(["app", "--checkpoint", "x"]) == 2
    error = 'benco: error: benco app needs the extra: pip install "sparsevit-plugin[app]"\n'
    assert capsys.readouterr().err == error


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--port", "0"], "--port 0: give 1 to 65535"),
        (["--max-pixels", "0"], "--max-pixels: give a number above 0"),
        (["--max-bytes", "-1"], "--max-bytes: give a number above 0"),
    ],
)
def test_wrong_numbers_are_refused(monkeypatch, capsys, words, wanted):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    assert main(["app", "--checkpoint", "x", *words]) == 2
    assert wanted in capsys.readouterr().err


def test_which_hosts_are_this_machine_alone():
    assert all(map(is_loopback, ["127.0.0.1", "localhost", "::1", "127.8.8.8"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "example.org"]))


def test_a_port_that_is_taken_is_refused_or_passed_by():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: cannot be listened on"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", port) == port
    assert free_port("127.0.0.1", None) >= 7860
    with pytest.raises(UserError, match=r"--host 192\.0\.2\.1"):  # an address of documentation
        free_port("192.0.2.1", 7860)


def test_gradio_tells_nobody_and_uploads_stay_in_the_runs_folder(monkeypatch, tmp_path):
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "before")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "example.org")
    _stay_at_home(tmp_path, "127.0.0.2")
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path)
    assert os.environ["no_proxy"] == "example.org,127.0.0.1,localhost,127.0.0.2"
