"""Failures of the machine are one line each, and a process that dies ends its job."""

import time

import pytest
import torch

from sparsevit_plugin.cli import env
from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.failures import in_words, signal_in_words
from sparsevit_plugin.harness.checkpoint import TrainingState, save_state
from sparsevit_plugin.harness.devices import launch_processes
from tests.harness.helpers import run_instead

LOADER = "DataLoader worker (pid 9907) is killed by signal: Killed. "
OUT_OF_MEMORY = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:126] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("could not create a primitive"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."),
    OSError(12, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_memory_that_is_used_up_is_said_in_one_line(error, monkeypatch, capsys):
    def fail(_):
        raise error

    monkeypatch.setattr(env, "run", fail)
    assert main(["env"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("benco: error: out of memory (")
    assert "--batch-size" in line


@pytest.mark.parametrize(
    "text",
    [LOADER, "DataLoader worker (pid(s) 12, 13) exited unexpectedly"],
    ids=["killed", "exit"],
)
def test_a_loader_that_was_killed_is_named(text):
    assert "a process that loads images" in in_words(RuntimeError(text))
    assert "--num-workers" in in_words(RuntimeError(text))


@pytest.mark.parametrize(
    "text",
    [
        "[/third_party/gloo/gloo/transport/tcp/pair.cc:552] Connection closed by peer [::1]:4711",
        "[/third_party/gloo/transport/tcp/pair.cc:525] Read error [::1]: Connection reset by peer",
        "[/third_party/gloo/gloo/transport/tcp/pair.cc:446] writev [::1]:4711: Broken pipe",
        "NCCL error: ncclRemoteError: remote process exited or there was a network error",
    ],
    ids=["closed", "reset", "pipe", "nccl"],
)
def test_a_process_whose_others_are_gone_does_not_look_like_the_culprit(text):
    assert in_words(RuntimeError(text)).startswith("another process of this job has ended")
    assert in_words(OSError(text)) is None  # a browser's or a download's


def test_other_errors_keep_their_traceback():
    assert in_words(RuntimeError("a mistake of ours")) is None
    assert in_words(ValueError("shapes differ")) is None


def test_a_loader_that_dies_during_a_save_is_no_full_disk(tmp_path, monkeypatch):
    def die(*_):
        raise RuntimeError(LOADER)

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(RuntimeError, match="killed by signal") as caught:
        save_state(TrainingState({}, {}), tmp_path / "resume.pt")
    assert not isinstance(caught.value, UserError)
    assert not list(tmp_path.iterdir())


def test_signals_have_names():
    assert signal_in_words(9) == "ended by SIGKILL (out of memory?)"
    assert signal_in_words(15) == "ended by SIGTERM"


def test_a_process_that_is_killed_ends_the_job_with_its_reason(tmp_path, monkeypatch, capsys):
    """The other one would wait for it for an hour."""
    run_instead(tmp_path, monkeypatch, '[ "$RANK" = 1 ] && kill -9 $$\nexec sleep 3600')
    began = time.monotonic()
    assert launch_processes(2, ["train"]) == 1
    assert time.monotonic() - began < 60
    error = capsys.readouterr().err
    assert "benco: error: process 2 of 2: ended by SIGKILL (out of memory?)" in error
    assert "Traceback" not in error
