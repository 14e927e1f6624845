"""Training: it learns, it can be killed at any step, and it refuses what it cannot do."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from unittest.mock import patch

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.harness import train as train_module
from sparsevit_plugin.harness.checkpoint import load_state
from sparsevit_plugin.harness.testing import checkpoint_facts, updates_of
from sparsevit_plugin.harness.train import Trainer
from sparsevit_plugin.model.kernels import current_kernels
from sparsevit_plugin.model.weights import read_checkpoint
from sparsevit_plugin.results.store import load
from tests.harness.helpers import (
    TINY,
    points,
    register_plain_convolution,
    run_train,
    same_weights,
    weights,
)


@pytest.fixture
def train_set(tmp_path, make_set):
    return make_set(tmp_path / "set", count=13)


def kill_before_step(monkeypatch, number):
    """Make the trainer die before the given step, counted from 0 over the whole training."""
    step = Trainer._step

    def dying(self, batch):
        if self.position == number:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(Trainer, "_step", dying)


@pytest.mark.parametrize("killed_at", [1, 3, 5])
def test_a_run_killed_at_any_step_resumes_to_the_weights_of_an_undisturbed_one(
    train_set, tmp_path, monkeypatch, killed_at
):
    assert run_train(train_set, tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        kill_before_step(patch, killed_at)
        assert run_train(train_set, tmp_path / "killed", "--save-every", "1") == 130
    assert run_train(train_set, tmp_path / "killed", "--resume", "auto", "--save-every", "1") == 0
    assert same_weights(tmp_path / "whole/best.safetensors", tmp_path / "killed/best.safetensors")
    positions = [point["position"] for point in points(tmp_path / "killed") if "lr" in point]
    assert positions == sorted(set(positions)) == list(range(6))


def test_a_kill_while_the_end_is_saved_leaves_no_older_weights(train_set, tmp_path, monkeypatch):
    """Of the last weights and the state that says that all is done, the state comes last."""
    out = tmp_path / "run"
    save = train_module.save_state

    def killed(state, path):
        if state.finished:
            raise KeyboardInterrupt
        save(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "save_state", killed)
        assert run_train(train_set, out, "--save-every", "1") == 130
    assert run_train(train_set, out, "--resume", "auto") == 0
    assert load_state(out / "resume.pt").finished
    assert same_weights(out / "last.safetensors", out / "best.safetensors")


def test_a_kill_behind_a_judgement_leaves_it_logged_once(train_set, tmp_path, monkeypatch):
    """All steps of the epoch are saved by then, and it is judged again."""
    out, flags = tmp_path / "run", ("--select", "val", "--val-fraction", "0.3", "--save-every", "1")
    save = train_module.save_state

    def killed(state, path):
        if (state.epoch, state.step) == (1, 0):
            raise KeyboardInterrupt
        save(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "save_state", killed)
        assert run_train(train_set, out, *flags) == 130
    assert [point["epoch"] for point in points(out) if "select" in point] == [0]
    assert run_train(train_set, out, *flags, "--resume", "auto") == 0
    assert [point["epoch"] for point in points(out) if "select" in point] == [0, 1]


def test_a_full_disk_under_tensorboard_is_one_line(train_set, tmp_path, monkeypatch, capsys):
    from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

    def full(self, name, content, mode):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "_write", full)
        patch.setattr(LocalFileSystem, "append", full)
        assert run_train(train_set, out) == 2
    error = capsys.readouterr().err
    assert f"cannot write {out}: No space left on device" in error
    assert "Traceback" not in error
    assert run_train(train_set, out, "--resume", "auto") == 0


def test_an_image_that_vanishes_is_not_passed_over(train_set, tmp_path, monkeypatch, capsys):
    """The data's disk has gone: without it the run would end with other weights."""
    step, gone = Trainer._step, tmp_path / "gone"

    def take_away(self, batch):
        if self.position == 1 and train_set.exists():
            train_set.rename(gone)
        return step(self, batch)

    monkeypatch.setattr(Trainer, "_step", take_away)
    out, skip = tmp_path / "run", ("--on-bad-image", "skip", "--save-every", "1")
    assert run_train(train_set, out, *skip) == 2
    assert "has gone since its set was read" in capsys.readouterr().err
    monkeypatch.undo()
    gone.rename(train_set)
    assert run_train(train_set, out, *skip, "--resume", "auto") == 0
    assert run_train(train_set, tmp_path / "whole", *skip) == 0
    assert same_weights(tmp_path / "whole/best.safetensors", out / "best.safetensors")


