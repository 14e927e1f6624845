"""Runs one command of `benco` in a process of its own, and strikes it; part of `faults.py`.

A command is run in a fork of a process that has imported everything, so that nearly all of its time
is its own work. An audit hook sees every file that it opens for writing, renames or removes, which
is where a kill does most harm: the process can be struck right before the n-th of these.
"""

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.truncate", "shutil.rmtree")


@dataclass
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code, negative for a signal.
        text: What it printed, errors included.
        seconds: How long it ran.
    """

    code: int
    text: str
    seconds: float

    @property
    def last_line(self) -> str:
        """The last line that says anything."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    @property
    def error(self) -> str:
        """The line of the error, empty where there is none."""
        lines = [line for line in self.text.splitlines() if line.startswith("benco: error: ")]
        return lines[-1] if lines else ""


@dataclass
class Command:
    """A command that runs.

    Attributes:
        pid: Of its process, which leads a group.
        log: What it prints.
    """

    pid: int
    log: Path
    began: float
    code: int | None = None

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, seconds: float = 600.0) -> Ended:
        """Wait for its end.

        Raises:
            TimeoutError: It has not ended in time; it is killed, with its group.
        """
        until = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > until:
                self.send(signal.SIGKILL, group=True)
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"no end after {seconds:.0f} s: {self.log.read_text()[-400:]}")
            time.sleep(0.005)
        taken = time.monotonic() - self.began
        return Ended(self.code or 0, self.log.read_text("utf-8", "replace"), taken)

    def send(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the process, or to all of its group."""
        with contextlib.suppress(ProcessLookupError):
            if group:
                os.killpg(self.pid, number)
            elif self.poll() is None:
                os.kill(self.pid, number)


def start(words: Sequence[str], log: Path, prepare: Callable[[], None] | None = None) -> Command:
    """Run `benco WORDS` in a fork of this process.

    Args:
        words: The command's words.
        log: Where its output goes.
        prepare: Called in the fork before the command.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return Command(pid, log, time.monotonic())
    os.setsid()
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(target, 1)
    os.dup2(target, 2)
    code = 1
    try:
        if prepare:
            prepare()
        code = _run(words)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(words: Sequence[str]) -> int:
    from sparsevit_plugin.cli.main import main

    sys.argv = ["benco", *words]
    try:
        return main(list(words))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def aside(function: Callable[[], Any], log: Path) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Call a function in a fork, so that this process stays as it was; return what it returned.

    Raises:
        RuntimeError: It failed.
    """
    answer = log.with_suffix(".json")
    answer.unlink(missing_ok=True)
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        try:
            answer.write_text(json.dumps(function()), encoding="utf-8")
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"{function} failed with {os.waitstatus_to_exitcode(status)}")
    return json.loads(answer.read_text(encoding="utf-8"))


def changes_files(event: str, arguments: tuple[Any, ...]) -> bool:
    """Say whether an audit event is one of writing: a file opened to write, renamed or removed."""
    if event in _CHANGES:
        return True
    if event != "open" or isinstance(arguments[0], int):
        return False
    mode, flags = arguments[1], arguments[2]
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & _WRITES)


def watch_writes(act: Callable[[int], None]) -> None:
    """Call a function with 1, 2, 3 ... right before every change of a file by this process."""
    owner, count = os.getpid(), 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if os.getpid() == owner and changes_files(event, arguments):
            count += 1
            act(count)

    sys.addaudithook(hook)


def strike_at(place: int, number: int) -> Callable[[], None]:
    """Return what makes the process send itself a signal right before its n-th change of a file."""

    def act(count: int) -> None:
        if count == place:
            os.kill(os.getpid(), number)

    return lambda: watch_writes(act)


def count_into(path: Path) -> Callable[[], None]:
    """Return what makes the process note how many changes of files it has come to."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def act(count: int) -> None:
        os.pwrite(handle, b"%09d" % count, 0)

    return lambda: watch_writes(act)
