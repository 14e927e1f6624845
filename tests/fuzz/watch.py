# ruff: noqa: PTH100, PTH109, PTH115, PTH118
# pathlib does not take the broken names that these functions are about.
"""What a case must not do, watched while it runs: fail loudly, hang, run code, write elsewhere."""

import contextlib
import io
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.errors import UserError

LIMIT_S = 20
"""What a case may take; most take some milliseconds."""

_RUNS = frozenset({"os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen",
                   "os.fork", "os.forkpty", "pty.spawn", "socket.connect"})  # fmt: skip
_CHANGES = frozenset({"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink",
                      "os.truncate", "os.chmod", "os.chown", "shutil.rmtree"})  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Violation(Exception):  # noqa: N818 (it is what it says)
    """Something that hostile input must not cause."""


class TooLong(BaseException):
    """The time is over."""


class _Watch:
    """Listens to the interpreter's audit events while a case runs; hooks cannot be removed."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] | None = None
        self.seen: list[str] = []
        self._listens = False

    def start(self, *allowed: Path) -> None:
        if not self._listens:
            sys.addaudithook(self._event)
            self._listens = True
        self.seen = []
        self.allowed = tuple(os.path.realpath(path) for path in (*allowed, "/dev"))

    def stop(self) -> None:
        self.allowed = None

    def _event(self, name: str, values: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if name in _RUNS:
            self.seen.append(f"{name}: {values!r:.200}")
        elif name == "open":
            path, mode, flags = values
            writing = isinstance(mode, str) and set(mode) & set("wax+")
            if (writing or (isinstance(flags, int) and flags & _WRITING)) and not isinstance(
                path, int
            ):
                self._check("open", path)
        elif name in _CHANGES:
            # Of a link only its own place is written.
            which = {"os.rename": values[:2], "os.link": values[1:2], "os.symlink": values[1:2]}
            below = values[-1] if isinstance(values[-1], int) and values[-1] >= 0 else None
            for path in which.get(name, values[:1]):
                self._check(name, path if below is None else _below(below, path))

    def _check(self, name: str, path: Any) -> None:
        if isinstance(path, int):
            return
        allowed, self.allowed = self.allowed or (), None  # what realpath asks is no event of a case
        try:
            text = os.fspath(path)
            text = os.fsdecode(text) if isinstance(text, bytes) else text
            # The parent's links are followed, the last part's are not: a link itself may be made.
            folder, last = os.path.split(os.path.abspath(text))
            real = os.path.join(os.path.realpath(folder), last)
            if not any(real == a or real.startswith(a + os.sep) for a in allowed):
                self.seen.append(f"{name} outside: {real[:200]}")
        except (TypeError, ValueError):
            pass  # no path at all: the call itself fails
        finally:
            self.allowed = allowed


def _below(descriptor: int, path: Any) -> Any:
    """Return a path that was given relative to an open folder."""
    return os.path.join(os.readlink(f"/proc/self/fd/{descriptor}"), os.fsdecode(path))


_WATCH = _Watch()


def run_case(root: Path, out: Path, call: Callable[[], object], limit: float = LIMIT_S) -> str:
    """Run one case.

    Args:
        root: A folder of the case's own: nothing in it may change outside `out`.
        out: The only place that may be written.
        call: What to run.
        limit: Seconds that it may take.

    Returns:
        "accepted", or "refused" where a `UserError` (or exit code 2) said why.

    Raises:
        Violation: What must not happen did.
    """
    before = _listing(root, out)
    cwd, recursion = os.getcwd(), sys.getrecursionlimit()
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    temporary, tempfile.tempdir = tempfile.tempdir, str(out)
    _WATCH.start(out)
    try:
        with _time_limit(limit), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = _answer(call)
    finally:
        _WATCH.stop()
        sys.dont_write_bytecode = bytecode
        sys.setrecursionlimit(recursion)
        tempfile.tempdir = temporary
    if os.getcwd() != cwd:
        raise Violation("the working folder changed")
    if _WATCH.seen:
        raise Violation("; ".join(_WATCH.seen[:3]))
    if _listing(root, out) != before:
        changed = sorted(_listing(root, out) ^ before)
        raise Violation(f"files outside the output folder changed: {changed[:3]}")
    return answer


def _answer(call: Callable[[], object]) -> str:
    try:
        call()
    except UserError as error:
        check_line(str(error))
        return "refused"
    except Violation:
        raise
    except TooLong:
        raise Violation("took too long") from None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = next((f for f in reversed(frames) if "sparsevit_plugin" in f.filename), frames[-1])
        text = " ".join(str(error).split())[:160]
        place = f"{Path(ours.filename).name}:{ours.lineno}"
        raise Violation(f"{type(error).__name__} at {place}: {text}") from error
    return "accepted"


def check_line(text: str) -> None:
    """Say that a message is one line that a terminal shows as it is, and not endless.

    Raises:
        Violation: It is not.
    """
    if len(text.splitlines()) != 1:
        raise Violation(f"the message has {len(text.splitlines())} lines: {text[:120]!r}")
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in text):
        raise Violation(f"the message has control characters: {text[:120]!r}")
    if len(text) > 20_000:
        raise Violation(f"the message has {len(text)} characters: {text[:80]!r}...")


def run_command(*words: str) -> int:
    """Run `benco` in this process.

    Raises:
        UserError: It ended with 2; with what it said.
        Violation: Its exit code is unknown, or it said more than one line of an error.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    lines = [line for line in err.getvalue().split("\n") if line]
    if any("Traceback" in line for line in lines):
        raise Violation(f"a traceback: {lines[-1][:200]}")
    if code == 0 or code == 1:  # noqa: PLR1714
        return code
    errors = [line for line in lines if line.startswith("benco: error: ")]
    if code != 2 or len(errors) != 1 or lines[-1] != errors[0]:
        raise Violation(f"exit code {code}, and {len(errors)} lines of error: {lines[-2:]!r:.300}")
    raise UserError(errors[0].removeprefix("benco: error: "))


def _listing(root: Path, out: Path) -> frozenset[tuple[str, int, int]]:
    """Return what lies in a folder outside of another one: names, sizes and times of change."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if Path(folder, name) != out]
        for name in (*folders, *files):
            status = os.lstat(os.path.join(folder, name))
            size = 0 if name in folders else status.st_size
            found.append((os.path.join(folder, name), size, status.st_mtime_ns * (name in files)))
    return frozenset(found)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
