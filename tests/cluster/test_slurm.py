"""A protocol on a real Slurm: rows as jobs, failures, preemption, time limits, interruption."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from sparsevit_plugin.protocol.status import job_states
from sparsevit_plugin.results.store import load
from tests.cluster.slurm import cluster, why_not
from tests.protocol.conftest import fresh_registry, lab  # noqa: F401 - fixtures

pytestmark = pytest.mark.system

SLOW = """

class Slow(LabModel):
    def forward(self, image, mask=None, **kwargs):
        import time
        if self.training:
            time.sleep(float(os.environ.get("LAB_SECONDS", "0")))
        return super().forward(image, mask)


MODELS.register_module(module=Slow, force=True)
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture
def slow(lab):  # noqa: F811
    lab.models.write_text(lab.models.read_text() + textwrap.dedent(SLOW))
    lab.write_card("Slow")
    return lab


def start(lab, slurm, *words, seconds=0.0, **popen):  # noqa: F811
    options = ["--launcher", "slurm", "--slurm", "time=10", "--slurm", "cpus-per-task=1"]
    command = [sys.executable, "-m", "sparsevit_plugin", "protocol", "run"]
    command += [*lab.arguments(*options, *words, models=popen.pop("models", "Plain"))]
    environment = {**os.environ, **slurm, "LAB_SECONDS": str(seconds), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, **pipes, **popen)


def finish(run, code=0, seconds=240):
    out, _ = run.communicate(timeout=seconds)
    assert run.returncode == code, out
    return out


def ask(slurm, *command):
    environment = {**os.environ, **slurm}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return run.stdout


def finish_without_delay(run, slurm, **expected):
    """Finish; Slurm would let a job that is queued again wait for two minutes."""
    until = time.monotonic() + 400
    while run.poll() is None and time.monotonic() < until:
        time.sleep(2.0)
        for job in ask(slurm, "squeue", "--noheader", "--states=PENDING", "--format=%i").split():
            ask(slurm, "scontrol", "update", f"JobId={job}", "StartTime=now")
    return finish(run, **expected)


def training_job(slurm, lab, run):  # noqa: F811
    """Wait until a row trains, and return its job's number."""
    logs = lab.runs / "lab" / "logs"
    until = time.monotonic() + 120
    while time.monotonic() < until and run.poll() is None:
        if any("epoch 1/1: " in path.read_text() for path in logs.glob("*.log")):
            return ask(slurm, "squeue", "--noheader", "--states=RUNNING", "--format=%i").split()[0]
        time.sleep(0.5)
    raise AssertionError(f"no row trains: {run.communicate()[0] if run.poll() is not None else ''}")


def test_rows_are_jobs_and_one_that_fails_stops_no_other(slurm, lab):  # noqa: F811
    out = finish(start(lab, slurm, "--seeds", "0", models="Broken,Plain"), code=1)
    assert "1 rows done now" in out
    assert "this model never works" in out
    assert {cell.manifest["model"] for cell in load(lab.runs / "lab").cells} == {"Plain"}
    failed = {state["label"]: state["failure"] for state in job_states(lab.folder)}
    assert "this model never works" in failed["Broken"]["reason"]
    assert "0 rows done now; 1 were done before" in finish(start(lab, slurm, "--seeds", "0"))


def test_a_row_that_is_preempted_is_queued_again_and_goes_on(slurm, slow):
    run = start(slow, slurm, "--seeds", "0", seconds=4.0, models="Slow")
    ask(slurm, "scontrol", "requeue", training_job(slurm, slow, run))
    assert "1 rows done now" in finish_without_delay(run, slurm)
    assert len(load(slow.runs / "lab").cells) == 2


def test_a_row_that_reaches_its_time_limit_saves_its_state_and_goes_on(slurm, slow):
    # Slurm warns between 30 and 90 seconds after the start and kills at 120; the six steps take
    # longer than the one, and one of them less than what is left until the other.
    words = ["--slurm", "time=2", "--slurm", "signal-delay-s=30", "--seeds", "0"]
    words += ["--set", "batch_size=1"]
    run = start(slow, slurm, *words, seconds=20.0, models="Slow")
    assert "1 rows done now" in finish_without_delay(run, slurm)
    (log,) = (slow.runs / "lab" / "logs").glob("*.log")
    assert "resumed from" in log.read_text()
    (submitit,) = (slow.runs / "lab" / "slurm").glob("*_0_log.out")
    assert "timed-out" in submitit.read_text()


def test_a_job_that_somebody_cancels_is_named_with_its_state(slurm, slow, monkeypatch):
    run = start(slow, slurm, "--seeds", "0", seconds=20.0, models="Slow")
    ask(slurm, "scancel", training_job(slurm, slow, run))
    assert "CANCELLED" in finish(run, code=1)


def test_an_interrupted_runner_cancels_its_jobs(slurm, slow):
    run = start(slow, slurm, "--seeds", "0", seconds=20.0, models="Slow")
    training_job(slurm, slow, run)
    run.send_signal(signal.SIGINT)
    finish(run, code=130)
    assert not ask(slurm, "squeue", "--noheader", "--format=%i").split()


def test_what_sbatch_refuses_is_one_line(slurm, lab):  # noqa: F811
    out = finish(start(lab, slurm, "--slurm", "partition=nowhere"), code=2)
    assert re.search(r"^benco: error: sbatch refused the job: .*partition", out, re.MULTILINE), out
    assert "Traceback" not in out