def test_a_resumed_run_keeps_its_kernels(train_set, tmp_path, monkeypatch, capsys):
    """Another machine's measurement, or another --matmul, does not change the run's arithmetic."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_before_step(patch, 2)
        assert run_train(train_set, out, "--save-every", "1", "--matmul", "onednn") == 130
    assert load_state(out / "resume.pt").kernels["matmul"] == "onednn"
    assert run_train(train_set, out, "--resume", "auto", "--matmul", "mkl") == 0
    assert load_state(out / "resume.pt").kernels["matmul"] == "onednn"
    assert current_kernels().matmul == "onednn"
    assert "--matmul mkl: the run began with onednn and keeps it" in capsys.readouterr().out


def test_activation_checkpointing_trains_the_same_weights(train_set, tmp_path):
    model = ("--model", "SparseViT_tiny", "--drop_path", "0.3")
    assert run_train(train_set, tmp_path / "plain", *model) == 0
    assert run_train(train_set, tmp_path / "less", *model, "--activation-checkpointing") == 0
    plain, less = (weights(tmp_path / name / "last.safetensors") for name in ("plain", "less"))
    assert plain.keys() == less.keys()
    for key, value in plain.items():
        torch.testing.assert_close(less[key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_activation_checkpointing_needs_a_model_that_can(train_set, tmp_path, capsys):
    register_plain_convolution()
    arguments = ("--model", "PlainConvolution", "--activation-checkpointing")
    assert run_train(train_set, tmp_path / "run", *arguments) == 2
    assert "PlainConvolution has no checkpoint_activations()" in capsys.readouterr().err


@pytest.mark.slow
def test_sigkill_and_sigterm_lose_nothing_that_a_resumed_run_needs(train_set, tmp_path):
    command = [
        *(sys.executable, "-m", "sparsevit_plugin", "train", *TINY, "--recipe", "none"),
        *("--data-path", str(train_set), "--batch-size", "4", "--accum-iter", "1"),
        *("--epochs", "30", "--lr", "1e-3", "--select", "last", "--save-every", "1"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for number in (signal.SIGKILL, signal.SIGTERM):
        out = tmp_path / number.name
        process = subprocess.Popen(
            [*command, "--output-dir", str(out), "--resume", "auto"],
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while not (out / "resume.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait() in (-signal.SIGKILL, 128 + signal.SIGTERM)
        state = load_state(out / "resume.pt")
        assert not state.finished
        assert 0 < state.epoch * 3 + state.step < 90
        weights(out / "last.safetensors")
        assert not [p for p in out.rglob("*") if p.name.startswith(".") and p.name.endswith(".tmp")]


def test_training_with_accumulation_equals_a_larger_batch(train_set, tmp_path):
    register_plain_convolution()
    flags = ("--model", "PlainConvolution", "--augmentation", "none")
    assert run_train(train_set, tmp_path / "large", *flags) == 0
    accumulated = (*flags, "--batch-size", "2", "--accum-iter", "2")
    assert run_train(train_set, tmp_path / "small", *accumulated) == 0
    large = weights(tmp_path / "large/best.safetensors")
    small = weights(tmp_path / "small/best.safetensors")
    for name, value in large.items():
        torch.testing.assert_close(value, small[name], rtol=0, atol=1e-6)


def test_the_loss_falls(train_set, tmp_path):
    register_plain_convolution()
    flags = ("--model", "PlainConvolution", "--augmentation", "none", "--epochs", "15")
    assert run_train(train_set, tmp_path / "run", *flags, "--lr", "3e-2") == 0
    losses = [point["predict_loss"] for point in points(tmp_path / "run") if "lr" in point]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_a_loss_that_is_not_finite_stops_with_the_names_of_the_batch(train_set, tmp_path, capsys):
    register_plain_convolution()
    code = run_train(train_set, tmp_path / "run", "--model", "PlainConvolution", "--spoil", "1")
    assert code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the loss is nan at epoch 1, step 1" in error
    assert error.count("Tp/") == 4


@pytest.mark.parametrize("clip", [(), ("--clip-grad", "1.0")])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_whose_gradients_are_not_finite_is_left_out(
    train_set, tmp_path, make_set, capsys, *, clip, scaled
):
    """As on a GPU in fp16, where the first steps show how far the loss can be scaled."""
    register_plain_convolution()
    patched = contextlib.nullcontext()
    if scaled:
        precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
        fabric = Fabric(accelerator="cpu", plugins=[precision])
        patched = patch("sparsevit_plugin.harness.train.make_fabric", return_value=fabric)
    tests = ("--test-data-path", str(make_set(tmp_path / "tests", count=2)))
    flags = ("--model", "PlainConvolution", "--overflow", "2", *clip, *tests)
    with patched:
        assert run_train(train_set, tmp_path / "run", *flags) == 0
    said = "".join(capsys.readouterr())
    assert said.count("the gradients are not finite; the step is left out") == 2
    assert said.count("the scale of the loss halved") == (2 if scaled else 0)
    trained = weights(tmp_path / "run/best.safetensors")
    assert all(torch.isfinite(value).all() for value in trained.values())
    counted = {"updates": load_state(tmp_path / "run/resume.pt").updates, "updates_left_out": 2}
    assert counted["updates"] > 2
    (manifest,) = load(tmp_path / "run").manifests.values()
    assert {key: manifest[key] for key in counted} == counted
    checkpoint = read_checkpoint(tmp_path / "run/best.safetensors")
    facts = checkpoint_facts(checkpoint.metadata)
    assert {key: facts[key] for key in counted} == counted


def test_updates_are_counted_once_over_a_kill(train_set, tmp_path, monkeypatch):
    """Two epochs of three batches, two of which are an update: the third is one of its own."""
    flags = ("--accum-iter", "2", "--save-every", "1")
    with monkeypatch.context() as patched:
        kill_before_step(patched, 5)
        assert run_train(train_set, tmp_path / "run", *flags) == 130
    assert run_train(train_set, tmp_path / "run", *flags, "--resume", "auto") == 0
    metadata = read_checkpoint(tmp_path / "run/best.safetensors").metadata
    assert updates_of(metadata) == {"updates": 4, "updates_left_out": 0}


def test_rows_count_the_updates_up_to_the_tested_checkpoint(train_set, tmp_path, make_set):
    tests = ("--test-data-path", str(make_set(tmp_path / "tests", count=2)))
    flags = ("--select", "val", "--val-fraction", "0.3", "--test-period", "1", *tests)
    with patch.object(Trainer, "_judge", side_effect=[0.5, 0.4]):  # the first epoch is the best
        assert run_train(train_set, tmp_path / "run", *flags) == 0
    best, last = (
        updates_of(read_checkpoint(tmp_path / f"run/{name}.safetensors").metadata)["updates"]
        for name in ("best", "last")
    )
    assert last == 2 * best
    (tested,) = (cell for cell in load(tmp_path / "run").cells if cell.dataset == "tests")
    assert tested.manifest["updates"] == best


def test_a_state_without_counts_leaves_them_out(train_set, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        kill_before_step(patched, 4)
        assert run_train(train_set, tmp_path / "run", "--save-every", "1") == 130
    path = tmp_path / "run/resume.pt"
    content = torch.load(path, weights_only=True)
    del content["updates"]
    torch.save({**content, "left_out": 3}, path)
    assert (load_state(path).updates, load_state(path).left_out) == (0, 0)


def test_gradients_that_never_are_finite_end_the_training(train_set, tmp_path, capsys):
    register_plain_convolution()
    flags = ("--model", "PlainConvolution", "--overflow", "99", "--epochs", "20")
    assert run_train(train_set, tmp_path / "run", *flags) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "epoch 9, step 1: the gradients of 25 steps in a row are not finite" in error


def test_last_and_best_and_the_test_rows_are_written(train_set, tmp_path, make_set):
    tests = make_set(tmp_path / "tests", count=5)
    out = tmp_path / "run"
    assert run_train(train_set, out, "--test-data-path", str(tests)) == 0
    assert same_weights(out / "last.safetensors", out / "best.safetensors")
    results = load(out)
    assert len(results.rows) == 2 * 5
    assert set(results.rows["score_at"]) == {"model", "image"}
    (manifest,) = results.manifests.values()
    assert manifest["selection"] == "last"
    assert manifest["effective_batch"] == 4
    assert "random weights" in manifest["pretraining"]


def test_selection_on_a_hold_out_keeps_its_rows_and_never_trains_on_it(tiny_corpus, tmp_path):
    out = tmp_path / "run"
    data = str(tiny_corpus / "list.json")
    flags = ("--select", "val", "--test-period", "1", "--batch-size", "2")
    assert run_train(tiny_corpus / "list.json", out, *flags, "--test-data-path", data) == 0
    rows = load(out).rows
    held_out = rows[rows["dataset"] == "val"]
    assert len(held_out) > 0
    photos = {names[0] for names in held_out["photos"]}
    assert len(photos) == 1
    state = load_state(out / "resume.pt")
    assert state.best is not None
    assert state.best["epoch"] in (1, 2)


def test_selection_on_the_test_sets_is_said_in_the_manifest(train_set, tmp_path):
    out = tmp_path / "run"
    flags = ("--select", "test", "--test-data-path", str(train_set), "--test-period", "1")
    assert run_train(train_set, out, *flags) == 0
    (manifest,) = load(out).manifests.values()
    assert manifest["selection"] == "test"


def test_a_folder_that_holds_a_run_is_neither_mixed_nor_lost(train_set, tmp_path, capsys):
    out = tmp_path / "run"
    assert run_train(train_set, out) == 0
    before = (out / "best.safetensors").read_bytes()
    assert run_train(train_set, out) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert run_train(train_set, out, "--resume", "auto", "--lr", "5e-4") == 2
    assert "other settings" in capsys.readouterr().err
    assert (out / "best.safetensors").read_bytes() == before
    assert run_train(train_set, out, "--overwrite", "--lr", "5e-4") == 0
    assert (out / "best.safetensors").read_bytes() != before


def test_a_finished_run_is_not_trained_again(train_set, tmp_path, monkeypatch):
    assert run_train(train_set, tmp_path / "run") == 0
    kill_before_step(monkeypatch, 6)
    assert run_train(train_set, tmp_path / "run", "--resume", "auto") == 0


def test_bad_images_stop_training_or_are_skipped_and_listed(train_set, tmp_path, capsys):
    broken = train_set / "Tp" / "004.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    assert run_train(train_set, tmp_path / "stop", "--epochs", "3") == 2
    assert "004.jpg" in capsys.readouterr().err.splitlines()[-1]
    assert run_train(train_set, tmp_path / "skip", "--on-bad-image", "skip", "--epochs", "3") == 0
    assert "004.jpg" in capsys.readouterr().out
    assert load_state(tmp_path / "skip/resume.pt").skipped == ["Tp/004.jpg"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--batch-size", "14"), "lower --batch-size"),
        (("--pretrained-path", "nowhere.pth"), "no such weights file"),
        (("--select", "test"), "needs --test-data-path"),
        (("--resume", "nowhere.pt"), "no such file"),
        (("--output-dir", "/dev/null/run"), "cannot be written"),
        (("--device", "cuda:77"), "cuda"),
        (("--model", "AllTampered"), "no parameters to train"),
    ],
)
def test_what_cannot_be_done_ends_in_one_line(train_set, tmp_path, capsys, flags, said):
    assert run_train(train_set, tmp_path / "run", *flags) == 2
    captured = capsys.readouterr().err
    assert said in captured.splitlines()[-1]
    assert "Traceback" not in captured


def test_a_weights_file_with_another_hash_is_refused(train_set, tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save({"model": {}}, path)
    flags = ("--pretrained-path", str(path), "--pretrained-sha256", "0" * 64)
    assert run_train(train_set, tmp_path / "run", *flags) == 2
    assert "SHA-256" in capsys.readouterr().err


def test_fine_tuning_starts_from_a_checkpoint(train_set, tmp_path):
    assert run_train(train_set, tmp_path / "first") == 0
    start = tmp_path / "first/best.safetensors"
    assert run_train(train_set, tmp_path / "second", "--checkpoint", str(start), "--lr", "0") == 0
    first, second = weights(start), weights(tmp_path / "second/best.safetensors")
    learnt = [name for name in first if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(first[name], second[name]) for name in learnt)


def test_upstream_flags_of_a_run_script_train(train_set, tmp_path):
    code = main(
        [
            *("train", "--model", "SparseViT_tiny", "--world_size", "1", "--batch_size", "4"),
            *("--data_path", str(train_set), "--epochs", "1", "--lr", "2e-4", "--min_lr", "0"),
            *("--weight_decay", "0.05", "--test_data_path", str(train_set), "--if_resizing"),
            *("--find_unused_parameters", "--warmup_epochs", "4", "--accum_iter", "1"),
            *(
                "--output_dir",
                str(tmp_path / "run"),
                "--log_dir",
                str(tmp_path / "run"),
                "--seed",
                "42",
            ),
            *("--test_period", "4", "--num_workers", "0", "--image_size", "32", "--select", "test"),
        ]
    )
    assert code == 0
    assert (tmp_path / "run/best.safetensors").exists()
