"""Runs the jobs of a plan: several at once, past those that fail, to the end.

Every job is a process (or, with `--processes`, a group under torchrun), so that one that crashes or
runs out of memory takes no other along. A runner that is killed takes its jobs with it; started
again, it goes on with what is missing.
"""

import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from rich.console import Console

from sparsevit_plugin.errors import UserError
from sparsevit_plugin.failures import signal_in_words
from sparsevit_plugin.files import prove_writable, write_json_atomic
from sparsevit_plugin.protocol.folder import ProtocolFolder
from sparsevit_plugin.protocol.launchers import STOP_SECONDS, Launched, Launcher, LocalLauncher
from sparsevit_plugin.protocol.plan import Job, Plan, state_of
from sparsevit_plugin.protocol.worker import BUSY, order_of, write_order

POLL_SECONDS: Final = 0.2
REPORT_SECONDS: Final = 60.0
"""So often a running job's last line is shown."""

_RETRY_SECONDS: Final = 5.0  # between looks whether another runner's job has ended
_TAIL_BYTES: Final = 8192
_ERROR_LINE: Final = re.compile(r"benco: error: (.*)")


@dataclass(frozen=True)
class Slot:
    """Where a job may run.

    Attributes:
        devices: Numbers of the GPUs that its processes see; empty on a CPU.
        threads: Threads of a process; 0 leaves PyTorch's own choice.
    """

    devices: tuple[int, ...] = ()
    threads: int = 0

    def environment(self) -> dict[str, str]:
        """Return this process's environment with what the slot changes."""
        changed = dict(os.environ)
        if self.devices:
            # Numbers count among the GPUs that this process itself may use.
            own = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
            names = [own[number] if own else str(number) for number in self.devices]
            changed["CUDA_VISIBLE_DEVICES"] = ",".join(names)
        if self.threads:
            changed["OMP_NUM_THREADS"] = str(self.threads)
        return changed


