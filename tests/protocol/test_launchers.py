"""Options of a cluster, and what its queue says, without a cluster."""

import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.protocol import launchers
from sparsevit_plugin.protocol.launchers import (
    ClusterCommand,
    LocalLauncher,
    SlurmJob,
    SlurmQueue,
    import_submitit,
    slurm_options,
)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        *[("90", 90), ("90:30", 90), ("12:00:00", 720), ("1:30:00", 90)],
        *[("2-0", 2880), ("1-12", 2160), ("1-12:30", 2190), ("1-00:00:30", 1440)],
    ],
)
def test_time_limits_are_read_as_sbatch_writes_them(text, minutes):
    assert slurm_options([f"time={text}"])["time"] == minutes


def test_names_are_sbatchs_and_what_submitit_does_not_know_is_handed_on():
    found = slurm_options(
        ["time=60", "partition=gpu", "--gpus-per-node=2", "licenses=matlab:1", "mem=32GB"]
    )
    assert found.pop("additional_parameters") == {"requeue": True, "licenses": "matlab:1"}
    assert found == {"time": 60, "partition": "gpu", "gpus_per_node": 2, "mem": "32GB"}
    assert "requeue" not in slurm_options(["time=1", "requeue=no"])["additional_parameters"]


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["partition=gpu"], "needs a time limit"),
        (["partition"], "expected OPTION=VALUE"),
        (["time=soon"], "expected minutes"),
        (["time=0"], "shorter than a minute"),
    ],
)
def test_wrong_options_are_one_line(texts, wanted):
    with pytest.raises(UserError, match=wanted):
        slurm_options(texts)


def test_without_slurm_the_command_says_so(lab, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    words = ["protocol", "run", *lab.arguments("--launcher", "slurm", "--slurm", "time=5")]
    assert main(words) == 2
    assert "there is no sbatch here" in capsys.readouterr().err
    assert main(["protocol", "run", *lab.arguments("--slurm", "time=5")]) == 2
    assert "--slurm is of --launcher slurm" in capsys.readouterr().err


def test_submitit_leaves_logging_alone():
    script = (
        "import logging, os; handler = logging.FileHandler(os.devnull)\n"
        "from sparsevit_plugin.protocol.launchers import import_submitit\n"
        "import_submitit(); assert handler.stream is not None\n"
        "assert not logging.getLogger('submitit').handlers\n"
        "assert 'SUBMITIT_LOG_LEVEL' not in os.environ"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_local_process_is_stopped_with_those_that_it_starts(tmp_path):
    script = "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    with (tmp_path / "log").open("wb") as log:
        process = LocalLauncher().start([sys.executable, "-c", script], log, {}, "name")
        assert process.poll() is None
        assert not process.wait(0.1)
        process.stop()
        assert process.wait(10)
    assert process.poll() == -15


def test_a_clusters_command_returns_its_code_and_stops_in_time_to_be_queued_again(tmp_path):
    import_submitit()
    log = tmp_path / "log"
    script = "print('hello'); raise SystemExit(3)"
    assert ClusterCommand((sys.executable, "-c", script), str(log))() == 3
    assert "hello" in log.read_text()
    command = ClusterCommand((sys.executable, "-c", "import time; time.sleep(60)"), str(log))
    command._child = subprocess.Popen(command.command)
    again = command.checkpoint()
    assert command._child.poll() == -15
    assert again.function.command == command.command
    assert again.function._child is None


class FakeQueue(SlurmQueue):
    def __init__(self, state):
        super().__init__()
        self.answer = state

    def state(self, job):
        return self.answer


def fake_job(tmp_path, result=None):
    def read():
        if isinstance(result, Exception):
            raise result
        return result

    pickle = tmp_path / "result.pkl"
    if result is not None:
        pickle.touch()
    return SimpleNamespace(
        job_id="7",
        paths=SimpleNamespace(result_pickle=pickle),
        result=read,
        cancel=lambda **_: None,
    )


def test_a_jobs_code_is_its_commands(tmp_path):
    assert SlurmJob(fake_job(tmp_path, 75), FakeQueue("COMPLETED")).poll() == 75
    broken = SlurmJob(fake_job(tmp_path, RuntimeError("first\nthe node is gone")), FakeQueue(""))
    assert broken.poll() == 1
    assert broken.reason == "job 7: the node is gone"


def test_a_job_that_ended_without_a_result_is_named_by_its_state_after_a_while(
    tmp_path, monkeypatch
):
    queue = FakeQueue("RUNNING")
    job = SlurmJob(fake_job(tmp_path), queue)
    assert job.poll() is None
    queue.answer = "OUT_OF_MEMORY"
    assert job.poll() is None  # its result may not be seen yet on a shared disk
    monkeypatch.setattr(launchers, "_GRACE_SECONDS", 0.0)
    time.sleep(0.01)
    assert job.poll() == 1
    assert job.reason == "Slurm ended job 7: OUT_OF_MEMORY"


def test_a_preempted_job_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(launchers, "_GRACE_SECONDS", 0.0)
    queue = FakeQueue("PREEMPTED")
    job = SlurmJob(fake_job(tmp_path), queue)
    for state in ("PREEMPTED", "PENDING", "RUNNING"):
        queue.answer = state
        assert job.poll() is None


def test_a_controller_that_does_not_answer_changes_nothing(monkeypatch):
    queue = SlurmQueue()
    queue.add("7")
    answers = [
        SimpleNamespace(returncode=0, stdout="7 RUNNING\n", stderr=""),
        SimpleNamespace(returncode=1, stdout="", stderr="Unable to contact slurm controller"),
        SimpleNamespace(returncode=1, stdout="", stderr="Invalid job id specified"),
    ]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answers.pop(0))
    monkeypatch.setattr(launchers, "_ASK_SECONDS", 0.0)
    assert [queue.state("7") for _ in range(3)] == ["RUNNING", "RUNNING", ""]
