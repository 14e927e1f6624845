"""Where the jobs of a protocol run: as processes of this machine, or as jobs of a Slurm cluster.

A launcher starts a command whose output goes to a log, and gives something to ask and to stop. On a
cluster that is done by submitit: the runner, on a login node, submits a job for each row, sees what
becomes of it, and a job that is preempted, or that reaches its time limit, saves its state, is
queued again and goes on. Jobs that wait or run when the runner is stopped are cancelled; those of a
runner that was killed go on, and the next runner leaves them their work.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, Protocol

from sparsevit_plugin.errors import UserError

STOP_SECONDS: Final = 60.0
"""So long a training has to save its state when it is stopped."""

_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG of prctl(2)
_ASK_SECONDS: Final = 5.0  # between questions to the cluster
_GRACE_SECONDS: Final = 30.0  # for a finished job's result to appear on a shared disk
_TAKEN_AWAY_SECONDS: Final = 600.0  # longer than any KillWait
_SUBMITIT_LOG: Final = "SUBMITIT_LOG_LEVEL"
_REQUEUES: Final = 1000  # a job goes on after so many time limits
_IN_THE_QUEUE: Final = frozenset(
    {
        *("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING"),
        *("REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "PREEMPTED", "STAGE_OUT"),
    }
)


class Launched(Protocol):
    """A command that was started."""

    @property
    def reason(self) -> str:
        """Why it failed, where the launcher knows more than the log; empty where it does not."""

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs or waits."""

    def stop(self) -> None:
        """Ask it to stop, which it does when it has saved its state."""

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended, at most so long; say whether it has."""

    def kill(self) -> None:
        """End it at once."""


class Launcher(Protocol):
    """Starts commands."""

    def start(
        self, command: Sequence[str], log: IO[bytes], environment: Mapping[str, str], name: str
    ) -> Launched:
        """Start a command.

        Args:
            command: Its words.
            log: Where its output is appended.
            environment: Its environment.
            name: What people are shown.

        Raises:
            UserError: It cannot be started.
        """


# --- this machine --------------------------------------------------------------------------------


@dataclass
class LocalProcess:
    """A process of this machine, with those that it starts."""

    process: subprocess.Popen[bytes]
    reason: str = ""

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Send SIGTERM to it and its children."""
        self._signal(signal.SIGTERM)

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended, at most so long; say whether it has."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is not None

    def kill(self) -> None:
        """Send SIGKILL to it and its children, and wait for its end."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class LocalLauncher:
    """Starts processes that end when this one does."""

    def start(
        self, command: Sequence[str], log: IO[bytes], environment: Mapping[str, str], name: str
    ) -> LocalProcess:
        """Start a process; Ctrl-C reaches this process alone, which stops it."""
        process = subprocess.Popen(  # noqa: S603 - this interpreter and our own module
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
            preexec_fn=partial(_die_with_parent, os.getpid()) if sys.platform == "linux" else None,  # noqa: PLW1509
        )
        return LocalProcess(process)


def _die_with_parent(parent: int) -> None:
    """Ask the kernel to end this process when its parent dies: no orphan keeps a job's lock."""
    ctypes.CDLL(None, use_errno=True).prctl(_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != parent:  # it has died already
        os.kill(os.getpid(), signal.SIGTERM)


# --- Slurm ---------------------------------------------------------------------------------------


@dataclass
class ClusterCommand:
    """What a job of the cluster does: it runs a command, and stops it in time to go on later.

    Attributes:
        command: The command's words.
        log: File that its output is appended to, on a disk that all nodes share.
    """

    command: tuple[str, ...]
    log: str
    _child: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def __call__(self) -> int:
        """Run the command and return its exit code."""
        with Path(self.log).open("ab") as log:
            self._child = subprocess.Popen(  # noqa: S603 - the runner's own command
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_ignore_warning,  # noqa: PLW1509
            )
            code = self._child.wait()
        if code == -signal.SIGTERM:
            # Slurm is taking the job away, to be queued again or for good, and is about to end this
            # process as well: a result, which means that the job is over, must not be left.
            time.sleep(_TAKEN_AWAY_SECONDS)
        return code

    def checkpoint(self) -> Any:  # noqa: ANN401 - a class of submitit's
        """Stop the command, which saves its state, and return what is queued in its place.

        submitit calls this shortly before the job's time is over, and when it is preempted.
        """
        from submitit.helpers import DelayedSubmission

        if self._child is not None:
            self._child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(STOP_SECONDS)
        return DelayedSubmission(ClusterCommand(self.command, self.log))


def _ignore_warning() -> None:
    """Let Slurm's warning pass by: it reaches every process of the job, and would end the child."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


@dataclass
class SlurmJob:
    """A job of the cluster."""

    job: Any
    queue: "SlurmQueue"
    reason: str = ""
    _ended: float | None = None

    def poll(self) -> int | None:
        """Return the command's exit code; None while the job waits or runs."""
        if self.job.paths.result_pickle.exists():
            return self._result()
        state = self.queue.state(self.job.job_id)
        if state in _IN_THE_QUEUE:
            self._ended = None
            return None
        self._ended = self._ended or time.monotonic()
        if time.monotonic() - self._ended < _GRACE_SECONDS:
            return None
        self.reason = f"Slurm ended job {self.job.job_id}: {state or 'it is not in the queue'}"
        return 1

    def _result(self) -> int:
        try:
            return int(self.job.result())
        except Exception as error:  # what submitit raises for a job that did not return
            last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            self.reason = f"job {self.job.job_id}: {last[0]}"
            return 1

    def stop(self) -> None:
        """Cancel it: Slurm sends SIGTERM first."""
        self.job.cancel(check=False)

    def wait(self, seconds: float) -> bool:
        """Wait until it has left the queue, at most so long; say whether it has."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.queue.state(self.job.job_id) not in _IN_THE_QUEUE:
                return True
            time.sleep(1.0)
        return False

    def kill(self) -> None:
        """Cancel it again."""
        self.stop()


class SlurmQueue:
    """What the cluster says of jobs; it is asked for all of them at once, and not too often."""

    def __init__(self) -> None:
        self.jobs: set[str] = set()
        self._states: dict[str, str] = {}
        self._asked = -_ASK_SECONDS

    def add(self, job: str) -> None:
        """Ask about a job from now on."""
        self.jobs.add(job)
        self._states[job] = "PENDING"

    def state(self, job: str) -> str:
        """Return a job's state in Slurm's words; empty when Slurm knows it no longer."""
        if time.monotonic() - self._asked >= _ASK_SECONDS:
            self._asked = time.monotonic()
            self._ask()
        return self._states.get(job, "")

    def _ask(self) -> None:
        # Not sacct, which needs an accounting database; finished jobs are listed for minutes.
        command = ["squeue", "--noheader", "--states=all", "--format=%i %T"]
        command.append(f"--jobs={','.join(sorted(self.jobs))}")
        run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if run.returncode and "Invalid job id" not in run.stderr:
            return  # the controller does not answer: what was known stays
        lines = [line.split() for line in run.stdout.splitlines()]
        self._states = {line[0]: line[1] for line in lines if len(line) > 1}


class SlurmLauncher:
    """Submits jobs by submitit.

    Args:
        folder: For submitit's files, on a disk that all nodes share.
        options: Options of sbatch by name, as `partition`, `time`, `gpus_per_node`; see
            `slurm_options`.

    Raises:
        UserError: submitit or Slurm is not there, or an option is refused.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        submitit = import_submitit()
        if shutil.which("sbatch") is None:
            raise UserError("--launcher slurm: there is no sbatch here; run it on a login node")
        self.queue = SlurmQueue()
        # The path stands in the script that sbatch gets, which may run elsewhere.
        self.executor = submitit.SlurmExecutor(folder.absolute(), max_num_timeout=_REQUEUES)
        self.options = dict(options)

    def start(
        self, command: Sequence[str], log: IO[bytes], environment: Mapping[str, str], name: str
    ) -> SlurmJob:
        """Submit a job. Slurm hands on this process's environment, not the given one.

        Raises:
            UserError: sbatch refuses it.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        try:
            self.executor.update_parameters(job_name=name, **self.options)
            function = ClusterCommand(tuple(command), str(Path(log.name).absolute()))
            job = self.executor.submit(function)
        except (FailedJobError, FailedSubmissionError, ValueError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            said = [line for line in lines if "sbatch" in line] or lines
            raise UserError(f"sbatch refused the job: {said[-1]}") from error
        self.queue.add(job.job_id)
        return SlurmJob(job, self.queue)


def import_submitit() -> Any:  # noqa: ANN401 - a module
    """Import submitit and leave this process's logging as it is.

    Unless it is told not to, submitit sets up logging when it is imported, which closes every
    handler that there is. In the cluster's jobs it may: its log says what became of them.

    Raises:
        UserError: It is not installed.
    """
    before = os.environ.get(_SUBMITIT_LOG)
    os.environ[_SUBMITIT_LOG] = "NOCONFIG"
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            'submitit is not installed: pip install "sparsevit-plugin[slurm]"'
        ) from error
    finally:
        del os.environ[_SUBMITIT_LOG]
        if before is not None:
            os.environ[_SUBMITIT_LOG] = before
    return submitit


def slurm_options(texts: Sequence[str]) -> dict[str, Any]:
    """Read options of sbatch.

    Args:
        texts: Such as `partition=gpu`, `time=12:00:00`, `gpus-per-node=1`. Names are those of
            sbatch; `requeue` is set unless `requeue=no` is given.

    Returns:
        Parameters of submitit's executor; what it does not know is handed on to sbatch.

    Raises:
        UserError: One is not of this form, or there is no time limit.
    """
    found: dict[str, Any] = {}
    more: dict[str, Any] = {"requeue": True}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not equals or not name or not value:
            raise UserError(f'--slurm "{text}": expected OPTION=VALUE, as partition=gpu')
        if name == "time":
            found["time"] = _minutes(value)
        elif name == "requeue":
            more["requeue"] = value not in ("no", "false", "0")
        elif name in _KNOWN:
            found[name] = int(value) if value.isdecimal() else value
        else:
            more[name.replace("_", "-")] = value
    if "time" not in found:
        raise UserError(
            "--launcher slurm needs a time limit: --slurm time=12:00:00 (a job that reaches it is "
            "queued again and goes on)"
        )
    if not more["requeue"]:
        del more["requeue"]
    return {**found, "additional_parameters": more}


_KNOWN: Final = frozenset(
    {
        *("partition", "account", "qos", "constraint", "exclude", "nodelist", "comment", "gres"),
        *("mem", "mem_per_cpu", "mem_per_gpu", "cpus_per_task", "cpus_per_gpu", "gpus_per_node"),
        *("gpus_per_task", "exclusive", "signal_delay_s", "mail_type", "mail_user"),
    }
)


def _minutes(text: str) -> int:
    """Read a time limit as sbatch writes it: minutes, [D-]HH:MM:SS, HH:MM, or D-HH.

    Raises:
        UserError: It is none of these, or shorter than a minute.
    """
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in [*parts, *([days] if dash else [])]):
        raise UserError(f"--slurm time={text}: expected minutes, HH:MM:SS or D-HH:MM:SS")
    numbers = [int(part) for part in parts]
    if dash:  # days, then hours first
        hours, minutes = (*numbers, 0)[:2]
    elif len(numbers) == 3:  # noqa: PLR2004 (hours, minutes, seconds)
        hours, minutes = numbers[:2]
    else:  # minutes first, as sbatch reads M and M:S
        hours, minutes = 0, numbers[0]
    total = 24 * 60 * int(days or 0) + 60 * hours + minutes
    if total < 1:
        raise UserError(f"--slurm time={text}: shorter than a minute")
    return total
