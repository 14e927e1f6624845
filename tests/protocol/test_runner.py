"""Running a plan: past failures, beside other runners, and on after a kill."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.protocol import runner
from sparsevit_plugin.protocol.runner import Runner, Slot, make_slots
from sparsevit_plugin.protocol.status import job_states
from sparsevit_plugin.results.store import load
from tests.protocol.test_plan import missing, run_all

SLOW = """

class Slow(LabModel):
    def forward(self, image, mask=None, **kwargs):
        import time
        time.sleep(1.0)
        return super().forward(image, mask)


MODELS.register_module(module=Slow, force=True)
"""


def run_with(lab, monkeypatch, script, **more):
    """Run a plan whose jobs are a Python script instead of the worker."""
    command = lambda order, processes: [sys.executable, "-c", script, str(order)]  # noqa: E731
    monkeypatch.setattr(runner, "_command", command)
    return Runner(lab.plan(**more), lab.folder, [Slot()]).run()


def test_a_failed_job_is_listed_with_its_log_and_the_others_are_run(lab, monkeypatch):
    script = """
import sys
if "Broken" in sys.argv[1]:
    print("loading")
    print("benco: error: the disk is gone; plug it in", file=sys.stderr)
    sys.exit(2)
"""
    outcome = run_with(lab, monkeypatch, script, models=("Broken", "Plain"))
    assert [job.label for job in outcome.done] == ["Plain"]
    ((job, failure),) = outcome.failed
    assert job.label == "Broken"
    assert failure["reason"] == "the disk is gone; plug it in"
    assert "loading" in Path(failure["log"]).read_text()
    states = {state["label"]: state for state in job_states(lab.folder)}
    assert states["Broken"]["failure"]["reason"] == failure["reason"]


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        ("import os; os.kill(os.getpid(), 9)", r"ended by SIGKILL \(out of memory\?\)"),
        ("raise ValueError('odd')", "ValueError: odd"),
        ("import sys; sys.exit(3)", "ended with code 3"),
    ],
)
def test_why_a_job_failed_is_one_line(lab, monkeypatch, script, wanted):
    ((_, failure),) = run_with(lab, monkeypatch, script).failed
    assert re.fullmatch(wanted, failure["reason"])


def test_a_job_that_another_runner_has_is_waited_for(lab, capsys, monkeypatch):
    plan = lab.plan()
    lock = lab.folder.lock(plan.jobs[0].name)
    lock.acquire()
    monkeypatch.setattr(runner, "_RETRY_SECONDS", 0.1)
    one = Runner(plan, lab.folder, [Slot()])
    look = one._look_at_busy

    def other_runner_finishes():
        lock.release()
        run_all(lab, plan)
        look()

    monkeypatch.setattr(one, "_look_at_busy", other_runner_finishes)
    outcome = one.run()
    assert "another runner has it" in capsys.readouterr().err
    assert [job.label for job in outcome.others] == ["Plain"]
    assert missing(lab) == (0, 0)


def test_a_job_that_is_free_again_is_taken_up(lab, monkeypatch):
    plan = lab.plan()
    monkeypatch.setattr(runner, "_RETRY_SECONDS", 0.1)
    script = "import pathlib, sys; p = pathlib.Path(sys.argv[1]).with_suffix('.seen'); "
    script += "sys.exit(0) if p.exists() else (p.touch(), sys.exit(75))"
    monkeypatch.setattr(runner, "_command", lambda order, _: [sys.executable, "-c", script, order])
    outcome = Runner(plan, lab.folder, [Slot()]).run()
    assert [job.label for job in outcome.done] == ["Plain"]


@pytest.mark.slow
def test_the_command_trains_tests_and_tabulates_past_a_model_that_fails(lab, capsys):
    words = ["protocol", "run", *lab.arguments("--seeds", "0", models="Plain,Broken")]
    assert main(words) == 1
    shown = capsys.readouterr()
    assert "this model never works" in shown.out
    assert "1 rows done now" in shown.out
    table = load(lab.runs / "lab").table("pixel_f1")
    assert list(table.values.columns) == ["First", "Second", "average"]
    assert list(table.values.index) == ["Plain"]
    manifest = lab.folder.store.all_notes()[0]["manifest"]
    assert manifest["protocol"] == "lab"
    assert manifest["weights"] == {}
    assert manifest["complexity"]["parameters"] == 3 * 3 + 3 + 3 + 1
    assert manifest["complexity"]["macs"] == 16 * 16 * (3 * 3 + 3)
    assert main(["protocol", "status", "lab", "--runs", str(lab.runs)]) == 0
    assert "this model never works" in capsys.readouterr().out
    words = ["protocol", "run", *lab.arguments("--seeds", "0")]
    assert main(words) == 0
    assert "0 rows done now; 1 were done before" in capsys.readouterr().out


def start(lab, *words):
    command = [sys.executable, "-m", "sparsevit_plugin", "protocol", "run", *lab.arguments(*words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_a_killed_runner_takes_its_jobs_along_and_the_next_one_finishes(lab, capsys):
    lab.models.write_text(lab.models.read_text() + SLOW)
    lab.write_card("Slow")
    words = ("--models", "Plain,Slow", "--seeds", "0")
    process = start(lab, *words)
    rows = lab.folder.path / "results" / "rows"
    wait_for(lambda: len(list(rows.glob("[!.]*.parquet"))) >= 3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in rows.glob("[!.]*.parquet")}
    assert len(before) == 3
    records = {path: path.stat().st_mtime_ns for path in lab.folder.path.glob("train/*/cell.json")}
    assert len(records) == 2
    assert main(["protocol", "run", *lab.arguments(*words)]) == 0
    assert "1 rows done now; 1 were done before" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in rows.glob("[!.]*.parquet")}
    assert len(after) == 4
    assert before.items() <= after.items()
    assert all(path.stat().st_mtime_ns == then for path, then in records.items())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_and_what_was_finished_stays(lab, capsys):
    full = lab.folder.path / "timings.jsonl"
    full.parent.mkdir(parents=True)
    full.symlink_to("/dev/full")
    words = ["protocol", "run", *lab.arguments("--seeds", "0")]
    assert main(words) == 1
    line = f"Plain, seed 0: cannot write {full}: No space left on device"
    assert line in capsys.readouterr().out
    full.unlink()
    assert main(words) == 0
    assert missing(lab) == (0, 0)


@pytest.mark.slow
def test_several_processes_train_one_model(lab, capsys):
    words = lab.arguments("--seeds", "0", "--processes", "2", "--set", "batch_size=1")
    assert main(["protocol", "run", *words]) == 0
    manifest = lab.folder.store.all_notes()[0]["manifest"]
    assert (manifest["world_size"], manifest["effective_batch"]) == (2, 2)
    rows = load(lab.runs / "lab").rows
    once = rows[rows["score_at"] == "model"]
    assert len(once) == 6
    assert not once.duplicated(["dataset", "sample_name"]).any()


def test_an_old_failure_is_not_taken_for_the_new_one(lab, monkeypatch):
    run_with(lab, monkeypatch, "import sys; sys.exit('benco: error: the loss is nan')")
    outcome = run_with(lab, monkeypatch, "import os; os.kill(os.getpid(), 9)")
    assert outcome.failed[0][1]["reason"] == "ended by SIGKILL (out of memory?)"


def test_an_interrupted_runner_stops_its_jobs(lab, monkeypatch):
    script = "import time; time.sleep(60)"
    monkeypatch.setattr(runner, "_command", lambda *_: [sys.executable, "-c", script])
    monkeypatch.setattr(runner, "STOP_SECONDS", 5.0)
    one = Runner(lab.plan(), lab.folder, [Slot()])

    def interrupt():
        if one.running:
            raise KeyboardInterrupt

    monkeypatch.setattr(one, "_poll", interrupt)
    started = []
    start_job = one._start
    monkeypatch.setattr(
        one, "_start", lambda *a: (start_job(*a), started.append(one.running[-1].process))
    )
    with pytest.raises(KeyboardInterrupt):
        one.run()
    assert started[0].poll() == -signal.SIGTERM
    assert not one.running


def test_slots_share_a_machine():
    assert make_slots(None, 1, 0, 8) == [Slot()]
    assert make_slots(2, 1, 0, 8) == [Slot(threads=4)] * 2
    assert make_slots(1, 2, 0, 8) == [Slot(threads=4)]
    assert make_slots(None, 1, 2, 8) == [Slot((0,)), Slot((1,))]
    assert make_slots(None, 2, 4, 8) == [Slot((0, 1)), Slot((2, 3))]
    assert make_slots(3, 1, 2, 8) == [Slot((0,), 2), Slot((1,), 2), Slot((0,), 2)]
    with pytest.raises(UserError, match="--processes 4: this machine has 2 GPUs"):
        make_slots(None, 4, 2, 8)


def test_a_slot_shows_its_gpus_to_its_jobs(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert Slot((1,)).environment()["CUDA_VISIBLE_DEVICES"] == "7"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    changed = Slot((2, 3), threads=5).environment()
    assert changed["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert changed["OMP_NUM_THREADS"] == "5"


def test_probe_steps_give_the_hours_of_a_dry_run(lab, capsys, monkeypatch):
    words = ["protocol", "run", *lab.arguments("--seeds", "0", "--dry-run")]
    assert main(words) == 0
    assert "unknown" in capsys.readouterr().out
    plan = lab.plan()
    run_all(lab, plan, probe_steps=2)
    timings = lab.folder.timings()
    assert [entry["kind"] for entry in timings] == ["train", "test"]
    assert timings[0]["images"] == 4
    assert missing(lab) == (1, 2)
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "Hours: 0.00 for the 1 of 1 rows" in shown
    assert not lab.folder.plan_file.exists()  # nothing was run


def test_the_rows_of_an_earlier_request_stay_in_the_status(lab, monkeypatch):
    run_with(lab, monkeypatch, "", models=("Plain",))
    run_with(lab, monkeypatch, "", models=("Broken",))
    run_with(lab, monkeypatch, "", models=("Broken",), settings={"epochs": "2"})
    states = job_states(lab.folder)
    assert [(state["label"], state["finished"]) for state in states] == [
        ("Plain", False),
        ("Broken", False),
    ]
    assert states[0]["training"] == "not begun"