def make_slots(jobs: int | None, processes: int, gpus: int, cores: int) -> list[Slot]:
    """Divide a machine among jobs.

    Args:
        jobs: Jobs at once; None for one per GPU, or one on a CPU.
        processes: Processes of a job, each with a GPU of its own where there are any.
        gpus: GPUs of the machine that may be used.
        cores: Its processors.

    Raises:
        UserError: There are fewer GPUs than a job needs. Jobs beyond the GPUs share them, and the
            processors.
    """
    if not gpus:
        count = jobs or 1
        each = max(1, cores // (count * processes))
        return [Slot(threads=each if count * processes > 1 else 0)] * count
    if processes > gpus:
        raise UserError(f"--processes {processes}: this machine has {gpus} GPUs to use")
    groups = gpus // processes
    count = jobs or groups
    starts = [(place % groups) * processes for place in range(count)]
    shared = max(1, cores // (count * processes)) if count > groups else 0
    return [Slot(tuple(range(start, start + processes)), shared) for start in starts]


@dataclass
class Running:
    """A job's process."""

    job: Job
    slot: Slot
    process: Launched
    log: IO[bytes]
    log_start: int
    number: int
    began: float = field(default_factory=time.monotonic)


@dataclass
class Outcome:
    """What became of a plan's jobs.

    Attributes:
        finished: Jobs that had nothing left to do from the start.
        done: Jobs that were finished now.
        failed: Job to its failure.
        others: Jobs that another runner finished meanwhile.
    """

    finished: list[Job] = field(default_factory=list)
    done: list[Job] = field(default_factory=list)
    failed: list[tuple[Job, dict[str, Any]]] = field(default_factory=list)
    others: list[Job] = field(default_factory=list)


class Runner:
    """Runs a plan.

    Args:
        plan: The plan.
        folder: The protocol's folder.
        slots: Where jobs run; so many run at once.
        keep: What is kept of finished trainings, see `protocol.KEEP`.
        probe_steps: Only measure so many training steps of each job that has anything left to do.
        command: The user's command, for manifests.
        launcher: Starts the jobs; processes of this machine where it is None.
    """

    def __init__(
        self,
        plan: Plan,
        folder: ProtocolFolder,
        slots: list[Slot],
        *,
        keep: str = "best",
        probe_steps: int = 0,
        command: str = "",
        launcher: Launcher | None = None,
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.free = deque(slots)
        self.keep = keep
        self.probe_steps = probe_steps
        self.command = command
        self.launcher = launcher or LocalLauncher()
        self.waiting: deque[Job] = deque()
        self.busy: list[Job] = []
        self.total = 0
        self.running: list[Running] = []
        self.outcome = Outcome()
        self._console = Console(stderr=True, highlight=False)
        self._reported = self._looked = time.monotonic()

    def run(self) -> Outcome:
        """Run what is missing; on an interruption the running jobs are stopped first.

        Raises:
            UserError: The folder cannot be written.
        """
        prove_writable(self.folder.path)
        if not self.probe_steps:
            note_plan(self.plan, self.folder)
        self.waiting = deque(self._missing())
        self.total = len(self.waiting)
        try:
            while self.waiting or self.running or self.busy:
                while self.waiting and self.free:
                    self._start(self.waiting.popleft())
                self._poll()
        finally:
            self._stop_all()
        return self.outcome

    def _missing(self) -> Iterator[Job]:
        finished = self.folder.finished_tests()
        for job in self.plan.jobs:
            if state_of(job.train, job.tests, self.folder, finished).finished:
                self.outcome.finished.append(job)
            else:
                yield job

    def _start(self, job: Job) -> None:
        slot = self.free.popleft()
        number = self.plan.jobs.index(job) + 1
        order = order_of(
            job,
            self.plan.request,
            self.folder,
            keep=self.keep,
            probe_steps=self.probe_steps,
            command=self.command,
        )
        path = self.folder.job_file(job.name)
        write_order(path, order)
        log = self._open_log(job)
        command = _command(path, self.plan.request.processes)
        process = self.launcher.start(command, log, slot.environment(), f"benco {job.name}")
        run = Running(job, slot, process, log, log.tell(), number)
        self.running.append(run)
        self._say(f"{self._title(run)}: started, log {log.name}")

    def _open_log(self, job: Job) -> IO[bytes]:
        path = self.folder.log_file(job.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("ab")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error

    def _title(self, run: Running) -> str:
        return f"[{run.number}/{len(self.plan.jobs)}] {_title(run.job)}"

    def _poll(self) -> None:
        time.sleep(POLL_SECONDS)
        for run in list(self.running):
            code = run.process.poll()
            if code is not None:
                self._end(run, code)
        now = time.monotonic()
        if now - self._reported >= REPORT_SECONDS:
            self._reported = now
            for run in self.running:
                self._say(f"{self._title(run)}: {_last_line(run)}")
        if self.busy and now - self._looked >= _RETRY_SECONDS:
            self._looked = now
            self._look_at_busy()

    def _look_at_busy(self) -> None:
        """See whether the jobs that another runner had are finished, or free again."""
        finished = self.folder.finished_tests()
        for job in list(self.busy):
            if state_of(job.train, job.tests, self.folder, finished).finished:
                self.busy.remove(job)
                self.outcome.others.append(job)
                self._say(f"{_title(job)}: finished by another runner")
            elif not self.folder.is_locked(job.name):
                self.busy.remove(job)
                self.waiting.append(job)

    def _end(self, run: Running, code: int) -> None:
        run.log.close()
        self.running.remove(run)
        self.free.append(run.slot)
        seconds = time.monotonic() - run.began
        if code == 0:
            self.outcome.done.append(run.job)
            if not self.probe_steps:
                self.folder.forget_failure(run.job.name)
            self._say(f"{self._title(run)}: done in {seconds:.0f} s")
        elif code == BUSY:
            self.busy.append(run.job)
            self._say(f"{self._title(run)}: another runner has it, waiting for that")
        else:
            failure = self._failure(run, code)
            self.outcome.failed.append((run.job, failure))
            self._say(f"{self._title(run)}: FAILED after {seconds:.0f} s: {failure['reason']}")

    def _failure(self, run: Running, code: int) -> dict[str, Any]:
        log = self.folder.log_file(run.job.name)
        failure = {
            "job": run.job.name,
            "label": run.job.label,
            "seed": run.job.seed,
            "code": code,
            "reason": run.process.reason or _reason(_tail(log, run.log_start), code),
            "log": str(log),
        }
        try:
            self.folder.write_failure(run.job.name, failure)
        except UserError as error:  # a full disk must not stop the jobs that go on
            self._say(f"benco: warning: {error}")
        return failure

    def _stop_all(self) -> None:
        """Stop the running jobs: first politely, so that trainings save their state."""
        for run in self.running:
            run.process.stop()
        for run in self.running:
            if not run.process.wait(STOP_SECONDS):
                run.process.kill()
            run.log.close()
        self.running.clear()

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


def note_plan(plan: Plan, folder: ProtocolFolder) -> None:
    """Note what was asked for, for `benco protocol status`.

    A row that was asked for with other settings before is replaced; those of other requests stay.

    Raises:
        UserError: The folder cannot be written.
    """
    with folder.lock("plan").acquire(timeout=-1):
        before = folder.plan() or {"jobs": []}
        jobs = {(job["label"], job["seed"], job["group"]): job for job in before["jobs"]}
        jobs |= {(job.label, job.seed, job.group): job.to_dict() for job in plan.jobs}
        content = {"protocol": plan.protocol.name, "jobs": list(jobs.values())}
        write_json_atomic(folder.plan_file, content)


def _command(order: Path, processes: int) -> list[str]:
    command = [sys.executable, "-m", "sparsevit_plugin", "protocol", "work", str(order)]
    return command if processes == 1 else [*command, "--processes", str(processes)]


def _title(job: Job) -> str:
    return job.label if job.checkpoint else f"{job.label}, seed {job.seed}"


def _tail(path: Path, start: int) -> list[str]:
    """Return the last lines behind a position of a log that say anything."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(start, file.tell() - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def _last_line(run: Running) -> str:
    lines = _tail(Path(run.log.name), run.log_start)
    return lines[-1] if lines else "starting"


def _reason(lines: list[str], code: int) -> str:
    """Say in one line why a job failed, from what it printed last."""
    for line in reversed(lines):
        found = _ERROR_LINE.search(line)
        if found:
            return found.group(1)
    if code < 0:
        return signal_in_words(-code)
    return lines[-1] if lines else f"ended with code {code}"
