"""Processes: whose BatchNorm they share, and how a job says which of them failed."""

import pytest

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.failures import PEER_GONE
from sparsevit_plugin.harness.devices import launch_processes, shares_batch_norm
from tests.harness.helpers import TINY, run_instead


@pytest.mark.parametrize(
    ("asked", "accelerator", "world", "shared"),
    [
        (None, "cuda", 2, True),
        (True, "cuda", 2, True),
        (False, "cuda", 2, False),
        (None, "cuda", 1, False),
        (True, "cuda", 1, False),
        (None, "cpu", 2, False),
        (False, "cpu", 2, False),
        (None, "mps", 1, False),
    ],
)
def test_batch_norm_is_shared_on_gpus_unless_it_is_refused(asked, accelerator, world, shared):
    assert shares_batch_norm(asked, accelerator, world) is shared


@pytest.mark.parametrize("accelerator", ["cpu", "mps"])
def test_shared_batch_norm_cannot_be_had_elsewhere(accelerator):
    with pytest.raises(UserError, match="works on GPUs only"):
        shares_batch_norm(True, accelerator, 1)


@pytest.mark.parametrize("devices", ["1", "2"])
def test_the_command_says_so_before_anything_is_started(tiny_set, tmp_path, capsys, devices):
    words = ("train", *TINY, "--data-path", str(tiny_set), "--output-dir", str(tmp_path / "out"))
    assert main([*words, "--sync-bn", "--devices", devices]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("benco: error: --sync-bn: PyTorch's SyncBatchNorm works on GPUs only")
    assert not (tmp_path / "out").exists()


def test_half_precision_does_not_train_on_a_cpu(tiny_set, tmp_path, capsys):
    words = ("train", *TINY, "--data-path", str(tiny_set), "--output-dir", str(tmp_path / "out"))
    assert main([*words, "--precision", "16-mixed"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("benco: error: --precision 16-mixed trains on a GPU")


@pytest.mark.parametrize("code", [1, 2])
def test_a_process_that_fails_is_named_unless_it_has_said_what_is_wrong(
    tmp_path, monkeypatch, capsys, code
):
    run_instead(tmp_path, monkeypatch, f'[ "$RANK" = 1 ] && exit {code}\nexec sleep 3600')
    assert launch_processes(2, ["train"]) == code
    error = capsys.readouterr().err
    assert ("process 2 of 2 failed first" in error) == (code == 1)
    assert "Traceback" not in error


def test_a_process_that_ends_for_want_of_the_other_is_not_the_one_that_failed(
    tmp_path, monkeypatch, capsys
):
    """Both are gone when the launcher looks, and it counts in seconds."""
    run_instead(tmp_path, monkeypatch, f'[ "$RANK" = 1 ] && exit 1\nexit {PEER_GONE}')
    assert launch_processes(2, ["train"]) == 1
    assert "process 2 of 2 failed first" in capsys.readouterr().err


def test_the_exit_code_of_a_process_whose_others_are_gone(monkeypatch, capsys):
    def lose(_):
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:553] Connection closed by peer")

    monkeypatch.setattr("sparsevit_plugin.cli.main._dispatch", lose)
    assert main(["train"]) == PEER_GONE
    assert "another process of this job has ended" in capsys.readouterr().err
