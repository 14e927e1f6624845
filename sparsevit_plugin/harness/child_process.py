"""A child process that answers questions, one line of JSON each way.

The child may crash, be killed or hang; the parent gets one line that says so and goes on.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import IO, Any, Final

from sparsevit_plugin.errors import UserError

_LONGEST_REASON: Final = 200
_END: Final = ""
_SECONDS_TO_LEAVE: Final = 5.0
# What the C++ allocators of PyTorch say where they raise no class of their own.
_OUT_OF_MEMORY: Final = ("out of memory", "can't allocate memory", "bad_alloc")

Answer = Callable[[dict[str, Any]], Mapping[str, Any]]


class ChildError(Exception):
    """The child gave no answer, or an error; the message is one line.

    Attributes:
        out_of_memory: Whether memory ran out, as far as can be told.
        is_over: Whether the child is gone.
    """

    def __init__(self, message: str, *, out_of_memory: bool, is_over: bool) -> None:
        super().__init__(message)
        self.out_of_memory = out_of_memory
        self.is_over = is_over


class ChildProcess:
    """Runs `python -m MODULE`, which answers each line of its standard input with one line.

    Use as a context manager: the child ends with it. What the child prints to standard error is
    kept for the message of a crash.

    Args:
        module: A module that calls `serve`.
        environment: The child's environment.
    """

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter and a module of ours
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=dict(environment),
        )
        self._questions = _pipe(self._process.stdin)
        self._lines: queue.Queue[str] = queue.Queue()
        # Not every system can wait for a pipe with a limit; a queue can be waited for everywhere.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "ChildProcess":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:  # it may be busy for long
            self._process.kill()
        self.close()

    def ask(self, question: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Send a question and wait for its answer.

        Args:
            question: What JSON can hold and the child understands.
            timeout: Seconds; a child that takes longer is ended.

        Raises:
            ChildError: There is no answer, or the answer is an error.
        """
        try:
            self._questions.write(json.dumps(question).encode() + b"\n")
            self._questions.flush()
        except OSError:  # it is gone already; its end is in the queue
            pass
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            self._process.kill()
            reason = f"stopped after {timeout:g} s"
            raise ChildError(reason, out_of_memory=False, is_over=True) from None
        if line == _END:
            self._lines.put(_END)  # for whoever asks again
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            out_of_memory = bool(answer["out_of_memory"])
            raise ChildError(answer["error"], out_of_memory=out_of_memory, is_over=False)
        return answer

    def close(self) -> None:
        """End the child; nothing happens to one that has ended."""
        with contextlib.suppress(OSError):
            self._questions.close()
        try:
            self._process.wait(_SECONDS_TO_LEAVE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._errors.close()

    def _read(self) -> None:
        with _pipe(self._process.stdout) as stream:
            for line in stream:
                self._lines.put(line.decode())
        self._lines.put(_END)

    def _death(self) -> ChildError:
        code = self._process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            # Nobody else sends it: the kernel does when memory runs out.
            killed = name == "SIGKILL"
            words = (
                "killed, as the kernel does when memory runs out" if killed else f"ended: {name}"
            )
            return ChildError(words, out_of_memory=killed, is_over=True)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        said = f": {shorten(lines[-1])}" if lines else ""
        return ChildError(f"ended with code {code}{said}", out_of_memory=False, is_over=True)


def serve(answer: Answer) -> None:
    """Answer the parent's questions until it closes this process's standard input.

    What the answering code prints goes to standard error, so that nothing takes it for an answer.

    Args:
        answer: Takes a question and returns what JSON can hold. What it raises becomes an error of
            the parent's, and the next question is answered.
    """
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as replies:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        for line in sys.stdin:
            print(json.dumps(_reply(answer, json.loads(line))), file=replies, flush=True)


def shorten(text: str) -> str:
    """Return a message as one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[: _LONGEST_REASON - 3]}..."


def _reply(answer: Answer, question: dict[str, Any]) -> Mapping[str, Any]:
    try:
        return answer(question)
    except (Exception, SystemExit) as error:  # other people's models raise anything
        words = str(error)
        full = isinstance(error, MemoryError) or any(text in words for text in _OUT_OF_MEMORY)
        named = words if isinstance(error, UserError) else f"{type(error).__name__}: {words}"
        shown = "out of memory" if full else shorten(named)
        return {"error": shown, "out_of_memory": full}


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("the process was started without this pipe")
    return stream
